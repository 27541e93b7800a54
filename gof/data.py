"""Pictures for a GAN: a folder or an EG3D zip of them, brought to a side as the published data sets were, decoded by threads ahead of the training.

    pictures = Pictures("data/people_gof/pigan.zip", "people")
    pictures.expect(indices, side, flips)                     # the next batch, while this one is trained on
    reals = pictures.batch(indices, side, flips)              # (B, 3, side, side) float32 in [-1, 1]

A transform has two parts: what does not depend on the side, which is kept in memory where the data set fits, and the rest.

    celeba   shorter side to 320, the middle 256, flip, nearest pixels        (aligned CelebA, 178x218)
    bfm      the middle 170, flip, nearest pixels                             (synthetic Basel faces)
    cats     nearest pixels of the whole picture, whatever its shape, flip
    carla    the same, never flipped: cars have a left and a right
    people   a square picture averaged down, flip
"""
from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.images import ImageFolder, decode_rgb, open_image_folder

CELEBA_SHORTER, CELEBA_CROP, BFM_CROP = 320, 256, 170
CACHE_BYTES = 2 ** 31


class Transform(NamedTuple):
    """crop: uint8 (H, W, 3) -> (H', W', 3), once a picture; resize: that, side and flip -> (side, side, 3)."""

    crop: Callable[[np.ndarray], np.ndarray]
    resize: Callable[[np.ndarray, int, bool], np.ndarray]


# Pictures are uint8 (H, W, 3). Whatever is too small or of the wrong shape raises InputError without the file's name, which the caller puts before it.

def celeba_crop(picture: np.ndarray) -> np.ndarray:
    """The middle 256x256 of the picture, its shorter side scaled to 320 (bilinear, antialiased)."""
    from PIL import Image
    height, width = picture.shape[:2]
    shorter = min(height, width)
    size = (CELEBA_SHORTER * width // shorter, CELEBA_SHORTER * height // shorter)
    return middle(np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)), CELEBA_CROP)


def bfm_crop(picture: np.ndarray) -> np.ndarray:
    """The middle 170x170."""
    return middle(picture, BFM_CROP)


def middle(picture: np.ndarray, side: int) -> np.ndarray:
    """The middle side x side pixels; where they cannot be in the middle, the even choice of the two (torchvision's CenterCrop)."""
    height, width = picture.shape[:2]
    if min(height, width) < side:
        raise InputError(f"{width}x{height} pixels, expected {side}x{side} or more")
    top, left = round((height - side) / 2), round((width - side) / 2)
    return picture[top:top + side, left:left + side]


def square(picture: np.ndarray) -> np.ndarray:
    """The picture itself, which must be square."""
    height, width = picture.shape[:2]
    if height != width:
        raise InputError(f"{width}x{height} pixels, expected a square")
    return picture


def flip_nearest(picture: np.ndarray, side: int, flip: bool) -> np.ndarray:
    """Flipped, then pixel floor(j * size / side) for j: torch's nearest."""
    pixels = torch.from_numpy(np.ascontiguousarray(mirrored(picture, flip))).permute(2, 0, 1)
    return torch.nn.functional.interpolate(pixels[None], (side, side), mode="nearest")[0].permute(1, 2, 0).numpy()


def nearest_flip(picture: np.ndarray, side: int, flip: bool) -> np.ndarray:
    """Pixel floor((j + 0.5) * size / side) for j, which is PIL's nearest, then flipped."""
    from PIL import Image
    return mirrored(np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)), flip)


def nearest(picture: np.ndarray, side: int, flip: bool) -> np.ndarray:
    """The same, never flipped."""
    return nearest_flip(picture, side, False)


def average_flip(picture: np.ndarray, side: int, flip: bool) -> np.ndarray:
    """Each pixel the mean of those it covers, to a gray level, then flipped."""
    from PIL import Image
    if len(picture) < side:
        raise InputError(f"{len(picture)} pixels a side, fewer than the {side} asked for")
    return mirrored(np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)), flip)


def mirrored(picture: np.ndarray, flip: bool) -> np.ndarray:
    """The picture, its columns reversed if `flip`."""
    return picture[:, ::-1] if flip else picture


TRANSFORMS = {
    "celeba": Transform(celeba_crop, flip_nearest),
    "bfm": Transform(bfm_crop, flip_nearest),
    "cats": Transform(np.asarray, nearest_flip),
    "carla": Transform(np.asarray, nearest),
    "people": Transform(square, average_flip),
}


