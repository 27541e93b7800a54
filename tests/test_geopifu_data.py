"""From scans to training items: renders, query points and items in the release's layout; sharding, resuming, replaying, and bad input."""
from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.images import read_picture, write_png
from geopifu import backgrounds, prepare_queries, render_data, scans, voxels
from geopifu.data import Frames, prepared
from geopifu.geometry import BOX, GRID, VOXEL, canonicalise, to_view
from geopifu.layout import find_picture, read_mask, shard, split_frames
from geopifu.model import ModelConfig
from geopifu.options import DataConfig
from geopifu.queries import Solid, query_paths, read_queries
from geopifu.sampling import project, sample_picture
from tests.geopifu_scans import ball, sphere, write_scans
from tests.programs import refused, run, start, wait_for

SMALL = {"resolutionScale": 1, "eachMeshWithBgNum": 1}


def render(out: Path, folder: Path, **options) -> Path:
    render_data.main(render_data.RenderConfig(meshDirSearch=str(folder), saveDir=str(out), **(SMALL | options)))
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def items_of(folder: Path) -> dict[str, bytes]:
    """All but the settings, which name the command line."""
    return {name: data for name, data in contents(folder).items() if not name.startswith("config")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans"), (0, 1, 9))


@pytest.fixture(scope="module")
def rendered(folder, tmp_path_factory) -> Path:
    return render(tmp_path_factory.mktemp("rendered"), folder, items=["all"])


@dataclass
class FrameConfig(ModelConfig, DataConfig):
    """What the training program gives."""


def frame_config(rendered: Path, folder: Path, **options) -> FrameConfig:
    return FrameConfig(datasetDir=str(rendered), meshDirSearch=str(folder), **({"loadSize": 128, "num_sample_inout": 400} | options))


# The rendered data set

def test_every_item_of_every_frame(rendered):
    for frame in range(12):
        assert find_picture(rendered, "rgbImage", frame).suffix == ".jpg" and read_picture(find_picture(rendered, "rgbImage", frame)).shape == (384, 256, 3)
        mask = read_mask(rendered, frame)
        assert mask.shape == (384, 256) and 0.02 < mask.mean() < 0.6
        solid = np.load(rendered / f"meshVoxels/{frame:06d}.npy")
        assert solid.shape == GRID and solid.dtype == bool
        outline = read_picture(find_picture(rendered, "maskFromVoxels", frame)) > 0
        assert np.array_equal(outline, solid.max(2).T)
        coarse = mask.reshape(192, 2, 128, 2).max((1, 3)) > 0
        assert (coarse & outline).sum() / (coarse | outline).sum() > 0.9        # photo, mask and voxels show the same body
        joints = np.load(rendered / f"skeleton2D/{frame:06d}.npy")
        assert joints.shape == (24, 2) and mask[joints[:, 1].astype(int), joints[:, 0].astype(int)].all()
        depth = np.loadtxt(rendered / f"skeleton3D/{frame:06d}.obj", usecols=(1, 2, 3))
        np.testing.assert_allclose(joints, 384 * depth[:, :2] + (128, 192))
        iuv, semantic = read_picture(find_picture(rendered, "smplIUV", frame)), np.load(rendered / f"smplSemVoxels/{frame:06d}.npy")
        assert set(np.unique(iuv[..., 2])) <= set(range(25)) and iuv[..., 2].max() > 0 and not iuv[mask == 0].any()
        assert semantic.shape == (*GRID, 3) and not semantic[~solid].any() and semantic[solid].any()
        for item in ("meshSem", "smplSem"):
            for more in ("", "_KeepRatio"):
                picture = read_picture(find_picture(rendered, item, frame, more))
                assert (picture[mask == 0] == 255).all() and (picture[mask > 0] != 255).any()


def test_frames_of_a_group_share_their_settings(rendered):
    settings = [json.loads((rendered / f"config/{frame:06d}.json").read_text()) for frame in range(12)]
    for frame, one in enumerate(settings):
        assert one == settings[frame - frame % 4] and one["dataPrefix"] == frame - frame % 4
        assert set(one) == {"args", "meshPath", "bgImgPath", "dataPrefix", "skyLightRotDegrees", "randomRot"}
    assert settings[0]["randomRot"] != settings[4]["randomRot"]


def test_shards_and_kills_change_nothing(folder, rendered, tmp_path):
    """Chunks in any order, a group half written, and one already there: the same bytes; a whole one is left alone."""
    for k in (1, 0):
        render(tmp_path / "out", folder, items=["all"], splitNum=2, splitIdx=k)
    assert items_of(tmp_path / "out") == items_of(rendered)
    lost = [tmp_path / "out/maskImage/000006.png", tmp_path / "out/meshVoxels/000005.npy", tmp_path / "out/config/000007.json"]
    for path in lost:
        path.unlink()
    before = (tmp_path / "out/maskImage/000001.png").stat().st_mtime_ns
    render(tmp_path / "out", folder, items=["all"], splitNum=2, splitIdx=0)
    assert items_of(tmp_path / "out") == items_of(rendered) and lost[2].is_file()
    assert (tmp_path / "out/maskImage/000001.png").stat().st_mtime_ns == before


def test_a_real_kill_changes_nothing(folder, rendered, tmp_path):
    """SIGKILL in the middle of a group: started again, the program ends with the same bytes, and no temporary file counts."""
    arguments = ("geopifu/render_data.py", "--meshDirSearch", folder, "--saveDir", tmp_path / "out", "--items", "all",
                 "--resolutionScale", 1, "--eachMeshWithBgNum", 1)
    program = start(tmp_path / "first", *arguments)
    wait_for(lambda: (tmp_path / "out/maskImage/000005.png").is_file())
    os.kill(program.process.pid, signal.SIGKILL)
    assert program.wait().code == -signal.SIGKILL and not (tmp_path / "out/config/000011.json").is_file()
    done = start(tmp_path / "second", *arguments).wait()
    assert done.code == 0 and "12 frames" in done.out, done.err
    made = items_of(tmp_path / "out")
    assert {name: made.get(name) for name in items_of(rendered)} == items_of(rendered)


def test_command_lines_of_the_release(folder, rendered, tmp_path):
    """Its flags are taken; a mistyped one, a missing folder and an item that is none are one line."""
    line = ["geopifu/render_data.py", "--meshDirSearch", folder, "--saveDir", tmp_path / "out", "--resolutionScale", 1, "--splitNum", 30, "--splitIdx", 29]
    assert run(tmp_path / "a", *line, "--bgDirSearch", "").code == 0
    query = ["geopifu/prepare_queries.py", "--sampleType", "occu_sigma3.5_pts5k", "--datasetDir", rendered, "--meshDirSearch", folder, "--epoch_range", 0, 15,
             "--sigma", 3.5, "--num_sample_inout", 5000, "--num_sample_color", 0, "--splitNum", 32]
    assert run(tmp_path / "b", *query, "--splitIdx", 31).code == 0
    refused(run(tmp_path / "c", *query, "--splitIdx", 32), "--splitIdx 32", "31")
    refused(run(tmp_path / "d", *line, "--itms", "rgbImage"), "--itms", "--items")
    refused(run(tmp_path / "e", *line[:1], "--meshDirSearch", "nowhere"), "nowhere", "make_people")
    refused(run(tmp_path / "f", *query[:-2], "--epoch_range", 3, 3), "--epoch_range 3 3")


def test_recorded_settings_are_replayed(folder, rendered, tmp_path):
    """From configs with foreign absolute paths, elsewhere, as JPEG: the same pictures but for JPEG's noise; added items alone with addionalType."""
    (tmp_path / "config").mkdir()
    for frame in range(4, 8):
        settings = json.loads((rendered / f"config/{frame:06d}.json").read_text())
        settings["meshPath"] = "/data/of/the/authors" + settings["meshPath"].split("DeepHumanDataset")[1]
        (tmp_path / f"config/{frame:06d}.json").write_text(json.dumps(settings))
    render(tmp_path, folder, useConfig=True, published=True, items=["rgbImage", "maskImage"])
    for frame in range(4, 8):
        assert np.array_equal(read_mask(tmp_path, frame), read_mask(rendered, frame)) and (tmp_path / f"maskImage/{frame:06d}.jpg").is_file()
        assert (tmp_path / f"rgbImage/{frame:06d}.jpg").read_bytes() == (rendered / f"rgbImage/{frame:06d}.jpg").read_bytes()
    render(tmp_path, folder, useConfig=True, addionalType=["smplSemVoxels"])
    assert (tmp_path / "smplSemVoxels/000004.npy").read_bytes() == (rendered / "smplSemVoxels/000004.npy").read_bytes()
    assert not (tmp_path / "normalRGB").exists()


def test_backgrounds(tmp_path):
    """LSUN's scenes one each without repetition; a folder of photos; colours. Resized to a square of the height, its middle columns."""
    for scene in backgrounds.SCENES:
        write_png(tmp_path / f"LSUN/train_jpg/{scene}/a.png", np.full((8, 8, 3), 7, np.uint8))
        (tmp_path / f"LSUN/train_jpg/{scene}/a.png").rename(tmp_path / f"LSUN/train_jpg/{scene}/a.jpg")
    pool = backgrounds.find(str(tmp_path))
    names = backgrounds.draw(np.random.default_rng(0), pool, 4)
    assert len(pool) == 10 and len({Path(name).parent.name for name in names}) == 4
    ramp = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    write_png(tmp_path / "photos/x.png", ramp)
    picture = backgrounds.read("/elsewhere/photos/x.png", str(tmp_path), 60, 40)
    assert picture.shape == (60, 40, 3)
    np.testing.assert_allclose(picture[0, :, 0], (np.arange(10, 50) + 0.5) / 60, atol=0.02)
    graded = backgrounds.read("colors:0,0,0,255,255,255,90", "", 20, 10)
    assert (np.diff(graded[:, 0, 0]) > 0).all() and np.ptp(graded[5]) < 1e-9
    for name in ("colors:1,2", "missing.jpg"):
        with pytest.raises(InputError, match=name[:6]):
            backgrounds.read(name, str(tmp_path), 20, 10)
    with pytest.raises(InputError, match="no photos"):
        backgrounds.find(str(tmp_path / "nothing"))


# Queries

def test_queries_are_balanced_and_right():
    solid = Solid(*sphere(0.3))
    inner, outer = solid.queries(np.random.default_rng(0), 1000, 3.5)
    assert len(inner) == 500 and len(outer) == 500
    sagitta = 1e-3
    assert (np.linalg.norm(inner, axis=1) < 0.3 + sagitta).all() and (np.linalg.norm(outer, axis=1) > 0.3 - sagitta).all()
    every = np.concatenate([inner, outer])
    spread = np.abs(np.linalg.norm(every, axis=1) - 0.3)
    assert 0.6 < np.median(spread) / (0.6745 * 3.5 * VOXEL) < 1.5 and (spread > 0.1).mean() > 0.01            # near the surface, some anywhere
    thin, _ = Solid(np.asarray(sphere(0.3)[0]) * (1, 1, 0.004), sphere(0.3)[1]).queries(np.random.default_rng(0), 1000, 3.5)
    assert len(thin) < 500                                                       # fewer inside: more outside


@pytest.mark.parametrize("kind", prepare_queries.FORMATS)
def test_query_files(folder, rendered, tmp_path, kind):
    """Both formats through the reader, the same however the work is split; test people get none."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "config").symlink_to(rendered / "config")
    options = {"datasetDir": str(data), "meshDirSearch": str(folder), "format": kind, "epoch_range": [0, 2], "num_sample_inout": 100}
    prepare_queries.main(prepare_queries.QueryConfig(**options))
    whole = contents(data / "occu_sigma3.5_pts5k")
    for k in range(2):
        prepare_queries.main(prepare_queries.QueryConfig(**options, sampleType="parts", splitNum=2, splitIdx=k))
    assert contents(data / "parts") == whole
    inner, outer = read_queries(data / "parts", 5, 1, 100)
    assert inner.shape == outer.shape == (50, 3) and not np.array_equal(inner, read_queries(data / "parts", 5, 0, 100)[0])
    assert np.array_equal(inner, read_queries(data / "parts", 6, 1, 100)[0]) == (kind == "packed")         # a group shares its points, or not
    if kind == "published":
        stored = np.load(query_paths(data / "parts", 5, 1)[0])
        assert stored.dtype == np.float64 and len(whole) == 8 * 2 * 2
    with pytest.raises(InputError, match="missing"):
        read_queries(data / "parts", 8, 0, 100)                                  # person 9 is test
    with pytest.raises(InputError, match=r"epoch 7|missing"):
        read_queries(data / "parts", 5, 7, 100)
    with pytest.raises(InputError, match="fewer than"):
        read_queries(data / "parts", 5, 0, 101)
    victim = next(iter(sorted((data / "parts").iterdir())))
    victim.write_bytes(victim.read_bytes()[:90])
    with pytest.raises(InputError, match=f"{victim.name}: broken"):
        read_queries(data / "parts", 0, 0, 100)


# Items

def test_items_agree_with_one_another(folder, rendered):
    """In every view, inside points project onto the mask and fall into filled voxels; shapes as networks take them."""
    config = frame_config(rendered, folder, num_views=4)
    frames = Frames(config, "test")
    assert frames.names == ["000008", "000009", "000010", "000011"] and len(Frames(config, "all")) == 12
    solids = Frames(config, "test", voxels=True)
    for i in range(4):
        item = frames.item(i, 0)
        assert item["name"] == "results_00009_F+0" and item["img"].shape == (4, 3, 128, 128) and item["samples"].shape == (3, 400)
        inner = item["samples"][:, item["labels"][0] > 0.5]
        for v in range(4):
            at = project(inner[None], item["calib"][v:v + 1])
            assert sample_picture(item["mask"][v][None], at[:, :2], False).mean() > 0.97
        index = np.floor((to_view(inner.T.numpy(), i) - BOX[0]) / VOXEL).astype(int)
        volume = solids.item(i, 0)["meshVoxels"]
        assert volume.shape == (1, *reversed(GRID)) and volume[0][index[:, 2], index[:, 1], index[:, 0]].all()
        assert (item["img"] * (1 - item["mask"]) == 0).all() and item["img"].min() >= -1 and item["img"].max() <= 1
    first, turned = frames.item(0, 0), frames.item(1, 0)
    torch.testing.assert_close(first["samples"], turned["samples"])              # a group shares its points
    torch.testing.assert_close(first["img"][1], turned["img"][0])
    assert not torch.equal(first["samples"], frames.item(0, 1)["samples"])


def test_pictures_are_squared_resized_and_masked():
    picture = np.full((96, 64, 3), 255, np.uint8)
    mask = np.zeros((96, 64), np.uint8)
    mask[:48] = 1
    img, kept = prepared(picture, mask, 48)
    assert img.shape == (3, 48, 48) and kept.shape == (1, 48, 48)
    assert (kept[0, :24, 8:40] == 1).all() and not kept[0, 24:].any() and not kept[0, :, :8].any()
    assert (img[:, :24, 9:39] == 1).all() and not img[:, 24:].any()
    wide, _ = prepared(picture.swapaxes(0, 1), mask.T, 96)
    assert wide.shape == (3, 96, 96)


def test_latent_voxels_are_read_turned(folder, rendered, tmp_path):
    latents = np.random.default_rng(0).uniform(size=(8, 4, 6, 5)).astype(np.float32)
    for frame in range(12):
        np.save(tmp_path / f"{frame:06d}_deepVoxels.npy", latents)
    item = Frames(frame_config(rendered, folder, deepVoxelsDir=str(tmp_path)), "test").item(0, 0)
    np.testing.assert_array_equal(item["deepVoxels"].numpy(), latents.transpose(0, 3, 2, 1))


def test_splits(rendered, tmp_path):
    assert split_frames(rendered, 0.8, 12) == {"train": list(range(8)), "test": [8, 9, 10, 11]}        # by person
    (tmp_path / "config").mkdir()
    for frame in range(20):
        settings = {"meshPath": "/a/results_gyx_20181011_F/7/mesh.obj", "dataPrefix": 0, "skyLightRotDegrees": [None, 50, 180], "randomRot": np.eye(3).tolist()}
        (tmp_path / f"config/{frame:06d}.json").write_text(json.dumps(settings))
    assert split_frames(tmp_path, 0.8, 20) == {"train": list(range(16)), "test": [16, 17, 18, 19]}    # by number
    assert [list(shard(10, 4, k)) for k in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    with pytest.raises(InputError, match="splitIdx"):
        shard(10, 4, 4)


# What users bring

@pytest.mark.parametrize("words, change", [
    ("finite", lambda text: text.replace("v ", "v nan ", 1)),
    ("vertices and faces", lambda text: "# empty"),
    ("triangles", lambda text: text + "f 1 2 3 4\n"),
    ("names vertex", lambda text: text + "f 1 2 99999\n"),
    ("inwards", lambda text: "\n".join(" ".join([w[0], w[1], w[3], w[2]]) if (w := line.split())[0] == "f" else line for line in text.splitlines())),
    ("numbers", lambda text: text.replace("f ", "f x", 1))])
def test_bad_scans(folder, tmp_path, words, change):
    path = tmp_path / "mesh.obj"
    path.write_text(change(scans.find_scans(folder)[0].read_text()))
    with pytest.raises(InputError, match=words) as caught:
        scans.read_scan(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_obj_dialects(tmp_path):
    """Normals, slashes of all kinds, vertices without colour: the same mesh."""
    vertices, faces = sphere(1.0, 1)
    rows = "".join(f"v {x} {y} {z}" + (" 0.1 0.2 0.3" if k else "") + "\r\n" for k, (x, y, z) in enumerate(vertices))
    normals = "".join(f"vn {x} {y} {z}\n" for x, y, z in vertices)
    for form in ("{0}", "{0}//{0}", "{0}/7", "{0}/7/{0}"):
        path = tmp_path / "mesh.obj"
        path.write_text(rows + normals + "".join("f " + " ".join(form.format(k + 1) for k in face) + "\n" for face in faces))
        scan = scans.read_scan(path)
        np.testing.assert_allclose(scan.vertices, vertices)
        np.testing.assert_allclose(scan.normals, vertices)
        assert np.array_equal(scan.faces, faces) and scan.colors[0].tolist() == [0.5] * 3 and scan.colors[1].tolist() == [0.1, 0.2, 0.3]


def test_open_meshes_fill_nothing(tmp_path):
    vertices, faces = ball(0)
    with pytest.raises(InputError, match="here: encloses no voxel"):
        voxels.voxelise(canonicalise(vertices, np.eye(3))[0], faces[vertices[faces].mean(1)[:, 1] > 0.5], "here")


def test_what_is_missing_is_named(folder, rendered, tmp_path):
    with pytest.raises(InputError, match="results_"):
        scans.find_scans(tmp_path)
    with pytest.raises(InputError, match="basicModel_m"):
        render(tmp_path / "out", write_scans(tmp_path / "bare", body=False), items=["smplSem"])
    config = frame_config(rendered, tmp_path)
    with pytest.raises(InputError, match=r"mesh\.obj is missing"):
        Frames(config, "test").item(0, 0)
    with pytest.raises(InputError, match="prepare_queries"):
        Frames(config, "train").item(0, 0)
    with pytest.raises(InputError, match="totalNumFrame"):
        Frames(replace(config, totalNumFrame=108720), "train")
    with pytest.raises(InputError, match=r"000008_deepVoxels\.npy: missing"):
        Frames(replace(config, deepVoxelsDir=str(tmp_path), num_sample_inout=0), "test").item(0, 0)


def test_bad_frames(folder, rendered, tmp_path):
    """Settings without a key, a mask of another size, an empty one, cut-off voxels: one line naming the file or frame."""
    import shutil
    shutil.copytree(rendered, tmp_path / "data")
    frames = Frames(frame_config(tmp_path / "data", folder, num_sample_inout=0), "test")
    write_png(tmp_path / "data/maskImage/000008.png", np.full((10, 10), 255, np.uint8))
    write_png(tmp_path / "data/maskImage/000009.png", np.zeros((384, 256), np.uint8))
    (tmp_path / "data/config/000010.json").write_text('{"meshPath": 3}')
    for i, words in enumerate(("frame 8: the photo is", "frame 9: the mask is empty", "000010.json: broken")):
        with pytest.raises(InputError, match=words):
            frames.item(i, 0)
    stored = tmp_path / "data/meshVoxels/000011.npy"
    stored.write_bytes(stored.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"000011\.npy: broken"):
        Frames(frame_config(tmp_path / "data", folder), "test", voxels=True).item(3, 0)

