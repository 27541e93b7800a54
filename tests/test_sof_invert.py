"""Inverse rendering: single label maps and their cameras, sof/invert.py on analytic heads, and the published single-view training."""
from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cameras import Cameras, intrinsics_matrix, orbit
from common.errors import InputError
from common.images import write_png
from common.rays import camera_rays, pixel_grid
from sof import data, model
from sof.cameras import single_view_cameras, sof_cameras
from sof.invert import FreeCameras, InvertConfig, chosen, invert, miou, spread, trained_codes
from sof.predict import as_learned, predict_labels
from tests import ellipsoids, programs
from tests.conftest import TINY, flags

FAST = {"img_sidelength": ellipsoids.SIDE, "rays_per_view": 128, "device": "cpu", "steps": 60}


# --- single label maps --------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def flat(tmp_path) -> Path:
    """Three heads of one view each, two from the front and one from beside, in a flat folder with a preview."""
    for head, k in enumerate((5, 6, 2)):
        write_png(tmp_path / "flat" / f"p.{head}.png", ellipsoids.label_map(head, ellipsoids.poses()[k]))
    write_png(tmp_path / "flat" / "p.0_vis.png", ellipsoids.label_map(0, ellipsoids.poses()[5]))
    return tmp_path / "flat"


def test_a_flat_folder_is_one_head_a_label_map(flat, heads):
    assert data.holds_single_views(flat) and data.holds_single_views(flat / "p.1.png") and not data.holds_single_views(heads)
    views = data.load_single_views(flat, 16)
    assert views.names == ("p.0", "p.1", "p.2") and views.instances.tolist() == [0, 1, 2] and views.labels.shape == (3, 256)
    assert data.load_single_views(flat / "p.1.png", 16).names == ("p.1",)
    some = data.load_single_views(flat, 16, instances="1-2", names=("other", "p.2", "p.1"))
    assert some.instances.tolist() == [2, 1] and torch.equal(some.labels, views.labels[1:])
    with pytest.raises(InputError, match=r"p\.0\.png.*indexing"):
        data.load_single_views(flat, 16, names=("p.1",))


@pytest.mark.parametrize("orthographic", [False, True])
@pytest.mark.parametrize("side", [512, 128])
def test_single_views_are_taken_for_frontal_pictures(flat, orthographic, side):
    """The published intrinsics: focal 2000 about 256 at 512 px; orthographic, 36 about 64 at 128 px. The camera is before the face and looks at it."""
    cameras = data.load_single_views(flat, side, orthographic=orthographic).cameras
    focal, distance = (36 * side / 128, 4.5) if orthographic else (2000 * side / 512, 1.1)
    K = torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    pose = torch.tensor([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, distance], [0, 0, 0, 1.0]])
    wanted = sof_cameras(pose.expand(3, 4, 4), K.expand(3, 3, 3), side, orthographic)
    torch.testing.assert_close(cameras.cam2world, wanted.cam2world)
    torch.testing.assert_close(cameras.intrinsics, wanted.intrinsics)
    first = model.SOF(model.ModelConfig(embedding_size=4, feat_dim=8, opt_cam=True, orthogonal=orthographic), 3)
    learned = as_learned(first, data.load_single_views(flat, side, orthographic=orthographic)).cameras
    torch.testing.assert_close(learned.cam2world, cameras.cam2world)             # a learned camera begins there


def test_the_most_frontal_views_then_the_farthest_apart():
    azimuths = torch.tensor([0.8, -0.1, 0.5, -0.9, 0.3])
    forward = orbit(azimuths, torch.tensor(0.0), 4.5)[:, :3, 2]
    assert spread(forward, 3) == [1, 0, 3] and spread(forward, 9) == [1, 0, 3, 4, 2]


