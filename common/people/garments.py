"""Clothes as closed surfaces over a posed body: the base mesh's tights and skirt, which follow every body, pushed outwards where cloth is, with
folds, and below the skin where it is not.

Where a garment ends is drawn on the template: a field in metres, positive inside it. A skirt hangs solid, its lower end hollowed.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from common.people import anatomy
from common.people.body import load_body
from common.people.outfits import Cloth, Outfit, dyed, noise
from common.people.renderer import vertex_normals
from common.people.shapes import Surface, plain
from common.people.skeleton import bone_share
from common.people.solids import boundary, capped, tube_solid
from common.people.wear import below_neckline

SUNK = -0.016                                                                 # how deep tights lie where nothing is worn, metres
WAIST = 0.135
ARM = ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")               # bones
CLOTH, SHOE = anatomy.LABEL["cloth"], anatomy.LABEL["ear_r"]


@dataclass(frozen=True)
class Shell:
    """A closed helper surface: vertices = matrix @ base vertices; triangles; on the template: points (V, 3), arm, leg and foot shares (V,),
    reach (V,) from the shoulder along the arm, along (V,), down the body or the arm."""

    matrix: Any
    triangles: np.ndarray
    points: np.ndarray
    arm: np.ndarray
    foot: np.ndarray
    reach: np.ndarray
    along: np.ndarray


@dataclass(frozen=True)
class Base:
    """The posed base mesh: vertices (V, 3), its bones' moves (J, 4, 4), the colour of its skin (3,)."""

    vertices: np.ndarray
    moves: np.ndarray
    skin: np.ndarray


@cache
def tights() -> Shell:
    """The tights, closed at neck and wrists."""
    body = load_body()
    matrix, quads, _ = anatomy.finer(body, body.quads["helper-tights"], None, 2)
    matrix, triangles = capped(matrix, anatomy.triangulated(quads))
    points = matrix @ body.template
    arm = matrix @ bone_share(body, *ARM)
    foot = matrix @ bone_share(body, "foot", "toe")
    shoulder, elbow, wrist = (body.template[np.unique(body.quads[f"joint-l-{name}"])].mean(0) for name in ("shoulder", "elbow", "hand"))
    left = points * np.where(points[:, :1] < 0, (-1, 1, 1), 1)
    beyond = np.linalg.norm(elbow - shoulder) + _along(left, elbow, wrist)
    reach = np.where((left - elbow) @ (wrist - shoulder) < 0, _along(left, shoulder, elbow), beyond)
    return Shell(matrix, triangles, points, arm, foot, reach, np.where(arm > 0.5, reach, 0.53 - points[:, 1]))


