"""Adapters of the golden kinds of Geo-PIFu's networks: they arrange arguments for the functions and classes that train and reconstruct call."""
from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn

from geopifu.hourglass import ConvBlock, HGFilter, HourGlass
from geopifu.losses import coarse_backward, iou_precision_recall, occupancy_loss
from geopifu.model import REPAIRS, ModelConfig, PIFu
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


def vnet_train_loss(config: dict, params: dict, inputs: dict) -> dict:
    network, inputs = vnet_of(config, params), tensors(inputs)
    labels = inputs["labels"].float()
    loss, occupancy = coarse_backward(network, inputs["image"], labels, config["weight_occu"])
    parameters = dict(network.named_parameters(remove_duplicate=False))
    norms = torch.stack([parameters[key].grad.norm() for key in config["grad_keys"]])
    return numpy({"loss": loss, "grad_norm": norms, "occ": occupancy, "iou_prec_recall": iou_precision_recall(occupancy, labels)})


def pifu(config: dict, params: dict, inputs: dict) -> dict:
    names = {field.name for field in fields(ModelConfig)} & config.keys()
    sizes = {name: config[name] for name in names} | {"deepVoxels_fusion": config["fusion"]}
    network, inputs = filled(PIFu(ModelConfig(**sizes, **dict.fromkeys(REPAIRS, True))), tensors(params)), tensors(inputs)
    given = inputs["image"], inputs["calibs"], inputs.get("deepVoxels")
    predictions = network.train().predict(network.scene(*given), inputs["points"][:1])
    loss = occupancy_loss(predictions, inputs["labels"].float(), config["occupancy_loss_type"])
    result = {"loss": loss, "preds_train": torch.stack(predictions)}
    if "grad_keys" in config:
        loss.backward()
        parameters = dict(network.named_parameters(remove_duplicate=False))
        result["grad_norm"] = torch.stack([parameters[key].grad.norm() for key in config["grad_keys"]])
    with torch.no_grad():
        predictions = network.eval().predict(network.scene(*given), inputs["points"][:1])
    return numpy(result | {"preds_eval": predictions[-1], "n_eval_lists": np.array(len(predictions))})


ADAPTERS = {"geopifu.blocks": blocks, "geopifu.hgfilter": hgfilter, "geopifu.unet3d": unet3d, "geopifu.vnet": vnet,
            "geopifu.vnet_train_loss": vnet_train_loss, "geopifu.pifu": pifu, "geopifu.geopifu": pifu}
