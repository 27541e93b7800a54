"""Golden adapters of GOF's data sets."""
from __future__ import annotations

from gof.data import TRANSFORMS, normalise


def datasets(config, params, inputs):
    outputs = {}
    for name, variant in config["variants"].items():
        transform = TRANSFORMS[variant["dataset"].lower()]
        picture = transform.crop(inputs[variant["dataset"]])
        outputs[name] = normalise(transform.resize(picture, config["img_size"], variant["flip"])).numpy()
    return outputs


ADAPTERS = {"gof.datasets": datasets}
