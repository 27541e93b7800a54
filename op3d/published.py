"""The authors' files, read without running anything in them: OP3D's and EG3D's .pkl, whichever of their class names they carry.

    nets = read_nets("op3d-ffhq-512-128-withc-8plane.pkl")                  {"G_ema": Net, ...}
    generator = build(nets["G_ema"])

A file is a pickle of {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs"} or of some of them. Each network notes its class's name, its constructor's
arguments and its attributes; several of these (K, L, the rendering resolution) are changed after construction, so the attributes count.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from common import config as options
from common.checkpoint import load_strict
from common.errors import InputError
from common.layers.fir import fir_kernel
from common.published import Record, read, tensors
from op3d.discriminator import Discriminator
from op3d.model import LABELS, Generator, ModelConfig

NETS = ("G", "D", "G_ema")
DROPPED = ("dataset_label_std",)                              # a buffer that nothing reads
FIXED = ".resample_filter"                                    # constants of every layer
ARGUMENTS = {name: name for name in ("z_dim", "w_dim", "img_resolution", "sr_num_fp16_res", "fourier_L")} | {
    "c_dim": "label_dim", "channel_base": "cbase", "channel_max": "cmax", "num_fp16_res": "g_num_fp16_res", "planes": "plane_number",
    "per_dir_plane_number": "plane_number"}
OPTIONS = {name: name for name in (
    "decoder_lr_mul", "sr_antialias", "c_scale", "depth_resolution", "depth_resolution_importance", "box_warp", "white_back", "disparity_space_sampling",
    "density_noise", "avg_camera_radius", "avg_camera_pivot")} | {"superresolution_module": "sr_module", "superresolution_noise_mode": "sr_noise_mode"}
MAPPING = {"num_layers": "map_depth", "embed_features": "embed_features", "layer_features": "layer_features"}
UNLESS_SAID = {"cbase": 32768, "cmax": 512, "sr_num_fp16_res": 0, "conv_clamp": 256, "c_scale": 0, "published_scale": True, "published_axes": True,
               "published_limits": True, "published_mesh": True}                     # what the authors' classes do, their defects included


@dataclass(frozen=True)
class Net:
    """A pickled network: its class's last name, its constructor's arguments, all tensors (fixed filters too) by their keys, and its plain attributes."""

    class_name: str
    init_kwargs: dict
    state: dict[str, Tensor]
    attributes: dict
    where: str


def read_nets(path: str | Path, data: Any = None) -> dict[str, Net]:
    """The networks of an author's file by name (`data`: what `common.published.read` gave of it). Raises InputError if there is none."""
    data = read(path) if data is None else data
    records = data.items() if isinstance(data, dict) else [("G_ema", data)]
    nets = {name: _net(record, f"{path}: {name}") for name, record in records if name in NETS and isinstance(record, Record)}
    if not nets:
        raise InputError(f"{path}: none of EG3D's networks {', '.join(NETS)} in it")
    return nets


def _net(record: Record, where: str) -> Net:
    attributes = record.state
    if not isinstance(attributes, dict) or not isinstance(attributes.get("_init_kwargs"), dict):
        raise InputError(f"{where}: a network without its constructor's arguments")
    return Net(record.name.rpartition(".")[2], attributes["_init_kwargs"], tensors(record, where), attributes, where)


def build(net: Net) -> Generator | Discriminator:
    """The network, in evaluation mode. Raises InputError naming what does not fit."""
    if "Discriminator" in net.class_name:
        embedding = net.state.get("mapping.embed.weight")     # of a conditional one longer than c_dim
        network = make_discriminator(net.init_kwargs, 0 if embedding is None else embedding.shape[-1])
    else:
        network = make_generator(net)
    load_strict(network, weights(net.state, net.where), net.where)
    return network.eval()


