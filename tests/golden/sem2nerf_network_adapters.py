"""Adapters of Sem2NeRF's networks, codes, losses and steps: they arrange arguments for the functions and classes that train and render call."""
from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from common.cameras import pigan_cameras
from common.gan import generator_loss
from common.march import Draws
from sem2nerf.discriminator import PatchDiscriminator
from sem2nerf.losses import Weights, code_norm, discriminator_terms, generator_terms, weighted
from sem2nerf.model import ModelConfig, Sem2NeRF, as_pictures, march_options, mixed, resolve, see, see_patches, with_average, with_constants
from sem2nerf.patches import crop, whole_rays
from sem2nerf.perceptual import Lpips
from sem2nerf.pictures import encoder_input
from sem2nerf.ranger import Ranger
from sem2nerf.swin import Block, PatchEmbed, PatchMerging, SwinConfig, SwinEncoder, relative_position_index, shift_mask
from tests.golden.sem2nerf_data_adapters import drawn_pattern
from tests.golden.sof_adapters import numpy, tensors

TINY = {"embed_dim": 8, "depths": [1], "num_heads": [1], "src_input_size": 28}                 # an encoder for cases that have none


def below(params: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}


def filled(module: nn.Module, params: dict[str, Tensor], prefix: str = "") -> nn.Module:
    module.load_state_dict(with_constants(module, below(params, prefix)))
    return module.eval()


# The encoder

def swin_config(options: dict) -> SwinConfig:
    values = {field.name: options[field.name] for field in fields(SwinConfig) if field.name in options}
    return SwinConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@torch.no_grad()
