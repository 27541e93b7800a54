"""What every notebook begins with: heads and a model trained on them, a generator of heads, or a body and its frames; and pictures shown inline."""
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


def ready_geopifu(checkpoint: str = "") -> tuple[Path, Path]:
    """A folder of a body (bodies/) and its rendered frames (humanRender/), and a model: the one given, or the one that ships, or a tiny one made now."""
    shipped, out = ROOT / "pretrained" / "geopifu_people.safetensors", Path(os.environ.get("NOTEBOOKS_OUT", ROOT / "out" / "notebooks"))
    trained = Path(checkpoint or shipped)
    if not (out / "geopifu" / "humanRender" / "config" / "000003.json").is_file():
        _make_body(out / "geopifu")
    if not (checkpoint or shipped.exists()):
        trained = out / "geopifu" / "query"
        if not (trained / "checkpoints").is_dir():
            _make_geopifu(out / "geopifu")
    return out / "geopifu", trained


def _make_body(out: Path) -> None:
    from geopifu import render_data
    from scripts.make_people import BodiesConfig, bodies

    bodies(BodiesConfig(out=str(out / "bodies"), count=1))
    places = {"meshDirSearch": str(out / "bodies"), "saveDir": str(out / "humanRender")}
    render_data.main(render_data.RenderConfig(**places, resolutionScale=1, eachMeshWithBgNum=1))


def _make_geopifu(out: Path) -> None:
    from common.config import parse
    from geopifu import prepare_queries
    from geopifu.train import TrainConfig, main

    places = {"datasetDir": str(out / "humanRender"), "meshDirSearch": str(out / "bodies")}
    prepare_queries.main(prepare_queries.QueryConfig(**places, epoch_range=[0, 1], num_sample_inout=500))
    small = "--loadSize 64 --z_size 25 --features 16 --hourglass_dim 16 --mlp_dim 0 32 16 1 --num_sample_inout 500 --schedule 99".split()
    common = ["-c", str(ROOT / "configs" / "geopifu" / "tiny.yml"), *small, "--no_num_eval", "--no_gen_mesh", "--device=cpu", f"--logging_root={out}",
              *(f"--{name}={value}" for name, value in places.items())]
    main(parse(TrainConfig, [*common, "--stage=coarse", "--name=coarse", "--max_steps=40"]))
    fusion = "--deepVoxels_fusion early --deepVoxels_c_len 56 --multiRanges_deepVoxels".split()
    main(parse(TrainConfig, [*common, *fusion, "--stage=query", "--name=query", "--max_steps=80", f"--load_netV_checkpoint_path={out / 'coarse'}"]))


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
