"""gof/eval.py and gof.metrics on balls whose field is known: draws, pictures beside themselves, shapes beside closed forms, one figure in training and out."""
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common import ranks
from common.cameras import pigan_cameras, pigan_intrinsics
from common.errors import InputError
from common.features import open_extractor
from common.images import encode_png, open_image_folder, write_eg3d_zip, write_png
from common.rays import camera_rays, pixel_grid
from gof import eval as evaluating
from gof import metrics
from gof.eval import against_truth, ears_behind, mean_picture, most_frontal, nose_before_ears, surface_of, untrained
from gof.invert import Found
from gof.look import as_pictures, look
from gof.metrics import TrainingJudge, fakes, judge_of, measure, real_pictures, through_jpeg, variance_of
from gof.paths import FRONT
from gof.train import TrainConfig
from tests import programs
from tests.conftest import flags
from tests.gof_ball import RADIUS, ball_generator, write_ball

SIDE = 16
AT = torch.tensor([FRONT])


@pytest.fixture(scope="module")
def ball():
    return ball_generator()


@pytest.fixture(scope="module")
def people():
    return open_extractor("people")


def truth(angles: torch.Tensor, side: int) -> dict[str, torch.Tensor]:
    """Depth and normals of a sphere, in closed form."""
    origins, directions = camera_rays(pigan_cameras(angles, 12.0, side), pixel_grid(side, side)[None])
    along = -(origins * directions).sum(-1)
    inside = RADIUS**2 - (1 - along**2)
    depth = torch.where(inside > 0, along - inside.clamp_min(0).sqrt(), 0.0)
    return {"depth": depth.view(side, side), "normals": ((origins + depth[..., None] * directions) / RADIUS).view(side, side, 3)}


@pytest.fixture(scope="module")
def balls(tmp_path_factory, ball) -> Path:
    """A zip of two heads that are balls, two views each, with their truth; read-only."""
    angles = AT + torch.tensor([[0.1, 0.4], [0.0, 0.1], [0.05, -0.1], [0.0, 0.5]])
    names = ["00009/view_00", "00009/view_01", "00019/view_00", "00019/view_01"]
    pictures = as_pictures(look(ball, ball.scene(ball.average), angles, SIDE)["colors"].detach())
    folder = tmp_path_factory.mktemp("balls")
    beside = []
    for name, angle in zip(names, angles):
        np.savez(folder / "truth.npz", **{key: value.numpy() for key, value in truth(angle[None], SIDE).items()})
        beside.append((f"{name}.npz", (folder / "truth.npz").read_bytes()))
    cameras = pigan_cameras(angles, 12.0, SIDE)
    assert torch.equal(cameras.intrinsics[0], pigan_intrinsics(12.0, SIDE).float())
    write_eg3d_zip(folder / "pigan.zip", [(f"{name}.png", encode_png(picture)) for name, picture in zip(names, pictures)], cameras, beside)
    return folder / "pigan.zip"


# Pictures

