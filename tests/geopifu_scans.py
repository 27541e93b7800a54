"""Scans that tests of Geo-PIFu's data make in no time: dented, coloured balls as people of scripts/make_people.py lie on disk."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

RADII = np.array([0.25, 0.8, 0.18])


def sphere(radius: float, subdivisions: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A ball about the origin: (vertices, faces)."""
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int64)


def ball(index: int, subdivisions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A stretched ball with bumps of its own, raw metres, far from the origin: (vertices, faces)."""
    mesh = trimesh.creation.icosphere(subdivisions)
    points = np.asarray(mesh.vertices)
    bumps = 1 + 0.12 * np.sin(points @ np.random.default_rng(index).normal(0, 3, 3))
    return points * bumps[:, None] * RADII + (0.5, 1.0, 3.0), np.asarray(mesh.faces, np.int64)


def write_scans(folder: Path, indices=(0,), body: bool = True) -> Path:
    """Scans results_00000_F/0/mesh.obj ..., with the ball's core as the body model underneath."""
    for index in indices:
        vertices, faces = ball(index)
        place = folder / f"DeepHumanDataset/dataset/results_{index:05d}_F/0"
        place.mkdir(parents=True)
        write_obj(place / "mesh.obj", vertices, faces, 0.5 + 0.4 * np.sin(9 * vertices))
        if body:
            center = vertices.mean(0)
            np.savez(place / "body.npz", vertices=(center + 0.8 * (vertices - center)).astype(np.float32), joints=center + 0.5 * (vertices[:24] - center))
    if body:
        part = np.arange(len(faces)) % 24 + 1
        atlas = np.concatenate([part[:, None], np.tile([0.1, 0.2, 0.9, 0.2, 0.5, 0.8], (len(faces), 1))], axis=1).astype(np.float32)
        np.savez(folder / "body_model.npz", faces=faces.astype(np.int32), rest=vertices.astype(np.float32), atlas=atlas)
    return folder


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> None:
    rows = np.concatenate([vertices, colors], axis=1)
    path.write_text("".join("v " + " ".join(f"{x:.6f}" for x in row) + "\n" for row in rows) + "".join(f"f {a} {b} {c}\n" for a, b, c in faces + 1))
