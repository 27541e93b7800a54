"""The five published discriminators (pi-GAN's three, GOF's encoder and the one it stems from), with their key names.

    discriminator = Discriminator("ProgressiveEncoderDiscriminator")
    logits, latents, angles = discriminator(pictures, alpha)

All grow with the pictures: a fixed stack of residual blocks that halve the side down to 2, entered by a `fromRGB` layer at the depth of the pictures'
side. While a new depth fades in (alpha < 1), its first block's output is mixed with the next depth's own view of the halved pictures.

    pooled    block = LReLU(C3(LReLU(C3(x)))) then 2 x 2 means;   skip = 2 x 2 means, then a 1 x 1 convolution where channels change
    strided   block = LReLU(C3/2(LReLU(C3(x))));                  skip = 1 x 1 convolution, stride 2
    both      (block + skip) / sqrt 2;  C3 a 3 x 3 convolution that may also see its pixels' coordinates (CoordConv, Liu et al. 2018)
"""
from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError

LEAK = 0.2
LATENT, CODE = 256, 2304                                      # numbers of the latent head; of the frequencies, and of the phases
POOLED, STRIDED = (16, 32, 64, 128, 256, 400, 400, 400, 400), (32, 64, 128, 256, 400, 400, 400, 400)


@dataclass(frozen=True)
class Kind:
    """What sets a discriminator apart. The side of its largest pictures is 2 to the number of its channels."""

    channels: tuple[int, ...]
    strided: bool
    coordinates: bool
    encodes: bool                                             # latent code and angles beside the logit
    codes: bool = False                                       # a head for frequencies and phases
    unused_pose: bool = False                                 # a layer that is in the files alone


KINDS = {
    "ProgressiveDiscriminator": Kind(POOLED, strided=False, coordinates=True, encodes=False),
    "ProgressiveEncoderDiscriminator": Kind(POOLED, strided=False, coordinates=True, encodes=True, codes=True),
    "StridedDiscriminator": Kind(STRIDED, strided=True, coordinates=False, encodes=False, unused_pose=True),
    "CCSDiscriminator": Kind(STRIDED, strided=True, coordinates=True, encodes=False, unused_pose=True),
    "CCSEncoderDiscriminator": Kind(STRIDED, strided=True, coordinates=True, encodes=True),
}


class Discriminator(nn.Module):
    """A discriminator by its published name; `width` scales its channels (1: published), `codes` overrides whether it has heads for frequencies and phases.

    GOF's ProgressiveEncoderDiscriminator has those heads, pi-GAN's has not; neither trains them.
    """

    def __init__(self, name: str, width: float = 1.0, codes: bool | None = None):
        super().__init__()
        self.name, self.kind = name, KINDS[name]
        channels = [max(1, round(width * count)) for count in self.kind.channels]
        self.layers = nn.ModuleList(Block(inputs, outputs, self.kind) for inputs, outputs in pairwise(channels))
        self.fromRGB = nn.ModuleList(FromRGB(count) for count in channels)
        self.final_layer = nn.Conv2d(channels[-1], 1 + LATENT + 2 if self.kind.encodes else 1, 2)
        if self.kind.codes if codes is None else codes:
            self.freq_phase_layer = nn.Conv2d(channels[-1], 2 * CODE, 2)
        if self.kind.unused_pose:
            self.pose_layer = nn.Linear(2, channels[-1])

    def forward(self, pictures: Tensor, alpha: float = 1.0, instance_noise: float = 0.0) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Logits (B, 1), and from an encoder the latent (B, 256) and the [pitch, yaw] (B, 2) that it reads in pictures (B, 3, S, S) in [-1, 1].

        S is a power of two; raises InputError if the stack has no entry for it. `instance_noise` is the stddev of noise on the pictures
        (in strided ones on their first features), drawn anew by every call.
        """
        heads = self.final_layer(self.features(pictures, alpha, instance_noise)).flatten(1)
        return heads.split([1, LATENT, 2], dim=1) if self.kind.encodes else (heads, None, None)

    def codes(self, pictures: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
        """Frequencies and phases (B, 2304) of a SIREN that might show pictures (B, 3, S, S): GOF's untrained head."""
        return self.freq_phase_layer(self.features(pictures, alpha)).flatten(1).chunk(2, dim=1)

    def features(self, pictures: Tensor, alpha: float = 1.0, instance_noise: float = 0.0) -> Tensor:
        """What the heads see, (B, C, 2, 2)."""
        start = self.entry(pictures.shape[-1])
        noise = lambda x: x + instance_noise * torch.randn_like(x) if instance_noise > 0 else x
        x = noise(self.fromRGB[start](pictures)) if self.kind.strided else self.fromRGB[start](noise(pictures))
        for depth, layer in enumerate(self.layers[start:], start):
            x = layer(x)
            if depth == start and alpha < 1:
                x = alpha * x + (1 - alpha) * self.fromRGB[start + 1](pictures[..., ::2, ::2])
        return x

    def entry(self, side: int) -> int:
        """The depth at which pictures of this side enter. Raises InputError."""
        largest = 2 ** len(self.fromRGB)
        if side not in range(2, largest + 1) or side & (side - 1):
            raise InputError(f"--img_size {side}: {self.name} takes powers of two from 2 to {largest}")
        return len(self.fromRGB) - side.bit_length() + 1


class Block(nn.Module):
    """A residual block, (B, I, S, S) to (B, O, S / 2, S / 2)."""

    def __init__(self, inputs: int, outputs: int, kind: Kind):
        super().__init__()
        convolution, stride = CoordConv if kind.coordinates else Conv3, 2 if kind.strided else 1
        self.network = nn.Sequential(convolution(inputs, outputs), nn.LeakyReLU(LEAK), convolution(outputs, outputs, stride), nn.LeakyReLU(LEAK))
        self.proj = nn.Conv2d(inputs, outputs, 1, stride) if kind.strided or inputs != outputs else None
        if kind.strided:
            for name, weight in self.network.named_parameters():
                if name.endswith("weight"):
                    nn.init.kaiming_normal_(weight, a=LEAK, nonlinearity="leaky_relu")
        self.pool = nn.Identity() if kind.strided else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.pool(x)
        return (self.pool(self.network(x)) + (skip if self.proj is None else self.proj(skip))) * 0.5**0.5


class Conv3(nn.Conv2d):
    """A 3 x 3 convolution with zeros around."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__(inputs, outputs, 3, stride, padding=1)


class CoordConv(nn.Module):
    """A 3 x 3 convolution of the features and two more channels: each pixel's row, then its column, from -1 to 1.

    It is the sum of the features' convolution and the coordinates', which all pictures share: no copy of the features, and channels that divide well.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv = Conv3(inputs + 2, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype) for side in x.shape[2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
        of_features, of_grid = self.conv.weight.split([x.shape[1], 2], dim=1)
        stride = self.conv.stride
        return F.conv2d(x, of_features, None, stride, padding=1) + F.conv2d(grid, of_grid, self.conv.bias, stride, padding=1)


class FromRGB(nn.Module):
    """Pictures (B, 3, S, S) to features (B, C, S, S)."""

    def __init__(self, outputs: int):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, outputs, 1), nn.LeakyReLU(LEAK))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(pictures)
