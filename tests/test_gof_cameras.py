"""Camera distributions estimated from labels: known ones are found again, other worlds' too; bad labels are refused."""
from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from common.cameras import Cameras, eg3d_label, orbit, pigan_angles, pigan_cam2world, pigan_cameras, pigan_intrinsics
from common.errors import InputError
from common.images import ImageFolder, encode_png, write_eg3d_zip
from common.poses import draw_angles
from gof.cameras import fields_of_view, fit, labelled_cameras, turning_point
from tests import programs

HALF = math.pi / 2
CURRICULUMS = [("gaussian", HALF, 0.3, HALF, 0.155), ("gaussian", 0.2, 0.1, 1.2, 0.3), ("uniform", HALF, 0.5, HALF, 0.4), ("uniform", -3.0, 0.4, 1.0, 0.05),
               ("spherical_uniform", 1.0, 2.0, math.pi / 4 * 85 / 90, math.pi / 4 * 85 / 90)]


def drawn(n: int, *where) -> torch.Tensor:
    return draw_angles(where[0], n, *where[1:], torch.Generator().manual_seed(1))


@pytest.mark.parametrize("where", CURRICULUMS)
def test_finds_what_the_angles_were_drawn_from(where):
    """To a few standard errors, also where the yaw passes the end of the circle."""
    found = list(fit(pigan_angles(pigan_cam2world(drawn(4000, *where)))).values())
    assert found[0] == where[0]
    assert found[1:] == pytest.approx(where[1:], abs=0.02)


def test_a_circle_all_round_and_cameras_that_stand_still():
    name, _, h_stddev, _, _ = fit(pigan_angles(pigan_cam2world(drawn(4000, "uniform", 0.0, math.pi, HALF, 0.3)))).values()
    assert name == "uniform" and h_stddev == pytest.approx(math.pi, abs=0.01)
    assert fit(torch.full((5, 2), HALF)) == pytest.approx({"sample_dist": "mean", "h_mean": HALF, "h_stddev": 0, "v_mean": HALF, "v_stddev": 0}, abs=1e-6)
    still_pitch = fit(torch.stack([torch.full((500,), HALF), HALF + 0.3 * torch.randn(500)], dim=1))
    assert still_pitch["v_stddev"] == pytest.approx(0, abs=1e-6)


def test_field_of_view_is_that_of_pigans_pixels():
    intrinsics = torch.stack([pigan_intrinsics(fov, 64) for fov in (12.0, 30.0)])
    cameras = Cameras(pigan_cam2world(torch.full((2, 2), HALF)), intrinsics)
    torch.testing.assert_close(fields_of_view(cameras, 64), torch.tensor([12.0, 30.0], dtype=torch.float64))


def test_turning_point():
    """Cameras about any point; parallel ones have none, and get the nearest to the origin."""
    target = (0.1, -0.2, 0.3)
    found, distances = turning_point(orbit(torch.randn(50, dtype=torch.float64), 0.3 * torch.randn(50, dtype=torch.float64), 2.7, target))
    torch.testing.assert_close(found, torch.tensor(target, dtype=torch.float64))
    torch.testing.assert_close(distances, torch.full((50,), 2.7, dtype=torch.float64))
    found, distances = turning_point(orbit(torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 2.7))
    torch.testing.assert_close((found, distances), (torch.zeros(3, dtype=torch.float64), torch.full((3,), 2.7, dtype=torch.float64)), atol=1e-6, rtol=0)


def test_labels_that_are_no_cameras(tmp_path):
    sound = eg3d_label(pigan_cameras(torch.full((2, 2), HALF), 12.0, 8)).numpy()
    mirror = sound.copy()
    mirror[1, :3] *= -1
    for labels, words in ((None, "no labels, expected 25"), (sound[:, :10], "labels of 10 numbers"), (mirror, "view 1 has a rotation with determinant -1")):
        with pytest.raises(InputError, match=rf"data/dataset\.json: .*{words}"):
            labelled_cameras(ImageFolder(tmp_path / "data", ("a.png", "b.png"), labels))


def test_the_script(tmp_path):
    """What it prints is YAML of a curriculum; missing labels and data are one line."""
    cameras = pigan_cameras(drawn(300, *CURRICULUMS[0]), 12.0, 8)
    picture = encode_png(np.zeros((8, 8, 3), np.uint8))
    write_eg3d_zip(tmp_path / "data.zip", ((f"{i:03d}.png", picture) for i in range(300)), cameras)
    done = programs.run(tmp_path, "gof/cameras.py", "--data", "data.zip", "--out", "made/cameras.png")
    assert done.code == 0, done.err
    found = yaml.safe_load(done.out)
    assert found["sample_dist"] == "gaussian" and found["fov"] == 12 and found["h_stddev"] == pytest.approx(0.3, abs=0.05)
    assert "300 cameras" in done.out and "1.000 +- 0.000" in done.out
    assert Image.open(tmp_path / "made/cameras.png").width > 300
    shutil.unpack_archive(tmp_path / "data.zip", tmp_path / "bare")
    (tmp_path / "bare/dataset.json").unlink()
    programs.refused(programs.run(tmp_path, "gof/cameras.py", "--data", "bare"), "bare/dataset.json: missing")
    (tmp_path / "bare/dataset.json").write_text('{"labels": null}')
    programs.refused(programs.run(tmp_path, "gof/cameras.py", "--data", "bare"), "bare/dataset.json: no labels")
    programs.refused(programs.run(tmp_path, "gof/cameras.py", "--data", "nowhere.zip"), "nowhere.zip")
