"""StyleGAN2's blocks as functions: filtered resampling, modulated convolution, biased activation, and layers with equalised learning rates.

    y = upfirdn2d(x, fir_kernel(gain=4), up=2, padding=(2, 1, 2, 1))             twice as large
    y = conv2d_per_sample(x, modulated_weights(weight, styles))                  every picture with filters of its own

Karras et al. 2020 ("Analyzing and Improving the Image Quality of StyleGAN"), section 2 and appendix B. Everything differentiates twice.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-8
LEAK, GAIN = 0.2, 2**0.5                                      # of the activation: the gain keeps the variance


def fir_kernel(taps: tuple[float, ...] = (1, 3, 3, 1), gain: float = 1.0) -> Tensor:
    """The separable low-pass filter (k, k) of these taps: their outer product, which sums to `gain`."""
    line = torch.tensor(taps, dtype=torch.float32)
    kernel = torch.outer(line, line)
    return kernel * (gain / kernel.sum())


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, padding: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Tensor:
    """Pictures (N, C, H, W): `up` - 1 zeros after every pixel, padding (left, right, top, bottom; negative crops), convolution, every `down`-th pixel from 0.

    The kernel (k, k) is the same for all channels, turned round as a convolution has it.
    """
    if up > 1:
        x = F.pad(x[..., None, :, None], (0, up - 1, 0, 0, 0, up - 1)).flatten(-4, -3).flatten(-2)
    x = F.pad(x, padding)
    channels = x.shape[1]
    return F.conv2d(x, kernel.flip(0, 1).to(x).expand(channels, 1, -1, -1), stride=down, groups=channels)


def leaky_relu(x: Tensor, bias: Tensor) -> Tensor:
    """sqrt(2) LeakyReLU(x + bias) with slope 0.2, for x (N, C, ...) and bias (C,)."""
    return F.leaky_relu(x + bias.view(-1, *[1] * (x.dim() - 2)), LEAK) * GAIN


def unit_second_moment(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-8) over the last axis (StyleGAN's "pixel norm")."""
    return x * (x.square().mean(dim=-1, keepdim=True) + EPS).rsqrt()


def modulated_weights(weight: Tensor, styles: Tensor, demodulate: bool = True) -> Tensor:
    """Filters (N, O, I, k, k) = weight (O, I, k, k) times styles (N, I), each output's brought to unit norm by `demodulate` (StyleGAN2, equations 1 and 3)."""
    scales = styles[:, None]
    if demodulate:                                            # the norms without the filters: sum over I of styles^2 times the taps' squares
        norms = (styles.square() @ weight.square().sum(dim=(2, 3)).t() + EPS).rsqrt()
        scales = scales * norms[:, :, None]
    return weight * scales[..., None, None]


def conv2d_per_sample(x: Tensor, weights: Tensor, up: int = 1) -> Tensor:
    """Each picture of x (N, I, H, W) with filters of its own, weights (N, O, I, k, k), or (1, O, I, k, k) for all: (N, O, H, W), padded by k // 2.

    With `up` 2 the transposed convolution (N, O, 2H + k - 2, 2W + k - 2), unfiltered and uncropped.
    """
    groups, (outputs, inputs, side) = len(weights), weights.shape[1:4]
    assert groups in (1, len(x)) and x.shape[1] == inputs, f"weights {tuple(weights.shape)} for pictures {tuple(x.shape)}"
    joined = x.reshape(-1, groups * inputs, *x.shape[2:])
    if up > 1:
        y = F.conv_transpose2d(joined, weights.transpose(1, 2).flatten(0, 1), stride=up, groups=groups)
    else:
        y = F.conv2d(joined, weights.flatten(0, 1), padding=side // 2, groups=groups)
    return y.reshape(len(x), outputs, *y.shape[2:])


class EqualLinear(nn.Module):
    """Linear with equalised learning rate: the weight is kept as N(0, 1) / lr_mul and used times lr_mul / sqrt(in), the bias times lr_mul."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, lr_mul: float = 1.0, activate: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_mul)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.lr_mul, self.activate = lr_mul, activate

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out); with `activate` through `leaky_relu`."""
        weight, bias = self.weight * (self.lr_mul * self.weight.shape[1] ** -0.5), self.bias * self.lr_mul
        return leaky_relu(F.linear(x, weight), bias) if self.activate else F.linear(x, weight, bias)


class EqualConv2d(nn.Module):
    """Convolution without bias, with equalised learning rate: the weight is kept as N(0, 1) and used times 1 / sqrt(in k^2)."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        return F.conv2d(x, self.weight * self.weight[0].numel() ** -0.5, stride=self.stride, padding=self.padding)
