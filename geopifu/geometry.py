"""Geo-PIFu's frames: from a raw mesh to canonical space, from there to the four views and to the picture.

    raw          metres, x right, y down, z away from the camera; a person who faces the camera looks along -z
    canonical    canonical = scale (R raw - mean): the whole person stands in the box BOX with a margin of 15 %, about the vertices' mean
    view k       canonical turned about y: 0 front, 1 right, 2 back, 3 left
    calibrated   (2 x, 2 y, -2 z) of a view: x and y in [-1, 1] are the square picture, z grows towards the camera

Points are rows. Frames come in groups of four views that share a rotation R; frame n is view n % 4 of the group that starts at n - n % 4.
"""
from __future__ import annotations

import numpy as np

from common.errors import InputError

BOX = np.array([[-1 / 3, -1 / 2, -1 / 3], [1 / 3, 1 / 2, 1 / 3]])              # b_min, b_max
GRID = (128, 192, 128)                                                         # voxels along x, y, z
VOXEL = 1 / 192
VIEWS = ("front", "right", "back", "left")
MARGIN = 0.85
ROUND_Y = (((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
           ((-1, 0, 0), (0, 1, 0), (0, 0, -1)), ((0, 0, 1), (0, 1, 0), (-1, 0, 0)))      # of 0, -90, -180 and -270 degrees, exactly


def view_rotation(view: int) -> np.ndarray:
    """Ry (3, 3) of a view: rows of the front frame times Ry are rows of the view's frame."""
    return np.array(ROUND_Y[view], np.float64)


def to_view(points: np.ndarray, view: int) -> np.ndarray:
    """Points (..., 3) of the front frame in a view's frame: one step to the right takes (x, y, z) to (z, y, -x)."""
    return points @ view_rotation(view).astype(points.dtype)


def calibration(view: int) -> np.ndarray:
    """diag(2, 2, -2, 1) [Ry^T] (4, 4) float32: from the front frame (columns) to calibrated coordinates of a view."""
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, :3] = np.diag([2, 2, -2]) @ view_rotation(view).T
    return matrix


def canonicalise(vertices: np.ndarray, rotation: np.ndarray, where: str = "mesh") -> tuple[np.ndarray, np.ndarray, float]:
    """(canonical vertices (N, 3), mean (1, 3) of the raw ones, scale), computed in the vertices' precision.

    The mean runs over the vertices as they are stored; the scale is the largest that keeps the turned mesh in the box with its margin.
    Raises InputError naming `where` for vertices that all lie in one place.
    """
    mean = vertices.mean(0, keepdims=True)
    turned = (vertices - mean) @ rotation.T.astype(vertices.dtype)
    reach = np.concatenate([-turned.min(0), turned.max(0)])
    if not reach.max() > 0:
        raise InputError(f"{where}: all {len(vertices)} vertices lie in one place")
    scale = float((np.concatenate([-BOX[0], BOX[1]]) * MARGIN / np.maximum(reach, 1e-12)).min())
    return turned * vertices.dtype.type(scale), mean, scale


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Rz Ry Rx (3, 3) of whole degrees within +-15, +-45 and +-15 about z, y and x."""
    x, y, z = (int(rng.integers(-limit, limit + 1)) for limit in (15, 45, 15))
    return rotation_of(x, y, z)


def rotation_of(x: float, y: float, z: float) -> np.ndarray:
    """Rz Ry Rx (3, 3) of degrees."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians((x, y, z))), np.sin(np.radians((x, y, z)))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
