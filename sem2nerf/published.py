"""The files that Sem2NeRF's and pi-GAN's authors' programs write, read without running anything in them.

A checkpoint is {"state_dict": encoder.* and decoder.*, "opts": every option of the training, "latent_avg", "global_step", "optimizer", "dis_state_dict",
"dis_optimizer"}; a decoder's file a state dict `siren.*`, or pi-GAN's pickled generator. What a checkpoint's opts say is obeyed.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common.checkpoint import Opened
from common.errors import InputError
from common.files import replacing
from common.pigan import SirenConfig, average_codes
from common.published import tensors
from sem2nerf.swin import SwinConfig

SAME_NAMES = ("dataset_type", "pigan_curriculum_type", "pigan_zdim", "use_merged_labels", "use_contour", "label_nc", "input_nc", "src_input_size",
              "start_from_latent_avg")


# Decoders

def decoder_state(opened: Opened) -> dict[str, Tensor]:
    """{key below `siren.`: tensor} of a decoder: a generator of ours (its averaged weights), a model of ours, or an author's file. Raises InputError."""
    if opened.kind == "ours":
        named = opened.data.get("ema") or opened.data.get("generator") or opened.data.get("model") or {}
    else:
        data = opened.data.get("state_dict", opened.data) if isinstance(opened.data, dict) else opened.data
        named = tensors(data, str(opened.path))
    clean = lambda key: key.removeprefix("shadow.").removeprefix("decoder.")
    found = {clean(key): value for key, value in named.items() if clean(key).startswith("siren.")}
    if not found:
        raise InputError(f"{opened.path}: no decoder; expected tensors siren.*, as of pi-GAN's or GOF's generator")
    return {key.removeprefix("siren."): value.float() for key, value in found.items()}


# Checkpoints

def _checkpoint(opened: Opened) -> dict:
    data = opened.data
    if not isinstance(data, dict) or not isinstance(data.get("state_dict"), dict) or not isinstance(data.get("opts"), dict):
        raise InputError(f"{opened.path}: not a checkpoint of Sem2NeRF; expected state_dict and opts")
    return data


def options_of(opened: Opened) -> dict:
    """{option: value} of what an author's checkpoint was trained by, under our names, which are theirs. Raises InputError."""
    opts = _checkpoint(opened)["opts"]
    crop = {name: opts[name] for name in ("image_load_size", "image_crop_size") if type(opts.get(name)) is int and opts[name] > 0}
    cats = opts.get("dataset_type") == "catmask_seg_to_3dface"                 # never cropped, whatever the options say
    return {name: opts[name] for name in SAME_NAMES if opts.get(name) is not None} | {"published_contour": True} | ({} if cats else crop)


def model_state(opened: Opened, model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model; where the file has no average code, as without --start_from_latent_avg, it is the decoder's."""
    data, where = _checkpoint(opened), str(opened.path)
    state = tensors(data["state_dict"], where)
    average = data.get("latent_avg")
    if average is None:
        model.siren.load_state_dict(decoder_state(opened))
        average = average_codes(model.siren)
    if not isinstance(average, list | tuple) or len(average) != 2 or not all(isinstance(code, Tensor) for code in average):
        raise InputError(f"{where}: latent_avg is no pair of frequencies and phases")
    try:
        return state | {"latent_avg": torch.cat([code.reshape(1, -1).float() for code in average])}
    except RuntimeError:
        raise InputError(f"{where}: latent_avg's frequencies and phases are not equally many") from None


def training_states(opened: Opened, state: dict) -> tuple[dict[str, dict], int]:
    """{role: state dict} for a training's `state` {"model", "discriminator", "optimizer", "optimizer_D"}, what the file lacks left out; and the step
    to go on at. Raises InputError."""
    data, where = _checkpoint(opened), str(opened.path)
    found = {"model": model_state(opened, state["model"])}
    if "dis_state_dict" in data and "discriminator" in state:
        found["discriminator"] = tensors(data["dis_state_dict"], where)
    for role, key in (("optimizer", "optimizer"), ("optimizer_D", "dis_optimizer")):
        if key in data and role in state:
            found[role] = optimizer_state(data[key], state[role], where)
    step = data.get("global_step", 0)
    if type(step) is not int or step < 0:
        raise InputError(f"{where}: global_step {step!r} is no number of a step")
    return found, step + 1


def optimizer_state(data: dict, optimizer: torch.optim.Optimizer, where: str) -> dict:
    """The state dict of `optimizer` with the steps and moments of a stored one of the same kind; groups and rates are the optimizer's own."""
    try:
        return optimizer.state_dict() | {"state": {index: dict(entry) for index, entry in data["state"].items()}}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: expected the state of an optimiser ({type(error).__name__})") from None


def export(model: nn.Module, path: str | Path) -> None:
    """Write a model as the release's scripts read one: weights under their names, the options, the average code.

    Raises InputError for networks of other widths, which those scripts cannot build.
    """
    if model.encoder.config != replace(SwinConfig(), in_chans=model.config.input_nc) or model.siren.config != SirenConfig():
        raise InputError(f"{path}: the authors' programs build the published sizes alone; write a .safetensors")
    state, stored = {key: value.cpu() for key, value in model.state_dict().items()}, {name: getattr(model.config, name) for name in SAME_NAMES}
    average = state.pop("latent_avg")
    with replacing(path) as temporary:
        torch.save({"state_dict": state, "opts": stored, "latent_avg": [average[:1], average[1:]], "global_step": 0}, temporary)
