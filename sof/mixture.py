"""A Gaussian mixture over the codes of the heads, from which new heads are drawn (SofGAN, section 3; the release: 16 full covariances of 221 codes).

    x = mean_k + L_k e,  L_k L_k^T = covariance_k,  k ~ weights,  e ~ N(0, 1)            with `pca`, in the span of the first principal axes

Each of 16 components has about 14 of 221 codes, so that a full covariance in 256 dimensions has rank 13 and new heads lie between a few known ones;
`tied`, `diag`, `spherical` and `pca` share or save parameters.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.checkpoint import export_safetensors, open_checkpoint
from common.config import option
from common.errors import InputError

COVARIANCES = ("full", "tied", "diag", "spherical")


@dataclass
class MixtureOptions:
    """How a mixture is fitted; the defaults are the release's, which sets no seed."""

    components: int = option(16, "Gaussians of the mixture", low=1)
    covariance: str = option("full", "of each component; tied: one for all; diag and spherical: without correlations", choices=COVARIANCES)
    pca: int = option(0, "principal axes of the codes that the mixture lives in; 0: all of code space", low=0)
    mixture_seed: int = option(0, "seed of the fit", low=0)


@dataclass(frozen=True)
class Mixture:
    """K Gaussians in D dimensions, float64: weights (K,), means (K, D), factors (K, D, D) of covariances L L^T; the code of x (D,) is center + x @ axes."""

    weights: Tensor
    means: Tensor
    factors: Tensor
    center: Tensor                                              # (C,)
    axes: Tensor                                                # (D, C)


def fit(codes: Tensor, options: MixtureOptions) -> Mixture:
    """The mixture of codes (N, C). Raises InputError for fewer codes than it needs."""
    from sklearn.mixture import GaussianMixture

    if len(codes) < max(options.components, 3):
        raise InputError(f"--components {options.components}: expected at most as many as there are codes, {len(codes)}, and three codes at least")
    codes = codes.double().cpu()
    center, axes = principal_axes(codes, options.pca)
    found = GaussianMixture(options.components, covariance_type=options.covariance, random_state=options.mixture_seed).fit(((codes - center) @ axes.T).numpy())
    means, covariances = torch.from_numpy(found.means_), torch.from_numpy(found.covariances_)
    if options.covariance == "spherical":
        covariances = covariances[:, None].expand_as(means)
    if covariances.shape == means.shape:
        covariances = covariances.diag_embed()
    factors = torch.linalg.cholesky(covariances).expand(len(means), -1, -1).contiguous()
    return Mixture(torch.from_numpy(found.weights_), means, factors, center, axes)


def principal_axes(codes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The centre (C,) of codes (N, C) and their first `count` principal axes (count, C), orthonormal; for 0 no centre and the axes of code space."""
    if count == 0:
        return codes.new_zeros(codes.shape[1]), torch.eye(codes.shape[1], dtype=codes.dtype)
    center = codes.mean(dim=0)
    axes = torch.linalg.svd(codes - center, full_matrices=False).Vh
    if count > min(len(codes) - 1, codes.shape[1]):
        raise InputError(f"--pca {count}: {len(codes)} codes of {codes.shape[1]} numbers have at most {min(len(codes) - 1, codes.shape[1])} axes")
    return center, axes[:count]


def draw(mixture: Mixture, count: int, seed: int) -> Tensor:
    """New codes (count, C) float32, a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    k = torch.multinomial(mixture.weights, count, replacement=True, generator=generator)
    noise = torch.randn(count, mixture.means.shape[1], 1, dtype=torch.float64, generator=generator)
    x = mixture.means[k] + (mixture.factors[k] @ noise)[..., 0]
    return (mixture.center + x @ mixture.axes).float()


def projected(mixture: Mixture, center: Tensor, plane: Tensor) -> tuple[Tensor, Tensor]:
    """Means (K, 2) and covariances (K, 2, 2) of the mixture seen along a plane (2, C) through `center` (C,)."""
    means = (mixture.center + mixture.means @ mixture.axes - center) @ plane.T
    half = (plane @ mixture.axes.T) @ mixture.factors
    return means, half @ half.transpose(1, 2)


def save(path: str | Path, mixture: Mixture, options: MixtureOptions) -> None:
    """Write the mixture as .safetensors, with its options."""
    export_safetensors(path, {"mixture": vars(mixture)}, asdict(options))


def load(path: str | Path) -> Mixture:
    """The mixture that `save` wrote. Raises InputError for any other file."""
    opened = open_checkpoint(path)
    state = opened.data.get("mixture", {}) if opened.kind == "ours" else {}
    if state.keys() != set(Mixture.__dataclass_fields__):
        raise InputError(f"{path}: no mixture; sof/sample.py fit makes one")
    return Mixture(**state)
