"""What looking at GOF's scenes takes: the options of every picture, the generator, what cameras see, and pictures of that for eyes."""
from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras, pigan_cameras
from common.config import option
from common.errors import InputError
from common.images import contact_sheet
from common.march import March, search_surface
from common.pigan import Scene
from common.ranks import device_of
from common.rays import camera_rays
from common.render import render
from gof import model
from gof.model import Generator, march_options, shoot
from gof.paths import steps

TILT = 0.5                                                    # yaw, radians, of a sheet's tilted view
DARK = 1e-5                                                   # share of a ray's light: who gets less is not asked for; 0.003 of a gray level
FLAT = 1e-5                                                   # the least range that is stretched, as torchvision's


@dataclass
class Opening:
    """The options that name a generator."""

    generator_path: str = option("", "run folder, checkpoint of ours or an author's generator.pth; or as --checkpoint", positional=True)
    checkpoint: str = option("", "the same, as a flag")
    curriculum: str | None = option(None, "of an author's file, which carries no options: BFM, CelebA, CATS, pigan_CelebA, ..., or a YAML file")
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER")


def opened(config: Opening) -> Generator:
    """The generator that was asked for, on its device. Raises InputError unless there is exactly one."""
    if bool(config.generator_path) == bool(config.checkpoint):
        raise InputError("--checkpoint: expected one generator, as --checkpoint PATH or as the first argument")
    return model.load(config.generator_path or config.checkpoint, config.curriculum, device_of(config.device))


# What cameras see

def look(generator: Generator, scene: Scene, angles: Tensor, side: int, by: March | None = None, fov: float | Tensor | None = None,
         shoot: Callable = shoot, chunk: int | None = None) -> dict[str, Tensor]:
    """What cameras [pitch, yaw] (N, 2) see of one scene: {name: (N, side, side, ...)} of `shoot`, `chunk` rays at once, without any random draw."""
    fov = generator.config.fov if fov is None else fov
    cameras: Cameras = pigan_cameras(angles.to(generator.siren.final_layer.weight), fov, side)
    by = replace(by or march_options(generator.config), stop=DARK)
    return render(partial(shoot, generator, scene, by), cameras, side, side, chunk)


def shoot_surface(generator: Generator, scene: Scene, by: March, cameras: Cameras, uv: Tensor) -> dict[str, Tensor]:
    """surface_depth, hit, surface_colors and normals of pixels uv (B, R, 2) as `gof.model.shoot` has them, but nothing composited: one colour a pixel."""
    origins, directions = camera_rays(cameras, uv)
    points_at = lambda depths: (origins[:, :, None] + directions[:, :, None] * depths[..., None]).flatten(1, 2)
    density_at = lambda depths: generator.siren.density(scene, points_at(depths)).view(depths.shape)
    depths = torch.linspace(by.near, by.far, by.coarse, device=origins.device).expand(*origins.shape[:2], -1)
    found = search_surface(density_at, density_at(depths), depths, by)
    points = points_at(found["surface_depth"][..., None])
    return {"surface_depth": found["surface_depth"].clamp(by.near, by.far), "hit": found["hit"], "normals": generator.siren.normals(scene, points),
            "surface_colors": generator.siren.field(scene, points, directions)[1]}


# Pictures for eyes

def as_pictures(values: Tensor) -> np.ndarray:
    """uint8 of colours in [0, 1]."""
    return (values.clamp(0, 1) * 255).round().byte().cpu().numpy()


def drawings(generator: Generator, seen: dict[str, Tensor], stretch: bool = False) -> dict[str, np.ndarray]:
    """Pictures (N, H, W, 3) uint8 of all that was seen, by their published names: img, single, depth, pred_depth, normal, mask.

    Depth is white at ray_start and black at ray_end in every picture; normals are (n + 1) / 2. Where a generator with a white background finds no surface,
    normals and surface colours are white and depths black. `stretch`: as released, all but normals and masks go from the least value of each picture, black,
    to its greatest, so that what is far is bright.
    """
    config = generator.config
    solid = seen["hit"] if config.white_back and "hit" in seen else torch.ones_like(seen["surface_colors"][..., 0], dtype=torch.bool)
    on_white = lambda colors: torch.where(solid[..., None], colors, 1.0)
    nearness = lambda depths: torch.where(solid, (config.ray_end - depths) / (config.ray_end - config.ray_start), 0.0)
    as_is = lambda colors: colors
    tones = {"img": ("colors", as_is), "single": ("surface_colors", on_white), "depth": ("depth", nearness), "pred_depth": ("surface_depth", nearness)}
    shown = {name: (stretched if stretch else tone)(seen[key]) for name, (key, tone) in tones.items() if key in seen}
    shown["normal"] = on_white(seen["normals"] / 2 + 0.5)
    if "hit" in seen:
        shown["mask"] = seen["hit"].float()
    rgb = lambda values: values if values.ndim == 4 else values[..., None].expand(*values.shape, 3)
    return {name: as_pictures(rgb(values)) for name, values in shown.items()}


def stretched(values: Tensor) -> Tensor:
    """Each of N pictures (N, ...) from its least value, 0, to its greatest, 1."""
    low, high = values.flatten(1).aminmax(dim=1)
    shape = (-1, *[1] * (values.ndim - 1))
    return (values - low.view(shape)) / (high - low).clamp_min(FLAT).view(shape)


def center_of(generator: Generator) -> tuple[float, float]:
    """[pitch, yaw] in the middle of the training's cameras."""
    return generator.config.v_mean, generator.config.h_mean


def scene_of(generator: Generator, seed: int, psi: float = 1.0) -> Scene:
    """The scene of a seed's code, truncated by psi."""
    with torch.no_grad():
        return generator.scene(generator.codes(generator.latents([seed]), psi))


def codes_scene(generator: Generator, path: str | Path) -> Scene:
    """The scene of codes that gof/invert.py found, an .npz file. Raises InputError."""
    total = generator.average[0].shape[1]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            codes = [torch.from_numpy(arrays[name].astype(np.float32)) for name in ("frequencies", "phases")]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected codes of gof/invert.py, frequencies and phases ({type(error).__name__})") from None
    if any(code.shape != (1, total) or not code.isfinite().all() for code in codes):
        raise InputError(f"{path}: expected finite frequencies and phases (1, {total}) of this generator, found {[tuple(code.shape) for code in codes]}")
    with torch.no_grad():
        return generator.scene(tuple(code.to(generator.siren.final_layer.weight) for code in codes))


def sample_sheet(generator: Generator, seeds: Iterable[int], side: int, psi: float = 1.0, by: March | None = None) -> np.ndarray:
    """A picture of codes, one a column: frontal, tilted, the frontal normals and depth."""
    angles, columns = steps((0.0, TILT), center_of(generator)), []
    for seed in seeds:
        shown = drawings(generator, look(generator, scene_of(generator, seed, psi), angles, side, by))
        columns.append([*shown["img"], shown["normal"][0], shown["depth"][0]])
    return contact_sheet([row for rows in zip(*columns) for row in rows], columns=len(columns))
