"""Training of PIFu, V-net and Geo-PIFu, in the small: it learns, goes on where it stopped, and refuses what cannot be."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoint
from common.config import parse
from common.errors import InputError
from common.run import Step
from geopifu import published, train
from geopifu.export_latents import ExportConfig, export
from geopifu.model import GeoPIFu
from geopifu.train import Feed, TrainConfig, checked, ends_epoch, fit, initial_model, learning_rate
from tests import programs
from tests.geopifu_frames import TINY, Ellipsoids

EARLY = {"deepVoxels_fusion": "early", "deepVoxels_c_len": 56, "multiRanges_deepVoxels": True}
STAGES = {"pifu": {}, "coarse": {}, "query": {**EARLY, "deepVoxelsDir": "on disk"}}


def config(root: Path, stage: str, name: str = "run", **options) -> TrainConfig:
    return checked(TrainConfig(**{**TINY, **STAGES[stage], "stage": stage, "logging_root": str(root), "name": name, "max_steps": 4, "pictures_every": 0,
                                  "no_num_eval": True, "no_gen_mesh": True, **options}))


def trained(settings: TrainConfig, count: int = 8) -> dict:
    """The last checkpoint of a run on `count` frames."""
    fit(settings, Ellipsoids(settings, 0, count), Ellipsoids(settings, 40, 4))
    return checkpoint.load(checkpoint.newest(Path(settings.logging_root) / settings.name / "checkpoints"))


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_the_learning_rate_falls_after_the_epochs_of_the_schedule(tmp_path):
    settings = config(tmp_path, "pifu", schedule=[8, 23, 40])
    rates = [learning_rate(settings, epoch) for epoch in range(45)]
    assert np.allclose(rates, [1e-3] * 9 + [1e-4] * 15 + [1e-5] * 17 + [1e-6] * 4)


def test_epochs_end_as_often_as_they_should():
    steps = [Step(k, 3 * k, 3, 0, 1) for k in range(20)]
    assert [step.number for step in steps if ends_epoch(step, 10)] == [3, 6, 9, 13, 16, 19]


def test_batches_are_the_frames_of_the_stream_each_with_its_epochs_points(tmp_path):
    frames = Ellipsoids(config(tmp_path, "pifu"), 0, 6)
    feed, step = Feed(frames, 2), Step(1, 4, 4, 0, 1)
    batch = feed.batch(step, slice(1, 4), torch.device("cpu"))
    rows = step.indices(6).tolist()
    for k, epoch in ((1, 0), (2, 1), (3, 1)):
        item = frames.item(rows[k], epoch)
        assert all(torch.equal(batch[name][k - 1], item[name]) for name in item)
    assert len(feed.reading) == 3                             # the next step's
    frames.item = lambda i, epoch: (_ for _ in ()).throw(InputError("frame 3: broken"))
    with pytest.raises(InputError, match="frame 3: broken"):
        Feed(frames, 2).batch(step, slice(0, 2), torch.device("cpu"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_stopped_ends_as_one_that_did_not(tmp_path, stage):
    whole = trained(config(tmp_path, stage, "whole"))
    trained(config(tmp_path, stage, "broken", max_steps=2))
    resumed = trained(config(tmp_path, stage, "broken"))
    assert whole["step"] == resumed["step"] == 4 and same(whole["state"], resumed["state"])


def gradients(run: Path) -> list[torch.Tensor]:
    """The gradients of a run's only step, up to their signs, as RMSprop keeps them."""
    moments = checkpoint.load(checkpoint.newest(run / "checkpoints"))["state"]["optimizer"]["state"]
    return [moments[key]["square_avg"].sqrt() for key in sorted(moments)]


def alike(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) > 20 and all((x - y).abs().max() <= 1e-3 * x.abs().max() + 1e-7 for x, y in zip(a, b))


@pytest.mark.parametrize("fusion", ["none", "late", "multiLoss"])
def test_parts_of_a_batch_change_no_gradient(tmp_path, fusion):
    more = {"late": {**EARLY, "deepVoxels_fusion": "late", "deepVoxels_c_len_intoLateFusion": 56, "deepVoxels_c_len": 9},
            "multiLoss": {**EARLY, "deepVoxels_fusion": "multiLoss"}}.get(fusion, {})
    for name, parts in (("one", 1), ("parts", 2)):
        trained(config(tmp_path, "query" if more else "pifu", name, max_steps=1, accumulate=parts, **more))
    assert alike(gradients(tmp_path / "one"), gradients(tmp_path / "parts"))


def test_two_ranks_are_one(tmp_path):
    options = {**TINY, "stage": "pifu", "logging_root": tmp_path, "max_steps": 1, "no_num_eval": True, "no_gen_mesh": True}
    flags = [f"--{name}={value}" for name, value in options.items() if not isinstance(value, list)] + ["--mlp_dim", "0", "32", "16", "1"]
    both = programs.ranks(tmp_path, 2, "tests/geopifu_frames.py", *flags, "--name=two")
    alone = programs.run(tmp_path / "alone", "tests/geopifu_frames.py", *flags, "--name=one")
    assert [rank.wait().code for rank in both] == [0, 0] and alone.code == 0, alone.err
    assert alike(gradients(tmp_path / "one"), gradients(tmp_path / "two"))


