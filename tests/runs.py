"""What tests of trainings ask of a run's checkpoints: the state at a step, and whether two states are equal to the last bit."""
from __future__ import annotations

from pathlib import Path

import torch

from common import checkpoint


def end_of(run: Path, step: int) -> dict:
    """{name: state} of the checkpoint of a step."""
    return checkpoint.load(run / "checkpoints" / f"step_{step:08d}.pt")["state"]


def same(one, other) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
