"""The depth prior, the dolly and the mesh's depth: a sphere's depth in closed form, rays that miss, marches that begin where others are under way."""
from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from common.cameras import look_at
from common.errors import InputError
from common.images import read_picture
from common.layers.hyper import evaluate
from common.meshes import Mesh, marching_cubes
from common.rays import camera_rays, pixel_grid, unproject
from common.render import render
from sof import dolly, prior
from sof.cameras import PUBLISHED_FOCAL, published_cameras
from sof.look import facing
from sof.model import SOF, ModelConfig, load
from sof.predict import predict, shooter
from sof.prior import PriorOptions
from tests import programs

RADIUS, SIDE, RENDER = 0.8, 24, "sof/render.py"


@pytest.fixture(scope="module")
def sphere() -> Mesh:
    axis = torch.linspace(-1, 1, 65)
    return marching_cubes(RADIUS - torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0), 0.0, torch.tensor([[-1.0] * 3, [1.0] * 3]))


@pytest.fixture(scope="module")
def model() -> SOF:
    """Drawn weights, steps large enough to matter."""
    torch.manual_seed(0)
    return SOF(ModelConfig(embedding_size=4, feat_dim=12, tracing_steps=4, orthogonal=True, out_channels=6), heads=1).eval()


def scene_of(sof: SOF):
    with torch.no_grad():
        return sof.scene_of(torch.tensor([0]))


def cameras(orthographic: bool):
    poses = look_at(torch.tensor([[0.0, 0, 4], [2.0, 1, 3]], dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64))
    return published_cameras(poses, 36.0 if orthographic else 180.0, orthographic=orthographic)


