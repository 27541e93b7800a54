"""Adapters of Sem2NeRF's labels, contours, targets, poses, patches and shown pictures: they arrange arguments for the functions that train and render call."""
from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from common.cameras import Cameras, flip_yz, pigan_cameras
from common.labels import colorize
from common.march import Draws, March, march
from sem2nerf.build_masks import combine
from sem2nerf.labels import color_table, colored, merge, palette
from sem2nerf.patches import crop, diagonal_shifts, least_scale, patch_rays, pattern, scales_of, whole_rays
from sem2nerf.pictures import Crop, encoder_input, label_planes, normalise, overlay, published_row, resized_labels, resized_picture, rounded, truncated
from sem2nerf.poses import parse_poses, pose_of, random_candidates, trajectory
from tests.golden.sof_adapters import numpy, tensors

ENVS = {"merge_celeba": "CelebAMask_HQ", "merge_cat": "CatMask"}


def cropped(options: dict) -> Crop | None:
    return Crop(options["load"], options["crop"]) if options.get("load") and options.get("crop") else None


def labels(config: dict, params: dict, inputs: dict) -> dict:
    result = {}
    for name, variant in config["variants"].items():
        if "form" in variant:
            env, count = variant["env"], variant["label_nc"]
            row = np.arange(count, dtype=np.uint8)[None]
            visual = variant["form"] == "visual"
            result[name] = colored(torch.from_numpy(row)[None], color_table(env, count, published=True)) if visual else colorize(row, palette(env, count))
        else:
            merged = merge(inputs[variant["input"]], ENVS[variant["merge"]])
            result[name] = resized_labels(merged, cropped(variant), config["src_input_size"]) if "load" in variant else merged
    return numpy(result)


def contour(config: dict, params: dict, inputs: dict) -> dict:
    merged = merge(inputs["mask"], config["env"]) if config["merge"] else inputs["mask"]
    planes = label_planes(merged, config["label_nc"], published=True)
    small = np.stack([resized_labels(plane, cropped(config), config["src_input_size"]) for plane in planes])
    sums = encoder_input(torch.from_numpy(small)[None], config["label_nc"])[0].double().sum(dim=(1, 2))
    return numpy({"contour": planes[1], "dist": planes[2], "contour224": small[1], "dist224": small[2], "input_sum": sums, "dist_sum": sums[-1]})


def target_images(config: dict, params: dict, inputs: dict) -> dict:
    resized = lambda variant: resized_picture(inputs[variant["input"]], cropped(variant), variant["output_size"])
    return numpy({name: normalise(resized(variant)) for name, variant in config["variants"].items()})


def build_mask(config: dict, params: dict, inputs: dict) -> dict:
    def stored(picture: np.ndarray, mode: str) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture).convert(mode).save(file, "PNG")
        return file.getvalue()

    parts = lambda mode: {part: stored(picture, mode) for part, picture in zip(config["parts"], inputs["parts"])}
    return {name: combine(parts(variant["png_mode"]), published=True) for name, variant in config["variants"].items()}


def poses(config: dict, params: dict, inputs: dict) -> dict:
    result = {}
    for name, variant in config["variants"].items():
        if "trajectory" in variant:
            result[name] = trajectory(variant["trajectory"], config["num_frames"], variant["fov"])
        elif "file" in variant:
            known = parse_poses(str(inputs[variant["file"]]), variant["env"])
            result[name] = np.array([pose_of(known, str(each), name)[::-1] for each in inputs[variant["names"]]])
        else:
            candidates = random_candidates(torch.from_numpy(inputs["rand_u"]), variant["h_range"], variant["v_range"])
            result[name] = candidates.flatten(0, 1)[inputs["rand_idx"]].flip(-1)
    return numpy(result)


def output_images(config: dict, params: dict, inputs: dict) -> dict:
    images = torch.from_numpy(inputs["images"])
    return {"frame": rounded(images), "im": truncated(images), "grid": published_row(images, config["nrow"], config["padding"], config["pad_value"]),
            "overlay": overlay(images[0], images[1], config["mask_overlay_weight"])}


# Patches

def drawn_pattern(options: dict, side: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The published pattern of drawn numbers: one scale and one shift's size for the whole batch."""
    signs = inputs["sign_bit"].float()
    least = least_scale(options["iter"], options["ray_scale_anneal"], options["ray_min_scale"], options["ray_max_scale"])
    scales = scales_of(inputs["u_scale"].float().expand(len(signs)), least, options["ray_max_scale"])
    return pattern(side, scales, diagonal_shifts(inputs["u_shift"].float(), signs, scales) if options.get("random_shift", True) else 0.0)


def patch_pattern(config: dict, params: dict, inputs: dict) -> dict:
    inputs, draws = tensors(inputs), ("u_scale", "u_shift", "sign_bit")
    of_row = lambda row: {name: inputs[name][row] for name in draws}
    return numpy({name: drawn_pattern(variant, config["resolution_vol"], of_row(variant["row"])) for name, variant in config["variants"].items()})


def patch_rays_kind(config: dict, params: dict, inputs: dict) -> dict:
    inputs, side = tensors(inputs), config["img_size"]
    grid = drawn_pattern(config, config["resolution_vol"], inputs)
    world = pigan_cameras(torch.stack([inputs["pitch"], inputs["yaw"]], dim=-1), config["fov"], side).move(torch.float32)
    still = Cameras(flip_yz(torch.eye(4)).expand_as(world.cam2world), world.intrinsics)                       # looks along -z, y up, from the origin
    by = March(near=config["ray_start"], far=config["ray_end"], coarse=config["num_steps"], fine=0, surface=0, occupancy=False)

    def samples(origins, directions, draws=None):
        asked = []
        field = lambda points, toward: (asked.append(points), (torch.zeros_like(points[..., :1]), torch.zeros_like(points)))[1]
        seen = march(field, None, origins, directions, by, Draws(coarse=draws))
        return asked[0].view(*seen["sample_depths"].shape, 3), seen["sample_depths"][..., None]

    (_, in_camera), (origins, directions) = patch_rays(still, side, grid), patch_rays(world, side, grid)
    points_cam, z = samples(torch.zeros_like(in_camera), in_camera)
    world_points, z_perturbed = samples(origins, directions, inputs["u_perturb"][..., 0])
    return numpy({
        "pattern": grid, "dirs_cam": in_camera, "dir_norm": in_camera.norm(dim=-1), "z": z, "points_cam": points_cam, "world_dirs": directions,
        "origin": origins[:, 0], "world_points": world_points, "z_perturbed": z_perturbed, "full_dirs": whole_rays(still, side)[1][0],
        "target_patch": crop(inputs["target"] / 127.5 - 1, grid)})


ADAPTERS = {
    "sem2nerf.labels": labels, "sem2nerf.contour": contour, "sem2nerf.target_images": target_images, "sem2nerf.build_mask": build_mask,
    "sem2nerf.poses": poses, "sem2nerf.output_images": output_images, "sem2nerf.patch_pattern": patch_pattern, "sem2nerf.patch_rays": patch_rays_kind,
}
