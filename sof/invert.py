"""Find the head behind label maps: python sof/invert.py --checkpoint log/people --data portrait.png --out out/portrait

Inverse rendering: the networks are frozen, and a new code for each head, with --opt_cam also the camera of each view, is fitted to its label map.
Of a head whose other views are known too, those are measured: what the inversion says of what it has not seen.

OUT/<head>/    code.npy  cam2world.npy  intrinsic.npy (integer pixels, as in SOF's folders)  reproduction.png  views/  mesh.ply  mesh.glb  mesh.png
OUT/           codes.npy and indexing.txt of all heads, metrics.json; every command that takes --instance takes OUT/codes.npy:ROW
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import draws
from common.cameras import Cameras, pixel_intrinsics
from common.config import option, run_program
from common.errors import InputError, NonFinite
from common.files import replacing
from common.images import ENCODINGS, write_png
from common.metrics import confusion_matrix, mean_iou
from common.ranks import device_of
from sof import data, model, render
from sof.cameras import learned_cameras
from sof.data import Views
from sof.eval import measure, table
from sof.losses import Weights, backward
from sof.model import CODE_STD, SOF
from sof.predict import predict_labels, truth_above
from sof.train import class_weights, drawn, whole

START_AZIMUTHS = (0.0, 0.6, -0.6)                               # radians: where the cameras of the restarts begin, in turn


@dataclass
class InvertConfig:
    """Options of sof/invert.py."""

    checkpoint: str = option(..., "the trained model: run folder, checkpoint of ours or author's file")
    data: str = option(..., "a label map, a flat folder of them (one a head, frontal), or a folder with a folder of views and cameras per head")
    out: str = option(..., "folder for what is found")
    views: int = option(1, "of a head's views, how many to invert from: the most frontal, then the farthest apart", low=1)
    sample_instances: str | None = option(None, "heads of the data: a-c (inclusive) or a,b,c; none: all")
    label_encoding: str = option("plain", "what the pixels hold: labels, 10 x labels, or the release's guess", choices=ENCODINGS)
    img_sidelength: int = option(128, "side at which label maps are read and rendered, in pixels", low=8)
    opt_cam: bool = option(False, "find the camera of every view too, from a frontal one: direction, zoom and shift")
    steps: int = option(200, "optimiser steps", low=1)
    restarts: int = option(1, "starts of which each head's best is kept: the mean of the trained codes, then random ones; with opt_cam from other sides", low=1)
    rays_per_view: int = option(1024, "pixels drawn of each view and step, edges and rare classes favoured", low=1)
    class_balance: float = option(0.3, "a pixel of a class of frequency f is drawn as f^(1 - class_balance), 0 to 1", low=0)
    prior: float = option(1.0, "weight of the squared distance from the mean code, in standard deviations of the trained codes", low=0)
    lr: float = option(0.4, "learning rate of the codes, in those standard deviations", low=0)
    lr_cam: float = option(0.02, "learning rate of the cameras, in radians and shares of the picture", low=0)
    batch_size: int = option(8, "heads fitted at once", low=1)
    pictures: int = option(36, "free views rendered of each head; 0 for none", low=0)
    mesh: bool = option(True, "also the mesh of each head")
    seed: int = option(0, "of every draw", low=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER")


def main(config: InvertConfig) -> None:
    """Fit, write what was found, measure it on the views it was fitted to and on the others."""
    sof, _ = model.load(config.checkpoint, device_of(config.device))
    trained = trained_codes(sof, config.checkpoint)
    views = load_views(config, sof)
    given, others = chosen(views, config.views)
    codes, cameras = [], []
    for first in range(0, len(views.names), config.batch_size):
        heads = torch.arange(first, min(first + config.batch_size, len(views.names)))
        some = given.pick(torch.isin(given.instances, heads).nonzero()[:, 0])
        code, camera = invert(sof, trained, replace(some, instances=some.instances - first), config)
        codes.append(code)
        cameras.append(camera)
    found = Cameras(torch.cat([c.cam2world for c in cameras]), torch.cat([c.intrinsics for c in cameras]), sof.config.orthogonal)
    given = replace(given, cameras=found)
    sof.latent_codes = nn.Embedding.from_pretrained(torch.cat(codes))
    predicted = predict_labels(sof, given)
    write(config, sof, given, predicted)
    figures = measured(sof, given, predicted, others)
    with replacing(Path(config.out) / "metrics.json") as temporary:
        temporary.write_text(json.dumps({"checkpoint": config.checkpoint, "data": config.data, "views": config.views, **figures}, indent=1) + "\n")
    print(table(figures))
    print(f"{len(views.names)} heads in {config.out}")


# What is given

def trained_codes(sof: SOF, where: str) -> Tensor:
    """The codes (H, embedding_size) of the heads that the model was trained on. Raises InputError if it has none."""
    if not sof.heads:
        raise InputError(f"{where}: holds no heads, expected the codes of those it was trained on")
    every = torch.arange(sof.heads, device=next(sof.parameters()).device)
    first = torch.full((sof.heads,), sof.key_frames[0], device=every.device) if sof.key_frames else None
    return sof.split_codes(sof.codes(every, first).detach())[1]


def load_views(config: InvertConfig, sof: SOF) -> Views:
    """All views of the heads. Raises InputError naming the file for labels that the model does not know."""
    same = {"instances": config.sample_instances, "orthographic": sof.config.orthogonal, "encoding": config.label_encoding}
    read = data.load_single_views if data.holds_single_views(config.data) else data.load
    views = read(config.data, config.img_sidelength, **same)
    for file, labels in zip(views.files, views.labels):
        if int(labels.max()) >= sof.config.out_channels:
            raise InputError(f"{file}: label {int(labels.max())}, expected those of the model, 0-{sof.config.out_channels - 1}")
    return views


def chosen(views: Views, count: int) -> tuple[Views, Views]:
    """The views of each head to invert from, and the others. Raises InputError naming the file for one of the former without a head in it."""
    forward, take = views.cameras.cam2world[:, :3, 2], torch.zeros(len(views), dtype=torch.bool)
    for head in range(len(views.names)):
        rows = (views.instances == head).nonzero()[:, 0]
        take[rows[spread(forward[rows], count)]] = True
    empty = (take & ~views.labels.any(dim=1)).nonzero()[:, 0].tolist()
    if empty:
        raise InputError(f"{views.files[empty[0]]}: no head in it: every pixel is background (0)")
    return views.pick(take.nonzero()[:, 0]), views.pick((~take).nonzero()[:, 0])


def spread(forward: Tensor, count: int) -> list[int]:
    """Of viewing directions (V, 3) the most frontal (along -z), then always the one farthest from those taken."""
    picked = [int(forward[:, 2].argmin())]
    while len(picked) < min(count, len(forward)):
        nearest = (forward @ forward[picked].T).amax(dim=1)
        nearest[picked] = torch.inf
        picked.append(int(nearest.argmin()))
    return picked


# The fit

class FreeCameras(nn.Module):
    """The cameras of n views, learned from frontal ones as far away as those given: direction and distance of the centre, zoom, shift."""

    def __init__(self, given: Cameras, azimuths: Tensor):
        super().__init__()
        self.given = given
        self.direction = nn.Parameter(torch.stack([azimuths.sin(), torch.zeros_like(azimuths), azimuths.cos()], dim=-1))
        self.frame = nn.Parameter(torch.zeros(len(given), 3, device=azimuths.device))

    def forward(self) -> Cameras:
        """The n cameras; they look at (0, 0, 0.1), which their shift brings anywhere."""
        centers = self.direction * self.given.cam2world[:, :3, 3].norm(dim=-1, keepdim=True)
        K, zoom, shift = self.given.intrinsics, self.frame[:, :1, None].exp(), self.frame[:, 1:, None]
        top = torch.cat([K[:, :2, :2] * zoom, K[:, :2, 2:] + shift], dim=-1)
        return learned_cameras(centers, torch.cat([top, K[:, 2:]], dim=1), self.given.orthographic)


def invert(sof: SOF, trained: Tensor, views: Views, config: InvertConfig) -> tuple[Tensor, Cameras]:
    """Codes (n, D) of the n heads of `views`, and the cameras of the views: as given, or found with opt_cam. `sof` is left with other codes.

    Raises NonFinite if a gradient is not finite.
    """
    heads, generator, device = int(views.instances.max()) + 1, draws.generator(config.seed, 0, "invert"), trained.device
    mean, deviation = trained.mean(dim=0), (trained - trained.mean(dim=0)).square().mean().sqrt().clamp_min(CODE_STD)
    start = torch.arange(config.restarts).repeat_interleave(len(views))
    tries = views.pick(torch.arange(len(views)).repeat(config.restarts))
    tries = replace(tries, instances=tries.instances + heads * start, cameras=tries.cameras.move(device))
    codes = mean.repeat(heads * config.restarts, 1)
    codes[heads:] += deviation * torch.randn(codes[heads:].shape, generator=generator).to(device)
    freeze(sof, codes)
    free = FreeCameras(tries.cameras, torch.tensor(START_AZIMUTHS, device=device)[start % len(START_AZIMUTHS)])
    cameras = free if config.opt_cam else lambda: tries.cameras
    fit(sof, mean, deviation, cameras, tries, config, generator)
    with torch.no_grad():
        tries = replace(tries, cameras=cameras())
        kept = best_try(sof, tries, heads) if config.restarts > 1 else torch.zeros(heads, dtype=torch.int64)
        rows, pictures = kept * heads + torch.arange(heads), kept[views.instances] * len(views) + torch.arange(len(views))
        return sof.latent_codes.weight[rows], tries.cameras.pick(pictures)


def fit(sof: SOF, mean: Tensor, deviation: Tensor, cameras: Callable[[], Cameras], views: Views, config: InvertConfig, generator: torch.Generator) -> None:
    """Adam on the codes, and on the cameras if those learn, for the class loss of drawn pixels and the prior, by a cosine down to 0."""
    codes = sof.latent_codes.weight
    groups = [{"params": [codes], "lr": config.lr * float(deviation)}]
    if isinstance(cameras, FreeCameras):
        groups.append({"params": list(cameras.parameters()), "lr": config.lr_cam})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    pixels, likely, weights = whole(views), class_weights(views.labels, config.class_balance), Weights(kl_weight=0.0)
    for _ in tqdm(range(config.steps), "inverting", leave=False, disable=None):
        rays = pixels if sof.whole_pictures else drawn(pixels, views.side, likely, config.rays_per_view, True, generator)
        optimizer.zero_grad()
        backward(sof, replace(rays.to(codes.device), cameras=cameras()), weights)
        (config.prior * ((codes - mean) / deviation).square().mean()).backward()
        if not all(leaf.grad.isfinite().all() for group in groups for leaf in group["params"]):
            raise NonFinite("a gradient of the inversion is not finite")
        optimizer.step()
        schedule.step()


def freeze(sof: SOF, codes: Tensor) -> None:
    """Make `codes` (n, D) the embedding that learns, wherever the model's codes came from, and hold its networks still."""
    sof.config = replace(sof.config, opt_cam=False, use_encoder=False)
    sof.key_frames, sof.latent_codes = (), nn.Embedding.from_pretrained(codes, freeze=False)
    sof.eval().learn_networks(False)


