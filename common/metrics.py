"""Measures of results against the truth: label maps by intersection over union, depth maps by depth and by normals."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize

# Label maps


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


# Depth maps

def depth_errors(predicted: Tensor, target: Tensor, mask: Tensor, origins: Tensor, directions: Tensor) -> dict[str, Tensor]:
    """SIDE (N,) and MAD (N,) in degrees of depth maps (N, H, W) along the unit directions of rays (N, H, W, 3), inside mask (N, H, W) bool.

    MAD takes both normals from the depths, at pixels whose eight neighbours are in the mask too. NaN where the mask is empty (Wu et al., CVPR 2020).
    """
    normals = [surface_normals(origins + depths[..., None] * directions) for depths in (predicted, target)]
    return {"SIDE": scale_invariant_error(predicted, target, mask), "MAD": mean_angle(*normals, surrounded(mask))}


def scale_invariant_error(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """(N,) sqrt(mean(d^2) - mean(d)^2) of d = log predicted - log target over mask (N, H, W): the deviation of d (Eigen et al. 2014).

    Positive depths (N, H, W), along rays or along the optical axis: their quotient at a pixel is the same. No scale of either depth changes it.
    """
    d = torch.where(mask, predicted, 1).log() - torch.where(mask, target, 1).log()
    return _masked_mean((d - _masked_mean(d, mask)[:, None, None]).square(), mask).sqrt()


def surface_normals(points: Tensor) -> Tensor:
    """Unit normals (N, H - 2, W - 2, 3), towards the camera, of the points (N, H, W, 3) that pixels see: the cross product of central differences."""
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    right = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    return normalize(torch.linalg.cross(down, right), dim=-1)


def surrounded(mask: Tensor) -> Tensor:
    """(N, H - 2, W - 2): the inner pixels of mask (N, H, W) bool whose eight neighbours are in it too."""
    return max_pool2d((~mask).float()[:, None], 3, stride=1)[:, 0] == 0


def mean_angle(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """The mean angle (N,) in degrees between directions a and b (N, H, W, 3) over mask (N, H, W)."""
    angles = torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1))
    return _masked_mean(angles.rad2deg(), mask)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(N,) of values (N, H, W); NaN where the mask is empty."""
    return torch.where(mask, values, 0).sum((1, 2)) / mask.sum((1, 2))
