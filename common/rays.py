"""Rays of cameras: origins (N, R, 3) and unit directions (N, R, 3) in the world, R pixels of each camera."""
from __future__ import annotations

import torch
from torch import Tensor

from common.cameras import Cameras


def pixel_grid(height: int, width: int, device=None, dtype: torch.dtype = torch.float32) -> Tensor:
    """(u, v) (H*W, 2) of the pixel centres in picture sizes, row by row."""
    v = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
    u = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
    return torch.stack([u.repeat(height), v.repeat_interleave(width)], dim=-1)


def unproject(cameras: Cameras, uv: Tensor, z_depth: Tensor | float) -> Tensor:
    """World points (N, R, 3) of pixels uv (N or 1, R, 2), in picture sizes, at camera z `z_depth` (N or 1, R, 1)."""
    K = cameras.intrinsics[:, None]
    y = (uv[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    x = (uv[..., 0] - K[..., 0, 2] - K[..., 0, 1] * y) / K[..., 0, 0]
    plane = torch.stack([x, y], dim=-1)
    z_depth = torch.as_tensor(z_depth, dtype=plane.dtype, device=plane.device).expand(*plane.shape[:-1], 1)
    local = torch.cat([plane if cameras.orthographic else plane * z_depth, z_depth], dim=-1)
    return local @ cameras.cam2world[:, :3, :3].transpose(1, 2) + cameras.cam2world[:, None, :3, 3]


def camera_rays(cameras: Cameras, uv: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (N, R, 3) of the rays through pixels uv (N or 1, R, 2), in picture sizes.

    A pinhole's rays start at its centre, an orthographic camera's on its plane z = 0.
    """
    if cameras.orthographic:
        origins = unproject(cameras, uv, 0.0)
        directions = torch.nn.functional.normalize(cameras.cam2world[:, None, :3, 2], dim=-1).expand_as(origins)
        return origins, directions
    centers = cameras.cam2world[:, None, :3, 3]
    directions = torch.nn.functional.normalize(unproject(cameras, uv, 1.0) - centers, dim=-1)
    return centers.expand_as(directions), directions


def z_depth(cameras: Cameras, points: Tensor) -> Tensor:
    """Camera z (N, P, 1) of world points (N, P, 3)."""
    return ((points - cameras.cam2world[:, None, :3, 3]) * cameras.cam2world[:, None, :3, 2]).sum(-1, keepdim=True)


def jitter(depths: Tensor, u: Tensor) -> Tensor:
    """Depths (..., S), evenly spaced, each moved by (u - 0.5) spacings of its ray; u (..., S) in [0, 1), or what broadcasts to it. Not sorted again."""
    return depths + (u - 0.5) * (depths[..., 1:2] - depths[..., :1])


@torch.no_grad()
def importance(bins: Tensor, weights: Tensor, u: Tensor, eps: float = 1e-5) -> Tensor:
    """Depths (..., K), in the order of u, distributed as the weights (..., M) of the bins between edges (..., M + 1): the inverse CDF at u (..., K) in [0, 1].

    NeRF's hierarchical sampling (Mildenhall et al. 2020, section 5.2). `eps` is added to every weight, and a bin of less mass counts as one edge.
    """
    weights = weights + eps
    cdf = torch.cat([torch.zeros_like(weights[..., :1]), (weights / weights.sum(-1, keepdim=True)).cumsum(-1)], dim=-1)
    above = torch.searchsorted(cdf, u.contiguous())
    below, above = (above - 1).clamp(min=0), above.clamp(max=weights.shape[-1])
    low, mass = cdf.gather(-1, below), cdf.gather(-1, above) - cdf.gather(-1, below)
    start, end = bins.gather(-1, below), bins.gather(-1, above)
    return start + (u - low) / torch.where(mass < eps, 1.0, mass) * (end - start)
