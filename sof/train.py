"""Train SOF on multi-view label maps: python sof/train.py --config_filepath=configs/sof/face_seg_real.yml

An auto-decoder: every head owns a code, and codes and networks are fitted together so that the marched rays of every view end on the right class.
With frozen networks and a flat folder of label maps it is inverse rendering (configs/sof/face_seg_single_view.yml; sof/invert.py does that at ease).
Run the same command again to go on where it stopped.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import ranks
from common.checkpoint import load_strict, numbered
from common.config import option, run_program
from common.errors import InputError
from common.images import ENCODINGS
from common.metrics import confusion_matrix, mean_iou
from common.rays import pixel_grid
from common.run import Run, RunConfig, Step, start
from sof import data, model
from sof.data import Views
from sof.losses import Rays, Weights, backward, scaled
from sof.metrics import logged_miou
from sof.model import SOF, ModelConfig
from sof.predict import as_learned, evenly, predict_labels, truth_above
from sof.renderers import halvings
from sof.srn import START_NOISE

MARCH_NOISE = {"step": 0.01, "lstm": START_NOISE}               # world units: how far along its ray the start of a march is displaced
EDGE_FAVOUR = 3.0                                               # with class_balance: pixels beside another class are drawn this much more often


@dataclass
class TrainConfig(RunConfig, ModelConfig, Weights):
    """Options of sof/train.py; the defaults are the release's wherever those train."""

    data_root: str = option("./data", "folder with a folder per head (scripts/check_data.py checks it), or a flat folder of label maps, one a head", free=True)
    data_type: str = option("seg", "prefix of the label maps, seg_00.png ...")
    label_encoding: str = option("plain", "what the pixels hold: labels, 10 x labels, or the release's guess", choices=ENCODINGS)
    sample_instances_train: str | None = option(None, "heads to train on, counted from 0: a-c (inclusive) or a,b,c; none: all")
    sample_instances_val: str | None = option(None, "heads to validate on; none: all", free=True)
    sample_observations_train: str | None = option(None, "views of each head to train on; none: all")
    sample_observations_val: str | None = option(None, "views of each head to validate on; none: no validation", free=True)
    img_sidelength: int = option(128, "side of the label maps trained on, in pixels: one ray a pixel", low=1)
    output_sidelength: int | None = option(None, "the release's second side; training needs it equal to img_sidelength (none)")
    batch_size: int = option(8, "views a step, over all ranks", low=1)
    steps_til_ckpt: int = option(10_000, "steps between checkpoints", low=1, free=True)
    steps_til_val: int = option(1000, "steps between validations", low=1, free=True)
    no_validation: bool = option(False, "never validate", free=True)
    lr: float = option(5e-5, "learning rate of Adam", low=0)
    lr_final: float = option(1.0, "share of lr that a cosine reaches at max_steps; 1, as published, keeps it constant", low=0)
    lr_warmup: int = option(0, "steps over which lr rises to its value", low=0)
    rays_per_view: int = option(0, "pixels drawn of each view and step; 0, as published: all of them", low=0)
    class_balance: float = option(0.0, "with rays_per_view, favour edges and rare classes: one of frequency f is drawn as f^(1 - class_balance), 0 to 1", low=0)
    ray_chunk: int = option(512, "rays of each view differentiated at once, for memory and caches, not for results; GPUs like 4096; 0: all", low=0, free=True)
    checkpoint_path: str = option("", "start from this model: a run folder, a checkpoint of ours or an author's file")
    overwrite_embeddings: bool = option(False, "with checkpoint_path: new codes, for other heads")
    freeze_networks: bool = option(False, "learn the codes alone")
    steps_til_reset: int = option(-1, "step from which frozen networks learn again; -1: never")
    published_pairing: bool = option(False, "the release's defect: label maps are shuffled apart from their cameras")
    published: bool = option(False, "every behaviour of the release that is repaired here: all published_... options")


