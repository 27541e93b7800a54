"""Where rays first meet a triangle mesh: a bounding volume hierarchy queried by warp, on the CPU or on CUDA, torch tensors in and out.

    mesh = build(vertices, faces)
    hits = first_hits(mesh, origins, directions)
    points = origins + hits.distances[:, None] * directions          # == interpolate(vertices, faces, hits)

warp is imported on first use, without its banner; its compiled kernels stay in its user cache.
"""
from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

FARTHEST = 1e30


class Hits(NamedTuple):
    """First hits of R rays: faces (R,) int64, -1 where none; distances (R,), inf where none; barycentric (R, 3) weights of the face's corners."""

    faces: Tensor
    distances: Tensor
    barycentric: Tensor


def build(vertices: Tensor, faces: Tensor):
    """The warp mesh of vertices (V, 3) and triangles (F, 3), on the vertices' device; keep it for as many queries as wanted."""
    wp, _ = _warp()
    points = wp.from_torch(vertices.detach().float().contiguous(), dtype=wp.vec3)
    corners = wp.from_torch(faces.to(device=vertices.device, dtype=torch.int32).contiguous().flatten())
    return wp.Mesh(points=points, indices=corners)


def first_hits(mesh, origins: Tensor, directions: Tensor, farthest: float = FARTHEST) -> Hits:
    """The first hit of each ray origins + t * directions (R, 3), 0 < t <= farthest; with unit directions t is a distance."""
    wp, cast = _warp()
    count, device = len(origins), origins.device
    faces = torch.empty(count, dtype=torch.int32, device=device)
    hits = torch.empty(count, 3, device=device)                              # distance and the first two barycentric weights
    vec3 = lambda tensor: wp.from_torch(tensor.detach().float().contiguous(), dtype=wp.vec3)
    if count:
        wp.launch(cast, dim=count, device=mesh.points.device,
                  inputs=[mesh.id, vec3(origins), vec3(directions), float(farthest), wp.from_torch(faces), wp.from_torch(hits, dtype=wp.vec3)])
    weights = torch.stack([hits[:, 1], hits[:, 2], 1 - hits[:, 1] - hits[:, 2]], dim=-1)
    return Hits(faces.long(), hits[:, 0], weights)


def interpolate(values: Tensor, faces: Tensor, hits: Hits) -> Tensor:
    """What stands at the corners, values (V, C), at the hits (R, C); meaningless where a ray hits nothing."""
    corners = faces[hits.faces.clamp(min=0)].long()
    return (values[corners] * hits.barycentric[..., None].to(values.dtype)).sum(1)


@cache
def quiet_warp():
    """The warp module, initialised without its banner and without its complaint that there is no GPU."""
    import warp as wp

    wp.config.log_level = wp.LOG_ERROR
    saved, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)             # that complaint comes from C
    try:
        os.dup2(silence, 2)
        wp.init()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(silence)
    return wp


@cache
def _warp():
    """(warp, the kernel)."""
    wp = quiet_warp()

    def cast(mesh, origins, directions, farthest, faces, hits):
        i = wp.tid()
        query = wp.mesh_query_ray(mesh, origins[i], directions[i], farthest)
        if query.result:
            faces[i] = query.face
            hits[i] = wp.vec3(query.t, query.u, query.v)
        else:
            faces[i] = -1
            hits[i] = wp.vec3(wp.inf, 0.0, 0.0)

    vectors = wp.array(dtype=wp.vec3)
    cast.__annotations__ = {"mesh": wp.uint64, "origins": vectors, "directions": vectors, "farthest": wp.float32,
                            "faces": wp.array(dtype=wp.int32), "hits": vectors}
    return wp, wp.Kernel(func=cast, module=wp.get_module(__name__))
