"""SOF's losses against loops, its gradients in chunks against one pass, and what each training option draws."""
from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from common.cameras import Cameras, intrinsics_matrix, orbit
from common.draws import generator
from common.rays import camera_rays, pixel_grid, z_depth
from common.run import Step
from sof.cameras import learned_cameras
from sof.data import Views
from sof.losses import Rays, Weights, backward, behind_loss, class_loss, code_loss, depth_loss, image_loss, scaled
from sof.metrics import logged_miou, notebook_miou, style_filter_miou
from sof.model import SOF, ModelConfig
from sof.train import EDGE_FAVOUR, TrainConfig, beside_another, class_weights, draw_rays, schedule

HEADS, PICTURES, RAYS, CLASSES = 4, 3, 23, 5
TERMS = Weights(l1_weight=2.0, kl_weight=0.7, reg_weight=0.01, geo_weight=0.5)


def model_of(**options) -> SOF:
    torch.manual_seed(0)
    sof = SOF(ModelConfig(embedding_size=6, feat_dim=12, out_channels=CLASSES, tracing_steps=3, **options), HEADS).double()
    torch.nn.init.normal_(sof.latent_codes.weight[:, 3 * options.get("opt_cam", False) :])
    torch.nn.init.constant_(sof.ray_marcher.lstm.bias[-1].bias, -1.0)          # backwards, for ends behind the camera
    return sof


def rays_of(sof: SOF, pictures: int = PICTURES) -> Rays:
    """Wide views, so that many rays miss the sphere; some end points lie behind the near camera."""
    draw = torch.Generator().manual_seed(1)
    poses = orbit(torch.linspace(-0.5, 0.6, pictures, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64), 1.1)
    cameras = Cameras(poses, intrinsics_matrix(torch.full((pictures,), 0.2, dtype=torch.float64), dtype=torch.float64), sof.config.orthogonal)
    uv = torch.rand(pictures, RAYS, 2, generator=draw, dtype=torch.float64)
    labels = torch.randint(CLASSES, (pictures, RAYS), generator=draw)
    noise = 0.01 * torch.randn(pictures, RAYS, 1, generator=draw, dtype=torch.float64)
    depth = (torch.rand(pictures, RAYS, 1, generator=draw, dtype=torch.float64) * 3 - 1).clamp_min(0)
    return Rays(torch.arange(pictures) % HEADS, cameras, uv, labels, noise, depth)


def gradients(sof: SOF) -> dict[str, Tensor | None]:
    found = {name: None if parameter.grad is None else parameter.grad.clone() for name, parameter in sof.named_parameters()}
    sof.zero_grad()
    return found


def one_pass(sof: SOF, rays: Rays, weights: Weights) -> dict[str, Tensor]:
    """The total loss written out and differentiated by autograd alone."""
    centers, codes = sof.split_codes(sof.latent_codes(rays.instances))
    cameras = rays.cameras
    if centers is not None:
        cameras = learned_cameras(centers, cameras.intrinsics, cameras.orthographic, sof.config.published_camera)
    origins, directions = camera_rays(cameras, rays.uv)
    points, scores = sof.trace(sof.scene(codes), origins, directions, rays.noise)
    depth = z_depth(cameras, points)
    terms = {"class": class_loss(scores, rays.labels), "behind": behind_loss(depth), "code": code_loss(codes)}
    if weights.geo_weight > 0:
        terms["depth"] = depth_loss(depth, rays.z_depth, weights.published_depth_loss)
    sum(scaled(terms, weights).values()).backward()
    return {name: term.detach() for name, term in terms.items()}


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if value is None or theirs[name] is None:
            assert value is theirs[name], name
        else:
            torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


# --- gradients, chunk by chunk ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("opt_cam", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_chunks_add_up_to_one_pass(orthogonal, opt_cam, frozen):
    """All terms, whatever the chunk; with frozen networks the codes alone have gradients."""
    sof = model_of(orthogonal=orthogonal, opt_cam=opt_cam)
    sof.learn_networks(not frozen)
    rays = rays_of(sof)
    expected, slopes = one_pass(sof, rays, TERMS), gradients(sof)
    assert all(value.isfinite().all() for value in slopes.values() if value is not None) and expected["behind"] > 0 and expected["depth"] > 0
    assert {name for name, value in slopes.items() if value is not None} == ({"latent_codes.weight"} if frozen else set(slopes))
    assert not opt_cam or slopes["latent_codes.weight"][:PICTURES, :3].abs().min() > 0
    for chunk in (0, 1, 7, RAYS, 100):
        losses, labels = backward(sof, rays, TERMS, chunk)
        assert_same(losses, expected)
        assert_same(gradients(sof), slopes)
        assert labels.shape == (PICTURES, RAYS)


