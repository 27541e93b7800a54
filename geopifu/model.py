"""Geo-PIFu and its baseline PIFu: a photo to an occupancy field (paper, section 3; published key names).

    scene = model.scene(photos)                 once: feature maps of the photo and, with a V-net, latent voxels of the body
    values = model.field(scene, points)         occupancy 0 to 1 anywhere, the surface at 0.5

    PIFu       o(X) = MLP([map(x), z])                   x: where X is in the photo; z: its depth
    Geo-PIFu   o(X) = MLP([voxels(X + d_k), k = 0..6, map(x), z])

`model.netG` is that network, `model.netV` the V-net that makes the voxels (``geopifu.vnet``); a model may hold one of them or both.
Photos are (B, 3, S, S), -1 to 1, 0 where the mask is 0. Points are canonical (``geopifu.geometry``). Files are read and written by ``geopifu.published``.
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from common.config import option
from common.errors import InputError
from geopifu import sampling
from geopifu.geometry import calibration
from geopifu.hourglass import HGFilter, initialise
from geopifu.vnet import CHANNELS, VNet


@dataclass
class ModelConfig:
    """What shapes the networks; the defaults are the published flags'."""

    num_stack: int = option(4, "stacks of the image filter", low=1)
    num_hourglass: int = option(2, "times that an hourglass halves its maps", low=1)
    features: int = option(256, "channels of the hourglasses; before them a quarter and a half of it. The release's are 256", low=16)
    hourglass_dim: int = option(256, "channels of the maps that points are sampled from", low=1)
    norm: str = option("group", "norm of the image networks", choices=("group", "batch"))
    hg_down: str = option("ave_pool", "how the image filter halves its maps: average, or a convolution of 64 or 128 channels",
                          choices=("ave_pool", "conv64", "conv128"))
    upsample_mode: str = option("bicubic", "how an hourglass doubles its maps", choices=("bicubic", "nearest"))
    skip_hourglass: bool = option(False, "sample the maps before the hourglasses too")
    mlp_dim: list[int] = option([257, 1024, 512, 256, 128, 1], "widths of the classifier; the first is counted by the network")
    mlp_dim_3d: list[int] = option([56, 256, 128, 1], "with multiLoss: of the classifier of voxels; the first is counted")
    mlp_dim_joint: list[int] = option([0, 256, 128, 1], "with multiLoss: of the classifier of both; the first is counted")
    no_residual: bool = option(False, "do not give the features to every layer of the classifier again")
    loadSize: int = option(512, "side of the photos, in pixels; depth is scaled by half of it", low=16)
    z_size: float = option(200.0, "depth is divided by it")
    deepVoxels_fusion: str | None = option(None, "how latent voxels join the photo's features; none: PIFu", choices=("early", "late", "multiLoss"))
    deepVoxels_c_len: int = option(8, "voxel features of a point: early, multiLoss 8, or 56 with multiRanges_deepVoxels; late: what they are reduced to", low=1)
    deepVoxels_c_len_intoLateFusion: int = option(8, "with late: voxel features of a point before that, 8 or 56", low=1)
    multiRanges_deepVoxels: bool = option(False, "sample voxels at a point and six displaced ones")
    displacment: float = option(0.0722, "how far those are displaced, in half boxes", low=0)
    vrn_num_modules: int = option(4, "stacks of the V-net", low=1)
    vrn_net_input_height: int = option(384, "side that photos are resized to for the V-net, in pixels", low=32)
    vrn_net_input_width: int = option(256, "columns of it that the V-net sees, the middle ones", low=32)
    published_pixels: bool = option(False, "the release's defect: samples up to half a pixel beside their place in the photo")
    published_voxels: bool = option(False, "the release's defect: samples and coarse meshes up to half a voxel beside their place")
    published_index_3d: bool = option(False, "the release's defect: without multiRanges_deepVoxels, the weights of X and Z exchanged")


NAMES = tuple(field.name for field in fields(ModelConfig))
REPAIRS = ("published_pixels", "published_voxels", "published_index_3d")


@dataclass(frozen=True)
class Scene:
    """What a field needs of B people seen in V photos: maps (B V, C, h, w), calibrations (B V, 4, 4); before the hourglasses; latent voxels (B, 8, D, H, W)."""

    maps: list[Tensor]
    calibs: Tensor
    stem: Tensor | None = None
    voxels: Tensor | None = None


# The classifier

def add_layers(module: nn.Module, name: str, dims: list[int], skip: int) -> None:
    """Register 1x1 convolutions name0, name1, ... of widths `dims`, every one but the first with `skip` more inputs."""
    for layer, (a, b) in enumerate(pairwise(dims)):
        module.add_module(f"{name}{layer}", nn.Conv1d(a + skip * (layer > 0), b, 1))


