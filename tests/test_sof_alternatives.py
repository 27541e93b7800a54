"""SOF's variants: other classifiers, the ancestor's marcher, codes from an encoder or between key frames; their files, and their training as a user runs it."""
from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from common.cameras import Cameras, intrinsics_matrix, orbit
from common.errors import InputError
from common.published import read
from common.rays import pixel_grid, z_depth
from common.render import render
from sof.cameras import published_cameras
from sof.model import SOF, ModelConfig, between, export_published, load
from sof.predict import predict, rays_at_once, shooter
from sof.renderers import Deepvoxels, ImAE, encode, halvings
from sof.srn import LSTMMarcher
from tests import programs
from tests.conftest import TINY, flags

SMALL = {"embedding_size": 6, "feat_dim": 12, "out_channels": 5, "orthogonal": True}
VARIANTS = {
    "FC": {}, "ImAE": {"renderer": "ImAE", "published_imae": True}, "Deepvoxels": {"renderer": "Deepvoxels", "unet_levels": 3},
    "lstm": {"marcher": "lstm", "orthogonal": False}, "encoder": {"use_encoder": True, "encoder_size": 7},
    "cameras": {"opt_cam": True, "published_camera": True},
}


def small(heads: int = 2, **options) -> SOF:
    torch.manual_seed(0)
    return SOF(ModelConfig(**{**SMALL, **options}), heads).eval()


# --- ImAE ---------------------------------------------------------------------------------------------------------------------------------

def test_encoding_is_the_point_then_its_waves():
    x = torch.randn(4, 3, dtype=torch.float64)
    wanted = torch.cat([x] + [f(2**k * x) for k in range(10) for f in (torch.sin, torch.cos)], dim=-1)
    assert torch.equal(encode(x), wanted) and wanted.shape == (4, 63)


def test_the_release_encodes_three_features_instead_of_the_point():
    right, released = ImAE(12, 5), ImAE(12, 5, published=True)
    released.load_state_dict(right.state_dict())
    features, points = torch.randn(2, 9, 12), torch.randn(2, 9, 3)
    in_its_order = torch.cat([features[..., 3:], points], dim=-1)
    assert torch.equal(released(features, points), right(in_its_order, features[..., :3]))
    assert not torch.allclose(released(features, points), right(features, points))


# --- Deepvoxels ---------------------------------------------------------------------------------------------------------------------------

def test_levels_are_as_many_as_the_picture_can_be_halved():
    assert [halvings(side) for side in (1, 2, 12, 16, 128, 96)] == [0, 1, 2, 4, 7, 5]


def test_a_picture_is_scored_by_itself_and_as_a_whole():
    net = Deepvoxels(12, 5, levels=2).eval()
    features = torch.randn(3, 64, 12, requires_grad=True)
    scores = net(features)
    assert scores.shape == (3, 64, 5) and scores.abs().max() <= 1
    torch.testing.assert_close(net(features[1:2]), scores[1:2])
    reach = torch.autograd.grad(scores[1, 0].sum(), features)[0].abs().sum(-1)
    assert (reach[[0, 2]] == 0).all() and (reach[1] > 0).all()                 # 8 x 8 pixels lie within the innermost level's reach


@pytest.mark.parametrize("points", [63, 36, 12])
def test_parts_of_pictures_are_refused(points):
    with pytest.raises(InputError, match=f"multiple of 4, not {points} points"):
        Deepvoxels(12, 5, levels=2)(torch.zeros(1, points, 12))


def test_frozen_networks_do_not_drift():
    sof = small(renderer="Deepvoxels", unet_levels=2).train()
    before = {key: value.clone() for key, value in sof.state_dict().items()}
    sof.learn_networks(False)
    for _ in range(2):
        sof.field(sof.scene_of(torch.tensor([0])), torch.randn(1, 16, 3))
    assert all(torch.equal(value, before[key]) for key, value in sof.state_dict().items())
    sof.learn_networks(True)
    sof.field(sof.scene_of(torch.tensor([0])), torch.randn(1, 16, 3))
    assert not torch.equal(sof.state_dict()["pixel_generator.net.0.in_layer.1.running_mean"], before["pixel_generator.net.0.in_layer.1.running_mean"])


def test_pictures_are_rendered_whole():
    sof, cameras = small(renderer="Deepvoxels", unet_levels=3), published_cameras(orbit(torch.tensor([0.0, 0.4]), torch.tensor(0.0), 4.5))
    scene, uv = sof.scene_of(torch.tensor([1])), pixel_grid(16, 16)[None]
    with torch.no_grad():
        wanted = [sof.trace(scene, *sof.rays(cameras.pick([k]), uv))[1].argmax(-1).byte().view(16, 16) for k in range(2)]
    seen = list(predict(sof, torch.tensor([1, 1]), cameras, 16, chunk=64))
    assert all(torch.equal(a["labels"], b) for a, b in zip(seen, wanted))
    assert torch.equal(render(shooter(sof, scene), cameras, 16, 16, rays_at_once(sof, 16))["labels"], torch.stack(wanted))


