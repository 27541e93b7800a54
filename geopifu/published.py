"""Files of Geo-PIFu's networks: runs and exports of ours, and the authors' (netG_epoch_44_2415, netV_epoch_29_2899), which are state dicts of one network.

    model, options = load("netG_epoch_44_2415", "netV_epoch_29_2899")       both networks of one model
    model, options = load("log/people")                                     what a run trained, and the V-net that it trained on
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from common.checkpoint import check_fits, open_checkpoint
from common.config import from_dict
from common.errors import InputError
from common.files import replacing
from common.published import tensors
from geopifu.model import NAMES, REPAIRS, GeoPIFu, ModelConfig
from geopifu.vnet import CHANNELS

PARALLEL = "module."                                          # DataParallel's prefix, which every key of the authors' files has
SHARED = ("features", "num_hourglass", "norm", "upsample_mode", "published_pixels", "published_voxels")
TRAINING_ONLY = ("gan_3d_dis_", "depth_coords", "vis_conv3d_", "rgb_rendering_unet")      # the V-net's unpublished losses


def load(*paths: str | Path, device: torch.device | str = "cpu") -> tuple[GeoPIFu, dict]:
    """The model of one or two files or run folders, in eval mode, and the options that the first was made with ({} for an author's file).

    Raises InputError naming the file: two of the same network, networks made with different options, every key missing, unexpected or misshapen.
    """
    found: dict[str, tuple[dict[str, Tensor], ModelConfig, str]] = {}
    options: list[dict] = []
    for path in map(str, paths):
        state, config, options_here = read(path)
        options.append(options_here)
        for part in ("netG", "netV"):
            of_part = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
            if of_part and part in found:
                raise InputError(f"{path}: holds {part} as {found[part][2]} does; expected the other network")
            if of_part:
                found[part] = of_part, config, path
    config = merged({part: (config, path) for part, (_, config, path) in found.items()})
    try:
        with torch.device("meta"):                            # a file is refused before room is made for what it claims to be
            model = GeoPIFu(config, tuple(found))
    except RuntimeError:                                      # more numbers than can be counted
        raise InputError(f"{', '.join(map(str, paths))}: claims to be a network of {config.features} features, beyond any") from None
    for part, (state, _, path) in found.items():
        check_fits(getattr(model, part), state, path)
        getattr(model, part).load_state_dict(state, assign=True)
    return model.float().to(device).eval(), options[0]


def read(path: str) -> tuple[dict[str, Tensor], ModelConfig, dict]:
    """A file's tensors under "netG." and "netV.", the configuration of its networks, and the options it was made with."""
    opened = open_checkpoint(path)
    if opened.kind == "ours":
        state = opened.data.get("model", {})
        if not any(key.startswith(("netG.", "netV.")) for key in state):
            raise InputError(f"{path}: no Geo-PIFu model: neither netG nor netV among its {len(state)} tensors")
        return state, from_dict(ModelConfig, {key: value for key, value in opened.config.items() if key in NAMES}, path), opened.config
    state = {key.removeprefix(PARALLEL): value for key, value in tensors(opened.data, path).items()}
    state = {key: value for key, value in state.items() if not key.startswith(TRAINING_ONLY)}
    part = "netG" if "image_filter.conv1.weight" in state else "netV"
    return {f"{part}.{key}": value for key, value in state.items()}, published_config(state, path), {}


def merged(configs: dict[str, tuple[ModelConfig, str]]) -> ModelConfig:
    """One configuration of {part: (its own, its file)}. Raises InputError where the two must agree and do not."""
    if len(configs) == 1:
        return next(iter(configs.values()))[0]
    (ours, path), (theirs, other) = configs["netG"], configs["netV"]
    for name in SHARED:
        if getattr(ours, name) != getattr(theirs, name):
            raise InputError(f"{other}: made with {name} {getattr(theirs, name)}, but {path} with {getattr(ours, name)}; the two must agree")
    return replace(ours, **{name: getattr(theirs, name) for name in NAMES if name.startswith("vrn_")})


# The authors' files

def export_published(model: GeoPIFu, path: str | Path) -> None:
    """Write a network as the authors do, netV beside netG as ..._netV where the model has both.

    Raises InputError for a model that the original's programs would show otherwise: its files hold weights alone.
    """
    released, ours = ModelConfig(**dict.fromkeys(REPAIRS, True)), model.config
    lost = [f"{name} {getattr(ours, name)}" for name in ("features", "loadSize", "z_size", "published_pixels", "published_voxels")
            if getattr(ours, name) != getattr(released, name)]
    if lost:
        raise InputError(f"{path}: the original knows no {', '.join(lost)}; write a .safetensors")
    path = Path(path)
    names = {"netG": path, "netV": path if model.netG is None else path.with_stem(f"{path.stem}_netV")}
    for part, network in model.named_children():
        state = {PARALLEL + key: value.cpu() for key, value in network.state_dict().items()}
        with replacing(names[part]) as temporary:
            torch.save(state, temporary)


def published_config(state: dict[str, Tensor], where: str) -> ModelConfig:
    """The configuration of an author's state dict without prefix, read from its keys and shapes, the release's behaviour throughout."""
    try:
        sizes = _netG_sizes(state) if "image_filter.conv1.weight" in state else _netV_sizes(state)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
        what = f"without {error}" if isinstance(error, KeyError) else "with shapes that no such network has"
        raise InputError(f"{where}: neither netG nor netV of Geo-PIFu: {len(state)} tensors {what}") from None
    return ModelConfig(**sizes, **dict.fromkeys(REPAIRS, True))


def _netV_sizes(state: dict[str, Tensor]) -> dict:
    out, features = state["l0.weight"].shape[:2]
    return {"vrn_num_modules": _count(state, "conv_last", ".weight"), "num_hourglass": _count(state, "m0.b1_", ".conv1.weight"), "features": features,
            "vrn_net_input_width": out // CHANNELS * 8, "vrn_net_input_height": out // CHANNELS * 12, "norm": _norm(state, "conv1.1")}


def _netG_sizes(state: dict[str, Tensor]) -> dict:
    name, ranges = "image_filter.", 7 if "displacments" in state else 1
    out, features = state[f"{name}l0.weight"].shape[:2]
    sizes = {"num_stack": _count(state, f"{name}conv_last", ".weight"), "num_hourglass": _count(state, f"{name}m0.b1_", ".conv1.weight"),
             "features": features, "hourglass_dim": out, "norm": _norm(state, f"{name}bn1"), "multiRanges_deepVoxels": ranges > 1}
    if f"{name}down_conv2.weight" in state:
        sizes["hg_down"] = "conv64" if len(state[f"{name}down_conv2.weight"]) == 2 * state[f"{name}down_conv2.weight"].shape[1] else "conv128"
    if ranges > 1:
        sizes["displacment"] = round(float(state["displacments"].max()), 6)
    name = "surface_classifier."
    if f"{name}features_2d_conv0.weight" in state:
        heads = {"mlp_dim": "2d", "mlp_dim_3d": "3d", "mlp_dim_joint": "joint"}
        sizes |= {flag: _widths(state, f"{name}features_{head}_conv") for flag, head in heads.items()}
        sizes |= {"deepVoxels_fusion": "multiLoss", "deepVoxels_c_len": CHANNELS * ranges}
        inputs, second = sizes["mlp_dim"][0], state[f"{name}features_2d_conv1.weight"].shape[1]
    else:
        sizes["mlp_dim"] = _widths(state, f"{name}conv")
        inputs, second = sizes["mlp_dim"][0], state[f"{name}conv1.weight"].shape[1]
    voxels = inputs - out - 1
    late = "deepVoxels_fusion_network.fusion_fc_1.weight"
    if late in state:
        sizes |= {"deepVoxels_fusion": "late", "deepVoxels_c_len": len(state["deepVoxels_fusion_network.fusion_fc_3.weight"]),
                  "deepVoxels_c_len_intoLateFusion": state[late].shape[1]}
        voxels -= sizes["deepVoxels_c_len"]
    elif "deepVoxels_fusion" not in sizes and voxels in (CHANNELS * ranges, CHANNELS * ranges + features // 4):
        sizes |= {"deepVoxels_fusion": "early", "deepVoxels_c_len": CHANNELS * ranges}
        voxels -= CHANNELS * ranges
    return sizes | {"no_residual": second == sizes["mlp_dim"][1], "skip_hourglass": voxels == features // 4}


def _count(state: dict[str, Tensor], prefix: str, suffix: str) -> int:
    return sum(key.startswith(prefix) and key.endswith(suffix) for key in state)


def _norm(state: dict[str, Tensor], name: str) -> str:
    return "batch" if f"{name}.running_mean" in state else "group"


def _widths(state: dict[str, Tensor], name: str) -> list[int]:
    """The widths of layers name0, name1, ..., the input's first."""
    layers = [state[f"{name}{number}.weight"] for number in range(_count(state, name, ".weight"))]
    return [layers[0].shape[1], *map(len, layers)]
