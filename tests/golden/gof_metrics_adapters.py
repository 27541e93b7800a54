"""Adapters of gof.metrics and gof.weighted_variance: they arrange arguments for the functions that evaluation calls."""
from __future__ import annotations

import torch

from common.cameras import pigan_cameras
from common.fidelity import frechet_distance, inception_score, kernel_distances, moments, random_subsets
from common.march import March
from common.pigan import NETWORKS, Siren, average_codes, truncate
from common.poses import place
from common.rays import camera_rays, pixel_grid
from gof.metrics import SCALE, depth_spread, weighted_variance
from tests.golden.sof_adapters import filled, numpy, tensors


def metrics(config: dict, params: dict, inputs: dict) -> dict:
    fake, real, logits = (tensors(inputs)[name] for name in ("fake", "real", "logits"))
    subsets = random_subsets(len(fake), len(real), config["kid_subsets"], config["kid_subset_size"], config["rng_seed"])
    kid = kernel_distances(fake, real, subsets, config["kid_degree"], config["kid_gamma"], config["kid_coef0"])
    mean, deviation = inception_score(logits, config["isc_splits"], config["rng_seed"])
    return {"frechet_inception_distance": frechet_distance(moments(fake), moments(real)), "kernel_inception_distance_mean": kid.mean(),
            "kernel_inception_distance_std": kid.std(), "inception_score_mean": mean, "inception_score_std": deviation}


@torch.no_grad()
def variance(config: dict, params: dict, inputs: dict) -> dict:
    inputs, curriculum = tensors(inputs), config["curriculum"]
    siren = filled(Siren(NETWORKS[curriculum["model"]]), tensors(params), "siren.")
    scene = siren.scene(*truncate(siren.mapping(inputs["z"]), average_codes(siren, inputs["z_avg"]), curriculum["psi"]))
    spread = [curriculum[name] for name in ("h_mean", "h_stddev", "v_mean", "v_stddev")]
    angles = place(curriculum["sample_dist"], torch.cat([inputs["randn_pitch"], inputs["randn_yaw"]], dim=-1), *spread)
    side = curriculum["img_size"]
    rays = camera_rays(pigan_cameras(angles, curriculum["fov"], side), pixel_grid(side, side)[None])
    options = March(curriculum["ray_start"], curriculum["ray_end"], surface=int(curriculum["surface_sample"]), occupancy=curriculum["pred_occ"],
                    search_steps=curriculum["n_secant_steps"], tau=curriculum["tau"], activation=curriculum["clamp_mode"])
    variances, opacities = depth_spread(lambda points: siren.density(scene, points), *rays, options, curriculum["interval_max"] / 2,
                                         curriculum["num_steps_coarse"])
    mean = weighted_variance(variances, opacities, config["min_weight"])
    return numpy({"depth_var": mean[0], "reported": SCALE * mean[0], "per_ray": variances[opacities > config["min_weight"]][None, :, None]})


ADAPTERS = {"gof.metrics": metrics, "gof.weighted_variance": variance}
