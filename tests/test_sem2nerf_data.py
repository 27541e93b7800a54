"""Sem2NeRF's label maps, contours, poses, patches and files: closed forms, brute force, and what it refuses."""
from __future__ import annotations

import heapq
import io
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from common.cameras import pigan_cameras, project
from common.errors import InputError
from common.images import read_picture, write_png
from sem2nerf import build_masks
from sem2nerf.contours import contour_map, distance_map
from sem2nerf.data import LAYOUTS, Faces, View, find, find_masks, own_split, planes_of, published_crop, read_labels
from sem2nerf.labels import CELEBA_LABELS, MERGES, PALETTES, SOF_TO_CELEBA, classes, color_table, colored, merge, palette
from sem2nerf.patches import crop, diagonal_shifts, free_shifts, least_scale, patch_rays, pattern, scales_of, whole_rays
from sem2nerf.pictures import Crop, encoder_input, label_planes, normalise, overlay, published_row, resized_labels, resized_picture, rounded
from sem2nerf.poses import RANGES, draw_random, novel_angles, parse_poses, picture_number, pose_of, trajectory
from tests import programs
from tests.sem2nerf_faces import face, write_faces

CELEBA = LAYOUTS["celebahq_seg_to_3dface"]
VIEW = View("CelebAMask_HQ", 16, side=32, target=24)


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("some faces"))


# --- labels -------------------------------------------------------------------------------------------------------------------------------

