"""Look at a trained GOF or pi-GAN: python gof/render.py --checkpoint pretrained/gof_people.safetensors

show (meant where no command stands): a sheet of codes and a film of their heads turning; views: codes from five sides, with depth, masks and normals;
video: a code from an ellipse of cameras; interpolate: from code to code. A code is a seed, as torch.manual_seed's.
No picture has a random draw in it: the same command writes the same files.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import option, run_commands
from common.errors import InputError
from common.images import contact_sheet, write_png
from common.march import March
from common.pigan import Scene
from gof import paths
from gof.look import Opening, center_of, codes_scene, drawings, look, opened, sample_sheet, scene_of, shoot_surface
from gof.model import Generator, march_options, shoot

KINDS = {"colors": "img", "normals": "normal", "depth": "depth", "surface": "single"}
COMPOSITED = {"colors", "depth"}
TURNING = 4                                                   # heads in the film of `show`


@dataclass
class Picture(Opening):
    """The options of every picture."""

    output_dir: str = option("out/gof_render", "folder for what is written")
    psi: float = option(0.7, "truncation: 1 takes codes as drawn, 0 gives the average head", low=0)
    image_size: int = option(256, "side of the pictures, in pixels", low=4)
    ray_step_multiplier: int = option(2, "times the training's samples on a ray", low=1)
    lock_view_dependence: bool = option(False, "colours as seen from the front, from everywhere")
    max_batch_size: int | None = option(None, "points the field is asked for at once; empty: what suits the device", low=1)


@dataclass
class ShowConfig(Picture):
    """Options of `show`."""

    seeds: list[int] = option([0, 1, 2, 3, 4, 5, 6, 7], f"codes of the sheet; the first {TURNING} turn in the film", low=0)
    image_size: int = option(96, "side of the pictures, in pixels", low=4)
    ray_step_multiplier: int = option(1, "times the training's samples on a ray", low=1)
    num_frames: int = option(24, "frames of the film", low=1)
    fps: float = option(12.0, "frames a second", low=1)


@dataclass
class ViewsConfig(Picture):
    """Options of `views`."""

    seeds_start: int = option(0, "the first code", low=0)
    seeds_end: int = option(10, "the code after the last", low=1)
    surface_only: bool = option(False, "fast: the colour of the field at the surface found, nothing composited")
    published_normalisation: bool = option(False, "the release's contrast: each picture stretched from its own least to its greatest value, a grid as one")


@dataclass
class FilmConfig(Picture):
    """The options of every film."""

    kind: list[str] = option(["colors", "normals"], "a film each; surface: the field's colour at the surface, fast without colors and depth", choices=KINDS)
    num_frames: int = option(36, "frames, of interpolate from one code to the next", low=1)
    fps: float = option(15.0, "frames a second", low=1)
    frames: bool = option(False, "also every frame as a PNG: img_000.png, normal_000.png, depth_000.png, single_000.png")


@dataclass
class VideoConfig(FilmConfig):
    """Options of `video`."""

    seed: int = option(0, "the code", low=0)
    codes: str | None = option(None, "in place of the seed: codes.npz of gof/invert.py")


@dataclass
class InterpolateConfig(FilmConfig):
    """Options of `interpolate`."""

    seeds: list[int] = option([0, 1, 2], "codes to go to, one after the other, and back to the first", low=0)
    trajectory: str = option("front", "cameras: front swings and zooms, orbit all the way round, ellipse is video's", choices=("front", "orbit", "ellipse"))
    published_normalisation: bool = option(False, "the release's contrast: each picture but normals stretched from its own least to its greatest value")


def show(config: ShowConfig) -> None:
    """A sheet of codes, frontal, tilted, their normals and depth; and a film of some, turning."""
    generator, out = opened(config), Path(config.output_dir)
    at_least(1, config.seeds)
    write_png(out / "samples.png", sample_sheet(generator, config.seeds, config.image_size, config.psi, march_of(config, generator)))
    head = lambda seed: list(turning(config, generator, scene_of(generator, seed, config.psi), ("colors", "normals"), f"seed {seed}"))
    heads = [head(seed) for seed in config.seeds[:TURNING]]
    frames = [contact_sheet([frame[kind] for kind in ("colors", "normals") for frame in shown], columns=len(shown)) for shown in zip(*heads)]
    write_film(out / "turntable.mp4", frames, config.fps)
    print(f"{out / 'samples.png'}, {out / 'turntable.mp4'}")


def views(config: ViewsConfig) -> None:
    """Codes from five sides: img, single (the surface's colour), depth, pred_depth (the surface's), mask, normal, and a grid of the five."""
    from tqdm import trange

    generator, out = opened(config), Path(config.output_dir)
    if config.seeds_end <= config.seeds_start:
        raise InputError(f"--seeds_end {config.seeds_end}: expected more than --seeds_start {config.seeds_start}")
    angles, see = paths.steps(center=center_of(generator)), seer(config, generator, not config.surface_only)
    for seed in trange(config.seeds_start, config.seeds_end, desc="codes", dynamic_ncols=True):
        seen = see(scene_of(generator, seed, config.psi), angles)
        for name, pictures in drawings(generator, seen, config.published_normalisation).items():
            for yaw, picture in zip(angles[:, 1].tolist(), pictures):
                write_png(out / f"{name}_{seed}_{yaw}_.png", picture)
        abreast = {name: torch.cat(list(values), dim=1)[None] for name, values in seen.items()}
        shown = drawings(generator, abreast, config.published_normalisation)
        write_png(out / f"grid_{seed}.png", np.concatenate([shown.get("img", shown["single"])[0], shown["normal"][0]]))
    print(f"{config.seeds_end - config.seeds_start} codes from {len(angles)} sides in {out}")


def video(config: VideoConfig) -> None:
    """One code from an ellipse of cameras about the front."""
    generator = opened(config)
    scene = codes_scene(generator, config.codes) if config.codes else scene_of(generator, config.seed, config.psi)
    write_films(config, "video", turning(config, generator, scene, config.kind, "frames"), [f"{frame:03d}" for frame in range(config.num_frames)])


def interpolate(config: InterpolateConfig) -> None:
    """From code to code and back to the first."""
    generator = opened(config)
    at_least(2, config.seeds)
    legs, count = len(config.seeds), config.num_frames
    angles, fovs = trajectory(config, generator)
    scenes = between(generator, config.seeds, config.psi, count)
    frames = frames_of(config, generator, config.kind, scenes, angles.repeat(legs, 1), fovs.repeat(legs), config.published_normalisation)
    write_films(config, "interpolation", frames, [f"{leg:02d}_{frame:03d}" for leg in range(legs) for frame in range(count)])


# What the commands share

def at_least(count: int, seeds: list[int]) -> None:
    """Raises InputError for fewer codes."""
    if len(seeds) < count:
        raise InputError(f"--seeds: expected {count} or more, got {len(seeds)}")


def march_of(config: Picture, generator: Generator) -> March:
    """How the pictures' rays are sampled."""
    by = march_options(generator.config, multiplier=config.ray_step_multiplier)
    return replace(by, lock_view=by.lock_view or config.lock_view_dependence)


