"""Adapter of op3d's augmentation pipe: it arranges arguments for the functions that train calls."""
from __future__ import annotations

from common.layers.fir import fir_kernel
from op3d.augment import SYM6, Augmentations, Given, Percentile, augment, filter_bank
from tests.golden.sof_adapters import numpy, tensors


def pipe(config: dict, params: dict, inputs: dict) -> dict:
    inputs, result = tensors(inputs), {"Hz_geom": fir_kernel(SYM6), "Hz_fbank": filter_bank()}
    for name, variant in config["variants"].items():
        how = Augmentations(**variant["augment"], **config["options"])
        pictures = inputs[variant["input"]][:variant.get("samples")]
        draws = Percentile(variant["percentile"]) if "percentile" in variant else Given([inputs[draw] for draw in variant["draws"]])
        result[name] = augment(pictures, how, variant.get("p", 1), draws)
    return numpy(result)


ADAPTERS = {"op3d.augment_pipe": pipe}