def test_left_and_right_merge():
    name = CELEBA_LABELS.index
    merged = merge(np.arange(19, dtype=np.uint8)[None], "CelebAMask_HQ")[0]
    for left, right in (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")):
        assert merged[name(left)] == merged[name(right)]
    assert len(set(merged.tolist())) == 16 == classes("CelebAMask_HQ", True) and merged[0] == 0
    assert (np.diff(MERGES["CelebAMask_HQ"]) >= 0).all()


def test_a_colour_for_each_label():
    for (env, count), colors in PALETTES.items():
        assert len(colors) == count in (classes(env, True), classes(env, False))
    with pytest.raises(InputError, match="--label_nc 5"):
        palette("CatMask", 5)
    table = color_table("CatMask", 16)
    assert torch.equal(table[1], table[4]) and not torch.equal(color_table("CatMask", 16, published=True)[1], table[1])
    assert torch.equal(colored(torch.tensor([[[2]]]), table)[0, :, 0, 0], table[2])


def test_parsers_labels_as_celeba():
    from common.labels import SOF_LABELS

    for label, name in enumerate(SOF_LABELS):
        assert CELEBA_LABELS[SOF_TO_CELEBA[label]] == ("nose" if name in ("l_nose", "r_nose") else name)


# --- contours -----------------------------------------------------------------------------------------------------------------------------

def outlines(labels: np.ndarray) -> np.ndarray:
    """Per label: its region with holes filled, the border of that, three pixels wide."""
    from scipy import ndimage

    diamond = np.abs(np.mgrid[-2:3, -2:3]).sum(axis=0) <= 2
    lines = np.zeros(labels.shape, bool)
    for label in set(np.unique(labels)) - {0}:
        filled = ndimage.binary_fill_holes(labels == label)
        lines |= ndimage.binary_dilation(filled & ~ndimage.binary_erosion(filled, border_value=0), diamond)
    return 255 * lines.astype(np.uint8)


def test_contours_are_the_borders_of_filled_regions():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    for _ in range(5):
        labels = ndimage.gaussian_filter(rng.standard_normal((5, 200, 200)), (0, 12, 12)).argmax(0).astype(np.uint8)
        wrong = (contour_map(labels) != outlines(labels))
        assert not wrong[3:-3, 3:-3].any() and wrong.sum() < 10
    assert (contour_map(face(0, 256)) == outlines(face(0, 256))).all()


def test_a_hole_has_no_contour_of_its_own():
    y, x = np.mgrid[:60, :60] - 30
    ring = ((np.hypot(x, y) < 25) & (np.hypot(x, y) > 10)).astype(np.uint8)
    assert not contour_map(ring)[20:40, 20:40].any() and contour_map(ring).any()


def test_what_is_published_leaves_out_the_smallest_label():
    labels = np.full((40, 40), 3, np.uint8)
    labels[10:30, 10:30] = 5
    assert contour_map(labels)[0, 0] == 255 and contour_map(labels, published=True)[0, 0] == 0
    assert not contour_map(np.zeros((9, 9), np.uint8)).any() and not contour_map(np.full((9, 9), 4, np.uint8), published=True).any()


def test_distances_by_dijkstra():
    contours = np.zeros((17, 23), np.uint8)
    contours[4, 5], contours[12, 20], contours[9, 2:6] = 255, 255, 255
    known, queue = {}, [(0.0, int(y), int(x)) for y, x in np.argwhere(contours)]
    while queue:
        far, y, x = heapq.heappop(queue)
        if (y, x) in known or not (0 <= y < 17 and 0 <= x < 23):
            continue
        known[y, x] = far
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if dy or dx:
                    heapq.heappush(queue, (far + (1.3693 if dy and dx else 0.955), y + dy, x + dx))
    expected = np.array([[known[y, x] for x in range(23)] for y in range(17)])
    assert np.abs(distance_map(contours) - 255 * expected / expected.max()).max() <= 1.01
    assert (distance_map(np.zeros((5, 5), np.uint8)) == 255).all()


# --- planes and targets -------------------------------------------------------------------------------------------------------------------

def test_planes_are_one_hot_contours_and_distances():
    labels = merge(face(1, 64), "CelebAMask_HQ")
    planes = planes_of(labels, VIEW, "here")
    x = encoder_input(torch.from_numpy(planes)[None], 16)[0]
    assert x.shape == (18, 32, 32) and (x[:16].sum(0) == 1).all() and torch.equal(x[:16].argmax(0), torch.from_numpy(planes[0]).long())
    assert x[16:].min() == 0 and x[16:].max() == 1 and encoder_input(torch.from_numpy(planes[:1])[None], 16).shape[1] == 16
    with pytest.raises(InputError, match=r"here.*0..15"):
        label_planes(np.full((4, 4), 16, np.uint8), 16, where="here")


def test_nearest_is_pillows():
    """The source index is the whole part of a running sum, whose rounding decides ties."""
    labels = np.arange(250, dtype=np.uint8)[None].repeat(250, axis=0)
    at, scale, index = 250 / 224 / 2, 250 / 224, []
    for _ in range(224):
        index.append(int(at))
        at += scale
    assert resized_labels(labels, None, 224)[0].tolist() == index


def test_the_middle_is_seen():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[10:90, 10:90] = 255
    assert (resized_picture(picture, Crop(100, 80), 80) == 255).all()
    assert published_crop(CELEBA, 128) == Crop(320, 256) and published_crop(CELEBA, 512) == Crop(640, 512)
    assert published_crop(LAYOUTS["catmask_seg_to_3dface"], 512) is None
    assert normalise(picture).min() == -1 and normalise(picture).max() == 1


def test_shown_pictures():
    ramp = torch.linspace(-1, 1, 256).expand(3, 1, 256)
    assert (rounded(ramp)[0, :, 0] == np.arange(256)).all()
    assert published_row(0.5 * ramp[None]).max() == 255                        # stretched to the full range
    assert np.abs(overlay(ramp, -ramp, 0.25)[0, :, 0] - (0.25 * np.arange(256) + 0.75 * np.arange(255, -1, -1))).max() <= 1.5


# --- poses --------------------------------------------------------------------------------------------------------------------------------

def test_pose_files():
    degrees = "2\n\nyaw pitch roll\n0.jpg 0 0 3\n\n7.jpg 10.0 -20.0 1\n"
    poses = parse_poses(degrees, "CelebAMask_HQ")
    assert poses[0] == (math.pi / 2, math.pi / 2) and poses[7] == (math.radians(70), math.radians(80))
    assert pose_of(poses, "7_eye.png", "file") == poses[7] == pose_of(poses, "00007.jpg", "file")
    assert parse_poses("head\n3.png 1.5 1.25\n", "CatMask") == {3: (1.25, 1.5)}
    assert picture_number("some/where/419_eye.png") == 419
    for bad in ("a\nb\n1.jpg 3\n", "a\nb\nx.jpg 3 4 5\n", "a\nb\n1.jpg nan 4 5\n"):
        with pytest.raises(InputError, match="is no pose"):
            parse_poses(bad, "CelebAMask_HQ", "file")
    for name in ("8.png", "face.png"):
        with pytest.raises(InputError, match=f"file: no pose of {name}"):
            pose_of(poses, name, "file")


def test_random_cameras_stand_aside():
    for env, (h_range, v_range) in RANGES.items():
        angles = draw_random(400, env, torch.Generator().manual_seed(0)) - math.pi / 2
        pitch, yaw = angles.abs().unbind(-1)
        sideways = pitch == 0
        assert torch.equal(yaw == 0, ~sideways) and 100 < sideways.sum() < 300
        assert h_range[0] <= yaw[sideways].min() and yaw[sideways].max() <= h_range[1]
        assert v_range[0] <= pitch[~sideways].min() and pitch[~sideways].max() <= v_range[1]
        assert {(int(sign[0]), int(sign[1])) for sign in angles.sign()} == {(0, 1), (0, -1), (1, 0), (-1, 0)}


def test_ways_of_the_camera():
    front, orbit = trajectory("front", 9, 12.0), trajectory("orbit", 9, 12.0)
    torch.testing.assert_close(front[0], front[-1])
    assert front[:, 2].min() >= 12 and front[:, 2].max() <= 22 and (orbit[:, 2] == 12).all()
    assert novel_angles("CatMask").shape == (5, 2)
    with pytest.raises(InputError, match="--trajectory"):
        trajectory("spiral", 9, 12.0)


# --- patches ------------------------------------------------------------------------------------------------------------------------------

def test_patches_shrink():
    scales = [least_scale(step, 0.0019, 0.125, 1.0) for step in (0, 18_999, 122_000, 366_000, 10**6)]
    assert scales[:2] == [0.9, 0.9] and scales[2] == pytest.approx(0.5, abs=0.01) and scales[3:] == [0.125, 0.125]
    assert least_scale(0, 0.0, 0.25, 0.75) == 0.25
    assert scales_of(torch.tensor([0.0, 1.0]), 0.5, 1.0).tolist() == [0.5, 1.0]


def test_patches_stay_inside_and_reach_the_corners():
    u = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    scales = scales_of(u[:, 0], 0.125, 1.0)
    free, diagonal = free_shifts(u[:, 1:], scales), diagonal_shifts(u[:, 1], (u[:, 2] < 0.5).float(), scales)
    for shifts in (free, diagonal):
        grid = pattern(3, scales, shifts)
        assert grid.abs().max() <= 1 + 1e-6
    assert torch.equal(diagonal[:, 0], diagonal[:, 1]) and abs(torch.corrcoef(free.T)[0, 1]) < 0.06
    assert {(int(x), int(y)) for x, y in free.sign()} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}


