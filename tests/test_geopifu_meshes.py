"""Geo-PIFu's grids and meshes against analytic bodies."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.meshes import load, volume
from geopifu import meshes
from geopifu.geometry import BOX, calibration

RADII = torch.tensor([0.15, 0.4, 0.1])
CENTER = torch.tensor([0.05, -0.02, 0.08])


def body(points: torch.Tensor) -> torch.Tensor:
    """Occupancies (P,) of an ellipsoid, softened."""
    return torch.sigmoid(20 * (1 - ((points - CENTER.to(points)) / RADII.to(points)).norm(dim=-1)))


class Analytic:
    """A model whose every scene is that ellipsoid."""

    def field(self, scene, points):
        return body(points)


class Seen:
    calibs = torch.from_numpy(calibration(0))[None]


def test_the_grid_ends_one_step_short_of_the_box():
    box = meshes.grid_box((8, 12, 10)).numpy()
    matrix = meshes.index_to_world((8, 12, 10))
    assert np.allclose(box[0], BOX[0]) and np.allclose(box[1], BOX[1] - (BOX[1] - BOX[0]) / (8, 12, 10))
    assert np.allclose(matrix @ [8, 12, 10, 1], [*BOX[1], 1])


def test_octree_and_refinement_find_the_dense_surface():
    resolution = (88, 128, 88)
    box, counted, surfaces = meshes.grid_box(resolution), {}, {}
    for how in ("dense", "refine"):
        values, counted[how] = meshes.values_on_grid(body, box, resolution, how)
        surfaces[how] = meshes.surface(values, box)
    octree, counted["octree"] = meshes.octree_grid(body, box, resolution, start=22)
    dense = meshes.values_on_grid(body, box, resolution, "dense")[0]
    assert np.array_equal(surfaces["refine"].vertices, surfaces["dense"].vertices) and np.array_equal(surfaces["refine"].faces, surfaces["dense"].faces)
    assert counted["dense"] == dense.numel() and max(counted["octree"], counted["refine"]) < dense.numel() / 2
    assert (octree - dense).abs().max() < 0.06 and ((octree > 0.5) == (dense > 0.5)).float().mean() > 0.999


def test_an_octree_without_flat_cells_is_dense():
    box = meshes.grid_box((9, 12, 9))
    values, asked = meshes.octree_grid(body, box, (9, 12, 9), start=2, threshold=-1.0)
    assert asked == values.numel() and torch.allclose(values, meshes.values_on_grid(body, box, (9, 12, 9), "dense")[0])
    assert meshes.octree_grid(body, box, (9, 12, 9), start=64)[1] == values.numel()              # where the release gives zeros


def test_a_body_is_a_closed_mesh_in_its_place():
    mesh = meshes.body(Analytic(), Seen(), (43, 64, 43))
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * float(RADII.prod()), rel=0.02)
    assert np.allclose((mesh.vertices.max(0) + mesh.vertices.min(0)) / 2, CENTER, atol=3e-3)


def test_an_empty_field_has_no_surface():
    with pytest.raises(InputError, match="no surface"):
        meshes.surface(torch.zeros(4, 4, 4), meshes.grid_box((4, 4, 4)))


def test_a_coarse_body_lies_where_its_voxels_do():
    centers = [(torch.arange(n) + 0.5 - n / 2) / 48 for n in (32, 48, 32)]
    grid = torch.stack(torch.meshgrid(*centers, indexing="ij"), dim=-1)
    occupancy = body(grid).permute(2, 1, 0)
    middle = lambda mesh: (mesh.vertices.max(0) + mesh.vertices.min(0)) / 2
    assert np.allclose(middle(meshes.coarse_surface(occupancy)), CENTER, atol=2e-3)
    assert np.allclose(middle(meshes.coarse_surface(occupancy, published=True)) - middle(meshes.coarse_surface(occupancy)), -0.5 / 48, atol=1e-6)


def test_colors_are_the_photos_and_the_file_is_read_again(tmp_path):
    side = 64
    ramp = (torch.arange(side) + 0.5) / side * 2 - 1
    photo = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), torch.zeros(side, side)])      # red is x, green is y
    mesh = meshes.body(Analytic(), Seen(), (43, 64, 43))
    colors = meshes.vertex_colors(mesh.vertices, photo, Seen.calibs[0])
    assert np.allclose(colors[:, :2], mesh.vertices[:, :2] + 0.5, atol=1e-3) and np.allclose(colors[:, 2], 0.5)
    meshes.write_obj(tmp_path / "body.obj", mesh, colors)
    again = load(tmp_path / "body.obj")
    assert np.allclose(again.vertices, mesh.vertices, atol=6e-5) and np.array_equal(np.roll(again.faces, -1, 1), mesh.faces)
    assert volume(again) > 0 and np.allclose(again.colors / 255, colors, atol=0.01)
    assert meshes.picture(photo)[0, 0].tolist() == [1, 1, 127]
