"""Depth supervision: depth maps and their ranges on disk, and a training that learns from them."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.images import write_png
from sof import data
from tests import ellipsoids, programs
from tests.conftest import TINY, flags

RADIUS, NEAR, FAR, VIEWS = 1.2, 3.0, 5.0, 6


def sphere(k: int, side: int) -> np.ndarray:
    """Camera z (side, side) of a sphere of RADIUS about the origin from camera k of the ellipsoids, 0 where there is none."""
    cam2world = ellipsoids.poses()[k]
    plane = (np.arange(side) - side // 2) * ellipsoids.SIDE / side / ellipsoids.INTRINSIC[0, 0]
    local = np.stack([*np.meshgrid(plane, plane), np.zeros((side, side))], axis=-1)
    origins, forward = local @ cam2world[:3, :3].T + cam2world[:3, 3], cam2world[:3, 2]
    half = origins @ forward
    square = half**2 - (origins**2).sum(-1) + RADIUS**2
    return np.where(square > 0, -half - np.sqrt(square.clip(0)), 0)


def write_depth(root: Path, side: int) -> Path:
    """One head, a sphere, with depth maps whose ranges differ by view."""
    folder = root / "00000"
    ranges = np.stack([[NEAR - 0.1 * k, FAR + 0.1 * k] for k in range(VIEWS)])
    for k, (near, far) in enumerate(ranges):
        depth = sphere(k, side)
        write_png(folder / f"seg_{k:02d}.png", (depth > 0).astype(np.uint8))
        write_png(folder / f"depth_{k:02d}.png", np.where(depth > 0, ((depth - near) / (far - near) * 255).round(), 0).astype(np.uint8))
    np.save(folder / "cam2world.npy", ellipsoids.poses()[:VIEWS])
    np.save(folder / "intrinsic.npy", ellipsoids.INTRINSIC * [[side / ellipsoids.SIDE], [side / ellipsoids.SIDE], [1]])
    np.save(folder / "zRange.npy", ranges)
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return write_depth(tmp_path / "data", 32)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("side", [32, 16, 8])
def test_every_pixel_has_the_depth_of_the_surface_it_sees(root, named, side):
    """Of the pixel whose label it takes, at any side, to the step of 8 bits."""
    if named:
        ranges = np.load(root / "00000" / "zRange.npy")
        np.save(root / "00000" / "zRange.npy", {f"seg_vis_{k:02d}.png": ranges[k] for k in reversed(range(VIEWS))}, allow_pickle=True)
    views = data.load(root, side, depth="nearest", orthographic=True)
    truth = torch.from_numpy(np.stack([sphere(k, 32)[:: 32 // side, :: 32 // side] for k in range(VIEWS)])).flatten(1)
    assert views.z_depth.dtype == torch.float32 and ((views.z_depth > 0) == (truth > 0)).all() and ((views.z_depth > 0) == (views.labels > 0)).all()
    assert (views.z_depth - truth).abs().max() < 0.51 * (FAR - NEAR + 0.2 * VIEWS) / 255


def test_the_released_reader_blends_the_border_into_the_background(root):
    truth = torch.from_numpy(np.stack([sphere(k, 32)[::4, ::4] for k in range(VIEWS)])).flatten(1)
    worst = {resize: (data.load(root, 8, depth=resize, orthographic=True).z_depth - truth)[truth > 0].abs().max() for resize in ("nearest", "bilinear")}
    assert worst["nearest"] < 0.01 and worst["bilinear"] > 0.3


def test_depth_goes_where_its_label_map_goes(root):
    """Also with the release's pairing, and in what `pick` takes."""
    views = data.load(root, 32, depth="nearest", orthographic=True, published_pairing=True, observations="1-4")
    assert len(views) == 4 and [file.name for file in views.files] != [f"seg_{k:02d}.png" for k in range(1, 5)]
    some = views.pick(torch.tensor([2, 0]))
    for file, depth in zip(some.files, some.z_depth):
        assert (depth - torch.from_numpy(sphere(int(file.stem[-2:]), 32)).flatten()).abs().max() < 0.01
    assert data.load(root, 32).z_depth is None


