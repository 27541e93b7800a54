"""Find the code and the camera behind photos: python gof/invert.py --checkpoint log/people --data photo.png --output_dir out/photo

pi-GAN's inverse rendering (Chan et al., CVPR 2021): the networks are frozen; from the mean code, Adam moves the frequencies and phases of each picture, under
noise that dies out, until the field reproduces it; with --opt_cam the camera too, which the release holds frontal. Then the head is seen from other sides.

OUT/<photo>/    codes.npz, which every command that takes --codes reads: frequencies (1, T), phases (1, T), angles (1, 2) [pitch, yaw] in radians
                reproduction.png (the photo, what was found, its normals and depth), views.png (five sides), films and mesh as of render.py and extract.py
OUT/            metrics.json: of each photo the mean squared error in [-1, 1], the peak signal-to-noise ratio and the camera
"""
from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common import draws
from common.cameras import pigan_cameras
from common.config import option, run_program
from common.errors import InputError, NonFinite
from common.files import replacing
from common.images import SUFFIXES, contact_sheet, decode_rgb, open_image_folder, write_png
from common.march import Draws, March
from common.pigan import Scene
from common.rays import pixel_grid
from gof import extract, paths, render
from gof.data import middle, normalise
from gof.look import Opening, as_pictures, center_of, drawings, look, opened
from gof.model import Codes, Generator, march_options, see
from gof.paths import FRONT

PIGAN_SAMPLES = 24                                            # regular ones on a ray, of a field without a surface search
RAYS = 2**12                                                  # through which gradients go at once
START_YAWS = (0.0, 0.4, -0.4)                                 # radians from frontal: where the cameras of the restarts begin, in turn
START_PSI = 0.7                                               # of the restarts' codes


@dataclass
class Fit:
    """How codes are fitted; the defaults are the release's but for the camera and the rays."""

    steps: int = option(700, "optimiser steps", low=1)
    lr: float = option(1e-2, "Adam's learning rate of the codes", low=0)
    lr_step: int = option(100, "steps between two cuts of the learning rates", low=1)
    lr_gamma: float = option(0.75, "their factor at each cut", low=0)
    weight_decay: float = option(1e-4, "Adam's weight decay, towards the code it began at", low=0)
    noise_scale: float = option(0.03, "deviation of the noise on the codes at the first step; it falls to 0", low=0)
    opt_cam: bool = option(True, "find the camera too; false: it is where it began")
    lr_cam: float = option(2e-2, "Adam's learning rate of the cameras, radians", low=0)
    rays: int = option(1024, "pixels drawn of each picture and step; 0: all of them, as released", low=0)
    restarts: int = option(1, "starts of which each picture's best is kept: the mean code, then random ones; with opt_cam from other sides", low=1)
    seed: int = option(0, "of every draw", low=0)


@dataclass
class InvertConfig(Fit, Opening):
    """Options of gof/invert.py."""

    data: str = option(..., "a picture, or a folder or zip of them; the largest square in the middle of each counts")
    output_dir: str = option("out/gof_invert", "folder for what is found", short="-o")
    image_size: int = option(128, "side at which pictures are compared, pixels", low=8)
    pose: list[float] = option(list(FRONT), "pitch and yaw, radians, at which the cameras begin; pi/2 pi/2 is frontal")
    batch_size: int = option(8, "pictures fitted at once", low=1)
    num_frames: int = option(36, "frames of the film; 0: none", low=0)
    voxel_resolution: int = option(128, "points along each side of the cube that the mesh is made from; 0: no mesh", low=0)


