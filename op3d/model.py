"""OP3D's generator (OrthoPlanes, He et al., ICCV 2023, arXiv 2309.15830), and EG3D's, which it is built on: a code to planes, planes to pictures.

    model = load("op3d-ffhq-512-128-withc-8plane.pkl")
    ws = model.codes(z, labels, psi=0.7)                                    (B, L, 512); labels (B, 25): EG3D's camera numbers
    scene = model.scene(ws)                                                 once per code
    densities, features = model.field(scene, points)                        as often as needed
    pictures = model.pictures(scene, cameras, noise="const")                image (B, 3, R, R), image_raw, image_depth
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from common.cameras import Cameras
from common.chunks import in_chunks
from common.config import option
from common.layers.planes import EG3D_AXES, RIGHT_AXES, Taps, orthoplane_taps, plane_encoding, read, scales, triplane_taps
from common.layers.stylegan2 import EqualLinear, Mapping, MappingShape
from common.layers.stylegan2_blocks import Noise
from common.rays import camera_rays, pixel_grid
from op3d.backbone import FEATURES, Backbone, OrthoSynthesis, TriSynthesis, half_from, widths
from op3d.march import box_limits, clamped, composite, filled, fine_depths, merged, ordered, stratified
from op3d.superresolution import KINDS, SuperResolution

MODELS = ("op3d", "eg3d", "op3d_conditional")
LABELS = 25                                                   # numbers of a camera


@dataclass
class ModelConfig:
    """What a generator is and how its rays are sampled; names of the published flags and rendering options."""

    model: str = option("op3d", "ortho-planes, EG3D's tri-planes, or ortho-planes in a body's canonical pose", choices=MODELS)
    plane_number: int = option(8, "planes along each axis", low=1)
    fourier_L: int = option(10, "powers of the planes' positional encoding; 0: the linear variant", low=0)
    plane_side: int = option(256, "pixels of a plane's side, a power of two", low=4)
    z_dim: int = option(512, "numbers of a latent", low=1)
    w_dim: int = option(512, "numbers of a style code", low=1)
    map_depth: int = option(8, "layers of the mapping network", low=1)
    embed_features: int = option(0, "width of the mapping's camera embedding; 0: w_dim", low=0)
    layer_features: int = option(0, "width of its inner layers; 0: w_dim", low=0)
    label_dim: int = option(LABELS, "numbers of a label; 0: no labels", low=0)
    cbase: int = option(24576, "channels of a block are this by its side ...", low=1)
    cmax: int = option(384, "... and at most this", low=1)
    decoder_lr_mul: float = option(1.0, "learning rate multiplier of the decoder")
    img_resolution: int = option(512, "pixels of a picture's side", low=1)
    sr_module: str = option("SuperresolutionHybrid8XDC", "super-resolution; none: the rendered colours are the picture", choices=("none", *KINDS))
    sr_antialias: bool = option(True, "resize the super-resolution's input with antialiasing")
    sr_noise_mode: str = option("none", "pixel noise of the super-resolution", choices=("none", "random", "const"))
    sr_num_fp16_res: int = option(4, "above 0: super-resolution in half precision on a GPU", low=0)
    g_num_fp16_res: int = option(0, "largest blocks of the backbone in half precision", low=0)
    conv_clamp: float | None = option(None, "bound of the backbone's activations (256 goes with half precision)")
    gen_pose_cond: bool = option(True, "the mapping sees the camera")
    c_scale: float = option(1.0, "factor of the labels that the mapping sees")
    neural_rendering_resolution: int = option(64, "rays along a side of the rendered features", low=1)
    depth_resolution: int = option(48, "samples of a ray", low=3)
    depth_resolution_importance: int = option(48, "more samples where the first weights are", low=0)
    ray_start: float | None = option(2.25, "distance at which rays start; none: where they enter the box")
    ray_end: float | None = option(3.3, "distance at which they end; none: where they leave the box")
    box_warp: float = option(1.0, "side of the box that the planes span, world units")
    white_back: bool = option(False, "white behind the field")
    disparity_space_sampling: bool = option(False, "samples even in 1 / distance")
    density_noise: float = option(0.0, "spread of normal noise on raw densities in training", low=0)
    avg_camera_radius: float = option(2.7, "distance of the cameras from the pivot's origin")
    avg_camera_pivot: list[float] = option([0.0, 0.0, 0.2], "point that the cameras look at")
    body_joints: int = option(24, "joints of a condition's body, the root one of them", low=1)
    body_shapes: int = option(10, "numbers of its shape", low=0)
    published_scale: bool = option(False, "the release's defect: 2 / box_warp on the first of the three groups of planes alone")
    published_axes: bool = option(False, "EG3D's defect: its third plane repeats the axes of the second")
    published_limits: bool = option(False, "the release's defect: rays past the box end where the last of the others begins")
    published_mesh: bool = option(False, "the release's defect: a body's distance counts twice in coarse samples")


@dataclass(frozen=True)
class Scene:
    """Planes (B, K, 96, S, S), stored channels last, and the codes ws (B, L, D) that they come from."""

    planes: Tensor
    ws: Tensor


@dataclass(frozen=True)
class Draws:
    """Uniforms in [0, 1) of the coarse (B, R, S) and of the fine samples (B, R, K); None: the middles, no draw at all."""

    coarse: Tensor | None = None
    fine: Tensor | None = None


REGULAR = Draws()


class Decoder(nn.Module):
    """EG3D's decoder of the mean feature: a raw density, and features, the first three of them colours."""

    def __init__(self, hidden_layers: int = 1, lr_mul: float = 1.0, inputs: int = FEATURES, hidden: int = 64, outputs: int = FEATURES):
        super().__init__()
        layers = [EqualLinear(inputs, hidden, lr_mul=lr_mul)]
        for _ in range(hidden_layers - 1):
            layers += [nn.Softplus(), EqualLinear(hidden, hidden, lr_mul=lr_mul)]
        self.net = nn.Sequential(*layers, nn.Softplus(), EqualLinear(hidden, 1 + outputs, lr_mul=lr_mul))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw densities (B, P, 1) and features (B, P, 32), within [-0.001, 1.001], of plane features (B, P, 32)."""
        densities, features = self.net(x).split([1, self.net[-1].weight.shape[0] - 1], dim=-1)
        return densities, features.sigmoid() * 1.002 - 0.001


class Generator(nn.Module):
    """OP3D's or EG3D's generator under its published keys."""

    decoder_layers = 1

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        channels = widths(config.plane_side, config.cbase, config.cmax)
        half_side = half_from(config.plane_side, config.g_num_fp16_res)
        if config.model == "eg3d":
            synthesis = TriSynthesis(config.plane_side, channels, config.w_dim, config.conv_clamp, half_side)
        else:
            synthesis = OrthoSynthesis(config.plane_side, channels, config.w_dim, 2 * config.fourier_L + 1, config.conv_clamp, half_side)
            self.register_buffer("encoding", plane_encoding(config.plane_number, config.fourier_L), persistent=False)
        mapping = Mapping(MappingShape(config.z_dim, config.label_dim, config.w_dim, config.map_depth, config.embed_features, config.layer_features))
        self.backbone = Backbone(mapping, synthesis)
        if config.sr_module != "none":
            self.superresolution = SuperResolution(config.sr_module, config.sr_num_fp16_res > 0, config.sr_antialias)
        self.decoder = Decoder(self.decoder_layers, config.decoder_lr_mul)

    # The scene, once per code

    def mapped(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """w (B, D) of latents (B, Z) and labels (B, 25), as far as the config lets the mapping see them."""
        seen = None if labels is None else labels * (self.config.c_scale * self.config.gen_pose_cond)
        return self.backbone.mapping(z, seen)

    def codes(self, z: Tensor, labels: Tensor | None, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """ws (B, L, D) of latents and labels, the first `cutoff` (None: all) pulled towards the average by psi < 1."""
        return self.backbone.mapping.truncated(self.mapped(z, labels), self.backbone.synthesis.count, psi, cutoff)

    def scene(self, ws: Tensor, noise: Noise = "const", mixed: bool = False) -> Scene:
        """The scenes of codes; `mixed`: their planes all go by the last of the ws, as the release's density penalties in training have it."""
        if self.config.model == "eg3d":
            return Scene(self.backbone.synthesis(ws, noise), ws)
        return Scene(self.backbone.synthesis(ws, self.encoding, noise, mixed), ws)

    # The field, as often as needed

    def taps(self, points: Tensor, shape: torch.Size) -> Taps:
        """Which pixels of planes of `shape` world points (B, P, 3) read."""
        config = self.config
        if config.model == "eg3d":
            return triplane_taps(points, shape, 2 / config.box_warp, EG3D_AXES if config.published_axes else RIGHT_AXES)
        return orthoplane_taps(points, shape, scales(config.box_warp, config.published_scale))

    def field(self, scene: Scene, points: Tensor, twice: bool = False) -> tuple[Tensor, Tensor]:
        """Raw densities (B, P, 1) and features (B, P, 32) at world points (B, P, 3); `twice`: to be differentiated twice."""
        return self.decoder(read(scene.planes, self.taps(points, scene.planes.shape), twice=twice))

    # Pictures

    def pictures(self, scene: Scene, cameras: Cameras, side: int | None = None, draws: Draws = REGULAR, noise: Noise | None = None,
                 chunk: int | None = None) -> dict[str, Tensor]:
        """image (B, 3, R, R), image_raw (B, 3, n, n) in [-1, 1], image_depth (B, 1, n, n) and features (B, 32, n, n) of B scenes from B cameras.

        side n: rays along a side, by default the config's; noise: of the super-resolution, by default the config's mode; chunk: rays at once.
        """
        side = side or self.config.neural_rendering_resolution
        seen = self.rendered(scene, *camera_rays(cameras, pixel_grid(side, side, scene.planes.device)[None]), draws, chunk)
        picture = lambda values: values.transpose(1, 2).unflatten(2, (side, side))
        features, depth = picture(seen.pop("colors")), picture(seen.pop("depth")[..., None])
        image = features[:, :3]
        if self.config.sr_module != "none":
            image = self.superresolution(image, features, scene.ws, self.config.sr_noise_mode if noise is None else noise)
        return {"image": image, "image_raw": features[:, :3], "image_depth": depth, "features": features} | seen

    def rendered(self, scene: Scene, origins: Tensor, directions: Tensor, draws: Draws = REGULAR, chunk: int | None = None) -> dict[str, Tensor]:
        """colors (B, R, 32) in [-1, 1], depth and opacity (B, R) along rays (B, R, 3), `chunk` of them at once (None: all)."""
        config, rays = self.config, origins.shape[:2]
        near, far = self.limits(origins, directions)
        uniforms = lambda u, count: torch.zeros(*rays, 0, device=origins.device) if u is None else u[..., :count].expand(*rays, count)
        inputs = (origins, directions, near, far, uniforms(draws.coarse, config.depth_resolution), uniforms(draws.fine, config.depth_resolution_importance))
        seen = in_chunks(partial(self.march, scene), *inputs, chunk=chunk or max(rays[1], 1), axis=1)
        return seen | {"depth": clamped(seen["depth"], seen.pop("first"), seen.pop("last"))}

    def limits(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """near, far (B, R) of rays (B, R, 3)."""
        config = self.config
        if config.ray_start is None or config.ray_end is None:
            return filled(*box_limits(origins, directions, config.box_warp), config.published_limits)
        return torch.full_like(origins[..., 0], config.ray_start), torch.full_like(origins[..., 0], config.ray_end)

    def march(self, scene: Scene, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, u_coarse: Tensor, u_fine: Tensor) -> dict[str, Tensor]:
        """What rays (B, R, 3) see between near and far (B, R); u (B, R, samples), or (B, R, 0) for the middles."""
        config = self.config
        given = lambda u: u if u.shape[-1] else None
        depths = stratified(near, far, config.depth_resolution, given(u_coarse), config.disparity_space_sampling)
        densities, colors = self.along(scene, origins, directions, depths)
        order = None
        if config.depth_resolution_importance:
            with torch.no_grad():
                weights = composite(colors, densities[..., 0], depths)["weights"]
                fine = fine_depths(depths, weights, config.depth_resolution_importance, given(u_fine))
            more_densities, more_colors = self.along(scene, origins, directions, fine)
            depths, order = merged(depths, fine)
            densities, colors = ordered(densities, more_densities, order), torch.cat([colors, more_colors], dim=-2)
        seen = composite(colors, densities[..., 0], depths, config.white_back, order)
        del seen["weights"]
        return seen | {"first": depths[..., 0], "last": depths[..., -1]}

    def along(self, scene: Scene, origins: Tensor, directions: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
        """The field (B, R, S, 1) and (B, R, S, 32) at depths (B, R, S) of rays (B, R, 3)."""
        points = origins[:, :, None] + directions[:, :, None] * depths[..., None]
        densities, features = self.field(scene, points.flatten(1, 2))
        if self.training and self.config.density_noise:
            densities = densities + torch.randn_like(densities) * self.config.density_noise
        return densities.unflatten(1, depths.shape[1:]), features.unflatten(1, depths.shape[1:])
