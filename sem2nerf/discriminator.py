"""The patch discriminator (GRAF, Schwarz et al., NeurIPS 2020): strided convolutions with spectral norm, down to one logit; published key names."""
from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

from common.errors import InputError

LEAK, LAST = 0.2, 8                                           # the last features have LAST x ndf channels, on 4 x 4 pixels


class PatchDiscriminator(nn.Module):
    """Patches (B, C, S, S) in [-1, 1], S a power of two from 16, to logits (B, 1). Every pass in training mode takes one step of the norms' power iteration.

    Keys are `model.main.N.weight_orig`, `.weight_u`, `.weight_v`. Each halving doubles the channels.
    """

    def __init__(self, side: int, channels: int = 3, ndf: int = 64):
        super().__init__()
        halvings = side.bit_length() - 3
        if side < 16 or side & (side - 1) or LAST * ndf >> halvings - 1 < 1:
            raise InputError(f"a patch discriminator of side {side} and {ndf} features: expected a power of two from 16, and features to halve with it")
        widths = [channels] + [LAST * ndf >> i for i in reversed(range(halvings))]
        layers = []
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [convolution(inputs, outputs, stride=2, padding=1)]
            layers += [nn.InstanceNorm2d(outputs)] if i or side <= 32 else []
            layers += [nn.LeakyReLU(LEAK, inplace=True)]
        self.side = side
        self.model = nn.ModuleDict({"main": nn.Sequential(*layers, convolution(widths[-1], 1))})

    def forward(self, seen: Tensor) -> Tensor:
        return self.model["main"](seen).flatten(1)

    def view(self, patches: Tensor, planes: Tensor | None = None) -> Tensor:
        """What it is shown of patches (B, 3, V, V): them at its own side, and behind them, for a conditional one, the encoder's planes, nearest."""
        if patches.shape[-1] != self.side:
            patches = F.interpolate(patches, size=(self.side, self.side), mode="bilinear")
        if planes is None:
            return patches
        return torch.cat([patches, F.interpolate(planes, size=(self.side, self.side), mode="nearest")], dim=1)


def side_for(resolution: int) -> int:
    """The side of the discriminator for patches of a resolution: the power of two not above it, 16 to 128."""
    return min(128, max(16, 2 ** (resolution.bit_length() - 1)))


def convolution(inputs: int, outputs: int, stride: int = 1, padding: int = 0) -> nn.Module:
    """A 4 x 4 convolution without bias, divided by its largest singular value (Miyato et al., ICLR 2018)."""
    return spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, padding, bias=False))
