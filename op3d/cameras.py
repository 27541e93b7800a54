"""EG3D's cameras: round a pivot at a radius, by an azimuth h and a "polar" v; labels of 25 numbers are ``common.cameras.eg3d_label``.

v is no angle: the polar angle is arccos(1 - 2 v / pi), so that even v covers the sphere evenly. The frontal camera has h = v = pi / 2.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

from common.cameras import Cameras, intrinsics_matrix, look_at

POLE = 1e-5                                                   # how near to the poles v may come
PI, ROOT = 3.14159, 1.414                                     # as the release has them
FOV = 18.837                                                  # degrees, of the published portraits


def eg3d_cam2world(h: Tensor, v: Tensor, pivot: Tensor | tuple, radius: Tensor | float) -> Tensor:
    """cam2world (N, 4, 4) of azimuths h and polar numbers v (N,), looking at `pivot` (3,) or (N, 3) from the sphere of `radius` () or (N,) about the origin."""
    h, v = torch.broadcast_tensors(h, v.clamp(POLE, math.pi - POLE))
    polar = torch.arccos(1 - 2 * v / math.pi)
    way = torch.stack([polar.sin() * (math.pi - h).cos(), polar.cos(), polar.sin() * (math.pi - h).sin()], dim=-1)
    positions = way * torch.as_tensor(radius, dtype=h.dtype, device=h.device).view(-1, 1)
    return look_at(positions, torch.as_tensor(pivot, dtype=h.dtype, device=h.device))


def eg3d_intrinsics(fov_degrees: Tensor | float) -> Tensor:
    """Intrinsics (..., 3, 3) of a field of view, with the release's rounded constants: 18.837 degrees give a focal length of 4.2634 picture widths."""
    return intrinsics_matrix(1 / ((torch.as_tensor(fov_degrees, dtype=torch.float64) * PI / 360).tan() * ROOT), dtype=torch.float64).float()


def eg3d_cameras(h: Tensor, v: Tensor, pivot: Tensor | tuple, radius: Tensor | float, fov_degrees: Tensor | float = FOV) -> Cameras:
    """N cameras at h and v (N,)."""
    cam2world = eg3d_cam2world(h, v, pivot, radius).float()
    return Cameras(cam2world, eg3d_intrinsics(fov_degrees).to(cam2world).expand(len(cam2world), 3, 3))
