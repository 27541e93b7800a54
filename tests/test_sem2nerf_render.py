"""sem2nerf/render.py as a user runs it: stills, films, looks, the masks' own cameras, what it refuses."""
from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cameras import pigan_cameras
from common.checkpoint import export_safetensors
from common.images import read_picture, write_png
from common.rays import camera_rays, pixel_grid
from sem2nerf.look import view_pictures
from sem2nerf.model import ModelConfig, Sem2NeRF, load, march_options, model_options, resolve, see
from tests import programs
from tests.conftest import flags
from tests.sem2nerf_faces import face, write_faces

RENDER = "sem2nerf/render.py"
SMALL = {"src_input_size": 32, "embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 4, "hidden_dim": 8, "layers": 2, "pigan_zdim": 4}
BRIEF = {"test_output_size": 12, "pigan_infer_ray_step": 4, "device": "cpu"}


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Masks, and a model of drawn weights, exported in half precision."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("a world")
    write_faces(root / "faces", count=3)
    model = Sem2NeRF(resolve(ModelConfig(**SMALL), {}))
    torch.nn.init.normal_(model.encoder.head.weight)
    torch.nn.init.normal_(model.siren.final_layer.weight, std=30)
    model.remember_average()
    export_safetensors(root / "faces_9.safetensors", {"model": model.state_dict()}, model_options(model.config), torch.float16)
    return root


def render(world: Path, root: Path, masks: Path, **options) -> programs.Done:
    given = {**BRIEF, "checkpoint_path": world / "faces_9.safetensors", "exp_dir": root / "out", **options}
    seeds = ["--inject_code_seed", *map(str, given.pop("inject_code_seed", [0]))]
    return programs.run(root / "elsewhere", RENDER, masks, *flags(given), *seeds)


def test_looks_poses_overlays_and_films(world, tmp_path):
    done = render(world, tmp_path, world / "faces" / "masks", use_original_pose=True, mask_overlay_weight=0.3, inject_code_seed=[1, 2], n_images=2,
                  render_videos=True, num_frames=3, trajectory="orbit")
    assert done.code == 0, done.err
    results, films = tmp_path / "out" / "iter_9_infer_results_12", tmp_path / "out" / "iter_9_infer_videos_12"
    assert {path.name for path in results.iterdir()} == {f"{i}_mask2_seed{seed}{kind}.png" for i in (0, 1) for seed in (1, 2) for kind in ("", "_overlay")}
    assert {path.name for path in films.iterdir()} == {f"{i}_mask2_seed{seed}.mp4" for i in (0, 1) for seed in (1, 2)}
    row, other = (read_picture(results / f"0_mask2_seed{seed}.png") for seed in (1, 2))
    assert row.shape == (12, 7 * 12 + 6 * 2, 3)
    assert np.array_equal(row[:, :12], other[:, :12]) and not np.array_equal(row[:, 14:], other[:, 14:])           # one mask, two looks


def test_two_runs_and_any_chunk_give_the_same(world, tmp_path):
    pictures = []
    for name, options in (("a", {}), ("b", {}), ("c", {"pigan_infer_max_batch": 60})):
        assert render(world, tmp_path / name, world / "faces" / "masks" / "2.png", **options).code == 0
        pictures.append(read_picture(tmp_path / name / "out" / "iter_9_infer_results_12" / "2_mask2_seed0.png").astype(int))
    assert np.array_equal(pictures[0], pictures[1]) and np.abs(pictures[0] - pictures[2]).max() <= 1
    assert pictures[0].shape[1] == 6 * 12 + 5 * 2


def test_a_mask_in_colours_and_its_published_row(world, tmp_path):
    plain, stretched = tmp_path / "plain", tmp_path / "stretched"
    mask = world / "faces" / "masks" / "1.png"
    assert render(world, plain, mask, latent_mask="none").code == 0 and render(world, stretched, mask, latent_mask="none", published_grid=True).code == 0
    row = read_picture(plain / "out" / "iter_9_infer_results_12" / "1_mask_seed0.png")
    assert {tuple(pixel) for pixel in row[:, :12].reshape(-1, 3)} <= {(0, 0, 0), (204, 0, 0), (0, 255, 255), (0, 0, 204), (102, 204, 0)}
    assert read_picture(stretched / "out" / "iter_9_infer_results_12" / "1_mask_seed0.png").shape == (16, 6 * 14 + 2, 3)


def test_views_are_of_one_field(world):
    """A pixel of a view is what the march says of its ray, whatever the other pixels."""
    model = load(world / "faces_9.safetensors")
    codes = tuple(code + 0.3 for code in model.average)
    angles, by = torch.tensor([[math.pi / 2, 1.8]]), march_options(model.config, 6)
    scene = model.scene(codes)
    with torch.no_grad():
        whole = view_pictures(model, scene, angles, 9, by)
        cameras = pigan_cameras(angles, model.config.fov, 9)
        origins, directions = camera_rays(cameras, pixel_grid(9, 9)[None, 40:41])
        one = see(model, scene, origins, directions, by)["colors"][0, 0]
    torch.testing.assert_close(whole[0, :, 4, 4], 2 * one - 1, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options, words", [
    ({"latent_mask": "3"}, ["--latent_mask 3"]), ({"use_merged_labels": False}, ["--use_merged_labels False", "faces_9"]),
    ({"image_load_size": 320}, ["--image_load_size 320"]), ({"checkpoint_path": "/nowhere.pt"}, ["/nowhere.pt"]),
    ({"infer_paths_conf": "/nowhere.txt"}, ["/nowhere.txt"]), ({"trajectory": "orbi"}, ["did you mean orbit"]),
    ({"use_original_pose": True, "pose_path": "/nowhere.txt"}, ["/nowhere.txt"]),
])
def test_options_that_cannot_be(world, tmp_path, options, words):
    programs.refused(render(world, tmp_path, world / "faces" / "masks", **options), *words)
    assert not (tmp_path / "out").exists()


def test_masks_that_cannot_be(world, tmp_path):
    masks = tmp_path / "faces" / "masks"
    programs.refused(render(world, tmp_path, masks), masks)
    labels = face(0, 32)
    labels[0] = 200
    write_png(masks / "7.png", labels)
    programs.refused(render(world, tmp_path, masks), "7.png", "200")
    write_png(masks / "7.png", face(0, 32))
    shutil.copy(world / "faces" / "CelebAMask-HQ-pose-anno.txt", masks.parent)
    programs.refused(render(world, tmp_path, masks, use_original_pose=True), "no pose of 7.png")


def test_a_mask_of_one_label_is_drawn(world, tmp_path):
    write_png(tmp_path / "blank.png", np.zeros((20, 20), np.uint8))
    assert render(world, tmp_path, tmp_path / "blank.png").code == 0


def test_small_files_of_a_model(world, tmp_path):
    """Half the numbers' size, no constants, the same model; the authors' container is for the published size."""
    source, target = world / "faces_9.safetensors", tmp_path / "again.safetensors"
    done = programs.run(tmp_path / "elsewhere", "scripts/convert.py", "sem2nerf", source, target, "--half")
    assert done.code == 0, done.err
    before, after = load(source), load(target)
    assert before.config == after.config and all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    assert target.stat().st_size < source.stat().st_size
    programs.refused(programs.run(tmp_path, "scripts/convert.py", "sem2nerf", source, tmp_path / "a.pth"), "a.pth", "published sizes")
