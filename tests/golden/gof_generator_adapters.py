"""Adapters of GOF's and pi-GAN's fields, marches, training steps and schedules: they arrange arguments for the functions that train and render call."""
from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from common.cameras import pigan_cameras
from common.gan import top_k
from common.march import Draws, March, alphas_of, search_surface, surface_samples
from common.pigan import NETWORKS, Siren, average_codes, truncate
from common.poses import place
from common.rays import camera_rays, jitter, pixel_grid
from common.volume import composite
from gof import curriculum
from gof.curriculum import Curriculum, stage_at
from gof.discriminators import Discriminator
from gof.losses import Weights, discriminator_losses, fake, generator_losses
from gof.metrics import spread_of
from gof.model import Generator, ModelConfig, march_options, shoot
from tests.golden.sof_adapters import filled, numpy, tensors

PIGAN = {"pred_occ": False, "surface_sample": False}


def known(config_class: type, values: dict) -> dict:
    """The values that are options of a config."""
    names = {field.name for field in fields(config_class)}
    return {name: value for name, value in values.items() if name in names and value is not None}


def model_config(options: dict) -> ModelConfig:
    """The options of a curriculum of either repository, its defects as released; `last_back` is the one in force."""
    steps = {"num_steps_coarse": options["num_steps"], "num_steps_fine": options["num_steps"]} if "num_steps" in options else {}
    return ModelConfig(**{**(PIGAN if "num_steps" in options else {}), **known(ModelConfig, options), **steps, "published_depth": True,
                          "eval_last_back": options.get("last_back", False), "sample_dist": options.get("sample_dist") or "mean"})


def marching(config: dict, options: dict, model: ModelConfig) -> March:
    return replace(march_options(model, options.get("interval")), search_range=tuple(config.get("surface_range", (0, 0))) if model.surface_sample else None)


def drawn_angles(model: ModelConfig, pitch: Tensor, yaw: Tensor) -> Tensor:
    return place(model.sample_dist, torch.cat([pitch, yaw], dim=1), model.h_mean, model.h_stddev, model.v_mean, model.v_stddev)


def pictures(colors: Tensor, side: int) -> Tensor:
    return 2 * colors.transpose(1, 2).unflatten(2, (side, side)) - 1


def grid(values: Tensor, side: int) -> Tensor:
    return values.unflatten(1, (side, side))


def generator(model: ModelConfig, params: dict[str, Tensor], prefix: str = "") -> Generator:
    return filled(Generator(model), {key: value for key, value in params.items() if key.startswith(prefix)}, prefix)


# gof.render, gof.render_variants

def seen_of(config: dict, options: dict, network: Generator, codes, angles: Tensor, draws: Draws) -> dict[str, Tensor]:
    """What GOF's inference returns of codes from cameras, by the published names."""
    model, side = network.config, options["img_size"]
    by = marching(config, options, model)
    cameras, uv, scene = pigan_cameras(angles, model.fov, side), pixel_grid(side, side)[None], network.scene(codes)
    shown = shoot(network, scene, by, cameras, uv, draws, in_full=True)
    result = {
        "imgs": pictures(shown["colors"], side), "depth_map": grid(shown["depth"], side), "depth_var": shown["depth_variance"][..., None],
        "weights": shown["weights"][..., None], "occupancy": shown["logits"].sigmoid(),
        "surface_normals": grid(shown["normals"] / 2 + 0.5, side).permute(0, 3, 1, 2), "single_imgs": grid(shown["surface_colors"], side).permute(0, 3, 1, 2),
        "pos": angles,
    }
    if "hit" in shown:
        result |= {"pred_depth": grid(shown["surface_depth"], side), "mask": grid(shown["hit"], side)}
    return result


def fine(inputs: dict[str, Tensor], batch: int, name: str = "rand_fine") -> Tensor:
    return inputs[name].unflatten(0, (batch, -1))


