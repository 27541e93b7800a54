"""Captured pictures, calibrations and depth ranges: what comes out is what SOF's reader takes for what went in; hostile files are refused."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common import figures
from common.cameras import check_cam2world, orbit
from common.errors import InputError
from common.images import read_depth, read_picture, write_png
from sof import data, plots, preprocess
from sof.preprocess import CamerasConfig, CapturesConfig, FolderConfig, RangeConfig
from tests import programs

VIEWS, SIDE = 3, 12
INTRINSIC = np.array([[20.0, 0, 6], [0, 21, 5], [0, 0, 1]])
FLIP = np.diag([1.0, -1, -1, 1])


def poses(person: int) -> np.ndarray:
    return orbit(torch.linspace(-0.5, 0.5, VIEWS, dtype=torch.float64) + person, torch.tensor(0.2, dtype=torch.float64), 3.0).numpy()


def labels(person: int, view: int) -> np.ndarray:
    return np.random.default_rng([person, view]).integers(0, 20, (SIDE, SIDE), dtype=np.uint8)


@pytest.fixture
def captured(tmp_path) -> Path:
    """Two people, whose ids have underscores, three views each; OpenGL cameras."""
    from PIL import Image

    root = tmp_path / "captured"
    for person in range(2):
        for view, cam2world in enumerate(poses(person)):
            stem = f"person_{person}_{view:02d}"
            write_png(root / "segmap" / f"{stem}.png", labels(person, view))
            Image.new("RGB", (SIDE, SIDE), (200, 10 * view, person)).save(root / f"{stem}.jpg")
            np.save(root / f"{stem}.npy", np.array({"extrinsics": np.linalg.inv(cam2world @ FLIP), "intrinsic": INTRINSIC}, dtype=object))
    return root


def test_captures_become_heads(captured, tmp_path):
    done = programs.run(tmp_path, "sof/preprocess.py", "captures", "--data_root", captured, "--out", "heads")
    assert done.code == 0 and not done.err and "2 people with 6 views" in done.out, done
    views = data.load(tmp_path / "heads", SIDE)
    assert views.names == ("person_0", "person_1") and len(views) == 6
    for k in range(6):
        person, view = divmod(k, VIEWS)
        assert (views.labels[k].view(SIDE, SIDE).numpy() == labels(person, view)).all()
        assert np.allclose(views.cameras.cam2world[k], poses(person)[view], atol=1e-6)
        assert read_picture(tmp_path / "heads" / f"person_{person}" / f"render_{view:02d}.png").shape == (SIDE, SIDE, 3)
    folder = tmp_path / "heads" / "person_0"
    assert torch.allclose(data.read_intrinsics(folder, data.view_files(folder)), torch.from_numpy(INTRINSIC).expand(VIEWS, 3, 3))


def test_opencv_captures_are_not_flipped(captured, tmp_path):
    preprocess.captures(CapturesConfig(data_root=str(captured), out=str(tmp_path / "a"), axes="opencv"))
    folder = tmp_path / "a" / "person_1"
    assert np.allclose(data.read_cam2world(folder, data.view_files(folder)), poses(1) @ FLIP)


@pytest.mark.parametrize("harm, words", [
    (lambda root: (root / "segmap" / "person_0_01.png").unlink(), "segmap/person_0_01.png: missing"),
    (lambda root: (root / "person_0_01.npy").unlink(), "person_0_01.npy: missing"),
    (lambda root: np.save(root / "person_0_01.npy", np.eye(4)), "person_0_01.npy: expected a dict"),
    (lambda root: np.save(root / "person_0_01.npy", np.array({"extrinsics": 2 * np.eye(4), "intrinsic": INTRINSIC}, dtype=object)), "orthonormal"),
    (lambda root: np.save(root / "person_0_01.npy", np.array({"extrinsics": np.eye(3), "intrinsic": INTRINSIC}, dtype=object)), "extrinsics: expected numbers"),
    (lambda root: np.save(root / "person_0_01.npy", np.array({"extrinsics": np.eye(4), "intrinsic": 0 * INTRINSIC}, dtype=object)), "positive focal"),
    (lambda root: write_png(root / "segmap" / "person_0_01.png", np.full((SIDE, SIDE), 20, np.uint8)), "0..19"),
    (lambda root: shutil.copy(root / "person_0_01.jpg", root / "nobody.jpg"), "nobody"),
    (lambda root: [path.unlink() for path in root.glob("*.jpg")], "no pictures"),
])
def test_broken_captures_are_refused(captured, tmp_path, harm, words):
    harm(captured)
    with pytest.raises(InputError, match=words):
        preprocess.captures(CapturesConfig(data_root=str(captured), out=str(tmp_path / "out")))


# Synthetic sets

@pytest.fixture
def heads(tmp_path) -> Path:
    """Two heads with depth maps of their own ranges and a cameras.npy."""
    root = tmp_path / "heads"
    for head in range(2):
        ranges = np.array([[2.0 + head + 0.1 * view, 4.0 + head] for view in range(VIEWS)])
        for view in range(VIEWS):
            write_png(root / str(head) / f"seg_{view:02d}.png", labels(head, view))
            depth = np.random.default_rng([head, view, 1]).integers(1, 256, (SIDE, SIDE), dtype=np.uint8)
            depth[:3] = 0
            write_png(root / str(head) / f"depth_{view:02d}.png", depth)
        calibration = {"extrinsics": list(np.linalg.inv(poses(head))), "intrinsic": INTRINSIC, "zRange": ranges, "instance": np.zeros(3)}
        np.save(root / str(head) / "cameras.npy", np.array(calibration, dtype=object))
    return root


def test_calibrations(heads):
    preprocess.calibration(FolderConfig(data_root=str(heads)))
    for head in range(2):
        folder = heads / str(head)
        files = data.view_files(folder)
        assert np.allclose(data.read_cam2world(folder, files), poses(head)) and np.allclose(data.read_intrinsics(folder, files), INTRINSIC)
        assert np.allclose(data.read_z_range(folder, files)[:, 1], 4 + head)
    np.save(heads / "0" / "cameras.npy", np.array({"extrinsics": [np.eye(4)], "intrinsic": INTRINSIC, "zRange": np.ones((2, 2))}, dtype=object))
    with pytest.raises(InputError, match=r"cameras\.npy: zRange"):
        preprocess.calibration(FolderConfig(data_root=str(heads)))
    with pytest.raises(InputError, match=r"no <head>/cameras\.npy"):
        preprocess.calibration(FolderConfig(data_root=str(heads / "0")))


def test_one_depth_range_keeps_every_depth(heads, tmp_path, capsys):
    """To half a step of the new range's 255; the background stays background, the original as it is."""
    preprocess.calibration(FolderConfig(data_root=str(heads)))

    def depths(root: Path) -> np.ndarray:
        folders = [root / "0", root / "1"]
        ranges = [data.read_z_range(folder, data.view_files(folder)) for folder in folders]
        return np.stack([read_depth(folder / f"depth_{view:02d}.png", z_range=r[view]) for folder, r in zip(folders, ranges) for view in range(VIEWS)])

    before, equal = depths(heads), tmp_path / "equal"
    for _ in range(2):                                           # again is no harm
        preprocess.zrange(RangeConfig(data_root=str(heads), out=str(equal)))
    after = depths(equal)
    assert (depths(heads) == before).all() and all((data.read_z_range(equal / h, data.view_files(equal / h)) == [2.0, 5.0]).all() for h in "01")
    assert ((after == 0) == (before == 0)).all() and (before == 0).mean() == 0.25
    assert np.abs(after - before).max() <= 3 / 255 / 2 + 1e-5 and np.abs(after - before).max() > 0
    assert "near 2.0000, far 5.0000" in capsys.readouterr().out
    with pytest.raises(InputError, match="another folder"):
        preprocess.zrange(RangeConfig(data_root=str(heads), out=str(heads)))


