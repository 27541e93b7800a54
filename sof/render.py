"""Look at a trained SOF: python sof/render.py views|slices|mesh --checkpoint log/people --instance 0

views: label maps from a path of cameras, as PNGs, MP4 and GIF; slices: the field on planes before the camera; mesh: its surface with label colours.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras, orbit
from common.config import option, run_commands
from common.errors import InputError
from common.files import replacing
from common.images import contact_sheet, write_png
from common.labels import NOTEBOOK_PALETTE, TRAINING_PALETTE, colorize
from common.layers.hyper import Layers
from common.ranks import device_of
from common.render import render
from sof import data, model
from sof.cameras import CENTER, PUBLISHED_DISTANCE, PUBLISHED_FOCAL, normal_map, path_poses, published_cameras
from sof.model import SOF, resize_scores
from sof.predict import shooter, slicer

PATHS = ("turntable", "sphere", "uniform", "spiral", "azimuths")
PALETTES = {"training": TRAINING_PALETTE, "notebook": NOTEBOOK_PALETTE}
PERSPECTIVE_FOCAL, PERSPECTIVE_DISTANCE = 450.0, 1.0            # of the older perspective models, on a 128 grid


@dataclass
class Look:
    """What every picture of a head needs."""

    checkpoint: str = option(..., "run folder, checkpoint of ours or author's file")
    instance: str = option("0", "head: its name or its row in the embedding, counted from 0")
    out: str = option(..., "folder for the pictures")
    side: int = option(128, "side of the grid of rays, in pixels", low=8)
    focal: float | None = option(None, "focal length on a 128 grid, in pixels (orthographic: pixels per world unit); empty: 36 orthographic, 450 perspective")
    distance: float | None = option(None, "of the camera from the head, in world units; empty: 4.5 orthographic, 1 perspective")
    palette: str = option("training", "colours of the labels", choices=PALETTES)
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER")


@dataclass
class ViewsConfig(Look):
    """Options of `views`."""

    path: str = option("turntable", "cameras round the head, or at the given azimuths", choices=PATHS)
    count: int = option(36, "cameras on the path (uniform: at each of 5 heights)", low=1)
    azimuths: list[float] = option([-40.0, 0.0, 40.0], "degrees from the front, towards the person's left, for path azimuths")
    output_sidelength: int | None = option(None, "side of the pictures; if other than side, probabilities are resized, as the release does", low=8)
    fps: float = option(15.0, "frames a second of the films", low=1)
    geometry: bool = option(False, "also depth and normals")


@dataclass
class SlicesConfig(Look):
    """Options of `slices`."""

    count: int = option(9, "planes, evenly spaced from near to far", low=1)
    near: float | None = option(None, "camera z of the first plane, in world units; empty: where the sphere of the head begins")
    far: float | None = option(None, "camera z of the last plane; empty: where the sphere ends")
    azimuth: float = option(0.0, "of the camera, in degrees from the front")


@dataclass
class MeshConfig(Look):
    """Options of `mesh`."""

    side: int = option(128, "voxels along each side of the picture", low=8)
    slices: int = option(128, "voxels in depth", low=8)
    near: float | None = option(None, "camera z where the volume begins, in world units; empty: where the sphere of the head begins")
    far: float | None = option(None, "camera z where it ends; empty: where the sphere ends")
    level: float = option(-0.5, "P(background) - P(best other class) at the surface, -1 to 1; the notebooks' -0.5")
    dense: bool = option(False, "ask the field at every voxel, instead of coarse to fine: finds specks apart from the rest")
    volume: bool = option(False, "also write the volume, volume.npy (side, side, slices) float32; implies dense")


@torch.no_grad()
def views(config: ViewsConfig) -> None:
    """Label maps of one head from a path of cameras."""
    sof, scene = opened(config)
    distance = distance_of(config, sof)
    cam2world = facing(config.azimuths, distance) if config.path == "azimuths" else path_poses(config.path, config.count, distance)
    if not len(cam2world):
        raise InputError("--azimuths: expected one at least" if config.path == "azimuths" else f"--count {config.count}: too few for --path {config.path}")
    cameras = cameras_at(config, sof, cam2world)
    side = config.output_sidelength or config.side
    seen = render(shooter(sof, scene, scores=side != config.side), cameras, config.side, config.side)
    labels = seen["labels"] if side == config.side else resize_scores(seen["scores"].flatten(1, 2), side).argmax(-1).unflatten(1, (side, side)).byte()
    frames = colorize(labels.cpu().numpy(), PALETTES[config.palette])
    out = Path(config.out)
    for k, (label, frame) in enumerate(zip(labels.cpu().numpy(), frames)):
        write_png(out / f"seg_{k:03d}.png", label)
        write_png(out / f"seg_vis_{k:03d}.png", frame)
    if config.geometry:
        write_geometry(out, cameras, seen["z_depth"].cpu())
    if len(frames) > 1:
        write_films(out / "views", frames, config.fps)
    print(f"{len(frames)} views in {out}")


@torch.no_grad()
def slices(config: SlicesConfig) -> None:
    """The field on planes before the camera: labels above, the probability of the foreground below, near to far."""
    sof, scene = opened(config)
    camera = cameras_at(config, sof, facing([config.azimuth], distance_of(config, sof)))
    depths = torch.linspace(*z_range(config, sof), config.count).tolist()
    seen = [render(slicer(sof, scene, depth), camera, config.side, config.side) for depth in depths]
    labels = [colorize(s["labels"][0].cpu().numpy(), PALETTES[config.palette]) for s in seen]
    ahead = [(255 * (1 - s["probabilities"][0, ..., 0])).byte().cpu().numpy()[..., None].repeat(3, -1) for s in seen]
    out = Path(config.out)
    write_png(out / "slices.png", contact_sheet(labels + ahead, columns=len(labels)))
    print(f"{len(depths)} slices from camera z {depths[0]:.2f} to {depths[-1]:.2f} in {out / 'slices.png'}")


@torch.no_grad()
def mesh(config: MeshConfig) -> None:
    """The surface of one head with the colours of its labels: mesh.ply, mesh.glb and a picture of it."""
    from common.meshes import largest_component, picture, save
    from sof.volume import head_volume, paint_labels, volume_mesh

    sof, scene = opened(config)
    camera = cameras_at(config, sof, facing([0.0], distance_of(config, sof)))
    around, dense = z_range(config, sof), config.dense or config.volume
    volume, evaluations = head_volume(sof, scene, camera, config.side, config.slices, around, None if dense else config.level)
    surface = paint_labels(sof, scene, largest_component(volume_mesh(volume, camera, around, config.level)), PALETTES[config.palette], device=volume.device)
    out = Path(config.out)
    if config.volume:
        with replacing(out / "volume.npy") as temporary, temporary.open("wb") as file:
            np.save(file, volume.cpu().numpy())
    for name in ("mesh.ply", "mesh.glb"):
        save(out / name, surface)
    shots = picture(surface, cameras_at(config, sof, facing([-40.0, 0.0, 40.0], distance_of(config, sof))).move("cpu"), 384, 384)
    write_png(out / "mesh.png", contact_sheet(list(shots), columns=3))
    print(f"{len(surface.vertices)} vertices, {len(surface.faces)} faces, field asked at {evaluations} of {volume.numel()} voxels; {out / 'mesh.glb'}")


# What the commands share

def opened(config: Look) -> tuple[SOF, Layers]:
    """The model and the scene of the head that was asked for."""
    sof, _ = model.load(config.checkpoint, device_of(config.device))
    row = head_row(config, len(sof.latent_codes.weight))
    _, code = sof.split_codes(sof.latent_codes.weight[row : row + 1])
    return sof, sof.scene(code)


def head_row(config: Look, count: int) -> int:
    """The row of the embedding that --instance means. Raises InputError for a head that is not there."""
    names = data.find_indexing(config.checkpoint) or ()
    if config.instance in names:
        return names.index(config.instance)
    if config.instance.isdigit() and int(config.instance) < count:
        return int(config.instance)
    raise InputError(f"--instance {config.instance}: expected a row 0-{count - 1}" + (f" or a name such as {names[0]}" if names else ""))


def distance_of(config: Look, sof: SOF) -> float:
    """Of the cameras from the head, in world units."""
    return config.distance or (PUBLISHED_DISTANCE if sof.config.orthogonal else PERSPECTIVE_DISTANCE)


def facing(azimuths: list[float], distance: float) -> Tensor:
    """cam2world (N, 4, 4) at eye height, turned by these degrees from the front."""
    return orbit(torch.tensor(azimuths, dtype=torch.float64) * math.pi / 180, torch.zeros(1, dtype=torch.float64), distance, CENTER)


def cameras_at(config: Look, sof: SOF, cam2world: Tensor) -> Cameras:
    """The cameras of the model's kind at these poses."""
    focal = config.focal or (PUBLISHED_FOCAL if sof.config.orthogonal else PERSPECTIVE_FOCAL)
    return published_cameras(cam2world, focal, orthographic=sof.config.orthogonal).move(device_of(config.device))


