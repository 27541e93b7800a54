"""Generators from files and back: a run folder, a file of ours, or an author's .pkl, told apart by content."""
from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from common import config as options
from common.checkpoint import Opened, load_strict, open_checkpoint
from common.errors import InputError
from op3d.discriminator import Discriminator
from op3d.model import Generator, ModelConfig
from op3d.published import Net, build, read_nets

NAMES = {"G": "generator", "G_ema": "generator_ema", "D": "discriminator"}


def load(path: str | Path, device: torch.device | str = "cpu") -> Generator:
    """The generator of a run folder (its averaged weights), of a file of ours or of an author's .pkl (G_ema, or G), in evaluation mode. Raises InputError."""
    opened = open_checkpoint(path)
    if opened.kind == "published":
        nets = read_nets(opened.path, opened.data)
        network = build(nets.get("G_ema") or nets.get("G") or _missing(opened))
        return network.to(device)
    generator = make(model_config(opened))
    weights = opened.data.get("generator_ema") or opened.data.get("generator") or {}
    load_strict(generator, {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}, str(opened.path))
    return generator.to(device).eval()


def make(config: ModelConfig) -> Generator:
    """An untrained generator of a config."""
    if config.model == "op3d_conditional":
        from op3d.conditional import ConditionalGenerator

        return ConditionalGenerator(config)
    return Generator(config)


def model_config(opened: Opened) -> ModelConfig:
    """The generator's options among those of a file of ours."""
    known = {field.name for field in fields(ModelConfig)}
    return options.from_dict(ModelConfig, {key: value for key, value in opened.config.items() if key in known}, str(opened.path))


def restore(path: str | Path, networks: dict[str, Generator | Discriminator]) -> None:
    """Give networks {"generator", "generator_ema", "discriminator"} the weights of a checkpoint of ours or an author's .pkl, those that it holds; at least a
    generator. Raises InputError."""
    opened = open_checkpoint(path)
    found = {NAMES[name]: build(net).state_dict() for name, net in read_nets(path, opened.data).items()} if opened.kind == "published" else opened.data
    first = found.get("generator") or found.get("generator_ema") or _missing(opened)
    found = {"generator": first, "generator_ema": first} | found
    for name, network in networks.items():
        if name in found:
            load_strict(network, found[name], f"{path}: {name}")


def _missing(opened: Opened) -> Net:
    raise InputError(f"{opened.path}: no generator in it")
