"""OP3D's generator of posed people: the field lives in a canonical pose, a body says where that is and where the skin must be.

    model = load("op3d-conditional-shhq.pkl")
    scene = model.scene(model.codes(z, labels), body=Body.of(condition, model.faces))
    pictures = model.pictures(scene, cameras)                               as of any generator, and what the penalties of its training need

A point goes back to the canonical pose by inverse skinning and is then moved a little by a network; what the planes say there, plus the signed squared
distance to the posed mesh, is the field's value s, negative inside, with density sigmoid(-s / beta) / beta.
"""
from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.cameras import FLIP_YZ
from common.layers.planes import Taps, orthoplane_taps, read
from common.layers.stylegan2 import EqualLinear
from common.layers.stylegan2_blocks import Noise
from common.volume import weights_of
from op3d.bodies import Body
from op3d.march import fine_depths, merged, ordered, stratified
from op3d.model import REGULAR, Draws, Generator, ModelConfig, Scene

NEAR, FAR = 2.55, 2.95                                        # of every ray
DROP = 0.15                                                   # of the scaled points, before the body is asked
MOVE = 0.3                                                    # bound of the deformation
LEAK, LEAST_BETA, FIRST_BETA, LAST_STEP = 0.2, 1e-4, 0.01, 1e9


class Films(NamedTuple):
    """What modulates the deformation network's three sine layers: factors and shifts, each three of (B, 128)."""

    factors: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]


@dataclass(frozen=True)
class BodyScene(Scene):
    """A scene on bodies."""

    body: Body
    films: Films


class Asked(NamedTuple):
    """The field's parts at points: the network's value and the mesh's (B, P, 1), features (B, P, 32), canonical points' moves and places then (B, P, 3)."""

    network: Tensor
    mesh: Tensor
    features: Tensor
    moves: Tensor
    places: Tensor


def _mlp(*widths: int) -> nn.Sequential:
    layers = [EqualLinear(*widths[:2])]
    for a, b in pairwise(widths[1:]):
        layers += [nn.LeakyReLU(LEAK), EqualLinear(a, b)]
    return nn.Sequential(*layers)


class DeformationDecoder(nn.Module):
    """Canonical points, w and a pose to small moves: three sine layers whose factors and shifts the code and pose give."""

    def __init__(self, condition: int, width: int = 128):
        super().__init__()
        self.net_c = _mlp(3, width, width)
        self.net_W = nn.ModuleList(_mlp(condition, width, width) for _ in range(3))
        self.net_b = nn.ModuleList(_mlp(condition, width, width) for _ in range(3))
        self.decoder = _mlp(width, 64, 64, 3)

    def films(self, condition: Tensor) -> Films:
        """Once per scene, of a pose's numbers and w (B, ...)."""
        return Films(tuple(net(condition) for net in self.net_W), tuple(net(condition) for net in self.net_b))

    def forward(self, points: Tensor, films: Films) -> Tensor:
        """Moves (B, P, 3) within +-0.3 of canonical points (B, P, 3)."""
        x = self.net_c(points)
        for factor, shift in zip(*films):
            x = torch.sin(factor[:, None] * x + shift[:, None])
        return MOVE * torch.sin(self.decoder(x))


class Renderer(nn.Module):
    """Where the published keys have the deformation network."""

    def __init__(self, condition: int):
        super().__init__()
        self.deformation_decoder = DeformationDecoder(condition)


