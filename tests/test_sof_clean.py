"""Views taken out of a data set and put back: what is read afterwards, and that no view gets another's camera."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.images import read_picture
from sof import data
from sof.clean import ROWS, TILE, CleanConfig, clean
from tests import ellipsoids, programs


@pytest.fixture
def copy(heads, tmp_path) -> Path:
    """Three heads of 23 views, without previews; zRange.npy besides."""
    root = Path(shutil.copytree(heads, tmp_path / "heads"))
    for folder in root.iterdir():
        np.save(folder / "zRange.npy", np.stack([[k, k + 1.0] for k in range(23)]))
    return root


def numbers(root: Path, head: str) -> list[int]:
    return [int(file.stem[4:]) for file in data.view_files(root / head)]


def test_views_go_and_come_back_with_their_own_cameras(copy, tmp_path):
    before = data.load(copy, ellipsoids.SIDE, orthographic=True)
    done = programs.run(tmp_path, "sof/preprocess.py", "clean", "--data_root", copy, "--out", "sheets", "--remove", "00001:0,3-5", "00002:22")
    assert done.code == 0 and not done.err and "64 of 69 views are in" in done.out, done
    after = data.load(copy, ellipsoids.SIDE, orthographic=True)
    kept = [k for k in range(69) if k not in (23, 26, 27, 28, 68)]
    assert torch.equal(after.labels, before.labels[kept]) and torch.equal(after.cameras.cam2world, before.cameras.cam2world[kept])
    assert numbers(copy, "00000") == list(range(23)) and not list((copy / "00000").glob("seg_vis*"))              # untouched
    assert data.read_z_range(copy / "00001", data.view_files(copy / "00001"))[:, 0].tolist() == [1, 2, *range(6, 23)]

    sheet = read_picture(tmp_path / "sheets" / "clean_000.png")
    tile = lambda row, column: sheet[row * (TILE + 2):, column * (TILE + 2):][:TILE, :TILE].astype(int)
    assert sheet.shape == (3 * (TILE + 2) - 2, 23 * (TILE + 2) - 2, 3) and len(copy.joinpath("00000").name) and ROWS >= 3
    assert 0 < tile(1, 3).max() <= tile(1, 2).max() / 4 + 1

    clean(CleanConfig(data_root=str(copy), restore=["00001:3-5,0", "00002:22"]))
    again = data.load(copy, ellipsoids.SIDE, orthographic=True)
    assert torch.equal(again.labels, before.labels) and torch.equal(again.cameras.cam2world, before.cameras.cam2world)
    clean(CleanConfig(data_root=str(copy), remove=["00001:7"]))                                                   # cameras go by name by now
    assert 7 not in numbers(copy, "00001") and len(data.load(copy, ellipsoids.SIDE, orthographic=True)) == 68


@pytest.mark.parametrize("remove, words", [
    ("00009:1", ["00009:1", "such as 00000"]),
    ("00001", ["00001", "HEAD:NUMBERS"]),
    ("00001:23", ["00001:23"]),
    ("00001:a", ["00001:a", "a-c"]),
    ("00001:0-22", ["00001", "no view would be left"]),
])
def test_what_cannot_be_taken_out(copy, remove, words):
    with pytest.raises(InputError) as refused:
        clean(CleanConfig(data_root=str(copy), remove=[remove]))
    assert all(word in str(refused.value) for word in words) and numbers(copy, "00001") == list(range(23))


def test_a_view_that_is_not_there(copy):
    (copy / "00001" / "seg_05.png").unlink()
    with pytest.raises(InputError, match="no view 5"):
        clean(CleanConfig(data_root=str(copy), remove=["00001:5"]))
    for path in (copy / "00002").glob("seg_*.png"):
        path.rename(path.with_name(path.name.removeprefix("seg_")))
    with pytest.raises(InputError, match="00002: no label maps"):
        clean(CleanConfig(data_root=str(copy), remove=["00002:1"]))
