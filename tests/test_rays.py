"""Rays against projection: a point of a pixel's ray is seen in that pixel."""
from __future__ import annotations

import pytest
import torch

from common.cameras import Cameras, look_at, project
from common.rays import camera_rays, importance, jitter, pixel_grid, unproject, z_depth


def cameras(orthographic, n=3):
    positions = torch.tensor([[0.3, 1.0, 3.0], [-2.0, 0.5, 1.0], [0.0, -1.0, -4.0]], dtype=torch.float64)[:n]
    K = torch.tensor([[1.7, 0.1, 0.45], [0, 2.1, 0.55], [0, 0, 1]], dtype=torch.float64).expand(n, 3, 3)
    return Cameras(look_at(positions, torch.tensor([0.1, 0.0, 0.2], dtype=torch.float64)), K, orthographic)


def test_pixel_centres_row_by_row():
    grid = pixel_grid(2, 4)
    assert grid.shape == (8, 2) and grid[0].tolist() == [0.125, 0.25] and grid[1].tolist() == [0.375, 0.25] and grid[4].tolist() == [0.125, 0.75]
    assert pixel_grid(3, 5, dtype=torch.float64).mean(0).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("orthographic", [True, False])
def test_points_of_a_ray_are_seen_in_its_pixel(orthographic):
    views, uv = cameras(orthographic), torch.rand(3, 11, 2, dtype=torch.float64)
    origins, directions = camera_rays(views, uv)
    assert origins.shape == directions.shape == (3, 11, 3) and torch.allclose(directions.norm(dim=-1), torch.ones(3, 11, dtype=torch.float64))
    for distance in (0.5, 2.0, 7.0):
        points = origins + distance * directions
        seen, depth = project(views, points)
        assert torch.allclose(seen, uv) and (depth > 0).all()
        assert torch.allclose(z_depth(views, points)[..., 0], depth)


@pytest.mark.parametrize("orthographic", [True, False])
def test_unprojection_is_the_inverse_of_projection(orthographic):
    views, uv, depth = cameras(orthographic), torch.rand(3, 11, 2, dtype=torch.float64), 0.5 + torch.rand(3, 11, 1, dtype=torch.float64)
    seen, z = project(views, unproject(views, uv, depth))
    assert torch.allclose(seen, uv) and torch.allclose(z, depth[..., 0])
    at_two = unproject(views, uv, 2.0)
    assert torch.allclose(project(views, at_two)[1], torch.full((3, 11), 2.0, dtype=torch.float64))


def test_where_rays_start_and_run():
    pinhole, parallel = cameras(False), cameras(True)
    uv = pixel_grid(2, 3, dtype=torch.float64)[None]                                      # one grid serves all cameras
    origins, directions = camera_rays(pinhole, uv)
    assert torch.equal(origins, pinhole.cam2world[:, None, :3, 3].expand(3, 6, 3))
    assert not torch.allclose(directions[:, :1], directions)
    origins, directions = camera_rays(parallel, uv)
    assert torch.allclose(directions, parallel.cam2world[:, None, :3, 2].expand(3, 6, 3))
    assert torch.allclose(z_depth(parallel, origins), torch.zeros(3, 6, 1, dtype=torch.float64), atol=1e-12)


def test_double_precision_stays():
    views = cameras(False)
    assert all(x.dtype == torch.float64 for x in camera_rays(views, pixel_grid(2, 2, dtype=torch.float64)[None]))
    assert unproject(views, pixel_grid(2, 2, dtype=torch.float64)[None], 1.0).dtype == torch.float64


def test_a_camera_can_be_learnt_through_its_rays():
    def directions(center):
        pose = look_at(center[None], torch.zeros(1, 3, dtype=torch.float64))
        return camera_rays(Cameras(pose, torch.eye(3, dtype=torch.float64)[None]), pixel_grid(2, 2, dtype=torch.float64)[None])[1]

    assert torch.autograd.gradcheck(directions, torch.tensor([0.4, 0.3, 2.0], dtype=torch.float64, requires_grad=True))


def test_jitter_stays_within_half_a_spacing():
    depths = torch.linspace(0.8, 1.2, 5, dtype=torch.float64).expand(2, 7, 5)
    assert torch.allclose(jitter(depths, torch.full((2, 7, 5), 0.5, dtype=torch.float64)), depths)
    moved = jitter(depths, torch.rand(2, 1, 5, dtype=torch.float64))                       # one draw for all rays of a camera
    assert ((moved - depths).abs() <= 0.05 + 1e-12).all() and torch.equal(moved[:, 0], moved[:, 6])


def test_importance_inverts_the_cdf():
    edges = torch.tensor([0.0, 1.0, 3.0, 4.0], dtype=torch.float64).expand(2, 4)
    weights = torch.tensor([[1.0, 0.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    samples = importance(edges, weights, torch.tensor([[0.9, 0.125, 0.625, 1.0]] * 2, dtype=torch.float64))
    assert samples[0].tolist() == pytest.approx([3 + 0.65 / 0.75, 0.5, 3.5, 4.0], abs=1e-4)   # in the order of u
    assert samples[1].tolist() == pytest.approx([3.7, 0.375, 1 + 2 * 0.875, 4.0])             # no weight at all: every bin alike


def test_importance_draws_bins_by_their_weight():
    weights = torch.rand(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = torch.rand(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).cumsum(0)
    samples = importance(edges[None], weights[None], torch.linspace(0, 1, 100_001, dtype=torch.float64)[None])[0]
    shares = torch.histc(torch.bucketize(samples, edges[1:-1]).double(), 6, 0, 5) / len(samples)
    assert torch.allclose(shares, weights / weights.sum(), atol=1e-4)
