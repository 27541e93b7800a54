"""Pictures of a mesh as the release's renderer makes them: orthographic, lit at the vertices, every rendered value a multiple of 1/255.

Pixel (row i, column j) of an h x w picture is the ray x = (j - w/2) / f, y = (i - h/2) / f along +z of the view's frame; the nearest face is seen.
(The release also redraws silhouettes with lines of one pixel, so that its masks are up to a pixel fatter.)
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from common.raycast import build, first_hits
from geopifu.geometry import rotation_of

START = -10.0                                                                  # z from which rays start
GROUND_LIGHT, SKY_LIGHT = (0.0, 2.5, -5.0), (0.0, -2.5, -10.0)


class Raster(NamedTuple):
    """What each pixel sees: face (h, w) int64, -1 where none; weights (h, w, 3) of its corners, 0 where none."""

    face: np.ndarray
    weights: np.ndarray

    def stepped(self) -> Raster:
        """The same with weights of whole 1/255, as the release reads them back from its frame buffer."""
        return Raster(self.face, np.round(self.weights * 255) / 255)


def rasterise(vertices: np.ndarray, faces: np.ndarray, height: int, width: int, focal: float, device: str = "cpu") -> Raster:
    """The faces that an orthographic picture of vertices (V, 3) in a view's frame shows."""
    on = lambda array, dtype: torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=device)
    rows, columns = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    origins = torch.stack([(columns - width / 2) / focal, (rows - height / 2) / focal, torch.full_like(rows, START, dtype=torch.float32)], dim=-1)
    origins = origins.reshape(-1, 3)
    hits = first_hits(build(on(vertices, torch.float32), on(faces, torch.int64)), origins, origins.new_tensor([0.0, 0, 1]).expand_as(origins))
    seen = hits.faces >= 0
    weights = torch.where(seen[:, None], hits.barycentric, 0.0)
    return Raster(hits.faces.reshape(height, width).cpu().numpy(), weights.reshape(height, width, 3).double().cpu().numpy())


def mask(raster: Raster) -> np.ndarray:
    """255 where a face is visible, else 0: (h, w) uint8."""
    return np.where(raster.face >= 0, 255, 0).astype(np.uint8)


def mixed(values: np.ndarray, faces: np.ndarray, raster: Raster) -> np.ndarray:
    """What stands at the vertices (V, C) in the pixels (h, w, C), 0 where no face is seen."""
    seen = raster.face >= 0
    result = np.zeros((*raster.face.shape, values.shape[1]))
    result[seen] = (values[faces[raster.face[seen]]] * raster.weights[seen][..., None]).sum(1)
    return result


def lit_colors(vertices: np.ndarray, normals: np.ndarray, colors: np.ndarray, sky_degrees: list[float | None]) -> np.ndarray:
    """Colours (V, 3) under the ground light and the sky lights turned by degrees (None: off): sum_L max(c (l . n), 0), not clamped from above."""
    lights = [np.array(GROUND_LIGHT)] + [np.array(SKY_LIGHT) @ rotation_of(0, degrees, 0) for degrees in sky_degrees if degrees is not None]
    total = np.zeros_like(colors)
    for light in lights:
        towards = light - vertices
        towards = towards / np.linalg.norm(towards, axis=1, keepdims=True)
        total += np.maximum(colors * (towards * normals).sum(1, keepdims=True), 0)
    return total


def rgb_image(lit: np.ndarray, faces: np.ndarray, raster: Raster, background: np.ndarray) -> np.ndarray:
    """Lit vertices (V, 3), clamped, before a background (h, w, 3) from 0 to 1: (h, w, 3) uint8."""
    person = np.round(mixed(lit.clip(0, 1), faces, raster) * 255)
    return np.where((raster.face >= 0)[..., None], person, np.floor(background * 255)).astype(np.uint8)


def normal_image(normals: np.ndarray, faces: np.ndarray, raster: Raster) -> np.ndarray:
    """(n + 1) / 2 of unit normals (x right, y up, z to the viewer), (h, w, 3) uint8; white where nothing or a back is seen."""
    mean = mixed(normals, faces, raster.stepped())
    unit = mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-20)
    shown = (raster.face >= 0) & (unit[..., 2] <= 0)
    return np.where(shown[..., None], (unit * (1, -1, -1) + 1) / 2 * 255, 255).astype(np.uint8)


def label_image(values: np.ndarray, faces: np.ndarray, raster: Raster) -> np.ndarray:
    """Values (V, 3) of vertices from 0 to 1 before white: (h, w, 3) uint8."""
    return np.where((raster.face >= 0)[..., None], mixed(values, faces, raster.stepped()).clip(0, 1) * 255, 255).astype(np.uint8)


def iuv_image(atlas: np.ndarray, raster: Raster) -> np.ndarray:
    """(h, w, 3) uint8 of V, U and the part, of an atlas (F, 7) of each face's part and its corners' U and V; 0 where nothing is seen."""
    seen = raster.face >= 0
    rows, weights = atlas[raster.face[seen]], raster.stepped().weights[seen]
    uv = (rows[:, 1:].reshape(-1, 3, 2) * weights[..., None]).sum(1).clip(0, 1) * 255
    result = np.zeros((*raster.face.shape, 3), np.uint8)
    result[seen] = np.stack([uv[:, 1], uv[:, 0], rows[:, 0]], axis=1).astype(np.uint8)
    return result


def pixels_of(points: np.ndarray, height: int, width: int, focal: float) -> np.ndarray:
    """Pixel x, y (P, 2) of points (P, 3) of a view's frame: f x + w/2, f y + h/2."""
    return focal * points[:, :2] + np.array([width / 2, height / 2])
