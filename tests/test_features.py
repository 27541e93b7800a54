"""Features: what the networks see, what is kept of real pictures, and what is said when weights are missing."""
from __future__ import annotations

import os
import pickle
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common import features, parser
from common.errors import InputError
from common.features import Extractor, PictureSet, content_key, digest, extract, inception_weights, open_extractor, real_features, stored_pictures, to_uint8
from common.images import open_image_folder, write_png


def pictures(seed: int, n: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


class Corners:
    """An extractor of two pixels, which counts the pictures that it was shown."""

    def __init__(self):
        self.shown = 0

    def __call__(self, some: np.ndarray) -> dict:
        self.shown += len(some)
        return {"features": torch.from_numpy(np.concatenate([some[:, 0, 0], some[:, -1, -1]], axis=1)).float()}

    def extractor(self, version: str = "1") -> Extractor:
        return Extractor("corners", version, torch.device("cpu"), self)


@pytest.fixture
def folder(tmp_path) -> Path:
    for i, picture in enumerate(pictures(0, 70)):
        write_png(tmp_path / "a set" / f"{i:03d}.png", picture)
    return tmp_path / "a set"


# What a network sees

def test_uint8_is_what_a_png_would_hold():
    floats = torch.linspace(-1.2, 1.2, 3 * 16 * 16).view(1, 3, 16, 16)
    got = to_uint8(floats)
    assert got.shape == (1, 16, 16, 3) and got.dtype == np.uint8 and got.min() == 0 and got.max() == 255
    expected = np.floor(np.clip((floats.double().numpy() + 1) / 2, 0, 1) * 255 + 0.5).transpose(0, 2, 3, 1)
    assert np.array_equal(got, expected)
    every = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert np.array_equal(to_uint8(every / 127.5 - 1)[0, ..., 0], every[0, 0])            # uint8 there and back


def test_batches_join_in_order():
    some = pictures(1, 11)
    got = extract([some[:4], some[4:5], some[5:]], Corners().extractor(), 11)
    assert np.array_equal(got["features"][:, :3], some[:, 0, 0]) and got["size"].tolist() == [8, 8]
    with pytest.raises(InputError, match="fakes: a picture of 9x9 after others of 8x8"):
        extract([some, pictures(2, 1, 9)], Corners().extractor(), 12, "fakes")


def test_people_are_described_by_the_parser_that_ships():
    some = pictures(3, 5, 32)
    extractor = open_extractor("people")
    got = extract([some[:3], some[3:]], extractor, 5)["features"]
    np.testing.assert_allclose(got, parser.describe(parser.load(features.PARSER), some), rtol=1e-4, atol=1e-5)
    assert torch.equal(got, extract([some[:3], some[3:]], extractor, 5)["features"])
    assert digest(features.PARSER)[:8] in extractor.version and "people_parser" in extractor.version


def test_stored_pictures_are_rgb(tmp_path):
    colour, gray = pictures(4, 1)[0], pictures(5, 1)[0, ..., 0]
    for name, picture in {"a": colour, "b": gray, "c": np.concatenate([colour, gray[..., None]], axis=2)}.items():
        write_png(tmp_path / f"{name}.png", picture)
    got = stored_pictures(open_image_folder(tmp_path, use_labels=False)).load([0, 1, 2])
    assert np.array_equal(got, [colour, np.stack([gray] * 3, axis=2), colour])
    write_png(tmp_path / "d.png", pictures(6, 1, 9)[0])
    with pytest.raises(InputError, match=r"d\.png: 9x9 among pictures of 8x8"):
        stored_pictures(open_image_folder(tmp_path, use_labels=False)).load([0, 3])


# What is kept

def test_kept_features_are_the_extracted_ones(folder, tmp_path):
    corners, reals = Corners(), stored_pictures(open_image_folder(folder, use_labels=False))
    first = real_features(reals, corners.extractor(), tmp_path / "kept")
    again = real_features(reals, corners.extractor(), tmp_path / "kept")
    assert corners.shown == 70 and len(list((tmp_path / "kept").iterdir())) == 1
    assert first.keys() == again.keys() == {"features", "size"} and all(torch.equal(first[name], again[name]) for name in first)
    assert np.array_equal(first["features"][:, :3], pictures(0, 70)[:, 0, 0])
    assert torch.equal(real_features(reals, corners.extractor())["features"], first["features"]) and corners.shown == 140


def test_whatever_changes_is_extracted_anew(folder, tmp_path):
    corners, opened = Corners(), open_image_folder(folder, use_labels=False)
    reals = stored_pictures(opened)
    for others, extractor in [(reals, corners.extractor()), (replace(reals, key=content_key(opened, "cropped")), corners.extractor()),
                               (reals, corners.extractor("2"))]:
        shown = corners.shown
        real_features(others, extractor, tmp_path)
        assert corners.shown == shown + 70
    changed, before = folder / "013.png", (folder / "013.png").stat()
    data = changed.read_bytes()
    changed.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])                    # one bit; the file keeps its size and its time
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stored_pictures(open_image_folder(folder, use_labels=False)).key != reals.key
    changed.write_bytes(data)
    assert stored_pictures(open_image_folder(folder, use_labels=False)).key == reals.key
    changed.rename(folder / "100.png")                        # other order
    assert stored_pictures(open_image_folder(folder, use_labels=False)).key != reals.key


