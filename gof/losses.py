"""What GOF's two players lose: fakes of one part of a batch, the discriminator's and the generator's terms, the priors on the field.

The release computes two priors otherwise than the paper describes them (its opacity prior reads the red channel, its normal loss compares the x and y
components of each normal); the described ones are the default, the released ones named options.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from common.cameras import pigan_cameras
from common.config import option
from common.gan import discriminator_loss, generator_loss, r1_penalty, top_k
from common.march import Draws, March
from common.rays import pixel_grid
from gof.model import Generator, see

OPACITY_OFFSET = 2.20727                                      # makes the prior 0 at occupancies 0 and 1


@dataclass
class Weights:
    """The weights of the losses."""

    r1_lambda: float = option(1.0, "weight of the discriminator's gradient penalty on real pictures", low=0)
    z_lambda: float = option(0.0, "weight of the code that the discriminator reads off fakes", low=0)
    pos_lambda: float = option(15.0, "weight of the camera that the discriminator reads off fakes", low=0)
    normal_lambda: float = option(0.05, "weight of the smoothness of surface normals; 0: none", low=0)
    h_sample: float = option(0.01, "distance, world units, over which normals are compared", low=0)
    with_opacprior: bool = option(True, "the prior that makes occupancies 0 or 1")
    published_opacity_prior: bool = option(False, "the release's defect: the opacity prior reads the red channel")
    published_normal_loss: bool = option(False, "the release's defect: the normal loss compares the x and y of each normal")


@dataclass(frozen=True)
class Fakes:
    """Generated pictures (B, 3, n, n) in [-1, 1], their latents (B, Z), cameras [pitch, yaw] (B, 2), and what `gof.model.see` gave of their rays."""

    pictures: Tensor
    z: Tensor
    angles: Tensor
    seen: dict[str, Tensor]
    normals: Tensor | None = None                             # (B, R, 2, 3) at the surface and beside it


def fake(generator: Generator, z: Tensor, angles: Tensor, side: int, march_by: March, draws: Draws, neighbours: Tensor | None = None,
         distance: float = 0.0) -> Fakes:
    """Pictures of latents z (B, Z) from cameras [pitch, yaw] (B, 2); with uniforms `neighbours` (B, R, 3) also normals, `distance` apart."""
    scene = generator.scene(generator.codes(z))
    cameras = pigan_cameras(angles, generator.config.fov, side)
    seen = see(generator, scene, cameras, pixel_grid(side, side, z.device)[None], march_by, draws)
    pictures = 2 * seen["colors"].transpose(1, 2).unflatten(2, (side, side)) - 1
    normals = None
    if neighbours is not None:
        surface = seen["origins"] + seen["directions"] * seen["surface_depth"][..., None]
        both = torch.cat([surface, neighbours_of(surface, neighbours, distance)], dim=1)
        normals = generator.siren.normals(scene, both, create_graph=True).unflatten(1, (2, -1)).transpose(1, 2)
    return Fakes(pictures, z, angles, seen, normals)


def discriminator_losses(discriminator: nn.Module, weights: Weights, reals: Tensor, fakes: Fakes, alpha: float, r1_scale: float = 1.0,
                         with_r1: float = 1.0) -> dict[str, Tensor]:
    """{"D/adversarial", "D/r1", "D/identity"} of reals (B, 3, n, n) and fakes; `r1_scale` is the gradient scaler's, `with_r1` a factor, 0 for none."""
    reals = reals.requires_grad_(with_r1 > 0)
    real_logits = discriminator(reals, alpha)[0]
    fake_logits, latent, angles = discriminator(fakes.pictures.detach(), alpha)
    losses = {"D/adversarial": discriminator_loss(real_logits.float(), fake_logits.float())}
    if with_r1 and weights.r1_lambda:
        losses["D/r1"] = with_r1 * 0.5 * weights.r1_lambda * r1_penalty(real_logits, reals, r1_scale)
    return losses | {"D/identity": identity(weights, fakes, latent, angles)}


def generator_losses(discriminator: nn.Module, weights: Weights, fakes: Fakes, alpha: float, topk_share: float, opacity_weight: float) -> dict[str, Tensor]:
    """{"G/adversarial", "G/identity", "G/normal", "G/opacity"}: the logits of the best `topk_share` of the fakes, and the priors."""
    logits, latent, angles = discriminator(fakes.pictures, alpha)
    losses = {"G/adversarial": generator_loss(top_k(logits.float(), topk_share)), "G/identity": identity(weights, fakes, latent, angles)}
    if fakes.normals is not None:
        losses["G/normal"] = weights.normal_lambda * normal_smoothness(*fakes.normals.unbind(2), fakes.seen["hit"], weights.published_normal_loss)
    if opacity_weight:
        read = fakes.seen["sample_colors"][..., 0] if weights.published_opacity_prior else fakes.seen["logits"]
        losses["G/opacity"] = opacity_weight * opacity_prior(read.sigmoid())
    return losses


def identity(weights: Weights, fakes: Fakes, latent: Tensor | None, angles: Tensor | None) -> Tensor:
    """How far the code and the camera that the discriminator read off the fakes are from theirs; 0 for one that reads none."""
    loss = fakes.pictures.new_zeros(())
    if latent is not None and weights.z_lambda:
        loss = loss + weights.z_lambda * mse_loss(latent.float(), fakes.z)
    if angles is not None and weights.pos_lambda:
        loss = loss + weights.pos_lambda * mse_loss(angles.float(), fakes.angles)
    return loss


# Priors on the field

def opacity_prior(occupancies: Tensor) -> Tensor:
    """Mean of log(0.1 + o) + log(1.1 - o) + 2.20727: 0 where o is 0 or 1, 1.1856 where it is undecided (GOF eq. 9)."""
    return (torch.log(0.1 + occupancies) + torch.log(1.1 - occupancies)).mean() + OPACITY_OFFSET


def normal_smoothness(normals: Tensor, neighbours: Tensor, hit: Tensor, published: bool = False) -> Tensor:
    """Mean squared difference of the normals (B, R, 3) of surface points and of points close by, over the rays that hit (B, R) (GOF eq. 10); 0 without one.

    published: the released form, the mean of (n_x - n_y)^2 over both.
    """
    share = hit[..., None] / (3 * hit.sum()).clamp_min(1)     # no gather by mask: one shape, whatever hits
    if published:
        return 1.5 * (share[..., 0] * sum((n[..., 0] - n[..., 1]).square() for n in (normals, neighbours))).sum()
    return (share * (normals - neighbours).square()).sum()


def neighbours_of(points: Tensor, uniforms: Tensor, distance: float) -> Tensor:
    """Points (B, R, 3) at `distance` from points (B, R, 3), in the directions of uniforms (B, R, 3) about the middle of their cube."""
    away = uniforms - 0.5
    return points + distance * away / away.norm(dim=-1, keepdim=True)
