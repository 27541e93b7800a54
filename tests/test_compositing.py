"""common.volume and common.march: closed forms of compositing, and the march against fields whose surfaces are known."""
from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from common.march import Draws, March, fine_samples, march, search_surface, surface_samples
from common.surfaces import find_root, first_crossing, interval_around
from common.volume import composite, density_alphas, occupancy_alphas, weights_of


def ball(radius: float, sharpness: float = 400.0, color: float = 0.25):
    """An occupancy ball about the origin, of one colour."""
    density = lambda points: sharpness * (radius - points.norm(dim=-1, keepdim=True))
    return (lambda points, directions: (density(points), torch.full_like(points, color))), density


def frontal_rays(count: int = 64, spread: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from (0, 0, 1) towards points of the plane z = 0."""
    targets = torch.cat([(torch.rand(1, count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) * 2 * spread,
                         torch.zeros(1, count, 1, dtype=torch.float64)], dim=-1)
    origins = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand_as(targets)
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


def sphere_depth(origins: torch.Tensor, directions: torch.Tensor, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays enter a ball about the origin, and whether they do."""
    b, c = (origins * directions).sum(-1), origins.square().sum(-1) - radius**2
    inside = b.square() - c
    return -b - inside.clamp_min(0).sqrt(), inside > 0


def test_weights_share_out_the_light():
    alphas = torch.rand(5, 7, dtype=torch.float64)
    weights = weights_of(alphas)
    torch.testing.assert_close(weights.sum(-1), 1 - (1 - alphas).prod(-1), atol=1e-8, rtol=0)
    brute = torch.stack([alphas[:, i] * (1 - alphas[:, :i]).prod(-1) for i in range(7)], dim=-1)
    torch.testing.assert_close(weights, brute, atol=1e-8, rtol=0)


def test_a_uniform_density_follows_beer_lambert():
    depths = torch.linspace(0, 2, 201, dtype=torch.float64)
    alphas = density_alphas(torch.full_like(depths, 1.7), depths)
    transmitted = (1 - alphas[:-1]).prod()
    torch.testing.assert_close(transmitted, torch.tensor(math.exp(-1.7 * 2), dtype=torch.float64), atol=1e-12, rtol=1e-9)
    assert alphas[-1] == 1                                     # whatever is there ends the ray


def test_density_noise_and_activation():
    depths, raw = torch.linspace(0, 1, 4), torch.tensor([-1.0, 0.5, 2.0, 0.1])
    assert density_alphas(raw, depths)[0] == 0 and density_alphas(raw, depths, noise=torch.full((4,), 2.0))[0] > 0
    expected = 1 - torch.exp(-(1 / 3) * torch.nn.functional.softplus(raw[0]))
    torch.testing.assert_close(density_alphas(raw, depths, "softplus")[0], expected)


def test_one_opaque_sample_is_all_that_is_seen():
    logits = torch.tensor([-50.0, -50.0, 50.0, 50.0])
    depths, colors = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.eye(4)[:, :3]
    seen = composite(occupancy_alphas(logits), colors, depths)
    torch.testing.assert_close(seen["colors"], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(seen["depth"], torch.tensor(3.0), atol=1e-4, rtol=0)
    assert seen["depth_variance"] < 1e-4


def test_backs_and_fills():
    alphas, colors, depths = torch.tensor([0.5, 0.5]), torch.zeros(2, 3), torch.tensor([1.0, 2.0])
    assert composite(alphas, colors, depths, white_back=True)["colors"].tolist() == pytest.approx([0.25] * 3)
    last = composite(alphas, colors, depths, last_back=True)
    assert last["weights"].tolist() == pytest.approx([0.5, 0.5]) and float(last["depth"]) == pytest.approx(1.5, abs=1e-4)
    published = composite(alphas, colors, depths, last_back=True, published_depth=True)
    assert float(published["depth"]) == pytest.approx(1.5 / 0.75, abs=1e-4)     # the defect: beyond what the weights say
    assert composite(alphas, colors, depths, fill_mode="weight")["colors"].tolist() == pytest.approx([0.75] * 3)
    assert composite(alphas, colors, depths, fill_mode="debug")["colors"].tolist() == [1, 0, 0]


def test_compositing_has_right_gradients():
    depths = torch.linspace(1, 2, 5, dtype=torch.float64).expand(3, 5)
    logits, colors = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.rand(3, 5, 3, dtype=torch.float64, requires_grad=True)
    pick = lambda seen: (seen["colors"], seen["depth"], seen["depth_variance"])
    assert torch.autograd.gradcheck(lambda l, c: pick(composite(occupancy_alphas(l), c, depths, last_back=True)), (logits, colors))
    assert torch.autograd.gradgradcheck(lambda l, c: composite(density_alphas(l, depths, "softplus"), c, depths)["colors"], (logits, colors))


@pytest.mark.parametrize("values, index, hit", [
    ([-1, -1, 2, 2], 1, True), ([1, -1, 2, 2], 0, False), ([-1, -2, -3, -4], 0, False), ([-1, 0, 2, 2], None, False), ([-1, 2, -1, 2], 0, True),
    ([2, 2, 2, 2], 0, False),
])
def test_first_crossing(values, index, hit):
    found, entered = first_crossing(torch.tensor(values, dtype=torch.float32))
    assert bool(entered) == hit and (index is None or not hit or int(found) == index)


@pytest.mark.parametrize("method, steps, tolerance", [("secant", 99, 1e-10), ("bisection", 40, 1e-11)])
def test_roots_are_found(method, steps, tolerance):
    low, high = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    value = lambda t: t.exp() - 1.8
    root = find_root(value, low, high, value(low), value(high), steps, method)
    torch.testing.assert_close(root, torch.full_like(root, math.log(1.8)), atol=tolerance, rtol=0)


def test_a_level_chord_gives_the_middle_not_nan():
    flat = torch.zeros(2)
    assert find_root(lambda t: 0 * t, flat, flat + 1, flat, flat, 0).tolist() == [0.5, 0.5]
    root = find_root(lambda t: 0 * t - 1, flat, flat + 1, flat - 1, flat - 1, 3)
    assert root.isfinite().all() and (root >= 0).all() and (root <= 1).all()


def test_the_shell_stays_within_the_ray():
    centers, hit = torch.tensor([0.89, 1.0, 1.11, 1.0]), torch.tensor([True, True, True, False])
    depths = interval_around(centers, hit, 0.03, 0.88, 1.12, 5)
    torch.testing.assert_close(depths[:, [0, -1]], torch.tensor([[0.88, 0.94], [0.97, 1.03], [1.06, 1.12], [0.88, 1.12]]), atol=1e-6, rtol=0)
    assert (depths.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("search, steps", [("secant", 4), ("bisection", 30)])
def test_the_surface_of_a_ball_is_found(search, steps):
    origins, directions = frontal_rays()
    field, density = ball(0.08)
    options = March(surface=9, search=search, search_steps=steps, coarse=12)
    seen = march(field, density, origins, directions, options)
    depth, enters = sphere_depth(origins, directions, 0.08)
    surely = (depth - 0.92).abs() < 0.06
    assert (seen["hit"] == enters)[surely & enters].all() and not seen["hit"][~enters].any()
    torch.testing.assert_close(seen["surface_depth"][seen["hit"]], depth[seen["hit"]], atol=1e-4, rtol=0)
    assert (seen["surface_depth"][~seen["hit"]] == 1).all()


def test_what_is_seen_of_a_ball():
    origins, directions = frontal_rays()
    field, density = ball(0.08, sharpness=4000)
    seen = march(field, density, origins, directions, March(interval=0.01, white_back=True, surface=16))
    depth, _ = sphere_depth(origins, directions, 0.08)
    hit = seen["hit"]
    torch.testing.assert_close(seen["colors"][hit], torch.full_like(seen["colors"][hit], 0.25), atol=2e-2, rtol=0)
    torch.testing.assert_close(seen["depth"][hit], depth[hit], atol=2e-3, rtol=0)
    grazing = origins[0, 0].norm() * directions[..., 2].arccos().sin() < 0.09
    assert (seen["colors"][~hit & ~grazing] > 0.99).all()


def test_the_march_is_the_same_twice_and_draws_are_used():
    origins, directions = frontal_rays(16)
    field, density = ball(0.08)
    options = March()
    first, second = (march(field, density, origins, directions, options) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    uniforms = torch.rand(1, 16, 9, dtype=torch.float64)
    jittered = march(field, density, origins, directions, options, Draws(surface=uniforms))
    assert not torch.equal(jittered["sample_depths"], first["sample_depths"])
    regular = march(field, density, origins, directions, options, Draws(surface=torch.full_like(uniforms, 0.5)))
    torch.testing.assert_close(regular["sample_depths"], first["sample_depths"])


def test_samples_come_sorted_and_in_their_shell():
    origins, directions = frontal_rays(32)
    field, density = ball(0.08)
    options = March(interval=0.02, fine=0)
    seen = march(field, density, origins, directions, options)
    depths, hit = seen["sample_depths"], seen["hit"]
    assert depths.shape[-1] == 9 and (depths.diff(dim=-1) >= 0).all()
    assert ((depths[hit] - seen["surface_depth"][hit][:, None]).abs() <= 0.02 + 1e-9).all()
    assert depths[~hit].amin() == pytest.approx(0.88) and depths[~hit].amax() == pytest.approx(1.12)


def test_fine_samples_gather_where_the_weights_are():
    logits = torch.full((1, 1, 9), -20.0)
    logits[..., 4] = 20
    depths = torch.linspace(0.88, 1.12, 9).expand(1, 1, 9)
    fine = fine_samples(logits, depths, March(fine=64), Draws())
    assert ((fine - 1.0).abs() < 0.031).float().mean() > 0.95


def test_published_search_range_moves_the_shell():
    found = {"surface_depth": torch.tensor([[0.9]]), "hit": torch.tensor([[True]])}
    wide = March(near=0.8, far=1.2, interval=0.2)
    assert surface_samples(found, wide)[0, 0, 0] == pytest.approx(0.8)
    assert surface_samples(found, replace(wide, search_range=(0.88, 1.12)))[0, 0, 0] == pytest.approx(0.72)     # in front of the ray's own start


def test_locked_views_see_everything_from_the_front():
    origins, directions = frontal_rays(8)
    toward = lambda points, seen_along: (torch.full_like(points[..., :1], 9.0), seen_along)
    seen = march(toward, lambda points: torch.full_like(points[..., :1], 9.0), origins, directions, March(lock_view=True))
    torch.testing.assert_close(seen["colors"], torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).expand_as(seen["colors"]), atol=1e-3, rtol=0)


def test_tau_moves_the_surface():
    origins, directions = frontal_rays(8, spread=0.01)
    _, density = ball(0.08, sharpness=100.0)
    depths = torch.linspace(0.88, 1.12, 25, dtype=torch.float64).expand(1, 8, 25)
    at = lambda depths: density((origins[:, :, None] + directions[:, :, None] * depths[..., None]).flatten(1, 2)).view(depths.shape)
    surface = lambda tau: search_surface(at, at(depths), depths, March(tau=tau, search_steps=12))["surface_depth"]
    assert (surface(0.2) < surface(0.5)).all() and (surface(0.5) < surface(0.8)).all()


@pytest.mark.parametrize("white, last", [(True, False), (False, True)])
def test_what_gets_no_light_is_not_asked_for(white, last):
    origins, directions = frontal_rays(spread=0.06)
    field, density = ball(0.08)
    asked = []

    def counted(points, toward):
        asked.append(points.shape[1])
        return field(points, toward)

    options = March(surface=12, fine=12, interval=0.05, white_back=white, last_back=last)
    with torch.no_grad():
        whole = march(counted, density, origins, directions, options)
        of_all, before = sum(asked), len(asked)
        short = march(counted, density, origins, directions, replace(options, stop=1e-5))
    for name in ("colors", "depth", "opacity", "surface_depth"):
        torch.testing.assert_close(short[name], whole[name], atol=3e-5, rtol=0)
    assert of_all == 64 * 24 and sum(asked[before:]) < 0.8 * of_all
    asked.clear()
    march(counted, density, origins, directions, replace(options, stop=1e-5))     # with gradient everything is asked for
    assert sum(asked) == of_all