def main(config: InvertConfig) -> None:
    """Fit each photo and write what was found."""
    if len(config.pose) != 2:
        raise InputError(f"--pose: expected pitch and yaw, not {len(config.pose)} numbers")
    generator = opened(config)
    photos = read_photos(config.data, config.image_size)
    figures, names = {}, list(photos)
    for first in range(0, len(names), config.batch_size):
        some = names[first:first + config.batch_size]
        targets = torch.stack([photos[name] for name in some])
        found = invert(generator, targets, torch.tensor(config.pose).expand(len(some), 2), config)
        for name, target, one in zip(some, targets, found):
            figures[name] = write(config, generator, target, one, Path(config.output_dir) / name)
            print(f"{name}: PSNR {figures[name]['psnr']:.1f} dB, pitch {one.angles[0, 0]:.3f}, yaw {one.angles[0, 1]:.3f}")
    with replacing(Path(config.output_dir) / "metrics.json") as temporary:
        temporary.write_text(json.dumps({"checkpoint": config.generator_path or config.checkpoint, "data": config.data, "photos": figures}, indent=1) + "\n")
    print(f"{len(names)} in {config.output_dir}")


# What is given

def read_photos(path: str | Path, side: int) -> dict[str, Tensor]:
    """{name: (3, side, side) in [-1, 1]} of a picture file, or of a folder or zip of them. Raises InputError naming the file."""
    path = Path(path)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return {path.stem: photo(decode_rgb(path.read_bytes(), str(path)), side)}
    folder = open_image_folder(path, use_labels=False)
    stems = [PurePosixPath(name.replace("/", "_").replace("\\", "_")).stem.lstrip(".") for name in folder.names]
    if len(set(stems)) < len(stems) or "" in stems:
        stems = [f"{i:05d}" for i in range(len(stems))]
    return {stem: photo(decode_rgb(folder.read_bytes(i), f"{path}/{folder.names[i]}"), side) for i, stem in enumerate(stems)}


def photo(picture: np.ndarray, side: int) -> Tensor:
    """(3, side, side) in [-1, 1] of the largest square in the middle of a picture (H, W, 3) uint8: means of the pixels covered, bicubic where it grows."""
    from PIL import Image

    square = Image.fromarray(np.ascontiguousarray(middle(picture, min(picture.shape[:2]))))
    return normalise(np.asarray(square.resize((side, side), Image.Resampling.BOX if square.width >= side else Image.Resampling.BICUBIC)))


# The fit

class Unknowns(nn.Module):
    """What is fitted of B pictures: how far frequencies and phases (B, total) are from where they began, and cameras [pitch, yaw] (B, 2)."""

    def __init__(self, start: Codes, angles: Tensor):
        super().__init__()
        self.start = start
        self.frequencies, self.phases = (nn.Parameter(torch.zeros_like(code)) for code in start)
        self.angles = nn.Parameter(angles.clone())

    def codes(self, noise: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)) -> Codes:
        """Frequencies and phases (B, total), with noise on them."""
        return self.start[0] + self.frequencies + noise[0], self.start[1] + self.phases + noise[1]


class Chance(NamedTuple):
    """What a step draws: normals (B, total) for frequencies and phases, the pixels (R,) that count, and the march's draws for them (B, R, S)."""

    frequencies: Tensor
    phases: Tensor
    pixels: Tensor
    march: Draws


class Found(NamedTuple):
    """Of one picture: its code (1, total) each, its camera [pitch, yaw] (1, 2), and the mean squared error in [-1, 1] of its reproduction."""

    codes: Codes
    angles: Tensor
    error: float


def invert(generator: Generator, targets: Tensor, angles: Tensor, options: Fit) -> list[Found]:
    """The codes and cameras of pictures (B, 3, n, n) in [-1, 1], from cameras [pitch, yaw] (B, 2). Raises NonFinite if a loss is not finite."""
    from tqdm import tqdm

    generator.requires_grad_(False)
    device = generator.siren.final_layer.weight.device
    count, targets = len(targets), targets.to(device)
    by, tries = inversion_march(generator), options.restarts
    unknowns = Unknowns(*starts(generator, angles.to(device), options))
    steps = descend(generator, unknowns, targets.repeat(tries, 1, 1, 1), by, options, partial(chance, options, by, targets.shape[-1] ** 2, unknowns))
    with tqdm(steps, "inverting", total=options.steps, leave=False, disable=None, dynamic_ncols=True) as bar:
        for losses, _ in bar:
            bar.set_postfix(loss=f"{losses.mean():.4g}", refresh=False)
    return best_of(generator, unknowns, targets, tries, count)


