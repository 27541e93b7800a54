"""SOF's published algorithm, written plainly from its specification: the slow reference that `sof.benchmark` measures ``sof.model`` against.

Everything as released: poses and intrinsics in integer pixels, the hypernetwork evaluated with every call and for every picture of the batch, batched
products with a weight for each picture, the marcher's ray terms computed anew in each of its steps, all pixels of all pictures at once.
Legend: B pictures, N pixels of each, C classes; `parameters` are a model's, by their published names.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, layer_norm, linear, normalize

STEPS, RADIUS, START, EPS = 10, 1.5, 0.05, 1e-6

Parameters = dict[str, Tensor]


def forward(parameters: Parameters, z: Tensor, cam2world: Tensor, intrinsics: Tensor, uv: Tensor, orthographic: bool, noise: Tensor | float = 0.0,
            slice_depth: float | None = None) -> tuple[Tensor, Tensor]:
    """Scores (B, N, C) and camera z (B, N, 1) of codes (B, 256) seen by cam2world (B, 4, 4), intrinsics (B, 3, 3) at pixels uv (B, N, 2).

    `noise` displaces the march's start, in world units; with `slice_depth` nothing marches: the scores are those on the plane at that camera z.
    """
    layers = predicted_layers(parameters, z)
    if slice_depth is not None:
        points = unproject(cam2world, intrinsics, uv, slice_depth, orthographic)
    else:
        rays = ray_directions(cam2world, intrinsics, uv, orthographic)
        points = sphere_start(unproject(cam2world, intrinsics, uv, START, orthographic), rays) + rays * noise
        for _ in range(STEPS):
            points = points + rays * step_length(parameters, features(layers, points), rays)
    depth = (torch.cat([points, torch.ones_like(points[..., :1])], dim=-1) @ torch.linalg.inv(cam2world).transpose(1, 2))[..., 2:3]
    return fc_block(parameters, "pixel_generator", features(layers, points)), depth


def total_loss(parameters: Parameters, z: Tensor, cam2world: Tensor, intrinsics: Tensor, uv: Tensor, orthographic: bool, noise: Tensor,
               labels: Tensor) -> Tensor:
    """The published loss of one batch with its published weights; labels (B, N)."""
    scores, depth = forward(parameters, z, cam2world, intrinsics, uv, orthographic, noise)
    behind = 10_000 * depth.clamp(max=0).square().mean()
    return 200 * cross_entropy(scores.flatten(0, 1), labels.flatten()) + 1e-3 * behind + z.square().mean()


def pixels(side: int, device: torch.device | str = "cpu") -> Tensor:
    """(x, y) (N, 2) of the integer pixels, row by row."""
    y, x = torch.meshgrid(torch.arange(side, device=device), torch.arange(side, device=device), indexing="ij")
    return torch.stack([x, y], dim=-1).view(-1, 2).float()


# Networks

def fc_block(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    """Linear, LayerNorm, ReLU, as often as `name` has such layers, then a Linear."""
    i = 0
    while f"{name}.net.{i}.net.0.weight" in parameters:
        weight, bias, scale, shift = (parameters[f"{name}.net.{i}.net.{j}.{what}"] for j in (0, 1) for what in ("weight", "bias"))
        x = torch.relu(layer_norm(linear(x, weight, bias), scale.shape, scale, shift))
        i += 1
    return linear(x, parameters[f"{name}.net.{i}.weight"], parameters[f"{name}.net.{i}.bias"])


def predicted_layers(parameters: Parameters, z: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weight (B, out, in) and bias (B, 1, out) of each layer of every picture's field."""
    layers, inputs, width = [], 3, len(parameters["ray_marcher.lstm.linear.0.weight"])
    while f"hyper_phi.layers.{len(layers)}.hyper_linear.hypo_params.net.0.net.0.weight" in parameters:
        numbers = fc_block(parameters, f"hyper_phi.layers.{len(layers)}.hyper_linear.hypo_params", z)
        layers.append((numbers[:, :inputs * width].reshape(-1, width, inputs), numbers[:, inputs * width:].reshape(-1, 1, width)))
        inputs = width
    return layers


def features(layers: list[tuple[Tensor, Tensor]], points: Tensor) -> Tensor:
    """The fields (B, N, 256) at points (B, N, 3)."""
    x = points
    for weight, bias in layers:
        x = torch.bmm(x, weight.transpose(1, 2)) + bias
        x = torch.relu(layer_norm(x, x.shape[-1:]))
    return x


def step_length(parameters: Parameters, x: Tensor, rays: Tensor) -> Tensor:
    """How far (B, N, 1) to move along rays (B, N, 3) with features (B, N, 256)."""
    last = sum(key.startswith("ray_marcher.lstm.linear") for key in parameters) - 1
    for l in range(last + 1):
        ray_term = linear(rays, parameters[f"ray_marcher.lstm.bias.{l}.weight"], parameters[f"ray_marcher.lstm.bias.{l}.bias"])
        x = linear(x, parameters[f"ray_marcher.lstm.linear.{l}.weight"]) + ray_term
        x = torch.relu(x) if l < last else x
    return x


# Cameras

def unproject(cam2world: Tensor, intrinsics: Tensor, uv: Tensor, z: float, orthographic: bool) -> Tensor:
    """World points (B, N, 3) of pixels at camera z."""
    x = (uv[..., 0] - intrinsics[:, None, 0, 2]) / intrinsics[:, None, 0, 0]
    y = (uv[..., 1] - intrinsics[:, None, 1, 2]) / intrinsics[:, None, 1, 1]
    z, scale = torch.full_like(x, z), 1.0 if orthographic else z
    local = torch.stack([x * scale, y * scale, z, torch.ones_like(x)], dim=-1)
    return (local @ cam2world.transpose(1, 2))[..., :3]


def ray_directions(cam2world: Tensor, intrinsics: Tensor, uv: Tensor, orthographic: bool) -> Tensor:
    """Unit directions (B, N, 3)."""
    if orthographic:
        return cam2world[:, None, :3, 2].repeat(1, uv.shape[1], 1)
    return normalize(unproject(cam2world, intrinsics, uv, 1.0, orthographic) - cam2world[:, None, :3, 3], dim=-1)


def sphere_start(points: Tensor, rays: Tensor) -> Tensor:
    """Where the rays enter the sphere about the origin, or come closest to it."""
    distance = points.norm(dim=-1, keepdim=True)
    cosine = (-points / distance * rays).sum(dim=-1, keepdim=True)
    across = distance * (1 - cosine**2 + EPS).sqrt()
    points = points + rays * cosine * distance
    hit = (across < RADIUS)[..., 0]
    points[hit] = points[hit] - rays[hit] * (RADIUS**2 - across[hit]**2 + EPS).sqrt()
    return points
