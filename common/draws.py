"""Random draws as functions of (seed, images seen, purpose): no generator's state is ever stored, so neither a restart nor the ranks change a draw."""
from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor


def seed_of(seed: int, images: int, purpose: str) -> int:
    """63 well-mixed bits of (seed, images seen, purpose)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{images}/{purpose}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, images: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for one purpose at one moment of a run."""
    return torch.Generator(device).manual_seed(seed_of(seed, images, purpose))


def stream(seed: int, first: int, count: int, n: int) -> Tensor:
    """Items (count,) first, first + 1, ... of the endless stream that runs through n items, reshuffled for every epoch.

    Item p of the stream is permutation_(p div n)[p mod n], with a permutation drawn from (seed, epoch).
    """
    positions = torch.arange(first, first + count)
    epochs = range(first // n, (first + count - 1) // n + 1)
    return torch.cat([_permutation(seed, epoch, n) for epoch in epochs])[positions - epochs.start * n]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed, epoch, f"order of {n}"))
