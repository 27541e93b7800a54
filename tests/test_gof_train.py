"""gof/train.py as a user runs it: the same end however it was stopped, over a change of stage; two ranks; starts; what it refuses."""
from __future__ import annotations

import json
import os
import re
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoint
from common.images import write_png
from gof.model import load
from tests import programs, runs
from tests.conftest import flags
from tests.runs import same

TRAIN = "gof/train.py"
BRIEF = {"config_filepath": programs.ROOT / "configs" / "gof" / "tiny.yml", "device": "cpu", "ball_steps": 0, "hidden_dim": 8, "latent_dim": 8, "layers": 2,
         "max_steps": 12, "steps_til_ckpt": 2, "keep_ckpts": 20, "pictures_every": 0, "log_every": 1, "fade_steps": 4}
STAGES = ["--stage_starts", "0", "5", "--img_size", "4", "8", "--batch_size", "6", "4", "--batch_split", "1", "2"]


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """Twenty 8 x 8 pictures of a disc of some colour on white."""
    folder, rng = tmp_path_factory.mktemp("a folder of faces"), np.random.default_rng(0)
    rows, columns = np.mgrid[:8, :8] - 3.5
    for i in range(20):
        picture = np.full((8, 8, 3), 255, np.uint8)
        picture[rows**2 + columns**2 < 9 + 4 * rng.random()] = rng.integers(30, 220, 3)
        write_png(folder / f"{i:02d}.png", picture)
    return folder


def brief(faces: Path, root: Path, name: str, **options) -> list[str]:
    return [*flags({**BRIEF, "data_root": faces, "logging_root": root / "runs", "name": name, **options}), *STAGES]


end_of = partial(runs.end_of, step=12)


@pytest.fixture(scope="session")
def straight(faces, tmp_path_factory) -> Path:
    """A run of twelve steps over two stages, never stopped."""
    root = tmp_path_factory.mktemp("straight")
    done = programs.run(root / "elsewhere", TRAIN, *brief(faces, root, "straight"))
    assert done.code == 0 and "Traceback" not in done.err, done.err
    return root / "runs" / "straight"


# --- however it is stopped ----------------------------------------------------------------------------------------------------------------

