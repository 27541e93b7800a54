"""Winding numbers of closed meshes at all nodes of a grid, exactly and without a search: every triangle is drawn onto the grid's lines along z, and a
node's number is the sum of the crossings before it."""
from __future__ import annotations

import numpy as np

STEPS = 2**16                                                                 # of a cell: products of two differences stay exact on grids of 2^9 cells


def grid_winding(vertices: np.ndarray, faces: np.ndarray, low: np.ndarray, cell: float, shape: tuple[int, int, int]) -> np.ndarray:
    """How often the mesh winds round each node low + cell (i, j, k): int16 (X, Y, Z); 1 inside a closed mesh that faces outwards, 0 outside.

    Vertices are rounded to 1/STEPS of a cell, so that all comparisons are exact; a line through an edge or vertex counts as shifted by a hair
    (simulation of simplicity, Edelsbrunner and Muecke 1990), so none slips between triangles or meets two.
    """
    points = (np.asarray(vertices, np.float64) - low) / cell
    points[:, :2] = np.round(points[:, :2] * STEPS) / STEPS
    faces = np.asarray(faces, np.int64)
    face, i, j = _candidates(points[faces][..., :2], shape)
    sides = [_side(points, faces[face, a], faces[face, b], i, j) for a, b in ((0, 1), (1, 2), (2, 0))]
    forward = np.logical_and.reduce([above for _, above in sides])
    crossed = forward | ~np.logical_or.reduce([above for _, above in sides])
    face, i, j, forward = face[crossed], i[crossed], j[crossed], forward[crossed]
    weights = np.stack([sides[k][0][crossed] for k in (1, 2, 0)], axis=1)                 # of corner k: the area across from it
    total = weights.sum(1)
    flat = total == 0
    z = (weights * points[faces[face], 2]).sum(1) / np.where(flat, 1, total)
    z = np.where(flat, points[faces[face], 2].mean(1), z)
    first = np.clip(np.ceil(z), 0, shape[2]).astype(np.int64)
    steps = np.zeros((shape[0], shape[1], shape[2] + 1), np.int16)
    np.add.at(steps, (i, j, first), np.where(forward, -1, 1).astype(np.int16))           # a triangle that turns forward faces +z: the line leaves
    return np.cumsum(steps[..., :-1], axis=2, dtype=np.int16)


def _candidates(corners: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(face, i, j) of every line (i, j) within the bounding rectangle of a triangle's corners (F, 3, 2)."""
    first = np.clip(np.ceil(corners.min(1)), 0, None).astype(np.int64)
    last = np.minimum(np.floor(corners.max(1)).astype(np.int64), np.array(shape[:2]) - 1)
    sides = np.maximum(last - first + 1, 0)
    count = sides.prod(1)
    face = np.repeat(np.arange(len(corners)), count)
    rank = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    return face, first[face, 0] + rank // np.maximum(sides[face, 1], 1), first[face, 1] + rank % np.maximum(sides[face, 1], 1)


def _side(points: np.ndarray, a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(twice the area of (a, b, (i, j)), whether (i, j) lies to the left of a -> b)."""
    (px, py), (qx, qy) = points[a, :2].T, points[b, :2].T
    doubled = (qx - px) * (j - py) - (qy - py) * (i - px)
    return doubled, np.where(doubled == 0, np.where(qy == py, qx > px, qy < py), doubled > 0)           # the hair: much along x, less along y
