"""A photo to a mesh: who is in it, how it is framed, what comes out; rendered frames; bad input; the Slurm scripts' command lines."""
from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from common import meshes as common_meshes
from common.checkpoint import export_safetensors
from common.config import parse
from common.errors import InputError
from common.images import encode_png, read_picture, write_png
from geopifu import eval as evaluation
from geopifu import export_latents, photos, prepare_queries, reconstruct, render_data, train
from geopifu.data import Frames, prepared
from geopifu.geometry import calibration
from geopifu.layout import read_mask, read_rgb
from geopifu.model import GeoPIFu, ModelConfig
from geopifu.sampling import project, sample_picture
from geopifu.scans import read_obj
from tests.geopifu_frames import TINY
from tests.geopifu_scans import ball, write_scans
from tests.programs import ROOT, refused, run

SIDE = 64
GRID = {"resolution_x": 43, "resolution_y": 64, "resolution_z": 43}


class Prism:
    """In place of networks: a field that is occupied where the photo shows somebody, within 0.1 of the middle."""

    def __init__(self):
        self.netG, self.config, self.side, self.weight = self, ModelConfig(loadSize=SIDE), SIDE, torch.zeros(1)

    def parameters(self):
        yield self.weight

    def scene(self, images, calibs=None, voxels=None):
        return SimpleNamespace(outline=(images[:, 0] != 0).any(1, keepdim=True).float(), calibs=torch.from_numpy(calibration(0))[None])

    def field(self, scene, points):
        calibrated = project(points.mT, scene.calibs)
        return torch.minimum(sample_picture(scene.outline, calibrated[:, :2])[:, 0], (0.7 - 2 * points[..., 2].abs()).clamp(0, 1))


def portrait(height: int = 300, width: int = 220, middle=(110, 150), radii=(40, 110)) -> tuple[np.ndarray, np.ndarray]:
    """An upright ellipse, its left half red and its right half blue, before a graded background, and its mask."""
    y, x = np.mgrid[:height, :width] + 0.5
    mask = ((x - middle[0]) / radii[0]) ** 2 + ((y - middle[1]) / radii[1]) ** 2 < 1
    photo = np.stack([60 + 60 * x / width, 150 + 0 * x, 90 + 40 * y / height], axis=-1)
    photo[mask] = np.where(x[mask, None] < middle[0], (230, 20, 30), (20, 30, 220))
    noise = np.random.default_rng(0).normal(0, 4, photo.shape)
    return (photo + noise).clip(0, 255).astype(np.uint8), mask


# Photos

def test_grabcut_finds_an_upright_person():
    photo, mask = portrait(600, 440, (200, 310), (80, 220))
    found = photos.find_person(photo, "grabcut")
    assert (found & mask).sum() / (found | mask).sum() > 0.95
    np.testing.assert_array_equal(found, photos.find_person(photo, "grabcut"))


def test_rembg_is_asked_where_it_is_installed(monkeypatch):
    """Its largest piece counts; where it fails or finds nobody, one line says so."""
    photo, mask = portrait()
    answer = 255 * mask.astype(np.uint8)
    answer[:9, :9] = 255
    rembg = SimpleNamespace(remove=lambda picture, only_mask: answer)
    monkeypatch.setitem(sys.modules, "rembg", rembg)
    np.testing.assert_array_equal(photos.find_person(photo, "rembg"), mask)
    answer[:] = 0
    with pytest.raises(InputError, match=r"me\.jpg: nobody found"):
        photos.find_person(photo, "rembg", "me.jpg")
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(InputError, match="--finder rembg: ModuleNotFoundError"):
        photos.find_person(photo, "rembg")


def test_a_photo_is_read_as_its_camera_was_held(tmp_path):
    """The tag says how stored pixels are to be turned: what comes out is the upright picture. A gray one has three channels; alpha is the mask."""
    photo, mask = portrait()
    for tag, turn in ((1, 0), (3, 2), (6, 1), (8, 3)):                          # stored pixels are the upright ones, turned the other way
        exif = Image.Exif()
        exif[0x0112] = tag
        Image.fromarray(np.rot90(photo, turn)).save(tmp_path / "photo.png", exif=exif)
        np.testing.assert_array_equal(photos.read_photo(tmp_path / "photo.png"), photo)
        np.testing.assert_array_equal(np.array(ImageOps.exif_transpose(Image.open(tmp_path / "photo.png"))), photo)
    write_png(tmp_path / "gray.png", photo[..., 0])
    np.testing.assert_array_equal(photos.read_photo(tmp_path / "gray.png"), photo[..., :1].repeat(3, -1))
    write_png(tmp_path / "cut.png", np.dstack([photo, 255 * mask.astype(np.uint8)]))
    cut = photos.read_photo(tmp_path / "cut.png")
    np.testing.assert_array_equal(photos.find_person(cut), mask)
    np.testing.assert_array_equal(photos.read_mask(tmp_path / "cut.png", mask.shape), mask)
    Image.fromarray(mask).save(tmp_path / "mask.png")                           # one bit a pixel
    np.testing.assert_array_equal(photos.read_mask(tmp_path / "mask.png", mask.shape), mask)