def seer(config: Picture, generator: Generator, composited: bool = True) -> Callable[..., dict[str, Tensor]]:
    """see(scene, angles, fov=None): `gof.look.look` by the options; of the surface alone where nothing must be composited and the field has one."""
    by = march_of(config, generator)
    how = shoot if composited or not by.surface else shoot_surface
    chunk = config.max_batch_size and max(1, config.max_batch_size // max(by.coarse, by.surface, by.fine))
    return lambda scene, angles, fov=None: look(generator, scene, angles, config.image_size, by, fov, how, chunk)


def trajectory(config: InterpolateConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Angles (num_frames, 2) and fields of view (num_frames,) from one code to the next."""
    count, fov = config.num_frames, generator.config.fov
    if config.trajectory == "ellipse":
        return paths.ellipse(count, center=center_of(generator)), torch.full((count,), fov)
    return paths.front(count, fov, center_of(generator)) if config.trajectory == "front" else paths.circle(count, fov)


@torch.no_grad()
def between(generator: Generator, seeds: list[int], psi: float, count: int) -> Iterator[Scene]:
    """Scenes of truncated codes on the straight lines from each seed's to the next, the last one's back to the first; `count` a line, both ends included."""
    codes = generator.codes(generator.latents(seeds), psi)
    for a in range(len(seeds)):
        b = (a + 1) % len(seeds)
        for t in paths.shares(count).tolist():
            yield generator.scene(tuple(torch.lerp(code[a:a + 1], code[b:b + 1], t) for code in codes))


def frames_of(config: Picture, generator: Generator, kinds: Iterable[str], scenes: Iterable[Scene], angles: Tensor, fovs: Tensor, stretch: bool = False,
              what: str = "frames") -> Iterator[dict[str, np.ndarray]]:
    """{kind: frame (H, W, 3)} of as many scenes, cameras (N, 2) and fields of view (N,), one after the other; a bar says `what`."""
    from tqdm import tqdm

    see = seer(config, generator, bool(COMPOSITED.intersection(kinds)))
    for scene, camera, fov in tqdm(zip(scenes, angles, fovs), total=len(angles), desc=what, dynamic_ncols=True):
        shown = drawings(generator, see(scene, camera[None], fov[None]), stretch)
        yield {kind: shown[KINDS[kind]][0] for kind in kinds}


def turning(config: ShowConfig | FilmConfig, generator: Generator, scene: Scene, kinds: Iterable[str], what: str) -> Iterator[dict[str, np.ndarray]]:
    """The same of one scene, from an ellipse about the front."""
    angles = paths.ellipse(config.num_frames, center=center_of(generator))
    return frames_of(config, generator, kinds, [scene] * len(angles), angles, torch.full((len(angles),), generator.config.fov), what=what)


def write_films(config: FilmConfig, name: str, shown: Iterable[dict[str, np.ndarray]], numbers: list[str]) -> None:
    """OUTPUT_DIR/NAME_KIND.mp4 of frames {kind: frame}; if asked for the frames too, by these numbers."""
    out, shown = Path(config.output_dir), list(shown)
    for kind in config.kind:
        write_film(out / f"{name}_{kind}.mp4", [frame[kind] for frame in shown], config.fps)
        for frame, number in zip(shown, numbers if config.frames else ()):
            write_png(out / f"{KINDS[kind]}_{number}.png", frame[kind])
        print(out / f"{name}_{kind}.mp4")


def write_film(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """An .mp4 of frames (H, W, 3) uint8."""
    from common.video import write_video

    write_video(path, frames, fps)


if __name__ == "__main__":
    commands = {"show": (show, ShowConfig), "views": (views, ViewsConfig), "video": (video, VideoConfig), "interpolate": (interpolate, InterpolateConfig)}
    run_commands(commands, __doc__, default="show")
