"""Adapters of gof.ema and of the discriminators: they arrange arguments for the functions and classes that train calls."""
from __future__ import annotations

import torch
from torch import nn

from common.gan import Ema
from gof.discriminators import Discriminator
from tests.golden.sof_adapters import filled, numpy, tensors


@torch.no_grad()
def ema(config: dict, params: dict, inputs: dict) -> dict:
    (first, *later), result = tensors(inputs)["p"], {}
    for decay in config["decays"]:
        module = nn.ParameterDict({"p": nn.Parameter(first.clone()), "frozen": nn.Parameter(torch.zeros(2), requires_grad=False)})
        average, shadows = Ema(module, decay), []
        for values in later:
            module["p"].copy_(values)
            average.update(module)
            shadows.append(average.shadow["p"].clone())
        result |= {f"shadow_{decay}": torch.stack(shadows), f"num_updates_{decay}": average.updates, f"n_shadow_{decay}": len(average.shadow)}
    return numpy(result)


@torch.no_grad()
def discriminator(config: dict, params: dict, inputs: dict) -> dict:
    network, inputs, result = filled(Discriminator(config["discriminator"], codes="freq_phase_layer.weight" in params), tensors(params)), tensors(inputs), {}
    for size in config["sizes"]:
        for alpha in config["alphas"]:
            heads = zip(("pred", "latent", "pose"), network(inputs[f"img{size}"], alpha))
            result |= {f"{name}_{size}_{alpha}": values for name, values in heads if values is not None}
    if "freq_phase" in config:
        asked = config["freq_phase"]
        result |= zip(asked["outputs"], network.codes(inputs[f"img{asked['size']}"], asked["alpha"]))
    return numpy(result)


KINDS = ("discriminator_encoder", "pigan_disc_ccs_encoder", "pigan_disc_strided", "pigan_disc_progressive")
ADAPTERS = {"gof.ema": ema} | {f"gof.{kind}": discriminator for kind in KINDS}
