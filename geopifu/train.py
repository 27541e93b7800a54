"""Train PIFu or Geo-PIFu on rendered people: python geopifu/train.py --stage pifu | coarse | query -c configs/geopifu/....yml

    pifu      the baseline: a photo's features to the occupancy of points
    coarse    Geo-PIFu's V-net: a photo to a volume of occupancies and to latent voxels
    query     Geo-PIFu: the features of both to the occupancy of points; the V-net of --load_netV_checkpoint_path, or its voxels on disk, hold still

Run the same command again to go on where it stopped.
"""
from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common import draws, ranks
from common.checkpoint import load_strict
from common.config import option, run_program
from common.errors import InputError
from common.run import Run, RunConfig, Step, start
from geopifu import meshes, published
from geopifu.data import Frames
from geopifu.geometry import calibration
from geopifu.losses import LOSSES, coarse_backward, coarser, cross_entropy, iou_precision_recall, occupancy_loss
from geopifu.model import REPAIRS, GeoPIFu, ModelConfig
from geopifu.options import DataConfig
from geopifu.sampling import project

EVALUATED = {"pifu": 50, "coarse": 100, "query": 50}          # frames of each split
Batch = dict[str, Tensor]


class Items(Protocol):
    """Frames: their names, and frame i with an epoch's points: img (V, 3, S, S), calib (V, 4, 4), samples (3, N), labels (1, N), meshVoxels (1, D, H, W)."""

    names: list[str]

    def __len__(self) -> int: ...

    def item(self, i: int, epoch: int) -> Batch:
        """The tensors of a frame."""


@dataclass
class TrainConfig(RunConfig, ModelConfig, DataConfig):
    """Options of geopifu/train.py; the defaults are the release's."""

    stage: str = option(..., "what is trained", choices=("pifu", "coarse", "query"))
    batch_size: int = option(2, "photos a step, over all ranks", low=1)
    num_epoch: int = option(100, "times that every photo is seen", low=1, free=True)
    max_steps: int = option(0, "optimiser steps; 0: those of num_epoch", low=0, free=True)
    learning_rate: float = option(1e-3, "of RMSprop", low=0)
    schedule: list[int] = option([60, 80], "epochs at whose end the learning rate is multiplied by gamma", low=0)
    gamma: float = option(0.1, "see schedule", low=0)
    occupancy_loss_type: str = option("mse", "loss of points, pifu and query", choices=LOSSES)
    weight_occu: float = option(1000.0, "weight of the V-net's cross entropy", low=0)
    load_netG_checkpoint_path: str = option("", "start netG from this file or run folder")
    load_netV_checkpoint_path: str = option("", "coarse: start the V-net from it; query: the V-net that makes the latent voxels, kept in the model")
    num_threads: int = option(1, "threads that read frames ahead", low=1, free=True)
    no_num_eval: bool = option(False, "do not measure IoU, precision and recall after each epoch", free=True)
    no_gen_mesh: bool = option(False, "do not write meshes of test frames after each epoch", free=True)
    num_gen_mesh_test: int = option(1, "how many", low=0, free=True)
    resolution_x: int = option(171, "grid of those meshes", low=2, free=True)
    resolution_y: int = option(256, "grid of those meshes", low=2, free=True)
    resolution_z: int = option(171, "grid of those meshes", low=2, free=True)
    published: bool = option(False, "every behaviour of the release that is repaired here: all published_... options")


def main(config: TrainConfig) -> None:
    """Fit a network to the frames; the run folder logging_root/name keeps everything."""
    config = checked(config)
    coarse = config.stage == "coarse"
    needs_test = not (config.no_num_eval and (config.no_gen_mesh or not config.num_gen_mesh_test))
    fit(config, Frames(config, "train", voxels=coarse), Frames(config, "test", voxels=coarse) if needs_test else None)


