"""The original implementations' numbers: our own copy passes, and the runner lets nothing else pass."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.golden import __main__ as runner
from tests.golden import golden

HERE = Path(runner.__file__).parent


def test_every_case_passes(capsys):
    assert runner.main([]) == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    count = len(list(golden.cases(HERE)))
    assert count >= 11 and lines[-1] == f"{count} passed, 0 failed" and sum(line.startswith("ok ") for line in lines) == count


@pytest.fixture
def case(tmp_path) -> Path:
    """A folder with one case, which passes."""
    for suffix in (".json", ".npz"):
        shutil.copy(HERE / "sof" / f"camera_paths{suffix}", tmp_path)
        (tmp_path / f"camera_paths{suffix}").chmod(0o644)
    assert runner.main([str(tmp_path)]) == 0
    return tmp_path / "camera_paths.json"


def change(case: Path, **changes) -> None:
    case.write_text(json.dumps({**json.loads(case.read_text()), **changes}))


def fails(case: Path, capsys) -> None:
    capsys.readouterr()
    assert runner.main([str(case.parent)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed"


def test_an_unknown_kind_fails(case, capsys):
    change(case, kind="sof.unheard_of")
    fails(case, capsys)


def test_other_numbers_fail(case, capsys):
    arrays = dict(np.load(case.with_suffix(".npz")))
    name = next(name for name in arrays if name.startswith("out."))
    arrays[name] = arrays[name].copy()
    arrays[name].flat[-1] += 1e-3
    np.savez(case.with_suffix(".npz"), **arrays)
    fails(case, capsys)


def spoilt(damage) -> dict:
    """The adapters, one of whose results is damaged."""
    def adapter(config, params, inputs):
        return damage(runner_adapters["sof.camera_paths"](config, params, inputs))

    runner_adapters = runner.adapters()
    return {"sof.camera_paths": adapter}


def nan(array: np.ndarray) -> np.ndarray:
    array = np.array(array)
    array.flat[0] = np.nan
    return array


@pytest.mark.parametrize("damage", [
    lambda result: {name: nan(value) for name, value in result.items()},
    lambda result: {**result, "lookat": np.array(result["lookat"]) + np.inf},
    lambda result: {name: value for name, value in result.items() if name != "lookat"},
    lambda result: {**result, "lookat": np.array(result["lookat"])[:1]},
    lambda result: {**result, "lookat": np.array(result["lookat"])[..., None]},
    lambda result: result["no such thing"],
], ids=["NaN", "infinite", "missing", "shorter", "another axis", "an error"])
def test_what_an_adapter_gets_wrong_fails(case, damage, capsys, monkeypatch):
    known = spoilt(damage)
    monkeypatch.setattr(runner, "adapters", lambda: known)
    fails(case, capsys)


def test_nothing_run_is_a_failure(case, tmp_path):
    assert runner.main(["--kinds", "sof.render", str(case.parent)]) == 1
    (tmp_path / "empty").mkdir()
    assert runner.main([str(tmp_path / "empty")]) == 1
    assert runner.main(["--kinds", "sof.camera_paths", str(case.parent)]) == 0