def inversion_march(generator: Generator) -> March:
    """A surface's own march; for a field without one the release's: 24 samples and no fine ones."""
    by = march_options(generator.config, training=True)
    return by if by.surface else March(**{**vars(by), "coarse": PIGAN_SAMPLES, "fine": 0})


def starts(generator: Generator, angles: Tensor, options: Fit) -> tuple[Codes, Tensor]:
    """Codes (restarts x B, total) and cameras (restarts x B, 2), start by start: the mean code from the given cameras, then random ones from other sides."""
    seeds = list(range(1, options.restarts))
    with torch.no_grad():
        random = generator.codes(generator.latents(seeds), START_PSI) if seeds else tuple(mean[:0] for mean in generator.average)
    codes = tuple(torch.cat([mean, other]).repeat_interleave(len(angles), 0) for mean, other in zip(generator.average, random))
    yaws = torch.tensor([START_YAWS[i % len(START_YAWS)] for i in range(options.restarts)]).repeat_interleave(len(angles)).to(angles)
    turned = torch.stack([torch.zeros_like(yaws), yaws * options.opt_cam], dim=1)
    return codes, angles.repeat(options.restarts, 1) + turned


def chance(options: Fit, by: March, pixels: int, unknowns: Unknowns, step: int) -> Chance:
    """The draws of a step, a function of the seed and the step."""
    device, (count, total) = unknowns.angles.device, unknowns.frequencies.shape
    source = draws.generator(options.seed, step, "invert", device)
    normal = lambda: torch.randn(count, total, generator=source, device=device)
    frequencies, phases = normal(), normal()
    some = torch.randperm(pixels, generator=source, device=device)[:options.rays or pixels]
    uniform = lambda samples: torch.rand(count, len(some), samples, generator=source, device=device) if samples else None
    return Chance(frequencies, phases, some, Draws(coarse=None if by.surface else uniform(by.coarse), surface=uniform(by.surface), fine=uniform(by.fine)))


def descend(generator: Generator, unknowns: Unknowns, targets: Tensor, by: March, options: Fit,
            chance: Callable[[int], Chance]) -> Iterator[tuple[Tensor, Tensor]]:
    """Step by step the mean squared errors (B,) and the colours (B, R, 3), in [-1, 1], from before the step. Raises NonFinite.

    Adam with its own (not decoupled) weight decay, its rates cut in stairs; each picture's gradient is its own, however many there are.
    """
    groups = [{"params": [unknowns.frequencies, unknowns.phases], "lr": options.lr, "weight_decay": options.weight_decay}]
    if options.opt_cam:
        groups.append({"params": [unknowns.angles], "lr": options.lr_cam})
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, options.lr_step, options.lr_gamma)
    for step in range(options.steps):
        optimizer.zero_grad()
        losses, colors = reproduce(generator, unknowns, targets, by, chance(step), options.noise_scale * (options.steps - step) / options.steps)
        if not losses.isfinite().all():
            raise NonFinite(f"the loss of the inversion is not finite at step {step + 1}")
        optimizer.step()
        schedule.step()
        yield losses, colors


