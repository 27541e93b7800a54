"""Stacked hourglasses, the image networks of PIFu and of Geo-PIFu's V-net (PIFu, ICCV 2019; Newell et al., ECCV 2016); published key names.

A photo becomes, at a quarter (V-net: an eighth) of its side, one feature map a stack; every stack reads the photo's features again, corrected by what the
stacks before it said. The release's 64, 128 and 256 channels are `features` / 4, / 2 and / 1.
"""
from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from common.errors import InputError

GROUPS = 32
INITIAL_STD = 0.02


def norm_layer(norm: str, channels: int) -> nn.Module:
    """GroupNorm of 32 groups, fewer where they do not divide the channels; or BatchNorm2d."""
    return nn.GroupNorm(gcd(GROUPS, channels), channels) if norm == "group" else nn.BatchNorm2d(channels)


class ConvBlock(nn.Module):
    """Three 3x3 convolutions of halving width, joined, plus the input: (B, in, H, W) -> (B, out, H, W).

    bn4 is in the published files even where it is unused, and twice, as downsample.0, where it is used.
    """

    def __init__(self, channels: int, out: int, norm: str = "group"):
        super().__init__()
        convolution = lambda a, b: nn.Conv2d(a, b, 3, padding=1, bias=False)
        self.conv1, self.conv2, self.conv3 = convolution(channels, out // 2), convolution(out // 2, out // 4), convolution(out // 4, out // 4)
        self.bn1, self.bn2, self.bn3, self.bn4 = (norm_layer(norm, width) for width in (channels, out // 2, out // 4, channels))
        self.downsample = None if channels == out else nn.Sequential(self.bn4, nn.ReLU(), nn.Conv2d(channels, out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(self.bn1(x).relu())
        second = self.conv2(self.bn2(first).relu())
        third = self.conv3(self.bn3(second).relu())
        return torch.cat([first, second, third], dim=1) + (x if self.downsample is None else self.downsample(x))


class HourGlass(nn.Module):
    """`depth` halvings, and back: (B, C, H, W) -> (B, C, H, W) for sides that 2^depth divides.

    f(level, x) = b1(x) + up(b3(f(level - 1, b2(pool x)))),  f(0, x) = b2_plus(x)
    """

    def __init__(self, depth: int, channels: int, norm: str = "group", upsample_mode: str = "bicubic"):
        super().__init__()
        self.depth, self.upsampling = depth, {"mode": "nearest"} if upsample_mode == "nearest" else {"mode": "bicubic", "align_corners": True}
        for level in range(depth, 0, -1):
            for name in (f"b1_{level}", f"b2_{level}", *(["b2_plus_1"] if level == 1 else []), f"b3_{level}"):
                self.add_module(name, ConvBlock(channels, channels, norm))

    def forward(self, x: Tensor) -> Tensor:
        return self._at(self.depth, x)

    def _at(self, level: int, x: Tensor) -> Tensor:
        block = lambda name: getattr(self, f"{name}_{level}")
        low = block("b2")(avg_pool2d(x, 2))
        low = self._at(level - 1, low) if level > 1 else self.b2_plus_1(low)
        return block("b1")(x) + interpolate(block("b3")(low), scale_factor=2, **self.upsampling)


class Stacks(nn.Module):
    """`count` hourglasses one after another; `refine` may change what a stack says before it is passed on."""

    def __init__(self, count: int, depth: int, features: int, out: int, norm: str, upsample_mode: str):
        super().__init__()
        if features % 16:
            raise InputError(f"--features {features}: expected a multiple of 16")
        self.count, self.divisor = count, 2**depth
        for i in range(count):
            self.add_module(f"m{i}", HourGlass(depth, features, norm, upsample_mode))
            self.add_module(f"top_m_{i}", ConvBlock(features, features, norm))
            self.add_module(f"conv_last{i}", nn.Conv2d(features, features, 1))
            self.add_module(f"bn_end{i}", norm_layer(norm, features))
            self.add_module(f"l{i}", nn.Conv2d(features, out, 1))
            if i < count - 1:
                self.add_module(f"bl{i}", nn.Conv2d(features, features, 1))
                self.add_module(f"al{i}", nn.Conv2d(out, features, 1))

    def refine(self, i: int, out: Tensor) -> Tensor:
        """What stack i says, as it is passed on: its maps (B, out, H, W) themselves."""
        return out

    def stacks(self, x: Tensor) -> list[Tensor]:
        """Maps (B, out, H, W) of every stack, from features (B, C, H, W)."""
        outs = []
        for i in range(self.count):
            hourglass, top, last, norm, out = (getattr(self, f"{name}{i}") for name in ("m", "top_m_", "conv_last", "bn_end", "l"))
            h = norm(last(top(hourglass(x)))).relu()
            outs.append(self.refine(i, out(h)))
            if i < self.count - 1:
                x = x + getattr(self, f"bl{i}")(h) + getattr(self, f"al{i}")(outs[i])
        return outs


class HGFilter(Stacks):
    """PIFu's image filter: photos (B, 3, H, W) -> the maps (B, hourglass_dim, H/4, W/4) of every stack."""

    def __init__(self, num_stack: int = 4, num_hourglass: int = 2, hourglass_dim: int = 256, features: int = 256, norm: str = "group",
                 hg_down: str = "ave_pool", upsample_mode: str = "bicubic"):
        super().__init__(num_stack, num_hourglass, features, hourglass_dim, norm, upsample_mode)
        stem, half = features // 4, features // 2
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 7, stride=2, padding=3), norm_layer(norm, stem)
        before = stem if hg_down == "conv64" else half
        self.conv2 = ConvBlock(stem, before, norm)
        self.down_conv2 = None if hg_down == "ave_pool" else nn.Conv2d(before, half, 3, stride=2, padding=1)
        self.conv3, self.conv4 = ConvBlock(half, half, norm), ConvBlock(half, features, norm)
        initialise(self)

    def stem(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features after the first convolution (B, stem, H/2, W/2), and after the second halving (B, 2 stem, H/4, W/4)."""
        check_sides(images, 4 * self.divisor)
        first = self.bn1(self.conv1(images)).relu()
        second = self.conv2(first)
        return first, avg_pool2d(second, 2) if self.down_conv2 is None else self.down_conv2(second)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The maps of every stack, and the two of `stem`, the first without gradient."""
        first, second = self.stem(images)
        return self.stacks(self.conv4(self.conv3(second))), first.detach(), second


def check_sides(images: Tensor, divisor: int) -> None:
    """Raise InputError unless `divisor` divides the sides of pictures (B, 3, H, W)."""
    height, width = images.shape[-2:]
    if height % divisor or width % divisor or not height * width:
        raise InputError(f"a picture of {width} x {height} pixels: this network needs sides that {divisor} divides")


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Weights of convolutions and linear layers N(0, 0.02), of BatchNorm2d N(1, 0.02); biases 0; the other norms as torch makes them."""
    for module in network.modules():
        if next(module.parameters(False), torch.empty(0)).is_meta:              # without memory there is nothing to draw
            continue
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            nn.init.normal_(module.weight, 0.0, INITIAL_STD)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, INITIAL_STD)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
