"""Shapes of a trained GOF or pi-GAN: python gof/extract.py --checkpoint pretrained/gof_people.safetensors --seeds 0 1 2 3

shapes (meant where no command stands): the surface of each code as a mesh with the field's colours, in world units, and its voxels; pictures: meshes from
five sides; film: meshes from an ellipse of cameras. The last two need no display and no checkpoint; they take meshes and voxels, as

    python gof/extract.py film out/gof_shapes/0.ply

SEED.ply SEED.glb SEED.obj          the mesh, from coarse to fine: the field is asked only where the surface passes
SEED_RES_voxel.npy                  the occupancy, or a density as it is, (RES, RES, RES) float32 by x, y, z, of every point of the cube
SEED.mrc                            the same, in world units, for ChimeraX
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras, intrinsics_matrix
from common.chunks import POINTS, in_chunks, spans
from common.config import option, run_commands
from common.errors import InputError
from common.files import replacing
from common.images import contact_sheet, write_png
from common.meshes import FORMATS, Mesh, largest_component, load, marching_cubes, picture, save
from common.pigan import Scene
from common.published import read_npy
from common.surfaces import Field, dense_grid, refine_grid
from gof import paths
from gof.look import Opening, codes_scene, opened, scene_of
from gof.model import Generator

VOXELS, MESHES = ("npy", "mrc"), tuple(kind[1:] for kind in FORMATS)
TOWARD = (0.0, 0.0, -1.0)                                     # the direction that colours are seen along: from the front
CROP = 392 / 512                                              # of the release's mesh pictures
MESH_FOV = 12.0                                               # degrees, before the crop


@dataclass
class ShapesConfig(Opening):
    """Options of `shapes`."""

    seeds: list[int] = option([0, 1, 2], "codes", low=0)
    codes: str | None = option(None, "in place of the seeds: codes.npz of gof/invert.py, whose files are named codes")
    psi: float = option(0.7, "truncation: 1 takes codes as drawn, 0 gives the average head", low=0)
    cube_size: float = option(0.3, "side of the cube about the origin, world units", low=0)
    voxel_resolution: int = option(256, "points along each side of the cube", low=2)
    output_dir: str = option("out/gof_shapes", "folder for what is written")
    formats: list[str] = option(["ply", "glb"], "files to write; npy and mrc imply dense", choices=(*MESHES, *VOXELS))
    level: float | None = option(None, "at the surface: occupancy, 0 to 1, or density; empty: 0.5, or the density that takes half the light in a training step")
    largest: bool = option(True, "of the mesh the largest piece alone")
    dense: bool = option(False, "ask the field at every point, instead of coarse to fine: finds specks apart from the rest")
    published: bool = option(False, "the release's defect: its grid is sheared by up to a voxel; implies dense")


@dataclass
class PicturesConfig:
    """Options of `pictures`."""

    meshes: list[str] = option(..., "meshes (.ply, .glb, .obj) in world units, or voxels (.npy) of the cube", positional=True)
    cube_size: float = option(0.3, "side of the cube that the cameras frame, and that voxels fill, world units", low=0)
    level: float = option(0.5, "of voxels, at the surface")
    size: int = option(392, "side of the pictures, in pixels", low=8)
    gray: bool = option(False, "leave the colours out")
    output_dir: str = option("out/gof_shapes", "folder for what is written")
    device: str = option("cpu", "cpu, cuda or cuda:NUMBER")


@dataclass
class FilmConfig(PicturesConfig):
    """Options of `film`."""

    num_frames: int = option(60, "frames", low=1)
    fps: float = option(15.0, "frames a second", low=1)
    frames: bool = option(False, "also every frame as a PNG")


def shapes(config: ShapesConfig) -> None:
    """The mesh, and if asked for the voxels, of each code."""
    if not config.formats:
        raise InputError(f"--formats: expected one or more of {', '.join((*MESHES, *VOXELS))}")
    generator, out = opened(config), Path(config.output_dir)
    level = level_of(config, generator)
    for name in ["codes"] if config.codes else config.seeds:
        scene = codes_scene(generator, config.codes) if config.codes else scene_of(generator, name, config.psi)
        values, evaluations = grid_of(config, generator, scene, level)
        write_voxels(config, generator, out, name, values)
        kinds, said = [kind for kind in config.formats if kind in MESHES], f"field asked at {evaluations:,} of {values.numel():,} points"
        if kinds:
            surface = marching_cubes(values.cpu(), level, cube(config.cube_size))
            surface = paint(generator, scene, largest_component(surface) if config.largest else surface)
            said = f"{len(surface.vertices):,} vertices, {len(surface.faces):,} faces, {said}"
        for kind in kinds:
            save(out / f"{name}.{kind}", surface)
        print(f"{out / str(name)}: {said}")


def pictures(config: PicturesConfig) -> None:
    """Meshes from five sides, before white: MESH_0.png ... MESH_4.png, and side by side as MESH.png."""
    cameras = mesh_cameras(paths.around(distance=paths.MESH_DISTANCE * config.cube_size))
    for name, mesh in opened_meshes(config):
        shots = picture(mesh, cameras, config.size, config.size, device=config.device)
        for k, shot in enumerate(shots):
            write_png(Path(config.output_dir) / f"{name}_{k}.png", shot)
        write_png(Path(config.output_dir) / f"{name}.png", contact_sheet(shots, columns=len(shots)))
        print(Path(config.output_dir) / f"{name}.png")


def film(config: FilmConfig) -> None:
    """Meshes from an ellipse of cameras, before white: MESH.mp4."""
    from common.video import write_video

    cameras = mesh_cameras(paths.nodding(config.num_frames, distance=paths.MESH_DISTANCE * config.cube_size))
    for name, mesh in opened_meshes(config):
        shots = picture(mesh, cameras, config.size, config.size, samples=2, device=config.device)
        for k, shot in enumerate(shots if config.frames else ()):
            write_png(Path(config.output_dir) / f"{name}_{k:03d}.png", shot)
        write_video(Path(config.output_dir) / f"{name}.mp4", shots, config.fps)
        print(Path(config.output_dir) / f"{name}.mp4")


# The field on a grid

def cube(side: float) -> Tensor:
    """The box (2, 3) of a cube about the origin."""
    return torch.tensor([[-side / 2] * 3, [side / 2] * 3], dtype=torch.float64)


def level_of(config: ShapesConfig, generator: Generator) -> float:
    """The field's raw value at the surface: a logit or a density. Raises InputError for an occupancy that is none."""
    model = generator.config
    if not model.pred_occ:
        step = (model.ray_end - model.ray_start) / (model.num_steps_coarse - 1)
        return math.log(2) / step if config.level is None else config.level
    occupancy = model.tau if config.level is None else config.level
    if not 0 < occupancy < 1:
        raise InputError(f"--level {occupancy}: expected an occupancy between 0 and 1")
    return math.log(occupancy / (1 - occupancy))


