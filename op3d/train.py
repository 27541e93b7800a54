"""Train OP3D, or EG3D, on pictures with camera labels: python op3d/train.py -c configs/op3d/ffhq.yml --data FFHQ_512.zip

A generator renders a random code from the camera of a random picture, and a discriminator that knows the camera tells its pictures from real ones. Penalties
come lazily: smooth densities every few steps, the discriminator's gradient every 16. Run the same command again to go on where it stopped.
"""
from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import draws as seeded
from common import ranks
from common.cameras import from_eg3d_label
from common.checkpoint import numbered
from common.config import option, run_program
from common.errors import InputError
from common.images import contact_sheet
from common.run import Part, Run, RunConfig, Step, start
from op3d.augment import BGC, Adaptive, Seeded, augment
from op3d.data import Pictures, to_pixels
from op3d.discriminator import Discriminator
from op3d.files import restore
from op3d.losses import LossConfig, Moment, Pair, augmented, density_terms, discriminator_terms, fake, generator_terms, moment, r1_terms, real, swapped
from op3d.model import LABELS, Draws, Generator, ModelConfig
from op3d.schedules import ema_beta, lazy
from op3d.superresolution import HALF_CLAMP

DENSITY_POINTS, MONOTONIC_POINTS = 1000, 2000                 # of a sample
RESUMED_ADA = 200.0                                           # thousand images in which p of a resumed training could go from 0 to 1
LARGEST = 1e5                                                 # of a gradient that left half precision's range


@dataclass
class TrainConfig(ModelConfig, LossConfig, RunConfig):
    """Options of op3d/train.py."""

    data: str = option(..., "folder or zip of pictures with dataset.json", free=True)
    mirror: bool = option(False, "also the mirrored pictures, cameras mirrored too")
    max_size: int | None = option(None, "only so many pictures (the release: 110000)")
    aug: str = option("noaug", "augmentation of what the discriminator sees: none, adapted, or of a fixed probability", choices=("noaug", "ada", "fixed"))
    p: float = option(0.2, "its probability, for fixed", low=0)
    target: float = option(0.6, "mean sign of D(real) that ada aims at")
    ada_kimg: float = option(500.0, "thousand images in which its probability could go from 0 to 1", low=0)
    resume: str = option("", "start from these networks: a run folder, a file of ours or an author's .pkl")
    resume_blur: bool = option(False, "a resumed training blurs and swaps cameras anew")
    freezed: int = option(0, "layers of the discriminator, from the pictures on, that stay as they are", low=0)
    glr: float = option(0.0025, "learning rate of the generator", low=0)
    dlr: float = option(0.002, "of the discriminator", low=0)
    betas: list[float] = option([0.0, 0.99], "Adam's decay rates", low=0)
    mbstd_group: int = option(4, "pictures that the discriminator compares with one another", low=1)
    d_num_fp16_res: int = option(4, "its largest blocks in half precision on a GPU", low=0)
    disc_c_noise: float = option(0.0, "noise on the labels that it sees, in their standard deviations", low=0)
    density_reg_every: int = option(4, "steps between penalties of the density", low=1)
    d_reg_every: int = option(16, "steps between penalties of the discriminator's gradient", low=1)
    ema_kimg: float | None = option(None, "thousand images in which averaged weights forget half; none: 10 / 32 of the batch")
    ema_rampup: float = option(0.05, "or this part of the images seen, if that is less", low=0)
    published_mirror: bool = option(False, "the release's defect: mirrored pictures keep their cameras")
    published: bool = option(False, "every behaviour of the release that is repaired here: all published_... options")


