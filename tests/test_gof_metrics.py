"""Weighted variance against sums written out along single rays."""
from __future__ import annotations

import math

import pytest
import torch

from common.march import March
from gof import metrics
from gof.metrics import SAMPLES, SCALE, depth_spread, weighted_variance

DEPTHS = [0.88 + 0.24 * i / (SAMPLES - 1) for i in range(SAMPLES)]
NO_SEARCH = March(surface=0)


def rays(count: int):
    """`count` rays of one scene from (0, 0, 1) towards the origin, each shifted along x by its number."""
    origins = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).repeat(1, count, 1)
    origins[..., 0] = torch.arange(count)
    return origins, torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).expand_as(origins)


def written_out(alphas) -> tuple[float, float]:
    """Variance and opacity of one ray."""
    weights, light = [], 1.0
    for alpha in alphas:
        weights.append(alpha * light)
        light *= 1 - alpha + 1e-10
    total = sum(weights)
    mean = sum(w * z for w, z in zip(weights, DEPTHS)) / (total + 1e-5)
    return sum(w * (z - mean) ** 2 for w, z in zip(weights, DEPTHS)) / ((total + 1e-5) * (SAMPLES - 1) / SAMPLES), total


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_constant_fog():
    variance, opacity = depth_spread(lambda points: points[..., :1] - 1, *rays(3), NO_SEARCH, cut=0.06)
    for ray in range(3):                                      # logit ray - 1
        assert (variance[0, ray].item(), opacity[0, ray].item()) == pytest.approx(written_out([sigmoid(ray - 1)] * SAMPLES), rel=1e-9)


def test_densities_count_their_steps():
    variance, opacity = depth_spread(lambda points: torch.full_like(points[..., :1], 20.0), *rays(1), March(surface=0, occupancy=False), cut=0.06)
    alphas = [1 - math.exp(-20 * 0.24 / (SAMPLES - 1))] * (SAMPLES - 1) + [1]
    assert (variance.item(), opacity.item()) == pytest.approx(written_out(alphas), rel=1e-9)


def test_haze_before_the_surface_does_not_count():
    """Haze of logit -2.5, solid beyond 1.003 on ray 0, nothing solid on ray 1 (whose surface counts as at 1)."""
    def density(points):
        depths = 1 - points[..., 2:]
        solid = 4000 * (depths - 1.003)
        return torch.where((points[..., :1] > 0) | (solid < -2.5), -2.5, solid.clamp(max=12))

    haze, cut = sigmoid(-2.5), 0.06
    logits = [max(-2.5, min(12, 4000 * (z - 1.003))) for z in DEPTHS]
    whole, spread = (depth_spread(density, *rays(2), options, cut) for options in (NO_SEARCH, March(search_steps=30)))
    assert whole[0][0, 0].item() == pytest.approx(written_out([sigmoid(x) for x in logits])[0], rel=1e-9)
    assert spread[0][0, 0].item() == pytest.approx(written_out([0 if z <= 1.003 - cut else sigmoid(x) for x, z in zip(logits, DEPTHS)])[0], rel=1e-9)
    assert spread[0][0, 1].item() == pytest.approx(written_out([0 if z <= 1 - cut else haze for z in DEPTHS])[0], rel=1e-9)
    assert spread[0][0, 0] < 0.5 * whole[0][0, 0]


def test_any_number_of_rays_at_once(monkeypatch):
    density = lambda points: points[..., :1] - 40 * (points[..., 2:] - 0.02)
    whole = depth_spread(density, *rays(11), March(), 0.06)
    monkeypatch.setattr(metrics, "RAYS", 3)
    for some, all_of_them in zip(depth_spread(density, *rays(11), March(), 0.06), whole):
        assert some.shape == (1, 11)
        torch.testing.assert_close(some, all_of_them)


def test_the_mean_over_opaque_rays():
    variances = torch.tensor([[1.0, 2.0, 6.0], [5.0, math.nan, 9.0], [1.0, 1.0, 1.0]]) / SCALE
    opacities = torch.tensor([[0.995, 0.99, 0.999], [1.0, 0.1, 0.5], [0.0, 0.5, 0.9]])
    got = SCALE * weighted_variance(variances, opacities)
    assert got[:2].tolist() == pytest.approx([3.5, 5]) and got[2].isnan()
    assert torch.nanmean(got).item() == pytest.approx(4.25)