def test_a_picture_is_a_function_of_its_number(ball, monkeypatch):
    whole = np.concatenate(list(fakes(ball, 5, SIDE)))
    assert np.array_equal(whole[:3], np.concatenate(list(fakes(ball, 3, SIDE)))) and not np.array_equal(whole[0], whole[1])
    assert not np.array_equal(whole, np.concatenate(list(fakes(ball, 5, SIDE, seed=1))))
    monkeypatch.setattr(metrics, "BATCH", 2)
    monkeypatch.setattr(ranks, "count", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        assert np.array_equal(whole[rank::2], np.concatenate(list(fakes(ball, 5, SIDE))))


def test_published_pictures_lose_the_light_left_over_and_go_through_jpeg(ball):
    plain, published = (next(fakes(ball_generator(eval_last_back=True, white_back=False), 1, SIDE, published=published))[0] for published in (False, True))
    assert plain[0, 0].max() > 0 and published[0, 0].max() < 20                       # no surface there: the last sample's colour, or none
    flat = np.full((16, 16, 3), 77, np.uint8)
    noisy = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.abs(through_jpeg(flat).astype(int) - 77).max() <= 1 and not np.array_equal(through_jpeg(noisy), noisy)


def test_real_pictures_are_the_trainings(tmp_path):
    random = np.random.default_rng(0)
    for i in range(6):
        write_png(tmp_path / f"{i}.png", random.integers(0, 256, (16, 16, 3), np.uint8))
    folder = open_image_folder(tmp_path, use_labels=False)
    whole, some = real_pictures(folder, "people", 8), real_pictures(folder, "people", 8, 4)
    means = folder.read(2).reshape(8, 2, 8, 2, 3).mean((1, 3))
    assert whole.count == 6 and np.abs(whole.load([2])[0] - means).max() <= 1
    assert some.count == 4 and len({bytes(some.load([i])) for i in range(4)} & {bytes(whole.load([i])) for i in range(6)}) == 4
    keys = [real_pictures(folder, *of).key for of in (("people", 8), ("people", 16), ("cats", 8), ("people", 8, 4), ("people", 8, 0, True))]
    assert len(set(keys)) == 5 and real_pictures(folder, "people", 8, 6).key == keys[0]
    assert np.abs(mean_picture(whole) - whole.load(range(6)).mean(0)).max() <= 0.5


def test_pictures_are_nearest_to_themselves(tmp_path, ball, people):
    """FD_people of a generator beside its own pictures is 0; beside others it is not; the kept features give the same."""
    for i, picture in enumerate(np.concatenate(list(fakes(ball, 40, SIDE)))):
        write_png(tmp_path / "own" / f"{i:02d}.png", picture)
    reals = real_pictures(open_image_folder(tmp_path / "own", use_labels=False), "people", SIDE)
    same = measure(ball, reals, people, 40, SIDE, cache=tmp_path / "features")
    other = measure(ball, reals, people, 40, SIDE, cache=tmp_path / "features", psi=0.0)
    assert abs(same["FD_people"]) < 1e-3 < other["FD_people"] and same["generated"] == same["real"] == 40 and same["resolution"] == [SIDE, SIDE]
    assert same["FD_people"] == measure(ball, reals, people, 40, SIDE, cache=tmp_path / "features")["FD_people"]
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_the_figure_in_training_is_the_one_outside(tmp_path):
    """Of the same averaged weights, by the same draws; and training is the same whether it is measured or not."""
    random = np.random.default_rng(0)
    for i in range(8):
        write_png(tmp_path / "data" / f"{i}.png", random.integers(0, 256, (8, 8, 3), np.uint8))
    tiny = {"data_root": tmp_path / "data", "hidden_dim": 8, "latent_dim": 8, "discriminator_width": 0.05, "img_size": 8, "batch_size": 4, "max_steps": 2,
            "num_steps_coarse": 4, "num_steps_surface": 2, "num_steps_fine": 1, "name": "tiny", "device": "cpu", "log_every": 1, "pictures_every": 0}
    judging = {"extractor": "people", "num_images": 6}
    for folder, more in (("plain", {}), ("judged", {"eval_freq": 2, **judging})):
        done = programs.run(tmp_path / folder, "gof/train.py", *flags(tiny | more))
        assert done.code == 0, done.err
    plain, lines = ([json.loads(line) for line in (tmp_path / name / "log" / "tiny" / "log.jsonl").read_text().splitlines()] for name in ("plain", "judged"))
    assert [("FD_people" in line) for line in lines] == [False, True]
    assert all(line["G/adversarial"] == other["G/adversarial"] for line, other in zip(lines, plain))
    same = {"real_image_dir": tmp_path / "data", "image_size": 8, "metrics": "fid", "device": "cpu", **judging}
    done = programs.run(tmp_path / "judged", "gof/eval.py", "fid", "log/tiny", *flags(same))
    assert done.code == 0, done.err
    figures = json.loads((tmp_path / "judged" / "out" / "gof_eval" / "fid.json").read_text())
    assert figures["FD_people"] == pytest.approx(lines[1]["FD_people"], rel=1e-5) and figures["hardware"] and figures["generated"] == 6 and figures["real"] == 8


def test_a_training_that_cannot_be_measured_is_refused_at_once(tmp_path, ball):
    write_png(tmp_path / "one.png", np.zeros((8, 8, 3), np.uint8))
    folder = open_image_folder(tmp_path, use_labels=False)
    assert judge_of(TrainConfig(eval_freq=0), folder, ball, None, tmp_path)(5) == {}
    with pytest.raises(InputError, match="there are 2048 generated and 1 real"):
        judge_of(TrainConfig(eval_freq=1, extractor="people", img_size=[8]), folder, ball, None, tmp_path)
    assert TrainingJudge().eval_freq == 0


# Shapes

def test_surfaces_are_seen_where_they_are(ball):
    for angles in (AT, AT + torch.tensor([[0.2, -0.4]])):
        depth, there, normals = surface_of(ball, ball.scene(ball.average), angles, 24)
        true = truth(angles, 24)
        solid = there & (true["depth"] > 0)
        assert solid.sum() > 0.95 * (there | (true["depth"] > 0)).sum()
        assert (depth - true["depth"])[solid].abs().max() < 2e-3 and normals[12, 12, 2] < -0.99        # towards the camera


def test_noses_and_ears():
    cone = lambda slope: 0.93 + slope * (pixel_grid(64, 64) - torch.tensor([0.495, 0.6])).norm(dim=-1).view(64, 64)
    assert ears_behind(cone(0.3)) == pytest.approx(0.3 * 0.17, abs=0.01)
    assert ears_behind(cone(-0.3)) < 0 and ears_behind(torch.full((32, 32), 0.9)) == 0
    bald = cone(0.3)
    bald[:, :22] = bald[:, 42:] = torch.nan
    assert math.isnan(ears_behind(bald))


def test_a_balls_nose_is_before_its_ears(ball):
    true = truth(AT, 64)["depth"]
    assert nose_before_ears(ball, ball.scene(ball.average)) == pytest.approx(ears_behind(torch.where(true > 0, true, torch.nan)), abs=1e-3)


def test_what_is_found_is_compared_with_the_truth(ball):
    """Nothing is wrong with the true camera; with another one depths stay, as balls look alike, and the angle between both is what it is."""
    cameras = AT + torch.tensor([[0.1, -0.2], [0.0, 0.3]])
    truths = [truth(camera[None], 24) for camera in cameras]
    right = against_truth(ball, [Found(ball.average, camera[None], 0.04) for camera in cameras], truths, cameras)
    assert right["SIDE"] < 1e-3 and right["normals"] < 2 and right["MAD"] < 5 and right["silhouettes"] > 0.95 and right["camera"] < 0.1
    assert right["psnr"] == pytest.approx(20)
    off = against_truth(ball, [Found(ball.average, camera[None] + torch.tensor([[0.1, 0.0]]), 0.04) for camera in cameras], truths, cameras)
    assert off["camera"] == pytest.approx(math.degrees(0.1), rel=1e-3) and off["SIDE"] < 1e-3 and off["normals"] < 2
    concave = [one | {"depth": torch.where(one["depth"] > 0, 1.9 - one["depth"], 0)} for one in truths]
    assert against_truth(ball, [Found(ball.average, camera[None], 0.04) for camera in cameras], concave, cameras)["MAD"] > 20


def test_the_most_frontal_view_of_each_head():
    angles = AT + torch.tensor([[0.3, 0.0], [0.0, 0.1], [0.2, 0.2], [0.0, 0.0], [0.5, 0.0]])
    assert most_frontal(["a/0.png", "a/1.png", "b/0.png", "a/2.png", "c/0.png"], angles) == [3, 2, 4]


def test_a_balls_light_comes_from_one_depth(ball):
    hard = variance_of(ball, range(3), SIDE)
    assert hard["codes"] == hard["codes_with_opaque_rays"] == 3 and hard["weighted_variance"] < 0.2
    soft = ball_generator()
    with torch.no_grad():
        soft.siren.final_layer.weight /= 400
    assert variance_of(soft, range(3), SIDE)["weighted_variance"] > 5 * hard["weighted_variance"]


def test_untrained_networks_are_always_the_same(ball):
    a, b = untrained(ball).state_dict(), untrained(ball).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a) and not torch.equal(a["siren.final_layer.weight"], ball.state_dict()["siren.final_layer.weight"])


