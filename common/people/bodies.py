"""Clothed bodies: a person in a pose as one closed outer surface, with what a body model knows about it.

Canonical frame: metres, y up, the person at rest faces +z. Clothes, hair and shoes cover the skin; nothing of what lies beneath is left.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from common.people import anatomy, garments, hair, heads, outfits, poses, skeleton, wear
from common.people.body import load_body
from common.people.fuse import fuse
from common.people.persons import Person, generator
from common.people.shapes import Surface
from common.people.solids import capped, shut
from common.proximity import build, nearest

CELL = 0.0062                                                                 # metres of a person of HEIGHT; vertices come about this far apart
HEIGHT = 1.70
T_POSES, T_POSE = 0.04, "poses/default_fk/t-pose.json"                        # how often; MakeHuman's file
TRIES = 40                                                                    # poses drawn before one that crosses itself is taken
CROSSING = 0.010                                                              # share of the limbs' vertices that may lie inside the body


@dataclass(frozen=True)
class Clothed:
    """vertices (V, 3) float32 and faces (F, 3), closed, outwards; colors (V, 3) linear albedo, labels (V,) of ``common.labels.SOF_LABELS``.

    The body underneath: body (B, 3) posed skin of `body_faces` (one topology for all people), joints (24, 3) in SMPL's order.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    labels: np.ndarray
    body: np.ndarray
    joints: np.ndarray


def clothed(person: Person, frame: int) -> Clothed:
    """The person in pose `frame`, a function of the person and the frame."""
    body, calm = load_body(), {name: value for name, value in person.expression.items() if name.startswith(("mouth", "brow")) and "Funnel" not in name}
    rest = skeleton.rest(body, person.phenotype, person.changes, calm)
    moves = pose(person, frame, rest)
    posed = skeleton.skinned(body, rest.vertices, moves)
    rng = generator(person.seed, person.index, "outfit", 1)
    outfit = outfits.outfit(person)
    clothes = garments.clothes(rng, outfit, garments.Base(posed, moves, person.skin))
    surfaces = [skin(person, outfit, posed), *eyes(person, posed), *headgear(person, rest, moves), *clothes]
    fused = fuse([(s.vertices, s.triangles) for s in surfaces], CELL * float(np.ptp(rest.vertices[:, 1])) / HEIGHT)
    at = lambda s, rows: (s.albedo[s.triangles[fused.triangle[rows]]] * fused.weights[rows][..., None]).sum(1)
    colors, labels = np.zeros_like(fused.vertices), np.zeros(len(fused.vertices), np.uint8)
    for k, surface in enumerate(surfaces):
        rows = fused.solid == k
        colors[rows], labels[rows] = at(surface, rows), surface.labels[fused.triangle[rows]]
    underneath = posed[np.unique(body.quads["body"])]
    return Clothed(fused.vertices, fused.faces, colors.clip(0, 1), labels, underneath, skeleton.posed_joints(body, rest.heads, moves))


def pose(person: Person, frame: int, rest: skeleton.Rest) -> np.ndarray:
    """The bones' M (J, 4, 4) of a pose whose arms and legs stay outside the rest of the body; the rest pose where none is found."""
    body = load_body()
    rng = generator(person.seed, person.index, "pose", frame)
    triangles = torch.from_numpy(anatomy.triangulated(body.quads["body"]))
    if rng.uniform() < T_POSES:
        return skeleton.transforms(body, rest.heads, poses.of_file(body.assets / T_POSE, rest.axes))
    limbs = np.flatnonzero(skeleton.bone_share(body, "lowerarm02", "wrist", "finger", "metacarpal") > 0.9)
    for _ in range(TRIES):
        moves = skeleton.transforms(body, rest.heads, poses.rotations(poses.draw_angles(rng), rest.heads))
        posed = torch.from_numpy(skeleton.skinned(body, rest.vertices, moves)).float()
        if (nearest(build(posed, triangles), posed[limbs], threshold=1.1).distances < 0).float().mean() < CROSSING:
            return moves
    return skeleton.transforms(body, rest.heads, {})


@cache
def mouthless() -> tuple:
    """(matrix, triangles, labels) of the skin from head to toe with a lid in place of the mouth's inside, which marching cubes would find between the lips."""
    part = anatomy.whole_skin()
    kept = part.labels != anatomy.LABEL["mouth"]
    matrix, triangles = capped(part.matrix, part.triangles[kept])
    return matrix, triangles, np.append(part.labels[kept], np.full(len(triangles) - kept.sum(), anatomy.LABEL["u_lip"]))


def skin(person: Person, outfit: outfits.Outfit, posed: np.ndarray) -> Surface:
    """The skin from head to toe, the mouth shut."""
    part, (matrix, triangles, labels) = anatomy.whole_skin(), mouthless()
    arm = part.matrix @ skeleton.bone_share(load_body(), *garments.ARM)
    colors = garments.stretched_over(outfit, heads.skin_colors(person, part), part.template, arm)
    colors = np.concatenate([colors, np.tile(heads.INSIDE, (matrix.shape[0] - len(colors), 1))])
    return Surface(matrix @ posed, triangles, labels, colors, np.zeros(len(colors)))


def eyes(person: Person, posed: np.ndarray) -> list[Surface]:
    """The eyeballs."""
    return [heads.eye(part, posed, person) for part in anatomy.eyes()]


def headgear(person: Person, rest: skeleton.Rest, moves: np.ndarray) -> list[Surface]:
    """Hair and hat, made on the head at rest and carried by its bone."""
    part = anatomy.skin()
    move = moves[load_body().model.bone_labels.index("head")]
    scale, middle = heads.framing(part.matrix @ rest.vertices, part, person)
    vertices = scale * (part.matrix @ rest.vertices - middle)
    carried = lambda points: (points / scale + middle) @ move[:3, :3].T + move[:3, 3]
    return [replace(shut(s), vertices=carried(shut(s).vertices)) for s in [*hair.hair(person, vertices), *wear.hat(person, vertices)]]
