"""Posed bodies as conditions: from where they stand back to the canonical pose, and how far points are from their skin (OrthoPlanes, conditional generation).

    condition = read_conditions(["000006.pickle"])                           of SHHQ-40K-SMPL, of `export_pose`, or made of any skinned mesh
    body = Body.of(condition, faces)                                         once per pose
    canonical = body.canonical(points)                                       inverse linear blend skinning by the nearest vertex
    gap = body.squared_distance(points)                                      to the mesh, negative inside

Squared distances are what the release takes for distances; thresholds here are on squares too. The nearest vertex and point carry no gradient.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import proximity
from common.chunks import in_chunks
from common.errors import InputError
from common.published import read_pickle

FAR = 0.1                                                     # squared distance to a vertex from which on the root's transform counts alone
SQUEEZE, LIFT = 1.2, 0.3                                      # canonical bodies into the planes: x / SQUEEZE, (y + LIFT) / SQUEEZE
PAIRS = 2**26                                                 # distances at once on a GPU


@dataclass(frozen=True)
class Condition:
    """B posed bodies: vertices (B, V, 3), fk_matrices (B, J, 4, 4) from the canonical to the posed skeleton, lbs_weights (B, V, J), full_pose (B, J, n, n)
    whose upper left 3 x 3 are the joints' rotations, body_shape (B, S)."""

    vertices: Tensor
    fk_matrices: Tensor
    lbs_weights: Tensor
    full_pose: Tensor
    body_shape: Tensor

    def __len__(self) -> int:
        return len(self.vertices)

    def numbers(self) -> Tensor:
        """What networks see of it (B, S + 3 (J - 1)): the shape and the Euler angles of all joints but the root."""
        return torch.cat([self.body_shape, euler_angles(self.full_pose[:, 1:]).flatten(1)], dim=1)

    def label(self, cameras: Tensor) -> Tensor:
        """The conditional discriminator's label: camera numbers (B, 25) and `numbers`."""
        return torch.cat([cameras, self.numbers()], dim=1)


def euler_angles(rotations: Tensor) -> Tensor:
    """Angles (..., 3) about x, y, z of rotations (..., 3, 3), R = Rz Ry Rx."""
    R = rotations
    across = torch.hypot(R[..., 2, 1], R[..., 2, 2])
    return torch.stack([torch.atan2(R[..., 2, 1], R[..., 2, 2]), torch.atan2(-R[..., 2, 0], across), torch.atan2(R[..., 1, 0], R[..., 0, 0])], dim=-1)


@dataclass(frozen=True)
class Body:
    """What is asked of B posed bodies, made once: vertices (B, V, 3), each vertex's way back (B, V, 4, 4) and the root's (B, 4, 4), meshes to query."""

    vertices: Tensor
    back: Tensor
    root: Tensor
    solids: tuple
    condition: Condition

    @classmethod
    def of(cls, condition: Condition, faces: Tensor) -> Body:
        """The bodies of a condition, with the triangles (F, 3) of a closed mesh."""
        inverse = torch.linalg.inv(condition.fk_matrices)
        back = torch.einsum("bvj,bjmn->bvmn", condition.lbs_weights, inverse)
        solids = tuple(proximity.build(vertices, faces) for vertices in condition.vertices)
        return cls(condition.vertices, back, inverse[:, 0], solids, condition)

    def __len__(self) -> int:
        return len(self.vertices)

    @torch.no_grad()
    def canonical(self, points: Tensor) -> Tensor:
        """Points (B, P, 3) in the canonical pose, squeezed into the planes: by the blended transforms of the nearest vertex, by the root's if that is far."""
        found = [nearest_vertices(vertices, one) for vertices, one in zip(self.vertices, points)]
        matrices = torch.stack([torch.where((gap < FAR)[:, None, None], back[index], root) for back, root, (index, gap) in zip(self.back, self.root, found)])
        moved = (matrices[..., :3, :3] @ points[..., None])[..., 0] + matrices[..., :3, 3]
        return (moved + moved.new_tensor([0.0, LIFT, 0.0])) / moved.new_tensor([SQUEEZE, SQUEEZE, 1.0])

    @torch.no_grad()
    def squared_distance(self, points: Tensor) -> Tensor:
        """Squared distance (B, P, 1) of points (B, P, 3) to the mesh, negative inside."""
        gaps = torch.stack([proximity.nearest_crossed(solid, one).distances for solid, one in zip(self.solids, points)])
        return (gaps * gaps.abs())[..., None]


def nearest_vertices(vertices: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Index (P,) and squared distance (P,) of the vertex of (V, 3) nearest to each of points (P, 3)."""
    if not points.is_cuda:
        from scipy.spatial import cKDTree

        gap, index = cKDTree(vertices.detach().numpy()).query(points.detach().numpy())
        return torch.from_numpy(index), torch.from_numpy(gap**2).to(points)
    squares = lambda some: dict(zip(("gap", "index"), torch.cdist(some, vertices, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)))
    found = in_chunks(squares, points, chunk=max(PAIRS // len(vertices), 1))
    return found["index"], found["gap"].square()


def read_conditions(paths: Iterable[str | Path]) -> Condition:
    """The condition of one pickle a body: a dict of arrays, read without running anything in it.

    Raises InputError naming the file and what is missing, misshapen or not finite.
    """
    bodies = [_read(path) for path in paths]
    return Condition(**{field.name: torch.stack([body[field.name] for body in bodies]) for field in fields(Condition)})


def _read(path: str | Path) -> dict[str, Tensor]:
    data = read_pickle(path, encoding="latin1")
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a dict of arrays")
    body = {}
    for field in fields(Condition):
        value = data.get(field.name)
        value = value.numpy() if isinstance(value, Tensor) else value
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise InputError(f"{path}: {field.name}: expected an array of finite numbers")
        body[field.name] = torch.from_numpy(np.ascontiguousarray(value, np.float32))
    (V, J), shapes = body["lbs_weights"].shape if body["lbs_weights"].dim() == 2 else (0, 0), {name: tuple(value.shape) for name, value in body.items()}
    right = shapes["vertices"] == (V, 3) and shapes["fk_matrices"] == (J, 4, 4) and len(shapes["full_pose"]) == 3 and shapes["full_pose"][0] == J
    if not right or min(shapes["full_pose"][1:]) < 3 or len(shapes["body_shape"]) != 1:
        raise InputError(f"{path}: shapes {shapes}, expected vertices (V, 3), fk_matrices (J, 4, 4), lbs_weights (V, J), full_pose (J, 3, 3), body_shape (S,)")
    return body
