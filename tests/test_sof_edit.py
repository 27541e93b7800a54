"""Codes on their way, labels laid over labels, films with a renderer that only counts, volumes looked through; and the commands on a trained run."""
from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch

from common.cameras import look_at
from common.checkpoint import export_safetensors
from common.images import read_picture
from sof import edit, slicing
from sof.cameras import film_path, path_poses, published_cameras, sof_cameras
from sof.model import SOF, ModelConfig, load
from sof.predict import predict
from tests import programs

RENDER = "sof/render.py"


def phi(x: float, sigma: float) -> float:
    return 0.5 * (1 + math.erf(x / sigma / math.sqrt(2)))


# Codes

@pytest.mark.parametrize("steps, sigma", [(20, 6.0), (5, 2.0), (1, 9.0)])
def test_weights_are_the_normal_integral(steps, sigma):
    weights = edit.cdf_weights(-steps, steps, sigma)
    expected = [(phi(i, sigma) - phi(-steps, sigma)) / (phi(steps, sigma) - phi(-steps, sigma)) for i in range(-steps, steps + 1)]
    assert weights.tolist() == pytest.approx(expected) and weights[0] == 0 and weights[-1] == pytest.approx(1)
    assert torch.allclose(weights + weights.flip(0), torch.ones_like(weights)) and (weights.diff() > 0).all()


def test_easing_is_the_published_one_at_its_length():
    assert torch.allclose(edit.eased(41), edit.cdf_weights(-20, 20, 6.0)) and edit.eased(1).tolist() == [0]
    assert edit.eased(7)[3] == pytest.approx(0.5) and edit.eased(7)[-1] == 1


@pytest.mark.parametrize("heads, count", [(2, 2), (3, 3), (3, 10), (4, 23), (2, 60)])
def test_a_journey_stops_at_every_head(heads, count):
    codes = torch.randn(heads, 6, generator=torch.Generator().manual_seed(0))
    way = edit.journey(codes, count)
    near = (way[:, None] - codes).norm(dim=-1) < 1e-6
    assert way.shape == (count, 6) and torch.equal(way[0], codes[0]) and torch.allclose(way[-1], codes[-1])
    stops = near.int().argmax(dim=0)
    assert near.any(dim=0).all() and (stops.diff() > 0).all() and (stops.diff() - (count - 1) / (heads - 1)).abs().max() < 1


@pytest.mark.parametrize("count", [3, 4, 9, 40])
def test_there_and_back(count):
    code, direction = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, -20.0]])
    along = (edit.there_and_back(code, direction, 0.5, count) - code) / direction
    assert along.shape == (count, 2) and torch.allclose(along[:, 0], along[:, 1], atol=1e-6)
    assert along[0].abs().max() == 0 and along[-1].abs().max() < 1e-6 and along.max() == pytest.approx(0.5)
    assert torch.allclose(along, along.flip(0), atol=1e-6)


# Label maps

@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 20, (5, 9, 9), dtype=np.uint8)


def test_an_expression_changes_its_labels_alone(maps):
    first, frames, labels = maps[0], maps[1:], (2, 3, 8)
    seen = edit.overlay(first, frames, labels, cleared_to=1)
    for k, row, column in np.ndindex(seen.shape):
        new, old = frames[k, row, column], first[row, column]
        assert seen[k, row, column] == (new if new in labels else 1 if old in labels else old)
    assert (edit.overlay(first, first[None], labels) == first).all() and seen.dtype == np.uint8


def test_hair_changes_alone(maps):
    first, frames = maps[0], maps[1:]
    seen, kept = edit.keep_face(first, frames), {2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15}
    for k, row, column in np.ndindex(seen.shape):
        new, old = frames[k, row, column], first[row, column]
        assert seen[k, row, column] == (old if old in kept else 1 if new in kept else new)
    assert set(edit.KEPT_WITH_HAIR) == kept and (edit.keep_face(first, first[None]) == first).all()


# Holes

