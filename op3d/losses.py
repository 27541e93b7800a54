"""What OP3D's two players lose: adversarial terms on pictures and raw pictures, R1 on both, smoothness of the density (EG3D, section 4.3 and supplement).

    now = moment(config, images)
    fakes = fake(generator, z, swapped(labels, u, now.swap), labels, now, draws, noise)
    terms = generator_terms(discriminator, fakes, labels, now)              {"G/loss": (B, 1), "scores/fake": (B, 1)}
    (terms["G/loss"].mean() * gain).backward()

Every function gives its terms per sample; what is learned from is their mean.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from common.cameras import from_eg3d_label
from common.config import option
from common.layers.fir import filter2d, fir_kernel
from common.layers.stylegan2_blocks import Noise
from op3d.discriminator import filtered_resizing
from op3d.model import REGULAR, Draws, Generator
from op3d.schedules import blur_kernel, blur_sigma, neural_resolution, swap_probability

REGULARISERS = ("l1", "monotonic-detach", "monotonic-fixed", "none")
STEPS = 256                                                   # of the box's side: how far monotonic densities are compared

Augment = Callable[[Tensor], Tensor]                          # (B, 6, R, R) -> the same


@dataclass
class LossConfig:
    """The losses and their schedules, by the published flags."""

    gamma: float = option(1.0, "weight of the gradient penalty R1", low=0)
    dual_discrimination: bool = option(True, "the gradient penalty is on the raw pictures too")
    blur_init_sigma: float = option(10.0, "first blur of what the discriminator sees, pixels", low=0)
    blur_fade_kimg: float = option(200.0, "thousand images until the blur is gone", low=0)
    gpc_reg_prob: float | None = option(0.5, "how likely the mapping sees another sample's camera, in the end; none: it sees zeros")
    gpc_reg_fade_kimg: float = option(1000.0, "thousand images from always to that", low=0)
    neural_rendering_resolution_initial: int = option(64, "first rays along a side", low=1)
    neural_rendering_resolution_final: int | None = option(None, "last; none: no change")
    neural_rendering_resolution_fade_kimg: float = option(1000.0, "thousand images from the first to the last", low=0)
    density_reg: float = option(0.25, "weight of the density's smoothness", low=0)
    density_reg_p_dist: float = option(0.004, "distance over which densities are compared, world units", low=0)
    reg_type: str = option("l1", "smooth densities, and densities that grow along -z", choices=REGULARISERS)
    filter_mode: str = option("antialiased", "how real pictures become raw ones: antialiased, classic, none, or the share of antialiased")


@dataclass(frozen=True)
class Moment:
    """The schedules at a moment: rays along a side, blur in pixels, how likely cameras are swapped (None: the mapping sees zeros)."""

    side: int
    sigma: float
    swap: float | None


def moment(config: LossConfig, images: int) -> Moment:
    """The schedules after `images` seen."""
    side = neural_resolution(images, config.neural_rendering_resolution_initial, config.neural_rendering_resolution_final,
                             config.neural_rendering_resolution_fade_kimg)
    swap = None if config.gpc_reg_prob is None else swap_probability(images, config.gpc_reg_prob, config.gpc_reg_fade_kimg)
    return Moment(side, blur_sigma(images, config.blur_init_sigma, config.blur_fade_kimg), swap)


def swapped(labels: Tensor, u: Tensor, probability: float | None) -> Tensor:
    """The labels (B, L) that the mapping sees: the previous sample's where u (B, 1), or () for all, is below the probability; zeros for None."""
    return torch.zeros_like(labels) if probability is None else torch.where(u < probability, labels.roll(1, 0), labels)


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """Pictures (B, C, H, W) through `blur_kernel`."""
    taps = blur_kernel(sigma).to(pictures)
    return filter2d(pictures, taps) if len(taps) > 1 else pictures


# Pictures

@dataclass(frozen=True)
class Pair:
    """Pictures (B, 3, R, R) and raw ones (B, 3, n, n), both as the discriminator sees them."""

    image: Tensor
    raw: Tensor


def fake(generator: Generator, z: Tensor, seen: Tensor, labels: Tensor, now: Moment, draws: Draws = REGULAR, noise: Noise = "const",
         track: bool = False) -> Pair:
    """Generated pictures of latents z (B, Z) from the cameras `labels`, the mapping having `seen` other labels; `track`: move the average code."""
    w = generator.mapped(z, seen)
    if track:
        generator.backbone.mapping.track(w)
    ws = generator.backbone.mapping.truncated(w, generator.backbone.synthesis.count)
    pictures = generator.pictures(generator.scene(ws, noise), from_eg3d_label(labels), now.side, draws)
    return Pair(blurred(pictures["image"], now.sigma), pictures["image_raw"])


