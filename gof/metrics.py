"""Weighted variance: how far along a ray the light that makes its colour is spread (GOF, sec. 4; specification 4.2); low where a surface is thin.

Reported is 1e4 times the mean over pictures of the mean over their opaque rays, of 1,000 codes at 128 px, psi 0.7, cameras drawn as in training.
"""
from __future__ import annotations

import torch
from torch import Tensor

from common.chunks import in_chunks
from common.march import Density, March, alphas_of, search_surface
from common.volume import composite

SAMPLES = 36                                                 # on a ray, regular; a variance compares only with those of as many
OPAQUE = 0.99
SCALE = 1e4
RAYS = 2048


@torch.no_grad()
def depth_spread(density: Density, origins: Tensor, directions: Tensor, options: March, cut: float,
                 samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """The variance of depth along rays (B, R, 3) and their opacity, (B, R) each.

    Where the options search for a surface, what lies more than `cut` (GOF: half of interval_max) before it does not count, so that a haze does not.
    """
    def spread(origins: Tensor, directions: Tensor) -> dict[str, Tensor]:
        depths = torch.linspace(options.near, options.far, samples, dtype=origins.dtype, device=origins.device).expand(*origins.shape[:2], -1)
        at = lambda depths: density((origins[:, :, None] + directions[:, :, None] * depths[..., None]).flatten(1, 2)).view(depths.shape)
        logits = at(depths)
        before = search_surface(at, logits, depths, options)["surface_depth"][..., None] - cut if options.surface else None
        return spread_of(alphas_of(logits, depths, options), depths, before)

    return tuple(in_chunks(spread, origins, directions, chunk=RAYS, axis=1).values())


def spread_of(alphas: Tensor, depths: Tensor, before: Tensor | None = None) -> dict[str, Tensor]:
    """{"depth_variance", "opacity"} (...) of samples' opacities and depths (..., S); those at depths up to `before` (..., 1) do not count."""
    if before is not None:
        alphas = torch.where(depths <= before, 0, alphas)
    seen = composite(alphas, depths[..., None], depths)
    return {name: seen[name] for name in ("depth_variance", "opacity")}


def weighted_variance(variances: Tensor, opacities: Tensor, least: float = OPAQUE) -> Tensor:
    """The mean variance (B,) of each picture's rays (B, R) whose opacity is above `least`, not yet scaled; NaN for a picture without such rays.

    The release lets one such picture turn the whole figure to NaN; `torch.nanmean` of these leaves it out.
    """
    opaque = opacities > least
    return torch.where(opaque, variances, 0).sum(1) / opaque.sum(1)
