"""GOF's pictures of a ball whose size, place and colours are known, and gof/render.py as a user runs it."""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cameras import Cameras, pigan_cam2world, project
from common.images import read_picture
from gof import model, paths
from gof.look import drawings, look, scene_of, shoot_surface
from gof.model import march_options
from gof.render import Picture, between, march_of, seer
from tests import programs
from tests.gof_ball import CONFIG, RADIUS, ball_generator, write_ball

RENDER = "gof/render.py"
SIDE = 25
FRONTAL = torch.tensor([paths.FRONT])


@pytest.fixture(scope="module")
def generator():
    return ball_generator()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_ball(tmp_path_factory.mktemp("a ball") / "ball.safetensors")


def sines(side: int = SIDE) -> torch.Tensor:
    """The sine of the angle (side, side) between each pixel's ray and the way to the origin: its distance from the origin where they are nearest."""
    x = torch.linspace(-1, 1, side) * math.tan(math.radians(CONFIG.fov) / 2)
    away = (x[None, :].square() + x[:, None].square()).sqrt()
    return away.atan().sin()


# --- paths ------------------------------------------------------------------------------------------------------------------------------

def test_paths_turn_about_the_front():
    for angles in (paths.ellipse(37), paths.front(37, 12.0)[0]):
        away = (angles - torch.tensor(paths.FRONT)).abs().amax(0)
        assert torch.allclose(angles[0], angles[-1]) and away[0] < 0.26 and away[1] < 0.51
    assert paths.ellipse(37).mean(0) == pytest.approx(paths.FRONT, abs=0.02)
    assert paths.steps()[2].tolist() == list(paths.FRONT) and len(paths.ellipse(1)) == 1
    angles, fovs = paths.circle(9, 30.0)
    assert torch.equal(fovs, torch.full((9,), 30.0, dtype=torch.float64)) and (pigan_cam2world(angles)[:, 1, 3] > 0.5).all()
    zoom = paths.front(101, 12.0)[1]
    assert (zoom.min(), zoom.max()) == (pytest.approx(12, abs=0.01), pytest.approx(22, abs=0.01))


def test_meshes_are_in_the_middle_of_every_picture():
    center = (0.5, 0.2, -0.1)
    for cam2world in (paths.around(center=center), paths.nodding(12, center, 2.0)):
        each = lambda values: values.double().expand(len(cam2world), -1, -1)  # noqa: B023
        middle, depth = project(Cameras(cam2world, each(torch.eye(3))), each(torch.tensor([center])))
        assert middle.abs().max() < 1e-6 and depth.flatten().tolist() == pytest.approx([depth[0].item()] * len(depth))
    assert paths.around()[:, 0, 3].diff().min() > 0          # from the person's right to the left


# --- what is seen -----------------------------------------------------------------------------------------------------------------------

def test_a_ball_is_seen_where_it_is(generator):
    seen = look(generator, scene_of(generator, 0), FRONTAL, SIDE)
    nearest, inside = sines(), seen["hit"][0]
    sure = (nearest - RADIUS).abs() > 0.004                  # a rim so thin slips between the samples
    assert torch.equal(inside[sure], (nearest < RADIUS)[sure])
    truth = (1 - nearest.square()).sqrt() - (RADIUS**2 - nearest.square()).clamp_min(0).sqrt()
    both = inside & sure
    assert (seen["surface_depth"][0] - truth)[both].abs().max() < 1e-3
    outwards = torch.einsum("hwc,c->hw", seen["normals"][0], torch.tensor([0.0, 0.0, 1.0]))[both]
    assert (outwards - (1 - truth * (1 - nearest.square()).sqrt())[both] / RADIUS).abs().max() < 0.02     # the height of the point over RADIUS


def test_the_surface_alone_is_what_is_under_the_composite(generator):
    by, scene, angles = march_options(CONFIG), scene_of(generator, 1), paths.steps()
    whole, alone = look(generator, scene, angles, SIDE, by), look(generator, scene, angles, SIDE, by, shoot=shoot_surface)
    assert alone.keys() == {"surface_depth", "hit", "surface_colors", "normals"} and whole.keys() > alone.keys()
    for name, values in alone.items():
        assert torch.equal(values, whole[name]), name
    deep = whole["hit"] & (sines() < 0.8 * RADIUS)
    assert (whole["colors"] - whole["surface_colors"])[deep].abs().max() < 0.3 and whole["colors"][~whole["hit"]].mean() > 0.85