def test_holes_are_background_that_the_head_encloses():
    """A small one takes the lowest label at its edge; a large one, the background about the head and a corner of it stay; the notebook closes more."""
    frame = np.full((512, 512), 1, np.uint8)
    frame[:, :100] = 0                                             # outside
    frame[0:20, 492:512] = 0                                       # a corner of it
    frame[200:210, 200:210] = 0                                    # a hole in the skin
    frame[300:340, 300:340], frame[310:330, 310:330] = 14, 1       # glasses about skin
    frame[400:500, 400:500] = 0                                    # a hole of 10,000 pixels
    closed = edit.close_holes(frame[None], 6000)[0]
    assert (closed[200:210, 200:210] == 1).all() and (closed != frame).sum() == 100
    published = edit.close_holes(frame[None], 6000, published=True)[0]
    assert (published[310:330, 310:330] == 14).all() and (published[0:20, 492:512] == 1).all() and (published[400:500, 400:500] == 0).all()
    assert (published != frame).sum() == 100 + 400 + 400
    assert (edit.close_holes(frame[None], 10_001)[0][400:500, 400:500] == 1).all()
    small = frame[::4, ::4]                                        # areas are those of 512 x 512, whatever the side
    assert (edit.close_holes(small[None], 6000)[0] == closed[::4, ::4]).all()


# Films

class Counter:
    """A renderer whose frames hold their own number; it remembers what it was asked for."""

    def __init__(self, mouth: int = 0):
        self.poses, self.codes, self.mouth = [], [], mouth

    def __call__(self, poses, codes):
        assert len(poses) == len(codes)
        numbers = np.arange(len(self.poses), len(self.poses) + len(poses))
        self.poses.extend(poses)
        self.codes.extend(codes)
        frames = np.zeros((len(poses), 10, 10), np.uint8)
        frames[:, 0, 0], frames[:, 0, 1] = 20 + numbers // 200, 20 + numbers % 200
        frames.reshape(len(frames), -1)[:, 2:2 + self.mouth] = 8
        return frames


def numbers_of(frames: np.ndarray) -> list[int]:
    return ((frames[:, 0, 0].astype(int) - 20) * 200 + frames[:, 0, 1] - 20).tolist()


CENTER, TARGET = torch.tensor([0.0, 0.1, 4.5], dtype=torch.float64), torch.tensor([0.0, 0.1, 0.0], dtype=torch.float64)
SOURCE, OTHER, DIRECTIONS = torch.zeros(1, 3), torch.ones(1, 3), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])


def film_poses(steps: int) -> torch.Tensor:
    return look_at(*film_path(CENTER, TARGET, steps=steps))


def test_the_films_path():
    """Equal to its formulas: three sweeps at 0.5 further away, then the spiral; all looking at the target."""
    positions, targets = film_path(CENTER, TARGET, (0.5, 0.6, 0.4), steps=5)
    angles = np.concatenate([np.linspace(a, b, 5) for a, b in ((0, -0.45), (-0.45, 0.45), (0.45, 0))])
    t = np.linspace(0, 4 * math.pi, 20)
    sweep = np.stack([5 * np.sin(angles), np.full(15, 0.1), 5 * np.cos(angles)], axis=1)
    spiral = np.stack([-np.sin(t) * 0.6, 0.1 - np.sin(t / 2) * 0.4, 4.5 + np.cos(t) * 0.5], axis=1)
    assert np.allclose(positions, np.concatenate([sweep, spiral])) and (targets == TARGET).all()


@pytest.mark.parametrize("directions, frames", [(DIRECTIONS, 301), (None, 261)])
def test_the_expression_film_has_as_many_frames_as_the_notebooks(directions, frames):
    draw = Counter()
    shown = edit.expression_film(draw, SOURCE, OTHER, film_poses(20), edit.FilmOptions(), directions)
    assert len(shown) == frames and len(draw.poses) == frames - 80
    numbers, expressions = numbers_of(shown), 0 if directions is None else 40
    assert numbers[:140] == list(range(140)) and numbers[-81:-40] == list(range(140 + expressions, 181 + expressions)) and numbers[-40:] == numbers[-41:-81:-1]
    assert (shown[140 + expressions:180 + expressions] == shown[100 + expressions:140 + expressions][::-1]).all()
    assert torch.equal(draw.codes[-1], OTHER[0]) and torch.equal(draw.codes[-41], SOURCE[0]) and torch.equal(draw.poses[-1], draw.poses[139])