def z_range(config: SlicesConfig | MeshConfig, sof: SOF) -> tuple[float, float]:
    """Camera z of the first and last plane: those asked for, or where the sphere of the head begins and ends."""
    distance, radius = distance_of(config, sof), sof.config.sphere_radius
    near = config.near if config.near is not None else max(distance - radius, 0.05)
    far = config.far if config.far is not None else distance + radius
    if not near < far:
        raise InputError(f"--near {near} --far {far}: expected near < far")
    return near, far


def write_geometry(out: Path, cameras: Cameras, z_depth: Tensor) -> None:
    """Depth, near white and far black, and normals as (n + 1) / 2."""
    low, high = z_depth.min(), z_depth.max()
    gray = (255 * (high - z_depth) / (high - low).clamp_min(1e-6)).byte().numpy()
    normals = normal_map(cameras.move("cpu"), z_depth)
    colors = ((normals.permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).byte().numpy()
    for k in range(len(z_depth)):
        write_png(out / f"depth_{k:03d}.png", gray[k])
        write_png(out / f"normals_{k:03d}.png", colors[k])


def write_films(stem: Path, frames: np.ndarray, fps: float) -> None:
    """STEM.mp4 and STEM.gif."""
    from common.video import write_video

    large = frames.repeat(max(1, 256 // frames.shape[1]), 1).repeat(max(1, 256 // frames.shape[2]), 2)
    for suffix in (".mp4", ".gif"):
        write_video(stem.with_suffix(suffix), large, fps, dither=False)


if __name__ == "__main__":
    run_commands({"views": (views, ViewsConfig), "slices": (slices, SlicesConfig), "mesh": (mesh, MeshConfig)}, __doc__)
