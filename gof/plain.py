"""GOF's published algorithm, written plainly from its specification: the slow reference that `gof.benchmark` measures ours against.

Everything as released: FiLM layers as F (W x + b) + P, points in chunks of 50,000, colours of every sample that is asked for, codes repeated for every
pixel of the surface search (in training the mapping network run again for each), gradients towards every point, average codes of 10,000 latents for every
picture, the discriminator's fading branch at alpha 1 too, a voxel grid asked everywhere.
Legend: B pictures, N pixels, S samples, M rays that hit; `parameters` are a generator's or a discriminator's, by their published names.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, leaky_relu, linear, mse_loss, normalize, softplus

CHUNK, VOXEL_CHUNK, LATENTS = 50_000, 100_000, 10_000
NEAR, FAR, FOV, BOX_SIDE = 0.88, 1.12, 12.0, 0.24

Parameters = dict[str, Tensor]
Codes = tuple[Tensor, Tensor]                                  # frequencies and phases (B, 2304)
Siren = Callable[[Tensor, Tensor], Tensor]                     # points, directions (B, P, 3) -> colours and logit (B, P, 4)


@dataclass(frozen=True)
class Samples:
    """Samples of a ray, half the thickness of the shell, and the uniforms of the shell's jitter (B, N, shell) and of the fine samples (B N, fine)."""

    coarse: int
    shell: int
    fine: int
    interval: float
    jitter: Tensor
    uniforms: Tensor
    steps: int = 4


# The field

def mapping(parameters: Parameters, z: Tensor) -> Codes:
    """Codes of latents (B, Z)."""
    names = [f"siren.mapping_network.network.{i}" for i in (0, 2, 4, 6)]
    for name in names[:-1]:
        z = leaky_relu(linear(z, parameters[f"{name}.weight"], parameters[f"{name}.bias"]), 0.2)
    return linear(z, parameters[f"{names[-1]}.weight"], parameters[f"{names[-1]}.bias"]).chunk(2, dim=-1)


def average_codes(parameters: Parameters, latents: Tensor) -> Codes:
    """The mean code (1, 2304) of latents (10,000, Z)."""
    return tuple(codes.mean(dim=0, keepdim=True) for codes in mapping(parameters, latents))


def film(parameters: Parameters, name: str, x: Tensor, frequencies: Tensor, phases: Tensor) -> Tensor:
    """sin(F (W x + b) + P) of x (B, P, I)."""
    x = linear(x, parameters[f"{name}.layer.weight"], parameters[f"{name}.layer.bias"])
    return torch.sin(frequencies[:, None].expand_as(x) * x + phases[:, None].expand_as(x))


def siren(parameters: Parameters, codes: Codes, points: Tensor, directions: Tensor) -> Tensor:
    """Colours and logits (B, P, 4) at points (B, P, 3) seen along directions (B, P, 3)."""
    frequencies, phases = 15 * codes[0] + 30, codes[1]
    if torch.is_grad_enabled() and not points.requires_grad:
        points = points.requires_grad_()
    x, width = points * (2 / BOX_SIDE), len(parameters["siren.final_layer.weight"][0])
    for i in range(8):
        part = slice(i * width, (i + 1) * width)
        x = film(parameters, f"siren.network.{i}", x, frequencies[:, part], phases[:, part])
    logits = linear(x, parameters["siren.final_layer.weight"], parameters["siren.final_layer.bias"])
    seen = film(parameters, "siren.color_layer_sine", torch.cat([directions, x], dim=-1), frequencies[:, -width:], phases[:, -width:])
    colors = linear(seen, parameters["siren.color_layer_linear.0.weight"], parameters["siren.color_layer_linear.0.bias"])
    return torch.cat([colors.sigmoid(), logits], dim=-1)


