"""SOF's folder in memory: every label map with its own camera, closed forms of sizes, and a hostile version of every file."""
from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cameras import Cameras, orbit, pixel_intrinsics, project
from common.errors import InputError
from common.images import write_png
from common.rays import camera_rays, pixel_grid
from sof import data

HEADS, VIEWS, SIZE = 3, 4, 16


def refused(call, *names) -> None:
    with pytest.raises(InputError) as error:
        call()
    line = str(error.value)
    assert "\n" not in line and all(str(name) in line for name in names), line


def cameras_of(head: int) -> np.ndarray:
    return orbit(torch.linspace(-0.5, 0.5, VIEWS, dtype=torch.float64) + head, torch.tensor(0.1, dtype=torch.float64), 4.5).numpy()


def label_map(head: int, view: int, size: int = SIZE) -> np.ndarray:
    labels = np.random.default_rng([head, view]).integers(0, 20, (size, size), dtype=np.uint8)
    labels[0, 0], labels[0, 1] = head, view                   # signed, so that a pairing can be read off
    return labels


def matrix(focal: float = 20.0, cx: float = 8.0, cy: float = 7.0) -> np.ndarray:
    return np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1.0]])


@pytest.fixture
def root(tmp_path) -> Path:
    """Three heads of four 16 px views in the published layout."""
    for head in range(HEADS):
        folder = tmp_path / "heads" / f"{head:05d}"
        for view in range(VIEWS):
            write_png(folder / f"seg_{view:02d}.png", label_map(head, view))
            write_png(folder / f"seg_vis_{view:02d}.png", label_map(head, view))
        np.save(folder / "cam2world.npy", cameras_of(head))
        np.save(folder / "intrinsic.npy", matrix())
    return tmp_path / "heads"


def test_every_label_map_stands_with_its_own_camera(root):
    views = data.load(root, SIZE)
    assert len(views) == HEADS * VIEWS and views.names == ("00000", "00001", "00002")
    assert views.labels.dtype == torch.uint8 and views.labels.shape == (12, SIZE * SIZE) and views.instances.dtype == torch.int64
    for k in range(12):
        head, view = divmod(k, VIEWS)
        assert (views.labels[k].numpy() == label_map(head, view).ravel()).all() and views.instances[k] == head
        assert np.allclose(views.cameras.cam2world[k], cameras_of(head)[view], atol=1e-6)
        assert views.files[k] == root / f"0000{head}" / f"seg_0{view}.png"
    assert len(views.cameras) == 12 and not views.cameras.orthographic and data.load(root, SIZE, orthographic=True).cameras.orthographic


def test_the_published_pairing_shuffles_label_maps_alone(root):
    views = data.load(root, SIZE, published_pairing=True, seed=3)
    right = data.load(root, SIZE)
    assert (views.cameras.cam2world == right.cameras.cam2world).all() and (views.instances == right.instances).all()
    signed = views.labels[:, 1].reshape(HEADS, VIEWS)
    assert (views.labels[:, 0] == views.instances).all() and (signed.sort(1).values == torch.arange(VIEWS)).all()
    assert (signed != torch.arange(VIEWS)).any() and len({tuple(row) for row in signed.tolist()}) > 1
    assert [int(file.stem[-2:]) for file in views.files] == signed.flatten().tolist()
    assert (data.load(root, SIZE, published_pairing=True, seed=3).labels == views.labels).all()
    assert (data.load(root, SIZE, published_pairing=True, seed=4).labels != views.labels).any()
    part = data.load(root, SIZE, published_pairing=True, seed=3, observations="1-2")        # shuffled whole, then picked, as released
    assert (part.labels == views.labels.reshape(HEADS, VIEWS, -1)[:, 1:3].flatten(0, 1)).all()


