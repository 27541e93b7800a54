"""Planes against torch's own samplers, their encoding, and their derivatives."""
from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from common.layers.planes import EG3D_AXES, ORTHO_AXES, RIGHT_AXES, orthoplane_taps, plane_encoding, read, scales, triplane_taps


def normal(*shape, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def points_in(half: float, *shape, seed: int = 9) -> torch.Tensor:
    return (torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1) * half


def sampled(planes, points, scale, **how):
    """Each group's volume by grid_sample."""
    scenes, count, channels, height, width = planes.shape
    volumes = planes.view(scenes, count, 3, channels // 3, height, width)
    groups = []
    for g, axes in enumerate(ORTHO_AXES):
        grid = (points[..., list(axes)] * scale[g])[:, :, None, None]
        groups.append(F.grid_sample(volumes[:, :, g].transpose(1, 2), grid, **how)[..., 0, 0].transpose(1, 2))
    return torch.stack(groups, dim=1)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("border", [False, True])
def test_orthoplanes_are_volumes(count, border):
    planes, points, scale = normal(2, count, 12, 6, 7), points_in(1.4, 2, 60), (2.0, 1.0, 0.5)
    how = {"align_corners": True, "padding_mode": "border"} if border else {"align_corners": False, "padding_mode": "zeros"}
    taps, expected = orthoplane_taps(points, planes.shape, scale, border), sampled(planes, points, scale, **how)
    torch.testing.assert_close(read(planes, taps, mean=False), expected)
    torch.testing.assert_close(read(planes, taps), expected.mean(1))
    torch.testing.assert_close(read(planes, taps, twice=True), expected.mean(1))


def test_how_planes_are_stored_changes_nothing():
    planes, points = normal(2, 3, 12, 6, 7), points_in(1, 2, 40)
    stored = planes.flatten(1, 2).contiguous(memory_format=torch.channels_last).unflatten(1, (3, 12))
    taps = orthoplane_taps(points, planes.shape, scales(1.0))
    assert torch.equal(read(planes, taps), read(stored, taps))
    table = stored.permute(0, 3, 4, 1, 2).reshape(-1, 4)
    assert table.data_ptr() == stored.data_ptr()                               # no copy on the way


def test_one_plane_an_axis_is_a_triplane_that_fades():
    planes, points = normal(1, 1, 6, 8, 8), points_in(1, 1, 50)
    ortho = read(planes, orthoplane_taps(points, planes.shape, (1, 1, 1)), mean=False)
    tri = read(planes, triplane_taps(points, planes.shape, 1.0, RIGHT_AXES), mean=False)
    across = torch.stack([points[..., axes[2]] for axes in ORTHO_AXES], dim=1)
    torch.testing.assert_close(ortho, tri * (1 - across.abs() / 2)[..., None])


def test_triplanes_project():
    planes, points = normal(2, 1, 6, 5, 4), points_in(1.2, 2, 30)
    for axes in (RIGHT_AXES, EG3D_AXES):
        features = read(planes, triplane_taps(points, planes.shape, 0.8, axes), mean=False)
        for g, pair in enumerate(axes):
            plane = planes[:, 0].unflatten(1, (3, 2))[:, g]
            expected = F.grid_sample(plane, 0.8 * points[:, :, None][..., list(pair)], align_corners=False)[..., 0].transpose(1, 2)
            torch.testing.assert_close(features[:, g], expected)


def test_no_plane_of_eg3d_tells_y_with_z():
    """Points moved along x: of the right planes one stays as it was, of EG3D's none, for all three have x."""
    planes, points = normal(1, 1, 6, 5, 5), points_in(1, 1, 20)
    moved = points * torch.tensor([0.5, 1.0, 1.0])
    groups = lambda points, axes: read(planes, triplane_taps(points, planes.shape, 1.0, axes), mean=False)
    same = lambda axes: [bool(torch.equal(before, after)) for before, after in zip(groups(points, axes)[0], groups(moved, axes)[0])]
    assert same(RIGHT_AXES) == [False, True, False] and same(EG3D_AXES) == [False, False, False]


def test_the_consistent_box_fills_every_plane_and_the_published_one_does_not():
    """At the corner of a box of side 1, every group reads the corner of its planes; as released the second and third read their middle half."""
    planes = torch.zeros(1, 2, 3, 4, 4, dtype=torch.float64)
    planes[:, -1, :, -1, -1] = 1.0                                             # the corner pixel of the last plane
    inside = torch.tensor([[[0.375, 0.375, 0.25]]], dtype=torch.float64)       # group 0: that pixel's centre
    at = lambda scale: read(planes, orthoplane_taps(inside, planes.shape, scale), mean=False)[0, :, 0, 0]
    assert at(scales(1.0))[0] == 1 and (at(scales(1.0)) > 0).all()
    assert at(scales(1.0, published=True))[0] == 1 and (at(scales(1.0, published=True))[1:] == 0).all()
    assert scales(2.0) == scales(2.0, published=True)


def test_the_encoding():
    assert torch.equal(plane_encoding(1, 0), torch.tensor([[-1.0]])) and plane_encoding(5, 0).shape == (5, 1)
    encoding = plane_encoding(5, 3)
    for k, d in enumerate((-1, -0.5, 0, 0.5, 1)):
        expected = [d, *(wave(2**level * math.pi * d) for level in range(3) for wave in (math.cos, math.sin))]
        torch.testing.assert_close(encoding[k], torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("border", [False, True])
def test_reading_differentiates(border):
    planes, points = normal(1, 2, 6, 3, 4).requires_grad_(), points_in(0.9, 1, 4).requires_grad_()
    look = lambda twice: lambda planes, points: read(planes, orthoplane_taps(points, planes.shape, (1.1, 1.0, 0.9), border), twice=twice)
    assert torch.autograd.gradcheck(look(False), (planes, points)) and torch.autograd.gradcheck(look(True), (planes, points))
    assert torch.autograd.gradgradcheck(look(True), (planes, points))
