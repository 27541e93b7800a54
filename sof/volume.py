"""SOF's volumes: what stands in front of a camera, slice by slice, and its surface (SofGAN's volume renderer, specification 4.3).

A voxel (row, column, slice) is a pixel of a side x side picture at one of evenly spaced camera depths; its value is the probability of the
background less that of the best other class, and the head is where that lies below `LEVEL`.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras
from common.chunks import in_chunks
from common.meshes import Mesh, largest_component, marching_cubes, vertex_normals
from common.rays import unproject
from common.render import default_chunk
from common.surfaces import dense_grid, refine_grid
from sof.cameras import pixel_centers
from sof.model import SOF

LEVEL = -0.5                                                  # of the published notebooks
REACH = 0.15                                                  # world units: how far from the surface a march may end to tell what is seen there


def background_margin(probabilities: Tensor) -> Tensor:
    """P(background) - max P(other class) (...), in [-1, 1], of class probabilities (..., C)."""
    return probabilities[..., 0] - probabilities[..., 1:].amax(dim=-1)


def voxel_points(camera: Cameras, voxels: Tensor, side: int, slices: int, z_range: tuple[float, float], published: bool = False) -> Tensor:
    """World points (P, 3) of voxels (P, 3), real-valued row, column and slice, before one camera: slices - 1 steps of z_depth from near to far.

    `published`: as the release does, `slices` steps, which puts the last slice short of where it was evaluated.
    """
    near, far = z_range
    row, column, k = voxels.unbind(-1)
    z_depth = near + k / (slices if published else slices - 1) * (far - near)
    return unproject(camera, pixel_centers(torch.stack([column, row], dim=-1), side)[None], z_depth[None, :, None])[0]


def volume_mesh(volume: Tensor, camera: Cameras, z_range: tuple[float, float], level: float = LEVEL, published: bool = False) -> Mesh:
    """The surface, in the world, of a volume (side, side, slices) of background margins before one camera; faces point away from the head.

    `published`: see `voxel_points`. Raises InputError where nothing crosses the level.
    """
    last = torch.tensor(volume.shape) - 1
    voxels = marching_cubes(volume.cpu(), level, torch.stack([torch.zeros_like(last), last]))
    index = torch.from_numpy(voxels.vertices).to(camera.cam2world)
    points = voxel_points(camera, index, volume.shape[0], volume.shape[2], z_range, published)
    return replace(voxels, vertices=points.cpu().numpy())


def head_volume(model: SOF, scene, camera: Cameras, side: int, slices: int, z_range: tuple[float, float], level: float | None = LEVEL) -> tuple[Tensor, int]:
    """Background margins (side, side, slices) of one head before one camera, and how many voxels the field was asked for.

    From coarse to fine, exact beside the surface at `level`; with level None every voxel is exact.
    """
    def margins(voxels: Tensor) -> Tensor:
        points = voxel_points(camera, voxels, side, slices, z_range)
        return background_margin(model.field(scene, points[None])[0].softmax(dim=-1))

    box = torch.tensor([[0.0, 0.0, 0.0], [side - 1, side - 1, slices - 1]], device=camera.cam2world.device)
    shape, chunk = (side, side, slices), default_chunk(box.device)
    return dense_grid(margins, box, shape, chunk) if level is None else refine_grid(margins, box, shape, level, chunk=chunk)


def head_mesh(model: SOF, scene, camera: Cameras, side: int, z_range: tuple[float, float]) -> tuple[Mesh, int]:
    """The largest surface of one head before one camera, of side^3 voxels, and how many of them the field was asked for. Raises InputError without one."""
    volume, evaluations = head_volume(model, scene, camera, side, side, z_range)
    return largest_component(volume_mesh(volume, camera, z_range)), evaluations


def paint_labels(model: SOF, scene, mesh: Mesh, palette: np.ndarray, device: torch.device | str = "cpu") -> Mesh:
    """The mesh of a head with each vertex in the palette's (C, 3) colour of the class that is seen there.

    That is where the march of the ray straight from outside ends, which is where the classifier has learnt; where it ends farther than `REACH`
    from the vertex, the likeliest class at the vertex itself. Never the background's colour.
    """
    colors = torch.as_tensor(palette, device=device)
    points = torch.as_tensor(mesh.vertices, dtype=torch.float32, device=device)
    normals = vertex_normals(points, torch.as_tensor(mesh.faces, dtype=torch.int64, device=device))

    def color(points: Tensor, normals: Tensor) -> Tensor:
        ends, scores = model.trace(scene, points[None], -normals[None])
        there = model.field(scene, points[None])
        near = (ends - points).norm(dim=-1, keepdim=True) < REACH
        return colors[1 + torch.where(near, scores, there)[0, :, 1:].argmax(-1)]

    with torch.no_grad():
        return replace(mesh, colors=in_chunks(color, points, normals, chunk=default_chunk(device)).cpu().numpy())
