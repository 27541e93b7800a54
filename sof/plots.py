"""Plots of codes and cameras, drawn into matplotlib axes: the commands give their own, notebooks theirs."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sof.mixture import Mixture, principal_axes, projected

SIGMAS = (1, 2, 3)                                              # of the ellipses of a mixture
AXES = (("red", 1.0, 1.0), ("green", -1.0, 2.0), ("blue", 1.0, 5.0))     # colour, sign and length of a camera's axes, as published
AXIS_LENGTH = 0.3


def plot_mixture(axes, mixture: Mixture, codes: Tensor, drawn: Tensor) -> None:
    """Codes (N, C), new ones (M, C) and the ellipses of the mixture on the codes' two principal axes, into matplotlib axes."""
    center, plane = principal_axes(codes.double(), 2)
    for (x, y), shape in zip(*projected(mixture, center, plane)):
        for sigma in SIGMAS:
            axes.add_patch(ellipse(float(x), float(y), shape, sigma))
    for points, name, style in ((drawn, "drawn", {"s": 8, "color": "#e0653a", "alpha": 0.5}), (codes, "trained", {"s": 22, "color": "#1c2127"})):
        at = (points.double() - center) @ plane.T
        axes.scatter(at[:, 0], at[:, 1], label=name, zorder=3, **style)
    axes.set(xlabel="first principal axis", ylabel="second principal axis")
    axes.legend(frameon=False)


def ellipse(x: float, y: float, covariance: Tensor, sigma: float):
    """The ellipse, as matplotlib's patch, at `sigma` standard deviations of a 2 x 2 covariance about (x, y)."""
    from matplotlib.patches import Ellipse
    variance, axes = torch.linalg.eigh(covariance)
    wide, high = (2 * sigma * variance.clamp_min(0).sqrt()).tolist()
    angle = float(torch.rad2deg(torch.atan2(axes[1, 0], axes[0, 0])))
    return Ellipse((x, y), wide, high, angle=angle, facecolor="#2f6fde", edgecolor="none", alpha=0.28 / sigma)


def plot_plane(axes, plane: Tensor) -> None:
    """Heads at their places (N, 2) on the autoencoder's plane, coloured by their row, into matplotlib axes."""
    axes.scatter(plane[:, 0], plane[:, 1], c=np.arange(len(plane)), cmap="viridis", s=24)
    axes.set(xlabel="first latent", ylabel="second latent")


def plot_cameras(axes, cam2world: Tensor) -> None:
    """Cameras (N, 4, 4) as their axes, right red, up green, forward blue, into matplotlib axes in space; the plot's axes are x, z and y of the world."""
    order, centers = [0, 2, 1], cam2world[:, :3, 3]
    for k, (color, sign, length) in enumerate(AXES):
        arrows = AXIS_LENGTH * sign * length * cam2world[:, :3, k]
        axes.quiver(*centers[:, order].T, *arrows[:, order].T, color=color, linewidth=0.8, arrow_length_ratio=0.1)
    axes.scatter(0, 0, 0, color="black")
    axes.set(xlabel="x", ylabel="z", zlabel="y", aspect="equal")
