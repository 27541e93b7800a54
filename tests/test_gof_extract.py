"""Voxels and meshes of a ball whose size, place and colours are known, pictures of them, and gof/extract.py as a user runs it."""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common import meshes
from common.images import read_picture
from gof.extract import ShapesConfig, grid_of, level_of, mesh_cameras, raw, sheared_points, sheared_values
from gof.look import scene_of
from gof.paths import around, nodding
from tests import programs
from tests.gof_ball import CONFIG, RADIUS, ball_generator, write_ball

EXTRACT = "gof/extract.py"
CENTER = (0.03, -0.02, 0.01)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_ball(tmp_path_factory.mktemp("a ball") / "ball.safetensors", center=CENTER)


@pytest.fixture(scope="module")
def generator():
    return ball_generator(center=CENTER)


@pytest.fixture(scope="module")
def extracted(checkpoint, tmp_path_factory) -> Path:
    """All files of two seeds, 40^3."""
    folder = tmp_path_factory.mktemp("shapes")
    done = programs.run(folder, EXTRACT, "--checkpoint", checkpoint, "--seeds", 3, 4, "--voxel_resolution", 40, "--formats", "ply", "obj", "glb", "npy", "mrc")
    assert done.code == 0 and "field asked at 64,000 of 64,000" in done.out and not done.err, done
    return folder / "out" / "gof_shapes"


# --- the grid ---------------------------------------------------------------------------------------------------------------------------

def test_coarse_to_fine_is_the_dense_mesh(generator):
    options, scene = {"voxel_resolution": 97, "cube_size": 0.3}, scene_of(generator, 0)
    level = level_of(ShapesConfig(), generator)
    (fine, few), (dense, all_of_them) = (grid_of(ShapesConfig(dense=dense, **options), generator, scene, level) for dense in (False, True))
    assert level == 0 and all_of_them == 97**3 and few < all_of_them / 5
    box = [[-0.15] * 3, [0.15] * 3]
    a, b = (meshes.marching_cubes(values, level, box) for values in (fine, dense))
    assert np.array_equal(a.vertices, b.vertices) and np.array_equal(a.faces, b.faces)


def test_the_published_grid_is_sheared(generator):
    """Corner by corner as the released formula has it; the values are the field's there."""
    n, side = 6, 0.3
    points, corner, voxel = sheared_points(torch.arange(n**3), n, side)
    regular = torch.stack(torch.meshgrid(*[torch.linspace(-side / 2, side / 2, n)] * 3, indexing="ij"), dim=-1).view(-1, 3)
    shift = (points - regular) / voxel
    k = torch.arange(n**3)
    assert torch.allclose(shift[:, 0], (k % n**2) / n**2, atol=1e-4) and torch.allclose(shift[:, 1], (k % n) / n, atol=1e-4)
    assert shift[:, 2].abs().max() < 1e-4 and torch.allclose(corner, torch.full((3,), -0.15, dtype=torch.float64))
    scene = scene_of(generator, 0)
    field = lambda points: raw(generator, scene, points)
    assert torch.equal(sheared_values(field, n, side).flatten(), field(points))


def test_levels(generator):
    """An occupancy as its logit; a density so that a training step takes half the light."""
    assert level_of(ShapesConfig(level=0.9), generator) == pytest.approx(math.log(9))
    density = level_of(ShapesConfig(), ball_generator(pred_occ=False, surface_sample=False))
    assert math.exp(-density * (CONFIG.ray_end - CONFIG.ray_start) / (CONFIG.num_steps_coarse - 1)) == pytest.approx(0.5)


# --- shapes -----------------------------------------------------------------------------------------------------------------------------

def test_a_ball_comes_out_in_world_units(extracted, generator):
    names = {f"{seed}{rest}" for seed in (3, 4) for rest in (".ply", ".obj", ".glb", ".mrc", "_40_voxel.npy")}
    assert {path.name for path in extracted.iterdir()} == names
    for kind in ("ply", "obj", "glb"):
        mesh = meshes.load(extracted / f"3.{kind}")
        assert np.linalg.norm(mesh.vertices - CENTER, axis=1) == pytest.approx(RADIUS, abs=1e-3)
        assert meshes.volume(mesh) == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.02)
        points = torch.from_numpy(mesh.vertices)[None]
        colors = generator.siren.field(scene_of(generator, 3, 0.7), points, torch.tensor([0.0, 0.0, -1.0]).expand_as(points))[1][0]
        assert mesh.colors == pytest.approx(255 * colors.detach().numpy(), abs=3)


def test_voxels_are_the_field(extracted, generator):
    import mrcfile

    voxels = np.load(extracted / "3_40_voxel.npy")
    assert voxels.shape == (40, 40, 40) and voxels.dtype == np.float32
    axis, scene = torch.linspace(-0.15, 0.15, 40), scene_of(generator, 3, 0.7)
    index = torch.randint(0, 40, (200, 3), generator=torch.Generator().manual_seed(0))
    assert voxels[tuple(index.T.numpy())] == pytest.approx(raw(generator, scene, axis[index]).sigmoid().numpy(), abs=1e-4)
    with mrcfile.open(extracted / "3.mrc") as file:
        assert np.array_equal(file.data, voxels.transpose(2, 1, 0))
        assert [float(file.voxel_size[k]) for k in "xyz"] == pytest.approx([0.3 / 39] * 3) and file.header.origin.x == pytest.approx(-0.15)


