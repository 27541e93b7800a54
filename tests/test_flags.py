"""Every published flag is kept, renamed or dropped on purpose; the README's tables are made from these lists.

``python tests/test_flags.py sof`` prints a method's table for the README.
"""
from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (ROOT / "tests" / "flags").glob("*.txt"))


def rows(method: str) -> list[tuple[str, str, str]]:
    lines = (ROOT / "tests" / "flags" / f"{method}.txt").read_text().splitlines()
    return [tuple(part.strip() for part in line.split("|")) for line in lines if line.strip() and not line.startswith("#")]


def table(method: str) -> str:
    ours = lambda status: f"`--{status.removeprefix('renamed: ')}`" if status.startswith("renamed") else status
    lines = [f"| `--{flag}` | {ours(status)} | {note} |" for flag, status, note in rows(method)]
    return "\n".join(["| published flag | here | |", "|---|---|---|", *lines])


@pytest.mark.parametrize("method", METHODS)
def test_the_config_agrees(method):
    config = importlib.import_module(f"{method}.train").TrainConfig
    ours = {field.name for field in dataclasses.fields(config)} | {"config_filepath"}
    assert len({flag for flag, _, _ in rows(method)}) == len(rows(method))
    for flag, status, note in rows(method):
        if status == "kept":
            assert flag in ours, f"--{flag} is listed as kept"
        elif status == "dropped":
            assert flag not in ours and note, f"--{flag} is listed as dropped, which needs a reason"
        else:
            assert status.startswith("renamed: ") and status.removeprefix("renamed: ") in ours and flag not in ours, f"--{flag}: {status}"


@pytest.mark.parametrize("method", METHODS)
def test_the_readme_shows_the_table(method):
    assert table(method) in (ROOT / "README.md").read_text(), f"update it: python tests/test_flags.py {method}"


if __name__ == "__main__":
    print(table(sys.argv[1]))
