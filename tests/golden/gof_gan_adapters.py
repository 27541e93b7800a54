"""Adapters of gof.ema and of the discriminators: they arrange arguments for the functions and classes that train calls."""
from __future__ import annotations

import torch
from torch import nn

from common.gan import Ema
from tests.golden.sof_adapters import numpy, tensors


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


ADAPTERS = {"gof.ema": ema}
