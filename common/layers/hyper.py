"""Hypernetworks: a code predicts the weights of a small network (Sitzmann et al., Scene Representation Networks, NeurIPS 2019, section 3.1).

``HyperFC(z)`` gives the predicted layers of B networks, once per code; ``evaluate(layers, points)`` runs them, as often as needed.
Module and parameter names are the published checkpoints' keys.
"""
from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

Layers = list[tuple[Tensor, Tensor]]                          # weight (B, out, in), bias (B, 1, out) of every predicted layer


class FCLayer(nn.Module):
    """Linear, LayerNorm, ReLU."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(in_features, out_features), nn.LayerNorm(out_features), nn.ReLU(inplace=True))
        nn.init.kaiming_normal_(self.net[0].weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), non-negative."""
        return self.net(x)


class FCBlock(nn.Module):
    """`hidden_layers` + 1 FCLayers, then a Linear."""

    def __init__(self, in_features: int, hidden: int, hidden_layers: int, out_features: int):
        super().__init__()
        widths = [in_features] + [hidden] * (hidden_layers + 1)
        self.net = nn.Sequential(*map(FCLayer, widths[:-1], widths[1:]), nn.Linear(hidden, out_features))
        nn.init.kaiming_normal_(self.net[-1].weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.net(x)


class HyperLinear(nn.Module):
    """Predicts weight and bias of a Linear(in, out) from a code: the first in*out numbers row by row, then the bias."""

    def __init__(self, code: int, hidden: int, hidden_layers: int, in_features: int, out_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.hypo_params = FCBlock(code, hidden, hidden_layers, in_features * out_features + out_features)
        with torch.no_grad():
            self.hypo_params.net[-1].weight.mul_(0.1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Code (B, code) -> weight (B, out, in), bias (B, 1, out)."""
        weight, bias = self.hypo_params(z).split([self.in_features * self.out_features, self.out_features], dim=-1)
        return weight.unflatten(-1, (self.out_features, self.in_features)), bias[:, None]


class HyperLayer(nn.Module):
    """A HyperLinear under its published name; LayerNorm and ReLU follow it in `evaluate`."""

    def __init__(self, *sizes: int):
        super().__init__()
        self.hyper_linear = HyperLinear(*sizes)


class HyperFC(nn.Module):
    """Predicts `hidden_layers` + 2 layers of a network in -> hidden -> ... -> out."""

    def __init__(self, code: int, hyper_hidden: int, hyper_hidden_layers: int, in_features: int, hidden: int, hidden_layers: int, out_features: int):
        super().__init__()
        widths = [in_features] + [hidden] * (hidden_layers + 1) + [out_features]
        self.layers = nn.ModuleList(HyperLayer(code, hyper_hidden, hyper_hidden_layers, a, b) for a, b in pairwise(widths))

    def forward(self, z: Tensor) -> Layers:
        """Code (B, code) -> the layers of B networks."""
        return [layer.hyper_linear(z) for layer in self.layers]


def evaluate(layers: Layers, points: Tensor) -> Tensor:
    """The predicted networks at points (B, P, in) -> features (B, P, out) >= 0: each layer linear, LayerNorm without affine, ReLU."""
    x = points
    for weight, bias in layers:
        x = linear(x, weight, bias)
        x = torch.nn.functional.layer_norm(x, x.shape[-1:]).relu_()
    return x


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (B, P, in) times weight (B, out, in), plus bias (B, 1 or P, out), each scene with its own weight; one plain product for one scene."""
    if len(x) == 1 and bias.shape[1] == 1:
        return torch.addmm(bias[0], x[0], weight[0].t())[None]
    return torch.baddbmm(bias, x, weight.transpose(1, 2))
