"""Pictures, label maps, depth and EG3D data sets: closed forms, OpenCV and Pillow as references, and files that are broken in every way."""
from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common import images
from common.cameras import Cameras, eg3d_label, intrinsics_matrix, orbit
from common.errors import InputError
from common.labels import (
    MIRRORED_PAINTER,
    NOTEBOOK_PALETTE,
    PAINTER_LABELS,
    PAINTER_PALETTE,
    RAW_TO_SOF,
    SOF_LABELS,
    SOF_TO_PAINTER,
    TRAINING_PALETTE,
    colorize,
    mirror,
    relabel,
)


def refused(call, *names) -> str:
    """The one line of the InputError that `call` raises; it holds every one of `names`."""
    with pytest.raises(InputError) as error:
        call()
    line = str(error.value)
    assert "\n" not in line and all(str(name) in line for name in names), line
    return line


def some_labels(height: int = 7, width: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 20, (height, width), dtype=np.uint8)


# Labels

def test_tables_keep_the_names():
    raw = "background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r r_nose l_nose mouth u_lip l_lip neck neck_l cloth hair hat".split()
    assert [SOF_LABELS[k] for k in RAW_TO_SOF] == raw
    for name, k in zip(SOF_LABELS, SOF_TO_PAINTER):
        painted = PAINTER_LABELS[k]
        assert name == painted or name in (f"l_{painted}", f"r_{painted}")
    swapped = {"l_nose": "r_nose", "r_nose": "l_nose"}
    assert [PAINTER_LABELS[k] for k in MIRRORED_PAINTER] == [swapped.get(name, name) for name in PAINTER_LABELS]
    assert len(TRAINING_PALETTE) == len(NOTEBOOK_PALETTE) == 20 and len(PAINTER_PALETTE) == 17
    assert len({tuple(color) for color in TRAINING_PALETTE}) == 20


def test_colorize_looks_up_every_pixel_and_refuses_what_has_no_colour():
    labels = some_labels()[None].repeat(2, 0)
    colors = colorize(labels)
    assert colors.shape == (2, 7, 5, 3) and colors.dtype == np.uint8
    assert all(tuple(colors[i]) == tuple(TRAINING_PALETTE[labels[i]]) for i in np.ndindex(labels.shape))
    refused(lambda: colorize(labels, PAINTER_PALETTE), "0..16")


def test_a_mirror_exchanges_the_sides_and_their_names_and_undoes_itself():
    labels = relabel(some_labels(), SOF_TO_PAINTER)
    labels[0] = [4, 1, 1, 1, 5]
    assert mirror(labels)[0].tolist() == [4, 1, 1, 1, 5]      # the right nose stays on the right side of the face
    assert (mirror(mirror(labels)) == labels).all()


# Resizing and encodings

