"""Adapters of op3d's StyleGAN2 kinds: they arrange arguments for the layers that the networks are made of."""
from __future__ import annotations

import torch
from torch import Tensor

from common.layers.fir import downsample2d, filter2d, fir_kernel, upfirdn2d, upsample2d
from common.layers.stylegan2 import ConvLayer, EqualLinear, Mapping, MappingShape, bias_act, conv2d_resample, modulated_conv2d, unit_second_moment
from common.layers.stylegan2_blocks import DiscriminatorBlock, Epilogue, SynthesisBlock, SynthesisLayer, ToRgb, minibatch_std
from op3d.backbone import OrthoBlock
from op3d.discriminator import filtered_resizing
from op3d.published import make_discriminator, weights
from op3d.superresolution import SuperResolution, resized
from tests.golden.sof_adapters import numpy, tensors

RESAMPLERS = {"upfirdn2d": upfirdn2d, "filter2d": filter2d, "upsample2d": upsample2d, "downsample2d": downsample2d}
def block(o: dict, up: bool = True) -> SynthesisBlock:
    return SynthesisBlock(o["in_channels"], o["out_channels"], o["w_dim"], o["resolution"], o["img_channels"], o["is_last"], o.get("architecture", "skip"),
                          o.get("conv_clamp"), up=up)


LAYERS = {
    "FullyConnectedLayer": lambda o: EqualLinear(o["in_features"], o["out_features"], o.get("bias_init", 0), o.get("lr_multiplier", 1),
                                                 o.get("activation", "linear")),
    "Conv2dLayer": lambda o: ConvLayer(o["in_channels"], o["out_channels"], o["kernel_size"], o.get("bias", True), o.get("activation", "linear"),
                                       o.get("up", 1), o.get("down", 1), o.get("conv_clamp")),
    "SynthesisLayer": lambda o: SynthesisLayer(o["in_channels"], o["out_channels"], o["w_dim"], o["resolution"], o.get("up", 1), o.get("conv_clamp"),
                                               o.get("activation", "lrelu")),
    "ToRGBLayer": lambda o: ToRgb(o["in_channels"], o["out_channels"], o["w_dim"], o.get("conv_clamp")),
    "DiscriminatorBlock": lambda o: DiscriminatorBlock(o["in_channels"], o["tmp_channels"], o["out_channels"], o["img_channels"],
                                                       o.get("architecture", "resnet"), o.get("conv_clamp")),
    "DiscriminatorEpilogue": lambda o: Epilogue(o["in_channels"], o["cmap_dim"], o["resolution"], o["img_channels"], o.get("architecture", "resnet"),
                                                o.get("mbstd_group_size", 4), o.get("mbstd_num_channels", 1), o.get("conv_clamp"),
                                                o.get("activation", "lrelu")),
    "SynthesisBlock": block,
    "SynthesisBlockNoUp": lambda o: block(o, up=False),
    "orthoplane SynthesisBlock": lambda o: OrthoBlock(o["in_channels"], o["out_channels"], o["w_dim"], o["w_coordinate_dim"], o["resolution"],
                                                      o["img_channels"], o.get("conv_clamp")),
}


def filled(module: torch.nn.Module, params: dict[str, Tensor], prefix: str = "") -> torch.nn.Module:
    """The module with the published parameters of that prefix, in evaluation mode."""
    module.load_state_dict(weights({key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}, prefix))
    return module.eval()


def kernels(options: dict, inputs: dict) -> Tensor:
    taps = inputs[options["input"]] if "input" in options else options["taps"]
    return fir_kernel(taps, options.get("gain", 1), options.get("separable"), options.get("normalize", True), options.get("flip_filter", False))


def resample(config: dict, params: dict, inputs: dict) -> dict:
    inputs = tensors(inputs)
    filters, result = {name: kernels(options, inputs) for name, options in config["filters"].items()} | {None: None}, {}
    for name, call in config["calls"].items():
        how = {key: value for key, value in call.items() if key not in ("fn", "f", "flip_filter")}
        result[name] = RESAMPLERS[call["fn"]](inputs["x"], filters[call["f"]], flip=call.get("flip_filter", False), **how)
    return numpy(result | {name: kernels(options, inputs) for name, options in config["variants"].items()})


def activations(config: dict, params: dict, inputs: dict) -> dict:
    inputs, result = tensors(inputs), {}
    for name, call in config["calls"].items():
        dim = call.get("dim", 1)
        bias = None if call.get("nobias") else inputs["b" if dim == 1 else f"b_dim{dim}"]
        result[name] = bias_act(inputs["x"], bias, call["act"], call.get("gain"), call.get("clamp"), dim, call.get("alpha"))
    return numpy(result)


def convolutions(config: dict, params: dict, inputs: dict) -> dict:
    inputs, kernel, result = tensors(inputs), fir_kernel(config["filter_taps"]), {}
    for name, call in config["calls"].items():
        how = {key: value for key, value in call.items() if key not in ("w", "flip_filter")}
        result[name] = conv2d_resample(inputs["x"], inputs[call["w"]], kernel, flip_kernel=call.get("flip_filter", False), **how)
    return numpy(result)


