"""Frames as networks take them: photos without their background, calibrations, query points with labels, voxels.

    frames = Frames(config, "train")
    item = frames.item(7, epoch=3)

    img          (V, 3, S, S)       -1 to 1, 0 where the mask is 0          mask        (V, 1, S, S)      0 and 1
    calib        (V, 4, 4)          of each view                            extrinsic   (V, 4, 4)         its rotation
    samples      (3, N)             canonical, of the group's front frame   labels      (1, N)            1 inside
    meshVoxels   (1, D, H, W)       with voxels=True, of the first view     deepVoxels  (8, D, H, W)      with --deepVoxelsDir, of the first view
"""
from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.images import resize_nearest
from geopifu.geometry import BOX, GRID, calibration, canonicalise, view_rotation
from geopifu.layout import all_frames, item_path, mesh_name, read_config, read_mask, read_rgb, split_frames
from geopifu.queries import Solid, read_queries
from geopifu.scans import read_scan, rerooted

CHANNELS = 8                                                                    # of latent voxels


def prepared(picture: np.ndarray, mask: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(img (3, side, side) float32, mask (1, side, side)) of a picture (H, W, 3) uint8 and its mask (H, W) of 0 and 1.

    Padded with black to a square, resized (bilinear, 8 bits; the mask to nearest), scaled to [-1, 1] and multiplied by the mask.
    """
    import cv2

    resized = cv2.resize(squared(picture), (side, side), interpolation=cv2.INTER_LINEAR)
    kept = resize_nearest(squared(mask), side, side).astype(np.float32)
    return np.moveaxis((resized.astype(np.float32) / 255 - 0.5) / 0.5 * kept[..., None], -1, 0), kept[None]


def squared(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, ...) in the middle of a black square."""
    height, width = picture.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, *picture.shape[2:]), picture.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    square[top:top + height, left:left + width] = picture
    return square