def test_parts_add_up_to_the_whole_batch():
    """Two ranks or two accumulated parts, of 1 and 2 pictures: the gradients of them all."""
    sof = model_of(opt_cam=True)
    rays = rays_of(sof)
    expected, slopes = one_pass(sof, rays, TERMS), gradients(sof)
    losses = {}
    for part, share in ((slice(0, 1), 1 / 3), (slice(1, 3), 2 / 3)):
        terms, _ = backward(sof, rays.part(part), TERMS, 5, share)
        losses = {name: losses.get(name, 0) + share * term for name, term in terms.items()}
    assert_same(losses, expected)
    assert_same(gradients(sof), slopes)


def test_the_published_depth_loss_in_one_pass():
    sof, weights = model_of(), Weights(geo_weight=0.5, published_depth_loss=True)
    rays = rays_of(sof)
    expected, slopes = one_pass(sof, rays, weights), gradients(sof)
    losses, _ = backward(sof, rays, weights)
    assert_same(losses, expected)
    assert_same(gradients(sof), slopes)


# --- learned cameras --------------------------------------------------------------------------------------------------------------------

def rotation(center: Tensor) -> Tensor:
    """Right, down and forward of a camera at `center` that looks at (0, 0, 0.1), as rows."""
    forward = torch.tensor([0, 0, 0.1]).double() - center
    forward = forward / forward.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 1, 0]).double())
    right = right / right.norm()
    return torch.stack([right, -torch.linalg.cross(right, forward), forward])


