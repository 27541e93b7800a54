"""Adapters of op3d.metrics: they arrange arguments for the functions that evaluation calls."""
from __future__ import annotations

from common.fidelity import frechet_distance, inception_score, kernel_distances, moments, precision_recall
from tests.golden.sof_adapters import numpy, tensors


def metrics(config: dict, params: dict, inputs: dict) -> dict:
    inputs, variants, result = tensors(inputs), config["variants"], {}
    gen, real = inputs["gen"], inputs["real"]
    for name, variant in variants.items():
        if "max_real" in variant:
            result[name] = frechet_distance(moments(gen[:variant["num_gen"]]), moments(real[:variant["max_real"]]), ddof=0)
        elif "gen_index" in variant:
            result[name] = kernel_distances(gen, real, zip(*(inputs[variant[index]].long().numpy() for index in ("gen_index", "real_index")))).mean()
    result["precision"], result["recall"] = precision_recall(gen, real, variants["pr"]["nhood_size"], variants["pr"]["half"])
    result["is_mean"], result["is_std"] = inception_score(inputs["probs"].log(), variants["is"]["num_splits"], seed=None)
    return result | numpy({"mean_real": moments(real).mean, "cov_real": moments(real).covariance(ddof=0)})


ADAPTERS = {"op3d.metrics": metrics}