# --- cameras that learn -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("orthographic", [False, True])
def test_free_cameras_have_right_slopes(orthographic):
    """Through the march's start, with rays that miss the sphere and rays that meet it."""
    torch.manual_seed(0)
    K = intrinsics_matrix(torch.full((2,), 0.25, dtype=torch.float64), dtype=torch.float64)
    given = Cameras(orbit(torch.zeros(2, dtype=torch.float64), torch.tensor(0.0), 2.5), K, orthographic)
    free, uv = FreeCameras(given, torch.tensor([0.1, -0.4], dtype=torch.float64)), pixel_grid(5, 5, dtype=torch.float64)[None]
    hits = []

    def ends(direction: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        moved = torch.func.functional_call(free, {"direction": direction, "frame": frame}, ())
        points = model.sphere_start(*camera_rays(moved, uv), 1.5)
        hits.append(points.norm(dim=-1) < 1.5 + 1e-3)
        return points

    assert torch.autograd.gradcheck(ends, (free.direction.detach().requires_grad_(), (0.1 * torch.randn(2, 3).double()).requires_grad_()), rtol=1e-2)
    assert hits[0].any() and not hits[0].all()


def test_free_cameras_begin_as_given_from_their_side():
    given = single_view_cameras(2, 16, True)
    free = FreeCameras(given, torch.tensor([0.0, 0.6])).requires_grad_(False)()
    torch.testing.assert_close(free.cam2world[0], given.cam2world[0])
    torch.testing.assert_close(free.intrinsics, given.intrinsics)
    angle = math.acos(float(free.cam2world[0, :3, 2] @ free.cam2world[1, :3, 2]))
    assert abs(angle - 0.6) < 0.02                                              # seen from (0, 0, 0.1), not from the centre
    assert free.cam2world[1, 0, 3] > 0


# --- the fit ------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def seen_again(trained, heads):
    """The trained model, and the views of its heads, inverted from cameras between those trained on."""
    sof, _ = model.load(trained.folder)
    return sof, data.load(heads, ellipsoids.SIDE, observations="12-22", orthographic=True)


def unseen_miou(sof: model.SOF, views: data.Views, config: InvertConfig) -> tuple[float, float]:
    given, others = chosen(views, config.views)
    codes, cameras = invert(sof, trained_codes(sof, "model"), given, config)
    sof.latent_codes = torch.nn.Embedding.from_pretrained(codes)
    given = replace(given, cameras=cameras)
    return tuple(np.mean([miou(sof, predict_labels(sof, v), v, head) for head in range(3)]) for v in (given, others))


def test_a_training_head_is_found_again_from_one_new_view(seen_again):
    """What the model says of the head's other views is nearly what it says of them with the head's own code."""
    sof, views = seen_again
    own = np.mean([miou(sof, predict_labels(sof, views), views, head) for head in range(3)])
    config = InvertConfig(checkpoint="", data="", out="", **FAST)
    networks = {key: value.clone() for key, value in sof.state_dict().items() if key != "latent_codes.weight"}
    mean_only, found = unseen_miou(deepcopy(sof), views, replace(config, steps=1, lr=0.0))[1], deepcopy(sof)
    given, others = unseen_miou(found, views, config)
    assert given > own - 0.05 and others > own - 0.05 and others > mean_only + 0.02, (own, given, others, mean_only)
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in networks.items())


def test_more_starts_and_free_cameras(seen_again):
    """A head seen from 20 degrees beside is reproduced from a camera that begins in front, and the camera is found."""
    sof, views = deepcopy(seen_again[0]), seen_again[1]
    side = views.pick(torch.tensor([3, 11 + 3, 22 + 3]))
    config = InvertConfig(checkpoint="", data="", out="", opt_cam=True, restarts=3, **{**FAST, "steps": 120})
    codes, cameras = invert(sof, trained_codes(sof, "model"), side, config)
    cosine = (cameras.cam2world[:, :3, 2] * side.cameras.cam2world[:, :3, 2]).sum(-1)
    front = -side.cameras.cam2world[:, 2, 2]
    assert (cosine > front + 0.5 * (1 - front)).sum() >= 2, (cosine, front)
    assert codes.shape == (3, 16) and len(cameras) == 3


@pytest.mark.parametrize("options", [
    {"renderer": "Deepvoxels", "unet_levels": 1}, {"renderer": "ImAE"}, {"marcher": "lstm", "orthogonal": False}, {"use_encoder": True}, {"opt_cam": True},
], ids=str)
def test_models_of_every_kind_are_inverted(options, heads):
    """Their networks stay as they are; the codes are learned one by one wherever the model's own came from."""
    sof = model.SOF(model.ModelConfig(**{"embedding_size": 4, "feat_dim": 8, "tracing_steps": 2, "orthogonal": True, **options}), 2)
    views = data.load(heads, ellipsoids.SIDE, observations="3-4", orthographic=sof.config.orthogonal)
    networks = {key: value.clone() for key, value in sof.state_dict().items() if not key.startswith(("latent_codes", "mapping_fn", "face_params"))}
    trained = trained_codes(sof, "model")
    codes, cameras = invert(sof, trained, views, InvertConfig(checkpoint="", data="", out="", **{**FAST, "steps": 2, "restarts": 2}))
    assert codes.shape == (3, 4) and codes.isfinite().all() and not torch.isclose(codes, trained.mean(0)).any()
    assert torch.equal(cameras.cam2world, views.cameras.cam2world)
    assert all(torch.equal(value, sof.state_dict()[key]) for key, value in networks.items())


