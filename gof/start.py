"""Where a training begins: at another's weights, or at a ball.

Nothing in the loss says which way a face bulges; the release picks an early run that came out right. A field that begins as a ball in front of every camera,
whatever its code, bulges outwards from the start.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from common.checkpoint import load_strict, numbered, open_checkpoint
from common.config import option
from common.draws import generator as seeded
from common.gan import Ema
from common.run import RunConfig
from gof.model import Generator, ModelConfig

BALL_POINTS, BALL_SCENES, BALL_RATE = 1024, 4, 3e-4
SHARPNESS = 500.0                                             # of the ball's edge: logits a world unit


@dataclass
class StartConfig:
    """Where the weights come from."""

    load_dir: str = option("", "start from these networks: a run folder, a checkpoint of ours or the authors' files; their optimisers too, if there")
    load_dict: bool = option(False, "of the release; both kinds of its files are told apart by content", free=True)
    set_step: int = option(0, "step to begin at, with load_dir", low=0)
    smooth: float = option(1.0, "without load_dir: times the sine layers' first weights, 1 as published; a field of smaller ones begins smoother", low=0)
    ball_steps: int = option(0, "without load_dir: steps that first make every code's field a ball, so that faces bulge outwards", low=0)
    ball_radius: float = option(0.07, "its radius, world units; the box is 0.24 wide", low=0)


def begin(config, state: dict) -> None:
    """Give the networks, averages and optimisers of a new run their start; a run that goes on has its own. Raises InputError."""
    if numbered(Path(config.logging_root) / config.name / "checkpoints"):
        return
    if config.load_dir:
        restore(config, state)
        return
    with torch.no_grad():
        for layer in [*state["generator"].siren.network, state["generator"].siren.color_layer_sine]:
            layer.layer.weight *= config.smooth
    begin_as_ball(state["generator"], config)
    for name in ("ema", "ema2"):
        state[name].shadow = Ema(state["generator"], 0.0).shadow


def restore(config, state: dict) -> None:
    """Load what `load_dir` holds of each state; the generator at least."""
    if Path(config.load_dir).is_dir() and not numbered(Path(config.load_dir) / "checkpoints") and not numbered(config.load_dir):
        from gof.published import states

        found = states(config.load_dir, state)
    else:
        found = open_checkpoint(config.load_dir).data
    for name in state.keys() & found.keys():
        load_strict(state[name], found[name], f"{config.load_dir}: {name}")


def begin_as_ball(generator: Generator, config: RunConfig | ModelConfig) -> None:
    """Fit the field's occupancy to a ball about the origin, for random codes, with its mapping network."""
    from tqdm import trange

    siren = generator.siren
    device = siren.final_layer.weight.device
    optimizer = torch.optim.Adam(siren.parameters(), lr=BALL_RATE)
    for step in trange(config.ball_steps, desc="a ball to begin with", dynamic_ncols=True, leave=False):
        draw = seeded(config.seed, step, "ball")
        z = torch.randn(BALL_SCENES, config.latent_dim, generator=draw).to(device)
        points = (torch.rand(BALL_SCENES, BALL_POINTS, 3, generator=draw) - 0.5).mul(0.24).to(device)
        optimizer.zero_grad()
        logits = siren.density(siren.scene(*siren.mapping(z)), points)
        ball_loss(logits[..., 0], points, config.ball_radius).backward()
        optimizer.step()


def ball_loss(logits: Tensor, points: Tensor, radius: float) -> Tensor:
    """How far occupancy logits (B, P) at points (B, P, 3) are from a ball's, whose edge is as soft as SHARPNESS says."""
    return binary_cross_entropy_with_logits(logits, (SHARPNESS * (radius - points.norm(dim=-1))).sigmoid())
