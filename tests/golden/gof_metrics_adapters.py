"""Adapters of gof.metrics: they arrange arguments for the functions that evaluation calls."""
from __future__ import annotations

from common.fidelity import frechet_distance, inception_score, kernel_distances, moments, random_subsets
from tests.golden.sof_adapters import tensors


def metrics(config: dict, params: dict, inputs: dict) -> dict:
    fake, real, logits = (tensors(inputs)[name] for name in ("fake", "real", "logits"))
    subsets = random_subsets(len(fake), len(real), config["kid_subsets"], config["kid_subset_size"], config["rng_seed"])
    kid = kernel_distances(fake, real, subsets, config["kid_degree"], config["kid_gamma"], config["kid_coef0"])
    mean, deviation = inception_score(logits, config["isc_splits"], config["rng_seed"])
    return {"frechet_inception_distance": frechet_distance(moments(fake), moments(real)), "kernel_inception_distance_mean": kid.mean(),
            "kernel_inception_distance_std": kid.std(), "inception_score_mean": mean, "inception_score_std": deviation}


ADAPTERS = {"gof.metrics": metrics}
