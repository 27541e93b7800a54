"""One march for pi-GAN, GOF and Sem2NeRF: coarse samples, the surface, samples round it, fine samples, and what they make of a pixel.

    density (pi-GAN):    coarse ------------------> fine -> sort -> composite(coarse + fine)
    occupancy (GOF):     coarse -> first crossing -> samples in a shell round it -> fine -> sort -> composite(shell + fine)

Every random draw is an argument; where none is given the samples are regular, so that two pictures of one view are the same.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.rays import importance, jitter
from common.surfaces import find_root, first_crossing, interval_around
from common.volume import composite, density_alphas, occupancy_alphas

MISS = 1.0                                                    # depth where no surface is found: from the unit sphere to its centre
TAU_LIMIT = 1e-4
SPAN = 4                                                      # samples that a ray is asked for at once where it may stop


@dataclass(frozen=True)
class March:
    """How rays are sampled and composited; depths are distances along unit directions."""

    near: float = 0.88
    far: float = 1.12
    coarse: int = 9
    fine: int = 6                                             # 0: no samples by coarse weights
    surface: int = 9                                          # 0: no surface search, the coarse samples are composited
    occupancy: bool = True
    interval: float = 0.12                                    # half the thickness of the shell
    search: str = "secant"
    search_steps: int = 4
    search_range: tuple[float, float] | None = None           # of the shell; None: near and far
    tau: float = 0.5
    activation: str = "relu"
    last_back: bool = False
    white_back: bool = False
    fill_mode: str | None = None
    lock_view: bool = False                                   # colours as seen along (0, 0, -1)
    stop: float = 0.0                                         # without gradient: samples that get less light than this are not asked for
    published_depth: bool = False


@dataclass(frozen=True)
class Draws:
    """Uniforms of the jitters (B, R, S) and of the fine samples (B, R, S); normals times noise of the two compositings (B, R, S)."""

    coarse: Tensor | None = None
    surface: Tensor | None = None
    fine: Tensor | None = None
    coarse_noise: Tensor | float = 0.0
    final_noise: Tensor | float = 0.0

    def part(self, rows: slice) -> Draws:
        """The draws of some of the B scenes."""
        return Draws(*(value[rows] if isinstance(value, Tensor) else value for value in vars(self).values()))


REGULAR = Draws()                                             # no draw at all

Field = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]     # points, directions (B, P, 3) -> logits (B, P, 1), colours (B, P, 3)
Density = Callable[[Tensor], Tensor]                          # points (B, P, 3) -> logits (B, P, 1)


def march(field: Field, density: Density, origins: Tensor, directions: Tensor, options: March, draws: Draws = REGULAR) -> dict[str, Tensor]:
    """What rays (B, R, 3) see: `composite`'s colors, depth, ... and logits, sample_depths (B, R, S); with a surface search surface_depth and hit (B, R).

    The surface and the fine samples are found without gradient; what is composited carries it (pi-GAN sec. 3.3, GOF sec. 3.3).
    """
    ask = Rays(field, density, origins, directions, options.lock_view)
    depths = torch.linspace(options.near, options.far, options.coarse, dtype=origins.dtype, device=origins.device).expand(*origins.shape[:2], -1)
    if draws.coarse is not None:
        depths = jitter(depths, draws.coarse)
    found = {}
    if options.surface:
        with torch.no_grad():
            coarse_logits = ask.density(depths)
            found = search_surface(ask.density, coarse_logits, depths, options)
            samples = surface_samples(found, options, draws.surface)
            if options.fine:
                samples = torch.cat([samples, fine_samples(coarse_logits, depths, options, draws)], dim=-1).sort(dim=-1).values
        logits, colors = ask.field(samples) if torch.is_grad_enabled() or not options.stop else front_to_back(ask, samples, options)
    else:
        samples, (logits, colors) = depths, ask.field(depths)
        if options.fine:
            fine = fine_samples(logits.detach(), depths, options, draws)
            fine_logits, fine_colors = ask.field(fine)
            samples, order = torch.cat([samples, fine], dim=-1).sort(dim=-1)
            logits = torch.cat([logits, fine_logits], dim=-1).gather(-1, order)
            colors = torch.cat([colors, fine_colors], dim=-2).gather(-2, order[..., None].expand(*order.shape, 3))
    last_noise = draws.final_noise if options.fine else draws.coarse_noise
    seen = composite(alphas_of(logits, samples, options, last_noise), colors, samples, options.last_back, options.white_back, options.fill_mode,
                     options.published_depth)
    return seen | {"logits": logits, "sample_colors": colors, "sample_depths": samples} | found


def front_to_back(ask: Rays, depths: Tensor, options: March) -> tuple[Tensor, Tensor]:
    """The occupancy field's logits (1, R, S) and colours (1, R, S, 3) at depths (1, R, S), span by span: a ray that lets less than `stop` of the light through
    is not asked further; what is not asked is empty and black. One scene at a time.
    """
    assert len(depths) == 1, "rays of one scene end at different samples"
    logits, colors = torch.full_like(depths, -torch.inf), depths.new_zeros(*depths.shape, 3)
    light, some = torch.ones_like(depths[0, :, 0]), torch.arange(depths.shape[1], device=depths.device)
    for span in torch.arange(depths.shape[-1], device=depths.device).split(SPAN):
        at = (0, some[:, None], span)
        part, seen = ask.pick(some).field(depths[at][None])
        logits[at], colors[at] = part[0], seen[0]
        light = light * (1 - occupancy_alphas(part[0])).prod(dim=-1)
        some, light = some[light >= options.stop], light[light >= options.stop]
    return logits, colors


def alphas_of(logits: Tensor, depths: Tensor, options: March, noise: Tensor | float = 0.0) -> Tensor:
    """Opacities (..., S) of the field's raw numbers (..., S) as the options read them."""
    return occupancy_alphas(logits) if options.occupancy else density_alphas(logits, depths, options.activation, noise)


