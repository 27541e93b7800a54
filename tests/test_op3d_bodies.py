"""Posed bodies: back to the canonical pose, inside and outside, and a generator on them."""
from __future__ import annotations

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.layers.planes import read
from op3d.bodies import FAR, LIFT, SQUEEZE, Body, Condition, euler_angles, nearest_vertices, read_conditions
from op3d.cameras import eg3d_cameras
from op3d.conditional import ConditionalGenerator, composite_at
from op3d.model import Draws, ModelConfig

JOINTS, SHAPES = 3, 4
TINY = ModelConfig(model="op3d_conditional", plane_side=8, cmax=4, z_dim=4, w_dim=8, map_depth=1, plane_number=2, sr_module="none", img_resolution=5,
                   neural_rendering_resolution=5, depth_resolution=6, depth_resolution_importance=5, body_joints=JOINTS, body_shapes=SHAPES)


def sphere(radius: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)


def rotation(angle: float) -> torch.Tensor:
    matrix = torch.eye(4)
    matrix[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return matrix


def posed(weights: torch.Tensor | None = None) -> tuple[Condition, torch.Tensor, torch.Tensor]:
    """A sphere whose right half turns with one joint and whose left half with another, the canonical vertices, and the faces."""
    canonical, faces = sphere()
    if weights is None:
        weights = torch.nn.functional.one_hot((canonical[:, 0] > 0).long() + 1, JOINTS).float()
    matrices = torch.stack([rotation(0.1), rotation(0.2), rotation(-0.3)])
    matrices[:, 2, 3] = torch.tensor([0.0, 0.1, 0.2])
    ways = torch.einsum("vj,jmn->vmn", weights, matrices)
    vertices = (ways[:, :3, :3] @ canonical[..., None])[..., 0] + ways[:, :3, 3]
    pose = matrices[:, :3, :3]
    return Condition(vertices[None], matrices[None], weights[None], pose[None], torch.randn(1, SHAPES)), canonical, faces


def test_posed_vertices_go_back_where_they_were():
    condition, canonical, faces = posed()
    back = Body.of(condition, faces).canonical(condition.vertices)[0]
    torch.testing.assert_close(back * torch.tensor([SQUEEZE, SQUEEZE, 1.0]) - torch.tensor([0.0, LIFT, 0.0]), canonical, atol=1e-5, rtol=0)


def test_points_far_from_the_skin_go_back_with_the_root():
    condition, _, faces = posed()
    far = torch.tensor([[[0.5 + FAR**0.5 + 0.2, 0.0, 0.1], [3.0, 2.0, 1.0]]])
    back = Body.of(condition, faces).canonical(far)[0]
    root = (torch.linalg.inv(condition.fk_matrices[0, 0])[:3] @ torch.nn.functional.pad(far[0], (0, 1), value=1.0).T).T
    torch.testing.assert_close(back, (root + torch.tensor([0.0, LIFT, 0.0])) / torch.tensor([SQUEEZE, SQUEEZE, 1.0]))


@pytest.mark.parametrize("turned", [False, True])
def test_squared_distances_are_signed_whichever_way_faces_turn(turned):
    vertices, faces = sphere()
    condition = Condition(vertices[None], torch.eye(4).expand(1, JOINTS, 4, 4), torch.ones(1, len(vertices), JOINTS) / JOINTS,
                          torch.eye(3).expand(1, JOINTS, 3, 3), torch.zeros(1, SHAPES))
    points = torch.randn(1, 300, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    gap = points.norm(dim=-1, keepdim=True) - 0.5
    found = Body.of(condition, faces.flip(1) if turned else faces).squared_distance(points)
    clear = gap.abs() > 0.01                                                   # the mesh is no sphere
    assert (found.sign() == gap.sign())[clear].all()
    torch.testing.assert_close(found.abs().sqrt()[clear], gap.abs()[clear], atol=0.01, rtol=0)


def test_nearest_vertices_by_brute_force():
    vertices, points = torch.randn(40, 3), torch.randn(100, 3)
    index, gap = nearest_vertices(vertices, points)
    squares = (points[:, None] - vertices).square().sum(-1)
    assert torch.equal(index, squares.argmin(1))
    torch.testing.assert_close(gap, squares.min(1).values)


def test_euler_angles_make_the_rotation_again():
    from scipy.spatial.transform import Rotation

    rotations = Rotation.random(50, random_state=0)
    angles = euler_angles(torch.tensor(rotations.as_matrix()))
    np.testing.assert_allclose(Rotation.from_euler("xyz", angles.numpy()).as_matrix(), rotations.as_matrix(), atol=1e-6)


# The generator

def scene_of(generator: ConditionalGenerator):
    condition, _, faces = posed()
    body = Body.of(condition, faces)
    return generator.scene(generator.codes(torch.ones(1, 4), torch.zeros(1, 25)), body=body)


def generator(**changes) -> ConditionalGenerator:
    torch.manual_seed(0)
    return ConditionalGenerator(replace(TINY, **changes), posed()[2]).eval()


@torch.no_grad()
def test_a_body_is_seen_in_any_chunks():
    model = generator()
    scene, cameras = scene_of(model), eg3d_cameras(torch.tensor([1.5]), torch.tensor([1.5]), (0, 0, 0), 2.7)
    draws = Draws(torch.rand(1, 25, 6), torch.rand(1, 25, 5))
    whole, parts = (model.pictures(scene, cameras, draws=draws, chunk=chunk) for chunk in (None, 4))
    for name in ("image", "image_depth", "sdf", "sdf_zero", "moves"):
        torch.testing.assert_close(parts[name], whole[name])
    assert whole["sdf"].shape == (1, 25, 11) and whole["moves"].abs().max() <= 0.3
    assert whole["image_depth"].min() >= 2.5 and whole["image_depth"].max() <= 3.1


@torch.no_grad()
def test_the_release_counts_the_mesh_twice_in_coarse_samples_and_we_once():
    results = {}
    for published in (False, True):
        model = generator(published_mesh=published)
        scene, cameras = scene_of(model), eg3d_cameras(torch.tensor([1.5]), torch.tensor([1.5]), (0, 0, 0), 2.7)
        results[published] = model.pictures(scene, cameras)
    once, twice = results[False], results[True]
    torch.testing.assert_close(once["sdf_zero"], twice["sdf_zero"])
    more = (twice["sdf"] - once["sdf"]) / once["sdf_zero"]
    assert ((more.abs() < 1e-3) | ((more - 1).abs() < 1e-3)).float().mean() > 0.99
    assert ((more - 1).abs() < 1e-3).sum(-1).eq(6).float().mean() > 0.9       # six coarse samples on every ray


def test_the_gradient_is_that_of_the_deformed_points_and_differentiates_again():
    model = generator().train()
    scene, points = scene_of(model), (torch.rand(1, 6, 3) - 0.5) * 0.4
    asked, gradient = model.eikonal(scene, points)
    step, (network, _) = 1e-3, (asked.network, asked.features)
    at = lambda places: model.decoder(read(scene.planes, model.taps(places, scene.planes.shape)))[0]
    for axis in range(3):
        move = torch.zeros(3)
        move[axis] = step
        slope = (at(asked.places + move) - at(asked.places - move))[..., 0] / (2 * step)
        close = (slope - gradient[..., axis]).abs() < 0.05 * gradient.abs().max()
        assert close.float().mean() > 0.6                                      # but for points beside a pixel's edge
    torch.testing.assert_close(at(asked.places), network)
    (gradient.square() - 1).square().mean().backward()
    assert model.decoder.net[0].weight.grad.abs().sum() > 0


def test_the_last_sample_takes_the_rest_of_the_light():
    colors, depths = torch.rand(1, 1, 4, 2), torch.tensor([[[1.0, 1.1, 1.2, 1.3]]])
    seen = composite_at(colors, torch.full((1, 1, 4), 1e-3), depths)
    torch.testing.assert_close(seen["colors"][0, 0], 2 * colors[0, 0, 3] - 1, atol=1e-2, rtol=0)
    assert float(seen["depth"]) == pytest.approx(1.3, abs=1e-2)


# Files

def body_file(path, **changes):
    condition, _, _ = posed()
    body = {field.name: getattr(condition, field.name)[0].numpy() for field in fields(Condition)} | {"name": "someone"} | changes
    path.write_bytes(pickle.dumps({name: value for name, value in body.items() if value is not None}))
    return path


def test_conditions_are_read_and_refused(tmp_path):
    condition = read_conditions([body_file(tmp_path / "a.pickle"), body_file(tmp_path / "b.pickle")])
    assert len(condition) == 2 and condition.numbers().shape == (2, SHAPES + 3 * (JOINTS - 1)) and condition.label(torch.zeros(2, 25)).shape == (2, 35)
    wrong = {"body_shape": (None, "body_shape"), "fk_matrices": (np.eye(4), "expected vertices"), "vertices": (np.full(3, np.nan), "finite")}
    for name, (value, message) in wrong.items():
        with pytest.raises(InputError, match=message):
            read_conditions([body_file(tmp_path / "c.pickle", **{name: value})])


class Attack:
    def __reduce__(self):
        return (open, ("/tmp/never", "w"))


def test_a_condition_runs_nothing(tmp_path):
    path = tmp_path / "attack.pickle"
    path.write_bytes(pickle.dumps({"vertices": Attack()}))
    with pytest.raises(InputError):
        read_conditions([path])
