"""StyleGAN2's blocks against their definitions written as loops, and their second derivatives."""
from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from common.layers.fir import fir_kernel, upfirdn2d
from common.layers.stylegan2 import EqualConv2d, EqualLinear, conv2d_per_sample, leaky_relu, modulated_weights, unit_second_moment


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
