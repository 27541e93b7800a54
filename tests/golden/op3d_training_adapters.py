"""Adapters of op3d's losses and schedules: they arrange arguments for the functions that train calls."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from op3d.losses import LossConfig, density_terms, discriminator_terms, fake, generator_terms, moment, r1_terms, real, swapped
from op3d.model import Generator
from op3d.published import generator_config, make_discriminator
from op3d.schedules import blur_kernel, ema_beta, lazy, next_probability
from op3d.superresolution import resized
from tests.golden.op3d_generator_adapters import draws
from tests.golden.op3d_layers_adapters import filled
from tests.golden.sof_adapters import numpy, tensors

NAMES = {"r1_gamma": "gamma"}


def loss_config(kwargs: dict, rendering: dict) -> LossConfig:
    given = {NAMES.get(name, name): value for name, value in kwargs.items()} | {name: rendering[name] for name in rendering if name.startswith("density_reg")}
    given |= {"reg_type": rendering.get("reg_type", "l1")}
    return LossConfig(**{name: value for name, value in given.items() if name in LossConfig.__dataclass_fields__})


def losses(config: dict, params: dict, inputs: dict) -> dict:
    inputs, params, result = tensors(inputs), tensors(params), {}
    options = config["G_init_kwargs"]
    loss = loss_config(config["loss_kwargs"], options["rendering_kwargs"])
    now = moment(loss, config["cur_nimg"])
    for phase in config["phases"]:
        prefix = config.get("D_prefix", "D.")
        G = filled(Generator(generator_config(options)), {key: value for key, value in params.items() if not key.startswith(prefix)}).train()
        D = filled(make_discriminator(config["D_init_kwargs"]), params, prefix).train()
        terms, objective = PHASES[phase](G, D, inputs, config, loss, now)
        (objective.mean() * config[f"{phase}_gain"]).backward()
        if phase == "Dmain":
            terms["w_avg_after"] = G.backbone.mapping.w_avg
        terms |= {name.replace("scores", "signs"): value.sign() for name, value in terms.items() if name.startswith("scores")}
        terms |= gradients({**dict(G.named_parameters()), **{f"{prefix}{name}": value for name, value in D.named_parameters()}}, config[f"{phase}_keys"])
        result |= {f"{phase}.{name}": value for name, value in terms.items()}
    return numpy(result)


def gradients(parameters: dict[str, nn.Parameter], keys: list[str]) -> dict[str, Tensor]:
    grads = [torch.zeros(()) if parameters[key].grad is None else parameters[key].grad.double() for key in keys]
    return {"grad_norm": torch.tensor([float(grad.norm()) for grad in grads]), "grad_sum": torch.tensor([float(grad.sum()) for grad in grads])}


def fakes(G: Generator, inputs: dict, now, track: bool = False):
    given = draws(inputs, len(inputs["gen_z"]), now.side, G.config.depth_resolution, G.config.depth_resolution_importance)
    return fake(G, inputs["gen_z"], swapped(inputs["gen_c"], inputs["swap"], now.swap), inputs["gen_c"], now, given, "none", track)


def reals(inputs: dict, config: dict, loss: LossConfig, now):
    how = config["resize"]["real"]
    return real(resized(inputs[how["input"]], how["size"], antialias=False), now, loss.filter_mode)


def Gmain(G, D, inputs, config, loss, now):
    terms = generator_terms(D, fakes(G, inputs, now), inputs["gen_c"])
    return terms, terms["G/loss"]


def Dmain(G, D, inputs, config, loss, now):
    with torch.no_grad():
        pictures = fakes(G, inputs, now, track=True)
    terms = discriminator_terms(D, pictures, reals(inputs, config, loss, now), inputs["gen_c"], inputs["real_c"])
    return terms, terms["D/loss"]


def Dreg(G, D, inputs, config, loss, now):
    terms = r1_terms(D, reals(inputs, config, loss, now), inputs["real_c"], loss.gamma, loss.dual_discrimination)
    return terms, terms["D/reg"]


def Greg(G, D, inputs, config, loss, now):
    seen = swapped(inputs["gen_c"], inputs["swap_scalar"], now.swap)
    terms = density_terms(G, loss, inputs["gen_z"], seen, inputs["pts"], inputs["pert"], inputs.get("mono_pts"), "none")
    return terms, terms["G/density"]


PHASES = {"Gmain": Gmain, "Dmain": Dmain, "Dreg": Dreg, "Greg": Greg}


def schedules(config: dict, params: dict, inputs: dict) -> dict:
    loss, ema, ada = loss_config(config["loss_kwargs"], {}), config["ema"], config["ada"]
    seen = [int(images) for images in inputs["nimg"]]
    now = [moment(loss, images) for images in seen]
    result = {"swap_prob": [one.swap for one in now], "neural_resolution": [one.side for one in now], "blur_sigma": [one.sigma for one in now]}
    for name, rampup in (("ema_beta", ema["ema_rampup"]), ("ema_beta_no_rampup", None)):
        result[name] = [ema_beta(images, ema["batch"], ema["ema_kimg"], rampup) for images in seen]
    for name, one in config["lazy"].items():
        options = lazy(one["lr"], one["betas"], one["interval"])
        result[f"lazy_{name}"] = [options["lr"], *options["betas"]]
    p, result["ada_p"] = ada["start"], []
    for sign in inputs["real_signs"]:
        p = next_probability(p, float(sign), ada["target"], ada["batch"], ada["interval"], ada["kimg"])
        result["ada_p"].append(p)
    return numpy(result | {name: blur_kernel(variant["sigma"]) for name, variant in config["variants"].items()})


ADAPTERS = {"op3d.training_losses": losses, "op3d.density_regularisation": losses, "op3d.schedules": schedules}
