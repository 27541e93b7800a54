"""The files that GOF's and pi-GAN's authors' programs write, read without running anything in them.

    files = find("output/celeba")                                       {"generator": path, "ema": path, "optimizer_G": path, ...}
    load_strict(generator, generator_state("output/celeba/generator.pth", generator), "generator.pth")              the averaged weights
    for role, values in states("output/celeba", state).items():                                                     a training's start
        load_strict(state[role], values, role)

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
    found = {role: folder / f"{prefix}{name}" for role, name in FILES.items() if prefix is not None} | {"options": folder / OPTIONS}
    return {role: file for role, file in found.items() if file.is_file()}


def _prefix_in(folder: Path) -> str:
    prefixes = sorted(file.name.removesuffix(FILES["generator"]) for file in folder.glob(f"*{FILES['generator']}"))
    if not prefixes:
        raise InputError(f"{folder}: expected a folder with {FILES['generator']}")
    if len(prefixes) > 1 and prefixes[0]:
        raise InputError(f"{folder}: holds several sets of files ({', '.join(prefixes[:8])}); name the {FILES['generator']} of one")
    return prefixes[0]


def _prefix_of(file: Path) -> str | None:
    """What stands before its known name; None for a name of the user's own, which has no siblings."""
    if not file.is_file():
        raise InputError(f"{file}: no such file or folder")
    return next((file.name.removesuffix(name) for name in FILES.values() if file.name.endswith(name)), None)


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


def _is_average(data: Any) -> bool:
    return "shadow_params" in _fields(data)


def _fields(data: Any) -> dict:
    """The attributes of torch_ema's object, or its state dict."""
    fields = data.state if isinstance(data, Record) else data
    return fields if isinstance(fields, dict) else {}


def _named(data: Any, module: nn.Module, path: str | Path) -> tuple[int, dict[str, Tensor]]:
    """The number of updates and {name: average} of torch_ema's object, whose averages are in the order of the module's parameters."""
    fields = _fields(data)
    shadows, updates = fields.get("shadow_params"), fields.get("num_updates")
    if not isinstance(shadows, list) or not all(isinstance(value, Tensor) for value in shadows) or type(updates) is not int or updates < 0:
        raise InputError(f"{path}: expected torch_ema's averages, shadow_params and num_updates")
    return updates, dict(zip(_matching(module, shadows, path), shadows))


def _matching(module: nn.Module, values: list[Tensor], path: str | Path) -> list[str]:
    """The names of the module's parameters, if these values are as many and of the same shapes. Raises InputError."""
    wanted = {name: parameter.shape for name, parameter in module.named_parameters()}
    if len(values) != len(wanted):
        raise InputError(f"{path}: holds {len(values)} tensors without names, expected the {len(wanted)} of the network")
    for (name, shape), value in zip(wanted.items(), values):
        if value.shape != shape:
            raise InputError(f"{path}: the tensor in the place of {name} is of shape {tuple(value.shape)}, expected {tuple(shape)}")
    return list(wanted)


# What a training goes on with

def states(folder: str | Path, state: dict) -> dict[str, dict]:
    """{role: state dict} of a folder's (or a set's) files for a training's `state` {role: what has a state_dict}, for ``checkpoint.load_strict``.

    Roles are generator, discriminator, ema, ema2, optimizer_G, optimizer_D and scaler; what the folder lacks is left out. Raises InputError.
    """
    files = find(folder)
    read_role = {
        "generator": network_state,
        "discriminator": lambda path: _untrained_heads(state["discriminator"]) | network_state(path),
        "ema": lambda path: ema_state(path, state["generator"]),
        "ema2": lambda path: ema_state(path, state["generator"]),
        "optimizer_G": lambda path: optimizer_state(path, state["optimizer_G"], state["generator"]),
        "optimizer_D": lambda path: optimizer_state(path, state["optimizer_D"], state["discriminator"]),
        "scaler": scaler_state,
    }
    wanted = [role for role in read_role if role in files and role in state and state[role].state_dict()]     # a scaler that is off has no state
    return {role: read_role[role](files[role]) for role in wanted}


def _untrained_heads(discriminator: nn.Module) -> dict[str, Tensor]:
    """What GOF's encoder has and pi-GAN's has not."""
    return {key: value for key, value in discriminator.state_dict().items() if key.startswith("freq_phase_layer.")}


def optimizer_state(path: str | Path, optimizer: torch.optim.Adam, module: nn.Module) -> dict:
    """The state dict of `optimizer` with the moments and steps of an optimizer_G.pth or optimizer_D.pth, which are in the order of module.parameters().

    Groups and learning rates are the optimizer's own. Parameters without moments (depths that small pictures do not enter) have none here either.
    Raises InputError for counts or shapes that are not the module's.
    """
    parameters, moments, own = list(module.named_parameters()), {}, optimizer.state_dict()
    places = {parameter: place for place, parameter in enumerate(parameter for group in optimizer.param_groups for parameter in group["params"])}
    for index, entry in _adam_entries(path, len(parameters)).items():
        name, parameter = parameters[index]
        for moment in MOMENTS:
            if entry[moment].shape != parameter.shape:
                raise InputError(f"{path}: {moment} of {name} is of shape {tuple(entry[moment].shape)}, expected {tuple(parameter.shape)}")
        moments[places[parameter]] = {"step": torch.tensor(entry["step"])} | {moment: entry[moment].float() for moment in MOMENTS}
    return own | {"state": moments}


def _adam_entries(path: str | Path, count: int) -> dict[int, dict[str, Any]]:
    """{place of the parameter: its step as a float, and its moments} of an Adam optimiser of `count` parameters. Raises InputError."""
    data = read(path)
    try:
        places = {index: place for place, index in enumerate(index for group in data["param_groups"] for index in group["params"])}
        entries = {places[index]: {"step": float(entry["step"]), **{name: entry[name] for name in MOMENTS}} for index, entry in data["state"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path}: expected the state of an Adam optimiser ({type(error).__name__})") from None
    if len(places) != count:
        raise InputError(f"{path}: an optimiser of {len(places)} parameters, expected the {count} of the network")
    if not all(isinstance(entry[name], Tensor) for entry in entries.values() for name in MOMENTS):
        raise InputError(f"{path}: expected the state of an Adam optimiser, with tensors {' and '.join(MOMENTS)}")
    return entries


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
    last = (Path(path).read_text(errors="replace").strip().splitlines() or [""])[-1].strip()
    try:
        literal = ast.literal_eval(last) if len(last) <= LONGEST_OPTIONS else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        literal = None
    if not isinstance(literal, dict):
        raise InputError(f"{path}: expected the curriculum as a Python dict in the last line")
    return literal
