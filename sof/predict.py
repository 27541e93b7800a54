"""What a trained SOF says: labels and depth from any camera."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.cameras import Cameras
from common.errors import InputError
from common.images import contact_sheet
from common.labels import colorize
from common.layers.hyper import Layers
from common.rays import unproject, z_depth
from common.render import Shoot, render
from sof.cameras import learned_cameras
from sof.data import Views
from sof.model import SOF

Shooter = Callable[[SOF, Layers], Shoot]                      # how a head is looked at: `shooter`, or one that knows more


def shooter(model: SOF, scene: Layers, scores: bool = False) -> Shoot:
    """For `common.render`: labels (1, R) uint8 and z_depth (1, R) of one head, and with `scores` its class scores (1, R, C)."""

    def shoot(camera: Cameras, uv: Tensor) -> dict[str, Tensor]:
        points, seen = model.trace(scene, *model.rays(camera, uv))
        result = {"labels": seen.argmax(-1).to(torch.uint8), "z_depth": z_depth(camera, points)[..., 0]}
        return result | {"scores": seen} if scores else result

    return shoot


def slicer(model: SOF, scene: Layers, depth: float) -> Shoot:
    """For `common.render`: labels (1, R) and probabilities (1, R, C) of the field on the plane at camera z `depth`, without a march ("slice")."""

    def shoot(camera: Cameras, uv: Tensor) -> dict[str, Tensor]:
        probabilities = model.field(scene, unproject(camera, uv, depth)).softmax(-1)
        return {"labels": probabilities.argmax(-1).to(torch.uint8), "probabilities": probabilities}

    return shoot


@torch.no_grad()
def predict(model: SOF, instances: Tensor, cameras: Cameras, side: int, chunk: int | None = None, look: Shooter = shooter) -> Iterator[dict[str, Tensor]]:
    """labels (S, S) uint8 and z_depth (S, S) of head instances[k] from camera k, for each k; a head's scene is built once while it stays the same."""
    built, shoot = None, None
    for instance, k in zip(instances.tolist(), range(len(cameras))):
        if instance != built:
            built, shoot = instance, look(model, model.scene_of(instances[k : k + 1].to(cameras.cam2world.device)))
        seen = render(shoot, cameras.pick([k]), side, side, rays_at_once(model, side, chunk))
        yield {name: picture[0] for name, picture in seen.items()}


def rays_at_once(model: SOF, side: int, chunk: int | None = None) -> int | None:
    """The chunk to render side x side pictures in: all their pixels where the classifier sees whole pictures."""
    return side**2 if model.whole_pictures else chunk


def predict_labels(model: SOF, views: Views, chunk: int | None = None, look: Shooter = shooter) -> Tensor:
    """Label maps (n, S*S) uint8, on the CPU, of every view, the model in eval mode meanwhile."""
    check_heads(model, views)
    training = model.training
    pictures = predict(model.eval(), views.instances, views.cameras.move(next(model.parameters()).device), views.side, chunk, look)
    labels = [seen["labels"].flatten().cpu() for seen in tqdm(pictures, "views", len(views), leave=False, disable=None)]
    model.train(training)
    return torch.stack(labels)


@torch.no_grad()
def as_learned(model: SOF, views: Views) -> Views:
    """The views with the camera that each head's code carries (opt_cam), if the model learns cameras."""
    if not model.config.opt_cam:
        return views
    check_heads(model, views)
    centers, _ = model.split_codes(model.codes(views.instances.to(next(model.parameters()).device)))
    cameras = learned_cameras(centers.to(views.cameras.cam2world), views.cameras.intrinsics, model.config.orthogonal, model.config.published_camera)
    return replace(views, cameras=cameras)


def check_heads(model: SOF, views: Views) -> None:
    """Refuse views of heads that the model has no code for: InputError naming the first."""
    last = int(views.instances.argmax())
    row = int(views.instances[last])
    if row >= model.heads:
        raise InputError(f"{views.files[last]}: a view of head {row} ({views.names[row]}), counted from 0, but the model knows {model.heads}")


def evenly(count: int, some: int = 8) -> Tensor:
    """The indices of a few of `count` views, always the same."""
    return torch.linspace(0, count - 1, min(some, count)).long()


def truth_above(predicted: Tensor, views: Views) -> np.ndarray:
    """A picture (H, W, 3) uint8 of views' label maps, what was predicted (n, S*S) below each."""
    maps = torch.cat([views.labels, predicted]).unflatten(1, (views.side, views.side))
    return contact_sheet(list(colorize(maps.numpy())), columns=len(views))