def render(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, options = tensors(params), tensors(inputs), config["curriculum"]
    network = generator(model_config(options), params)
    with torch.no_grad():
        network.average = average_codes(network.siren, inputs["z_avg"])
        codes = network.codes(inputs["z"], options["psi"])
        angles = drawn_angles(network.config, inputs["randn_pitch"], inputs["randn_yaw"])
        draws = Draws(surface=inputs["rand_surface"][..., 0], fine=fine(inputs, len(angles)))
        return numpy(seen_of(config, options, network, codes, angles, draws))


def render_variants(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, result = tensors(params), tensors(inputs), {}
    for name, variant in config["variants"].items():
        options = config["curriculum"] | variant
        network = generator(model_config(options), params)
        with torch.no_grad():
            network.average = average_codes(network.siren, inputs["z_avg"])
            codes = network.codes(inputs["z"], options.get("psi", 1))
            angles = inputs["pose"] if "pose" in variant else drawn_angles(network.config, inputs["cam_b"], inputs["cam_a"])
            drawn = variant["draw_order"]
            draws = Draws(surface=inputs["rand_surface"][..., 0] if "rand_surface" in drawn else None,
                          fine=fine(inputs, len(angles)) if "rand_fine" in drawn else None,
                          coarse_noise=options["nerf_noise"] * inputs["noise"][..., 0] if "noise" in drawn else 0.0)
            seen = seen_of(config, options, network, codes, angles, draws)
        result |= {f"{name}.{key}": value for key, value in seen.items()}
    return numpy(result)


# gof.train_step

def train_step(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, options = tensors(params), tensors(inputs), config["curriculum"]
    model = replace(model_config(options), last_back=options["last_back"])
    network = generator(model, params, "generator.")
    critic = filled(Discriminator(options["discriminator"], codes="discriminator.freq_phase_layer.weight" in params),
                    {key: value for key, value in params.items() if key.startswith("discriminator.")}, "discriminator.")
    published = config["losses"] == "as_published"
    weights = Weights(**known(Weights, options | ({} if options["with_normal_loss"] else {"normal_lambda": 0.0})), published_opacity_prior=published,
                      published_normal_loss=published)
    plan, step, alpha = Curriculum(**known(Curriculum, stages_of({"0": options}, options))), config["step"], config["alpha"]
    interval = curriculum.interval(model.interval_max, model.interval_min, plan.decay_beta, step)
    by = marching(config, options | {"interval": interval}, model)
    by = replace(by, last_back=model.last_back)

    def fakes(player: str):
        of = {key.removeprefix(f"{player}_"): value for key, value in inputs.items() if key.startswith(f"{player}_")}
        angles = drawn_angles(model, of["randn_pitch"], of["randn_yaw"])
        draws = Draws(surface=of["rand_surface"][..., 0], fine=fine(of, len(angles)))
        neighbours = of["rand_neighbour"] if weights.normal_lambda else None
        return fake(network, inputs[f"z_{player}"], angles, options["img_size"], by, draws, neighbours, weights.h_sample)

    with torch.no_grad():
        d_fakes = fakes("d")
    d_losses = discriminator_losses(critic, weights, inputs["real"], d_fakes, alpha)
    d_loss = sum(d_losses.values())
    d_loss.backward()
    d_norms = norms(critic, config["d_grad_keys"])
    share, opacity = curriculum.topk_share(plan, step), curriculum.opacity_weight(plan, step) if options["with_opacprior"] else 0.0
    network.zero_grad()
    g_fakes = fakes("g")
    g_losses = generator_losses(critic, weights, g_fakes, alpha, share, opacity)
    g_loss = sum(g_losses.values())
    g_loss.backward()
    g_norms, zero = norms(network, config["g_grad_keys"]), torch.zeros(())
    return numpy({
        "interval": interval, "opacprior_lambda": curriculum.opacity_weight(plan, step), "d_fake": d_fakes.pictures, "d_loss": d_loss, "d_r1": d_losses["D/r1"],
        "d_identity": d_losses["D/identity"], "d_pred_real": critic(inputs["real"], alpha)[0], "d_pred_fake": critic(d_fakes.pictures, alpha)[0],
        "d_grad_norm": d_norms, "d_grad_total": d_norms.norm(), "topk_num": len(top_k(torch.zeros(len(g_fakes.z), 1), share)), "g_loss": g_loss,
        "g_identity": g_losses["G/identity"], "g_normal": g_losses.get("G/normal", zero), "g_opacprior": g_losses.get("G/opacity", zero),
        "g_pred": critic(g_fakes.pictures, alpha)[0], "g_imgs": g_fakes.pictures, "g_pos": g_fakes.angles, "g_mask": g_fakes.seen["hit"],
        "g_pred_depth": g_fakes.seen["surface_depth"].clamp(by.near, by.far), "g_pred_normals": g_fakes.normals, "g_grad_norm": g_norms,
        "g_grad_total": g_norms.norm(),
    })


def norms(module: torch.nn.Module, keys: list[str]) -> Tensor:
    parameters = dict(module.named_parameters())
    return torch.stack([parameters[key].grad.norm() for key in keys])


# Schedules

def stages_of(stages: dict, constants: dict) -> dict:
    """A published curriculum as our columns: its complete stages, in order."""
    complete = {int(start): stage for start, stage in stages.items() if stage}
    columns = {"stage_starts": sorted(complete)}
    for name in ("batch_size", "img_size", "batch_split", "gen_lr", "disc_lr", "num_steps"):
        if all(name in stage for stage in complete.values()):
            columns[name] = [complete[start][name] for start in sorted(complete)]
    return constants | columns | ({} if "num_steps" in columns else {"num_steps": []})


def schedules(config: dict, params: dict, inputs: dict) -> dict:
    result = {}
    for name, stages in config["stages"].items():
        constants = config["constants"][name]
        plan = Curriculum(**known(Curriculum, stages_of(stages, constants)))
        ends = [int(start) for start, stage in stages.items() if not stage]
        result[name] = torch.tensor([row(config["columns"], plan, constants, ends, step) for step in config["steps"][name]], dtype=torch.float64)
    return numpy(result)


def row(columns: list[str], plan: Curriculum, constants: dict, ends: list[int], step: int) -> list[float]:
    stage = stage_at(plan, step)
    share = curriculum.topk_share(plan, step)
    later = [start for start in ([stage.end] if stage.end else ends) if start > step]
    kept = top_k(torch.zeros(stage.batch_size // stage.batch_split, 1), share)
    values = {"step": step, **vars(stage), "last_upsample_step": stage.start, "next_upsample_step": later[0] if later else -1,
              "alpha": curriculum.alpha(plan, step), "nerf_noise": curriculum.density_noise(step), "topk_fraction": share, "topk_num per split": len(kept),
              "opacprior_lambda": curriculum.opacity_weight(plan, step)}
    if "interval_max" in constants:
        values["interval"] = curriculum.interval(constants["interval_max"], constants["interval_min"], plan.decay_beta, step)
    return [values[column] for column in columns]


# The field, the surface search, compositing

@torch.no_grad()
def siren_kind(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs = tensors(params), tensors(inputs)
    prefix = "siren." if any(key.startswith("siren.") for key in params) else ""
    siren = filled(Siren(replace(NETWORKS[config["model"]], hidden=config["hidden_dim"], latent=config["z_dim"])), params, prefix)
    codes = siren.mapping(inputs["z"])
    values = lambda codes: torch.cat(siren.field(siren.scene(*codes), inputs["points"], inputs["dirs"])[::-1], dim=-1)
    result = {"frequencies": codes[0], "phase_shifts": codes[1], "rgb_sigma": values(codes)}
    if "truncation_factor" in config:
        result["rgb_sigma_truncated"] = values(truncate(codes, tuple(torch.zeros_like(code) for code in codes), config["truncation_factor"]))
        result["normals"] = siren.normals(siren.scene(*codes), inputs["points"])
    return numpy(result)


@torch.no_grad()
def ray_marching(config: dict, params: dict, inputs: dict) -> dict:
    inputs, field = tensors(inputs), config["field"]

    def logit(depths: Tensor) -> Tensor:                       # the case's own analytic field
        points = inputs["origins"][:, :, None] + inputs["dirs"][:, :, None] * depths[..., None]
        away = (points - points.new_tensor(field["centre"])).square().sum(-1)
        return field["gain"] * (field["radius"] ** 2 - away) + field["ripple"] * torch.sin(field["ripple_freq"] * points[..., 0])

    depths = inputs["z_vals"][..., 0]
    result = {"coarse_logit": logit(depths)}
    for name, variant in config["variants"].items():
        by = March(interval=variant["interval"], search=variant["method"], search_steps=variant["n_secant_steps"], tau=variant["tau"],
                   surface=variant["n_samples"], search_range=tuple(config["depth_range"]))
        found = search_surface(logit, result["coarse_logit"], depths, by)
        result |= {f"{name}.z_vals": surface_samples(found, by)[..., None], f"{name}.depth": found["surface_depth"], f"{name}.mask": found["hit"]}
    return numpy(result)


def composited(variant: dict, rgb_sigma: Tensor, depths: Tensor, noise: Tensor) -> dict[str, Tensor]:
    by = March(occupancy=variant.get("pred_occ", False), activation=variant.get("clamp_mode", "relu"))
    alphas = alphas_of(rgb_sigma[..., 3], depths, by, variant.get("noise_std", 0) * noise)
    shown = variant.get("last_back", False), variant.get("white_back", False), variant.get("fill_mode")
    return composite(alphas, rgb_sigma[..., :3], depths, *shown, published_depth=True)


def integration(config: dict, params: dict, inputs: dict) -> dict:
    inputs, result = tensors(inputs), {}
    depths, noise, cut = inputs["z_vals"][..., 0], inputs["noise"][..., 0], inputs["cut"][..., 0]
    for name, variant in config["variants"].items():
        seen = composited(variant, inputs["rgb_sigma"], depths, noise)
        result |= {f"{name}.rgb": seen["colors"], f"{name}.depth": seen["depth"][..., None], f"{name}.depth_var": seen["depth_variance"][..., None],
                   f"{name}.weights": seen["weights"][..., None]}
    for name, variant in config["depth_var"].items():
        item = slice(variant["batch_item"], variant["batch_item"] + 1)
        by = March(occupancy=variant["pred_occ"], activation=variant.get("clamp_mode", "relu"))
        alphas = alphas_of(inputs["rgb_sigma"][item, ..., 3], depths[item], by)
        spread = spread_of(alphas, depths[item], cut[item] if variant["cut"] else None)
        result[name] = spread["depth_variance"][spread["opacity"] > variant["min_weight"]][None, :, None]
    return numpy(result)


def pigan_rays_integration(config: dict, params: dict, inputs: dict) -> dict:
    inputs, (width, height) = tensors(inputs), config["resolution_wh"]
    draws = torch.cat([inputs["rand_pitch"], inputs["rand_yaw"]], dim=1)
    angles = place(config["mode"], draws, config["h_mean"], config["h_stddev"], config["v_mean"], config["v_stddev"])
    origins, directions = camera_rays(pigan_cameras(angles, config["fov"], width, height), pixel_grid(height, width)[None])
    regular = torch.linspace(config["ray_start"], config["ray_end"], config["num_steps"]).expand(*origins.shape[:2], -1)
    depths = jitter(regular, inputs["rand_perturb"][..., 0])
    result = {"points_world": origins[:, :, None] + directions[:, :, None] * depths[..., None], "z_vals": depths[..., None], "dirs_world": directions,
              "origins_world": origins, "pitch": angles[:, :1], "yaw": angles[:, 1:]}
    for name, variant in config["variants"].items():
        seen = composited(variant, inputs["rgb_sigma"], inputs["z"][..., 0], inputs["noise"][..., 0])
        result |= {f"{name}.rgb": seen["colors"], f"{name}.depth": seen["depth_sum"][..., None], f"{name}.weights": seen["weights"][..., None]}
    return numpy(result)


# pi-GAN's generator

def pigan_seen(config: dict, options: dict, network: Generator, codes, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    model, side = network.config, options["img_size"]
    angles = drawn_angles(model, inputs["cam_b"], inputs["cam_a"])
    draws = Draws(coarse=inputs["rand_perturb"][..., 0], fine=fine(inputs, len(angles)), coarse_noise=options["nerf_noise"] * inputs["noise_coarse"][..., 0],
                  final_noise=options["nerf_noise"] * inputs["noise_final"][..., 0])
    shown = shoot(network, network.scene(codes), marching(config, options, model), pigan_cameras(angles, model.fov, side), pixel_grid(side, side)[None], draws,
                  of_surface=False, in_full=True)
    return {"imgs": pictures(shown["colors"], side), "depth": grid(shown["depth_sum"], side)}, angles


@torch.no_grad()
def pigan_render(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, result = tensors(params), tensors(inputs), {}
    for prefix, variant in config["variants"].items():
        options = config["curriculum"] | variant
        network = generator(model_config(options), params)
        network.average = average_codes(network.siren, inputs["z_avg"])
        codes = network.codes(inputs["z"], options["psi"] if "psi" in variant["codes"] else 1)
        seen, angles = pigan_seen(config, options, network, codes, inputs)
        result |= {f"{prefix}{name}": value for name, value in (seen | {"pos": angles}).items()}
    return numpy(result)


def pigan_forward_carla(config: dict, params: dict, inputs: dict) -> dict:
    params, inputs, options = tensors(params), tensors(inputs), config["curriculum"]
    network = generator(model_config(options), params)
    seen, angles = pigan_seen(config, options, network, network.codes(inputs["z"]), inputs)
    loss = seen["imgs"].square().mean()
    loss.backward()
    return numpy({"imgs": seen["imgs"], "pos": angles, "loss": loss, "grad_norm": norms(network, config["grad_keys"])})


ADAPTERS = {
    "gof.render": render, "gof.render_variants": render_variants, "gof.train_step": train_step, "gof.schedules": schedules, "gof.pigan_schedules": schedules,
    "gof.siren_spatial": siren_kind, "gof.pigan_siren_tall": siren_kind, "gof.pigan_siren_embedding256": siren_kind, "gof.ray_marching": ray_marching,
    "gof.integration": integration, "gof.pigan_rays_integration": pigan_rays_integration, "gof.pigan_render": pigan_render,
    "gof.pigan_forward_carla": pigan_forward_carla,
}
