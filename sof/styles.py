"""Styles of SofGAN's portraits: drawn by seed, mixed by region of the face, chosen by whether a parser finds the label map again (specification 4.5)."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from common import draws
from common.chunks import in_chunks
from common.labels import PAINTER_LABELS, SOF_TO_PAINTER
from common.parser import Parser, parse
from sof.edit import eased
from sof.metrics import style_filter_miou
from sof.painter import Painter, Plan, condition_labels

REGIONS = {
    "global": tuple(range(len(PAINTER_LABELS))),
    "background": (0,),
    "complexion": (1, 4, 5, 9, 12),
    "hair": (15,),
    "eyes_mouth": (3, 6, 7, 8),
    "wearings": (10, 11, 13, 14, 16),
}
MEAN_OF = 4000                                                # codes averaged for truncation
THRESHOLDS = ((15, 0.46), (20, 0.42), (30, 0.35))             # up to that round a style must agree with the label map so well; later any will do
CPU_PICTURES, GPU_PICTURES = 1, 4                             # painted at once


# Codes

@torch.no_grad()
def mean_code(painter: Painter) -> Tensor:
    """The mean (D,) of 4000 mapped codes, always the same ones."""
    z = torch.randn(MEAN_OF, painter.config.style_dim, generator=draws.generator(0, 0, "mean style"))
    return painter.style(z.to(painter.device)).mean(dim=0)


@torch.no_grad()
def style_codes(painter: Painter, seeds: list[int], psi: float = 0.7, mean: Tensor | None = None) -> Tensor:
    """Codes (S, L, D) of styles, each a function of its seed: truncated, w <- mean + psi (w - mean), and the same for all layers."""
    mean = mean_code(painter) if mean is None else mean
    z = torch.stack([torch.randn(painter.config.style_dim, generator=draws.generator(seed, 0, "style")) for seed in seeds])
    w = mean + psi * (painter.style(z.to(mean.device)) - mean)
    return w[:, None].expand(-1, painter.code_count, -1)


# Regions

def region(labels: Tensor, names: list[str]) -> Tensor:
    """(N, H, W) float, 1 where labels (N, H, W) of the painter's classes belong to one of the named regions, 0 elsewhere."""
    classes = torch.tensor(sorted({k for name in names for k in REGIONS[name]}), device=labels.device)
    return torch.isin(labels, classes).float()


def in_region(codes: Tensor, labels: Tensor, names: list[str]) -> tuple[Tensor, Tensor]:
    """Codes (S, 2, L, D) and mask (N, 2, H, W) that paint the first of the styles (S, L, D), but each of them within the named regions."""
    inside = region(labels, names)
    return torch.stack([codes[:1].expand_as(codes), codes], dim=1), torch.stack([1 - inside, inside], dim=1)


def region_by_region(source: Tensor, target: Tensor, labels: Tensor, names: list[str], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The frames, codes (1, 3, L, D) and mask (1, 3, H, W), of a film in which one style (L, D) takes another's place.

    Region after region of `names` that labels (1, H, W) have goes over in `count` eased frames.
    """
    done = torch.zeros_like(labels, dtype=torch.float32)
    for name in names:
        going = region(labels, [name]) * (1 - done)
        mask = torch.stack([1 - done - going, done, going], dim=1)
        for weight in eased(count).tolist() if going.any() else ():
            yield torch.stack([source, target, source.lerp(target, weight)])[None], mask
        done = done + going


# Pictures

@torch.no_grad()
def paint(painter: Painter, plan: Plan, codes: Tensor, mask: Tensor | None = None) -> np.ndarray:
    """Portraits (S, R, R, 3) uint8 of styles (S, K, L, D) on the plan of one label map; mask (1, K, H, W) where K > 1."""

    def pictures(some: Tensor) -> Tensor:
        colors = (painter(plan, some, mask) + 1) * 127.5
        return colors.round_().clamp_(0, 255).permute(0, 2, 3, 1).to("cpu", torch.uint8)

    return in_chunks(pictures, codes, chunk=CPU_PICTURES if painter.device.type == "cpu" else GPU_PICTURES).numpy()


def agreement(parser: Parser, pictures: np.ndarray, labels: Tensor) -> Tensor:
    """(S,) the published mean IoU between label maps (1, H, W) of the painter's classes and what the parser (20 classes) sees in portraits (S, R, R, 3)."""
    seen = condition_labels(torch.from_numpy(parse(parser, pictures, parser.side)))
    return style_filter_miou(seen[:, None], labels.cpu()[:, None].expand(len(seen), -1, -1, -1), classes=int(SOF_TO_PAINTER.max()) + 1)


def choose(count: int, first: int, score: Callable[[list[int]], Tensor]) -> list[tuple[int, float]]:
    """(seed, agreement) of `count` styles, the best first: candidates from seed `first` on, `count` a round, judged by `score`(seeds) -> (count,).

    The published filter: a style is accepted above 0.46, after 15 rounds above 0.42, after 20 above 0.35, after 30 whatever it is.
    """
    accepted, tried = [], 0
    while len(accepted) < count:
        threshold = next((value for rounds, value in THRESHOLDS if tried < rounds), -1.0)
        seeds = list(range(first + tried * count, first + (tried + 1) * count))
        accepted += [(seed, value) for seed, value in zip(seeds, score(seeds).tolist()) if value > threshold]
        tried += 1
    return sorted(accepted, key=lambda style: -style[1])[:count]
