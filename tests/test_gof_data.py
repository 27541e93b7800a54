"""Pictures of GOF's data sets: the transforms against torchvision's own, batches from folders and zips, what is kept and decoded ahead, bad files."""
from __future__ import annotations

import io
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode

from common.errors import InputError
from common.images import decode_rgb, encode_png
from gof import data
from gof.data import TRANSFORMS, Pictures, normalise, read_truth

NONE = torch.tensor([False])
TENSOR = [tv.ToTensor(), tv.Normalize((0.5,) * 3, (0.5,) * 3)]
CROPS = {"celeba": [tv.Resize(320), tv.CenterCrop(256)], "bfm": [tv.CenterCrop(170)]}


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, channels), np.uint8)


def published(name: str, picture: np.ndarray, side: int, flip: bool) -> torch.Tensor:
    """What the release composes of torchvision's transforms, in its order."""
    mirror = [tv.RandomHorizontalFlip(float(flip))]
    if name in CROPS:
        steps = CROPS[name] + TENSOR + mirror + [tv.Resize((side, side), InterpolationMode.NEAREST)]
    else:
        steps = [tv.Resize((side, side), InterpolationMode.NEAREST)] + TENSOR + mirror * (name == "cats")
    return tv.Compose(steps)(Image.fromarray(picture))


def folder(path: Path, pictures: dict[str, np.ndarray]) -> Path:
    for name, picture in pictures.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path / name, quality=95)
    return path


@pytest.mark.parametrize("name, sizes", [
    ("celeba", [(218, 178), (109, 89), (178, 218), (33, 500)]), ("bfm", [(170, 170), (190, 180), (173, 171), (171, 256)]),
    ("cats", [(50, 70), (64, 64), (7, 5), (301, 97)]), ("carla", [(40, 40), (67, 33)])])
def test_transforms_are_torchvisions(name, sizes):
    transform = TRANSFORMS[name]
    for height, width in sizes:
        for side in (16, 32, 48, 61, 128):
            for flip in (False, True):
                picture = noise(height, width)
                ours = normalise(transform.resize(transform.crop(picture), side, flip))
                assert torch.equal(ours, published(name, picture, side, flip and name != "carla")), (height, width, side, flip)


def test_people_are_averaged():
    picture = noise(48, 48)
    crop, resize = TRANSFORMS["people"]
    means = picture.reshape(16, 3, 16, 3, 3).mean((1, 3))
    assert np.abs(resize(crop(picture), 16, False) - means).max() < 1
    assert np.array_equal(resize(picture, 48, False), picture) and np.array_equal(resize(picture, 16, True), resize(picture, 16, False)[:, ::-1])


def test_batches_of_a_folder_and_of_its_zip(tmp_path):
    """In the order of the names, wherever they lie; the zip of a folder is the same data set; values in [-1, 1]."""
    pictures = {f"{k % 2}/{k}.png": noise(32, 32, seed=k) for k in range(5)}
    pictures["0/0.png"][:] = 0
    pictures["1/3.png"][:] = 255
    root = folder(tmp_path / "folder", pictures)
    archive = shutil.make_archive(str(tmp_path / "pictures"), "zip", root)
    names = sorted(pictures)
    indices, flips = torch.tensor([4, 0, 2, 4]), torch.tensor([False, False, True, True])
    expected = torch.stack([normalise(pictures[names[i]][:, ::-1] if flip else pictures[names[i]]) for i, flip in zip(indices, flips)])
    for place in (root, archive):
        found = Pictures(place, "people")
        batch = found.batch(indices, 32, flips)
        assert len(found) == 5 and batch.dtype == torch.float32 and batch.shape == (4, 3, 32, 32) and torch.equal(batch, expected)
    assert (batch[1] == -1).all() and (batch[3] == 1).all() and batch.is_contiguous()


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_expecting_changes_nothing(tmp_path, cache_bytes):
    """Whether the next batch was expected, another was, or none: the same numbers."""
    root = folder(tmp_path, {f"{k}.png": noise(40, 40, seed=k) for k in range(6)})
    requests = [(torch.randint(6, (3,)), side, torch.rand(3) < 0.5) for side in (16, 16, 20, 40, 20)]
    plain, ahead = Pictures(root, "people", cache_bytes=cache_bytes), Pictures(root, "people", threads=1, cache_bytes=cache_bytes)
    for k, request in enumerate(requests):
        ahead.expect(*request) if k != 2 else ahead.expect(*requests[0])
        assert torch.equal(ahead.batch(*request), plain.batch(*request))


def test_what_fits_is_decoded_once_and_by_threads(tmp_path, monkeypatch):
    root = folder(tmp_path, {f"{k}.png": noise(16, 16, seed=k) for k in range(4)})
    decoded, where = [], set()
    monkeypatch.setattr(data, "decode_rgb", lambda *given: (decoded.append(given[1]), where.add(threading.current_thread().name), decode_rgb(*given))[-1])
    every = torch.arange(4), 16, torch.zeros(4, dtype=torch.bool)
    for cache_bytes, more in ((4 * 16 * 16 * 3, 0), (4 * 16 * 16 * 3 - 1, 4)):
        pictures = Pictures(root, "people", cache_bytes=cache_bytes)
        pictures.batch(*every)
        before = len(decoded)
        pictures.batch(*every)
        assert len(decoded) - before == more
    assert any(name.startswith("pictures") for name in where)