def test_memory_does_not_grow_with_the_picture(generator, monkeypatch):
    """The field is never asked for more points than allowed, at any size, and the picture is the same."""
    scene, asked = scene_of(generator, 0), []
    for name in ("field", "density", "normals"):
        whole = getattr(generator.siren, name)
        monkeypatch.setattr(generator.siren, name, lambda scene, points, *rest, whole=whole: (asked.append(points.shape[1]), whole(scene, points, *rest))[1])
    pictures = {}
    for size, most in ((16, 500), (32, 500), (32, None)):
        asked.clear()
        pictures[size, most] = seer(Picture(image_size=size, max_batch_size=most), generator)(scene, FRONTAL)
        assert max(asked) <= (most or 32 * 32 * march_of(Picture(), generator).coarse)
    assert all(torch.allclose(pictures[32, 500][name], pictures[32, None][name], atol=1e-5) for name in pictures[32, None])


def test_codes_in_between(generator):
    scenes = list(between(generator, [3, 5], 0.7, 3))
    ends, flat = [scene_of(generator, seed, 0.7) for seed in (3, 5)], lambda scene: scene.color[1]
    assert len(scenes) == 6 and not torch.allclose(flat(ends[0]), flat(ends[1]))
    for k, seed in ((0, 0), (2, 1), (3, 1), (5, 0)):         # there, and back to the first
        assert torch.allclose(flat(scenes[k]), flat(ends[seed]), atol=1e-6)
    assert torch.allclose(flat(scenes[1]), (flat(ends[0]) + flat(ends[1])) / 2, atol=1e-6)
    assert torch.allclose(flat(scene_of(generator, 3, 0.0)), flat(scene_of(generator, 4, 0.0)))


# --- what is drawn ----------------------------------------------------------------------------------------------------------------------

def test_a_depth_has_one_gray_in_every_picture(generator):
    seen = {"depth": torch.tensor([[[0.88, 1.0]], [[1.0, 1.12]]]), "colors": torch.rand(2, 1, 2, 3), "surface_colors": torch.rand(2, 1, 2, 3),
            "normals": torch.zeros(2, 1, 2, 3)}
    seen["normals"][..., 2] = 1.0
    shown = drawings(generator, seen)
    assert shown["depth"][..., 0].tolist() == [[[255, 128]], [[128, 0]]]
    assert np.array_equal(shown["img"], (seen["colors"] * 255).round().byte().numpy()) and (shown["normal"] == [128, 128, 255]).all()
    assert shown.keys() == {"img", "single", "depth", "normal"}
    assert drawings(generator, seen, stretch=True)["depth"][..., 0].tolist() == [[[0, 255]], [[0, 255]]]     # far is bright, by each picture's own range
    seen["hit"] = torch.tensor([[[True, False]], [[False, True]]])
    shown = drawings(generator, seen)
    assert shown["depth"][..., 0].tolist() == [[[255, 0]], [[0, 0]]] and (shown["single"][~seen["hit"].numpy()] == 255).all()
    assert np.array_equal(shown["mask"][..., 1] > 0, seen["hit"].numpy())


# --- gof/render.py ----------------------------------------------------------------------------------------------------------------------

def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def frames(path: Path) -> int:
    from imageio_ffmpeg import count_frames_and_secs
    return count_frames_and_secs(path)[0]


def test_show_needs_no_command_and_repeats_itself(checkpoint, tmp_path):
    command = ("--checkpoint", checkpoint, "--image_size", 20, "--num_frames", 3, "--seeds", 4, 2, 9)
    done = programs.run(tmp_path, RENDER, *command)
    assert done.code == 0 and "Traceback" not in done.err, done
    out = tmp_path / "out" / "gof_render"
    assert names(out) == {"samples.png", "turntable.mp4"} and read_picture(out / "samples.png").shape == (4 * 20 + 3 * 2, 3 * 20 + 2 * 2, 3)
    assert frames(out / "turntable.mp4") == 3
    assert programs.run(tmp_path, RENDER, "show", *command, "--output_dir", "again").code == 0
    assert all((tmp_path / "again" / name).read_bytes() == (out / name).read_bytes() for name in names(out))


