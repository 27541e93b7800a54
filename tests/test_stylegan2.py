"""StyleGAN2's blocks against their definitions written as loops, and their second derivatives."""
from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from common.layers.fir import doubled, fir_kernel, padded, upfirdn2d, upsample2d
from common.layers.stylegan2 import (
    EqualConv2d,
    EqualLinear,
    Mapping,
    MappingShape,
    bias_act,
    conv2d_per_sample,
    conv2d_resample,
    leaky_relu,
    modulated_conv2d,
    modulated_weights,
    unit_second_moment,
)
from common.layers.stylegan2_blocks import DiscriminatorBlock, Epilogue, SynthesisBlock, minibatch_std


def normal(*shape, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def upfirdn_by_hand(x, kernel, up, down, padding):
    """Zeros between, padding, the sum over the turned kernel at each place, every down-th kept: a loop over the pixels of one picture (H, W)."""
    left, right, top, bottom = padding
    rows, columns = x.shape[0] * up, x.shape[1] * up
    at = lambda i, j: float(x[i // up, j // up]) if 0 <= i < rows and 0 <= j < columns and i % up == 0 == j % up else 0.0
    k = len(kernel)
    height, width = rows + top + bottom - k + 1, columns + left + right - k + 1
    whole = torch.tensor([[sum(float(kernel[k - 1 - a, k - 1 - b]) * at(i + a - top, j + b - left) for a in range(k) for b in range(k))
                           for j in range(width)] for i in range(height)], dtype=torch.float64)
    return whole[::down, ::down]


@pytest.mark.parametrize("up, down, padding", [
    (1, 1, (0, 0, 0, 0)), (1, 1, (2, 1, 1, 2)), (2, 1, (2, 1, 2, 1)), (1, 2, (1, 1, 2, 0)), (3, 2, (0, 4, 3, -1)), (2, 2, (-1, 2, 1, 1))])
def test_upfirdn2d_is_its_definition(up, down, padding):
    x, kernel = normal(2, 3, 5, 6), normal(4, 4, seed=1)                       # no symmetry to hide behind
    y = upfirdn2d(x, kernel, up, down, padding)
    for n, c in itertools.product(range(2), range(3)):
        torch.testing.assert_close(y[n, c], upfirdn_by_hand(x[n, c], kernel, up, down, padding))


def test_the_filter_keeps_brightness():
    kernel = fir_kernel(gain=4.0)
    assert torch.equal(kernel, kernel.t()) and kernel.sum().item() == pytest.approx(4) and kernel[0, 1] / kernel[0, 0] == 3
    flat = upfirdn2d(torch.ones(1, 2, 6, 6), kernel, up=2, padding=(2, 1, 2, 1))
    assert flat.shape == (1, 2, 12, 12)
    torch.testing.assert_close(flat[..., 2:-2, 2:-2], torch.ones(1, 2, 8, 8))


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_convolution_is_one_convolution_a_picture(demodulate):
    x, weight, styles = normal(3, 4, 6, 5), normal(7, 4, 3, 3, seed=1), normal(3, 4, seed=2)
    weights = modulated_weights(weight, styles, demodulate)
    y = conv2d_per_sample(x, weights)
    for n in range(3):
        own = weight.clone()
        for i in range(4):
            own[:, i] *= styles[n, i]
        if demodulate:
            own = torch.stack([output / math.sqrt(float((output**2).sum()) + 1e-8) for output in own])
        torch.testing.assert_close(weights[n], own)
        torch.testing.assert_close(y[n], F.conv2d(x[n:n + 1], own, padding=1)[0])


def test_transposed_convolution_adds_every_filter_at_twice_its_place():
    x, weights = normal(2, 3, 3, 4), normal(2, 5, 3, 3, 3, seed=1)
    expected = torch.zeros(2, 5, 7, 9, dtype=torch.float64)
    for n, i, r, c in itertools.product(range(2), range(3), range(3), range(4)):
        expected[n, :, 2 * r:2 * r + 3, 2 * c:2 * c + 3] += x[n, i, r, c] * weights[n, :, i]
    torch.testing.assert_close(conv2d_per_sample(x, weights, up=2), expected)


@pytest.mark.parametrize("up", [1, 2])
def test_weights_for_all_are_the_same_weights_for_each(up):
    x, weights = normal(3, 4, 5, 5), normal(1, 6, 4, 3, 3, seed=1)
    torch.testing.assert_close(conv2d_per_sample(x, weights, up), conv2d_per_sample(x, weights.expand(3, -1, -1, -1, -1), up))
    with pytest.raises(AssertionError):
        conv2d_per_sample(x, weights.expand(2, -1, -1, -1, -1), up)


def test_activation_and_norm():
    x, bias = torch.tensor([[[-2.0]], [[3.0]]])[None], torch.tensor([1.0, -1.0])
    torch.testing.assert_close(leaky_relu(x, bias).flatten(), math.sqrt(2) * torch.tensor([-0.2, 2.0]))
    assert leaky_relu(normal(100_000), torch.zeros(1, dtype=torch.float64)).square().mean().item() == pytest.approx(1.04, abs=0.02)
    torch.testing.assert_close(unit_second_moment(normal(5, 8) * 7).square().mean(-1), torch.ones(5, dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(unit_second_moment(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_equalised_layers_keep_unit_variance_whatever_their_width_and_rate():
    torch.manual_seed(0)
    x = torch.randn(4000, 300)
    for lr_mul in (1.0, 0.01):
        layer = EqualLinear(300, 200, bias=3.0, lr_mul=lr_mul)
        assert layer.weight.std().item() == pytest.approx(1 / lr_mul, rel=0.02)
        y = layer(x)
        assert y.std(0).mean().item() == pytest.approx(1, rel=0.02) and y.mean().item() == pytest.approx(3.0 * lr_mul, abs=0.02)
        torch.testing.assert_close(y[:5], x[:5] @ (layer.weight.t() * lr_mul / math.sqrt(300)) + 3.0 * lr_mul)
    conv = EqualConv2d(30, 20, 3, stride=2, padding=1)
    z = torch.randn(2, 30, 40, 40)
    assert conv(z).shape == (2, 20, 20, 20) and conv(z)[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, rel=0.05)
    active = EqualLinear(300, 200, activation="lrelu")
    torch.testing.assert_close(active(x), leaky_relu(x @ active.weight.t() / math.sqrt(300), active.bias))


def test_they_differentiate_twice():
    """R1 and path length need it."""
    leaf = lambda *shape, seed: normal(*shape, seed=seed).requires_grad_()
    x, weight, styles = leaf(2, 2, 3, 3, seed=0), leaf(2, 2, 3, 3, seed=1), leaf(2, 2, seed=2)
    layer = lambda up: lambda x, w, s: conv2d_per_sample(x, modulated_weights(w, s), up)
    for up in (1, 2):
        assert torch.autograd.gradcheck(layer(up), (x, weight, styles)) and torch.autograd.gradgradcheck(layer(up), (x, weight, styles))
    kernel = fir_kernel()
    filtered = lambda x: upfirdn2d(x, kernel, up=2, down=2, padding=(2, 1, 2, 1)) ** 2
    assert torch.autograd.gradcheck(filtered, (x,)) and torch.autograd.gradgradcheck(filtered, (x,))
    bias = leaf(2, seed=3)
    assert torch.autograd.gradgradcheck(lambda x, b: leaky_relu(x, b) ** 3, (x, bias))


# Resampling, convolution and blocks

TAPS = (1.0, 2.0, 4.0)


@pytest.mark.parametrize("up, down, padding, flip", [(1, 1, 0, False), ((2, 3), 1, (1, 2, 3, 0), True), (1, (2, 1), (2, 1), False), (3, 2, -1, True)])
def test_a_row_filters_both_axes(up, down, padding, flip):
    x, row = normal(2, 3, 9, 8), fir_kernel(TAPS, gain=4, separable=True)
    whole = fir_kernel(TAPS, gain=4)
    assert row.shape == (3,) and torch.allclose(torch.outer(row, row), whole)
    torch.testing.assert_close(upfirdn2d(x, row, up, down, padding, flip, 2.0), upfirdn2d(x, whole, up, down, padding, flip, 2.0), rtol=1e-6, atol=1e-6)


def test_doubling_is_the_filtered_upsampling():
    x = normal(2, 3, 5, 7)
    torch.testing.assert_close(doubled(x), upsample2d(x, fir_kernel(), up=2))
    last = doubled(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, doubled(x))


@pytest.mark.parametrize("side, up, down", [(3, 1, 1), (3, 2, 1), (1, 2, 1), (3, 1, 2), (1, 1, 2), (3, 2, 2), (5, 2, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_resampled_convolution_is_three_steps(side, up, down, turned):
    """Zeros between, filter, convolution, filter, every second: whatever the order it is computed in."""
    x, weight, kernel = normal(2, 4, 6, 5), normal(6, 2, side, side, seed=1), fir_kernel(TAPS).double()
    large = upfirdn2d(x, kernel, up, padding=padded(kernel, side // 2, up), gain=up**2) if up > 1 else F.pad(x, (side // 2,) * 4)
    if down > 1:
        large = F.pad(large, padded(kernel, 0, 1, down))
    large = F.conv2d(large, weight if turned else weight.flip(2, 3), groups=2)
    expected = upfirdn2d(large, kernel, down=down) if down > 1 else large
    torch.testing.assert_close(conv2d_resample(x, weight, kernel, up, down, side // 2, groups=2, flip_weight=turned), expected)


@pytest.mark.parametrize("up, side, demodulate", [(1, 3, True), (2, 3, True), (1, 1, False)])
def test_fused_and_unfused_modulation_are_equal(up, side, demodulate):
    x, weight, styles = normal(3, 4, 6, 6), normal(7, 4, side, side, seed=1), normal(3, 4, seed=2)
    how = {"noise": normal(6 * up, 6 * up, seed=3), "up": up, "padding": side // 2, "kernel": fir_kernel(), "demodulate": demodulate}
    torch.testing.assert_close(modulated_conv2d(x, weight, styles, fused=True, **how), modulated_conv2d(x, weight, styles, fused=False, **how))


def test_half_precision_keeps_the_result():
    """Styles and weights far beyond half precision's range: demodulation takes their size away."""
    x, weight, styles = normal(2, 4, 6, 6), normal(5, 4, 3, 3, seed=1) * 1e4, normal(2, 4, seed=2) * 1e4
    half = modulated_conv2d(x.half(), weight.float(), styles.float(), padding=1, fused=False)
    assert half.dtype == torch.float16 and half.isfinite().all()
    torch.testing.assert_close(half.double(), modulated_conv2d(x, weight, styles, padding=1), rtol=0.02, atol=0.01)


def test_activations_have_their_gain_and_clamp():
    x = normal(4, 3) * 3
    torch.testing.assert_close(bias_act(x, torch.tensor([1.0, 2.0, 3.0]), "relu"), math.sqrt(2) * (x + torch.tensor([1.0, 2.0, 3.0])).clamp(min=0))
    torch.testing.assert_close(bias_act(x.t(), torch.tensor([1.0, 2.0, 3.0]), "linear", dim=0), (x + torch.tensor([1.0, 2.0, 3.0])).t())
    assert bias_act(x, activation="swish", gain=3, clamp=0.5).abs().max() == 0.5
    torch.testing.assert_close(bias_act(x, activation="lrelu", slope=0.5, gain=1), torch.where(x > 0, x, x / 2))


def test_minibatch_statistics_by_hand():
    x = normal(6, 4, 2, 3)
    y = minibatch_std(x, group=3, channels=2)
    assert torch.equal(y[:, :4], x)
    for n, part in itertools.product(range(6), range(2)):
        members = x[[m for m in range(6) if m % 2 == n % 2]][:, 2 * part:2 * part + 2]
        expected = (members.var(dim=0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[n, 4 + part], expected.expand(2, 3))
    assert (minibatch_std(x[:1])[:, 4:] == 1e-4).all()                         # one sample differs from none


def test_the_mapping_truncates_towards_its_average():
    torch.manual_seed(0)
    mapping = Mapping(MappingShape(latent=6, labels=4, w=8, layers=2, embedding=5))
    w = mapping(torch.randn(3, 6), torch.randn(3, 4))
    assert w.shape == (3, 8) and mapping.fc0.weight.shape == (8, 11)
    mapping.track(w, beta=0.75)
    torch.testing.assert_close(mapping.w_avg, 0.25 * w.mean(0))
    ws = mapping.truncated(w, 5, psi=0.5, cutoff=2)
    torch.testing.assert_close(ws[:, :2], (mapping.w_avg + 0.5 * (w - mapping.w_avg))[:, None].expand(-1, 2, -1))
    assert torch.equal(ws[:, 2:], w[:, None].expand(-1, 3, -1)) and torch.equal(mapping.truncated(w, 5, psi=0.0), mapping.w_avg.expand(3, 5, -1))
    z, labels = torch.ones(1, 6), torch.ones(1, 4)
    torch.testing.assert_close(mapping(7 * z, labels), mapping(z, labels))     # a latent's length says nothing


def test_blocks_differentiate_twice():
    torch.manual_seed(0)
    block, epilogue = DiscriminatorBlock(0, 2, 3).double(), Epilogue(3, 2, side=2).double()
    picture, labels = normal(2, 3, 4, 4).requires_grad_(), normal(2, 2, seed=1)
    judge = lambda picture: epilogue(*block(None, picture), labels)
    assert torch.autograd.gradcheck(judge, picture) and torch.autograd.gradgradcheck(judge, picture)
    synthesis = SynthesisBlock(2, 2, w_dim=3, side=4).double().train()
    x, image, ws = (normal(2, *shape, seed=seed).requires_grad_() for seed, shape in enumerate([(2, 2, 2), (3, 2, 2), (3, 3)]))
    paint = lambda *inputs: synthesis(*inputs, noise="none")[1]
    assert torch.autograd.gradcheck(paint, (x, image, ws)) and torch.autograd.gradgradcheck(paint, (x, image, ws))


def test_noise_comes_from_where_it_is_said_to():
    torch.manual_seed(0)
    block = SynthesisBlock(0, 4, w_dim=3, side=4)
    with torch.no_grad():
        block.conv1.noise_strength.fill_(1.0)
    ws, seeded = torch.randn(2, 2, 3), lambda seed: [torch.Generator().manual_seed(seed + i) for i in range(2)]
    drawn = lambda noise: block(None, None, ws, noise)[1]
    assert torch.equal(drawn(seeded(1)), drawn(seeded(1))) and not torch.equal(drawn(seeded(1)), drawn(seeded(5)))
    torch.testing.assert_close(drawn(seeded(1))[1:], block(None, None, ws[1:], seeded(1)[1:])[1])               # whatever the batch
    assert torch.equal(drawn("const"), drawn("const")) and not torch.equal(drawn("const"), drawn("none"))
