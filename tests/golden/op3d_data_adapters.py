"""Adapters of op3d's cameras, data sets and shapes: they arrange arguments for the functions that train, render and extract call."""
from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from common.cameras import Cameras, eg3d_label
from common.rays import camera_rays, pixel_grid
from op3d.cameras import eg3d_cam2world, eg3d_intrinsics
from op3d.data import Pictures, published_order, to_pixels
from op3d.march import box_limits, spaced
from op3d.shapes import grid_lattice, grid_points, published_volume
from tests.golden.sof_adapters import numpy, tensors


def cameras(config: dict, params: dict, inputs: dict) -> dict:
    inputs, pose = tensors(inputs), config["gaussian_pose"]
    cam2world = eg3d_cam2world(*inputs["hv"].unbind(-1), inputs["pivots"], config["radii"]).float()
    intrinsics = eg3d_intrinsics(config["fov_deg"])
    gaussian = eg3d_cam2world(torch.tensor([pose["h"]]), torch.tensor([pose["v"]]), (0, 0, 0), pose["radius"])
    result = {"cam2world": cam2world, "intrinsics": intrinsics, "label25": eg3d_label(Cameras(cam2world, intrinsics)), "gaussian_pose": gaussian}
    for name, variant in config["variants"].items():
        own = intrinsics.clone()
        if "skew" in variant:
            own[:, 0, 1], own[:, 0, 2] = variant["skew"], variant["cx"]
            own[:, 1, 1] *= variant["fy_scale"]
            result[f"{name}.intrinsics"] = own
        origins, directions = camera_rays(Cameras(cam2world, own), pixel_grid(variant["resolution"], variant["resolution"])[None])
        near, far = box_limits(origins, directions, variant["box_side"])
        result |= {f"{name}.origins": origins, f"{name}.dirs": directions, f"{name}.box_near": near[..., None], f"{name}.box_far": far[..., None],
                   f"{name}.linspace": spaced(near, far, config["linspace_steps"]).movedim(-1, 0)[..., None]}
    return numpy(result)


def datasets(config: dict, params: dict, inputs: dict) -> dict:
    result = {}
    for name, variant in config["variants"].items():
        pictures = Pictures(config["file"], variant["use_labels"], variant.get("xflip", False), variant.get("max_size"), variant.get("random_seed", 0),
                            published_mirror=True)
        result[f"{name}_images"] = np.stack([pictures.picture(i) for i in range(len(pictures))]).transpose(0, 3, 1, 2)
        result |= {f"{name}_labels": pictures.labels, f"{name}_raw_idx": pictures.index}
        if variant["use_labels"]:
            result["label_std"] = pictures.raw_labels.std(axis=0)
    for name, one in config["samplers"].items():
        order = published_order(one["items"], one["rank"], one["num_replicas"], one["seed"], one["shuffle"], one["window_size"])
        result[name] = np.array(list(islice(order, one["count"])))
    return result


def shapes(config: dict, params: dict, inputs: dict) -> dict:
    inputs = tensors(inputs)
    corner, spacing = grid_lattice(config["N"], config["cube_length"], config["origin"])
    return numpy({"points": grid_points(config["N"], config["cube_length"], config["origin"], published=True), "voxel_origin": corner, "voxel_size": spacing,
                  "volume": published_volume(inputs["sigma"], config["flip_axis"], config["pad_value"], config["pad_at_256"]),
                  "image_uint8": to_pixels(inputs["image"])})


ADAPTERS = {"op3d.cameras_rays": cameras, "op3d.dataset_zip": datasets, "op3d.shape_volume": shapes}
