"""Measure reconstructions as the paper does: CD, PSD, normal cosine and L2, and, on surfaces and in centimetres, CD and P2S.

    python geopifu/eval.py --resultsDir results/GeoPIFu_query --datasetDir data/humanRender --meshDirSearch data         meshes that are there
    python geopifu/eval.py --checkpoint log/query --datasetDir data/humanRender --meshDirSearch data/bodies              makes those that are missing
    python geopifu/eval.py --mean_body 200 --resultsDir results/mean_body ...                                            one body for all photos

RESULTS/000123_meshRefined.obj is the estimate of a frame, in the photo's own view. RESULTS/000123_evalMetrics.json and _additional.json keep its
figures, avgEvalMetrics.json their means. Frames that are measured are not measured again.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.config import option, run_program
from common.errors import InputError
from common.meshes import Mesh
from geopifu import meshes, metrics
from geopifu.data import Frames, read_voxels
from geopifu.geometry import canonicalise, to_view
from geopifu.layout import read_config, read_mask, read_rgb, rotation_of_frame, shard
from geopifu.model import ModelConfig
from geopifu.reconstruct import FrameConfig, FramesConfig, frame_options, mesh_path, opened, wanted, write_frame
from geopifu.render_data import write_json
from geopifu.scans import read_obj, read_scan, rerooted

PUBLISHED = {"DeepHuman": (11.928, 11.246, 0.2088, 0.4647), "PIFu": (2.604, 4.026, 0.0914, 0.3009), "Geo-PIFu": (1.742, 1.922, 0.0682, 0.2603)}
FIGURES = ("chamfer_dis", "estV_2_gtM_dis", "norm_cos_dis_ft", "norm_l2_dis_ft", "surface_cd_cm", "surface_p2s_cm")
AVERAGES = ("avg_chamfer_dis", "avg_estV_2_gtM_dis", "avg_norm_cos_dis_front", "avg_norm_l2_dis_front", "avg_surface_cd_cm", "avg_surface_p2s_cm")
HEADINGS = ("CD", "PSD", "Cosine", "L2", "CD cm", "P2S cm")
NORMALS = ("norm_cos_dis_ft", "norm_l2_dis_ft")


@dataclass
class EvalConfig(FramesConfig):
    """Options of geopifu/eval.py; with a checkpoint, what is missing in resultsDir is reconstructed."""

    resultsDir: str = option("", "folder of meshes and figures; empty: eval/ in the first checkpoint's run folder")
    mean_body: int = option(0, "instead of a checkpoint: the mean of the voxels of so many training frames, for every photo", low=0)


def main(config: EvalConfig) -> None:
    """Measure the frames of a split; print the table and write the means."""
    results = results_folder(config)
    config = replace(config, resultsDir=str(results))
    estimate, options = estimator(config)
    frames = Frames(options, config.split)
    chosen = wanted(config, frames)
    mine = [chosen[k] for k in shard(len(chosen), config.splitNum, config.splitIdx)]
    todo = [i for i in mine if not figures_path(results, frames.numbers[i], additional=True).is_file()]
    unmade = [i for i in todo if not mesh_path(results, frames.numbers[i]).is_file()]
    if unmade and not estimate:
        raise InputError(f"{mesh_path(results, frames.numbers[unmade[0]])}: missing, as {len(unmade) - 1} more; give --checkpoint to make it")
    for i in tqdm(todo, desc="frames", unit="frame", disable=not todo, dynamic_ncols=True):
        frame = frames.numbers[i]
        if i in unmade:
            estimate(frames, i)
        keep(results, frame, measured(config, frame, mesh_path(results, frame)))
    summarise(results, [frames.numbers[i] for i in chosen])


def results_folder(config: EvalConfig) -> Path:
    """Where meshes and figures lie. Raises InputError where it is not told."""
    if config.resultsDir:
        return Path(config.resultsDir)
    if not config.checkpoint:
        raise InputError("--resultsDir: needed without --checkpoint, the folder of meshes 000123_meshRefined.obj")
    first = Path(config.checkpoint[0])
    return (first if first.is_dir() else first.parent) / "eval"


# Estimates

def estimator(config: EvalConfig) -> tuple[Callable[[Frames, int], object] | None, FrameConfig]:
    """(what writes the mesh of a frame, if anything does, the options that frames are read with)."""
    if config.mean_body:
        mesh = mean_body(config)
        gray = np.full_like(mesh.vertices, 0.5)
        return lambda frames, i: meshes.write_obj(mesh_path(config.resultsDir, frames.numbers[i]), mesh, gray), frame_options(config, ModelConfig())
    if not config.checkpoint:
        return None, frame_options(config, ModelConfig())
    model = opened(config)
    return lambda frames, i: write_frame(config, model, frames, i), frame_options(config, model.config)


def mean_body(config: EvalConfig) -> Mesh:
    """The surface within which at least half of some training frames' voxels are, spread evenly over them."""
    frames = Frames(replace(config, num_sample_inout=0), "train").numbers
    some = [frames[k * len(frames) // config.mean_body] for k in range(config.mean_body)]
    mean = sum(read_voxels(config.datasetDir, n)[0] for n in tqdm(some, desc="mean body", dynamic_ncols=True)) / len(some)
    return meshes.coarse_surface(mean)


# Figures

def measured(config: EvalConfig, frame: int, path: Path) -> dict[str, float]:
    """All figures of a frame's estimate."""
    settings = read_config(config.datasetDir, frame)
    scan = read_scan(rerooted(settings["meshPath"], config.meshDirSearch))
    front, _, scale = canonicalise(scan.vertices.astype(np.float32), rotation_of_frame(settings).astype(np.float32), str(path))
    truth = to_view(front, frame % 4)
    vertices, faces, _ = read_obj(path)
    vertices = vertices[:, :3]
    cd, psd = metrics.vertex_measures(vertices.astype(np.float32), truth)
    normals, mask = metrics.stored_normals(read_rgb(config.datasetDir, "normalRGB", frame), read_mask(config.datasetDir, frame))
    cosine, length = metrics.normal_measures(metrics.rendered_normals(vertices, faces), normals, mask)
    surface = metrics.surface_measures((vertices, faces), (truth, scan.faces), np.random.default_rng(frame))
    return dict(zip(FIGURES, (cd, psd, cosine, length, *(100 / scale * distance for distance in surface))))


def figures_path(results: Path, frame: int, additional: bool) -> Path:
    """The release's two files of a frame's figures."""
    return results / f"{frame:06d}_evalMetrics{'_additional' * additional}.json"


def keep(results: Path, frame: int, figures: dict[str, float]) -> None:
    """Write a frame's figures as the release does, ours beside."""
    write_json(figures_path(results, frame, False), {name: [figures[name]] for name in NORMALS})
    write_json(figures_path(results, frame, True), {name: value for name, value in figures.items() if name not in NORMALS})


def recall(results: Path, frame: int) -> dict[str, float]:
    """A frame's figures. Raises InputError for a broken file."""
    path = figures_path(results, frame, True)
    try:
        figures = json.loads(path.read_text()) | {name: value[0] for name, value in json.loads(figures_path(results, frame, False).read_text()).items()}
        return {name: float(figures[name]) for name in FIGURES}
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise InputError(f"{path}: broken, delete it to measure again ({error})") from None


def summarise(results: Path, frames: list[int]) -> None:
    """Print the table over all frames that are measured, and write their means once that is every one."""
    done = [frame for frame in frames if figures_path(results, frame, True).is_file()]
    if not done:
        return
    rows = np.array([list(recall(results, frame).values()) for frame in done])
    means = dict(zip(AVERAGES, rows.mean(0).tolist())) | {"frames": len(done)}
    print(table({str(results): means}, len(done), len(frames)))
    if len(done) == len(frames):
        write_json(results / "avgEvalMetrics.json", means)


def table(ours: dict[str, dict[str, float]], done: int, count: int) -> str:
    """The paper's table with ours below."""
    line = lambda name, values: f"{name[-40:]:<40}" + "".join(f"{value:>10.4f}" for value in values)
    heading = f"{f'{done} of {count} frames':<40}" + "".join(f"{name:>10}" for name in HEADINGS)
    paper = [line(f"{name} (paper, THUman)", values) for name, values in PUBLISHED.items()]
    return "\n".join([heading, *paper, *(line(name, [means[key] for key in AVERAGES]) for name, means in ours.items())])


if __name__ == "__main__":
    run_program(main, EvalConfig, __doc__)
