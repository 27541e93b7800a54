"""What people wear: a garment that follows the shoulders, glasses, hats."""
from __future__ import annotations

from functools import cache

import numpy as np

from common.people import anatomy, hair
from common.people.persons import Person
from common.people.renderer import vertex_normals
from common.people.shapes import Surface, plain, sheet

NECK_AXIS = 0.020                                                             # z of the template's neck
NECKLINE = (0.562, 0.589, 0.604)                                              # its height in front, at the sides, behind
NECKLINE_SHIFT = {"crew": 0.0, "vee": 0.004, "turtle": 0.034, "scoop": -0.008}
HAT_LINE = ((0, 0.779), (60, 0.768), (100, 0.745), (180, 0.712))
LENS = np.array((0.029, 0.023))                                               # half width and half height of a glass


def clothes(person: Person, vertices: np.ndarray) -> Surface:
    """The body's skin below the neckline, a little thicker; above it, it dips below the skin."""
    skin = anatomy.skin()
    below = below_neckline(person.neckline, skin.template) / np.maximum(_steepness(), 0.2)           # along the skin
    offset = np.clip(1.2 * below, -0.008, 0.007) + 0.004 * np.exp(-(((below - 0.008) / 0.006) ** 2))
    kept = skin.triangles[(offset[skin.triangles] > -0.005).any(1) & (skin.template[skin.triangles, 1] < 0.66).all(1)]
    used, triangles = np.unique(kept, return_inverse=True)
    triangles = triangles.reshape(-1, 3)
    points = vertices[used] + offset[used, None] * vertex_normals(vertices, skin.triangles)[used]
    ribbing = 0.86 + 0.14 * np.clip((below[used, None] - 0.014) / 0.002, 0, 1)
    return plain(points, triangles, anatomy.LABEL["cloth"], person.cloth * ribbing, 0.02)


@cache
def _steepness() -> np.ndarray:
    """The sine of the angle (V,) between the template's skin and the horizontal."""
    skin = anatomy.skin()
    return np.sqrt(1 - vertex_normals(skin.template, skin.triangles)[:, 1] ** 2)


def below_neckline(style: str, points: np.ndarray) -> np.ndarray:
    """How far below the neckline template points (P, 3) lie, metres."""
    x, y, z = points.T
    front, side, back = NECKLINE
    facing = (z - NECK_AXIS) / np.hypot(x, z - NECK_AXIS)
    before = np.clip(2 * facing, 0, 1)
    line = side + np.where(facing > 0, front - side, side - back) * facing * np.abs(facing) ** 0.5 + NECKLINE_SHIFT[style]
    if style == "vee":
        line = line - np.clip(0.060 - 1.3 * np.hypot(x, 0.006), 0, None) * before
    if style == "scoop":
        line = line - 0.045 * np.exp(-((x / 0.055) ** 2)) * before
    return line - y


def hat(person: Person, vertices: np.ndarray) -> list[Surface]:
    """A beanie with a rolled edge, or a cap with a visor."""
    if person.hat is None:
        return []
    grid = hair.scalp()
    above = hair.inside(HAT_LINE, grid)
    roll = 0.006 * (np.clip(above / 0.004, 0, 1) - np.clip((above - 0.032) / 0.004, 0, 1)) if person.hat == "beanie" else 0.0
    dome = 0.014 + 0.006 * np.clip((above - 0.05) / 0.05, 0, 1)
    offset = np.where(above > 0, dome + roll, np.maximum(0.016 + 8 * above, -0.03))
    points = hair.stand_off(grid.points(vertices), offset)
    color = person.cloth[[2, 0, 1]] * (1 + 0.06 * np.sign(np.sin(60 * grid.azimuth)) * (person.hat == "beanie") * np.ones_like(above)).reshape(-1, 1)
    surfaces = [plain(points, hair.covering(points, offset), anatomy.LABEL["hat"], color, 0.03)]
    return surfaces + ([_visor(points, above, grid, color[0])] if person.hat == "cap" else [])


