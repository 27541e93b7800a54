"""The parts of MakeHuman's base mesh around the head: which surface is skin, lip, brow, nose, ear, eye, mouth or neck, once for all people.

The base mesh's topology never changes, so everything here is decided on its template (canonical axes, metres) and holds for every person: the
finer surface is a sparse matrix times the person's base vertices, and its labels are fixed. Left is the person's own left, at +x.
Lips, ears, lids and the inside of the mouth come from MakeHuman's texture masks, the lower lip is what opening the jaw moves, the nose, the
brows and the border between face and neck are drawn on the template.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from common.labels import SOF_LABELS
from common.people.body import Body, load_body
from common.people.subdivision import catmull_clark, subdivide_corners

LABEL = {name: k for k, name in enumerate(SOF_LABELS)}
LOWEST = 0.36                                                                # the template below this height is cut away
NOSE_OUTLINE = (                                                              # height, half width
    (0.664, 0.0), (0.667, 0.016), (0.674, 0.0205), (0.684, 0.0195), (0.694, 0.0135), (0.712, 0.0105), (0.728, 0.0085), (0.7285, 0.0))
BROW_ARCH = ((0.010, 0.7450), (0.022, 0.7475), (0.036, 0.7495), (0.048, 0.7468), (0.060, 0.7405))   # |x|, height of the middle
BROW_HALF_WIDTH = ((0.010, 0.0060), (0.030, 0.0065), (0.048, 0.0050), (0.060, 0.0030))
BROW_ENDS = (0.0095, 0.0590)
JAW = ((0.085, 0.603), (0.038, 0.668))                                       # (z, y) of the border between face and neck, seen from the side


@dataclass(frozen=True)
class Part:
    """A surface that follows the base mesh: vertices = matrix (V, V_base) @ base vertices; triangles (F, 3); labels (F,) uint8; template (V, 3)."""

    matrix: Any
    triangles: np.ndarray
    labels: np.ndarray
    template: np.ndarray


@dataclass(frozen=True)
class Skin(Part):
    """Skin with what colours it: brow, lip, lid and inside (of the mouth) (V,) in [0, 1]."""

    brow: np.ndarray
    lip: np.ndarray
    lid: np.ndarray
    inside: np.ndarray


@cache
def skin() -> Skin:
    """The head, neck, shoulders and the inside of the mouth."""
    return _skin(LOWEST, 2)


@cache
def whole_skin() -> Skin:
    """The skin from head to toe, closed, less finely divided."""
    return _skin(-np.inf, 1)


def _skin(lowest: float, levels: int) -> Skin:
    """The skin above a height of the template after `levels` subdivisions."""
    body = load_body()
    keep = body.template[body.quads["body"]][..., 1].min(1) > lowest
    matrix, quads, textures = finer(body, body.quads["body"][keep], body.textures[keep], levels)
    template = matrix @ body.template
    center, texture = template[quads].mean(1), textures.mean(1)
    masked = {name: _masked(body, name, texture) for name in ("lips", "eyelids", "ears", "inside-mouth")}
    jaw = matrix @ _action(body, "jawOpen")
    labels = _skin_labels(center, masked, jaw[quads].mean(1))
    soft = lambda mask: np.bincount(quads.reshape(-1), np.repeat(mask, 4), len(template)) / np.bincount(quads.reshape(-1), minlength=len(template))
    tints = (soft(masked[name].astype(float)) for name in ("lips", "eyelids", "inside-mouth"))
    return Skin(matrix, triangulated(quads), np.repeat(labels, 2), template, _brow(template), *tints)


def _skin_labels(center: np.ndarray, masked: dict[str, np.ndarray], jaw: np.ndarray) -> np.ndarray:
    """The label (Q,) of each quad of the skin at template positions `center` (Q, 3); `jaw` (Q,) is how far an open jaw moves it."""
    x, y, z = center.T
    left = x > 0
    side = lambda name: np.where(left, LABEL[f"l_{name}"], LABEL[f"r_{name}"])
    labels = np.full(len(center), LABEL["skin"])
    (front, low), (back, high) = JAW
    labels = np.where(y < np.interp(z, (back, front), (high, low)), LABEL["neck"], labels)
    labels = np.where(_brow(center) > 0.5, side("brow"), labels)
    heights, widths = np.array(NOSE_OUTLINE).T
    labels = np.where((np.abs(x) < np.interp(y, heights, widths, left=0, right=0)) & (z > 0.11), side("nose"), labels)
    labels = np.where(masked["ears"], side("ear"), labels)
    labels = np.where(masked["eyelids"], side("eye"), labels)
    labels = np.where(masked["inside-mouth"], LABEL["mouth"], labels)
    return np.where(masked["lips"], np.where(jaw > 0.5 * jaw[masked["lips"]].max(), LABEL["l_lip"], LABEL["u_lip"]), labels).astype(np.uint8)


def _brow(points: np.ndarray) -> np.ndarray:
    """How much of a brow there is at template points (P, 3): 1 inside, 0.5 on its border, 0 outside."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    edge = np.interp(x, *np.array(BROW_HALF_WIDTH).T) - np.abs(y - np.interp(x, *np.array(BROW_ARCH).T))
    edge = np.minimum(edge, np.minimum(x - BROW_ENDS[0], BROW_ENDS[1] - x))
    return np.clip(0.5 + edge / 0.003, 0, 1) * (z > 0.07)