def normalise(pictures: np.ndarray) -> Tensor:
    """uint8 (..., H, W, 3) as float32 (..., 3, H, W) in [-1, 1]."""
    values = torch.from_numpy(np.array(pictures)).movedim(-1, -3).contiguous()
    return (values / 255 - 0.5) / 0.5


class Pictures:
    """The pictures of a folder or an EG3D zip, in the order of their names, under one of TRANSFORMS.

    They are read as RGB, transparent parts white. What does not depend on the side is kept in memory if all of it takes at most `cache_bytes`; a larger data
    set is decoded anew each time. `threads` decode at once, and ahead as `expect` says. Raises InputError that names the file.
    """

    def __init__(self, data_root: str | Path, transform: str, threads: int = 4, cache_bytes: int = CACHE_BYTES) -> None:
        if transform not in TRANSFORMS:
            raise InputError(f"--transform: no transform {transform!r}, expected one of {', '.join(TRANSFORMS)}")
        self.folder = open_image_folder(data_root, use_labels=False)
        self.transform = TRANSFORMS[transform]
        self._kept: dict[int, np.ndarray] = {}
        first = read_cropped(self.folder, 0, self.transform)                  # a folder that does not fit the transform is refused at once
        self._keeps = first.nbytes * len(self) <= cache_bytes
        self._pool = ThreadPoolExecutor(threads, "pictures")
        self._ahead: tuple[tuple, list[Future]] = ((), [])

    def __len__(self) -> int:
        return len(self.folder)

    def batch(self, indices: Tensor, side: int, flips: Tensor) -> Tensor:
        """Pictures `indices` (B,) int64, mirrored where `flips` (B,) bool: (B, 3, side, side) float32 in [-1, 1]."""
        request = _request(indices, side, flips)
        expected, futures = self._ahead
        self._ahead = ((), [])
        if expected != request:
            futures = self._start(*request)
        return normalise(np.stack([future.result() for future in futures]))

    def expect(self, indices: Tensor, side: int, flips: Tensor) -> None:
        """Begin to decode the batch that will probably be asked for next."""
        request = _request(indices, side, flips)
        self._ahead = (request, self._start(*request))

    def _start(self, indices: tuple[int, ...], side: int, flips: tuple[bool, ...]) -> list[Future]:
        return [self._pool.submit(self._picture, i, side, flip) for i, flip in zip(indices, flips, strict=True)]

    def _picture(self, i: int, side: int, flip: bool) -> np.ndarray:
        """Picture i, uint8 (side, side, 3)."""
        picture = self._kept.get(i)
        if picture is None:
            picture = read_cropped(self.folder, i, self.transform)
        if self._keeps:
            self._kept[i] = picture
        with naming(self.folder, i):
            return self.transform.resize(picture, side, flip)


def _request(indices: Tensor, side: int, flips: Tensor) -> tuple[tuple[int, ...], int, tuple[bool, ...]]:
    return tuple(indices.tolist()), side, tuple(flips.tolist())


def read_cropped(folder: ImageFolder, i: int, transform: Transform) -> np.ndarray:
    """Picture i before it is resized, uint8 (H, W, 3). Raises InputError that names the file."""
    picture = decode_rgb(folder.read_bytes(i), f"{folder.path}/{folder.names[i]}")
    with naming(folder, i):
        return np.ascontiguousarray(transform.crop(picture))


@contextmanager
def naming(folder: ImageFolder, i: int) -> Iterator[None]:
    """Put a picture's file before what a transform refuses it for."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{folder.path}/{folder.names[i]}: {error}") from None


def read_truth(folder: ImageFolder, i: int) -> dict[str, Tensor]:
    """What is known of picture i's surface: depth (H, W) along unit rays, 0 where nothing is seen, and unit normals (H, W, 3) in the world, float32.

    From the .npz beside it that `make_people.py heads --layout pigan --depth` wrote; raises InputError where it is missing or broken.
    """
    try:
        with np.load(io.BytesIO(folder.read_bytes(i, ".npz"))) as arrays:
            return {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in ("depth", "normals")}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        name = folder.names[i]
        raise InputError(f"{folder.path}/{name}: no depth and normals beside it, expected the .npz of make_people.py heads --layout pigan --depth") from error