def best_try(sof: SOF, tries: Views, heads: int) -> Tensor:
    """Which try (heads,) reproduces the views of each head best, by mean IoU; try t of head h is instance t * heads + h."""
    predicted = predict_labels(sof, tries)
    return torch.tensor([miou(sof, predicted, tries, row) for row in range(int(tries.instances.max()) + 1)]).unflatten(0, (-1, heads)).argmax(dim=0)


def miou(sof: SOF, predicted: Tensor, views: Views, head: int) -> float:
    """The mean IoU of one head's views; NaN without any."""
    mine = views.instances == head
    return mean_iou(confusion_matrix(predicted[mine], views.labels[mine], sof.config.out_channels))


# What was found

def write(config: InvertConfig, sof: SOF, given: Views, predicted: Tensor) -> None:
    """The folder of each head, and the codes of all."""
    out = Path(config.out)
    data.write_indexing(out / "indexing.txt", given.names)
    codes, pixels = sof.latent_codes.weight.cpu().numpy(), pixel_intrinsics(given.cameras.intrinsics, given.side, given.side, first_center=0.0)
    np.save(out / "codes.npy", codes)
    for row, name in enumerate(given.names):
        mine = (given.instances == row).nonzero()[:, 0]
        write_png(out / name / "reproduction.png", truth_above(predicted[mine], given.pick(mine)))
        for key, array in {"code": codes[row], "cam2world": given.cameras.cam2world[mine].cpu(), "intrinsic": pixels[mine].cpu()}.items():
            np.save(out / name / f"{key}.npy", array)
        look_round(config, out / name)


