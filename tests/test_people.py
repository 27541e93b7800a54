"""People: the subdivision's mathematics, who is drawn, what a head is made of, and pictures of shapes known in closed form."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.cameras import Cameras, intrinsics_matrix, look_at, orbit, project
from common.labels import SOF_LABELS
from common.people import layouts
from common.people.heads import head_scene
from common.people.persons import HAIR_STYLES, person, split
from common.people.renderer import Scene, render, vertex_normals
from common.people.shapes import REACH, squeeze
from common.people.subdivision import catmull_clark, subdivide_corners

LABEL = {name: k for k, name in enumerate(SOF_LABELS)}
CUBE = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
CUBE_VERTICES = np.array([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])


# Subdivision

def test_catmull_clark_of_a_cube():
    """The rule written out: faces' middles, edges' points, and (Q + 2 R + (n - 3) P) / n with n = 3."""
    matrix, quads = catmull_clark(CUBE, 8)
    finer = matrix @ CUBE_VERTICES
    assert finer.shape == (8 + 12 + 6, 3) and len(quads) == 24
    corner = CUBE_VERTICES[0]
    face_points = np.diag([-1.0, -1, -1])
    edge_middles = np.array([[0, -1, -1], [-1, 0, -1], [-1, -1, 0.0]])
    np.testing.assert_allclose(finer[0], (face_points.mean(0) + 2 * edge_middles.mean(0)) / 3 + 0 * corner)
    edge = 0.25 * (CUBE_VERTICES[0] + CUBE_VERTICES[1]) + 0.25 * (np.array([-1, 0, 0]) + [0, -1, 0])
    assert (np.abs(finer[8:20] - edge).max(1) < 1e-12).sum() == 1


def test_catmull_clark_keeps_planes_borders_and_linear_fields():
    count = 6
    ids = np.arange(count**2).reshape(count, count)
    quads = np.stack([ids[:-1, :-1], ids[1:, :-1], ids[1:, 1:], ids[:-1, 1:]], axis=-1).reshape(-1, 4)
    points = np.stack([*np.divmod(np.arange(count**2), count), np.zeros(count**2)], axis=1).astype(float)
    matrix, finer = catmull_clark(quads, count**2)
    np.testing.assert_allclose(matrix.sum(1), 1)
    moved = matrix @ points
    inner = (points[:, :2] > 0).all(1) & (points[:, :2] < count - 1).all(1)
    np.testing.assert_allclose(moved[: count**2][inner], points[inner], atol=1e-12)      # a regular grid stays
    assert moved[:, :2].min() == 0 and moved[:, :2].max() == count - 1
    corners = moved[finer]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])[:, 2]
    assert (area > 0).all() or (area < 0).all()                                             # no quad is turned over


def test_subdivided_corners_follow_the_quads():
    """In a regular grid's inside, where vertices do not move, corner values are the positions."""
    ids = np.arange(25).reshape(5, 5)
    quads = np.stack([ids[:-1, :-1], ids[1:, :-1], ids[1:, 1:], ids[:-1, 1:]], axis=-1).reshape(-1, 4)
    points = np.stack(np.divmod(np.arange(25), 5), axis=1).astype(float)
    matrix, finer = catmull_clark(quads, 25)
    inner = ((matrix @ points)[finer] > 1).all((1, 2)) & ((matrix @ points)[finer] < 3).all((1, 2))
    np.testing.assert_allclose(subdivide_corners(points[quads])[inner], (matrix @ points)[finer][inner])


# Persons

def test_a_person_is_a_function_of_seed_and_index():
    one, again, other, other_world = person(3, 7), person(3, 7), person(3, 8), person(4, 7)
    assert repr(one) == repr(again)
    assert repr(one) != repr(other) and one.phenotype != other_world.phenotype


def test_every_tenth_person_is_held_out():
    assert [i for i in range(40) if split(i) == "test"] == [9, 19, 29, 39]


def test_people_differ_and_stay_in_range():
    people = [person(0, i) for i in range(300)]
    assert {p.hair_style for p in people} == set(HAIR_STYLES)
    assert 0.02 < np.mean([p.glasses for p in people]) < 0.2 and 0.02 < np.mean([p.hat is not None for p in people]) < 0.2
    assert 0.35 < np.mean([p.expression.get("jawOpen", 0) > 0.3 for p in people]) < 0.75
    for p in people:
        assert all(0 <= value <= 1 for value in (*p.phenotype.values(), *p.expression.values()))
        assert all(-1.3 <= value <= 1.3 for value in p.changes.values())
        assert all((0 <= color).all() and (color <= 1).all() for color in (p.skin, p.hair, p.iris, p.cloth))


# Heads

@pytest.fixture(scope="module")
def scene():
    return head_scene(replace(person(0, 0), hair_style="short", glasses=False, hat=None, expression={"jawOpen": 0.6}))


def place(scene: Scene, name: str) -> np.ndarray:
    """The mean position (3,) of a label's triangles."""
    faces = scene.faces[scene.labels == LABEL[name]]
    assert len(faces), name
    return scene.vertices[faces].mean((0, 1))


