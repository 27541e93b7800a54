"""op3d/train.py as a user runs it: the same end however it was stopped, two ranks, other starts, what it refuses."""
from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoint
from common.images import encode_png, write_eg3d_zip
from op3d.cameras import eg3d_cameras
from op3d.files import load
from op3d.train import average
from tests import programs, runs
from tests.conftest import flags
from tests.runs import same

TRAIN = "op3d/train.py"
BRIEF = {"config_filepath": programs.ROOT / "configs" / "op3d" / "tiny.yml", "device": "cpu", "plane_side": 8, "cmax": 4, "z_dim": 4, "w_dim": 8,
         "img_resolution": 8, "neural_rendering_resolution_initial": 8, "depth_resolution": 4, "depth_resolution_importance": 4, "batch_size": 4,
         "mbstd_group": 2, "d_reg_every": 3, "density_reg_every": 2, "max_steps": 6, "steps_til_ckpt": 2, "keep_ckpts": 20, "pictures_every": 12,
         "log_every": 1}


@pytest.fixture(scope="session")
def discs(tmp_path_factory) -> Path:
    """Twelve 8 x 8 pictures of a disc that moves as the camera turns."""
    path, azimuths = tmp_path_factory.mktemp("a folder") / "discs.zip", torch.linspace(1.2, 1.9, 12)
    rows, columns = np.mgrid[:8, :8] - 3.5
    pictures = [np.where(((columns - 3 * (h - 1.55)) ** 2 + rows**2 < 6)[..., None], [200, 120, 60], 20).astype(np.uint8) for h in azimuths.numpy()]
    cameras = eg3d_cameras(azimuths, torch.full((12,), 1.5), (0, 0, 0.2), 2.7)
    write_eg3d_zip(path, ((f"{i:02d}.png", encode_png(picture)) for i, picture in enumerate(pictures)), cameras)
    return path


def brief(discs: Path, root: Path, name: str, **options) -> list[str]:
    return flags({**BRIEF, "data": discs, "logging_root": root / "runs", "name": name, **options})


end_of = partial(runs.end_of, step=6)


@pytest.fixture(scope="session")
def straight(discs, tmp_path_factory) -> Path:
    """A run of six steps, never stopped, with augmentation by a probability that moves."""
    root = tmp_path_factory.mktemp("straight")
    done = programs.run(root / "elsewhere", TRAIN, *brief(discs, root, "straight"))
    assert done.code == 0 and "Traceback" not in done.err, done.err
    return root / "runs" / "straight"


def test_every_phase_has_its_turn(straight):
    lines = [json.loads(line) for line in (straight / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "G/loss" in line]
    assert [line["images"] for line in losses] == [4 * n for n in range(1, 7)]
    assert ["G/density" in line for line in losses] == [True, False] * 3 and ["D/reg" in line for line in losses] == [True, False, False] * 2
    assert len(list((straight / "pictures").glob("samples_*.png"))) == 2
    assert end_of(straight)["ada"]["batches"] == 2                             # since the probability moved, after four


def test_a_stopped_run_ends_as_one_never_stopped(discs, straight, tmp_path):
    args = brief(discs, tmp_path, "stopped")
    program = programs.start(tmp_path / "first", TRAIN, *args)
    programs.wait_for(lambda: checkpoint.numbered(tmp_path / "runs" / "stopped" / "checkpoints"))
    program.process.kill()
    program.wait()
    done = programs.run(tmp_path / "second", TRAIN, *args)
    assert done.code == 0, done.err
    assert same(end_of(tmp_path / "runs" / "stopped"), end_of(straight))


def test_a_preempted_run_says_so(discs, straight, tmp_path):
    args = brief(discs, tmp_path, "preempted", max_steps=5000)
    program = programs.start(tmp_path / "first", TRAIN, *args)
    programs.wait_for(lambda: checkpoint.numbered(tmp_path / "runs" / "preempted" / "checkpoints"))
    program.process.terminate()                                                # SIGTERM
    assert program.wait().code == 75


def test_two_ranks_share_a_batch(discs, straight, tmp_path):
    """The minibatch statistics see what one rank has, so two ranks equal one that computes in two parts."""
    alone = programs.run(tmp_path / "alone", TRAIN, *brief(discs, tmp_path, "alone", accumulate=2, max_steps=3))
    assert alone.code == 0, alone.err
    for program in programs.ranks(tmp_path / "both", 2, TRAIN, *brief(discs, tmp_path, "both", max_steps=3)):
        assert program.wait().code == 0
    one, two = (checkpoint.load(tmp_path / "runs" / name / "checkpoints" / "step_00000003.pt")["state"]["generator"] for name in ("alone", "both"))
    for name in one:
        if not name.endswith("w_avg"):                                         # moves once a part
            torch.testing.assert_close(one[name], two[name], atol=2e-4, rtol=1e-3, msg=name)


def test_the_averaged_weights_are_loaded_and_start_another(discs, straight, tmp_path):
    generator, state = load(straight), end_of(straight)
    assert same(dict(generator.state_dict()), state["generator_ema"]) and generator.config.neural_rendering_resolution == 8
    done = programs.run(tmp_path / "again", TRAIN, *brief(discs, tmp_path, "again", resume=straight, max_steps=2, glr=0, dlr=0))
    assert done.code == 0, done.err
    again = end_of(tmp_path / "runs" / "again", step=2)
    assert all(torch.equal(again["generator"][name], value) for name, value in state["generator"].items() if not name.endswith("w_avg"))


def test_refusals(discs, tmp_path):
    refused = lambda *words, **options: programs.refused(programs.run(tmp_path / "x", TRAIN, *brief(discs, tmp_path, "x", **options)), *words)
    refused("--img_resolution 16", "8 pixels", img_resolution=16, neural_rendering_resolution_initial=16)
    refused("--sr_module none", neural_rendering_resolution_initial=4)
    refused("--betas", betas=0.5)
    refused("no such checkpoint", resume=tmp_path / "nowhere.pkl")
    assert not (tmp_path / "runs").exists()


def test_the_average_forgets_half_in_a_life():
    one, other = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(one.weight)
    torch.nn.init.ones_(other.weight)
    for _ in range(10):
        average(one, other, 0.5 ** (1 / 10))
    assert one.weight.item() == pytest.approx(0.5)
