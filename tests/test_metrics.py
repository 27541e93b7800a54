"""IoU against sets of pixels counted one by one; depth and normals against planes and spheres."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.cameras import Cameras, intrinsics_matrix, orbit
from common.metrics import class_ious, confusion_matrix, depth_errors, mean_angle, mean_iou, scale_invariant_error, surface_normals, surrounded
from common.rays import camera_rays, pixel_grid
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


# Depth maps

SIDE, DISTANCE = 24, 4.0


def rays(dtype=torch.float64):
    """Origins and directions (2, SIDE, SIDE, 3) of two cameras DISTANCE from the origin, which look at it."""
    poses = orbit(torch.tensor([0.0, 0.7], dtype=dtype), torch.tensor([0.0, -0.4], dtype=dtype), DISTANCE)
    cameras = Cameras(poses, intrinsics_matrix(5.0, dtype=dtype).expand(2, 3, 3))
    return [part.unflatten(1, (SIDE, SIDE)) for part in camera_rays(cameras, pixel_grid(SIDE, SIDE, dtype=dtype)[None])]


def plane(origins, directions, normal):
    """Depths of the plane through the world's origin with this normal (2, 3)."""
    along = lambda vectors: (vectors * normal[:, None, None]).sum(-1)
    return -along(origins) / along(directions)


def everywhere(depths):
    return torch.ones_like(depths, dtype=torch.bool)


def test_side_does_not_see_a_scale():
    generator = torch.Generator().manual_seed(0)
    depths = 1 + torch.rand(2, 5, 6, generator=generator, dtype=torch.float64)
    assert scale_invariant_error(3 * depths, depths, everywhere(depths)).tolist() == pytest.approx([0, 0], abs=1e-12)
    other = 1 + torch.rand(2, 5, 6, generator=generator, dtype=torch.float64)
    got = scale_invariant_error(depths, other, everywhere(depths))
    assert got.tolist() == pytest.approx([np.log(p / t).std() for p, t in zip(depths.numpy(), other.numpy())])
    assert got.tolist() == pytest.approx(scale_invariant_error(0.5 * other, 7 * depths, everywhere(depths)).tolist())


def test_side_of_two_steps():
    target = torch.full((1, 4, 4), 2.0, dtype=torch.float64)
    predicted = target.clone()
    predicted[:, :2] *= math.exp(0.3)                         # d is 0.3 on one half, 0 on the other
    assert scale_invariant_error(predicted, target, everywhere(target)).item() == pytest.approx(0.15)
    mask = everywhere(target)
    mask[:, 3] = False
    predicted[:, 3] = torch.tensor([0.0, -1.0, math.nan, math.inf])                       # no depth beyond the mask is looked at
    assert scale_invariant_error(predicted, target, mask).item() == pytest.approx(0.3 * math.sqrt(2 / 9))
    assert math.isnan(scale_invariant_error(predicted, target, torch.zeros_like(mask)).item())


def test_normals_of_planes_are_exact_and_face_the_camera():
    origins, directions = rays()
    for normal in ([0.1, 0.2, 1.0], [-0.5, 0.3, 0.9]):
        unit = torch.nn.functional.normalize(torch.tensor([normal, normal], dtype=torch.float64), dim=-1)
        got = surface_normals(origins + plane(origins, directions, unit)[..., None] * directions)
        torch.testing.assert_close(got, unit[:, None, None].expand_as(got))               # the cameras stand on its side
        assert ((got * directions[:, 1:-1, 1:-1]).sum(-1) < 0).all()


def test_normals_of_a_sphere_point_outwards():
    origins, directions = rays()
    along = (origins * directions).sum(-1)
    depths = -along - (along.square() - origins.square().sum(-1) + 1).sqrt()              # the unit sphere fills the picture
    points = origins + depths[..., None] * directions
    assert not depths.isnan().any()
    assert mean_angle(surface_normals(points), points[:, 1:-1, 1:-1], everywhere(depths)[:, 1:-1, 1:-1]).max() < 0.1


def test_mad_of_planes_is_the_angle_between_them():
    origins, directions = rays()
    mask = everywhere(origins[..., 0])
    mask[:, :3] = False
    first = torch.nn.functional.normalize(torch.tensor([[0.0, 0.1, 1.0]] * 2, dtype=torch.float64), dim=-1)
    across = torch.nn.functional.normalize(torch.tensor([[0.2, 1.0, -0.1]] * 2, dtype=torch.float64), dim=-1)
    for degrees in (0.0, 1e-5, 20.0):
        second = math.cos(math.radians(degrees)) * first + math.sin(math.radians(degrees)) * across
        got = depth_errors(plane(origins, directions, second), plane(origins, directions, first), mask, origins, directions)
        assert got["MAD"].tolist() == pytest.approx([degrees] * 2, rel=1e-6, abs=1e-9)
    assert got["SIDE"].min() > 0.01
    assert all(value.isnan().all() for value in depth_errors(directions[..., 2], directions[..., 2], ~everywhere(mask), origins, directions).values())


def test_surrounded_pixels_have_eight_neighbours():
    mask = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0)) > 0.1
    expected = [[[bool(m[i:i + 3, j:j + 3].all()) for j in range(7)] for i in range(5)] for m in mask]
    assert surrounded(mask).tolist() == expected and 0 < surrounded(mask).float().mean() < 1