@pytest.mark.parametrize("harm", [lambda data: data[:len(data) // 2], lambda data: b"", lambda data: b"PK" + bytes(100),
                                  lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:]])
def test_broken_files_are_made_again(folder, tmp_path, capsys, harm):
    corners, reals = Corners(), stored_pictures(open_image_folder(folder, use_labels=False))
    whole = real_features(reals, corners.extractor(), tmp_path / "kept")["features"]
    path, = (tmp_path / "kept").iterdir()
    path.write_bytes(harm(path.read_bytes()))
    assert torch.equal(real_features(reals, corners.extractor(), tmp_path / "kept")["features"], whole)
    assert corners.shown == 140 and capsys.readouterr().err.startswith(f"warning: {path}: broken")
    real_features(reals, corners.extractor(), tmp_path / "kept")
    assert corners.shown == 140


def test_kept_pickles_are_not_run(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    corners, reals = Corners(), stored_pictures(open_image_folder(folder, use_labels=False))
    real_features(reals, corners.extractor(), tmp_path / "kept")
    path, = (tmp_path / "kept").iterdir()
    for hostile in (lambda: path.write_bytes(pickle.dumps(Bomb())), lambda: np.savez(path, features=np.array([Bomb()] * 70, object), size=np.array([8, 8]))):
        hostile()
        real_features(reals, corners.extractor(), tmp_path / "kept")
    assert not (tmp_path / "ran").exists() and corners.shown == 210


def test_a_killed_writer_leaves_nothing_half_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", lambda file, **arrays: file.write(b"half") and (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        real_features(PictureSet(3, "key", lambda indices: pictures(0, len(indices))), Corners().extractor(), tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


# Inception

@pytest.fixture
def random_inception(tmp_path, monkeypatch):
    """torch-fidelity's network with random weights, and the file that holds them; its sum is taken for the true one."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs
    with monkeypatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = theirs.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(features, "INCEPTION_SHA256", digest(tmp_path / "weights.pth")[:8])
    return network, tmp_path / "weights.pth"


def test_inception_sees_rgb_and_gives_features_and_logits(random_inception):
    network, weights = random_inception
    some = pictures(7, 3, 32)
    got = extract([some], open_extractor("inception", weights=weights), 3)
    expected, logits = network(torch.from_numpy(some).permute(0, 3, 1, 2))
    torch.testing.assert_close(got["features"], expected)
    torch.testing.assert_close(got["logits"], logits)
    assert got["features"].shape == (3, 2048) and got["features"].std() > 0


def test_offline_without_weights_is_one_clear_line(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError) as caught:
        open_extractor("inception")
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in ("Name or service not known", "6726825d.pth", str(tmp_path), "--extractor_weights", "people"))


def test_other_weights_are_refused_unread(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir(parents=True)
    torch.save(Bomb(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for given in (None, path):                                # torch's cache, and a file of the user's
        with pytest.raises(InputError, match="sha256 begins with 6726825d"):
            inception_weights(given)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError):
        open_extractor("inception", weights=tmp_path / "nowhere.pth")


def test_an_unknown_network():
    with pytest.raises(InputError, match="--extractor: expected inception or people, got 'dino'"):
        open_extractor("dino")