def test_views(checkpoint, tmp_path):
    """The published command line; the last view is from the person's right, and brightness does not change from file to file."""
    done = programs.run(tmp_path, RENDER, "views", checkpoint, "--seeds_start", 3, "--seeds_end", 5, "--image_size", 24, "--output_dir", "imgs")
    assert done.code == 0, done
    yaws = [f"{math.pi / 2 + offset}" for offset in paths.OFFSETS]
    kinds = {"img", "single", "depth", "pred_depth", "mask", "normal"}
    assert names(tmp_path / "imgs") == {f"{kind}_{seed}_{yaw}_.png" for kind in kinds for seed in (3, 4) for yaw in yaws} | {"grid_3.png", "grid_4.png"}
    picture = lambda kind, yaw, folder="imgs": read_picture(tmp_path / folder / f"{kind}_3_{yaw}_.png")
    assert read_picture(tmp_path / "imgs" / "grid_3.png").shape == (2 * 24, 5 * 24, 3)
    generator = model.load(checkpoint)
    seen = look(generator, scene_of(generator, 3, 0.7), paths.steps(), 24, march_options(CONFIG, multiplier=2))
    assert np.array_equal(picture("img", yaws[-1]), drawings(generator, seen)["img"][-1])
    assert picture("normal", yaws[-1])[12, 12, 0] < 80 < 170 < picture("normal", yaws[0])[12, 12, 0]         # a growing yaw goes to -x
    done = programs.run(tmp_path, RENDER, "views", "--checkpoint", checkpoint, "--seeds_start", 3, "--seeds_end", 4, "--image_size", 24, "--output_dir", "fast",
                        "--surface_only", "--published_normalisation")
    assert done.code == 0 and not {name for name in names(tmp_path / "fast") if name.startswith(("img", "depth"))}
    assert picture("pred_depth", yaws[0], "fast").min() == 0 and picture("pred_depth", yaws[0], "fast").max() == 255


def test_films(checkpoint, tmp_path):
    command = ("--checkpoint", checkpoint, "--image_size", 20, "--num_frames", 3)
    done = programs.run(tmp_path, RENDER, "video", *command, "--seed", 1, "--kind", "surface", "normals", "--frames", "--output_dir", "vids")
    assert done.code == 0, done
    stills = {f"{kind}_{k:03d}.png" for kind in ("single", "normal") for k in range(3)}
    assert names(tmp_path / "vids") == stills | {"video_surface.mp4", "video_normals.mp4"} and frames(tmp_path / "vids" / "video_surface.mp4") == 3
    done = programs.run(tmp_path, RENDER, "interpolate", *command, "--seeds", 1, 2, "--trajectory", "orbit", "--psi", 1, "--frames",
                        "--kind", "colors", "depth", "--output_dir", "way")
    assert done.code == 0 and frames(tmp_path / "way" / "interpolation_colors.mp4") == 6
    still = lambda leg, frame: read_picture(tmp_path / "way" / f"img_{leg:02d}_{frame:03d}.png")
    assert np.array_equal(still(0, 0), still(1, 2)) and not np.array_equal(still(0, 0), still(1, 0))          # the first code again; another code
    generator = model.load(checkpoint)
    np.savez(tmp_path / "codes.npz", **dict(zip(("frequencies", "phases"), (x.detach().numpy() for x in generator.codes(generator.latents([1]), 0.7)))))
    assert programs.run(tmp_path, RENDER, "video", *command, "--codes", "codes.npz", "--kind", "normals", "--output_dir", "found").code == 0
    assert (tmp_path / "found" / "video_normals.mp4").read_bytes() == (tmp_path / "vids" / "video_normals.mp4").read_bytes()


def test_a_density_is_seen_without_a_surface(tmp_path):
    """pi-GAN's: no mask, normals where the light comes from on average."""
    fog = write_ball(tmp_path / "fog.safetensors", pred_occ=False, surface_sample=False, num_steps_coarse=48, num_steps_fine=48)
    done = programs.run(tmp_path, RENDER, "views", fog, "--surface_only", "--seeds_end", 1, "--image_size", 12, "--output_dir", "imgs")
    assert done.code == 0 and {name.split("_")[0] for name in names(tmp_path / "imgs")} == {"img", "single", "depth", "normal", "grid"}
    front = read_picture(tmp_path / "imgs" / f"normal_0_{math.pi / 2}_.png")
    assert front[6, 6].tolist() == pytest.approx([128, 128, 255], abs=20)


def test_what_it_refuses(checkpoint, tmp_path):
    refuse = lambda *args: programs.run(tmp_path, RENDER, *args)
    programs.refused(refuse("views"), "--checkpoint", "expected one generator")
    programs.refused(refuse("views", checkpoint, "--checkpoint", checkpoint), "--checkpoint", "expected one generator")
    programs.refused(refuse("views", "nothing.pth"), "nothing.pth")
    programs.refused(refuse("vews", checkpoint), "vews", "did you mean views")
    programs.refused(refuse("views", checkpoint, "--seeds_start", 5, "--seeds_end", 5), "--seeds_end 5")
    programs.refused(refuse("interpolate", checkpoint, "--seeds", 1), "--seeds", "expected 2 or more")
    programs.refused(refuse("video", checkpoint, "--kind", "colour"), "--kind", "did you mean colors")
    programs.refused(refuse("video", checkpoint, "--codes", checkpoint), "ball.safetensors", "codes of gof/invert.py")
    np.savez(tmp_path / "small.npz", frequencies=np.zeros((1, 3)), phases=np.zeros((1, 3)))
    programs.refused(refuse("video", checkpoint, "--codes", "small.npz"), "small.npz", "(1, 72)")
    assert not (tmp_path / "out").exists()
