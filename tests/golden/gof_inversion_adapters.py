"""Adapter of gof.pigan_inversion: it arranges arguments for the fit that gof/invert.py runs."""
from __future__ import annotations

from itertools import islice

import torch

from common.march import Draws
from common.pigan import average_codes
from gof.invert import Chance, Fit, Unknowns, descend
from tests.golden.gof_generator_adapters import generator, marching, model_config, pictures
from tests.golden.sof_adapters import numpy, tensors


def inversion(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, options = tensors(params), tensors(inputs), config["curriculum"] | config["options"]
    network, side = generator(model_config(options), params), options["img_size"]
    fit = Fit(steps=config["n_iterations"], opt_cam=False, **{name: config[name] for name in ("lr", "weight_decay", "lr_step", "lr_gamma", "noise_scale")})
    unknowns = Unknowns(average_codes(network.siren, inputs["z_avg"]), torch.tensor([[options["v_mean"], options["h_mean"]]]))
    chance = lambda i: Chance(inputs["noise_f"][i], inputs["noise_p"][i], torch.arange(side * side), Draws(coarse=inputs["rand_perturb"][i, ..., 0]))
    steps = list(islice(descend(network, unknowns, inputs["target"][None], marching(config, options, network.config), fit, chance), config["iterations_run"]))
    return numpy({"losses": torch.cat([losses for losses, _ in steps]), "frame": pictures((steps[-1][1] + 1) / 2, side),
                  "freq_offsets": unknowns.frequencies.detach(), "phase_offsets": unknowns.phases.detach()})


ADAPTERS = {"gof.pigan_inversion": inversion}
