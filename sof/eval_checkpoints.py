"""The mean IoU of every checkpoint of a run (SofGAN's Fig. 9): python sof/eval_checkpoints.py --checkpoint log/face_seg_single_view

A run keeps its last checkpoints alone: train with --keep_ckpts 1000 --steps_til_ckpt 1000, say. A run that learns cameras (--opt_cam) is looked at from them.
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import checkpoint
from common.config import from_dict, option, run_program
from common.errors import InputError
from common.files import replacing
from common.images import write_png
from common.labels import colorize
from common.metrics import confusion_matrix, mean_iou
from common.ranks import device_of
from common.report import curve_plot
from common.video import write_video
from sof import data, model
from sof.data import Views
from sof.eval import run_folder
from sof.metrics import notebook_miou
from sof.predict import as_learned, predict_labels
from sof.train import TrainConfig, load_views

FPS = 5.0                                                       # of the film of a checkpoint's heads, as published


@dataclass
class CheckpointsConfig:
    """Options of sof/eval_checkpoints.py; what is empty is as the run was trained."""

    checkpoint: str = option(..., "run folder")
    data_root: str | None = option(None, "folder with one folder per head, or flat folder of label maps")
    sample_instances_train: str | None = option(None, "heads: a-c (inclusive) or a,b,c")
    sample_observations_train: str | None = option(None, "views of each head")
    img_sidelength: int | None = option(None, "side of the label maps, in pixels", low=1)
    maps: bool = option(False, "also write every label map: gt_segs/, ckpt_000100/ and films of them, vis/000100.gif")
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER")
    out: str | None = option(None, "folder for miou.json and miou.png; empty: checkpoints_eval/ in the run folder")


def main(config: CheckpointsConfig) -> None:
    """Measure every checkpoint on the views it was trained on, and plot the curve."""
    folder = Path(config.out) if config.out else run_folder(config.checkpoint) / "checkpoints_eval"
    figures, views = [], None
    for path in checkpoints_of(config.checkpoint):
        sof, options = model.load(path, device_of(config.device))
        if views is None:
            views = views_of(config, sof, options)
        predicted, step = predict_labels(sof, as_learned(sof, views)), int(path.stem.removeprefix("step_"))
        figures.append({"step": step, **measure(predicted, views, sof.config.out_channels)})
        print("  ".join(f"{name} {value:.3f}" if name != "step" else f"step {value:6d}" for name, value in figures[-1].items()))
        if config.maps:
            write_maps(folder, step, predicted, views)
    with replacing(folder / "miou.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
    steps = [line["step"] for line in figures]
    curve_plot(folder / "miou.png", {name: (steps, [line[name] for line in figures]) for name in ("mIoU", "mean over heads", "notebook")}, "step", "mIoU")
    print(f"{len(figures)} checkpoints, {len(views)} views; {folder / 'miou.json'}, {folder / 'miou.png'}")


def checkpoints_of(run: str) -> list[Path]:
    """The checkpoints of a run folder, first to last. Raises InputError if there is none."""
    found = checkpoint.numbered(Path(run) / "checkpoints")[::-1]
    if not found:
        raise InputError(f"{run}: no run folder with checkpoints/step_00001000.pt ...")
    return found


def views_of(config: CheckpointsConfig, sof: model.SOF, options: dict) -> Views:
    """The views that the run was trained on, or those asked for instead."""
    names = ("data_root", "sample_instances_train", "sample_observations_train", "img_sidelength")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    trained = from_dict(TrainConfig, {**options, **vars(sof.config), **given, "published_pairing": False, "geo_weight": -1.0}, config.checkpoint)
    return load_views(trained, trained.sample_instances_train, trained.sample_observations_train, data.find_indexing(config.checkpoint))


def measure(predicted: Tensor, views: Views, classes: int) -> dict[str, float]:
    """mIoU over one confusion matrix of all views, the mean of that of each head, and the notebooks' figure, in which an absent class counts 1."""
    heads = [mean_iou(confusion_matrix(predicted[rows], views.labels[rows], classes)) for rows in map(views.instances.eq, views.instances.unique())]
    return {"mIoU": mean_iou(confusion_matrix(predicted, views.labels, classes)), "mean over heads": sum(heads) / len(heads),
            "notebook": float(notebook_miou(predicted, views.labels, classes).mean())}


def write_maps(folder: Path, step: int, predicted: Tensor, views: Views) -> None:
    """The true and predicted label maps of every view, and a film of the latter."""
    maps = torch.stack([views.labels, predicted]).unflatten(2, (views.side, views.side)).numpy()
    for k, (file, instance) in enumerate(zip(views.files, views.instances.tolist())):
        name = f"{k:03d}_{views.names[instance]}_{file.stem}.png"
        write_png(folder / "gt_segs" / name, maps[0, k])
        write_png(folder / f"ckpt_{step:06d}" / name, maps[1, k])
    write_video(folder / "vis" / f"{step:06d}.gif", colorize(maps[1]), FPS, dither=False)


if __name__ == "__main__":
    run_program(main, CheckpointsConfig, __doc__)
