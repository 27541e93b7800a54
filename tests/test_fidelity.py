"""Distances between sets of features against closed forms, sums written out, and torch-fidelity."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common import fidelity
from common.fidelity import Moments, frechet_distance, inception_score, joined, kernel_distances, moments, precision_recall, random_subsets, share_inside


def rows(seed: int, n: int, dims: int = 6, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dims, generator=generator) @ torch.randn(dims, dims, generator=generator) + shift


def gaussian(mean, covariance) -> Moments:
    return Moments(2, torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64))


# Moments

def test_moments_are_numpys():
    x = rows(0, 50)
    got = moments(x)
    np.testing.assert_allclose(got.mean, x.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(got.covariance(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(got.covariance(0), np.cov(x.double().numpy(), rowvar=False, bias=True), rtol=1e-12)


def test_batches_and_their_order_do_not_matter(monkeypatch):
    x = rows(1, 101, shift=1e4)                               # sums of squares in float32 would lose the covariance here
    whole = moments(x)
    monkeypatch.setattr(fidelity, "ROWS", 7)
    parts = [moments(x[:1]), moments(x[1:60]), moments(x[60:])]
    for streamed in (moments(x), moments(x[torch.randperm(101)]), joined(joined(*parts[:2]), parts[2]), joined(parts[2], joined(*parts[1::-1]))):
        assert streamed.count == 101
        torch.testing.assert_close(streamed.mean, whole.mean, rtol=1e-13, atol=0)
        torch.testing.assert_close(streamed.scatter, whole.scatter, rtol=1e-9, atol=1e-9)


# Frechet distance

def test_frechet_distance_of_independent_coordinates():
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 4.0, 0.25])
    expected = (3**2 + 1) + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(gaussian([0, 0, 0], np.diag(a)), gaussian([3, 0, -1], np.diag(b))) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_covariances_that_do_not_commute():
    a, b = np.array([[2.0, 1.5], [1.5, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    root = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))               # tr (AB)^(1/2) in two dimensions, by Cayley and Hamilton
    assert np.abs(a @ b - b @ a).max() > 1
    assert frechet_distance(gaussian([0, 0], a), gaussian([0, 0], b)) == pytest.approx(np.trace(a + b) - 2 * root, rel=1e-12)


def test_frechet_distance_is_a_distance():
    a, b, turn = rows(2, 40), rows(3, 50, shift=0.3), torch.linalg.qr(rows(4, 6))[0]
    there = frechet_distance(moments(a), moments(b))
    assert there == pytest.approx(frechet_distance(moments(b), moments(a)), rel=1e-10)
    assert there == pytest.approx(frechet_distance(moments(a @ turn), moments(b @ turn)), rel=1e-5)
    assert there > 1 and abs(frechet_distance(moments(a), moments(a))) < 1e-6 * there
    assert frechet_distance(moments(a + 2), moments(a)) == pytest.approx(4 * 6, rel=1e-5)


@pytest.mark.parametrize("n", [200, 9])                       # 9 rows of 24 features: singular covariances
def test_frechet_distance_is_torch_fidelitys(n):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    a, b = rows(5, n, 24), rows(6, n, 24, 0.5)
    expected = fid_statistics_to_metric(*map(fid_features_to_statistics, (a.double(), b.double())), verbose=False)["frechet_inception_distance"]
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-6)


# Kernel distance

def test_kernel_distance_is_the_sum_over_pairs():
    a, b = rows(7, 5, 3), rows(8, 6, 3)
    i, j = np.array([0, 2, 4]), np.array([5, 1, 0])
    kernel = lambda x, y: (sum(p * q for p, q in zip(x.tolist(), y.tolist())) / 3 + 1) ** 3
    apart = [(p, q) for p in range(3) for q in range(3) if p != q]
    expected = (sum(kernel(a[i[p]], a[i[q]]) for p, q in apart) + sum(kernel(b[j[p]], b[j[q]]) for p, q in apart)) / 6
    expected -= 2 * sum(kernel(a[p], b[q]) for p in i for q in j) / 9
    assert kernel_distances(a, b, [(i, j)]) == pytest.approx([expected], rel=1e-5)


def test_kernel_distances_are_torch_fidelitys():
    from torch_fidelity.metric_kid import kid_features_to_metric
    a, b = rows(9, 40), rows(10, 50)
    got = kernel_distances(a, b, random_subsets(40, 50, subsets=12, size=20, seed=2020))
    expected = kid_features_to_metric(a, b, kid_subsets=12, kid_subset_size=20, verbose=False)
    assert [got.mean(), got.std()] == list(expected.values())


def test_kernel_distance_is_unbiased():
    a, b = rows(11, 400, 2) / 2, rows(11, 800, 2)[400:] / 2
    got = kernel_distances(a, a.flip(0), random_subsets(400, 400, 300, 20, 0))
    far = kernel_distances(a, b + 1, random_subsets(400, 400, 300, 20, 0))
    assert abs(got.mean()) < 4 * got.std() / math.sqrt(300) and got.min() < 0 < got.max()
    assert far.mean() > 10 * abs(got.mean())


# Inception score

def test_inception_score_of_sure_and_of_unsure_classes():
    sure = 100 * torch.eye(4).repeat(20, 1)
    assert inception_score(sure, seed=None) == pytest.approx((4, 0), abs=1e-6)            # every split has every class equally often
    assert inception_score(torch.ones(40, 4)) == pytest.approx((1, 0), abs=1e-6)
    assert inception_score(sure[torch.arange(80) % 4 < 2], splits=1) == pytest.approx((2, 0), abs=1e-6)


def test_inception_score_is_the_formula():
    logits, splits = rows(12, 30), 3
    p = torch.softmax(logits, 1).double()
    scores = [math.exp((part * (part / part.mean(0)).log()).sum(1).mean()) for part in p.chunk(splits)]
    assert inception_score(logits, splits, seed=None) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-5)
    shuffled = p[np.random.RandomState(7).permutation(30)]
    assert inception_score(logits, splits, seed=7)[0] == pytest.approx(np.mean([math.exp((part * (part / part.mean(0)).log()).sum(1).mean())
                                                                                 for part in shuffled.chunk(splits)]), rel=1e-5)


# Precision and recall

def inside(probes, manifold, k) -> float:
    """By the definition, one pair at a time."""
    distance = lambda a, b: math.dist(a.tolist(), b.tolist())
    radii = [sorted(distance(a, b) for b in manifold)[k] for a in manifold]
    return np.mean([any(distance(probe, a) <= radius for a, radius in zip(manifold, radii)) for probe in probes])


@pytest.mark.parametrize("chunk", [1024, 7])
@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_by_brute_force(monkeypatch, chunk, k):
    monkeypatch.setattr(fidelity, "PROBES", chunk)
    fake, real = rows(13, 30, 4), rows(14, 24, 4, 0.5)
    expected = inside(fake, real, k), inside(real, fake, k)
    assert 0 < min(expected) and max(expected) < 1
    assert precision_recall(fake, real, k) == pytest.approx(expected)


def test_precision_and_recall_of_parts_and_of_nothing_shared():
    real = rows(15, 60, 3)
    assert precision_recall(real, real) == (1, 1)
    fake = real[:20]                                          # all good, little variety
    precision, recall = precision_recall(fake, real)
    assert precision == 1 and recall < 1
    assert precision_recall(real + 100, real) == (0, 0)


def test_precision_and_recall_are_torch_fidelitys():
    from torch_fidelity.metric_prc import prc_features_to_metric
    fake, real = rows(16, 90, 5), rows(17, 80, 5, 0.3)
    expected = prc_features_to_metric(fake, real, verbose=False)
    assert precision_recall(fake, real) == pytest.approx((expected["precision"], expected["recall"]))


def test_features_far_from_zero_keep_their_neighbours():
    fake, real = rows(18, 40, 4), rows(19, 40, 4)
    assert precision_recall(fake + 4096, real + 4096) == pytest.approx(precision_recall(fake.add(4096).sub(4096), real.add(4096).sub(4096)))


def test_half_precision_rounds_distances():
    manifold = torch.tensor([[0.0], [2048.0], [4099.0]])      # float16 knows 4099 as 4100 and distances there in steps of 2 or 4
    probe = torch.tensor([[6151.0]])
    assert share_inside(probe.double(), manifold.double(), 1) == 0 and share_inside(probe.half().double(), manifold.half().double(), 1, half=True) == 1