@cache
def eyes() -> tuple[Part, Part]:
    """The left and the right eyeball."""
    return tuple(_helper(f"helper-{side}-eye", 3, LABEL[f"{side}_eye"]) for side in "lr")


@cache
def mouth() -> tuple[Part, ...]:
    """Upper teeth, lower teeth and tongue."""
    return tuple(_helper(name, 2, LABEL["mouth"]) for name in ("helper-upper-teeth", "helper-lower-teeth", "helper-tongue"))


def _helper(name: str, levels: int, label: int) -> Part:
    """A group of the base mesh under one label."""
    body = load_body()
    matrix, quads, _ = finer(body, body.quads[name], None, levels)
    return Part(matrix, triangulated(quads), np.full(2 * len(quads), label, np.uint8), matrix @ body.template)


def finer(body: Body, quads: np.ndarray, textures: np.ndarray | None, levels: int):
    """(matrix from the base vertices, quads, texture corners) after `levels` subdivisions."""
    import scipy.sparse as sp

    used, quads = np.unique(quads, return_inverse=True)
    quads = quads.reshape(-1, 4)
    matrix = sp.csr_matrix((np.ones(len(used)), (np.arange(len(used)), used)), shape=(len(used), len(body.template)))
    for _ in range(levels):
        finer, quads = catmull_clark(quads, matrix.shape[0])
        matrix = finer @ matrix
        textures = None if textures is None else subdivide_corners(textures)
    return matrix, quads, textures


def triangulated(quads: np.ndarray) -> np.ndarray:
    """Two triangles (2 Q, 3) of each quad."""
    return quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)


def _masked(body: Body, name: str, texture: np.ndarray) -> np.ndarray:
    """Where MakeHuman's texture mask is set, at texture coordinates (P, 2)."""
    from PIL import Image

    with Image.open(body.assets / f"textures/mpfb_{name}.jpg") as picture:
        mask = np.asarray(picture.convert("L")) > 127
    u, v = texture[:, 0], 1 - texture[:, 1]
    height, width = mask.shape
    return mask[(v * height).astype(int).clip(0, height - 1), (u * width).astype(int).clip(0, width - 1)]


def _action(body: Body, name: str) -> np.ndarray:
    """How far a facial action moves each base vertex (V_base,)."""
    model = body.model
    first = len(model.blendshapes) - 2 * len(model.local_change_labels) - len(model.facial_action_labels)
    return model.blendshapes[first + model.facial_action_labels.index(name)].norm(dim=-1).numpy()
