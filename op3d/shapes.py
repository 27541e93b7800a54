"""A scene's raw densities on a grid: for marching cubes, and for ChimeraX as the release writes them.

    points = grid_points(512, box)                            (N^3, 3), z fastest
    volume = published_volume(densities.view(N, N, N))
"""
from __future__ import annotations

import torch
from torch import Tensor

EMPTY = -1000.0                                               # density of the border
BORDER, BORDER_AT = 30, 256                                   # its width, voxels of a grid of so many


def grid_lattice(count: int, box: float, origin: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[Tensor, float]:
    """The lower corner (3,) and the spacing of `count` points along each side of a cube of side `box` about `origin`."""
    return torch.tensor(origin, dtype=torch.float32) - box / 2, box / (count - 1)


def grid_points(count: int, box: float, origin: tuple[float, float, float] = (0.0, 0.0, 0.0), published: bool = False) -> Tensor:
    """Points (count^3, 3) of that lattice, z fastest.

    published: the release divides indices without rounding down, so that x and y creep on while z runs; in float32, exact up to 2^24 points.
    """
    corner, spacing = grid_lattice(count, box, origin)
    index = torch.arange(count**3)
    if published:
        rows = index.float() / count
        indices = [(rows / count) % count, rows % count, (index % count).float()]
    else:
        indices = [index // count**2, index // count % count, index % count]
    return torch.stack(indices, dim=-1) * spacing + corner


def published_volume(densities: Tensor, flip_axis: int = 0, empty: float = EMPTY, border: int = BORDER) -> Tensor:
    """The volume (N, N, N) that the release stores of densities (N, N, N) by x, y, z: one axis turned round, the border empty (`border` voxels of 256)."""
    volume, width = densities.flip(flip_axis), int(border * len(densities) / BORDER_AT)
    inside = torch.zeros_like(volume, dtype=torch.bool)
    inside[(slice(width, len(volume) - width),) * 3] = True
    return torch.where(inside, volume, empty)
