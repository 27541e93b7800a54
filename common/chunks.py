"""Functions of many points, rays or pictures, computed some at a time so that they fit the memory.

A chunk that does not fit is halved until it does; the size that fitted is remembered for every later call that asks for as many.
"""
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

POINTS = 2**16                                                # points a field is asked for at once, unless a caller says otherwise
_fitting: dict[int, int] = {}                                 # chunk asked for -> chunk that fits, where memory once ran out


def in_chunks(function: Callable, *inputs: Tensor, chunk: int, axis: int = 0):
    """`function(*inputs)`, computed over chunks of the inputs' axis `axis` and joined along it.

    Arguments: inputs equally long along `axis`; `chunk` entries of it at once, at least 1.
    Returns what the function returns, a tensor or a dict of tensors with that same axis. Raises torch's out-of-memory error if not even one entry fits.
    """
    length = inputs[0].shape[axis]
    run = lambda start, stop: function(*(x.narrow(axis, start, stop - start) for x in inputs))
    parts = [result for _, _, result in spans(run, length, chunk)] if length else [function(*inputs)]
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts], dim=axis) for name in parts[0]}
    return torch.cat(parts, dim=axis)


def spans(run: Callable, length: int, chunk: int) -> Iterator[tuple[int, int, object]]:
    """(start, stop, run(start, stop)) of consecutive spans of range(length), `chunk` long or as long as memory allows."""
    assert chunk >= 1, f"a chunk holds at least one entry, not {chunk}"
    start = 0
    while start < length:
        stop = min(start + min(chunk, _fitting.get(chunk, chunk)), length)
        try:
            result = run(start, stop)
        except RuntimeError as error:
            if not out_of_memory(error) or stop - start == 1:
                raise
            _remember(chunk, (stop - start) // 2)
            continue                                          # out here the error and the tensors its frames held are gone
        yield start, stop, result
        start = stop


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory, on an accelerator or on the CPU (which has no error class of its own)."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _remember(chunk: int, fits: int) -> None:
    if chunk not in _fitting:
        warnings.warn(f"out of memory with {chunk} entries at once: halving until they fit; the result stays the same", RuntimeWarning, stacklevel=4)
    _fitting[chunk] = fits
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
