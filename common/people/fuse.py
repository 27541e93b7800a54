"""Several closed surfaces into the one closed surface that is seen from outside: winding numbers on a grid, filled where air is locked in, distances
beside the border, and marching cubes. What lies under or inside is gone, and so are pieces that float free."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from common.meshes import marching_cubes
from common.proximity import build, closest
from common.winding import grid_winding

Solid = tuple[np.ndarray, np.ndarray]                                         # vertices (V, 3), triangles (F, 3), closed, facing outwards


class Fused(NamedTuple):
    """vertices (V, 3) float32 and faces (F, 3) of the surface; the solid (V,) that each vertex lies on, and where: its triangle (V,), weights (V, 3)."""

    vertices: np.ndarray
    faces: np.ndarray
    solid: np.ndarray
    triangle: np.ndarray
    weights: np.ndarray


def fuse(solids: list[Solid], cell: float) -> Fused:
    """The outer surface of the union of solids, from a grid of `cell` metres."""
    trees = [build(*_tensors(solid)) for solid in solids]
    vertices, faces = outer_surface(solids, trees, cell)
    near = [closest(tree, torch.from_numpy(vertices), 4 * cell) for tree in trees]
    owner, rows = np.argmin([n.distances.numpy() for n in near], axis=0), np.arange(len(vertices))
    pick = lambda values: np.stack([value.numpy() for value in values])[owner, rows]
    return Fused(vertices, faces, owner, pick([n.faces for n in near]), pick([n.barycentric for n in near]))


def _tensors(solid: Solid) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.ascontiguousarray(solid[0], np.float32)), torch.from_numpy(np.ascontiguousarray(solid[1]))


def outer_surface(solids: list[Solid], trees: list, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """(vertices (V, 3) float32, faces (F, 3)), closed and in one piece; `trees` are the solids' hierarchies."""
    low = np.min([vertices.min(0) for vertices, _ in solids], axis=0) - 2 * cell
    high = np.max([vertices.max(0) for vertices, _ in solids], axis=0) + 2 * cell
    shape = tuple(np.ceil((high - low) / cell).astype(int) + 1)
    within = [grid_winding(*solid, low, cell, shape) > 0 for solid in solids]
    filled = one_piece(np.logical_or.reduce(within))
    edge = np.argwhere(_beside_other(filled))                                 # only these nodes matter to marching cubes
    place = tuple(edge.T)
    points, inside = torch.from_numpy((low + cell * edge).astype(np.float32)), filled[place]
    depth, height = np.full(len(edge), 0.1 * cell), np.full(len(edge), 2 * cell)
    for tree, member in zip(trees, within):
        distance, member = closest(tree, points, 2 * cell).distances.clamp(max=2 * cell).numpy(), member[place]
        depth = np.where(member, np.maximum(depth, distance), depth)          # inside any: to the farthest of the surfaces that the node is within
        height = np.minimum(height, distance)
    field = np.where(filled, 2 * cell, -2 * cell).astype(np.float32)
    field[place] = np.where(inside, depth, -np.maximum(height, 0.02 * cell))
    mesh = marching_cubes(field, 0.0, np.stack([low, low + (np.array(shape) - 1) * cell]))
    return mesh.vertices, mesh.faces


def one_piece(filled: np.ndarray) -> np.ndarray:
    """A grid (X, Y, Z) bool with its bubbles filled: what no path joins to the outside; and of the rest the largest piece alone."""
    from scipy.ndimage import binary_fill_holes, label

    filled = binary_fill_holes(filled)
    pieces, count = label(filled)
    return filled if count < 2 else pieces == np.bincount(pieces.reshape(-1))[1:].argmax() + 1


def _beside_other(filled: np.ndarray) -> np.ndarray:
    """Nodes with a neighbour, along edges and diagonals of cells, of the other kind."""
    from scipy.ndimage import maximum_filter, minimum_filter

    return maximum_filter(filled, 3) != minimum_filter(filled, 3)
