"""gof/invert.py on balls whose field is known: gradients in pieces, codes and cameras found again, photos of any kind, files that the other commands read."""
from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from common.errors import InputError, NonFinite
from common.images import write_png
from common.march import Draws
from gof import invert as inverting
from gof.invert import Chance, Fit, Found, Unknowns, best_of, chance, descend, inversion_march, invert, photo, read_photos, reproduce, starts, write_codes
from gof.look import codes_scene, look
from gof.model import Generator
from gof.paths import FRONT
from tests import gof_ball, programs
from tests.gof_ball import ball_generator, write_ball

SIDE = 12


@pytest.fixture(scope="module")
def ball():
    return ball_generator()


def pictures(generator, codes, angles) -> torch.Tensor:
    seen = [look(generator, generator.scene(tuple(code[i:i + 1] for code in codes)), angles[i:i + 1], SIDE)["colors"][0] for i in range(len(angles))]
    return 2 * torch.stack(seen).permute(0, 3, 1, 2) - 1


def front(n: int) -> torch.Tensor:
    return torch.tensor([FRONT]).repeat(n, 1)


def drawn(generator, unknowns, rays=SIDE**2, seed=0) -> Chance:
    return chance(Fit(seed=seed, rays=rays), inversion_march(generator), SIDE**2, unknowns, 0)


def gradients(generator, unknowns, targets, drawn) -> list[torch.Tensor]:
    unknowns.zero_grad()
    reproduce(generator, unknowns, targets, inversion_march(generator), drawn, 0.03)
    return [parameter.grad.clone() for parameter in unknowns.parameters()]


def test_gradients_in_pieces_are_those_of_the_whole_and_of_each_picture_alone(ball, monkeypatch):
    codes = ball.codes(ball.latents([1, 2]))
    targets = pictures(ball, codes, front(2) + 0.1).detach()
    unknowns = Unknowns(tuple(mean.repeat(2, 1) for mean in ball.average), front(2))
    some = drawn(ball, unknowns, 50)
    whole = gradients(ball, unknowns, targets, some)
    monkeypatch.setattr(inverting, "RAYS", 14)
    for a, b in zip(whole, gradients(ball, unknowns, targets, some)):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-7)
    for row in range(2):
        alone = Unknowns(ball.average, front(1))
        mine = Chance(some.frequencies[row:row + 1], some.phases[row:row + 1], some.pixels, some.march.part(slice(row, row + 1)))
        for a, b in zip(whole, gradients(ball, alone, targets[row:row + 1], mine)):
            torch.testing.assert_close(a[row:row + 1], b, rtol=1e-3, atol=1e-7)


def test_the_gradient_of_the_camera_is_the_loss_es_own(ball):
    """A central difference in yaw, at fixed samples."""
    targets = pictures(ball, ball.average, front(1) + torch.tensor([[0.0, 0.2]])).detach()
    by = inversion_march(ball)
    loss = lambda yaw: float(reproduce(ball, Unknowns(ball.average, front(1) + torch.tensor([[0.0, yaw]])), targets, by, still, 0.0)[0])
    unknowns = Unknowns(ball.average, front(1))
    still = drawn(ball, unknowns)
    gradients(ball, unknowns, targets, still._replace(frequencies=still.frequencies * 0, phases=still.phases * 0))
    assert float(unknowns.angles.grad[0, 1]) < 0 and loss(0.05) < loss(0.0) < loss(-0.05)
    assert float(unknowns.angles.grad[0, 1]) == pytest.approx((loss(0.02) - loss(-0.02)) / 0.04, rel=0.3)


