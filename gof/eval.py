"""Measure a trained GOF or pi-GAN: python gof/eval.py --checkpoint pretrained/gof_people.safetensors --split test

people (meant where no command stands): every figure of the model that ships, on heads made on the spot; fid: FID, KID, IS beside real pictures;
variance: how thin surfaces are; geometry: pictures of held-out heads are inverted, and what is found is compared with the true depth and normals.
Every draw is a function of --seed: the same command gives the same figures. They are written below --output_dir, where nothing is ever deleted.
"""
from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from common import ranks
from common.benchmark import hardware
from common.cameras import from_eg3d_label, pigan_angles, pigan_cam2world, pigan_cameras
from common.checkpoint import open_checkpoint
from common.config import option, run_commands
from common.errors import InputError
from common.evaluation import METRICS, evaluate
from common.features import Extractor, PictureSet, open_extractor
from common.files import replacing
from common.images import open_image_folder
from common.metrics import depth_errors, mean_angle
from common.pigan import Scene
from common.rays import camera_rays, pixel_grid
from gof.data import TRANSFORMS, normalise, read_cropped, read_truth
from gof.invert import Fit, Found, invert, psnr
from gof.look import Opening, look, opened, scene_of
from gof.metrics import Judging, measure, real_pictures, variance_of
from gof.model import Generator
from gof.paths import FRONT

ROOT = Path(__file__).parents[1]
HEADS = {"count": 60, "views": 4, "resolution": 64, "layout": "pigan", "depth": "True"}         # what `people` has made, of either split
# Where people's noses and ears are in frontal pictures, as shares of the picture: u from, to, v from, to
NOSE, EARS = (0.44, 0.55, 0.54, 0.66), ((0.25, 0.32, 0.48, 0.62), (0.665, 0.735, 0.48, 0.62))
FACE_SIDE = 64                                                # of the pictures that noses and ears are looked for in


@dataclass
class Measuring(Opening):
    """The options of every command."""

    output_dir: str = option("out/gof_eval", "folder for COMMAND.json and kept features of real pictures", short="-o")
    seed: int = option(0, "of every draw", low=0)


@dataclass
class FidConfig(Measuring, Judging):
    """Options of `fid`."""

    real_image_dir: str = option(..., "folder or EG3D zip of real pictures")
    transform: str = option("people", "how they are cropped and resized: people takes squares and averages down", choices=TRANSFORMS)
    image_size: int = option(128, "side of both, in pixels", low=8)
    num_eval_imgs: int = option(0, "real pictures, drawn by the seed; 0: all", low=0)
    metrics: list[str] = option(["fid", "kid"], "what to compute; is needs inception, pr is precision and recall", choices=METRICS)
    kid_subset_size: int = option(1000, "pictures in each of KID's 100 subsets", low=2)
    psi: float = option(1.0, "truncation: 1 takes codes as drawn", low=0)
    published: bool = option(False, "as the release's eval_metrics.py: light left over is lost, and all pictures go through JPEG")


@dataclass
class VarianceConfig(Measuring):
    """Options of `variance`."""

    seeds_start: int = option(0, "the first code", low=0)
    seeds_end: int = option(1000, "the code after the last", low=1)
    image_size: int = option(128, "side of the pictures, in pixels", low=4)
    psi: float = option(0.7, "truncation", low=0)


@dataclass
class GeometryConfig(Fit, Measuring):
    """Options of `geometry`."""

    data_root: str = option("", "folder or zip of make_people.py heads --layout pigan --depth; empty: heads of the test split, made if they are not there")
    heads: int = option(8, "heads, of each its most frontal picture", low=1)


@dataclass
class PeopleConfig(Measuring, Judging):
    """Options of `people`."""

    extractor: str = option("people", "network whose features are compared", choices=("people", "inception"))
    split: str = option("test", "which people: those held out of every training, or those trained on", choices=("test", "train"))
    image_size: int = option(0, "side of the pictures, in pixels; 0: that of the training's end, where the file says so, else of the pictures", low=0)
    samples: int = option(200, "codes whose noses and ears are compared", low=1)
    seeds_end: int = option(100, "codes of the weighted variance, from 0 on", low=1)


