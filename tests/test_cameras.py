"""Cameras: what projects where, and the conventions of others there and back."""
from __future__ import annotations

import math

import pytest
import torch

from common.cameras import (
    Cameras,
    check_cam2world,
    check_intrinsics,
    eg3d_label,
    flip_yz,
    from_eg3d_label,
    intrinsics_matrix,
    invert_rigid,
    look_at,
    normalise_intrinsics,
    orbit,
    pixel_intrinsics,
    project,
    rigid,
)
from common.errors import InputError


def random_poses(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator, dtype=torch.float64))[0]
    rotation = rotation * torch.linalg.det(rotation).sign()[:, None, None]
    return rigid(rotation, torch.randn(n, 3, generator=generator, dtype=torch.float64))


def skewed(n=1):
    return torch.tensor([[1.7, 0.1, 0.45], [0, 2.1, 0.55], [0, 0, 1]], dtype=torch.float64).expand(n, 3, 3)


def test_inverse():
    poses = random_poses(5)
    assert torch.allclose(poses @ invert_rigid(poses), torch.eye(4, dtype=torch.float64).expand(5, 4, 4))
    assert torch.allclose(invert_rigid(poses), torch.linalg.inv(poses))


def test_look_at_columns_are_right_down_forward_and_centre():
    pose = look_at(torch.tensor([0.0, 0.0, 4.0]), torch.zeros(3))
    assert torch.equal(pose, torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 4], [0, 0, 0, 1]]))
    positions = torch.tensor([[3.0, 1, 2], [-1, 2, 0.5]], dtype=torch.float64)
    poses = look_at(positions, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    check_cam2world(poses, "look_at")
    assert torch.allclose(poses[:, :3, 3], positions)
    assert (poses[:, 1, 0].abs() < 1e-12).all() and (poses[:, 1, 1] < 0).all()            # the horizon is level, down is down
    uv, depth = project(Cameras(poses, skewed(2)), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).expand(2, 1, 3))
    assert torch.allclose(uv[:, 0], torch.tensor([0.45, 0.55], dtype=torch.float64).expand(2, 2)) and (depth > 0).all()


def test_the_picture_is_neither_mirrored_nor_upside_down():
    view = Cameras(look_at(torch.tensor([[0.0, 0.0, 4.0]]), torch.zeros(1, 3)), intrinsics_matrix(1.0)[None])
    (right, up), = project(view, torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]]))[0]
    assert right.tolist() == [0.75, 0.5] and up.tolist() == [0.5, 0.25]                  # seen from the front, +x is right and +y above


def test_orbit_signs():
    poses = orbit(torch.tensor([0.0, math.pi / 2, 0.0]), torch.tensor([0.0, 0.0, 0.5]), 3.0, target=(0.0, 1.0, 0.0))
    assert torch.allclose(poses[0, :3, 3], torch.tensor([0.0, 1.0, 3.0])) and torch.allclose(poses[1, :3, 3], torch.tensor([3.0, 1.0, 0.0]), atol=1e-6)
    assert poses[2, 1, 3] > 1 and torch.allclose((poses[:, :3, 3] - torch.tensor([0.0, 1.0, 0.0])).norm(dim=-1), torch.full((3,), 3.0))
    check_cam2world(poses, "orbit")


@pytest.mark.parametrize("orthographic", [True, False])
def test_projection_by_its_formula(orthographic):
    poses, points = random_poses(3), torch.randn(3, 7, 3, dtype=torch.float64)
    K = skewed(3)
    uv, depth = project(Cameras(poses, K, orthographic), points)
    local = torch.linalg.solve(poses[:, None], torch.cat([points, torch.ones(3, 7, 1, dtype=torch.float64)], dim=-1)[..., None])[..., :3, 0]
    x, y, z = local.unbind(-1)
    divisor = 1 if orthographic else z
    assert torch.allclose(depth, z)
    assert torch.allclose(uv, torch.stack([1.7 * x / divisor + 0.1 * y / divisor + 0.45, 2.1 * y / divisor + 0.55], dim=-1))


