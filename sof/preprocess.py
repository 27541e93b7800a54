"""Make SOF's folders of what was captured: python sof/preprocess.py captures|calibration|zrange|cameras|clean --data_root FOLDER

captures     <id>_<view>.jpg, <id>_<view>.npy {"extrinsics": world2cam 4x4, "intrinsic": 3x3}, segmap/<id>_<view>.png  ->  OUT/<id>/seg_00.png ...
calibration  <head>/cameras.npy {"extrinsics", "intrinsic", "zRange" of all views}  ->  cam2world.npy, intrinsic.npy, zRange.npy beside it
zrange       a copy of a data set whose depth maps all have one near and far and mean what they meant
cameras      the mean distance, centre and intrinsics of a data set's cameras, and a plot of them
clean        the previews of every head in a row, to look through; views are taken out by their numbers, and put back (sof/clean.py)
"""
from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.cameras import check_cam2world, check_intrinsics, flip_yz, invert_rigid
from common.config import option, run_commands
from common.errors import InputError
from common.figures import new_figure, write_figure
from common.images import ENCODINGS, decode_depth, one_channel, read_labels, read_picture, write_png
from common.labels import colorize
from common.published import read_npy
from sof import data
from sof.clean import CleanConfig, clean, save_npy
from sof.plots import plot_cameras

NAME = re.compile(r"(.+)_([^_]+)")                            # <id>_<view>


@dataclass
class CapturesConfig:
    """Options of `captures`."""

    data_root: str = option(..., "folder with <id>_<view>.jpg, .npy and segmap/")
    out: str = option(..., "folder for one folder per id")
    axes: str = option("opengl", "camera axes of the extrinsics: y up and z backwards, or opencv", choices=("opengl", "opencv"))
    label_encoding: str = option("plain", "what the pixels of segmap hold", choices=ENCODINGS)


@dataclass
class FolderConfig:
    """Options of `calibration`."""

    data_root: str = option(..., "folder with one folder per head")


@dataclass
class RangeConfig(FolderConfig):
    """Options of `zrange`."""

    out: str = option(..., "folder for the copy")


@dataclass
class CamerasConfig(FolderConfig):
    """Options of `cameras`."""

    out: str = option(..., "folder for cameras.png and intrinsics_avg.npy")
    shown: int = option(200, "cameras in the plot, at most", low=1)


def captures(config: CapturesConfig) -> None:
    """Sort captured pictures, their cameras and label maps into one folder per person."""
    people = find_captures(Path(config.data_root))
    for person, views in people.items():
        convert_captures(views, Path(config.out) / person, config.axes == "opengl", config.label_encoding)
    print(f"{len(people)} people with {sum(map(len, people.values()))} views in {config.out}; scripts/check_data.py checks them")


def calibration(config: FolderConfig) -> None:
    """Write each head's cam2world.npy, intrinsic.npy and zRange.npy from its cameras.npy."""
    folders = sorted(path.parent for path in Path(config.data_root).glob("*/cameras.npy"))
    if not folders:
        raise InputError(f"{config.data_root}: no <head>/cameras.npy")
    for folder in folders:
        convert_calibration(folder)
    print(f"cameras of {len(folders)} heads in {config.data_root}")


def zrange(config: RangeConfig) -> None:
    """Copy a data set and give all its depth maps one near and far."""
    near, far = equalise_depth(data.head_folders(config.data_root), Path(config.out))
    print(f"near {near:.4f}, far {far:.4f} for every depth map in {config.out}")


