"""The main job on people made on the spot: makes heads, trains SOF, measures it on cameras it never saw, renders it, and writes out/quickstart/index.html.

Each stage is one of the project's own commands, printed before it runs. A stage that is done is skipped; delete out/quickstart to start anew.
"""
from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common import report
from common.config import option, run_program
from common.files import replacing
from common.labels import SOF_LABELS, TRAINING_PALETTE

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 0                                                       # the head that is rendered


@dataclass
class QuickstartConfig:
    """Options of scripts/quickstart.py."""

    out: str = option(str(ROOT / "out" / "quickstart"), "folder for everything")
    heads: int = option(8, "heads to make, train on and measure", low=1)
    train_config: str = option(str(ROOT / "configs" / "sof" / "quickstart.yml"), "training settings")


def stages(config: QuickstartConfig) -> dict[str, list[str]]:
    """{stage: command}, in order."""
    out, run = Path(config.out), str(Path(config.out) / "run")
    look = ["--checkpoint", run, "--instance", str(SHOWN)]
    return {
        "heads": ["scripts/make_people.py", "heads", "--count", str(config.heads), "--views", "40", "--resolution", "128", "--rgb", "False", "--split", "train",
                  "--out", str(out / "heads")],
        "train": ["sof/train.py", "-c", config.train_config, "--data_root", str(out / "heads"), "--logging_root", str(out), "--name", "run"],
        "eval": ["sof/eval.py", "--checkpoint", run],
        "views": ["sof/render.py", "views", *look, "--out", str(out / "views")],
        "slices": ["sof/render.py", "slices", *look, "--out", str(out / "slices")],
        "mesh": ["sof/render.py", "mesh", *look, "--out", str(out / "mesh")],
    }


def main(config: QuickstartConfig) -> None:
    """Run what is not done, write summary.json and the page, and say where to look."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    done, anew = read_json(out / "stages.json", {}), False
    for name, command in stages(config).items():
        anew = anew or done.get(name, {}).get("command") != command         # what comes after a stage that runs is no longer done
        if not anew:
            print(f"{name}: done")
            continue
        done[name] = run_stage(name, command)
        write_json(out / "stages.json", done)
    figures = summary(read_json(out / "run" / "eval" / "metrics.json"), done)
    write_json(out / "summary.json", figures)
    write_page(out, figures, done)
    print(f"mIoU on unseen views {figures['miou_unseen']:.3f}, on seen views {figures['miou_seen']:.3f}, {sum(figures['seconds'].values()):.0f} s in all")
    print(f"Look at {out / 'index.html'}; figures are in {out / 'summary.json'}")


def run_stage(name: str, command: list[str]) -> dict:
    """Run one command of the project; its wall seconds and peak memory. A failure ends this program with the command's exit code."""
    print(f"{name}: python {shlex.join(command)}", flush=True)
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, str(ROOT / command[0]), *command[1:]])
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        sys.exit(code if code > 0 else 128 - code)
    return {"command": command, "seconds": round(time.monotonic() - begin, 1), "peak_mb": round(usage.ru_maxrss / 1024)}


def summary(metrics: dict, done: dict) -> dict:
    """The figures of summary.json."""
    return metrics | {
        "classes_unseen": len(metrics["iou_unseen"]),
        "worst_iou_unseen": min(metrics["iou_unseen"].values()),
        "seconds": {name: stage["seconds"] for name, stage in done.items()},
        "peak_mb": {name: stage["peak_mb"] for name, stage in done.items()},
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
    }


def cpu_name() -> str:
    """The processor, as Linux names it."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0] if names else platform.processor()


def write_page(out: Path, figures: dict, done: dict) -> None:
    """index.html and its plots."""
    lines = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    measured = {"unseen views": column(lines, "val/mIoU"), "as the release logs it": column(lines, "val/mIoU_published")}
    report.curve_plot(out / "miou.png", measured, "step", "mIoU")
    report.curve_plot(out / "loss.png", {"class loss": column(lines, "class")}, "step", "loss", log_y=True)
    minutes = f"{sum(figures['seconds'].values()) / 60:.1f}"
    subtitle = (f"{figures['heads_unseen']} heads, {figures['views_unseen'] // figures['heads_unseen']} unseen cameras each, {figures['side']} px, "
                f"on {figures['hardware']['cores']} cores of {figures['hardware']['cpu']}")
    facts = {"mIoU, unseen views": figures["miou_unseen"], "mIoU, seen views": figures["miou_seen"], "classes": figures["classes_unseen"], "minutes": minutes}
    pictures = [look_section(figures), *shape_sections(), measure_section(figures)]
    report.write_page(out / "index.html", report.page("SOF on heads made on the spot", [report.facts(facts), *pictures, commands_section(done)], subtitle))


def look_section(figures: dict) -> str:
    """Label maps, seen and unseen, true and predicted."""
    labels = [label for label in SOF_LABELS if label in figures["iou_seen"]]
    colors = TRAINING_PALETTE[[SOF_LABELS.index(label) for label in labels]]
    captions = {"seen": "Views that it was trained on", "unseen": "Views from cameras that it never saw"}
    below = ": the truth above, the prediction below"
    maps = [report.picture(f"run/eval/views_{name}.png", caption + below, pixels=True) for name, caption in captions.items()]
    return report.section("Label maps from any view", report.picture("heads/contact_sheet.png", "Some of the heads"), report.legend(labels, colors), *maps)


def shape_sections() -> list[str]:
    """A head in motion, its surface, and planes through it."""
    turn = [report.film("views/views.mp4", "Marched from 36 cameras", 320), report.picture("mesh/mesh.png", "The surface of its field")]
    planes = report.picture("slices/slices.png", "Planes from front to back: labels, and how likely they are no background", pixels=True)
    model = report.link("mesh/mesh.glb", "mesh.glb, for any 3D viewer")
    return [report.section("A head turns", report.gallery(turn), model), report.section("Through the head", planes)]


def measure_section(figures: dict) -> str:
    """The table of IoU per class, and how it came about."""
    plots = {"run/eval/iou_unseen.png": "Per class, unseen views", "miou.png": "During training", "loss.png": "Training loss"}
    rows = [(label, iou, figures["iou_unseen"].get(label)) for label, iou in figures["iou_seen"].items()]
    table = report.table(("class", "seen views", "unseen views"), [*rows, ("mean", figures["miou_seen"], figures["miou_unseen"])])
    return report.section("Intersection over union", report.gallery(report.picture(name, caption, 480) for name, caption in plots.items()), table)


def commands_section(done: dict) -> str:
    """What ran, how long, with how much memory."""
    lines = [f"{stage['seconds']:7.1f} s {stage['peak_mb']:6d} MB   python {shlex.join(stage['command'])}" for stage in done.values()]
    return report.section("What ran", report.code("\n".join(lines)))


def column(lines: list[dict], name: str) -> tuple[list, list]:
    """Steps and values of one figure of the log."""
    found = [line for line in lines if name in line]
    return [line["step"] for line in found], [line[name] for line in found]


def read_json(path: Path, default: dict | None = None) -> dict:
    """What a JSON file holds, or the default where there is none."""
    return json.loads(path.read_text()) if default is None or path.exists() else default


def write_json(path: Path, values: dict) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    run_program(main, QuickstartConfig, __doc__)
