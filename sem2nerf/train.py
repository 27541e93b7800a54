"""Train Sem2NeRF on label maps and their pictures: python sem2nerf/train.py -c configs/sem2nerf/people.yml

The encoder learns to say which code of a frozen generator shows a label map's face: patches of the field's picture from the true camera are compared with
the same patches of the photo; from random cameras a discriminator alone judges them. Run the same command again to go on where it stopped.
"""
from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import draws
from common.checkpoint import open_checkpoint
from common.config import option, run_program
from common.errors import InputError
from common.march import Draws, March
from common.run import Run, RunConfig, Step, start
from sem2nerf import perceptual
from sem2nerf.data import LAYOUTS, Faces, find
from sem2nerf.discriminator import PatchDiscriminator, side_for
from sem2nerf.look import sheet, view_pictures
from sem2nerf.losses import Weights, code_norm, discriminator_terms, generator_terms, picture_terms, weighted
from sem2nerf.model import ModelConfig, Sem2NeRF, blocks_of, decoder_options, march_options, mixed, model_options, resolve, see_patches, stored_options, view_of
from sem2nerf.patches import crop, diagonal_shifts, free_shifts, least_scale, pattern, scales_of
from sem2nerf.pictures import encoder_input
from sem2nerf.poses import draw_random
from sem2nerf.ranger import Ranger
from sem2nerf.start import begin

