"""What every notebook begins with: heads and a model trained on them, or a generator of heads; and pictures shown inline."""
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


def ready_gof(checkpoint: str = "") -> Path:
    """A generator: the one given, or the one that ships, or, without it, a tiny one made now that has hardly learnt (out/notebooks)."""
    shipped, out = ROOT / "pretrained" / "gof_people.safetensors", Path(os.environ.get("NOTEBOOKS_OUT", ROOT / "out" / "notebooks"))
    if checkpoint or shipped.exists():
        return Path(checkpoint or shipped)
    if not (out / "gof" / "checkpoints").is_dir():
        _make_gof(out)
    return out / "gof"


def _make_gof(out: Path) -> None:
    from common.config import parse
    from gof.train import TrainConfig, main
    from scripts.make_people import HeadsConfig, heads

    heads(HeadsConfig(out=str(out / "gof_heads"), count=3, views=4, resolution=16, layout="pigan"))
    places = [f"--data_root={out / 'gof_heads' / 'pigan.zip'}", f"--logging_root={out}", "--name=gof", "--device=cpu"]
    stage = ["--stage_starts=0", "--img_size=16", "--batch_size=4", "--batch_split=1", "--gen_lr=4e-4", "--disc_lr=1e-3"]
    small = ["--hidden_dim=64", "--discriminator_width=0.0625", "--ball_steps=100", "--max_steps=4", "--steps_til_ckpt=4"]
    main(parse(TrainConfig, ["-c", str(ROOT / "configs" / "gof" / "people.yml"), *places, *stage, *small]))


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
