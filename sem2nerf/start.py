"""Where a training begins: at a generator that stays as it is, at the ImageNet weights of the encoder, or at another checkpoint."""
from __future__ import annotations

from pathlib import Path

from torch import nn

from common.checkpoint import load as load_checkpoint
from common.checkpoint import load_strict, newest, numbered, open_checkpoint
from common.errors import InputError
from common.published import tensors
from sem2nerf import published
from sem2nerf.model import load_decoder, with_constants


def begin(config, state: dict) -> int:
    """Give the networks of a new run their start, and say at which step it begins; a run that goes on has its own. Raises InputError."""
    if numbered(Path(config.logging_root) / config.name / "checkpoints"):
        return 0
    model = state["model"]
    if config.checkpoint_path:
        return restore(config.checkpoint_path, state, config.continue_training)
    load_decoder(model, open_checkpoint(config.decoder))
    if config.encoder_weights:
        load_imagenet(model.encoder, config.encoder_weights)
    return 0


def restore(path: str, state: dict, with_optimizers: bool) -> int:
    """Load what a checkpoint holds of each state, its optimisers and step only if asked; the step to begin at."""
    opened = open_checkpoint(path)
    if opened.kind == "published":
        found, step = published.training_states(opened, state)
    else:
        found, step = opened.data, step_of(path)
    for role in state.keys() & found.keys():
        if with_optimizers or not role.startswith("optimizer"):
            values = with_constants(state[role], found[role]) if isinstance(state[role], nn.Module) else found[role]
            load_strict(state[role], values, f"{opened.path}: {role}")
    return step if with_optimizers else 0


def step_of(path: str | Path) -> int:
    """The steps that a checkpoint of ours has behind it; 0 for exported weights."""
    path = Path(path)
    if path.is_dir():
        path = newest(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    return load_checkpoint(path)["step"] if path.suffix == ".pt" else 0


def load_imagenet(encoder: nn.Module, path: str) -> None:
    """Give the encoder the blocks of the official Swin file; its stem and its head, which see and say something else, stay. Raises InputError."""
    data = open_checkpoint(path).data
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise InputError(f"{path}: expected the official Swin-T file, a dict with the state dict 'model'")
    own = lambda key: "head" in key or "patch_embed" in key
    kept = {key: value for key, value in encoder.state_dict().items() if own(key)}
    load_strict(encoder, kept | {key: value for key, value in tensors(data["model"], path).items() if not own(key)}, path)