OPTIMIZERS = {"ranger": Ranger, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass
class TrainConfig(ModelConfig, Weights, RunConfig):
    """Options of sem2nerf/train.py; the defaults are the release's command for CelebAMask-HQ, its defects repaired."""

    exp_dir: str = option("", "folder of the run, in place of logging_root/name", free=True)
    data_path: str = option("", "folder of the data set; empty: as published for --dataset_type", free=True)
    train_paths_conf: str = option("", "list of the masks to train on, an id a line; empty: a split of our own")
    test_paths_conf: str = option("", "list of the masks to validate on; empty: the rest of that split")
    decoder: str = option("", "the generator to freeze: a run folder or file of gof/train.py, or an author's pi-GAN")
    encoder_weights: str = option("", "start the encoder from the official swin_tiny_patch4_window7_224.pth")
    checkpoint_path: str = option("", "start everything from this checkpoint, of ours or an author's")
    continue_training: bool = option(False, "its step and optimisers too")
    train_decoder: bool = option(False, "the decoder learns as well")
    img_size: int = option(512, "side of the pictures that patches are cropped from", low=2)
    resolution_vol: int = option(128, "side of the patches, and without patch_train of the whole pictures", low=2)
    num_steps: int = option(28, "samples a ray", low=3)
    patch_train: bool = option(True, "train on patches at random scale and place; false: on whole pictures")
    ray_scale_anneal: float = option(0.0019, "how fast the patches' least scale falls, a thousand steps; 0: at once")
    ray_min_scale: float = option(0.125, "least scale of patches, shares of the picture", low=0)
    ray_max_scale: float = option(1.0, "greatest scale", low=0)
    no_ray_random_shift: bool = option(False, "patches stay in the middle of the picture")
    published_patches: bool = option(False, "the release's defect: patches slide along one diagonal only, all of a batch have one scale")
    published: bool = option(False, "every behaviour of the release that is repaired here: all published_... options")
    pigan_train_hs: bool = option(False, "as many fine samples where the coarse weights are")
    pigan_train_lvd: bool = option(False, "colours as seen from the front, from everywhere")
    train_rand_pose_prob: float = option(0.2, "share of the samples that are seen from a random extreme camera, where there is a discriminator", low=0)
    lpips: str = option("alex", "perceptual distance: alex (LPIPS), torchvision's AlexNet file, or a face parser as pretrained/people_parser.safetensors")
    use_cond_dis: bool = option(False, "the discriminator sees the encoder's planes behind the picture")
    learning_rate: float = option(1e-4, "learning rate of the encoder", low=0)
    learning_rate_dis: float = option(2e-5, "learning rate of the discriminator", low=0)
    optim_name: str = option("ranger", "optimiser of both", choices=OPTIMIZERS)
    scheduler_name: str = option("none", "learning rates stay, or fall to 0 along a cosine", choices=("none", "cosine"))
    recompute: bool = option(False, "evaluate the field again in the backward pass instead of keeping its features: less memory, more time", free=True)
    val_interval: int = option(2500, "steps between validations; 0: none", low=0, free=True)
    val_images: int = option(4, "faces that are validated on", low=1, free=True)
    val_latent_mask: str | None = option("last", "blocks of the code that validation takes from the average code, as 7,8; none: none", free=True)
    test_output_size: int = option(128, "side of the pictures of validation and preview", low=2, free=True)
    pigan_infer_ray_step: int = option(28, "samples a ray there, and as many fine ones", low=3, free=True)


def main(config: TrainConfig) -> None:
    """The encoder learns, the discriminator after it; the run folder logging_root/name keeps everything."""
    config = checked(config)
    device = start(config)
    layout, view = LAYOUTS[config.dataset_type], view_of(config, config.img_size if config.patch_train else config.resolution_vol)
    root = config.data_path or layout.root
    faces = Faces(find(root, layout, "train", config.train_paths_conf), view)
    judged = Faces(find(root, layout, "test", config.test_paths_conf)[:config.val_images], view)
    distance = perceptual.load(config.lpips, device) if config.lpips_lambda else None
    model = Sem2NeRF(config).to(device)
    model.decoder.requires_grad_(config.train_decoder)
    optimizer = make_optimizer(config, model, config.learning_rate)
    state, critic = {"model": model, "optimizer": optimizer}, None
    if config.dis_lambda:
        critic = PatchDiscriminator(side_for(config.resolution_vol), 3 + config.input_nc * config.use_cond_dis).to(device)
        optimizer_D = make_optimizer(config, critic, config.learning_rate_dis)
        state |= {"discriminator": critic, "optimizer_D": optimizer_D}
    run = Run(config, state, first_step=begin(config, state))
    for step in run:
        set_rate(optimizer, config.learning_rate * rate_at(config, step.number))
        batch = next_batch(faces, step)

        learn(optimizer, critic, False)
        pairs = []
        for part in step.parts():
            sample = sample_of(config, step, part.slice, batch, device)
            codes, fakes, targets = fakes_of(model, config, sample)
            condition = sample.planes if config.use_cond_dis else None
            average = model.average if config.start_from_latent_avg else None
            terms = generator_terms(fakes, targets, codes, average, config, distance, critic, condition, sample.posed)
            losses = part.share(weighted(terms, config))
            sum(losses.values()).backward()
            pairs.append((part, targets, fakes.detach(), condition))
        run.average_gradients(model)
        run.refuse_non_finite(losses, model)
        optimizer.step()

        d_losses = {}
        if critic is not None:
            set_rate(optimizer_D, config.learning_rate_dis * rate_at(config, step.number))
            learn(optimizer_D, critic, True)
            for part, targets, fakes, condition in pairs:
                d_losses = part.share(discriminator_terms(critic, targets, fakes, condition))
                (config.dis_lambda * sum(d_losses.values())).backward()
            run.average_gradients(critic)
            run.refuse_non_finite(d_losses, critic)
            optimizer_D.step()

        run.log(losses | d_losses, **validation(config, model, judged, distance, step.number + 1))
        run.pictures("faces", lambda: preview(config, model, judged))


# Options

def checked(config: TrainConfig) -> TrainConfig:
    """The config with `exp_dir` spelled out and every empty option of the model filled in. Raises InputError for what is missing or does not go together."""
    if config.exp_dir:
        config = replace(config, logging_root=str(Path(config.exp_dir).parent), name=Path(config.exp_dir).name, exp_dir="")
    if config.published:
        config = replace(config, published_patches=True, published_contour=True)
    if bool(config.decoder) == bool(config.checkpoint_path):
        raise InputError("--decoder: name the generator to freeze, as --decoder PATH, or a whole model to go on from, as --checkpoint_path PATH; not both")
    if config.continue_training and not config.checkpoint_path:
        raise InputError("--continue_training: of which --checkpoint_path?")
    if not 0 < config.ray_min_scale <= config.ray_max_scale <= 1:
        raise InputError(f"--ray_min_scale {config.ray_min_scale}, --ray_max_scale {config.ray_max_scale}: expected shares of the picture, the greater last")
    if not config.dis_lambda:                                  # nothing would judge what random cameras see
        config = replace(config, train_rand_pose_prob=0.0)
    opened = open_checkpoint(config.decoder or config.checkpoint_path)
    known = decoder_options(opened) if config.decoder else model_options(stored_options(opened))
    known.pop("drop_path_rate", None)                          # a matter of the training, not of the model
    config = resolve(config, known, str(opened.path), config.img_size if config.patch_train else config.resolution_vol)
    blocks_of(config.val_latent_mask, config.layers)
    return config


def make_optimizer(config: TrainConfig, module: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimiser of a network's parameters that learn."""
    return OPTIMIZERS[config.optim_name]([parameter for parameter in module.parameters() if parameter.requires_grad], lr=lr)


def rate_at(config: TrainConfig, step: int) -> float:
    """The share of the learning rates that a step has."""
    return 0.5 * (1 + math.cos(math.pi * step / config.max_steps)) if config.scheduler_name == "cosine" else 1.0


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def learn(optimizer: torch.optim.Optimizer, critic: nn.Module | None, learns: bool) -> None:
    """Forget the old gradients; the discriminator learns or holds still."""
    optimizer.zero_grad()
    if critic is not None:
        critic.requires_grad_(learns)


# A step

@dataclass(frozen=True)
class Sample:
    """A part of a batch and all that is drawn for it: encoder input, targets, cameras [pitch, yaw], which of them are the true ones, pattern, uniforms."""

    planes: Tensor
    targets: Tensor
    angles: Tensor
    posed: Tensor
    grid: Tensor | None
    draws: Draws
    drop_path: Tensor | None


def next_batch(faces: Faces, step: Step) -> dict[str, Tensor]:
    """The step's global batch; the next one begins to be decoded."""
    later = replace(step, number=step.number + 1, images=step.images + step.global_batch)
    batch = faces.batch(step.indices(len(faces)))
    faces.expect(later.indices(len(faces)))
    return batch


def sample_of(config: TrainConfig, step: Step, rows: slice, batch: dict[str, Tensor], device: torch.device) -> Sample:
    """A part of the step's batch on the device; every sample draws from generators of its own, so that no rank draws for another."""
    numbers = range(rows.start, rows.stop)
    sources = lambda purpose, device="cpu": [draws.generator(step.seed, step.images + i, purpose, device) for i in numbers]
    each = lambda sources, *shape: torch.stack([torch.rand(*shape, generator=source, device=source.device) for source in sources])
    aside = each(sources("aside"), 1)[:, 0] < config.train_rand_pose_prob
    elsewhere = torch.cat([draw_random(1, config.pigan_curriculum_type, source) for source in sources("camera")])
    angles = torch.where(aside[:, None], elsewhere, batch["angles"][rows])
    by, rays = training_march(config), sources("rays", device)
    on_rays = lambda count: each(rays, config.resolution_vol**2, count) if count else None
    march_draws = Draws(coarse=None if by.surface else on_rays(by.coarse), surface=on_rays(by.surface), fine=on_rays(by.fine))
    return Sample(
        encoder_input(batch["planes"][rows].to(device), config.label_nc), batch["targets"][rows].to(device), angles.to(device), ~aside.to(device),
        pattern_of(config, step, each(sources("patch"), 3)).to(device) if config.patch_train else None, march_draws,
        each(sources("depth"), 2 * sum(config.depths)).to(device) if config.drop_path_rate else None)


def pattern_of(config: TrainConfig, step: Step, u: Tensor) -> Tensor:
    """The patches (B, V, V, 2) of uniforms u (B, 3)."""
    least = least_scale(step.number, config.ray_scale_anneal, config.ray_min_scale, config.ray_max_scale)
    shared = torch.rand(2, generator=step.generator("patches")).expand(len(u), 2)
    scales = scales_of(shared[:, 0] if config.published_patches else u[:, 0], least, config.ray_max_scale)
    if config.no_ray_random_shift:
        return pattern(config.resolution_vol, scales)
    shifts = diagonal_shifts(shared[:, 1], (u[:, 1] < 0.5).float(), scales) if config.published_patches else free_shifts(u[:, 1:], scales)
    return pattern(config.resolution_vol, scales, shifts)


def training_march(config: TrainConfig) -> March:
    """How rays are sampled in training."""
    return march_options(config, config.num_steps, config.pigan_train_hs, config.pigan_train_lvd, training=True)


def fakes_of(model: Sem2NeRF, config: TrainConfig, sample: Sample) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """The codes of a sample, the pictures (B, 3, V, V) of their fields, and what the true pictures show there."""
    codes = model.codes(sample.planes, sample.drop_path)
    side = config.img_size if config.patch_train else config.resolution_vol
    fakes = see_patches(model, model.scene(codes), sample.angles, sample.grid, side, training_march(config), sample.draws, config.recompute)
    return codes, fakes, sample.targets if sample.grid is None else crop(sample.targets, sample.grid)


# Looking at it

@torch.no_grad()
def validation(config: TrainConfig, model: Sem2NeRF, judged: Faces, distance: nn.Module | None, step: int) -> dict[str, float]:
    """{"val/loss_l2", ...} of whole pictures of the held-out faces, when it is their turn; their colours are the average code's."""
    if not config.val_interval or (step % config.val_interval and step != config.max_steps):
        return {}
    side, by, terms = config.test_output_size, march_options(config, config.pigan_infer_ray_step), []
    for i in range(len(judged)):
        batch, planes = judged_input(config, model, judged, [i])
        codes = mixed(model.codes(planes), model.average, blocks_of(config.val_latent_mask, config.layers), config.hidden_dim)
        seen = view_pictures(model, model.scene(codes), batch["angles"], side, by)
        targets = torch.nn.functional.interpolate(batch["targets"], size=(side, side), mode="nearest").to(seen)
        norm = {"loss_w_norm": code_norm(codes, model.average if config.start_from_latent_avg else None)}
        terms.append(weighted(picture_terms(seen, targets, config, distance) | norm, config))
    return {f"val/{name}": sum(float(each[name]) for each in terms) / len(terms) for name in terms[0]}


def preview(config: TrainConfig, model: Sem2NeRF, judged: Faces) -> np.ndarray:
    """A sheet of the held-out faces."""
    return sheet(model, *judged_input(config, model, judged, range(len(judged))), config.test_output_size, config.pigan_infer_ray_step)


def judged_input(config: TrainConfig, model: Sem2NeRF, judged: Faces, rows: Iterable[int]) -> tuple[dict[str, Tensor], Tensor]:
    """Some held-out faces, and the encoder's input of them."""
    batch = judged.batch(torch.tensor(list(rows)))
    return batch, encoder_input(batch["planes"].to(model.latent_avg.device), config.label_nc)


if __name__ == "__main__":
    run_program(main, TrainConfig, __doc__)
