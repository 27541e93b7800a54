"""GOF's figures of speed: complete, ours equal to the published algorithm written plainly, and failing where it is not."""
from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import gof.benchmark
from common.benchmark import largest_difference
from common.cameras import pigan_cameras
from common.rays import camera_rays, pixel_grid
from gof import plain
from gof.benchmark import GofBenchmark, bare_products, drawn, field, fused, meshing, our_frames, parameters_of, picture, training, video

ROOT, CPU = Path(__file__).parents[1], torch.device("cpu")
TINY = GofBenchmark(points=3000, width=24, side=12, multiplier=1, views=4, train_side=8, batch_size=2, critic_width=0.05, resolution=80, rounds=1)
ROWS = ["fold", "fold floor", "picture", "video", "train", "mesh evaluations", "mesh"]
OPTIONS = ("points", "width", "side", "multiplier", "views", "train_side", "batch_size", "critic_width", "resolution", "rounds")


def test_the_script_prints_and_writes_every_row(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts/benchmark.py", "gof", "--threads=1", *(f"--{name}={getattr(TINY, name)}" for name in OPTIONS)],
                          cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "out/bench_gof.json").read_text())}
    assert list(rows) == ROWS
    assert {name: row["goal"] for name, row in rows.items() if row["goal"]} == {
        "fold": 2, "fold floor": 1.15, "video": 3, "train": 1.3, "mesh evaluations": 20, "mesh": 20}
    assert all(0 <= row["largest_difference"] <= row["tolerance"] <= 1e-3 and row["ours"] > 0 and row["plain"] > 0 for row in rows.values())
    assert "PSNR" in rows["picture"]["size"] and rows["mesh evaluations"]["plain"] == 80**3 > 2 * rows["mesh evaluations"]["ours"]


def test_a_drawn_field_is_seen():
    """Rays that hit and rays that miss, or the figures would measure nothing."""
    generator = drawn(TINY, CPU)
    hit = our_frames(generator, TINY, torch.full((1, 2), math.pi / 2), 16)["hit"].float().mean()
    assert 0.2 < hit < 0.98


def test_rays_are_ours():
    angles = torch.tensor([[1.2, 2.0], [1.7, 0.4]], dtype=torch.float64)
    ours = camera_rays(pigan_cameras(angles, plain.FOV, 7), pixel_grid(7, 7, dtype=torch.float64)[None])
    assert largest_difference(ours, plain.rays(angles, 7)) < 1e-12


@pytest.mark.parametrize("figure, name, value", [
    (field, "BOX_SIDE", 0.2401), (picture, "FOV", 12.01), (video, "NEAR", 0.8801), (video, "fine_depths", lambda logits, depths, samples: depths[..., 1:3]),
    (training, "BOX_SIDE", 0.2401), (training, "with_coordinates", lambda x: torch.cat([x, x[:, :2]], dim=1)),
])
def test_a_wrong_result_is_noticed(figure, name, value, monkeypatch):
    config = replace(TINY, train_side=16)
    assert all(row.same for row in figure(config, CPU))
    monkeypatch.setattr(plain, name, value)
    assert not any(row.same for row in figure(config, CPU))


@pytest.mark.parametrize("player", ["discriminator_loss", "generator_loss"])
def test_a_wrong_gradient_is_noticed(player, monkeypatch):
    published = getattr(plain, player)
    monkeypatch.setattr(plain, player, lambda *arguments: 1.01 * published(*arguments))
    assert not any(row.same for row in training(TINY, CPU))


def test_a_wrong_mesh_is_noticed(monkeypatch):
    """One value in 80^3 that is on the wrong side of the surface."""
    refine = gof.benchmark.refine_grid

    def wrong(*arguments):
        values, evaluations = refine(*arguments)
        values[40, 40, 40] *= -1
        return values, evaluations

    assert all(row.same for row in meshing(TINY, CPU))
    monkeypatch.setattr(gof.benchmark, "refine_grid", wrong)
    assert not any(row.same for row in meshing(TINY, CPU))


def test_bare_products_are_all_products():
    """The floor does every multiplication of the field, and none besides."""
    generator = drawn(replace(TINY, width=64), CPU)
    scene = generator.scene(generator.codes(generator.latents([0])))
    points, counts = torch.rand(1, 9000, 3), []
    for function in (partial(generator.siren.field, scene, points, points), partial(bare_products, generator.siren, 9000)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            function()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("cached", [24, 24 * 7, 24 * 50, 24 * 120])
def test_a_field_in_chunks_is_the_whole_field(cached, monkeypatch):
    """Some points of a scene at once, or some scenes: values, normals and their gradients."""
    siren = drawn(TINY, CPU).double().siren
    points, toward = 0.2 * torch.rand(5, 37, 3, dtype=torch.float64) - 0.1, torch.randn(5, 37, 3, dtype=torch.float64)
    z, found = torch.randn(5, 256, dtype=torch.float64), []
    for size in (10**6, cached):
        monkeypatch.setattr("common.pigan.CACHED", size // torch.get_num_threads())
        scene = siren.scene(*siren.mapping(z))
        logits, colors = siren.field(scene, points, toward)
        normals = siren.normals(scene, points, create_graph=True)
        gradients = torch.autograd.grad((logits.sin() + colors.square() + normals.cos()).sum(), list(siren.parameters()))
        found.append([x.detach() for x in (logits, colors, normals, siren.density(scene, points), *gradients)])
    assert largest_difference(*found) < 1e-9


def test_kernels_have_rows_where_there_is_a_gpu():
    assert fused(TINY, CPU) == []


def test_the_plain_field_learns_points_too():
    """As released: every forward pass with gradient also asks for those of its points."""
    points = torch.rand(1, 5, 3)
    generator = drawn(TINY, CPU)
    parameters = parameters_of(generator)
    plain.siren(parameters, plain.mapping(parameters, torch.randn(1, 256)), points, points.clone())[..., 3].sum().backward()
    assert points.grad.abs().sum() > 0
