"""Measure a trained SOF on views it was and was not trained on: python sof/eval.py --checkpoint log/people

One confusion matrix over all pixels of all views; the mean is over every class of the ground truth, background included.
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common import report
from common.config import from_dict, option, run_program
from common.errors import InputError
from common.files import replacing
from common.images import write_png
from common.labels import SOF_LABELS, TRAINING_PALETTE
from common.metrics import class_ious, confusion_matrix, mean_iou
from common.ranks import device_of
from sof import data, model
from sof.metrics import logged_miou
from sof.predict import as_learned, evenly, predict_labels, truth_above
from sof.prior import PriorOptions, looking
from sof.train import TrainConfig, load_views


@dataclass
class EvalConfig(PriorOptions):
    """Options of sof/eval.py; what is empty is as the run was trained."""

    checkpoint: str = option(..., "run folder, checkpoint of ours or author's file")
    data_root: str | None = option(None, "folder with one folder per head")
    sample_instances: str | None = option(None, "heads: a-c (inclusive) or a,b,c")
    sample_observations_train: str | None = option(None, "views of each head that it was trained on (seen)")
    sample_observations_val: str | None = option(None, "views of each head that it was not trained on (unseen)")
    img_sidelength: int | None = option(None, "side of the label maps, in pixels", low=1)
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER")
    out: str | None = option(None, "folder for metrics.json and the plots; empty: eval/ in the run folder")


def main(config: EvalConfig) -> None:
    """Print the table and write metrics.json and a plot for each set of views."""
    device = device_of(config.device)
    sof, options = model.load(config.checkpoint, device)
    trained = from_dict(TrainConfig, {**options, **vars(sof.config), **given(config), "published_pairing": False, "geo_weight": -1.0}, config.checkpoint)
    folder = Path(config.out) if config.out else run_folder(config.checkpoint) / "eval"
    sets = {"seen": trained.sample_observations_train, "unseen": trained.sample_observations_val}
    if not any(sets.values()):
        raise InputError("--sample_observations_val: which views of each head to measure on is unknown for this checkpoint")
    figures: dict = {"checkpoint": str(config.checkpoint)}
    for name, observations in sets.items():
        if observations:
            views = load_views(trained, config.sample_instances or trained.sample_instances_train, observations, data.find_indexing(config.checkpoint))
            views = as_learned(sof, views) if name == "seen" else views
            predicted = predict_labels(sof, views, look=lambda sof, scene: looking(config, sof, scene)[0])
            figures |= measure(predicted, views, name, sof.config.out_channels)
            some = evenly(len(views))
            write_png(folder / f"views_{name}.png", truth_above(predicted[some], views.pick(some)))
            ious = figures[f"iou_{name}"]
            report.bar_plot(folder / f"iou_{name}.png", ious, f"IoU, {name} views", TRAINING_PALETTE[[SOF_LABELS.index(label) for label in ious]])
    with replacing(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))
    print(f"{folder / 'metrics.json'}")


def given(config: EvalConfig) -> dict:
    """The options of training that the command line overrides."""
    names = ("data_root", "sample_observations_train", "sample_observations_val", "img_sidelength")
    return {name: getattr(config, name) for name in names if getattr(config, name) is not None}


def run_folder(checkpoint: str) -> Path:
    """The folder that a checkpoint's figures belong to: the run's, or the one that the file lies in."""
    path = Path(checkpoint)
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name == "checkpoints" else folder


def measure(predicted: Tensor, views: data.Views, name: str, classes: int) -> dict:
    """miou_NAME over one confusion matrix, iou_NAME {class: IoU} of the classes in the ground truth, the release's figure, and what it was measured on."""
    matrix = confusion_matrix(predicted, views.labels, classes)
    ious = class_ious(matrix)
    names = {k: SOF_LABELS[k] if k < len(SOF_LABELS) else str(k) for k in range(len(ious))}
    return {
        f"miou_{name}": mean_iou(matrix),
        f"iou_{name}": {names[k]: value for k, value in enumerate(ious.tolist()) if value == value},
        f"miou_{name}_published": float(logged_miou(predicted, views.labels, classes)),
        f"pixel_accuracy_{name}": float(matrix.diagonal().sum() / matrix.sum()),
        f"views_{name}": len(views),
        f"heads_{name}": len(views.instances.unique()),
        "side": views.side,
    }


def table(figures: dict) -> str:
    """The IoU per class and set of views, as text."""
    sets = [name for name in ("seen", "unseen") if f"miou_{name}" in figures]
    classes = [name for name in SOF_LABELS if any(name in figures[f"iou_{s}"] for s in sets)]
    cell = lambda value: f"{value:10.3f}" if value is not None else f"{'-':>10}"
    lines = [f"{'IoU':<12}" + "".join(f"{s:>10}" for s in sets)]
    lines += [f"{name:<12}" + "".join(cell(figures[f"iou_{s}"].get(name)) for s in sets) for name in classes]
    lines += [f"{'mean':<12}" + "".join(cell(figures[f"miou_{s}"]) for s in sets)]
    return "\n".join([*lines, f"{'views':<12}" + "".join(f"{figures[f'views_{s}']:>10}" for s in sets)])


if __name__ == "__main__":
    run_program(main, EvalConfig, __doc__)
