"""Region-aware learning, the decoder's side: square patches of rays at a random scale and place, and the same crop of the target (paper, sec. 3.3; GRAF).

A pattern (B, V, V, 2) holds (x, y) in [-1, 1] of a picture whose border pixels have their centres at -1 and 1. Patches begin as wide as the picture and may
become finer as training goes on.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from common.cameras import Cameras
from common.rays import camera_rays, pixel_grid

WIDEST_LEAST = 0.9                                            # the least scale never exceeds it


def least_scale(step: int, anneal: float, low: float, high: float) -> float:
    """The smallest scale that a patch may have at a step: it falls from 0.9 to `low`, at once without anneal."""
    return min(WIDEST_LEAST, max(low, high * math.exp(-3 * (step // 1000) * anneal)) if anneal > 0 else low)


def scales_of(u: Tensor, least: float, most: float) -> Tensor:
    """Scales of uniforms u: even between the least and the most."""
    return least + u * (most - least)


def free_shifts(u: Tensor, scales: Tensor) -> Tensor:
    """Shifts (B, 2) of uniforms u (B, 2), x and y on their own: anywhere within the picture."""
    return (2 * u - 1) * (1 - scales)[:, None]


def diagonal_shifts(u: Tensor, signs: Tensor, scales: Tensor) -> Tensor:
    """The published shifts (B, 2) along the main diagonal alone: uniforms u () or (B,) times the room left, in the directions of signs (B,) 0 or 1."""
    return ((2 * signs - 1) * u * (1 - scales))[:, None].expand(-1, 2)


def pattern(side: int, scales: Tensor, shifts: Tensor | float = 0.0) -> Tensor:
    """The grid (B, side, side, 2) of patches of scales (B,) shifted by (B, 2)."""
    line = torch.linspace(-1, 1, side, dtype=scales.dtype, device=scales.device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    shifts = torch.as_tensor(shifts, dtype=scales.dtype, device=scales.device).expand(len(scales), 2)
    return grid * scales[:, None, None, None] + shifts[:, None, None]


def crop(pictures: Tensor, grid: Tensor) -> Tensor:
    """Pictures (B, C, H, W) at a pattern (B, V, V, 2), bilinear: (B, C, V, V)."""
    return grid_sample(pictures, grid.to(pictures), mode="bilinear", padding_mode="zeros", align_corners=True)


def patch_rays(cameras: Cameras, side: int, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and directions (B, V * V, 3) of a pattern's rays, cropped from those of the whole side x side pictures just as the targets are.

    Between pixels directions are interpolated and so a hair shorter than 1, as published.
    """
    origins, directions = whole_rays(cameras, side)
    patches = crop(directions.transpose(1, 2).unflatten(2, (side, side)), grid).flatten(2).transpose(1, 2)
    return origins[:, :1].expand_as(patches), patches


def whole_rays(cameras: Cameras, side: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (B, side * side, 3) of whole pictures."""
    return camera_rays(cameras, pixel_grid(side, side, cameras.cam2world.device, cameras.cam2world.dtype)[None])