def search_surface(density_at: Callable[[Tensor], Tensor], logits: Tensor, depths: Tensor, options: March) -> dict[str, Tensor]:
    """surface_depth and hit (B, R): where rays first enter the surface of occupancy tau, MISS where they do not.

    Arguments: density_at(depths (B, R, 1)) -> logits; coarse logits and depths (B, R, S).
    """
    tau = min(max(options.tau, TAU_LIMIT), 1 - TAU_LIMIT)
    level = math.log(tau / (1 - tau))
    index, hit = first_crossing(logits - level)
    pick = lambda values, at: values.gather(-1, at[..., None])
    root = find_root(lambda depth: density_at(depth) - level, pick(depths, index), pick(depths, index + 1),
                     pick(logits, index) - level, pick(logits, index + 1) - level, options.search_steps, options.search)
    return {"surface_depth": torch.where(hit, root[..., 0], MISS), "hit": hit}


def surface_samples(found: dict[str, Tensor], options: March, draws: Tensor | None = None) -> Tensor:
    """Depths (B, R, surface) in the shell round the surface, over the whole range where there is none; jittered by uniforms of the same shape."""
    near, far = options.search_range or (options.near, options.far)
    samples = interval_around(found["surface_depth"], found["hit"], options.interval, near, far, options.surface)
    return samples if draws is None else jitter(samples, draws)


@torch.no_grad()
def fine_samples(logits: Tensor, depths: Tensor, options: March, draws: Draws) -> Tensor:
    """Depths (B, R, fine) drawn where the coarse weights are (NeRF, sec. 5.2): from the middles of the coarse samples, the outer weights left out."""
    weights = composite(alphas_of(logits, depths, options, draws.coarse_noise), logits[..., None], depths)["weights"]
    middles = (depths[..., 1:] + depths[..., :-1]) / 2
    uniforms = torch.linspace(0, 1, options.fine, dtype=depths.dtype, device=depths.device).expand(*depths.shape[:-1], -1) if draws.fine is None else draws.fine
    return importance(middles, (weights + 1e-5)[..., 1:-1], uniforms)


@dataclass(frozen=True)
class Rays:
    """A field asked at depths (B, R, S) along rays."""

    call: Field
    call_density: Density
    origins: Tensor
    directions: Tensor
    lock_view: bool

    def pick(self, some: Tensor) -> Rays:
        """Some of the rays (R,)."""
        return replace(self, origins=self.origins[:, some], directions=self.directions[:, some])

    def points(self, depths: Tensor) -> Tensor:
        return (self.origins[:, :, None] + self.directions[:, :, None] * depths[..., None]).flatten(1, 2)

    def density(self, depths: Tensor) -> Tensor:
        return self.call_density(self.points(depths)).view(depths.shape)

    def field(self, depths: Tensor) -> tuple[Tensor, Tensor]:
        toward = self.directions.new_tensor([0.0, 0.0, -1.0]).expand_as(self.directions) if self.lock_view else self.directions
        logits, colors = self.call(self.points(depths), toward[:, :, None].expand(*depths.shape, 3).flatten(1, 2))
        return logits.view(depths.shape), colors.view(*depths.shape, 3)