# --- the ancestor's marcher ---------------------------------------------------------------------------------------------------------------

def test_the_recurrent_march_carries_its_state():
    torch.manual_seed(0)
    marcher, features = LSTMMarcher(4).double(), torch.randn(3, 2, 5, 4, dtype=torch.float64)
    lstm, out, step = marcher.lstm, marcher.out_layer, marcher.along(torch.zeros(2, 5, 3))
    h = cell = torch.zeros(10, 16, dtype=torch.float64)
    for x in features:
        i, f, g, o = (x.view(10, 4) @ lstm.weight_ih.T + lstm.bias_ih + h @ lstm.weight_hh.T + lstm.bias_hh).split(16, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        h = o.sigmoid() * cell.tanh()
        torch.testing.assert_close(step(x), (h @ out.weight.T + out.bias).view(2, 5, 1))
    assert (lstm.bias_ih[16:32] == 1).all() and (lstm.bias_hh[16:32] == 1).all()


def test_steep_gradients_of_the_state_are_clamped():
    marcher, features = LSTMMarcher(4), torch.randn(1, 5, 4, requires_grad=True)
    torch.nn.init.constant_(marcher.out_layer.weight, 1.0)
    slope = lambda by: torch.autograd.grad(by * marcher.along(torch.zeros(1, 5, 3))(features).sum(), features)[0]
    torch.testing.assert_close(slope(10.0), slope(1e6))
    torch.testing.assert_close(slope(10.0), 2 * slope(5.0))


@pytest.mark.parametrize("orthographic", [False, True])
def test_the_ancestors_march_begins_before_the_camera(orthographic):
    sof = small(marcher="lstm", orthogonal=orthographic)
    for parameter in sof.ray_marcher.out_layer.parameters():
        torch.nn.init.zeros_(parameter)
    cameras = Cameras(orbit(torch.tensor([0.3]), torch.tensor(0.2), 1.3), intrinsics_matrix(torch.tensor([1.5])), orthographic)
    points, _ = sof.trace(sof.scene_of(torch.tensor([0])), *sof.rays(cameras, pixel_grid(4, 4)[None]))
    torch.testing.assert_close(z_depth(cameras, points), torch.full((1, 16, 1), 0.05))


# --- codes --------------------------------------------------------------------------------------------------------------------------------

def test_codes_between_key_frames():
    codes, keys = torch.tensor([[0.0, 4.0], [1.0, 0.0], [3.0, 8.0]]), torch.tensor([10.0, 20.0, 24.0])
    found = between(codes, keys, torch.tensor([10.0, 15.0, 20.0, 23.0, 24.0, 3.0, 99.0]))
    wanted = [[0, 4], [0.5, 2], [1, 0], [2.5, 6], [3, 8], [0, 4], [3, 8]]
    torch.testing.assert_close(found, torch.tensor(wanted))


@pytest.mark.parametrize("animated, columns", [(2, 4), (6, 6)])
def test_an_expression_joins_the_code_or_is_added_to_it(animated, columns):
    sof = SOF(ModelConfig(**SMALL), 3, animated, key_frames=(0.0, 1.0))
    own, expression = sof.latent_codes.weight[1], sof.ami_code.weight.mean(dim=0)
    assert own.shape == (columns,)
    wanted = own + expression if columns == animated else torch.cat([own, expression])
    torch.testing.assert_close(sof.codes(torch.tensor([1]), torch.tensor([0.5]))[0], wanted)


def test_encoded_codes_are_a_function_of_the_face():
    sof = small(use_encoder=True, encoder_size=7)
    sof.face_params.copy_(torch.randn(2, 7))
    linear = sof.mapping_fn[0]
    torch.testing.assert_close(sof.codes(torch.tensor([1, 0])), (sof.face_params[[1, 0]] @ linear.weight.T + linear.bias).tanh())
    assert sof.heads == 2 and "latent_codes.weight" not in sof.state_dict()


# --- files --------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("variant", VARIANTS)
def test_published_files_tell_their_variant(variant, tmp_path):
    sof = small(**VARIANTS[variant])
    export_published(sof, tmp_path / "epoch_0001.pth")
    found, _ = load(tmp_path / "epoch_0001.pth")
    told = {**vars(sof.config), "tracing_steps": 10}                           # which no tensor tells
    assert vars(found.config) == told
    code, points = torch.randn(1, 6), torch.randn(1, 64, 3)
    torch.testing.assert_close(found.field(found.scene(code), points), sof.field(sof.scene(code), points))
    assert found.heads == (0 if variant == "encoder" else 2)


def test_animated_files(tmp_path):
    sof = SOF(ModelConfig(**SMALL), 3, 2, key_frames=(0.0, 1.0, 2.0)).eval()
    export_published(sof, tmp_path / "moving.pth")
    found, _ = load(tmp_path / "moving.pth")
    assert torch.equal(found.codes(torch.tensor([2]), torch.tensor([1.0])), sof.codes(torch.tensor([2]), torch.tensor([1.0])))


def test_files_of_the_unet_hold_its_second_names(tmp_path):
    sof = small(renderer="Deepvoxels", unet_levels=3)
    export_published(sof, tmp_path / "unet.pth")
    state, name = read(tmp_path / "unet.pth")["model"], "pixel_generator.net.0."
    own = set(sof.state_dict())
    inner = f"{name}unet_block.model.1.model.1.model.1.net.3."
    assert set(state) - own == {
        f"{name}in_layer.0.weight", f"{name}out_layer.0.weight", f"{name}out_layer.0.bias", f"{name}out_layer_weight",
        f"{name}unet_block.model.2.net.4.weight", f"{name}unet_block.model.1.model.2.net.4.weight", f"{inner}weight", f"{inner}bias"}
    assert torch.equal(state[f"{inner}bias"], state[f"{inner}net.1.bias"])
    assert torch.equal(state[f"{name}out_layer_weight"], state[f"{name}out_layer.0.net.1.weight"])
    torch.save({"model": {key: value for key, value in state.items() if key in own}}, tmp_path / "bare.pth")
    assert load(tmp_path / "bare.pth")[0].config == load(tmp_path / "unet.pth")[0].config


# --- as a user runs them --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    {"renderer": "Deepvoxels", "rays_per_view": 0, "ray_chunk": 0, "unet_levels": 2, "tracing_steps": 2},
    {"renderer": "ImAE", "rays_per_view": 32, "ray_chunk": 20},
    {"marcher": "lstm"},
    {"use_encoder": True, "encoder_size": 3},
], ids=lambda options: next(iter(options.values())))
def test_training_and_rendering(options, heads, tmp_path):
    for k, folder in enumerate(sorted(heads.glob("0*"))):
        if options.get("use_encoder"):
            (tmp_path / folder.name).mkdir()
            for file in folder.iterdir():
                (tmp_path / folder.name / file.name).symlink_to(file)
            np.save(tmp_path / folder.name / "params.npy", np.array([k, 1, -k], np.float64))
    root = tmp_path if options.get("use_encoder") else heads
    short = {"batch_size": 2, "max_steps": 2, "steps_til_val": 2, "log_every": 1, "sample_observations_val": 12, "pictures_every": 0}
    told = {**TINY, **short, "data_root": root, "logging_root": tmp_path / "log", "name": "run", **options}
    done = programs.run(tmp_path, "sof/train.py", *flags(told))
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "log" / "run" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(value) for line in lines for value in line.values()) and "val/mIoU" in {key for line in lines for key in line}
    done = programs.run(tmp_path, "sof/render.py", "views", "--checkpoint", tmp_path / "log" / "run", "--instance", "00001", "--out", tmp_path / "views",
                        "--side", 16, "--count", 2, "--device", "cpu")
    assert done.code == 0 and (tmp_path / "views" / "seg_001.png").exists(), done.err


