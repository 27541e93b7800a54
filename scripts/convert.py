"""Converts a checkpoint between its authors' container and ours.

    python scripts/convert.py sof epoch_0250_iter_050000.pth sof.safetensors       the networks and their options, in a file that runs nothing
    python scripts/convert.py sof log/people epoch_0000_iter_000000.pth            the authors' container, for programs that read the original's files

IN is what every --checkpoint takes: a run folder, a file of ours or an author's file, recognised by content. The suffix of OUT chooses the
container: .safetensors is ours, .pth the authors'. The networks are built and loaded strictly on the way, so a file that does not fit is refused.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import torch

from common.checkpoint import export_safetensors
from common.config import option, run_program
from common.errors import InputError

MODELS = {"sof": "sof.model"}                               # each has load(path) -> (model, options) and export_published(model, path)


@dataclass
class ConvertConfig:
    method: str = option(..., "whose checkpoint it is", choices=MODELS, positional=True)
    source: str = option(..., "IN: a run folder, a file of ours or an author's file", positional=True)
    target: str = option(..., "OUT: a new file, .safetensors (ours) or .pth (the authors' container)", positional=True)
    half: bool = option(False, "store numbers as float16 in a .safetensors: half the size, three digits")


def main(config: ConvertConfig) -> None:
    """Load IN as the method's model and write it as OUT."""
    target = Path(config.target)
    if target.suffix not in (".safetensors", ".pth"):
        raise InputError(f"{target}: expected a name that ends in .safetensors or .pth")
    if target.exists():
        raise InputError(f"{target}: exists already; expected the name of a new file")
    module = import_module(MODELS[config.method])
    model, options = module.load(config.source)
    if target.suffix == ".pth":
        module.export_published(model, target)
    else:
        export_safetensors(target, {"model": model.state_dict()}, {**options, **asdict(model.config)}, torch.float16 if config.half else None)
    tensors = model.state_dict().values()
    print(f"{target}: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors):,} numbers")


if __name__ == "__main__":
    run_program(main, ConvertConfig, __doc__.partition("\n")[0])
