"""Chunks: the same result whatever their size, and whatever fits."""
from __future__ import annotations

import warnings

import pytest
import torch

from common import chunks
from common.chunks import in_chunks, spans


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(chunks, "_fitting", {})


class Memory:
    """A function that runs out of memory above `limit` entries, and remembers what it was asked for."""

    def __init__(self, limit: int, error=torch.OutOfMemoryError):
        self.limit, self.error, self.asked = limit, error, []

    def __call__(self, x):
        self.asked.append(len(x))
        if len(x) > self.limit:
            raise self.error("CUDA out of memory" if self.error is torch.OutOfMemoryError else "DefaultCPUAllocator: can't allocate memory: you tried to")
        return 2 * x


@pytest.mark.parametrize("chunk", [1, 3, 10, 11, 100])
def test_whatever_the_chunk_the_result_is_the_same(chunk):
    x, y = torch.randn(10, 3), torch.randn(10, 3)
    assert torch.equal(in_chunks(lambda a, b: a * b, x, y, chunk=chunk), x * y)


def test_dicts_and_other_axes():
    x = torch.randn(2, 7, 3)
    result = in_chunks(lambda a: {"double": 2 * a, "sum": a.sum(-1)}, x, chunk=3, axis=1)
    assert torch.equal(result["double"], 2 * x) and torch.equal(result["sum"], x.sum(-1))


def test_nothing_in_nothing_out():
    assert in_chunks(lambda a: a.sum(-1), torch.empty(0, 3), chunk=4).shape == (0,)


def test_gradients_pass():
    x = torch.randn(7, requires_grad=True)
    in_chunks(lambda a: a**2, x, chunk=2).sum().backward()
    assert torch.allclose(x.grad, 2 * x.detach())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_remembers_and_warns_once(error):
    memory, x = Memory(limit=7, error=error), torch.arange(40.0)
    with pytest.warns(RuntimeWarning, match="out of memory") as caught:
        assert torch.equal(in_chunks(memory, x, chunk=32), 2 * x)
    assert len(caught) == 1
    assert memory.asked == [32, 16, 8] + [4] * 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(in_chunks(memory, x, chunk=32), 2 * x)
    assert memory.asked[13:] == [4] * 10                      # the size that fitted, at once
    assert in_chunks(memory, x, chunk=5).equal(2 * x) and memory.asked[-1] == 5      # another caller's chunk is its own


def test_memory_that_runs_out_half_way_loses_nothing():
    memory = Memory(limit=100)

    def tighter(x):
        memory.limit -= 30 if len(memory.asked) == 2 else 0
        return memory(x)

    x = torch.arange(100.0)
    memory.limit = 32
    with pytest.warns(RuntimeWarning):
        assert torch.equal(in_chunks(tighter, x, chunk=20), 2 * x)


def test_a_short_input_is_halved_from_its_own_length():
    memory = Memory(limit=5)
    with pytest.warns(RuntimeWarning):
        in_chunks(memory, torch.arange(10.0), chunk=2**20)
    assert memory.asked == [10, 5, 5]


def test_what_never_fits_is_raised():
    with pytest.warns(RuntimeWarning), pytest.raises(torch.OutOfMemoryError):
        in_chunks(Memory(limit=0), torch.arange(10.0), chunk=8)


def test_another_error_is_not_out_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        in_chunks(lambda x: (_ for _ in ()).throw(RuntimeError("shapes")), torch.arange(4.0), chunk=2)


def test_a_real_allocation_that_fails_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert chunks.out_of_memory(caught.value)


def test_spans_cover_the_range():
    assert [(a, b) for a, b, _ in spans(lambda a, b: None, 10, 4)] == [(0, 4), (4, 8), (8, 10)]
