"""Figures of speed: complete, honest about what they measure, and failing when the two sides do not compute the same."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import sof.volume
from common import benchmark
from common.benchmark import Row, chosen, in_turns, largest_difference, peak_memory, table
from common.cameras import look_at
from common.errors import InputError
from common.rays import camera_rays, unproject, z_depth
from scripts.benchmark import measure
from sof import plain
from sof.benchmark import FIGURES, SofBenchmark, bare_products, meshing, our_picture, rendering, setting, training
from sof.cameras import pixel_centers, sof_cameras
from sof.model import sphere_start

ROOT, CPU = Path(__file__).parents[1], torch.device("cpu")
TINY = SofBenchmark(side=16, width=24, batch_size=2, resolution=80, views=4, rounds=1)
ROWS = ["rendering", "rendering floor", "training step", "training memory", "mesh evaluations", "mesh", "turntable", "turntable, our scene per view"]


def flags(config: SofBenchmark) -> list[str]:
    return [f"--{name}={getattr(config, name)}" for name in ("side", "width", "batch_size", "resolution", "views", "rounds")]


def test_the_script_prints_and_writes_every_row(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, ROOT / "scripts/benchmark.py", "sof", "--threads=1", *flags(TINY)], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out/bench_sof.json").read_text())
    assert [row["name"] for row in rows] == ROWS
    lines = done.stdout.splitlines()[2:]
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines):
        assert line.startswith(row["name"]) and f"  {row['ratio']:.2f}  " in line
        assert row["ours"] > 0 and row["plain"] > 0 and row["threads"] == 1 and row["size"] and row["device"]
        assert row["ratio"] == (row["ours"] / row["plain"] if "floor" in row["name"] else row["plain"] / row["ours"])
        assert 0 <= row["largest_difference"] <= row["tolerance"] < 0.1
    assert {row["name"]: row["goal"] for row in rows if row["goal"]} == {"rendering floor": 1.3}
    assert rows[4]["plain"] == 80**3 and rows[4]["ours"] < 80**3 / 2


@pytest.mark.parametrize("orthographic", [True, False])
def test_plain_and_model_agree(orthographic):
    """Two ways to the same scores: other cameras' conventions, batched or single, rays that hit and that miss the sphere, marched and sliced."""
    s = setting(TINY, CPU, side=12)
    instances = torch.tensor([5, 0, 7])
    cam2world = look_at(torch.tensor([[0.3, 0.5, 4.5], [-2.0, 0.1, 4.0], [1.0, -1.0, 3.0]]), torch.zeros(3, 3))
    focal = 2.5 if orthographic else 9.0
    K = torch.tensor([[[focal, 0, 6], [0, 1.1 * focal, 5], [0, 0, 1]]]).expand(3, 3, 3)
    noise = 0.01 * torch.randn(3, 144, 1)
    cameras, uv = sof_cameras(cam2world, K, 12, orthographic), plain.pixels(12).expand(3, -1, -1)
    with torch.no_grad():
        codes = s.model.latent_codes(instances)
        scene, (origins, directions) = s.model.scene(codes), camera_rays(cameras, pixel_centers(uv, 12))
        assert 0.1 < (sphere_start(origins, directions, 1.5).norm(dim=-1) < 1.501).float().mean() < 1
        points, scores = s.model.trace(scene, origins, directions, noise)
        expected, depth = plain.forward(s.parameters, codes, cam2world, K, uv, orthographic, noise)
        assert largest_difference([scores, z_depth(cameras, points)], [expected, depth]) < 1e-4
        sliced, flat = plain.forward(s.parameters, codes, cam2world, K, uv, orthographic, slice_depth=2.5)
        assert largest_difference([s.model.field(scene, unproject(cameras, pixel_centers(uv, 12), 2.5))], [sliced]) < 1e-4
        assert flat.flatten().tolist() == pytest.approx([2.5] * flat.numel(), abs=1e-5)


@pytest.mark.parametrize("name, value", [("STEPS", 9), ("RADIUS", 1.45), ("layer_norm", lambda x, *rest: x)])
def test_a_wrong_picture_is_noticed(name, value, monkeypatch):
    assert all(row.same for row in rendering(TINY, CPU))
    monkeypatch.setattr(plain, name, value)
    assert not any(row.same for row in rendering(TINY, CPU))