def fit(config: TrainConfig, frames: Items, test: Items | None) -> None:
    """The loop, on frames for training and for testing."""
    device = start(config)
    config = replace(config, max_steps=config.max_steps or -(-config.num_epoch * len(frames) // config.batch_size))
    model, config = initial_model(config)
    learner = (model.netV if config.stage == "coarse" else model.netG).requires_grad_(True)
    model.to(device)
    optimizer = torch.optim.RMSprop(learner.parameters(), lr=config.learning_rate)
    run, feed = Run(config, state={"model": model, "optimizer": optimizer}), Feed(frames, config.num_threads)
    for step in run:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step.images // len(frames))
        learner.train()
        optimizer.zero_grad()
        for part in step.parts():
            batch = feed.batch(step, part.slice, device)
            losses = part.share(backward(model, batch, config, part.weight))
        run.average_gradients(learner)
        run.refuse_non_finite(losses, learner)
        optimizer.step()
        run.log(losses)
        run.pictures("prediction", lambda: preview(model.eval(), batch, config))       # noqa: B023, drawn at once
        if ranks.rank() == 0 and ends_epoch(step, len(frames)):
            after_epoch(model.eval(), frames, test, config, run, step.images // len(frames))


# What is trained

def checked(config: TrainConfig) -> TrainConfig:
    """The config with `published` spelled out. Raises InputError for options that exclude each other."""
    if config.stage == "pifu" and config.deepVoxels_fusion:
        raise InputError(f"--deepVoxels_fusion {config.deepVoxels_fusion}: --stage pifu has no voxels; use --stage query")
    if config.stage == "query" and not config.deepVoxels_fusion:
        raise InputError("--stage query: needs --deepVoxels_fusion early, late or multiLoss (and --multiRanges_deepVoxels --deepVoxels_c_len 56 as published)")
    if config.stage == "query" and not (config.deepVoxelsDir or config.load_netV_checkpoint_path):
        raise InputError("--stage query: needs a V-net (--load_netV_checkpoint_path) or its voxels (--deepVoxelsDir, by geopifu/export_latents.py)")
    if config.published:
        config = replace(config, **dict.fromkeys(REPAIRS, True))
    return config


def initial_model(config: TrainConfig) -> tuple[GeoPIFu, TrainConfig]:
    """The networks of a stage, new or from the files named, all without gradient, and the config with the V-net's own sizes.

    Raises InputError for a file without the network that it is to hold, or whose options are not the run's.
    """
    makes_voxels = config.stage == "query" and not config.deepVoxelsDir
    parts = {"pifu": ("netG",), "coarse": ("netV",), "query": ("netG", "netV") if makes_voxels else ("netG",)}[config.stage]
    states, paths = {}, {"netG": config.load_netG_checkpoint_path, "netV": config.load_netV_checkpoint_path}
    for part in parts:
        if paths[part]:
            loaded, _ = published.load(paths[part])
            if getattr(loaded, part) is None:
                raise InputError(f"{paths[part]}: holds no {part}")
            states[part] = getattr(loaded, part).state_dict()
            if part == "netV" and config.stage == "query":
                config = published.merged({"netG": (config, "this run"), "netV": (loaded.config, paths[part])})
    model = GeoPIFu(config, parts)
    for part, state in states.items():
        load_strict(getattr(model, part), state, paths[part])
    return model.requires_grad_(False).eval(), config


# A step

class Feed:
    """Batches of a run's frames, the next step's read by threads while this one's are trained on."""

    def __init__(self, frames: Items, threads: int):
        self.frames, self.pool = frames, ThreadPoolExecutor(threads, "frames")
        self.reading: dict[tuple[int, int], Future] = {}

    def batch(self, step: Step, rows: slice, device: torch.device) -> Batch:
        """The items `rows` of a step's global batch, stacked."""
        wanted = self._read(step, rows)
        items = [self.reading.pop(key).result() for key in wanted]
        self._read(replace(step, number=step.number + 1, images=step.images + step.global_batch), rows)
        return stacked(items, device)

    def _read(self, step: Step, rows: slice) -> list[tuple[int, int]]:
        """Begin to read what is not being read; (frame, epoch) of the rows."""
        n, indices = len(self.frames), step.indices(len(self.frames))
        wanted = [(int(indices[row]), (step.images + row) // n) for row in range(rows.start, rows.stop)]
        self.reading |= {key: self.pool.submit(self.frames.item, *key) for key in wanted if key not in self.reading}
        return wanted


def stacked(items: list[dict], device: torch.device) -> Batch:
    """The tensors of items as one batch."""
    return {name: torch.stack([item[name] for item in items]).to(device) for name, value in items[0].items() if isinstance(value, Tensor)}


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """learning_rate gamma^(how many epochs of the schedule lie before this one)."""
    return config.learning_rate * config.gamma ** sum(epoch > end for end in config.schedule)


def ends_epoch(step: Step, n: int) -> bool:
    """Whether the last of n frames is seen in this step."""
    return (step.images + step.global_batch) // n > step.images // n


def backward(model: GeoPIFu, batch: Batch, config: TrainConfig, share: float) -> dict[str, Tensor]:
    """Add the gradients of `share` times the stage's loss; the loss."""
    if config.stage == "coarse":
        return {"occupancy": coarse_backward(model.netV, batch["img"][:, 0], batch["meshVoxels"], config.weight_occu, share)[0]}
    scene = model.scene(batch["img"], batch["calib"], batch.get("deepVoxels"))
    loss = occupancy_loss(model.netG.predict(scene, batch["samples"]), batch["labels"], config.occupancy_loss_type)
    (share * loss).backward()
    return {"occupancy": loss.detach()}


# Looking at it

@torch.no_grad()
def predicted(model: GeoPIFu, batch: Batch, config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """In eval mode: occupancies, what they ought to be, and the loss; of points (B, 1, N), or of voxels (B, 1, D, H, W)."""
    if config.stage == "coarse":
        occupancy = model.netV.occupancy(model.latents(batch["img"][:, 0]))
        labels = coarser(batch["meshVoxels"], occupancy)
        return occupancy, labels, cross_entropy(occupancy, labels, config.weight_occu)
    occupancy = model.field(model.scene(batch["img"], batch["calib"], batch.get("deepVoxels")), batch["samples"].mT)[:, None]
    return occupancy, batch["labels"], occupancy_loss([occupancy], batch["labels"], config.occupancy_loss_type)


def evaluate(model: GeoPIFu, frames: Items, config: TrainConfig, epoch: int) -> list[float]:
    """Loss, IoU, precision and recall at 0.5, averaged over frames spread evenly."""
    count = min(EVALUATED[config.stage], len(frames))
    device, figures = next(model.parameters()).device, []
    for i in range(count):
        occupancy, labels, loss = predicted(model, stacked([frames.item(i * len(frames) // count, epoch)], device), config)
        figures.append(torch.cat([loss[None], iou_precision_recall(occupancy, labels)]))
    return torch.stack(figures).mean(0).tolist()


def after_epoch(model: GeoPIFu, frames: Items, test: Items | None, config: TrainConfig, run: Run, epoch: int) -> None:
    """Measure test and training frames and print them as the release does; write meshes of test frames."""
    from tqdm import tqdm

    error = "CE" if config.stage == "coarse" else config.occupancy_loss_type.upper()
    for name, some in (("test", test), ("train", frames)) if not config.no_num_eval else ():
        loss, iou, precision, recall = evaluate(model, some, config, epoch)
        tqdm.write(f"Epoch-{epoch} | eval {name:>5} {error}: {loss:06f} IOU: {iou:06f} prec: {precision:06f} recall: {recall:06f}")
        run.log({}, **{f"{name}/{error}": loss, f"{name}/IOU": iou, f"{name}/prec": precision, f"{name}/recall": recall})
    for i in range(0 if config.no_gen_mesh else config.num_gen_mesh_test):
        frame = int(torch.randint(len(test), (), generator=draws.generator(config.seed, epoch, f"mesh {i}")))
        try:
            write_mesh(model, test, frame, config, run.folder / "meshes" / f"test_epoch{epoch:03d}_{test.names[frame]}.obj")
        except InputError as early:                           # a young network may have no surface yet
            tqdm.write(f"Epoch-{epoch} | no mesh: {early}")


@torch.no_grad()
def write_mesh(model: GeoPIFu, frames: Items, i: int, config: TrainConfig, path: Path) -> None:
    """Write the coloured mesh of frame i. Raises InputError where there is none."""
    batch = stacked([frames.item(i, 0)], next(model.parameters()).device)
    if config.stage == "coarse":
        occupancy = model.netV.occupancy(model.latents(batch["img"][:, 0]))
        mesh, calib = meshes.coarse_surface(occupancy[0, 0], config.published_voxels), torch.from_numpy(calibration(0))
    else:
        scene, calib = model.scene(batch["img"], batch["calib"], batch.get("deepVoxels")), batch["calib"][0, 0]
        mesh = meshes.body(model, scene, (config.resolution_x, config.resolution_y, config.resolution_z))
    colors = meshes.vertex_colors(mesh.vertices, batch["img"][0, 0], calib, config.published_pixels)
    meshes.write_obj(path, mesh, colors)


@torch.no_grad()
def preview(model: GeoPIFu, batch: Batch, config: TrainConfig) -> np.ndarray:
    """A photo of the batch, and its points, red where they are inside: as predicted, and as they are. Of the V-net the volumes as seen from the front."""
    some = {name: value[:1] for name, value in batch.items()}
    occupancy, labels, _ = predicted(model, some, config)
    photo = meshes.picture(some["img"][0, 0])
    if config.stage == "coarse":
        side = len(photo)
        fronts = [interpolate(volume.amax(2), (side, side * 2 // 3))[0, 0] for volume in (occupancy, labels)]
        return np.concatenate([photo, *((255 * front).byte().cpu().numpy()[..., None].repeat(3, -1) for front in fronts)], axis=1)
    calibrated = project(some["samples"], some["calib"][:, 0])[0, :2]
    return np.concatenate([photo, *(dotted(photo, calibrated, inside[0, 0]) for inside in (occupancy, labels))], axis=1)


def dotted(photo: np.ndarray, calibrated: Tensor, inside: Tensor) -> np.ndarray:
    """The photo (S, S, 3) with a dot for every point (2, N), from blue (outside) to red."""
    side, dots = len(photo), photo.copy()
    column, row = ((calibrated + 1) / 2 * side).long().clamp(0, side - 1).cpu().numpy()
    red = (255 * inside).byte().cpu().numpy()
    dots[row, column] = np.stack([red, 0 * red, 255 - red], axis=-1)
    return dots


if __name__ == "__main__":
    run_program(main, TrainConfig, __doc__)
