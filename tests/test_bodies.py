"""Clothed bodies: bones, poses, solids, fusing, and that what comes out is one closed clothed person."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from common import raycast
from common.labels import SOF_LABELS
from common.meshes import Mesh, vertex_normals, volume
from common.people import outfits, poses, skeleton
from common.people.bodies import T_POSE, Clothed, clothed
from common.people.body import load_body, rest_vertices
from common.people.fuse import fuse, one_piece
from common.people.garments import skirt, tights
from common.people.persons import generator, person
from common.people.shapes import Surface, sheet
from common.people.solids import boundary, outwards, shut, tube_solid
from common.proximity import build, inside, nearest
from scripts import make_people

LABEL = {name: k for k, name in enumerate(SOF_LABELS)}


def is_closed(faces: np.ndarray) -> bool:
    """Every edge runs once each way."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    code = lambda pairs: np.sort(pairs[:, 0] * (faces.max() + 1) + pairs[:, 1])
    there = code(edges)
    return len(np.unique(there)) == len(there) and np.array_equal(there, code(edges[:, ::-1]))


@pytest.fixture(scope="module")
def body() -> Clothed:
    return clothed(replace(person(0, 0), hair_style="short", hat=None), 0)


@pytest.fixture(scope="module")
def rest():
    one = person(0, 0)
    return skeleton.rest(load_body(), one.phenotype, one.changes, {})


# Bones and poses

def test_rest_is_the_body_of_heads(rest):
    one = person(0, 0)
    np.testing.assert_allclose(rest.vertices, rest_vertices(load_body(), one.phenotype, one.changes, {}), atol=1e-6)
    assert rest.heads["head"][1] > rest.heads["spine01"][1] > rest.heads["foot.L"][1] and rest.heads["wrist.L"][0] > 0.2 > 0 > rest.heads["wrist.R"][0]


def test_a_bone_turns_what_hangs_on_it_and_nothing_else(rest):
    """A bent knee is a rigid motion of the shin about the knee; the head stays."""
    model, turn = load_body(), poses.rotations(dict(zip(poses_names(), [0.0] * 99)), rest.heads)["lowerleg01.L"]
    bend = np.array([[1, 0, 0], [0, 0, -1.0], [0, 1, 0]])
    moves = skeleton.transforms(model, rest.heads, {"lowerleg01.L": bend})
    moved = skeleton.skinned(model, rest.vertices, moves)
    shin, head = (skeleton.bone_share(model, name) > 0.999 for name in ("lowerleg02.L", "head"))
    knee = rest.heads["lowerleg01.L"]
    np.testing.assert_allclose(moved[shin], (rest.vertices[shin] - knee) @ bend.T + knee, atol=1e-9)
    np.testing.assert_allclose(moved[head], rest.vertices[head])
    np.testing.assert_allclose(turn, np.eye(3))
    ankle = skeleton.posed_joints(model, rest.heads, moves)[skeleton.JOINTS.index("foot.L")]
    np.testing.assert_allclose(ankle, (rest.heads["foot.L"] - knee) @ bend.T + knee)


def poses_names() -> list[str]:
    return list(poses.draw_angles(np.random.default_rng(0)))


def test_an_arm_points_where_its_angles_say(rest):
    angles = dict.fromkeys(poses_names(), 0.0) | {"lift.L": 90, "front.L": 0, "elbow.L": 90, "lift.R": 90, "front.R": 90, "elbow.R": 5}
    moves = skeleton.transforms(load_body(), rest.heads, poses.rotations(angles, rest.heads))
    joints = dict(zip(skeleton.JOINTS, skeleton.posed_joints(load_body(), rest.heads, moves)))
    unit = lambda a, b: (joints[b] - joints[a]) / np.linalg.norm(joints[b] - joints[a])
    np.testing.assert_allclose(unit("upperarm01.L", "lowerarm01.L"), (1, 0, 0), atol=0.02)
    np.testing.assert_allclose(unit("upperarm01.R", "lowerarm01.R"), (0, 0, 1), atol=0.02)
    assert abs(unit("upperarm01.L", "lowerarm01.L") @ unit("lowerarm01.L", "wrist.L")) < 0.05                # a right angle
    assert unit("upperarm01.R", "lowerarm01.R") @ unit("lowerarm01.R", "wrist.R") > 0.99