def chunked(parameters: Parameters, codes: Codes, points: Tensor, directions: Tensor) -> Tensor:
    """`siren`, picture by picture, 50,000 points at once."""
    values = torch.zeros(*points.shape[:2], 4, dtype=points.dtype, device=points.device)
    for b in range(len(points)):
        code = tuple(part[b:b + 1] for part in codes)
        for start in range(0, points.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            values[b:b + 1, part] = siren(parameters, code, points[b:b + 1, part], directions[b:b + 1, part])
    return values


def normals(parameters: Parameters, codes: Codes, points: Tensor, create_graph: bool = False) -> Tensor:
    """Outward normals (B, P, 3) at points (B, P, 3); the colours are computed too."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        logits = siren(parameters, codes, points, torch.zeros_like(points))[..., 3]
        gradient, = torch.autograd.grad(logits.sum(), points, create_graph=create_graph)
    gradient = gradient * (BOX_SIDE / 2)
    return (-gradient / (gradient.norm(dim=-1, keepdim=True) + 1e-7)).clamp(-1, 1)


# Rays

def rays(angles: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Origins and directions (B, N, 3) of cameras [pitch, yaw] (B, 2) on the unit sphere, pixels from border to border."""
    pitch, yaw = angles.unbind(-1)
    positions = torch.stack([pitch.sin() * yaw.cos(), pitch.cos(), pitch.sin() * yaw.sin()], dim=-1)
    forward = -positions
    left = normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]).to(forward).expand_as(forward), forward), dim=-1)
    rotation = torch.stack([-left, normalize(torch.linalg.cross(forward, left), dim=-1), -forward], dim=-1)
    axis = torch.linspace(-1, 1, side, dtype=angles.dtype, device=angles.device)
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    local = normalize(torch.stack([x, y, torch.full_like(x, -1 / math.tan(math.radians(FOV) / 2))], dim=-1).view(1, -1, 3), dim=-1)
    directions = local @ rotation.transpose(1, 2)
    return positions[:, None].expand_as(directions), directions


