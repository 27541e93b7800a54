"""The measures in closed form, and the program: perfect and shifted estimates, its files, its table, chunks and bad input."""
from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import export_safetensors
from common.errors import InputError
from geopifu import eval as evaluation
from geopifu import meshes, metrics, render_data
from geopifu.geometry import canonicalise, to_view
from geopifu.layout import read_config, rotation_of_frame
from geopifu.model import GeoPIFu
from geopifu.scans import find_scans, read_obj, read_scan
from tests.geopifu_frames import TINY
from tests.geopifu_scans import sphere, write_scans
from tests.programs import refused, run

# The measures

def test_vertex_measures_of_shifted_points():
    """A grid of spacing 1 moved by d < 1/2: every nearest point is its own; CD = PSD = 10^4 d^2. Squared, over vertices."""
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)
    cd, psd = metrics.vertex_measures(grid + (0.3, 0, 0), grid)
    assert cd == pytest.approx(900) and psd == pytest.approx(900)
    cd, psd = metrics.vertex_measures(grid[:1], grid)                           # one point right: no cost one way, much the other
    brute = np.square(grid - grid[0]).sum(1).mean()
    assert psd == 0 and cd == pytest.approx(1e4 * brute / 2)


def test_surface_measures_of_concentric_spheres():
    """Distances between spheres of radius 1 and 1.1 are 0.1 whichever way, however finely they are cut."""
    rng = np.random.default_rng(0)
    cd, p2s = metrics.surface_measures(sphere(1.1, 5), sphere(1.0, 3), rng, 4000)
    assert cd == pytest.approx(0.1, abs=0.01) and p2s == pytest.approx(0.1, abs=0.01)


def test_normal_measures():
    """The same: 0. Opposite: cosine 2, L2 2. At a right angle: 1 and sqrt 2. An empty estimate: 1 and 1. Outside the mask nothing counts."""
    up = np.tile([0.0, 0, 1], (4, 5, 1))
    mask = np.zeros((4, 5))
    mask[1:3] = 1
    elsewhere = np.where(mask[..., None] > 0, up, 7.0)
    for estimate, expected in ((elsewhere, (0, 0)), (-up, (2, 2)), (np.roll(up, 1, -1), (1, 2**0.5)), (0 * up, (1, 1))):
        assert metrics.normal_measures(estimate, up, mask) == pytest.approx(expected)


def test_rendered_normals_of_a_ball():
    vertices, faces = sphere(0.4)
    normals = metrics.rendered_normals(vertices, faces)
    y, x = ((np.indices((384, 256)).transpose(1, 2, 0) - (192, 128)) / 384).transpose(2, 0, 1)
    inner = np.hypot(x, y) < 0.38
    expected = np.stack([x, -y, np.sqrt(np.clip(0.16 - x**2 - y**2, 0, None))], axis=-1) / 0.4
    assert np.abs(normals - expected)[inner].max() < 0.03 and not normals[np.hypot(x, y) > 0.401].any()
    np.testing.assert_allclose(np.linalg.norm(normals[inner], axis=-1), 1, atol=1e-6)


def test_stored_normals_are_what_was_stored():
    normals = metrics.unit(np.random.default_rng(0).normal(size=(3, 2, 3))).repeat(256, 0).repeat(256, 1)          # constant patches, twice the size
    picture = ((normals + 1) / 2 * 255).astype(np.uint8)
    read, mask = metrics.stored_normals(picture, np.ones(picture.shape[:2], np.uint8))
    patches = read.reshape(3, 128, 2, 128, 3)[:, 10:-10, :, 10:-10]
    assert mask.shape == (384, 256) and np.abs(patches - normals[::256, ::256][:, None, :, None]).max() < 0.01


# The program

@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans"), (0, 9))