# --- as a user runs it --------------------------------------------------------------------------------------------------------------------

def test_one_label_map_gives_code_camera_views_and_mesh(trained, heads, tmp_path):
    options = {**FAST, "checkpoint": trained.folder, "data": heads / "00001" / "seg_17.png", "out": tmp_path / "out", "opt_cam": True, "pictures": 3}
    done = programs.run(tmp_path, "sof/invert.py", *flags(options))
    assert done.code == 0, done.err
    folder = tmp_path / "out" / "seg_17"
    assert np.load(folder / "code.npy").shape == (16,) and np.load(folder / "intrinsic.npy").shape == (1, 3, 3)
    data.check_cam2world(torch.from_numpy(np.load(folder / "cam2world.npy")), "found")
    assert all((folder / name).exists() for name in ("reproduction.png", "views/seg_002.png", "views/views.mp4", "mesh.ply", "mesh.glb"))
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["miou_of_heads"]["seg_17"]["seen"] == figures["miou_seen"] > 0.2 and "miou_unseen" not in figures and "mean" in done.out
    again = {"checkpoint": trained.folder, "instance": f"{tmp_path / 'out' / 'codes.npy'}:0", "out": tmp_path / "again", "side": 16, "count": 3,
             "device": "cpu"}
    done = programs.run(tmp_path, "sof/render.py", "views", *flags(again))
    assert done.code == 0, done.err
    assert (tmp_path / "again" / "seg_002.png").read_bytes() == (folder / "views" / "seg_002.png").read_bytes()


def test_heads_with_known_cameras_are_measured_on_their_other_views(trained, heads, tmp_path):
    options = {**FAST, "checkpoint": trained.folder, "data": heads, "out": tmp_path / "out", "views": 2, "steps": 10, "batch_size": 2}
    done = programs.run(tmp_path, "sof/invert.py", *flags(options), "--mesh=false", "--pictures=0")
    assert done.code == 0, done.err
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["views_seen"] == 6 and figures["views_unseen"] == 3 * 21 and list(figures["miou_of_heads"]) == ["00000", "00001", "00002"]
    assert 0 < figures["miou_unseen"] < 1 and "unseen" in done.out
    assert np.load(tmp_path / "out" / "00002" / "cam2world.npy").shape == (2, 4, 4)
    assert np.load(tmp_path / "out" / "codes.npy").shape == (3, 16)


def one_pixel(path: Path) -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[8, 8], labels[0, 0] = 4, 18
    write_png(path, labels)


@pytest.mark.parametrize("make, expected", [
    (lambda path: write_png(path, np.zeros((16, 16), np.uint8)), "every pixel is background"),
    (lambda path: write_png(path, np.full((16, 16), 25, np.uint8)), "0..19, found 25"),
    (lambda path: write_png(path, np.zeros((16, 16, 3), np.uint8) + np.arange(3, dtype=np.uint8)), "colour picture"),
    (lambda path: path.write_bytes(b"\x89PNG"), "broken"),
    (lambda path: None, "no heads"),
    (one_pixel, None),
], ids=["empty", "unknown", "colours", "broken", "nothing", "one pixel"])
@pytest.mark.parametrize("script", ["invert", "train"])
def test_label_maps_of_every_kind(make, expected, script, trained, tmp_path):
    """One line that names the file, or finite results."""
    (tmp_path / "flat").mkdir()
    make(tmp_path / "flat" / "face.png")
    if script == "invert":
        options = {**FAST, "checkpoint": trained.folder, "data": tmp_path / "flat", "out": tmp_path / "out", "opt_cam": True, "steps": 5, "pictures": 0}
    else:
        options = single(trained, tmp_path / "flat", tmp_path, max_steps=3)
    done = programs.run(tmp_path, f"sof/{script}.py", *flags(options))
    if expected is None or (script == "train" and "background" in expected):
        assert done.code == 0, done.err
    else:
        assert done.code == 2 and done.err.count("\n") == 1 and expected in done.err and "flat" in done.err, done.err