@pytest.mark.parametrize("first_center", [0.0, 0.5])
def test_pixel_intrinsics_there_and_back(first_center):
    pixels = torch.tensor([[486.0, 3.0, 64.0], [0.0, 470.0, 30.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    normal = normalise_intrinsics(pixels, 128, 96, first_center)
    assert torch.allclose(pixel_intrinsics(normal, 128, 96, first_center), pixels)
    assert pixels[0, 2] == 64                                                            # the input stays as it was
    # a point that this convention sees at pixel (x, y) is at that pixel's centre in picture sizes
    x, y = 486.0 * 0.1 + 3.0 * 0.05 + 64, 470.0 * 0.05 + 30
    view = Cameras(torch.eye(4, dtype=torch.float64)[None], normal[None])
    uv, _ = project(view, torch.tensor([[[0.2, 0.1, 2.0]]], dtype=torch.float64))
    assert torch.allclose(uv[0, 0], torch.tensor([(x + 0.5 - first_center) / 128, (y + 0.5 - first_center) / 96], dtype=torch.float64))


def test_opengl_there_and_back():
    poses = random_poses(2)
    flipped = flip_yz(poses)
    assert torch.equal(flip_yz(flipped), poses)
    assert torch.equal(flipped[:, :3, 2], -poses[:, :3, 2]) and torch.equal(flipped[:, :3, 3], poses[:, :3, 3])


def test_eg3d_labels_there_and_back():
    cameras = Cameras(random_poses(4).float(), skewed(4).float())
    label = eg3d_label(cameras)
    assert label.shape == (4, 25) and torch.equal(label[2, 3], cameras.cam2world[2, 0, 3]) and torch.equal(label[2, 18], cameras.intrinsics[2, 0, 2])
    again = from_eg3d_label(label)
    assert torch.equal(again.cam2world, cameras.cam2world) and torch.equal(again.intrinsics, cameras.intrinsics) and not again.orthographic


def test_double_precision_stays():
    double = torch.float64
    poses = orbit(torch.zeros(2, dtype=double), torch.zeros(2, dtype=double), 2.0)
    K = normalise_intrinsics(torch.eye(3, dtype=double).expand(2, 3, 3), 8, 8)
    assert poses.dtype == K.dtype == invert_rigid(poses).dtype == flip_yz(poses).dtype == pixel_intrinsics(K, 8, 8).dtype == double
    uv, depth = project(Cameras(poses, K), torch.zeros(2, 1, 3, dtype=double))
    assert uv.dtype == depth.dtype == eg3d_label(Cameras(poses, K)).dtype == intrinsics_matrix(1.0, dtype=double).dtype == double


def test_picking_and_moving():
    cameras = Cameras(random_poses(4), skewed(4), orthographic=True)
    two = cameras.pick([3, 1])
    assert len(two) == 2 and two.orthographic and torch.equal(two.cam2world[0], cameras.cam2world[3])
    assert cameras.move(dtype=torch.float32).intrinsics.dtype == torch.float32 and cameras.move(dtype=torch.float32).orthographic


def broken(change):
    poses = random_poses(3)
    change(poses)
    return poses


BAD_POSES = {
    "not finite": broken(lambda p: p[1, 0, 3].fill_(torch.nan)), "not orthonormal": broken(lambda p: p[1, :3, :3].mul_(1.1)),
    "mirror": broken(lambda p: p[1, :3, 0].neg_()), "last row": broken(lambda p: p[1, 3, 0].fill_(1.0)),
}


@pytest.mark.parametrize("what", BAD_POSES)
def test_bad_poses_are_named(what):
    with pytest.raises(InputError, match=rf"cams\.npy.*view 1 .*{what}"):
        check_cam2world(BAD_POSES[what], "cams.npy")


def test_bad_shapes_and_intrinsics_are_named():
    check_cam2world(random_poses(3), "good")
    check_intrinsics(skewed(2), "good")
    with pytest.raises(InputError, match="file: cam2world must be 4x4"):
        check_cam2world(torch.eye(3)[None], "file")
    with pytest.raises(InputError, match="file: intrinsics must be 3x3"):
        check_intrinsics(torch.eye(4)[None], "file")
    for value in (torch.nan, torch.inf, 0.0, -1.0):
        K = skewed(2).clone()
        K[1, 1, 1] = value
        with pytest.raises(InputError, match="file: intrinsics of view 1 need"):
            check_intrinsics(K, "file")
