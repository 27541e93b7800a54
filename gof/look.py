"""GOF's pictures for eyes: colours, normals and depth of scenes as uint8, and sheets of samples."""
from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras, pigan_cameras
from common.images import contact_sheet
from common.march import March
from common.pigan import Scene
from common.render import render
from gof.model import Generator, march_options, shoot

FRONT = (math.pi / 2, math.pi / 2)
TILT = 0.5                                                    # yaw, radians, of a sheet's tilted view


def look(generator: Generator, scene: Scene, angles: Tensor, side: int, by: March | None = None, fov: float | None = None) -> dict[str, Tensor]:
    """What cameras [pitch, yaw] (N, 2) see of one scene: `gof.model.shoot`'s {name: (N, side, side, ...)}, without any random draw."""
    device = generator.siren.final_layer.weight.device
    cameras: Cameras = pigan_cameras(angles.to(device), fov or generator.config.fov, side)
    return render(partial(shoot, generator, scene, by or march_options(generator.config)), cameras, side, side)


def as_pictures(values: Tensor) -> np.ndarray:
    """uint8 of colours in [0, 1]."""
    return (values.clamp(0, 1) * 255).round().byte().cpu().numpy()


def normal_pictures(normals: Tensor, hit: Tensor | None = None) -> np.ndarray:
    """uint8 (..., 3) of world normals (..., 3): (n + 1) / 2; white where nothing was hit."""
    shown = normals / 2 + 0.5
    return as_pictures(shown if hit is None else torch.where(hit[..., None], shown, 1.0))


def depth_pictures(depths: Tensor, near: float, far: float) -> np.ndarray:
    """uint8 (..., 3) of depths: near is white, far is black, the same for every picture."""
    return as_pictures(((far - depths) / (far - near))[..., None].expand(*depths.shape, 3))


def sample_sheet(generator: Generator, seeds: Iterable[int], side: int, psi: float = 1.0) -> np.ndarray:
    """A picture of codes, one a column: frontal, tilted, the frontal normals and depth."""
    columns = []
    angles = torch.tensor([FRONT, (FRONT[0], FRONT[1] + TILT)])
    for seed in seeds:
        with torch.no_grad():
            scene = generator.scene(generator.codes(generator.latents([seed]), psi))
        seen = look(generator, scene, angles, side)
        config = generator.config
        columns.append([*as_pictures(seen["colors"]), normal_pictures(seen["normals"], seen.get("hit"))[0], depth_pictures(seen["depth"], config.ray_start, config.ray_end)[0]])
    return contact_sheet([row for rows in zip(*columns) for row in rows], columns=len(columns))
