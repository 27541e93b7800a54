"""FiLM-conditioned sine layers: sin(F * (W x + b) + P) with frequencies F and phases P of each scene (pi-GAN, Chan et al., CVPR 2021, eq. 2).

F and P belong to the scene, not to the point, so they fold into the layer: sin(W' x + b') with W' = diag(F) W and b' = F b + P, one batched
matrix product and one sine a layer. Scenes are folded once; their points may come in any number and chunks.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common import kernels

SPREAD = 25.0                                                  # hidden weights are U(+-sqrt(6 / fan_in) / SPREAD)


class FilmLayer(nn.Module):
    """The linear part of one FiLM sine layer, under the published key `layer`."""

    def __init__(self, inputs: int, outputs: int, first: bool = False, fan_in: int | None = None):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        bound = 1 / (fan_in or inputs) if first else sine_bound(inputs)
        nn.init.uniform_(self.layer.weight, -bound, bound)

    def fold(self, frequencies: Tensor, phases: Tensor) -> tuple[Tensor, Tensor]:
        """`fold` of this layer for frequencies and phases (B, outputs)."""
        return fold(self.layer.weight, self.layer.bias, frequencies, phases)


def sine_bound(fan_in: int) -> float:
    """Half-width of the uniform distribution of hidden weights."""
    return math.sqrt(6 / fan_in) / SPREAD


def fold(weight: Tensor, bias: Tensor, frequencies: Tensor, phases: Tensor) -> tuple[Tensor, Tensor]:
    """W' (B, I, O) and b' (B, 1, O) with W' x + b' = F (W x + b) + P, of weight (O, I), bias (O,), F and P (B, O)."""
    return (frequencies[:, :, None] * weight).transpose(1, 2), (frequencies * bias + phases)[:, None]


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W + b (B, P, O) of points (B, P, I), weights (B, I, O) and biases (B, 1 or P, O)."""
    return torch.addmm(bias[0], x[0], weight[0])[None] if len(x) == 1 else torch.baddbmm(bias, x, weight)          # of one scene faster on a CPU


def sine_layer(x: Tensor, weight: Tensor, bias: Tensor, twice: bool = False) -> Tensor:
    """sin(x W' + b') (B, P, O) of points (B, P, I) and a folded layer; on a GPU fused, unless it is to be differentiated `twice`."""
    if kernels.usable(x) and not twice:
        return kernels.sine(x @ weight, bias)
    inner = affine(x, weight, bias)
    return inner.sin() if inner.requires_grad else kernels.sine_(inner)
