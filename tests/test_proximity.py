"""Closest points, inside tests and winding numbers against spheres and brute force."""
from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from common.proximity import build, closest, inside, nearest, surface_points, to_points, to_surface
from common.winding import grid_winding


def sphere(radius: float = 1.0, center=(0.0, 0, 0), subdivisions: int = 4) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return np.asarray(mesh.vertices) + np.array(center), np.asarray(mesh.faces, np.int64)


def tensors(mesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(mesh[0]).float(), torch.from_numpy(mesh[1])


def test_distances_to_a_sphere():
    """r - 1, negative inside, within the facets' sagitta."""
    points = torch.from_numpy(np.random.default_rng(0).normal(0, 0.8, (2000, 3))).float()
    near = nearest(build(*tensors(sphere())), points)
    expected = points.norm(dim=1) - 1
    assert (near.distances - expected).abs().max() < 2e-3
    clear = expected.abs() > 2e-3
    assert ((near.distances < 0) == (expected < 0))[clear].all()
    plain = closest(build(*tensors(sphere())), points)
    torch.testing.assert_close(plain.distances, near.distances.abs())
    corners = torch.from_numpy(sphere()[0][sphere()[1]]).float()[near.faces]
    found = (corners * near.barycentric[..., None]).sum(1)
    torch.testing.assert_close((found - points).norm(dim=1), plain.distances, atol=1e-5, rtol=0)


def test_closest_point_against_brute_force():
    """A soup of triangles: the nearest of densely sampled points is nearly as near, never nearer."""
    rng = np.random.default_rng(1)
    vertices, faces = rng.normal(size=(60, 3)), np.arange(60).reshape(20, 3)
    u, v = (grid.reshape(-1, 1) for grid in np.meshgrid(np.linspace(0, 1, 60), np.linspace(0, 1, 60)))
    u, v = u[u[:, 0] + v[:, 0] <= 1], v[u[:, 0] + v[:, 0] <= 1]
    dense = np.concatenate([(1 - u - v) * vertices[a] + u * vertices[b] + v * vertices[c] for a, b, c in faces])
    points = rng.normal(size=(50, 3))
    brute, exact = to_points(points, dense), to_surface(points, vertices, faces)
    assert (exact <= brute + 1e-5).all() and (brute - exact).max() < 0.05


def test_beyond_the_farthest():
    near = closest(build(*tensors(sphere())), torch.tensor([[3.0, 0, 0], [1.1, 0, 0]]), farthest=0.5)
    assert near.faces.tolist()[0] == -1 and near.distances[0] == float("inf") and near.distances[1] < 0.11
    assert len(inside(build(*tensors(sphere())), torch.zeros(0, 3))) == 0


def test_inside_of_spheres_that_cross_and_nest():
    """Two crossing spheres: inside either; threshold 1.5: inside both. A sphere turned inside out within another cuts a hole."""
    a, b = sphere(1.0), sphere(1.0, (0.8, 0, 0))
    both = np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1] + len(a[0])])
    points = np.random.default_rng(2).uniform(-1.5, 2.2, (4000, 3))
    in_a, in_b = (np.linalg.norm(points - c, axis=1) < 1 for c in ((0, 0, 0), (0.8, 0, 0)))
    clear = np.min([np.abs(np.linalg.norm(points - c, axis=1) - 1) for c in ((0, 0, 0), (0.8, 0, 0))], axis=0) > 5e-3
    solid, points = build(*tensors(both)), torch.from_numpy(points).float()
    assert np.array_equal(inside(solid, points).numpy()[clear], (in_a | in_b)[clear])
    assert np.array_equal(inside(solid, points, threshold=1.5).numpy()[clear], (in_a & in_b)[clear])
    hollow = np.concatenate([a[0], 0.5 * a[0]]), np.concatenate([a[1], a[1][:, ::-1] + len(a[0])])
    assert inside(build(*tensors(hollow)), torch.tensor([[0.0, 0, 0], [0.75, 0, 0], [1.2, 0, 0]])).tolist() == [False, True, False]


@pytest.mark.parametrize("shift", [0.0, 0.013])
def test_grid_winding_counts_every_layer(shift):
    """The same two spheres and a hollow on a grid whose lines (shift 0) run through vertices and edges of a cube."""
    cube = trimesh.creation.box((1.0, 1.0, 1.0))
    low, cell, shape = np.full(3, -1.0 + shift), 0.25, (9, 9, 9)
    winding = grid_winding(np.asarray(cube.vertices), np.asarray(cube.faces), low, cell, shape)
    nodes = low + cell * np.moveaxis(np.indices(shape), 0, -1)
    inner, outer = (np.abs(nodes) < 0.499).all(-1), (np.abs(nodes) > 0.501).any(-1)
    assert (winding[inner] == 1).all() and (winding[outer] == 0).all() and set(np.unique(winding)) <= {0, 1}


def test_grid_winding_of_spheres():
    a, b = sphere(1.0), sphere(1.0, (0.8, 0.1, 0))
    both = np.concatenate([a[0], b[0], 0.3 * a[0]]), np.concatenate([a[1], b[1] + len(a[0]), a[1][:, ::-1] + 2 * len(a[0])])
    low, cell, shape = np.array([-1.3, -1.3, -1.3]), 0.1, (34, 28, 27)
    nodes = low + cell * np.moveaxis(np.indices(shape), 0, -1)
    radii = [np.linalg.norm(nodes - c, axis=-1) for c in ((0, 0, 0), (0.8, 0.1, 0))]
    expected = (radii[0] < 1).astype(int) + (radii[1] < 1) - (radii[0] < 0.3)
    clear = (np.abs(radii[0] - 1) > 5e-3) & (np.abs(radii[1] - 1) > 5e-3) & (np.abs(radii[0] - 0.3) > 5e-3)
    assert np.array_equal(grid_winding(*both, low, cell, shape)[clear], expected[clear])


def test_surface_points_are_uniform():
    """On the surface, and as many on a face as its area says."""
    rng = np.random.default_rng(3)
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5], [3, 0, 5], [0, 3, 5.0]])
    points = surface_points(vertices, np.array([[0, 1, 2], [3, 4, 5]]), rng.uniform(size=9000), rng.uniform(size=(9000, 2)))
    assert set(np.round(points[:, 2], 9)) == {0.0, 5.0} and (points[:, :2] >= 0).all()
    small = points[points[:, 2] < 1]
    assert abs(len(small) / 9000 - 0.1) < 0.015 and (small[:, :2].sum(1) <= 1 + 1e-9).all()
    np.testing.assert_allclose(small.mean(0)[:2], 1 / 3, atol=0.03)                # the centroid
