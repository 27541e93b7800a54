"""pi-GAN's cameras and where they stand: rays against the published formula, distributions against their closed forms."""
from __future__ import annotations

import math

import pytest
import torch

from common.cameras import check_cam2world, pigan_angles, pigan_cam2world, pigan_cameras, pigan_intrinsics, project
from common.draws import generator
from common.errors import InputError
from common.poses import DISTRIBUTIONS, draw_angles, estimate, place, truncated
from common.rays import camera_rays, pixel_grid

FRONT = (math.pi / 2, 0.3, math.pi / 2, 0.155)


def some_angles(n=20):
    return torch.stack([0.1 + 2.9 * torch.rand(n, dtype=torch.float64), 6 * torch.rand(n, dtype=torch.float64) - 3], dim=-1)


def test_angles_there_and_back():
    angles = some_angles()
    poses = pigan_cam2world(angles)
    check_cam2world(poses, "pi-GAN")
    assert torch.allclose(poses[:, :3, 3].norm(dim=-1), torch.ones(20, dtype=torch.float64))
    assert torch.allclose(poses[:, :3, 2], -poses[:, :3, 3])                              # looks at the origin
    assert torch.allclose(pigan_angles(poses), angles)


def test_where_the_angles_lead():
    frontal, yawed, raised = pigan_cam2world(torch.tensor([[0.0, 0.0], [0.0, 0.2], [-0.2, 0.0]]) + math.pi / 2)[:, :3, 3]
    assert torch.allclose(frontal, torch.tensor([0.0, 0, 1]), atol=1e-6)
    assert yawed[0] < -0.1 and raised[1] > 0.1                                            # more yaw: towards -x; less pitch: upwards
    poles = pigan_cam2world(torch.tensor([[0.0, 1.0], [math.pi, 1.0], [-1.0, 1.0]]))
    check_cam2world(poles, "poles")


@pytest.mark.parametrize("width, height", [(4, 4), (5, 3)])
def test_first_and_last_pixels_lie_on_the_borders_of_the_view(width, height):
    angles = torch.full((1, 2), math.pi / 2, dtype=torch.float64)
    rays = camera_rays(pigan_cameras(angles, 12.0, width, height), pixel_grid(height, width, dtype=torch.float64)[None])[1][0].view(height, width, 3)
    slopes = rays[..., :2] / -rays[..., 2:] / math.tan(math.radians(6))                   # of a frontal camera: x right, y up
    x, y = torch.linspace(-1, 1, width, dtype=torch.float64), torch.linspace(1, -1, height, dtype=torch.float64)
    assert torch.allclose(slopes, torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1))


def test_a_field_of_view_for_every_camera():
    K = pigan_intrinsics(torch.tensor([12.0, 30.0]), 8)
    assert K.shape == (2, 3, 3) and torch.equal(K[1], pigan_intrinsics(30, 8))
    cameras = pigan_cameras(some_angles(2), torch.tensor([12.0, 30.0]), 8)
    corner = torch.stack([camera[:3, 3] + camera[:3, 2] + camera[:3, 0] * math.tan(math.radians(fov / 2)) for camera, fov in zip(cameras.cam2world, (12, 30))])
    assert torch.allclose(project(cameras, corner[:, None])[0][:, 0, 0], torch.full((2,), 7.5 / 8, dtype=torch.float64))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_moments(distribution):
    pitch, yaw = draw_angles(distribution, 40_000, *FRONT, generator(0, 0, "poses")).double().unbind(-1)
    variance = {"uniform": 1 / 3, "spherical_uniform": 1 / 3, "hybrid": (1 + 4 / 3) / 2, "truncated_gaussian": 0.7737, "mean": 0.0}.get(distribution, 1.0)
    assert yaw.mean() == pytest.approx(math.pi / 2, abs=0.01) and yaw.std() == pytest.approx(0.3 * variance**0.5, rel=0.02)
    assert pitch.mean() == pytest.approx(math.pi / 2, abs=0.01)
    if distribution != "spherical_uniform":
        assert pitch.std() == pytest.approx(0.155 * variance**0.5, rel=0.02)
        assert abs(float(((pitch - pitch.mean()) * (yaw - yaw.mean())).mean())) < 1e-3


def test_spherical_uniform_covers_the_sphere_evenly():
    """Archimedes: heights on a sphere are uniform."""
    angles = draw_angles("spherical_uniform", 40_000, 0.0, math.pi, math.pi / 2, math.pi / 2, generator(0, 0, "sphere"))
    heights = pigan_cam2world(angles)[:, 1, 3].sort().values
    assert (heights - torch.linspace(-1, 1, 40_000)).abs().max() < 0.02


def test_draws_repeat_and_stay_off_the_poles():
    first, again = (draw_angles("gaussian", 100, 0, 1, 0, 2, generator(1, 2, "x")) for _ in range(2))
    assert torch.equal(first, again) and first[:, 0].min() > 0 and first[:, 0].max() < math.pi
    with pytest.raises(InputError, match="--sample_dist: no distribution 'gauss'; expected one of gaussian"):
        draw_angles("gauss", 1, *FRONT)


def test_truncation_takes_the_first_within_the_bound():
    assert truncated(torch.tensor([[2.5, -1.0, 0.3], [3.0, -4.0, 5.0], [0.1, 0.2, 9.0]])).tolist() == pytest.approx([-1.0, 3.0, 0.1])


def test_a_distribution_is_estimated_from_its_draws():
    angles = place("gaussian", torch.randn(20_000, 2, generator=generator(0, 0, "a"), dtype=torch.float64), *FRONT)
    assert list(estimate(angles).values()) == pytest.approx(FRONT, abs=0.01)
    round_the_back = place("gaussian", torch.randn(20_000, 2, generator=generator(0, 0, "b"), dtype=torch.float64), math.pi, 0.3, 1.5, 0.1)
    seen = estimate(pigan_angles(pigan_cam2world(round_the_back)))                       # yaws on both sides of the jump from pi to -pi
    assert abs(seen["h_mean"]) == pytest.approx(math.pi, abs=0.01) and seen["h_stddev"] == pytest.approx(0.3, abs=0.01)
