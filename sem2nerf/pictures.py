"""Masks and targets as the network sees them, and what is shown of its pictures.

    planes = [resized_labels(plane, crop, 224) for plane in label_planes(labels, 16)]         labels, contours, distances
    x = encoder_input(planes, 16)                                                             (B, 18, 224, 224)
    target = normalise(resized_picture(picture, crop, 128))                                   (3, 128, 128) in [-1, 1]

Both see the middle of the frame: a picture is scaled to `load` pixels and its middle `size` are kept.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.labels import check_range
from sem2nerf.contours import contour_map, distance_map


class Crop(NamedTuple):
    """The side that a picture is scaled to, and the side of its middle that is kept."""

    load: int
    size: int


# What the network sees

def resized_labels(labels: np.ndarray, crop: Crop | None, side: int) -> np.ndarray:
    """A label map or another plane (H, W) uint8 cropped and at side x side, by Pillow's nearest pixels."""
    return _transform(labels, crop, side, "NEAREST")


def resized_picture(picture: np.ndarray, crop: Crop | None, side: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 cropped and at side x side, by Pillow's bilinear, which averages where it shrinks."""
    return _transform(picture, crop, side, "BILINEAR")


def normalise(pictures: np.ndarray) -> Tensor:
    """uint8 (..., H, W, 3) as float32 (..., 3, H, W) in [-1, 1]."""
    return (torch.from_numpy(np.array(pictures)).movedim(-1, -3).contiguous() / 255 - 0.5) / 0.5


def _transform(picture: np.ndarray, crop: Crop | None, side: int, by: str) -> np.ndarray:
    from PIL import Image
    image, resample = Image.fromarray(picture), Image.Resampling[by]
    if crop is not None:
        border = round((crop.load - crop.size) / 2)
        image = image.resize((crop.load, crop.load), resample).crop((border, border, border + crop.size, border + crop.size))
    return np.asarray(image.resize((side, side), resample))


def label_planes(labels: np.ndarray, label_nc: int, with_contours: bool = True, published: bool = False, where: str = "label map") -> list[np.ndarray]:
    """The uint8 planes (H, W) of a label map at its own size: the labels and, with contours, their contours and the distance to those.

    Raises InputError naming `where` for a label beyond label_nc. `published` is `contour_map`'s.
    """
    check_range(labels, label_nc, where)
    if not with_contours:
        return [labels]
    contours = contour_map(labels, published)
    return [labels, contours, distance_map(contours)]


def encoder_input(planes: Tensor, label_nc: int) -> Tensor:
    """The encoder's input (B, label_nc + 2 or label_nc, S, S) float32 of planes (B, 3 or 1, S, S) uint8: one-hot labels, contours and distances in [0, 1]."""
    one_hot = torch.nn.functional.one_hot(planes[:, 0].long(), label_nc).movedim(-1, 1).float()
    return torch.cat([one_hot, planes[:, 1:].float() / 255], dim=1)


# What is shown. Pictures are float (..., 3, H, W) in [-1, 1]; shown ones uint8 (..., H, W, 3).

def rounded(pictures: Tensor) -> np.ndarray:
    """As frames of films: to the nearest of 256 levels."""
    return ((pictures * 0.5 + 0.5) * 255 + 0.5).clamp(0, 255).to(torch.uint8).movedim(-3, -1).cpu().numpy()


def truncated(pictures: Tensor) -> np.ndarray:
    """As the published log pictures: to the level below."""
    return (((pictures + 1) / 2).clamp(0, 1) * 255).to(torch.uint8).movedim(-3, -1).cpu().numpy()


def published_row(pictures: Tensor, columns: int = 8, padding: int = 2, pad_value: float = 0.0) -> np.ndarray:
    """As the published stills: n pictures side by side, stretched together so that the darkest value is 0 and the brightest 255."""
    from torchvision.utils import make_grid
    grid = make_grid(pictures, nrow=columns, padding=padding, normalize=True, pad_value=pad_value)
    return (grid * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def overlay(mask: Tensor, picture: Tensor, weight: float) -> np.ndarray:
    """(1 - weight) picture + weight mask, of pictures (3, H, W)."""
    import cv2
    levels = lambda x: ((x * 0.5 + 0.5) * 255).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return cv2.addWeighted(levels(picture), 1 - weight, levels(mask), weight, 0)
