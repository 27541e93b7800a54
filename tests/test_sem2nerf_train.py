"""sem2nerf/train.py as a user runs it: the same end however it was stopped, two ranks, every mode, starts, what it refuses."""
from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoint
from sem2nerf.model import load
from tests import programs, runs
from tests.conftest import flags
from tests.runs import same
from tests.sem2nerf_faces import ENCODER, write_decoder, write_faces

TRAIN = "sem2nerf/train.py"
BRIEF = {"device": "cpu", "lpips": programs.ROOT / "pretrained" / "people_parser.safetensors", "resolution_vol": 16, "img_size": 24, "num_steps": 4,
         "batch_size": 4, "max_steps": 6, "steps_til_ckpt": 2, "keep_ckpts": 9, "val_interval": 0, "pictures_every": 0, "log_every": 1,
         "test_output_size": 8, "pigan_infer_ray_step": 3, "train_rand_pose_prob": 0.4, "learning_rate": 1e-3}


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with a data set and a decoder."""
    root = tmp_path_factory.mktemp("a world")
    write_faces(root / "faces")
    write_decoder(root / "decoder.safetensors")
    return root


def brief(world: Path, root: Path, name: str, **options) -> list[str]:
    given = {**BRIEF, "data_path": world / "faces", "decoder": world / "decoder.safetensors", "logging_root": root / "runs", "name": name, **options}
    return [*flags({option: value for option, value in given.items() if value is not None}), *ENCODER]


end_of = partial(runs.end_of, step=6)


def lines_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def straight(world, tmp_path_factory) -> Path:
    """A run of six steps, never stopped, looked at on the way."""
    root = tmp_path_factory.mktemp("straight")
    done = programs.run(root / "elsewhere", TRAIN, *brief(world, root, "straight", val_interval=3, pictures_every=12))
    assert done.code == 0 and "Traceback" not in done.err, done.err
    return root / "runs" / "straight"


# --- however it is stopped ----------------------------------------------------------------------------------------------------------------

def test_losses_validations_and_pictures_are_kept(straight):
    lines = lines_of(straight)
    assert all({"loss_l2", "loss_lpips", "loss_w_norm", "loss_g", "D/real", "D/fake", "D/r1"} <= line.keys() for line in lines)
    assert [line["step"] for line in lines if "val/loss_l2" in line] == [3, 6] and lines[0]["loss_w_norm"] == 0 < lines[-1]["loss_w_norm"]
    assert len(list((straight / "pictures").glob("faces_*.png"))) == 2


def test_the_encoder_learns_and_the_decoder_does_not(world, straight):
    model, first = load(straight), end_of(straight, step=2)["model"]
    assert model.encoder.head.weight.any() and not torch.equal(first["encoder.head.bias"], model.encoder.head.bias)
    decoder = checkpoint.open_checkpoint(world / "decoder.safetensors").data["generator"]
    assert all(torch.equal(model.decoder.state_dict()[key], value) for key, value in decoder.items())
    assert model.latent_avg.any()


def test_killed_and_preempted_it_ends_the_same(world, straight, tmp_path):
    run, command = tmp_path / "runs" / "run", brief(world, tmp_path, "run", val_interval=3)
    for step, how in ((2, signal.SIGKILL), (4, signal.SIGTERM)):
        program = programs.start(tmp_path / how.name, TRAIN, *command)
        programs.wait_for(lambda step=step: (run / "checkpoints" / f"step_{step:08d}.pt").exists())
        os.kill(program.process.pid, how)
        assert program.wait().code in (75, -9, 0)
    assert programs.run(tmp_path, TRAIN, *command).code == 0
    assert same(end_of(run), end_of(straight))


def test_ranks_and_parts_change_no_draw(world, tmp_path):
    """Two ranks, or two parts, end where one does, but for rounding; without stochastic signs of an optimiser that has seen too little."""
    options = {"optim_name": "adam", "max_steps": 2, "learning_rate": 1e-4}
    alone, shared, parts = (brief(world, tmp_path, name, **options) for name in ("alone", "shared", "parts"))
    assert programs.run(tmp_path, TRAIN, *alone).code == 0
    assert programs.run(tmp_path, TRAIN, *parts, "--accumulate", "3").code == 0
    assert [program.wait().code for program in programs.ranks(tmp_path, 2, TRAIN, *shared)] == [0, 0]
    for name in ("shared", "parts"):
        for one, other in zip(lines_of(tmp_path / "runs" / "alone"), lines_of(tmp_path / "runs" / name)):
            for term in ("loss_l2", "loss_lpips", "loss_w_norm"):
                assert other[term] == pytest.approx(one[term], rel=1e-3, abs=1e-5)


# --- every way to train -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    {"patch_train": False, "train_rand_pose_prob": 0}, {"start_from_latent_avg": False, "use_contour": False, "use_merged_labels": False},
    {"use_cond_dis": True, "optim_name": "adamw", "scheduler_name": "cosine"}, {"published": True, "pigan_train_hs": True},
    {"train_decoder": True, "pigan_train_lvd": True, "no_ray_random_shift": True}, {"dis_lambda": 0, "l1_lambda": 1, "lpips_lambda": 0, "lpips": "alex"},
    {"recompute": True, "drop_path_rate": 0, "accumulate": 2}, {"alpha": "occupancy", "decoder": "occupancy.safetensors"},
], ids=lambda options: "+".join(options))
def test_modes(world, tmp_path, options):
    if options.get("alpha"):
        options = options | {"decoder": write_decoder(tmp_path / options["decoder"], pred_occ=True)}
    done = programs.run(tmp_path, TRAIN, *brief(world, tmp_path, "run", max_steps=2, val_interval=2, **options))
    assert done.code == 0, done.err
    lines = lines_of(tmp_path / "runs" / "run")
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert ("loss_g" in lines[0]) == (options.get("dis_lambda", 1) > 0)


def test_recomputing_changes_no_loss(world, straight, tmp_path):
    assert programs.run(tmp_path, TRAIN, *brief(world, tmp_path, "run", max_steps=3, recompute=True)).code == 0
    for one, other in zip(lines_of(straight), lines_of(tmp_path / "runs" / "run")):
        assert other["loss_l2"] == pytest.approx(one["loss_l2"], rel=1e-5)


# --- where it begins ----------------------------------------------------------------------------------------------------------------------

def test_it_starts_from_another_run(world, straight, tmp_path):
    options = {"decoder": None, "checkpoint_path": straight, "learning_rate": 0, "max_steps": 7}
    assert programs.run(tmp_path, TRAIN, *brief(world, tmp_path, "on", **options, continue_training=True)).code == 0
    assert [line["step"] for line in lines_of(tmp_path / "runs" / "on")] == [7]
    on, before = end_of(tmp_path / "runs" / "on", step=7), end_of(straight)
    assert same(on["model"], before["model"]) and on["optimizer"]["state"][0]["step"] == before["optimizer"]["state"][0]["step"] + 1
    programs.refused(programs.run(tmp_path, TRAIN, *brief(world, tmp_path, "other", **options, use_contour=False)), "--use_contour False", straight)


# --- what it refuses ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, words", [
    ({"decoder": None}, ["--decoder", "--checkpoint_path"]),
    ({"decoder": "/nowhere.pt"}, ["/nowhere.pt"]),
    ({"continue_training": True}, ["--continue_training"]),
    ({"fov": 13}, ["--fov 13.0", "12.0"]),
    ({"ray_min_scale": 0}, ["--ray_min_scale"]),
    ({"val_latent_mask": "7"}, ["--latent_mask 7", "0 to 2"]),
    ({"lpips": "/nowhere.pth"}, ["--lpips /nowhere.pth"]),
    ({"data_path": "/nowhere"}, ["/nowhere"]),
    ({"label_nc": 19}, ["--label_nc 19"]),
    ({"scheduler_name": "cosin"}, ["did you mean cosine"]),
    ({"src_input_size": 36}, ["--src_input_size 36"]),
    ({"encoder_weights": "/nowhere.pth"}, ["/nowhere.pth"]),
])
def test_options_that_cannot_be(world, tmp_path, options, words):
    command = brief(world, tmp_path, "run")
    command += flags({option: value for option, value in options.items() if value is not None})
    if "decoder" in options and options["decoder"] is None:
        command = [flag for flag in command if not flag.startswith("--decoder")]
    programs.refused(programs.run(tmp_path, TRAIN, *command), *words)
    assert not (tmp_path / "runs").exists()


def test_a_decoder_that_is_none(world, tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    programs.refused(programs.run(tmp_path, TRAIN, *brief(world, tmp_path, "run", decoder=tmp_path / "other.pth")), "other.pth", "no decoder")
    torch.save({"siren.final_layer.bias": torch.zeros(1)}, tmp_path / "part.pth")
    programs.refused(programs.run(tmp_path, TRAIN, *brief(world, tmp_path, "run", decoder=tmp_path / "part.pth")), "part.pth", "missing")


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(world, tmp_path):
    command = brief(world, tmp_path, "run", max_steps=2)
    assert programs.run(tmp_path, TRAIN, *command).code == 0
    path = tmp_path / "runs" / "run" / "checkpoints" / "step_00000002.pt"
    state = checkpoint.load(path)
    state["state"]["model"]["encoder.head.bias"] += float("nan")
    checkpoint.save(path, state)
    done = programs.run(tmp_path, TRAIN, *brief(world, tmp_path, "run", max_steps=4))
    assert done.code == 3 and "not finite at step 3" in done.err, done
    assert checkpoint.newest(path.parent) == path
