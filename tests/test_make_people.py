"""The script as a user runs it: SOF's, EG3D's and pi-GAN's layouts, sharding, a kill in the middle, and bad flags."""
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
import torch
from PIL import Image
from scipy.spatial import cKDTree

from common.cameras import Cameras, from_eg3d_label, pigan_angles, pigan_cam2world
from common.images import open_image_folder, read_depth, read_labels, read_picture
from common.labels import TRAINING_PALETTE
from common.people import layouts
from common.people.heads import head_scene
from common.people.persons import person
from common.people.renderer import BACKGROUND, render
from common.rays import camera_rays, pixel_grid
from scripts import make_people
from tests import programs

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


@pytest.fixture(scope="module")
def pigan(tmp_path_factory):
    return make(tmp_path_factory.mktemp("pigan"), layout="pigan", depth=True)


def test_pigan_zip(pigan):
    """Labels are pi-GAN's cameras; depth runs along their unit rays to the surface whose normals those are; white where nothing is."""
    folder = open_image_folder(pigan / "pigan.zip")
    cameras = from_eg3d_label(torch.from_numpy(folder.labels))
    assert folder.names == tuple(f"{i:05d}/view_{v:02d}.png" for i in range(3) for v in range(2))
    torch.testing.assert_close(cameras.cam2world, pigan_cam2world(pigan_angles(cameras.cam2world)))
    torch.testing.assert_close(cameras.cam2world[:, :3, 3].norm(dim=1), torch.ones(6))
    picture, truth = folder.read(5), np.load(io.BytesIO(folder.read_bytes(5, ".npz")))
    depth, normals = torch.from_numpy(truth["depth"]).flatten(), torch.from_numpy(truth["normals"]).flatten(0, 1).float()
    origins, directions = (x[0] for x in camera_rays(cameras.pick([5]), pixel_grid(48, 48)[None]))
    edges = directions.reshape(48, 48, 3)[[24, 24], [0, 47]]                  # corner-aligned: 12 degrees from the first pixel's centre to the last
    half = edges @ cameras.cam2world[5, :3, 2]
    assert torch.allclose(2 * torch.acos(half).rad2deg(), torch.tensor(12.0), atol=0.02)
    scene = head_scene(person(0, 2)).transform(layouts.pigan_similarity(), 0.0)
    points, seen = origins + depth[:, None] * directions, depth > 0
    closest = cKDTree(scene.vertices).query(points[seen])[0]
    assert 0.2 < seen.float().mean() < 0.8 and np.quantile(closest, 0.99) < 0.005
    assert torch.allclose(normals[seen].norm(dim=1), torch.tensor(1.0), atol=2e-3) and ((normals * directions).sum(1)[seen] < 0.1).float().mean() > 0.97
    far = ~torch.nn.functional.max_pool2d(seen.reshape(1, 48, 48).float(), 3, 1, 1)[0].bool()
    assert far.any() and (picture[far.numpy()] == 255).all() and (depth[~seen] == 0).all()


def test_pigan_cameras_are_gaussian_about_frontal():
    angles = torch.cat([pigan_angles(layouts.pigan_cameras(0, i, 40, 64, 0.3, 0.155).cam2world) for i in range(50)]) - torch.pi / 2
    assert angles.mean(0).abs().max() < 0.03
    torch.testing.assert_close(angles.std(0), torch.tensor([0.155, 0.3]), atol=0, rtol=0.06)
    assert (angles[:, 0] * angles[:, 1]).mean().abs() < 0.005
    one = layouts.pigan_cameras(0, 3, 40, 64, 0.0, 0.0).cam2world
    torch.testing.assert_close(pigan_angles(one), torch.full((40, 2), torch.pi / 2))


def test_the_layout_of_celebamask(tmp_path):
    """What Sem2NeRF reads: each view's labels, colours and camera, whatever the shards."""
    from sem2nerf.data import LAYOUTS, find
    from sem2nerf.labels import SOF_TO_CELEBA

    for shard in ("1/2", "0/2"):
        make(tmp_path, layout="sem2nerf", shard=shard)
    (tmp_path / "ids.txt").write_text("0\n5\n")
    first, last = find(tmp_path, LAYOUTS["people_seg_to_3dface"], "train", str(tmp_path / "ids.txt"))
    scene = head_scene(person(0, 2)).transform(layouts.pigan_similarity(), 0.0)
    cameras = layouts.pigan_cameras(0, 2, 2, 48, 0.3, 0.155).pick([1])
    truth = render(scene, cameras, 48, 48, ("labels", "rgb"), 3, background=(1.0, 1.0, 1.0))
    assert np.array_equal(read_picture(last.mask), SOF_TO_CELEBA[truth["labels"][0]]) and len(np.unique(truth["labels"])) >= 10
    assert np.abs(read_picture(last.picture).astype(int) - truth["rgb"][0]).max() <= 1
    torch.testing.assert_close(torch.tensor([last.angles], dtype=torch.float32), pigan_angles(cameras.cam2world), atol=1e-5, rtol=0)
    assert first.name == "0" and (tmp_path / "contact_sheet.png").exists()


def test_pigan_shards_make_the_same_files(pigan, tmp_path):
    for shard in ("1/2", "0/2"):
        make(tmp_path, layout="pigan", depth=True, shard=shard)
    assert contents(tmp_path) == contents(pigan)


def test_backgrounds(tmp_path):
    corners = {}
    for layout, background in (("eg3d", "white"), ("eg3d", None), ("pigan", "gray"), ("pigan", None)):
        out = make(tmp_path / f"{layout} {background}", layout=layout, background=background, count=1, views=1)
        corners[layout, background] = open_image_folder(out / f"{layout}.zip").read(0)[0, 0].tolist()
    out = make(tmp_path / "sof", rgb=True, background="white", count=1, views=1)
    assert read_picture(out / "00000/render_00.png")[0, 0].tolist() == [255] * 3
    gray = [round(255 * value) for value in BACKGROUND]
    assert corners == {("eg3d", "white"): [255] * 3, ("eg3d", None): gray, ("pigan", "gray"): gray, ("pigan", None): [255] * 3}


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
    (["--seed", "5"], "--seed"), (["--device", "abacus"], "--device"), (["--h_stddev", "0.5"], "--h_stddev"), (["--background", "red"], "--background")])
def test_bad_flags_are_one_line(whole, tmp_path, flags, word):
    before = contents(whole, but=())
    arguments = ["heads", "--out", whole, "--count", 3, "--views", 2, "--resolution", 48, "--rgb", False, *flags]
    programs.refused(programs.run(tmp_path, "scripts/make_people.py", *arguments), word)
    assert contents(whole, but=()) == before


def test_prepare_is_one_line(tmp_path):
    done = run("prepare", cwd=tmp_path)
    assert done.returncode == 0 and len(done.stdout.strip().splitlines()) == 1
