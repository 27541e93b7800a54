"""Plots as PNG files: figures of matplotlib's without its global state or a display."""
from __future__ import annotations

from pathlib import Path

from common.files import replacing


def new_figure(width: float = 5.6, height: float = 5.0, projection: str | None = None):
    """A matplotlib figure of its own, sizes in inches, and its axes (projection "3d": in space)."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot(projection=projection)


def write_figure(path: Path, figure) -> None:
    """Write a figure as a PNG file, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
