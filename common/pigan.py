"""The FiLM-SIREN radiance field of pi-GAN (Chan et al., CVPR 2021), which GOF trains as an occupancy field and Sem2NeRF freezes as a decoder.

    frequencies, phases = siren.mapping(z)                  # once per code
    scene = siren.scene(frequencies, phases)                # once per code: the layers with the code folded in
    logits, colors = siren.field(scene, points, directions) # as often as needed
    logits = siren.density(scene, points)                   # where no colours are needed: 13 % less

A point goes through eight sine layers to one raw number, a density or the logit of an occupancy; one more sine layer, which sees the direction too,
gives the colour. Parameters carry the published names, in the published order.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.chunks import in_chunks
from common.layers.siren import FilmLayer, affine, sine_bound, sine_layer

BOX_SIDE = 0.24                                              # world units: the cube that is scaled to [-1, 1]
EMBEDDING_CHANNELS = 32
MAPPING_WIDTH = 256
GAIN, OFFSET = 15.0, 30.0                                    # F = 15 f + 30 of the mapping's output f
AVERAGED_LATENTS = 10_000
CACHED = 2**18                                               # features at once on a CPU, for each thread: what a core's cache holds


@dataclass(frozen=True)
class SirenConfig:
    """The shape of a field: widths, whether points are scaled from the box, and the side of a grid of features if there is one."""

    hidden: int = 256
    layers: int = 8
    latent: int = 256
    box: bool = True
    grid: int = 0
    grid_std: float = 0.01


# the authors' names of their networks
NETWORKS = {
    "SPATIALSIRENBASELINE": SirenConfig(),
    "TALLSIREN": SirenConfig(box=False),
    "EmbeddingPiGAN128": SirenConfig(hidden=128, grid=96),
    "EmbeddingPiGAN256": SirenConfig(grid=64, grid_std=0.1),
}


@dataclass(frozen=True)
class Scene:
    """The sine layers of B scenes with their codes folded in: weights (B, I, O) and biases (B, 1, O), the colour layer's split by input."""

    trunk: tuple[tuple[Tensor, Tensor], ...]
    toward: Tensor
    color: tuple[Tensor, Tensor]

    def pick(self, rows: slice) -> Scene:
        """Some of the B scenes."""
        pair = lambda layer: (layer[0][rows], layer[1][rows])
        return Scene(tuple(pair(layer) for layer in self.trunk), self.toward[rows], pair(self.color))