def test_rays_and_targets_are_cropped_alike():
    """A picture that shows each pixel's own direction: its crop is the patch's directions."""
    side, angles = 24, torch.tensor([[1.4, 1.8], [1.6, 1.2]])
    cameras = pigan_cameras(angles, 12.0, side)
    grid = pattern(7, torch.tensor([0.4, 0.9]), torch.tensor([[0.3, -0.5], [0.05, 0.1]]))
    origins, directions = patch_rays(cameras, side, grid)
    whole = whole_rays(cameras, side)[1].transpose(1, 2).unflatten(2, (side, side))
    torch.testing.assert_close(directions, crop(whole, grid).flatten(2).transpose(1, 2))
    uv, _ = project(cameras, origins + directions)
    expected = (grid.flatten(1, 2) * (1 - 1 / side) + 1) / 2                   # -1 and 1 are the centres of the first and last pixel
    torch.testing.assert_close(uv, expected, atol=2e-4, rtol=0)
    everything = pattern(side, torch.ones(2))
    torch.testing.assert_close(patch_rays(cameras, side, everything)[1], whole_rays(cameras, side)[1], atol=1e-5, rtol=0)


# --- files --------------------------------------------------------------------------------------------------------------------------------

def test_a_data_set_as_published(faces, tmp_path):
    conf = tmp_path / "train_paths.txt"
    conf.write_text("2\n\n 4\n")
    two = find(faces, CELEBA, "train", str(conf))
    assert [each.name for each in two] == ["2", "4"] and two[0].angles == pytest.approx((math.radians(90 - 0.5), math.radians(90)))
    batch = Faces(two, VIEW).batch(torch.tensor([1, 0, 1]))
    assert batch["planes"].shape == (3, 3, 32, 32) and batch["targets"].shape == (3, 3, 24, 24) and batch["angles"].dtype == torch.float64
    assert torch.equal(batch["targets"][0], batch["targets"][2]) and not torch.equal(batch["targets"][0], batch["targets"][1])


def test_what_is_expected_is_what_is_given(faces, capsys):
    dataset = Faces(find(faces, CELEBA, "train"), VIEW, cache_bytes=0)
    assert "split of our own" in capsys.readouterr().out
    plain = dataset.batch(torch.tensor([0, 2]))
    dataset.expect(torch.tensor([0, 2]))
    for key, value in dataset.batch(torch.tensor([0, 2])).items():
        assert torch.equal(value, plain[key])
    dataset.expect(torch.tensor([1]))
    assert torch.equal(dataset.batch(torch.tensor([2]))["planes"][0], plain["planes"][1])