def _along(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    return (points - start) @ (end - start) / np.linalg.norm(end - start)


@cache
def skirt() -> tuple[Any, np.ndarray, np.ndarray]:
    """(matrix, rows (R, C) of its vertices from the waist down, template points): the skirt as a tube."""
    body = load_body()
    matrix, quads, _ = anatomy.finer(body, body.quads["helper-skirt"], None, 2)
    points = matrix @ body.template
    loops = sorted(boundary(anatomy.triangulated(quads)), key=lambda loop: -points[loop, 1].mean())
    return matrix, _rows(quads, loops[0]), points


def _rows(quads: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The vertices of a tube of quads row by row, columns below one another, from its upper border on."""
    below = {(quad[k], quad[(k + 1) % 4]): quad[(k + 3) % 4] for quad in quads.tolist() for k in range(4)}
    rows = [top.tolist()]
    while (rows[-1][0], rows[-1][1]) in below:
        rows.append([below[edge] for edge in zip(rows[-1], rows[-1][1:] + rows[-1][:1])])
    return np.array(rows)


def ramp(field: np.ndarray, width: float) -> np.ndarray:
    """0 below 0, 1 above `width`, smooth between."""
    t = np.clip(field / width, 0, 1)
    return t * t * (3 - 2 * t)


def worn(rng: np.random.Generator, base: Base, field: np.ndarray, stand_off: np.ndarray | float, cloth: Cloth, band: float = 0.015) -> Surface:
    """Cloth over the tights: `stand_off` (V,) metres where the field (V,) is positive, with darker hems; elsewhere sunk, in the skin's colour."""
    shell = tights()
    vertices = shell.matrix @ base.vertices
    offset = SUNK + (stand_off - SUNK) * ramp(field + 0.004, 0.008)
    normals = vertex_normals(vertices, shell.triangles)
    color = dyed(cloth, shell.points, shell.along, rng) * (1 - 0.18 * ((field > 0) & (field < band)))[:, None]
    color = np.where((field > -0.004)[:, None], color, base.skin)
    return plain(vertices + offset[:, None] * normals, shell.triangles, CLOTH, color.clip(0, 1))


def folds(rng: np.random.Generator, depth: float) -> np.ndarray:
    """Creases (V,) of the tights, metres, outwards: long ones down the limbs, rings where elbows, knees and hips bend."""
    shell = tights()
    long = noise(rng, shell.points, 0.045, stretch=(1, 3.0, 1)) + 0.5 * noise(rng, shell.points, 0.025, stretch=(1, 2.0, 1))
    drift = 0.35 * noise(rng, shell.points, 0.08)
    rings = lambda at, spread, period: np.exp(-((at / spread) ** 2)) * np.cos(2 * np.pi * at / period + 2.5 * drift)
    elbow = shell.arm * rings(shell.reach - 0.235, 0.07, 0.034)
    low = 1 - shell.arm
    at = lambda y, spread, period: low * rings(shell.points[:, 1] - y, spread, period)
    knee, ankle, crotch, waist = at(-0.37, 0.08, 0.045), at(-0.72, 0.07, 0.04), at(0.0, 0.06, 0.05), at(0.17, 0.07, 0.05)
    return depth * (np.clip(0.45 * long + 0.25, -0.4, 1.2) + 0.55 * (elbow + knee + ankle) + 0.35 * (crotch + waist))


def top(rng: np.random.Generator, outfit: Outfit, base: Base) -> Surface:
    """Shirt, pullover or the upper part of a dress or suit."""
    shell = tights()
    y, body = shell.points[:, 1], 1 - ramp(shell.arm - 0.3, 0.4)
    hem = 0.10 if outfit.tucked else outfit.hem + 0.01 * noise(rng, shell.points, 0.15)
    field = np.minimum(below_neckline(outfit.neckline, shell.points), np.where(shell.arm > 0.5, outfit.sleeve - shell.reach, y - hem))
    hang = body * np.clip((0.34 - y) / 0.30, 0, 1) * (0.3 if outfit.tucked else 1.0)
    sleeve = shell.arm * np.clip(shell.reach / 0.2, 0, 1)
    return worn(rng, base, field, 0.006 + outfit.loose * (0.35 + 0.65 * np.maximum(hang, sleeve)) + folds(rng, 0.30 * outfit.loose + 0.002), outfit.top)


def _waist(outfit: Outfit) -> float:
    """The template's height at which trousers or a skirt begin: a loose shirt hides what is above its hem."""
    return WAIST if outfit.tucked else min(WAIST, outfit.hem + 0.04)


def trousers(rng: np.random.Generator, outfit: Outfit, base: Base) -> Surface:
    """Trousers or shorts, wider towards their hems."""
    shell = tights()
    y = shell.points[:, 1]
    field = np.where(shell.arm > 0.5, -0.1, np.minimum(_waist(outfit) - y, y - outfit.bottom_hem))
    wide = outfit.width * np.clip((0.0 - y) / 0.25, 0, 1)
    return worn(rng, base, field, (0.010 if outfit.tucked else 0.004) + wide + folds(rng, 0.003 + 0.20 * outfit.width), outfit.below, band=0.03)


def coat(rng: np.random.Generator, outfit: Outfit, base: Base) -> list[Surface]:
    """A coat, open in front or closed: its upper part over the tights, its lower part over the skirt."""
    shell = tights()
    x, y, z = shell.points.T
    wide = outfit.open_front * (1 + 0.8 * np.clip((0.35 - y) / 0.5, 0, 1))
    front = np.where((z > 0.0) & (shell.arm < 0.3), np.abs(x) - wide, 1.0)
    long = outfit.coat_hem < 0
    end = np.where(shell.arm > 0.5, 0.45 - shell.reach, y - (0.10 if long else outfit.coat_hem))
    field = np.minimum(np.minimum(below_neckline("crew", shell.points) + 0.010, front), end)
    upper = worn(rng, base, field, 0.026 + 0.008 * np.clip((0.4 - y) / 0.3, 0, 1) + folds(rng, 0.006), outfit.coat)
    return [upper] + ([tube(rng, base, outfit.coat, 0.16, outfit.coat_hem, 0.034, outfit.open_front)] if long else [])


def tube(rng: np.random.Generator, base: Base, cloth: Cloth, waist: float, hem: float, stand_off: float, open_front: float = 0.0) -> Surface:
    """A skirt from the template's height `waist` down to `hem`, hanging in folds that deepen downwards, solid; open in front where a width is given."""
    matrix, rows, points = skirt()
    rows = rows[: max(int((points[rows, 1].mean(1) > hem).sum()), 6)]
    vertices, template = (matrix @ base.vertices)[rows], points[rows]
    middle = vertices.mean(1, keepdims=True)
    spokes = vertices - middle
    outward = spokes / np.linalg.norm(spokes, axis=-1, keepdims=True)
    down = np.clip((0.17 - template[..., 1]) / 0.5, 0, 1)
    turn = np.arctan2(template[..., 0], template[..., 2])
    pleats = sum(np.cos(k * turn + rng.uniform(0, 6) + 0.6 * np.sin(3 * down + rng.uniform(0, 6))) / k**0.5 for k in rng.integers(5, 17, 4))
    offset = SUNK + (stand_off - SUNK) * ramp(waist - template[..., 1], 0.05) + 0.004 * down + 0.012 * pleats * down**1.2 * rng.uniform(0.5, 1.2)
    if open_front:
        gap = ramp(open_front * 2.2 + 0.02 * down - np.abs(template[..., 0]), 0.015) * (template[..., 2] > 0)
        offset = offset - 0.6 * np.linalg.norm(spokes, axis=-1) * gap
    shape = vertices + offset[..., None] * outward
    color = dyed(cloth, template.reshape(-1, 3), (0.53 - template[..., 1]).reshape(-1), rng).reshape(*rows.shape, 3)
    color[-2:] *= 0.82
    return plain(*tube_solid(shape, hollow=0.10), CLOTH, np.concatenate([color.reshape(-1, 3), color[0, :1], 0.4 * color[-1, :1]]).clip(0, 1))


def shoes(rng: np.random.Generator, outfit: Outfit, base: Base) -> Surface:
    """Shoes on soles, or boots."""
    shell, body = tights(), load_body()
    y = shell.points[:, 1]
    field = np.where(shell.foot > 0.02, outfit.shaft - y, -0.1) if outfit.shaft < -0.72 else np.where(shell.arm < 0.5, outfit.shaft - y, -0.1)
    surface = worn(rng, base, field, 0.009 + 0.002 * noise(rng, shell.points, 0.03), Cloth("plain", outfit.shoe, outfit.shoe, 1.0), band=0.01)
    sole = ramp(-0.793 - y, 0.010) * (field > 0)
    left, right = (base.moves[body.model.bone_labels.index(f"foot.{side}"), :3, :3] @ (0, -1.0, 0) for side in "LR")
    down = np.where(shell.points[:, :1] > 0, left, right)
    color = np.where((y < -0.800)[:, None], outfit.sole, surface.albedo)
    return plain(surface.vertices + 0.016 * sole[:, None] * down, surface.triangles, SHOE, color, 0.1)


def stretched_over(outfit: Outfit, colors: np.ndarray, points: np.ndarray, arm: np.ndarray, coat_alone: bool = False) -> np.ndarray:
    """Colours (V, 3) of what is worn or bare at template points (V, 3), in the cloth's where a skirt or closed coat hides it: a knee that comes through."""
    covers = [] if coat_alone else [(outfit.below, _waist(outfit), outfit.bottom_hem)]
    if outfit.coat and outfit.coat_hem < 0 and not outfit.open_front:
        covers.append((outfit.coat, 0.30, outfit.coat_hem))
    for cloth, upper, hem in covers:
        hidden = (arm < 0.5) & (points[:, 1] < upper) & (points[:, 1] > hem + 0.03)
        colors = np.where(hidden[:, None], cloth.color, colors)
    return colors


def clothes(rng: np.random.Generator, outfit: Outfit, base: Base) -> list[Surface]:
    """All that a person wears below the neck."""
    if outfit.bottom == "skirt":
        lower = tube(rng, base, outfit.below, _waist(outfit), outfit.bottom_hem, 0.008)
    else:
        lower, shell = trousers(rng, outfit, base), tights()
        lower = replace(lower, albedo=stretched_over(outfit, lower.albedo, shell.points, shell.arm, coat_alone=True))
    layers = [top(rng, outfit, base), lower, shoes(rng, outfit, base)]
    return layers + (coat(rng, outfit, base) if outfit.coat else [])