@pytest.mark.parametrize("n_in", [1, 2, 3, 7, 20, 49, 64, 100, 511, 512])
def test_nearest_is_opencv(n_in):
    ramp = np.arange(n_in, dtype=np.uint16)[None]
    for n_out in [1, 2, 3, 5, 8, 20, 49, 64, 98, 128, 500]:
        index = images.nearest_index(n_out, n_in)
        assert (index == cv2.resize(ramp, (n_out, 1), interpolation=cv2.INTER_NEAREST)[0]).all()
        exact = [Fraction(j * n_in, n_out) for j in range(n_out)]
        assert all(e.numerator // e.denominator - i in ((0, 1) if e.denominator == 1 else (0,)) for e, i in zip(exact, index))


def test_labels_of_a_whole_factor_are_every_nth_pixel():
    labels = some_labels(8, 12)
    assert (images.resize_nearest(labels, 4, 3) == labels[::2, ::4]).all()
    assert (images.resize_nearest(labels, 16, 24) == labels.repeat(2, 0).repeat(2, 1)).all()


def test_encodings():
    labels = some_labels(20, 20)
    assert (images.decode_labels(labels) == labels).all()
    assert (images.decode_labels(labels * 10, encoding="times10") == labels).all()
    assert labels.max() == 19 and (images.decode_labels(labels * 10, encoding="auto_published") == labels).all()
    without_hat = np.minimum(labels, 18)
    assert (images.decode_labels(without_hat, encoding="auto_published") == without_hat).all()
    guessed = images.decode_labels(without_hat * 10, encoding="auto_published")
    assert guessed[without_hat == 18].tolist() == [19] * int((without_hat == 18).sum()), "the release turns hair into hat"
    assert (images.decode_labels(without_hat * 10, encoding="times10") == without_hat).all()
    assert (images.decode_labels(labels, remap=SOF_TO_PAINTER) == SOF_TO_PAINTER[labels]).all()


def test_unknown_labels_are_refused_by_name():
    labels = some_labels()
    labels[3, 3] = 20
    refused(lambda: images.decode_labels(labels, where="a.png"), "a.png", "0..19", "found 20")
    refused(lambda: images.decode_labels(labels, encoding="times10", where="a.png"), "a.png", "multiples of 10")
    refused(lambda: images.decode_labels(np.full((2, 2), 200, np.uint8), encoding="times10", where="a.png"), "a.png", "found 20")
    refused(lambda: images.decode_labels(some_labels(), remap=SOF_TO_PAINTER[:10], where="a.png"), "a.png", "0..9")


def test_depth_is_linear_between_near_and_far_and_zero_behind():
    picture = np.array([[0, 51], [255, 1]], np.uint8)
    depth = images.decode_depth(picture, z_range=np.array([2.0, 4.5]))
    assert np.allclose(depth, [[0, 2.5], [4.5, 2 + 2.5 / 255]]) and depth[0, 0] == 0
    assert np.allclose(images.decode_depth(picture), picture / 255)
    ramp = np.arange(0, 240, 10, dtype=np.uint8)[None].repeat(24, 0)
    assert np.allclose(images.decode_depth(ramp, 12)[0] * 255, np.arange(12) * 20 + 5)      # halfway between two pixels


# Files

def test_png_round_trips_and_leaves_nothing_else(tmp_path):
    for picture in (some_labels(), some_labels(3, 12).reshape(3, 4, 3), some_labels(3, 16).reshape(3, 4, 4), some_labels(1, 1)):
        images.write_png(tmp_path / "new" / "a.png", picture)
        back = images.read_picture(tmp_path / "new" / "a.png")
        assert back.dtype == np.uint8 and (back == picture).all() and back.shape == picture.shape
    assert os.listdir(tmp_path / "new") == ["a.png"]
    assert (images.read_labels(tmp_path / "new" / "a.png", 3) == some_labels(1, 1)).all()


def test_a_failing_write_keeps_the_old_picture(tmp_path):
    images.write_png(tmp_path / "a.png", some_labels())
    with pytest.raises(AssertionError):
        images.write_png(tmp_path / "a.png", some_labels().astype(np.float32))
    assert (images.read_picture(tmp_path / "a.png") == some_labels()).all() and os.listdir(tmp_path) == ["a.png"]


def test_no_truncation_and_no_flipped_byte_changes_a_pixel_unnoticed():
    labels = some_labels()
    data = images.encode_png(labels)
    end = data.index(b"IEND") - 4                             # from here on no pixel is at stake
    for n in range(end):
        refused(lambda n=n: images.decode_picture(data[:n], "a.png"), "a.png")
        refused(lambda n=n: images.decode_picture(data[:n] + bytes([data[n] ^ 0x55]) + data[n + 1:], "a.png"), "a.png")
    refused(lambda: images.decode_picture(data[:end + 4], "a.png"), "a.png")
    refused(lambda: images.decode_picture(b"\x93NUMPY not a picture", "a.png"), "a.png")


def saved(image: Image.Image, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def test_wrong_kinds_of_picture_are_refused(tmp_path):
    gray = Image.fromarray(some_labels())
    for image, names in ((Image.fromarray(some_labels().astype(np.uint16)), ["I;16"]), (gray.convert("P"), ["'P'"]), (gray.convert("1"), ["'1'"]),
                         (Image.fromarray(some_labels(6, 12).reshape(6, 4, 3)), ["colour"])):
        (tmp_path / "a.png").write_bytes(saved(image))
        refused(lambda: images.read_labels(tmp_path / "a.png"), tmp_path / "a.png", *names)
        refused(lambda: images.read_depth(tmp_path / "a.png"), tmp_path / "a.png", *names)
    (tmp_path / "a.png").write_bytes(saved(gray.convert("RGB")))           # gray stored as RGB says the same
    assert (images.read_labels(tmp_path / "a.png") == some_labels()).all()
    (tmp_path / "a.png").write_bytes(saved(gray, "GIF"))
    refused(lambda: images.read_labels(tmp_path / "a.png"), tmp_path / "a.png")


def test_a_picture_bomb_is_refused_before_it_is_unpacked():
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10 ** 6))) + chunk(b"IEND", b"")
    refused(lambda: images.decode_picture(bomb, "a.png"), "a.png", "9000x9000")


def test_contact_sheet_places_every_picture():
    pictures = [np.full((3, 4), k, np.uint8) for k in range(5)]
    pictures[1] = np.stack([pictures[1]] * 3, -1)
    sheet = images.contact_sheet(pictures, 2, gap=1)
    assert sheet.shape == (3 * 3 + 2, 2 * 4 + 1, 3)
    for k in range(5):
        row, column = divmod(k, 2)
        assert (sheet[row * 4:row * 4 + 3, column * 5:column * 5 + 4] == k).all()
    assert (sheet[3] == 255).all() and (sheet[:, 4] == 255).all() and (sheet[8:, 5:] == 255).all()


# EG3D

