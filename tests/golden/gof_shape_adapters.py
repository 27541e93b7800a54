"""Adapters of GOF's camera paths and voxel grids."""
from __future__ import annotations

import torch

from common.cameras import flip_yz
from common.pigan import average_codes
from gof import paths
from gof.extract import raw, sheared_points, sheared_values, voxels
from tests.golden.gof_generator_adapters import generator, model_config
from tests.golden.sof_adapters import numpy, tensors


def trajectories(config: dict, params: dict, inputs: dict) -> dict:
    count, fov, mesh = config["num_frames"], config["fov"], {"center": tuple(config["mesh_centre"]), "distance": config["mesh_distance"]}
    offsets, t = tuple(config["multiview_offsets"]), paths.shares(count)[:, None]
    row = lambda angles, fovs: torch.cat([t, angles, fovs[:, None]], dim=1)
    return numpy({
        "render_video": paths.ellipse(count, **config["video"]).flip(1), "interpolation_front": row(*paths.front(count, fov)),
        "interpolation_orbit": row(*paths.circle(count, fov)), "multiview_yaw": paths.steps(offsets)[:, 1],
        "meshimg_camera": flip_yz(paths.around(offsets, **mesh)), "meshvideo_camera": flip_yz(paths.nodding(config["mesh_frames"], **mesh)),
    })


@torch.no_grad()
def extract_shapes(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, count, cube_size = tensors(params), tensors(inputs), config["N_samples"], config["cube_size"]
    network = generator(model_config(config["curriculum"]), params)
    network.average = average_codes(network.siren, inputs["z_avg"])
    scene = network.scene(network.codes(inputs["z"], config["psi"]))
    samples, corner, voxel = sheared_points(torch.arange(count**3), count, cube_size, tuple(config["voxel_origin_of_samples"]))
    values = sheared_values(lambda points: raw(network, scene, points), config["voxel_resolution"], cube_size, tuple(config["voxel_origin"]))
    return numpy({"samples": samples, "origin": corner, "voxel_size": voxel, "voxels": voxels(network, values)})


ADAPTERS = {"gof.trajectories": trajectories, "gof.extract_shapes": extract_shapes}