def modulated(config: dict, params: dict, inputs: dict) -> dict:
    inputs, kernel, result = tensors(inputs), fir_kernel(config["filter_taps"]), {}
    for name, call in config["calls"].items():
        result[name] = modulated_conv2d(
            inputs["x"], inputs[call["w"]], inputs["styles"], inputs.get(call.get("noise")), call.get("up", 1), call.get("padding", 0), kernel,
            call.get("demodulate", True), call.get("flip_weight", True), call.get("fused_modconv", True))
    return numpy(result | {"normalize_2nd_moment": unit_second_moment(inputs["styles"], dim=1)})


@torch.no_grad()
def layers(config: dict, params: dict, inputs: dict) -> dict:
    inputs, params, result = tensors(inputs), tensors(params), {}
    for name, variant in config["variants"].items():
        options = config["layers"][variant["layer"]]
        args = {key: inputs[value] for key, value in variant["args"].items()}
        if options["class"] == "MinibatchStdLayer":
            outputs = minibatch_std(args["x"], options["group_size"], options["num_channels"])
        else:
            layer = filled(LAYERS[options["class"]](options), params, f"{variant['layer']}.")
            outputs = called(layer, args, variant)
        names = variant.get("outputs", [name])
        result |= {key: value for key, value in zip(names, outputs if isinstance(outputs, tuple) else (outputs,)) if key is not None}
    return numpy(result)


def called(layer: torch.nn.Module, args: dict, variant: dict) -> Tensor | tuple:
    how = {"noise": variant["noise_mode"]} if "noise_mode" in variant else {}
    if isinstance(layer, EqualLinear):
        return layer(args["x"])
    if isinstance(layer, ConvLayer):
        return layer(args["x"], variant.get("gain", 1))
    if isinstance(layer, SynthesisLayer | ToRgb):
        return layer(args["x"], args["w"], fused=variant.get("fused_modconv"), **how)
    if isinstance(layer, DiscriminatorBlock):
        return layer(args.get("x"), args.get("img"))
    if isinstance(layer, Epilogue):
        return layer(args["x"], args.get("img"), args.get("cmap"))
    if isinstance(layer, OrthoBlock):
        coordinates = args["ws_coordinates"] if args["ws_coordinates"].dim() == 3 else args["ws_coordinates"][:, :, 0]
        planes = args["img"].unflatten(0, (len(coordinates), -1)).flatten(1, 2)
        x, planes = layer(args["x"], planes, args["ws"], coordinates, **how)
        return x, planes.unflatten(1, (coordinates.shape[1], -1)).flatten(0, 1)
    return layer(args.get("x"), args.get("img"), args["ws"], **how)


@torch.no_grad()
def mapping(config: dict, params: dict, inputs: dict) -> dict:
    inputs, result = tensors(inputs), {}
    shape = MappingShape(config["z_dim"], config["c_dim"], config["w_dim"], config["num_layers"], config.get("embed_features") or 0,
                         config.get("layer_features") or 0, config.get("lr_multiplier", 0.01))
    network = filled(Mapping(shape), tensors(params), config["key_prefix"])
    for name, variant in config["variants"].items():
        labels = torch.zeros_like(inputs["label"]) if variant.get("zero_label") else inputs["label"]
        w = network(inputs["z"], labels)
        if variant.get("update_emas"):
            network.track(w, config["w_avg_beta"])
            result[name] = network.w_avg
        else:
            result[name] = network.truncated(w, config["num_ws"], variant["truncation_psi"], variant["truncation_cutoff"])
    return numpy(result)


@torch.no_grad()
def superresolution(config: dict, params: dict, inputs: dict) -> dict:
    inputs, params, result = tensors(inputs), tensors(params), {}
    for name, variant in config["variants"].items():
        network = filled(SuperResolution(variant["module"], config["sr_num_fp16_res"] > 0, config["sr_antialias"]), params, variant["key_prefix"])
        x = inputs[variant["input"]]
        picture = network(x[:, :3], x, inputs["ws"], variant["noise_mode"])
        result[name] = picture.mean(dim=(2, 3)) if "reduce" in variant else picture
    return numpy(result)


@torch.no_grad()
def discriminator(config: dict, params: dict, inputs: dict) -> dict:
    inputs = tensors(inputs)
    network = filled(make_discriminator(config["init_kwargs"]), tensors(params))
    image, raw = (resized(inputs[config["resize"][name]["input"]], config["resize"][name]["size"], antialias=False) for name in ("image", "image_raw"))
    result = {name: filtered_resizing(inputs[variant["input"]], variant["size"], fir_kernel(variant["filter_taps"]), variant["mode"])
              for name, variant in config["variants"].items()}
    first = f"b{config['init_kwargs']['img_resolution']}"
    return numpy(result | {"logits": network(image, raw, inputs["label"]), "cmap": network.mapping(None, inputs["label"]),
                           first: network.blocks[0](None, network.seen(image, raw))[0]})


ADAPTERS = {
    "op3d.upfirdn2d": resample, "op3d.bias_act": activations, "op3d.conv2d_resample": convolutions, "op3d.modulated_conv2d": modulated,
    "op3d.stylegan2_layers": layers, "op3d.mapping_network": mapping, "op3d.superresolution": superresolution, "op3d.discriminator": discriminator,
}