def main(config: TrainConfig) -> None:
    """Two players in turn; the run folder logging_root/name keeps everything."""
    config = checked(config)
    device = start(config)
    pictures = pictures_of(config)
    state = players(config, device)
    generator, discriminator, generator_ema, optimizer_G, optimizer_D, ada = state.values()
    frozen = [parameter for parameter in discriminator.parameters() if not parameter.requires_grad]
    run = Run(config, state)
    for step in run:
        now = moment(config, step.images)
        reals, real_labels = real_batch(pictures, step)
        batch = partial(Batch, config, step, pictures, device=device)

        learn(generator, discriminator)
        for part in step.parts():
            one = batch("G", part.slice)
            terms = generator_terms(discriminator, augmented_by(ada, one.fakes(generator, now), step, part, "G"), one.seen_labels())
            g_losses = part.share({"G/loss": terms["G/loss"].mean()})
            g_losses["G/loss"].backward()
        update(run, optimizer_G, generator, g_losses, config)
        losses = dict(g_losses)
        if config.density_reg and step.number % config.density_reg_every == 0:
            for part in step.parts():
                density = part.share({"G/density": batch("density", part.slice).density(generator, now)})
                (density["G/density"] * config.density_reg_every).backward()
            update(run, optimizer_G, generator, density, config)
            losses |= density

        learn(discriminator, generator, frozen)
        for part in step.parts():
            one = batch("D", part.slice)
            with torch.no_grad():
                fakes = augmented_by(ada, one.fakes(generator, now, track=True), step, part, "D fake")
            shown = augmented_by(ada, real(reals[part.slice].to(device), now, config.filter_mode), step, part, "D real")
            terms = discriminator_terms(discriminator, fakes, shown, one.seen_labels(), real_labels[part.slice].to(device))
            d_losses = part.share({"D/loss": terms["D/loss"].mean(), "D/sign": terms["scores/real"].detach().sign().mean()})
            d_losses["D/loss"].backward()
        update(run, optimizer_D, discriminator, d_losses, config)
        ada.see(float(ranks.total(d_losses["D/sign"].clone())), step.global_batch)
        agree(generator.backbone.mapping.w_avg)
        losses |= d_losses
        if config.gamma and step.number % config.d_reg_every == 0:
            for part in step.parts():
                shown = augmented_by(ada, real(reals[part.slice].to(device), now, config.filter_mode), step, part, "D real")
                terms = r1_terms(discriminator, shown, real_labels[part.slice].to(device), config.gamma, config.dual_discrimination)
                penalty = part.share({"D/reg": terms["D/reg"].mean()})
                (penalty["D/reg"] * config.d_reg_every).backward()
            update(run, optimizer_D, discriminator, penalty, config)
            losses |= penalty

        seen = step.images + step.global_batch
        average(generator_ema, generator, ema_beta(seen, step.global_batch, config.ema_kimg or step.global_batch * 10 / 32,
                                                   None if config.resume else config.ema_rampup))
        run.log(losses, **({"ada_p": ada.p} if config.aug != "noaug" and step.number % config.log_every == 0 else {}))
        run.pictures("samples", lambda side=now.side: preview(generator_ema, pictures.labels, side))


# Options

def pictures_of(config: TrainConfig) -> Pictures:
    """The data, which must have cameras and the size that is asked for. Raises InputError."""
    pictures = Pictures(config.data, True, config.mirror, config.max_size, config.seed, config.published_mirror)
    if pictures.side != config.img_resolution:
        raise InputError(f"--img_resolution {config.img_resolution}: the pictures of {config.data} have {pictures.side} pixels a side")
    if pictures.labels.shape[1] != LABELS:
        raise InputError(f"{config.data}/dataset.json: labels of {pictures.labels.shape[1]} numbers, expected {LABELS}: cam2world and intrinsics")
    return pictures


