"""What a person wears from head to toe, drawn once for each person, and the patterns of the cloth."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.people.persons import CLOTH, Person, generator

NEUTRAL = ((0.015, 0.015, 0.02), (0.05, 0.05, 0.06), (0.15, 0.14, 0.13), (0.42, 0.40, 0.36), (0.72, 0.70, 0.66), (0.02, 0.03, 0.08), (0.13, 0.09, 0.06))
DENIM = ((0.02, 0.04, 0.11), (0.05, 0.10, 0.22), (0.16, 0.24, 0.38), (0.02, 0.02, 0.03))
PATTERNS, PATTERN_CHANCES = ("plain", "stripes", "pinstripes", "checks", "print", "halves", "dots"), (0.36, 0.17, 0.08, 0.13, 0.12, 0.08, 0.06)


@dataclass(frozen=True)
class Cloth:
    """A fabric: pattern (one of PATTERNS) in two linear colours; size in metres of what repeats."""

    pattern: str
    color: np.ndarray
    second: np.ndarray
    size: float


@dataclass(frozen=True)
class Outfit:
    """Lengths along the template's body, metres: heights of hems and waist, sleeves from the shoulder (0.45 reaches the wrist); loose is what stands off.

    bottom is "trousers", "shorts" or "skirt"; a dress is a skirt of the top's cloth, a suit trousers of it, coat is None for those without.
    """

    top: Cloth
    sleeve: float
    neckline: str
    hem: float
    loose: float
    tucked: bool
    bottom: str
    below: Cloth
    bottom_hem: float
    width: float
    coat: Cloth | None
    coat_hem: float
    open_front: float
    shoe: np.ndarray
    sole: np.ndarray
    shaft: float


def outfit(person: Person) -> Outfit:
    """The outfit of a person: skirts and dresses mostly on women."""
    rng = generator(person.seed, person.index, "outfit")
    woman = 1 - person.phenotype["gender"]
    style = str(rng.choice(["dress", "suit", "skirt", "two"], p=np.array([0.22 * woman, 0.07, 0.20 * woman, 0.93 - 0.42 * woman])))
    top = _cloth(rng, person.cloth, PATTERNS, PATTERN_CHANCES)
    sleeve = float(rng.choice([rng.uniform(0.00, 0.04), rng.uniform(0.09, 0.18), rng.uniform(0.22, 0.32), 0.44], p=[0.10, 0.42, 0.10, 0.38]))
    shorts = style == "two" and rng.uniform() < 0.2
    bottom = "skirt" if style in ("dress", "skirt") else "shorts" if shorts else "trousers"
    below = top if style in ("dress", "suit") else _cloth(rng, _bottom_color(rng), ("plain", "stripes", "checks"), (0.84, 0.06, 0.10))
    hem = {"skirt": rng.uniform(-0.70, -0.20), "shorts": rng.uniform(-0.42, -0.20), "trousers": rng.uniform(-0.775, -0.70)}[bottom]
    coat = _cloth(rng, NEUTRAL[rng.integers(len(NEUTRAL))] if rng.uniform() < 0.6 else person.cloth[[1, 2, 0]], ("plain", "checks"), (0.85, 0.15))
    wears_coat, tucked = rng.uniform() < 0.25, style in ("dress", "suit") or rng.uniform() < 0.3
    shoes = np.array((NEUTRAL + CLOTH)[rng.integers(len(NEUTRAL) + len(CLOTH))])
    loose, width = rng.uniform(0.006, 0.022), rng.choice([rng.uniform(0.003, 0.010), rng.uniform(0.012, 0.03)], p=[0.55, 0.45])
    return Outfit(
        top=top, sleeve=sleeve, neckline=person.neckline, hem=rng.uniform(-0.07, 0.06), loose=0.3 * loose if wears_coat else loose, tucked=bool(tucked),
        bottom=bottom, below=below, bottom_hem=hem, width=0.4 * width if wears_coat else width, coat=coat if wears_coat else None,
        coat_hem=rng.choice([rng.uniform(0.0, 0.06), rng.uniform(-0.50, -0.08)], p=[0.5, 0.5]),
        open_front=rng.choice([0.0, rng.uniform(0.02, 0.06)], p=[0.4, 0.6]),
        shoe=shoes, sole=np.array(NEUTRAL[rng.choice([0, 4, 4, 6])]), shaft=rng.choice([-0.745, rng.uniform(-0.70, -0.55)], p=[0.8, 0.2]))


def _bottom_color(rng: np.random.Generator) -> np.ndarray:
    colors = DENIM if rng.uniform() < 0.45 else NEUTRAL if rng.uniform() < 0.7 else CLOTH
    return np.array(colors[rng.integers(len(colors))]) * rng.uniform(0.8, 1.25)


def _cloth(rng: np.random.Generator, color, patterns: tuple[str, ...], chances: tuple[float, ...]) -> Cloth:
    seconds = NEUTRAL + CLOTH
    second = np.array(seconds[rng.integers(len(seconds))])
    return Cloth(str(rng.choice(patterns, p=chances)), np.asarray(color, float).clip(0, 0.9), second, rng.uniform(0.035, 0.09))


def dyed(cloth: Cloth, points: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The albedo (V, 3) of cloth at template points (V, 3); along (V,) runs down the body or the sleeve, metres."""
    x, y, _ = points.T
    turns, size = np.arctan2(points[:, 0], points[:, 2]) * 0.13, cloth.size      # round the body, about as long as metres
    wave = lambda t, period: np.sin(2 * np.pi * t / period) / 0.35               # soft square wave
    patterns: dict[str, Callable[[], np.ndarray]] = {
        "plain": lambda: np.full(len(points), -1.0),
        "stripes": lambda: wave(along, size),
        "pinstripes": lambda: wave(turns, 0.6 * size) - 1.2,
        "checks": lambda: 0.5 * (wave(along, size).clip(-1, 1) + wave(turns, size).clip(-1, 1)),
        "print": lambda: 8 * (1 - np.hypot(x, y - 0.36) / (1.2 * size)) * (points[:, 2] > 0) + (points[:, 2] <= 0) * -9,
        "halves": lambda: (along - 0.16 - 1.2 * size) / 0.006,
        "dots": lambda: wave(along, 0.8 * size) + wave(turns, 0.8 * size) - 3.2,
    }
    second = (0.5 + 0.5 * patterns[cloth.pattern]().clip(-1, 1))[:, None]
    worn = 1 + 0.10 * noise(rng, points, 0.10) + 0.05 * noise(rng, points, 0.03)
    return (cloth.color + (cloth.second - cloth.color) * second) * worn[:, None]


def noise(rng: np.random.Generator, points: np.ndarray, size: float, stretch=(1.0, 1.0, 1.0), waves: int = 6) -> np.ndarray:
    """A smooth field (V,) of mean about 0 and spread about 1 whose bumps are `size` long, longer by `stretch` along an axis."""
    total, points = np.zeros(len(points)), points / np.asarray(stretch)
    for _ in range(waves):
        k, bend = rng.normal(0, 1, 3), rng.normal(0, 1, 3)
        phase, more = rng.uniform(0, 2 * np.pi, 2)
        k, bend = k / np.linalg.norm(k) * np.pi / size, bend / np.linalg.norm(bend) * np.pi / (2.3 * size)
        total += np.cos(points @ k + phase + 1.3 * np.cos(points @ bend + more))
    return total / np.sqrt(waves / 2)