def test_codes_are_found_again():
    """Of a field of random weights, whose pictures differ by the code alone."""
    torch.manual_seed(0)
    fog = Generator(replace(gof_ball.CONFIG, hidden_dim=16)).eval()
    with torch.no_grad():
        fog.siren.color_layer_linear[0].weight.mul_(8)
    codes = fog.codes(fog.latents([3, 4]))
    targets = pictures(fog, codes, front(2)).detach()
    begin = (pictures(fog, tuple(mean.repeat(2, 1) for mean in fog.average), front(2)) - targets).square().mean((1, 2, 3))
    options = Fit(steps=60, lr_step=10, noise_scale=0.003, rays=0, opt_cam=False)
    found = invert(fog, targets, front(2), options)
    for start, one in zip(begin.tolist(), found):
        assert torch.equal(one.angles, front(1)) and one.error < start / 2
    again = invert(fog, targets, front(2), options)
    assert all(torch.equal(a.codes[0], b.codes[0]) and torch.equal(a.codes[1], b.codes[1]) for a, b in zip(found, again))


def test_cameras_are_found_again(ball):
    true = torch.tensor([[FRONT[0] + 0.1, FRONT[1] - 0.2], [FRONT[0] - 0.1, FRONT[1] + 0.25]])
    mean = tuple(code.repeat(2, 1) for code in ball.average)
    found = invert(ball, pictures(ball, mean, true).detach(), front(2), Fit(steps=60, lr_step=10, lr=0.0, lr_cam=0.03, noise_scale=0.0, rays=0))
    for one, wanted in zip(found, true):
        assert torch.equal(one.codes[0], mean[0][:1]) and (one.angles - wanted).abs().max() < 0.03 and one.error < 1e-4


def test_rates_fall_in_stairs_and_noise_dies_out(ball):
    """Adam's first step is the learning rate whatever the gradient; weight decay pulls towards the start."""
    targets = pictures(ball, ball.codes(ball.latents([3])), front(1)).detach()
    unknowns = Unknowns(ball.average, front(1))
    options = Fit(steps=4, lr=0.01, lr_step=1, lr_gamma=0.0, opt_cam=False, weight_decay=0.0, rays=0)
    steps = descend(ball, unknowns, targets, inversion_march(ball), options, lambda step: drawn(ball, unknowns, 0, step))
    next(steps)
    moved = unknowns.frequencies.detach().abs()
    assert float(moved.max()) == pytest.approx(0.01, rel=1e-2)
    list(islice(steps, 2))
    torch.testing.assert_close(unknowns.frequencies.detach().abs(), moved)           # the rate is 0 by now


def test_the_best_start_is_kept(ball):
    codes, angles = ball.codes(ball.latents([5, 6])), front(2) + torch.tensor([[0.0, 0.3], [0.0, -0.3]])
    targets = pictures(ball, codes, angles).detach()
    swapped = torch.tensor([1, 0, 0, 1])                                              # the first try is wrong for both, the second right
    unknowns = Unknowns(tuple(code[swapped].detach() for code in codes), angles[swapped])
    found = best_of(ball, unknowns, targets, 2, 2)
    assert all(one.error < 1e-10 and torch.equal(one.angles[0], angles[i]) for i, one in enumerate(found))
    begin, cameras = starts(ball, front(2), Fit(restarts=3))
    assert torch.equal(begin[0][:2], ball.average[0].repeat(2, 1)) and torch.equal(begin[1][2], begin[1][3]) and not torch.equal(begin[1][2], begin[1][4])
    assert torch.equal(cameras[:2], front(2)) and cameras[2, 1] > cameras[0, 1] > cameras[4, 1]
    assert torch.equal(starts(ball, front(2), Fit(restarts=3, opt_cam=False))[1], front(6))


def test_a_density_is_inverted_without_fine_samples():
    by = inversion_march(ball_generator(pred_occ=False, surface_sample=False))
    assert (by.coarse, by.fine, by.surface) == (24, 0, 0)
    some = chance(Fit(rays=7), by, 100, Unknowns((torch.zeros(2, 3), torch.zeros(2, 3)), front(2)), 0)
    assert len(some.pixels.unique()) == 7 and some.march.coarse.shape == (2, 7, 24) and some.march.fine is None and some.march.surface is None


