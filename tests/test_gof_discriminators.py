"""Discriminators: the published sizes, coordinates as channels, fading, and what training asks of them (double backward, autocast)."""
from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from common.errors import InputError
from common.gan import generator_loss, r1_penalty
from gof.discriminators import KINDS, CoordConv, Discriminator

SIZES = {
    "ProgressiveDiscriminator": (62, 12_412_465), "ProgressiveEncoderDiscriminator": (64, 20_202_931), "StridedDiscriminator": (62, 12_805_489),
    "CCSDiscriminator": (62, 12_879_217), "CCSEncoderDiscriminator": (60, 13_291_075),
}


def small(name, **options):
    torch.manual_seed(0)
    return Discriminator(name, width=0.05, **options).double()


def pictures(side, n=2):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(side), dtype=torch.float64) * 2 - 1


def test_published_sizes():
    assert SIZES.keys() == KINDS.keys()
    with torch.device("meta"):
        networks = {name: Discriminator(name) for name in KINDS} | {"pi-GAN's encoder": Discriminator("ProgressiveEncoderDiscriminator", codes=False)}
    counts = {name: (len(net.state_dict()), sum(value.numel() for value in net.state_dict().values())) for name, net in networks.items()}
    assert counts == SIZES | {"pi-GAN's encoder": (62, 12_825_523)}


def test_coordinates_are_two_more_channels():
    for stride in (1, 2):
        layer = CoordConv(4, 5, stride).double()
        x = torch.randn(3, 4, 6, 8, dtype=torch.float64)
        rows = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None].expand(3, 1, 6, 8)
        columns = torch.linspace(-1, 1, 8, dtype=torch.float64).expand(3, 1, 6, 8)
        expected = F.conv2d(torch.cat([x, rows, columns], dim=1), layer.conv.weight, layer.conv.bias, stride, padding=1)
        assert torch.allclose(layer(x), expected)


@pytest.mark.parametrize("name", KINDS)
def test_every_side_enters_and_halves_down_to_two(name):
    net = small(name)
    largest = 2 ** len(net.fromRGB)
    assert largest == (256 if "trided" in name or "CCS" in name else 512)
    with torch.no_grad():
        for side in (2, 4, 32, largest):
            logits, latents, angles = net(pictures(side), 0.5)
            assert net.features(pictures(side)).shape[2:] == (2, 2) and logits.shape == (2, 1)
            assert (latents.shape, angles.shape) == ((2, 256), (2, 2)) if "Encoder" in name else latents is angles is None
    for side in (1, 24, 2 * largest):
        with pytest.raises(InputError, match=f"--img_size {side}: {name} takes powers of two from 2 to {largest}"):
            net(pictures(side))


@pytest.mark.parametrize("name", KINDS)
def test_a_new_depth_fades_in(name):
    """At alpha 0 the logit is that of the halved pictures; the mixture is even in between; at 1 the halved pictures' layer is not used."""
    net, x = small(name), pictures(16)
    before = net.features(x, 0.0)
    assert torch.allclose(before, net.features(x[..., ::2, ::2]))
    entry = net.entry(16)
    settled, x0 = net.layers[entry](net.fromRGB[entry](x)), net.fromRGB[entry + 1](x[..., ::2, ::2])
    mixed = 0.3 * settled + 0.7 * x0
    for layer in net.layers[entry + 1:]:
        mixed = layer(mixed)
    assert torch.allclose(net.features(x, 0.3), mixed)
    net(x, 1.0)[0].sum().backward()
    assert net.fromRGB[entry + 1].model[0].weight.grad is None


@pytest.mark.parametrize("name", KINDS)
def test_r1_differentiates_through_the_whole_network(name):
    net, x = small(name), pictures(4).requires_grad_()

    def loss(reals, *weights):
        values = dict(zip(names, weights))
        logits = torch.func.functional_call(net, values, (reals, 0.4))[0]
        return generator_loss(logits) + 0.5 * r1_penalty(logits, reals)

    names = [name for name, value in net.named_parameters() if name.startswith(f"layers.{net.entry(4)}.network.0")]
    weights = [net.get_parameter(name).detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(loss, (x, *weights), fast_mode=True)


def test_the_penalty_reaches_every_layer_in_use():
    net, x = small("ProgressiveEncoderDiscriminator"), pictures(16).requires_grad_()
    logits, latents, angles = net(x, 0.4)
    (r1_penalty(logits, x) + latents.square().mean() + angles.square().mean()).backward()
    entry, seen = net.entry(16), {name.rsplit(".", 1)[0] for name, value in net.named_parameters() if value.grad is not None}
    depths = {part: {int(name.split(".")[1]) for name in seen if name.startswith(part)} for part in ("layers", "fromRGB")}
    assert depths == {"layers": set(range(entry, 8)), "fromRGB": {entry, entry + 1}} and "final_layer" in seen and "freq_phase_layer" not in seen


def test_half_precision_is_close():
    net, x = small("CCSEncoderDiscriminator").float(), pictures(32).float()
    exact = net(x, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, 0.5)
    assert half[0].dtype == torch.bfloat16 and all(torch.allclose(a.float(), b, atol=0.05, rtol=0.05) for a, b in zip(half, exact))


def test_noise_is_drawn_anew_and_off_by_default():
    for name in ("ProgressiveEncoderDiscriminator", "CCSEncoderDiscriminator"):
        net, x = small(name), pictures(8)
        assert torch.equal(net(x)[0], net(x)[0]) and not torch.equal(net(x, instance_noise=0.1)[0], net(x, instance_noise=0.1)[0])
    entry = net.entry(8)
    clean, noisy = net.features(x), net.features(x, instance_noise=1e-3)
    assert 0 < float((clean - noisy).detach().abs().max()) < 0.1 and entry == 5


def test_code_heads():
    net, x = small("ProgressiveEncoderDiscriminator"), pictures(8)
    frequencies, phases = net.codes(x)
    assert frequencies.shape == phases.shape == (2, 2304)
    both = net.freq_phase_layer(net.features(x)).flatten(1)
    assert torch.equal(torch.cat([frequencies, phases], dim=1), both)