def test_pictures_of_every_mode(tmp_path):
    """Gray is gray in three channels, palettes are their colours, what is transparent is white."""
    color = noise(8, 8)
    half = np.concatenate([color, np.full((8, 8, 1), 255, np.uint8)], axis=2)
    half[:4, :, 3] = 0
    image = Image.fromarray(color)
    files = {"rgb.png": image, "alpha.png": Image.fromarray(half), "gray.png": image.convert("L"), "palette.png": image.quantize(256)}
    files |= {"black.bmp": image.convert("1"), "gray_alpha.png": Image.fromarray(half).convert("LA"), "print.tif": image.convert("CMYK")}
    for name, picture in files.items():
        picture.save(tmp_path / name)
    read = {name: decode_rgb((tmp_path / name).read_bytes(), name) for name in files}
    assert all(picture.shape == (8, 8, 3) and picture.dtype == np.uint8 for picture in read.values())
    assert np.array_equal(read["rgb.png"], color) and np.array_equal(read["palette.png"], np.array(image.quantize(256).convert("RGB")))
    assert (read["alpha.png"][:4] == 255).all() and np.array_equal(read["alpha.png"][4:], color[4:])
    assert (read["gray_alpha.png"][:4] == 255).all() and (read["gray.png"] == np.array(image.convert("L"))[..., None]).all()
    assert np.abs(read["print.tif"].astype(int) - color).max() <= 1
    assert Pictures(tmp_path, "people").batch(torch.arange(7), 8, torch.zeros(7, dtype=torch.bool)).shape == (7, 3, 8, 8)
    deep = io.BytesIO()
    Image.fromarray(noise(8, 8)[..., 0].astype(np.uint16) * 256).save(deep, "PNG")
    with pytest.raises(InputError, match=r"deep\.png: pixels of mode 'I;16'"):
        decode_rgb(deep.getvalue(), "deep.png")


@pytest.mark.parametrize("size, transform, side, words", [
    ((169, 200), "bfm", 32, "1.png: 200x169 pixels, expected 170x170 or more"), ((32, 30), "people", 16, "1.png: 30x32 pixels, expected a square"),
    ((16, 16), "people", 32, "1.png: 16 pixels a side, fewer than the 32 asked for")])
def test_a_picture_that_does_not_fit(tmp_path, size, transform, side, words):
    """Refused by name: the first one at once, another when it is read."""
    good = noise(170, 170)
    with pytest.raises(InputError, match=words):
        Pictures(folder(tmp_path / "first", {"1.png": noise(*size), "2.png": good}), transform).batch(torch.tensor([0]), side, NONE)
    later = Pictures(folder(tmp_path / "later", {"0.png": good, "1.png": noise(*size)}), transform)
    later.expect(torch.tensor([1]), side, NONE)
    with pytest.raises(InputError, match=words):
        later.batch(torch.tensor([1]), side, NONE)
    assert later.batch(torch.tensor([0]), side, NONE).shape == (1, 3, side, side)


def test_bad_data(tmp_path):
    (tmp_path / "empty").mkdir()
    broken = folder(tmp_path / "broken", {"0.png": noise(8, 8), "1.png": noise(8, 8)})
    (broken / "1.png").write_bytes((broken / "1.png").read_bytes()[:-30])
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    for root, transform, words in ((tmp_path / "empty", "people", "empty: no pictures"), (tmp_path / "cut.zip", "people", "cut.zip: broken"),
                                   (broken, "celebs", "--transform: no transform 'celebs'")):
        with pytest.raises(InputError, match=words):
            Pictures(root, transform)
    with pytest.raises(InputError, match=r"broken/1\.png: broken"):
        Pictures(broken, "cats").batch(torch.tensor([0, 1]), 8, torch.tensor([False, True]))
    with pytest.raises(FileNotFoundError):
        Pictures(tmp_path / "nowhere", "cats")


def test_truth_beside_a_picture(tmp_path):
    depth, normals, file = np.random.rand(4, 4).astype(np.float32), np.random.rand(4, 4, 3).astype(np.float16), io.BytesIO()
    np.savez(file, depth=depth, normals=normals)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for name, content in (("0/a.png", encode_png(noise(4, 4))), ("0/a.npz", file.getvalue()), ("0/b.png", encode_png(noise(4, 4)))):
            archive.writestr(name, content)
        archive.writestr("1/c.png", encode_png(noise(4, 4)))
        archive.writestr("1/c.npz", file.getvalue()[:50])
    pictures = Pictures(tmp_path / "pictures.zip", "people").folder
    truth = read_truth(pictures, 0)
    assert torch.equal(truth["depth"], torch.from_numpy(depth)) and torch.equal(truth["normals"], torch.from_numpy(normals).float())
    for i, name in ((1, "0/b.png"), (2, "1/c.png")):
        with pytest.raises(InputError, match=f"{name}: no depth and normals"):
            read_truth(pictures, i)