@pytest.mark.parametrize("options, names", [
    ({"renderer": "Deepvoxels"}, ["--rays_per_view 0", "--ray_chunk 0"]),
    ({"renderer": "Deepvoxels", "rays_per_view": 0, "ray_chunk": 0, "img_sidelength": 15}, ["--unet_levels", "15"]),
    ({"renderer": "Deepvoxels", "rays_per_view": 0, "ray_chunk": 0, "unet_levels": 5}, ["--unet_levels 5", "16"]),
    ({"use_encoder": True}, ["params.npy", "00000"]),
    ({"use_encoder": True, "opt_cam": True}, ["--use_encoder", "--opt_cam"]),
    ({"renderer": "UNet"}, ["--renderer", "Deepvoxels"]),
], ids=str)
def test_what_cannot_be_is_one_line(options, names, heads, tmp_path):
    done = programs.run(tmp_path, "sof/train.py", *flags({**TINY, "data_root": heads, "logging_root": tmp_path, "name": "no", **options}))
    assert done.code == 2 and done.err.count("\n") == 1 and all(name in done.err for name in names), done.err


def test_face_parameters_of_another_size(heads, tmp_path):
    (tmp_path / "00000").mkdir()
    for file in (heads / "00000").iterdir():
        (tmp_path / "00000" / file.name).symlink_to(file)
    for bad in (np.zeros(4), np.full(3, np.nan), np.array(["a", "b", "c"])):
        np.save(tmp_path / "00000" / "params.npy", bad)
        options = {**TINY, "data_root": tmp_path, "logging_root": tmp_path, "name": "no", "use_encoder": True, "encoder_size": 3}
        done = programs.run(tmp_path, "sof/train.py", *flags(options))
        assert done.code == 2 and "params.npy" in done.err and "expected 3 finite numbers" in done.err, done.err
