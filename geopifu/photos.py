"""Anybody's photo as Geo-PIFu's networks take it: who is in it, then cut and padded so that the person stands as those of the rendered frames do.

Rendered people stand with the mean of their vertices in the middle of the picture, as large as their box allows with its margin. Of a photo the mask tells
both: its mean, and how far it reaches from there.
"""
from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.images import decode_picture, decode_rgb
from geopifu.data import prepared
from geopifu.geometry import BOX, MARGIN

FINDERS = ("auto", "rembg", "grabcut")
SEARCHED = 384                                                # longer side of the photo that grabCut works on, in pixels
BORDER = 0.02                                                 # of the photo's sides, that nobody stands on
ROUNDS = 5                                                    # of grabCut
LEAST = 0.005                                                 # of the photo's area: a smaller mask is no person


def read_photo(path: str | Path) -> np.ndarray:
    """The photo (H, W, 3) uint8, or (H, W, 4) with the alpha of a cut-out, upright as its camera noted. Raises InputError."""
    data = _bytes(path, "a photo")
    turn = {3: 2, 6: 3, 8: 1}.get(_orientation(data), 0)      # quarters, counter-clockwise
    try:
        picture = decode_picture(data, str(path))
    except InputError:
        picture = decode_rgb(data, str(path))                 # palettes and the like
    return np.ascontiguousarray(np.rot90(picture if picture.ndim == 3 else picture[..., None].repeat(3, -1), turn))


def read_mask(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of a picture that is white, or opaque, where the person is. Raises InputError, also where its size is not the photo's."""
    picture = read_photo(path)
    if picture.shape[:2] != size:
        raise InputError(f"{path}: {_size(picture.shape)} pixels; expected the photo's, {_size(size)}")
    return checked(picture[..., 3] >= 128 if picture.shape[2] == 4 else picture.max(-1) >= 128, str(path))


def checked(mask: np.ndarray, where: str) -> np.ndarray:
    """The mask. Raises InputError where it is nobody's."""
    if mask.mean() < LEAST:
        raise InputError(f"{where}: the mask is {'empty' if not mask.any() else f'only {int(mask.sum())} pixels large'}; expected white where the person is")
    if mask.all():
        raise InputError(f"{where}: the mask is white all over; expected white where the person is alone")
    return mask


def find_person(photo: np.ndarray, finder: str = "auto", where: str = "photo") -> np.ndarray:
    """The mask (H, W) bool of the person in a photo (H, W, 3 or 4): its alpha where it has one, else by rembg where installed, else by grabCut."""
    if photo.shape[2] == 4:
        return checked(photo[..., 3] >= 128, where)
    if finder == "grabcut" or (finder == "auto" and not importlib.util.find_spec("rembg")):
        return checked(grabcut(photo), f"{where}: nobody found (--mask gives yours)")
    try:
        from rembg import remove
        return checked(largest(np.asarray(remove(photo, only_mask=True)) >= 128), f"{where}: nobody found (--mask gives yours)")
    except InputError:
        raise
    except Exception as error:                                # it is missing, or fetches its network where there is none
        raise InputError(f"--finder rembg: {type(error).__name__}: {error}".partition("\n")[0]) from None


def grabcut(photo: np.ndarray) -> np.ndarray:
    """Rother, Kolmogorov, Blake (2004), begun with an upright person in the middle: mask (H, W) bool, one piece."""
    import cv2

    height, width = photo.shape[:2]
    scale = min(1.0, SEARCHED / max(height, width))
    small = cv2.resize(photo, (max(round(width * scale), 8), max(round(height * scale), 8)), interpolation=cv2.INTER_AREA)
    mask = _guess(*small.shape[:2])
    cv2.setRNGSeed(0)
    cv2.grabCut(small, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = largest((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.float32)
    return cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5


def _guess(height: int, width: int) -> np.ndarray:
    """grabCut's labels before it begins: nobody along the borders, somebody likely in an upright ellipse."""
    import cv2

    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    inside = (y / 0.9) ** 2 + (x * width / height / 0.3) ** 2 < 1
    mask = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[np.maximum(abs(x), abs(y)) > 1 - 2 * BORDER] = cv2.GC_BGD
    return mask


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece of a mask (H, W), without its smaller holes."""
    import cv2

    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return pieces == 1 + stats[1:, cv2.CC_STAT_AREA].argmax() if count > 1 else mask


# As the rendered frames are

def window(mask: np.ndarray) -> tuple[int, int, int]:
    """(top, left, side) of the square, in pixels, that a rendered frame would be of this person; it may lie partly outside of the photo."""
    rows, columns = mask.nonzero()
    middle = np.array([columns.mean(), rows.mean()]) + 0.5
    reach = np.maximum(middle - (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1) - middle)
    side = (reach / (MARGIN * BOX[1, :2])).max()
    left, top = np.round(middle - side / 2).astype(int)
    return int(top), int(left), round(side)


def cut(picture: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """The square of a picture (H, W, ...), zero outside of it."""
    square = np.zeros((side, side, *picture.shape[2:]), picture.dtype)
    height, width = picture.shape[:2]
    rows, columns = (slice(max(start, 0), min(start + side, end)) for start, end in ((top, height), (left, width)))
    square[rows.start - top:rows.stop - top, columns.start - left:columns.stop - left] = picture[rows, columns]
    return square


def framed(photo: np.ndarray, mask: np.ndarray, side: int, as_is: bool = False) -> Tensor:
    """What a network sees (3, side, side) of a photo (H, W, 3) and its mask (H, W); `as_is` does not cut, for pictures framed like the rendered ones."""
    import cv2

    if not as_is:
        place = window(mask)
        photo, mask = cut(photo, *place), cut(mask, *place)
        if place[2] > side:                                   # a large photo's pixels are averaged, not skipped
            photo, mask = (cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in (photo, 255 * mask.astype(np.uint8)))
            mask = mask >= 128
    return torch.from_numpy(prepared(photo, mask.astype(np.uint8), side)[0])


def spread(photo: Tensor) -> Tensor:
    """The photo (3, S, S) whose background, which is 0, takes the nearest colour of the person; so no rim of a mesh is grey."""
    from scipy.ndimage import distance_transform_edt

    outside = (photo == 0).all(0).numpy()
    rows, columns = distance_transform_edt(outside, return_distances=False, return_indices=True)
    return photo[:, torch.from_numpy(rows), torch.from_numpy(columns)]


def _bytes(path: str | Path, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected {what}") from None


def _orientation(data: bytes) -> int:
    """How a camera says that it was held (EXIF), 1 for upright."""
    import io

    from PIL import Image
    try:
        return Image.open(io.BytesIO(data)).getexif().get(0x0112, 1)
    except Exception:                                         # no picture at all: whoever decodes it says so
        return 1


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