def test_it_learns_and_says_how_well(tmp_path, capsys):
    settings = config(tmp_path, "pifu", max_steps=0, num_epoch=20, schedule=[14], learning_rate=5e-3, occupancy_loss_type="ce", no_num_eval=False,
                      no_gen_mesh=False, log_every=1, pictures_every=96)
    trained(settings, 24)
    printed = [line for line in capsys.readouterr().out.splitlines() if "eval" in line]
    assert len(printed) == 40 and printed[-2].startswith("Epoch-19 | eval  test CE: ") and printed[-1].startswith("Epoch-19 | eval train CE: ")
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len([record for record in records if "occupancy" in record]) == 120
    last = [record["test/IOU"] for record in records if "test/IOU" in record][-1]
    assert last > 0.4 and f"IOU: {last:06f}" in printed[-2]
    assert list((tmp_path / "run" / "meshes").glob("test_epoch019_*.obj")) and list((tmp_path / "run" / "pictures").glob("*.png"))


def test_the_stages_follow_one_another(tmp_path):
    """A V-net is trained, its voxels written; a query run learns the same from them as from the V-net itself, and its checkpoint holds both."""
    coarse = config(tmp_path, "coarse", "coarse", max_steps=2, no_num_eval=False, pictures_every=4)
    trained(coarse)
    frames = Ellipsoids(replace(coarse, deepVoxelsDir=""), 0, 8)
    to_disk = ExportConfig(load_netV_checkpoint_path=str(tmp_path / "coarse"), resultsDir=str(tmp_path / "voxels"), loadSize=48, batch_size=3)
    model, _ = published.load(to_disk.load_netV_checkpoint_path)
    for split in (0, 1):
        export(model, frames, replace(to_disk, splitNum=2, splitIdx=split))
    files = sorted((tmp_path / "voxels").glob("*"))
    assert [file.name for file in files] == [f"{i:06d}_deepVoxels.npy" for i in range(8)]
    stored = [torch.from_numpy(np.load(file)).permute(0, 3, 2, 1) for file in files]
    assert stored[0].shape == (8, 8, 12, 8) and torch.allclose(stored[0], model.latents(frames.item(0, 0)["img"])[0], atol=1e-5)
    train.write_mesh(GeoPIFu(coarse, ("netV",)).eval(), frames, 0, coarse, tmp_path / "a coarse one.obj")
    export(GeoPIFu(coarse, ("netV",)).eval(), frames, replace(to_disk, dataType="test", resultsDir=str(tmp_path / "meshes")))
    assert len(list((tmp_path / "meshes").glob("*_meshCoarse.obj"))) == 8
    assert (tmp_path / "a coarse one.obj").stat().st_size and list((tmp_path / "coarse" / "pictures").glob("*.png"))
    files[3].unlink()
    export(model, frames, replace(to_disk, half=True))        # only what is missing
    assert np.load(files[3]).dtype == np.float16 and np.load(files[2]).dtype == np.float32

    class FromDisk(Ellipsoids):
        def item(self, i, epoch):
            return super().item(i, epoch) | {"deepVoxels": stored[i]}

    by_netV = config(tmp_path, "query", "by netV", deepVoxelsDir="", load_netV_checkpoint_path=str(tmp_path / "coarse"), max_steps=2)
    from_disk = config(tmp_path, "query", "from disk", max_steps=2)
    both = trained(by_netV)["state"]["model"]
    fit(from_disk, FromDisk(from_disk, 0, 8), None)
    loaded, _ = published.load(tmp_path / "from disk", tmp_path / "coarse")
    assert all(torch.allclose(value, both[key], atol=1e-4) for key, value in loaded.state_dict().items())
    assert published.load(tmp_path / "by netV")[0].netV is not None


@pytest.mark.parametrize(("stage", "options", "words"), [
    ("pifu", EARLY, "--deepVoxels_fusion early: --stage pifu has no voxels"),
    ("query", {"deepVoxels_fusion": None}, "--stage query: needs --deepVoxels_fusion"),
    ("query", {"deepVoxelsDir": ""}, "needs a V-net")], ids=str)
def test_options_that_exclude_each_other_are_refused(tmp_path, stage, options, words):
    with pytest.raises(InputError, match=words):
        config(tmp_path, stage, **options)


def test_files_of_the_wrong_stage_are_refused(tmp_path):
    trained(config(tmp_path, "coarse", "coarse", max_steps=1))
    with pytest.raises(InputError, match="coarse: holds no netG"):
        initial_model(config(tmp_path, "pifu", load_netG_checkpoint_path=str(tmp_path / "coarse")))
    with pytest.raises(InputError, match="made with features 16, but this run with 32"):
        initial_model(config(tmp_path, "query", deepVoxelsDir="", load_netV_checkpoint_path=str(tmp_path / "coarse"), features=32))
    with pytest.raises(InputError, match="does not fit"):
        initial_model(config(tmp_path, "coarse", load_netV_checkpoint_path=str(tmp_path / "coarse"), features=32))


def test_published_is_every_repair_undone(tmp_path):
    assert all(getattr(config(tmp_path, "pifu", published=True), name) for name in train.REPAIRS)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("configs/geopifu/*.yml")), ids=lambda path: path.stem)
def test_the_settings_that_ship_are_taken(path):
    initial_model(replace(checked(parse(TrainConfig, ["-c", str(path), "--device", "cpu"])), load_netV_checkpoint_path="", features=16))
