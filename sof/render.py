"""Look at a trained SOF: python sof/render.py views|slices|layers|mesh|dolly|depth|interpolate|edit|film|expressions --checkpoint log/people --instance 0

views: label maps from a path of cameras, as PNGs, MP4 and GIF; slices: the field on planes before the camera; layers: those planes as a film; mesh: its
surface with label colours; dolly, depth: that surface's depth, and what it does for the march (sof/dolly.py). interpolate, edit, film and expressions
change the head (sof/films.py).
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras
from common.config import option, run_commands
from common.errors import InputError
from common.files import replacing
from common.images import contact_sheet, write_png
from common.labels import SOF_LABELS, colorize
from common.render import render
from sof.cameras import normal_map, path_poses
from sof.dolly import DepthConfig, DollyConfig, depth_film, dolly
from sof.edit import close_holes
from sof.films import EditConfig, ExpressionsConfig, FilmConfig, InterpolateConfig, edit, expressions, film, interpolate
from sof.look import PALETTES, Look, cameras_at, code_of, distance_of, facing, opened, write_films, write_views
from sof.model import SOF, resize_scores
from sof.predict import rays_at_once, shooter, slicer
from sof.prior import PriorOptions, looking

PATHS = ("turntable", "sphere", "uniform", "spiral", "plane", "fibonacci", "azimuths")


@dataclass
class ViewsConfig(PriorOptions, Look):
    """Options of `views`."""

    path: str = option("turntable", "cameras round the head, or at the given azimuths", choices=PATHS)
    count: int = option(36, "cameras on the path (uniform: at each of 5 heights)", low=1)
    azimuths: list[float] = option([-40.0, 0.0, 40.0], "degrees from the front, towards the person's left, for path azimuths")
    output_sidelength: int | None = option(None, "side of the pictures; if other than side, probabilities are resized, as the release does", low=8)
    fps: float = option(15.0, "frames a second of the films", low=1)
    geometry: bool = option(False, "also depth and normals")
    area_closing: int = option(0, "holes of background within the head, of fewer pixels than this of 512 x 512, are closed; Test_MV_Inference: 6000", low=0)
    published_closing: bool = option(False, "with area_closing, as the notebook does: every region of a label lower than all about it is a hole")


@dataclass
class SlicesConfig(Look):
    """Options of `slices`."""

    count: int = option(9, "planes, evenly spaced from near to far", low=1)
    near: float | None = option(None, "camera z of the first plane, in world units; empty: where the sphere of the head begins")
    far: float | None = option(None, "camera z of the last plane; empty: where the sphere ends")
    azimuth: float = option(0.0, "of the camera, in degrees from the front")


@dataclass
class LayersConfig(SlicesConfig):
    """Options of `layers`."""

    count: int = option(61, "planes, evenly spaced from near to far", low=2)
    label: str = option("hair", "class whose probability is shown: its name or number")
    fps: float = option(15.0, "frames a second of the films", low=1)


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
    sof = opened(config)
    scene = sof.scene(code_of(config, sof, config.instance))
    distance = distance_of(config, sof)
    cam2world = facing(config.azimuths, distance) if config.path == "azimuths" else path_poses(config.path, config.count, distance)
    if not len(cam2world):
        raise InputError("--azimuths: expected one at least" if config.path == "azimuths" else f"--count {config.count}: too few for --path {config.path}")
    cameras = cameras_at(config, sof, cam2world)
    side = config.output_sidelength or config.side
    shoot, for_mesh = looking(config, sof, scene, scores=side != config.side)
    seen = render(shoot, cameras, config.side, config.side, rays_at_once(sof, config.side))
    labels = seen["labels"] if side == config.side else resize_scores(seen["scores"].flatten(1, 2), side).argmax(-1).unflatten(1, (side, side)).byte()
    labels, out = labels.cpu().numpy(), Path(config.out)
    if config.area_closing:
        labels = close_holes(labels, config.area_closing, config.published_closing)
    write_views(out, labels, config.palette, config.fps)
    if config.geometry:
        write_geometry(out, cameras, seen["z_depth"].cpu())
    if "asked" in seen:
        asked, usual = int(seen["asked"].sum()), seen["asked"].numel() * (sof.config.tracing_steps + 1)
        print(f"with the prior the field was asked {asked:,} times instead of {usual:,}, and {for_mesh:,} times for its mesh")
    print(f"{len(labels)} views in {out}")


@torch.no_grad()
def slices(config: SlicesConfig) -> None:
    """The field on planes before the camera: labels above, the probability of the foreground below, near to far."""
    sof = opened(config)
    scene = sof.scene(code_of(config, sof, config.instance))
    camera = cameras_at(config, sof, facing([config.azimuth], distance_of(config, sof)))
    depths = torch.linspace(*z_range(config, sof), config.count).tolist()
    seen = [render(slicer(sof, scene, depth), camera, config.side, config.side, rays_at_once(sof, config.side)) for depth in depths]
    labels = [colorize(s["labels"][0].cpu().numpy(), PALETTES[config.palette]) for s in seen]
    ahead = [(255 * (1 - s["probabilities"][0, ..., 0])).byte().cpu().numpy()[..., None].repeat(3, -1) for s in seen]
    out = Path(config.out)
    write_png(out / "slices.png", contact_sheet(labels + ahead, columns=len(labels)))
    print(f"{len(depths)} slices from camera z {depths[0]:.2f} to {depths[-1]:.2f} in {out / 'slices.png'}")


@torch.no_grad()
def layers(config: LayersConfig) -> None:
    """Plane after plane as a film: the labels on it, how likely a class is there, and what is seen of the head up to it."""
    sof = opened(config)
    scene, label = sof.scene(code_of(config, sof, config.instance)), label_of(config.label, sof.config.out_channels)
    camera = cameras_at(config, sof, facing([config.azimuth], distance_of(config, sof)))
    palette, chunk, frames = PALETTES[config.palette], rays_at_once(sof, config.side), []
    seen = render(shooter(sof, scene), camera, config.side, config.side, chunk)
    for depth in torch.linspace(*z_range(config, sof), config.count).tolist():
        plane = render(slicer(sof, scene, depth), camera, config.side, config.side, chunk)
        near = torch.where(seen["z_depth"] <= depth, seen["labels"], 0)
        pair = colorize(torch.cat([plane["labels"], near]).cpu().numpy(), palette)
        frames.append(contact_sheet([pair[0], heat(plane["probabilities"][0, ..., label].cpu().numpy()), pair[1]], columns=3))
        write_png(Path(config.out) / f"layer_{len(frames) - 1:03d}.png", frames[-1])
    write_films(Path(config.out) / "layers", np.stack(frames), config.fps)
    print(f"{len(frames)} planes, {SOF_LABELS[label] if label < len(SOF_LABELS) else label} in the middle, in {config.out}")


@torch.no_grad()
def mesh(config: MeshConfig) -> None:
    """The surface of one head with the colours of its labels: mesh.ply, mesh.glb and a picture of it."""
    from common.meshes import largest_component, picture, save
    from sof.volume import head_volume, paint_labels, volume_mesh

    sof = opened(config)
    scene = sof.scene(code_of(config, sof, config.instance))
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

def label_of(name: str, classes: int) -> int:
    """The class that a name or number means. Raises InputError."""
    label = SOF_LABELS.index(name) if name in SOF_LABELS else int(name) if name.isdigit() else classes
    if label >= classes:
        raise InputError(f"--label {name}: expected 0-{classes - 1} or one of {', '.join(SOF_LABELS)}")
    return label


def heat(values: np.ndarray) -> np.ndarray:
    """The colours (H, W, 3) uint8, from black over purple to yellow, of values (H, W) in [0, 1]."""
    from matplotlib import colormaps
    return colormaps["magma"](values, bytes=True)[..., :3]


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


if __name__ == "__main__":
    commands = {"views": (views, ViewsConfig), "slices": (slices, SlicesConfig), "layers": (layers, LayersConfig), "mesh": (mesh, MeshConfig),
                "dolly": (dolly, DollyConfig), "depth": (depth_film, DepthConfig), "interpolate": (interpolate, InterpolateConfig), "edit": (edit, EditConfig),
                "film": (film, FilmConfig), "expressions": (expressions, ExpressionsConfig)}
    run_commands(commands, __doc__)
