"""What OP3D's training changes as it goes: functions of the images seen (EG3D, section 5 and supplement; StyleGAN2-ADA for the last three)."""
from __future__ import annotations

import math

import torch
from torch import Tensor


def swap_probability(images: int, final: float, fade_kimg: float) -> float:
    """How likely the mapping sees another sample's camera: from 1, evenly to `final` over the first `fade_kimg` thousand images."""
    share = min(images / (fade_kimg * 1e3), 1) if fade_kimg > 0 else 1
    return (1 - share) + share * final


def neural_resolution(images: int, initial: int, final: int | None, fade_kimg: float) -> int:
    """Rays along a side: from `initial` evenly to `final` (None: no change)."""
    if final is None:
        return initial
    share = min(images / (fade_kimg * 1e3), 1) if fade_kimg > 0 else 1
    return round(initial * (1 - share) + final * share)


def blur_sigma(images: int, initial: float, fade_kimg: float) -> float:
    """Blur of what the discriminator sees, pixels: from `initial` evenly to 0."""
    return max(1 - images / (fade_kimg * 1e3), 0) * initial if fade_kimg > 0 else 0.0


def blur_kernel(sigma: float) -> Tensor:
    """The taps (2 floor(3 sigma) + 1,) exp2(-(t / sigma)^2), which sum to 1; one tap, no blur, for sigma below 1/3."""
    reach = math.floor(3 * sigma)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float32).div(sigma or 1).square().neg().exp2()
    return taps / taps.sum()


def ema_beta(images: int, batch: int, kimg: float, rampup: float | None = 0.05) -> float:
    """How much of the averaged weights stays at a step: half a life of `kimg` thousand images, or of `rampup` of the images seen if that is less."""
    life = kimg * 1e3 if rampup is None else min(kimg * 1e3, images * rampup)
    return 0.5 ** (batch / max(life, 1e-8))


def lazy(rate: float, betas: tuple[float, float], interval: int) -> dict:
    """Adam's options for a network whose penalty comes once in `interval` steps, as another step (StyleGAN2, appendix B)."""
    share = interval / (interval + 1)
    return {"lr": rate * share, "betas": tuple(beta**share for beta in betas)}


def next_probability(p: float, sign: float, target: float, batch: int, interval: int, kimg: float) -> float:
    """The augmentation's probability after an adjustment, every `interval` batches: up where the mean `sign` of D(real) is above target, else down."""
    step = batch * interval / (kimg * 1e3)
    return max(p + float((sign > target) - (sign < target)) * step, 0.0)
