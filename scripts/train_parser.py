"""Train the small face parser on people: pictures to label maps, the offline yardstick of what the methods make.

    python scripts/make_people.py heads --count 160 --views 4 --samples 2 --out data/people_parser
    python scripts/train_parser.py train -c configs/common/people_parser.yml
    python scripts/train_parser.py export --checkpoint log/people_parser --target people_parser.safetensors
    python scripts/train_parser.py eval --checkpoint people_parser.safetensors --data_root data/people_parser

Every tenth person is held out of training; `eval` measures on those. scripts/auto_bash/ship_parser.sh does all four.
"""
from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.checkpoint import export_safetensors, open_checkpoint
from common.config import option, run_commands
from common.errors import InputError
from common.files import replacing
from common.images import contact_sheet, read_labels, read_picture, write_png
from common.labels import SOF_LABELS, colorize
from common.metrics import class_ious, confusion_matrix, mean_iou
from common.parser import BiSeNet, Parser, load, parse
from common.people.persons import split
from common.ranks import device_of
from common.run import Run, RunConfig, start

MIRRORED = torch.tensor([0, 1, 3, 2, 5, 4, 7, 6, 8, 9, 10, 12, 11, 13, 14, 15, 16, 17, 18, 19])      # left and right brow, eye, nose, ear change places
TURN, ZOOM, SHIFT = 0.2, 0.2, 0.12                              # radians, log of the scale, share of half a picture: bounds of what is drawn
GAIN, NOISE = 0.15, 0.04                                        # spread of each channel's gain; most noise, of pictures in [-1, 1]
COARSE = 0.2                                                    # share of the pictures of half the resolution
FURTHER_HEADS = 0.4                                             # weight of the losses of the network's two further heads


@dataclass
class TrainConfig(RunConfig):
    """Options of `train`."""

    data_root: str = option("./data/people_parser", "folder of people, made by scripts/make_people.py heads with colour pictures", free=True)
    width: int = option(16, "channels of the network's first stage; 64 is the published parser", low=1)
    side: int = option(256, "side that pictures are resized to for the network, which scores squares of 8 x 8 of its pixels", low=32)
    batch_size: int = option(16, "pictures a step, over all ranks", low=1)
    max_steps: int = option(3500, "optimiser steps", low=1)
    lr: float = option(3e-3, "learning rate of Adam, at its highest; a cosine brings it to 0 at max_steps", low=0)
    lr_warmup: int = option(100, "steps over which it rises", low=0)
    class_balance: float = option(0.3, "a pixel of a class of frequency f weighs f^-class_balance, 0 to 1", low=0)
    steps_til_val: int = option(500, "steps between measurements on the people held out", low=1, free=True)


@dataclass
class EvalConfig:
    """Options of `eval`."""

    checkpoint: str = option(..., "parser: run folder, file of ours or the authors' segNet-20Class.pth")
    data_root: str = option("./data/people_parser", "folder of people with colour pictures; every tenth is measured on")
    out: str | None = option(None, "folder for metrics.json and a picture; empty: none")
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER")


@dataclass
class ExportConfig:
    """Options of `export`."""

    checkpoint: str = option(..., "run folder or checkpoint of `train`")
    target: str = option(..., "the .safetensors to write, in half precision")


@dataclass(frozen=True)
class Pictures:
    """Pictures (n, S, S, 3) uint8 and their labels (n, S, S) uint8."""

    rgb: Tensor
    labels: Tensor


def train(config: TrainConfig) -> None:
    """Fit the network to the people that are not held out."""
    device = start(config)
    seen, held_out = read_people(config.data_root, "train"), read_people(config.data_root, "test")
    network = BiSeNet(len(SOF_LABELS), config.width).to(device)
    parser = Parser(network, config.side)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    run = Run(config, state={"model": network, "optimizer": optimizer})
    weights = class_weights(seen.labels, config.class_balance).to(device)
    for step in run:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule(config, step.number)
        network.train()
        optimizer.zero_grad()
        index = step.indices(len(seen.labels))
        x, labels = augmented(seen.rgb[index], seen.labels[index], config.side, step.generator("changes"))
        for part in step.parts():
            scores = network.all_scores(x[part.slice].to(device))
            losses = part.share(parser_losses(scores, labels[part.slice].to(device), weights))
            sum(losses.values()).backward()
        run.average_gradients(network)
        run.refuse_non_finite(losses, network)
        optimizer.step()
        run.log(losses)
        network.eval()
        run.pictures("labels", lambda: preview(parser, held_out))
        if (step.number + 1) % config.steps_til_val == 0:
            run.log({}, **{"val/mIoU": mean_iou(measure(parser, held_out))})


def evaluate(config: EvalConfig) -> None:
    """Print the IoU of each class on the people held out, over all their pixels."""
    parser, held_out = load(config.checkpoint, device_of(config.device)), read_people(config.data_root, "test")
    matrix = measure(parser, held_out)
    ious = {name: iou for name, iou in zip(SOF_LABELS, class_ious(matrix).tolist()) if iou == iou}
    figures = {"miou": mean_iou(matrix), "iou": ious, "pixel_accuracy": float(matrix.diagonal().sum() / matrix.sum()),
               "pictures": len(held_out.labels), "side": held_out.labels.shape[1]}
    print("\n".join(f"{name:<12}{iou:8.3f}" for name, iou in [*ious.items(), ("mean", figures["miou"]), ("accuracy", figures["pixel_accuracy"])]))
    if config.out:
        with replacing(Path(config.out) / "metrics.json") as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n")
        write_png(Path(config.out) / "labels.png", preview(parser, held_out))


