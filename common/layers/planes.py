"""Features in planes: tri-planes (EG3D, Chan et al., CVPR 2022, section 3.2) and ortho-planes, K of them along each axis (OrthoPlanes, He et al., ICCV 2023).

    planes (B, K, 3 C, H, W)     channel g C + c of plane k is feature c of group g; a group's K planes stack into a volume (K, H, W)
    taps = orthoplane_taps(points, planes.shape, scales(box))              which pixels every point reads, and how much of each
    features = read(planes, taps)                                          (B, P, C), the mean of the three groups

    group  W H K (ortho-planes)     tri-planes, right axes     EG3D's, whose third repeats the second
    0      x y z                    x y                        x y
    1      y z x                    y z                        x z
    2      z x y                    z x                        z x

Reading is one weighted sum of rows of a table (H W K 3, C): fastest where `planes` is stored with its channels last, as `to_planes` of op3d makes them.
"""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ORTHO_AXES = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
RIGHT_AXES, EG3D_AXES = ((0, 1), (1, 2), (2, 0)), ((0, 1), (0, 2), (2, 0))


class Taps(NamedTuple):
    """Rows (B, P, 3, n) of the table of all scenes' planes, and their weights (B, P, 3, n)."""

    rows: Tensor
    weights: Tensor


def plane_encoding(count: int, power: int) -> Tensor:
    """Positions d of K planes, linspace(-1, 1), and their frequencies: (K, 2L + 1) of d, cos(pi d), sin(pi d), ..., cos(2^(L-1) pi d), sin(2^(L-1) pi d).

    L = 0 is the linear variant, L > 0 the frequency variant (OrthoPlanes, section 3.2).
    """
    d = torch.linspace(-1, 1, count)[:, None]
    angles = [2.0**level * math.pi * d for level in range(power)]
    return torch.cat([d, *(wave for angle in angles for wave in (angle.cos(), angle.sin()))], dim=1)


def scales(box: float, published: bool = False) -> tuple[float, float, float]:
    """What takes world points within a cube of side `box` to [-1, 1] in each group. The release scales the first group alone."""
    return (2 / box, 1.0, 1.0) if published else (2 / box,) * 3


def orthoplane_taps(points: Tensor, shape: torch.Size, scale: tuple[float, float, float], border: bool = False) -> Taps:
    """Trilinear taps, eight of every group, of points (B, P, 3) times `scale` of the group, in planes of `shape` (B, K, 3 C, H, W).

    Pixels have their centres within [-1, 1] (align_corners False) and fade to zero outside; with `border` the outer ones lie on +-1 and go on outside.
    """
    _, count, _, height, width = shape
    rows, weights = [], []
    for group, axes in enumerate(ORTHO_AXES):
        u, v, n = (points[..., axis] * scale[group] for axis in axes)
        (x, wx), (y, wy), (k, wk) = _line(u, width, border), _line(v, height, border), _line(n, count, border)
        row = (y[..., :, None] * width + x[..., None, :])[..., None] * count + k[..., None, None, :]
        rows.append((row * 3 + group).flatten(-3))
        weights.append(((wy[..., :, None] * wx[..., None, :])[..., None] * wk[..., None, None, :]).flatten(-3))
    return _of_scenes(rows, weights, height * width * count * 3)


def triplane_taps(points: Tensor, shape: torch.Size, scale: float, axes: tuple[tuple[int, int], ...] = RIGHT_AXES) -> Taps:
    """Bilinear taps, four of every plane, of points (B, P, 3) times `scale`, projected along `axes` onto planes of `shape` (B, 1, 3 C, H, W)."""
    height, width = shape[-2:]
    rows, weights = [], []
    for group, (u, v) in enumerate(axes):
        (x, wx), (y, wy) = _line(points[..., u] * scale, width, False), _line(points[..., v] * scale, height, False)
        rows.append(((y[..., :, None] * width + x[..., None, :]) * 3 + group).flatten(-2))
        weights.append((wy[..., :, None] * wx[..., None, :]).flatten(-2))
    return _of_scenes(rows, weights, height * width * 3)


def _line(coordinate: Tensor, size: int, border: bool) -> tuple[Tensor, Tensor]:
    """The two pixels (..., 2) beside a coordinate (...) on an axis of `size`, and their weights (..., 2)."""
    place = (coordinate + 1) * ((size - 1) / 2) if border else ((coordinate + 1) * size - 1) / 2
    low = place.detach().floor()
    share = place - low
    index, weights = torch.stack([low, low + 1], dim=-1), torch.stack([1 - share, share], dim=-1)
    if not border:
        weights = weights * ((index >= 0) & (index < size))
    return index.clamp(0, size - 1).long(), weights


def _of_scenes(rows: list[Tensor], weights: list[Tensor], size: int) -> Taps:
    joined = torch.stack(rows, dim=2)
    return Taps(joined + size * torch.arange(len(joined), device=joined.device)[:, None, None, None], torch.stack(weights, dim=2))


def read(planes: Tensor, taps: Taps, mean: bool = True, twice: bool = False) -> Tensor:
    """Features (B, P, C), the mean of the three groups, or (B, 3, P, C) without `mean`. With `twice` it can be differentiated twice, and is slower."""
    table = planes.permute(0, 3, 4, 1, 2).reshape(-1, planes.shape[2] // 3)
    rows, weights = (taps.rows.flatten(2), taps.weights.flatten(2) / 3) if mean else taps
    shape, rows, weights = rows.shape[:-1], rows.flatten(0, -2), weights.flatten(0, -2)
    if twice:
        features = (F.embedding(rows, table) * weights[..., None]).sum(-2)
    else:
        features = F.embedding_bag(rows, table, per_sample_weights=weights.to(table.dtype), mode="sum")
    features = features.unflatten(0, shape)
    return features if mean else features.transpose(1, 2)
