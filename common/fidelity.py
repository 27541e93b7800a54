"""How near one set of pictures is to another, from their features: Frechet distance, kernel distance, inception score, precision and recall.

Rows (n, F) are the features of n pictures, in float32 on any device; ``common.features`` makes them of pictures and says what the numbers are called.
The Frechet distance needs only moments, which are streamed in float64 over batches and over ranks. The kernel estimate and the inception score are
torch-fidelity's own functions, whose numbers are the published ones.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common import ranks
from common.chunks import in_chunks

ROWS = 4096                                                  # of features that become float64 at once
PROBES = 1024                                                # rows whose distances to all others are held at once


# Frechet distance

class Moments(NamedTuple):
    """Of n rows (n, F): how many, their mean (F,) and the sum (F, F) of (x - mean)(x - mean)^T; float64."""

    count: int
    mean: Tensor
    scatter: Tensor

    def covariance(self, ddof: int = 1) -> Tensor:
        """(F, F): the scatter over n - ddof."""
        return self.scatter / (self.count - ddof)


def moments(rows: Tensor) -> Moments:
    """The moments of at least one row (n, F), summed some thousands at a time."""
    return reduce(joined, map(_moments, rows.split(ROWS)))


def _moments(rows: Tensor) -> Moments:
    rows = rows.double()
    mean = rows.mean(0)
    return Moments(len(rows), mean, (rows - mean).T @ (rows - mean))


def joined(a: Moments, b: Moments) -> Moments:
    """The moments of the rows of both, without the loss of digits that sums of squares have (Chan et al. 1979)."""
    count, apart = a.count + b.count, b.mean - a.mean
    return Moments(count, a.mean + apart * (b.count / count), a.scatter + b.scatter + torch.outer(apart, apart) * (a.count * b.count / count))


def over_ranks(own: Moments) -> Moments:
    """The moments of every rank's rows, on every rank; all ranks call it."""
    count = int(ranks.total(torch.tensor(own.count, device=own.mean.device)))
    mean = ranks.total(own.count * own.mean) / count
    return Moments(count, mean, ranks.total(own.scatter + own.count * torch.outer(own.mean - mean, own.mean - mean)))


def frechet_distance(a: Moments, b: Moments, ddof: int = 1) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two Gaussians (Dowson and Landau 1982; FID: Heusel et al. 2017).

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric: no complex numbers and no
    constant on the diagonal, however few the rows. ddof: the covariances' divisor n - ddof is 1 in torch-fidelity and pytorch-fid, 0 in StyleGAN and EG3D.
    """
    ca, cb = a.covariance(ddof), b.covariance(ddof)
    values, vectors = torch.linalg.eigh(ca)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cb @ root).clamp_min(0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + ca.trace() + cb.trace() - 2 * shared)


# Kernel distance

def random_subsets(fakes: int, reals: int, subsets: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`subsets` times `size` of the fakes and of the reals without replacement, in the order in which torch-fidelity and StyleGAN draw them."""
    random = np.random.RandomState(seed)
    for _ in range(subsets):
        yield random.choice(fakes, size, replace=False), random.choice(reals, size, replace=False)


def kernel_distances(fake: Tensor, real: Tensor, subsets: Iterable[tuple[np.ndarray, np.ndarray]], degree: int = 3, gamma: float | None = None,
                     coef0: float = 1.0) -> np.ndarray:
    """The unbiased squared MMD (subsets,) of each pair of subsets under (gamma x.y + coef0)^degree, gamma 1/F by default (KID: Binkowski et al. 2018).

    torch-fidelity's own estimate. Their mean and population deviation are published as KID; a little below 0 is as good as 0.
    """
    from torch_fidelity.metric_kid import kernel_mmd
    fake, real = fake.cpu().numpy(), real.cpu().numpy()
    kernel = {"kid_kernel_poly_degree": degree, "kid_kernel_poly_gamma": gamma, "kid_kernel_poly_coef0": coef0}
    return np.array([kernel_mmd(fake[i], real[j], **kernel) for i, j in subsets], np.float64)


# Inception score

def inception_score(logits: Tensor, splits: int = 10, seed: int | None = 2020) -> tuple[float, float]:
    """exp of the mean of KL(p(y|x) | p(y)) over each split, as mean and population deviation over the splits (Salimans et al. 2016).

    torch-fidelity's own function. Arguments: logits (n, classes) without bias; seed of the shuffle before splitting, None (StyleGAN): none.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric
    return tuple(isc_features_to_metric(logits.cpu(), splits, seed is not None, seed).values())


# Precision and recall

def precision_recall(fake: Tensor, real: Tensor, neighbours: int = 3, half: bool = False) -> tuple[float, float]:
    """The share of fakes inside the manifold of the reals, and of reals inside that of the fakes (Kynkaanniemi et al. 2019).

    A manifold is the balls round its rows that reach to their k-th neighbour, itself not counted. half rounds features and distances to float16
    (StyleGAN's pr50k3); distances are made in float64, as differences of squares have lost their digits in float32.
    """
    if half:
        fake, real = fake.half(), real.half()
    fake, real = fake.double(), real.double()
    return share_inside(fake, real, neighbours, half), share_inside(real, fake, neighbours, half)


def share_inside(probes: Tensor, rows: Tensor, neighbours: int, half: bool = False) -> float:
    """The share of probes (m, F) within the distance of some row (n, F) to its k-th neighbour; n > k, float64."""
    def apart(some: Tensor) -> Tensor:
        distances = torch.cdist(some, rows)
        return distances.half().to(distances) if half else distances

    radii = in_chunks(lambda some: apart(some).kthvalue(neighbours + 1, dim=1).values, rows, chunk=PROBES)
    return float(in_chunks(lambda some: (apart(some) <= radii).any(dim=1), probes, chunk=PROBES).double().mean())
