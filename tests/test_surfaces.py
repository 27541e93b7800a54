"""Grids from coarse to fine against the grid of every point."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from common import chunks
from common.surfaces import dense_grid, grid_axes, refine_grid

CUBE = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
BONES = [  # ends and radius: trunk, head, neck, arms, legs, and fingers two and a half steps of a 129 grid thick
    ((0, 0, 0), (0, 0.45, 0), 0.14), ((0, 0.7, 0), (0, 0.75, 0), 0.1), ((0, 0.45, 0), (0, 0.7, 0), 0.05),
    ((0.15, 0.42, 0), (0.4, 0.1, 0.1), 0.045), ((0.4, 0.1, 0.1), (0.5, -0.1, 0.25), 0.035), ((-0.15, 0.42, 0), (-0.45, -0.1, 0.1), 0.04),
    ((0.08, 0, 0), (0.12, -0.85, 0), 0.06), ((-0.08, 0, 0), (-0.15, -0.85, 0.05), 0.06),
    ((0.5, -0.1, 0.25), (0.54, -0.25, 0.3), 0.02), ((0.5, -0.1, 0.25), (0.6, -0.22, 0.28), 0.02), ((-0.45, -0.1, 0.1), (-0.47, -0.25, 0.12), 0.02),
]


def body(points):
    value = torch.full_like(points[:, 0], -9.0)
    for start, end, radius in BONES:
        a, d = points.new_tensor(start), points.new_tensor(end) - points.new_tensor(start)
        t = ((points - a) @ d / (d @ d)).clamp(0, 1)
        value = torch.maximum(value, radius - (points - a - t[:, None] * d).norm(dim=-1))
    return value


def bumpy(points):
    waves = points @ points.new_tensor([[91.0, 37.0, 11.0], [13.0, -71.0, 55.0], [41.0, 17.0, 97.0]])
    return body(points) + 1e-3 * waves.sin().sum(-1)


def sphere(radius, center=(0.0, 0.0, 0.0)):
    return lambda points: radius - (points - points.new_tensor(center)).norm(dim=-1)


def counted(field):
    def count(points):
        count.points += len(points)
        return field(points)
    count.points = 0
    return count


def same_mesh(a, b, level):
    from skimage.measure import marching_cubes
    return all(np.array_equal(x, y) for x, y in zip(marching_cubes(a.numpy(), level), marching_cubes(b.numpy(), level)))


def test_a_grid_holds_the_field_at_its_points():
    box = torch.tensor([[-1.0, 2.0, 0.0], [3.0, 4.0, 1.0]], dtype=torch.float64)
    values, evaluations = dense_grid(lambda p: p @ torch.tensor([100.0, 10.0, 1.0], dtype=torch.float64), box, (5, 3, 2), chunk=7)
    x, y, z = grid_axes(box, (5, 3, 2))
    assert x.tolist() == [-1, 0, 1, 2, 3] and y.tolist() == [2, 3, 4] and z.tolist() == [0, 1]
    assert evaluations == 30 and values.dtype == torch.float64
    assert torch.equal(values, 100 * x[:, None, None] + 10 * y[:, None] + z)


@pytest.mark.parametrize("field", [body, bumpy])
@pytest.mark.parametrize("resolution", [129, 128, 115])
def test_the_mesh_is_bit_identical_to_the_dense_one(field, resolution):
    dense, _ = dense_grid(field, CUBE, resolution)
    counting = counted(field)
    refined, evaluations = refine_grid(counting, CUBE, resolution, 0.0)
    assert torch.equal(dense > 0, refined > 0) and same_mesh(dense, refined, 0.0)
    assert evaluations == counting.points and evaluations < dense.numel() / 6


def test_evaluations_at_257():
    _, evaluations = refine_grid(body, CUBE, 257, 0.0)
    assert evaluations < 257**3 / 33


@pytest.mark.parametrize("resolution", [(50, 97, 33), (7, 40, 2), (2, 2, 2), (64, 3, 65), (34, 66, 35)])
@pytest.mark.parametrize("level", [0.0, 0.2, -0.1])
def test_any_resolution_box_and_level(resolution, level):
    box = torch.tensor([[-0.8, -1.2, -0.5], [0.9, 0.7, 0.6]])
    dense, _ = dense_grid(sphere(0.5), box, resolution)
    refined, evaluations = refine_grid(sphere(0.5), box, resolution, level, coarse=4, chunk=1000)
    assert refined.shape == resolution and torch.equal(dense > level, refined > level) and evaluations <= dense.numel()
    passed = (refined > level).any() and not (refined > level).all()
    assert not passed or same_mesh(dense, refined, level)


def test_values_beside_the_surface_are_the_fields_own():
    dense, _ = dense_grid(body, CUBE, 65)
    refined, _ = refine_grid(body, CUBE, 65, 0.0, coarse=8)
    for axis in range(3):
        low, high = dense.narrow(axis, 0, 64), dense.narrow(axis, 1, 64)
        edge = (low > 0) != (high > 0)
        assert torch.equal(low[edge], refined.narrow(axis, 0, 64)[edge]) and torch.equal(high[edge], refined.narrow(axis, 1, 64)[edge])


def test_the_surface_is_followed_through_what_the_coarse_lattice_cannot_see():
    """A thin wire winds away from a ball: the coarse lattice sees the ball alone."""
    t = torch.linspace(0, 12, 4000)
    wire = torch.stack([0.75 * t.sin(), -0.9 + 0.15 * t, 0.75 * t.cos()], dim=-1)
    field = lambda p: torch.maximum(sphere(0.3, wire[0].tolist())(p), 0.04 - torch.cdist(p, wire[::16]).min(dim=-1).values)
    dense, _ = dense_grid(field, CUBE, 65)
    refined, evaluations = refine_grid(field, CUBE, 65, 0.0, coarse=8)
    assert torch.equal(dense > 0, refined > 0) and evaluations < dense.numel() / 4


def test_a_speck_between_coarse_points_is_missed_and_a_finer_start_finds_it():
    speck = sphere(0.04, (0.4375, 0.4375, 0.4375))
    field = lambda p: torch.maximum(sphere(0.2, (-0.5, -0.5, -0.5))(p), speck(p))
    dense, _ = dense_grid(field, CUBE, 65)
    assert not torch.equal(dense > 0, refine_grid(field, CUBE, 65, 0.0, coarse=8)[0] > 0)
    assert torch.equal(dense > 0, refine_grid(field, CUBE, 65, 0.0, coarse=64)[0] > 0)


def test_infinite_values_do_no_harm():
    field = lambda p: torch.where(sphere(0.5)(p) > 0, torch.inf, -torch.inf)
    assert torch.equal(dense_grid(field, CUBE, 33)[0] > 0, refine_grid(field, CUBE, 33, 0.0, coarse=4)[0] > 0)


def test_out_of_memory_changes_nothing(monkeypatch):
    monkeypatch.setattr(chunks, "_fitting", {})

    def tight(points):
        if len(points) > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return body(points)

    expected, _ = refine_grid(body, CUBE, 33, 0.0, coarse=8)
    with pytest.warns(RuntimeWarning, match="out of memory"):
        refined, _ = refine_grid(tight, CUBE, 33, 0.0, coarse=8)
    assert torch.equal(refined, expected)
    assert torch.equal(dense_grid(tight, CUBE, 17)[0], dense_grid(body, CUBE, 17)[0])


def test_a_network_gives_its_own_values_whatever_the_chunks():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Softplus(), torch.nn.Linear(64, 64), torch.nn.Softplus(), torch.nn.Linear(64, 1))
    field = lambda p: body(p) + 1e-3 * network(p)[:, 0]
    dense, _ = dense_grid(field, CUBE, 65)
    refined, _ = refine_grid(field, CUBE, 65, 0.0, chunk=5000)
    assert not refined.requires_grad and torch.equal(dense > 0, refined > 0)
    assert ((dense - refined).abs() < 1e-6).float().mean() > 0.05
