"""Closest points on a closed triangle mesh and whether points lie inside it: a hierarchy queried by warp, on the CPU or on CUDA.

    solid = build(vertices, faces)
    near = nearest(solid, points)                              # near.distances < 0 inside
    inside(solid, points)

A point is inside where the mesh's generalised winding number (Jacobson et al. 2013; Barill et al. 2018) exceeds `threshold`: 0.5 suits closed
meshes that face outwards, whatever they intersect, and forgives small holes.
"""
from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.raycast import FARTHEST, quiet_warp


class Nearest(NamedTuple):
    """The mesh's closest points to P points: faces (P,) int64; distances (P,), negative inside; barycentric (P, 3) weights of the face's corners.
    faces is -1 and the distance infinite where the mesh is farther than was asked for."""

    faces: Tensor
    distances: Tensor
    barycentric: Tensor


def build(vertices: Tensor, faces: Tensor):
    """The warp mesh of vertices (V, 3) and triangles (F, 3), on the vertices' device; keep it for as many queries as wanted."""
    wp = quiet_warp()
    points = wp.from_torch(vertices.detach().float().contiguous(), dtype=wp.vec3)
    corners = wp.from_torch(faces.to(device=vertices.device, dtype=torch.int32).contiguous().flatten())
    return wp.Mesh(points=points, indices=corners, support_winding_number=True)


def nearest(solid, points: Tensor, farthest: float = FARTHEST, threshold: float = 0.5) -> Nearest:
    """The closest point of the mesh to each of points (P, 3), looked for within `farthest`."""
    return _ask("nearest", solid, points, farthest, threshold)


def nearest_crossed(solid, points: Tensor, farthest: float = FARTHEST) -> Nearest:
    """The same, inside where rays cross an odd number of faces: for closed meshes whichever way they face, folded bodies for one."""
    return _ask("crossed", solid, points, farthest)


def closest(solid, points: Tensor, farthest: float = FARTHEST) -> Nearest:
    """The same with plain distances, never negative: several times faster, and for open meshes too."""
    return _ask("closest", solid, points, farthest)


def inside(solid, points: Tensor, threshold: float = 0.5) -> Tensor:
    """Whether points (P, 3) lie inside the mesh: (P,) bool."""
    return nearest(solid, points, threshold=threshold).distances < 0


def surface_points(vertices: np.ndarray, faces: np.ndarray, pick: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Points (n, 3) on a mesh, uniform by area for uniform draws: pick (n,) chooses the face, place (n, 2) the point in it (Osada et al. 2002)."""
    a, b, c = vertices[faces.T]
    areas = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1))
    face = np.minimum(np.searchsorted(areas, pick * areas[-1], side="right"), len(faces) - 1)
    root = np.sqrt(place[:, :1])
    return (1 - root) * a[face] + root * (1 - place[:, 1:]) * b[face] + root * place[:, 1:] * c[face]


def to_points(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distance (P,) from each of points (P, 3) to the nearest of others (Q, 3)."""
    from scipy.spatial import cKDTree

    return cKDTree(others).query(points)[0]


def to_surface(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The distance (P,) from each of points (P, 3) to a mesh's surface."""
    tensor = lambda array, kind: torch.from_numpy(np.ascontiguousarray(array, kind))
    return closest(build(tensor(vertices, np.float32), tensor(faces, np.int64)), tensor(points, np.float32)).distances.numpy()


def _ask(kernel: str, solid, points: Tensor, farthest: float, *more: float) -> Nearest:
    wp, kernels = _warp()
    count, device = len(points), points.device
    faces, found = torch.empty(count, dtype=torch.int32, device=device), torch.empty(count, 3, device=device)
    at = wp.from_torch(points.detach().float().contiguous(), dtype=wp.vec3)
    if count:
        wp.launch(kernels[kernel], dim=count, device=solid.points.device,
                  inputs=[solid.id, at, float(farthest), *more, wp.from_torch(faces), wp.from_torch(found, dtype=wp.vec3)])
    weights = torch.stack([found[:, 1], found[:, 2], 1 - found[:, 1] - found[:, 2]], dim=-1)
    return Nearest(faces.long(), found[:, 0], weights)


@cache
def _warp():
    """(warp, the kernels by name)."""
    wp = quiet_warp()

    def nearest(mesh, points, farthest, threshold, faces, found):
        i = wp.tid()
        near = wp.mesh_query_point_sign_winding_number(mesh, points[i], farthest, 2.0, threshold)
        if near.result:
            faces[i] = near.face
            gap = wp.length(points[i] - wp.mesh_eval_position(mesh, near.face, near.u, near.v))
            found[i] = wp.vec3(near.sign * gap, near.u, near.v)
        else:
            faces[i] = -1
            found[i] = wp.vec3(wp.inf, 0.0, 0.0)

    def crossed(mesh, points, farthest, faces, found):
        i = wp.tid()
        near = wp.mesh_query_point_sign_parity(mesh, points[i], farthest, 3, 0.1)             # the majority of three rays
        if near.result:
            faces[i] = near.face
            gap = wp.length(points[i] - wp.mesh_eval_position(mesh, near.face, near.u, near.v))
            found[i] = wp.vec3(near.sign * gap, near.u, near.v)
        else:
            faces[i] = -1
            found[i] = wp.vec3(wp.inf, 0.0, 0.0)

    def closest(mesh, points, farthest, faces, found):
        i = wp.tid()
        near = wp.mesh_query_point_no_sign(mesh, points[i], farthest)
        if near.result:
            faces[i] = near.face
            found[i] = wp.vec3(wp.length(points[i] - wp.mesh_eval_position(mesh, near.face, near.u, near.v)), near.u, near.v)
        else:
            faces[i] = -1
            found[i] = wp.vec3(wp.inf, 0.0, 0.0)

    vectors = wp.array(dtype=wp.vec3)
    outputs = {"faces": wp.array(dtype=wp.int32), "found": vectors}
    nearest.__annotations__ = {"mesh": wp.uint64, "points": vectors, "farthest": wp.float32, "threshold": wp.float32} | outputs
    closest.__annotations__ = crossed.__annotations__ = {"mesh": wp.uint64, "points": vectors, "farthest": wp.float32} | outputs
    return wp, {query.__name__: wp.Kernel(func=query, module=wp.get_module(__name__)) for query in (nearest, crossed, closest)}
