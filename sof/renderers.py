"""SOF's other classifiers of the point that a ray ends at (specification section 3.5; published key names); the usual one, FC, is `FCBlock`.

    scores = renderer(features, points)             features (B, P, C) of the field at points (B, P, 3) -> class scores (B, P, classes)

ImAE sees the point beside its features. Deepvoxels is a U-Net (Sitzmann et al., DeepVoxels, CVPR 2019): its points are the pixels of a whole square
picture, row by row, each seeing its neighbours, and its scores lie within [-1, 1].
"""
from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from common.errors import InputError

FREQUENCIES = 10
IMAE_WIDTHS = (1024, 1024, 1024, 512, 256, 128)
UNET_WIDTH, UNET_WIDEST, DROPOUT = 32, 256, 0.1


def encode(x: Tensor, frequencies: int = FREQUENCIES) -> Tensor:
    """x, sin x, cos x, sin 2x, cos 2x, sin 4x ... (..., n (1 + 2 frequencies)) of x (..., n)."""
    waves = [wave(2.0**k * x) for k in range(frequencies) for wave in (torch.sin, torch.cos)]
    return torch.cat([x, *waves], dim=-1)


class ImAE(nn.Module):
    """Seven linear layers, LeakyReLU(0.02) between, on the encoded point and the features.

    `published`: the release put the point last but encodes the first three numbers, which are features.
    """

    def __init__(self, in_features: int, out_features: int, published: bool = False):
        super().__init__()
        self.published = published
        widths = (3 * (1 + 2 * FREQUENCIES) + in_features, *IMAE_WIDTHS, out_features)
        for k in range(1, len(widths)):
            layer = nn.Linear(widths[k - 1], widths[k])
            nn.init.normal_(layer.weight, mean=1e-5 if k == len(widths) - 1 else 0.0, std=0.02)
            nn.init.zeros_(layer.bias)
            setattr(self, f"linear_{k}", layer)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """features (B, P, C), points (B, P, 3) -> scores (B, P, out)."""
        x = torch.cat([features, points] if self.published else [points, features], dim=-1)
        x = torch.cat([encode(x[..., :3]), x[..., 3:]], dim=-1)
        *hidden, last = self.children()
        for layer in hidden:
            x = nn.functional.leaky_relu(layer(x), 0.02)
        return last(x)


# Deepvoxels

class Net(nn.Module):
    """Layers in a row, under their published name."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) through all of them."""
        return self.net(x)


class Skip(nn.Module):
    """Joins what its layers make of a picture to that picture."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 C, H, W)."""
        return torch.cat([x, self.model(x)], dim=1)


class UNet(nn.Module):
    """(B, in, H, W) -> (B, out, H, W), halving the picture `levels` times."""

    def __init__(self, in_features: int, out_features: int, levels: int):
        super().__init__()
        self.in_layer = nn.Sequential(same_conv(in_features, UNET_WIDTH), *_after(UNET_WIDTH, True, nn.LeakyReLU(0.2)))
        self.unet_block = _level(0, levels)
        self.out_layer = nn.Sequential(same_conv(2 * UNET_WIDTH, out_features, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return self.out_layer(self.unet_block(self.in_layer(x)))


class Deepvoxels(nn.Module):
    """The U-Net over whole pictures of features, then tanh."""

    def __init__(self, in_features: int, out_features: int, levels: int):
        super().__init__()
        assert levels >= 1, "a U-Net halves its pictures once at least"
        self.levels = levels
        self.net = nn.Sequential(UNet(in_features, out_features, levels), nn.Tanh())

    def forward(self, features: Tensor, points: Tensor | None = None) -> Tensor:
        """features (B, S*S, C) -> scores (B, S*S, out). Raises InputError unless the points are a picture that can be halved `levels` times."""
        side = math.isqrt(features.shape[1])
        if side**2 != features.shape[1] or side % 2**self.levels:
            raise InputError(f"renderer Deepvoxels: sees whole square pictures whose side is a multiple of {2**self.levels}, not {features.shape[1]} points")
        return self.net(features.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)


def halvings(side: int) -> int:
    """How often a picture of this side can be halved: the levels of the release's U-Net."""
    return (side & -side).bit_length() - 1


def same_conv(in_features: int, out_features: int, bias: bool = False) -> Net:
    """A 3x3 convolution that keeps the size, reflecting the border."""
    return Net(nn.ReflectionPad2d(1), nn.Conv2d(in_features, out_features, 3, bias=bias))


def _after(channels: int, norm: bool, activation: nn.Module) -> list[nn.Module]:
    return [*[nn.BatchNorm2d(channels)] * norm, activation, nn.Dropout2d(DROPOUT)]


def _level(level: int, levels: int) -> Skip:
    """One level and all below; the innermost has biases instead of norms."""
    outer, inner = (min(UNET_WIDTH * 2**k, UNET_WIDEST) for k in (level, level + 1))
    norm, leaky, relu = level < levels - 1, nn.LeakyReLU(0.2), nn.ReLU()
    down = Net(nn.ReflectionPad2d(1), nn.Conv2d(outer, outer, 3, bias=not norm), *_after(outer, norm, leaky),
               nn.ReflectionPad2d(1), nn.Conv2d(outer, inner, 4, 2, bias=not norm), *_after(inner, norm, leaky))
    below = [_level(level + 1, levels)] if norm else []
    up = Net(nn.ConvTranspose2d(inner * (1 + norm), outer, 4, 2, 1, bias=not norm), *_after(outer, norm, relu),
             same_conv(outer, outer, bias=not norm), *_after(outer, norm, relu))
    return Skip(down, *below, up)


def aliases(keys: Iterable[str]) -> dict[str, str]:
    """{second name: key} of the tensors that the release's Deepvoxels files hold twice: those of every `same_conv`."""
    same = {key: re.fullmatch(r"(.*(?:layer\.0|net\.[34]))\.net\.1\.(weight|bias)", key) for key in keys}
    found = {f"{match[1]}.{match[2]}": key for key, match in same.items() if match}
    return found | {key.replace("layer.0.net.1.", "layer_"): key for key in same if key.endswith("out_layer.0.net.1.weight")}
