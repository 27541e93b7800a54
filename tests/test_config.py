"""common.config: flags, YAML and defaults of one dataclass, and the line that each mistake gets."""
from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
import yaml

from common import config
from common.config import option
from common.errors import InputError


@dataclass
class Base:
    name: str = option("", "name of the run")
    lr: float = option(5e-5, "learning rate")


@dataclass
class Config(Base):
    max_steps: int = option(200, "optimiser steps, 100 % of them", low=1)
    opt_cam: bool = option(False, "estimate the cameras too")
    precision: str = option("fp32", "matrix products", choices=("fp32", "tf32"))
    views: list[int] | None = option(None, "views; none for all")
    metrics: list[str] = option(["miou"], "what to measure", short="-m")
    reset: int | None = option(None, "step of the reset")


@dataclass
class Convert(Base):
    method: str = option(..., "method", positional=True, choices=("sof", "gof"))
    source: str = option(..., "file to read", positional=True)
    out: str = option("out", "file to write", positional=True)


def parsed(tmp_path, text: str, *argv: str) -> Config:
    path = tmp_path / "face_seg.yml"
    path.write_text(text)
    return config.parse(Config, ["-c", str(path), *argv])


def test_flags_beat_yaml_beats_defaults(tmp_path):
    text = "lr: 1e-3\nopt_cam: on\nviews: [-1, 3]\nmetrics: []\nreset:\nprecision: tf32\n"
    assert parsed(tmp_path, text) == Config(name="face_seg", lr=1e-3, opt_cam=True, views=[-1, 3], metrics=[], precision="tf32")
    given = parsed(tmp_path, text, "--lr", "2", "--opt_cam", "False", "--views", "None", "-m", "a", "b", "--name=-x", "--reset=7")
    assert given == Config(name="-x", lr=2.0, opt_cam=False, views=None, metrics=["a", "b"], reset=7, precision="tf32")
    assert config.parse(Config, []) == Config() and config.parse(Config, ["--opt_cam"]).opt_cam


def test_yaml_scalars_are_what_is_written(tmp_path):
    assert parsed(tmp_path, "name: no").name == "no" and parsed(tmp_path, "name: 007").name == "007"
    assert parsed(tmp_path, "lr: 5e-5").lr == 5e-5 and parsed(tmp_path, "opt_cam: 0").opt_cam is False
    assert parsed(tmp_path, "views: 4").views == [4] and parsed(tmp_path, "views: ~").views is None
    assert parsed(tmp_path, "").lr == 5e-5


@pytest.mark.parametrize("changed", [
    {},
    {"lr": 1e-30, "name": "ä: 'x' #\n yes", "views": [], "reset": 0},
    {"opt_cam": True, "metrics": ["-m", "1", "null"], "views": [1, 2]},
])
def test_saved_config_is_the_config(tmp_path, changed):
    config.save(Config(**changed), tmp_path / "run" / "config.yml")
    assert config.load(Config, tmp_path / "run" / "config.yml") == Config(**changed)
    assert yaml.safe_load((tmp_path / "run" / "config.yml").read_text())["max_steps"] == 200
    assert config.from_dict(Config, vars(Config(**changed)), "checkpoint") == Config(**changed)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yml"]


def test_saved_config_is_accepted_as_config_file(tmp_path):
    config.save(Config(name="a", views=[-1], reset=3, opt_cam=True), tmp_path / "config.yml")
    assert config.parse(Config, ["-c", str(tmp_path / "config.yml")]) == Config(name="a", views=[-1], reset=3, opt_cam=True)