@pytest.mark.parametrize("mouth, chosen", [(39, 0), (40, 1)])
def test_an_open_mouth_takes_the_second_direction(mouth, chosen):
    draw, options = Counter(mouth), edit.FilmOptions(steps=4)
    edit.expression_film(draw, SOURCE, OTHER, film_poses(4), options, DIRECTIONS)
    expressions = torch.stack(draw.codes[28:36])
    assert torch.allclose(expressions, torch.arange(1, 9)[:, None] * 0.3 / 4 * DIRECTIONS[chosen])


def test_the_exchange_film():
    draw, options = Counter(), edit.FilmOptions(steps=6)
    shown = edit.exchange_film(draw, SOURCE, OTHER, film_poses(6), options, again=24)
    way = torch.stack(draw.codes)[:, 0]
    assert numbers_of(shown) == list(range(80)) and (way[:43] == 0).all() and (way[48:74] == 1).all() and way[-1] == 0
    assert way[45] == 0.5 and torch.allclose(way[42:49], 1 - way[73:80]) and torch.equal(draw.poses[42], draw.poses[48])
    assert all(torch.equal(draw.poses[18 + k], draw.poses[49 + k]) for k in range(24))


def test_drawing_builds_a_scene_once_while_the_code_stays(monkeypatch):
    """And shows what `predict` shows."""
    torch.manual_seed(0)
    model = SOF(ModelConfig(embedding_size=4, feat_dim=12, tracing_steps=3, orthogonal=True), heads=2)
    with torch.no_grad():
        model.latent_codes.weight.mul_(100)
    calls, scene = [], model.scene
    monkeypatch.setattr(model, "scene", lambda codes: calls.append(len(codes)) or scene(codes))
    poses, rows = film_poses(2)[:6], torch.tensor([0, 0, 1, 1, 1, 0])
    cameras = published_cameras(poses)
    seen = edit.drawer(model, published_cameras, 8)(poses, model.latent_codes.weight.detach()[rows])
    assert calls == [1, 1, 1]
    assert (seen == np.stack([picture["labels"].numpy() for picture in predict(model, rows, cameras, 8)])).all() and len(np.unique(seen)) > 1


# Slicing

