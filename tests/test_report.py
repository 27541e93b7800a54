"""The page: well formed, with every word safe and every file beside it; plots that are pictures."""
from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from common import report

VOID = {"meta", "img", "link", "br"}
NASTY = 'a<b> & "c" </td><script>alert(1)</script>'


class Reader(HTMLParser):
    """Checks that tags close in order; gathers words, tags and what is referred to."""

    def __init__(self, html):
        super().__init__()
        self.open, self.words, self.tags, self.sources = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def full_page():
    blocks = [
        report.text(NASTY), report.code(NASTY), report.facts({NASTY: 0.5, "seconds": 12}), report.legend([NASTY, "skin"], np.uint8([[0, 0, 0], [204, 0, 0]])),
        report.table([NASTY, "IoU"], [(NASTY, 0.12345), ("hat", float("nan")), ("hair", None), ("n", 7)], caption=NASTY), report.link("mesh #1.glb", NASTY),
        report.gallery([report.picture("a b#.png", NASTY, width=100, pixels=True), report.film("turn.mp4", NASTY)]),
    ]
    return report.page(NASTY, [report.section(NASTY, *blocks), report.section("empty")], subtitle=NASTY)


def test_the_page_is_well_formed_and_safe():
    page = Reader(full_page())
    assert "script" not in page.tags and page.tags.count("section") == 2
    assert page.words.count(NASTY) == 14                                     # title, heading and lead, and once wherever a block was given it
    assert {"0.500", "12", "0.123", "–", "7"} <= set(page.words)


def test_files_are_beside_the_page():
    assert Reader(full_page()).sources == ["mesh%20%231.glb", "a%20b%23.png", "turn.mp4"]
    assert "http" not in full_page()


def test_writing_replaces_whole(tmp_path):
    report.write_page(tmp_path / "out" / "index.html", full_page())
    report.write_page(tmp_path / "out" / "index.html", report.page("é –", []))
    assert "<h1>é –</h1>" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "out").iterdir())) == 1


def read(path):
    from PIL import Image
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def painted(picture, color):
    return (np.abs(picture - color).max(-1) < 3).sum()


def test_bars_are_as_long_as_their_values(tmp_path):
    colors = np.uint8([[204, 0, 0], [0, 153, 0], [0, 0, 204], [250, 200, 0]])
    report.bar_plot(tmp_path / "bars.png", {"a": 0.8, "b": 0.4, "c": float("nan"), "d": 0.0}, "IoU", colors)
    areas = [painted(read(tmp_path / "bars.png"), color) for color in colors]
    assert areas[0] / areas[1] == pytest.approx(2, rel=0.05) and areas[2] == areas[3] == 0


def test_curves_are_drawn(tmp_path):
    x = np.arange(1, 100)
    report.curve_plot(tmp_path / "one.png", {"class": (x, 1 / x)}, "steps", "loss", log_y=True)
    report.curve_plot(tmp_path / "many.png", {str(i): (x, i * x) for i in range(8)}, "steps", "loss")
    blue, orange = (47, 111, 222), (224, 101, 58)
    assert painted(read(tmp_path / "one.png"), blue) > 300 and not painted(read(tmp_path / "one.png"), orange)
    assert painted(read(tmp_path / "many.png"), orange) > 300


def test_nothing_to_plot_is_a_picture_still(tmp_path):
    report.bar_plot(tmp_path / "bars.png", {}, "IoU")
    report.bar_plot(tmp_path / "nan.png", {"a": float("nan")}, "IoU")
    report.curve_plot(tmp_path / "curves.png", {}, "steps", "loss")
    assert len(list(tmp_path.iterdir())) == 3
