"""One file per checkpoint, whole or not there; read without running anything in it; the newest valid one wins.

A checkpoint of a run holds {"step", "images", "config": {option: value}, "versions", "state": {name: state dict}} as plain tensors, numbers and
text, written by torch.save. `export_safetensors` keeps the networks alone. `open_checkpoint` is what every `--checkpoint` flag calls.
"""
from __future__ import annotations

import json
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from common.files import replacing

MARK, VERSION = "humanfields", 1                             # first key of our files, and of the metadata of our .safetensors
SHOWN = 8                                                    # keys that one error line names of each sort


@dataclass(frozen=True)
class Opened:
    """An opened checkpoint. kind "ours": data {name: state dict}, config the run's options; kind "published": data as `published.read` gives, config None."""

    kind: str
    data: Any
    config: dict | None
    path: Path


def save(path: str | Path, state: dict) -> None:
    """Write a dict of tensors, numbers, text, dicts and lists, whole or not at all; a failure leaves the old file intact. Raises OSError (full disk)."""
    assert _plain(state), "a checkpoint holds tensors, numbers, text, dicts and lists only"
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save({MARK: VERSION, **state}, file)
        except RuntimeError as error:                        # torch's archive writer hides the full disk behind its own complaint
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def load(path: str | Path) -> dict:
    """The dict that `save` wrote, tensors on the CPU. Raises InputError for a missing, truncated, altered, hostile or foreign file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    with path.open("rb") as file:                            # opened here: torch would judge a path by its suffix
        try:
            with zipfile.ZipFile(file) as archive:
                _check_parts(archive)
            file.seek(0)
            state = torch.load(file, weights_only=True, map_location="cpu")
        except Exception as error:                           # whatever the readers make of arbitrary bytes
            raise InputError(f"{path}: broken or foreign checkpoint, expected one of {MARK} ({type(error).__name__})") from None
    if not isinstance(state, dict) or state.pop(MARK, None) != VERSION:
        raise InputError(f"{path}: not a checkpoint of {MARK} version {VERSION}")
    return state


def _check_parts(archive: zipfile.ZipFile) -> None:
    """Refuse compressed parts (torch.save makes none, so there is no room for a bomb) and wrong sums."""
    if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()) or archive.testzip():
        raise zipfile.BadZipFile


def numbered(folder: str | Path) -> list[Path]:
    """The files `step_00001234.pt` of a folder, the highest number first."""
    steps = {path: int(match[1]) for path in Path(folder).glob("step_*.pt") if (match := re.fullmatch(r"step_(\d+)\.pt", path.name))}
    return sorted(steps, key=steps.get, reverse=True)


def newest(folder: str | Path) -> Path | None:
    """The valid `step_%08d.pt` with the highest number, or None; broken ones are passed over with one line on stderr."""
    return next((path for path in numbered(folder) if _valid(path)), None)


def keep_last(folder: str | Path, k: int) -> None:
    """Remove all but the k checkpoints of the highest numbers, and what killed writers left; no checkpoint goes unless a valid one stays."""
    paths = numbered(folder)
    if paths[k:] and any(_valid(path) for path in paths[:k]):
        for path in paths[k:]:
            path.unlink()
    for path in Path(folder).glob(".step_*.tmp"):
        path.unlink()


def _valid(path: Path) -> bool:
    try:
        load(path)
    except InputError as error:
        print(f"warning: skipped {error}", file=sys.stderr)
        return False
    return True


def _plain(value) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, Tensor | bool | int | float | str)


# --- strict loading -------------------------------------------------------------------------------------------------------------------

def load_strict(target, state_dict: dict, where: str) -> None:
    """Load a state dict into a module, an optimiser or anything with state_dict() and load_state_dict(), all keys and shapes equal.

    Raises InputError as `check_fits`.
    """
    check_fits(target, state_dict, where)
    target.load_state_dict(state_dict)


def check_fits(target, state_dict: dict, where: str) -> None:
    """Refuse a state dict whose keys or shapes are not the target's; a module on the meta device will do, which takes no memory.

    Raises InputError: one line naming `where` and every missing, unexpected and misshapen key (the first few of each sort).
    """
    if isinstance(target, torch.optim.Optimizer):
        wanted, given = _optimizer_shapes(target, state_dict)
    else:
        wanted, given = _shapes(target.state_dict()), _shapes(state_dict)
    sorts = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [key for key in given if key not in wanted],
        "misshapen": [f"{key} {_text(given[key])} instead of {_text(wanted[key])}" for key in wanted if key in given and given[key] != wanted[key]],
    }
    if any(sorts.values()):
        raise InputError(f"{where}: does not fit: " + "; ".join(f"{len(keys)} {sort}: {_listed(keys)}" for sort, keys in sorts.items() if keys))


def _shapes(state_dict) -> dict[str, tuple | None]:
    """{key: shape of a tensor, None for anything else}."""
    if not isinstance(state_dict, dict):
        return {"a state dict": None}
    return {str(key): tuple(value.shape) if isinstance(value, Tensor) else None for key, value in state_dict.items()}


def _optimizer_shapes(optimizer: torch.optim.Optimizer, state_dict: dict) -> tuple[dict, dict]:
    """The parameters of each group, and the shape of every moment as its parameter's: (wanted, given)."""
    groups, states = state_dict.get("param_groups", []), state_dict.get("state", {})
    wanted = {f"group {i}": (len(group["params"]),) for i, group in enumerate(optimizer.param_groups)}
    given = {f"group {i}": (len(group.get("params", ())),) for i, group in enumerate(groups)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in states.items() if wanted == given else ():
        for key, value in moments.items():
            if isinstance(value, Tensor) and value.dim():
                wanted[f"{key} of parameter {index}"], given[f"{key} of parameter {index}"] = tuple(parameters[index].shape), tuple(value.shape)
    return wanted, given


def _text(shape: tuple | None) -> str:
    return "no tensor" if shape is None else "x".join(map(str, shape)) or "scalar"


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")


# --- what a --checkpoint flag may name ------------------------------------------------------------------------------------------------

def open_checkpoint(path: str | Path) -> Opened:
    """Open a run folder (its newest valid checkpoint), a file of ours (.pt or .safetensors) or an author's file, told apart by content.

    Raises InputError naming the path if there is none, or if it is broken.
    """
    path = Path(path)
    if path.is_dir():
        found = newest(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
        if found is None:
            raise InputError(f"{path}: no valid checkpoint in this folder")
        path = found
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; expected a run folder, a .pt or .safetensors of ours, or an author's file")
    if _is_safetensors(path):
        return _open_safetensors(path)
    if _is_ours(path):
        state = load(path)
        if not isinstance(state.get("state"), dict) or not isinstance(state.get("config"), dict):
            raise InputError(f"{path}: a checkpoint without state and config")
        return Opened("ours", state["state"], state["config"], path)
    from common import published

    return Opened("published", published.read(path), None, path)


def export_safetensors(path: str | Path, states: dict[str, dict[str, Tensor]], config: dict, dtype: torch.dtype | None = None) -> None:
    """Write {name: state dict of tensors} as one .safetensors with keys "name/key" and the config in its metadata; floats cast to `dtype` if given."""
    from safetensors.torch import save as serialise

    tensors = {f"{name}/{key}": _cast(value, dtype) for name, state in states.items() for key, value in state.items()}
    metadata = {MARK: str(VERSION), "config": json.dumps(config)}
    with replacing(path) as temporary:
        temporary.write_bytes(serialise(tensors, metadata))


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy of its own on the CPU (safetensors refuses shared memory)."""
    return value.detach().to("cpu", dtype if dtype and value.is_floating_point() else value.dtype, copy=True).contiguous()


def _is_safetensors(path: Path) -> bool:
    """A header's length (8 bytes), then a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _is_ours(path: Path) -> bool:
    """Our mark is the first key that the archive's data.pkl names."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                return MARK.encode() in file.read(64)
    except (zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError, EOFError, OSError):
        return False


def _open_safetensors(path: Path) -> Opened:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}
        config = json.loads(metadata["config"]) if metadata.get(MARK) == str(VERSION) else None
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise InputError(f"{path}: broken .safetensors ({error})") from None
    if not isinstance(config, dict) or not all("/" in key for key in tensors):
        raise InputError(f"{path}: not a .safetensors of {MARK} version {VERSION}")
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, inner = key.partition("/")
        states.setdefault(name, {})[inner] = value
    return Opened("ours", states, config, path)
