"""Meshes: closed forms, files that others read, hostile files, pictures whose shape is known."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.cameras import Cameras, intrinsics_matrix, orbit
from common.errors import InputError
from common.meshes import FORMATS, Mesh, area, largest_component, load, marching_cubes, picture, save, vertex_normals, volume
from common.surfaces import dense_grid

BOX = torch.tensor([[-1.0, -1.2, -0.8], [1.2, 1.0, 1.1]])
TETRAHEDRON = Mesh(np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
                   np.uint8([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]))


def painted(mesh, color_of):
    return replace(mesh, colors=color_of(torch.from_numpy(mesh.vertices)).to(torch.uint8).numpy())


def ball(radius=0.6, center=(0.1, -0.1, 0.2), resolution=(49, 53, 41)):
    values, _ = dense_grid(lambda p: radius - (p - torch.tensor(center)).norm(dim=-1), BOX, resolution)
    return marching_cubes(values, 0.0, BOX)


def test_a_tetrahedron_has_its_area_and_volume():
    assert volume(TETRAHEDRON) == pytest.approx(1 / 6) and area(TETRAHEDRON) == pytest.approx(1.5 + 3**0.5 / 2)
    assert volume(Mesh(TETRAHEDRON.vertices, TETRAHEDRON.faces[:, ::-1])) == pytest.approx(-1 / 6)


def test_marching_cubes_of_a_ball():
    mesh = ball()
    radii = np.linalg.norm(mesh.vertices - np.float32([0.1, -0.1, 0.2]), axis=1)
    assert np.abs(radii - 0.6).max() < 0.002                  # far below the 0.05 of a cell: vertices lie on the surface
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.01) and area(mesh) == pytest.approx(4 * np.pi * 0.6**2, rel=0.01)
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()      # closed
    normals = vertex_normals(torch.tensor(mesh.vertices), torch.tensor(mesh.faces.astype(np.int64)))
    outwards = torch.nn.functional.normalize(torch.tensor(mesh.vertices) - torch.tensor([0.1, -0.1, 0.2]), dim=-1)
    assert ((normals * outwards).sum(-1) > 0.99).all()


def test_what_is_below_the_level_is_outside():
    values, _ = dense_grid(lambda p: p.norm(dim=-1), BOX, 33)
    hollow = marching_cubes(values, 0.6, BOX)
    assert volume(hollow) == pytest.approx(-4 / 3 * np.pi * 0.6**3, rel=0.02)


@pytest.mark.parametrize("values", [np.zeros((4, 4, 4)), np.full((4, 4, 4), np.nan), np.linspace(1, 2, 64).reshape(4, 4, 4)])
def test_no_surface_is_an_input_error(values):
    with pytest.raises(InputError, match="no surface at level 0"):
        marching_cubes(values, 0.0, BOX)


def test_the_largest_component_stays_whole():
    big, small = ball(0.5), ball(0.3)
    both = Mesh(np.concatenate([small.vertices + 5, big.vertices]), np.concatenate([small.faces, big.faces + len(small.vertices)]),
                np.arange(len(small.vertices) + len(big.vertices)).astype(np.uint8)[:, None].repeat(3, 1))
    kept = largest_component(both)
    assert np.array_equal(kept.vertices, big.vertices) and np.array_equal(kept.faces, big.faces)
    assert np.array_equal(kept.colors, both.colors[len(small.vertices):])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("colored", [True, False])
def test_files_keep_vertices_faces_and_colors(tmp_path, suffix, colored):
    import trimesh
    mesh = ball(resolution=(12, 13, 14))
    mesh = painted(mesh, lambda p: (100 * p.abs()).to(torch.uint8)) if colored else mesh
    save(tmp_path / f"mesh{suffix}", mesh)
    again = load(tmp_path / f"mesh{suffix}")
    assert np.allclose(again.vertices, mesh.vertices, atol=1e-7) and np.array_equal(again.faces, mesh.faces)
    assert np.array_equal(again.colors, mesh.colors) if colored else again.colors is None
    others = trimesh.load(tmp_path / f"mesh{suffix}", force="mesh", process=False)
    assert others.is_watertight and others.volume == pytest.approx(volume(mesh), rel=1e-5)
    assert (others.visual.kind == "vertex") == colored
    assert [path.name for path in tmp_path.iterdir()] == [f"mesh{suffix}"]


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    import os
    save(tmp_path / "mesh.ply", TETRAHEDRON)
    before = (tmp_path / "mesh.ply").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        save(tmp_path / "mesh.ply", ball())
    assert (tmp_path / "mesh.ply").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
HOSTILE = {
    "empty.obj": b"", "empty.ply": b"", "empty.glb": b"",
    "noise.obj": bytes(range(256)), "noise.ply": bytes(range(256)) * 9, "noise.glb": bytes(range(256)) * 9,
    "out_of_range.obj": (OBJ + "f 1 2 9\n").encode(), "nan.obj": (OBJ.replace("1 0 0", "nan 0 0") + "f 1 2 3\n").encode(),
    "infinite.obj": (OBJ.replace("1 0 0", "inf 0 0") + "f 1 2 3\n").encode(), "no_faces.obj": OBJ.encode(), "words.obj": b"v one two three\nf 1 2 3\n",
    "out_of_range.ply": b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nelement face 1\n"
                        b"property list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n",
    "truncated_header.ply": b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\n", "mesh.stl": b"solid", "suffixless": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(InputError, match=name) as caught:
        load(tmp_path / name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, suffix, share):
    if suffix == ".obj" and share == 0.9:
        pytest.skip("text cut between two faces is a mesh")
    save(tmp_path / f"whole{suffix}", ball(resolution=(9, 9, 9)))
    content = (tmp_path / f"whole{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(content[:int(share * len(content))])
    with pytest.raises(InputError, match="cut"):
        load(tmp_path / f"cut{suffix}")


def test_a_picture_shows_the_silhouette_and_the_colors():
    mesh = painted(ball(0.5, (0.0, 0.0, 0.0)), lambda p: torch.where(p[:, :1] > 0, torch.tensor([200, 30, 30]), torch.tensor([30, 30, 200])).to(torch.uint8))
    cameras = Cameras(orbit(torch.tensor([0.0, torch.pi]), torch.zeros(2), 3.0), intrinsics_matrix(0.5).expand(2, 3, 3), orthographic=True)
    front, back = picture(mesh, cameras, 60, 80).astype(int)
    assert front.shape == (60, 80, 3) and (front[0] == 255).all() and (front[-1] == 255).all()
    shown = (front.min(-1) < 190).mean()                      # pixels covered by half or more
    assert shown == pytest.approx(np.pi * 0.5**2 * 0.5**2, rel=0.03)          # a circle of 0.25 picture sizes, along both axes
    assert front[30, 50, 0] > front[30, 50, 2] and front[30, 30, 2] > front[30, 30, 0]        # x > 0 is right from the front
    assert back[30, 30, 0] > back[30, 30, 2] and back[30, 50, 2] > back[30, 50, 0]
    assert len(np.unique(front[28:32, 18:24].reshape(-1, 3), axis=0)) > 4     # the edge is smooth


def test_light_comes_from_above_left_of_every_camera():
    cameras = Cameras(orbit(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.5]), 3.0), intrinsics_matrix(0.5).expand(2, 3, 3), orthographic=True)
    for view in picture(ball(0.5, (0.0, 0.0, 0.0)), cameras, 64, 64).astype(int):
        assert view[24, 24].sum() > view[40, 40].sum() + 60
