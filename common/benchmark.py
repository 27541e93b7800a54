"""Figures of speed: ours and a plainly written reference, measured in turns in one run and checked to compute the same.

A figure is a `Row`; its ratio is plain / ours, larger is better. Rows whose name contains "floor" compare with the bare matrix products instead,
which nothing can beat: their ratio is ours / bare, and 1 is the end.
"""
from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.config import nearest, option
from common.errors import InputError
from common.files import replacing

COLUMNS = ("name", "size", "threads", "ours", "plain", "ratio", "goal", "largest difference")


@dataclass
class BenchmarkConfig:
    """Options of every method's figures."""

    figures: str = option("", "which figures, NAME,...; empty: all of them")
    json: str = option("", "file for the same rows; empty: out/bench_METHOD.json")
    threads: int | None = option(None, "CPU threads; none: torch's own choice", low=1)
    device: str = option("cpu", "auto, cpu, cuda or cuda:NUMBER")
    rounds: int = option(4, "how often each side is timed, in turns; the least time counts", low=1)


@dataclass(frozen=True)
class Row:
    """One figure: ours against plain (floor: against bare), both in `unit`, and how far apart their results are, which may be `tolerance` at most."""

    name: str
    size: str
    ours: float
    plain: float
    difference: float
    tolerance: float
    unit: str = "s"
    goal: float | None = None

    @property
    def ratio(self) -> float:
        """plain / ours; ours / bare for a floor."""
        return self.ours / self.plain if "floor" in self.name else self.plain / self.ours

    @property
    def same(self) -> bool:
        """Whether both sides computed the same."""
        return self.difference <= self.tolerance


def chosen(names: str, figures: dict[str, Callable]) -> list[Callable]:
    """The figures called NAME,... or all. Raises InputError for a name that is none of them."""
    wanted = [name.strip() for name in names.split(",")] if names else list(figures)
    for name in wanted:
        if name not in figures:
            raise InputError(f"--figures: {name!r} is none of {', '.join(figures)}{nearest(name, figures)}")
    return [figures[name] for name in wanted]


# Measuring

def seconds(function: Callable, device: torch.device) -> float:
    """The time of one call."""
    finish(device)
    begin = time.perf_counter()
    function()
    finish(device)
    return time.perf_counter() - begin


def in_turns(functions: dict[str, Callable], rounds: int, device: torch.device) -> dict[str, float]:
    """The least time of each function, in seconds: all are timed once a round, so that whatever slows the machine slows them alike."""
    times = [{name: seconds(function, device) for name, function in functions.items()} for _ in range(rounds)]
    return {name: min(time[name] for time in times) for name in functions}


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(function: Callable, *arguments) -> float:
    """The most memory, in MB, that function(*arguments) -> device takes at once in a fresh process, beyond what imports took.

    On a CPU it is what Linux says the process has in RAM, on a GPU what torch has allocated there. The function must be importable by name.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak, function, *arguments).result()


def _peak(function: Callable, *arguments) -> float:
    before = _resident("VmRSS")
    device = function(*arguments)
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM") - before) / 1e6


def _resident(what: str) -> int:
    """Bytes in RAM now (VmRSS) or at most so far (VmHWM); resource.ru_maxrss would carry over from the process that started this one."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[what].split()[0]) * 1024


def largest_difference(ours: Iterable[Tensor], plain: Iterable[Tensor]) -> float:
    """The largest difference between paired tensors, as a share of each pair's largest plain value; infinite where shapes differ or a value is NaN."""
    shares = [0.0]
    for a, b in zip(ours, plain, strict=True):
        share = float((a - b).abs().max() / b.abs().max()) if a.shape == b.shape else float("inf")
        shares.append(share if share == share else float("inf"))
    return max(shares)


# Telling

def hardware(device: torch.device) -> str:
    """What was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return f"{len(names)} x {names[0]}" if names else "CPU"


def table(rows: list[Row]) -> str:
    """The rows as aligned text under a header."""
    cells = [COLUMNS] + [
        (row.name, row.size, str(torch.get_num_threads()), _amount(row.ours, row.unit), _amount(row.plain, row.unit), f"{row.ratio:.2f}",
         "-" if row.goal is None else f"{'<=' if 'floor' in row.name else '>='} {row.goal:g}", f"{row.difference:.1e}{'' if row.same else ' WRONG'}")
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells)


def write_rows(path: str | Path, rows: list[Row], device: torch.device) -> None:
    """The rows as a JSON list of {column: value}."""
    records = [{
        "name": row.name, "size": row.size, "threads": torch.get_num_threads(), "ours": row.ours, "plain": row.plain, "ratio": row.ratio, "goal": row.goal,
        "largest_difference": row.difference, "tolerance": row.tolerance, "unit": row.unit, "device": hardware(device),
    } for row in rows]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(records, indent=1))


def _amount(value: float, unit: str) -> str:
    return f"{value:.3g} s" if unit == "s" else f"{value:,.0f} {unit}"
