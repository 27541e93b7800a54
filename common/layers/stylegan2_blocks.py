"""StyleGAN2's generator and discriminator in blocks, one for each side of the pictures (Karras et al. 2020, figure 7; keys as in StyleGAN2-ADA's files).

    x, image = SynthesisBlock(512, 256, w_dim=512, side=64)(x, image, ws)          ws (N, 3, D): conv0, conv1, torgb
    x, picture = DiscriminatorBlock(64, 64, 128)(x, picture)
    logits = Epilogue(512, label_dim=512, side=4)(x, picture, labels)

Architectures: "skip" adds up a picture from every block ("skip" of a discriminator sees every size of it), "resnet" adds a linear way round each block,
"orig" neither. `half` blocks run in half precision on a GPU. Noise is "const" (the layers' own), "none", or a torch.Generator for
each picture, which draws it.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from common.layers.fir import doubled, downsample2d, fir_kernel
from common.layers.stylegan2 import ACTIVATIONS, EPS, ConvLayer, EqualLinear, bias_act, modulated_conv2d

ROOT_HALF = 0.5**0.5                                          # of two branches that are added

Noise = list[torch.Generator] | str


def at_precision(x: Tensor, half: bool = False) -> Tensor:
    """x in half precision if `half` and on a GPU, else not in half precision."""
    if half and x.is_cuda:
        return x.half()
    return x.float() if x.dtype == torch.float16 else x


class SynthesisLayer(nn.Module):
    """Modulated convolution to `side` pixels, noise, bias, activation."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, side: int, up: int = 1, clamp: float | None = None, activation: str = "lrelu"):
        super().__init__()
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise_const", torch.randn(side, side))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("kernel", fir_kernel(), persistent=False)
        self.side, self.up, self.clamp, self.activation = side, up, clamp, activation

    def forward(self, x: Tensor, w: Tensor, noise: Noise = "const", gain: float = 1.0, fused: bool | None = None) -> Tensor:
        """x (N, in, S / up, S / up), w (N, D) -> (N, out, S, S); `fused` as in `modulated_conv2d`, by default in evaluation alone."""
        fused = not self.training if fused is None else fused
        added = self.added_noise(len(x), noise)
        x = modulated_conv2d(x, self.weight, self.affine(w), added, self.up, 1, self.kernel, flip_weight=self.up == 1, fused=fused)
        return bias_act(x, self.bias, self.activation, gain * ACTIVATIONS[self.activation][1], None if self.clamp is None else gain * self.clamp)

    def added_noise(self, count: int, noise: Noise) -> Tensor | None:
        """What is added to `count` pictures."""
        if not isinstance(noise, str):
            assert len(noise) == count, f"{len(noise)} generators of noise for {count} pictures"
            drawn = torch.stack([torch.randn(1, self.side, self.side, generator=source, device=source.device) for source in noise])
            return drawn.to(self.noise_const.device) * self.noise_strength
        assert noise in ("const", "none"), noise
        return self.noise_const * self.noise_strength if noise == "const" else None


