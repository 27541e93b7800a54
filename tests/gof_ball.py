"""A generator without training whose field is known: a ball for every code, coloured by position, direction and code.

Its surface is where cos(k x) + cos(k y) + cos(k z) = 2 + cos(k RADIUS), with k so small that this is a sphere to 0.3 %. The first layer makes the cosines and
sines of the coordinates, the second adds the cosines up, less the level, and all others hand on what they get: sin(sin(...)) keeps the sign.
"""
from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from common.checkpoint import export_safetensors
from common.pigan import BOX_SIDE, OFFSET
from gof.model import Generator, ModelConfig, export_state, model_options

RADIUS = 0.07
CONFIG = ModelConfig(hidden_dim=8, latent_dim=4, white_back=True, eval_last_back=False, num_steps_coarse=12, num_steps_surface=5, num_steps_fine=2,
                     n_secant_steps=6)
WAVE = 0.5                                                    # k, of coordinates in which the box is [-1, 1]
GAIN = 2e4                                                    # of the logit


@torch.no_grad()
def ball_generator(center: tuple[float, float, float] = (0.0, 0.0, 0.0), **options) -> Generator:
    """The generator; options of `ModelConfig` in place of CONFIG's."""
    torch.manual_seed(0)
    generator = Generator(replace(CONFIG, **options))
    siren = generator.siren
    for parameter in siren.parameters():
        parameter.zero_()
    axes = torch.eye(3)
    first, second = siren.network[0].layer, siren.network[1].layer
    first.weight[:3], first.bias[:3] = WAVE * axes, math.pi / 2 - WAVE * torch.tensor(center) * 2 / BOX_SIDE
    first.weight[3:6] = WAVE * axes
    second.weight[0, :3], second.bias[0] = 1.0, -2 - math.cos(WAVE * RADIUS * 2 / BOX_SIDE)
    second.weight[1:4, 3:6] = axes
    for layer in siren.network[2:]:
        layer.layer.weight[:4, :4] = torch.eye(4)
    siren.final_layer.weight[0, 0] = GAIN
    siren.color_layer_sine.layer.weight[:3, 4:7] = 8 * axes   # inputs: the direction, the level, the coordinates
    siren.color_layer_sine.layer.weight[3, 0] = 1.0
    siren.color_layer_linear[0].weight[:, :4] = torch.tensor([[2.0, 0, 0, 1], [0, 2.0, 0, 0], [0, 0, 2.0, -1]])
    for layer in (*siren.network, siren.color_layer_sine):
        layer.layer.weight /= OFFSET
        layer.layer.bias /= OFFSET
    for layer in siren.mapping_network.network[::2]:
        torch.nn.init.normal_(layer.weight, std=0.15)
    siren.mapping_network.network[-1].weight[:-8] = 0         # codes move the colours alone
    return generator.eval()


def write_ball(path: Path, **options) -> Path:
    """A file of it."""
    generator = ball_generator(**options)
    export_safetensors(path, export_state(generator), model_options(generator))
    return path
