"""Heads that change: from code to code, expressions laid over a face, hair or face kept, films of label maps (specification 4.4).

A film asks `draw(poses (N, 4, 4), codes (N, C)) -> label maps (N, H, W) uint8` for its frames and returns those that it shows; `drawer` makes such a
function of a trained SOF, and any other renderer will do.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras
from common.config import option
from common.labels import SOF_LABELS
from common.render import render
from sof.model import SOF
from sof.predict import rays_at_once, shooter

Draw = Callable[[Tensor, Tensor], np.ndarray]

SKIN, MOUTH = SOF_LABELS.index("skin"), SOF_LABELS.index("mouth")
KEPT_WITH_HAIR = tuple(k for k in range(2, 16) if SOF_LABELS[k] not in ("l_ear", "r_ear"))     # the face that stays while the hair changes


@dataclass
class FilmOptions:
    """The notebooks' films; S is `steps`."""

    steps: int = option(20, "S, the unit of a film: frames of each sweep", low=2)
    sigma: float = option(6.0, "of the normal distribution whose integral eases a change in and out", low=1e-6)
    expression_frames: int = option(2, "S times this many frames of expression", low=1)
    expression_rate: float = option(0.3, "share of the direction that every S frames of expression add")
    overlay_from: int = option(2, "first label that an expression replaces")
    overlay_to: int = option(MOUTH + 2, "last label that an expression replaces")
    cleared_to: int = option(SKIN, "label that stands where a replaced part is gone")
    mouth_label: int = option(MOUTH, "label that tells an open mouth")
    mouth_threshold: int = option(40, "pixels of it from which a mouth is open: then the second direction is taken")
    replay: int = option(2, "the last S times this many frames are shown once more, backwards", low=0)


# Codes

def cdf_weights(first: int, last: int, sigma: float = 6.0) -> Tensor:
    """(last - first + 1,) float64: (Phi(i) - Phi(first)) / (1 - 2 Phi(first)), Phi the normal CDF of `sigma`; from 0 to 1 when last = -first."""
    phi = torch.special.ndtr(torch.arange(first, last + 1, dtype=torch.float64) / sigma)
    return (phi - phi[0]) / (1 - 2 * phi[0])


def eased(count: int, sigmas: float = 10 / 3) -> Tensor:
    """(count,) float64 weights from 0 to 1 with the published easing: a normal CDF cut off `sigmas` from its middle (S = 20 steps of sigma 6)."""
    phi = torch.special.ndtr(torch.linspace(-sigmas, sigmas, count, dtype=torch.float64))
    return (phi - phi[0]) / (phi[-1] - phi[0]) if count > 1 else torch.zeros(1, dtype=torch.float64)