def raw(generator: Generator, scene: Scene, points: Tensor) -> Tensor:
    """Logits or densities (P,) of one scene at world points (P, 3)."""
    with torch.no_grad():
        return generator.siren.density(scene, points[None])[0, :, 0]


def voxels(generator: Generator, values: Tensor) -> Tensor:
    """Occupancies of logits; densities as they are."""
    return values.sigmoid() if generator.config.pred_occ else values


def grid_of(config: ShapesConfig, generator: Generator, scene: Scene, level: float) -> tuple[Tensor, int]:
    """Raw values (X, Y, Z) over the cube, exact beside the surface or everywhere, and how many points the field was asked for."""
    side, field = config.voxel_resolution, partial(raw, generator, scene)
    if config.published:
        return sheared_values(field, side, config.cube_size, device=generator.siren.final_layer.weight.device), side**3
    box = cube(config.cube_size).to(generator.siren.final_layer.weight)
    if config.dense or set(config.formats) & set(VOXELS):
        return dense_grid(field, box, side)
    return refine_grid(field, box, side, level)


def sheared_values(field: Field, side: int, cube_size: float, origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
                   device: torch.device | str = "cpu") -> Tensor:
    """Values (side, side, side) of field(points (P, 3)) -> (P,) on the release's grid, `sheared_points`."""
    values = torch.empty(side**3, device=device)
    at = lambda start, stop: field(sheared_points(torch.arange(start, stop, device=device), side, cube_size, origin)[0])
    for start, stop, part in spans(at, side**3, POINTS):
        values[start:stop] = part
    return values.view(side, side, side)


