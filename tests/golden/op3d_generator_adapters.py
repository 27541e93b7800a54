"""Adapters of op3d's rays, planes and whole generators: they arrange arguments for the functions that train, render and eval call."""
from __future__ import annotations

import torch
from torch import Tensor

from common.cameras import from_eg3d_label
from common.layers.planes import EG3D_AXES, orthoplane_taps, read, scales, triplane_taps
from common.rays import importance
from op3d.march import clamped, composite, fine_depths, merged, ordered, stratified
from op3d.model import Decoder, Draws, Generator
from op3d.published import build, generator_config, read_nets
from tests.golden.op3d_layers_adapters import filled
from tests.golden.sof_adapters import numpy, tensors


@torch.no_grad()
def planes(config: dict, params: dict, inputs: dict) -> dict:
    inputs, result = tensors(inputs), {}
    decoder = filled(Decoder(), tensors(params), "decoder.")
    for name, variant in config["variants"].items():
        values, points, box = inputs[variant["planes"]], inputs[variant["points"]], variant["box_warp"]
        eg3d = variant["sampling"] == "eg3d"
        taps = triplane_taps(points, values.shape, 2 / box, EG3D_AXES) if eg3d else orthoplane_taps(points, values.shape, scales(box, published=True))
        result[f"{name}.feat"] = read(values, taps, mean=False)
        if not eg3d:
            result[f"{name}.sigma"], result[f"{name}.rgb"] = decoder(read(values, taps))
    return numpy(result)


@torch.no_grad()
def marching(config: dict, params: dict, inputs: dict) -> dict:
    inputs, result = tensors(inputs), {}
    depths, densities = inputs["depth"][..., 0], inputs["sigma"][..., 0]
    jitter, uniforms = inputs["jitter"][..., 0], inputs["u"].view(*depths.shape[:2], -1)
    for name, variant in config["variants"].items():
        if "white_back" in variant:
            seen = composite(inputs["color"], densities, depths, variant["white_back"])
            depth = clamped(seen["depth"], depths, depths)
            result |= {f"{name}.rgb": seen["colors"], f"{name}.depth": depth[..., None], f"{name}.weights": seen["weights"][..., None]}
        elif "near" in variant:
            ends = variant["near"], variant["far"]
            limits = (inputs[end][..., 0] if isinstance(end, str) else torch.full(jitter.shape[:2], float(end)) for end in ends)
            result[name] = stratified(*limits, variant["samples"], jitter, variant["disparity_space_sampling"])[..., None]
        elif variant.get("deterministic"):
            u = torch.linspace(0, 1, variant["samples"]).expand(len(inputs["bins"]), -1)
            result[name] = importance(inputs["bins"], inputs["pdf_weights"], u)
        else:
            result[name] = fine_depths(depths, inputs["weights"][..., 0], variant["samples"], uniforms)[..., None]
    both, order = merged(depths, inputs["depth2"][..., 0])
    unified = {"depth": both[..., None], "color": ordered(inputs["color"], inputs["color2"], order), "sigma": ordered(inputs["sigma"], inputs["sigma2"], order)}
    return numpy(result | {f"unified_{name}": value for name, value in unified.items()})


def draws(inputs: dict, scenes: int, side: int, coarse: int, fine: int) -> Draws:
    rays = (scenes, side**2)
    u_coarse = inputs["u_coarse"] if inputs["u_coarse"].dim() == 0 else inputs["u_coarse"][..., 0]
    u_fine = inputs["u_fine"] if inputs["u_fine"].dim() < 2 else inputs["u_fine"].view(*rays, fine)
    return Draws(u_coarse.expand(*rays, coarse), u_fine.expand(*rays, fine))


def synthesis(model: Generator, inputs: dict, ws: Tensor, side: int, noise: str) -> tuple:
    """The scene and the pictures of codes."""
    scene, options = model.scene(ws, noise), model.config
    given = draws(inputs, len(ws), side, options.depth_resolution, options.depth_resolution_importance)
    return scene, model.pictures(scene, from_eg3d_label(inputs["label"]), side, given)


@torch.no_grad()
def generator(config: dict, params: dict, inputs: dict) -> dict:
    inputs, ortho = tensors(inputs), any("to_depth_feature" in key for key in params)
    model = filled(Generator(generator_config(config["init_kwargs"], planes=ortho)), tensors(params))
    ws = model.codes(inputs["z"], inputs["label"], config["truncation_psi"], config["truncation_cutoff"])
    scene, pictures = synthesis(model, inputs, ws, config["neural_rendering_resolution"], config["noise_mode"])
    result = {"ws": ws, "planes": scene.planes if ortho else scene.planes[:, 0]} | {name: pictures[name] for name in ("image", "image_raw", "image_depth")}
    if "points" in inputs:
        result["sample_sigma"], result["sample_rgb"] = model.field(scene, inputs["points"])
        if ortho:
            result["sample_mixed_sigma"] = model.field(model.scene(ws, config["noise_mode"], mixed=True), inputs["points"])[0]
    return numpy(result)


@torch.no_grad()
def pkl(config: dict, params: dict, inputs: dict) -> dict:
    inputs, nets = tensors(inputs), read_nets(config["file"])
    sums = {}
    for name in config["nets"]:
        values = [nets[name].state[key].double() for key in config[f"{name}_keys"]]
        sums[f"{name}_sums"] = torch.tensor([[value.sum(), value.abs().sum()] for value in values])
    built = {name: build(nets[name]) for name in config["nets"]}
    model = built["G_ema"]
    side = model.config.neural_rendering_resolution
    ws = model.codes(inputs["z"], inputs["label"], config["truncation_psi"], config["truncation_cutoff"])
    _, pictures = synthesis(model, inputs, ws, side, config["noise_mode"])
    scalars = {"neural_rendering_resolution": side, "n_planes_per_axis": model.config.plane_number, "L": model.config.fourier_L}
    return numpy(sums | scalars | {"ws": ws} | {name: pictures[name] for name in ("image", "image_raw", "image_depth")})


ADAPTERS = {"op3d.orthoplane_sampling": planes, "op3d.ray_marching": marching, "op3d.generator": generator, "op3d.eg3d_generator": generator, "op3d.pkl": pkl}
