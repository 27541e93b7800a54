"""Samples along rays to what a pixel sees: opacities, weights, colour, depth and its spread.

    alpha_i = sigmoid(logit_i)  (occupancy)    or    1 - exp(-(t_{i+1} - t_i) act(density_i))  (density; Max 1995, NeRF)
    w_i = alpha_i prod_{j<i} (1 - alpha_j),    W = sum_i w_i,    colour = sum_i w_i c_i,    depth = sum_i w_i t_i / W

Samples (..., S) run along the ray in ascending depth (distance along the unit direction).
"""
from __future__ import annotations

import torch
from torch import Tensor

from common import kernels

BEYOND = 1e10                                                # thickness of the last sample: whatever density it has is opaque
EPS = 1e-10                                                  # added to each transmittance, as published
ACTIVATIONS = {"relu": torch.relu, "softplus": torch.nn.functional.softplus}


def occupancy_alphas(logits: Tensor) -> Tensor:
    """Opacities sigmoid(logit), whatever the step's length (GOF, sec. 3.2)."""
    return logits.sigmoid()


def density_alphas(densities: Tensor, depths: Tensor, activation: str = "relu", noise: Tensor | float = 0.0) -> Tensor:
    """Opacities (..., S) of raw densities (..., S) at depths (..., S); `noise` is added to the raw densities; activation: relu or softplus."""
    steps = torch.cat([depths[..., 1:] - depths[..., :-1], torch.full_like(depths[..., :1], BEYOND)], dim=-1)
    return 1 - torch.exp(-steps * ACTIVATIONS[activation](densities + noise))


def weights_of(alphas: Tensor) -> Tensor:
    """Weights (..., S): the opacity of each sample times the transmittance of those before it."""
    passed = torch.cat([torch.ones_like(alphas[..., :1]), 1 - alphas[..., :-1] + EPS], dim=-1).cumprod(dim=-1)
    return alphas * passed


def accumulate(alphas: Tensor, colors: Tensor, depths: Tensor, last_back: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights (..., S), sum w c (..., C), sum w t (...) and opacity (...): sum w before last_back gives the last sample what light is left."""
    weights = weights_of(alphas)
    opacity = weights.sum(-1)
    if last_back:
        weights = torch.cat([weights[..., :-1], weights[..., -1:] + (1 - opacity)[..., None]], dim=-1)
    return weights, (weights[..., None] * colors).sum(-2), (weights * depths).sum(-1), opacity


def composite(alphas: Tensor, colors: Tensor, depths: Tensor, last_back: bool = False, white_back: bool = False,
              fill_mode: str | None = None, published_depth: bool = False) -> dict[str, Tensor]:
    """What rays see: colors (..., C), depth (...), depth_sum (...), depth_variance (...), weights (..., S), opacity (...).

    Arguments: opacities (..., S), colors (..., S, C), depths (..., S). last_back gives the last sample what light is left; white_back puts white behind;
    fill_mode "debug" paints red where opacity < 0.9, "weight" shows the opacity. depth is sum w t / (W + 1e-5) with W the sum of the weights used;
    with published_depth the sum before last_back, as released. depth_sum is pi-GAN's sum w t; the variance carries Bessel's factor (S - 1) / S.
    On a GPU fused, and then differentiable once.
    """
    sums = kernels.accumulate if kernels.usable(alphas) else accumulate
    weights, seen, depth_sum, opacity = sums(alphas, colors, depths, last_back)
    if white_back:
        seen = seen + (1 - opacity)[..., None]
    if fill_mode == "debug":
        seen = torch.where(opacity[..., None] < 0.9, seen.new_tensor([1.0, 0.0, 0.0]), seen)
    elif fill_mode == "weight":
        seen = opacity[..., None].expand_as(seen)
    mass = (opacity if published_depth else weights.sum(-1)) + 1e-5
    depth = depth_sum / mass
    count = depths.shape[-1]
    variance = (weights * (depths - depth[..., None]).square()).sum(-1) / (mass * (count - 1) / count)
    return {"colors": seen, "depth": depth, "depth_sum": depth_sum, "depth_variance": variance, "weights": weights, "opacity": opacity}