def reproduce(generator: Generator, unknowns: Unknowns, targets: Tensor, by: March, drawn: Chance, noise: float) -> tuple[Tensor, Tensor]:
    """The mean squared errors (B,) of the drawn pixels and their colours (B, R, 3); the gradients go to the unknowns, some rays at a time."""
    side = targets.shape[-1]
    uv, wanted = pixel_grid(side, side, targets.device)[drawn.pixels], targets.flatten(2).transpose(1, 2)[:, drawn.pixels]
    losses, colors = targets.new_zeros(len(targets)), []
    for some in torch.arange(len(uv), device=uv.device).split(max(1, RAYS // len(targets))):
        scene = generator.scene(unknowns.codes((noise * drawn.frequencies, noise * drawn.phases)))
        cameras = pigan_cameras(unknowns.angles, generator.config.fov, side)
        of_rays = Draws(**{name: value[:, some] if isinstance(value, Tensor) else value for name, value in vars(drawn.march).items()})
        seen = 2 * see(generator, scene, cameras, uv[some][None], by, of_rays)["colors"] - 1
        loss = (seen - wanted[:, some]).square().sum((1, 2)) / wanted[0].numel()
        loss.sum().backward()
        losses, colors = losses + loss.detach(), [*colors, seen.detach()]
    return losses, torch.cat(colors, dim=1)


@torch.no_grad()
def best_of(generator: Generator, unknowns: Unknowns, targets: Tensor, tries: int, count: int) -> list[Found]:
    """Of each of `count` pictures the try whose reproduction is nearest; try t of picture i is row t * count + i."""
    frequencies, phases = unknowns.codes()

    def found(row: int) -> Found:
        codes, angles = (frequencies[row:row + 1], phases[row:row + 1]), unknowns.angles[row:row + 1].detach()
        colors = look(generator, generator.scene(codes), angles, targets.shape[-1])["colors"][0]
        return Found(codes, angles, float((2 * colors.permute(2, 0, 1) - 1 - targets[row % count]).square().mean()))

    return [min((found(t * count + i) for t in range(tries)), key=lambda one: one.error) for i in range(count)]


# What was found

def write(config: InvertConfig, generator: Generator, target: Tensor, found: Found, folder: Path) -> dict:
    """The folder of a photo; returns its figures."""
    write_codes(folder / "codes.npz", found.codes, found.angles)
    scene = generator.scene(found.codes)
    shown = drawings(generator, look(generator, scene, found.angles, target.shape[-1]))
    row = [as_pictures((target.permute(1, 2, 0) + 1) / 2), *(shown[name][0] for name in ("img", "normal", "depth"))]
    write_png(folder / "reproduction.png", contact_sheet(row, len(row)))
    look_round(config, generator, scene, folder)
    return {"error": found.error, "psnr": psnr(found.error), "pitch": float(found.angles[0, 0]), "yaw": float(found.angles[0, 1])}


def look_round(config: InvertConfig, generator: Generator, scene: Scene, folder: Path) -> None:
    """Five sides, a film and the mesh of the head whose codes.npz lies in `folder`; one without a surface has no mesh, which a line says."""
    sides = drawings(generator, look(generator, scene, paths.steps(center=center_of(generator)), config.image_size))
    write_png(folder / "views.png", contact_sheet([*sides["img"], *sides["normal"]], len(paths.OFFSETS)))
    given = {name: getattr(config, name) for name in ("generator_path", "checkpoint", "curriculum", "device")}
    given |= {"codes": str(folder / "codes.npz"), "output_dir": str(folder)}
    if config.num_frames:
        render.video(render.VideoConfig(image_size=config.image_size, num_frames=config.num_frames, **given))
    if config.voxel_resolution:
        try:
            extract.shapes(extract.ShapesConfig(voxel_resolution=config.voxel_resolution, **given))
        except InputError as error:
            print(f"{folder.name}: no mesh: {error}", file=sys.stderr)


def psnr(error: float) -> float:
    """Decibels of a mean squared error in [-1, 1]."""
    return 10 * math.log10(4 / max(error, 1e-12))


def write_codes(path: Path, codes: Codes, angles: Tensor) -> None:
    """Frequencies and phases (1, total) and the camera they were found at, [pitch, yaw] (1, 2), as .npz."""
    arrays = {name: value.cpu().numpy() for name, value in zip(("frequencies", "phases", "angles"), (*codes, angles))}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    run_program(main, InvertConfig, __doc__)
