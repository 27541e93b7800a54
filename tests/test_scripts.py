"""Every program answers --help at once, and refuses each broken file or wrong option in one line: exit code 2, nothing run, nothing left behind."""
from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.images import write_png
from tests import ellipsoids, programs
from tests.conftest import TINY, flags

ROOT = programs.ROOT
MAIN = 'if __name__ == "__main__":'
SCRIPTS = sorted(path.relative_to(ROOT) for top in ("sof", "scripts") for path in (ROOT / top).glob("*.py") if MAIN in path.read_text())
TRAIN, EVAL, RENDER = "sof/train.py", "sof/eval.py", "sof/render.py"


# --- help -------------------------------------------------------------------------------------------------------------------------------

ASK = """
import json, os, runpy, sys, torch
for script in sys.argv[1:]:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.path.basename(script) + ".txt", os.O_WRONLY | os.O_CREAT), 1)
        sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as leaving:
            sys.stdout.flush()
            os._exit(leaving.code or 0)
        os._exit(99)
    _, status, usage = os.wait4(child, 0)
    print(json.dumps([script, status, usage.ru_utime + usage.ru_stime]))
"""


def test_help_comes_at_once(tmp_path):
    """Within 1.5 s of `import torch` alone: each script forks off where torch is imported. Processor seconds, which other work does not stretch."""
    assert len(SCRIPTS) >= 7 and Path(TRAIN) in SCRIPTS
    done = subprocess.run([sys.executable, "-c", ASK, *(str(ROOT / script) for script in SCRIPTS)], cwd=tmp_path, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(SCRIPTS) and not any(status for _, status, _ in answers), done.stderr
    assert not [(script, seconds) for script, _, seconds in answers if seconds > 1.5]
    for script in SCRIPTS:
        assert (tmp_path / f"{script.name}.txt").read_text().startswith(f"usage: {script.name}")


def test_a_real_process_from_another_folder(tmp_path):
    done = subprocess.run([sys.executable, ROOT / TRAIN, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and not done.stderr and not list(tmp_path.iterdir())
    assert "--sample_observations_train" in done.stdout and "(default: 5e-05)" in done.stdout


@pytest.mark.parametrize("script", [script for script in SCRIPTS if "run_commands(" in (ROOT / script).read_text()], ids=str)
def test_help_of_every_command(script, tmp_path):
    listing = programs.run(tmp_path, script, "--help")
    commands = re.findall(r"^  (\w+) ", listing.out, re.M)
    assert listing.code == 0 and commands
    for command in commands:
        done = programs.run(tmp_path, script, command, "--help")
        assert done.code == 0 and f"{script.name} {command}" in done.out and "--config_filepath" in done.out and not done.err, done
    programs.refused(programs.run(tmp_path, script, commands[0] + "x"), commands[0] + "x: no such command; did you mean")
    assert programs.run(tmp_path, script).code == 2


# --- data -------------------------------------------------------------------------------------------------------------------------------

class Hostile:
    """Would run a command where a pickle is trusted."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def holding(content: bytes):
    return lambda path: path.write_bytes(content)


def numbers(value):
    return lambda path: np.save(path, np.asarray(value))


def picture(array):
    return lambda path: write_png(path, np.asarray(array, np.uint8))


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def preview_alone(path: Path) -> None:
    path.rename(path.with_name("seg_vis_03.png"))


POSES, K = ellipsoids.poses(), ellipsoids.INTRINSIC
DAMAGE = {
    "cam2world.npy": [
        cut, Path.unlink, folder_instead, holding(b""), holding(b"text"), numbers(Hostile()), numbers({"other.png": POSES[0]}), numbers(POSES[:-1]),
        numbers(POSES * np.nan), numbers(POSES * 2), numbers(POSES * [[[-1], [1], [1], [1]]]), numbers(POSES[:, :3]), numbers(POSES.astype(str)),
    ],
    "intrinsic.npy": [cut, Path.unlink, holding(b"text"), numbers(Hostile()), numbers(K * 0), numbers(K + np.inf), numbers([K, K]), numbers(K[:2])],
    "seg_03.png": [
        cut, folder_instead, holding(b""), holding(b"text"), preview_alone, picture(np.full((16, 16), 20)), picture(np.arange(243).reshape(9, 9, 3)),
    ],
}


def train(folder: Path, heads: Path, **options) -> programs.Done:
    return programs.run(folder, TRAIN, *flags({**TINY, "max_steps": 2, "data_root": heads, "logging_root": folder / "runs", "name": "run", **options}))


@pytest.mark.parametrize("name", DAMAGE)
def test_broken_data(heads, tmp_path, name):
    for k, damage in enumerate(DAMAGE[name]):
        own = tmp_path / f"case {k}"
        shutil.copytree(heads / "00000", own / "00000")
        damage(own / "00000" / name)
        programs.refused(train(tmp_path, own), own / "00000" / name)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "hacked").exists()


def test_missing_data(heads, tmp_path):
    (tmp_path / "empty" / "00000").mkdir(parents=True)
    programs.refused(train(tmp_path, tmp_path / "empty"), tmp_path / "empty")
    programs.refused(train(tmp_path, tmp_path / "nowhere"), tmp_path / "nowhere")
    programs.refused(train(tmp_path, heads / "00000" / "cam2world.npy"), heads / "00000" / "cam2world.npy")
    programs.refused(train(tmp_path, heads, sample_observations_val="20-40"), "sample_observations", "20-40", "0-22")
    programs.refused(train(tmp_path, heads, sample_instances_train="0,x"), "sample_instances", "'0,x'")
    programs.refused(train(tmp_path, heads, out_channels=8), "--out_channels 8", heads, "18")
    programs.refused(train(tmp_path, heads, label_encoding="times10"), heads, "multiples of 10")
    assert not (tmp_path / "runs").exists()


# --- options ----------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("option, words", [
    ("--feat_dm=3", ("--feat_dm", "did you mean --feat_dim?")),
    ("--feat_dim=0", ("--feat_dim", "1 or more")),
    ("--marcher_layers=-2", ("--marcher_layers", "0 or more")),
    ("--lr=fast", ("--lr", "finite number", "'fast'")),
    ("--class_balance=3", ("--class_balance", "0 to 1")),
    ("--device=gpu", ("--device", "'gpu'")),
    ("--device=cuda:99", ("--device", "cuda:99")),
    ("--output_sidelength=32", ("--output_sidelength 32",)),
    ("--name=", ("--name",)),
    ("--batch_size=2", ("--batch_size", "--accumulate")),
    ("--checkpoint_path=nowhere", ("nowhere",)),
    ("--logging_root={heads}/00000/seg_00.png", ("seg_00.png",)),
    ("--config_filepath=nowhere.yml", ("nowhere.yml",)),
    ("--config_filepath={heads}", ("three heads",)),
    ("--config_filepath={own}/a.yml", ("a.yml", "lrr", "did you mean lr?")),
    ("--config_filepath={own}/b.yml", ("b.yml",)),
    ("--config_filepath={own}/c.yml", ("c.yml",)),
    ("--config_filepath={own}/d.yml", ("d.yml", "max_steps", "whole number")),
])
def test_wrong_options(heads, tmp_path, option, words):
    for name, text in {"a.yml": "lrr: 0.1", "b.yml": "lr: [0.1", "c.yml": "\x00\xff", "d.yml": "max_steps: many"}.items():
        (tmp_path / name).write_bytes(text.encode("latin1"))
    command = flags({**TINY, "max_steps": 2, "accumulate": 3, "data_root": heads, "logging_root": tmp_path / "runs", "name": "run"})
    programs.refused(programs.run(tmp_path, TRAIN, *command, option.format(heads=heads, own=tmp_path)), *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command, words", [
    (("views", "--instance", "7"), ("7", "0-2", "00000")),
    (("views", "--instance", "²"), ("²", "0-2")),
    (("views", "--side", "4"), ("--side", "8 or more")),
    (("views", "--path", "helix"), ("--path", "sphere")),
    (("views", "--path", "azimuths", "--azimuths"), ("--azimuths",)),
    (("views", "--path", "spiral", "--count", "1"), ("--count 1", "spiral")),
    (("views", "--out", "{heads}/00000/seg_00.png/x"), ("seg_00.png",)),
    (("slices", "--near", "3", "--far", "2"), ("--near 3",)),
    (("mesh", "--palette", "gray"), ("--palette", "training")),
])
def test_wrong_options_of_render(trained, heads, tmp_path, command, words):
    given = [word.format(heads=heads) for word in command]
    done = programs.run(tmp_path, RENDER, given[0], "--checkpoint", trained.folder, "--device", "cpu", "--side", "8", "--out", tmp_path / "out", *given[1:])
    programs.refused(done, *words)
    assert not (tmp_path / "out").exists()


# --- checkpoints and what stands beside them --------------------------------------------------------------------------------------------

def last(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def hostile(path: Path) -> None:
    torch.save({"model": Hostile()}, path)


def other(path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, path)


CHECKPOINTS = {"cut": cut, "empty": holding(b""), "text": holding(b"text"), "hostile": hostile, "of another network": other, "gone": Path.unlink}


@pytest.mark.parametrize("damage", CHECKPOINTS)
@pytest.mark.parametrize("script", [EVAL, RENDER, TRAIN])
def test_broken_checkpoints(trained, heads, tmp_path, damage, script):
    path = tmp_path / "a file.pth"
    shutil.copy(last(trained.folder), path)
    CHECKPOINTS[damage](path)
    if script == TRAIN:
        done = train(tmp_path, heads, checkpoint_path=path)
    else:
        command = {EVAL: (), RENDER: ("views", "--out", "out")}[script]
        done = programs.run(tmp_path, script, *command, "--checkpoint", path, "--device", "cpu")
    programs.refused(done, path)
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, "stdout", "stderr"}


def copied(trained, tmp_path: Path) -> Path:
    """The run with its newest checkpoint alone."""
    run = tmp_path / "a run"
    shutil.copytree(trained.folder, run, ignore=shutil.ignore_patterns("events*", "eval", "pictures"))
    return run


def test_broken_runs(trained, heads, tmp_path):
    """A folder without a whole checkpoint; indexing.txt that is no list of heads, or of other heads; more heads than the model knows."""
    run = copied(trained, tmp_path)
    evaluate = lambda *more: programs.run(tmp_path, EVAL, "--checkpoint", run, "--device", "cpu", *more)
    for content in (b"\xff\xfe\x00", b"", b"00000\n00000\n00001\n"):
        (run / "indexing.txt").write_bytes(content)
        programs.refused(evaluate(), run / "indexing.txt")
        programs.refused(programs.run(tmp_path, RENDER, "views", "--checkpoint", run, "--out", "out", "--device", "cpu"), run / "indexing.txt")
    (run / "indexing.txt").write_text("00000\n00002\n")
    programs.refused(evaluate(), heads / "00001", "not one of the 2 heads")
    (run / "indexing.txt").write_text("a\nb\nc\nd\n00000\n00001\n00002\n")
    programs.refused(evaluate(), heads / "0000", "knows 3")
    programs.refused(programs.run(tmp_path, RENDER, "views", "--checkpoint", run, "--out", "out", "--instance", "00002", "--device", "cpu"), "0-2")
    (run / "indexing.txt").unlink()
    for head in range(4):
        shutil.copytree(heads / "00000", tmp_path / "four" / f"{head:05d}")
    programs.refused(evaluate("--data_root", tmp_path / "four"), tmp_path / "four" / "00003", "knows 3")
    for path in (run / "checkpoints").iterdir():
        cut(path)
    done = evaluate()
    assert done.code == 2 and done.err.splitlines()[-1].startswith(f"error: {run}: no valid checkpoint") and "Traceback" not in done.err
    assert not (run / "eval").exists()


def test_a_run_goes_on_with_its_own_heads_and_options(trained, heads, tmp_path):
    """Rows of the embedding keep their heads: another folder in the place of one is refused, and so is another learning rate."""
    run = copied(trained, tmp_path)
    command = {**TINY, "max_steps": 252, "logging_root": tmp_path, "name": run.name}
    programs.refused(programs.run(tmp_path, TRAIN, *flags({**command, "data_root": heads, "lr": 1e-4})), run, "--lr was 0.005, now 0.0001")
    for head in ("00000", "00001", "00003"):
        shutil.copytree(heads / "00002", tmp_path / "own heads" / head)
    done = programs.run(tmp_path, TRAIN, *flags({**command, "data_root": tmp_path / "own heads"}))
    programs.refused(done, tmp_path / "own heads" / "00003", "not one of the 3 heads")
    assert (run / "indexing.txt").read_text() == "00000\n00001\n00002\n"
    done = programs.run(tmp_path, TRAIN, *flags({**command, "data_root": heads}))
    assert done.code == 0 and (run / "checkpoints" / "step_00000252.pt").exists(), done.err


def test_a_full_disk(heads, tmp_path):
    """No file may grow beyond 40 kB: the checkpoint cannot be written, the program says so in one line, and no half of it is left."""
    program = programs.start(tmp_path, TRAIN, *flags({**TINY, "max_steps": 2, "data_root": heads, "logging_root": tmp_path / "runs", "name": "run"}))
    resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (40_000, 40_000))
    done = program.wait()
    lines = [line for line in done.err.splitlines() if line and "it/s" not in line]                # apart from the progress bar
    assert done.code == 2 and len(lines) == 1 and "step_00000002.pt" in lines[0] and "File too large" in lines[0], done
    assert not list((tmp_path / "runs" / "run" / "checkpoints").iterdir())
