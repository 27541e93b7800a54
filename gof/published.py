"""The files that GOF's and pi-GAN's authors' programs write, read without running anything in them.

    files = find("output/celeba")                                       {"generator": path, "ema": path, "optimizer_G": path, ...}
    load_strict(generator, generator_state("output/celeba/generator.pth", generator), "generator.pth")

GOF saves state dicts, pi-GAN whole modules; both keep the averaged weights as an object of torch_ema, which lists them without names, in the order of
the module's parameters(). A file's siblings share its prefix ("23--10:15--generator.pth" and "23--10:15--ema.pth").
"""
from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.published import Record, read, tensors

FILES = {
    "generator": "generator.pth", "discriminator": "discriminator.pth", "ema": "ema.pth", "ema2": "ema2.pth", "optimizer_G": "optimizer_G.pth",
    "optimizer_D": "optimizer_D.pth", "scaler": "scaler.pth", "generator_losses": "generator.losses", "discriminator_losses": "discriminator.losses",
}
OPTIONS = "options.txt"
LONGEST_OPTIONS = 2**16                                       # letters of a curriculum that `curriculum` puts up with
MOMENTS = ("exp_avg", "exp_avg_sq")


# Which files there are

def find(path: str | Path) -> dict[str, Path]:
    """The files by role, as in FILES and "options", of a folder or of the set that a file belongs to.

    Of a folder with several sets the one without prefix. Raises InputError for no such path, no generator, or dated sets alone that leave a choice.
    """
    path = Path(path)
    folder, prefix = (path, _prefix_in(path)) if path.is_dir() else (path.parent, _prefix_of(path))
    found = {role: folder / f"{prefix}{name}" for role, name in FILES.items()} | {"options": folder / OPTIONS}
    return {role: file for role, file in found.items() if file.is_file()}


def _prefix_in(folder: Path) -> str:
    prefixes = sorted(file.name.removesuffix(FILES["generator"]) for file in folder.glob(f"*{FILES['generator']}"))
    if not prefixes:
        raise InputError(f"{folder}: expected a folder with {FILES['generator']}")
    if len(prefixes) > 1 and prefixes[0]:
        raise InputError(f"{folder}: holds several sets of files ({', '.join(prefixes[:8])}); name the {FILES['generator']} of one")
    return prefixes[0]


def _prefix_of(file: Path) -> str:
    if not file.is_file():
        raise InputError(f"{file}: no such file or folder")
    return next((file.name.removesuffix(name) for name in FILES.values() if file.name.endswith(name)), f"{file.name} ")


# Networks

def network_state(path: str | Path) -> dict[str, Tensor]:
    """{published key: tensor} of a generator.pth or discriminator.pth, GOF's state dict or pi-GAN's pickled module. Raises InputError."""
    return tensors(read(path), str(path))


def generator_state(path: str | Path, generator: nn.Module) -> dict[str, Tensor]:
    """The averaged weights {published key: tensor}, as every published script shows them: of an ema.pth or ema2.pth itself, or of the ema.pth beside a file.

    Without an ema.pth the file's own weights. `generator` (the meta device will do) tells the names. Raises InputError.
    """
    data = read(path)
    if not _is_average(data):
        beside = find(path).get("ema")
        if beside is None:
            return tensors(data, str(path))
        path, data = beside, read(beside)
    return _named(data, generator, path)[1]


def ema_state(path: str | Path, generator: nn.Module) -> dict[str, int | Tensor]:
    """What an ema.pth gives to ``common.gan.Ema``, as its state_dict: {"updates": n, "shadow.KEY": tensor}. Raises InputError."""
    updates, weights = _named(read(path), generator, path)
    return {"updates": updates} | {f"shadow.{name}": value for name, value in weights.items()}


def step_of(path: str | Path) -> int | None:
    """The step that a pickled module of pi-GAN carries; None for a state dict, which carries none. Raises InputError."""
    data = read(path)
    step = data.state.get("step") if isinstance(data, Record) and isinstance(data.state, dict) else None
    return step if type(step) is int and step >= 0 else None


def _is_average(data: Any) -> bool:
    return "shadow_params" in _fields(data)


def _fields(data: Any) -> dict:
    """The attributes of torch_ema's object, or its state dict."""
    fields = data.state if isinstance(data, Record) else data
    return fields if isinstance(fields, dict) else {}