def test_makehumans_t_pose(rest):
    """Its file, in the bones' own axes: both arms level and straight, hands at shoulder height."""
    moves = skeleton.transforms(load_body(), rest.heads, poses.of_file(load_body().assets / T_POSE, rest.axes))
    joints = dict(zip(skeleton.JOINTS, skeleton.posed_joints(load_body(), rest.heads, moves)))
    for side, sign in (("L", 1), ("R", -1)):
        for start, end in (("upperarm01", "lowerarm01"), ("lowerarm01", "wrist")):
            along = joints[f"{end}.{side}"] - joints[f"{start}.{side}"]
            assert sign * along[0] / np.linalg.norm(along) > 0.97
    for axes in rest.axes.values():
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-5)


def test_poses_differ_and_keep_the_limits():
    drawn = [poses.draw_angles(generator(0, i, "pose", 0)) for i in range(300)]
    for name in drawn[0]:
        low, high = poses.LIMITS[name.removesuffix(".L").removesuffix(".R")]
        values = np.array([angles[name] for angles in drawn])
        assert low <= values.min() and values.max() <= high and values.std() > 1
    assert np.mean([max(angles["lift.L"], angles["lift.R"]) > 60 for angles in drawn]) > 0.15


# Closed surfaces

def test_a_sheet_with_open_ends_is_shut():
    angle, height = np.linspace(0, 2 * np.pi, 16, endpoint=False), np.linspace(1, 0, 5)[:, None]
    grid = np.stack(np.broadcast_arrays(np.sin(angle), height, np.cos(angle)), axis=-1)
    triangles = sheet(grid, closed=True)
    assert sorted(len(loop) for loop in boundary(triangles)) == [16, 16]
    count = len(grid.reshape(-1, 3))
    made = shut(Surface(grid.reshape(-1, 3), triangles, np.zeros(len(triangles)), np.zeros((count, 3)), np.zeros(count)))
    assert is_closed(made.triangles) and len(made.labels) == len(made.triangles) and len(made.albedo) == len(made.vertices)
    expected = 8 * np.sin(np.pi / 8)                                           # of the prism over a regular 16-gon
    assert volume(Mesh(made.vertices, made.triangles)) == pytest.approx(expected, rel=1e-6)
    vertices, triangles = tube_solid(grid, hollow=0.5)
    assert is_closed(triangles) and volume(Mesh(vertices, triangles)) == pytest.approx(expected * (1 - 0.5 / 3), rel=1e-6)      # less a cone
    assert volume(Mesh(vertices, outwards(vertices, triangles[:, ::-1]))) > 0


def test_what_garments_are_made_of_is_closed():
    shell, (_, rows, points) = tights(), skirt()
    assert is_closed(shell.triangles) and volume(Mesh(shell.points, shell.triangles)) > 0.03
    heights = points[rows, 1].mean(1)
    assert (np.diff(heights) < 0).all() and len(np.unique(rows)) == rows.size
    mirrored = np.abs(shell.points[:, 0]) > 0.3
    assert shell.arm[mirrored & (shell.points[:, 1] > 0.3)].min() > 0.9 and shell.reach[shell.arm > 0.9].max() < 0.6