def real(pictures: Tensor, now: Moment, mode: str | float = "antialiased") -> Pair:
    """Real pictures (B, 3, R, R) and what their raw ones would be."""
    return Pair(blurred(pictures, now.sigma), blurred(filtered_resizing(pictures, now.side, fir_kernel().to(pictures), mode), now.sigma))


# Terms

def generator_terms(discriminator: nn.Module, fakes: Pair, labels: Tensor) -> dict[str, Tensor]:
    """"G/loss" softplus(-D(fake)) and "scores/fake", both (B, 1)."""
    logits = discriminator(fakes.image, fakes.raw, labels)
    return {"scores/fake": logits, "G/loss": softplus(-logits)}


def discriminator_terms(discriminator: nn.Module, fakes: Pair, reals: Pair, labels: Tensor, real_labels: Tensor) -> dict[str, Tensor]:
    """"D/loss" softplus(D(fake)) + softplus(-D(real)), "scores/fake" and "scores/real", all (B, 1)."""
    fake_logits = discriminator(fakes.image, fakes.raw, labels)
    real_logits = discriminator(reals.image, reals.raw, real_labels)
    return {"scores/fake": fake_logits, "scores/real": real_logits, "D/loss": softplus(fake_logits) + softplus(-real_logits)}


def r1_terms(discriminator: nn.Module, reals: Pair, labels: Tensor, gamma: float, both: bool = True) -> dict[str, Tensor]:
    """"r1_penalty" |dD / dimage|^2 + |dD / draw|^2 (B,), "D/reg" gamma / 2 of it, and "scores/real" (B, 1) (Mescheder et al. 2018).

    The gradients are those of what the discriminator gets, the blurred pictures; without `both` of the first alone.
    """
    inputs = [picture.detach().requires_grad_() for picture in (reals.image, reals.raw)]
    logits = discriminator(*inputs, labels)
    gradients = torch.autograd.grad(logits.sum(), inputs[:1 + both], create_graph=True)
    penalty = sum(gradient.square().sum(dim=(1, 2, 3)) for gradient in gradients)
    return {"scores/real": logits, "r1_penalty": penalty, "D/reg": penalty * (gamma / 2)}


def density_terms(generator: Generator, config: LossConfig, z: Tensor, seen: Tensor, points: Tensor, moves: Tensor, more_points: Tensor | None = None,
                  noise: Noise = "const") -> dict[str, Tensor]:
    """"l1": mean |density(p) - density(p + d)|, and for monotonic-* "monotonic_mean": mean relu(density(q) - density(q - step z)); scalars. "G/density" is
    what is learned from, density_reg l1 + 10 monotonic_mean.

    Arguments: latents and the labels that the mapping sees; uniforms of points p (B, P, 3), normals of d (B, P, 3), uniforms of points q (B, Q, 3).
    Points fill [-1, 1]^3 whatever the box, as published.
    """
    scene = generator.scene(generator.codes(z, seen), noise, mixed=True)
    density = lambda *points: generator.field(scene, torch.cat(points, dim=1))[0].chunk(len(points), dim=1)
    monotonic, step = config.reg_type.startswith("monotonic"), generator.config.box_warp / STEPS
    near = 2 * points - 1
    here, beside = density(near, near + moves * (step if monotonic else config.density_reg_p_dist))
    l1 = (here - beside).abs().mean()
    terms = {"l1": l1, "G/density": config.density_reg * l1}
    if monotonic:
        front = 2 * more_points - 1
        before, behind = density(front, front - front.new_tensor([0.0, 0.0, step]))
        rise = relu((before.detach() if config.reg_type == "monotonic-detach" else before) - behind).mean()
        terms |= {"monotonic_mean": rise, "G/density": terms["G/density"] + 10 * rise}
    return terms


def augmented(pair: Pair, augment: Augment) -> Pair:
    """Both pictures of a pair under the same augmentation: the raw ones at the pictures' size, and back."""
    side, small = pair.image.shape[-1], pair.raw.shape[-1]
    joined = torch.cat([pair.image, filtered_resizing(pair.raw, side, fir_kernel().to(pair.raw))], dim=1)
    image, raw = augment(joined).chunk(2, dim=1)
    return Pair(image, filtered_resizing(raw, small, fir_kernel().to(raw)))