@pytest.mark.parametrize("change, expected", [
    (lambda poses: poses * 2, "not orthonormal"),
    (lambda poses: np.where(np.arange(4) == 3, np.nan, poses), "not finite"),
    (lambda poses: poses * [[[-1], [1], [1], [1]]], "mirror"),
    (lambda poses: poses[:5], "5 entries for 23 views"),
], ids=["scaled", "nan", "mirrored", "few"])
def test_bad_cameras_are_one_line(change, expected, trained, heads, tmp_path):
    (tmp_path / "data" / "00000").mkdir(parents=True)
    for file in (heads / "00000").iterdir():
        (tmp_path / "data" / "00000" / file.name).symlink_to(file)
    (tmp_path / "data" / "00000" / "cam2world.npy").unlink()
    np.save(tmp_path / "data" / "00000" / "cam2world.npy", change(ellipsoids.poses()))
    done = programs.run(tmp_path, "sof/invert.py", *flags({**FAST, "checkpoint": trained.folder, "data": tmp_path / "data", "out": tmp_path / "out"}))
    assert done.code == 2 and done.err.count("\n") == 1 and "cam2world.npy" in done.err and expected in done.err, done.err


# --- the published way: sof/train.py ---------------------------------------------------------------------------------------------------------

def single(trained, folder: Path, root: Path, **more) -> dict:
    """face_seg_single_view.yml with the sizes of the tiny model."""
    sizes = {key: TINY[key] for key in ("img_sidelength", "feat_dim", "embedding_size", "tracing_steps")}
    config = programs.ROOT / "configs" / "sof" / "face_seg_single_view.yml"
    return {"config_filepath": config, "data_root": folder, "checkpoint_path": trained.folder, "logging_root": root, "batch_size": 3,
            "device": "cpu", "lr": 1e-2, "pictures_every": 0, "log_every": 1, **sizes, **more}


def state_of(folder: Path, step: int) -> dict:
    return torch.load(folder / "checkpoints" / f"step_{step:08d}.pt", weights_only=True)["state"]


def test_the_published_single_view_training(trained, flat, tmp_path):
    """Codes and cameras learn, networks do not; row i is line i of indexing.txt; a resumed run is the same to the bit; eval uses the cameras learned."""
    for name, stops in {"whole": [12], "halves": [5, 12]}.items():
        for stop in stops:
            done = programs.run(tmp_path, "sof/train.py", *flags(single(trained, flat, tmp_path, name=name, max_steps=stop)))
            assert done.code == 0, done.err
    a, b = (state_of(tmp_path / name, 12) for name in ("whole", "halves"))
    networks = model.load(trained.folder)[0].state_dict()
    for key, value in a["model"].items():
        assert torch.equal(value, b["model"][key])
        assert key == "latent_codes.weight" or torch.equal(value, networks[key])
    rows = a["model"]["latent_codes.weight"]
    assert rows.shape == (3, 16 + 3) and (rows[:, :3] - torch.tensor([0, 0, 4.5])).norm(dim=1).min() > 0.01
    assert (tmp_path / "whole" / "indexing.txt").read_text().split() == ["p.0", "p.1", "p.2"]
    losses = [json.loads(line)["class"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    done = programs.run(tmp_path, "sof/eval.py", "--checkpoint", tmp_path / "whole", "--device", "cpu")
    assert done.code == 0 and "seen" in done.out, done.err


def test_networks_learn_again_from_a_step_on(trained, flat, tmp_path):
    options = single(trained, flat, tmp_path, name="thaw", max_steps=4, steps_til_reset=2, steps_til_ckpt=2)
    assert programs.run(tmp_path, "sof/train.py", *flags(options)).code == 0
    key = "pixel_generator.net.0.net.0.weight"
    frozen, thawed = (state_of(tmp_path / "thaw", step)["model"][key] for step in (2, 4))
    assert torch.equal(frozen, model.load(trained.folder)[0].state_dict()[key]) and not torch.equal(frozen, thawed)