def test_anatomy_stands_where_it_should(scene):
    """y up, the face along +z, left at +x, and the parts of a face from the top down."""
    for part in ("brow", "eye", "nose", "ear"):
        left, right = place(scene, f"l_{part}"), place(scene, f"r_{part}")
        assert left[0] > 0 > right[0]
        np.testing.assert_allclose(left * (-1, 1, 1), right, atol=0.004)
    order = ["hair", "l_brow", "l_eye", "l_nose", "u_lip", "l_lip", "neck", "cloth"]
    heights = [place(scene, name)[1] for name in order]
    assert heights == sorted(heights, reverse=True)
    assert place(scene, "l_nose")[2] > place(scene, "l_eye")[2] > place(scene, "l_ear")[2] > place(scene, "hair")[2]


def test_left_and_right_meet_at_the_median(scene):
    for part in ("brow", "eye", "nose", "ear"):
        for side, sign in (("l", 1), ("r", -1)):
            x = scene.vertices[scene.faces[scene.labels == LABEL[f"{side}_{part}"]], 0]
            assert (sign * x).min() > -0.004


def test_arrays_of_a_scene(scene):
    assert scene.vertices.dtype == np.float32 and scene.labels.dtype == np.uint8
    assert scene.faces.min() == 0 and scene.faces.max() == len(scene.vertices) - 1 and len(scene.labels) == len(scene.faces)
    assert len(scene.albedo) == len(scene.gloss) == len(scene.vertices)
    for array in (scene.vertices, scene.albedo, scene.gloss):
        assert np.isfinite(array).all()
    assert scene.albedo.min() >= 0 and scene.albedo.max() <= 1


@pytest.mark.parametrize("style", HAIR_STYLES)
def test_heads_fit_sofs_sphere(style):
    """Head, hair, hat and glasses lie within SOF's sphere; neck and clothes may leave it."""
    for hat in (None, "cap"):
        built = head_scene(replace(person(1, 4), hair_style=style, hat=hat, glasses=True))
        head = ~np.isin(built.labels, [LABEL["neck"], LABEL["cloth"]])
        assert (LABEL["hair"] in built.labels) == (style != "bald") and (LABEL["hat"] in built.labels) == (hat is not None)
        assert np.linalg.norm(built.vertices[built.faces[head]], axis=-1).max() * layouts.sof_similarity() < 1.5


def test_a_closed_mouth_hides_what_an_open_one_shows():
    cameras = Cameras(orbit(torch.zeros(1), torch.zeros(1), 1.0), intrinsics_matrix(torch.full((1,), 4.0)), orthographic=True)
    head = lambda opening: head_scene(replace(person(0, 0), expression={"jawOpen": opening}))
    mouth = lambda opening: (render(head(opening), cameras, 128, 128, ("labels",))["labels"] == LABEL["mouth"]).sum()
    assert mouth(0.6) > 60 and mouth(0.0) < 8


def test_squeeze_keeps_the_inside_and_bounds_the_outside():
    points = np.random.default_rng(0).normal(0, 0.12, (1000, 3))
    moved = squeeze(points)
    before, after = np.linalg.norm(points, axis=1), np.linalg.norm(moved, axis=1)
    assert after.max() <= REACH and np.array_equal(moved[before < 0.13], points[before < 0.13])
    assert (np.diff(after[np.argsort(before)]) > -1e-12).all()


# Pictures

def ball(radius=0.5, center=(0.1, -0.2, 0.3), count=400) -> Scene:
    """A finely triangulated sphere, its upper half labelled 2, its lower half 1."""
    down, around = np.linspace(0, np.pi, count + 1)[:, None], np.linspace(0, 2 * np.pi, 2 * count, endpoint=False)
    unit = np.stack(np.broadcast_arrays(np.sin(down) * np.sin(around), np.cos(down), np.sin(down) * np.cos(around)), axis=-1)
    ids = np.arange(unit[..., 0].size).reshape(unit.shape[:2])
    right = np.roll(ids, -1, axis=1)
    quads = np.stack([ids[:-1], ids[1:], right[1:], right[:-1]], axis=-1).reshape(-1, 4)
    faces = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    vertices = (radius * unit.reshape(-1, 3) + center).astype(np.float32)
    labels = np.where(vertices[faces].mean(1)[:, 1] > center[1], 2, 1).astype(np.uint8)
    return Scene(vertices, faces, labels, np.full(vertices.shape, 0.5, np.float32), np.zeros(len(vertices), np.float32))


