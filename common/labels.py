"""Label maps: the classes of SOF and SofGAN, their orders, their colours.

A label map is uint8 (..., H, W); a table (K,) uint8 sends label k to table[k]. Facts of SofGAN's release: classes, orders and palettes are theirs.
"""
from __future__ import annotations

import numpy as np

from common.errors import InputError

SOF_LABELS = ("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "r_nose", "l_nose", "mouth", "u_lip", "l_lip", "l_ear", "r_ear",
              "ear_r", "eye_g", "neck", "neck_l", "cloth", "hair", "hat")                          # ear_r earring, eye_g glasses, neck_l necklace
PAINTER_LABELS = ("background", "skin", "brow", "eye", "r_nose", "l_nose", "mouth", "u_lip", "l_lip", "ear",
                  "ear_r", "eye_g", "neck", "neck_l", "cloth", "hair", "hat")                      # what SofGAN's portrait generator takes

SOF_TO_PAINTER = np.array([0, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 9, 10, 11, 12, 13, 14, 15, 16], np.uint8)
RAW_TO_SOF = np.array([0, 1, 2, 3, 4, 5, 14, 11, 12, 13, 6, 7, 8, 9, 10, 15, 16, 17, 18, 19], np.uint8)     # the order of SofGAN's LMDB sets
MIRRORED_PAINTER = np.array([0, 1, 2, 3, 5, 4, *range(6, 17)], np.uint8)                           # left and right nose change places

TRAINING_PALETTE = np.array([
    (0, 0, 0), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255), (255, 204, 204), (102, 51, 0), (255, 0, 0),
    (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204), (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0), (0, 204, 153)], np.uint8)
PAINTER_PALETTE = np.array([
    (0, 0, 0), (127, 212, 255), (255, 255, 127), (255, 255, 170), (240, 157, 240), (255, 212, 255), (31, 162, 230), (127, 255, 255), (127, 255, 255),
    (0, 255, 85), (0, 255, 170), (255, 255, 170), (127, 170, 255), (85, 0, 255), (255, 170, 127), (212, 127, 255), (0, 170, 255)], np.uint8)
NOTEBOOK_PALETTE = PAINTER_PALETTE[SOF_TO_PAINTER]                                                 # the notebooks' 20 colours are the 17 of the painter


def relabel(labels: np.ndarray, table: np.ndarray, where: str = "label map") -> np.ndarray:
    """table[labels]: labels (...) in another order or colours (..., C) of a palette. Raises InputError naming `where` for a label beyond the table."""
    check_range(labels, len(table), where)
    return table[labels]


def colorize(labels: np.ndarray, palette: np.ndarray = TRAINING_PALETTE) -> np.ndarray:
    """The colours (..., H, W, 3) uint8 of labels (..., H, W). Raises InputError for a label beyond the palette."""
    return relabel(labels, np.asarray(palette, np.uint8))


def mirror(labels: np.ndarray, swap: np.ndarray = MIRRORED_PAINTER) -> np.ndarray:
    """Label maps (..., H, W) as in a mirror: left and right exchanged in the picture and, by `swap`, in the names."""
    return relabel(labels, swap)[..., ::-1]


def check_range(labels: np.ndarray, classes: int, where: str) -> None:
    """Refuse labels outside 0..classes-1: InputError naming `where` and the largest or smallest label."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(f"{where}: labels must lie in 0..{classes - 1}, found {high if high >= classes else low}")