def export(config: ExportConfig) -> None:
    """Write the network in half precision, with its options."""
    opened = open_checkpoint(config.checkpoint)
    load(opened.path)                                           # refuses what is no parser
    if opened.kind != "ours":
        raise InputError(f"--checkpoint {config.checkpoint}: expected a run of `train`")
    export_safetensors(config.target, {"model": opened.data["model"]}, {name: opened.config[name] for name in ("width", "side")}, torch.float16)
    print(f"{config.target}: {Path(config.target).stat().st_size / 2**20:.2f} MB")


# Data

def read_people(data_root: str, which: str) -> Pictures:
    """The pictures of the people of one split. Raises InputError for a folder without any, or with pictures of several sizes."""
    folders = [folder for folder in sorted(Path(data_root).glob("[0-9]*/")) if folder.name.isdecimal() and split(int(folder.name)) == which]
    files = [file for folder in folders for file in sorted(folder.glob("render_*.png"))]
    if not files:
        raise InputError(f"--data_root {data_root}: no render_*.png of people to {which} on; make ten people or more with colour pictures")
    rgb = [read_picture(file) for file in files]
    labels = [read_labels(file.with_name(file.name.replace("render", "seg"))) for file in files]
    side = len(labels[0])
    for file, picture, label in zip(files, rgb, labels):
        if picture.shape != (side, side, 3) or label.shape != (side, side):
            raise InputError(f"{file}: {picture.shape} with labels {label.shape}, expected {side}x{side} colour pictures throughout")
    return Pictures(torch.from_numpy(np.stack(rgb)), torch.from_numpy(np.stack(labels)))


def augmented(rgb: Tensor, labels: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Network input (B, 3, side, side) and labels (B, S, S) int64 of pictures, mirrored, moved, and in other light, each its own way."""
    count, uniform = len(rgb), lambda *shape: 2 * torch.rand(*shape, generator=generator) - 1
    flip, turn, zoom = uniform(count) < 0, TURN * uniform(count), (ZOOM * uniform(count)).exp()
    cos, sin = turn.cos() * zoom, turn.sin() * zoom
    sign = torch.where(flip, -1.0, 1.0)
    shift = SHIFT * uniform(count, 2)
    theta = torch.stack([torch.stack([cos * sign, -sin, shift[:, 0]], 1), torch.stack([sin * sign, cos, shift[:, 1]], 1)], 1)
    at = lambda size: F.affine_grid(theta, (count, 1, size, size), align_corners=False)
    x = F.grid_sample(rgb.permute(0, 3, 1, 2) / 127.5 - 1, at(side), padding_mode="border", align_corners=False)
    y = F.grid_sample(labels[:, None].float(), at(labels.shape[1]), mode="nearest", padding_mode="border", align_corners=False)[:, 0].long()
    coarse = F.interpolate(F.avg_pool2d(x, 4), size=(side, side), mode="bilinear")
    x = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < COARSE, coarse, x)
    gain = (GAIN * torch.randn(count, 3, 1, 1, generator=generator)).exp()
    noise = NOISE * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
    return (x + 1) * gain - 1 + noise, torch.where(flip[:, None, None], MIRRORED[y], y)


def class_weights(labels: Tensor, balance: float) -> Tensor:
    """(classes,) f^-balance of each class's frequency f, so scaled that the mean over all pixels is 1; 0 for absent ones."""
    frequency = torch.bincount(labels.flatten(), minlength=len(SOF_LABELS)) / labels.numel()
    weights = torch.where(frequency > 0, frequency.clamp_min(1e-12) ** -balance, 0.0)
    return weights / (weights * frequency).sum()


# Fitting and measuring

def schedule(config: TrainConfig, step: int) -> float:
    """The share of lr at a step: a linear rise, a cosine to 0."""
    return min(1.0, (step + 1) / max(config.lr_warmup, 1)) * 0.5 * (1 + math.cos(math.pi * step / config.max_steps))


def parser_losses(scores: tuple[Tensor, ...], labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """The weighted cross entropy, averaged over the pixels, of the network's scores and of its two further heads', each resized to the labels."""
    resized = (F.interpolate(s, size=labels.shape[1:], mode="bilinear", align_corners=True) for s in scores)
    main, *further = ((F.cross_entropy(s, labels, reduction="none") * weights[labels]).mean() for s in resized)
    return {"class": main, "further heads": FURTHER_HEADS * sum(further)}


def measure(parser: Parser, pictures: Pictures) -> Tensor:
    """The confusion matrix over all pixels."""
    return confusion_matrix(torch.from_numpy(parse(parser, pictures.rgb.numpy())), pictures.labels, parser.classes)


def preview(parser: Parser, pictures: Pictures, count: int = 8) -> np.ndarray:
    """A picture of some pictures, their labels and what the parser says, below one another."""
    some = torch.linspace(0, len(pictures.labels) - 1, min(count, len(pictures.labels))).long()
    rgb = pictures.rgb[some].numpy()
    return contact_sheet([*rgb, *colorize(pictures.labels[some].numpy()), *colorize(parse(parser, rgb))], columns=len(some))


if __name__ == "__main__":
    run_commands({"train": (train, TrainConfig), "eval": (evaluate, EvalConfig), "export": (export, ExportConfig)}, "Train the small face parser on people.")
