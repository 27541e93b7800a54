"""Train GOF, or the pi-GAN it stands on, on unposed pictures: python gof/train.py -c configs/gof/people.yml   (or --curriculum CelebA)

A generator renders a random code from a random camera; a discriminator tells its pictures from real ones and reads the camera off them. Stages of growing
pictures, a shell round the surface that shrinks, a prior that makes occupancies decide. Run the same command again to go on where it stopped.
"""
from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import draws
from common.config import option, run_program
from common.errors import InputError, exit_codes
from common.gan import Ema
from common.march import Draws
from common.poses import draw_angles
from common.run import Run, RunConfig, Step, start
from gof import curriculum
from gof.curriculum import Curriculum, stage_at
from gof.data import TRANSFORMS, Pictures
from gof.discriminators import KINDS, Discriminator
from gof.losses import Fakes, Weights, discriminator_losses, fake, generator_losses
from gof.metrics import TrainingJudge, judge_of
from gof.model import Generator, ModelConfig, curriculum_path, march_options
from gof.start import StartConfig, begin

MAPPING_RATE = 0.05                                           # of the mapping network, with unique_lr


@dataclass
class TrainConfig(Curriculum, ModelConfig, Weights, StartConfig, TrainingJudge, RunConfig):
    """Options of gof/train.py; the defaults are the release's CelebA curriculum, its defects repaired."""

    output_dir: str = option("", "folder of the run, in place of logging_root/name", free=True)
    data_root: str = option("./data", "folder or EG3D zip of pictures", free=True)
    transform: str = option("people", "how pictures are cropped and resized", choices=TRANSFORMS)
    mirror: bool = option(True, "mirror half of the real pictures, as published; false where light or hair have a side")
    discriminator: str = option("ProgressiveEncoderDiscriminator", "the other network", choices=KINDS)
    discriminator_width: float = option(1.0, "times its published channels", low=0)
    betas: list[float] = option([0.0, 0.9], "Adam's decay rates", low=0)
    weight_decay: float = option(0.0, "Adam's weight decay", low=0)
    grad_clip: float = option(1.0, "largest norm of a network's gradient", low=0)
    unique_lr: bool = option(True, "the mapping network learns at a twentieth of gen_lr")
    r1_every: int = option(1, "steps between two gradient penalties, each of which counts as many times; 1 as published", low=1)
    ema_decay: float = option(0.999, "decay of the weights' average that samples are drawn from; a second one keeps 0.9999", low=0)
    amp: bool = option(False, "half precision in the discriminator, on a GPU; never in the field")
    published_unique_lr: bool = option(False, "the release's defect: unique_lr changes nothing")
    published_batch_split: bool = option(False, "the release's defect: the parts of a batch add up in the generator instead of averaging")
    published: bool = option(False, "every behaviour of the release that is repaired here: all published_... options")


