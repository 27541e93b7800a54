"""What looking at Sem2NeRF's scenes takes: views of one scene, the mask in colours, and a sheet of faces for eyes."""
from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from common.cameras import pigan_cameras
from common.images import contact_sheet
from common.march import March
from common.pigan import Scene
from common.render import render
from sem2nerf.labels import color_table, colored
from sem2nerf.model import Sem2NeRF, march_options, shoot
from sem2nerf.pictures import rounded
from sem2nerf.poses import FRONT


def look(model: Sem2NeRF, scene: Scene, angles: Tensor, side: int, by: March, fov: float | Tensor | None = None, chunk: int | None = None) -> dict[str, Tensor]:
    """What cameras [pitch, yaw] (N, 2) see of one scene: {"colors" (N, side, side, 3) in [0, 1], "depth", "opacity"}, `chunk` rays at once."""
    cameras = pigan_cameras(angles, model.config.fov if fov is None else fov, side).move(model.latent_avg.device, model.latent_avg.dtype)
    return render(partial(shoot, model, scene, by), cameras, side, side, chunk)


def view_pictures(model: Sem2NeRF, scene: Scene, angles: Tensor, side: int, by: March, fov: float | Tensor | None = None, chunk: int | None = None) -> Tensor:
    """The same as pictures (N, 3, side, side) in [-1, 1]."""
    return 2 * look(model, scene, angles, side, by, fov, chunk)["colors"].movedim(-1, 1) - 1


def mask_picture(model: Sem2NeRF, labels: Tensor, side: int, published: bool = False) -> Tensor:
    """Label maps (B, S, S) in colours, (B, 3, side, side) in [-1, 1], nearest pixels."""
    table = color_table(model.config.pigan_curriculum_type, model.config.label_nc, published).to(labels.device)
    return torch.nn.functional.interpolate(colored(labels, table), size=(side, side), mode="nearest")


def mirrored(angles: Tensor) -> Tensor:
    """[pitch, yaw] (N, 2) from the other side of the face."""
    return torch.stack([angles[:, 0], 2 * FRONT - angles[:, 1]], dim=-1)


@torch.no_grad()
def sheet(model: Sem2NeRF, batch: dict[str, Tensor], planes: Tensor, side: int, steps: int) -> np.ndarray:
    """A picture of a batch of `Faces`, a row a face: mask, picture, the same view of the field, from the front, from the other side.

    `planes` is the encoder's input of the batch, on the model's device.
    """
    by, rows = march_options(model.config, steps), []
    frequencies, phases = model.codes(planes)
    for i, angles in enumerate(batch["angles"]):
        views = torch.stack([angles, torch.full_like(angles, FRONT), mirrored(angles[None])[0]])
        seen = view_pictures(model, model.scene((frequencies[i:i + 1], phases[i:i + 1])), views, side, by).cpu()
        target = torch.nn.functional.interpolate(batch["targets"][i:i + 1], size=(side, side), mode="bilinear", antialias=True)
        rows += [*rounded(torch.cat([mask_picture(model, batch["planes"][i:i + 1, 0], side), target, seen]))]
    return contact_sheet(rows, columns=5)