# As a user runs it

def test_every_figure_of_the_model_that_ships(tmp_path, balls, monkeypatch, capsys):
    """On balls in place of people, of which the model is one: nothing is nearer to them."""
    write_ball(tmp_path / "ball.safetensors")
    monkeypatch.setattr(evaluating, "heads_of", lambda split: balls)
    few = {"num_images": 8, "samples": 2, "seeds_end": 2, "device": "cpu"}
    evaluating.people(evaluating.PeopleConfig(checkpoint=str(tmp_path / "ball.safetensors"), output_dir=str(tmp_path / "out"), **few))
    figures = json.loads((tmp_path / "out" / "people.json").read_text())
    near = figures["FD_people"]
    assert near["trained"] < near["untrained"] and figures["side"] == SIDE and figures["real"] == 4 and set(near) == {"trained", "untrained", "mean picture"}
    assert figures["nose"]["share nearer than the ears"] == 1 and figures["variance"]["codes"] == 2
    assert "100.0% of 2 codes" in capsys.readouterr().out


def test_shapes_of_held_out_heads(tmp_path, balls):
    write_ball(tmp_path / "ball.safetensors")
    common = {"checkpoint": tmp_path / "ball.safetensors", "device": "cpu"}
    measure = lambda command, **options: programs.run(tmp_path, "gof/eval.py", command, *flags(common | options))
    done = measure("geometry", data_root=balls, lr=0, noise_scale=0, steps=40, lr_step=8, lr_cam=0.02, rays=0)
    assert done.code == 0, done.err
    figures = json.loads((tmp_path / "out" / "gof_eval" / "geometry.json").read_text())
    assert figures["heads"] == 2 and figures["inverted"]["camera"] < 2 and figures["inverted"]["SIDE"] < 2e-3 and figures["inverted"]["psnr"] > 25
    for name in ("0.png", "1.png"):
        write_png(tmp_path / "bare" / name, np.zeros((8, 8, 3), np.uint8))
    programs.refused(measure("geometry", data_root=tmp_path / "bare"), "dataset.json")
    programs.refused(measure("fid", real_image_dir=tmp_path / "bare", extractor="people", metrics="fid"), "0.png", 128)
    programs.refused(measure("variance", seeds_start=1, seeds_end=1), "--seeds_end")
    programs.refused(programs.run(tmp_path, "gof/eval.py", "variance"), "--checkpoint")