def test_our_split_keeps_edited_masks_together():
    names = [f"{i}" for i in range(300)] + [f"{i}_eye" for i in range(0, 300, 7)]
    train, test = own_split(names, "train"), own_split(names, "test")
    assert sorted(train + test) == sorted(names) and not {n.partition("_")[0] for n in train} & {n.partition("_")[0] for n in test}
    assert len({n.partition("_")[0] for n in test}) == 20


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_masks_in_grey_or_colour(tmp_path, mode):
    Image.fromarray(face(2, 48)).convert(mode).save(tmp_path / "2.png")
    labels = read_labels(find_masks(tmp_path / "2.png")[0], VIEW)
    assert np.array_equal(labels, merge(face(2, 48), "CelebAMask_HQ"))


def damaged(root, what: str):
    """What is wrong with a data set of faces, and the words that say so."""
    if what == "unknown label":
        labels = face(0, 64)
        labels[0, 0] = 19
        write_png(root / "masks" / "0.png", labels)
        return root / "masks" / "0.png", "19"
    if what == "wrong size":
        write_png(root / "masks" / "0.png", np.zeros((20, 30), np.uint8))
        return root / "masks" / "0.png", "30x20"
    if what == "colours":
        write_png(root / "masks" / "0.png", np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
        return root / "masks" / "0.png", "gray"
    if what == "broken":
        (root / "masks" / "0.png").write_bytes(b"\x89PNG nothing")
        return root / "masks" / "0.png", "whole picture"
    if what == "no picture":
        (root / "CelebA-HQ-img" / "3.png").unlink()
        return root / "CelebA-HQ-img", "3"
    if what == "no poses":
        (root / CELEBA.poses).unlink()
        return root / CELEBA.poses, "No such file"
    (root / CELEBA.poses).write_text("2\nyaw\n1.jpg 0 0 0\n")
    return root / CELEBA.poses, "no pose of 0"


@pytest.mark.parametrize("what", ["unknown label", "wrong size", "colours", "broken", "no picture", "no poses", "one pose"])
def test_damaged_data_is_refused_by_name(tmp_path, what):
    root = write_faces(tmp_path / "faces")
    conf = tmp_path / "list.txt"
    conf.write_text("0\n3\n")
    words = damaged(root, what)
    with pytest.raises(InputError) as error:
        Faces(find(root, CELEBA, "train", str(conf)), VIEW).batch(torch.tensor([0, 1]))
    assert all(re.search(re.escape(str(word)), str(error.value)) for word in words) and "\n" not in str(error.value)


def test_lists_and_folders_that_are_not_there(faces, tmp_path):
    for text, words in (("", "empty"), ("99\n", "99")):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(InputError, match=words):
            find(faces, CELEBA, "train", str(tmp_path / "list.txt"))
    with pytest.raises(InputError, match="nowhere"):
        find(tmp_path / "nowhere", CELEBA, "train")
    with pytest.raises(InputError, match="no mask 99"):
        find_masks(faces / "masks", str(tmp_path / "list.txt"))
    assert [each.name for each in find_masks(faces / "masks")] == [str(i) for i in range(6)]


# --- build_masks.py -----------------------------------------------------------------------------------------------------------------------

def test_parts_become_masks(tmp_path):
    folder = tmp_path / "data" / build_masks.PARTS
    for part, mode, rows in (("skin", "RGB", slice(0, 6)), ("hair", "L", slice(4, 9)), ("l_eye", "P", slice(1, 2))):
        layer = np.zeros((10, 10), np.uint8)
        layer[rows] = 255
        (folder / "3").mkdir(parents=True, exist_ok=True)
        Image.fromarray(layer).convert(mode).save(folder / "3" / f"00012_{part}.png")
    for _ in range(2):                                                         # a second time there is nothing to do
        done = programs.run(tmp_path / "elsewhere", "sem2nerf/build_masks.py", "--data_path", tmp_path / "data")
        assert done.code == 0, done.err
    labels = read_picture(tmp_path / "data" / "masks" / "12.png")
    assert labels[:, 0].tolist() == [1, 4, 1, 1, 13, 13, 13, 13, 13, 0]
    Image.fromarray(layer).save(folder / "3" / "00012_wings.png")
    programs.refused(programs.run(tmp_path, "sem2nerf/build_masks.py", "--data_path", tmp_path / "data"), "00012_wings.png")
    programs.refused(programs.run(tmp_path, "sem2nerf/build_masks.py", "--data_path", tmp_path / "none"), build_masks.PARTS)


def test_parts_of_two_sizes(tmp_path):
    def stored(side: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.zeros((side, side), np.uint8)).save(file, "PNG")
        return file.getvalue()

    with pytest.raises(InputError, match="hair: 5x5"):
        build_masks.combine({"skin": stored(4), "hair": stored(5)})