def test_fused_spheres_have_the_unions_volume():
    """Two crossing spheres, a third inside one of them, a speck apart: one surface, its volume by the formula of a lens."""
    ball = lambda radius, x: (np.asarray(trimesh.creation.icosphere(4, radius).vertices) + (x, 0, 0), np.asarray(trimesh.creation.icosphere(4, radius).faces))
    fused = fuse([ball(0.5, 0.0), ball(0.5, 0.6), ball(0.2, 0.0), ball(0.04, 1.5)], 0.02)
    lens = np.pi * (4 * 0.5 + 0.6) * (2 * 0.5 - 0.6) ** 2 / 12
    assert is_closed(fused.faces)
    assert volume(Mesh(fused.vertices, fused.faces)) == pytest.approx(2 * 4 / 3 * np.pi * 0.125 - lens, rel=0.01)
    to_first, to_second = (np.abs(np.linalg.norm(fused.vertices - (x, 0, 0), axis=1) - 0.5) for x in (0, 0.6))
    assert np.minimum(to_first, to_second).max() < 0.012                       # cells round the edge where they cross
    assert set(fused.solid) == {0, 1} and np.mean((fused.solid == 0) != (to_first < to_second)) < 0.02
    np.testing.assert_allclose(fused.weights.sum(1), 1, atol=1e-5)


def test_bubbles_and_specks_go():
    grid = np.zeros((12, 12, 12), bool)
    grid[2:9, 2:9, 2:9] = True
    grid[5, 5, 5], grid[10, 10, 10] = False, True
    whole = one_piece(grid)
    assert whole[5, 5, 5] and not whole[10, 10, 10] and whole.sum() == 343


# Clothed people

def test_a_body_is_one_closed_surface(body):
    assert is_closed(body.faces) and 50_000 < len(body.vertices) < 110_000
    assert trimesh.Trimesh(body.vertices, body.faces, process=False).body_count == 1
    assert 0.04 < volume(Mesh(body.vertices, body.faces)) < 0.25                # cubic metres
    assert np.isfinite(body.vertices).all() and body.colors.min() >= 0 and body.colors.max() <= 1
    assert {LABEL["cloth"], LABEL["hair"], LABEL["skin"], LABEL["neck"]} <= set(body.labels)


def test_nothing_is_left_below_the_surface(body):
    """Points a little below the surface are inside, a little above outside: no second skin, no bubble."""
    mesh = trimesh.Trimesh(body.vertices, body.faces, process=False)
    solid, rng = build(torch.from_numpy(body.vertices), torch.from_numpy(np.ascontiguousarray(body.faces))), np.random.default_rng(0)
    some = rng.choice(len(body.faces), 4000)
    middle, normal = body.vertices[body.faces[some]].mean(1), mesh.face_normals[some]
    at = lambda depth: inside(solid, torch.from_numpy((middle - depth * normal).astype(np.float32))).float().mean()
    assert at(0.0008) > 0.995 and at(-0.0008) < 0.005


def test_no_mouth_is_left_inside():
    """Of a person whose lips leave a gap, hardly a vertex sees no light from anywhere, and none lies deep in the head."""
    made = clothed(person(0, 20), 0)
    assert (made.labels == LABEL["mouth"]).sum() == 0
    vertices, faces = torch.from_numpy(made.vertices), torch.from_numpy(np.ascontiguousarray(made.faces)).long()
    tree, starts = raycast.build(vertices, faces), vertices + 2e-3 * vertex_normals(vertices, faces)
    seen = torch.zeros(len(vertices), dtype=torch.bool)
    for direction in torch.nn.functional.normalize(torch.randn(80, 3, generator=torch.Generator().manual_seed(0)), dim=1):
        seen |= raycast.first_hits(tree, starts, direction.expand_as(starts)).faces < 0
    assert (~seen).float().mean() < 0.003


def test_the_body_model_is_inside_its_clothes(body):
    """Joints lie within; of the skin underneath hardly any vertex stands out of the surface, and none far."""
    solid = build(torch.from_numpy(body.vertices), torch.from_numpy(np.ascontiguousarray(body.faces)))
    depth = lambda points: nearest(solid, torch.from_numpy(points.astype(np.float32))).distances.numpy()
    assert (depth(body.joints) < 0).all()
    assert np.quantile(depth(body.body), 0.97) < 0.004 and depth(body.body).max() < 0.012
    assert (body.body.shape, body.joints.shape) == ((13380, 3), (24, 3))