def main(config: TrainConfig) -> None:
    """Fit codes and networks to the views; the run folder logging_root/name keeps everything."""
    config = checked(config)
    device = start(config)
    views = load_views(config, config.sample_instances_train, config.sample_observations_train, known_heads(config))
    held_out = validation_views(config, views.names)
    sof = initial_model(config, views).to(device)
    optimizer = torch.optim.Adam(sof.parameters(), lr=config.lr)
    run = Run(config, state={"model": sof, "optimizer": optimizer})
    if ranks.rank() == 0:
        data.write_indexing(run.folder / "indexing.txt", views.names)
    likely = class_weights(views.labels, config.class_balance)
    for step in run:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule(config, step.number)
        sof.learn_networks(not config.freeze_networks or 0 <= config.steps_til_reset <= step.number)
        optimizer.zero_grad()
        batch = draw_rays(views, config, step, likely)
        for part in step.parts():
            losses, _ = backward(sof, batch.part(part.slice).to(device), config, config.ray_chunk, part.weight)
            losses = part.share(scaled(losses, config))
        run.average_gradients(sof)
        run.refuse_non_finite(losses, sof)
        optimizer.step()
        run.log(losses)
        run.pictures("labels", lambda: preview(sof, views))
        if held_out is not None and (step.number + 1) % config.steps_til_val == 0:
            run.log({}, **validate(sof, held_out))


# What is trained on

def checked(config: TrainConfig) -> TrainConfig:
    """The config with `published` and the U-Net's levels spelled out. Raises InputError for options that exclude each other."""
    side = config.img_sidelength
    if config.output_sidelength not in (None, side):
        raise InputError(f"--output_sidelength {config.output_sidelength}: training needs it equal to --img_sidelength {side}")
    if config.class_balance > 1:
        raise InputError(f"--class_balance {config.class_balance}: expected 0 to 1")
    if config.use_encoder and config.opt_cam:
        raise InputError("--use_encoder: codes from face parameters hold no cameras to learn; leave out --opt_cam")
    if config.published:
        config = replace(config, published_pairing=True, published_camera=True, published_depth_loss=True, published_imae=True)
    if config.geo_weight > 0 and config.published_depth_loss and config.ray_chunk:
        raise InputError("--published_depth_loss: is no mean over rays, so they cannot be taken in chunks; add --ray_chunk 0")
    if config.renderer == "Deepvoxels":
        if config.rays_per_view or config.ray_chunk:
            raise InputError("--renderer Deepvoxels: classifies whole pictures; use --rays_per_view 0 --ray_chunk 0")
        config = replace(config, unet_levels=config.unet_levels or halvings(side))
        if not 1 <= config.unet_levels <= halvings(side):
            raise InputError(f"--unet_levels {config.unet_levels}: --img_sidelength {side} can be halved {halvings(side)} times, and must be once at least")
    return config


def known_heads(config: TrainConfig) -> tuple[str, ...] | None:
    """The heads, by row, of the embedding that training goes on with or starts from, if its run wrote them down."""
    run = Path(config.logging_root) / config.name
    if numbered(run / "checkpoints"):
        return data.find_indexing(run)
    keeps = config.checkpoint_path and not (config.overwrite_embeddings or config.use_encoder)
    return data.find_indexing(config.checkpoint_path) if keeps else None


def load_views(config: TrainConfig, instances: str | None, observations: str | None, names: tuple[str, ...] | None, seed: int = 0) -> Views:
    """Views as the options say; labels beyond the classes of the model are refused."""
    same = {"instances": instances, "names": names, "orthographic": config.orthogonal, "encoding": config.label_encoding}
    if data.holds_single_views(config.data_root):
        if config.geo_weight > 0:
            raise InputError(f"--geo_weight {config.geo_weight}: {config.data_root} is a flat folder of label maps, without depth")
        views = data.load_single_views(config.data_root, config.img_sidelength, **same)
    else:
        depth = ("bilinear" if config.published_depth_loss else "nearest") if config.geo_weight > 0 else None
        views = data.load(config.data_root, config.img_sidelength, **same, observations=observations, data_type=config.data_type, depth=depth,
                          published_pairing=config.published_pairing, seed=config.seed + seed)
    if int(views.labels.max()) >= config.out_channels:
        raise InputError(f"--out_channels {config.out_channels}: {config.data_root} holds label {int(views.labels.max())}")
    return views


def validation_views(config: TrainConfig, names: tuple[str, ...]) -> Views | None:
    """The views held out, if any; with `published_pairing` shuffled otherwise than the training ones, as in the release."""
    if config.no_validation or config.sample_observations_val is None:
        return None
    return load_views(config, config.sample_instances_val or config.sample_instances_train, config.sample_observations_val, names, seed=1)