def test_stages_and_losses_are_logged(straight):
    lines = [json.loads(line) for line in (straight / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [6 * n for n in range(1, 6)] + [30 + 4 * n for n in range(1, 8)]
    assert all({"D/adversarial", "D/r1", "D/identity", "G/adversarial", "G/identity", "G/normal", "G/opacity"} <= line.keys() for line in lines)


@pytest.mark.parametrize("until", [2, 4, 6, 10])               # within each stage, and on both sides of the change
def test_a_run_that_went_on_ends_the_same(faces, straight, tmp_path, until):
    assert programs.run(tmp_path, TRAIN, *brief(faces, tmp_path, "run", max_steps=until)).code == 0
    assert programs.run(tmp_path, TRAIN, *brief(faces, tmp_path, "run")).code == 0
    assert same(end_of(tmp_path / "runs" / "run"), end_of(straight))


def test_killed_and_preempted_it_ends_the_same(faces, straight, tmp_path):
    """SIGKILL after one checkpoint, SIGTERM after another; the same command each time."""
    run, command = tmp_path / "runs" / "run", brief(faces, tmp_path, "run")
    saved = lambda step: (run / "checkpoints" / f"step_{step:08d}.pt").exists()
    for step, how in ((2, signal.SIGKILL), (6, signal.SIGTERM)):
        program = programs.start(tmp_path / how.name, TRAIN, *command)
        programs.wait_for(lambda step=step: saved(step))
        os.kill(program.process.pid, how)
        done = program.wait()
    assert done.code == 75 and re.search(r"\npreempted: SIGTERM at step \d+; saved in .*run", done.err), done
    assert programs.run(tmp_path, TRAIN, *command).code == 0
    assert same(end_of(run), end_of(straight))


def test_two_ranks_equal_one(faces, tmp_path):
    """What is of each part alone is off: top-k, and the normals' mean over the rays that hit."""
    alone, shared = (brief(faces, tmp_path, name, topk_v=1, normal_lambda=0, max_steps=8) for name in ("alone", "shared"))
    assert programs.run(tmp_path, TRAIN, *alone).code == 0
    assert [program.wait().code for program in programs.ranks(tmp_path, 2, TRAIN, *shared)] == [0, 0]
    one, two = (end_of(tmp_path / "runs" / name, step=8) for name in ("alone", "shared"))
    for role in ("generator", "discriminator", "ema"):
        for key, value in one[role].items():
            torch.testing.assert_close(torch.as_tensor(two[role][key]), torch.as_tensor(value), atol=2e-4, rtol=1e-3)
    first = lambda name: json.loads((tmp_path / "runs" / name / "log.jsonl").read_text().splitlines()[0])
    assert first("alone")["G/adversarial"] == pytest.approx(first("shared")["G/adversarial"], rel=1e-5)


def test_parts_of_a_batch_average(faces, tmp_path):
    """One step in one part and in three: equal gradients, hence equal updates; as released they add up, which clipping alone bounds."""
    after = {}
    for name, split, options in (("whole", "1", {}), ("split", "3", {}), ("released", "3", {"published_batch_split": True})):
        command = brief(faces, tmp_path, name, max_steps=1, topk_v=1, normal_lambda=0, grad_clip=1e9, **options)
        command = command[:-len(STAGES)] + ["--stage_starts", "0", "--img_size", "4", "--batch_size", "6", "--batch_split", split]
        command += ["--gen_lr", "1e-3", "--disc_lr", "1e-3"]
        assert programs.run(tmp_path, TRAIN, *command).code == 0
        moments = end_of(tmp_path / "runs" / name, step=1)["optimizer_G"]["state"]
        after[name] = torch.cat([moments[i]["exp_avg"].flatten() for i in moments])
    torch.testing.assert_close(after["split"], after["whole"], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(after["released"], 3 * after["whole"], atol=1e-6, rtol=1e-3)


# --- where it begins ----------------------------------------------------------------------------------------------------------------------

def test_a_ball_to_begin_with(faces, tmp_path):
    command = brief(faces, tmp_path, "ball", ball_steps=300, smooth=0.6, max_steps=1, hidden_dim=32)
    assert programs.run(tmp_path, TRAIN, *command, "--gen_lr", "0", "0").code == 0
    generator = load(tmp_path / "runs" / "ball")
    scene = generator.scene(generator.codes(generator.latents([0, 1])))
    points = (torch.rand(2, 2000, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.24
    with torch.no_grad():
        inside = generator.siren.density(scene, points)[..., 0] > 0
    assert (inside == (points.norm(dim=-1) < 0.07)).float().mean() > 0.93


def test_it_starts_from_another_run(faces, straight, tmp_path):
    command = brief(faces, tmp_path, "again", load_dir=straight, set_step=5, max_steps=6)
    assert programs.run(tmp_path, TRAIN, *command, "--gen_lr", "0", "0").code == 0
    again, before = end_of(tmp_path / "runs" / "again", step=6), end_of(straight)
    assert same(again["generator"], before["generator"])
    assert again["optimizer_G"]["state"][0]["step"] == before["optimizer_G"]["state"][0]["step"] + 1
    line = json.loads((tmp_path / "runs" / "again" / "log.jsonl").read_text().splitlines()[0])
    assert (line["step"], line["images"]) == (6, 34)             # five steps of six pictures, one of four


def test_it_starts_from_the_authors_files(faces, straight, tmp_path):
    """Their state dicts, without optimisers."""
    theirs, state = tmp_path / "early", end_of(straight)
    theirs.mkdir()
    torch.save(state["generator"], theirs / "generator.pth")
    torch.save(state["discriminator"], theirs / "discriminator.pth")
    assert programs.run(tmp_path, TRAIN, *brief(faces, tmp_path, "early run", load_dir=theirs, set_step=5, max_steps=6), "--gen_lr", "0", "0").code == 0
    assert same(end_of(tmp_path / "runs" / "early run", step=6)["generator"], state["generator"])


def test_published_arguments(faces, tmp_path):
    """The release's own flags, where they mean something here."""
    command = ["--curriculum", programs.ROOT / "configs" / "gof" / "tiny.yml", "--output_dir", tmp_path / "output" / "BFM", "--load_dict", "--data_root", faces]
    small = [flag for flag in brief(faces, tmp_path, "x", max_steps=1) if not re.match("--(config_filepath|name|logging_root|data_root)", flag)]
    done = programs.run(tmp_path, TRAIN, *command, *small)
    assert done.code == 0 and (tmp_path / "output" / "BFM" / "checkpoints" / "step_00000001.pt").exists(), done
    programs.refused(programs.run(tmp_path, TRAIN, "--curriculum", "FFHQ"), "--curriculum FFHQ", "celeba")


def test_pigan_trains_too(faces, tmp_path):
    options = {"pred_occ": False, "surface_sample": False, "normal_lambda": 0, "discriminator": "StridedDiscriminator", "pos_lambda": 0, "white_back": True,
               "model": "TALLSIREN", "fov": 30, "ray_start": 0.7, "ray_end": 1.3, "sample_dist": "spherical_uniform", "published": True, "max_steps": 6}
    done = programs.run(tmp_path, TRAIN, *brief(faces, tmp_path, "pigan", **options), "--num_steps", "3", "4")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "runs" / "pigan" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(list(line.values())).all() for line in lines) and "G/opacity" not in lines[0]


# --- what it refuses ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, words", [
    ({"pos_lambda": 15, "discriminator": "StridedDiscriminator"}, ["--pos_lambda", "StridedDiscriminator"]),
    ({"surface_sample": False}, ["--normal_lambda", "--surface_sample"]),
    ({"set_step": 5}, ["--set_step 5", "--load_dir"]),
    ({"discriminator": "StridedDiscriminato"}, ["--discriminator", "did you mean StridedDiscriminator"]),
    ({"transform": "bfm"}, ["170x170"]),
    ({"load_dir": "/nowhere"}, ["/nowhere"]),
    ({"data_root": "/nowhere"}, ["/nowhere"]),
])
def test_options_that_cannot_be(faces, tmp_path, options, words):
    programs.refused(programs.run(tmp_path, TRAIN, *brief(faces, tmp_path, "run", **options)), *words)
    assert not (tmp_path / "runs").exists()


def test_bad_pictures(faces, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    programs.refused(programs.run(tmp_path, TRAIN, *brief(own, tmp_path, "run")), own)
    (own / "a.png").write_bytes((faces / "00.png").read_bytes()[:40])
    programs.refused(programs.run(tmp_path, TRAIN, *brief(own, tmp_path, "run")), own / "a.png")


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(faces, tmp_path):
    command = brief(faces, tmp_path, "run", max_steps=4)
    assert programs.run(tmp_path, TRAIN, *command).code == 0
    path = tmp_path / "runs" / "run" / "checkpoints" / "step_00000004.pt"
    state = checkpoint.load(path)
    state["state"]["generator"]["siren.final_layer.bias"] += float("nan")
    checkpoint.save(path, state)
    done = programs.run(tmp_path, TRAIN, *brief(faces, tmp_path, "run"))
    assert done.code == 3 and "not finite at step 5" in done.err, done
    assert checkpoint.newest(path.parent) == path
