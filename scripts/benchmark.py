"""Measure a method against its published algorithm, written plainly: python scripts/benchmark.py sof | gof

Prints one row a figure and writes them as JSON. ratio = plain / ours, larger is better; rows named floor give ours / bare matrix products.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch
from tqdm import tqdm

from common.benchmark import BenchmarkConfig, chosen, hardware, table, write_rows
from common.config import run_commands
from common.ranks import device_of
from gof.benchmark import FIGURES as GOF_FIGURES
from gof.benchmark import GofBenchmark
from sof.benchmark import FIGURES as SOF_FIGURES
from sof.benchmark import SofBenchmark


def measure(method: str, config: BenchmarkConfig, figures: dict[str, Callable]) -> None:
    """Print and write the figures' rows; exit code 1 if any side computed something else than the other."""
    asked, device = chosen(config.figures, figures), device_of(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    print(f"{hardware(device)}; torch {torch.__version__}; load {os.getloadavg()[0]:.1f}; least of {config.rounds} times taken in turns", flush=True)
    rows = [row for figure in tqdm(asked, "figures", leave=False, disable=None) for row in figure(config, device)]
    print(table(rows))
    write_rows(config.json or f"out/bench_{method}.json", rows, device)
    wrong = [row.name for row in rows if not row.same]
    if wrong:
        sys.exit(f"ours and plain differ by more than rounding: {', '.join(wrong)}")


def sof(config: SofBenchmark) -> None:
    """SOF: the figures rendering, training, meshing and turntable, about four minutes on two cores."""
    measure("sof", config, SOF_FIGURES)


def gof(config: GofBenchmark) -> None:
    """GOF: the figures field, picture, video, training and meshing, and on a GPU fused."""
    measure("gof", config, GOF_FIGURES)


if __name__ == "__main__":
    run_commands({"sof": (sof, SofBenchmark), "gof": (gof, GofBenchmark)}, __doc__)