def initial_model(config: TrainConfig, views: Views) -> SOF:
    """A new model for the heads of `views`, or the one at `checkpoint_path`, with new codes if asked."""
    sof = SOF(config, len(views.names))
    if config.use_encoder:
        sof.face_params.copy_(data.load_params(config.data_root, views.names, config.encoder_size))
    if config.checkpoint_path:
        own = {"face_params"} | ({"latent_codes.weight"} if config.overwrite_embeddings else set())
        state = model.load(config.checkpoint_path)[0].state_dict() | {key: value for key, value in sof.state_dict().items() if key in own}
        load_strict(sof, state, config.checkpoint_path)
    return sof


# A step

def schedule(config: TrainConfig, step: int) -> float:
    """The share of lr at a step: a linear rise, then a cosine from 1 to lr_final."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.max_steps))
    return min(1.0, (step + 1) / max(config.lr_warmup, 1)) * (config.lr_final + (1 - config.lr_final) * cosine)


def class_weights(labels: Tensor, balance: float, classes: int = 256) -> Tensor:
    """How likely a pixel of each class is drawn, (classes,): f^-balance for a class of frequency f, 0 for absent ones."""
    frequency = torch.bincount(labels.flatten(), minlength=classes) / labels.numel()
    return torch.where(frequency > 0, frequency.clamp_min(1e-12) ** -balance, 0.0)


def draw_rays(views: Views, config: TrainConfig, step: Step, likely: Tensor) -> Rays:
    """The rays of the step's global batch: every pixel of its views, or `rays_per_view` of them drawn by class."""
    batch = views.pick(step.indices(len(views)))
    rays = whole(batch)
    if config.rays_per_view:
        rays = drawn(rays, views.side, likely, config.rays_per_view, config.class_balance > 0, step.generator("pixels"))
    rays.noise = MARCH_NOISE[config.marcher] * torch.randn(*rays.labels.shape, 1, generator=step.generator("march"))
    return rays


def whole(views: Views) -> Rays:
    """Every pixel of the views."""
    uv = pixel_grid(views.side, views.side).expand(len(views), -1, -1)
    return Rays(views.instances, views.cameras, uv, views.labels, z_depth=None if views.z_depth is None else views.z_depth[..., None])


def drawn(rays: Rays, side: int, likely: Tensor, count: int, favour_edges: bool, generator: torch.Generator) -> Rays:
    """`count` of the pixels of each whole picture, drawn by how `likely` their class is."""
    favour = likely[rays.labels.long()] * (1 + EDGE_FAVOUR * favour_edges * beside_another(rays.labels, side))
    pixels = torch.multinomial(favour, count, replacement=True, generator=generator)
    z_depth = None if rays.z_depth is None else rays.z_depth.gather(1, pixels[..., None])
    return replace(rays, uv=rays.uv[0][pixels], labels=rays.labels.gather(1, pixels), z_depth=z_depth)


def beside_another(labels: Tensor, side: int) -> Tensor:
    """Whether a pixel's left, right, upper or lower neighbour is of another class: (B, S*S) bool of label maps (B, S*S)."""
    picture = labels.unflatten(1, (side, side))
    edge = torch.zeros_like(picture, dtype=torch.bool)
    across, down = picture[:, :, 1:] != picture[:, :, :-1], picture[:, 1:] != picture[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return edge.flatten(1)


# Looking at it

def validate(sof: SOF, views: Views) -> dict[str, float]:
    """The mean IoU over all pixels of views held out, and the release's figure under its name."""
    predicted, classes = predict_labels(sof, views), sof.config.out_channels
    matrix = confusion_matrix(predicted, views.labels, classes)
    return {"val/mIoU": mean_iou(matrix), "val/mIoU_published": float(logged_miou(predicted, views.labels, classes))}


def preview(sof: SOF, views: Views) -> np.ndarray:
    """A picture of some views, always the same: their label maps above what the model says."""
    some = as_learned(sof, views.pick(evenly(len(views))))
    return truth_above(predict_labels(sof, some), some)


if __name__ == "__main__":
    run_program(main, TrainConfig, __doc__)