@pytest.mark.parametrize("orthographic", [True, False])
def test_a_spheres_depth(sphere, orthographic):
    """|o + t d| = r, camera z = t times the ray's share of the forward axis; rays farther than r from the centre miss."""
    seen = render(prior.mesh_depth(sphere), cameras(orthographic), SIDE, SIDE)
    origins, directions = camera_rays(cameras(orthographic), pixel_grid(SIDE, SIDE)[None])
    half = -(origins * directions).sum(-1)
    square = half**2 - (origins**2).sum(-1) + RADIUS**2
    forward = (directions * cameras(orthographic).cam2world[:, None, :3, 2]).sum(-1)
    sure = (square.abs() > 0.03)
    assert torch.equal(seen["hit"].flatten(1)[sure], (square > 0)[sure]) and 0.1 < (square > 0).float().mean() < 0.6
    inside = sure & (square > 0)
    assert torch.allclose(seen["z_depth"].flatten(1)[inside], ((half - square.clamp_min(0).sqrt()) * forward)[inside], atol=5e-3)
    assert (seen["z_depth"][~seen["hit"]] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("orthographic", [True, False])
def test_rays_that_miss_are_background_and_the_others_as_ever(sphere, model, orthographic):
    scene, front = scene_of(model), cameras(orthographic)
    plain = render(shooter(model, scene, scores=True), front, SIDE, SIDE)
    shoot = prior.prior_shooter(PriorOptions(depth_prior="silhouette"), model, scene, sphere, scores=True)
    seen, hit = render(shoot, front, SIDE, SIDE, chunk=100), render(prior.mesh_depth(sphere), front, SIDE, SIDE)["hit"]
    assert torch.equal(seen["labels"][hit], plain["labels"][hit]) and torch.allclose(seen["z_depth"][hit], plain["z_depth"][hit], atol=1e-5)
    assert (seen["labels"][~hit] == 0).all() and (plain["labels"][~hit] != 0).any()
    assert torch.equal(seen["scores"][~hit].softmax(-1), torch.eye(6)[0].expand(int((~hit).sum()), 6))
    assert torch.equal(seen["asked"], hit * 5) and (seen["z_depth"][~hit] > seen["z_depth"][hit].min()).all()


@torch.no_grad()
@pytest.mark.parametrize("steps", [0, 2])
def test_starting_on_the_mesh(sphere, model, steps):
    """Without a step the field speaks where the mesh is; with steps, each point has moved by what the marcher says, again and again."""
    scene, front = scene_of(model), cameras(True)
    seen = render(prior.prior_shooter(PriorOptions(depth_prior="start", prior_steps=steps), model, scene, sphere), front, SIDE, SIDE)
    mesh = render(prior.mesh_depth(sphere), front, SIDE, SIDE)
    for k in range(len(front)):
        hit, camera = mesh["hit"][k].flatten(), front.pick([k])
        points = unproject(camera, pixel_grid(SIDE, SIDE)[None], mesh["z_depth"][k].flatten()[None, :, None])[:, hit]
        forward = camera.cam2world[:, None, :3, 2]
        for _ in range(steps):
            points = points + forward * model.ray_marcher.along(forward)(evaluate(scene, points))
        assert torch.equal(seen["labels"][k].flatten()[hit], model.field(scene, points).argmax(-1)[0].byte())
    assert torch.equal(seen["asked"], mesh["hit"] * (steps + 1))
    assert steps or torch.allclose(seen["z_depth"][mesh["hit"]], mesh["z_depth"][mesh["hit"]], atol=1e-5)


@torch.no_grad()
def test_a_march_is_its_parts(model):
    """So that one which begins where another has come to ends where that one ends."""
    scene, points = scene_of(model), torch.randn(1, 7, 3)
    ray = torch.nn.functional.normalize(torch.randn(1, 1, 3), dim=-1)
    assert torch.allclose(model.advance(scene, model.advance(scene, points, ray, 1), ray, 3), model.advance(scene, points, ray, 4), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("orthographic", [True, False])
def test_the_releases_prior_changes_nothing(sphere, model, orthographic):
    scene, front = scene_of(model), cameras(orthographic)
    plain = render(shooter(model, scene), front, SIDE, SIDE)
    seen = render(prior.prior_shooter(PriorOptions(depth_prior="published"), model, scene, sphere), front, SIDE, SIDE)
    assert (seen["labels"] == plain["labels"]).float().mean() > 0.995 and torch.allclose(seen["z_depth"], plain["z_depth"], atol=2e-3)
    assert (seen["asked"] == 5).all()


def test_whole_pictures_need_every_march():
    unet = SOF(ModelConfig(embedding_size=4, feat_dim=12, renderer="Deepvoxels", unet_levels=2, orthogonal=True), heads=1)
    with pytest.raises(InputError, match=r"--depth_prior start.*Deepvoxels"):
        prior.looking(PriorOptions(depth_prior="start"), unet, scene_of(unet.eval()))


# Pictures of depth

def test_depth_in_colours():
    """From BEFORE nearer than the target to 0.05 behind it: cv2's JET from dark blue to dark red; beyond, its ends."""
    depths = torch.tensor([[[0.85, 1.15, 0.0, 9.0, 1.0, 1.0]]])
    there = torch.tensor([[[True, True, True, True, True, False]]])
    colors = dolly.depth_colors(depths, there, 1.1)[0, 0]
    assert colors[0].tolist() == colors[2].tolist() == [0, 0, 128] and colors[1].tolist() == colors[3].tolist() == [128, 0, 0]
    assert colors[4][1] == 255                                     # green in the middle
    assert colors[5].tolist() == [0, 0, 128 + 4 * dolly.BACKGROUND]


def test_the_dolly_begins_as_wide_as_the_orthographic_view():
    assert dolly.WIDE * dolly.NEAREST * 128 / dolly.DOLLY_FOCAL == pytest.approx(128 / PUBLISHED_FOCAL)


def test_dolly_and_depth(trained, tmp_path):
    look = ("--checkpoint", trained.folder, "--device", "cpu", "--side", "16")
    done = programs.run(tmp_path, RENDER, "dolly", *look, "--out", "out", "--count", "3")
    assert done.code == 0 and not done.err, done
    frames = [read_picture(path) for path in sorted((tmp_path / "out").glob("dolly_[0-9]*.png"))]
    assert len(frames) == 3 and frames[0].shape == (16, 5 * 18 - 2, 3) and (tmp_path / "out" / "dolly.gif").exists()
    shares = [(frame[:, :16] > 0).any(-1).mean() for frame in frames]
    assert 0.1 < shares[0] < shares[1] < shares[2]                                              # the lens grows faster than the distance
    assert float(re.search(r"([\d.]+)% of the labels", done.out)[1]) > 85

    done = programs.run(tmp_path, RENDER, "depth", *look, "--out", "depth", "--path", "sphere", "--count", "4")
    assert done.code == 0 and not done.err, done
    assert {path.name for path in (tmp_path / "depth").iterdir()} == {*(f"mesh_depth_{k:03d}.png" for k in range(4)), "mesh_depth.mp4", "mesh_depth.gif"}


def test_views_and_figures_with_the_prior(trained, tmp_path):
    """Cheaper, and about as good; the work is printed as it was counted."""
    look = ("--checkpoint", trained.folder, "--device", "cpu", "--side", "16", "--path", "azimuths", "--azimuths", "0", "20")
    plain = programs.run(tmp_path, RENDER, "views", *look, "--out", "off")
    assert plain.code == 0 and "prior" not in plain.out
    for kind in ("silhouette", "start", "published"):
        done = programs.run(tmp_path, RENDER, "views", *look, "--out", kind, "--depth_prior", kind)
        assert done.code == 0 and not done.err, done
        asked, usual = (int(number.replace(",", "")) for number in re.search(r"asked ([\d,]+) times instead of ([\d,]+)", done.out).groups())
        assert usual == 2 * 16 * 16 * 6 and (asked == usual if kind == "published" else asked < 0.8 * usual)
        for k in range(2):
            same = read_picture(tmp_path / kind / f"seg_{k:03d}.png") == read_picture(tmp_path / "off" / f"seg_{k:03d}.png")
            assert same.mean() > (0.85 if kind == "start" else 0.93)
    done = programs.run(tmp_path, "sof/eval.py", "--checkpoint", trained.folder, "--device", "cpu", "--out", "figures", "--depth_prior", "silhouette")
    assert done.code == 0 and "mean" in done.out, done
    programs.refused(programs.run(tmp_path, RENDER, "views", *look, "--out", "x", "--depth_prior", "real"), "--depth_prior", "silhouette")


def test_a_scene_and_its_mesh_are_made_once_a_head(trained, monkeypatch):
    sof, _ = load(trained.folder)
    made, surface = [], prior.surface_of
    monkeypatch.setattr(prior, "surface_of", lambda *args: made.append(1) or surface(*args))
    look = lambda model, scene: prior.looking(PriorOptions(depth_prior="silhouette"), model, scene)[0]
    front = published_cameras(facing([0.0, 10.0, 0.0], 4.5))
    seen = list(predict(sof, torch.tensor([0, 0, 1]), front, 16, look=look))
    assert len(made) == 2 and not np.array_equal(seen[0]["labels"], seen[2]["labels"])
