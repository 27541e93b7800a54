"""What every notebook begins with: heads and a model trained on them, and pictures shown inline."""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def ready(data: str = "", run: str = "") -> tuple[Path, Path]:
    """A folder of heads and a run folder: those given, or the quickstart's, or, if it never ran, tiny ones made now in about half a minute (out/notebooks)."""
    quickstart, out = ROOT / "out" / "quickstart", Path(os.environ.get("NOTEBOOKS_OUT", ROOT / "out" / "notebooks"))
    if data and run:
        return Path(data), Path(run)
    if "NOTEBOOKS_OUT" not in os.environ and (quickstart / "summary.json").exists():
        return quickstart / "heads", quickstart / "run"
    if not (out / "run" / "checkpoints").is_dir():
        _make(out)
    return out / "heads", out / "run"


def _make(out: Path) -> None:
    from common.config import parse
    from scripts.make_people import HeadsConfig, heads
    from sof.train import TrainConfig, main

    heads(HeadsConfig(out=str(out / "heads"), count=4, views=6, resolution=32, rgb=False))
    places = [f"--data_root={out / 'heads'}", f"--logging_root={out}", "--name=run", "--sample_observations_train=0-3", "--sample_observations_val=4-5"]
    main(parse(TrainConfig, ["-c", str(ROOT / "configs" / "sof" / "tiny.yml"), *places, "--max_steps=160", "--steps_til_ckpt=40", "--keep_ckpts=9"]))


def show(pictures, columns: int = 0, titles=(), width: float = 10.0) -> None:
    """Pictures (H, W, 3) or (H, W) uint8 side by side, in rows of `columns`."""
    import matplotlib.pyplot as plt

    pictures = list(pictures)
    columns = columns or len(pictures)
    rows, (height, wide) = -(-len(pictures) // columns), np.shape(pictures[0])[:2]
    figure, axes = plt.subplots(rows, columns, figsize=(width, width / columns * rows * height / wide), squeeze=False, layout="constrained")
    for k, place in enumerate(axes.flat):
        place.axis("off")
        if k < len(pictures):
            place.imshow(pictures[k], cmap="gray", interpolation="nearest")
            place.set_title(titles[k] if k < len(titles) else "", fontsize=8)
    plt.show()
