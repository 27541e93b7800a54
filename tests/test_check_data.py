"""The validator: a sound data set passes, and every single damage is found and named, the others still counted."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cameras import Cameras, intrinsics_matrix, orbit
from common.errors import InputError
from common.images import encode_png, write_eg3d_zip, write_png
from scripts.check_data import CheckConfig, main
from tests import programs

VIEWS = 4


def checked(capsys, path: Path, **options) -> tuple[list[str], str]:
    """The findings and the rest of what the validator prints about `path`."""
    try:
        main(CheckConfig(dir=str(path), **options))
        count = 0
    except InputError as error:
        count = int(str(error).removeprefix(f"{path}: ").split()[0])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[:count]) == count and all(":" in line for line in lines[:count])
    return lines[:count], "\n".join(lines[count:])


@pytest.fixture
def heads(tmp_path) -> Path:
    for head in ("00000", "00001"):
        folder = tmp_path / "heads" / head
        for view in range(VIEWS):
            labels = np.zeros((8, 8), np.uint8)
            labels[2:, 2:], labels[4, 4] = 1, 18
            write_png(folder / f"seg_{view:02d}.png", labels)
            write_png(folder / f"seg_vis_{view:02d}.png", np.stack([labels * 10] * 3, -1))
            write_png(folder / f"depth_{view:02d}.png", labels * 9)
        np.save(folder / "cam2world.npy", orbit(torch.linspace(-1, 1, VIEWS), torch.tensor(0.0), 4.5).numpy())
        np.save(folder / "intrinsic.npy", np.array([[9.0, 0, 4], [0, 9, 4], [0, 0, 1]]))
        np.save(folder / "zRange.npy", np.array([3.0, 6.0]))
    return tmp_path / "heads"


def test_a_sound_folder_is_counted(heads, capsys):
    findings, summary = checked(capsys, heads)
    assert findings == [] and "2 heads, 8 pictures of 8x8" in summary and "labels: background, skin, hair\n" in summary and summary.endswith("sound")


def labels_with(value: int) -> np.ndarray:
    return np.full((8, 8), value, np.uint8)


DAMAGE = {
    "truncated label map": ("seg_02.png", lambda path: path.write_bytes(path.read_bytes()[:50])),
    "missing label map": ("seg_02.png", lambda path: path.unlink()),
    "unknown label": ("seg_02.png", lambda path: write_png(path, labels_with(20))),
    "16 bit": ("seg_02.png", lambda path: __import__("cv2").imwrite(str(path), labels_with(1).astype(np.uint16))),
    "other size": ("seg_02.png", lambda path: write_png(path, labels_with(1)[:7])),
    "truncated preview": ("seg_vis_02.png", lambda path: path.write_bytes(path.read_bytes()[:50])),
    "view without preview": ("seg_09.png", lambda path: write_png(path, labels_with(1))),
    "truncated depth": ("depth_02.png", lambda path: path.write_bytes(b"")),
    "missing depth": ("depth_02.png", lambda path: path.unlink()),
    "depth of other size": ("depth_02.png", lambda path: write_png(path, labels_with(1)[:7])),
    "near beyond far": ("zRange.npy", lambda path: np.save(path, np.array([6.0, 3.0]))),
    "missing zRange": ("zRange.npy", lambda path: path.unlink()),
    "missing poses": ("cam2world.npy", lambda path: path.unlink()),
    "scaled poses": ("cam2world.npy", lambda path: np.save(path, np.load(path) * 2)),
    "too many poses": ("cam2world.npy", lambda path: np.save(path, np.concatenate([np.load(path)] * 2))),
    "truncated poses": ("cam2world.npy", lambda path: path.write_bytes(path.read_bytes()[:-8])),
    "bad intrinsics": ("intrinsic.npy", lambda path: np.save(path, -np.load(path))),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_every_damage_is_one_finding_that_names_the_file(heads, capsys, what):
    name, damage = DAMAGE[what]
    damage(heads / "00001" / name)
    findings, _ = checked(capsys, heads)
    assert len(findings) == 1 and str(heads / "00001" / name) in findings[0], findings


def test_all_findings_are_listed(heads, capsys):
    for name in ("truncated label map", "truncated depth", "scaled poses", "bad intrinsics"):
        DAMAGE[name][1](heads / "00000" / DAMAGE[name][0])
    (heads / "00002").mkdir()
    findings, summary = checked(capsys, heads)
    assert len(findings) == 5 and "00002: no views" in findings[-1] and "3 heads, 8 pictures" in summary


def test_intrinsics_of_another_size_are_noticed(heads, capsys):
    np.save(heads / "00001" / "intrinsic.npy", np.array([[144.0, 0, 64], [0, 144, 64], [0, 0, 1]]))
    findings, _ = checked(capsys, heads)
    assert len(findings) == VIEWS and all("principal point" in line for line in findings)


def test_the_encoding_is_told_not_guessed(heads, capsys):
    for file in heads.glob("*/seg_0*.png"):
        labels = np.zeros((8, 8), np.uint8)
        labels[3:] = 180
        write_png(file, labels)
    assert len(checked(capsys, heads)[0]) == 2 * VIEWS
    assert checked(capsys, heads, encoding="times10")[0] == [] and "hat" in checked(capsys, heads, encoding="auto_published")[1]


@pytest.fixture
def eg3d(tmp_path) -> Path:
    cameras = Cameras(orbit(torch.linspace(-1, 1, 3), torch.tensor(0.0), 2.7), intrinsics_matrix(4.2647).expand(3, 3, 3))
    pictures = [(f"00000/img{k}.png", encode_png(np.full((8, 8, 3), k, np.uint8))) for k in range(3)]
    write_eg3d_zip(tmp_path / "a.zip", pictures, cameras)
    __import__("zipfile").ZipFile(tmp_path / "a.zip").extractall(tmp_path / "a")
    return tmp_path / "a"


def test_sound_pictures_pass_as_folder_and_zip(eg3d, capsys):
    for path in (eg3d, eg3d.with_suffix(".zip")):
        findings, summary = checked(capsys, path)
        assert findings == [] and "3 pictures of 8x8x3" in summary


def with_labels(change):
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content["labels"])
        path.write_text(json.dumps(content))
    return damage


EG3D_DAMAGE = {
    "missing label": ("dataset.json", with_labels(lambda labels: labels.pop())),
    "label too many": ("dataset.json", with_labels(lambda labels: labels.append(["none.png", labels[0][1]]))),
    "16 numbers": ("dataset.json", with_labels(lambda labels: [numbers.__delitem__(slice(16, None)) for _, numbers in labels])),
    "scaled pose": ("dataset.json", with_labels(lambda labels: labels[1][1].__setitem__(0, 2.0))),
    "no focal length": ("dataset.json", with_labels(lambda labels: labels[1][1].__setitem__(16, 0.0))),
    "cut json": ("dataset.json", lambda path: path.write_bytes(path.read_bytes()[:-3])),
    "cut picture": ("00000/img1.png", lambda path: path.write_bytes(path.read_bytes()[:-20])),
}


@pytest.mark.parametrize("what", EG3D_DAMAGE)
def test_every_damage_of_eg3d_is_one_finding(eg3d, capsys, what):
    name, damage = EG3D_DAMAGE[what]
    damage(eg3d / name)
    findings, summary = checked(capsys, eg3d)
    assert len(findings) == 1 and name in findings[0] and "3 pictures" in summary, findings


def test_sizes_of_eg3d_pictures(eg3d, capsys):
    write_png(eg3d / "00000" / "img1.png", np.zeros((8, 6, 3), np.uint8))
    findings, _ = checked(capsys, eg3d)
    assert len(findings) == 2 and "img1.png" in findings[0] and "several sizes" in findings[1]


def test_a_zip_beside_heads_is_checked_too(heads, eg3d, capsys):
    archive = eg3d.with_suffix(".zip").rename(heads / "eg3d.zip")
    findings, summary = checked(capsys, heads)
    assert findings == [] and "8 pictures" in summary and "eg3d.zip: EG3D's layout, 3 pictures" in summary
    archive.write_bytes(b"")
    (heads / "00001" / "seg_01.png").unlink()
    findings, _ = checked(capsys, heads)
    assert len(findings) == 2 and "seg_01.png" in findings[0] and "eg3d.zip" in findings[1]


def test_broken_zip_is_one_finding(eg3d, capsys):
    path = eg3d.with_suffix(".zip")
    path.write_bytes(path.read_bytes()[:200])
    findings, _ = checked(capsys, path)
    assert len(findings) == 1 and str(path) in findings[0]


@pytest.fixture
def photos(tmp_path) -> Path:
    for k, size in enumerate([(218, 178), (200, 180), (300, 171)]):
        write_png(tmp_path / "photos" / f"{k}.png", np.full((*size, 3), k, np.uint8))
    return tmp_path / "photos"


def test_pictures_for_a_gan(photos, capsys):
    """Those that the transform takes pass without labels; every other is one finding; labels that are there are checked."""
    findings, summary = checked(capsys, photos, transform="celeba")
    assert findings == [] and "pictures for --transform celeba, 3 pictures of 256x256" in summary
    assert checked(capsys, photos, transform="bfm")[0] == []
    write_png(photos / "3.png", np.zeros((169, 300, 3), np.uint8))
    (photos / "2.png").write_bytes((photos / "2.png").read_bytes()[:-20])
    findings, _ = checked(capsys, photos, transform="bfm")
    assert len(findings) == 2 and "2.png: broken" in findings[0] and "3.png: 300x169 pixels, expected 170x170 or more" in findings[1]
    (photos / "dataset.json").write_text('{"labels": [["0.png", [1]]]}')
    assert "no label for 3 of 4" in checked(capsys, photos, transform="cats")[0][0]


TRUTH_DAMAGE = {
    "missing": (lambda depth, normals: None, "no depth and normals"),
    "of another size": (lambda depth, normals: (depth[:4], normals[:4]), r"depth (4, 8) and normals (4, 8, 3) beside it, expected (8, 8)"),
    "not finite": (lambda depth, normals: (depth * np.nan, normals), "not finite"),
    "negative": (lambda depth, normals: (-depth, normals), "negative"),
    "not unit": (lambda depth, normals: (depth, normals * 2), "not unit"),
}


@pytest.mark.parametrize("what", TRUTH_DAMAGE)
@pytest.mark.parametrize("transform", [None, "people"])
def test_depth_and_normals_beside_pictures(eg3d, capsys, what, transform):
    damage, words = TRUTH_DAMAGE[what]
    truth = np.ones((8, 8), np.float32), np.full((8, 8, 3), 3 ** -0.5, np.float16)
    for k in range(3):
        np.savez(eg3d / "00000" / f"img{k}.npz", depth=truth[0], normals=truth[1])
    assert checked(capsys, eg3d, transform=transform)[0] == []
    place, damaged = eg3d / "00000" / "img1.npz", damage(*truth)
    place.unlink() if damaged is None else np.savez(place, depth=damaged[0], normals=damaged[1])
    findings, _ = checked(capsys, eg3d, transform=transform)
    assert len(findings) == 1 and "img1.png" in findings[0] and words in findings[0]


def test_exit_codes_as_a_user_meets_them(heads, tmp_path):
    run = lambda path: programs.run(tmp_path / "elsewhere", "scripts/check_data.py", path)
    sound = run(heads)
    assert sound.code == 0 and sound.err == "" and sound.out.endswith("sound\n")
    (heads / "00001" / "seg_01.png").write_bytes(b"")
    damaged = run(heads)
    assert damaged.code == 2 and "seg_01.png" in damaged.out and damaged.err == f"error: {heads}: 1 finding\n"
    nothing = run(tmp_path / "heads" / "00000")
    assert nothing.out == ""
    programs.refused(nothing, "no data set")
