"""The backbone: w to the feature planes of a scene (OrthoPlanes, section 3.2; EG3D, section 4).

    planes = OrthoSynthesis(...)(ws, encoding, noise="const")        (B, K, 96, S, S), K groups of three planes of 32 features

A StyleGAN2 whose every block has, in place of its torgb, a 1 x 1 convolution that is modulated for each plane by w and the plane's encoded position.
The weights of all K planes are folded with their styles into one matrix product. K is in no weight's shape: a network runs at any K.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from common.layers.fir import doubled
from common.layers.siren import affine
from common.layers.stylegan2 import Mapping, bias_act
from common.layers.stylegan2_blocks import Noise, SynthesisBlock, ToRgb, at_precision

FIRST_SIDE = 4
GROUPS, FEATURES = 3, 32                                      # of planes, and of a plane


def block_sides(side: int) -> list[int]:
    """4, 8, ..., side."""
    return [2**k for k in range(2, side.bit_length())]


def widths(side: int, base: int, most: int) -> dict[int, int]:
    """{side: channels} of the blocks: base // side, at most `most`."""
    return {s: min(base // s, most) for s in block_sides(side)}


def half_from(side: int, blocks: int) -> int:
    """The least side whose blocks run in half precision, if the largest `blocks` of them do."""
    return max(2 ** (side.bit_length() - blocks), 8) if blocks else 2 * side


class ToPlanes(ToRgb):
    """Features to the K planes' channels, one matrix product for all."""

    def forward(self, x: Tensor, coordinates: Tensor) -> Tensor:
        """x (N, I, S, S), coordinates (N, K, D + 2L + 1) -> (N, K O, S, S), stored channels last."""
        folded = (self.weight[:, :, 0, 0] * self.styles(coordinates)[:, :, None]).flatten(1, 2)
        bias = self.bias.repeat(coordinates.shape[1]).expand(len(x), 1, -1)
        planes = affine(x.flatten(2).transpose(1, 2), folded.transpose(1, 2).to(x.dtype), bias.to(x.dtype))
        planes = bias_act(at_precision(planes), clamp=self.clamp)
        return planes.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class OrthoBlock(SynthesisBlock):
    """A synthesis block whose picture is all planes."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, coordinate_dim: int, side: int, channels: int = GROUPS * FEATURES,
                 clamp: float | None = None, half: bool = False):
        super().__init__(inputs, outputs, w_dim, side, architecture="orig", clamp=clamp, half=half)
        self.to_depth_feature = ToPlanes(outputs, channels, coordinate_dim, clamp)

    def forward(self, x: Tensor | None, planes: Tensor | None, ws: Tensor, coordinates: Tensor, noise: Noise = "const") -> tuple[Tensor, Tensor]:
        """(features (N, out, S, S), planes (N, K C, S, S)) of those of the block before, ws (N, layers, D) and coordinates (N, K, D + 2L + 1)."""
        x = self.features(x, ws, noise)
        own = self.to_depth_feature(x, coordinates)
        return x, own if planes is None else doubled(planes) + own


class OrthoSynthesis(nn.Module):
    """ws to ortho-planes."""

    def __init__(self, side: int, channels: dict[int, int], w_dim: int, encoding_dim: int, clamp: float | None = None, half_side: int = 2**16):
        super().__init__()
        inputs = 0
        for s in block_sides(side):
            self.add_module(f"b{s}", OrthoBlock(inputs, channels[s], w_dim, w_dim + encoding_dim, s, clamp=clamp, half=s >= half_side))
            inputs = channels[s]
        self.blocks = list(self.children())

    @property
    def count(self) -> int:
        """How many ws there are."""
        return sum(block.layers for block in self.blocks)

    def forward(self, ws: Tensor, encoding: Tensor, noise: Noise = "const", mixed: bool = False) -> Tensor:
        """Planes (N, K, 96, S, S) of ws (N, count, D) and the planes' encoding (K, 2L + 1).

        A block's planes go by the first of its ws; with `mixed` by the last of all, as the release's density queries in training have it.
        """
        x = planes = None
        first, shape = 0, (len(ws), len(encoding), -1)
        for block in self.blocks:
            own = ws[:, first:first + block.layers]
            w = ws[:, -1] if mixed else own[:, 0]
            x, planes = block(x, planes, own, torch.cat([w[:, None].expand(shape), encoding.expand(shape)], dim=2), noise)
            first += block.layers
        return planes.unflatten(1, (len(encoding), -1))


class TriSynthesis(nn.Module):
    """ws to tri-planes: EG3D's, a plain StyleGAN2 of 96 colours."""

    def __init__(self, side: int, channels: dict[int, int], w_dim: int, clamp: float | None = None, half_side: int = 2**16):
        super().__init__()
        inputs = 0
        for s in block_sides(side):
            self.add_module(f"b{s}", SynthesisBlock(inputs, channels[s], w_dim, s, GROUPS * FEATURES, clamp=clamp, half=s >= half_side))
            inputs = channels[s]
        self.blocks = list(self.children())

    @property
    def count(self) -> int:
        """How many ws there are: a block's torgb shares the next block's first."""
        return sum(block.layers for block in self.blocks) + 1

    def forward(self, ws: Tensor, noise: Noise = "const") -> Tensor:
        """Planes (N, 1, 96, S, S) of ws (N, count, D)."""
        x = planes = None
        first = 0
        for block in self.blocks:
            x, planes = block(x, planes, ws[:, first:first + block.layers + 1], noise)
            first += block.layers
        return planes[:, None]


class Backbone(nn.Module):
    """The mapping and the synthesis under their published keys."""

    def __init__(self, mapping: Mapping, synthesis: OrthoSynthesis | TriSynthesis):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
