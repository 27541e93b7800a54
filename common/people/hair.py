"""Hair as one swept sheet over the scalp: rows run from the crown downwards, columns round the head, as hair does.

Each grid point belongs to a fixed place of the skin, found once on the template, so the sheet follows every head. A style says how far
the sheet stands off the skin; outside the hairline it dips below, so that the hairline is where two smooth surfaces meet. Long hair goes on
from the widest row straight down, open in front of the face.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from common.people import anatomy
from common.people.persons import Person, generator
from common.people.shapes import Surface, plain, sheet
from common.raycast import build, first_hits

ROWS, COLUMNS = 80, 256
MIDDLE = np.array([0.0, 0.735, 0.050])                                        # of the template's skull
LOWEST_ANGLE = np.radians(138)                                               # from straight up: the nape
SHOULDERS = 0.600                                                             # below this height the template grows no hair
HANG_ROW = int(ROWS * np.radians(93) / LOWEST_ANGLE)                          # where long hair leaves the skull
HANG_ROWS = 48
THICKNESS = {                                                                 # on top; over what height above the hairline it grows to that
    "cropped": (0.005, 0.008), "short": (0.018, 0.016), "volume": (0.031, 0.040), "bun": (0.012, 0.012), "bob": (0.022, 0.014), "long": (0.020, 0.014)}
HANGING = {"bob": ((-0.105, -0.080), (-0.04, 0.14)), "long": ((-0.140, -0.122), (0.24, 0.34))}      # heights of the tips; how much narrower there
OPENINGS = (59.0, 106.0)                                                      # of hanging hair, degrees from the face: before or behind the ears
GLOSS = 0.22
DIP = 0.012                                                                   # triangles deeper than this below the skin are dropped
HAIRLINE = (                                                                  # degrees from the face, height
    (0, 0.803), (28, 0.801), (45, 0.790), (58, 0.766), (66, 0.722), (73, 0.718), (80, 0.744), (99, 0.746), (108, 0.700), (125, 0.672), (180, 0.664))


@dataclass(frozen=True)
class Scalp:
    """The grid on the template: places, a sparse matrix (ROWS * COLUMNS, V) over the skin's vertices; heights (ROWS, COLUMNS), metres;
    azimuth (COLUMNS,), radians from the face, positive towards +x."""

    places: object
    heights: np.ndarray
    azimuth: np.ndarray

    def points(self, vertices: np.ndarray) -> np.ndarray:
        """The grid's places (ROWS, COLUMNS, 3) on a person's skin."""
        return (self.places @ vertices).reshape(ROWS, COLUMNS, 3)


@cache
def scalp() -> Scalp:
    """Where rays from outside towards the middle of the skull meet the skin; across the ears, which are left out, neighbours fill in."""
    import scipy.sparse as sp

    skin = anatomy.skin()
    ears = np.isin(skin.labels, [anatomy.LABEL["l_ear"], anatomy.LABEL["r_ear"]])
    bare = skin.triangles[~ears & (skin.template[skin.triangles, 1].min(1) > SHOULDERS)]
    angle, azimuth = np.linspace(0, LOWEST_ANGLE, ROWS)[:, None], np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False)
    outward = np.stack(np.broadcast_arrays(np.sin(angle) * np.sin(azimuth), np.cos(angle), np.sin(angle) * np.cos(azimuth)), axis=-1).reshape(-1, 3)
    tensor = lambda array: torch.tensor(array, dtype=torch.float32)
    hits = first_hits(build(tensor(skin.template), torch.from_numpy(bare)), tensor(MIDDLE + 0.5 * outward), tensor(-outward), 0.47)
    rows = np.repeat(np.arange(len(outward)), 3)
    places = sp.csr_matrix((hits.barycentric.numpy().reshape(-1), (rows, bare[hits.faces.numpy()].reshape(-1))), shape=(len(outward), len(skin.template)))
    places = _fill((hits.faces >= 0).numpy().reshape(ROWS, COLUMNS)) @ places
    heights = (places @ skin.template)[:, 1].reshape(ROWS, COLUMNS)
    return Scalp(places.tocsr(), heights, azimuth)


def _fill(found: np.ndarray):
    """The sparse matrix (R C, R C) that fills each row's gaps from the two ends of the gap."""
    import scipy.sparse as sp

    count = found.shape[1]
    entries = []
    for row, line in enumerate(found):
        known = np.flatnonzero(line)
        after = np.searchsorted(known, np.arange(count))
        left, right = known[after - 1], known[after % len(known)]
        exact = known[np.minimum(after, len(known) - 1)] == np.arange(count)
        span = np.maximum((right - left) % count, 1)
        weight = np.where(exact, 1.0, ((np.arange(count) - left) % count) / span)
        entries += [(row * count + j, row * count + place, value) for j in range(count) for place, value in ((right[j], weight[j]), (left[j], 1 - weight[j]))]
    rows, columns, values = np.array(entries).T
    return sp.csr_matrix((values, (rows.astype(int), columns.astype(int))), shape=(found.size, found.size))