def run_layers(module: nn.Module, name: str, x: Tensor, skip: Tensor, residual: bool, views: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """x through the layers `name`, `skip` given to all but the first again: (occupancy (B, 1, N), the last hidden layer, skip).

    With several views, x and skip (B V, C, N) are averaged over them half-way.
    """
    layers = [layer for key, layer in module.named_children() if key.startswith(name)]
    for number, layer in enumerate(layers):
        hidden = x
        x = layer(torch.cat([x, skip], dim=1) if residual and number > 0 else x)
        x = leaky_relu(x) if number < len(layers) - 1 else x.sigmoid()
        if views > 1 and number == len(layers) // 2:
            x, skip = (tensor.unflatten(0, (-1, views)).mean(1) for tensor in (x, skip))
    return x, hidden, skip


class SurfaceClassifier(nn.Module):
    """Features of points (B V, C, N) to occupancies [(B, 1, N)], 0 to 1."""

    def __init__(self, dims: list[int], residual: bool = True):
        super().__init__()
        self.residual = residual
        add_layers(self, "conv", dims, residual * dims[0])

    def forward(self, pixel: Tensor, voxel: Tensor | None, views: int = 1) -> list[Tensor]:
        """Of the photo's features (B V, C, N) and the voxels' (B, C', N), which come first."""
        if voxel is not None:
            pixel = torch.cat([voxel.repeat_interleave(views, 0), pixel], dim=1)
        return [run_layers(self, "conv", pixel, pixel, self.residual, views)[0]]


class MultiLossClassifier(nn.Module):
    """A classifier of the photo's features, one of the voxels', and one of both that starts from their last hidden layers."""

    def __init__(self, dims: list[int], dims_3d: list[int], dims_joint: list[int], residual: bool = True):
        super().__init__()
        self.residual, both = residual, residual * (dims[0] + dims_3d[0])
        add_layers(self, "features_2d_conv", dims, residual * dims[0])
        add_layers(self, "features_3d_conv", dims_3d, residual * dims_3d[0])
        add_layers(self, "features_joint_conv", [dims[-2] + dims_3d[-2] + both, *dims_joint[1:]], both)

    def forward(self, pixel: Tensor, voxel: Tensor, views: int = 1) -> list[Tensor]:
        """Three occupancies (B, 1, N): of the photo (B V, C, N), of the voxels (B, C', N), of both."""
        alone, hidden, pixel = run_layers(self, "features_2d_conv", pixel, pixel, self.residual, views)
        shape, hidden_3d, _ = run_layers(self, "features_3d_conv", voxel, voxel, self.residual)
        both = torch.cat([pixel, voxel], dim=1)
        start = torch.cat([hidden, hidden_3d, *([both] if self.residual else [])], dim=1)
        return [alone, shape, run_layers(self, "features_joint_conv", start, both, self.residual)[0]]


class LateFusion(nn.Module):
    """Voxel features (B, c, N) to (B, out, N), by way of 2c and 4c."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        for layer, (a, b) in enumerate(pairwise([channels, 2 * channels, 4 * channels, out])):
            self.add_module(f"fusion_fc_{layer + 1}", nn.Conv1d(a, b, 1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = leaky_relu(layer(x))
        return x


# The networks

class PIFu(nn.Module):
    """netG: PIFu, and with `deepVoxels_fusion` Geo-PIFu; 441 and 442 tensors at the published configuration."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, fusion, ranges = config, config.deepVoxels_fusion, 7 if config.multiRanges_deepVoxels else 1
        check(config, CHANNELS * ranges)
        if ranges > 1:
            self.register_buffer("displacments", sampling.displacements(config.displacment))
        self.image_filter = HGFilter(config.num_stack, config.num_hourglass, config.hourglass_dim, config.features, config.norm, config.hg_down,
                                     config.upsample_mode)
        pixel = config.hourglass_dim + 1 + config.features // 4 * config.skip_hourglass
        if fusion == "multiLoss":
            dims_3d = [CHANNELS * ranges, *config.mlp_dim_3d[1:]]
            self.surface_classifier = MultiLossClassifier([pixel, *config.mlp_dim[1:]], dims_3d, config.mlp_dim_joint, not config.no_residual)
        else:
            voxel = config.deepVoxels_c_len if fusion else 0
            self.surface_classifier = SurfaceClassifier([voxel + pixel, *config.mlp_dim[1:]], not config.no_residual)
        if fusion == "late":
            self.deepVoxels_fusion_network = LateFusion(config.deepVoxels_c_len_intoLateFusion, config.deepVoxels_c_len)
        initialise(self)

    def scene(self, images: Tensor, calibs: Tensor, voxels: Tensor | None = None) -> Scene:
        """The scene of photos (B V, 3, S, S) with calibrations (B V, 4, 4) and latent voxels (B, 8, D, H, W): all stacks when training, else the last."""
        maps, stem, _ = self.image_filter(images)
        return Scene(maps if self.training else maps[-1:], calibs, stem if self.config.skip_hourglass else None, voxels)

    def predict(self, scene: Scene, points: Tensor) -> list[Tensor]:
        """Occupancies (B, 1, N) at points (B, 3, N) by every stack and head that trains, or in eval mode by the last; 0 outside of all photos."""
        views = len(scene.calibs) // len(points)
        calibrated = sampling.project(points.repeat_interleave(views, 0), scene.calibs)
        seen = sampling.in_picture(calibrated).unflatten(0, (-1, views)).any(1)[:, None]
        voxel = None if scene.voxels is None else self._voxel_features(scene.voxels, calibrated[::views])
        depth = sampling.depth_feature(calibrated, self.config.loadSize, self.config.z_size)
        sample = lambda maps: sampling.sample_picture(maps, calibrated[:, :2], self.config.published_pixels)
        others = [depth] if scene.stem is None else [depth, sample(scene.stem)]
        heads = slice(None) if self.training else slice(-1, None)
        occupancies = [self.surface_classifier(torch.cat([sample(maps), *others], dim=1), voxel, views)[heads] for maps in scene.maps]
        return [seen * occupancy for of_stack in occupancies for occupancy in of_stack]

    def _voxel_features(self, voxels: Tensor, calibrated: Tensor) -> Tensor:
        """Of points as the first view sees them (B, 3, N): (B, C, N)."""
        xyz, config = sampling.volume_points(calibrated), self.config
        if config.published_index_3d and not config.multiRanges_deepVoxels:
            features = sampling.sample_volume_swapped(voxels, xyz)
        else:
            features = sampling.sample_volume(voxels, xyz, getattr(self, "displacments", None), config.published_voxels)
        return self.deepVoxels_fusion_network(features) if config.deepVoxels_fusion == "late" else features


class GeoPIFu(nn.Module):
    """The networks of one person's photo: netG, netV or both."""

    def __init__(self, config: ModelConfig, parts: tuple[str, ...] = ("netG", "netV")):
        super().__init__()
        self.config = config = ModelConfig(**{name: getattr(config, name) for name in NAMES})
        self.netG = PIFu(config) if "netG" in parts else None
        self.netV = vnet(config) if "netV" in parts else None

    @property
    def side(self) -> int:
        """Side of the photos that it was made for, in pixels."""
        return self.config.loadSize

    def scene(self, photos: Tensor, calibs: Tensor | None = None, voxels: Tensor | None = None) -> Scene:
        """The scene of photos (B, 3, S, S), or (B, V, 3, S, S) from V views with calibrations (B, V, 4, 4); without those, one view, the front.

        Latent voxels (B, 8, D, H, W) are made by netV unless they are given. Raises InputError where netG needs them and there is no netV.
        """
        views = photos if photos.dim() == 5 else photos[:, None]
        if calibs is None:
            calibs = torch.from_numpy(calibration(0)).to(photos).expand(*views.shape[:2], 4, 4)
        if not self.config.deepVoxels_fusion:
            voxels = None
        elif voxels is None:
            voxels = self.latents(views[:, 0])
        return self.netG.scene(views.flatten(0, 1), calibs.flatten(0, 1), voxels)

    def latents(self, photos: Tensor) -> Tensor:
        """Latent voxels (B, 8, D, H, W) of photos (B, 3, S, S), by the last stack of netV in eval mode, without gradient."""
        if self.netV is None:
            raise InputError("this model has no V-net to make latent voxels with: give one (netV_epoch_...) or the voxels (--deepVoxelsDir)")
        with torch.no_grad():
            return self.netV.latents(photos)[-1]

    def field(self, scene: Scene, points: Tensor) -> Tensor:
        """Occupancies (B, P) from 0 to 1 at canonical points (B, P, 3), 0 outside of the photos; in eval mode."""
        return self.netG.predict(scene, points.mT)[-1][:, 0]


def vnet(config: ModelConfig) -> VNet:
    """The V-net of a configuration."""
    return VNet(config.vrn_num_modules, config.num_hourglass, config.features, config.norm, config.upsample_mode, config.vrn_net_input_height,
                config.vrn_net_input_width, config.published_pixels, config.published_voxels)


def check(config: ModelConfig, channels: int) -> None:
    """Raise InputError for widths that no classifier has, and for numbers of voxel features that are not those that there are, `channels`."""
    flags = ("mlp_dim", "mlp_dim_3d", "mlp_dim_joint") if config.deepVoxels_fusion == "multiLoss" else ("mlp_dim",)
    for flag in flags:
        dims = getattr(config, flag)
        if len(dims) < (3 if len(flags) > 1 else 2) or min(dims[1:]) < 1 or dims[-1] != 1:
            raise InputError(f"--{flag} {' '.join(map(str, dims))}: expected widths that end in 1, a hidden one before it with multiLoss")
    flag = {"early": "deepVoxels_c_len", "multiLoss": "deepVoxels_c_len", "late": "deepVoxels_c_len_intoLateFusion"}.get(config.deepVoxels_fusion)
    if flag and getattr(config, flag) != channels:
        has = "with" if config.multiRanges_deepVoxels else "without"
        raise InputError(f"--{flag} {getattr(config, flag)}: {has} --multiRanges_deepVoxels a point has {channels} voxel features")
    if not config.deepVoxels_fusion and config.multiRanges_deepVoxels:
        raise InputError("--multiRanges_deepVoxels: needs --deepVoxels_fusion early, late or multiLoss")
