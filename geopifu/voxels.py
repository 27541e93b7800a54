"""Bodies as voxels (paper, section 3.1): the grid's voxels that a mesh touches, those that it encloses, and what body parts they belong to.

Voxel i along an axis is the cube from low + i (high - low) / n to the next; the canonical grid is 128 x 192 x 128 of edge 1 / 192.
"""
from __future__ import annotations

import numpy as np

from common.errors import InputError
from geopifu.geometry import GRID, VOXEL

AT_ONCE = 1 << 20                                                              # pairs of a triangle and a voxel
STORED_BOX = np.array([[-0.3333333, -0.5, -0.3333333], [0.3333333, 0.5, 0.3333333]])      # as the release's voxeliser has it
NEIGHBOURS, SIGMA = 4, 0.05                                                    # of semantic values; metres of a scan, canonical units of a grid


def surface_voxels(vertices: np.ndarray, faces: np.ndarray, grid: tuple[int, int, int] = GRID, box: np.ndarray = STORED_BOX) -> np.ndarray:
    """Voxels (X, Y, Z) bool that a triangle of the mesh touches, by the thirteen separating axes of Akenine-Moller (JGT 2001), in float32."""
    corners = ((np.asarray(vertices) - box[0]) / (box[1] - box[0]) * np.array(grid)).astype(np.float32)[faces]
    first = np.clip(np.floor(corners.min(1)).astype(np.int64), 0, None)
    last = np.minimum(np.floor(corners.max(1)).astype(np.int64), np.array(grid) - 1)
    sides = np.maximum(last - first + 1, 0)
    count = sides.prod(1)
    touched = np.zeros(grid, bool)
    ends = np.cumsum(count)
    start = 0
    while start < len(corners):
        stop = max(int(np.searchsorted(ends, (ends[start - 1] if start else 0) + AT_ONCE)), start + 1)
        part = slice(start, stop)
        face = np.repeat(np.arange(start, stop), count[part])
        rank = np.arange(len(face)) - np.repeat(np.cumsum(count[part]) - count[part], count[part])
        x, y, z = rank // (sides[face, 1] * sides[face, 2]), rank // sides[face, 2] % sides[face, 1], rank % sides[face, 2]
        voxel = first[face] + np.stack([x, y, z], axis=1)
        hit = voxel[_overlap(corners[face] - (voxel + 0.5).astype(np.float32)[:, None])]
        touched[tuple(hit.T)] = True
        start = stop
    return touched


def _overlap(triangles: np.ndarray) -> np.ndarray:
    """Whether triangles (N, 3, 3) touch the cube of edge 1 about the origin."""
    half = np.float32(0.5)
    touch = (triangles.min(1) <= half).all(1) & (triangles.max(1) >= -half).all(1)
    triangles, alive = triangles[touch], np.flatnonzero(touch)
    edges = np.roll(triangles, -1, axis=1) - triangles
    normal = np.cross(edges[:, 0], edges[:, 1])
    apart = np.abs((normal * triangles[:, 0]).sum(1)) > half * np.abs(normal).sum(1)
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3                                  # the axis crossed with an edge has only these coordinates
        for k in range(3):
            shadow = triangles[..., v] * edges[:, None, k, u] - triangles[..., u] * edges[:, None, k, v]
            radius = half * (np.abs(edges[:, k, u]) + np.abs(edges[:, k, v]))
            apart |= (shadow.min(1) > radius) | (shadow.max(1) < -radius)
    touch[alive[apart]] = False
    return touch


def filled_voxels(surface: np.ndarray) -> np.ndarray:
    """All but what a flood from the eight corner voxels reaches through the empty ones: (X, Y, Z) bool."""
    from scipy.ndimage import label

    pieces, _ = label(~surface)
    outside = np.unique(pieces[::surface.shape[0] - 1, ::surface.shape[1] - 1, ::surface.shape[2] - 1])
    return ~np.isin(pieces, outside[outside > 0])


def voxelise(vertices: np.ndarray, faces: np.ndarray, where: str = "mesh") -> np.ndarray:
    """The filled voxels of a canonical mesh. Raises InputError where the mesh fills nothing or everything: it is open, or lies outside."""
    surface = surface_voxels(np.round(vertices, 6), faces)                      # the release writes six decimals
    filled = filled_voxels(surface)
    if not surface.any() or filled.all() or filled.sum() <= surface.sum():
        raise InputError(f"{where}: encloses no voxel; expected a closed mesh inside the canonical box")
    return filled


def turned(voxels: np.ndarray) -> np.ndarray:
    """The same voxels in the next view to the right: new[x, y, z] = old[X - 1 - z, y, x]."""
    return np.flip(voxels.swapaxes(0, 2), axis=2)


def silhouette(voxels: np.ndarray) -> np.ndarray:
    """What is seen of voxels along z: (Y, X) bool."""
    return voxels.any(2).T


def centers(index: np.ndarray) -> np.ndarray:
    """Canonical centres (M, 3) of voxels (M, 3)."""
    return (index - np.array(GRID) / 2 + 0.5) * VOXEL


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 as uint8, truncated."""
    return (values * 255).clip(0, 255).astype(np.uint8)


def semantic_values(points: np.ndarray, labelled: np.ndarray, labels: np.ndarray, k: int = NEIGHBOURS, sigma: float = SIGMA) -> np.ndarray:
    """sum_k w_k label_k / sum_k w_k (P, C) over the k labelled points nearest to each of points (P, 3), w = exp(-d^2 / sigma^2)."""
    from scipy.spatial import cKDTree

    distances, nearest = cKDTree(labelled).query(points, k)
    weights = np.exp(-((distances**2 - distances[:, :1] ** 2) / sigma**2))      # the common factor cancels; far from all it would vanish
    return (weights[..., None] * labels[nearest]).sum(1) / weights.sum(1, keepdims=True)