def test_a_wrong_gradient_is_noticed(monkeypatch):
    monkeypatch.setattr("sof.benchmark.peak_memory", lambda *_: 1.0)
    assert all(row.same for row in training(TINY, CPU))
    published = plain.total_loss
    monkeypatch.setattr(plain, "total_loss", lambda *arguments: 1.05 * published(*arguments))
    assert not any(row.same for row in training(TINY, CPU))


def test_a_wrong_mesh_is_noticed(monkeypatch):
    """One value in 80^3 that is on the wrong side of the surface."""
    refine = sof.volume.refine_grid

    def wrong(*arguments, **options):
        values, evaluations = refine(*arguments, **options)
        values[40, 40, 40] *= -1
        return values, evaluations

    assert all(row.same for row in meshing(TINY, CPU))
    monkeypatch.setattr(sof.volume, "refine_grid", wrong)
    assert not any(row.same for row in meshing(TINY, CPU))


def test_a_difference_ends_with_exit_code_1(tmp_path, capsys):
    row = Row("marching", "8x8", 1.0, 2.0, difference=0.2, tolerance=0.1)
    config = replace(TINY, json=str(tmp_path / "rows.json"))
    with pytest.raises(SystemExit, match="rounding: marching"):
        measure("sof", config, {"marching": lambda *_: [row]})
    assert "WRONG" in capsys.readouterr().out and json.loads((tmp_path / "rows.json").read_text())[0]["largest_difference"] == 0.2
    measure("sof", config, {"marching": lambda *_: [replace(row, difference=0.1)]})


def test_bare_products_are_all_products():
    """The floor does every multiplication that our picture does, but for rays and ray terms (a few per thousand), and none besides."""
    s = setting(replace(TINY, side=64, width=64), CPU)
    counts = []
    for function in (partial(our_picture, s, 0), partial(bare_products, s.model, 64 * 64)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            function()
        counts.append(counter.get_total_flops())
    assert counts[1] <= counts[0] <= 1.005 * counts[1]


def test_ratios():
    row = Row("a", "1", ours=2.0, plain=8.0, difference=0.0, tolerance=0.0)
    assert row.ratio == 4 and replace(row, name="a floor").ratio == 0.25
    assert not replace(row, difference=float("nan")).same
    lines = table([row, replace(row, name="a floor", goal=1.3)]).splitlines()
    assert len(lines) == 3 and "<= 1.3" in lines[2]


def test_turns_are_taken_and_the_least_time_counts(monkeypatch):
    clock, calls = [0.0], []
    costs = {"ours": iter([3.0, 1.0, 2.0]), "plain": iter([5.0, 9.0, 4.0])}

    def run(name):
        calls.append(name)
        clock[0] += next(costs[name])

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    assert in_turns({name: partial(run, name) for name in costs}, 3, CPU) == {"ours": 1.0, "plain": 4.0}
    assert calls == ["ours", "plain"] * 3


def test_largest_difference():
    one = torch.tensor([1.0, -2.0])
    assert largest_difference([one, one], [one, one]) == 0
    assert largest_difference([one, 100 * one], [one, 100 * one + torch.tensor([0.0, 50.0])]) == pytest.approx(50 / 150)
    assert largest_difference([one], [torch.tensor([1.0, float("nan")])]) == float("inf")
    assert largest_difference([one], [torch.ones(3)]) == float("inf")
    with pytest.raises(ValueError):
        largest_difference([one], [one, one])


def hold(megabytes: int) -> torch.device:
    """Touch so much memory, and let it go."""
    torch.ones(megabytes * 10**6 // 4)
    return CPU


def test_peak_memory_is_that_of_the_call_alone():
    """Not of what this process holds, nor of what is left at the end."""
    here = torch.ones(500 * 10**6 // 4)
    assert peak_memory(hold, 300) == pytest.approx(300, abs=20) and here[-1] == 1


def test_figures_are_chosen_by_name():
    assert chosen("", FIGURES) == list(FIGURES.values()) and chosen("meshing, rendering", FIGURES) == [meshing, rendering]
    with pytest.raises(InputError, match=r"'mesh' is none of .*did you mean meshing\?"):
        chosen("rendering,mesh", FIGURES)