def test_the_release_s_defect_moves_the_ball(checkpoint, tmp_path):
    """Sampled up to a voxel further up x and y, read as if not: it comes out lower."""
    for name, flags in (("right", ["--dense"]), ("wrong", ["--published"])):
        done = programs.run(tmp_path, EXTRACT, "shapes", checkpoint, "--seeds", 0, "--voxel_resolution", 20, "--formats", "ply", "--output_dir", name, *flags)
        assert done.code == 0, done
    right, wrong = (meshes.load(tmp_path / name / "0.ply").vertices.mean(0) for name in ("right", "wrong"))
    voxel = 0.3 / 19
    assert ((right - wrong) / voxel)[:2] == pytest.approx([0.5, 0.5], abs=0.15) and (right - wrong)[2] == pytest.approx(0, abs=0.1 * voxel)


# --- meshes before cameras --------------------------------------------------------------------------------------------------------------

def test_cameras_frame_the_cube():
    """The release's crop shows 0.72 sides of the cube at its centre."""
    cameras = mesh_cameras(around(distance=4.5 * 0.3))
    assert 4.5 / cameras.intrinsics[0, 0, 0].item() == pytest.approx(2 * 4.5 * math.tan(math.radians(6)) * 392 / 512) == pytest.approx(0.724, abs=1e-3)
    assert len(cameras) == 5 and len(mesh_cameras(nodding(60))) == 60


def test_pictures_and_films_need_no_model(tmp_path):
    folder, ball = tmp_path / "in", write_ball(tmp_path / "ball.safetensors")
    command = ("--seeds", 0, "--voxel_resolution", 40, "--formats", "ply", "npy", "--output_dir", folder)
    assert programs.run(tmp_path, EXTRACT, "shapes", ball, *command).code == 0
    done = programs.run(tmp_path, EXTRACT, "pictures", folder / "0.ply", folder / "0_40_voxel.npy", "--size", 60, "--output_dir", "pictures")
    assert done.code == 0, done
    stems = ("0", "0_40_voxel")
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {f"{stem}{k}.png" for stem in stems for k in ("", "_0", "_1", "_2", "_3", "_4")}
    for name in stems:
        shot = read_picture(tmp_path / "pictures" / f"{name}_2.png")
        seen = (shot < 250).any(-1)                          # a disc in the middle, of the ball's share of the view
        width = 2 * 1.35 * math.tan(math.asin(RADIUS / 1.35)) / (0.724 * 0.3) * 60
        assert math.sqrt(seen.sum() * 4 / math.pi) == pytest.approx(width, abs=1.5)
        assert np.argwhere(seen).mean(0) == pytest.approx([29.5, 29.5], abs=0.5)
    colored, gray = (read_picture(tmp_path / "pictures" / f"{name}_2.png")[30, 30].astype(int) for name in stems)
    assert np.ptp(colored) > 10 and np.ptp(gray) == 0
    done = programs.run(tmp_path, EXTRACT, "film", folder / "0.ply", "--gray", "--size", 40, "--num_frames", 4, "--frames", "--output_dir", "film")
    assert done.code == 0 and {path.name for path in (tmp_path / "film").iterdir()} == {"0.mp4"} | {f"0_{k:03d}.png" for k in range(4)}
    assert np.ptp(read_picture(tmp_path / "film" / "0_000.png").astype(int), axis=-1).max() == 0


def test_what_it_refuses(checkpoint, tmp_path):
    refuse = lambda *args: programs.run(tmp_path, EXTRACT, *args)
    programs.refused(refuse("--seeds", 0), "--checkpoint", "expected one generator")
    programs.refused(refuse("shapes", checkpoint, "--level", 1), "--level", "between 0 and 1")
    programs.refused(refuse("shapes", checkpoint, "--formats"), "--formats", "expected one or more")
    programs.refused(refuse("shapes", checkpoint, "--formats", "stl"), "--formats", "stl")
    programs.refused(refuse("shapes", checkpoint, "--cube_size", 0.01, "--voxel_resolution", 8), "no surface at level")
    programs.refused(refuse("pictures"), "meshes")
    programs.refused(refuse("film", "nothing.ply"), "nothing.ply")
    np.save(tmp_path / "flat.npy", np.zeros((3, 3), np.float32))
    np.save(tmp_path / "empty.npy", np.zeros((3, 3, 3), np.float32))
    programs.refused(refuse("pictures", "flat.npy"), "flat.npy", "expected finite voxels")
    programs.refused(refuse("pictures", "empty.npy"), "no surface at level")
    assert not (tmp_path / "out").exists()
