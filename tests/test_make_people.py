"""The script as a user runs it: SOF's and EG3D's layouts, sharding, a kill in the middle, and bad flags."""
from __future__ import annotations

import glob
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.cameras import Cameras
from common.images import open_image_folder, read_depth, read_labels
from common.labels import TRAINING_PALETTE
from common.people import layouts
from common.people.heads import head_scene
from common.people.persons import person
from common.people.renderer import render
from scripts import make_people

SCRIPT = Path(make_people.__file__)
SMALL = {"count": 3, "views": 2, "resolution": 48, "rgb": False}


def make(out: Path, **options) -> Path:
    make_people.heads(make_people.HeadsConfig(out=str(out), **(SMALL | options)))
    return out


def run(*arguments, cwd) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


def contents(out: Path, but=("people.yml",)) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file() and path.name not in but}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("whole"), layout="both")


def test_sof_layout(whole):
    """What specs of SOF's training folder ask for, read back with the project's readers and compared with the renderer."""
    assert sorted(Path(path).name for path in glob.glob(f"{whole}/*/")) == ["00000", "00001", "00002"]
    place = whole / "00001"
    cam2world, intrinsic, ranges = (np.load(place / f"{name}.npy") for name in ("cam2world", "intrinsic", "zRange"))
    assert cam2world.shape == (2, 4, 4) and ranges.shape == (2, 2) and np.array_equal(intrinsic, [[13.5, 0, 24], [0, 13.5, 24], [0, 0, 1]])
    cameras, _ = layouts.sof_cameras(0, 1, 2, 48)
    truth = render(head_scene(person(0, 1)).transform(layouts.sof_similarity(), 0.0), cameras, 48, 48, ("labels", "z_depth"))
    assert np.array_equal(cam2world, cameras.cam2world.numpy())
    for v in range(2):
        labels = read_labels(place / f"seg_{v:02d}.png")
        assert np.array_equal(labels, truth["labels"][v]) and len(np.unique(labels)) >= 12
        assert np.array_equal(np.asarray(Image.open(place / f"seg_vis_{v:02d}.png")), TRAINING_PALETTE[labels])
        depth = read_depth(place / f"depth_{v:02d}.png", z_range=ranges[v])
        step = (ranges[v, 1] - ranges[v, 0]) / 255
        assert np.array_equal(depth > 0, labels > 0) and np.abs(depth - truth["z_depth"][v]).max() <= 0.51 * step
    calibration = np.load(place / "cameras.npy", allow_pickle=True).item()
    np.testing.assert_allclose(np.array(calibration["extrinsics"]) @ cam2world, np.broadcast_to(np.eye(4), (2, 4, 4)), atol=1e-5)
    assert np.array_equal(calibration["intrinsic"], intrinsic) and np.array_equal(calibration["zRange"], ranges)


def test_eg3d_zip(whole):
    folder = open_image_folder(whole / "eg3d.zip")
    assert len(folder.names) == 6 and folder.names == tuple(sorted(folder.names))
    with zipfile.ZipFile(whole / "eg3d.zip") as archive:
        rows = dict(json.loads(archive.read("dataset.json"))["labels"])
        picture = np.asarray(Image.open(io.BytesIO(archive.read("00002/view_01.png"))))
    assert picture.shape == (48, 48, 3) and set(rows) == set(folder.names)
    camera = layouts.eg3d_cameras(0, 2, 2).pick([1])
    np.testing.assert_allclose(rows["00002/view_01.png"], [*camera.cam2world.flatten(), *camera.intrinsics.flatten()], rtol=1e-6)
    truth = render(head_scene(person(0, 2)).transform(layouts.eg3d_similarity(), 0.0), Cameras(*vars(camera).values()), 48, 48, ("rgb",))
    assert np.array_equal(picture, truth["rgb"][0])


def test_contact_sheet(whole):
    assert Image.open(whole / "contact_sheet.png").size[0] > 48


def test_shards_make_the_same_files(whole, tmp_path):
    for shard in ("1/2", "0/2"):
        make(tmp_path, layout="both", shard=shard)
    assert contents(tmp_path) == contents(whole)


def test_splits_are_of_the_same_people(tmp_path):
    assert make_people.indices(3, "test") == [9, 19, 29] and make_people.indices(10, "train")[-1] == 10
    make(tmp_path, count=1, split="test")
    assert (tmp_path / "00009/seg_00.png").exists()


def test_a_finished_person_is_left_alone(whole, tmp_path):
    make(tmp_path, count=1)
    (tmp_path / "00000/seg_00.png").write_bytes(b"mine")
    make(tmp_path)
    assert (tmp_path / "00000/seg_00.png").read_bytes() == b"mine" and (tmp_path / "00002/seg_00.png").exists()


def test_goes_on_after_a_kill(whole, tmp_path):
    """Killed as soon as a person is there, run again: the same files as in one go, nothing half done left over."""
    arguments = ["heads", "--count", 3, "--views", 2, "--resolution", 48, "--rgb", False, "--layout", "both", "--out", tmp_path / "out"]
    process = subprocess.Popen([sys.executable, str(SCRIPT), *map(str, arguments)], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "out/00000").exists() and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "out/eg3d.zip").exists()
    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize("flags, word", [
    (["--shard", "2/2"], "--shard"), (["--count", "0"], "--count"), (["--split", "dev"], "--split"), (["--resolutoin", "64"], "--resolution"),
    (["--seed", "5"], "--seed"), (["--device", "abacus"], "--device")])
def test_bad_flags_are_one_line(whole, flags, word):
    before = contents(whole, but=())
    done = run("heads", "--out", whole, "--count", 3, "--views", 2, "--resolution", 48, "--rgb", False, *flags, cwd=whole)
    assert done.returncode == 2 and word in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert contents(whole, but=()) == before


def test_prepare_is_one_line(tmp_path):
    done = run("prepare", cwd=tmp_path)
    assert done.returncode == 0 and len(done.stdout.strip().splitlines()) == 1