@pytest.mark.parametrize("orthographic", [True, False])
def test_pictures_of_a_sphere(orthographic):
    """Mask, depth, normals and labels against ray-sphere intersection in closed form, from two sides."""
    from common.rays import camera_rays, pixel_grid

    center, radius, side = np.array([0.1, -0.2, 0.3]), 0.5, 61
    eyes = torch.tensor([[0.3, 0.2, 3.0], [-2.5, 1.0, 1.0]])
    cameras = Cameras(look_at(eyes, torch.zeros(3)), intrinsics_matrix(torch.tensor([0.6, 0.7]) * (1 if orthographic else 3), (0.47, 0.52)), orthographic)
    views = render(ball(), cameras, side, side, ("labels", "z_depth", "normals", "mask"))
    origins, directions = (x.double().numpy().reshape(2, side, side, 3) for x in camera_rays(cameras, pixel_grid(side, side)[None]))
    offset = center - origins
    along = (offset * directions).sum(-1)
    inside = radius**2 - ((offset - along[..., None] * directions) ** 2).sum(-1)
    sure = np.abs(inside) > 1e-3
    assert np.array_equal(views["mask"][sure], inside[sure] > 0) and 0.05 < views["mask"].mean() < 0.9
    hit = (inside > 1e-3)
    distance = along - np.sqrt(np.maximum(inside, 0))
    points = origins + distance[..., None] * directions
    forward = cameras.cam2world[:, :3, 2].numpy()[:, None, None]
    depth = ((points - cameras.cam2world[:, :3, 3].numpy()[:, None, None]) * forward).sum(-1)
    np.testing.assert_allclose(views["z_depth"][hit], depth[hit], atol=1e-3)
    np.testing.assert_allclose(views["normals"][hit], ((points - center) / radius)[hit], atol=0.01)
    clear = hit & (np.abs(points[..., 1] - center[1]) > 0.01)
    assert np.array_equal(views["labels"][clear], np.where(points[..., 1] > center[1], 2, 1)[clear])
    empty = ~views["mask"]
    assert (views["labels"][empty] == 0).all() and (views["z_depth"][empty] == 0).all() and (views["normals"][empty] == 0).all()


def test_color_pictures_are_antialiased_lit_and_alike():
    cameras = Cameras(look_at(torch.tensor([[0.0, 0, 3.0]]), torch.zeros(3)), intrinsics_matrix(torch.tensor([0.6])), orthographic=True)
    first, again = (render(ball(), cameras, 64, 64, ("rgb", "mask")) for _ in range(2))
    assert np.array_equal(first["rgb"], again["rgb"])
    picture, mask = first["rgb"][0].astype(float), first["mask"][0]
    rows = np.flatnonzero(mask.any(1))
    assert picture[rows[4]][mask[rows[4]]].mean() > picture[rows[-5]][mask[rows[-5]]].mean() + 20    # light comes from above
    black = replace(ball(), albedo=np.zeros((len(ball().vertices), 3), np.float32))
    picture = render(black, cameras, 64, 64, ("rgb",), samples=8)["rgb"][0, :, :, 0] / 255.0
    covered = 1 - (picture / picture.max()) ** 2.2
    assert covered.sum() == pytest.approx(np.pi * (0.5 * 0.6 * 64) ** 2, rel=0.003)                   # a pixel's share of the ball, not all or nothing
    assert ((covered > 0.1) & (covered < 0.9)).sum() > 60


def test_vertex_normals_point_outwards():
    scene = ball(count=40)
    normals = vertex_normals(scene.vertices, scene.faces)
    np.testing.assert_allclose(normals, (scene.vertices - (0.1, -0.2, 0.3)) / 0.5, atol=0.05)


# Layouts

def test_views_are_drawn_one_by_one():
    few, many = (layouts.sof_cameras(5, 2, views, 128)[0].cam2world for views in (3, 20))
    assert torch.equal(few, many[:3])
    angles = np.degrees([layouts.view_angles(0, i, v) for i in range(20) for v in range(20)])
    assert 57 < np.abs(angles[:, 0]).max() <= 60 and 23 < np.abs(angles[:, 1]).max() <= 25
    assert np.abs(np.corrcoef(angles.T)[0, 1]) < 0.15


def test_sof_cameras_are_the_published_ones():
    cameras, pixels = layouts.sof_cameras(0, 0, 4, 128)
    assert pixels.tolist() == [[36, 0, 64], [0, 36, 64], [0, 0, 1]] and cameras.orthographic
    torch.testing.assert_close(cameras.cam2world[:, :3, 3].norm(dim=-1), torch.full((4,), 4.5))
    uv, z = project(cameras, torch.tensor([[[0.0, 0, 0]]]).expand(4, 1, 3))
    torch.testing.assert_close(uv * 128 - 0.5, torch.full((4, 1, 2), 64.0))                  # the origin is seen at integer pixel 64
    torch.testing.assert_close(z, torch.full((4, 1), 4.5))


def test_one_framing_for_all_layouts():
    """A point near the origin of the canonical frame lands at the same place in SOF's and EG3D's pictures (but for half a pixel)."""
    point = torch.tensor([[[0.05, -0.03, 0.0]]])
    sof, _ = layouts.sof_cameras(0, 1, 5, 128)
    eg3d = layouts.eg3d_cameras(0, 1, 5)
    a, _ = project(sof, layouts.sof_similarity() * point.expand(5, 1, 3))
    b, _ = project(eg3d, layouts.eg3d_similarity() * point.expand(5, 1, 3))
    torch.testing.assert_close(a - 0.5 / 128, b, atol=0.02, rtol=0)
