"""Evaluation from pictures to figures, with a network of two pixels: what it says, whom it refuses, and that ranks change nothing."""
from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from common import ranks
from common.errors import InputError
from common.evaluation import evaluate
from common.features import Extractor, PictureSet
from common.fidelity import frechet_distance, inception_score, moments, precision_recall
from tests.test_run import forked, waited

METRICS = ("fid", "kid", "is", "pr")
KID = {"kid_subsets": 5, "kid_subset_size": 30}


def corners(some: np.ndarray) -> dict:
    rows = torch.from_numpy(np.concatenate([some[:, 0, 0], some[:, -1, -1]], axis=1)).float() / 255
    return {"features": rows, "logits": 5 * rows}


NETWORK = Extractor("inception", "two pixels", torch.device("cpu"), corners)


def pictures(seed: int, n: int, side: int = 4) -> np.ndarray:
    return (np.random.default_rng(seed).beta(1 + seed, 2, (n, side, side, 3)) * 255).astype(np.uint8)


def real_set(pictures: np.ndarray) -> PictureSet:
    return PictureSet(len(pictures), "key", lambda indices: pictures[list(indices)])


def batches(some: np.ndarray, size: int = 7):
    return (some[i:i + size] for i in range(0, len(some), size))


def test_figures_are_those_of_the_features():
    fake, real = pictures(0, 50), pictures(1, 40)
    got = evaluate(batches(fake), 50, real_set(real), NETWORK, METRICS, **KID)
    a, b = corners(fake), corners(real)
    assert got["FID"] == pytest.approx(frechet_distance(moments(a["features"]), moments(b["features"])))
    assert (got["IS"], got["IS_std"]) == inception_score(a["logits"])
    assert (got["precision"], got["recall"]) == precision_recall(a["features"], b["features"])
    assert got["KID"] > 0 and got["generated"] == 50 and got["real"] == 40 and got["resolution"] == [4, 4]
    assert got["extractor"] == "inception" and got["extractor_version"] == "two pixels" and got["kid_subset_size"] == 30 and json.loads(json.dumps(got)) == got


def test_real_pictures_are_as_good_as_themselves():
    real = pictures(2, 40)
    got = evaluate(batches(real[::-1]), 40, real_set(real), NETWORK, ("fid", "pr"))
    assert got["FID"] == pytest.approx(0, abs=1e-9) and got["precision"] == got["recall"] == 1


def test_only_inception_makes_an_fid():
    people = Extractor("people", "two pixels", torch.device("cpu"), corners)
    got = evaluate(batches(pictures(0, 40)), 40, real_set(pictures(1, 40)), people, ("fid", "kid"), **KID)
    assert {"FD_people", "KD_people", "KD_people_std"} <= got.keys() and not {"FID", "KID", "IS", "precision"} & got.keys()


@pytest.mark.parametrize("metrics, fakes, reals, extractor, said", [
    (("fid", "ppl"), 40, 40, NETWORK, "--metrics: expected some of fid, kid, is, pr, got 'ppl'"),
    (("kid",), 2048, 999, NETWORK, r"--metrics kid: needs 1000 pictures on either side \(--kid_subset_size\); there are 2048 generated and 999 real"),
    (("pr",), 3, 40, NETWORK, "--metrics pr: needs 4"),
    (("fid",), 1, 40, NETWORK, "--metrics fid: needs 2"),
    (("is",), 40, 40, Extractor("people", "", torch.device("cpu"), corners), "people has no classes"),
])
def test_refused_before_anything_is_rendered(metrics, fakes, reals, extractor, said):
    def none():
        raise AssertionError("asked for a picture")
        yield

    with pytest.raises(InputError, match=said):
        evaluate(none(), fakes, PictureSet(reals, "key", lambda _: none()), extractor, metrics)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(InputError, match="generated pictures of 5x5, real ones of 4x4"):
        evaluate([pictures(0, 10, 5)], 10, real_set(pictures(1, 10)), NETWORK)


def test_two_ranks_are_one(tmp_path):
    fake, real = pictures(0, 51), pictures(1, 41)
    numbers = lambda figures: {name: value for name, value in figures.items() if isinstance(value, int | float)}
    one = evaluate(batches(fake), 51, real_set(real), NETWORK, METRICS, **KID)

    def work(rank: int) -> None:
        ranks.join(torch.device("cpu"))
        for turn in ("fresh", "kept"):
            figures = evaluate(batches(fake[rank::2], 5), 51, real_set(real), NETWORK, METRICS, tmp_path / "kept", **KID)
            (tmp_path / f"{turn} {rank}.json").write_text(json.dumps(figures))
            alone = evaluate(batches(fake[rank::2], 5), 51, real_set(real), NETWORK, ("fid",))
            assert alone.get("FID") == figures.get("FID")

    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    children = [forked(lambda rank=rank: os.environ.update(place, RANK=str(rank)) or work(rank)) for rank in range(2)]
    assert [waited(child) for child in children] == [0, 0]
    read = lambda name: json.loads(Path(tmp_path / name).read_text())
    for turn in ("fresh", "kept"):
        assert read(f"{turn} 1.json") == {}
        assert numbers(read(f"{turn} 0.json")) == pytest.approx(numbers(one), rel=1e-9)
