"""Adapters of the golden kinds of Geo-PIFu's networks: they arrange arguments for the functions and classes that train and reconstruct call."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from geopifu.hourglass import ConvBlock, HGFilter, HourGlass
from geopifu.vnet import Unet3D, VNet
from tests.golden.sof_adapters import numpy, tensors


def filled(module: nn.Module, params: dict[str, Tensor], prefix: str = "") -> nn.Module:
    """The module with these weights; what the cases leave out, counters and constants, stays as it is made."""
    given = {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}
    left_out = {key: value for key, value in module.state_dict().items() if key.endswith(("num_batches_tracked", "displacments"))}
    module.load_state_dict(left_out | given)
    return module


def blocks(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, results = tensors(params), tensors(inputs), {}
    for name, variant in config["variants"].items():
        if "channels" in variant:
            module = ConvBlock(*variant["channels"], config["norm"])
        else:
            module = HourGlass(config["hourglass_depth"], config["features"], config["norm"], variant["upsample_mode"])
        results[name] = filled(module, params, variant["prefix"]).eval()(inputs[variant["input"]])
    return numpy(results)


def hgfilter(config: dict, params: dict, inputs: dict) -> dict:
    sizes = {name: config[name] for name in ("num_stack", "num_hourglass", "hourglass_dim", "norm", "hg_down", "upsample_mode")}
    network = filled(HGFilter(**sizes), tensors(params)).eval()
    stacks, tmpx, normx = network(tensors(inputs)["image"])
    return numpy({f"stack{i}": stack for i, stack in enumerate(stacks)} | {"tmpx": tmpx, "normx": normx})


def unet3d(config: dict, params: dict, inputs: dict) -> dict:
    network, x, results = filled(Unet3D(config["c_in"], config["c_out"]), tensors(params)), tensors(inputs)["x"], {}
    for mode in config["order"]:
        results[mode] = network.train(mode == "train")(x)
    layer = network.get_submodule(config["running_stats_key"])
    return numpy(results | {"running_mean_after": layer.running_mean, "running_var_after": layer.running_var})


def vnet_of(config: dict, params: dict) -> VNet:
    names = ("vrn_num_modules", "num_hourglass", "norm", "upsample_mode", "vrn_net_input_height", "vrn_net_input_width")
    network = VNet(**{name: config[name] for name in names}, published_pixels=True, published_voxels=True)
    return filled(network, tensors(params)).train(config["mode"] == "train")


@torch.no_grad()
def vnet(config: dict, params: dict, inputs: dict) -> dict:
    network, image = vnet_of(config, params), tensors(inputs)["image"]
    latents = network.latents(image)[-1]
    occupancy = network.occupancy(latents)
    return numpy({"cropped": network.cropped(image), "deepVoxels": latents, "occ": occupancy, "occ_mean": occupancy.double().mean()})


ADAPTERS = {"geopifu.blocks": blocks, "geopifu.hgfilter": hgfilter, "geopifu.unet3d": unet3d, "geopifu.vnet": vnet}
