"""Query points: near a mesh's surface and all through the box, half of them inside at most; offline in files, or drawn when needed.

    samples = [surface + noise * sigma / 192, uniform in the box], shuffled; of N wanted points the first N/2 inside (or all, where fewer are), and
    the first others outside until there are N

Files, in canonical units of the group's front frame: SAMPLETYPE/000123_ep004_inPts.npy and _outPts.npy of every frame and epoch, float64 (n, 3), as the
release; or SAMPLETYPE/000120.npy of every group of four frames, float32 (epochs, N, 4), points and labels, read through a memory map.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from common.errors import InputError
from common.proximity import build, inside, surface_points
from geopifu.geometry import BOX, VOXEL

SURFACE_SHARE, UNIFORM_SHARE = 4, 0.25                                          # draws of each kind per point that is wanted


def candidates(surface: np.ndarray, noise: np.ndarray, sigma: float, uniform: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Points (n + m, 3) near surface points (n, 3), moved by unit normal draws times sigma voxels, and of uniform draws (m, 3) in the box, in `order`."""
    return np.concatenate([surface + noise * (sigma * VOXEL), uniform * (BOX[1] - BOX[0]) + BOX[0]])[order]


def balanced(points: np.ndarray, within: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(inside, outside) points, `count` together: the first of each kind, count // 2 inside at most."""
    kept = points[within][:count // 2]
    return kept, points[~within][:count - len(kept)]


class Solid:
    """A canonical mesh that is asked for many points; frames that share it by rotation ask in its own frame."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self.vertices, self.faces = vertices, faces
        self.tree = build(torch.from_numpy(np.ascontiguousarray(vertices, np.float32)), torch.from_numpy(faces))

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Whether points (P, 3) lie inside, by the winding number: (P,) bool."""
        return inside(self.tree, torch.from_numpy(np.ascontiguousarray(points, np.float32))).numpy()

    def queries(self, rng: np.random.Generator, count: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """(inside, outside) points, `count` together. Raises InputError for a mesh that leaves no room around it."""
        n, m = SURFACE_SHARE * count, int(UNIFORM_SHARE * count)
        surface = surface_points(self.vertices, self.faces, rng.uniform(size=n), rng.uniform(size=(n, 2)))
        points = candidates(surface, rng.normal(size=(n, 3)), sigma, rng.uniform(size=(m, 3)), rng.permutation(n + m))
        kept, others = balanced(points, self.contains(points), count)
        if len(kept) + len(others) < count:
            raise InputError(f"a mesh leaves only {len(others)} of {n + m} points outside; {count - len(kept)} are needed")
        return kept, others


def query_paths(folder: str | Path, frame: int, epoch: int) -> tuple[Path, Path]:
    """The release's two files of a frame and epoch."""
    return tuple(Path(folder) / f"{frame:06d}_ep{epoch:03d}_{kind}Pts.npy" for kind in ("in", "out"))


def packed_path(folder: str | Path, frame: int) -> Path:
    """The one file of a frame's group."""
    return Path(folder) / f"{frame - frame % 4:06d}.npy"


def read_queries(folder: str | Path, frame: int, epoch: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(inside, outside), `count` together, of a frame and epoch, from either format. Raises InputError for what is missing, broken or holds fewer points."""
    packed = packed_path(folder, frame)
    if packed.is_file():
        rows = _packed(packed, epoch)
        points, within = rows[:, :3], rows[:, 3] > 0.5
    else:
        kept, others = (_points(path) for path in query_paths(folder, frame, epoch))
        points, within = np.concatenate([kept, others]), np.arange(len(kept) + len(others)) < len(kept)
    kept, others = balanced(points, within, count)
    if len(kept) + len(others) < count:
        raise InputError(f"{folder}: frame {frame}, epoch {epoch}: {len(kept) + len(others)} points, fewer than --num_sample_inout {count}")
    return kept, others


def _packed(path: Path, epoch: int) -> np.ndarray:
    """Points and labels (N, 4) of an epoch in a group's file."""
    try:
        file = np.load(path, mmap_mode="r", allow_pickle=False)
        assert file.ndim == 3 and file.shape[2] == 4
    except (AssertionError, ValueError, EOFError, OSError):
        raise InputError(f"{path}: broken, expected points and labels (epochs, N, 4)") from None
    if epoch >= len(file):
        raise InputError(f"{path}: holds {len(file)} epochs; --epoch_offline_len asks for epoch {epoch}")
    return np.array(file[epoch])


def _points(path: Path) -> np.ndarray:
    """Points (n, 3) of an .npy file."""
    try:
        points = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; geopifu/prepare_queries.py makes query points") from None
    except (ValueError, EOFError, OSError):
        raise InputError(f"{path}: broken, expected an array of points") from None
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(f"{path}: expected finite points (n, 3), found an array of shape {points.shape}")
    return points
