"""Open surfaces made into closed ones that face outwards: welded, and a fan over every hole."""
from __future__ import annotations

from typing import Any

import numpy as np

from common.people.shapes import Surface, sheet


def boundary(triangles: np.ndarray) -> list[np.ndarray]:
    """The loops of vertices round the holes of a surface, in the order in which its triangles run along them."""
    count = int(triangles.max()) + 1
    edges = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    open_edges = edges[~np.isin(edges[:, 0] * count + edges[:, 1], edges[:, 1] * count + edges[:, 0])]
    following: dict[int, list[int]] = {}
    for a, b in open_edges.tolist():
        following.setdefault(a, []).append(b)
    loops = []
    while following:
        loop = [next(iter(following))]
        while loop[-1] in following:
            after = following[loop[-1]]
            loop.append(after.pop())
            if not after:
                del following[loop[-2]]
        loops.append(np.array(loop[:-1]))
    return loops


def fans(triangles: np.ndarray, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """(loops, triangles) that shut the holes of a surface of `count` vertices, the k-th about a new vertex count + k in its loop's middle."""
    loops = boundary(triangles)
    fan = [np.stack([np.roll(loop, -1), loop, np.full(len(loop), count + k)], axis=1) for k, loop in enumerate(loops)]
    return loops, np.concatenate([triangles, *fan])


def capped(matrix, triangles: np.ndarray) -> tuple[Any, np.ndarray]:
    """(sparse matrix, triangles) of a surface that follows the base mesh, its holes shut."""
    import scipy.sparse as sp

    loops, triangles = fans(triangles, matrix.shape[0])
    return sp.vstack([matrix, *(sp.csr_matrix(matrix[loop].mean(0)) for loop in loops)]).tocsr(), triangles


def shut(surface: Surface) -> Surface:
    """A surface whose vertices at one place are one, its holes shut."""
    _, first, same = np.unique(np.round(surface.vertices, 7), axis=0, return_index=True, return_inverse=True)
    triangles = same.reshape(-1)[surface.triangles]
    real = (triangles != np.roll(triangles, 1, axis=1)).all(1)
    used, triangles = np.unique(triangles[real], return_inverse=True)
    rows = first[used]
    loops, triangles = fans(triangles.reshape(-1, 3), len(rows))
    grown = lambda values: np.concatenate([values[rows], *(values[rows][loop].mean(0, keepdims=True) for loop in loops)])
    labels = np.concatenate([surface.labels[real], np.full(len(triangles) - real.sum(), surface.labels[0])])
    return Surface(grown(surface.vertices), outwards(grown(surface.vertices), triangles), labels, grown(surface.albedo), grown(surface.gloss))


def outwards(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The triangles of a closed surface, all turned over if it encloses a negative volume."""
    a, b, c = vertices[triangles.T]
    return triangles if (a * np.cross(b, c)).sum() > 0 else np.ascontiguousarray(triangles[:, ::-1])


def tube_solid(grid: np.ndarray, hollow: float) -> tuple[np.ndarray, np.ndarray]:
    """(vertices, triangles) of a grid of points (R, C, 3), closed round its columns, a middle in each end, the last drawn in by `hollow` of the length."""
    points = grid.reshape(-1, 3)
    first, last = grid[0].mean(0), grid[-1].mean(0)
    _, triangles = fans(sheet(grid, closed=True), len(points))
    ends = [first, last + hollow * (first - last)]
    top_first = (triangles[triangles[:, 2] == len(points), 0] < grid.shape[1]).all()
    vertices = np.concatenate([points, ends if top_first else ends[::-1]])
    return vertices, outwards(vertices, triangles)
