"""Adversarial training's parts against closed forms: losses at known logits, R1 of known functions, averages by hand."""
from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from common import checkpoint
from common.errors import InputError
from common.gan import Ema, discriminator_loss, generator_loss, r1_penalty, top_k


def leaf(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype, requires_grad=True)


def small_discriminator():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 1)).double()


def test_losses_are_cross_entropies():
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [3.0], [-2.0]])
    entropy = nn.functional.binary_cross_entropy_with_logits
    assert torch.allclose(discriminator_loss(real, fake), entropy(real, torch.ones(2, 1)) + entropy(fake, torch.zeros(3, 1)))
    assert torch.allclose(generator_loss(fake), entropy(fake, torch.ones(3, 1)))
    assert float(discriminator_loss(torch.zeros(1, 1), torch.zeros(1, 1))) == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("fraction, kept", [(1.0, [3, 2, 1, 0]), (0.6, [3, 2, 1]), (0.5, [3, 2]), (0.01, [3])])
def test_top_k_rounds_up_and_passes_gradients_to_the_kept(fraction, kept):
    logits = torch.tensor([[1.0], [3.0], [0.0], [2.0]], requires_grad=True)
    best = top_k(logits, fraction)
    assert best.flatten().tolist() == kept
    best.sum().backward()
    assert torch.equal(logits.grad.flatten() > 0, torch.tensor([value in kept for value in (1, 3, 0, 2)]))


def test_r1_of_known_functions():
    x, weight = leaf(5, 3, 2, 2), leaf(3, 2, 2)
    assert torch.allclose(r1_penalty((x * weight).flatten(1).sum(1, keepdim=True), x), weight.square().sum())
    assert torch.allclose(r1_penalty(x.square().flatten(1).sum(1, keepdim=True), x), 4 * x.square().sum() / 5)
    penalty = r1_penalty((x * weight).flatten(1).sum(1, keepdim=True), x)
    assert torch.allclose(torch.autograd.grad(penalty, weight)[0], 2 * weight)


def test_r1_differentiates_once_and_twice_more():
    net = small_discriminator()
    names = [name for name, _ in net.named_parameters()]

    def penalty(x, *parameters):
        logits = torch.func.functional_call(net, dict(zip(names, parameters)), x)
        return r1_penalty(logits, x)

    inputs = (leaf(2, 3, 4, 4), *(parameter.detach().requires_grad_() for parameter in net.parameters()))
    assert torch.autograd.gradcheck(penalty, inputs)
    assert torch.autograd.gradgradcheck(penalty, inputs)


def test_r1_under_autocast_is_float32_and_scaling_saves_small_gradients():
    net, x = small_discriminator().float(), leaf(2, 3, 4, 4, dtype=torch.float32)
    exact = r1_penalty(net(x), x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(x)
        penalty = r1_penalty(logits, x, scale=1024.0)
    assert logits.dtype == torch.bfloat16 and penalty.dtype == torch.float32 and torch.allclose(penalty, exact, rtol=0.05)
    penalty.backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters() if parameter.grad is not None) and net[0].weight.grad.abs().max() > 0

    def tiny(y):                                              # a gradient of 1e-9, which float16 takes for 0
        return (y.half() * 1e-6).sum(dim=1, keepdim=True).float() * 1e-3

    y = leaf(3, 2, dtype=torch.float32)
    assert float(r1_penalty(tiny(y), y, scale=1e6)) == pytest.approx(2e-18, rel=0.05, abs=0) and float(r1_penalty(tiny(y), y)) == 0


def trained(net, ema, steps):
    for step in range(steps):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(torch.full_like(parameter, float(step)))
        ema.update(net)


def test_average_by_hand():
    net = nn.Linear(2, 1)
    net.bias.requires_grad_(False)
    start = net.weight.detach().clone()
    ema = Ema(net, decay=0.25)
    trained(net, ema, 2)
    after_one = start * 2 / 11                                # decays 2/11, then 3/12, which the given decay equals
    assert list(ema.shadow) == ["weight"] and torch.allclose(ema.shadow["weight"], after_one * 0.25 + 0.75) and ema.updates == 2
    trained(net, ema, 60)
    assert torch.allclose(ema.shadow["weight"], torch.full((1, 2), 59 - 1 / 3))           # of a ramp: behind by decay / (1 - decay)


def test_average_for_a_while_and_for_good():
    net = nn.Linear(2, 3)
    ema = Ema(net, 0.9)
    net.requires_grad_(False)                                 # as a player's is while the other one learns
    trained(net, ema, 5)
    raw = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), ema.applied(net):
        assert all(torch.equal(value, ema.shadow[name]) for name, value in net.state_dict().items())
        raise KeyboardInterrupt
    assert all(torch.equal(value, raw[name]) for name, value in net.state_dict().items())
    ema.copy_to(net)
    assert torch.equal(net.weight, ema.shadow["weight"])


def test_average_in_a_checkpoint(tmp_path):
    net = nn.Linear(2, 3)
    ema, fresh = Ema(net, 0.99), Ema(nn.Linear(2, 3), 0.99)
    trained(net, ema, 3)
    checkpoint.save(tmp_path / "c.pt", {"state": {"ema": ema.state_dict()}})
    state = checkpoint.load(tmp_path / "c.pt")["state"]["ema"]
    checkpoint.load_strict(fresh, state, "c.pt")
    trained(net, ema, 3), trained(net, fresh, 3)
    assert fresh.updates == 6 and all(torch.equal(value, fresh.shadow[name]) for name, value in ema.shadow.items())
    assert state["updates"] == 3 and state["shadow.weight"].data_ptr() != fresh.shadow["weight"].data_ptr()
    with pytest.raises(InputError, match=r"1 missing: updates; 1 misshapen: shadow\.weight 1x2 instead of 3x2"):
        checkpoint.load_strict(fresh, {"shadow.weight": torch.zeros(1, 2), "shadow.bias": torch.zeros(3)}, "c.pt")