def eg3d(count: int = 4) -> tuple[list[tuple[str, bytes]], Cameras]:
    rng = np.random.default_rng(1)
    pictures = [(f"0000{k % 2}/img{k}.png", images.encode_png(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))) for k in range(count)]
    cameras = Cameras(orbit(torch.linspace(-1, 1, count), torch.full((count,), 0.1), 2.7), intrinsics_matrix(4.2647).expand(count, 3, 3))
    return pictures, cameras


def test_eg3d_zip_and_folder_read_the_same_in_the_order_of_the_names(tmp_path):
    pictures, cameras = eg3d()
    images.write_eg3d_zip(tmp_path / "a.zip", iter(pictures), cameras)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {(info.compress_type, info.date_time[0]) for info in archive.infolist()} == {(zipfile.ZIP_STORED, 1980)}
        archive.extractall(tmp_path / "a")
    order = sorted(range(4), key=lambda k: pictures[k][0])
    for path in (tmp_path / "a.zip", tmp_path / "a"):
        folder = images.open_image_folder(path)
        assert folder.names == tuple(pictures[k][0] for k in order) and folder.unmatched == () and len(folder) == 4
        assert folder.labels.dtype == np.float32 and (folder.labels == eg3d_label(cameras).numpy()[order]).all()
        assert all((folder.read(i) == images.decode_picture(pictures[k][1], "")).all() for i, k in enumerate(order))
        assert images.open_image_folder(path, use_labels=False).labels is None


def test_eg3d_zip_is_a_function_of_its_content(tmp_path):
    pictures, cameras = eg3d()
    for name in "ab":
        images.write_eg3d_zip(tmp_path / f"{name}.zip", pictures, cameras)
        os.utime(tmp_path / f"{name}.zip", (0, 0))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_zip_written_again_is_read_again(tmp_path):
    for count in (4, 2):
        images.write_eg3d_zip(tmp_path / "a.zip", *eg3d(count))
        assert len(images.open_image_folder(tmp_path / "a.zip")) == count


def test_a_forked_worker_opens_the_zip_for_itself(tmp_path):
    """Two processes that share one file position read each other's bytes."""
    images.write_eg3d_zip(tmp_path / "a.zip", *eg3d())
    ours = images._archive(tmp_path / "a.zip")
    assert images._archive(tmp_path / "a.zip") is ours
    child = os.fork()
    if child == 0:
        os._exit(0 if images._archive(tmp_path / "a.zip") is not ours else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("text, names", [
    ("{", []), ("[" * 100_000, []), ("[]", []), ('{"images": []}', []), ('{"labels": [["a.png", [1, 2]]]}', ["1 of 2", "b.png"]),
    ('{"labels": [["a.png", [1, 2]], ["b.png", [1]]]}', ["equally many"]), ('{"labels": [["a.png", [1, NaN]], ["b.png", [1, 2]]]}', ["finite"]),
    ('{"labels": [["a.png", 1], ["b.png", 2]]}', ["row"]), ('{"labels": [["a.png", "xy"], ["b.png", "zw"]]}', []), ('{"labels": [1, 2]}', []),
    ("\xff\xfe", [])])
def test_broken_dataset_json(tmp_path, text, names):
    for name in "ab":
        images.write_png(tmp_path / f"{name}.png", some_labels())
    (tmp_path / "dataset.json").write_text(text, encoding="latin1")
    refused(lambda: images.open_image_folder(tmp_path), "dataset.json", *names)


def test_labels_may_be_null_but_not_missing_and_surplus_ones_are_named(tmp_path):
    refused(lambda: images.open_image_folder(tmp_path), tmp_path, "no pictures")
    images.write_png(tmp_path / "a.png", some_labels())
    refused(lambda: images.open_image_folder(tmp_path), "dataset.json", "missing")
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    assert images.open_image_folder(tmp_path).labels is None
    (tmp_path / "dataset.json").write_text('{"labels": [["b.png", [1]], ["a.png", [2]]]}')
    folder = images.open_image_folder(tmp_path)
    assert folder.unmatched == ("b.png",) and folder.labels.tolist() == [[2.0]]


def test_broken_zips(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    images.write_eg3d_zip(path, *eg3d())
    whole = path.read_bytes()
    for broken in (b"", whole[:-1], whole[:len(whole) // 2], b"not a zip" * 10):
        path.write_bytes(broken)
        refused(lambda: images.open_image_folder(path), path)
    at = whole.index(b"IDAT") + 8
    path.write_bytes(whole[:at] + b"\0\0\0" + whole[at + 3:])             # one picture damaged: its checksum tells
    os.utime(path, (1, 1))
    refused(lambda: images.open_image_folder(path).read(0), "00000/img0.png")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10 ** 6))
        archive.writestr("dataset.json", json.dumps({"labels": None}))
    os.utime(path, (2, 2))
    monkeypatch.setattr(images, "MAX_PICTURE_BYTES", 10 ** 5)
    refused(lambda: images.open_image_folder(path).read(0), "a.png", "1000000")
    with pytest.raises(FileNotFoundError):
        images.open_image_folder(tmp_path / "none.zip")
