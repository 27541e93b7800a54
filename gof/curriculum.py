"""GOF's and pi-GAN's curriculums: what changes in stages, by columns, and what changes smoothly with the step (spec: pi-GAN sec. 3.4, GOF sec. 4).

    stage_starts: [0, 20000, 160000]      steps at which the stages begin; a run ends at max_steps
    img_size:     [32, 64, 128]           a column a stage
    batch_size:   [128, 64, 32]
"""
from __future__ import annotations

import math
from dataclasses import dataclass

from common.config import option
from common.errors import InputError

COLUMNS = ("batch_size", "img_size", "batch_split", "gen_lr", "disc_lr", "num_steps")


@dataclass
class Curriculum:
    """The stages and schedules of a training."""

    stage_starts: list[int] = option([0], "steps at which the stages begin, the first 0; the lists below have an entry a stage", low=0)
    batch_size: list[int] = option([16], "pictures a step, over all ranks, by stage", low=1)
    img_size: list[int] = option([32], "side of the pictures, by stage: a power of two", low=4)
    batch_split: list[int] = option([1], "parts that each rank's share of a batch is computed in, to fit memory, by stage", low=1)
    gen_lr: list[float] = option([5e-5], "learning rate of the generator, by stage", low=0)
    disc_lr: list[float] = option([2e-4], "learning rate of the discriminator, by stage", low=0)
    num_steps: list[int] = option([], "pi-GAN's samples on a ray, coarse and as many fine ones, by stage; empty: num_steps_coarse and num_steps_fine", low=3)
    fade_steps: int = option(10_000, "steps over which the discriminator's new layers fade in after a stage begins", low=1)
    topk_interval: int = option(2000, "steps in which the share of fakes that the generator learns from falls by 1 %", low=1)
    topk_v: float = option(0.6, "and its least value; 1: all of them", low=0)
    decay_beta: float = option(1e-5, "how fast the shell shrinks, per step", low=0)
    opacprior_lambda_init: float = option(0.05, "weight of the opacity prior at step 0", low=0)
    opacprior_growth_rate: float = option(5e-6, "how fast that weight grows, per step, up to ten times", low=0)


@dataclass(frozen=True)
class Stage:
    """The entries of one stage, the step it begins at and the step the next one begins at (None for the last)."""

    start: int
    end: int | None
    batch_size: int
    img_size: int
    batch_split: int
    gen_lr: float
    disc_lr: float
    num_steps: int | None


def check(config: Curriculum) -> None:
    """Raises InputError for columns of another length than the stages', stages out of order, or sizes that are no power of two."""
    for name in COLUMNS:
        column = getattr(config, name)
        if len(column) != len(config.stage_starts) and (column or name != "num_steps"):
            raise InputError(f"--{name}: {len(column)} entries for {len(config.stage_starts)} stages (--stage_starts)")
    if config.stage_starts[0] != 0 or any(a >= b for a, b in zip(config.stage_starts, config.stage_starts[1:])):
        raise InputError(f"--stage_starts: expected rising steps from 0, not {config.stage_starts}")
    for side in config.img_size:
        if side & (side - 1):
            raise InputError(f"--img_size {side}: expected a power of two, which the discriminator halves down to 2")


def stage_at(config: Curriculum, step: int) -> Stage:
    """The stage of a step."""
    index = max(i for i, start in enumerate(config.stage_starts) if start <= step)
    end = config.stage_starts[index + 1] if index + 1 < len(config.stage_starts) else None
    entry = lambda name: getattr(config, name)[index] if getattr(config, name) else None
    return Stage(config.stage_starts[index], end, *(entry(name) for name in COLUMNS))


def alpha(config: Curriculum, step: int) -> float:
    """How far the discriminator's newest layers have faded in, 0 to 1: anew where a stage has larger pictures."""
    grown = max(start for i, start in enumerate(config.stage_starts) if start <= step and (i == 0 or config.img_size[i] != config.img_size[i - 1]))
    return min(1.0, (step - grown) / config.fade_steps)


def density_noise(step: int) -> float:
    """Standard deviation of the noise on densities; an occupancy has none."""
    return max(0.0, 1.0 - step / 5000)


def interval(interval_max: float, interval_min: float, decay_beta: float, step: int) -> float:
    """Half the shell's thickness (GOF sec. 3.3)."""
    return max(interval_min, interval_max * math.exp(-decay_beta * step))


def opacity_weight(config: Curriculum, step: int) -> float:
    """Weight of the opacity prior."""
    return config.opacprior_lambda_init * min(10.0, math.exp(min(config.opacprior_growth_rate * step, 10.0)))


def topk_share(config: Curriculum, step: int) -> float:
    """The share of a batch's fakes, those with the largest logits, that the generator learns from (top-k training, Sinha et al., NeurIPS 2020)."""
    return max(0.99 ** (step / config.topk_interval), config.topk_v)