def main(config: TrainConfig) -> None:
    """Two players in turn; the run folder logging_root/name keeps everything."""
    config = checked(config)
    device = start(config)
    pictures = Pictures(config.data_root, config.transform)
    generator = Generator(config).to(device)
    discriminator = Discriminator(config.discriminator, config.discriminator_width).to(device)
    ema, ema2 = Ema(generator, config.ema_decay), Ema(generator, 0.9999)
    optimizer_G, optimizer_D = adam(rate_groups(generator, config), config), adam([{"params": list(discriminator.parameters()), "rate": 1.0}], config)
    rest = {"optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp and device.type == "cuda")
    state = {"generator": generator, "discriminator": discriminator, "ema": ema, "ema2": ema2, **rest, "scaler": scaler}
    begin(config, state)
    run = Run(config, state, lambda step: sizes(config, step), config.set_step)
    judge = judge_of(config, pictures.folder, generator, ema, run.folder)
    for step in run:
        stage, alpha = stage_at(config, step.number), curriculum.alpha(config, step.number)
        set_rates(optimizer_G, stage.gen_lr)
        set_rates(optimizer_D, stage.disc_lr)
        reals = real_pictures(pictures, config, step)

        learn(optimizer_D, discriminator, generator)
        for part in step.parts():
            fakes = fakes_of(generator, config, step, part.slice, "D", device)
            with torch.autocast(device.type, enabled=scaler.is_enabled()):
                d_losses = discriminator_losses(discriminator, config, reals[part.slice].to(device), fakes, alpha, scaler.get_scale(),
                                                with_r1=config.r1_every * (step.number % config.r1_every == 0))
            d_losses = part.share(d_losses)
            scaler.scale(sum(d_losses.values())).backward()
        update(run, optimizer_D, discriminator, d_losses, scaler, config.grad_clip)

        learn(optimizer_G, generator, discriminator)
        for part in step.parts():
            fakes = fakes_of(generator, config, step, part.slice, "G", device)
            with torch.autocast(device.type, enabled=scaler.is_enabled()):
                share, opacity = curriculum.topk_share(config, step.number), opacity_weight(config, step.number)
                g_losses = generator_losses(discriminator, config, fakes, alpha, share, opacity)
            g_losses = part.share(g_losses)
            scaler.scale(sum(g_losses.values()) * (stage.batch_split if config.published_batch_split else 1)).backward()
        update(run, optimizer_G, generator, g_losses, scaler, config.grad_clip)
        scaler.update()

        ema.update(generator)
        ema2.update(generator)
        run.log(d_losses | g_losses, **judge(step.number + 1))
        run.pictures("samples", lambda side=stage.img_size: preview(generator, ema, side))


# Options

def checked(config: TrainConfig) -> TrainConfig:
    """The config with `published` and `output_dir` spelled out. Raises InputError for options that exclude each other."""
    curriculum.check(config)
    if config.output_dir:
        config = replace(config, logging_root=str(Path(config.output_dir).parent), name=Path(config.output_dir).name, output_dir="")
    if config.published:
        config = replace(config, published_search_range=True, published_depth=True, published_opacity_prior=True, published_normal_loss=True,
                         published_unique_lr=True, published_batch_split=True)
    if len(config.betas) != 2:
        raise InputError(f"--betas: expected two numbers, not {config.betas}")
    if config.pos_lambda and not KINDS[config.discriminator].encodes:
        raise InputError(f"--pos_lambda {config.pos_lambda}: {config.discriminator} reads no cameras; use --pos_lambda 0")
    if config.normal_lambda and not config.surface_sample:
        raise InputError(f"--normal_lambda {config.normal_lambda}: without --surface_sample there are no normals to smooth; use --normal_lambda 0")
    if config.set_step and not config.load_dir:
        raise InputError(f"--set_step {config.set_step}: without --load_dir a run begins at step 0")
    return config


def sizes(config: TrainConfig, step: int) -> tuple[int, int]:
    """The pictures of a step, and the parts that each rank computes its share in."""
    stage = stage_at(config, step)
    return stage.batch_size, stage.batch_split * config.accumulate


def rate_groups(generator: Generator, config: TrainConfig) -> list[dict]:
    """The generator's parameters with their shares of gen_lr."""
    if not config.unique_lr or config.published_unique_lr:
        return [{"params": list(generator.parameters()), "rate": 1.0}]
    slow = {id(parameter) for parameter in generator.siren.mapping_network.parameters()}
    split = lambda chosen: [parameter for parameter in generator.parameters() if (id(parameter) in slow) == chosen]
    return [{"params": split(False), "rate": 1.0}, {"params": split(True), "rate": MAPPING_RATE}]


def adam(groups: list[dict], config: TrainConfig) -> torch.optim.Adam:
    """Adam over groups {"params", "rate"}."""
    return torch.optim.Adam(groups, lr=0.0, betas=tuple(config.betas), weight_decay=config.weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its share of the stage's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


# A step

def real_pictures(pictures: Pictures, config: TrainConfig, step: Step) -> Tensor:
    """The step's global batch of real pictures; the next one begins to be decoded."""
    later = replace(step, number=step.number + 1, images=step.images + step.global_batch, global_batch=sizes(config, step.number + 1)[0])
    flips = lambda step: torch.rand(step.global_batch, generator=step.generator("flips")) < 0.5 * config.mirror
    wanted = lambda step: (step.indices(len(pictures)), stage_at(config, step.number).img_size, flips(step))
    reals = pictures.batch(*wanted(step))
    pictures.expect(*wanted(later))
    return reals


def fakes_of(generator: Generator, config: TrainConfig, step: Step, rows: slice, player: str, device: torch.device) -> Fakes:
    """The generated pictures of a part of the step's batch: for D without gradient, for G with it and with what its priors need.

    Every picture draws from a generator of its own, so that no rank draws for another.
    """
    stage = stage_at(config, step.number)
    side, noise = stage.img_size, curriculum.density_noise(step.number)
    shell = curriculum.interval(config.interval_max, config.interval_min, config.decay_beta, step.number)
    by = march_options(config, shell, training=True, num_steps=stage.num_steps)
    sources = [draws.generator(step.seed, step.images + i, f"fake {player}", device) for i in range(rows.start, rows.stop)]
    each = lambda draw, *shape: torch.stack([draw(*shape, generator=source, device=device) for source in sources])
    z = each(torch.randn, config.latent_dim)
    where = config.h_mean, config.h_stddev, config.v_mean, config.v_stddev
    angles = torch.cat([draw_angles(config.sample_dist, 1, *where, source, device) for source in sources])
    rays, normals = side * side, config.normal_lambda and player == "G"
    march_draws = Draws(
        coarse=None if by.surface else each(torch.rand, rays, by.coarse),
        surface=each(torch.rand, rays, by.surface) if by.surface else None,
        fine=each(torch.rand, rays, by.fine) if by.fine else None,
        coarse_noise=0.0 if by.occupancy or not noise else noise * each(torch.randn, rays, by.coarse),
        final_noise=0.0 if by.occupancy or not noise else noise * each(torch.randn, rays, (by.surface or by.coarse) + by.fine))
    with torch.set_grad_enabled(player == "G"):
        return fake(generator, z, angles, side, by, march_draws, each(torch.rand, rays, 3) if normals else None, config.h_sample)


def opacity_weight(config: TrainConfig, step: int) -> float:
    """Weight of the opacity prior at a step; none for a density."""
    return curriculum.opacity_weight(config, step) if config.with_opacprior and config.pred_occ else 0.0


def learn(optimizer: torch.optim.Optimizer, player: nn.Module, other: nn.Module) -> None:
    """One player learns, the other holds still."""
    player.requires_grad_(True)
    other.requires_grad_(False)
    optimizer.zero_grad()


def update(run: Run, optimizer: torch.optim.Optimizer, player: nn.Module, losses: dict[str, Tensor], scaler: torch.amp.GradScaler, grad_clip: float) -> None:
    """Average the gradients over the ranks, refuse what is not finite (under AMP the scaler skips it), clip, step."""
    run.average_gradients(player)
    scaler.unscale_(optimizer)
    run.refuse_non_finite(losses, nn.Module() if scaler.is_enabled() else player)
    nn.utils.clip_grad_norm_(player.parameters(), grad_clip)
    scaler.step(optimizer)


# Looking at it

def preview(generator: Generator, ema: Ema, side: int) -> np.ndarray:
    """A picture of eight codes, always the same: frontal and tilted, normals and depth, drawn from the averaged weights."""
    from gof.look import sample_sheet

    with ema.applied(generator):
        return sample_sheet(generator, range(8), side)


def with_curriculum(argv: list[str]) -> list[str]:
    """The command line with `--curriculum NAME` spelled as the config file of that name. Raises InputError."""
    for i, word in enumerate(argv):
        name = argv[i + 1] if word == "--curriculum" and i + 1 < len(argv) else word.removeprefix("--curriculum=") if word.startswith("--curriculum=") else None
        if name:
            return argv[:i] + ["--config_filepath", str(curriculum_path(name))] + argv[i + 1 + (word == "--curriculum"):]
    return argv


if __name__ == "__main__":
    with exit_codes():
        run_program(main, TrainConfig, __doc__, with_curriculum(sys.argv[1:]))
