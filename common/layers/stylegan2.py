"""StyleGAN2's blocks as functions: modulated convolution and biased activation, and layers with equalised learning rates.

    y = bias_act(conv2d_resample(x, weight, fir_kernel(), up=2, padding=1), bias, activation="lrelu")
    y = modulated_conv2d(x, weight, styles, padding=1)                           every picture with filters of its own
    w = Mapping(MappingShape(latent=512, labels=25))(z, labels)

Karras et al. 2020 ("Analyzing and Improving the Image Quality of StyleGAN"), section 2 and appendix B. Everything differentiates twice.
Where StyleGAN2-ADA's and EG3D's files have the same modules, names are those of their keys; the fixed low-pass filters are constants, in no state dict.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.layers.fir import Pair, fir_kernel, padded, sides, upfirdn2d

EPS = 1e-8
LEAK, GAIN = 0.2, 2**0.5                                      # of the activation: the gain keeps the variance
ACTIVATIONS: dict[str, tuple[Callable, float]] = {            # with the gain that goes with each
    "linear": (lambda x: x, 1.0), "relu": (F.relu, GAIN), "lrelu": (lambda x: F.leaky_relu(x, LEAK), GAIN), "tanh": (torch.tanh, 1.0),
    "sigmoid": (torch.sigmoid, 1.0), "elu": (F.elu, 1.0), "selu": (F.selu, 1.0), "softplus": (F.softplus, 1.0), "swish": (F.silu, GAIN),
}


def bias_act(x: Tensor, bias: Tensor | None = None, activation: str = "linear", gain: float | None = None, clamp: float | None = None, dim: int = 1,
             slope: float | None = None) -> Tensor:
    """gain f(x + bias), held within +-clamp, for x of any shape and a bias along its axis `dim`; f by its name in ACTIVATIONS, which has the default gain.

    `slope` is that of lrelu below 0, or the alpha of elu, if not their own (0.2, 1).
    """
    function, own_gain = ACTIVATIONS[activation]
    if bias is not None:
        x = x + bias.to(x.dtype).view([-1 if axis == dim else 1 for axis in range(x.dim())])
    if slope is not None and activation in ("lrelu", "elu"):
        function = lambda x: F.leaky_relu(x, slope) if activation == "lrelu" else F.elu(x, slope)
    x, gain = function(x), own_gain if gain is None else gain
    x = x if gain == 1 else x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def leaky_relu(x: Tensor, bias: Tensor) -> Tensor:
    """sqrt(2) LeakyReLU(x + bias) with slope 0.2, for x (N, C, ...) and bias (C,)."""
    return bias_act(x, bias, "lrelu")


def unit_second_moment(x: Tensor, dim: int = -1) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-8) over an axis (StyleGAN's "pixel norm")."""
    return x * (x.square().mean(dim=dim, keepdim=True) + EPS).rsqrt()


# Convolutions

def conv2d_resample(x: Tensor, weight: Tensor, kernel: Tensor | None = None, up: int = 1, down: int = 1, padding: Pair = 0, groups: int = 1,
                    flip_weight: bool = True, flip_kernel: bool = False) -> Tensor:
    """Pictures (N, I, H, W) enlarged, convolved with weight (O, I / groups, k, k), and reduced; both resamplings filtered by the kernel.

    The padding is that of the convolution on the enlarged pictures; the filter's own is added. With `flip_weight` a correlation, as networks know it, else a
    convolution. Filter and convolution run in whichever order is cheaper.
    """
    side = weight.shape[-1]
    left, right, top, bottom = padded(kernel, padding, up) if up > 1 else sides(padding)
    if down > 1:
        left, right, top, bottom = (a + b for a, b in zip((left, right, top, bottom), padded(kernel, 0, 1, down)))
    resample = lambda x, **how: upfirdn2d(x, kernel, flip=flip_kernel, **how)
    if up > 1 and side > 1:
        turned = weight.flip(2, 3) if flip_weight else weight
        x = F.conv_transpose2d(x, turned.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1), stride=up, groups=groups)
        less, more = side - 1, side - up                      # what the transposed convolution has put around
        x = resample(x, padding=(left - less, right - more, top - less, bottom - more), gain=up**2)
        return resample(x, down=down) if down > 1 else x
    weight = weight if flip_weight else weight.flip(2, 3)
    if up > 1:
        x = resample(F.conv2d(x, weight, groups=groups), up=up, padding=(left, right, top, bottom), gain=up**2)
        return resample(x, down=down) if down > 1 else x
    if down > 1:
        decimate = down if side == 1 else 1
        return F.conv2d(resample(x, down=decimate, padding=(left, right, top, bottom)), weight, stride=down // decimate, groups=groups)
    if left == right >= 0 and top == bottom >= 0:
        return F.conv2d(x, weight, padding=(top, left), groups=groups)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, groups=groups)


def modulated_weights(weight: Tensor, styles: Tensor, demodulate: bool = True) -> Tensor:
    """Filters (N, O, I, k, k) = weight (O, I, k, k) times styles (N, I), each output's brought to unit norm by `demodulate` (StyleGAN2, equations 1 and 3)."""
    scales = styles[:, None]
    if demodulate:
        scales = scales * demodulation(weight, styles)[:, :, None]
    return weight * scales[..., None, None]


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """1 / norm (N, O) of the modulated filters, without the filters: their squares sum over I to styles^2 times the taps' squares."""
    return (styles.square() @ weight.square().sum(dim=(2, 3)).t() + EPS).rsqrt()


