"""What looking at a head takes: the options of every picture, the model and the head's code, cameras before it, pictures and films of labels."""
from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras, orbit
from common.config import option
from common.errors import InputError
from common.images import write_png
from common.labels import NOTEBOOK_PALETTE, TRAINING_PALETTE, colorize
from common.published import read_npy
from common.ranks import device_of
from sof import data, model
from sof.cameras import CENTER, PUBLISHED_DISTANCE, PUBLISHED_FOCAL, published_cameras, sof_cameras
from sof.model import SOF

PALETTES = {"training": TRAINING_PALETTE, "notebook": NOTEBOOK_PALETTE}
PERSPECTIVE_FOCAL, PERSPECTIVE_DISTANCE = 450.0, 1.0            # of the older perspective models, on a 128 grid


@dataclass
class Picture:
    """The options of every picture."""

    checkpoint: str = option(..., "run folder, checkpoint of ours or author's file")
    out: str = option(..., "folder for what is written")
    side: int = option(128, "side of the grid of rays, in pixels", low=8)
    palette: str = option("training", "colours of the labels", choices=PALETTES)
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER")


@dataclass
class View(Picture):
    """The options of every picture of heads from cameras of the model's kind."""

    focal: float | None = option(None, "focal length on a 128 grid, in pixels (orthographic: pixels per world unit); empty: 36 orthographic, 450 perspective")
    intrinsics: str | None = option(None, "in place of focal, an intrinsics.txt: line 1 is 'f cx cy 0.' in pixels, line 4 'height width'")
    distance: float | None = option(None, "of the camera from the head, in world units; empty: 4.5 orthographic, 1 perspective")


@dataclass
class Head:
    """The option that names a head."""

    instance: str = option("0", "head: its name, its row in the embedding, counted from 0, or a file of codes, CODES.npy:row")


@dataclass
class Look(Head, View):
    """The options of every picture of one head from cameras of the model's kind."""


# Heads

def opened(config: Picture) -> SOF:
    """The model that was asked for, on its device."""
    return model.load(config.checkpoint, device_of(config.device))[0]


@torch.no_grad()
def code_of(config: Picture, sof: SOF, head: str) -> Tensor:
    """The code (1, embedding_size) of a head: the model's own, by name or row, or a file's, CODES.npy:row. Raises InputError for one that is not there."""
    path, _, row = head.rpartition(":") if not head.endswith(".npy") else (head, "", "0")
    if path.endswith(".npy"):
        codes = read_codes(path, sof)
        return codes[_row(row, len(codes), head)][None].to(device_of(config.device))
    return sof.split_codes(sof.codes(torch.tensor([row_of(config, sof, head)], device=device_of(config.device))))[1]


def row_of(config: Picture, sof: SOF, head: str) -> int:
    """The row, in the model's embedding, of a head given by name or row. Raises InputError for one that is not there."""
    names = data.find_indexing(config.checkpoint) or ()
    return _row(str(names.index(head)) if head in names else head, sof.heads, f"head {head}", names)


def _row(text: str, count: int, where: str, names: tuple[str, ...] = ()) -> int:
    if not (text.isdecimal() and int(text) < count):
        raise InputError(f"{where}: expected a row 0-{count - 1}" + (f" or a name such as {names[0]}" if names else ""))
    return int(text)


def read_codes(path: str | Path, sof: SOF) -> Tensor:
    """The codes (N, embedding_size) float32 of an .npy file of one code or one a row; a camera in the first columns is left out. Raises InputError."""
    size = sof.config.embedding_size
    return read_rows(path, size, size + model.CAMERA_COLUMNS)[:, -size:]


def read_rows(path: str | Path, *sizes: int) -> Tensor:
    """The rows (N, C) float32 of an .npy file of one or several, of one of these sizes. Raises InputError."""
    array = np.asarray(read_npy(path))
    rows = np.atleast_2d(array)
    if array.dtype.kind != "f" or rows.ndim != 2 or rows.shape[1] not in sizes or not np.isfinite(rows).all():
        raise InputError(f"{path}: expected finite codes of {sizes[0]} numbers, one a row, found {array.dtype} {array.shape}")
    return torch.from_numpy(rows.astype(np.float32))


# Cameras

def distance_of(config: View, sof: SOF) -> float:
    """Of the cameras from the head, in world units."""
    return config.distance or usual_distance(sof)


def usual_distance(sof: SOF) -> float:
    """At which the release looks at heads of a model of this kind."""
    return PUBLISHED_DISTANCE if sof.config.orthogonal else PERSPECTIVE_DISTANCE


def facing(azimuths: list[float], distance: float) -> Tensor:
    """cam2world (N, 4, 4) at eye height, turned by these degrees from the front."""
    return orbit(torch.tensor(azimuths, dtype=torch.float64) * math.pi / 180, torch.zeros(1, dtype=torch.float64), distance, CENTER)


def cameras_at(config: View, sof: SOF, cam2world: Tensor) -> Cameras:
    """The cameras of the model's kind at these poses. Raises InputError for two focal lengths."""
    if config.intrinsics is None:
        return usual_cameras(sof, cam2world, config.focal).move(device_of(config.device))
    if config.focal is not None:
        raise InputError("--focal, --intrinsics: give one of them")
    K = data.read_intrinsics_txt(config.intrinsics, config.side)[:3, :3].float()
    return sof_cameras(cam2world.float(), K.expand(len(cam2world), 3, 3), config.side, sof.config.orthogonal).move(device_of(config.device))


def usual_cameras(sof: SOF, cam2world: Tensor, focal: float | None = None) -> Cameras:
    """The release's cameras of the model's kind, unless with another focal length (on a 128 grid)."""
    return published_cameras(cam2world, focal or usual_focal(sof), orthographic=sof.config.orthogonal)


def usual_focal(sof: SOF) -> float:
    """Of the release's cameras for a model of this kind, on a 128 grid, in pixels."""
    return PUBLISHED_FOCAL if sof.config.orthogonal else PERSPECTIVE_FOCAL


# Pictures

def write_labels(out: Path, labels: np.ndarray, palette: str) -> np.ndarray:
    """Write label maps (N, H, W) uint8 as seg_000.png and in colours as seg_vis_000.png; the colours (N, H, W, 3)."""
    frames = colorize(labels, PALETTES[palette])
    for k, (label, frame) in enumerate(zip(labels, frames)):
        write_png(out / f"seg_{k:03d}.png", label)
        write_png(out / f"seg_vis_{k:03d}.png", frame)
    return frames


def write_views(out: Path, labels: np.ndarray, palette: str, fps: float, film: str = "views") -> None:
    """`write_labels`, and if there are several also FILM.mp4 and FILM.gif of them."""
    frames = write_labels(out, labels, palette)
    if len(frames) > 1:
        write_films(out / film, frames, fps)


def write_films(stem: Path, frames: np.ndarray, fps: float) -> None:
    """STEM.mp4 and STEM.gif of frames (N, H, W, 3) uint8, small ones enlarged."""
    from common.video import write_video

    large = frames.repeat(max(1, 256 // frames.shape[1]), 1).repeat(max(1, 256 // frames.shape[1]), 2)
    for suffix in (".mp4", ".gif"):
        write_video(stem.with_suffix(suffix), large, fps, dither=False)