def test_the_window_is_the_box_with_its_margin():
    """Whatever reaches farthest takes 85 % of it: half a picture's height up and down, a third to the sides."""
    for radii, side in (((40, 110), 110 / 0.425), ((110, 60), 110 * 3 / 0.85)):
        top, left, found = photos.window(portrait(500, 500, (230, 260), radii)[1])
        assert abs(found - side) < 3 and abs(top + found / 2 - 260) < 1.5 and abs(left + found / 2 - 230) < 1.5


def test_the_frame_of_a_rendered_person_is_found_again(tmp_path):
    """The mean of its mask stands for the mean of its vertices: within a few percent of its height."""
    folder = write_scans(tmp_path, (0, 1), body=False)
    render_data.main(render_data.RenderConfig(meshDirSearch=str(folder), saveDir=str(tmp_path), resolutionScale=1, eachMeshWithBgNum=1, items=["maskImage"]))
    for frame in range(8):
        top, left, side = photos.window(read_mask(tmp_path, frame))
        assert abs(side / 384 - 1) < 0.1 and abs(top + side / 2 - 192) < 0.05 * 384 and abs(left + side / 2 - 128) < 0.05 * 384


def test_framing_does_not_depend_on_where_one_stands():
    """Moved, with more or less room around, or beyond the photo's border: the network sees the same; background is 0; a large photo is averaged."""
    seen = photos.framed(*portrait(), SIDE)
    photo, mask = portrait()
    moved = np.roll(photo, (17, -20), (0, 1)), np.roll(mask, (17, -20), (0, 1))
    torch.testing.assert_close(photos.framed(*moved, SIDE), seen)
    rows, columns = slice(35, 270), slice(60, 160)                              # less room than the frame's own
    torch.testing.assert_close(photos.framed(photo[rows, columns], mask[rows, columns], SIDE), seen)
    assert seen.shape == (3, SIDE, SIDE) and not seen[:, :2].any() and not seen[:, :, :15].any() and (seen[0] > 0.5).any()
    large = photos.framed(photo.repeat(4, 0).repeat(4, 1), mask.repeat(4, 0).repeat(4, 1), SIDE)
    assert (large - seen).abs().mean() < 0.02
    grain = np.random.default_rng(0).choice([0, 255], (1200, 880, 1)).astype(np.uint8).repeat(3, -1)
    inner = photos.framed(grain, portrait(1200, 880, (440, 600), (160, 440))[1], SIDE)[:, 24:40, 28:36]
    assert inner.abs().max() < 0.4                                              # black and white pixels, thousands of them


def test_as_is_a_rendered_frame_is_what_training_sees():
    photo, mask = portrait(192, 128, (64, 96), (20, 70))
    np.testing.assert_array_equal(photos.framed(photo, mask, SIDE, as_is=True), prepared(photo, mask.astype(np.uint8), SIDE)[0])


def test_colours_spread_to_the_nearest():
    seen = photos.framed(*portrait(), SIDE)
    spread, outside = photos.spread(seen), (seen == 0).all(0)
    assert torch.equal(spread[:, ~outside], seen[:, ~outside]) and not (spread == 0).all(0).any()
    inside = (~outside).nonzero().double()
    for row, column in ((3, 5), (60, 60), (32, 2)):
        distances = torch.cdist(torch.tensor([[row, column]]).double(), inside)[0]
        nearest = inside[distances < distances.min() + 1e-9].long()
        assert any(torch.equal(spread[:, row, column], seen[:, r, c]) for r, c in nearest)


# Meshes

def config(**options) -> reconstruct.ReconstructConfig:
    return reconstruct.ReconstructConfig(device="cpu", size=48, num_frames=3, **(GRID | options))


def test_a_photo_becomes_an_upright_coloured_mesh(tmp_path):
    """The prism of a red and blue ellipse: what it is made of, that it stands the right way round, and every file."""
    photo, mask = portrait()
    write_png(tmp_path / "me.png", photo)
    write_png(tmp_path / "mask.png", 255 * mask.astype(np.uint8))
    options = config(resultsDir=str(tmp_path / "out"), formats=["glb", "ply", "obj"])
    reconstruct.of_photo(options, Prism(), str(tmp_path / "me.png"), str(tmp_path / "mask.png"))
    for kind in options.formats:
        mesh = common_meshes.load(tmp_path / f"out/me.{kind}")
        size = np.ptp(mesh.vertices, axis=0)
        assert size == pytest.approx([80 / 220, 1, 0.2 / 0.85], abs=0.03) and common_meshes.volume(mesh) > 0
        left, right = mesh.vertices[:, 0] < -0.05, mesh.vertices[:, 0] > 0.05
        assert (mesh.colors[left, 0] > 150).all() and (mesh.colors[right, 2] > 150).all()          # the very rim too
    assert read_picture(tmp_path / "out/me.png").shape == (48, 5 * 50 - 2, 3) and (tmp_path / "out/me.mp4").stat().st_size > 500