class Frames:
    """The frames of one split, "train" or "test" ("all": every one), as training items; `names` are their numbers, six digits."""

    def __init__(self, config, split: str, voxels: bool = False):
        self.config, self.split, self.voxels = config, split, voxels
        everything = all_frames(config.datasetDir)
        if config.totalNumFrame is not None and len(everything) not in (config.totalNumFrame, config.totalNumFrame - 2):
            raise InputError(f"{config.datasetDir}: {len(everything)} frames; --totalNumFrame says {config.totalNumFrame} (two of the release's are missing)")
        total = config.totalNumFrame or len(everything)
        self.numbers = everything if split == "all" else split_frames(config.datasetDir, config.trainingDataRatio, total)[split]
        if not self.numbers:
            raise InputError(f"{config.datasetDir}: no frame of the {split} split among {len(everything)}")
        self.names = [f"{number:06d}" for number in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def item(self, i: int, epoch: int) -> dict:
        """Frame i of the split; the epoch chooses its query points and, with random_multiview, its other views. Raises InputError, one line."""
        frame = self.numbers[i]
        settings, views = read_config(self.config.datasetDir, frame), self._views(frame, epoch)
        item = {"name": mesh_name(settings), "frame": frame, "b_min": torch.from_numpy(BOX[0]).float(), "b_max": torch.from_numpy(BOX[1]).float()}
        item |= self._photos(views)
        if self.config.num_sample_inout and not self.voxels:
            item |= self._queries(frame, epoch, settings)
        if self.voxels:
            item["meshVoxels"] = read_voxels(self.config.datasetDir, frame)
        if self.config.deepVoxelsDir:
            item["deepVoxels"] = read_latents(self.config.deepVoxelsDir, frame)
        return item

    def _views(self, frame: int, epoch: int) -> list[int]:
        """The frame, and with num_views more of its group: those that follow, or drawn ones."""
        group, first = frame - frame % 4, frame % 4
        others = [(first + k) % 4 for k in range(1, 4)]
        if self.config.random_multiview:
            others = np.random.default_rng([frame, epoch]).permutation(others).tolist()
        return [group + view for view in [first, *others][:self.config.num_views]]

    def _photos(self, frames: list[int]) -> dict[str, Tensor]:
        """Photos, masks and calibrations of frames."""
        folder = self.config.datasetDir
        pairs = [prepared(*checked_pair(read_rgb(folder, "rgbImage", n), read_mask(folder, n), folder, n), self.config.loadSize) for n in frames]
        turns = [np.block([[view_rotation(n % 4).T, np.zeros((3, 1))], [np.zeros((1, 3)), 1]]) for n in frames]
        stack = lambda arrays: torch.from_numpy(np.stack(arrays)).float()
        return {"img": stack([img for img, _ in pairs]), "mask": stack([mask for _, mask in pairs]),
                "calib": stack([calibration(n % 4) for n in frames]), "extrinsic": stack(turns)}

    def _queries(self, frame: int, epoch: int, settings: dict) -> dict[str, Tensor]:
        """Query points and labels: from disk for training frames, else sampled now, alike for the four views of a group."""
        config = self.config
        if self.split == "train" and not config.online_sampling:
            folder = Path(config.datasetDir) / config.sampleType
            kept, others = read_queries(folder, frame, epoch % config.epoch_offline_len, config.num_sample_inout)
        else:
            rng = np.random.default_rng([frame - frame % 4, epoch])
            kept, others = solid_of(settings, config.meshDirSearch).queries(rng, config.num_sample_inout, config.sigma)
        samples = np.concatenate([kept, others]).T
        labels = (np.arange(samples.shape[1]) < len(kept)).astype(np.float32)[None]
        return {"samples": torch.from_numpy(np.ascontiguousarray(samples)).float(), "labels": torch.from_numpy(labels)}


def checked_pair(picture: np.ndarray, mask: np.ndarray, folder: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """The two, if they belong together. Raises InputError for other sizes and for a mask without a person."""
    if picture.shape[:2] != mask.shape:
        raise InputError(f"{folder}: frame {frame}: the photo is {picture.shape[:2]}, its mask {mask.shape}")
    if not mask.any():
        raise InputError(f"{folder}: frame {frame}: the mask is empty")
    return picture, mask


def read_voxels(folder: str | Path, frame: int) -> Tensor:
    """Filled voxels (1, D, H, W) of a frame, 0 and 1. Raises InputError."""
    path = item_path(folder, "meshVoxels", frame, ".npy")
    return torch.from_numpy(np.ascontiguousarray(_array(path, GRID, "geopifu/render_data.py --items meshVoxels").transpose(2, 1, 0))).float()[None]


def read_latents(folder: str | Path, frame: int) -> Tensor:
    """Latent voxels (8, D, H, W) of a frame, stored (8, W, H, D). Raises InputError."""
    stored = _array(Path(folder) / f"{frame:06d}_deepVoxels.npy", (CHANNELS, None, None, None), "geopifu/export_latents.py")
    return torch.from_numpy(np.ascontiguousarray(stored.transpose(0, 3, 2, 1))).float()


def _array(path: Path, shape: tuple[int | None, ...], maker: str) -> np.ndarray:
    """The array of a file; None in `shape` stands for any length."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {maker} makes it") from None
    except (ValueError, EOFError, OSError):
        raise InputError(f"{path}: broken, expected an array of shape {shape}") from None
    if array.ndim != len(shape) or any(wanted not in (None, n) for n, wanted in zip(array.shape, shape)):
        raise InputError(f"{path}: expected shape {shape}, found {array.shape}")
    return array


def solid_of(settings: dict, folder: str) -> Solid:
    """The canonical mesh, in its group's front frame, of a frame's settings, its scan somewhere below a folder; the last ones are remembered."""
    return _solid(rerooted(settings["meshPath"], folder), tuple(map(tuple, settings["randomRot"])))


@lru_cache(maxsize=4)
def _solid(path: Path, rotation: tuple) -> Solid:
    scan = read_scan(path)
    front, _, _ = canonicalise(scan.vertices.astype(np.float32), np.array(rotation, np.float32), str(path))
    return Solid(front.astype(np.float64), scan.faces)