def test_a_body_is_a_function_of_person_and_frame(body):
    again = clothed(replace(person(0, 0), hair_style="short", hat=None), 0)
    assert np.array_equal(again.vertices, body.vertices) and np.array_equal(again.colors, body.colors) and np.array_equal(again.faces, body.faces)


def test_outfits_differ():
    worn = [outfits.outfit(person(0, i)) for i in range(200)]
    assert {o.bottom for o in worn} == {"trousers", "shorts", "skirt"} and 0.1 < np.mean([o.coat is not None for o in worn]) < 0.5
    assert {o.top.pattern for o in worn} == set(outfits.PATTERNS)
    skirts = [person(0, i).phenotype["gender"] for i, o in enumerate(worn) if o.bottom == "skirt"]
    assert np.mean(skirts) < 0.45
    for o in worn:
        colors = outfits.dyed(o.top, tights().points[::50], tights().along[::50], np.random.default_rng(0))
        assert np.isfinite(colors).all() and colors.max() < 2


# make_people.py bodies

@pytest.fixture
def quick(monkeypatch):
    """Bodies that take no time: a small ball whose place tells person and frame."""
    ball = trimesh.creation.icosphere(2, 0.4)

    def made(one, frame: int) -> Clothed:
        vertices = (np.asarray(ball.vertices) + (one.index, frame, 0)).astype(np.float32)
        labels = np.zeros(len(vertices), np.uint8)
        return Clothed(vertices, np.asarray(ball.faces), np.full((len(vertices), 3), 0.25), labels, np.zeros((5, 3)), np.zeros((24, 3)))
    monkeypatch.setattr("common.people.bodies.clothed", made)


def contents(out) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file() and path.name != "bodies.yml"}


def test_shards_make_the_same_files(quick, tmp_path):
    make = lambda name, **options: make_people.bodies(make_people.BodiesConfig(out=str(tmp_path / name), count=3, frames=2, **options))
    make("whole")
    for k in range(3):
        make("parts", shard=f"{k}/3")
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")
    assert len(list((tmp_path / "whole").glob("DeepHumanDataset/dataset/results_*_[FM]/[01]/mesh.obj"))) == 6


def test_a_broken_off_body_is_made_again(quick, tmp_path):
    config = make_people.BodiesConfig(out=str(tmp_path / "out"), count=2)
    make_people.bodies(config)
    first = contents(tmp_path / "out")
    lost = next((tmp_path / "out").glob("**/results_00001*/0"))
    lost.rename(lost.with_name(".0.partial"))                                   # as a kill leaves it
    (lost.with_name(".0.partial") / "mesh.obj").write_text("v 0")
    make_people.bodies(config)
    assert contents(tmp_path / "out") == first


def test_a_scan_on_disk_is_the_body(body, tmp_path):
    """Read back as geopifu reads it: the same surface in the scan's axes, facing -z, its colours, its body model."""
    from common.people.scans import FLIP, scan_folder, write_body_model, write_scan
    from geopifu.scans import find_scans, person_body, read_scan

    place = scan_folder(tmp_path, person(0, 0), 0)
    place.mkdir(parents=True)
    write_scan(place, body)
    write_body_model(tmp_path / "body_model.npz")
    scan, under = read_scan(find_scans(tmp_path)[0]), person_body(place / "mesh.obj")
    np.testing.assert_allclose(scan.vertices, body.vertices * FLIP, atol=1e-5)
    assert np.array_equal(scan.faces, body.faces) and volume(Mesh(scan.vertices, scan.faces)) > 0
    np.testing.assert_allclose(under.vertices, body.body * FLIP, atol=1e-6)
    parts = under.atlas[:, 0]
    assert under.faces.max() == len(under.rest) - 1 and set(parts) <= set(range(1, 25)) and 0 <= under.atlas[:, 1:].min() <= under.atlas[:, 1:].max() <= 1
    assert volume(Mesh(under.rest, under.faces)) > 0