def fid(config: FidConfig) -> None:
    """FID, KID, IS, precision and recall beside the pictures of a folder or zip."""
    generator, side, folder = ready(config), config.image_size, open_image_folder(config.real_image_dir, use_labels=False)
    reals = real_pictures(folder, config.transform, side, config.num_eval_imgs, config.published, config.seed)
    figures = measure(generator, reals, extractor_of(config, generator), config.num_images, side, config.metrics, Path(config.output_dir) / "features",
                      config.psi, config.published, config.seed, config.kid_subset_size)
    report(config, "fid", figures, [f"{name:<12}{value:>12.4f}" for name, value in figures.items() if isinstance(value, float) and name != "psi"])


def variance(config: VarianceConfig) -> None:
    """Weighted variance: how far along its ray the light of a pixel is spread."""
    if config.seeds_end <= config.seeds_start:
        raise InputError(f"--seeds_end {config.seeds_end}: expected more than --seeds_start {config.seeds_start}")
    figures = variance_of(ready(config), range(config.seeds_start, config.seeds_end), config.image_size, config.psi)
    report(config, "variance", figures, [thinness(figures)])


def geometry(config: GeometryConfig) -> None:
    """Depth and normals of inverted pictures of held-out heads, against the truth."""
    generator = ready(config)
    folder = open_image_folder(config.data_root or heads_of("test"))
    if folder.labels is None or folder.labels.shape[1] != 25:
        raise InputError(f"{folder.path}/dataset.json: expected EG3D's 25 camera numbers for every picture")
    cameras = pigan_angles(from_eg3d_label(torch.from_numpy(folder.labels)).cam2world)
    chosen = most_frontal(folder.names, cameras)[:config.heads]
    targets = torch.stack([normalise(read_cropped(folder, i, TRANSFORMS["people"])) for i in chosen])
    begin = torch.tensor([FRONT]).expand(len(chosen), 2) if config.opt_cam else cameras[chosen]
    found = invert(generator, targets, begin, config)
    truths = [read_truth(folder, i) for i in chosen]
    mean_head = [Found(generator.average, cameras[i:i + 1], math.nan) for i in chosen]
    rows = {"inverted": against_truth(generator, found, truths, cameras[chosen]), "average head": against_truth(generator, mean_head, truths, cameras[chosen])}
    figures = {"heads": len(chosen), "side": targets.shape[-1], "cameras": "found" if config.opt_cam else "given", "steps": config.steps, **rows}
    columns = list(rows["inverted"])
    report(config, "geometry", figures, [f"{len(chosen)} heads, {figures['side']} px{'':<8}" + "".join(f"{name:>16}" for name in columns)] + [
        f"{name:<22}" + "".join(f"{row[column]:>16.4f}" for column in columns) for name, row in rows.items()])


def people(config: PeopleConfig) -> None:
    """Every figure of the model that ships, on people made on the spot."""
    generator = ready(config)
    folder = open_image_folder(heads_of(config.split), use_labels=False)
    side = config.image_size or trained_side(config) or len(read_cropped(folder, 0, TRANSFORMS["people"]))
    reals, extractor = real_pictures(folder, "people", side), extractor_of(config, generator)
    cache, count = Path(config.output_dir) / "features", config.num_images
    trained = measure(generator, reals, extractor, count, side, cache=cache, seed=config.seed)
    blank = measure(untrained(generator), reals, extractor, count, side, cache=cache, seed=config.seed)
    mean = evaluate([mean_picture(reals)[None].repeat(2, axis=0)], 2 * ranks.count(), reals, extractor, cache=cache)
    if ranks.rank():
        return
    name = next(name for name in trained if name.startswith("F"))
    before = [nose_before_ears(generator, scene_of(generator, seed)) for seed in range(config.samples)]
    figures = {
        "split": config.split, "side": side, "generated": count, "real": reals.count, "extractor": extractor.version,
        name: {"trained": trained[name], "untrained": blank[name], "mean picture": mean[name]},
        "nose": {"samples": len(before), "share nearer than the ears": float(np.mean([distance > 0 for distance in before])), "by": float(np.nanmean(before))},
        "variance": variance_of(generator, range(config.seeds_end), side),
    }
    nose = figures["nose"]
    report(config, "people", figures, [
        f"{name}, {side} px, {count} pictures against {reals.count} of the {config.split} split",
        *(f"  {what:<14}{value:>10.3f}" for what, value in figures[name].items()),
        f"nose nearer than the ears: {nose['share nearer than the ears']:.1%} of {nose['samples']} codes, by {nose['by']:.4f} on average",
        thinness(figures["variance"])])


