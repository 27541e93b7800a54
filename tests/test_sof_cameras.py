"""SOF's cameras: paths that look where they should from where they should, and its pixels."""
from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from common.cameras import Cameras, check_cam2world, intrinsics_matrix, look_at, project
from common.errors import InputError
from common.rays import pixel_grid, unproject
from sof.cameras import (
    CENTER,
    fibonacci_positions,
    normal_map,
    path_poses,
    pixel_centers,
    plane_path,
    published_cameras,
    sof_cameras,
    sphere_path,
    spiral_path,
    uniform_path,
)

HEAD = torch.tensor(CENTER, dtype=torch.float64)


def seen_in_the_middle(cam2world: Tensor, targets: Tensor) -> None:
    """Every camera is rigid, holds its head up, and has its target straight ahead."""
    check_cam2world(cam2world, "path")
    uv, depth = project(Cameras(cam2world, intrinsics_matrix(torch.ones(len(cam2world), dtype=torch.float64), dtype=torch.float64)), targets[:, None])
    assert torch.allclose(uv, torch.tensor(0.5).double()) and (depth > 0).all()
    assert (cam2world[:, 1, 1] < 0).all() and torch.allclose(cam2world[:, 1, 0], torch.zeros(()).double(), atol=1e-12)


@pytest.mark.parametrize("name", ["turntable", "sphere", "uniform", "spiral"])
@pytest.mark.parametrize("count", [8, 25])
def test_named_paths_look_at_the_head(name, count):
    cam2world = path_poses(name, count, 3.0)
    assert cam2world.dtype == torch.float64 and len(cam2world) == {"uniform": 5 * count, "spiral": 4 * (count // 8) + count // 2}.get(name, count)
    seen_in_the_middle(cam2world, HEAD.expand(len(cam2world), 3))
    offset = cam2world[:, :3, 3] - HEAD
    assert (offset[:, 2] > 0).all()                               # before the face
    if name in ("turntable", "sphere"):
        assert torch.allclose(offset.norm(dim=-1), torch.tensor(3.0).double())
    if name == "uniform":
        assert torch.allclose(offset[:, [0, 2]].norm(dim=-1), torch.tensor(3.0).double())


@pytest.mark.parametrize("distance", [1.0, 4.5])
def test_the_plane_looks_straight_ahead(distance):
    cam2world = path_poses("plane", 9, distance)
    check_cam2world(cam2world, "plane")
    assert torch.equal(cam2world[:, :3, :3], torch.diag(torch.tensor([1.0, -1, -1]).double()).expand(9, 3, 3))
    assert (cam2world[:, 2, 3] == distance).all() and cam2world[:, 0, 3].aminmax() == pytest.approx((-0.05 * distance, 0.05 * distance))
    assert cam2world[:, 1, 3].aminmax() == pytest.approx((0.12, 0.13))


@pytest.mark.parametrize("distance", [1.0, 4.5])
def test_the_spiral_up_a_sphere_passes_both_poles(distance):
    """All about the head, every camera rigid, the poles included, whose up is that of cameras which come there from before the face."""
    cam2world = path_poses("fibonacci", 21, distance)
    check_cam2world(cam2world, "fibonacci")
    offset = (cam2world[:, :3, 3] - HEAD) / distance
    assert torch.allclose(offset.norm(dim=-1), torch.ones(21).double()) and torch.allclose(cam2world[:, :3, 2], -offset, atol=1e-9)
    assert torch.allclose(offset, (path_poses("fibonacci", 21, 1.0)[:, :3, 3] - HEAD), atol=1e-9)              # as wound at every distance
    assert (cam2world[1:-1, 1, 1] < 0).all()
    for pole, height in ((0, -1.0), (-1, 1.0)):
        beside = torch.tensor([0.0, height, 1e-4]).double()
        assert offset[pole].tolist() == pytest.approx([0, height, 0], abs=1e-9)
        assert torch.allclose(cam2world[pole, :3, :3], look_at(beside, torch.zeros(3).double())[:3, :3], atol=1e-3)


def test_other_paths_are_refused():
    with pytest.raises(InputError, match="--path: 'helix' is none of turntable, sphere"):
        path_poses("helix", 5)


def test_a_turntable_closes():
    turn = path_poses("turntable", 36)
    assert torch.allclose(turn[0], look_at(HEAD + torch.tensor([0, 0, 4.5]).double(), HEAD)) and torch.allclose(turn[18], turn[0])
    steps = (turn[:, :3, 3] - turn.roll(-1, 0)[:, :3, 3]).norm(dim=-1)
    assert steps.max() < 3 * steps.mean() and len({tuple(row) for row in turn[:, :3, 3].round(decimals=9).tolist()}) > 18


@pytest.mark.parametrize("count", [1, 4, 7, 25])
def test_sphere_path(count):
    positions, targets = sphere_path(HEAD, 2.0, count)
    offset = (positions - HEAD) / 2
    assert torch.allclose(offset.norm(dim=-1), torch.ones(count).double()) and torch.equal(targets, HEAD.expand(count, 3))
    theta, phi = offset[:, 1].acos() - math.pi / 2, torch.atan2(offset[:, 2], offset[:, 0]) - math.pi / 2
    assert theta.abs().max() <= 0.3 + 1e-9 and phi.abs().max() <= 0.6 + 1e-9
    if count == 25:
        assert torch.allclose(theta.view(5, 5), torch.linspace(-0.3, 0.3, 5).double()[:, None], atol=1e-6)
        assert (phi.view(5, 5)[::2].diff() > 0).all() and (phi.view(5, 5)[1::2].diff() < 0).all()       # to and fro: neighbours in time are neighbours
        assert (positions.diff(dim=0).norm(dim=-1) < 0.7).all()


def test_plane_and_uniform_paths():
    positions, targets = plane_path(HEAD, 2.0, 9)
    assert torch.allclose(targets - positions, torch.tensor([0.0, 0, -1]).double()) and torch.allclose(positions[:, 2], torch.tensor(2.0).double())
    assert positions[:, 0].tolist() == pytest.approx([0.05] * 3 + [0] * 3 + [-0.05] * 3) and positions[0, 1].item() == pytest.approx(0.1 + 0.13)
    positions, targets = uniform_path(HEAD, 2.0, 3)
    assert (positions - HEAD).view(5, 3, 3)[:, 1].tolist() == [pytest.approx([0, height, 2.0]) for height in (0.3, 0.175, 0.05, -0.075, -0.2)]
    assert torch.equal(targets, HEAD.expand(15, 3))


def test_spiral_path():
    """Four sweeps about the target, then a spiral about the centre."""
    center, target = torch.tensor([0, 0.1, 4.0]).double(), torch.tensor([0, 0.1, 0]).double()
    positions, targets = spiral_path(center, target, 0.6, 40)
    assert len(positions) == 40 and torch.equal(targets, target.expand(40, 3))
    sweeps = positions[:20] - target
    assert torch.allclose(sweeps.norm(dim=-1), torch.tensor(4.6).double())
    ends = torch.atan2(sweeps[:, 0], sweeps[:, 2]).view(4, 5)[:, [0, -1]]
    assert ends.tolist() == [pytest.approx(pair, abs=1e-9) for pair in ([0, -0.55], [-0.55, 0], [0, 0.55], [0.55, 0])]
    near = positions[20:] - center
    assert (near[:, 0].abs() <= 0.3 + 1e-9).all() and (near[:, 1:].abs() <= 0.2 + 1e-9).all() and near[0].tolist() == pytest.approx([0, 0, 0.2])


def test_fibonacci_positions_climb_the_sphere():
    positions = fibonacci_positions(1.5, 30)
    assert torch.allclose(positions.norm(dim=-1), torch.tensor(1.5).double()) and (positions[:, 1].diff() > 0).all()
    assert positions[0].tolist() == pytest.approx([0, -1.5, 0]) and positions[-1].tolist() == pytest.approx([0, 1.5, 0], abs=1e-6)


@pytest.mark.parametrize("orthographic", [True, False])
def test_integer_pixels(orthographic):
    """Unprojection of pixel (x, y) as specification 1.1 has it: (x - cx) / fx, at z for parallel rays, times z for pinholes."""
    K = torch.tensor([[[36.0, 0, 64], [0, 30.0, 60], [0, 0, 1]]]).double()
    camera = sof_cameras(torch.eye(4).double()[None], K, 128, orthographic)
    pixels, z = torch.tensor([[0.0, 0], [64, 60], [127, 3], [10, 100]]).double(), 2.5
    expected = (pixels - K[0, :2, 2]) / torch.tensor([36.0, 30.0]).double() * (1 if orthographic else z)
    points = unproject(camera, pixel_centers(pixels, 128)[None], z)[0]
    torch.testing.assert_close(points, torch.cat([expected, torch.full((4, 1), z).double()], -1))


def test_the_released_cameras():
    """View width 128 / 36 world units, whatever the grid; the head's centre in pixel (64, 64)."""
    cameras = published_cameras(path_poses("turntable", 3))
    assert cameras.orthographic and torch.allclose(1 / cameras.intrinsics[:, 0, 0], torch.tensor(128 / 36))
    uv, _ = project(cameras, HEAD.float().expand(3, 1, 3))
    assert torch.allclose(uv * 128 - 0.5, torch.tensor(64.0), atol=1e-4)
    assert not published_cameras(path_poses("sphere", 2), 450.0, orthographic=False).orthographic


@pytest.mark.parametrize("orthographic", [True, False])
def test_normals_of_a_plane(orthographic):
    """A tilted plane before the camera has one normal everywhere, at right angles to it."""
    normal, offset = torch.nn.functional.normalize(torch.tensor([0.3, -0.2, -1.0]).double(), dim=0), -2.0
    K = intrinsics_matrix(torch.tensor([1.2]).double(), dtype=torch.float64)
    camera = Cameras(look_at(torch.randn(1, 3).double(), torch.zeros(1, 3).double()), K, orthographic)
    identity = Cameras(torch.eye(4).double()[None], camera.intrinsics, orthographic)
    ray = unproject(identity, pixel_grid(7, 7, dtype=torch.float64)[None], 1.0)[0]
    depth = (offset - ray[:, :2] @ normal[:2]) / normal[2] if orthographic else offset / (ray @ normal)
    normals = normal_map(camera, depth.view(1, 7, 7))
    assert normals.shape == (1, 3, 5, 5)
    directions = torch.nn.functional.normalize(normals, dim=1)
    assert torch.allclose((directions * normal[:, None, None]).sum(1).abs(), torch.ones(()).double())
    assert (directions[:, 2] * directions[0, 2, 0, 0] > 0).all()


def test_paths_are_named_where_they_are_offered():
    from sof.render import PATHS
    for name in set(PATHS) - {"azimuths"}:
        assert len(path_poses(name, 8))