def test_what_is_not_finite_is_refused(ball):
    broken = ball_generator()
    with torch.no_grad():
        broken.siren.color_layer_linear[0].bias.fill_(torch.nan)
    with pytest.raises(NonFinite, match="step 1"):
        invert(broken, torch.zeros(1, 3, SIDE, SIDE), front(1), Fit())


# Photos

def test_photos_of_any_size_are_squares_of_their_middle():
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30] = np.arange(20).repeat(20).reshape(20, 20, 1) * 10
    small = photo(picture, 10)
    assert small.shape == (3, 10, 10) and torch.allclose(small[0, :, 0], torch.arange(10) * 20 / 127.5 + 5 / 127.5 - 1, atol=1 / 127)
    assert photo(picture, 32).shape == (3, 32, 32) and float(photo(np.full((3, 5, 3), 255, np.uint8), 8).min()) == 1


def test_pictures_keep_apart_whatever_they_are_called(tmp_path):
    for name in ("a/x.png", "b/x.png", "a_x.jpg.png"):
        write_png(tmp_path / "in" / name, np.zeros((9, 9, 3), np.uint8))
    photos = read_photos(tmp_path / "in", 8)
    assert len(photos) == 3 and not any("/" in name or name.startswith(".") for name in photos)
    write_png(tmp_path / "in" / "a_x.png", np.zeros((9, 9, 3), np.uint8))             # would be a/x.png
    assert list(read_photos(tmp_path / "in", 8)) == ["00000", "00001", "00002", "00003"]
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        read_photos(tmp_path / "in", 8)


def test_files_show_what_was_found(tmp_path, ball):
    codes = tuple(code.detach() for code in ball.codes(ball.latents([7])))
    write_codes(tmp_path / "codes.npz", codes, front(1))
    seen = look(ball, codes_scene(ball, tmp_path / "codes.npz"), front(1), SIDE)["colors"]
    assert torch.equal(seen, look(ball, ball.scene(codes), front(1), SIDE)["colors"])
    assert Found(codes, front(1), 0.0).error == 0 and inverting.psnr(4.0) == 0 and inverting.psnr(0.04) == pytest.approx(20)
    assert set(np.load(tmp_path / "codes.npz").files) == {"frequencies", "phases", "angles"} and isinstance(drawn(ball, Unknowns(codes, front(1))).march, Draws)


def test_as_a_user_runs_it(tmp_path, ball):
    write_ball(tmp_path / "ball.safetensors")
    for seed in (1, 2):
        seen = look(ball, ball.scene(ball.codes(ball.latents([seed]))), front(1), 24)["colors"][0].detach()
        write_png(tmp_path / "photos" / f"head {seed}.png", (255 * seen).byte().numpy())
    common = ["--checkpoint", tmp_path / "ball.safetensors", "--image_size", 8, "--steps", 3, "--lr", 0, "--noise_scale", 0, "--device", "cpu",
              "--num_frames", 2, "--voxel_resolution", 24]
    done = programs.run(tmp_path / "run", "gof/invert.py", *common, "--data", tmp_path / "photos", "-o", "out")
    assert done.code == 0 and "2 in out" in done.out, done.err
    figures = json.loads((tmp_path / "run" / "out" / "metrics.json").read_text())["photos"]
    assert list(figures) == ["head 1", "head 2"] and all(math.isfinite(one["psnr"]) for one in figures.values())
    files = {path.name for path in (tmp_path / "run" / "out" / "head 1").iterdir()}
    assert {"codes.npz", "reproduction.png", "views.png", "codes.ply"} <= files and any(name.endswith(".mp4") for name in files)
    programs.refused(programs.run(tmp_path / "other", "gof/invert.py", *common, "--data", tmp_path / "none"), "none")
    programs.refused(programs.run(tmp_path / "other", "gof/invert.py", *common, "--data", tmp_path / "photos", "--pose", "1"), "--pose")