def modulated_conv2d(x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None = None, up: int = 1, padding: Pair = 0, kernel: Tensor | None = None,
                     demodulate: bool = True, flip_weight: bool = True, fused: bool = True) -> Tensor:
    """Pictures (N, I, H, W), each convolved (`conv2d_resample`) with weight (O, I, k, k) modulated by its styles (N, I), plus noise.

    `fused` gives each picture filters of its own; otherwise its channels are scaled before and after one convolution for all: equal, and faster to train.
    """
    if x.dtype == torch.float16 and demodulate:               # within half precision's range; demodulation undoes it
        weight = weight / (weight.abs().amax(dim=(1, 2, 3), keepdim=True) * weight[0].numel() ** 0.5)
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    how = {"kernel": kernel, "up": up, "padding": padding, "flip_weight": flip_weight}
    if fused:
        weights = modulated_weights(weight, styles, demodulate).to(x.dtype)
        y = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), weights.flatten(0, 1), groups=len(x), **how)
        y = y.reshape(len(x), -1, *y.shape[2:])
    else:
        y = conv2d_resample(x * styles[:, :, None, None].to(x.dtype), weight.to(x.dtype), **how)
        if demodulate:
            y = y * demodulation(weight, styles)[:, :, None, None].to(x.dtype)
    return y if noise is None else y + noise.to(x.dtype)


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


# Layers

class EqualLinear(nn.Module):
    """Linear with equalised learning rate: the weight is kept as N(0, 1) / lr_mul and used times lr_mul / sqrt(in), the bias times lr_mul."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, lr_mul: float = 1.0, activation: str = "linear"):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_mul)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.lr_mul, self.activation = lr_mul, activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), through the activation."""
        weight, bias = self.weight * (self.lr_mul * self.weight.shape[1] ** -0.5), self.bias * self.lr_mul
        return bias_act(F.linear(x, weight.to(x.dtype), bias.to(x.dtype)), activation=self.activation)


class EqualConv2d(nn.Module):
    """Convolution without bias, with equalised learning rate: the weight is kept as N(0, 1) and used times 1 / sqrt(in k^2)."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        return F.conv2d(x, self.weight * self.weight[0].numel() ** -0.5, stride=self.stride, padding=self.padding)


class ConvLayer(nn.Module):
    """Convolution with equalised learning rate, `up` or `down` filtered, bias and activation (StyleGAN2-ADA's Conv2dLayer)."""

    def __init__(self, inputs: int, outputs: int, side: int, bias: bool = True, activation: str = "linear", up: int = 1, down: int = 1,
                 clamp: float | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("kernel", fir_kernel(), persistent=False)
        self.activation, self.up, self.down, self.clamp = activation, up, down, clamp

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W'), in the precision of x; `gain` also scales the clamp."""
        weight = (self.weight * self.weight[0].numel() ** -0.5).to(x.dtype)
        x = conv2d_resample(x, weight, self.kernel, self.up, self.down, self.weight.shape[-1] // 2, flip_weight=self.up == 1)
        return bias_act(x, self.bias, self.activation, gain * ACTIVATIONS[self.activation][1], None if self.clamp is None else gain * self.clamp)


# The mapping network

@dataclass(frozen=True)
class MappingShape:
    """Numbers of a latent and of a label (either may be 0), of w, and of the label's embedding and the inner layers (0: as w)."""

    latent: int
    labels: int
    w: int = 512
    layers: int = 8
    embedding: int = 0
    hidden: int = 0
    lr_mul: float = 0.01


class Mapping(nn.Module):
    """Latents and labels, each brought to unit second moment, to w; with `average` a moving average of w to truncate towards."""

    def __init__(self, shape: MappingShape, average: bool = True):
        super().__init__()
        embedding = (shape.embedding or shape.w) * bool(shape.labels)
        widths = [shape.latent + embedding, *[shape.hidden or shape.w] * (shape.layers - 1), shape.w]
        if shape.labels:
            self.embed = EqualLinear(shape.labels, embedding)
        for i in range(shape.layers):
            self.add_module(f"fc{i}", EqualLinear(widths[i], widths[i + 1], lr_mul=shape.lr_mul, activation="lrelu"))
        if average:
            self.register_buffer("w_avg", torch.zeros(shape.w))
        self.shape = shape

    def forward(self, z: Tensor | None, labels: Tensor | None) -> Tensor:
        """w (B, D) of latents (B, Z) and labels (B, L); None for what the shape does not have."""
        parts = [unit_second_moment(z)] if self.shape.latent else []
        if self.shape.labels:
            parts.append(unit_second_moment(self.embed(labels)))
        w = torch.cat(parts, dim=1)
        for i in range(self.shape.layers):
            w = self.get_submodule(f"fc{i}")(w)
        return w

    def truncated(self, w: Tensor, count: int, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """ws (B, count, D): w (B, D) for each of `count` layers, pulled towards the average by psi < 1 for the first `cutoff` of them (None: all)."""
        ws = w[:, None].repeat(1, count, 1)
        if psi != 1:
            ws[:, :cutoff] = self.w_avg.lerp(ws[:, :cutoff], psi)
        return ws

    @torch.no_grad()
    def track(self, w: Tensor, beta: float = 0.998) -> None:
        """Move the average towards the mean of w (B, D)."""
        self.w_avg.copy_(w.mean(0).lerp(self.w_avg, beta))