class ToRgb(nn.Module):
    """Features to colours or other channels: a modulated 1 x 1 convolution without demodulation."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, clamp: float | None = None):
        super().__init__()
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.clamp = clamp

    def styles(self, w: Tensor) -> Tensor:
        """Scales (..., in) of w (..., D)."""
        return self.affine(w) * self.weight.shape[1] ** -0.5

    def forward(self, x: Tensor, w: Tensor, fused: bool | None = None) -> Tensor:
        """x (N, in, S, S), w (N, D) -> (N, out, S, S)."""
        fused = not self.training if fused is None else fused
        return bias_act(modulated_conv2d(x, self.weight, self.styles(w), demodulate=False, fused=fused), self.bias, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """Two synthesis layers to `side` pixels, the first at twice the side of what comes in; the very first block (inputs 0) starts from a constant.

    Without `up` as large as what comes in (EG3D's super-resolution).
    """

    def __init__(self, inputs: int, outputs: int, w_dim: int, side: int, image_channels: int = 3, last: bool = False, architecture: str = "skip",
                 clamp: float | None = None, half: bool = False, up: bool = True):
        super().__init__()
        factor = 2 if up else 1
        if inputs:
            self.conv0 = SynthesisLayer(inputs, outputs, w_dim, side, factor, clamp)
        else:
            self.const = nn.Parameter(torch.randn(outputs, side, side))
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim, side, clamp=clamp)
        if last or architecture == "skip":
            self.torgb = ToRgb(outputs, image_channels, w_dim, clamp)
        if inputs and architecture == "resnet":
            self.skip = ConvLayer(inputs, outputs, 1, bias=False, up=factor)
        self.half, self.up = half, up

    @property
    def layers(self) -> int:
        """How many ws its convolutions take; its torgb takes the next."""
        return 2 if hasattr(self, "conv0") else 1

    def features(self, x: Tensor | None, ws: Tensor, noise: Noise = "const") -> Tensor:
        """x (N, in, S / 2, S / 2), None for the first block, ws (N, >= layers, D) -> (N, out, S, S)."""
        if not hasattr(self, "conv0"):
            return self.conv1(at_precision(self.const, self.half).expand(len(ws), -1, -1, -1), ws[:, 0], noise)
        x = at_precision(x, self.half)
        if not hasattr(self, "skip"):
            return self.conv1(self.conv0(x, ws[:, 0], noise), ws[:, 1], noise)
        return self.skip(x, gain=ROOT_HALF) + self.conv1(self.conv0(x, ws[:, 0], noise), ws[:, 1], noise, gain=ROOT_HALF)

    def forward(self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise: Noise = "const") -> tuple[Tensor, Tensor | None]:
        """(features (N, out, S, S), picture (N, C, S, S) or None) of those of the block before and ws (N, layers + 1, D)."""
        x = self.features(x, ws, noise)
        if image is not None and self.up:
            image = doubled(image)
        if hasattr(self, "torgb"):
            colors = at_precision(self.torgb(x, ws[:, self.layers]))
            image = colors if image is None else image + colors
        return x, image


# The discriminator

class DiscriminatorBlock(nn.Module):
    """Two convolutions to half the side. `first` is the one that takes no features but the picture alone."""

    def __init__(self, inputs: int, middle: int, outputs: int, image_channels: int = 3, architecture: str = "resnet", clamp: float | None = None,
                 half: bool = False):
        super().__init__()
        if not inputs or architecture == "skip":
            self.fromrgb = ConvLayer(image_channels, middle, 1, activation="lrelu", clamp=clamp)
        self.conv0 = ConvLayer(middle, middle, 3, activation="lrelu", clamp=clamp)
        self.conv1 = ConvLayer(middle, outputs, 3, activation="lrelu", down=2, clamp=clamp)
        if architecture == "resnet":
            self.skip = ConvLayer(middle, outputs, 1, bias=False, down=2)
        self.register_buffer("kernel", fir_kernel(), persistent=False)
        self.architecture, self.half = architecture, half

    def forward(self, x: Tensor | None, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(features (N, out, S / 2, S / 2), picture for the next block or None) of features (N, in, S, S) or None, and picture (N, C, S, S)."""
        x, image = (None if given is None else at_precision(given, self.half) for given in (x, image))
        if hasattr(self, "fromrgb"):
            seen = self.fromrgb(image)
            x = seen if x is None else x + seen
            image = downsample2d(image, self.kernel) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            return self.skip(x, gain=ROOT_HALF) + self.conv1(self.conv0(x), gain=ROOT_HALF), image
        return self.conv1(self.conv0(x)), image


def minibatch_std(x: Tensor, group: int | None = 4, channels: int = 1) -> Tensor:
    """Features (N, C, H, W) and `channels` constant ones more, which say how much the samples of a group differ (Karras et al. 2018, section 3).

    Sample n is in group n mod (N / G), with G = min(group, N) members; a channel is the mean of the standard deviations of its part of the C.
    """
    count = len(x) if group is None else min(group, len(x))
    assert len(x) % count == 0, f"{len(x)} samples in groups of {count}"
    members = x.unflatten(1, (channels, -1)).unflatten(0, (count, -1))
    spread = ((members - members.mean(dim=0)).square().mean(dim=0) + EPS).sqrt().mean(dim=(2, 3, 4))
    return torch.cat([x, spread.repeat(count, 1)[..., None, None].expand(-1, -1, *x.shape[2:])], dim=1)


class Epilogue(nn.Module):
    """The last block: minibatch statistics, a convolution, and a logit, or `label_dim` numbers whose product with the label's is the logit."""

    def __init__(self, inputs: int, label_dim: int, side: int = 4, image_channels: int = 3, architecture: str = "resnet", group: int | None = 4,
                 channels: int = 1, clamp: float | None = None, activation: str = "lrelu"):
        super().__init__()
        if architecture == "skip":
            self.fromrgb = ConvLayer(image_channels, inputs, 1, activation=activation)
        self.conv = ConvLayer(inputs + channels, inputs, 3, activation=activation, clamp=clamp)
        self.fc = EqualLinear(inputs * side**2, inputs, activation=activation)
        self.out = EqualLinear(inputs, label_dim or 1)
        self.group, self.channels = group, channels

    def forward(self, x: Tensor, image: Tensor | None, labels: Tensor | None) -> Tensor:
        """Logits (N, 1) of features (N, in, S, S), the picture of that side for "skip", and mapped labels (N, label_dim) or None."""
        x = at_precision(x)
        if hasattr(self, "fromrgb"):
            x = x + self.fromrgb(at_precision(image))
        if self.channels:
            x = minibatch_std(x, self.group, self.channels)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        return x if labels is None else (x * labels).sum(dim=1, keepdim=True) * labels.shape[1] ** -0.5
