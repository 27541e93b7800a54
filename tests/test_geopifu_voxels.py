"""Canonical frames, voxels and pictures of shapes known in closed form."""
from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from geopifu import raster, render_data, scans, voxels
from geopifu.geometry import BOX, GRID, VOXEL, calibration, canonicalise, random_rotation, rotation_of, to_view, view_rotation
from tests.geopifu_scans import ball, sphere

# Frames of reference

def test_views_turn_to_the_right():
    point = np.array([[0.1, 0.2, 0.3]])
    for view, expected in enumerate([(0.1, 0.2, 0.3), (0.3, 0.2, -0.1), (-0.1, 0.2, -0.3), (-0.3, 0.2, 0.1)]):
        np.testing.assert_allclose(to_view(point, view)[0], expected)
        np.testing.assert_allclose(view_rotation(view), rotation_of(0, -90 * view, 0), atol=1e-12)
        x, y, z = expected
        np.testing.assert_allclose(calibration(view) @ [0.1, 0.2, 0.3, 1], (2 * x, 2 * y, -2 * z, 1), atol=1e-6)


def test_canonical_meshes_fill_the_margin():
    vertices, _ = ball(3)
    for k in range(5):
        rotation = random_rotation(np.random.default_rng(k))
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        canonical, mean, scale = canonicalise(vertices, rotation)
        np.testing.assert_allclose(canonical, scale * (vertices - mean) @ rotation.T)
        assert max((canonical / (0.85 * BOX[1])).max(), (canonical / (0.85 * BOX[0])).max()) == pytest.approx(1)
    with pytest.raises(InputError, match="one place"):
        canonicalise(np.ones((5, 3)), np.eye(3))


# Voxels

def test_voxels_of_a_ball_have_its_volume():
    surface = voxels.surface_voxels(*sphere(0.25))
    filled = voxels.voxelise(*sphere(0.25))
    centers = np.linalg.norm(voxels.centers(np.argwhere(np.ones(GRID, bool))), axis=1).reshape(GRID)
    half_diagonal = VOXEL * 3**0.5 / 2
    assert filled[centers < 0.25 - 0.002].all() and not filled[centers > 0.25 + half_diagonal].any()
    assert not surface[np.abs(centers - 0.25) > half_diagonal + 0.002].any()
    volume, layer = 4 / 3 * np.pi * 0.25**3, 4 * np.pi * 0.25**2 * VOXEL
    assert volume < filled.sum() * VOXEL**3 < volume + layer                   # half of the surface voxels' centres lie outside
    assert np.array_equal(voxels.silhouette(filled), filled.max(2).T)


def test_turned_voxels_are_voxels_of_the_turned_mesh():
    vertices, faces = sphere(0.2)
    front = vertices + (0.05, 0.1, -0.08)
    solid = voxels.voxelise(front, faces)
    for view in range(1, 4):
        solid = voxels.turned(solid)
        assert np.mean(solid != voxels.voxelise(to_view(front, view), faces)) < 1e-4


def test_one_triangle_against_clipping():
    """Surface voxels of one triangle: those that hold a point of it (dense samples), and no other whose cube it misses clearly."""
    rng = np.random.default_rng(4)
    triangle = rng.uniform(-0.06, 0.06, (3, 3))
    touched = voxels.surface_voxels(triangle, np.array([[0, 1, 2]]))
    u = rng.dirichlet([0.5, 0.5, 0.5], 400_000)
    index = np.floor((u @ triangle - BOX[0]) / VOXEL).astype(int)
    sampled = np.zeros(GRID, bool)
    sampled[tuple(index.T)] = True
    assert not (sampled & ~touched).any()
    missed = np.argwhere(touched & ~sampled)                                   # corners that samples did not hit: the triangle comes close to their cubes
    assert len(missed) < 0.2 * sampled.sum()


def test_semantic_values():
    """At a labelled point its neighbours weigh exp(-d^2/sigma^2); far away the nearest win, without 0/0."""
    points, labels = np.array([[0, 0, 0], [0.05, 0, 0], [9, 9, 9], [9, 9, 8], [8, 9, 9.0]]), np.eye(5)[:, :3]
    values = voxels.semantic_values(np.array([[0.0, 0, 0], [50, 50, 50]]), points, labels)
    np.testing.assert_allclose(values[0, :2], np.array([1, np.exp(-1)]) / (1 + np.exp(-1)), atol=1e-9)
    assert np.isfinite(values).all() and values[1, 2] > 0.99


# Pictures

def test_a_ball_in_pictures():
    """Its disc, its normals and its shading in closed form."""
    vertices, faces = sphere(0.4)
    seen = raster.rasterise(vertices, faces, 96, 64, 96)
    y, x = ((np.indices((96, 64)).transpose(1, 2, 0) - (48, 32)) / 96).transpose(2, 0, 1)
    radius = np.hypot(x, y)
    assert (seen.face >= 0)[radius < 0.395].all() and not (seen.face >= 0)[radius > 0.4].any()
    np.testing.assert_allclose(seen.weights.sum(-1)[seen.face >= 0], 1, atol=1e-5)
    picture = raster.normal_image(scans.face_normals(vertices, faces), faces, seen) / 255 * 2 - 1
    z = np.sqrt(np.clip(0.4**2 - radius**2, 0, None))
    expected = np.stack([x, -y, z], axis=-1) / 0.4
    inner = radius < 0.35
    assert np.abs(picture - expected)[inner].max() < 0.03 and (picture[radius > 0.41] == 1).all()
    lit = raster.lit_colors(vertices, vertices / 0.4, np.ones_like(vertices), [None, None, None])
    light = np.array(raster.GROUND_LIGHT) - vertices
    np.testing.assert_allclose(lit[:, 0], np.clip((light / np.linalg.norm(light, axis=1, keepdims=True) * vertices / 0.4).sum(1), 0, None))
    rgb = raster.rgb_image(np.full_like(vertices, 2.0), faces, seen, np.zeros((96, 64, 3)))
    assert (rgb[seen.face >= 0] == 255).all() and not rgb[seen.face < 0].any()


def test_lights_keep_the_releases_rule():
    drawn = [render_data.draw_lights(np.random.default_rng(k)) for k in range(400)]
    assert all(back == 180 for _, _, back in drawn)
    assert {(left is None, right is None) for left, right, _ in drawn} == {(False, False), (True, False), (False, True)}
    for left, right, _ in drawn:
        assert (left is None or -90 <= left <= -3) and (right is None or 3 <= right <= 90)
        assert None in (left, right) or (left < -40 and right > 40)
