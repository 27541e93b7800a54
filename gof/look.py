"""What looking at GOF's scenes takes: the options of every picture, the generator, what cameras see, and pictures of that for eyes."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

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
from gof.paths import FRONT

TILT = 0.5                                                    # yaw, radians, of a sheet's tilted view
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
    return render(partial(shoot, generator, scene, by or march_options(generator.config)), cameras, side, side, chunk)


def shoot_surface(generator: Generator, scene: Scene, by: March, cameras: Cameras, uv: Tensor, normals: bool = True) -> dict[str, Tensor]:
    """surface_depth, hit, surface_colors and (if asked for) normals of pixels uv (B, R, 2), as `gof.model.shoot` has them, but nothing is composited.

    One call of the whole field a pixel. Raises InputError for a field without surface search.
    """
    if not by.surface:
        raise InputError("this generator's field is a density, which has no surface to show alone")
    origins, directions = camera_rays(cameras, uv)
    points_at = lambda depths: (origins[:, :, None] + directions[:, :, None] * depths[..., None]).flatten(1, 2)
    density_at = lambda depths: generator.siren.density(scene, points_at(depths)).view(depths.shape)
    depths = torch.linspace(by.near, by.far, by.coarse, device=origins.device).expand(*origins.shape[:2], -1)
    found = search_surface(density_at, density_at(depths), depths, by)
    points = points_at(found["surface_depth"][..., None])
    seen = found | {"surface_depth": found["surface_depth"].clamp(by.near, by.far), "surface_colors": generator.siren.field(scene, points, directions)[1]}
    return seen | ({"normals": generator.siren.normals(scene, points)} if normals else {})


# Pictures for eyes

def as_pictures(values: Tensor) -> np.ndarray:
    """uint8 of colours in [0, 1]."""
    return (values.clamp(0, 1) * 255).round().byte().cpu().numpy()


def drawings(generator: Generator, seen: dict[str, Tensor], stretch: bool = False) -> dict[str, np.ndarray]:
    """Pictures (N, H, W, 3) uint8 of all that was seen, by their published names: img, depth, pred_depth, single, normal, mask.

    Depth is white at ray_start and black at ray_end in every picture; normals are (n + 1) / 2. Where a generator with a white background finds no surface,
    normals and surface colours are white and depths are black. `stretch`: as released, depth grows brighter with distance, and each picture but normals and
    masks is stretched from its own least to its greatest value.
    """
    config, shown = generator.config, {}
    solid = seen["hit"][..., None] if config.white_back and "hit" in seen else torch.ones((), dtype=torch.bool)
    solid = solid.to(next(iter(seen.values())).device)
    gray = lambda values: values[..., None].expand(*values.shape, 3)
    nearness = lambda depths: torch.where(solid, gray((config.ray_end - depths) / (config.ray_end - config.ray_start)), 0.0)
    for name, key, draw in (("img", "colors", lambda colors: colors), ("single", "surface_colors", lambda colors: torch.where(solid, colors, 1.0)),
                            ("depth", "depth", nearness), ("pred_depth", "surface_depth", nearness)):
        if key in seen:
            shown[name] = stretched(gray(seen[key]) if stretch and "depth" in name else seen[key]) if stretch else draw(seen[key])
    if "normals" in seen:
        shown["normal"] = torch.where(solid, seen["normals"] / 2 + 0.5, 1.0)
    if "hit" in seen:
        shown["mask"] = gray(seen["hit"].float())
    return {name: as_pictures(values) for name, values in shown.items()}


def stretched(values: Tensor) -> Tensor:
    """Each of N pictures (N, ...) from its least value, 0, to its greatest, 1."""
    low, high = values.flatten(1).aminmax(dim=1)
    shape = (-1, *[1] * (values.ndim - 1))
    return (values - low.view(shape)) / (high - low).clamp_min(FLAT).view(shape)


def scene_of(generator: Generator, seed: int, psi: float = 1.0) -> Scene:
    """The scene of a seed's code, truncated by psi."""
    with torch.no_grad():
        return generator.scene(generator.codes(generator.latents([seed]), psi))


def sample_sheet(generator: Generator, seeds: Iterable[int], side: int, psi: float = 1.0, by: March | None = None) -> np.ndarray:
    """A picture of codes, one a column: frontal, tilted, the frontal normals and depth."""
    angles = torch.tensor([FRONT, (FRONT[0], FRONT[1] + TILT)])
    columns = []
    for seed in seeds:
        shown = drawings(generator, look(generator, scene_of(generator, seed, psi), angles, side, by))
        columns.append([*shown["img"], shown["normal"][0], shown["depth"][0]])
    return contact_sheet([row for rows in zip(*columns) for row in rows], columns=len(columns))