@pytest.fixture(scope="module")
def rendered(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rendered")
    render_data.main(render_data.RenderConfig(meshDirSearch=str(folder), saveDir=str(out), resolutionScale=1, eachMeshWithBgNum=1))
    return out


def evaluate(rendered: Path, folder: Path, results: Path, **options) -> None:
    evaluation.main(evaluation.EvalConfig(datasetDir=str(rendered), meshDirSearch=str(folder), resultsDir=str(results), device="cpu", **options))


def write_estimates(rendered: Path, folder: Path, results: Path, move=lambda points: points) -> None:
    """The truth of each test frame, moved, as an estimate in its own view."""
    scan = read_scan(find_scans(folder)[1])
    for frame in range(4, 8):
        front, _, _ = canonicalise(scan.vertices, rotation_of_frame(read_config(rendered, frame)))
        points = move(to_view(front, frame % 4))
        meshes.write_obj(results / f"{frame:06d}_meshRefined.obj", meshes.Mesh(points, scan.faces), np.full_like(points, 0.5))


def means(results: Path) -> dict[str, float]:
    return json.loads((results / "avgEvalMetrics.json").read_text())


def test_the_truth_is_a_perfect_estimate(rendered, folder, tmp_path, capsys):
    """But for four decimals and eight bits; and a table is printed, the paper's lines above."""
    write_estimates(rendered, folder, tmp_path)
    evaluate(rendered, folder, tmp_path)
    found = means(tmp_path)
    assert found["frames"] == 4 and found["avg_chamfer_dis"] < 1e-3 and found["avg_estV_2_gtM_dis"] < 1e-3
    assert found["avg_norm_cos_dis_front"] < 0.02 and found["avg_norm_l2_dis_front"] < 0.1 and found["avg_surface_cd_cm"] < 0.02
    out = capsys.readouterr().out
    assert re.search(r"Geo-PIFu \(paper, THUman\) +1\.7420 +1\.9220 +0\.0682 +0\.2603", out) and f"{found['avg_norm_l2_dis_front']:.4f}" in out


def test_a_shift_costs_its_length(rendered, folder, tmp_path):
    """Away from the viewer by 0.02: pictures of normals do not change; the vertices' squared distance is at most 0.02^2; centimetres are a person's."""
    write_estimates(rendered, folder, tmp_path, lambda points: points + (0, 0, 0.02))
    evaluate(rendered, folder, tmp_path)
    found = means(tmp_path)
    assert 0.5 < found["avg_estV_2_gtM_dis"] <= 4.01 and found["avg_norm_cos_dis_front"] < 0.02
    _, _, scale = canonicalise(read_scan(find_scans(folder)[1]).vertices, rotation_of_frame(read_config(rendered, 4)))
    assert 0.1 * 2 / scale < found["avg_surface_p2s_cm"] < 2 / scale
    one = json.loads((tmp_path / "000004_evalMetrics.json").read_text()), json.loads((tmp_path / "000004_evalMetrics_additional.json").read_text())
    assert set(one[0]) == {"norm_cos_dis_ft", "norm_l2_dis_ft"} and len(one[0]["norm_l2_dis_ft"]) == 1 and {"chamfer_dis", "estV_2_gtM_dis"} <= set(one[1])


def test_chunks_and_what_is_there_already(rendered, folder, tmp_path):
    """Two chunks give what one run gives; the means come with the last; measured frames are not measured again."""
    for name in ("whole", "parts"):
        write_estimates(rendered, folder, tmp_path / name)
    evaluate(rendered, folder, tmp_path / "whole")
    evaluate(rendered, folder, tmp_path / "parts", splitNum=2, splitIdx=1)
    assert not (tmp_path / "parts/avgEvalMetrics.json").exists()
    evaluate(rendered, folder, tmp_path / "parts", splitNum=2, splitIdx=0)
    assert means(tmp_path / "parts") == means(tmp_path / "whole")
    (tmp_path / "parts/000004_meshRefined.obj").unlink()
    evaluate(rendered, folder, tmp_path / "parts")
    (tmp_path / "parts/000005_evalMetrics_additional.json").write_text("{")
    with pytest.raises(InputError, match=r"000005_evalMetrics_additional\.json: broken"):
        evaluate(rendered, folder, tmp_path / "parts")


def test_a_checkpoint_is_reconstructed(rendered, folder, tmp_path):
    """Meshes are made where they are missing: here of a network that calls occupied what is nearer than the middle, so its surface is the plane z = 0."""
    sizes = {name: value for name, value in TINY.items() if name in evaluation.FrameConfig.__dataclass_fields__}
    model = GeoPIFu(evaluation.FrameConfig(**sizes), ("netG",))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        layers = dict(model.netG.surface_classifier.named_children())
        layers[max(layers)].weight[0, -1] = 8.0                                 # of the depth, the last input of the last layer
    export_safetensors(tmp_path / "model.safetensors", {"model": model.state_dict()}, {**asdict(model.config), "stage": "pifu"})
    grid = {"resolution_x": 12, "resolution_y": 16, "resolution_z": 12}
    evaluate(rendered, folder, tmp_path / "results", checkpoint=[str(tmp_path / "model.safetensors")], give_idx=[6], **grid)
    vertices, _, _ = read_obj(tmp_path / "results/000006_meshRefined.obj")
    assert np.abs(vertices[:, 2]).max() < 1e-3 and np.ptp(vertices[:, 1]) > 0.9 and means(tmp_path / "results")["frames"] == 1


def test_the_mean_body(rendered, folder, tmp_path):
    """Of one training person's four views: something round about the middle, and no better than the truth."""
    evaluate(rendered, folder, tmp_path, mean_body=4)
    found = means(tmp_path)
    assert 0 < found["avg_estV_2_gtM_dis"] < 400 and found["avg_norm_cos_dis_front"] > 0.02
    assert len({(tmp_path / f"{frame:06d}_meshRefined.obj").read_bytes() for frame in range(4, 8)}) == 1


def test_what_users_get_wrong(rendered, folder, tmp_path):
    here = ["--datasetDir", rendered, "--meshDirSearch", folder]
    refused(run(tmp_path, "geopifu/eval.py", *here), "--resultsDir")
    refused(run(tmp_path, "geopifu/eval.py", *here, "--resultsDir", "none"), "000004_meshRefined.obj", "--checkpoint")
    refused(run(tmp_path, "geopifu/eval.py", *here, "--resultsDir", "none", "--give_idx", 0), "--give_idx 0", "test")
    refused(run(tmp_path, "geopifu/eval.py", "--datasetDir", "nowhere", "--resultsDir", "none"), "nowhere", "render_data")
    refused(run(tmp_path, "geopifu/eval.py", *here, "--resultsDir", "none", "--splitIdx", 3), "--splitIdx")
