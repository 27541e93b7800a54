"""Where cameras stand: the distributions that GANs on unposed pictures assume (pi-GAN's `sample_dist`).

    angles = draw_angles("gaussian", n, h_mean, h_stddev, v_mean, v_stddev, generator)          (n, 2) [pitch, yaw], see ``common.cameras``

h is the yaw, v the pitch. `place` is the mathematics, a pure function of given draws.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

from common.cameras import POLE
from common.errors import InputError

DISTRIBUTIONS = ("gaussian", "normal", "uniform", "spherical_uniform", "truncated_gaussian", "hybrid", "mean")
CANDIDATES, BOUND = 4, 2.0                                    # of the truncated normal: draws tried, and their bound


def draw_angles(distribution: str, n: int, h_mean: float, h_stddev: float, v_mean: float, v_stddev: float,
                generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Tensor:
    """[pitch, yaw] (n, 2) of n cameras, radians, pitch held off the poles. Raises InputError for an unknown distribution.

    gaussian, normal   mean + stddev N(0, 1)               truncated_gaussian   the same within two stddevs
    uniform            mean +- stddev                      hybrid               uniform of twice the width or gaussian, by a coin per camera
    spherical_uniform  yaw uniform, pitch such that equal parts of the sphere are equally likely       mean   no spread
    """
    if distribution not in DISTRIBUTIONS:
        raise InputError(f"--sample_dist: no distribution {distribution!r}; expected one of {', '.join(DISTRIBUTIONS)}")
    normals = torch.randn(n, 2, CANDIDATES, generator=generator, device=device)
    uniforms, coins = torch.rand(n, 2, generator=generator, device=device), torch.rand(n, 1, generator=generator, device=device) < 0.5
    where = h_mean, h_stddev, v_mean, v_stddev
    if distribution == "hybrid":
        return torch.where(coins, place("uniform", uniforms, h_mean, 2 * h_stddev, v_mean, 2 * v_stddev), place("gaussian", normals[..., 0], *where))
    if distribution == "truncated_gaussian":
        return place("gaussian", truncated(normals), *where)
    return place(distribution, uniforms if "uniform" in distribution else normals[..., 0], *where)


def place(distribution: str, draws: Tensor, h_mean: float, h_stddev: float, v_mean: float, v_stddev: float) -> Tensor:
    """[pitch, yaw] (n, 2) of draws for [pitch, yaw] (n, 2): standard normals for gaussian and normal, uniforms in [0, 1) for the uniform ones."""
    mean, spread = draws.new_tensor([v_mean, h_mean]), draws.new_tensor([v_stddev, h_stddev])
    if distribution in ("gaussian", "normal"):
        angles = mean + spread * draws
    elif distribution in ("uniform", "spherical_uniform"):
        angles = mean + (2 * draws - 1) * spread
    else:
        assert distribution == "mean", distribution
        angles = mean.expand(len(draws), 2)
    pitch, yaw = angles.unbind(-1)
    if distribution == "spherical_uniform":                   # v is the share of the sphere above, the cosine of the pitch runs evenly
        pitch = torch.acos(1 - 2 * (pitch / math.pi).clamp(POLE, 1 - POLE))
    return torch.stack([pitch.clamp(POLE, math.pi - POLE), yaw], dim=-1)


def truncated(candidates: Tensor, bound: float = BOUND) -> Tensor:
    """The first of the standard normals (..., K) within +-bound, or the first of all if none is: (...)."""
    first = (candidates.abs() < bound).int().argmax(dim=-1, keepdim=True)
    return candidates.gather(-1, first)[..., 0]


def estimate(angles: Tensor) -> dict[str, float]:
    """The gaussian's {"h_mean", "h_stddev", "v_mean", "v_stddev"} of measured [pitch, yaw] (n, 2), n >= 2; the mean yaw is taken on the circle."""
    pitch, yaw = angles.double().unbind(-1)
    h_mean = torch.atan2(yaw.sin().mean(), yaw.cos().mean())
    apart = torch.remainder(yaw - h_mean + math.pi, 2 * math.pi) - math.pi
    return {"h_mean": float(h_mean), "h_stddev": float(apart.square().mean().sqrt()), "v_mean": float(pitch.mean()), "v_stddev": float(pitch.std(correction=0))}