def test_sides_and_intrinsics_agree(root):
    """What a smaller copy shows at pixel (i, j) is what the stored picture shows at (2i, 2j), along the same ray."""
    whole, half = data.load(root, SIZE), data.load(root, SIZE // 2)
    assert (half.labels.reshape(12, 8, 8) == whole.labels.reshape(12, 16, 16)[:, ::2, ::2]).all()
    for cameras_kind in (False, True):
        rays = [camera_rays(Cameras(v.cameras.cam2world, v.cameras.intrinsics, cameras_kind), pixel_grid(v.side, v.side)[None]) for v in (whole, half)]
        for full, small in zip(*rays):
            assert torch.allclose(full.reshape(12, 16, 16, 3)[:, ::2, ::2], small.reshape(12, 8, 8, 3), atol=1e-5)


def test_integer_pixels_are_converted_at_the_edge(root):
    """SOF projects to u = f x / z + c in integer pixels of the side that is read; the same point in picture sizes is (u + 0.5) / S."""
    point = torch.tensor([0.3, -0.2, 0.4], dtype=torch.float64)
    local = (torch.linalg.inv(torch.from_numpy(cameras_of(0)[0])) @ torch.cat([point, torch.ones(1, dtype=torch.float64)]))[:3]
    for side in (SIZE, SIZE // 2):
        u, v = (side / SIZE * (20 * local[axis] / local[2] + center) for axis, center in ((0, 8), (1, 7)))
        uv, _ = project(data.load(root, side).cameras.pick([0]), point.float()[None, None])
        assert torch.allclose(uv[0, 0].double(), (torch.stack([u, v]) + 0.5) / side, atol=1e-6)


def test_scaled_intrinsics():
    scaled = data.scale_intrinsics(torch.from_numpy(matrix(20, 8, 7)), 10, 40, 5)
    assert scaled.tolist() == [[10, 0, 4], [0, 2.5, 0.875], [0, 0, 1]]


@pytest.mark.parametrize("change", ["shared 4x4", "one each", "dict by name", "dict by preview", "intrinsics.npy", "one of one"])
def test_every_form_of_intrinsics(root, change):
    each = np.stack([matrix(20 + k) for k in range(VIEWS)])
    expected = each if change not in ("shared 4x4", "intrinsics.npy", "one of one") else np.stack([matrix(30)] * VIEWS)
    prefix = "seg_vis" if change == "dict by preview" else "seg"
    stored = {"shared 4x4": np.block([[matrix(30), np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]), "one each": each,
              "intrinsics.npy": matrix(30), "one of one": matrix(30)[None]}.get(change, {f"{prefix}_{k:02d}.png": each[k] for k in reversed(range(VIEWS))})
    folder = root / "00001"
    (folder / "intrinsic.npy").unlink()
    np.save(folder / ("intrinsics.npy" if change == "intrinsics.npy" else "intrinsic.npy"), stored)
    cameras = data.load(root, SIZE, instances="1").cameras
    assert np.allclose(pixel_intrinsics(cameras.intrinsics.double(), SIZE, SIZE, 0.0), expected, atol=1e-5)


@pytest.mark.parametrize("prefix", ["seg", "seg_vis"])
def test_poses_by_name_in_any_order(root, prefix):
    right = data.load(root, SIZE)
    for head in range(HEADS):
        np.save(root / f"0000{head}" / "cam2world.npy", {f"{prefix}_{k:02d}.png": cameras_of(head)[k] for k in (2, 0, 3, 1)})
    views = data.load(root, SIZE)
    assert (views.cameras.cam2world == right.cameras.cam2world).all() and (views.labels == right.labels).all()


def test_near_and_far_of_each_view_or_of_all(root):
    folder = root / "00000"
    files = data.view_files(folder)
    each = np.array([[2.0 + k, 5.0 + k] for k in range(VIEWS)])
    for stored, expected in ((each, each), (each[0], each[[0] * 4]), ({f"seg_vis_{k:02d}.png": each[k] for k in range(4)}, each)):
        np.save(folder / "zRange.npy", stored)
        assert (data.read_z_range(folder, files) == expected).all()
    for stored in (each[:, ::-1], each * np.nan, each[:3], np.zeros((4, 3))):
        np.save(folder / "zRange.npy", stored)
        refused(lambda: data.read_z_range(folder, files), folder / "zRange.npy")


@pytest.mark.parametrize("names", ["seg_00.png without previews", "00.png"])
def test_other_names_of_views(root, names):
    right = data.load(root, SIZE)
    for file in sorted(root.glob("*/seg_*.png")):
        file.unlink() if "_vis" in file.name else file.rename(file.with_name(file.name.replace("seg_", ""))) if names == "00.png" else None
    views = data.load(root, SIZE)
    assert (views.labels == right.labels).all() and (views.cameras.cam2world == right.cameras.cam2world).all()


def test_previews_say_which_views_count(root):
    (root / "00000" / "seg_vis_03.png").unlink()
    np.save(root / "00000" / "cam2world.npy", cameras_of(0)[:3])
    assert len(data.load(root, SIZE, instances="0")) == 3


def test_names_that_count_two_ways_are_refused_unless_poses_are_named(root):
    folder = root / "00000"
    (folder / "seg_03.png").rename(folder / "seg_100.png")
    (folder / "seg_vis_03.png").rename(folder / "seg_vis_100.png")
    (folder / "seg_02.png").rename(folder / "seg_20.png")
    (folder / "seg_vis_02.png").rename(folder / "seg_vis_20.png")
    refused(lambda: data.load(root, SIZE), folder / "cam2world.npy", "zeros")
    np.save(folder / "cam2world.npy", {f"seg_{name}.png": pose for name, pose in zip(("00", "01", "20", "100"), cameras_of(0))})
    views = data.load(root, SIZE, instances="0")
    assert [file.name for file in views.files] == ["seg_00.png", "seg_01.png", "seg_100.png", "seg_20.png"]
    assert np.allclose(views.cameras.cam2world, cameras_of(0)[[0, 1, 3, 2]], atol=1e-6)


# Choosing heads and views, and the rows of an embedding

def test_select():
    assert data.select(None, 3, "x") == [0, 1, 2] and data.select("1-2", 3, "x") == [1, 2] and data.select("2,0", 3, "x") == [2, 0]
    for text in ("0-3", "3", "2-1", "a", "", "-1", "1-", "0-99999999999999999999", "1;2", "1.5"):
        refused(lambda text=text: data.select(text, 3, "--flag"), "--flag")


def test_chosen_heads_and_views(root):
    views = data.load(root, SIZE, instances="1-2", observations="0,3")
    assert views.names == ("00001", "00002") and views.instances.tolist() == [0, 0, 1, 1]
    assert views.labels[:, :2].tolist() == [[1, 0], [1, 3], [2, 0], [2, 3]]
    assert np.allclose(views.cameras.cam2world, np.concatenate([cameras_of(1)[[0, 3]], cameras_of(2)[[0, 3]]]), atol=1e-6)
    refused(lambda: data.load(root, SIZE, instances="0-3"), "sample_instances", root, "0-2")
    refused(lambda: data.load(root, SIZE, observations="31-35"), "sample_observations", "00000", "0-3")


def test_rows_keep_their_heads(root, tmp_path):
    data.write_indexing(tmp_path / "indexing.txt", ("00002", "gone", "00000"))
    names = data.read_indexing(tmp_path / "indexing.txt")
    views = data.load(root, SIZE, instances="0,2", names=names)
    assert views.names == names and views.instances.tolist() == [2] * 4 + [0] * 4
    refused(lambda: data.load(root, SIZE, names=names), root / "00001", "3 heads")
    (tmp_path / "indexing.txt").write_text("./data/seg_face/00007/\n/elsewhere/00003\n\n")           # as released: whole paths
    assert data.read_indexing(tmp_path / "indexing.txt") == ("00007", "00003")
    for content in (b"", b"a\na\n", b"\xff\xfe\x00"):
        (tmp_path / "indexing.txt").write_bytes(content)
        refused(lambda: data.read_indexing(tmp_path / "indexing.txt"), tmp_path / "indexing.txt")


# Bad input

class Hostile:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def bent(row: int = 2, **changes) -> np.ndarray:
    poses = cameras_of(0)
    for where, value in changes.items():
        poses[(row, *(int(digit) for digit in where[1:]))] = value
    return poses


CAM2WORLD = {
    "too few": cameras_of(0)[:3], "too many": np.concatenate([cameras_of(0)] * 2), "3x4": cameras_of(0)[:, :3], "a single one": cameras_of(0)[0],
    "text": np.array(["a"] * 4), "complex": cameras_of(0) * 1j, "none": np.zeros((0, 4, 4)), "five axes": cameras_of(0)[None, None],
    "NaN": bent(_03=np.nan), "infinite": bent(_03=np.inf), "scaled": cameras_of(0) * 2, "not orthonormal": bent(_00=9.0), "last row": bent(_33=2.0),
    "mirrored": cameras_of(0) * np.array([-1, 1, 1, 1.0]),
    "missing name": {f"seg_{k:02d}.png": cameras_of(0)[k] for k in range(3)}, "uneven": {f"seg_{k:02d}.png": np.eye(4)[:4 - k % 2] for k in range(4)},
    "objects": {f"seg_{k:02d}.png": None for k in range(4)}, "list of names": np.array([None, "a", 1, 2], object),
}


@pytest.mark.parametrize("what", CAM2WORLD)
def test_bad_cam2world(root, what):
    np.save(root / "00000" / "cam2world.npy", CAM2WORLD[what])
    refused(lambda: data.load(root, SIZE), root / "00000" / "cam2world.npy")


@pytest.mark.parametrize("stored", [matrix(np.nan), matrix(0.0), matrix(-20.0), np.eye(2), np.stack([matrix()] * 3), np.array("a"),
                                    np.zeros((0, 3, 3)), {"a": 1}])
def test_bad_intrinsics(root, stored):
    np.save(root / "00000" / "intrinsic.npy", stored)
    refused(lambda: data.load(root, SIZE), root / "00000" / "intrinsic.npy")


@pytest.mark.parametrize("name", ["cam2world.npy", "intrinsic.npy"])
def test_broken_and_hostile_npy(root, name, tmp_path):
    path = root / "00000" / name
    whole = path.read_bytes()
    hostile = np.empty((), object)
    hostile[()] = Hostile(tmp_path / "was_here")
    np.save(tmp_path / "hostile.npy", hostile)
    huge = whole.replace(b"(4, 4, 4)", b"(4, 4, 4000000000000)").replace(b"(3, 3)", b"(3, 3000000000000)")
    for content in (b"", whole[:20], whole[:-1], b"not numpy", (tmp_path / "hostile.npy").read_bytes(), pickle.dumps(hostile[()]), huge):
        path.write_bytes(content)
        refused(lambda: data.load(root, SIZE), path)
    assert not (tmp_path / "was_here").exists()
    np.load(tmp_path / "hostile.npy", allow_pickle=True)
    assert (tmp_path / "was_here").exists(), "the file was hostile"
    path.unlink()
    refused(lambda: data.load(root, SIZE), path)


@pytest.mark.parametrize("what", ["truncated", "empty", "16 bit", "colour", "label 20", "stored times 10"])
def test_bad_label_maps(root, what):
    from PIL import Image
    path = root / "00001" / "seg_02.png"
    labels = label_map(1, 2)
    if what in ("truncated", "empty"):
        path.write_bytes(path.read_bytes()[:60 if what == "truncated" else 0])
    elif what == "16 bit":
        Image.fromarray(labels.astype(np.uint16)).save(path)
    else:
        write_png(path, {"colour": np.stack([labels, labels, 19 - labels], -1), "label 20": np.full_like(labels, 20), "stored times 10": labels * 10}[what])
    refused(lambda: data.load(root, SIZE), path)
    if what == "stored times 10":
        assert (data.load(root, SIZE, encoding="auto_published").labels == torch.from_numpy(
            np.stack([label_map(k // 4, k % 4).ravel() for k in range(12)]))).all()


def test_missing_and_empty_folders(root, tmp_path):
    (root / "00001" / "seg_02.png").unlink()
    refused(lambda: data.load(root, SIZE), root / "00001" / "seg_02.png", "missing")
    for file in (root / "00001").glob("seg*"):
        file.unlink()
    refused(lambda: data.load(root, SIZE), root / "00001", "no views")
    (tmp_path / "empty").mkdir()
    refused(lambda: data.load(tmp_path / "empty", SIZE), tmp_path / "empty", "cam2world.npy")
    with pytest.raises(FileNotFoundError):
        data.load(tmp_path / "nowhere", SIZE)


def test_one_pixel_and_oblong_pictures(root):
    folder = root / "00000"
    for view in range(VIEWS):
        write_png(folder / f"seg_{view:02d}.png", label_map(0, view)[:1, :1] if view % 2 else label_map(0, view)[:, :8])
    views = data.load(root, 4, instances="0")
    assert (views.labels[1] == 0).all() and (views.labels[0].reshape(4, 4).numpy() == label_map(0, 0)[::4, :8:2]).all()
    pixels = pixel_intrinsics(views.cameras.intrinsics[0], 4, 4, 0.0)
    assert torch.allclose(pixels, torch.tensor([[10, 0, 4], [0, 5, 1.75], [0, 0, 1.0]]))


def test_intrinsics_txt():
    text = "2000.0 256.0 250.0 0.\n0. 0. 0.\n1.\n512 500\n"
    assert data.parse_intrinsics(text, 128).tolist() == [[500, 0, 256 * 128 / 500, 0], [0, 500, 62.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    for broken in ("", "a b c\n\n\n1 1", "1 2\n\n\n1 1", "1 2 3\n\n\n1", "1 2 3\n\n"):
        refused(lambda broken=broken: data.parse_intrinsics(broken, 128, "k.txt"), "k.txt")
