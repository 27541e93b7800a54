"""Codes of heads on a plane, by a variational autoencoder C -> 400 -> 2 -> 400 -> C (the release's notebook Test_GMM).

    loss = |x - decode(z)|^2 / 2 + KL(N(mu, sigma^2) | N(0, 1)),  z = mu + sigma e        per code, codes scaled to unit variance
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

HIDDEN, PLANE = 400, 2


class LatentVAE(nn.Module):
    """Encodes codes (N, size) as means and log variances (N, 2), decodes (N, 2)."""

    def __init__(self, size: int):
        super().__init__()
        self.inner, self.mean, self.log_variance = nn.Linear(size, HIDDEN), nn.Linear(HIDDEN, PLANE), nn.Linear(HIDDEN, PLANE)
        self.decode = nn.Sequential(nn.Linear(PLANE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (N, 2) of x (N, size)."""
        hidden = relu(self.inner(x))
        return self.mean(hidden), self.log_variance(hidden)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """() KL(N(mean, exp(log_variance)) | N(0, 1)) of (N, D), summed over D, its mean over N."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


def train(codes: Tensor, epochs: int = 500, batch: int = 100, lr: float = 1e-4, seed: int = 0,
          published_loss: bool = False) -> tuple[Tensor, dict[str, list[float]]]:
    """Where each code (N, size) lies on the plane (N, 2), and the terms of the loss by epoch.

    `published_loss`: the KL divergence alone, as in the notebook, whose minimum sends every head to the origin.
    """
    generator = torch.Generator().manual_seed(seed)
    x = (codes - codes.mean(dim=0)) / codes.std().clamp_min(1e-12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = LatentVAE(x.shape[1])
    optimizer, history = torch.optim.Adam(vae.parameters(), lr=lr), {"reconstruction": [], "KL": []}
    for _ in range(epochs):
        terms = torch.stack([_step(vae, optimizer, x[rows], generator, published_loss) for rows in torch.randperm(len(x), generator=generator).split(batch)])
        for name, value in zip(history, terms.mean(dim=0).tolist()):
            history[name].append(value)
    with torch.no_grad():
        return vae.encode(x)[0], history


def _step(vae: LatentVAE, optimizer: torch.optim.Optimizer, x: Tensor, generator: torch.Generator, published_loss: bool) -> Tensor:
    """One step of Adam; its reconstruction and KL terms (2,)."""
    mean, log_variance = vae.encode(x)
    z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
    reconstruction, kl = 0.5 * (vae.decode(z) - x).square().sum(dim=1).mean(), kl_divergence(mean, log_variance)
    optimizer.zero_grad()
    (kl if published_loss else reconstruction + kl).backward()
    optimizer.step()
    return torch.stack([reconstruction, kl]).detach()
