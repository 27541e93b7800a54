"""What adversarial training needs beside its networks: non-saturating losses, R1, top-k, and a moving average of the weights."""
from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean softplus(D(fake)) + mean softplus(-D(real)), a scalar (Goodfellow et al. 2014)."""
    return softplus(fake_logits).mean() + softplus(-real_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """The non-saturating mean softplus(-D(fake)), a scalar."""
    return softplus(-fake_logits).mean()


def top_k(logits: Tensor, fraction: float) -> Tensor:
    """The ceil(fraction B) largest of logits (B, 1): the samples that the generator learns from (Sinha et al. 2020)."""
    return logits.topk(math.ceil(fraction * len(logits)), dim=0).values


def r1_penalty(logits: Tensor, reals: Tensor, scale: float = 1.0) -> Tensor:
    """mean over B of |dD/dreal|^2 (Mescheder et al. 2018), a scalar that differentiates again; times r1_lambda / 2 in the loss.

    reals (B, ...) required gradients before the forward pass that gave logits (B, 1). That pass may run under autocast, and its gradient in half
    precision: `scale` (GradScaler.get_scale()) keeps small ones from vanishing. What follows is float32, whatever surrounds the call.
    """
    with torch.autocast(reals.device.type, enabled=False):
        gradient, = torch.autograd.grad(logits.sum() * scale, reals, create_graph=True)
        return (gradient / scale).square().flatten(1).sum(dim=1).mean()


class Ema:
    """The exponential moving average of a module's trained parameters, with torch_ema's warm-up: decay_n = min(decay, (1 + n) / (10 + n)).

    `shadow` {name: tensor} is the average, of the parameters that require gradients when it is made; `updates` is n. A Run keeps it as any other state.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.shadow = {name: parameter.detach().clone() for name, parameter in module.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """After an optimiser's step: shadow += (1 - decay_n) (parameter - shadow)."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, average in self.shadow.items():
            average.lerp_(module.get_parameter(name), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Make the averages the module's parameters."""
        for name, average in self.shadow.items():
            module.get_parameter(name).copy_(average)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """While the context lasts, the averages are the module's parameters."""
        kept = {name: module.get_parameter(name).detach().clone() for name in self.shadow}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    module.get_parameter(name).copy_(value)

    def state_dict(self) -> dict[str, int | Tensor]:
        """{"updates": n, "shadow.NAME": tensor}; the decay is the constructor's."""
        return {"updates": self.updates} | {f"shadow.{name}": value for name, value in self.shadow.items()}

    def load_state_dict(self, state: dict[str, int | Tensor]) -> None:
        """Take over what `state_dict` gave (see ``checkpoint.load_strict`` for what does not fit)."""
        self.updates = state["updates"]
        for name, value in self.shadow.items():
            value.copy_(state[f"shadow.{name}"])
