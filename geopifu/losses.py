"""What Geo-PIFu is trained and watched by: three losses on occupancies (specification, sections 3.5 and 3.6), IoU, precision and recall.

    mse = mean (p - y)^2       l1 = mean |p - y|       ce = weight (-0.7 mean y log(p + 1e-8) - 0.3 mean (1 - y) log(1 - p + 1e-8))
"""
from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from geopifu.vnet import VNet

EPS = 1e-8
INSIDE_SHARE = 0.7
WEIGHT = 1000.0
LOSSES = ("mse", "l1", "ce")


def cross_entropy(occupancies: Tensor, labels: Tensor, weight: float = WEIGHT) -> Tensor:
    """Cross entropy in which what is inside counts 0.7 and what is outside 0.3, times `weight`; both tensors of one shape, 0 to 1."""
    inside = (labels * (occupancies + EPS).log()).mean()
    outside = ((1 - labels) * (1 - occupancies + EPS).log()).mean()
    return -weight * (INSIDE_SHARE * inside + (1 - INSIDE_SHARE) * outside)


def occupancy_loss(predictions: Iterable[Tensor], labels: Tensor, kind: str = "mse") -> Tensor:
    """The mean over predictions (B, 1, N), one of each stack and head, of the loss `kind` against labels (B, 1, N)."""
    loss = {"mse": mse_loss, "l1": l1_loss, "ce": cross_entropy}[kind]
    return torch.stack([loss(prediction, labels) for prediction in predictions]).mean()


def coarse_backward(network: VNet, images: Tensor, labels: Tensor, weight: float = WEIGHT, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Add the gradients of `share` times the V-net's loss; the loss, the mean over stacks of `cross_entropy`, and the last stack's occupancy.

    images (B, 3, S, S), labels (B, 1, D, H, W) 0 or 1. Volumes are differentiated one stack after another, as they alone fill the memory; the result is
    that of one pass.
    """
    stacks = network.latents(images)
    cut, total = [latents.detach().requires_grad_() for latents in stacks], 0.0
    for latents in cut:
        occupancy = network.occupancy(latents)
        loss = cross_entropy(occupancy, coarser(labels, occupancy), weight) / len(cut)
        (share * loss).backward()
        total = total + loss.detach()
        occupancy = occupancy.detach()
    torch.autograd.backward(stacks, [latents.grad for latents in cut])
    return total, occupancy


def coarser(labels: Tensor, occupancy: Tensor) -> Tensor:
    """Labels (B, 1, D, H, W) at the resolution of an occupancy: the share of each of its voxels that is inside."""
    return labels if labels.shape == occupancy.shape else torch.nn.functional.adaptive_avg_pool3d(labels, occupancy.shape[2:])


def iou_precision_recall(occupancies: Tensor, labels: Tensor, level: float = 0.5) -> Tensor:
    """(3,): |P and G| / |P or G|, / |P| and / |G| over all entries, inside above `level`; what is empty counts 1 below the line."""
    predicted, true = occupancies > level, labels > level
    both = (predicted & true).sum()
    return both / torch.stack([(predicted | true).sum(), predicted.sum(), true.sum()]).clamp_min(1)