def along(origins: Tensor, directions: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Points and directions (B, N S, 3) of depths (B, N, S)."""
    points = origins[:, :, None] + directions[:, :, None] * depths[..., None]
    return points.flatten(1, 2), directions[:, :, None].expand_as(points).flatten(1, 2)


def search(field_of_hits: Callable[[Tensor, Tensor], Tensor], logits: Tensor, depths: Tensor, origins: Tensor, directions: Tensor,
           steps: int) -> tuple[Tensor, Tensor]:
    """Depth of the first surface, 1 without one, and which rays hit one, (B, N) each; field_of_hits(hit, points (M, 1, 3)) -> logits (M,)."""
    count = depths.shape[-1]
    signs = torch.cat([(logits[..., :-1] * logits[..., 1:]).sign(), torch.ones_like(logits[..., :1])], dim=-1)
    cost, first = (signs * torch.arange(count, 0, -1, device=logits.device)).min(dim=-1)
    at = lambda values, index: values.gather(-1, index[..., None])[..., 0]
    hit = (cost < 0) & (at(logits, first) < 0) & (logits[..., 0] < 0)
    first = torch.where(hit, first, 0)
    low, high, value_low, value_high = (at(values, index)[hit] for values in (depths, logits) for index in (first, first + 1))
    guess = lambda: -value_low * (high - low) / (value_high - value_low) + low
    depth = guess()
    for _ in range(steps):
        value = field_of_hits(hit, (origins[hit] + directions[hit] * depth[:, None])[:, None])
        outside = value < 0
        low, value_low = torch.where(outside, depth, low), torch.where(outside, value, value_low)
        high, value_high = torch.where(outside, high, depth), torch.where(outside, value_high, value)
        depth = guess()
    found = torch.ones_like(logits[..., 0])
    found[hit] = depth
    return found, hit


def shell(depth: Tensor, hit: Tensor, samples: Samples) -> Tensor:
    """Jittered depths (B, N, shell) about the surface, over the whole range without one."""
    start, end = depth - samples.interval, depth + samples.interval
    start, end = torch.where(start < NEAR, NEAR, start), torch.where(start < NEAR, NEAR + 2 * samples.interval, end)
    start, end = torch.where(end > FAR, FAR - 2 * samples.interval, start), torch.where(end > FAR, FAR, end)
    start, end = torch.where(hit, start, NEAR), torch.where(hit, end, FAR)
    depths = start[..., None] + (end - start)[..., None] * torch.linspace(0, 1, samples.shell, dtype=depth.dtype, device=depth.device)
    return depths + (samples.jitter - 0.5) * (depths[..., 1:2] - depths[..., :1])


def weights_of(logits: Tensor) -> Tensor:
    """Weights (..., S) of occupancy logits (..., S)."""
    alphas = logits.sigmoid()
    return alphas * torch.cumprod(torch.cat([torch.ones_like(alphas[..., :1]), 1 - alphas + 1e-10], dim=-1), dim=-1)[..., :-1]


def fine_depths(logits: Tensor, depths: Tensor, samples: Samples) -> Tensor:
    """Depths (B, N, fine) where the coarse samples weigh."""
    bins = ((depths[..., 1:] + depths[..., :-1]) / 2).flatten(0, 1)
    weights = (weights_of(logits) + 1e-5)[..., 1:-1].flatten(0, 1) + 1e-5
    cdf = torch.cat([torch.zeros_like(weights[:, :1]), (weights / weights.sum(-1, keepdim=True)).cumsum(-1)], dim=-1)
    index = torch.searchsorted(cdf, samples.uniforms.contiguous())
    below, above = (index - 1).clamp(min=0), index.clamp(max=weights.shape[-1])
    mass = cdf.gather(1, above) - cdf.gather(1, below)
    share = (samples.uniforms - cdf.gather(1, below)) / torch.where(mass < 1e-5, 1.0, mass)
    low, high = bins.gather(1, below), bins.gather(1, above)
    return (low + share * (high - low)).view(*depths.shape[:2], -1)


def march(field: Siren, field_of_hits: Callable, angles: Tensor, side: int, samples: Samples, last_back: bool) -> dict[str, Tensor]:
    """The released march: coarse samples, surface, shell and fine samples, all with colours."""
    origins, directions = rays(angles, side)
    depths = torch.linspace(NEAR, FAR, samples.coarse, dtype=angles.dtype, device=angles.device).expand(*origins.shape[:2], -1)
    ask = lambda depths: field(*along(origins, directions, depths)).view(*depths.shape, 4)
    with torch.no_grad():
        logits = ask(depths)[..., 3]
        surface, hit = search(field_of_hits, logits, depths, origins, directions, samples.steps)
        near_surface, fine = shell(surface, hit, samples), fine_depths(logits, depths, samples)
    values, order = torch.cat([ask(near_surface), ask(fine)], dim=-2), torch.cat([near_surface, fine], dim=-1).sort(dim=-1)
    values = values.gather(-2, order.indices[..., None].expand_as(values))
    weights = weights_of(values[..., 3])
    mass = weights.sum(-1)
    if last_back:
        weights = torch.cat([weights[..., :-1], weights[..., -1:] + (1 - mass)[..., None]], dim=-1)
    depth = (weights * order.values).sum(-1) / (mass + 1e-5)
    return {"colors": (weights[..., None] * values[..., :3]).sum(-2), "depth": depth, "surface_depth": surface, "hit": hit, "values": values,
            "points": origins + directions * surface[..., None], "directions": directions}


def picture(parameters: Parameters, z: Tensor, latents: Tensor, psi: float, angles: Tensor, side: int, samples: Samples) -> dict[str, Tensor]:
    """A frame of the released scripts, of latents z (B, Z) from cameras (B, 2): colours and depth, normals and colours of the surface."""
    codes = tuple(mean + psi * (code - mean) for code, mean in zip(mapping(parameters, z), average_codes(parameters, latents)))

    def field_of_hits(hit: Tensor, points: Tensor) -> Tensor:
        of_pixel = tuple(code[:, None].expand(*hit.shape, -1)[hit] for code in codes)
        return siren(parameters, of_pixel, points, torch.zeros_like(points))[:, 0, 3]

    with torch.no_grad():
        seen = march(lambda *at: chunked(parameters, codes, *at), field_of_hits, angles, side, samples, last_back=True)
        surface_colors = siren(parameters, codes, seen["points"], seen["directions"])[..., :3]
    depths = {name: seen[name].clamp(NEAR, FAR) for name in ("depth", "surface_depth")}
    return seen | depths | {"normals": normals(parameters, codes, seen["points"]), "surface_colors": surface_colors}


def voxels(parameters: Parameters, codes: Codes, points: Tensor) -> Tensor:
    """Logits (P,) of points (P, 3), 100,000 at once, colours computed too."""
    front = points.new_tensor([0.0, 0.0, -1.0])
    parts = [siren(parameters, codes, part[None], front.expand_as(part)[None])[0, :, 3] for part in points.split(VOXEL_CHUNK)]
    return torch.cat(parts)


# Training

def fakes(parameters: Parameters, z: Tensor, angles: Tensor, side: int, samples: Samples, neighbours: Tensor | None = None,
          distance: float = 0.0) -> dict[str, Tensor]:
    """What the training's forward pass gives of latents z (B, Z); with uniforms (B, N, 3) also normals (B, N, 2, 3). Every part maps the latents again."""
    def field_of_hits(hit: Tensor, points: Tensor) -> Tensor:
        of_pixel = z[:, None].expand(*hit.shape, -1)[hit]
        return siren(parameters, mapping(parameters, of_pixel), points, torch.zeros_like(points))[:, 0, 3]

    seen = march(lambda *at: siren(parameters, mapping(parameters, z), *at), field_of_hits, angles, side, samples, last_back=False)
    seen["pictures"] = 2 * seen["colors"].transpose(1, 2).unflatten(2, (side, side)) - 1
    if neighbours is not None:
        away = neighbours - 0.5
        beside = seen["points"] + distance * away / away.norm(dim=-1, keepdim=True)
        both = [normals(parameters, mapping(parameters, z), points, create_graph=True) for points in (seen["points"], beside)]
        seen["normals"] = torch.stack(both, dim=2)
    return seen


def discriminator(parameters: Parameters, pictures: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Logits (B, 1) and [pitch, yaw] (B, 2) that GOF's encoder reads in pictures (B, 3, side, side)."""
    start = 9 - int(math.log2(pictures.shape[-1]))
    from_rgb = lambda i, x: leaky_relu(conv2d(x, parameters[f"fromRGB.{i}.model.0.weight"], parameters[f"fromRGB.{i}.model.0.bias"]), 0.2)
    x = from_rgb(start, pictures)
    for i in range(start, 8):
        y = x
        for j in (0, 2):
            name = f"layers.{i}.network.{j}.conv"
            y = leaky_relu(conv2d(with_coordinates(y), parameters[f"{name}.weight"], parameters[f"{name}.bias"], padding=1), 0.2)
        skip = avg_pool2d(x, 2)
        if f"layers.{i}.proj.weight" in parameters:
            skip = conv2d(skip, parameters[f"layers.{i}.proj.weight"], parameters[f"layers.{i}.proj.bias"])
        x = (avg_pool2d(y, 2) + skip) / math.sqrt(2)
        if i == start:
            x = alpha * x + (1 - alpha) * from_rgb(i + 1, interpolate(pictures, scale_factor=0.5, mode="nearest"))
    heads = conv2d(x, parameters["final_layer.weight"], parameters["final_layer.bias"]).flatten(1)
    return heads[:, :1], heads[:, 257:259]


def with_coordinates(x: Tensor) -> Tensor:
    """x (B, C, H, W) and two channels, each pixel's row and column from -1 to 1."""
    axis = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.cat([x, torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(len(x), -1, -1, -1)], dim=1)


def discriminator_loss(parameters: Parameters, reals: Tensor, fake: Tensor, angles: Tensor, alpha: float, r1: float, position: float) -> Tensor:
    """The discriminator's loss of real and generated pictures (B, 3, side, side)."""
    reals = reals.detach().requires_grad_()
    real_logits, (fake_logits, read) = discriminator(parameters, reals, alpha)[0], discriminator(parameters, fake, alpha)
    gradient, = torch.autograd.grad(real_logits.sum(), reals, create_graph=True)
    penalty = 0.5 * r1 * gradient.flatten(1).square().sum(1).mean()
    return softplus(fake_logits).mean() + softplus(-real_logits).mean() + penalty + position * mse_loss(read, angles)


def generator_loss(parameters: Parameters, seen: dict[str, Tensor], angles: Tensor, alpha: float, kept: int, position: float, smooth: float,
                   opacity: float) -> Tensor:
    """The generator's loss, its priors as released: of the red channel, and between the x and y of each normal."""
    logits, read = discriminator(parameters, seen["pictures"], alpha)
    red = seen["values"][..., 0].sigmoid()
    prior = (torch.log(0.1 + red) + torch.log(1.1 - red)).mean() + 2.20727
    of_hits = seen["normals"][seen["hit"]]
    smoothness = mse_loss(of_hits[..., 0], of_hits[..., 1]) if len(of_hits) else 0.0
    return softplus(-logits.topk(kept, dim=0).values).mean() + position * mse_loss(read, angles) + smooth * smoothness + opacity * prior
