"""What Sem2NeRF's encoder loses, and its discriminator (paper, sec. 3.4).

Terms are means over the batch, before their weights. Samples seen from a random camera have no target: they lose no l2, l1 and lpips, and count as 0 there.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.config import option
from common.gan import generator_loss, r1_penalty
from sem2nerf.discriminator import PatchDiscriminator

R1_WEIGHT = 10.0


@dataclass
class Weights:
    """The weights of the losses."""

    l2_lambda: float = option(1.0, "weight of the mean squared difference from the target", low=0)
    l1_lambda: float = option(0.0, "weight of the mean absolute difference", low=0)
    lpips_lambda: float = option(0.8, "weight of the perceptual distance, --lpips", low=0)
    w_norm_lambda: float = option(0.005, "weight of the codes' distance from the average code", low=0)
    dis_lambda: float = option(0.08, "weight of the discriminator's opinion, and of its own losses; 0: no discriminator", low=0)


def code_norm(codes: tuple[Tensor, Tensor], average: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Mean over B of the length of codes, frequencies and phases (B, T), less the average code (1, T) each."""
    offsets = codes if average is None else [code - mean for code, mean in zip(codes, average)]
    return torch.cat(list(offsets), dim=1).norm(dim=1).mean()


def picture_terms(pictures: Tensor, targets: Tensor, weights: Weights, distance: nn.Module | None, posed: Tensor | None = None) -> dict[str, Tensor]:
    """{"loss_l2", "loss_l1", "loss_lpips"} of the terms with a weight, for pictures and targets (B, 3, S, S); only samples `posed` (B,) bool count."""
    terms = {
        "loss_l2": (weights.l2_lambda, lambda x, y: (x - y).square().mean(dim=(1, 2, 3))),
        "loss_l1": (weights.l1_lambda, lambda x, y: (x - y).abs().mean(dim=(1, 2, 3))),
        "loss_lpips": (weights.lpips_lambda, distance),
    }
    count = len(pictures)
    if posed is not None:
        pictures, targets = pictures[posed], targets[posed]
    mean = lambda term: term(pictures, targets).sum() / count if len(pictures) else pictures.sum()
    return {name: mean(term) for name, (weight, term) in terms.items() if weight}


def generator_terms(pictures: Tensor, targets: Tensor, codes: tuple[Tensor, Tensor], average: tuple[Tensor, Tensor] | None, weights: Weights,
                    distance: nn.Module | None, discriminator: PatchDiscriminator | None = None, planes: Tensor | None = None,
                    posed: Tensor | None = None) -> dict[str, Tensor]:
    """All terms of the encoder; `planes` is the condition of a conditional discriminator."""
    terms = picture_terms(pictures, targets, weights, distance, posed)
    if weights.w_norm_lambda:
        terms["loss_w_norm"] = code_norm(codes, average)
    if discriminator is not None:
        terms["loss_g"] = generator_loss(discriminator(discriminator.view(pictures, planes)))
    return terms


def weighted(terms: dict[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """The terms times their weights: they sum to the encoder's loss."""
    of = {"loss_l2": weights.l2_lambda, "loss_l1": weights.l1_lambda, "loss_lpips": weights.lpips_lambda, "loss_w_norm": weights.w_norm_lambda,
          "loss_g": weights.dis_lambda}
    return {name: of[name] * term for name, term in terms.items()}


def discriminator_terms(discriminator: PatchDiscriminator, reals: Tensor, fakes: Tensor, planes: Tensor | None = None) -> dict[str, Tensor]:
    """{"D/real", "D/fake", "D/r1"} of real patches and fakes (B, 3, V, V), before dis_lambda; the penalty is of all that the discriminator sees."""
    seen = discriminator.view(reals, planes).detach().requires_grad_()
    real_logits = discriminator(seen)
    fake_logits = discriminator(discriminator.view(fakes.detach(), planes))
    return {"D/real": generator_loss(real_logits), "D/fake": generator_loss(-fake_logits), "D/r1": R1_WEIGHT * r1_penalty(real_logits, seen)}