def sheared_points(index: Tensor, side: int, cube_size: float, origin: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[Tensor, Tensor, float]:
    """Points (P, 3) float32 of flat voxel indices (P,) as released; the grid's lower corner (3,), which the coordinates take in reverse; the voxel's side.

    x = ((k / n / n) mod n) v + o, y = ((k / n) mod n) v + o, z = (k mod n) v + o, without rounding down: y is sheared along z, and x along both.
    """
    corner, voxel = torch.tensor(origin, dtype=torch.float64) - cube_size / 2, cube_size / (side - 1)
    k = index.float()
    steps = torch.stack([k / side / side % side, k / side % side, (index % side).float()], dim=-1)
    return steps * voxel + corner.flip(0).to(steps), corner, voxel


def write_voxels(config: ShapesConfig, generator: Generator, out: Path, name: int | str, values: Tensor) -> None:
    """NAME_RES_voxel.npy and NAME.mrc, where asked for."""
    volume = voxels(generator, values).cpu().numpy() if set(config.formats) & set(VOXELS) else None
    if "npy" in config.formats:
        with replacing(out / f"{name}_{config.voxel_resolution}_voxel.npy") as temporary, temporary.open("wb") as file:
            np.save(file, volume)
    if "mrc" in config.formats:
        import mrcfile

        with replacing(out / f"{name}.mrc") as temporary, mrcfile.new(temporary, overwrite=True) as file:
            file.set_data(volume.transpose(2, 1, 0))           # sections along z, of rows along y
            file.voxel_size = config.cube_size / (config.voxel_resolution - 1)
            file.header.origin = (-config.cube_size / 2,) * 3


def paint(generator: Generator, scene: Scene, mesh: Mesh) -> Mesh:
    """The mesh with the field's colours at its vertices, as seen from the front."""
    def color(points: Tensor) -> Tensor:
        with torch.no_grad():
            return generator.siren.field(scene, points[None], points.new_tensor(TOWARD).expand_as(points)[None])[1][0]

    colors = in_chunks(color, torch.as_tensor(mesh.vertices).to(generator.siren.final_layer.weight), chunk=POINTS)
    return replace(mesh, colors=(255 * colors).round().byte().cpu().numpy())


# Meshes before cameras

def mesh_cameras(cam2world: Tensor) -> Cameras:
    """The release's cameras for meshes, at these poses (N, 4, 4)."""
    focal = 0.5 / math.tan(math.radians(MESH_FOV) / 2) / CROP
    return Cameras(cam2world.float(), intrinsics_matrix(focal).expand(len(cam2world), 3, 3))


def opened_meshes(config: PicturesConfig):
    """(name, mesh) of each file that was given. Raises InputError."""
    if not config.meshes:
        raise InputError("expected meshes: files of python gof/extract.py shapes")
    for path in map(Path, config.meshes):
        mesh = voxels_mesh(path, config.level, config.cube_size) if path.suffix == ".npy" else load(path)
        yield path.stem, replace(mesh, colors=None) if config.gray else mesh


def voxels_mesh(path: Path, level: float, cube_size: float) -> Mesh:
    """The surface of voxels (X, Y, Z), an .npy file, over the cube. Raises InputError."""
    values = np.asarray(read_npy(path))
    if values.ndim != 3 or values.dtype.kind != "f" or min(values.shape) < 2 or not np.isfinite(values).all():
        raise InputError(f"{path}: expected finite voxels (X, Y, Z), found {values.dtype} {values.shape}")
    return marching_cubes(values, level, cube(cube_size))


if __name__ == "__main__":
    run_commands({"shapes": (shapes, ShapesConfig), "pictures": (pictures, PicturesConfig), "film": (film, FilmConfig)}, __doc__, default="shapes")
