"""Adapters of the golden kinds ``sof.*``: they arrange arguments for the functions that train, render and eval call."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras, flip_yz, invert_rigid, look_at, project
from common.images import decode_depth, decode_labels
from common.labels import colorize
from common.layers.hyper import FCBlock, HyperFC, evaluate
from common.meshes import area, volume
from common.rays import camera_rays, pixel_grid, unproject, z_depth
from sof import cameras as paths
from sof.cameras import learned_cameras, normal_map, pixel_centers, sof_cameras
from sof.data import parse_intrinsics, scale_intrinsics
from sof.losses import Rays, Weights, backward, behind_loss, class_loss, depth_loss, image_loss, scaled
from sof.metrics import logged_miou, notebook_miou, style_filter_miou
from sof.model import SOF, ModelConfig, StepMLP, resize_scores, sphere_start
from sof.renderers import halvings
from sof.volume import volume_mesh

MARCH_NOISE = 0.01                                              # world units per standard normal, as published


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def numpy(results: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value) for name, value in results.items()}


def filled(module: torch.nn.Module, params: dict[str, Tensor], prefix: str = "") -> torch.nn.Module:
    module.load_state_dict({key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)})
    return module


def network(config: dict, params: dict[str, Tensor]) -> SOF:
    sizes = ModelConfig(
        embedding_size=config["latent_dim"], feat_dim=config["hidden_dim"], phi_layers=config["phi_layers"],
        rendering_layers=config["rendering_layers"], out_channels=config["out_channels"], tracing_steps=config["march_steps"],
        sphere_radius=config["sphere_radius"], orthogonal=config["orthogonal"], opt_cam=config["opt_cam"], published_camera=True,
        renderer=config["renderer"], unet_levels=halvings(config["img_sidelength"]), published_imae=True,
    )
    return filled(SOF(sizes, config["num_instances"]), params)


def views(config: dict, inputs: dict[str, Tensor]) -> tuple[Cameras, Tensor]:
    side = config["img_sidelength"]
    return sof_cameras(inputs["cam2world"], inputs["intrinsics"], side, config["orthogonal"]), pixel_centers(inputs["uv"].float(), side)


@torch.no_grad()
def render(config: dict, params: dict, inputs: dict) -> dict:
    inputs, model = tensors(inputs), network(config, tensors(params))
    codes = inputs["z"] if "z" in inputs else model.split_codes(model.codes(inputs["instance_idx"]))[1]
    (cameras, uv), scene = views(config, inputs), model.scene(codes)
    points, scores = model.trace(scene, *camera_rays(cameras, uv))
    if config["output_sidelength"] != config["img_sidelength"]:
        scores = resize_scores(scores, config["output_sidelength"])
    labels = scores.argmax(-1)
    result = {"logits": scores, "depth": z_depth(cameras, points), "labels": labels, "latent_reg": codes.square().mean()}
    slices = [model.field(scene, unproject(cameras, uv, depth)).softmax(-1) for depth in config.get("slice_depths", ())]
    if slices:
        result["slice_prob"] = torch.stack(slices)
    if "prior_depth" in inputs:
        side = config["img_sidelength"]
        start = unproject(cameras, uv, inputs["prior_depth"].flatten(1)[..., None])
        result["depth_with_prior"] = z_depth(cameras, model.march(scene, start, camera_rays(cameras, uv)[1]))
        result["color_image"] = colorize(labels.reshape(side, side).numpy(), np.array(config["palette"], np.uint8))
        result["labels"] = labels[..., None]
    return numpy(result)


def train(config: dict, params: dict, inputs: dict) -> dict:
    inputs, params = tensors(inputs), tensors(params)
    if "latent_codes" in inputs:
        params["latent_codes.weight"] = inputs["latent_codes"]
    model = network(config, params)
    model.learn_networks(not config["freeze_networks"])
    cameras, uv = views(config, inputs)
    noise = MARCH_NOISE * inputs["march_noise"] if "march_noise" in inputs else None
    rays = Rays(inputs["instance_idx"], cameras, uv, inputs["labels"], noise, inputs.get("depth"))
    weights = Weights(**{name: config.get(name, -1.0) for name in ("l1_weight", "kl_weight", "reg_weight", "geo_weight")}, published_depth_loss=True)
    losses, predicted = backward(model, rays, weights)
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    with torch.no_grad():
        result = step_outputs(config, model, rays, inputs)
    names = {"class": "dist_loss", "behind": "reg_loss", "code": "latent_loss", "depth": "geo_loss"}
    norm = gradients["latent_codes.weight"].double().norm()
    return numpy(result | {names[name]: loss for name, loss in losses.items()} | {
        "mIoU": logged_miou(predicted, rays.labels, config["out_channels"]),
        "total_loss": sum(scaled(losses, weights).values()),
        "grad_norm_log10": np.log10([1e-12 + (0.0 if gradients[key] is None else gradients[key].double().norm().item()) for key in config["grad_keys"]]),
        "latent_grad_unit": gradients["latent_codes.weight"] / norm,
    })


def step_outputs(config: dict, model: SOF, rays: Rays, inputs: dict[str, Tensor]) -> dict:
    centers, codes = model.split_codes(model.latent_codes(rays.instances))
    cameras, result = rays.cameras, {}
    if centers is not None:
        cameras = learned_cameras(centers, cameras.intrinsics, cameras.orthographic, published_transpose=True)
        every = learned_cameras(model.latent_codes.weight[:, :3], cameras.intrinsics[:1], cameras.orthographic, published_transpose=True)
        result["R_torch"] = every.cam2world[:, :3, :3]
    scene = model.scene(codes)
    points, scores = model.trace(scene, *camera_rays(cameras, rays.uv), rays.noise)
    if config.get("upsampled_output_sidelength"):
        result["upsampled_prob"] = resize_scores(scores, config["upsampled_output_sidelength"])
    return result | {"depth_final": z_depth(cameras, points), "logits": scores}


def geometry(config: dict, params: dict, inputs: dict) -> dict:
    inputs, result = tensors(inputs), {}
    uv = pixel_centers(inputs["uv"].float(), config["grid"])
    for suffix, variant in config["variants"].items():
        cameras = sof_cameras(inputs["cam2world"], inputs["intrinsics"], config["grid"], variant["orthogonal"])
        world, (_, directions) = unproject(cameras, uv, inputs["depth"]), camera_rays(cameras, uv)
        start = sphere_start(unproject(cameras, uv, config["initial_depth"]), directions, config["sphere_radius"], tuple(config["sphere_centre"]))
        side = int(inputs["uv"].shape[1] ** 0.5)
        result |= {
            f"ray_dirs{suffix}": directions, f"world{suffix}": world, f"depth_back{suffix}": z_depth(cameras, world),
            f"normals{suffix}": normal_map(cameras, inputs["depth"].reshape(-1, side, side)),
            f"sphere_init{suffix}": start + directions * config["march_noise_std"] * inputs["march_noise"],
        }
    pinhole = sof_cameras(inputs["cam2world"], inputs["intrinsics"], config["grid"], False)
    at, depth = project(pinhole, unproject(pinhole, uv, inputs["depth"]))
    return numpy(result | {"project": torch.cat([at * config["grid"] - 0.5, depth[..., None]], dim=-1)})


@torch.no_grad()
def hyper_layers(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, hyper, step, head = tensors(params), tensors(inputs), config["hyper"], config["marcher"], config["pixel_generator"]
    phi = filled(HyperFC(hyper["hyper_in_ch"], hyper["hyper_hidden_ch"], hyper["hyper_num_hidden_layers"], hyper["in_ch"], hyper["hidden_ch"],
                         hyper["num_hidden_layers"], hyper["out_ch"]), params, "hyper_phi.")
    marcher = filled(StepMLP(step["in_dim"], step["hidden_ch"], step["hidden_layer"]), params, "marcher.")
    classifier = filled(FCBlock(head["in_features"], head["hidden_ch"], head["num_hidden_layers"], head["out_features"]), params, "pixel_generator.")
    layers = phi(inputs["z"])
    features = evaluate(layers, inputs["points"])
    result = {"features": features, "step": marcher(features, marcher.ray_terms(inputs["ray_dirs"])), "logits": classifier(features)}
    for i, (weight, bias) in enumerate(layers):
        result |= {f"weights_{i}": weight, f"biases_{i}": bias}
    return numpy(result)


def camera_paths(config: dict, params: dict, inputs: dict) -> dict:
    inputs, up = tensors(inputs), tuple(config["up"])
    target = torch.tensor(config["default_target"], dtype=torch.float64)
    result = {"lookat": look_at(inputs["positions"], inputs["targets"], up), "lookat_default_target": look_at(inputs["positions"][0], target, up)}
    center = inputs["cam_center"]
    makers = {
        "sphere": lambda v: paths.sphere_path(center, v["R"], v["num"], v["theta"], v["phi"]),
        "plane": lambda v: paths.plane_path(center, v["R"], v["num"], v["x"], v["y"]),
        "uniform": lambda v: paths.uniform_path(center, v["R"], v["num"], v["theta"], v["heights"]),
        "spiral": lambda v: paths.spiral_path(center, inputs["look_at"], v["R"], v["num"], v["sweeps"]),
        "old_spiral": lambda v: (paths.fibonacci_positions(v["R"], v["num"], v["omega"]), None),
    }
    for name, variant in config["variants"].items():
        positions, targets = makers[variant["path"]](variant)
        result[name] = positions if variant.get("positions_only") else look_at(positions, targets, up)
    return numpy(result)


def losses_metrics(config: dict, params: dict, inputs: dict) -> dict:
    t = tensors(inputs)
    predicted = t["logits"].argmax(-1)
    return numpy({
        "cls_loss": class_loss(t["logits"], t["labels"]),
        "reg_loss": behind_loss(t["depth_pred"]),
        "geo_loss": depth_loss(t["depth_pred"], t["depth_gt"], published=True),
        "image_loss": image_loss(t["rgb_pred"], t["rgb_gt"]),
        "mIoU_train_log": logged_miou(predicted, t["labels"], config["out_channels"]),
        "mIoU_notebook": notebook_miou(predicted, t["labels"], config["notebook_classes"])[0],
        "mIOU_style_filter": style_filter_miou(t["seg_a"], t["seg_b"], config["seg_classes"], config["seg_side"]),
    })


def data_loading(config: dict, params: dict, inputs: dict) -> dict:
    table, result = np.array(config["remap_20_to_17"], np.uint8), {}
    height, width = inputs["seg"].shape
    for name, variant in config["variants"].items():
        picture, side = inputs[variant["input"]], variant["sidelength"]
        if "z_range" in variant:
            result[name] = decode_depth(picture, side, inputs["zRange"] if variant["z_range"] else None)[None]
        else:
            result[name] = decode_labels(picture, side, "auto_published", table if variant.get("remap") else None, config["num_classes"]).reshape(-1, 1)
        if "intrinsics" in variant:
            result[variant["intrinsics"]] = scale_intrinsics(torch.from_numpy(inputs["intrinsic"]), width, height, side)
    extrinsics = torch.from_numpy(inputs["extrinsics"])
    return numpy(result | {
        "intrinsics_txt_128": parse_intrinsics(config["intrinsics_txt"], config["txt_target"]),
        "uv_8": (pixel_grid(8, 8) * 8).int(),
        "cam2world_inverse": invert_rigid(extrinsics),
        "cam2world_inverse_flip_yz": flip_yz(invert_rigid(extrinsics)),
    })


def volume_surface(config: dict, params: dict, inputs: dict) -> dict:
    inputs, result = tensors(inputs), {}
    for suffix, variant in config["variants"].items():
        camera = sof_cameras(inputs["cam_P"][None], inputs["cam_K"][None], config["resolution"][0], variant["orthogonal"])
        mesh = volume_mesh(inputs["volume"], camera, tuple(config["dpt_range"]), config["level_set"], published=True)
        keys = mesh.vertices.round(5)
        result |= {
            f"vertices_sorted{suffix}": mesh.vertices[np.lexsort(keys.T[::-1])],
            f"counts{suffix}": np.array([len(mesh.vertices), len(mesh.faces)]),
            f"area_signedvolume{suffix}": np.array([area(mesh), volume(mesh)]),
        }
    return result


ADAPTERS = {
    "sof.render": render,
    "sof.render_prior": render,
    "sof.train": train,
    "sof.geometry": geometry,
    "sof.hyper_layers": hyper_layers,
    "sof.camera_paths": camera_paths,
    "sof.losses_metrics": losses_metrics,
    "sof.data_loading": data_loading,
    "sof.volume_mesh": volume_surface,
}
