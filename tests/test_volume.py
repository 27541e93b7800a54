"""SOF's volumes before a camera, on a ball whose scores are known everywhere."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.cameras import look_at, project
from common.meshes import vertex_normals
from common.meshes import volume as enclosed
from sof.cameras import pixel_centers, sof_cameras
from sof.volume import background_margin, head_volume, paint_labels, volume_mesh, voxel_points

SIDE, SLICES, Z_RANGE, RADIUS = 40, 33, (1.5, 4.5), 0.7
PALETTE = np.uint8([[0, 0, 0], [255, 0, 0], [0, 255, 0]])


def camera(orthographic):
    pose = look_at(torch.tensor([[1.0, 0.5, 2.7]], dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64))
    focal = 18.0 if orthographic else 50.0
    K = torch.tensor([[[focal, 0, SIDE // 2], [0, focal, SIDE // 2], [0, 0, 1]]], dtype=torch.float64)
    return sof_cameras(pose, K, SIDE, orthographic)


def scores(points):
    """Class 1 in the right half of a ball, class 2 in its left, with background probability 1 / (1 + e^(20 (r - |x|)))."""
    inside = 20 * (RADIUS - points.norm(dim=-1))
    return torch.stack([torch.zeros_like(inside), torch.where(points[..., 0] > 0, inside, -99.0), torch.where(points[..., 0] > 0, -99.0, inside)], dim=-1)


def trace(scene, points, directions):
    """A march that ends at once, and for rays that come from above far away, on a class of its own."""
    down = directions[..., 1:2] < -0.5
    return points + 9.0 * down, torch.where(down, torch.tensor([0.0, 5.0, 9.0]), scores(points).float().flip(-1).roll(1, -1))


MODEL = SimpleNamespace(field=lambda scene, points: scores(points).float(), trace=trace)


def test_margin_is_background_less_the_best_other_class():
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.04, 0.06]])
    assert background_margin(probabilities).tolist() == pytest.approx([-0.3, 0.84])


@pytest.mark.parametrize("orthographic", [True, False])
def test_a_voxel_lies_behind_its_pixel_at_its_depth(orthographic):
    view = camera(orthographic)
    voxels = torch.tensor([[3.0, 7.0, 0.0], [30.5, 2.25, 32.0], [10.0, 20.0, 16.0]], dtype=torch.float64)
    uv, z_depth = project(view, voxel_points(view, voxels, SIDE, SLICES, Z_RANGE)[None])
    assert torch.allclose(uv[0], pixel_centers(voxels[:, [1, 0]], SIDE))
    assert z_depth[0].tolist() == pytest.approx([1.5, 4.5, 3.0])
    _, released = project(view, voxel_points(view, voxels, SIDE, SLICES, Z_RANGE, published=True)[None])
    assert released[0].tolist() == pytest.approx([1.5, 1.5 + 3 * 32 / 33, 1.5 + 3 * 16 / 33])


@pytest.mark.parametrize("orthographic", [True, False])
def test_the_mesh_lies_on_the_ball(orthographic):
    view = camera(orthographic)
    values, _ = head_volume(MODEL, None, view, SIDE, SLICES, Z_RANGE)
    mesh = volume_mesh(values, view, Z_RANGE)
    distance = RADIUS - np.log(3) / 20                        # where the margin is -0.5: the ball's class has 3/4
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - distance).max() < 0.02
    assert enclosed(mesh) == pytest.approx(4 / 3 * np.pi * distance**3, rel=0.03)
    released = volume_mesh(values, view, Z_RANGE, published=True)
    shift = (released.vertices - mesh.vertices) @ view.cam2world[0, :3, 2].numpy()
    assert -3 / 33 < shift.min() and shift.max() < -1.5 / 33 / 2              # nearer, by up to a slice at the far end


def test_coarse_to_fine_is_the_dense_mesh():
    view = camera(True)
    dense, every = head_volume(MODEL, None, view, 80, 70, Z_RANGE, level=None)
    refined, some = head_volume(MODEL, None, view, 80, 70, Z_RANGE)
    assert every == 80 * 80 * 70 and some < every / 3
    a, b = volume_mesh(dense, view, Z_RANGE), volume_mesh(refined, view, Z_RANGE)
    assert np.array_equal(a.vertices, b.vertices) and np.array_equal(a.faces, b.faces)


def test_vertices_take_the_colour_of_what_a_ray_from_outside_sees():
    """The march says the other half's class; where it ends far away (on top), the field at the vertex is believed."""
    view = camera(True)
    mesh = volume_mesh(head_volume(MODEL, None, view, SIDE, SLICES, Z_RANGE)[0], view, Z_RANGE)
    painted = paint_labels(MODEL, None, mesh, PALETTE)
    up = vertex_normals(torch.as_tensor(mesh.vertices), torch.as_tensor(mesh.faces))[:, 1].numpy()
    own, other = (np.where((mesh.vertices[:, :1] > 0) ^ swap, PALETTE[1], PALETTE[2]) for swap in (False, True))
    assert np.array_equal(painted.colors[up < 0.45], other[up < 0.45])
    assert np.array_equal(painted.colors[up > 0.55], own[up > 0.55])
