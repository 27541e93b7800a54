"""Planes through a head as a volume that can be looked into: every class in its colour, thinner or denser (SofGAN's Fig. 5)."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# of the published notebook: where each class's entries begin, of ENTRIES; the background, at 0, is clear
CLASS_ENTRIES = (0, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 60, 50, 40, 30, 90, 20, 70, 80, 10)
ENTRIES, PER_CLASS, OPACITY = 200, 10, (0.0, 0.05)


def transfer_function(palette: np.ndarray, first: tuple = CLASS_ENTRIES, entries: int = ENTRIES, per_class: int = PER_CLASS, opacity=OPACITY) -> Tensor:
    """(entries, 4) float64 RGBA, in [0, 1], of the values of `class_volume`: entries first[c] .. first[c] + per_class - 1 in class c's colour of a
    palette (C, 3) uint8, clear for the first `per_class` entries, then from one opacity to the other."""
    rgba = torch.zeros(entries, 4, dtype=torch.float64)
    for begin, color in zip(first, torch.from_numpy(np.asarray(palette, np.float64)) / 255):
        rgba[begin:begin + per_class, :3] = color
    rgba[per_class:, 3] = torch.linspace(*opacity, entries - per_class, dtype=torch.float64)
    return rgba


def class_volume(probabilities: Tensor, first: tuple = CLASS_ENTRIES) -> Tensor:
    """(D, H, W) float64, rows upwards, of class probabilities (D, H, W, C) on D planes: the largest probability plus first[its class]."""
    largest, label = probabilities.max(dim=-1)
    return (largest + torch.tensor(first, dtype=torch.float64, device=label.device)[label]).flip(1)


def look_through(volume: Tensor, rgba: Tensor, density: float = 1.0) -> Tensor:
    """The picture (H, W, 3), in [0, 1], of a class volume (D, H, W), plane 0 in front, through a transfer function, on white.

    C = sum_i a_i c_i prod_{j<i} (1 - a_j) + prod_i (1 - a_i), with opacities a times `density`.
    """
    picture = rgba[volume.long().clamp(0, len(rgba) - 1)]
    opacity = (density * picture[..., 3:]).clamp(0, 1)
    clear = torch.cat([torch.ones_like(opacity[:1]), (1 - opacity).cumprod(dim=0)])
    return ((opacity * picture[..., :3] * clear[:-1]).sum(dim=0) + clear[-1]).clamp(0, 1).flip(0)
