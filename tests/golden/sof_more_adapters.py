"""Adapters of the golden kinds of SOF's variants: they arrange arguments for the functions that train and render call."""
from __future__ import annotations

from dataclasses import replace

import torch

from common.rays import z_depth
from sof.cameras import pixel_centers, sof_cameras
from sof.model import SOF, published_config
from sof.renderers import Deepvoxels, ImAE, halvings
from tests.golden.sof_adapters import filled, numpy, tensors


@torch.no_grad()
def alternatives(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs = tensors(params), tensors(inputs)
    unet, srn = config["deepvoxels"], config["srn"]
    imae = filled(ImAE(config["imae"]["in_dim"], config["imae"]["out_dim"], published=True), params, "imae.")
    deepvoxels = Deepvoxels(unet["in_channels"], unet["out_channels"], halvings(unet["input_resolution"])).eval()
    counters = {f"deepvoxels.{key}": value for key, value in deepvoxels.state_dict().items() if key.endswith("num_batches_tracked")}
    filled(deepvoxels, params | counters, "deepvoxels.")
    state = {key.removeprefix("srn."): value for key, value in params.items() if key.startswith("srn.")}
    model = filled(SOF(replace(published_config(state, "srn"), tracing_steps=srn["tracing_steps"]), srn["num_instances"]), state)
    side = int(inputs["uv"].shape[1] ** 0.5)
    cameras = sof_cameras(inputs["cam2world"], inputs["intrinsics"], side, False)
    points, colors = model.trace(model.scene_of(inputs["instance_idx"]), *model.rays(cameras, pixel_centers(inputs["uv"].float(), side)))
    return numpy({
        "imae": imae(inputs["features"], inputs["points"]),
        "deepvoxels": deepvoxels(inputs["features"]),
        "srn_rgb": colors,
        "srn_depth": z_depth(cameras, points),
    })


ADAPTERS = {"sof.alternatives": alternatives}