def cameras(config: CamerasConfig) -> None:
    """Print and plot where a data set's cameras stand."""
    cam2world, intrinsics = read_cameras(data.head_folders(config.data_root))
    poses, out = torch.cat(list(cam2world.values())), Path(config.out)
    for name, matrices in [*cam2world.items(), ("all", poses)]:
        centers = matrices[:, :3, 3]
        print(f"{name}: {len(matrices)} views, mean radius {centers.norm(dim=1).mean():.4f}, mean centre {[round(x, 4) for x in centers.mean(dim=0).tolist()]}")
    mean = torch.eye(4, dtype=torch.float64)
    mean[:3, :3] = intrinsics.mean(dim=0)
    save_npy(out / "intrinsics_avg.npy", mean.numpy())
    figure, axes = new_figure(6, 6, "3d")
    plot_cameras(axes, poses[::-(-len(poses) // config.shown)])
    write_figure(out / "cameras.png", figure)
    print(f"mean focal {mean[0, 0]:.2f}, {mean[1, 1]:.2f}, centre {mean[0, 2]:.2f}, {mean[1, 2]:.2f}; {out / 'cameras.png'}")


# Captured pictures

def find_captures(root: Path) -> dict[str, list[Path]]:
    """{id: its pictures <id>_<view>.jpg, sorted by name} of a folder. Raises InputError for a picture of another name, or without camera or label map."""
    people: dict[str, list[Path]] = {}
    for picture in sorted(root.glob("*.jpg")):
        match = NAME.fullmatch(picture.stem)
        missing = [path for path in (picture.with_suffix(".npy"), segmap(picture)) if not path.is_file()]
        if not match or missing:
            raise InputError(f"{picture}: expected <id>_<view>.jpg" if not match else f"{missing[0]}: missing, though {picture.name} is there")
        people.setdefault(match[1], []).append(picture)
    if not people:
        raise InputError(f"{root}: no pictures <id>_<view>.jpg")
    return people


def segmap(picture: Path) -> Path:
    """The label map of a captured picture."""
    return picture.parent / "segmap" / f"{picture.stem}.png"


def convert_captures(pictures: list[Path], folder: Path, opengl: bool = True, encoding: str = "plain") -> None:
    """Write one person's views as SOF reads them: seg_00.png, its colours, the picture, and cameras by the names of the views."""
    poses, intrinsics = {}, {}
    for k, picture in enumerate(pictures):
        labels, name = read_labels(segmap(picture), encoding=encoding), f"seg_{k:02d}.png"
        poses[name], intrinsics[name] = read_capture(picture.with_suffix(".npy"), opengl)
        write_png(folder / name, labels)
        write_png(folder / f"seg_vis_{k:02d}.png", colorize(labels))
        write_png(folder / f"render_{k:02d}.png", read_picture(picture))
    save_npy(folder / "cam2world.npy", np.array(poses, dtype=object))
    save_npy(folder / "intrinsic.npy", np.array(intrinsics, dtype=object))


def read_capture(path: Path, opengl: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """cam2world (4, 4) and intrinsics (3, 3), in pixels, of a captured picture's .npy. Raises InputError."""
    found = _entries(path, "extrinsics", "intrinsic")
    cam2world = cam2world_of(_numbers(found["extrinsics"], (4, 4), path, "extrinsics"), opengl, str(path))
    intrinsics = _numbers(found["intrinsic"], (3, 3), path, "intrinsic")
    check_intrinsics(intrinsics, str(path))
    return cam2world.numpy(), intrinsics.numpy()


def cam2world_of(extrinsics: Tensor, opengl: bool, where: str) -> Tensor:
    """cam2world (..., 4, 4), OpenCV axes, of world-to-camera matrices. Raises InputError unless they are rigid."""
    check_cam2world(extrinsics, where)
    inverse = invert_rigid(extrinsics)
    return flip_yz(inverse) if opengl else inverse


# Calibrations

def convert_calibration(folder: Path) -> None:
    """Write cam2world.npy, intrinsic.npy and zRange.npy of a head from its cameras.npy."""
    path = folder / "cameras.npy"
    found = _entries(path, "extrinsics", "intrinsic", "zRange")
    count = len(found["extrinsics"])
    cam2world = cam2world_of(_numbers(np.asarray(found["extrinsics"]), (count, 4, 4), path, "extrinsics"), False, str(path))
    save_npy(folder / "cam2world.npy", cam2world.numpy())
    save_npy(folder / "intrinsic.npy", _numbers(found["intrinsic"], (3, 3), path, "intrinsic").numpy())
    save_npy(folder / "zRange.npy", _numbers(found["zRange"], (count, 2), path, "zRange").numpy())


def _entries(path: Path, *names: str) -> dict[str, Any]:
    found = read_npy(path)
    if not isinstance(found, dict) or not all(name in found for name in names):
        raise InputError(f"{path}: expected a dict with {', '.join(names)}")
    return found


def _numbers(value, shape: tuple, path: Path, name: str) -> Tensor:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.shape != shape:
        raise InputError(f"{path}: {name}: expected numbers of shape {shape}, found {array.dtype} {array.shape}")
    return torch.from_numpy(array.astype(np.float64))


# Depth

def equalise_depth(folders: list[Path], out: Path) -> tuple[float, float]:
    """Copy heads to `out`, their depth maps and zRange.npy for the least near and the greatest far of all; that near and far."""
    views = {folder: data.view_files(folder) for folder in folders}
    ranges = {folder: data.read_z_range(folder, files) for folder, files in views.items()}
    common = np.concatenate(list(ranges.values()))
    near, far = float(common[:, 0].min()), float(common[:, 1].max())
    for folder, files in views.items():
        if (out / folder.name).resolve() == folder.resolve():
            raise InputError(f"{out}: the heads stand there already; the copy needs another folder")
        copy = Path(shutil.copytree(folder, out / folder.name, dirs_exist_ok=True))
        for file, z_range in zip(files, ranges[folder]):
            path = file.with_name(file.name.replace("seg", "depth"))
            write_png(copy / path.name, recode_depth(one_channel(read_picture(path), str(path)), z_range, (near, far)))
        save_npy(copy / "zRange.npy", np.tile([near, far], (len(files), 1)))
    return near, far


def recode_depth(picture: np.ndarray, old: np.ndarray, new: tuple[float, float]) -> np.ndarray:
    """An 8-bit depth map (H, W) of near and far `old` for near and far `new`; the background stays 0, no surface becomes 0."""
    depth = decode_depth(picture, z_range=old)
    value = np.round((depth - new[0]) / (new[1] - new[0]) * 255).clip(1, 255)
    return np.where(picture > 0, value, 0).astype(np.uint8)


# Looking at cameras

def read_cameras(folders: list[Path]) -> tuple[dict[str, Tensor], Tensor]:
    """{head: cam2world (V, 4, 4)} and the intrinsics (n, 3, 3), in pixels of the stored pictures, of all views."""
    views = {folder: data.view_files(folder) for folder in folders}
    poses = {folder.name: data.read_cam2world(folder, files) for folder, files in views.items()}
    return poses, torch.cat([data.read_intrinsics(folder, files) for folder, files in views.items()])


def jittered(cam2world: Tensor, generator: torch.Generator, degrees: float = 5.0, shift: float = 0.1) -> Tensor:
    """cam2world (N, 4, 4) turned by random Euler angles x, y, z within +-degrees and moved within +-shift along each axis: the release's augmentation."""
    angles, moves = (2 * torch.rand(2, len(cam2world), 3, generator=generator, dtype=cam2world.dtype) - 1).unbind()
    result = cam2world.clone()
    result[:, :3, :3] = cam2world[:, :3, :3] @ euler(torch.deg2rad(degrees * angles))
    result[:, :3, 3] += shift * moves
    return result


def euler(angles: Tensor) -> Tensor:
    """Rotations (N, 3, 3) by angles (N, 3), radians, about x, then y, then z: R_z R_y R_x."""
    generators = torch.zeros(3, 3, 3, dtype=angles.dtype)
    for k in range(3):
        generators[k, (k + 2) % 3, (k + 1) % 3], generators[k, (k + 1) % 3, (k + 2) % 3] = 1, -1
    x, y, z = torch.linalg.matrix_exp(angles[..., None, None] * generators).unbind(dim=1)
    return z @ y @ x


if __name__ == "__main__":
    run_commands({"captures": (captures, CapturesConfig), "calibration": (calibration, FolderConfig), "zrange": (zrange, RangeConfig),
                  "cameras": (cameras, CamerasConfig), "clean": (clean, CleanConfig)}, __doc__)