def _visor(points: np.ndarray, above: np.ndarray, grid: hair.Scalp, color: np.ndarray) -> Surface:
    """A cap's visor: from the dome's edge forwards and down, rounded, 4 mm thick."""
    columns = np.flatnonzero(np.abs(grid.azimuth) < np.radians(62))
    row = (above[:, columns] > 0.004).sum(0) - 1
    part = ((above[row, columns] - 0.004) / (above[row, columns] - above[row + 1, columns]))[:, None]
    edge = (1 - part) * points[row, columns] + part * points[row + 1, columns]
    length = 0.050 * np.sqrt(np.clip(1 - (grid.azimuth[columns] / np.radians(62)) ** 2, 0, 1))
    steps = np.linspace(-0.15, 1, 10)[:, None, None]
    flat = edge + steps * length[:, None] * (0, -0.30, 1.0) + (0, -0.012, 0) * (edge[:, [0]] / 0.07) ** 2 * np.clip(steps, 0, 1)
    top, bottom = flat + (0, 0.002, 0), flat - (0, 0.002, 0)
    loop = np.concatenate([bottom[:1], top, bottom[::-1]])
    return plain(loop, sheet(loop, closed=False), anatomy.LABEL["hat"], color)


def glasses(person: Person, base: np.ndarray) -> list[Surface]:
    """Dark glasses in a thick frame: two lenses, a bridge and two arms to the ears, all one label."""
    if not person.glasses:
        return []
    left, right = (part.matrix @ base for part in anatomy.eyes())
    skin = anatomy.skin()
    front = max(left[:, 2].max(), right[:, 2].max()) + 0.016
    centers = [np.array([eye[:, 0].mean(), eye[:, 1].mean() - 0.002, front]) for eye in (left, right)]
    ears = [np.median((skin.matrix @ base)[np.unique(skin.triangles[skin.labels == anatomy.LABEL[f"{side}_ear"]])], axis=0) for side in "lr"]
    pieces = [_lens(center) for center in centers]
    pieces.append(_tube(np.stack([centers[0] - (LENS[0] - 0.004, -0.006, 0), centers[1] + (LENS[0] - 0.004, 0.006, 0)]), 0.0035))
    for center, ear, sign in zip(centers, ears, (1, -1)):
        hinge = center + (sign * (LENS[0] - 0.002), 0.010, -0.004)
        bend = np.array([ear[0], hinge[1] - 0.004, ear[2] + 0.02])
        pieces.append(_tube(np.stack([hinge, hinge + (sign * 0.006, 0, -0.008), bend, ear + (0, 0.012, 0)]), 0.004))
    return [plain(points, triangles, anatomy.LABEL["eye_g"], (0.02, 0.02, 0.025), 0.6) for points, triangles in pieces]


def _lens(center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A rounded rectangle, 5 mm thick, slightly curved round the face."""
    down, around = np.linspace(0, np.pi, 13)[:, None], np.linspace(0, 2 * np.pi, 64, endpoint=False)
    power = lambda values: np.sign(values) * np.abs(values) ** 0.6
    out = np.sin(down) ** 0.3
    x, y, z = np.broadcast_arrays(LENS[0] * power(np.cos(around)) * out, LENS[1] * power(np.sin(around)) * out, 0.0025 * np.cos(down))
    points = np.stack([x, y, z - 0.12 * np.abs(x + center[0]) + 0.12 * abs(center[0])], axis=-1) + center
    return points, sheet(points, closed=True)


def _tube(path: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A round tube along a path (K, 3)."""
    along = np.gradient(path, axis=0)
    along = along / np.linalg.norm(along, axis=1, keepdims=True)
    first = np.cross(along, (0.0, 1.0, 0.0))
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    around = np.linspace(0, 2 * np.pi, 12, endpoint=False)[:, None]
    points = path[:, None] + radius * (np.cos(around) * first[:, None] + np.sin(around) * second[:, None])
    return points, sheet(points, closed=True)
