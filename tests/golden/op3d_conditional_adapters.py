"""Adapters of op3d's conditional kinds: they arrange arguments for the functions that train, render and eval call."""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from common.cameras import from_eg3d_label
from common.layers.planes import orthoplane_taps, read
from op3d.bodies import Body, Condition
from op3d.conditional import BodyScene, ConditionalGenerator, composite_at
from op3d.march import clamped
from op3d.model import ModelConfig
from op3d.published import generator_config, make_discriminator
from op3d.superresolution import resized
from tests.golden.op3d_generator_adapters import draws
from tests.golden.op3d_layers_adapters import filled
from tests.golden.sof_adapters import numpy, tensors


def condition(inputs: dict) -> Condition:
    return Condition(**{name.removeprefix("cond_"): value for name, value in inputs.items() if name.startswith("cond_")})


def sizes(inputs: dict) -> dict:
    return {"body_joints": inputs["cond_full_pose"].shape[1], "body_shapes": inputs["cond_body_shape"].shape[1]}


@torch.no_grad()
def generator(config: dict, params: dict, inputs: dict) -> dict:
    inputs = tensors(inputs)
    options = replace(generator_config(config["init_kwargs"]), model="op3d_conditional", **sizes(inputs))
    model = filled(ConditionalGenerator(options, inputs["faces"]), tensors(params))
    ws = model.codes(inputs["z"], inputs["label"], config["truncation_psi"], config["truncation_cutoff"])
    scene = model.scene(ws, config["noise_mode"], body=Body.of(condition(inputs), model.faces))
    side = config["neural_rendering_resolution"]
    given = draws(inputs, len(ws), side, options.depth_resolution, options.depth_resolution_importance)
    seen = model.pictures(scene, from_eg3d_label(inputs["label"]), side, given)
    result = {name: seen[name] for name in ("image", "image_raw", "image_depth", "features")}
    coarse, fine = seen["moves"].split([options.depth_resolution, options.depth_resolution_importance], dim=2)
    result |= {"sdf": seen["sdf"][..., None], "sdf_zero": seen["sdf_zero"][..., None], "delta_x": torch.cat([coarse.flatten(1, 2), fine.flatten(1, 2)], dim=1)}
    return numpy(result | {"sample_density": model.field(scene, inputs["points"])[0]})


def blocks(config: dict, params: dict, inputs: dict) -> dict:
    inputs, params = tensors(inputs), tensors(params)
    volume, grid = inputs["volume"], inputs["grid"]
    planes = volume.transpose(1, 2).repeat(1, 1, 3, 1, 1)                          # one volume as all three groups
    taps = orthoplane_taps(grid.flatten(1, 3), planes.shape, (1, 1, 1), border=True)
    result = {"grid_sample_3d": read(planes, taps, mean=False)[:, 0].transpose(1, 2).unflatten(2, grid.shape[1:4])}
    model = blocks_generator(config, params, inputs)
    body = Body.of(condition(inputs), model.faces)
    densities, depths = model.density_func(inputs["sdf"]), inputs["depth"][..., 0]
    seen = composite_at(inputs["color"], densities[..., 0], depths)
    result |= {"density": densities, "march_rgb": seen["colors"], "march_depth": clamped(seen["depth"], depths, depths)[..., None],
               "march_weights": seen["weights"][..., None], "cano": body.canonical(inputs["x"]), "sdf": body.squared_distance(inputs["x"])}
    result["delta_x"] = model.renderer.deformation_decoder(inputs["x"], model.films(inputs["w"], body))
    asked, gradient = model.eikonal(BodyScene(inputs["planes"], inputs["w"][:, None], body, model.films(inputs["w"], body)), inputs["world"])
    result |= {"run_rgb": asked.features, "run_sigma": asked.network, "run_sdf": asked.mesh, "run_grad": gradient, "run_delta_x": asked.moves}
    return numpy(result | {"D_logits": logits(config, params, inputs)})


def blocks_generator(config: dict, params: dict[str, Tensor], inputs: dict) -> ConditionalGenerator:
    """A generator of which only what is in `params` counts."""
    options = ModelConfig(model="op3d_conditional", box_warp=config["variants"]["run"]["box_warp"], sr_module="none", plane_side=4, cmax=4, map_depth=1,
                          w_dim=inputs["w"].shape[1], **sizes(inputs))
    model = ConditionalGenerator(options, inputs["faces"]).eval()
    own = {key: value for key, value in params.items() if key.startswith(("renderer.", "density_func.", "decoder."))}
    model.load_state_dict(model.state_dict() | own)
    return model


@torch.no_grad()
def logits(config: dict, params: dict[str, Tensor], inputs: dict) -> Tensor:
    variant, label = config["variants"]["D_logits"], condition(inputs).label(inputs["label"])
    network = filled(make_discriminator(variant["init_kwargs"], label.shape[1]), params, variant["key_prefix"])
    resize = config["resize"]["image"]
    return network(resized(inputs[resize["input"]], resize["size"], antialias=False), inputs["raw_lr"], label)


ADAPTERS = {"op3d.conditional_generator": generator, "op3d.conditional_blocks": blocks}
