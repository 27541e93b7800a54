"""Fused Triton kernels for a GPU: the sine of a FiLM layer, and compositing; each pass reads and writes its tensors once, forward and backward.

`common.layers.siren` and `common.volume` come here by themselves where `usable`; their torch versions are the reference, and what is differentiated twice
goes through those. The kernels are plain functions of pointers below; Triton is imported when the first of them is launched.
"""
from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK, RAYS = 1024, 128                                        # elements, or rays, of one program


def usable(x: Tensor) -> bool:
    """Whether kernels take this tensor here: float32 on a GPU with Triton."""
    return x.is_cuda and x.dtype == torch.float32 and _installed()


def sine(x: Tensor, bias: Tensor) -> Tensor:
    """sin(x + bias) (B, P, O) of x (B, P, O) and biases (B, 1 or P, O); in the place of x where no gradient is wanted. Differentiable once."""
    if torch.is_grad_enabled() and (x.requires_grad or bias.requires_grad):
        return _Sine.apply(x, bias)
    return _sine(sine_forward, x.contiguous(), bias, None)


def accumulate(alphas: Tensor, colors: Tensor, depths: Tensor, last_back: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`common.volume.accumulate` of opacities (..., S), colors (..., S, C) and depths (..., S). Differentiable once."""
    return _Accumulate.apply(alphas, colors, depths.expand_as(alphas), last_back)


# The sine

def sine_(x: Tensor) -> Tensor:
    """sin x in the place of x, without gradient. On one or two threads of a CPU numpy's, which takes less than half the time of torch's (float32, 1e-7)."""
    if x.is_cuda or x.dtype != torch.float32 or torch.get_num_threads() > 2:
        return x.sin_()
    import numpy

    numpy.sin(x.numpy(), out=x.numpy())
    return x


class _Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, bias)
        return _sine(sine_forward, x, bias, torch.empty_like(x))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, bias = ctx.saved_tensors
        inner = _sine(sine_backward, x, bias, gradient.clone(memory_format=torch.contiguous_format))
        return inner, (inner.sum_to_size(bias.shape) if ctx.needs_input_grad[1] else None)


def _sine(kernel, x: Tensor, bias: Tensor, out: Tensor | None) -> Tensor:
    """Launch a kernel that reads x and bias and writes (backward: multiplies) out, x itself if there is none."""
    out, count = x if out is None else out, x.numel()
    rows = x.shape[1] if bias.shape[1] == 1 else 1             # of x that share a row of the bias
    if count:
        _compiled(kernel)[(-(-count // BLOCK),)](x, bias.contiguous(), out, count, rows, x.shape[2], BLOCK=BLOCK)
    return out


def sine_forward(x, bias, out, count, rows, width, BLOCK: tl.constexpr):
    """out = sin(x + bias)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inner = tl.load(x + at, at < count) + tl.load(bias + at // width // rows * width + at % width, at < count)
    tl.store(out + at, tl.sin(inner), at < count)


def sine_backward(x, bias, out, count, rows, width, BLOCK: tl.constexpr):
    """out *= cos(x + bias)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inner = tl.load(x + at, at < count) + tl.load(bias + at // width // rows * width + at % width, at < count)
    tl.store(out + at, tl.load(out + at, at < count) * tl.cos(inner), at < count)


# Compositing: one ray a lane, sample by sample; T_i is the light that reaches sample i

class _Accumulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, alphas: Tensor, colors: Tensor, depths: Tensor, last_back: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alphas, colors, depths = alphas.contiguous(), colors.contiguous(), depths.contiguous()
        weights, reaching = torch.empty_like(alphas), torch.empty_like(alphas)
        seen, depth_sum, opacity = colors.new_empty(*alphas.shape[:-1], colors.shape[-1]), *alphas.new_empty(2, *alphas.shape[:-1])
        _along(accumulate_forward, alphas, colors, depths, weights, reaching, seen, depth_sum, opacity, last_back=last_back)
        ctx.save_for_backward(alphas, colors, depths, weights, reaching)
        ctx.last_back = last_back
        return weights, seen, depth_sum, opacity

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        into = tuple(torch.empty_like(x) for x in saved[:3])
        _along(accumulate_backward, *saved, *(gradient.contiguous() for gradient in gradients), *into, last_back=ctx.last_back)
        return *into, None


def _along(kernel, alphas: Tensor, colors: Tensor, *tensors: Tensor, last_back: bool) -> None:
    """Launch a kernel over all rays."""
    samples, channels = colors.shape[-2:]
    rays = alphas.numel() // samples
    lanes = 1 << (channels - 1).bit_length()
    if rays:
        _compiled(kernel)[(-(-rays // RAYS),)](alphas, colors, *tensors, rays, samples, channels, last_back, LANES=lanes, RAYS=RAYS)


def accumulate_forward(alphas, colors, depths, weights, reaching, seen, depth_sum, opacity, rays, samples, channels, last_back: tl.constexpr,
                       LANES: tl.constexpr, RAYS: tl.constexpr):
    """w_i = alpha_i T_i, T_{i+1} = T_i (1 - alpha_i + 1e-10); with last_back the last weight takes 1 - sum w too; and the sums of w, w c and w t."""
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    channel = tl.arange(0, LANES)
    there, shown = ray < rays, (ray < rays)[:, None] & (channel < channels)[None, :]
    left, mass, depth = tl.full((RAYS,), 1.0, tl.float32), tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32)
    color = tl.zeros((RAYS, LANES), tl.float32)
    for i in range(samples):
        at = ray * samples + i
        alpha = tl.load(alphas + at, there, 0.0)
        weight = alpha * left
        mass += weight
        if last_back & (i == samples - 1):
            weight += 1 - mass
        tl.store(weights + at, weight, there)
        tl.store(reaching + at, left, there)
        depth += weight * tl.load(depths + at, there, 0.0)
        color += weight[:, None] * tl.load(colors + at[:, None] * channels + channel[None, :], shown, 0.0)
        left = left * (1 - alpha + 1e-10)
    tl.store(seen + ray[:, None] * channels + channel[None, :], color, shown)
    tl.store(depth_sum + ray, depth, there)
    tl.store(opacity + ray, mass, there)


def accumulate_backward(alphas, colors, depths, weights, reaching, from_weights, from_seen, from_depth, from_opacity, to_alphas, to_colors, to_depths,
                        rays, samples, channels, last_back: tl.constexpr, LANES: tl.constexpr, RAYS: tl.constexpr):
    """From the last sample to the first: dL/dalpha_i = T_i (g_i - l_i), l_{i-1} = g_i alpha_i + (1 - alpha_i + 1e-10) l_i, g = dL/dw and l_i = dL/dT_{i+1}."""
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    channel = tl.arange(0, LANES)
    there, shown = ray < rays, (ray < rays)[:, None] & (channel < channels)[None, :]
    color = tl.load(from_seen + ray[:, None] * channels + channel[None, :], shown, 0.0)
    depth, shift = tl.load(from_depth + ray, there, 0.0), tl.load(from_opacity + ray, there, 0.0)
    later = tl.zeros((RAYS,), tl.float32)
    for k in range(samples):
        at = ray * samples + (samples - 1 - k)
        place = colors + at[:, None] * channels + channel[None, :]
        weight, alpha = tl.load(weights + at, there, 0.0), tl.load(alphas + at, there, 0.0)
        tl.store(to_depths + at, weight * depth, there)
        tl.store(to_colors + at[:, None] * channels + channel[None, :], weight[:, None] * color, shown)
        wanted = tl.load(from_weights + at, there, 0.0) + depth * tl.load(depths + at, there, 0.0) + tl.sum(color * tl.load(place, shown, 0.0), axis=1)
        if last_back & (k == 0):                               # what the last weight takes, all others give up
            shift -= wanted
        wanted += shift
        tl.store(to_alphas + at, tl.load(reaching + at, there, 0.0) * (wanted - later), there)
        later = wanted * alpha + (1 - alpha + 1e-10) * later


# Triton

@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _compiled(kernel):
    """The kernel as Triton compiles it; its name tl is this module's from now on."""
    global tl
    import triton
    import triton.language as tl
    return triton.jit(kernel)
