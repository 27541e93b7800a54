"""Labelled, coloured triangles, and the shapes that clothes, hats and hair are made of."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.people.renderer import Scene

REACH, FREE = 0.155, 0.132                                                    # metres: hair and hats end at the one, and stay as made within the other


@dataclass(frozen=True)
class Surface:
    """vertices (V, 3), triangles (F, 3), labels (F,), albedo (V, 3), gloss (V,)."""

    vertices: np.ndarray
    triangles: np.ndarray
    labels: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray


def join(surfaces: list[Surface]) -> Scene:
    """One scene of several surfaces, which stay apart: no normal is smoothed across two of them."""
    offsets = np.cumsum([0] + [len(s.vertices) for s in surfaces])
    faces = np.concatenate([s.triangles + offset for s, offset in zip(surfaces, offsets)])
    stack = lambda name, kind=np.float32: np.concatenate([getattr(s, name) for s in surfaces]).astype(kind)
    return Scene(stack("vertices"), faces.astype(np.int64), stack("labels", np.uint8), stack("albedo"), stack("gloss"))


def sheet(points: np.ndarray, closed: bool) -> np.ndarray:
    """Triangles of a grid of points (R, C, 3), facing the viewer who sees rows go down and columns to the right; `closed`: the last column meets the first."""
    rows, columns = points.shape[:2]
    ids = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(ids, -1, axis=1)
    quads = np.stack([ids[:-1], ids[1:], right[1:], right[:-1]], axis=-1)
    quads = (quads if closed else quads[:, :-1]).reshape(-1, 4)
    return quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)


def squeeze(points: np.ndarray) -> np.ndarray:
    """Points (..., 3) of the canonical frame drawn softly inside the sphere of radius REACH about its origin; most of them stay where they are."""
    distance = np.linalg.norm(points, axis=-1, keepdims=True)
    room = REACH - FREE
    return points * np.where(distance > FREE, (FREE + room * np.tanh((distance - FREE) / room)) / np.maximum(distance, FREE), 1.0)


def plain(points: np.ndarray, triangles: np.ndarray, label: int, color: np.ndarray, gloss: float = 0.0) -> Surface:
    """A surface of one label and gloss; color (3,) or (V, 3)."""
    vertices = points.reshape(-1, 3)
    return Surface(vertices, triangles, np.full(len(triangles), label), np.broadcast_to(color, vertices.shape), np.full(len(vertices), gloss))