# What the commands share

def ready(config: Measuring) -> Generator:
    """The generator, on this rank's device."""
    ranks.join(ranks.device_of(config.device))
    return opened(config)


def extractor_of(config: Judging, generator: Generator) -> Extractor:
    """The network that describes pictures, beside the generator."""
    return open_extractor(config.extractor, generator.siren.final_layer.weight.device, config.extractor_weights or None)


def report(config: Measuring, name: str, figures: dict, lines: Sequence[str]) -> None:
    """Print the lines and write OUTPUT_DIR/NAME.json: the figures, what they are of and what they were measured on. Rank 0 alone."""
    if ranks.rank():
        return
    checkpoint = config.generator_path or config.checkpoint
    machine = f"{hardware(ranks.device_of(config.device))}, torch {torch.__version__}"
    path = Path(config.output_dir) / f"{name}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"checkpoint": checkpoint, **figures, "hardware": machine}, indent=1) + "\n")
    print("\n".join([*lines, f"measured on {machine}: {path}"]))


def thinness(figures: dict) -> str:
    """What `gof.metrics.variance_of` found, in a line."""
    return "weighted variance {weighted_variance:.4f} ({codes_with_opaque_rays} of {codes} codes, {side} px, psi {psi})".format(**figures)


def heads_of(split: str) -> Path:
    """The zip of a split's heads, made where it is missing."""
    path = ROOT / "data" / f"people_gof_{split}" / "pigan.zip"
    if not path.exists() and ranks.rank() == 0:
        options = [word for name, value in (HEADS | {"split": split, "out": path.parent}).items() for word in (f"--{name}", str(value))]
        done = subprocess.run([sys.executable, str(ROOT / "scripts" / "make_people.py"), "heads", *options], stdout=sys.stderr)
        if done.returncode:
            raise InputError(f"{path}: missing, and scripts/make_people.py could not make it")
    ranks.any_says(False, torch.device("cuda" if torch.cuda.is_available() and ranks.count() > 1 else "cpu"))
    return path


def trained_side(config: Opening) -> int:
    """The side of the pictures at the end of the training, 0 where the file does not say."""
    options = open_checkpoint(config.generator_path or config.checkpoint).config or {}
    return int((options.get("img_size") or [0])[-1])


def untrained(generator: Generator) -> Generator:
    """A generator of the same options with its first weights, always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Generator(replace(generator.config)).to(generator.siren.final_layer.weight.device).eval()


def mean_picture(reals: PictureSet) -> np.ndarray:
    """The mean (H, W, 3) uint8 of all real pictures."""
    return np.round(np.mean([reals.load([i])[0] for i in range(reals.count)], axis=0)).astype(np.uint8)


# Shapes

def surface_of(generator: Generator, scene: Scene, angles: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a camera [pitch, yaw] (1, 2) sees: depth (side, side) along unit rays, where there is a surface (side, side), normals (..., 3) in camera axes."""
    seen = look(generator, scene, angles, side)
    depth, there = (seen["surface_depth"], seen["hit"]) if "hit" in seen else (seen["depth"], seen["opacity"] > 0.5)
    return depth[0].cpu(), there[0].cpu(), in_camera(seen["normals"][0].cpu(), angles.cpu())


