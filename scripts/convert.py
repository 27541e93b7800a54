"""Converts a checkpoint between its authors' container and ours.

    python scripts/convert.py sof epoch_0250_iter_050000.pth sof.safetensors       the networks and their options, in a file that runs nothing
    python scripts/convert.py sof log/people epoch_0000_iter_000000.pth            the authors' container, for programs that read the original's files
    python scripts/convert.py gof output/celeba/generator.pth celeba.safetensors --curriculum CelebA      a generator: its averaged weights and average code
    python scripts/convert.py sem2nerf log/people sem2nerf_people.safetensors --half                      encoder, decoder and average code
    python scripts/convert.py geopifu netG_epoch_44_2415 geopifu.safetensors --netV netV_epoch_29_2899      both networks in one file

IN is what every --checkpoint takes: a run folder, a file of ours or an author's file, recognised by content. The suffix of OUT chooses the
container: .safetensors is ours, .pth the authors'. The networks are built and loaded strictly on the way, so a file that does not fit is refused.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.checkpoint import export_safetensors, open_checkpoint
from common.config import option, run_program
from common.errors import InputError


class Model(NamedTuple):
    """A loaded model: {name: state dict}, all its options, and what writes the authors' container at a path."""

    states: dict[str, dict[str, Tensor]]
    options: dict
    write_published: Callable[[Path], None]


def sof(config: ConvertConfig) -> Model:
    """SOF's networks and codes."""
    from sof.model import export_published, load

    if config.curriculum:
        raise InputError("--curriculum: SOF has none")
    model, options = load(config.source)
    return Model({"model": model.state_dict()}, {**options, **asdict(model.config)}, lambda path: export_published(model, path))


def gof(config: ConvertConfig) -> Model:
    """GOF's generator: the averaged weights and the average code."""
    from gof.model import export_published, export_state, load, model_options

    generator = load(config.source, config.curriculum)
    options = open_checkpoint(config.source).config or {}
    return Model(export_state(generator), {**options, **model_options(generator)}, lambda path: export_published(generator, path))


def geopifu(config: ConvertConfig) -> Model:
    """Geo-PIFu's networks: those that the file holds, and the V-net beside it."""
    from geopifu.published import export_published, load

    if config.curriculum:
        raise InputError("--curriculum: Geo-PIFu has none")
    model, options = load(config.source, *filter(None, [config.netV]))
    return Model({"model": model.state_dict()}, {**options, **asdict(model.config)}, lambda path: export_published(model, path))


def sem2nerf(config: ConvertConfig) -> Model:
    """Sem2NeRF's encoder, its decoder and the average code."""
    from sem2nerf.model import export_state, load, model_options
    from sem2nerf.published import export

    if config.curriculum:
        raise InputError("--curriculum: Sem2NeRF's files carry their own options")
    model = load(config.source)
    options = open_checkpoint(config.source).config or {}
    return Model(export_state(model), {**options, **model_options(model.config)}, lambda path: export(model, path))


METHODS = {"sof": sof, "gof": gof, "geopifu": geopifu, "sem2nerf": sem2nerf}


@dataclass
class ConvertConfig:
    method: str = option(..., "whose checkpoint it is", choices=METHODS, positional=True)
    source: str = option(..., "IN: a run folder, a file of ours or an author's file", positional=True)
    target: str = option(..., "OUT: a new file, .safetensors (ours) or .pth (the authors' container)", positional=True)
    curriculum: str | None = option(None, "gof, of an author's file, which carries no options: BFM, CelebA, CATS, pigan_CelebA, ..., or a YAML file")
    netV: str | None = option(None, "geopifu, of a file without one: the file of the V-net")
    half: bool = option(False, "store numbers as float16 in a .safetensors: half the size, three digits")


def main(config: ConvertConfig) -> None:
    """Load IN as the method's model and write it as OUT."""
    target = Path(config.target)
    if target.suffix not in (".safetensors", ".pth"):
        raise InputError(f"{target}: expected a name that ends in .safetensors or .pth")
    if target.exists():
        raise InputError(f"{target}: exists already; expected the name of a new file")
    if config.netV and config.method != "geopifu":
        raise InputError(f"--netV: {config.method} has none")
    model = METHODS[config.method](config)
    if target.suffix == ".pth":
        model.write_published(target)
    else:
        export_safetensors(target, model.states, model.options, torch.float16 if config.half else None)
    tensors = [tensor for state in model.states.values() for tensor in state.values()]
    print(f"{target}: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors):,} numbers")


if __name__ == "__main__":
    run_program(main, ConvertConfig, __doc__.partition("\n")[0])