def blend(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Codes (N, C): (1 - w) source + w target, of codes (1, C) and weights (N,)."""
    w = weights.to(source)[:, None]
    return (1 - w) * source + w * target


def journey(codes: Tensor, count: int, weights: Callable[[int], Tensor] = eased) -> Tensor:
    """Codes (count, C) from the first of `codes` (K, C) through all to the last, each leg about equally long; count >= K >= 2."""
    legs = len(codes) - 1
    ends = [round(k * (count - 1) / legs) for k in range(legs + 1)]
    parts = [blend(codes[k:k + 1], codes[k + 1:k + 2], weights(ends[k + 1] - ends[k] + 1))[k > 0:] for k in range(legs)]
    return torch.cat(parts)


def there_and_back(code: Tensor, direction: Tensor, amount: float, count: int) -> Tensor:
    """Codes (count, C): `code` (1, C) plus 0 .. amount .. 0 times `direction` (1, C), eased."""
    half = eased((count + 1) // 2)
    weights = torch.cat([half, half.flip(0)[count % 2:]])
    return code + amount * weights.to(code)[:, None] * direction


def with_expressions(own: Tensor, params: Tensor, kept: int) -> Tensor:
    """Face parameters (N, P) of one face with other expressions: the first `kept` of its `own` (P,), the rest of each row of `params` (N, P)."""
    return torch.cat([own[:kept].expand(len(params), -1), params[:, kept:]], dim=1)


# Label maps

def overlay(first: np.ndarray, frames: np.ndarray, labels: tuple[int, ...], cleared_to: int = SKIN) -> np.ndarray:
    """Frames (N, H, W): `first` (H, W) with `labels` cleared, and those of each frame painted over it. An expression changes the face alone."""
    cleared = np.where(np.isin(first, labels), cleared_to, first).astype(first.dtype)
    return np.where(np.isin(frames, labels), frames, cleared)


def keep_face(first: np.ndarray, frames: np.ndarray, labels: tuple[int, ...] = KEPT_WITH_HAIR) -> np.ndarray:
    """Frames (N, H, W) whose face is that of `first` (H, W): their own parts become skin, and those of `first` are painted over. The hair changes alone."""
    return np.where(np.isin(first, labels), first, np.where(np.isin(frames, labels), SKIN, frames)).astype(first.dtype)


def close_holes(frames: np.ndarray, area: int, published: bool = False) -> np.ndarray:
    """Label maps (N, S, S) uint8 without the holes, background that the head encloses, of fewer than `area` pixels of a 512 x 512 map: each takes the
    lowest label at its edge (morphological area closing; Test_MV_Inference's, with 6000).

    `published`: every region whose label is lower than all about it is a hole too, such as the skin within glasses, or a corner of the background.
    """
    from scipy.ndimage import binary_fill_holes
    from skimage.morphology import area_closing
    pixels = round(area * (frames.shape[-1] / 512) ** 2)
    closed = np.stack([area_closing(frame, pixels) for frame in frames])
    within = np.stack([binary_fill_holes(frame > 0) for frame in frames])
    return closed if published else np.where((frames == 0) & within, closed, frames)


def backwards(frames: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The last `count` frames once more, the last one first."""
    return frames[::-1][:count]


# Films

def expression_film(draw: Draw, source: Tensor, target: Tensor, poses: Tensor, options: FilmOptions, directions: Tensor | None = None) -> np.ndarray:
    """TestAll's film (M, H, W): `source` (1, C) from `poses` (N, 4, 4), at the last of them an expression and back, `target` and back.

    directions (2, C): the first is taken if the mouth is closed (a smile), the second if it is open (neutral); without, no expression is shown.
    """
    S, at_last = options.steps, poses[-1:]
    frames = list(draw(poses, source.expand(len(poses), -1)))
    if directions is not None:
        is_open = int((frames[-1] == options.mouth_label).sum() >= options.mouth_threshold)
        amounts = torch.arange(1, S * options.expression_frames + 1) * (options.expression_rate / S)
        codes = source + amounts.to(source)[:, None] * directions[is_open]
        labels = tuple(range(options.overlay_from, options.overlay_to + 1))
        frames += list(overlay(frames[-1], draw(at_last.expand(len(codes), 4, 4), codes), labels, options.cleared_to))
    frames += backwards(frames, S * options.replay)
    codes = blend(source, target, cdf_weights(-S, S, options.sigma))
    frames += list(draw(at_last.expand(len(codes), 4, 4), codes))
    return np.stack(frames + backwards(frames, S * options.replay))


def exchange_film(draw: Draw, source: Tensor, target: Tensor, poses: Tensor, options: FilmOptions, again: int) -> np.ndarray:
    """Test_MV_Inference's film (M, H, W): `source` (1, C) from `poses` (N, 4, 4), into `target` and, from the last `again` poses, back into `source`."""
    weights, spiral = cdf_weights(-options.steps // 2, options.steps // 2, options.sigma), poses[-again:]
    still = poses[-1:].expand(len(weights), 4, 4)
    legs = [(poses, source.expand(len(poses), -1)), (still, blend(source, target, weights)),
            (spiral, target.expand(again, -1)), (still, blend(target, source, weights))]
    return np.concatenate([draw(*leg) for leg in legs])


def drawer(model: SOF, camera_of: Callable[[Tensor], Cameras], side: int) -> Draw:
    """Label maps of a trained SOF at poses (N, 4, 4), which `camera_of` makes cameras of; a scene is built once while the code stays."""

    @torch.no_grad()
    def draw(poses: Tensor, codes: Tensor) -> np.ndarray:
        changes = (codes[1:] != codes[:-1]).any(dim=1).nonzero().flatten().add(1).tolist()
        bounds, cameras, seen = [0, *changes, len(codes)], camera_of(poses), []
        for begin, end in pairwise(bounds):
            scene = model.scene(codes[begin:begin + 1])
            seen.append(render(shooter(model, scene), cameras.pick(slice(begin, end)), side, side, rays_at_once(model, side))["labels"])
        return torch.cat(seen).cpu().numpy()

    return draw
