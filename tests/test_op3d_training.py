"""OP3D's losses, schedules and augmentations against what they are said to do."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from common.cameras import eg3d_label
from op3d.augment import BGC, Augmentations, Given, Percentile, Seeded, augment, band_gains, filter_bank, filtered, margins, rotation, warped
from op3d.cameras import eg3d_cameras
from op3d.discriminator import Discriminator
from op3d.losses import LossConfig, Moment, Pair, augmented, blurred, density_terms, fake, generator_terms, moment, r1_terms, swapped
from op3d.model import Generator, ModelConfig
from op3d.schedules import blur_kernel, ema_beta, lazy, next_probability

TINY = ModelConfig(plane_side=8, cmax=4, z_dim=4, w_dim=8, map_depth=1, plane_number=2, fourier_L=1, sr_module="none", img_resolution=8,
                   neural_rendering_resolution=8, depth_resolution=4, depth_resolution_importance=4)
NOW = Moment(side=8, sigma=0.0, swap=0.5)


def normal(*shape, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def players() -> tuple[Generator, Discriminator, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = eg3d_label(eg3d_cameras(torch.tensor([1.4, 1.7]), torch.tensor([1.5, 1.6]), (0, 0, 0.2), 2.7))
    return Generator(TINY), Discriminator(8, cbase=32, cmax=4), normal(2, 4), labels


# Losses

def test_swapped_labels_are_the_neighbours():
    labels, u = torch.arange(6.0).view(3, 2), torch.tensor([[0.1], [0.6], [0.2]])
    assert torch.equal(swapped(labels, u, 0.5), torch.tensor([[4.0, 5.0], [2.0, 3.0], [2.0, 3.0]]))
    assert torch.equal(swapped(labels, torch.tensor(0.1), 0.5), labels.roll(1, 0)) and torch.equal(swapped(labels, u, 0.0), labels)
    assert (swapped(labels, u, None) == 0).all()


def test_the_gradient_penalty_is_the_slope_of_the_logits():
    _, discriminator, _, labels = players()
    reals = Pair(normal(2, 3, 8, 8), normal(2, 3, 4, 4, seed=1))
    terms = r1_terms(discriminator.double(), Pair(reals.image.double(), reals.raw.double()), labels.double(), gamma=3.0)
    alone = r1_terms(discriminator, Pair(reals.image.double(), reals.raw.double()), labels.double(), gamma=3.0, both=False)
    assert (alone["r1_penalty"] < terms["r1_penalty"]).all() and torch.equal(terms["D/reg"], 1.5 * terms["r1_penalty"])
    image, step = reals.image.double(), 1e-5
    raised = discriminator(image.index_put((torch.tensor([0]), torch.tensor([1]), torch.tensor([2]), torch.tensor([3])), image[0, 1, 2, 3] + step),
                           reals.raw.double(), labels.double())
    image.requires_grad_()
    slope, = torch.autograd.grad(discriminator(image, reals.raw.double(), labels.double()).sum(), image)
    assert float((raised - terms["scores/real"]).sum().detach() / step) == pytest.approx(float(slope[0, 1, 2, 3].detach()), rel=1e-3)
    terms["D/reg"].mean().backward()
    assert discriminator.b8.conv0.weight.grad.abs().sum() > 0


def test_a_step_of_the_generator_moves_all_of_it():
    generator, discriminator, z, labels = players()
    fakes = fake(generator, z, labels, labels, NOW, noise=[torch.Generator().manual_seed(seed) for seed in (0, 1)])
    generator_terms(discriminator, fakes, labels)["G/loss"].mean().backward()
    still = [name for name, parameter in generator.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum()]
    assert not still


def test_the_average_code_moves_only_when_tracked():
    generator, _, z, labels = players()
    fake(generator, z, labels, labels, NOW)
    assert (generator.backbone.mapping.w_avg == 0).all()
    fake(generator, z, labels, labels, NOW, track=True)
    torch.testing.assert_close(generator.backbone.mapping.w_avg, 0.002 * generator.mapped(z, labels).mean(0), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", ["l1", "monotonic-detach", "monotonic-fixed"])
def test_density_terms(kind):
    generator, _, z, labels = players()
    config = LossConfig(reg_type=kind, density_reg=0.5)
    u, n, q = torch.rand(2, 30, 3), normal(2, 30, 3), torch.rand(2, 40, 3)
    terms = density_terms(generator, config, z, labels, u, n, q)
    assert density_terms(generator, config, z, labels, u, 0 * n, q)["l1"].item() == 0 < terms["l1"].item()
    rise = terms.get("monotonic_mean", torch.tensor(0.0))
    torch.testing.assert_close(terms["G/density"], 0.5 * terms["l1"] + 10 * rise)
    assert (kind == "l1") == ("monotonic_mean" not in terms)
    if kind != "l1":
        parameter = generator.decoder.net[-1].bias                            # moves all densities alike: only a stopped half can feel it
        gradient, = torch.autograd.grad(rise, parameter)
        assert (gradient[0].abs() > 0.01) == (kind == "monotonic-detach")


# Schedules

def test_schedules_begin_and_end_where_they_say():
    config = LossConfig(neural_rendering_resolution_final=128)
    first, last = moment(config, 0), moment(config, 10**8)
    assert (first.side, first.sigma, first.swap) == (64, 10.0, 1.0) and (last.side, last.sigma, last.swap) == (128, 0.0, 0.5)
    assert moment(replace(config, gpc_reg_prob=None), 5).swap is None and moment(LossConfig(), 10**8).side == 64
    assert moment(replace(config, blur_fade_kimg=0, gpc_reg_fade_kimg=0), 0) == Moment(64, 0.0, 0.5)


def test_blur_keeps_the_mean_and_none_is_none():
    x = normal(1, 3, 64, 64)
    assert blurred(x, 0.3) is x and len(blur_kernel(2.0)) == 13 and float(blur_kernel(2.0).sum()) == pytest.approx(1)
    flat = blurred(torch.ones(1, 1, 64, 64), 3.0)
    torch.testing.assert_close(flat[..., 9:-9, 9:-9], torch.ones(1, 1, 46, 46))
    assert blurred(x, 3.0).std() < 0.3 * x.std()


def test_averages_and_lazy_steps():
    assert ema_beta(10**8, 32, 10) == pytest.approx(0.5 ** (32 / 10_000)) and ema_beta(1000, 32, 10) == pytest.approx(0.5 ** (32 / 50))
    assert ema_beta(0, 32, 10) == 0 and ema_beta(0, 32, 10, None) == pytest.approx(0.5 ** (32 / 10_000))
    options = lazy(0.002, (0.0, 0.99), 16)
    assert options["lr"] == pytest.approx(0.002 * 16 / 17) and options["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    assert next_probability(0.0, 0.9, 0.6, 32, 4, 500) == pytest.approx(128 / 500_000) and next_probability(0.0, 0.1, 0.6, 32, 4, 500) == 0
    assert next_probability(0.1, 0.6, 0.6, 32, 4, 500) == 0.1


# Augmentations

def test_nothing_happens_at_probability_0_and_draws_repeat():
    x = normal(4, 3, 20, 20)
    everything = replace(BGC, imgfilter=1, noise=1, cutout=1)
    seeded = lambda seed: Seeded(torch.Generator().manual_seed(seed))
    calm = smooth()                                                            # what the warp's own filter leaves alone
    torch.testing.assert_close(augment(calm, BGC, 0.0, seeded(0))[..., 4:-4, 4:-4], calm[..., 4:-4, 4:-4], atol=0.012, rtol=0)
    colors = Augmentations(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1, cutout=1, noise=1)
    torch.testing.assert_close(augment(x, colors, 0.0, seeded(0)), x)
    big = normal(2, 3, 32, 32)
    assert torch.equal(augment(big, everything, 1.0, seeded(1)), augment(big, everything, 1.0, seeded(1)))
    assert not torch.equal(augment(big, everything, 1.0, seeded(1)), augment(big, everything, 1.0, seeded(2)))


def smooth(size: int = 24) -> torch.Tensor:
    """A picture without high frequencies, which the filter of the warp leaves where it is to a tenth of a pixel."""
    rows, columns = torch.meshgrid(torch.linspace(0, 3, size), torch.linspace(0, 2, size), indexing="ij")
    return torch.stack([rows.sin(), columns.cos(), (rows + columns).sin()])[None]


@pytest.mark.parametrize("how, draws, expected", [
    (Augmentations(xflip=1), [0.7, 0.0], lambda x: x.flip(3)), (Augmentations(rotate90=1), [0.6, 0.0], lambda x: x.flip(2, 3)),
    (Augmentations(xflip=1), [0.7, 0.9], lambda x: x), (Augmentations(xflip=1), [0.2, 0.0], lambda x: x)])
def test_exact_warps_of_smooth_pictures(how, draws, expected):
    x = smooth()
    y = augment(x, how, 0.5, Given([torch.tensor([draw]) for draw in draws]))
    torch.testing.assert_close(y[..., 4:-4, 4:-4], expected(x)[..., 4:-4, 4:-4], atol=0.03, rtol=0)


def test_wider_margins_change_nothing(monkeypatch):
    x, warp = normal(1, 3, 16, 16), rotation(torch.tensor([0.4]))
    lean = warped(x, warp)
    assert max(margins(warp, 16, 16)) < 15
    monkeypatch.setattr("op3d.augment.margins", lambda *_: (15, 15, 15, 15))
    torch.testing.assert_close(warped(x, warp), lean, atol=1e-5, rtol=1e-5)


def test_colour_keeps_grays_gray_and_saturation_their_brightness():
    gray, x = torch.rand(2, 1, 6, 6).expand(2, 3, 6, 6), torch.rand(2, 3, 6, 6)
    y = augment(gray, Augmentations(brightness=1, contrast=1, hue=1, saturation=1), 1.0, Percentile(0.8))
    torch.testing.assert_close(y, y.mean(1, keepdim=True).expand_as(y))
    for how in (Augmentations(hue=1), Augmentations(saturation=1)):
        torch.testing.assert_close(augment(x, how, 1.0, Percentile(0.8)).mean(1), x.mean(1))
    six = augment(torch.cat([x, x], dim=1), Augmentations(hue=1, contrast=1), 1.0, Percentile(0.3))
    torch.testing.assert_close(six[:, :3], six[:, 3:])


def test_the_bands_add_up_to_the_picture():
    bank = filter_bank()
    pixel = torch.zeros(43)
    pixel[21] = 1
    torch.testing.assert_close(bank.sum(0), pixel, atol=1e-6, rtol=0)
    x = normal(2, 3, 30, 30)
    torch.testing.assert_close(filtered(x, torch.ones(2, 4)), x, atol=1e-5, rtol=0)
    gains = band_gains(2, Augmentations(imgfilter=1), 1.0, Percentile(0.9))
    assert gains.shape == (2, 4) and torch.equal(gains[0], gains[1])


def test_both_pictures_are_augmented_alike():
    pair = Pair(normal(2, 3, 16, 16), normal(2, 3, 8, 8))
    same = augmented(pair, lambda six: six)
    assert same.image.shape == (2, 3, 16, 16) and same.raw.shape == (2, 3, 8, 8) and torch.equal(same.image, pair.image)
    shifted = augmented(pair, lambda six: six + 1)
    torch.testing.assert_close(shifted.raw, same.raw + 1)