def weights(state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors of a published state dict that ours holds: without the fixed filters, which are checked, and what nothing reads."""
    kept = {}
    for key, value in state.items():
        if f".{key}".endswith(FIXED):
            if value.shape != (4, 4) or not value.float().allclose(fir_kernel()):
                raise InputError(f"{where}: {key}: expected the filter [1, 3, 3, 1] that sums to 1")
        elif key not in DROPPED:
            kept[key] = value.float()
    return kept


def make_generator(net: Net) -> Generator:
    """The generator of a pickled one, without its weights."""
    config = generator_config(net.init_kwargs, net.attributes.get("rendering_kwargs"), planes=_kind(net.state) != "eg3d", where=net.where)
    config = replace(config, model=_kind(net.state))
    attribute = lambda name, value: int(net.attributes[name]) if type(net.attributes.get(name)) in (int, float) else value
    config = replace(config, plane_number=attribute("n_planes_per_axis", config.plane_number), fourier_L=_power(net.state, config),
                     neural_rendering_resolution=attribute("neural_rendering_resolution", config.neural_rendering_resolution))
    if config.model == "op3d_conditional":
        from op3d.conditional import ConditionalGenerator

        return ConditionalGenerator(config, faces=_faces(net))
    return Generator(config)


def _kind(state: dict[str, Tensor]) -> str:
    if not any(".to_depth_feature." in key for key in state):
        return "eg3d"
    return "op3d_conditional" if any(key.startswith("renderer.deformation_decoder.") for key in state) else "op3d"


def _power(state: dict[str, Tensor], config: ModelConfig) -> int:
    """L, which the width of the planes' affine layers tells."""
    affine = state.get("backbone.synthesis.b4.to_depth_feature.affine.weight")
    return config.fourier_L if affine is None or affine.dim() != 2 else max((affine.shape[1] - config.w_dim - 1) // 2, 0)


def _faces(net: Net) -> Tensor | None:
    """The triangles of the body that a conditional generator's renderer keeps."""
    renderer = net.attributes.get("_modules", {}).get("renderer") or net.attributes.get("renderer")
    attributes = renderer.state if isinstance(renderer, Record) and isinstance(renderer.state, dict) else {}
    return next((value for name, value in attributes.items() if name == "face_idx" and isinstance(value, Tensor)), None)


def generator_config(init_kwargs: dict, rendering: dict | None = None, planes: bool = True, where: str = "generator") -> ModelConfig:
    """The config of a constructor's arguments and, if others, the rendering options in use, its repairs off. `planes`: of ortho-planes.

    Raises InputError naming `where` for an option that is missing or wrong.
    """
    rendering, mapping = rendering or init_kwargs.get("rendering_kwargs") or {}, init_kwargs.get("mapping_kwargs") or {}
    values = {ours: given[theirs] for given, names in ((init_kwargs, ARGUMENTS), (rendering, OPTIONS), (mapping, MAPPING))
              for theirs, ours in names.items() if given.get(theirs) is not None}
    if "sr_module" in values:
        values["sr_module"] = str(values["sr_module"]).rpartition(".")[2]
    limits = {name: None if rendering.get(name) == "auto" else rendering.get(name, "missing") for name in ("ray_start", "ray_end")}
    changed = {"model": "op3d" if planes else "eg3d", "gen_pose_cond": not rendering.get("c_gen_conditioning_zero", False),
               "conv_clamp": init_kwargs.get("conv_clamp", UNLESS_SAID["conv_clamp"])}                # None is a value
    return options.from_dict(ModelConfig, UNLESS_SAID | values | limits | changed, where)


def make_discriminator(init_kwargs: dict, label_dim: int | None = None) -> Discriminator:
    """The discriminator of a constructor's arguments; `label_dim` if its labels are longer than c_dim."""
    block, mapping, epilogue = (init_kwargs.get(f"{name}_kwargs") or {} for name in ("block", "mapping", "epilogue"))
    return Discriminator(
        init_kwargs["img_resolution"], init_kwargs.get("c_dim", LABELS) if label_dim is None else label_dim, init_kwargs.get("channel_base", 32768),
        init_kwargs.get("channel_max", 512), init_kwargs.get("num_fp16_res", 4), init_kwargs.get("conv_clamp", 256), epilogue.get("mbstd_group_size", 4),
        block.get("freeze_layers", 0), mapping.get("num_layers", 8))
