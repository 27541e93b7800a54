"""Adapters of the golden kinds of SofGAN's painter and face parser."""
from __future__ import annotations

import torch

from common import parser
from sof import painter
from tests.golden.sof_adapters import numpy, tensors


@torch.no_grad()
def sofgan_generator(config: dict, params: dict, inputs: dict) -> dict:
    inputs = tensors(inputs)
    model = painter.from_state(tensors(params), config["split_pixel_norm"], "golden")
    labels = painter.condition_labels(inputs["segmap"])
    plan = model.plan(labels[:, 0])
    image = model(plan, inputs["w_plus"][None], inputs.get("style_mask"))
    std, mean = torch.std_mean(image, dim=(2, 3))
    result = {"w": model.style(inputs["z"]), "remapped": labels, "parsing_feature": plan.features}
    return numpy(result | {"image": image, "image_mean_std": torch.stack([mean, std])})


@torch.no_grad()
def sofgan_bisenet(config: dict, params: dict, inputs: dict) -> dict:
    logits = parser.from_state(tensors(params), "golden")(tensors(inputs)["image"])
    return numpy({"logits": logits, "labels": logits.argmax(dim=1)})


ADAPTERS = {"sof.sofgan_generator": sofgan_generator, "sof.sofgan_bisenet": sofgan_bisenet}
