"""Surfaces of fields: grids of values for marching cubes and volumes, from coarse to fine only where the surface passes; first crossings on rays.

A box is (2, 3), its lower and upper corner; its dtype and device are the grid's. A grid of `resolution` (X, Y, Z) points includes both
corners; values[i, j, k] belong to the point (x_i, y_j, z_k). A point is inside where its value is above the level.

    stride 4   o-------o-------o   every point of a coarse lattice is asked for
    stride 2   o---.---o---.---o   the points between are guessed (linearly); guessed points of cells that the surface seems to pass, and of
    stride 1   o-.-o-.-.-.-o-.-o   their neighbours, are asked for, again and again until no such point is left

So every cell that the surface passes in the end has true values at its corners, and so have its neighbours: the surface found is followed to
its end, through the thinnest part, and equals the dense grid's bit by bit. What can be missed is a piece that is apart from all the rest and
slips between the points of the coarse lattice whole.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.chunks import POINTS, in_chunks, spans

Field = Callable[[Tensor], Tensor]


def grid_axes(box: Tensor, resolution: int | tuple[int, int, int]) -> list[Tensor]:
    """The coordinates (X,), (Y,), (Z,) of the grid's points along each axis of the box."""
    counts = (resolution,) * 3 if isinstance(resolution, int) else tuple(resolution)
    assert len(counts) == 3 and min(counts) >= 2, f"a grid needs two points or more along each of three axes, not {resolution}"
    return [torch.linspace(float(low), float(high), n, dtype=box.dtype, device=box.device) for low, high, n in zip(box[0], box[1], counts)]


@torch.no_grad()
def dense_grid(field: Field, box: Tensor, resolution: int | tuple[int, int, int], chunk: int = POINTS) -> tuple[Tensor, int]:
    """Values (X, Y, Z) of field(points (P, 3)) -> (P,) at every point of the grid, and how many those are."""
    values = _everywhere(field, grid_axes(box, resolution), chunk)
    return values, values.numel()


