"""OP3D's pictures, labels, cameras and volumes."""
from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch

from common.cameras import Cameras, eg3d_label, from_eg3d_label, project
from common.errors import InputError
from common.images import encode_png, write_eg3d_zip
from op3d.cameras import FOV, eg3d_cam2world, eg3d_cameras, eg3d_intrinsics
from op3d.data import Pictures, normalised, published_order, to_pixels
from op3d.shapes import grid_lattice, grid_points, published_volume


def cameras(count: int) -> Cameras:
    return eg3d_cameras(torch.linspace(1.0, 2.0, count), torch.linspace(1.4, 1.7, count), (0, 0, 0.2), 2.7)


def write(path, count: int = 5, sides=(8,)):
    random = np.random.RandomState(0)
    pictures = [random.randint(0, 256, (sides[i % len(sides)],) * 2 + (3,)).astype(np.uint8) for i in range(count)]
    write_eg3d_zip(path, ((f"{i:02d}.png", encode_png(picture)) for i, picture in enumerate(pictures)), cameras(count))
    return path, pictures


def test_pictures_come_with_their_labels(tmp_path):
    path, written = write(tmp_path / "set.zip")
    pictures = Pictures(path)
    indices = torch.tensor([3, 0, 3])
    pictures.expect(indices)
    reals, labels = pictures.batch(indices)
    torch.testing.assert_close(reals, normalised(np.stack([written[i] for i in (3, 0, 3)])))
    assert (to_pixels(reals) == np.stack([written[i] for i in (3, 0, 3)])).all()
    torch.testing.assert_close(labels, eg3d_label(cameras(5))[indices])
    assert Pictures(path, use_labels=False).batch(indices)[1].shape == (3, 0)


def test_mirrored_pictures_have_mirrored_cameras(tmp_path):
    path, written = write(tmp_path / "set.zip")
    pictures, points = Pictures(path, mirror=True), torch.randn(1, 20, 3) * 0.2
    assert len(pictures) == 10 and (pictures.picture(7) == written[2][:, ::-1]).all()
    plain, mirrored = (from_eg3d_label(torch.from_numpy(pictures.labels[[i]])) for i in (2, 7))
    (uv, depth), (mirror_uv, mirror_depth) = project(plain, points), project(mirrored, points * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(mirror_uv, torch.stack([1 - uv[..., 0], uv[..., 1]], dim=-1))
    torch.testing.assert_close(mirror_depth, depth)
    left = Pictures(path, mirror=True, published_mirror=True)
    assert (left.labels[7] == left.labels[2]).all()


def test_some_of_them(tmp_path):
    path, _ = write(tmp_path / "set.zip")
    some = Pictures(path, max_size=3, seed=1, mirror=True)
    assert len(some) == 6 and (np.diff(some.index[:3]) > 0).all() and (some.index[:3] == some.index[3:]).all()
    assert (Pictures(path, max_size=3, seed=1).index == some.index[:3]).all() and len(Pictures(path, max_size=30)) == 5


def test_pictures_of_two_sizes_are_refused(tmp_path):
    path, _ = write(tmp_path / "set.zip", sides=(8, 10))
    with pytest.raises(InputError, match=r"01\.png: 10 pixels a side, expected 8"):
        Pictures(path).batch(torch.tensor([0, 1]))


def test_the_published_order_is_a_fair_one():
    order = list(islice(published_order(11, seed=4), 1100))
    assert np.bincount(order).min() > 60 and order[:11] != sorted(order[:11])
    parts = [list(islice(published_order(11, rank, 2, seed=4), 550)) for rank in (0, 1)]
    assert [i for pair in zip(*parts) for i in pair] == order
    assert list(islice(published_order(4, shuffle=False), 6)) == [0, 1, 2, 3, 0, 1]


def test_cameras_stand_on_their_sphere():
    cam2world = eg3d_cam2world(torch.tensor([math.pi / 2, 0.3, 2.0]), torch.tensor([math.pi / 2, 1.0, -5.0]), (0, 0, 0.2), 2.7)
    torch.testing.assert_close(cam2world[:, :3, 3].norm(dim=-1), torch.full((3,), 2.7))
    torch.testing.assert_close(cam2world[0], torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]]), atol=1e-6, rtol=0)
    toward = torch.nn.functional.normalize(torch.tensor([0, 0, 0.2]) - cam2world[:, :3, 3], dim=-1)
    torch.testing.assert_close(cam2world[:, :3, 2], toward)
    assert float(torch.arccos(cam2world[1, 1, 3] / 2.7)) == pytest.approx(math.acos(1 - 2 / math.pi), rel=1e-5)
    assert float(eg3d_intrinsics(FOV)[0, 0]) == pytest.approx(4.2634, abs=1e-3)


def test_the_grid_and_the_published_one():
    corner, spacing = grid_lattice(5, 2.0)
    right, published = (grid_points(5, 2.0, published=published).view(5, 5, 5, 3) for published in (False, True))
    torch.testing.assert_close(right[1, 2, 3], corner + spacing * torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(right[0, 0, 0], torch.full((3,), -1.0))
    torch.testing.assert_close(right[-1, -1, -1], torch.full((3,), 1.0))
    torch.testing.assert_close(published[..., 2], right[..., 2])
    torch.testing.assert_close(published[1, 2, 3, 1] - right[1, 2, 3, 1], torch.tensor(3 / 5 * spacing))       # y has crept on


def test_the_published_volume_is_turned_and_bordered():
    values = torch.rand(64, 64, 64)
    volume = published_volume(values)
    assert torch.equal(volume[7:-7, 7:-7, 7:-7], values.flip(0)[7:-7, 7:-7, 7:-7]) and (volume[6] == -1000).all() and (volume[..., -7:] == -1000).all()
