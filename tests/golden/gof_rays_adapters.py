"""Adapters of gof.camera_rays and gof.sample_pdf: they arrange arguments for the functions that train and render call."""
from __future__ import annotations

import torch

from common.cameras import FLIP_YZ, Cameras, flip_yz, pigan_cam2world, pigan_cameras, pigan_intrinsics
from common.poses import place, truncated
from common.rays import camera_rays, importance, jitter, pixel_grid
from tests.golden.sof_adapters import numpy, tensors


def camera_rays_case(config: dict, params: dict, inputs: dict) -> dict:
    inputs, (width, height), steps = tensors(inputs), config["resolution_wh"], config["num_steps"]
    uv, fov = pixel_grid(height, width)[None], config["fov"]
    own = Cameras(torch.diag(torch.tensor(FLIP_YZ))[None], pigan_intrinsics(fov, width, height)[None].float())
    rays = camera_rays(own, uv)[1]                                                        # in the camera's own space, whose axes are OpenGL's
    depths = torch.linspace(config["ray_start"], config["ray_end"], steps).expand(width * height, steps)
    result = {"rays_cam": rays[0], "z_vals": depths[..., None], "points_cam": rays[0, :, None] * depths[..., None]}

    spread = [config[name] for name in ("h_mean", "h_stddev", "v_mean", "v_stddev")]
    angles = {}
    for name, variant in config["variants"].items():
        yaw, pitch = [inputs[draws] for draws in variant["draws"]] or [torch.zeros(len(inputs["pose"]), 1)] * 2
        angles[name] = place(variant["mode"] or "mean", torch.cat([pitch, yaw], dim=-1), *spread)
        result |= {f"pitch_{name}": angles[name][:, :1], f"yaw_{name}": angles[name][:, 1:], f"position_{name}": pigan_cam2world(angles[name])[:, :3, 3]}
    bound, mean, stddev = (config["truncated"][name] for name in ("bound", "mean", "stddev"))
    for axis in ("yaw", "pitch"):
        result[f"truncated_{axis}_unit"] = truncated(inputs[f"randn_trunc_{axis}"], bound) * stddev + mean

    cameras = pigan_cameras(angles["gaussian"], fov, width, height)
    cam2world = flip_yz(cameras.cam2world)
    origins, directions = camera_rays(cameras, uv)
    jittered, together = jitter(depths, inputs["rand_perturb"][..., 0]), jitter(depths, inputs["rand_perturb_global"][..., 0])
    return numpy(result | {
        "cam2world": cam2world, "world2cam": torch.linalg.inv(cam2world), "origins_world": origins, "dirs_world": directions,
        "points_world": origins[..., None, :] + directions[..., None, :] * depths[..., None],
        "pose_origin": pigan_cam2world(inputs["pose"])[:, :3, 3],
        "perturbed_points": rays[..., None, :] * jittered[..., None], "perturbed_z": jittered[..., None], "perturbed_z_global": together[..., None],
    })


def sample_pdf(config: dict, params: dict, inputs: dict) -> dict:
    bins, weights, u = (tensors(inputs)[name] for name in ("bins", "weights", "u"))
    even = torch.linspace(0, 1, config["N_importance"]).expand(len(bins), -1)
    return numpy({"samples": importance(bins, weights, u, config["eps"]), "samples_det": importance(bins, weights, even, config["eps"])})


ADAPTERS = {"gof.camera_rays": camera_rays_case, "gof.sample_pdf": sample_pdf}