def look_round(config: InvertConfig, folder: Path) -> None:
    """Free views and the mesh of the head whose code.npy lies in `folder`; a head without a surface is passed over with a line."""
    look = {"checkpoint": config.checkpoint, "instance": str(folder / "code.npy"), "side": config.img_sidelength, "device": config.device}
    if config.pictures:
        render.views(render.ViewsConfig(out=str(folder / "views"), count=config.pictures, **look))
    if config.mesh:
        try:
            render.mesh(render.MeshConfig(out=str(folder), **look))
        except InputError as error:
            print(f"{folder.name}: no mesh: {error}", file=sys.stderr)


def measured(sof: SOF, given: Views, predicted: Tensor, others: Views) -> dict:
    """The figures of `sof.eval.measure`: seen are the views inverted from, unseen the others; and the mean IoU head by head."""
    sets, figures = {"seen": (predicted, given)}, {}
    if len(others):
        sets["unseen"] = (predict_labels(sof, others), others)
    for name, (labels, views) in sets.items():
        figures |= measure(labels, views, name, sof.config.out_channels)
    by_head = {name: {s: miou(sof, labels, views, row) for s, (labels, views) in sets.items()} for row, name in enumerate(given.names)}
    return figures | {"miou_of_heads": by_head}


if __name__ == "__main__":
    run_program(main, InvertConfig, __doc__)
