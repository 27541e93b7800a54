"""Filtered resampling of pictures: zeros between the pixels, a finite filter, every n-th pixel kept (StyleGAN2, appendix B; StyleGAN2-ADA, appendix C).

    y = upfirdn2d(x, fir_kernel(gain=4), up=2, padding=(2, 1, 2, 1))             twice as large
    y = doubled(x)                                                               the same, several times faster
    y = downsample2d(x, fir_kernel())                                            half as large

Everything differentiates twice.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

LOW_PASS = (1.0, 3.0, 3.0, 1.0)
ROWS = 8                                                      # a filter of as many taps stays one row, which runs along both axes

Pair = int | Sequence[int]


def fir_kernel(taps: Sequence | Tensor | None = LOW_PASS, gain: float = 1.0, separable: bool | None = None, normalize: bool = True,
               flip: bool = False) -> Tensor:
    """The low-pass filter of these taps, which sums to `gain`: (h, k) of taps (h, k); of taps (k,) their outer product (k, k), or a row (k,) of eight or more.

    `separable` overrides that choice; without `normalize` the taps are used as they are; `flip` turns the filter round; None is the filter that does nothing.
    A row runs along both axes, so it carries the square root of the gain.
    """
    kernel = torch.as_tensor((1.0,) if taps is None else taps, dtype=torch.float32)
    if kernel.dim() == 1 and not (len(kernel) >= ROWS if separable is None else separable):
        kernel = torch.outer(kernel, kernel)
    if normalize:
        kernel = kernel / kernel.sum()
    if flip:
        kernel = kernel.flip(*range(kernel.dim()))
    return kernel * gain ** (kernel.dim() / 2)


def upfirdn2d(x: Tensor, kernel: Tensor | None, up: Pair = 1, down: Pair = 1, padding: Pair = 0, flip: bool = False, gain: float = 1.0) -> Tensor:
    """Pictures (N, C, H, W): `up` - 1 zeros after every pixel, padding (negative crops), convolution, every `down`-th pixel from 0, times `gain`.

    The kernel (h, k), or a row (k,) for both axes, is the same for all channels and turned round as a convolution has it, as it is with `flip`.
    up and down: for both axes or (x, y); padding: all sides, (x, y) or (left, right, top, bottom).
    """
    (up_x, up_y), (down_x, down_y), (left, right, top, bottom) = _pair(up), _pair(down), sides(padding)
    if kernel is None:
        kernel = x.new_ones(1, 1)
    if kernel.dim() == 1:
        row = kernel * gain ** 0.5
        x = upfirdn2d(x, row[None], (up_x, 1), (down_x, 1), (left, right, 0, 0), flip)
        return upfirdn2d(x, row[:, None], (1, up_y), (1, down_y), (0, 0, top, bottom), flip)
    if up_x > 1 or up_y > 1:
        x = F.pad(x[..., None, :, None], (0, up_x - 1, 0, 0, 0, up_y - 1)).flatten(-4, -3).flatten(-2)
    x = F.pad(x, (left, right, top, bottom))
    taps = (kernel if flip else kernel.flip(0, 1)).to(x) * gain
    return F.conv2d(x, taps.expand(x.shape[1], 1, -1, -1), stride=(down_y, down_x), groups=x.shape[1])


def filter2d(x: Tensor, kernel: Tensor | None, padding: Pair = 0, flip: bool = False, gain: float = 1.0) -> Tensor:
    """Pictures (N, C, H, W) filtered, as large as they were with `padding` 0."""
    return upfirdn2d(x, kernel, padding=padded(kernel, padding), flip=flip, gain=gain)


def upsample2d(x: Tensor, kernel: Tensor | None, up: Pair = 2, padding: Pair = 0, flip: bool = False, gain: float = 1.0) -> Tensor:
    """Pictures (N, C, H, W) `up` times as large, and as bright."""
    up_x, up_y = _pair(up)
    return upfirdn2d(x, kernel, up=up, padding=padded(kernel, padding, up=up), flip=flip, gain=gain * up_x * up_y)


def downsample2d(x: Tensor, kernel: Tensor | None, down: Pair = 2, padding: Pair = 0, flip: bool = False, gain: float = 1.0) -> Tensor:
    """Pictures (N, C, H, W) of one `down`-th the size."""
    return upfirdn2d(x, kernel, down=down, padding=padded(kernel, padding, down=down), flip=flip, gain=gain)


def doubled(x: Tensor) -> Tensor:
    """Pictures (N, C, H, W) -> (N, C, 2H, 2W): `upsample2d` with the filter [1, 3, 3, 1], which is linear interpolation of pictures within a rim of zeros."""
    return F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]


def padded(kernel: Tensor | None, padding: Pair = 0, up: Pair = 1, down: Pair = 1) -> tuple[int, int, int, int]:
    """`padding` (left, right, top, bottom) and what the kernel needs around pictures that are taken `up` and `down`."""
    height, width = (1, 1) if kernel is None else (kernel.shape[0], kernel.shape[-1])
    left, right, top, bottom = sides(padding)
    for size, grow, shrink, axis in zip((width, height), _pair(up), _pair(down), "xy"):
        low, high = size // 2, (size - 1) // 2
        if grow > 1:
            low, high = (size + grow - 1) // 2, (size - grow) // 2
        elif shrink > 1:
            low, high = (size - shrink + 1) // 2, (size - shrink) // 2
        if axis == "x":
            left, right = left + low, right + high
        else:
            top, bottom = top + low, bottom + high
    return left, right, top, bottom


def sides(padding: Pair) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of one number for all sides, of (x, y), or of four."""
    numbers = (padding,) * 2 if isinstance(padding, int) else tuple(padding)
    return (numbers[0], numbers[0], numbers[1], numbers[1]) if len(numbers) == 2 else numbers


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
