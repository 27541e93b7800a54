"""Train SOF on multi-view label maps: python sof/train.py --config_filepath=configs/sof/face_seg_real.yml

An auto-decoder: every head owns a code, and codes and networks are fitted together so that the marched rays of every view end on the right class.
"""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import option, run_program
from common.errors import InputError
from common.labels import colorize
from common.metrics import class_ious, mean_iou
from common.rays import pixel_grid
from common.run import Run, RunConfig, device_of
from sof import data
from sof.losses import Rays, Weights, backward, total_loss
from sof.metrics import logged_miou
from sof.model import SOF, ModelConfig, load
from sof.predict import confusion, predict

MARCH_NOISE = 0.01                                              # world units: how far along the ray the start of a march is displaced
PREVIEWS = 8                                                    # views of the preview grid


@dataclass
class TrainConfig(RunConfig, ModelConfig, Weights):
    """Options of sof/train.py; the defaults are the release's wherever those train."""

    data_root: str = option("./data", "folder with one folder per head (check it with scripts/check_data.py)")
    data_type: str = option("seg", "prefix of the label maps, seg_00.png ...")
    label_encoding: str = option("plain", "what a label map's pixels hold: labels, 10 x labels, or the release's guess", choices=("plain", "times10", "auto_published"))
    sample_instances_train: str | None = option(None, "heads to train on, counted from 0: a-c (inclusive) or a,b,c; none: all")
    sample_instances_val: str | None = option(None, "heads to validate on")
    sample_observations_train: str | None = option(None, "views of each head to train on; none: all")
    sample_observations_val: str | None = option(None, "views of each head to validate on; none: no validation")
    img_sidelength: int = option(128, "side of the label maps trained on, in pixels; a ray per pixel")
    output_sidelength: int | None = option(None, "the release's second side; training needs it equal to img_sidelength (none)")
    batch_size: int = option(8, "views per step, over all ranks")
    max_steps: int = option(200_000, "steps to train")
    steps_til_ckpt: int = option(10_000, "steps between checkpoints")
    steps_til_val: int = option(1000, "steps between validations")
    no_validation: bool = option(False, "never validate")
    lr: float = option(5e-5, "learning rate of Adam")
    lr_final: float = option(1.0, "fraction of lr reached at max_steps, by a cosine; 1 keeps it constant, as published")
    lr_warmup: int = option(0, "steps over which lr rises from 0")
    rays_per_view: int = option(0, "pixels drawn of each view and step; 0: all of them, as published")
    class_balance: float = option(0.0, "with rays_per_view: a class of frequency f is drawn as often as f^(1 - class_balance); 0 as it comes, 1 all alike, 0..1")
    ray_chunk: int = option(2048, "rays of each view differentiated at once; changes memory, not results")
    checkpoint_path: str = option("", "start from this model: a run folder, a checkpoint of ours or an author's file")
    overwrite_embeddings: bool = option(False, "with checkpoint_path: new codes for new heads")
    freeze_networks: bool = option(False, "learn the codes alone")
    published_pairing: bool = option(False, "the release's defect: label maps are shuffled apart from their cameras")


def main(config: TrainConfig) -> None:
    """Fit codes and networks; the run folder holds everything."""
    if config.output_sidelength not in (None, config.img_sidelength):
        raise InputError(f"--output_sidelength {config.output_sidelength}: training needs it equal to --img_sidelength {config.img_sidelength}")
    device = device_of(config.device)
    views, held_out = load_views(config, config.sample_instances_train, config.sample_observations_train), validation_views(config)
    model = build_model(config, views).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    run = Run(config, state={"model": model, "optimizer": optimizer})
    if run.first:
        data.write_indexing(run.folder / "indexing.txt", views.names)
    choose, grid = pixel_chooser(config, views), pixel_grid(views.side, views.side, device)
    for step in run:
        set_learning_rate(optimizer, config, step.number)
        optimizer.zero_grad()
        chosen = step.indices(len(views))
        pixels = choose(views.labels[chosen], step.generator("pixels"))
        noise = MARCH_NOISE * torch.randn(*pixels.shape, 1, generator=step.generator("march"))
        for part in step.parts():
            index, at = chosen[part.slice], pixels[part.slice]
            rays = Rays(views.instances[index], views.cameras.pick(index), grid.cpu()[at], views.labels[index].gather(1, at), noise[part.slice])
            losses, predicted = backward(model, rays.to(device), config, config.ray_chunk, part.weight)
        run.average_gradients(model)
        run.refuse_non_finite(losses, model)
        optimizer.step()
        run.log(losses, total=total_loss(losses, config))
