"""The label maps that Sem2NeRF reads: the classes of CelebAMask-HQ and CatMask, how they merge, their colours.

    merged = merge(raw, "CelebAMask_HQ")                      19 raw classes to 16, left and right in one; CatMask's 16 to 8
    picture = colorize(merged, palette("CelebAMask_HQ", 16))

A label map is uint8 (..., H, W). Facts of the release and of both data sets.
"""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.labels import SOF_LABELS, relabel

CELEBA_LABELS = ("background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip", "hair", "hat",
                 "ear_r", "neck_l", "neck", "cloth")          # eye_g glasses, ear_r earring, neck_l necklace
MERGES = {
    "CelebAMask_HQ": np.array([0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], np.uint8),
    "CatMask": np.array([0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 7, 0], np.uint8),
}
_FACE = [(0, 0, 0), (204, 0, 0), (76, 153, 0), (204, 204, 0)]
_FACE_REST = [(102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204), (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0)]
PALETTES = {
    ("CelebAMask_HQ", 19): [*_FACE, (51, 51, 255), (204, 0, 204), (0, 255, 255), (255, 204, 204), (102, 51, 0), (255, 0, 0), *_FACE_REST],
    ("CelebAMask_HQ", 16): [*_FACE, (0, 255, 255), (255, 204, 204), (102, 51, 0), *_FACE_REST],
    ("CatMask", 16): [(255, 255, 255), (220, 220, 0), (190, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (102, 102, 156), (152, 251, 152),
                      (119, 11, 32), (244, 35, 232), (220, 20, 60), (52, 83, 84), (194, 87, 125), (225, 96, 18), (31, 102, 211), (104, 131, 101)],
    ("CatMask", 8): [(0, 0, 0), (204, 0, 0), (102, 51, 0), (0, 255, 255), (255, 204, 204), (25, 204, 204), (76, 153, 0), (0, 0, 0)],
}
_AS_CELEBA = {"r_nose": "nose", "l_nose": "nose"}
SOF_TO_CELEBA = np.array([CELEBA_LABELS.index(_AS_CELEBA.get(name, name)) for name in SOF_LABELS], np.uint8)      # what face parsers and our people say


def merge(labels: np.ndarray, env: str, where: str = "label map") -> np.ndarray:
    """Raw labels as merged ones. Raises InputError naming `where` for a label that the data set does not have."""
    return relabel(labels, MERGES[env], where)


def classes(env: str, merged: bool) -> int:
    """How many labels a data set has."""
    return int(MERGES[env].max()) + 1 if merged else len(MERGES[env])


def palette(env: str, label_nc: int) -> np.ndarray:
    """The colours (label_nc, 3) uint8 of a data set's labels. Raises InputError where there are none for so many."""
    if (env, label_nc) not in PALETTES:
        raise InputError(f"--label_nc {label_nc}: {env} has {classes(env, False)} labels, or {classes(env, True)} with --use_merged_labels")
    return np.array(PALETTES[env, label_nc], np.uint8)


def color_table(env: str, label_nc: int, published: bool = False) -> Tensor:
    """The colours (label_nc, 3) float32 in [-1, 1].

    published: the release colours batches by colour instead of by label, so that of two labels of one colour the first comes out black.
    """
    colors = palette(env, label_nc)
    if published:
        repeated = [i for i in range(len(colors)) if (colors[i + 1:] == colors[i]).all(axis=1).any()]
        colors[repeated] = 0
    return torch.from_numpy(colors).float() / 127.5 - 1


def colored(labels: Tensor, table: Tensor) -> Tensor:
    """The colours (B, 3, H, W) of labels (B, H, W), by a table (label_nc, 3)."""
    return table[labels.long()].movedim(-1, 1)
