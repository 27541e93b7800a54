"""The analytic heads of SOF's specification (section 6): ellipsoids with a label each, ray cast in closed form by numpy alone.

Three heads of seven ellipsoids, orthographic 16 x 16 views, 12 for training and 11 from cameras between them.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from common.images import write_png

ELLIPSOIDS = (                                                  # label, centre, radii
    (1, (0, 0, 0), (0.8, 1, 0.85)), (18, (0, 0.25, -0.25), (0.9, 0.95, 0.9)), (7, (0, 0, 0.85), (0.18, 0.18, 0.18)),
    (4, (-0.3, 0.25, 0.68), (0.15, 0.15, 0.15)), (5, (0.3, 0.25, 0.68), (0.15, 0.15, 0.15)), (8, (0, -0.4, 0.72), (0.3, 0.12, 0.15)),
    (15, (0, -1.1, 0), (0.4, 0.6, 0.4)),
)
STRETCH = np.array([(1, 1, 1), (0.85, 1.1, 0.95), (1.1, 0.9, 1.05)])   # of each head, per axis
SIDE, TRAINED, UNSEEN = 16, 12, 11
INTRINSIC = np.array([[4.5, 0, SIDE // 2], [0, 4.5, SIDE // 2], [0, 0, 1]])


def poses() -> np.ndarray:
    """cam2world (23, 4, 4): those trained on, then the unseen ones."""
    azimuth = np.linspace(-0.9, 0.9, TRAINED)
    elevation = 0.25 * (np.arange(TRAINED) % 3 - 1)
    return np.stack([pose(a, e) for a, e in zip(azimuth, elevation)] + [pose(a + 0.08, 0.12) for a in azimuth[:UNSEEN]])


def pose(azimuth: float, elevation: float) -> np.ndarray:
    """A camera 4.5 from (0, 0.1, 0), which it looks at: columns right, down, forward and centre."""
    offset = 4.5 * np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    forward = -offset / 4.5
    right = np.cross(forward, (0, 1, 0)) / np.linalg.norm(np.cross(forward, (0, 1, 0)))
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(forward, right), forward, offset + (0, 0.1, 0)], axis=1)
    return matrix


def label_map(head: int, cam2world: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The label (side, side) of the ellipsoid that each pixel's ray meets first, 0 where it meets none; pixel j is at (j - side / 2) / focal."""
    plane = (np.arange(side) - side // 2) * SIDE / side / INTRINSIC[0, 0]
    local = np.stack([*np.meshgrid(plane, plane), np.zeros((side, side))], axis=-1)
    origins, direction = local @ cam2world[:3, :3].T + cam2world[:3, 3], cam2world[:3, 2]
    nearest, labels = np.full((side, side), np.inf), np.zeros((side, side), np.uint8)
    for label, center, radii in ELLIPSOIDS:
        o, d = (origins - center * STRETCH[head]) / (radii * STRETCH[head]), direction / (radii * STRETCH[head])
        half, inside = (o @ d) / (d @ d), (o * o).sum(-1) - 1
        square = half**2 - inside / (d @ d)
        distance = np.where(square > 0, -half - np.sqrt(square.clip(0)), np.inf)
        labels[distance < nearest] = label
        nearest = np.minimum(nearest, distance)
    return labels


def write_heads(root: Path, side: int = SIDE) -> Path:
    """The heads in SOF's layout: views 0-11 to train on, 12-22 unseen."""
    for head in range(len(STRETCH)):
        folder = root / f"{head:05d}"
        for k, cam2world in enumerate(poses()):
            write_png(folder / f"seg_{k:02d}.png", label_map(head, cam2world, side))
        np.save(folder / "cam2world.npy", poses())
        np.save(folder / "intrinsic.npy", INTRINSIC * [[side / SIDE], [side / SIDE], [1]])
    return root