def players(config: TrainConfig, device: torch.device) -> dict:
    """What a checkpoint holds: the networks, at their start, and the optimisers, in the order that `main` takes them."""
    generator = Generator(config).to(device)
    clamp = HALF_CLAMP if config.d_num_fp16_res else None
    discriminator = Discriminator(config.img_resolution, config.label_dim, config.cbase, config.cmax, config.d_num_fp16_res, clamp, config.mbstd_group,
                                  config.freezed).to(device)
    networks = {"generator": generator, "discriminator": discriminator, "generator_ema": deepcopy(generator).eval().requires_grad_(False)}
    if config.resume and not numbered(Path(config.logging_root) / config.name / "checkpoints"):
        restore(config.resume, networks)
    adam = lambda network, rate, every: torch.optim.Adam([p for p in network.parameters() if p.requires_grad], **lazy(rate, tuple(config.betas), every))
    kimg = RESUMED_ADA if config.resume else config.ada_kimg
    return networks | {
        "optimizer_G": adam(generator, config.glr, config.density_reg_every if config.density_reg else 1),
        "optimizer_D": adam(discriminator, config.dlr, config.d_reg_every if config.gamma else 1),
        "ada": Adaptive(config.p if config.aug == "fixed" else 0.0, config.target if config.aug == "ada" else None, kimg)}


def checked(config: TrainConfig) -> TrainConfig:
    """The config with what follows from other options. Raises InputError for options that exclude each other."""
    if config.resume and not config.resume_blur:
        config = replace(config, blur_fade_kimg=0.0, gpc_reg_fade_kimg=0.0)
    if config.published:
        config = replace(config, published_scale=True, published_axes=True, published_limits=True, published_mesh=True, published_mirror=True)
    if config.model == "op3d_conditional":
        raise InputError("--model op3d_conditional: trained with body conditions, which this program does not read")
    if len(config.betas) != 2:
        raise InputError(f"--betas: expected two numbers, not {config.betas}")
    if not config.gen_pose_cond:
        config = replace(config, gpc_reg_prob=None)
    last = config.neural_rendering_resolution_final or config.neural_rendering_resolution_initial
    if config.sr_module == "none" and last != config.img_resolution:
        raise InputError(f"--sr_module none: the rendered pictures of {last} pixels are the pictures, but --img_resolution is {config.img_resolution}")
    return replace(config, neural_rendering_resolution=last)


# A step

@dataclass(frozen=True)
class Batch:
    """What a player draws for some rows of a step's batch: every picture from a generator of its own, so that no rank draws for another."""

    config: TrainConfig
    step: Step
    pictures: Pictures
    purpose: str
    rows: slice
    device: torch.device

    def source(self, i: int) -> torch.Generator:
        """The generator of picture i of the batch."""
        return seeded.generator(self.step.seed, self.step.images + i, f"fake {self.purpose}", self.device)

    def drawn(self, now: Moment) -> tuple[Tensor, Tensor, Tensor, list[torch.Generator]]:
        """Latents (b, Z), labels (b, L) of random pictures, those that the mapping sees, and the generators."""
        sources = [self.source(i) for i in range(self.rows.start, self.rows.stop)]
        z = torch.stack([torch.randn(self.config.z_dim, generator=source, device=self.device) for source in sources])
        labels = self.labels()
        u = self.step.generator(f"swap {self.purpose}")
        u = torch.rand(() if self.purpose == "density" else (self.step.global_batch, 1), generator=u)
        seen = swapped(labels, u, now.swap)
        return z, labels[self.rows].to(self.device), seen[self.rows].to(self.device), sources

    def labels(self) -> Tensor:
        """Labels (B, L) of random pictures for the whole batch."""
        index = torch.randint(len(self.pictures), (self.step.global_batch,), generator=self.step.generator(f"labels {self.purpose}"))
        return torch.from_numpy(self.pictures.labels)[index]

    def fakes(self, generator: Generator, now: Moment, track: bool = False) -> Pair:
        """Generated pictures."""
        z, labels, seen, sources = self.drawn(now)
        each = lambda count: torch.stack([torch.rand(now.side**2, count, generator=source, device=self.device) for source in sources])
        given = Draws(each(self.config.depth_resolution), each(self.config.depth_resolution_importance))
        return fake(generator, z, seen, labels, now, given, sources, track)

    def density(self, generator: Generator, now: Moment) -> Tensor:
        """The density's penalty."""
        z, _, seen, sources = self.drawn(now)
        each = lambda draw, count: torch.stack([draw(count, 3, generator=source, device=self.device) for source in sources])
        points, moves = each(torch.rand, DENSITY_POINTS), each(torch.randn, DENSITY_POINTS)
        more = each(torch.rand, MONOTONIC_POINTS) if self.config.reg_type.startswith("monotonic") else None
        return density_terms(generator, self.config, z, seen, points, moves, more, sources)["G/density"]

    def seen_labels(self) -> Tensor:
        """Labels (b, L) as the discriminator sees them of generated pictures."""
        spread = torch.from_numpy(self.pictures.raw_labels.std(0))
        labels = self.labels()[self.rows].to(self.device)
        noise = torch.randn(self.step.global_batch, labels.shape[1], generator=self.step.generator(f"label noise {self.purpose}"))[self.rows]
        return labels + self.config.disc_c_noise * (noise * spread).to(labels)


