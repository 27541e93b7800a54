"""Measures of results: label maps by intersection over union."""
from __future__ import annotations

import torch
from torch import Tensor


def confusion_matrix(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """Counts (classes, classes) int64 of label maps of one shape: entry [t, p] is how many pixels of class t were taken for class p.

    Matrices of several batches add up to that of them all.
    """
    predicted, target = predicted.flatten().long(), target.flatten().long()
    assert len(predicted) == len(target), "label maps of different sizes"
    assert not len(target) or 0 <= min(predicted.min(), target.min()) <= max(predicted.max(), target.max()) < classes, f"labels beyond {classes} classes"
    return torch.bincount(target * classes + predicted, minlength=classes**2).view(classes, classes)


def class_ious(confusion: Tensor) -> Tensor:
    """Intersection over union (classes,) float64, in [0, 1]; NaN for a class that is nowhere in the ground truth."""
    hit = confusion.diagonal().double()
    present = confusion.sum(dim=1)
    iou = hit / (present + confusion.sum(dim=0) - hit)
    return torch.where(present > 0, iou, torch.nan)


def mean_iou(confusion: Tensor) -> float:
    """The mean IoU over every class of the ground truth, background included; NaN if there is none."""
    return float(class_ious(confusion).nanmean())
