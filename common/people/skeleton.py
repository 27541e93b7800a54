"""Bones: a person's joints at rest, and the skin posed by rotations about them (linear blend skinning).

A pose is {bone: rotation (3, 3)}, written in the canonical axes of the rest pose: bone b moves by M_b = M_parent T(h_b) R_b T(-h_b) about its
head h_b, and a vertex by the weighted mean of its bones' M. All of the base mesh follows, its helpers too.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from common.people.body import Body

JOINTS = (                                                                    # SMPL's 24 joints in SMPL's order, by the bones that start there
    "root", "upperleg01.L", "upperleg01.R", "spine04", "lowerleg01.L", "lowerleg01.R", "spine03", "foot.L", "foot.R", "spine02",
    "toe1-1.L", "toe1-1.R", "neck01", "clavicle.L", "clavicle.R", "head", "upperarm01.L", "upperarm01.R", "lowerarm01.L", "lowerarm01.R",
    "wrist.L", "wrist.R", "finger3-1.L", "finger3-1.R")


@dataclass(frozen=True)
class Rest:
    """A person at rest, canonical axes, metres: vertices (V, 3) of the whole base mesh, heads {bone: (3,)}, each bone's own axes {bone: (3, 3)}, columns."""

    vertices: np.ndarray
    heads: dict[str, np.ndarray]
    axes: dict[str, np.ndarray]


def rest(body: Body, phenotype: dict[str, float], changes: dict[str, float], expression: dict[str, float]) -> Rest:
    """The person of these shapes (see ``common.people.body.rest_vertices``)."""
    one = lambda values: {name: torch.tensor([value], dtype=body.model.dtype) for name, value in values.items()}
    with torch.no_grad():
        out = body.model(phenotype_kwargs=one(phenotype), local_changes_kwargs=one(changes), facial_actions=one(expression))
    turn = np.array([[1, 0, 0], [0, 0, 1], [0, -1.0, 0]])                      # anny: z up, the face along -y
    vertices, heads, frames = (out[name][0].double().numpy() for name in ("rest_vertices", "rest_bone_heads", "rest_bone_poses"))
    names = body.model.bone_labels
    return Rest(vertices @ turn.T, dict(zip(names, heads @ turn.T)), dict(zip(names, turn @ frames[:, :3, :3])))


def transforms(body: Body, heads: dict[str, np.ndarray], pose: dict[str, np.ndarray]) -> np.ndarray:
    """M (J, 4, 4) of each of the model's bones."""
    result = np.tile(np.eye(4), (len(heads), 1, 1))
    for b, (name, parent) in enumerate(zip(body.model.bone_labels, body.model.bone_parents)):
        local = np.eye(4)
        if name in pose:
            local[:3, :3], local[:3, 3] = pose[name], heads[name] - pose[name] @ heads[name]
        result[b] = (result[parent] if parent >= 0 else np.eye(4)) @ local
    return result


def skinned(body: Body, vertices: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Vertices (V, 3) of the base mesh, moved by their bones' M (J, 4, 4)."""
    weights, bones = body.model.vertex_bone_weights.numpy(), body.model.vertex_bone_indices.numpy()
    result = np.zeros_like(vertices)
    for k in range(weights.shape[1]):
        rows = weights[:, k] > 0
        move = moves[bones[rows, k]]
        result[rows] += weights[rows, k, None] * (np.einsum("vij,vj->vi", move[:, :3, :3], vertices[rows]) + move[:, :3, 3])
    return result


def posed_joints(body: Body, heads: dict[str, np.ndarray], moves: np.ndarray) -> np.ndarray:
    """Where SMPL's 24 joints (24, 3) are."""
    index = {name: b for b, name in enumerate(body.model.bone_labels)}
    return np.stack([moves[index[name], :3, :3] @ heads[name] + moves[index[name], :3, 3] for name in JOINTS])


def bone_share(body: Body, *prefixes: str) -> np.ndarray:
    """How much of each base vertex (V,) hangs on the bones whose names start so, in [0, 1]."""
    wanted = torch.tensor([name.startswith(prefixes) for name in body.model.bone_labels])
    return (body.model.vertex_bone_weights * wanted[body.model.vertex_bone_indices]).sum(-1).numpy()