@torch.no_grad()
def refine_grid(field: Field, box: Tensor, resolution: int | tuple[int, int, int], level: float, coarse: int = 32,
                chunk: int = POINTS) -> tuple[Tensor, int]:
    """Values (X, Y, Z) whose surface at `level` is the dense grid's, and how many points the field was asked for.

    Arguments: field(points (P, 3)) -> (P,); `coarse`, the least number of cells along each axis to begin with (what is apart from the
    rest and thinner than such a cell may be missed). Values away from the surface are guesses on the right side of the level.
    """
    fine = grid_axes(box, resolution)
    strides = [_first_stride(len(axis), coarse) for axis in fine]
    values = _everywhere(field, [_every(axis, stride) for axis, stride in zip(fine, strides)], chunk)
    known = torch.ones_like(values, dtype=torch.bool)
    evaluations = values.numel()
    while max(strides) > 1:
        strides = [max(1, stride // 2) for stride in strides]
        axes = [_every(axis, stride) for axis, stride in zip(fine, strides)]
        values, known = _refined(values, known, [len(axis) for axis in axes])
        evaluations += _follow(field, axes, values, known, level, chunk)
    return values, evaluations


def _first_stride(count: int, coarse: int) -> int:
    """The largest power of two whose steps make `coarse` cells or more of an axis of `count` points."""
    stride = 1
    while count - 1 > 2 * stride * (coarse - 1):
        stride *= 2
    return stride


def _every(axis: Tensor, stride: int) -> Tensor:
    """Each `stride`-th coordinate and the last."""
    return axis[_steps(len(axis), stride, axis.device)]


def _steps(count: int, stride: int, device: torch.device) -> Tensor:
    last = -(-(count - 1) // stride)
    return (torch.arange(last + 1, device=device) * stride).clamp(max=count - 1)


def _points(axes: list[Tensor], index: Tensor) -> Tensor:
    """The points (P, 3) of flat grid indices (P,)."""
    x, y, z = axes
    row = index // len(z)
    return torch.stack([x[row // len(y)], y[row % len(y)], z[index % len(z)]], dim=-1)


def _everywhere(field: Field, axes: list[Tensor], chunk: int) -> Tensor:
    values = axes[0].new_empty([len(axis) for axis in axes])
    at = lambda start, stop: field(_points(axes, torch.arange(start, stop, device=values.device)))
    for start, stop, part in spans(at, values.numel(), chunk):
        values.view(-1)[start:stop] = part
    return values


def _refined(values: Tensor, known: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """Both on the lattice of half the stride: old points keep their values, those between are guessed and not known."""
    places = [_steps(n, 1 if n == m else 2, values.device) for n, m in zip(counts, values.shape)]
    finer = torch.zeros(counts, dtype=torch.bool, device=values.device)
    finer[places[0][:, None, None], places[1][None, :, None], places[2]] = known
    for axis, n in enumerate(counts):
        if n > values.shape[axis]:
            old, values = values.movedim(axis, 0), values.new_empty([*values.shape[:axis], n, *values.shape[axis + 1:]])
            new = values.movedim(axis, 0)
            new[0:n - 1:2], new[-1] = old[:-1], old[-1]
            new[1:n - 1:2] = torch.lerp(old[:-1], old[1:], 0.5)[:(n - 1) // 2]
    return values, finer


def _follow(field: Field, axes: list[Tensor], values: Tensor, known: Tensor, level: float, chunk: int) -> int:
    """Ask for unknown corners of the cells that the surface passes, and of their neighbours, until none is left; in place; returns how many."""
    evaluations = 0
    while True:
        unknown = (_corners(_passed(values > level)) & ~known).view(-1).nonzero()[:, 0]
        if not len(unknown):
            return evaluations
        values.view(-1)[unknown] = in_chunks(lambda index: field(_points(axes, index)), unknown, chunk=chunk)
        known.view(-1)[unknown] = True
        evaluations += len(unknown)


def _passed(inside: Tensor) -> Tensor:
    """The cells (X-1, Y-1, Z-1) with a corner inside and a corner outside."""
    some = every = inside
    for axis in range(3):
        n = inside.shape[axis] - 1
        some = some.narrow(axis, 0, n) | some.narrow(axis, 1, n)
        every = every.narrow(axis, 0, n) & every.narrow(axis, 1, n)
    return some & ~every


def _corners(cells: Tensor) -> Tensor:
    """The corners (X, Y, Z) of the cells (X-1, Y-1, Z-1) and of all cells beside them."""
    for axis in range(3):
        n = cells.shape[axis] + 1
        padded = torch.nn.functional.pad(cells, [p for a in (2, 1, 0) for p in ((2, 2) if a == axis else (0, 0))])
        cells = padded.narrow(axis, 0, n) | padded.narrow(axis, 1, n) | padded.narrow(axis, 2, n) | padded.narrow(axis, 3, n)
    return cells


# The first crossing on rays

def first_crossing(values: Tensor) -> tuple[Tensor, Tensor]:
    """(index k, hit), both (...), of the first change of sign along samples (..., S): between k and k + 1; negative is outside.

    A hit begins outside, and its first change goes from outside to inside; an exact zero makes no change (GOF, sec. 3.1).
    """
    count = values.shape[-1]
    change = (values[..., :-1] * values[..., 1:]).sign()
    rank = torch.arange(count, 1, -1, device=values.device)
    cost, index = (change * rank).min(dim=-1)
    start = values.gather(-1, index[..., None])[..., 0]
    return index, (cost < 0) & (start < 0) & (values[..., 0] < 0)


def find_root(value_at: Field, low: Tensor, high: Tensor, value_low: Tensor, value_high: Tensor, steps: int, method: str = "secant") -> Tensor:
    """Where value_at(t (...)) -> (...) crosses zero between low (outside, negative) and high: `steps` evaluations of regula falsi or bisection."""
    guess = {"secant": _falsi, "bisection": lambda low, high, *_: (low + high) / 2}[method]
    for _ in range(steps):
        middle = guess(low, high, value_low, value_high)
        value = value_at(middle)
        outside = value < 0
        low, value_low = torch.where(outside, middle, low), torch.where(outside, value, value_low)
        high, value_high = torch.where(outside, high, middle), torch.where(outside, value_high, value)
    return guess(low, high, value_low, value_high)


def _falsi(low: Tensor, high: Tensor, value_low: Tensor, value_high: Tensor) -> Tensor:
    """Where the chord is zero; the middle where it is level."""
    rise = value_high - value_low
    level = rise == 0
    return torch.where(level, (low + high) / 2, low - value_low * (high - low) / rise.masked_fill(level, 1.0))


def interval_around(center: Tensor, hit: Tensor, half_width: float, near: float, far: float, count: int) -> Tensor:
    """`count` depths (..., count) over [center - half_width, center + half_width], moved into [near, far]; over all of [near, far] without a hit.

    center and hit (...). The lower end is moved first, then the upper one, as published.
    """
    low = (center - half_width).clamp_min(near)
    low = torch.where(low + 2 * half_width > far, far - 2 * half_width, low)
    low = torch.where(hit, low, near)
    width = torch.where(hit, 2 * half_width, far - near)
    return low[..., None] + width[..., None] * torch.linspace(0, 1, count, dtype=center.dtype, device=center.device)
