"""A data set of made-up faces in the layout of CelebAMask-HQ, and a tiny generator to freeze."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from common.checkpoint import export_safetensors
from common.images import write_png
from common.pigan import Siren, SirenConfig

DECODER = {"model": "SPATIALSIRENBASELINE", "hidden_dim": 8, "layers": 2, "latent_dim": 4, "fov": 12.0, "ray_start": 0.88, "ray_end": 1.12, "pred_occ": False,
           "clamp_mode": "relu", "white_back": True, "last_back": False, "eval_last_back": False, "lock_view_dependence": False, "interval_min": 0.03}
ENCODER = ["--src_input_size", "32", "--embed_dim", "8", "--depths", "1", "2", "--num_heads", "1", "2", "--window_size", "4"]


def face(number: int, side: int) -> np.ndarray:
    """A label map (side, side) of CelebAMask-HQ's raw labels: hair round skin, eyes, a mouth, as large as the number says."""
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    size = 0.3 + 0.02 * (number % 5)
    labels = np.zeros((side, side), np.uint8)
    labels[np.hypot(x, y) < size] = 13
    labels[np.hypot(x, y - 0.05) < 0.7 * size] = 1
    for label, at in ((4, -0.1), (5, 0.1)):
        labels[np.hypot(x - at, y) < 0.04] = label
    labels[(np.abs(x) < 0.08) & (np.abs(y - 0.14) < 0.02)] = 10
    return labels


def write_faces(root: Path, count: int = 6, side: int = 64) -> Path:
    """Masks, pictures and poses of faces 0 to count - 1."""
    lines = [str(count), "yaw pitch roll"]
    for number in range(count):
        labels = face(number, side)
        write_png(root / "masks" / f"{number}.png", labels)
        write_png(root / "CelebA-HQ-img" / f"{number}.png", np.stack([255 - 12 * labels, 10 * labels, 5 * labels], axis=-1).astype(np.uint8))
        lines.append(f"{number}.jpg {3.0 * number - 6} {number - 2.5} 0.5")
    (root / "CelebAMask-HQ-pose-anno.txt").write_text("\n".join(lines) + "\n")
    return root


def write_decoder(path: Path, **options) -> Path:
    """A generator of drawn weights as gof/train.py exports one."""
    torch.manual_seed(0)
    config = DECODER | options
    siren = Siren(SirenConfig(hidden=config["hidden_dim"], layers=config["layers"], latent=config["latent_dim"]))
    export_safetensors(path, {"generator": {f"siren.{key}": value for key, value in siren.state_dict().items()}}, config)
    return path