def test_the_transfer_function_entry_by_entry():
    palette = np.random.default_rng(1).integers(0, 256, (20, 3), dtype=np.uint8)
    rgba = slicing.transfer_function(palette)
    first = dict(zip(slicing.CLASS_ENTRIES, range(20)))
    assert sorted(first) == list(range(0, 200, 10))
    for entry in range(200):
        opacity = 0 if entry < 10 else 0.05 * (entry - 10) / 189
        assert rgba[entry].tolist() == pytest.approx([*(palette[first[entry // 10 * 10]] / 255), opacity])


def test_the_class_volume_voxel_by_voxel():
    probabilities = torch.rand(2, 3, 4, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    volume = slicing.class_volume(probabilities)
    for d, row, column in np.ndindex(2, 3, 4):
        voxel = probabilities[d, row, column]
        assert volume[d, 2 - row, column] == voxel.max() + slicing.CLASS_ENTRIES[int(voxel.argmax())]


def test_looking_through_planes():
    """On white: a clear volume is white, an opaque plane hides what is behind it, two half clear ones mix; rows stand upright."""
    rgba = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 1, 0.5]], dtype=torch.float64)
    volume = torch.tensor([[[0.2, 1.5], [2.5, 2.0]], [[0.0, 2.0], [1.0, 2.9]]], dtype=torch.float64)
    half = lambda behind: 0.5 * torch.tensor([0, 0, 1.0]) + 0.5 * behind
    white, red = torch.ones(3), torch.tensor([1.0, 0, 0])
    picture = slicing.look_through(volume, rgba).float()
    assert torch.allclose(picture[1], torch.stack([white, red])) and torch.allclose(picture[0], torch.stack([half(red), half(half(white))]))
    assert torch.allclose(slicing.look_through(volume, rgba, density=0.0), torch.ones(2, 2, 3, dtype=torch.float64))


# Commands

def render(trained, folder, command: str, *options) -> programs.Done:
    return programs.run(folder, RENDER, command, "--checkpoint", trained.folder, "--side", "16", "--device", "cpu", "--out", "out", *options)


def labels_in(folder) -> np.ndarray:
    return np.stack([read_picture(path) for path in sorted((folder / "out").glob("seg_[0-9]*.png"))])


def view(trained, row: int) -> np.ndarray:
    """The head from the front."""
    model, _ = load(trained.folder)
    camera = published_cameras(look_at(CENTER, TARGET)[None])
    return next(predict(model, torch.tensor([row]), camera, 16))["labels"].numpy()


def test_interpolate(trained, tmp_path):
    done = render(trained, tmp_path, "interpolate", "--to", "00001", "2", "--count", "7")
    assert done.code == 0 and not done.err, done
    frames = labels_in(tmp_path)
    assert len(frames) == 7 and all((frames[k] == view(trained, row)).mean() > 0.99 for k, row in ((0, 0), (3, 1), (6, 2)))
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"interpolation.mp4", "interpolation.gif", "interpolation.png"}
    programs.refused(render(trained, tmp_path, "interpolate", "--to", "1", "2", "--count", "2"), "--count 2", "3 heads")
    programs.refused(render(trained, tmp_path, "interpolate", "--to", "3"), "head 3", "0-2")


def test_edit(trained, tmp_path):
    """Hair alone: the face stays to the pixel. A direction from a file goes as far as asked."""
    done = render(trained, tmp_path, "edit", "--towards", "1", "--what", "hair", "--count", "5")
    assert done.code == 0 and not done.err, done
    frames = labels_in(tmp_path)
    face = np.isin(frames[0], edit.KEPT_WITH_HAIR)
    assert len(frames) == 5 and face.any() and (frames[:, face] == frames[0, face]).all() and (frames[2] != frames[0]).any()

    codes = load(trained.folder)[0].latent_codes.weight.detach().numpy()
    np.save(tmp_path / "direction.npy", (codes[2] - codes[0]).astype(np.float64))
    np.save(tmp_path / "broken.npy", np.full(16, np.nan, np.float32))
    assert render(trained, tmp_path, "edit", "--direction", "direction.npy", "--amount", "1", "--count", "3").code == 0
    assert (labels_in(tmp_path)[1] == view(trained, 2)).mean() > 0.99
    programs.refused(render(trained, tmp_path, "edit"), "--direction, --towards")
    programs.refused(render(trained, tmp_path, "edit", "--direction", "broken.npy"), "broken.npy", "finite codes of 16")


def test_film_and_layers(trained, tmp_path):
    done = render(trained, tmp_path, "film", "--to", "1", "--steps", "2")
    assert done.code == 0 and not done.err and len(labels_in(tmp_path)) == 27, done
    programs.refused(render(trained, tmp_path, "film", "--to", "1", "--directions", "one.npy"), "--directions", "two")
    done = render(trained, tmp_path / "b", "layers", "--count", "4", "--label", "18")
    assert done.code == 0 and not done.err and "hair" in done.out, done
    layers = [read_picture(path) for path in sorted((tmp_path / "b" / "out").glob("layer_*.png"))]
    assert len(layers) == 4 and layers[0].shape == (16, 52, 3)
    assert not layers[0][:, 36:].any() and (layers[-1][:, 36:].any(axis=-1) == (view(trained, 0) > 0)).mean() > 0.95      # nothing yet, then all of it
    programs.refused(render(trained, tmp_path, "layers", "--label", "beard"), "--label beard", "hair")


def test_views_with_holes_closed(trained, tmp_path):
    plain, closed = (render(trained, tmp_path / name, "views", "--count", "2", "--area_closing", area) for name, area in (("a", 0), ("b", 200000)))
    assert plain.code == closed.code == 0 and not closed.err, closed
    a, b = labels_in(tmp_path / "a"), labels_in(tmp_path / "b")
    assert (b[a > 0] == a[a > 0]).all() and (b == edit.close_holes(a, 200000)).all()


def test_the_film_swings_as_far_as_asked(trained, tmp_path):
    """TestAll's second film: the camera of its first, 0.55 to each side."""
    assert render(trained, tmp_path, "film", "--to", "1", "--steps", "2", "--sweep", "0.55").code == 0
    model, _ = load(trained.folder)
    poses = look_at(*film_path(CENTER, TARGET, steps=2, sweeps=(0.0, -0.55, 0.55, 0.0)))
    frames = edit.drawer(model, published_cameras, 16)(poses, model.latent_codes.weight[:1].detach().expand(len(poses), -1))
    assert (labels_in(tmp_path)[: len(poses)] == frames).mean() > 0.995


def test_intrinsics_from_a_file(trained, tmp_path):
    """The published focal length in a file of 512 px shows what is shown without; half of it a head half as large; one of two is refused."""
    for name, focal in (("same", 144), ("half", 72), ("none", -1), ("zero", 144)):
        tmp_path.joinpath(f"{name}.txt").write_text(f"{focal} 256 256 0.\n0. 0. 0.\n1.\n{0 if name == 'zero' else 512} 512\n")
    tmp_path.joinpath("binary.txt").write_bytes(bytes(range(128, 256)))
    for name, where in (("same", "a"), ("half", "b")):
        assert render(trained, tmp_path / where, "views", "--count", "1", "--intrinsics", tmp_path / f"{name}.txt").code == 0
    same, half = labels_in(tmp_path / "a")[0], labels_in(tmp_path / "b")[0]
    model, _ = load(trained.folder)
    pose = path_poses("turntable", 1)
    K = torch.tensor([[4.5, 0, 8], [0, 4.5, 8], [0, 0, 1]])[None]
    truth = next(predict(model, torch.tensor([0]), sof_cameras(pose.float(), K, 16, True), 16))["labels"].numpy()
    assert (same == truth).all() and (half > 0).mean() < 0.5 * (same > 0).mean()
    two = render(trained, tmp_path, "views", "--focal", "36", "--intrinsics", tmp_path / "same.txt")
    programs.refused(two, "--focal, --intrinsics")
    for name in ("none", "zero", "binary"):
        programs.refused(render(trained, tmp_path, "views", "--intrinsics", tmp_path / f"{name}.txt"), f"{name}.txt")


# Expressions

def test_expressions_keep_who_it_is():
    own, params = torch.arange(6.0), -torch.arange(12.0).view(2, 6)
    assert edit.with_expressions(own, params, 4).tolist() == [[0, 1, 2, 3, -4, -5], [0, 1, 2, 3, -10, -11]]


def test_expressions(tmp_path, trained):
    """Nothing of its own kept: each head in turn; all of it kept: the same head over and over; a file's rows in its order."""
    torch.manual_seed(0)
    sof = SOF(ModelConfig(embedding_size=8, feat_dim=16, tracing_steps=2, orthogonal=True, use_encoder=True, encoder_size=6), heads=3).eval()
    with torch.no_grad():
        sof.face_params.copy_(3 * torch.randn(3, 6))
        sof.mapping_fn[0].weight.mul_(3)
    export_safetensors(tmp_path / "encoder.safetensors", {"model": sof.state_dict()}, dataclasses.asdict(sof.config))
    np.save(tmp_path / "rows.npy", sof.face_params[[2, 0]].numpy())
    np.save(tmp_path / "short.npy", np.zeros((2, 5), np.float32))

    def run(*options):
        done = programs.run(tmp_path, RENDER, "expressions", "--checkpoint", tmp_path / "encoder.safetensors", "--instance", "1", "--side", "16",
                            "--device", "cpu", "--out", "out", *options)
        return done, labels_in(tmp_path)

    with torch.no_grad():
        front = published_cameras(look_at(CENTER, TARGET)[None].expand(3, 4, 4))
        truth = edit.drawer(sof, lambda poses: front.pick(slice(0, len(poses))), 16)(torch.eye(4).expand(3, 4, 4), sof.codes(torch.arange(3)))
    done, frames = run("--kept", "0")
    assert done.code == 0 and not done.err and (frames == truth).mean() > 0.995 and len(np.unique(truth)) > 1, done
    assert (truth[0] != truth[1]).any() and (run("--kept", "6")[1] == truth[1]).mean() > 0.995
    shutil.rmtree(tmp_path / "out")
    assert (run("--kept", "0", "--params", "rows.npy")[1] == truth[[2, 0]]).mean() > 0.995
    programs.refused(run("--params", "short.npy")[0], "short.npy", "6 numbers")
    programs.refused(render(trained, tmp_path, "expressions"), "--use_encoder")
