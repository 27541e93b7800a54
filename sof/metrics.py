"""The three mean IoUs that SOF's release reports, under names of their own (specification 4.4 and 5.1); ``common.metrics.mean_iou`` is the honest one.

All compare label maps (B, ...) of B pictures, each picture and class by itself.
"""
from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate, one_hot


def logged_miou(predicted: Tensor, target: Tensor, classes: int = 20) -> Tensor:
    """() The training log's: the mean of i / (u + 1e-6) over the pictures and classes where it is not 0.

    A class that was missed altogether does not count, so it flatters; NaN if nothing was hit.
    """
    intersection, union = _overlaps(predicted, target, classes)
    iou = intersection / (union + 1e-6)
    return iou[iou != 0].mean()


def notebook_miou(predicted: Tensor, target: Tensor, classes: int = 20) -> Tensor:
    """(B,) The notebooks': the mean over all classes of (i + 1e-8) / (u + 1e-8); a class in neither map counts 1."""
    intersection, union = _overlaps(predicted, target, classes)
    return ((intersection + 1e-8) / (union + 1e-8)).mean(dim=1)


def style_filter_miou(first: Tensor, second: Tensor, classes: int = 17, side: int = 128) -> Tensor:
    """(B,) The portrait path's, of maps (B, 1, H, W): at side x side, the mean over all classes of i / (u + 1e-6); a class in neither map counts 0."""
    resize = lambda labels: interpolate(labels.float(), size=(side, side), mode="nearest")
    intersection, union = _overlaps(resize(first), resize(second), classes)
    return (intersection / (union + 1e-6)).mean(dim=1)


def _overlaps(a: Tensor, b: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Pixels in both and pixels in either (B, classes)."""
    a, b = (one_hot(labels.flatten(1).long(), classes).bool() for labels in (a, b))
    return (a & b).sum(dim=1).float(), (a | b).sum(dim=1).float()