def test_views_without_a_prefix(root):
    for k in range(VIEWS):
        (root / "00000" / f"seg_{k:02d}.png").rename(root / "00000" / f"{k:05d}.png")
        (root / "00000" / f"depth_{k:02d}.png").rename(root / "00000" / f"depth_{k:05d}.png")
    assert (data.load(root, 32, depth="nearest").z_depth > 0).any()


@pytest.mark.parametrize("name, change", [
    ("zRange.npy", lambda path: path.unlink()),
    ("zRange.npy", lambda path: np.save(path, np.tile([5.0, 3.0], (VIEWS, 1)))),
    ("zRange.npy", lambda path: np.save(path, np.full((VIEWS, 2), np.nan))),
    ("zRange.npy", lambda path: np.save(path, np.zeros((VIEWS - 1, 2)) + [3, 5])),
    ("depth_03.png", lambda path: path.unlink()),
    ("depth_03.png", lambda path: path.write_bytes(path.read_bytes()[:60])),
    ("depth_03.png", lambda path: write_png(path, np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))),
], ids=range(7))
def test_bad_depth_is_one_line(root, name, change):
    change(root / "00000" / name)
    with pytest.raises((InputError, FileNotFoundError), match=name) as error:
        data.load(root, 16, depth="nearest")
    assert "\n" not in str(error.value)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def options(tmp_path) -> dict:
    return {**TINY, "data_root": write_depth(tmp_path / "data", 16), "logging_root": tmp_path, "batch_size": 6, "sample_observations_train": "0-5",
            "no_validation": True, "pictures_every": 0, "log_every": 1, "max_steps": 40}


def test_depth_is_learned(options, tmp_path):
    """The term falls to a small part of a unit; not so unsupervised, whose end points only have to be classified rightly."""
    done = programs.run(tmp_path, "sof/train.py", *flags({**options, "name": "deep", "geo_weight": 500}))
    assert done.code == 0, done.err
    depth = [line["depth"] / 500 for line in log_of(tmp_path / "deep")]
    assert depth[-1] < 0.25 * depth[0] and depth[-1] < 0.03, depth


def test_a_resumed_training_with_depth_is_the_same_to_the_bit(options, tmp_path):
    names = {"whole": [8], "halves": [3, 8]}
    for name, stops in names.items():
        for stop in stops:
            told = {**options, "name": name, "geo_weight": 10, "max_steps": stop, "lr_final": 1.0, "steps_til_ckpt": 100}
            assert programs.run(tmp_path, "sof/train.py", *flags(told)).code == 0
    a, b = (torch.load(tmp_path / name / "checkpoints" / "step_00000008.pt", weights_only=True)["state"] for name in names)
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
    assert [line["depth"] for line in log_of(tmp_path / "whole")] == [line["depth"] for line in log_of(tmp_path / "halves")]


def test_the_released_loss_in_chunks_is_one_line(options, tmp_path):
    told = {**options, "name": "run", "geo_weight": 1, "published_depth_loss": True, "max_steps": 2}
    done = programs.run(tmp_path, "sof/train.py", *flags(told))
    assert done.code == 2 and done.err.count("\n") == 1 and "--published_depth_loss" in done.err and "--ray_chunk 0" in done.err, done.err
    done = programs.run(tmp_path, "sof/train.py", *flags({**told, "ray_chunk": 0}))
    assert done.code == 0 and log_of(tmp_path / "run")[-1]["depth"] > 0, done.err


def test_flat_folders_have_no_depth(options, tmp_path):
    write_png(tmp_path / "flat" / "a.png", np.eye(16, dtype=np.uint8))
    done = programs.run(tmp_path, "sof/train.py", *flags({**options, "name": "no", "geo_weight": 1, "data_root": tmp_path / "flat"}))
    assert done.code == 2 and "--geo_weight" in done.err and done.err.count("\n") == 1, done.err
