"""A head and what it wears: a person's skin, eyes, teeth, hair, clothes, glasses and hat as one scene of labelled, coloured triangles.

Canonical frame: metres, y up, the face along +z, the origin in the middle of the bare head between crown and chin. Heads are brought to
nearly one size there, so that children and giants fill a picture alike.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.people import anatomy, hair, wear
from common.people.body import load_body, rest_vertices
from common.people.persons import Person, generator
from common.people.renderer import Scene
from common.people.shapes import Surface, join, squeeze

WHITE, PUPIL, TEETH, TONGUE, INSIDE = (0.80, 0.78, 0.75), (0.006, 0.006, 0.006), (0.80, 0.76, 0.66), (0.50, 0.13, 0.12), (0.16, 0.03, 0.03)
HEIGHT, HEIGHT_SPREAD = 0.235, 0.03                                           # from crown to chin; relative, either way
IRIS_ANGLE, PUPIL_ANGLE = 0.50, 0.20                                          # radians, seen from the eyeball's middle


def head_scene(person: Person) -> Scene:
    """The head of a person down to the shoulders, in the canonical frame."""
    skin = anatomy.skin()
    base = rest_vertices(load_body(), person.phenotype, person.changes, person.expression)
    calm = skin.matrix @ rest_vertices(load_body(), person.phenotype, person.changes, {})
    scale, middle = framing(calm, skin, person)
    base = scale * (base - middle)
    vertices = skin.matrix @ base
    parts = [Surface(vertices, skin.triangles, skin.labels, skin_colors(person, skin), np.full(len(vertices), 0.06))]
    parts += [eye(part, base, person) for part in anatomy.eyes()]
    parts += [_inside(part, base, color) for part, color in zip(anatomy.mouth(), (TEETH, TEETH, TONGUE))]
    parts += [wear.clothes(person, vertices), *_drawn_in(hair.hair(person, vertices)), *_drawn_in(wear.hat(person, vertices)), *wear.glasses(person, base)]
    return join(parts)


def framing(calm: np.ndarray, skin: anatomy.Skin, person: Person) -> tuple[float, np.ndarray]:
    """(scale, middle): scale (point - middle) puts the middle of the calm head into the origin, its height near HEIGHT; calm (V, 3) is its skin."""
    _, y, z = skin.template.T
    crown, chin = calm[y > 0.76, 1].max(), calm[(np.abs(y - 0.625) < 0.015) & (z > 0.12), 1].min()
    depth = calm[y > 0.76, 2]
    middle = np.array([0.0, 0.5 * (crown + chin), 0.5 * (depth.max() + depth.min())])
    size = HEIGHT * (1 + HEIGHT_SPREAD * generator(person.seed, person.index, "size").uniform(-1, 1))
    return size / (crown - chin), middle


def skin_colors(person: Person, skin: anatomy.Skin) -> np.ndarray:
    """Albedo (V, 3): the skin's colour, redder at cheeks, nose tip and ears, with lips and brows."""
    x, y, z = skin.template.T
    near = lambda cx, cy, cz, size: np.exp(-((np.abs(x) - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * size**2))
    blush = 0.8 * near(0.045, 0.690, 0.125, 0.016) + 0.7 * near(0, 0.678, 0.165, 0.010) + 0.5 * near(0.075, 0.71, 0.05, 0.02)
    mix = lambda a, b, weight: a + (np.asarray(b) - a) * weight[:, None]
    color = mix(np.tile(person.skin, (len(x), 1)), person.skin * (1.0, 0.72, 0.70), np.clip(blush, 0, 1))
    color = mix(color, person.skin * (0.84, 0.50, 0.52), skin.lip)
    color = mix(color, 0.35 * person.skin * (1, 0.8, 0.8), skin.lid)
    color = mix(color, INSIDE, skin.inside * (1 - skin.lip))
    return mix(color, 0.5 * np.minimum(person.hair, 0.16), 0.85 * skin.brow)


def _drawn_in(surfaces: list[Surface]) -> list[Surface]:
    """Hair or a hat, kept within reach of the head."""
    return [replace(surface, vertices=squeeze(surface.vertices)) for surface in surfaces]


def _inside(part: anatomy.Part, base: np.ndarray, color: tuple) -> Surface:
    """Teeth or tongue, darker towards the throat."""
    light = np.clip((part.template[:, 2:] - 0.100) / 0.040, 0.06, 1)
    return Surface(part.matrix @ base, part.triangles, part.labels, color * light, np.full(len(light), 0.25))


def eye(part: anatomy.Part, base: np.ndarray, person: Person) -> Surface:
    """An eyeball with iris and pupil about its axis."""
    vertices = part.matrix @ base
    spokes = part.template - part.template.mean(0)
    angle = np.arctan2(np.hypot(spokes[:, 0], spokes[:, 1]), spokes[:, 2])
    edge = lambda at: np.clip((at - angle) / 0.04 + 0.5, 0, 1)[:, None]
    color = np.array(WHITE) + (person.iris - WHITE) * edge(IRIS_ANGLE)
    color = color * (1 - 0.6 * edge(IRIS_ANGLE) * (1 - edge(IRIS_ANGLE - 0.08)))          # a darker rim
    color = color + (np.array(PUPIL) - color) * edge(PUPIL_ANGLE)
    return Surface(vertices, part.triangles, part.labels, color, np.full(len(vertices), 0.9))