def _named(data: Any, module: nn.Module, path: str | Path) -> tuple[int, dict[str, Tensor]]:
    """The number of updates and {name: average} of torch_ema's object, whose averages are in the order of the module's trained parameters."""
    fields = _fields(data)
    shadows, updates = fields.get("shadow_params"), fields.get("num_updates")
    if not isinstance(shadows, list) or not all(isinstance(value, Tensor) for value in shadows) or type(updates) is not int or updates < 0:
        raise InputError(f"{path}: expected torch_ema's averages, shadow_params and num_updates")
    return updates, dict(zip(_matching(module, shadows, path), shadows))


def _matching(module: nn.Module, values: list[Tensor], path: str | Path) -> list[str]:
    """The names of the module's trained parameters, if these values are as many and of the same shapes. Raises InputError."""
    wanted = {name: parameter.shape for name, parameter in module.named_parameters() if parameter.requires_grad}
    if len(values) != len(wanted):
        raise InputError(f"{path}: holds {len(values)} tensors without names, expected the {len(wanted)} of the network")
    for (name, shape), value in zip(wanted.items(), values):
        if value.shape != shape:
            raise InputError(f"{path}: the tensor in the place of {name} is of shape {tuple(value.shape)}, expected {tuple(shape)}")
    return list(wanted)


# What a training goes on with

def load_optimizer(optimizer: torch.optim.Adam, module: nn.Module, path: str | Path) -> None:
    """Take over the moments and step counts of an optimizer_G.pth or optimizer_D.pth, whose parameters are in the order of module.parameters().

    Groups and learning rates stay as they are. Parameters without moments (depths that small pictures do not enter) start afresh.
    Raises InputError, the optimiser unchanged, for counts or shapes that are not the module's.
    """
    data, parameters = read(path), list(module.parameters())
    try:
        order = [index for group in data["param_groups"] for index in group["params"]]
        moments = {order.index(index): {name: entry[name] for name in ("step", *MOMENTS)} for index, entry in data["state"].items()}
        count = len(order)
        steps = {place: float(entry["step"]) for place, entry in moments.items()}
        shapes = {place: [entry[name].shape for name in MOMENTS] for place, entry in moments.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        raise InputError(f"{path}: expected the state of an Adam optimiser ({type(error).__name__})") from None
    if count != len(parameters):
        raise InputError(f"{path}: an optimiser of {count} parameters, expected the {len(parameters)} of the network")
    for place, found in shapes.items():
        if found != [parameters[place].shape] * len(MOMENTS):
            raise InputError(f"{path}: moments of parameter {place} are of shape {tuple(found[0])}, expected {tuple(parameters[place].shape)}")
    for place, entry in moments.items():
        values = {name: entry[name].to(parameters[place], copy=True) for name in MOMENTS}
        optimizer.state[parameters[place]] = {"step": torch.tensor(steps[place]), **values}


def scaler_state(path: str | Path) -> dict[str, float | int]:
    """What a scaler.pth gives to torch.amp.GradScaler. Raises InputError."""
    data = read(path)
    names = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
    if not isinstance(data, dict) or not all(type(data.get(name)) in (int, float) for name in names):
        raise InputError(f"{path}: expected the state of a GradScaler: {', '.join(names)}")
    return {name: data[name] for name in names}


def losses(path: str | Path) -> list[float]:
    """The losses of every step, from a generator.losses or discriminator.losses. Raises InputError."""
    data = read(path)
    if not isinstance(data, list) or not all(type(value) in (int, float) for value in data):
        raise InputError(f"{path}: expected a list of numbers")
    return [float(value) for value in data]


def curriculum(path: str | Path) -> dict:
    """The curriculum {stage start or option: value} that the last line of an options.txt spells as a Python literal. Raises InputError."""
    path = Path(path)
    lines = path.read_text(errors="replace").strip().splitlines()
    try:
        assert len(lines[-1]) <= LONGEST_OPTIONS
        literal = ast.literal_eval(lines[-1].strip())
        assert isinstance(literal, dict)
    except (AssertionError, IndexError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InputError(f"{path}: expected the curriculum as a Python dict in the last line") from None
    return literal
