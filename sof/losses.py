"""SOF's losses (specification section 5.1), and their gradients ray chunk by ray chunk.

    total = l1_weight * class + reg_weight * behind + kl_weight * code [+ geo_weight * depth]
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from common.cameras import Cameras
from common.config import option
from common.rays import z_depth
from sof.cameras import learned_cameras
from sof.model import SOF

BEHIND_FACTOR = 10_000.0


@dataclass
class Rays:
    """R rays of each of B pictures: the unit of training."""

    instances: Tensor                                           # (B,) rows of the embedding
    cameras: Cameras                                            # B
    uv: Tensor                                                  # (B, R, 2) pixel centres in picture sizes
    labels: Tensor                                              # (B, R) integer classes
    noise: Tensor | None = None                                 # (B, R, 1) displacement of the march's start, world units
    z_depth: Tensor | None = None                               # (B, R, 1) camera z of the surface, 0 where there is none

    def part(self, index: slice) -> Rays:
        """The rays of some of the pictures."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> Rays:
        """The same rays on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Rays:
        cameras = Cameras(change(self.cameras.cam2world), change(self.cameras.intrinsics), self.cameras.orthographic)
        rest = (None if tensor is None else change(tensor) for tensor in (self.uv, self.labels, self.noise, self.z_depth))
        return Rays(change(self.instances), cameras, *rest)


@dataclass
class Weights:
    """What the terms of the loss count; defaults as published."""

    l1_weight: float = option(200.0, "weight of the class loss (cross entropy)")
    kl_weight: float = option(1.0, "weight of the mean squared code")
    reg_weight: float = option(1e-3, "weight of end points behind the camera")
    geo_weight: float = option(-1.0, "weight of depth supervision; off unless positive")
    published_depth_loss: bool = option(False, "the release's depth loss: grows with the batch, pulls the background to the camera; needs ray_chunk 0")


def class_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of scores (B, R, C) against labels (B, R)."""
    return cross_entropy(scores.flatten(0, 1), labels.flatten().long())


def image_loss(colors: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of colours (B, R, C): the release's loss for pictures in place of label maps, which its reader could never read."""
    return (colors - target).square().mean()


def behind_loss(depth: Tensor) -> Tensor:
    """10000 mean(min(depth, 0)^2): end points behind the camera, by camera z."""
    return BEHIND_FACTOR * depth.clamp_max(0).square().mean()


def code_loss(codes: Tensor) -> Tensor:
    """Mean square of the codes used."""
    return codes.square().mean()


def depth_loss(depth: Tensor, target: Tensor, published: bool = False) -> Tensor:
    """SmoothL1 of camera z (B, R, 1) where there is a surface (target > 0) and 0 elsewhere, averaged over all pixels.

    `published`: mean over pictures b of (sum over the whole batch) / max(1, #{r_b > 1e-12}), the background (target 0) included: it grows
    with the batch and pulls the background towards the camera.
    """
    error = smooth_l1_loss(depth, target, reduction="none")
    if published:
        counts = (error.flatten(1) > 1e-12).sum(1).clamp_min(1)
        return (error.sum() / counts).mean()
    return (error * (target > 0)).mean()


def backward(model: SOF, rays: Rays, weights: Weights, chunk: int = 0, share: float = 1.0) -> tuple[dict[str, Tensor], Tensor]:
    """Add the gradients of `share` times the total loss, and return the unweighted terms and the predicted labels (B, R).

    The hypernetwork runs once; the march runs and is differentiated `chunk` rays of every picture at a time (0: all at once), so that memory does
    not grow with the number of rays. The result is that of one pass: the terms are means over rays (the published depth loss alone is not).
    """
    centers, codes = model.split_codes(model.codes(rays.instances))
    cameras = rays.cameras if centers is None else learned_cameras(centers, rays.cameras.intrinsics, model.config.orthogonal, model.config.published_camera)
    graph = [tensor for layer in model.scene(codes) for tensor in layer] + [cameras.cam2world]
    cut = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in graph]        # the march is differentiated up to here, chunk by chunk
    scene, cameras = list(zip(cut[:-1:2], cut[1:-1:2])), Cameras(cut[-1], cameras.intrinsics, cameras.orthographic)
    count, losses, predicted = rays.labels.shape[1], {}, []
    for start in range(0, count, chunk or count):
        part = slice(start, start + (chunk or count))
        terms, labels = _march_losses(model, scene, cameras, rays, part, weights)
        fraction = labels.shape[1] / count
        (share * fraction * sum(scaled(terms, weights).values())).backward()
        losses = {name: losses.get(name, 0) + fraction * term.detach() for name, term in terms.items()}
        predicted.append(labels)
    losses["code"] = code_loss(codes)
    learnt = [(whole, leaf.grad) for whole, leaf in zip(graph, cut) if leaf.grad is not None]
    torch.autograd.backward([share * weights.kl_weight * losses["code"], *(whole for whole, _ in learnt)], [None, *(gradient for _, gradient in learnt)])
    return {name: term.detach() for name, term in losses.items()}, torch.cat(predicted, dim=1)


def scaled(losses: dict[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """The terms times their weights: their sum is the total loss."""
    factors = {"class": weights.l1_weight, "behind": weights.reg_weight, "code": weights.kl_weight, "depth": weights.geo_weight}
    return {name: factors[name] * term for name, term in losses.items()}


def _march_losses(model: SOF, scene, cameras: Cameras, rays: Rays, part: slice, weights: Weights) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of the rays in `part` and their predicted labels."""
    noise = None if rays.noise is None else rays.noise[:, part]
    points, scores = model.trace(scene, *model.rays(cameras, rays.uv[:, part]), noise)
    depth = z_depth(cameras, points)
    terms = {"class": class_loss(scores, rays.labels[:, part]), "behind": behind_loss(depth)}
    if weights.geo_weight > 0:
        terms["depth"] = depth_loss(depth, rays.z_depth[:, part], weights.published_depth_loss)
    return terms, scores.detach().argmax(-1)