def real_batch(pictures: Pictures, step: Step) -> tuple[Tensor, Tensor]:
    """The step's global batch of real pictures and labels; the next one begins to be decoded."""
    later = replace(step, number=step.number + 1, images=step.images + step.global_batch)
    found = pictures.batch(step.indices(len(pictures)))
    pictures.expect(later.indices(len(pictures)))
    return found


def augmented_by(ada: Adaptive, pair: Pair, step: Step, part: Part, purpose: str) -> Pair:
    """Both pictures under the same augmentation, with the probability of the moment."""
    if ada.p == 0 and ada.target is None:
        return pair
    draws = Seeded(step.generator(f"augment {purpose}"), step.global_batch, part.slice)
    return augmented(pair, lambda pictures: augment(pictures, BGC, ada.p, draws))


def learn(player: nn.Module, other: nn.Module, frozen: list[nn.Parameter] = ()) -> None:
    """One player learns, but for what is frozen; the other holds still."""
    player.requires_grad_(True).train()
    other.requires_grad_(False).train()
    for parameter in frozen:
        parameter.requires_grad_(False)


def update(run: Run, optimizer: torch.optim.Optimizer, player: nn.Module, losses: dict[str, Tensor], config: TrainConfig) -> None:
    """Average the gradients over the ranks, refuse what is not finite (of half precision bound it, as published), step."""
    run.average_gradients(player)
    if run.device.type == "cuda" and (config.d_num_fp16_res or config.sr_num_fp16_res or config.g_num_fp16_res):
        for parameter in player.parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(nan=0.0, posinf=LARGEST, neginf=-LARGEST)
    run.refuse_non_finite(losses, player)
    optimizer.step()
    optimizer.zero_grad()


def agree(average: Tensor) -> None:
    """Every rank's moving average becomes the mean of all."""
    average.copy_(ranks.total(average.clone()) / ranks.count())


@torch.no_grad()
def average(ema: nn.Module, network: nn.Module, beta: float) -> None:
    """Averaged weights keep `beta` of themselves; buffers are copied."""
    for old, new in zip(ema.parameters(), network.parameters()):
        old.lerp_(new, 1 - beta)
    for old, new in zip(ema.buffers(), network.buffers()):
        old.copy_(new)


# Looking at it

def preview(generator: Generator, labels: np.ndarray, side: int, count: int = 4) -> np.ndarray:
    """A sheet of some codes, always the same, from cameras of the data: the pictures, the rendered ones, and depth, near ones light."""
    device = next(generator.parameters()).device
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
    label = torch.from_numpy(labels[np.arange(count) * len(labels) // count]).to(device)
    seen = generator.pictures(generator.scene(generator.codes(z, label)), from_eg3d_label(label), side)
    depth = -seen["image_depth"].expand(-1, 3, -1, -1)
    low, high = depth.amin(), depth.amax()
    large = lambda x: nn.functional.interpolate(x, size=seen["image"].shape[2:], mode="nearest")
    rows = [seen["image"], large(seen["image_raw"]), large((depth - low) / (high - low).clamp_min(1e-8) * 2 - 1)]
    return contact_sheet([picture for row in rows for picture in to_pixels(row)], count)


if __name__ == "__main__":
    run_program(main, TrainConfig, __doc__)