def test_cameras_are_summed_up_and_plotted(heads, tmp_path, capsys):
    preprocess.calibration(FolderConfig(data_root=str(heads)))
    preprocess.cameras(CamerasConfig(data_root=str(heads), out=str(tmp_path / "out")))
    said = capsys.readouterr().out
    assert "0: 3 views, mean radius 3.0000" in said and "all: 6 views" in said and "mean focal 20.00, 21.00" in said
    assert np.allclose(np.load(tmp_path / "out" / "intrinsics_avg.npy")[:3, :3], INTRINSIC) and (tmp_path / "out" / "cameras.png").stat().st_size > 5000


def test_the_plots_arrows():
    """Right in red, up in green and forward in blue, of lengths 1, 2 and 5 times 0.3; the plot's axes are x, z and y."""
    _, axes = figures.new_figure(projection="3d")
    cam2world = torch.from_numpy(poses(0)[:1])
    drawn = []
    axes.quiver = lambda *arrays, color, **style: drawn.append((color, [float(array) for array in arrays]))
    plots.plot_cameras(axes, cam2world)
    right, down, forward, center = cam2world[0, :3].T.tolist()
    for (color, values), (name, arrow) in zip(drawn, [("red", np.array(right) * 0.3), ("green", -np.array(down) * 0.6), ("blue", np.array(forward) * 1.5)]):
        assert color == name and np.allclose(values, [*np.array(center)[[0, 2, 1]], *arrow[[0, 2, 1]]])
    assert len(drawn) == 3


def test_jitter():
    """Rotations are scipy's Euler angles; within the bounds, rigid, and a function of the generator."""
    from scipy.spatial.transform import Rotation

    angles = torch.tensor([[0.1, -0.2, 0.3], [1.0, 0.5, -2.0]], dtype=torch.float64)
    assert np.allclose(preprocess.euler(angles), Rotation.from_euler("xyz", angles.numpy()).as_matrix())
    given = torch.from_numpy(poses(0)).repeat(50, 1, 1)
    moved = preprocess.jittered(given, torch.Generator().manual_seed(0))
    check_cam2world(moved, "jittered")
    turned = Rotation.from_matrix((given[:, :3, :3].mT @ moved[:, :3, :3]).numpy()).as_euler("xyz", degrees=True)
    assert 4 < np.abs(turned).max() <= 5 + 1e-9 and 0.09 < (moved - given)[:, :3, 3].abs().max() <= 0.1
    assert torch.equal(moved, preprocess.jittered(given, torch.Generator().manual_seed(0)))
