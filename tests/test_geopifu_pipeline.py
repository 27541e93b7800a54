"""The whole way as a user goes it, program by program: a body, its frames and query points, three trainings, latent voxels, meshes, the paper's figures."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.meshes import load
from tests.programs import ROOT, Done, run

PLACES = "--datasetDir humanRender --meshDirSearch bodies".split()
TRAIN = ["-c", ROOT / "configs" / "geopifu" / "tiny.yml", *"--device cpu --num_threads 1 --no_num_eval --no_gen_mesh --schedule 99".split(), *PLACES]
SMALL = "--loadSize 64 --z_size 25 --features 16 --hourglass_dim 16 --mlp_dim 0 32 16 1 --num_sample_inout 500".split()
GRID = "--resolution_x 43 --resolution_y 64 --resolution_z 43 --device cpu".split()
FUSION = "--deepVoxels_fusion early --deepVoxels_c_len 56 --multiRanges_deepVoxels".split()
FRAMES = "--split train --give_idx 0 1".split()
FIGURES = ("avg_chamfer_dis", "avg_estV_2_gtM_dis", "avg_norm_cos_dis_front", "avg_norm_l2_dis_front")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a body, its four frames, everything learnt of them, and meshes and figures."""
    place = tmp_path_factory.mktemp("place")

    def do(script: str, *args) -> Done:
        done = run(place, script, *args)
        assert done.code == 0, f"{script}: {done.err}"
        return done

    do("scripts/make_people.py", "bodies", "--count", 1, "--out", "bodies")
    do("geopifu/render_data.py", "--meshDirSearch", "bodies", "--saveDir", "humanRender", "--resolutionScale", 1, "--eachMeshWithBgNum", 1)
    do("geopifu/prepare_queries.py", *PLACES, "--epoch_range", 0, 1, "--num_sample_inout", 500)
    do("geopifu/train.py", *TRAIN, *SMALL, "--stage", "pifu", "--name", "pifu", "--max_steps", 30)
    do("geopifu/train.py", *TRAIN, *SMALL, "--stage", "coarse", "--name", "coarse", "--max_steps", 30)
    do("geopifu/export_latents.py", "--load_netV_checkpoint_path", "log/coarse", *PLACES, "--resultsDir", "latents", "--loadSize", 64, "--device", "cpu")
    latents = ["--deepVoxelsDir", "latents"]
    do("geopifu/train.py", *TRAIN, *SMALL, *FUSION, *latents, "--stage", "query", "--name", "query", "--max_steps", 60)
    for name, model in {"pifu": ["log/pifu"], "coarse": ["log/coarse"], "query": ["log/query", "log/coarse"]}.items():
        do("geopifu/reconstruct.py", "--checkpoint", *model, *PLACES, *GRID, *FRAMES, "--resultsDir", name)
    for name in ("coarse", "query"):
        assert "Geo-PIFu (paper, THUman)" in do("geopifu/eval.py", *PLACES, *FRAMES, "--resultsDir", name).out
    return place


def test_every_stage_leaves_meshes(place):
    for name in ("pifu", "coarse", "query"):
        assert len(list((place / name).glob("*_meshRefined.obj"))) == len(list((place / name).glob("*_meshRefined.png"))) == 2


def test_something_was_learnt(place):
    """The V-net and Geo-PIFu know the one body that they saw, roughly: within some centimetres, turned the right way."""
    for name in ("coarse", "query"):
        found = json.loads((place / name / "avgEvalMetrics.json").read_text())
        assert found["frames"] == 2 and all(np.isfinite(found[figure]) and found[figure] > 0 for figure in FIGURES)
        assert found["avg_surface_cd_cm"] < 12 and found["avg_norm_cos_dis_front"] < 0.7


def test_a_photo_of_hers_without_her_mask(place):
    """Found, framed, reconstructed: a mesh and a film; the person stands upright in it."""
    done = run(place, "geopifu/reconstruct.py", "humanRender/rgbImage/000000.jpg", "--checkpoint", "log/query", "log/coarse", *GRID, "--num_frames", 4,
               "--size", 64, "--resultsDir", "me")
    assert done.code == 0, done.err
    size = np.ptp(load(place / "me/000000.glb").vertices, axis=0)
    assert size[1] == pytest.approx(1, abs=1e-3) and size[0] < 0.9 and (place / "me/000000.mp4").stat().st_size > 500