def test_dense_gives_the_same_mesh():
    seen = photos.framed(*portrait(), SIDE)
    sparse, dense = (reconstruct.person_mesh(config(dense=dense), Prism(), seen) for dense in (False, True))
    np.testing.assert_array_equal(sparse.vertices, dense.vertices)
    np.testing.assert_array_equal(sparse.faces, dense.faces)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans"), (0, 9), body=False)


@pytest.fixture(scope="module")
def rendered(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rendered")
    items = ["rgbImage", "maskImage"]
    render_data.main(render_data.RenderConfig(meshDirSearch=str(folder), saveDir=str(out), resolutionScale=1, eachMeshWithBgNum=1, items=items))
    return out


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Path:
    """A PIFu that calls occupied what is nearer than the middle: its surface is the plane z = 0."""
    return plane_model(tmp_path_factory.mktemp("model") / "plane.safetensors", 8.0)


def plane_model(path: Path, slope: float, **options) -> Path:
    sizes = {name: value for name, value in (TINY | options).items() if name in ModelConfig.__dataclass_fields__}
    model = GeoPIFu(ModelConfig(**sizes), ("netG",))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        layers = dict(model.netG.surface_classifier.named_children())
        layers[max(layers)].weight[0, -1] = slope                               # of the depth, the last input of the last layer
    export_safetensors(path, {"model": model.state_dict()}, {**asdict(model.config), "stage": "pifu"})
    return path


def of_frames(plane: Path, rendered: Path, results: Path, **options) -> None:
    reconstruct.main(config(checkpoint=[str(plane)], datasetDir=str(rendered), resultsDir=str(results), **options))


def test_frames_in_parts_are_those_of_one_run(plane, rendered, tmp_path, capsys):
    of_frames(plane, rendered, tmp_path / "whole")
    for part in (1, 0):
        of_frames(plane, rendered, tmp_path / "parts", splitNum=2, splitIdx=part)
    names = [f"{frame:06d}_meshRefined{suffix}" for frame in range(4, 8) for suffix in (".obj", ".png")]
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == names
    assert all((tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
    vertices, _, _ = read_obj(tmp_path / "whole/000006_meshRefined.obj")
    assert np.abs(vertices[:, 2]).max() < 1e-3
    seen, _ = prepared(read_rgb(rendered, "rgbImage", 6), read_mask(rendered, 6), 48)
    np.testing.assert_array_equal(read_picture(tmp_path / "whole/000006_meshRefined.png"), ((seen.transpose(1, 2, 0) * 0.5 + 0.5) * 255).astype(np.uint8))
    of_frames(plane, rendered, tmp_path / "whole")
    assert "4 meshes of 4 frames" in capsys.readouterr().out
    of_frames(plane, rendered, tmp_path / "some", give_idx=[5, 7], visual_demo_mesh=1)
    assert [path.name for path in sorted((tmp_path / "some").glob("*.obj"))] == ["000005_meshRefined.obj"]


def test_a_field_without_a_surface_is_said_and_passed_over(rendered, tmp_path, capsys):
    of_frames(plane_model(tmp_path / "flat.safetensors", 0.0), rendered, tmp_path / "out")
    out = capsys.readouterr().out
    assert "0 meshes of 4 frames" in out and "frame 4: no surface at level 0.5" in out


def test_further_views_are_seen_from_the_first(rendered, tmp_path):
    """The mesh comes out in the view of the first photo: its calibration is the front's, the next one's that of a step to the right."""
    options = reconstruct.frame_options(config(datasetDir=str(rendered), num_views=3), ModelConfig(loadSize=SIDE))
    for i in range(4):
        item = Frames(options, "test").item(i, 0)
        found = item["calib"] @ item["extrinsic"][0].T
        torch.testing.assert_close(found, torch.from_numpy(np.stack([calibration(view) for view in range(3)])))


def test_the_demo_makes_a_person(tmp_path, monkeypatch):
    """The body stands in as a ball here; tests/test_bodies.py has the real ones."""
    from common.people import bodies

    vertices, faces = ball(0)
    clothed = SimpleNamespace(vertices=vertices, faces=faces, colors=np.full_like(vertices, 0.5), body=vertices, joints=vertices[:24])
    monkeypatch.setattr(bodies, "clothed", lambda person, frame: clothed)
    monkeypatch.setattr(reconstruct, "opened", lambda config: Prism())
    reconstruct.main(config(quickDemo=True, resultsDir=str(tmp_path)))
    assert common_meshes.load(tmp_path / "000000.glb").faces.size and (tmp_path / "000000.mp4").is_file()


# What users get wrong

def test_wrong_photos_masks_and_checkpoints(plane, rendered, tmp_path):
    photo, mask = portrait()
    dot = np.eye(300, 220, dtype=np.uint8)[..., None] * photo
    files = {"photo.png": photo, "empty.png": 0 * photo, "full.png": 0 * photo + 255, "small.png": photo[:50], "dot.png": dot}
    for name, picture in files.items():
        write_png(tmp_path / name, picture)
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "half.png").write_bytes(encode_png(photo)[:4000])
    ask = lambda *args: run(tmp_path, "geopifu/reconstruct.py", *args, "--checkpoint", plane, "--device", "cpu")
    refused(ask("photo.png", "--mask", "empty.png"), "empty.png", "empty")
    refused(ask("photo.png", "--mask", "small.png"), "small.png", "220 x 50", "220 x 300")
    refused(ask("text.jpg"), "text.jpg", "broken")
    refused(run(tmp_path, "geopifu/reconstruct.py", "photo.png", "--checkpoint", "nowhere"), "nowhere", "no such checkpoint")
    for name, words in (("full.png", "white all over"), ("dot.png", "pixels large")):
        with pytest.raises(InputError, match=f"{name}.*{words}"):
            photos.read_mask(tmp_path / name, mask.shape)
    for name, words in (("missing.png", "No such file"), ("half.png", "broken"), (".", "directory")):
        with pytest.raises(InputError, match=words):
            photos.read_photo(tmp_path / name)
    with pytest.raises(InputError, match="--mask: 2 for 1 photos"):
        reconstruct.main(config(photos=["photo.png"], mask=["a", "b"], checkpoint=[str(plane)]))


def test_geopifu_without_its_v_net(rendered, tmp_path):
    """One line that says what to give; so does a checkpoint of something else, and latent voxels on disk will do."""
    path = plane_model(tmp_path / "query.safetensors", 8.0, deepVoxels_fusion="early")
    with pytest.raises(InputError, match=r"query\.safetensors: needs latent voxels; give the V-net too"):
        of_frames(path, rendered, tmp_path)
    for frame in range(4, 8):
        export_latents.write_latents(tmp_path / f"{frame:06d}_deepVoxels.npy", torch.zeros(8, 4, 6, 4))
    of_frames(path, rendered, tmp_path / "out", deepVoxelsDir=str(tmp_path))
    assert len(list((tmp_path / "out").glob("*.obj"))) == 4
    export_safetensors(tmp_path / "other.safetensors", {"model": {"weight": torch.zeros(3)}}, {"stage": "pifu"})
    with pytest.raises(InputError, match=r"other\.safetensors: no Geo-PIFu model"):
        of_frames(tmp_path / "other.safetensors", rendered, tmp_path)


# Slurm

PROGRAMS = {"render_data": render_data.RenderConfig, "prepare_queries": prepare_queries.QueryConfig, "train": train.TrainConfig,
            "export_latents": export_latents.ExportConfig, "reconstruct": reconstruct.ReconstructConfig, "eval": evaluation.EvalConfig}


@pytest.mark.parametrize("script", sorted((ROOT / "scripts/auto_bash").glob("geopifu_*.sh")), ids=lambda path: path.stem)
def test_slurm_scripts_give_their_programs_what_they_take(script, tmp_path):
    """Run with an interpreter that notes its command line: every option is one, an array's jobs are as many as the shares."""
    for name, lines in {".venv/bin/python": 'printf "%s\\n" "$@" > command', "bin/srun": 'shift; exec "$@"', "bin/scontrol": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "2", "DATA": "/data"}
    subprocess.run(["bash", script, "--device", "cpu"][:2 if "queries" in script.stem else 4], cwd=tmp_path, env=environment, check=True)
    words = (tmp_path / "command").read_text().splitlines()
    program = next(k for k, word in enumerate(words) if word.startswith("geopifu/"))
    text = script.read_text()
    given = parse(PROGRAMS[Path(words[program]).stem], [str(ROOT / word) if word.startswith("configs/") else word for word in words[program + 1:]])
    assert "/data/humanRender" in (given.saveDir if "render_data" in words[program] else given.datasetDir) and f"--job-name={script.stem}" in text
    if "#SBATCH --array" in text:
        assert f"--array=0-{given.splitNum - 1}\n" in text and given.splitIdx == 2
    else:
        assert "#SBATCH --signal=B:USR1@120" in text and "--nproc-per-node" in words and given.batch_size % 6 == 0