def in_camera(normals: Tensor, angles: Tensor) -> Tensor:
    """World normals (H, W, 3) in the axes of a camera [pitch, yaw] (1, 2)."""
    return normals @ pigan_cam2world(angles)[0, :3, :3].to(normals)


def nose_before_ears(generator: Generator, scene: Scene) -> float:
    """How much nearer to a frontal camera the nose of a scene is than its ears, by the medians over both places; NaN where one has no surface."""
    depth, there, _ = surface_of(generator, scene, torch.tensor([FRONT]), FACE_SIDE)
    return ears_behind(torch.where(there, depth, torch.nan))


def ears_behind(depth: Tensor) -> float:
    """The median depth of both ears minus the nose's, of a frontal depth map (H, W) of people's framing, NaN where nothing is seen."""
    side = len(depth)
    place = lambda box: depth[round(box[2] * side):round(box[3] * side), round(box[0] * side):round(box[1] * side)].flatten()
    return float(torch.cat([place(ear) for ear in EARS]).nanmedian() - place(NOSE).nanmedian())


def most_frontal(names: Sequence[str], angles: Tensor) -> list[int]:
    """Of each folder of pictures the one whose camera [pitch, yaw] (n, 2) is nearest to the front, in the order of the folders."""
    off, best = (angles - torch.tensor(FRONT)).norm(dim=1).tolist(), {}
    for i, name in enumerate(names):
        head = PurePosixPath(name).parent
        best[head] = min(best.get(head, i), i, key=off.__getitem__)
    return list(best.values())


def against_truth(generator: Generator, found: Sequence[Found], truths: Sequence[dict[str, Tensor]], cameras: Tensor) -> dict[str, float]:
    """The means of `of_picture` over pictures with true cameras [pitch, yaw] (N, 2)."""
    rows = [of_picture(generator, one, truth, camera[None]) for one, truth, camera in zip(found, truths, cameras)]
    known = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in rows[0]}
    return {name: float(np.mean(values)) if values else math.nan for name, values in known.items()}


def of_picture(generator: Generator, found: Found, truth: dict[str, Tensor], camera: Tensor) -> dict[str, float]:
    """What was found of a picture beside its true depth and normals, pixel by pixel where both have a surface; its true camera is [pitch, yaw] (1, 2).

    SIDE (of log depth), MAD (degrees, between the normals of both depths), normals (degrees, the field's own against the true ones), silhouettes (intersection
    over union), psnr (decibels), camera (degrees between both).
    """
    with torch.no_grad():
        scene = generator.scene(found.codes)
    side = len(truth["depth"])
    depth, there, normals = surface_of(generator, scene, found.angles, side)
    both, either = there & (truth["depth"] > 0), there | (truth["depth"] > 0)
    rays = camera_rays(pigan_cameras(camera, generator.config.fov, side), pixel_grid(side, side)[None])
    errors = depth_errors(depth[None], truth["depth"][None], both[None], *(vectors.unflatten(1, (side, side)) for vectors in rays))
    forward = pigan_cam2world(torch.cat([found.angles.cpu(), camera]))[:, None, None, :3, 2]
    return {name: float(value) for name, value in errors.items()} | {
        "normals": float(mean_angle(normals[None], in_camera(normalize(truth["normals"], dim=-1), camera)[None], both[None])),
        "silhouettes": float(both.sum() / either.sum()), "psnr": psnr(found.error),
        "camera": float(mean_angle(forward[:1], forward[1:], torch.ones(1, 1, 1, dtype=torch.bool)))}


if __name__ == "__main__":
    run_commands({"people": (people, PeopleConfig), "fid": (fid, FidConfig), "variance": (variance, VarianceConfig), "geometry": (geometry, GeometryConfig)},
                 __doc__, default="people")