def inside(line, scalp_: Scalp) -> np.ndarray:
    """How far above a line ((degrees, height), ...) round the template's head each grid point lies (ROWS, COLUMNS), metres."""
    from scipy.interpolate import PchipInterpolator

    return scalp_.heights - PchipInterpolator(*np.array(line, dtype=float).T)(np.degrees(np.abs(scalp_.azimuth)))


def stand_off(points: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Points moved away from the middle of the head by `offset` (R, C) metres."""
    middle = points[HANG_ROW].mean(0)
    spokes = points - middle
    return points + offset[..., None] * spokes / np.linalg.norm(spokes, axis=-1, keepdims=True)


def covering(points: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The triangles of a closed sheet of points (R, C, 3), but for those that lie deeper than DIP below the skin."""
    triangles = sheet(points, closed=True)
    return triangles[(offset.reshape(-1)[triangles] > -DIP).any(1)]


def strands(rng: np.random.Generator, azimuth: np.ndarray, rows: int) -> np.ndarray:
    """Streaks (rows, C) of mean 0 and spread about 1 that run down the sheet and drift sideways a little."""
    down = np.linspace(0, 1, rows)[:, None]
    total = np.zeros((rows, len(azimuth)))
    for frequency in (9, 17, 23, 37, 53, 71, 97):
        phase, drift = rng.uniform(0, 2 * np.pi), rng.normal(0, 1)
        total += np.cos(frequency * (azimuth + 0.05 * drift * np.sin(2.5 * down + phase)) + phase)
    return total / np.sqrt(3.5) * np.clip(4 * down, 0, 1)


def hair(person: Person, vertices: np.ndarray) -> list[Surface]:
    """The hair on a person's skin vertices; nothing for the bald."""
    style = person.hair_style
    if style == "bald":
        return []
    rng, grid = generator(person.seed, person.index, "hair"), scalp()
    skin = grid.points(vertices)
    opening = float(rng.choice(OPENINGS))
    streaks = strands(rng, grid.azimuth, HANG_ROW + HANG_ROWS + 1)
    offset = _offset(rng, person, grid, streaks[:ROWS], over_ears=style in HANGING and opening < 90)
    outer = stand_off(skin, offset)
    if style in HANGING:
        outer, offset = _hang(rng, HANGING[style], np.radians(opening), grid.azimuth, outer, offset, streaks)
    color = person.hair * np.clip(1 + 0.22 * streaks[:len(outer)], 0.4, 1.8).reshape(-1, 1)
    surfaces = [plain(outer, covering(outer, offset), anatomy.LABEL["hair"], color, GLOSS)]
    return surfaces + ([_bun(rng, skin, person.hair)] if style == "bun" and not person.hat else [])


def _offset(rng: np.random.Generator, person: Person, grid: Scalp, streaks: np.ndarray, over_ears: bool) -> np.ndarray:
    """How far hair stands off the skin (ROWS, COLUMNS), metres, negative outside the hairline."""
    top, root = THICKNESS[person.hair_style]
    top = min(top * rng.uniform(0.85, 1.2), 0.010 if person.hat else 1.0)
    height = inside(_hairline(rng, person.hair_style, over_ears), grid) + 0.0015 * streaks
    down = np.linspace(0, 1, ROWS)[:, None]
    off_crown = np.clip(4 * down, 0, 1)                                       # at the crown all columns meet: nothing may depend on the azimuth
    swell = 1 + 0.10 * streaks + 0.25 * off_crown * np.sin(grid.azimuth + rng.uniform(-1, 1)) * rng.uniform(-1, 1)
    if person.hair_style == "short":
        swell = swell * (1 - 0.6 * np.clip(3 * down - 0.9, 0, 1))             # shorter at the sides and the back
    if person.hair_style == "volume":
        swell = swell + 0.05 * off_crown * _curls(rng, grid)
    offset = np.where(height > 0, top * swell * (1 - np.exp(-height / root)), np.maximum(1.5 * height, -0.03))
    if over_ears:
        beside = (np.degrees(np.abs(grid.azimuth)) - 92) / 20
        offset = offset + 0.014 * np.clip(1 - beside**2, 0, 1) * np.clip((0.80 - grid.heights) / 0.05, 0, 1)
    return offset


def _hairline(rng: np.random.Generator, style: str, over_ears: bool) -> list[tuple[float, float]]:
    """The hairline, moved a little; a fringe over the forehead for some; over the ears or round them."""
    up = rng.normal(0, 0.004)
    fringe = style in ("bob", "long", "short") and rng.uniform() < 0.35
    front = lambda degrees, height: min(height, 0.772) if fringe and degrees < 50 else height + up * (degrees < 60)
    return [(degrees, 0.690 if over_ears and 62 < degrees < 120 else front(degrees, height)) for degrees, height in HAIRLINE]


def _curls(rng: np.random.Generator, grid: Scalp) -> np.ndarray:
    """Bumps (ROWS, COLUMNS) of mean 0."""
    down = np.linspace(0, LOWEST_ANGLE, ROWS)[:, None]
    return sum(np.cos(a * down + rng.uniform(0, 6)) * np.cos(b * grid.azimuth + rng.uniform(0, 6)) for a, b in ((14, 11), (19, 17), (25, 8)))


def _hang(rng: np.random.Generator, cut: tuple, opening: float, azimuth: np.ndarray, outer: np.ndarray, offset: np.ndarray, streaks: np.ndarray):
    """(points, offsets) of the sheet with all rows below HANG_ROW replaced by hair that falls straight down, open in front, closed at the tips."""
    (lowest, highest), (least, most) = cut
    tips, taper = rng.uniform(lowest, highest), rng.uniform(least, most)
    edge, hanging = outer[HANG_ROW], streaks[HANG_ROW + 1:-1]
    axis = edge.mean(0) * (1, 0, 1)
    spokes = (edge - axis) * (1, 0, 1)
    down = np.linspace(0, 1, HANG_ROWS)[1:, None]
    wave = 0.004 * np.sin(9 * down + 2 * np.sin(3 * azimuth)) * down + 0.0020 * np.minimum(4 * down, 1) * hanging
    reach = 1 - taper * down + wave / np.linalg.norm(spokes, axis=1)
    closed = np.clip((np.abs(azimuth) - opening + 0.10 * down) / 0.06, 0, 1)
    closed = closed * closed * (3 - 2 * closed)                               # 1 where hair hangs, 0 before the face, where the sheet is inside the neck
    reach = 0.08 + (reach - 0.08) * closed
    height = edge[:, 1] + (tips + 0.006 * hanging[-1] - edge[:, 1]) * down
    fall = axis + reach[..., None] * spokes + height[..., None] * (0, 1, 0)
    bottom = fall[-1:] + 0.7 * (axis - fall[-1:]) * (1, 0, 1)
    kept = np.where(closed > 0, 0.0, -1.0)
    return np.concatenate([outer[:HANG_ROW + 1], fall, bottom]), np.concatenate([offset[:HANG_ROW + 1], kept, kept[-1:]])


def _bun(rng: np.random.Generator, skin: np.ndarray, hair_color: np.ndarray) -> Surface:
    """A knot of hair on the top or the back of the head."""
    row = int(ROWS * rng.choice([0.26, 0.40, 0.52]))
    size = rng.uniform(0.026, 0.034)
    anchor = skin[row, 0]                                                     # column 0 looks backwards
    outward = anchor - skin[HANG_ROW].mean(0)
    outward = outward / np.linalg.norm(outward)
    down, around = np.linspace(0, np.pi, 40)[:, None], np.linspace(0, 2 * np.pi, 80, endpoint=False)
    twist = 1 + 0.03 * np.sin(10 * around + 5 * down)
    ball = np.stack(np.broadcast_arrays(1.1 * np.sin(down) * np.sin(around), 0.9 * np.cos(down), np.sin(down) * np.cos(around)), axis=-1)
    ball = ball * (size * twist)[..., None]
    vertices = anchor + outward * 0.6 * size + ball
    color = hair_color * np.clip(1 + 0.3 * np.sin(20 * around + 10 * down), 0.5, 1.6).reshape(-1, 1)
    return plain(vertices, sheet(vertices, closed=True), anatomy.LABEL["hair"], color, GLOSS)
