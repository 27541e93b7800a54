"""Where query points fall in a picture's and a volume's features: projection, bilinear and trilinear samples, the depth feature.

Coordinates are calibrated (see ``geopifu.geometry``): x and y in [-1, 1] span a picture, a volume's features lie in the view's own frame, its x and z,
which end at 2/3, stretched by 1.5 to [-1, 1]. With `align_corners`, as the release has it, -1 and 1 are the centres of the first and the last pixel
or voxel; without, where they truly are, the outer borders of those.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

XZ_STRETCH = 192 / 128
DISPLACEMENT = 0.0722


def project(points: Tensor, calibrations: Tensor) -> Tensor:
    """R p + t: points (B, 3, N) under calibrations (B, 4, 4), in calibrated coordinates (B, 3, N)."""
    return torch.baddbmm(calibrations[:, :3, 3:], calibrations[:, :3, :3], points)


def project_perspective(points: Tensor, calibrations: Tensor) -> Tensor:
    """R p + t with x and y divided by z (B, 3, N); calibrations (B or 1, 4, 4)."""
    moved = project(points, calibrations.expand(len(points), 4, 4))
    return torch.cat([moved[:, :2] / moved[:, 2:], moved[:, 2:]], dim=1)


def in_picture(projected: Tensor) -> Tensor:
    """Whether points (B, 3, N) fall into the picture, borders included: (B, N) bool."""
    return (projected[:, :2].abs() <= 1).all(1)


def depth_feature(projected: Tensor, load_size: int = 512, z_size: float = 200.0) -> Tensor:
    """z' = z * (load_size // 2) / z_size (B, 1, N) of calibrated points (B, 3, N)."""
    return projected[:, 2:] * (load_size // 2 / z_size)


def sample_picture(features: Tensor, xy: Tensor, align_corners: bool = True) -> Tensor:
    """Bilinear samples (B, C, N) of features (B, C, H, W) at calibrated xy (B, 2, N), zero outside."""
    grid = xy.transpose(1, 2)[:, :, None]
    return grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)[..., 0]


def volume_points(projected: Tensor) -> Tensor:
    """Calibrated points (B, 3, N) in a volume's coordinates, x, y, -z with x and z stretched: its box is [-1, 1]^3."""
    return projected * projected.new_tensor([XZ_STRETCH, 1.0, -XZ_STRETCH])[:, None]


def displacements(distance: float = DISPLACEMENT) -> Tensor:
    """The seven offsets (7, 3) of a multi-range sample: none, then -d and +d along x, y and z."""
    steps = [[sign * distance * (axis == i) for i in range(3)] for axis in range(3) for sign in (-1, 1)]
    return torch.tensor([[0.0] * 3, *steps])


def sample_volume(features: Tensor, xyz: Tensor, offsets: Tensor | None = None, align_corners: bool = True) -> Tensor:
    """Trilinear samples (B, C K, N) of features (B, C, D, H, W) at volume points xyz (B, 3, N) plus each of the offsets (K, 3), zero outside.

    Channel c K + k is feature c at offset k; without offsets K = 1.
    """
    grid = xyz.transpose(1, 2)[:, :, None, None]
    if offsets is not None:
        grid = grid + offsets.to(xyz)[:, None]
    samples = grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)       # (B, C, N, K, 1)
    return samples[..., 0].transpose(2, 3).flatten(1, 2)


def sample_volume_swapped(features: Tensor, xyz: Tensor) -> Tensor:
    """What the release's single-range sampler does: as `sample_volume`, but indices stop at the border and the weights of x and z are exchanged."""
    depth, height, width = features.shape[2:]
    last = xyz.new_tensor([width, height, depth])[:, None] - 1
    at = (xyz + 1) / 2 * last
    low, high = (index.clamp_min(0).minimum(last) for index in (at.floor(), at.floor() + 1))
    (fx, fy, fz), (x0, y0, z0), (x1, y1, z1) = (at - low).unbind(1), low.long().unbind(1), high.long().unbind(1)
    batch = torch.arange(len(features), device=features.device)[:, None]
    total = 0
    for z, wz in ((z0, 1 - fx), (z1, fx)):                                    # x's fraction weighs z's choice, and the other way round
        for y, wy in ((y0, 1 - fy), (y1, fy)):
            for x, wx in ((x0, 1 - fz), (x1, fz)):
                total = total + features[batch, :, z, y, x] * (wz * wy * wx)[..., None]
    return total.transpose(1, 2)
