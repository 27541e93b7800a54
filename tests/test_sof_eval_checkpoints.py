"""mIoU checkpoint by checkpoint: the last is that of sof/eval.py, and every figure follows from the label maps that are written."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from common.images import read_picture
from sof import data, eval_checkpoints
from tests import ellipsoids, programs


def test_every_checkpoint_is_measured(trained, tmp_path):
    run = ("--checkpoint", trained.folder, "--device", "cpu")
    done = programs.run(tmp_path, "sof/eval_checkpoints.py", *run, "--maps", "--out", "curve")
    assert done.code == 0 and not done.err, done
    lines = json.loads((tmp_path / "curve" / "miou.json").read_text())
    assert [line["step"] for line in lines] == [125, 250] and lines[0]["mIoU"] < lines[1]["mIoU"]
    truth = np.stack([read_picture(path) for path in sorted((tmp_path / "curve" / "gt_segs").iterdir())])
    views = data.load(trained.heads, ellipsoids.SIDE, observations="0-11")
    assert (truth.reshape(36, -1) == views.labels.numpy()).all()
    for line in lines:
        seen = np.stack([read_picture(path) for path in sorted((tmp_path / "curve" / f"ckpt_{line['step']:06d}").iterdir())])
        iou = lambda a, b: [((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum() for k in range(20) if (b == k).any()]
        assert line["mIoU"] == pytest.approx(np.mean(iou(seen, truth)))
        assert line["mean over heads"] == pytest.approx(np.mean([np.mean(iou(seen[h:h + 12], truth[h:h + 12])) for h in (0, 12, 24)]))
    assert programs.run(tmp_path, "sof/eval.py", *run, "--out", "eval").code == 0
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["miou_seen"] == pytest.approx(lines[-1]["mIoU"])
    assert {path.name for path in (tmp_path / "curve" / "vis").iterdir()} == {"000125.gif", "000250.gif"} and (tmp_path / "curve" / "miou.png").exists()
    programs.refused(programs.run(tmp_path, "sof/eval_checkpoints.py", "--checkpoint", tmp_path), "no run folder")


def test_perfect_label_maps_have_an_iou_of_one(heads):
    views = data.load(heads, ellipsoids.SIDE)
    assert eval_checkpoints.measure(views.labels, views, 20) == {"mIoU": 1.0, "mean over heads": 1.0, "notebook": 1.0}
    wrong = eval_checkpoints.measure(torch.where(views.labels == 18, 1, views.labels), views, 20)
    assert wrong["mIoU"] < 1 and wrong["notebook"] < 1 and wrong["mIoU"] < wrong["notebook"]      # twelve absent classes count 1 there