@pytest.mark.parametrize("count", [1, 3, 4])
def test_learned_cameras_look_at_the_head(count):
    """Right, down and forward are the columns; the release's are their transpose, a batch of three being a batch like any other."""
    centers = torch.randn(count, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + torch.tensor([0, 0, 3.0]).double()
    K = intrinsics_matrix(torch.ones(count, dtype=torch.float64), dtype=torch.float64)
    right, released = (learned_cameras(centers, K, True, published_transpose=published).cam2world for published in (False, True))
    for k in range(count):
        torch.testing.assert_close(right[k, :3, :3], rotation(centers[k]).T)
        torch.testing.assert_close(released[k, :3, :3], rotation(centers[k]))
    for cam2world in (right, released):
        assert torch.equal(cam2world[:, :3, 3], centers) and torch.equal(cam2world[:, 3], torch.tensor([0, 0, 0, 1.0]).double().expand(count, 4))
    first = model_of(opt_cam=True).latent_codes.weight[:1, :3].detach()
    assert first.tolist() == [pytest.approx([0, 0, 1.1])]
    assert torch.allclose(*(learned_cameras(first, K[:1], True, published).cam2world for published in (False, True)))        # frontal: the same


def test_a_learned_camera_has_a_gradient_though_rays_miss():
    """Where the release had NaN; and it is the slope."""
    def total(centers: Tensor) -> Tensor:
        sof = model_of(opt_cam=True, orthogonal=True)
        rays = rays_of(sof)
        cameras = learned_cameras(centers, rays.cameras.intrinsics, True)
        origins, directions = camera_rays(cameras, rays.uv)
        missed = torch.linalg.cross(origins, directions, dim=-1).norm(dim=-1) > 1.5
        assert missed.any() and not missed.all()
        points, scores = sof.trace(sof.scene(sof.split_codes(sof.latent_codes(rays.instances))[1].detach()), origins, directions)
        return class_loss(scores, rays.labels) + 1e-4 * behind_loss(z_depth(cameras, points))

    assert torch.autograd.gradcheck(total, torch.tensor([[0.2, 0.1, 1.1], [-0.3, 0.2, 1.3], [0.5, 0, 1]], dtype=torch.float64, requires_grad=True))


# --- the published terms and figures, by loops ------------------------------------------------------------------------------------------

def test_terms_by_loops():
    scores, labels, depth = torch.randn(2, 5, 3), torch.randint(3, (2, 5)), torch.randn(2, 5, 1)
    by_hand = [math.log(sum(math.exp(s) for s in row)) - row[label] for row, label in zip(scores.flatten(0, 1).tolist(), labels.flatten().tolist())]
    assert class_loss(scores, labels.byte()).item() == pytest.approx(sum(by_hand) / 10, rel=1e-5)
    behind = [10_000 * d * d if d < 0 else 0.0 for d in depth.flatten().tolist()]
    assert behind_loss(depth).item() == pytest.approx(sum(behind) / 10, rel=1e-5)
    assert code_loss(torch.tensor([[1.0, 2], [3, 4]])).item() == 7.5
    assert image_loss(torch.ones(2, 3), torch.zeros(2, 3) - 1).item() == 4


def test_depth_by_loops():
    """Smooth L1 where there is a surface, over all pixels; the release's, with its background and its sums over the whole batch."""
    target = torch.tensor([[0, 0, 1.5, 2.0, 2.5], [0, 3.0, 0.5, 0, 1.0]])[..., None]
    depth = target + torch.tensor([[2.0, 0, 0.5, 3.0, 0], [0, -0.2, -2.0, 0.1, 0]])[..., None]
    smooth = [[0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in row] for row in (depth - target)[..., 0].tolist()]
    ours = sum(smooth[b][k] for b in range(2) for k in range(5) if target[b, k] > 0) / 10
    whole, counts = sum(map(sum, smooth)), [max(1, sum(r > 1e-12 for r in row)) for row in smooth]
    assert depth_loss(depth, target).item() == pytest.approx(ours, rel=1e-5)
    assert depth_loss(depth, target, published=True).item() == pytest.approx(sum(whole / n for n in counts) / 2, rel=1e-5)


def overlaps(a: list[int], b: list[int], label: int) -> tuple[int, int]:
    return sum(x == label == y for x, y in zip(a, b)), sum(label in (x, y) for x, y in zip(a, b))


def test_published_mious_by_loops():
    predicted, target = torch.randint(6, (3, 40)), torch.randint(1, 5, (3, 40))
    pairs = [[overlaps(a, b, label) for label in range(6)] for a, b in zip(predicted.tolist(), target.tolist())]
    logged = [i / (u + 1e-6) for picture in pairs for i, u in picture if i]
    assert logged_miou(predicted, target, 6).item() == pytest.approx(sum(logged) / len(logged), rel=1e-5)
    notebook = [sum((i + 1e-8) / (u + 1e-8) for i, u in picture) / 6 for picture in pairs]
    assert notebook_miou(predicted, target, 6).tolist() == pytest.approx(notebook, rel=1e-5)
    assert logged_miou(torch.zeros(1, 4), torch.ones(1, 4), 6).isnan()           # nothing hit
    large = [[x for row in torch.tensor(m).view(8, 5).tolist() for x in row for _ in "ab"] * 1 for m in (predicted[0].tolist(), target[0].tolist())]
    expected = sum(i / (u + 1e-6) for i, u in (overlaps(*large, label) for label in range(6))) / 6
    square = [m.view(1, 1, 8, 5).repeat_interleave(2, 3) for m in (predicted[0], target[0])]
    assert style_filter_miou(*square, classes=6, side=40).item() == pytest.approx(expected, rel=1e-4)      # 8 x 10 to 40 x 40: every pixel 20 times


# --- what a step draws ------------------------------------------------------------------------------------------------------------------

SIDE = 6


def views_of(count: int = 9) -> Views:
    """Label maps of three classes of unequal size."""
    labels = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    labels[:, 1:4, 1:4], labels[:, 2, 2] = 1, 2
    labels[:, 5, 5] = torch.arange(count) % 3
    cameras = Cameras(torch.eye(4).repeat(count, 1, 1) * torch.arange(1.0, count + 1)[:, None, None], torch.eye(3).repeat(count, 1, 1), True)
    return Views(labels.flatten(1), cameras, torch.arange(count) % 4, ("a", "b", "c", "d"), tuple("abcdefghi"[:count]), SIDE)


def test_class_weights_are_powers_of_frequencies():
    labels = torch.tensor([0] * 70 + [3] * 20 + [4] * 10, dtype=torch.uint8).reshape(5, 20)
    weights = class_weights(labels, 0.5)
    assert weights[[0, 3, 4]].tolist() == pytest.approx([0.7**-0.5, 0.2**-0.5, 0.1**-0.5]) and weights.count_nonzero() == 3
    assert class_weights(labels, 0.0)[[0, 1, 3, 4]].tolist() == [1, 0, 1, 1]
    share = torch.tensor([0.7, 0.2, 0.1]) * class_weights(labels, 1.0)[[0, 3, 4]]
    assert torch.allclose(share, torch.ones(3))                                  # balance 1: every class alike


def test_beside_another_by_loops():
    labels = torch.randint(3, (4, 5, 5), generator=torch.Generator().manual_seed(0))
    edge = beside_another(labels.flatten(1), 5).unflatten(1, (5, 5))
    for b in range(4):
        for i in range(5):
            for j in range(5):
                around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
                assert edge[b, i, j] == any(labels[b, y, x] != labels[b, i, j] for y, x in around if 0 <= y < 5 and 0 <= x < 5)


def step_at(number: int, batch: int = 4) -> Step:
    return Step(number, number * batch, batch, seed=3, accumulate=1)


def test_all_pixels_of_the_streams_views():
    views, step = views_of(), step_at(5)
    rays = draw_rays(views, TrainConfig(), step, class_weights(views.labels, 0.0))
    index = step.indices(9)
    assert torch.equal(rays.labels, views.labels[index]) and torch.equal(rays.instances, views.instances[index])
    assert torch.equal(rays.cameras.cam2world, views.cameras.cam2world[index]) and torch.equal(rays.uv[2], pixel_grid(SIDE, SIDE))
    assert torch.equal(rays.noise, 0.01 * torch.randn(4, SIDE**2, 1, generator=generator(3, 20, "march")))


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_pixels_are_drawn_by_class_and_edge(balance):
    """How often each pixel of a view is drawn, against f^-balance, times 1 + EDGE_FAVOUR beside another class; labels stay with their pixels."""
    views, config = views_of(1), TrainConfig(rays_per_view=60_000, class_balance=balance)
    rays = draw_rays(views, config, step_at(2, batch=1), class_weights(views.labels, balance))
    pixels = (rays.uv[0] * SIDE - 0.5).round().long()
    pixel = pixels[:, 1] * SIDE + pixels[:, 0]
    assert torch.equal(views.labels[0][pixel], rays.labels[0]) and torch.allclose(pixel_grid(SIDE, SIDE)[pixel], rays.uv[0])
    frequency = torch.bincount(views.labels[0].long())[views.labels[0].long()] / SIDE**2
    favour = frequency**-balance * (1 + EDGE_FAVOUR * beside_another(views.labels, SIDE)[0] if balance else 1)
    expected = favour / favour.sum()
    counts = torch.bincount(pixel, minlength=SIDE**2) / len(pixel)
    assert ((counts - expected).abs() < 5 * (expected / len(pixel)).sqrt()).all()
    assert (expected.max() / expected.min() > 3) == bool(balance)


def test_draws_depend_on_the_images_seen_alone(monkeypatch):
    """Not on the ranks, not on what was drawn before: each rank slices the same global batch, and a restart draws it again."""
    from common import ranks
    views, config = views_of(), TrainConfig(rays_per_view=11, class_balance=0.3)
    likely = class_weights(views.labels, 0.3)
    whole = draw_rays(views, config, step_at(7), likely)
    again = []
    for rank in range(2):
        monkeypatch.setattr(ranks, "count", lambda: 2)
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        torch.manual_seed(rank)
        draw_rays(views, config, step_at(6), likely)
        step = step_at(7)
        again += [draw_rays(views, config, step, likely).part(part.slice) for part in step.parts()]
    for name in ("labels", "uv", "noise", "instances"):
        assert torch.equal(torch.cat([getattr(part, name) for part in again]), getattr(whole, name)), name
    other = draw_rays(views, config, step_at(8), likely)
    assert not torch.equal(other.noise, whole.noise) and not torch.equal(other.uv, whole.uv)


def test_the_learning_rate_rises_then_falls():
    config = TrainConfig(lr_warmup=10, lr_final=0.1, max_steps=100)
    shares = [schedule(config, step) for step in range(101)]
    assert shares[0] == pytest.approx(0.1, rel=1e-3) and shares[100] == pytest.approx(0.1) and shares[50] == pytest.approx(0.55)
    assert shares[:10] == sorted(shares[:10]) and shares[10:] == sorted(shares[10:], reverse=True)
    assert {schedule(TrainConfig(max_steps=9), step) for step in range(9)} == {1.0}             # as published