class LaplaceDensity(nn.Module):
    """Density sigmoid(-s / beta) / beta of the field's values s, with a trained beta."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(FIRST_BETA))

    def forward(self, values: Tensor) -> Tensor:
        beta = self.beta.abs() + LEAST_BETA
        return torch.sigmoid(-values / beta) / beta


class ConditionalGenerator(Generator):
    """The generator on bodies with triangles `faces` (F, 3)."""

    decoder_layers = 3

    def __init__(self, config: ModelConfig, faces: Tensor | None = None):
        super().__init__(config)
        self.renderer = Renderer(config.body_shapes + 3 * (config.body_joints - 1) + config.w_dim)
        self.density_func = LaplaceDensity()
        self.register_buffer("faces", torch.zeros(0, 3, dtype=torch.long) if faces is None else faces.long(), persistent=False)

    def scene(self, ws: Tensor, noise: Noise = "const", mixed: bool = False, body: Body | None = None) -> Scene:
        """The scenes of codes on bodies."""
        plain = super().scene(ws, noise, mixed)
        if body is None:
            return plain
        return BodyScene(plain.planes, ws, body, self.films(ws[:, -1], body))

    def films(self, w: Tensor, body: Body) -> Films:
        """What the last w (B, D) and the pose make of the deformation."""
        return self.renderer.deformation_decoder.films(torch.cat([body.condition.numbers(), w], dim=1))

    def taps(self, points: Tensor, shape: torch.Size) -> Taps:
        """Which pixels canonical points (B, P, 3) read: those of the rim lie on +-1 and go on outside."""
        return orthoplane_taps(points, shape, (1.0, 1.0, 1.0), border=True)

    def posed(self, points: Tensor) -> Tensor:
        """World points (B, P, 3) where the body is asked."""
        return points * (2 / self.config.box_warp) - points.new_tensor([0.0, DROP, 0.0])

    def ask(self, scene: BodyScene, points: Tensor, twice: bool = False) -> Asked:
        """The field's parts at world points (B, P, 3); `twice`: the network's value can be differentiated twice by `places`."""
        posed = self.posed(points)
        canonical = scene.body.canonical(posed)
        moves = self.renderer.deformation_decoder(canonical, scene.films)
        places = canonical + moves
        network, features = self.decoder(read(scene.planes, self.taps(places, scene.planes.shape), twice=twice))
        return Asked(network, scene.body.squared_distance(posed), features, moves, places)

    def field(self, scene: BodyScene, points: Tensor, twice: bool = False) -> tuple[Tensor, Tensor]:
        """Densities (B, P, 1) and features (B, P, 32) at world points (B, P, 3)."""
        asked = self.ask(scene, points, twice)
        return self.density_func(asked.network + asked.mesh), asked.features

    def rendered(self, scene: BodyScene, origins: Tensor, directions: Tensor, draws: Draws = REGULAR, chunk: int | None = None) -> dict[str, Tensor]:
        """As of any generator; bodies stand on their heads in the release's world."""
        turn = origins.new_tensor(FLIP_YZ[:3])
        return super().rendered(scene, origins * turn, directions * turn, draws, chunk)

    def limits(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The same for all rays, whatever the config says."""
        return torch.full_like(origins[..., 0], NEAR), torch.full_like(origins[..., 0], FAR)

    def march(self, scene: BodyScene, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, u_coarse: Tensor, u_fine: Tensor) -> dict[str, Tensor]:
        """As of any generator, and sdf, sdf_zero (B, R, S): what was marched and the mesh's part; moves and places (B, R, S, 3), coarse samples first."""
        config, order = self.config, None
        given = lambda u: u if u.shape[-1] else None
        depths = stratified(near, far, config.depth_resolution, given(u_coarse), config.disparity_space_sampling)
        asked = self.asked_along(scene, origins, directions, depths)
        values = asked.network + asked.mesh
        if config.depth_resolution_importance:
            with torch.no_grad():
                weights = composite_at(asked.features, self.density_func(values[..., 0]), depths)["weights"]
                fine = fine_depths(depths, weights, config.depth_resolution_importance, given(u_fine))
            more = self.asked_along(scene, origins, directions, fine)
            depths, order = merged(depths, fine)
            again = asked.mesh if config.published_mesh else 0
            values, mesh = ordered(values + again, more.network + more.mesh, order), ordered(asked.mesh, more.mesh, order)
            asked = Asked(*(torch.cat(parts, dim=2) for parts in zip(asked, more)))._replace(mesh=mesh)
        seen = composite_at(asked.features, self.density_func(values[..., 0]), depths, order)
        del seen["weights"]
        found = {"sdf": values[..., 0], "sdf_zero": asked.mesh[..., 0], "moves": asked.moves}
        return seen | found | {"first": depths[..., 0], "last": depths[..., -1]}

    def asked_along(self, scene: BodyScene, origins: Tensor, directions: Tensor, depths: Tensor) -> Asked:
        """The field's parts (B, R, S, ...) at depths (B, R, S) of rays."""
        points = origins[:, :, None] + directions[:, :, None] * depths[..., None]
        return Asked(*(part.unflatten(1, depths.shape[1:]) for part in self.ask(scene, points.flatten(1, 2))))

    def eikonal(self, scene: BodyScene, points: Tensor) -> tuple[Asked, Tensor]:
        """The field's parts at world points and the gradient (B, P, 3) of the network's value by the deformed canonical points."""
        asked = self.ask(scene, points)
        places = asked.places.detach().requires_grad_()
        network, _ = self.decoder(read(scene.planes, self.taps(places, scene.planes.shape), twice=True))
        gradient, = torch.autograd.grad(network.sum(), places, create_graph=self.training)
        return asked, gradient


def composite_at(colors: Tensor, densities: Tensor, depths: Tensor, order: Tensor | None = None) -> dict[str, Tensor]:
    """As `march.composite`, but samples count by themselves, the last goes on for ever, white stands behind, and weights are (..., S)."""
    steps = torch.cat([depths[..., 1:] - depths[..., :-1], torch.full_like(depths[..., :1], LAST_STEP)], dim=-1)
    weights = weights_of(1 - torch.exp(-densities * steps))
    opacity = weights.sum(-1)
    shares = weights if order is None else torch.zeros_like(weights).scatter(-1, order, weights)
    seen = (shares[..., None, :] @ colors)[..., 0, :] + (1 - opacity)[..., None]
    depth = ((weights * depths).sum(-1) + (1 - opacity) * depths[..., -1]) / opacity
    return {"colors": 2 * seen - 1, "depth": depth, "weights": weights, "opacity": opacity}