class Mapping(nn.Module):
    """Latents (B, Z) to raw frequencies and phases (B, total) each; keys `network.{0,2,4,6}`."""

    def __init__(self, latent: int, total: int):
        super().__init__()
        widths = [latent, MAPPING_WIDTH, MAPPING_WIDTH, MAPPING_WIDTH]
        hidden = [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        self.network = nn.Sequential(*hidden, nn.Linear(MAPPING_WIDTH, 2 * total))
        for layer in self.network[::2]:
            nn.init.kaiming_normal_(layer.weight, a=0.2, mode="fan_in", nonlinearity="leaky_relu")
        with torch.no_grad():
            self.network[-1].weight *= 0.25

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(z).chunk(2, dim=-1)


class Siren(nn.Module):
    """The field and the mapping network that turns latents into its codes."""

    def __init__(self, config: SirenConfig = SirenConfig()):
        super().__init__()
        self.config, hidden = config, config.hidden
        inputs = 3 + EMBEDDING_CHANNELS * bool(config.grid)
        if config.grid:
            self.spatial_embeddings = nn.Parameter(config.grid_std * torch.randn(1, EMBEDDING_CHANNELS, *[config.grid] * 3))
        self.network = nn.ModuleList([FilmLayer(inputs, hidden, first=True, fan_in=3)] + [FilmLayer(hidden, hidden) for _ in range(config.layers - 1)])
        self.final_layer = nn.Linear(hidden, 1)
        self.color_layer_sine = FilmLayer(hidden + 3, hidden)
        self.color_layer_linear = nn.Sequential(nn.Linear(hidden, 3))
        self.mapping_network = Mapping(config.latent, (config.layers + 1) * hidden)
        for linear in (self.final_layer, self.color_layer_linear[0]):
            nn.init.uniform_(linear.weight, -sine_bound(hidden), sine_bound(hidden))

    def mapping(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Raw frequencies and phases (B, (layers + 1) * hidden) of latents (B, Z)."""
        return self.mapping_network(z)

    def scene(self, frequencies: Tensor, phases: Tensor) -> Scene:
        """The scenes of raw frequencies and phases (B, (layers + 1) * hidden): layer i owns the i-th span of `hidden`, the colour layer the last."""
        spans = list(zip((GAIN * frequencies + OFFSET).split(self.config.hidden, dim=1), phases.split(self.config.hidden, dim=1)))
        trunk = tuple(layer.fold(f, p) for layer, (f, p) in zip(self.network, spans))
        weight, bias = self.color_layer_sine.fold(*spans[-1])
        return Scene(trunk, weight[:, :3], (weight[:, 3:], bias))

    def field(self, scene: Scene, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Raw logits (B, P, 1) and colours (B, P, 3) in [0, 1] of world points (B, P, 3) seen along unit directions (B, P, 3)."""
        return self._in_cache(self._values, scene, points, directions).split([1, 3], dim=-1)

    def density(self, scene: Scene, points: Tensor) -> Tensor:
        """Raw logits (B, P, 1) of world points (B, P, 3)."""
        return self._in_cache(lambda scene, points: self.final_layer(self._trunk(scene, self._scaled(points))), scene, points)

    def normals(self, scene: Scene, points: Tensor, create_graph: bool = False) -> Tensor:
        """Outward normals (B, P, 3): -g / (|g| + 1e-7), g the gradient of the logit at the scaled points (B, P, 3); in [-1, 1], 0 where undefined.

        With `create_graph` they can be differentiated again, by the parameters and the codes.
        """
        return self._in_cache(partial(self._normals, create_graph=create_graph), scene, points)

    def _in_cache(self, function: Callable, scene: Scene, *inputs: Tensor) -> Tensor:
        """function(scene, *inputs (B, P, I)) (B, P, O); on a CPU some points of a scene, or some scenes, at once, so that their features stay in its cache."""
        if inputs[0].is_cuda:
            return function(scene, *inputs)
        scenes, points, _ = inputs[0].shape
        chunk = max(1, CACHED // self.config.hidden * torch.get_num_threads())
        rows = max(1, chunk // max(1, points))
        some = lambda at: in_chunks(partial(function, scene.pick(at)), *(x[at] for x in inputs), chunk=chunk, axis=1)
        return torch.cat([some(slice(start, start + rows)) for start in range(0, scenes, rows)])

    def _values(self, scene: Scene, points: Tensor, directions: Tensor) -> Tensor:
        features = self._trunk(scene, self._scaled(points))
        weight, bias = scene.color
        seen = sine_layer(features, weight, affine(directions, scene.toward, bias))
        return torch.cat([self.final_layer(features), self.color_layer_linear(seen).sigmoid()], dim=-1)

    def _normals(self, scene: Scene, points: Tensor, create_graph: bool) -> Tensor:
        with torch.enable_grad():
            scaled = self._scaled(points).detach().requires_grad_()
            gradient, = torch.autograd.grad(self.final_layer(self._trunk(scene, scaled, twice=create_graph)).sum(), scaled, create_graph=create_graph)
        normals = -gradient / (gradient.norm(dim=-1, keepdim=True) + 1e-7)
        return normals.clamp(-1, 1).nan_to_num(0.0, 0.0, 0.0)

    def _scaled(self, points: Tensor) -> Tensor:
        return points * (2 / BOX_SIDE) if self.config.box else points

    def _trunk(self, scene: Scene, scaled: Tensor, twice: bool = False) -> Tensor:
        x = scaled
        if self.config.grid:
            grid = self.spatial_embeddings.expand(len(x), -1, -1, -1, -1)
            sampled = torch.nn.functional.grid_sample(grid, x[:, :, None, None], align_corners=True)
            x = torch.cat([sampled[..., 0, 0].transpose(1, 2), x], dim=-1)
        for weight, bias in scene.trunk:
            x = sine_layer(x, weight, bias, twice)
        return x


@torch.no_grad()
def average_codes(siren: Siren, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The mean frequencies and phases (1, total) of latents z (n, Z), by default 10,000 normal ones, always the same."""
    if z is None:
        z = torch.randn(AVERAGED_LATENTS, siren.config.latent, generator=torch.Generator().manual_seed(0))
    frequencies, phases = siren.mapping(z.to(siren.final_layer.weight.device))
    return frequencies.mean(0, keepdim=True), phases.mean(0, keepdim=True)


def truncate(codes: tuple[Tensor, Tensor], average: tuple[Tensor, Tensor], psi: float) -> tuple[Tensor, Tensor]:
    """average + psi (codes - average), for frequencies and phases (B, total): psi 1 keeps a code, psi 0 gives the average."""
    return tuple(mean + psi * (code - mean) for code, mean in zip(codes, average))
