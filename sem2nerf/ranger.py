"""Ranger: RAdam (Liu et al., ICLR 2020) with Lookahead (Zhang et al., NeurIPS 2019) and centred gradients (Yong et al., ECCV 2020)."""
from __future__ import annotations

import math
from collections.abc import Callable

import torch

RECTIFIED = 5                                                 # least length of the average for which the variance is trusted


class Ranger(torch.optim.Optimizer):
    """RAdam's step on centred gradients; every `k` steps the parameters fall back to a slow copy that went `alpha` of the way after them."""

    def __init__(self, params, lr: float = 1e-3, alpha: float = 0.5, k: int = 6, betas: tuple[float, float] = (0.95, 0.999), eps: float = 1e-5):
        super().__init__(params, {"lr": lr, "alpha": alpha, "k": k, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """One step of every parameter that has a gradient."""
        assert closure is None, "gradients are computed before"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter), "slow_buffer": parameter.clone()}
        if gradient.dim() > 1:
            gradient = gradient - gradient.mean(dim=tuple(range(1, gradient.dim())), keepdim=True)
        state["step"] += 1
        mean = state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size, trusted = rectified_step(state["step"], beta1, beta2)
        if trusted:
            parameter.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-group["lr"] * size)
        else:
            parameter.add_(mean, alpha=-group["lr"] * size)
        if state["step"] % group["k"] == 0:
            parameter.copy_(state["slow_buffer"].lerp_(parameter, group["alpha"]))


def rectified_step(t: int, beta1: float, beta2: float) -> tuple[float, bool]:
    """RAdam's factor of the step t, and whether the second moment is long enough known to be divided by (RAdam, algorithm 2)."""
    decay, longest = beta2**t, 2 / (1 - beta2) - 1
    length = longest - 2 * t * decay / (1 - decay)
    if length <= RECTIFIED:
        return 1 / (1 - beta1**t), False
    rectifier = (length - 4) / (longest - 4) * (length - 2) / length * longest / (longest - 2)
    return math.sqrt((1 - decay) * rectifier) / (1 - beta1**t), True
