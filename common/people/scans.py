"""Clothed bodies as THUman's scans lie on disk: dataset/results_00012_F/0/mesh.obj, metres, x right, y down, z away from the camera.

    mesh.obj            v x y z r g b (colours as a picture shows them, 0 to 1), f a b c from 1
    body.npz            vertices (B, 3) of the body underneath and joints (24, 3), in SMPL's order, in the scan's frame
    body_model.npz      once, in the top folder: faces (F, 3), rest (B, 3), the template's vertices, y up, and atlas (F, 7), part 1..24, U0 V0 U1 V1 U2 V2
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from common.files import replacing
from common.meshes import Mesh
from common.people import anatomy
from common.people.bodies import Clothed
from common.people.body import load_body
from common.people.persons import Person
from common.people.skeleton import JOINTS

DATASET = "DeepHumanDataset/dataset"
FLIP = np.array([1.0, -1.0, -1.0])                                            # from the canonical axes to a scan's, and back
DIMMED = 0.62                                                                 # room for the several lights that renderers of scans add up


def scan_folder(out: Path, person: Person, frame: int) -> Path:
    """Where a person's pose stands."""
    return out / DATASET / f"results_{person.index:05d}_{'M' if person.phenotype['gender'] >= 0.5 else 'F'}" / str(frame)


def write_scan(place: Path, body: Clothed) -> None:
    """mesh.obj and body.npz of a clothed body."""
    colors = DIMMED * body.colors ** (1 / 2.2)
    rows = np.concatenate([body.vertices * FLIP, colors], axis=1)
    lines = [f"v {x:.5f} {y:.5f} {z:.5f} {r:.3f} {g:.3f} {b:.3f}\n" for x, y, z, r, g, b in rows.tolist()]
    faces = [f"f {a} {b} {c}\n" for a, b, c in (body.faces + 1).tolist()]
    (place / "mesh.obj").write_text("".join(lines + faces))
    np.savez(place / "body.npz", vertices=(body.body * FLIP).astype(np.float32), joints=body.joints * FLIP)


def upright(mesh: Mesh) -> Mesh:
    """A scan's mesh with y up, facing +z, of height 1 about the origin."""
    points = mesh.vertices * FLIP
    low, high = points.min(0), points.max(0)
    return Mesh(((points - (low + high) / 2) / (high - low)[1]).astype(np.float32), mesh.faces, mesh.colors)


def write_body_model(path: Path) -> None:
    """What all bodies share, whole or not there."""
    body = load_body()
    quads = np.unique(body.quads["body"], return_inverse=True)[1].reshape(-1, 4)
    corners = np.stack([body.textures[:, [0, 1, 2]], body.textures[:, [0, 2, 3]]], axis=1).reshape(-1, 6)
    parts = _parts()[body.quads["body"]].max(1)
    rest = body.template[np.unique(body.quads["body"])]
    atlas = np.concatenate([np.repeat(parts, 2)[:, None], corners], axis=1).astype(np.float32)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, faces=anatomy.triangulated(quads).astype(np.int32), rest=rest.astype(np.float32), atlas=atlas)


def _parts() -> np.ndarray:
    """The part 1..24 of each base vertex (V,): the joint above the bone that moves it most."""
    model = load_body().model
    part = []
    for name, parent in zip(model.bone_labels, model.bone_parents):
        part.append(JOINTS.index(name) + 1 if name in JOINTS else part[parent])
    bones = model.vertex_bone_indices.gather(1, model.vertex_bone_weights.argmax(1, keepdim=True))[:, 0]
    return np.array(part)[bones.numpy()]
