"""What several test files share: a folder of analytic heads, and a run trained on them, under a path with spaces."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ellipsoids, programs

TINY = {"orthogonal": True, "img_sidelength": ellipsoids.SIDE, "feat_dim": 32, "embedding_size": 16, "tracing_steps": 5, "batch_size": 8, "rays_per_view": 96,
        "class_balance": 0.5, "lr": 5e-3, "lr_final": 0.1, "sample_observations_train": "0-11", "sample_observations_val": "12-22", "device": "cpu"}
SHORT = {"max_steps": 250, "steps_til_val": 125, "steps_til_ckpt": 125, "pictures_every": 1000}


@dataclass
class Trained:
    """A run of sof/train.py: its data, its folder, and how the program ended."""

    heads: Path
    folder: Path
    done: programs.Done


def flags(options: dict) -> list[str]:
    """{option: value} as a command line."""
    return [f"--{name}={value}" for name, value in options.items()]


@pytest.fixture(scope="session")
def heads(tmp_path_factory) -> Path:
    """Three heads, 23 views of 16 x 16; read-only."""
    return ellipsoids.write_heads(tmp_path_factory.mktemp("a folder") / "three heads")


@pytest.fixture(scope="session")
def trained(heads, tmp_path_factory) -> Trained:
    """A run of 250 steps, some ten seconds; read-only."""
    root = tmp_path_factory.mktemp("another folder")
    options = {**TINY, **SHORT, "data_root": heads, "logging_root": root / "my runs", "name": "tiny"}
    return Trained(heads, root / "my runs" / "tiny", programs.run(root / "elsewhere", "sof/train.py", *flags(options)))