@pytest.mark.parametrize("text, words", [
    ("lrr: 1", "lrr: no such option; did you mean lr?"),
    ("config_filepath: x.yml", "config_filepath: no such option"),
    ("lr: fast", "lr: expected a finite number, got 'fast'"),
    ("lr: nan", "lr: expected a finite number"),
    ("lr: [1]", "lr: expected a finite number, not a list"),
    ("max_steps: 1.5", "max_steps: expected a whole number, got '1.5'"),
    ("max_steps: 0", "max_steps: expected 1 or more, got '0'"),
    ("opt_cam: maybe", "opt_cam: expected true or false"),
    ("precision: bf16", "precision: expected one of fp32, tf32"),
    ("reset: x", "reset: expected a whole number or none"),
    ("views: [1, x]", "views: expected a whole number"),
    ("views: [[1]]", "views: expected a list of a whole number"),
    ("lr: {a: 1}", "lr: expected a finite number, not keys and values"),
    ("lr: 1\nlr: 2", "'lr' stands there twice"),
    ("- lr", "expected lines of 'key: value'"),
    ("lr: [", "not a YAML file"),
    ("? [a, b]\n: 1", "not a YAML file"),
    ("lr: !!python/object/apply:os.system [ls]", "lr: expected a finite number"),
    ("[" * 1000, "not a YAML file"),
])
def test_yaml_mistakes_name_the_file_and_key(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        parsed(tmp_path, text)
    assert "face_seg.yml" in str(caught.value) and words in str(caught.value)
    with pytest.raises(InputError, match=r"face_seg\.yml"):
        config.load(Config, tmp_path / "face_seg.yml")


@pytest.mark.parametrize("argv, words", [
    (["--lrr", "1"], "--lrr: no such option; did you mean --lr?"),
    (["--max", "1"], "--max: no such option"),
    (["stray"], "stray: no such option"),
    (["--lr", "x"], "--lr: expected a finite number, got 'x'"),
    (["--lr"], "--lr: expected one argument"),
    (["--precision", "fp3"], "--precision: expected one of fp32, tf32, got 'fp3'; did you mean fp32?"),
    (["-c", "/nowhere/a.yml"], "/nowhere/a.yml"),
    (["-c", "/"], "/"),
])
def test_flag_mistakes_name_the_flag(argv, words):
    with pytest.raises(InputError) as caught:
        config.parse(Config, argv)
    assert words in str(caught.value)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "a.yml").write_bytes(b"\xff\xfe\x00lr")
    for path in (tmp_path / "a.yml", tmp_path / "missing.yml", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            config.load(Config, path)


def test_positionals():
    assert config.parse(Convert, ["gof", "a.pth", "--lr", "1"]) == Convert(method="gof", source="a.pth", lr=1.0)
    assert config.parse(Convert, ["sof", "a", "b"]).out == "b"
    for argv, words in ((["gof"], "SOURCE"), (["pof", "a"], "METHOD: expected one of sof, gof"), (["gof", "a", "b", "c"], "c: no such option")):
        with pytest.raises(InputError, match=words):
            config.parse(Convert, argv)


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        config.parse(Config, ["--help"], "Train it.")
    text = " ".join(capsys.readouterr().out.split())
    assert "Train it." in text and "--precision {fp32,tf32}" in text and "--name STR name of the run (default: empty)" in text
    assert "--max_steps INT optimiser steps, 100 % of them (default: 200)" in text


PROGRAM = """
import sys
from dataclasses import dataclass
from common.config import option, run_commands, run_program
@dataclass
class Config:
    count: int = option(1, "how many")
def heads(config):
    "Makes heads."
    print("heads", config.count)
run_commands({"heads": (heads, Config)}, "Make people.") if sys.argv[1] == "-" and sys.argv.pop(1) else run_program(heads, Config, "Heads.")
"""


@pytest.mark.parametrize("argv, code, words", [
    (["--count", "3"], 0, "heads 3"),
    (["--count", "x"], 2, "error: --count: expected a whole number, got 'x'"),
    (["-", "heads", "--count", "4"], 0, "heads 4"),
    (["-", "head"], 2, "error: head: no such command; did you mean heads?"),
    (["-", "--help"], 0, "heads Makes heads."),
    (["-", "heads", "--help"], 0, "how many (default: 1)"),
    (["-"], 2, "Make people."),
])
def test_programs_as_a_user_runs_them(argv, code, words):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == code and words in " ".join((done.stdout + done.stderr).split())
    assert "torch" not in done.stderr and (code != 2 or done.stderr.count("\n") <= 1)


def test_parsing_needs_no_torch():
    subprocess.run([sys.executable, "-c", "import sys, common.config; assert not {'torch', 'numpy'} & set(sys.modules)"], check=True, timeout=60)