def swin_blocks(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, result = tensors(params), tensors(inputs), {}
    dim, heads, window = config["dim"], config["num_heads"], config["window_size"]
    for name, variant in config["variants"].items():
        side = variant.get("input_resolution", [0])[0]
        grid = inputs["x"][:, :side * side].unflatten(1, (side, side)) if side else None
        if name == "relative_position_index":
            result[name] = relative_position_index(variant["window_size"])
        elif name == "attn_mask_windows":
            result[name] = shift_mask(side, window, variant["shift_size"])
        elif name == "attn_masked":
            mask = config["variants"]["attn_mask_windows"]
            masked = Block(dim, heads, mask["input_resolution"][0], window, mask["shift_size"], config["mlp_ratio"])
            attention = filled(masked, params, variant["prefix"].removesuffix("attn.")).attn
            result[name] = attention(inputs["x"][variant["windows"], :variant["tokens"]][None], masked.attn_mask)[0]
        elif name == "merged":
            result[name] = filled(PatchMerging(dim), params, variant["prefix"])(grid).flatten(1, 2)
        elif name == "embedded":
            embed = PatchEmbed(variant["in_chans"], variant["embed_dim"], variant["patch_size"])
            result[name] = filled(embed, params, variant["prefix"])(inputs["img"]).flatten(1, 2)
        else:
            block = Block(dim, heads, side, window, variant["shift_size"], config["mlp_ratio"])
            result[name] = filled(block, params, variant["prefix"])(grid).flatten(1, 2)
    return numpy(result)


def planes_of(inputs: dict[str, Tensor], label_nc: int) -> Tensor:
    return encoder_input(torch.stack([inputs["labels"], inputs["contour"], inputs["dist"]], dim=1), label_nc)


@torch.no_grad()
def encoder(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs = tensors(params), tensors(inputs)
    network = filled(SwinEncoder(swin_config(config)), params, "encoder.")
    planes = planes_of(inputs, config["label_nc"])
    tokens, (freq, phase) = network.features(planes), network(planes).chunk(2, dim=1)
    stages = {f"stage{i}": stage.flatten(1, 2) for i, stage in enumerate(tokens[1:])}
    return numpy({"embed": tokens[0].flatten(1, 2), "pooled": network.pooled(tokens[-1]), "freq": freq, "phase": phase} | stages)


# Codes and the decoder

def decoder(options: dict, params: dict[str, Tensor], prefix: str = "decoder.", shape: dict = TINY, planes: dict | None = None) -> Sem2NeRF:
    """A model with the drawn decoder, rendered by the options under their published names."""
    known = {field.name for field in fields(ModelConfig)}
    config = ModelConfig(**{name: value for name, value in options.items() if name in known}, **shape)
    model = Sem2NeRF(replace(resolve(config, {}), **(planes or {}))).eval()
    model.decoder.load_state_dict(below(params, prefix))
    return model


@torch.no_grad()
def decoder_points(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs = tensors(params), tensors(inputs)
    siren = decoder({"hidden_dim": config["hidden_dim"], "layers": config["layers"], "pigan_zdim": config["z_dim"]}, params).siren
    freq, phase = siren.mapping(inputs["z"])
    rows = len(inputs["d_freq"])
    scene = siren.scene(*with_average((inputs["d_freq"], inputs["d_phase"]), (freq[:rows], phase[:rows])))
    sigma, rgb = siren.field(scene, inputs["points"], inputs["dirs"])
    return numpy({"freq": freq, "phase": phase, "rgb_sigma": torch.cat([rgb, sigma], dim=-1)})


def codes_of(inputs: dict[str, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    average = inputs["avg_freq"], inputs["avg_phase"]
    return with_average((inputs["enc_freq"], inputs["enc_phase"]), average), average


def latent_mixing(config: dict, params: dict, inputs: dict) -> dict:
    inputs, result = tensors(inputs), {}
    codes, average = codes_of(inputs)
    for name, variant in config["variants"].items():
        freq, phase = mixed(codes, (inputs["inj_freq"], inputs["inj_phase"]), variant["latent_mask"] or [], config["hidden_dim"])
        if "subtract_average" in variant:
            result[name] = code_norm((freq, phase), average if variant["subtract_average"] else None)
        else:
            result[name] = freq if name.startswith("freq") else phase
    return numpy(result)


def angles_of(inputs: dict[str, Tensor]) -> Tensor:
    return torch.stack([inputs["pitch"], inputs["yaw"]], dim=-1)


def draws_of(inputs: dict[str, Tensor]) -> Draws:
    coarse = inputs["u_perturb"][..., 0]
    return Draws(coarse=coarse, fine=inputs["u_pdf"].unflatten(0, (len(coarse), -1)) if "u_pdf" in inputs else None)


def options_of(config: dict) -> dict:
    render = config["render"]
    return render | {"eval_last_back": render["last_back"], "pigan_curriculum_type": config["env"]}


def patch_of(model: Sem2NeRF, config: dict, inputs: dict[str, Tensor], codes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Pictures and pattern of a training step."""
    render = config["render"]
    grid = drawn_pattern(config, render["patch_size"], inputs)
    by = march_options(model.config, render["num_steps"], render["hierarchical_sample"], render["lock_view_dependence"], training=True)
    return see_patches(model, model.scene(codes), angles_of(inputs), grid, render["image_size"], by, draws_of(inputs)), grid


@torch.no_grad()
def render_train(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs = tensors(params), tensors(inputs)
    images, grid = patch_of(decoder(options_of(config), params), config, inputs, codes_of(inputs)[0])
    return numpy({"images": images, "pattern": grid})


@torch.no_grad()
def render_infer(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, render = tensors(params), tensors(inputs), config["render"]
    model, side = decoder(options_of(config), params), render["image_size"]
    codes = mixed(codes_of(inputs)[0], model.siren.mapping(inputs["inject_z"]), config["latent_mask"] or [], model.config.hidden_dim)
    rays = whole_rays(pigan_cameras(angles_of(inputs), model.config.fov, side).move(torch.float32), side)
    by = march_options(model.config, render["num_steps"], render["hierarchical_sample"], render["lock_view_dependence"])
    seen = see(model, model.scene(codes), *rays, by, draws_of(inputs))
    return numpy({"images": as_pictures(seen["colors"], side), "depth": seen["depth_sum"].unflatten(1, (side, side))})


# Losses

def lpips_network(params: dict[str, Tensor], prefix: str = "lpips.") -> Lpips:
    renamed = {key.replace("net.layers.", "net.").replace(".1.weight", ".weight") if key.startswith("lin") else key.replace("net.layers.", "net."): value
               for key, value in below(params, prefix).items()}
    return filled(Lpips(), renamed)


def lpips(config: dict, params: dict, inputs: dict) -> dict:
    network = lpips_network(tensors(params))
    x, y = (torch.from_numpy(inputs[name]) / 127.5 - 1 for name in ("x", "y"))
    x.requires_grad_()
    loss = network(x, y).mean()
    grad, = torch.autograd.grad(loss, x)
    norms = torch.stack([features.abs().mean() for features in network.features(x)])
    return numpy({"loss": loss, "grad": grad, "grad_norm": grad.norm(), "per_layer": network.layers(x, y).mean(0), "feat_norms": norms})


def discriminator(config: dict, params: dict, inputs: dict) -> dict:
    inputs, conditional = tensors(inputs), config["use_cond_dis"]
    network = filled(PatchDiscriminator(config["img_size"], 3 + config["input_nc"] * conditional, config["ndf"]), tensors(params)).train()
    fake, real = (inputs[name] / 127.5 - 1 for name in ("fake", "real"))
    planes = encoder_input(inputs["label"][:, None], config["input_nc"]) if conditional else None
    logits = []
    network.register_forward_hook(lambda module, seen, result: logits.append(result[..., None, None]))
    loss_g = generator_loss(network(network.view(fake.requires_grad_(), planes)))
    grad_fake, = torch.autograd.grad(loss_g, fake)
    terms = discriminator_terms(network, real, fake, planes)
    total = config["dis_lambda"] * sum(terms.values())
    total.backward()
    parameters = dict(network.named_parameters())
    after = {f"after.{key}": value.clone() for key, value in network.state_dict().items() if key.endswith("weight_u")}
    with torch.no_grad():
        network.eval()(network.view(real, planes))
    names = dict(zip(("g_logits", "d_real_logits", "d_fake_logits", "eval_logits"), logits))
    return numpy(names | after | {
        "loss_g": loss_g, "grad_fake": grad_fake, "d_loss_real": terms["D/real"], "d_loss_fake": terms["D/fake"], "d_loss_reg": terms["D/r1"],
        "d_total": total, "grad_norms": torch.stack([parameters[key].grad.norm() for key in config["grad_order"]])})


def ranger(config: dict, params: dict, inputs: dict) -> dict:
    inputs = tensors(inputs)
    names = [name for name in inputs if name.startswith("p")]
    parameters = [nn.Parameter(inputs[name].clone()) for name in names]
    optimizer = Ranger(parameters, config["lr"], config["alpha"], config["k"], tuple(config["betas"]), config["eps"])
    result = {name: [] for name in names}
    for step in range(config["steps"]):
        for name, parameter in zip(names, parameters):
            parameter.grad = inputs[f"g{name[1:]}"][step]
        optimizer.step()
        for name, parameter in zip(names, parameters):
            result[name].append(parameter.detach().clone())
    return numpy({name: torch.stack(values) for name, values in result.items()})


# A training step

def stepped(config: dict, params: dict[str, Tensor], inputs: dict[str, Tensor]) -> tuple[Sem2NeRF, dict[str, Tensor], dict[str, Tensor], Tensor]:
    """The model, its terms, the same weighted, and the pictures."""
    prefixes, shape = config["key_prefixes"], config["encoder"]
    encoder_shape = {"embed_dim": shape["embed_dim"], "depths": shape["depths"], "num_heads": shape["num_heads"], "window_size": shape["window_size"],
                     "src_input_size": shape["img_size"]}
    model = decoder(options_of(config), params, prefixes["decoder"], encoder_shape, {"label_nc": shape["label_nc"], "input_nc": shape["in_chans"]})
    filled(model.encoder, params, prefixes["encoder"])
    model.latent_avg.copy_(torch.cat([inputs["avg_freq"], inputs["avg_phase"]]))
    weights = Weights(**{field.name: config[field.name] for field in fields(Weights)})
    planes = planes_of(inputs, shape["label_nc"])
    codes = model.codes(planes)
    images, grid = patch_of(model, config, inputs, codes)
    critic = None
    if weights.dis_lambda:
        critic = PatchDiscriminator(config["discriminator_size"], 3 + planes.shape[1] * config["use_cond_dis"])
        critic = filled(critic, params, prefixes["discriminator"]).train()
    targets, posed = crop(inputs["target"] / 127.5 - 1, grid), torch.tensor([not config["random_pose"]]).expand(len(images))
    network = lpips_network(params, prefixes["lpips"]) if weights.lpips_lambda else None
    terms = generator_terms(images, targets, codes, model.average, weights, network, critic, planes if config["use_cond_dis"] else None, posed)
    return model, terms, weighted(terms, weights), images


def train_step(config: dict, params: dict, inputs: dict) -> dict:
    _, terms, losses, images = stepped(config, tensors(params), tensors(inputs))
    return numpy({"loss": sum(losses.values()), "terms": torch.stack([terms[name] for name in config["terms"]]), "images": images})


def train_step_grad(config: dict, params: dict, inputs: dict) -> dict:
    model, _, losses, _ = stepped(config, tensors(params), tensors(inputs))
    sum(losses.values()).backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = torch.stack([grads[name].norm() for name in config["grad_order"]])
    return numpy({"grad_norms": norms, "grad_head_bias": grads["encoder.head.bias"], "grad_embed": grads["encoder.patch_embed.proj.weight"]})


ADAPTERS = {
    "sem2nerf.swin_blocks": swin_blocks, "sem2nerf.encoder": encoder, "sem2nerf.decoder_points": decoder_points, "sem2nerf.latent_mixing": latent_mixing,
    "sem2nerf.render_train": render_train, "sem2nerf.render_infer": render_infer, "sem2nerf.lpips": lpips, "sem2nerf.discriminator": discriminator,
    "sem2nerf.ranger": ranger, "sem2nerf.train_step": train_step, "sem2nerf.train_step_grad": train_step_grad,
}
