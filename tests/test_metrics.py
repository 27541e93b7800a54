"""IoU against sets of pixels counted one by one."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.metrics import class_ious, confusion_matrix, mean_iou
from sof.metrics import logged_miou, notebook_miou, style_filter_miou

CLASSES = 6


def maps(seed, batch=3, classes=CLASSES, side=9):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, classes, (batch, side, side), generator=generator) for _ in range(2))


def brute_iou(a, b, label):
    """Intersection over union of the sets of pixels, NaN without a union."""
    first, second = ({i for i, x in enumerate(m.flatten().tolist()) if x == label} for m in (a, b))
    return len(first & second), len(first | second)


def test_iou_is_that_of_sets():
    predicted, target = maps(0)
    iou = class_ious(confusion_matrix(predicted, target, CLASSES))
    for label in range(CLASSES):
        both, either = brute_iou(predicted, target, label)
        assert iou[label].item() == pytest.approx(both / either)
    assert mean_iou(confusion_matrix(predicted, target, CLASSES)) == pytest.approx(iou.mean().item())


def test_rows_are_the_truth():
    matrix = confusion_matrix(torch.tensor([1, 1, 2]), torch.tensor([0, 1, 2]), 3)
    assert matrix.dtype == torch.int64 and matrix.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_every_class_of_the_truth_counts_and_no_other():
    target = torch.tensor([0, 0, 0, 1])
    assert mean_iou(confusion_matrix(torch.tensor([0, 0, 0, 0]), target, 3)) == pytest.approx((0.75 + 0) / 2)       # class 1 missed: 0, not dropped
    iou = class_ious(confusion_matrix(torch.tensor([0, 0, 2, 1]), target, 3))
    assert iou[:2].tolist() == pytest.approx([2 / 3, 1]) and math.isnan(iou[2])                                   # a false class hurts where it stands
    assert mean_iou(confusion_matrix(target, target, 3)) == 1 and math.isnan(mean_iou(torch.zeros(3, 3, dtype=torch.int64)))


def test_matrices_of_parts_add_up():
    predicted, target = maps(1)
    parts = sum(confusion_matrix(p, t, CLASSES) for p, t in zip(predicted, target))
    assert torch.equal(parts, confusion_matrix(predicted, target, CLASSES))
    large = confusion_matrix(torch.zeros(2**22, dtype=torch.uint8), torch.zeros(2**22, dtype=torch.uint8), 2)
    assert (large * 1024)[0, 0] == 2**32                      # no float has rounded it, no int32 has wrapped


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_beyond_the_classes_are_refused(label):
    with pytest.raises(AssertionError, match="classes"):
        confusion_matrix(torch.tensor([label]), torch.tensor([0]), CLASSES)


def test_the_published_figures_by_their_formulas():
    a, b = maps(2, classes=4)
    b[b == 3] = 1                                             # class 3 is only ever predicted, 4 and 5 are nowhere
    pairs = [[brute_iou(x, y, label) for label in range(CLASSES)] for x, y in zip(a, b)]
    hit = [i / (u + 1e-6) for row in pairs for i, u in row if i]
    assert logged_miou(a, b, CLASSES).item() == pytest.approx(np.mean(hit), rel=1e-5)
    assert notebook_miou(a, b, CLASSES).tolist() == pytest.approx([np.mean([(i + 1e-8) / (u + 1e-8) for i, u in row]) for row in pairs], rel=1e-5)
    assert torch.isnan(logged_miou(torch.zeros(1, 4), torch.ones(1, 4)))


def test_the_style_filter_looks_at_128_pixels():
    a, b = (m[:, None] for m in maps(3, classes=17, side=10))
    source = [i * 10 // 128 for i in range(128)]
    grow = lambda m: m[:, :, source][..., source]
    expected = [np.mean([i / (u + 1e-6) for i, u in (brute_iou(x, y, label) for label in range(17))]) for x, y in zip(grow(a), grow(b))]
    assert style_filter_miou(a, b).tolist() == pytest.approx(expected, rel=1e-5)
