"""One static page that shows what came out: text, tables, pictures and films beside it, in light and dark, with nothing from the network.

    page("Quickstart", [section("Heads", gallery([picture("front.png", "from the front"), film("turn.mp4", "all round")]), table(["class", "IoU"], rows))])

Every function gives a piece of HTML; text given to them is plain and is escaped, paths are relative to the page. Plots are PNG files.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from common.files import replacing

STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #66707b; --line: #e2e6ea; --paper: #f6f7f9; --card: #fff; --accent: #2f6fde; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #97a1ac; --line: #2f353d; --paper: #14171b; --card: #1d2126; --accent: #7caaf5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 70rem; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }
h1 { margin: 0; font-size: 2.1rem; line-height: 1.2; letter-spacing: -.02em; }
h2 { margin: 3rem 0 .75rem; font-size: 1.3rem; letter-spacing: -.01em; }
p { margin: .5rem 0 1rem; max-width: 46rem; }
.soft, figcaption, caption { color: var(--soft); }
pre { padding: .8rem 1rem; overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; font-size: .85rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; align-items: flex-start; }
.fact { flex: 1 1 9rem; padding: .8rem 1.1rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.fact b { display: block; font-size: 1.6rem; font-weight: 650; font-variant-numeric: tabular-nums; letter-spacing: -.02em; color: var(--accent); }
.fact span { font-size: .85rem; color: var(--soft); }
figure { margin: 0; max-width: 100%; }
figure img, figure video { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 10px; background: #fff; }
figure .pixels { image-rendering: pixelated; }
figcaption { margin-top: .4rem; font-size: .85rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .4rem; text-align: left; font-size: .85rem; }
th, td { padding: .35rem .9rem; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: 600; border-bottom-width: 2px; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1rem 0; font-size: .85rem; }
.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .4em; border: 1px solid var(--line); border-radius: 3px; vertical-align: -.1em; }
"""
PLOT_COLORS = ("#2f6fde", "#e0653a", "#2c9c69", "#8a5cd0", "#c2a01e", "#d0487f")


def page(title: str, sections: Iterable[str], subtitle: str = "") -> str:
    """The whole HTML page of sections."""
    lead = f'<p class="soft">{escape(subtitle)}</p>' if subtitle else ""
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>", lead, *sections, "</body>\n</html>\n",
    ])


def write_page(path: str | Path, html: str) -> None:
    """Write the page, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def section(title: str, *blocks: str) -> str:
    """A heading and the blocks below it."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *blocks, "</section>"])


def text(words: str) -> str:
    """A paragraph."""
    return f"<p>{escape(words)}</p>"


def code(lines: str) -> str:
    """Commands or output, as they are."""
    return f"<pre>{escape(lines)}</pre>"


def facts(values: Mapping[str, object]) -> str:
    """The few figures that matter, large: {what: value}."""
    cards = "".join(f'<div class="fact"><b>{escape(_cell(value))}</b><span>{escape(what)}</span></div>' for what, value in values.items())
    return f'<div class="row">{cards}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence], caption: str = "") -> str:
    """Rows under a header; floats have three decimals, NaN and None are a dash."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def picture(source: str, caption: str = "", width: int | None = None, pixels: bool = False) -> str:
    """A picture file, `width` CSS pixels wide; `pixels` keeps the squares of a small picture sharp when it is enlarged."""
    size, look = f' width="{width}"' if width else "", ' class="pixels"' if pixels else ""
    return f'<figure><img src="{quote(source)}" alt="{escape(caption)}"{size}{look}>{_caption(caption)}</figure>'


def film(source: str, caption: str = "", width: int | None = None) -> str:
    """A .mp4 that plays by itself, silent and for ever."""
    size = f' width="{width}"' if width else ""
    return f'<figure><video src="{quote(source)}"{size} autoplay loop muted playsinline></video>{_caption(caption)}</figure>'


def gallery(figures: Iterable[str]) -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="row">{"".join(figures)}</div>'


def legend(names: Sequence[str], palette: np.ndarray) -> str:
    """Which colour (C, 3) uint8 stands for which name."""
    items = "".join(f'<span><i style="background:rgb{tuple(int(c) for c in color)}"></i>{escape(name)}</span>' for name, color in zip(names, palette))
    return f'<div class="legend">{items}</div>'


def link(source: str, words: str) -> str:
    """A paragraph that opens a file beside the page."""
    return f'<p><a href="{quote(source)}">{escape(words)}</a></p>'


def _caption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>" if caption else ""


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def curve_plot(path: str | Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, log_y: bool = False) -> None:
    """A PNG of curves {name: (x, y)}."""
    figure, axes = _axes(6.4, 3.6)
    for (name, (x, y)), color in zip(curves.items(), PLOT_COLORS * (1 + len(curves) // len(PLOT_COLORS))):
        axes.plot(x, y, label=name, color=color, linewidth=1.8)
    axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log_y else "linear")
    axes.grid(color="#e2e6ea", linewidth=0.8)
    if len(curves) > 1:
        axes.legend(frameon=False)
    _write(path, figure)


def bar_plot(path: str | Path, values: Mapping[str, float], x_label: str, colors: np.ndarray | None = None) -> None:
    """A PNG of one bar per name from 0 to its value, in the colours (C, 3) uint8 if given; NaN is a dash without a bar."""
    figure, axes = _axes(6.4, 0.8 + 0.26 * len(values))
    numbers = np.nan_to_num(np.array(list(values.values()), float))
    fill = PLOT_COLORS[0] if colors is None else np.asarray(colors)[:len(values)] / 255
    axes.barh(list(values), numbers, color=fill, height=0.72, edgecolor="#66707b", linewidth=0.5)
    for row, value in enumerate(values.values()):
        axes.annotate(_cell(float(value)), (numbers[row], row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color="#66707b")
    axes.set(xlabel=x_label, ylim=(len(values) - 0.4, -0.6), xlim=(0, 1.12 * max(numbers.max(initial=0), 1e-9)))
    axes.tick_params(axis="y", length=0)
    _write(path, figure)


def _axes(width: float, height: float):
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def _write(path: str | Path, figure) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
