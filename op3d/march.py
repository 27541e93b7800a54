"""EG3D's way along a ray: stratified samples, more of them where the first weights are, compositing between samples (EG3D, supplement, section 2).

    near, far = filled(*box_limits(origins, directions, side))
    depths = stratified(near, far, 48, u)
    weights = composite(colors, densities, depths)["weights"]
    depths = fine_depths(depths, weights, u)

Rays (..., R), samples (..., R, S) in ascending depth, a distance along unit directions. A segment between two samples takes the mean of their densities and
colours; density is softplus(raw - 1). u are uniforms in [0, 1), None for the middles.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d, pad, softplus

from common.rays import importance
from common.volume import weights_of

MISSED = (-1.0, -2.0)                                         # near and far of a ray that misses the box


def box_limits(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """near, far (...): where rays (..., 3) enter and leave the cube of `side` about the origin, (-1, -2) where they miss it."""
    sign = torch.where(directions < 0, -1.0, 1.0)
    enter, leave = (-sign * side / 2 - origins) / directions, (sign * side / 2 - origins) / directions
    near, far = enter.amax(-1), leave.amin(-1)
    hit = near <= far
    return torch.where(hit, near, MISSED[0]), torch.where(hit, far, MISSED[1])


def filled(near: Tensor, far: Tensor, published: bool = False) -> tuple[Tensor, Tensor]:
    """The limits with those of rays that missed replaced by the widest of the others, if there are any.

    published: the release ends such rays at the largest near.
    """
    hit = near <= far
    if not hit.any():
        return near, far
    return torch.where(hit, near, near[hit].min()), torch.where(hit, far, (near if published else far)[hit].max())


def spaced(near: Tensor, far: Tensor, count: int) -> Tensor:
    """Depths (..., S) evenly from near (...) to far (...)."""
    return near[..., None] + torch.linspace(0, 1, count, dtype=near.dtype, device=near.device) * (far - near)[..., None]


def stratified(near: Tensor, far: Tensor, count: int, u: Tensor | None = None, disparity: bool = False) -> Tensor:
    """Depths (..., S) of rays with limits (...): evenly spaced ones, each moved by u of a spacing, the last beyond far; with `disparity` even in 1 / depth."""
    u = 0.5 if u is None else u
    if disparity:
        t = (torch.arange(count, dtype=near.dtype, device=near.device) + u) / (count - 1)
        return 1 / ((1 - t) / near[..., None] + t / far[..., None])
    return spaced(near, far, count) + u * ((far - near) / (count - 1))[..., None]


def fine_depths(depths: Tensor, weights: Tensor, count: int, u: Tensor | None = None) -> Tensor:
    """Depths (..., K), unsorted, drawn where smoothed weights are large; u (..., K).

    weights (..., S - 1) of the segments between depths (..., S), or (..., S) of the samples. The last bin is never drawn from, as published.
    """
    shape = weights.shape
    smooth = max_pool1d(weights.detach().reshape(-1, 1, shape[-1]), 2, stride=1, padding=1)
    smooth = avg_pool1d(smooth, 2, stride=1).view(shape) + 0.01
    middles = (depths[..., 1:] + depths[..., :-1]) / 2
    if u is None:
        u = (torch.arange(count, dtype=depths.dtype, device=depths.device) + 0.5) / count
    return importance(middles.contiguous(), smooth[..., 1:-1], u.expand(*depths.shape[:-1], count))


def merged(depths: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of depths (..., S) and (..., K) in ascending order, and the place (..., S + K) that each has in their concatenation."""
    return torch.cat([depths, more], dim=-1).sort(dim=-1)


def ordered(values: Tensor, more: Tensor, order: Tensor) -> Tensor:
    """What samples (..., S, C) and (..., K, C) have, in the order of `merged`."""
    joined = torch.cat([values, more], dim=-2)
    return joined.gather(-2, order[..., None].expand(*order.shape, joined.shape[-1]))


def composite(colors: Tensor, densities: Tensor, depths: Tensor, white_back: bool = False, order: Tensor | None = None) -> dict[str, Tensor]:
    """colors (..., C) in [-1, 1], depth (...), weights (..., S - 1) and their sum, opacity (...), of colors (..., S, C), raw densities and depths (..., S).

    `order` says which of the colors each of the sorted samples has; sorted weights are cheaper than sorted colours. depth is NaN where nothing is.
    """
    steps, middles = depths[..., 1:] - depths[..., :-1], (depths[..., 1:] + depths[..., :-1]) / 2
    weights = weights_of(1 - torch.exp(-softplus((densities[..., 1:] + densities[..., :-1]) / 2 - 1) * steps))
    opacity = weights.sum(-1)
    shares = (pad(weights, (0, 1)) + pad(weights, (1, 0))) / 2                # a segment's weight goes to both its ends
    if order is not None:
        shares = torch.zeros_like(shares).scatter(-1, order, shares)
    seen = (shares[..., None, :] @ colors)[..., 0, :]
    if white_back:
        seen = seen + (1 - opacity)[..., None]
    return {"colors": 2 * seen - 1, "depth": (weights * middles).sum(-1) / opacity, "weights": weights, "opacity": opacity}


def clamped(depth: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Depths held within the range of all samples of the batch; the far end where nothing is."""
    return depth.nan_to_num(nan=torch.inf).clamp(low.min(), high.max())
