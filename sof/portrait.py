"""Portraits through SofGAN's generator: python sof/portrait.py paint --generator generator.pt --checkpoint log/people --path spiral --out out/portraits

paint: label maps, or a head from a path of cameras, in several styles; mix: a film in which a style takes another's place region by region; restyle:
photos, parsed and painted anew; parse: photos to label maps. --draw_weights SEED tries all of it without the authors' files.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise, zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import parser as parsers
from common.config import option, run_commands
from common.errors import InputError
from common.images import contact_sheet, read_labels, read_picture, resize_nearest, write_png
from common.labels import SOF_LABELS, colorize
from common.parser import BiSeNet, Parser
from common.ranks import device_of
from sof import painter as painters
from sof.cameras import path_poses
from sof.edit import drawer
from sof.look import PALETTES, Look, cameras_at, code_of, distance_of, opened
from sof.painter import Painter, PainterConfig, Plan, condition_labels, published_widths
from sof.styles import REGIONS, agreement, choose, in_region, mean_code, region_by_region, style_codes
from sof.styles import paint as paint_styles

PATHS = ("spiral", "turntable", "sphere", "uniform")
ORIGIN = "SofGAN's authors say in the README of their repository, apchenstu/sofgan, where to get it; --draw_weights SEED tries the rest without"
SHEET_ROWS = 8


@dataclass
class Options:
    """What every command needs."""

    out: str = option(..., "folder for what is written")
    draw_weights: int | None = option(None, "seed: networks with drawn weights in place of files, to try the machinery", low=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:NUMBER")


@dataclass
class ParserOptions(Options):
    """What parsing needs."""

    parser: str | None = option(None, "face parser: the authors' segNet-20Class.pth, or one of ours")
    palette: str = option("notebook", "colours of the labels", choices=PALETTES)


@dataclass
class PainterOptions(Options):
    """What painting needs."""

    generator: str | None = option(None, "the authors' generator.pt")
    draw_resolution: int = option(256, "with draw_weights: side of the portraits, in pixels", choices=(64, 128, 256, 512, 1024))
    split_norm: bool = option(True, "map styles as in training and in the notebooks; False: as the release's Painter app")
    styles: list[int] = option([0, 1, 2], "seeds of the styles", low=0)
    psi: float = option(0.7, "truncation: 1 any style, 0 the mean one")
    fps: float = option(20.0, "frames a second of the films", low=1)


@dataclass
class StyleOptions(PainterOptions, ParserOptions):
    """How styles are chosen and mixed."""

    style_mask: list[str] = option([], "the first style everywhere, the others in these regions alone", choices=REGIONS)
    filter_styles: bool = option(False, "as many seeds as given, but the first, from the least on, whose portraits the parser reads as the labels")


@dataclass
class PaintConfig(StyleOptions, Look):
    """Options of `paint`."""

    labels: list[str] = option([], "label maps to paint: square PNGs, or folders of seg_*.png")
    checkpoint: str | None = option(None, "SOF to paint a head of, instead of label maps: run folder, checkpoint of ours or author's file")
    path: str = option("spiral", "cameras round the head", choices=PATHS)
    count: int = option(120, "cameras on the path (uniform: at each of 5 heights)", low=1)
    save_frames: bool = option(False, "of a path of cameras, every portrait as a PNG too")


@dataclass
class MixConfig(PainterOptions):
    """Options of `mix`."""

    labels: str = option(..., "the label map, a square PNG")
    regions: list[str] = option(["background", "complexion", "hair", "eyes_mouth", "wearings"], "what changes its style, in this order", choices=REGIONS)
    frames: int = option(40, "frames in which a region changes", low=2)


@dataclass
class RestyleConfig(StyleOptions):
    """Options of `restyle`."""

    photos: list[str] = option(..., "portraits, the face in the middle", positional=True)


@dataclass
class ParseConfig(ParserOptions):
    """Options of `parse`."""

    photos: list[str] = option(..., "portraits, the face in the middle", positional=True)
    side: int = option(512, "side of the label maps, in pixels", low=1)


def paint(config: PaintConfig) -> None:
    """Portraits of label maps, or a film of one head from a path of cameras, in each style."""
    if bool(config.labels) == bool(config.checkpoint):
        raise InputError("--labels, --checkpoint: give label maps or a SOF, one of them")
    painter = load_painter(config)
    if config.checkpoint:
        maps = maps_of_head(config)
        portray(config, painter, maps, [f"{k:03d}" for k in range(len(maps))] if config.save_frames else [])
    else:
        files = label_files(config.labels)
        portray(config, painter, [square_labels(file) for file in files], distinct(files))


def mix(config: MixConfig) -> None:
    """A film of one label map in which each style takes the place of the one before, region by region."""
    from common.video import write_video

    if len(config.styles) < 2:
        raise InputError(f"--styles: mixing takes two or more, got {len(config.styles)}")
    painter, out = load_painter(config), Path(config.out) / "mix.mp4"
    labels = painter_labels(painter, square_labels(Path(config.labels)))
    codes, plan = style_codes(painter, config.styles, config.psi), planned(painter, labels)
    steps = [step for pair in pairwise(codes) for step in region_by_region(*pair, labels, config.regions, config.frames)]
    if not steps:
        raise InputError(f"--regions {' '.join(config.regions)}: {config.labels} has none of them")
    write_video(out, progress((paint_styles(painter, plan, *step)[0] for step in steps), len(steps)), config.fps)
    print(f"{len(steps)} frames in {out}")


def restyle(config: RestyleConfig) -> None:
    """Photos parsed into label maps and painted anew in each style."""
    painter, parser = load_painter(config), load_parser(config)
    files = photo_files(config.photos)
    photos = np.stack([square_photo(file, parser.side) for file in files])
    portray(config, painter, parsers.parse(parser, photos), distinct(files), photos, parser)


def parse(config: ParseConfig) -> None:
    """Label maps of photos: OUT/NAME.png, which sof/invert.py takes as they are, and OUT/vis/NAME.png to look at."""
    parser, out = load_parser(config), Path(config.out)
    files = photo_files(config.photos)
    for file, name in zip(files, distinct(files)):
        (labels,) = parsers.parse(parser, square_photo(file, config.side)[None])
        write_png(out / f"{name}.png", labels)
        write_png(out / "vis" / f"{name}.png", colorize(labels, PALETTES[config.palette]))
    print(f"{len(config.photos)} label maps in {out}")


# What the commands share

def portray(config: StyleOptions, painter: Painter, maps: Sequence[np.ndarray], names: list[str], photos: np.ndarray | None = None,
            parser: Parser | None = None) -> None:
    """Paint label maps (H, W) in each style: NAME_style0.png ... of those that have names, a sheet of the first maps, and, of several, a film of all."""
    from common.video import write_video

    out, seeds = Path(config.out), chosen_seeds(config, painter, maps[0], parser)
    every = progress(mosaics(config, painter, style_codes(painter, seeds, config.psi), maps), len(maps))
    every = saved(every, out, names, seeds)
    first = list(islice(every, SHEET_ROWS))
    rows = first if photos is None else [[at_side(photo, painter.resolution), *tiles] for photo, tiles in zip(photos, first)]
    write_png(out / "portraits.png", contact_sheet(chain(*rows), columns=len(rows[0])))
    if len(maps) > 1:
        write_video(out / "portraits.mp4", (contact_sheet(tiles, math.ceil(math.sqrt(len(tiles))), gap=0) for tiles in chain(first, every)), config.fps)
    print(f"{len(maps)} label maps in styles {' '.join(map(str, seeds))}; {out / 'portraits.png'}")


def mosaics(config: StyleOptions, painter: Painter, codes: Tensor, maps: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """For each label map its colours and its portraits in styles (S, L, D), which --style_mask may confine: 1 + S pictures (R, R, 3) uint8."""
    for labels in maps:
        classes = painter_labels(painter, labels)
        rows, mask = in_region(codes, classes, config.style_mask) if config.style_mask else (codes[:, None], None)
        colors = resize_nearest(colorize(labels, PALETTES[config.palette]), painter.resolution, painter.resolution)
        yield [colors, *paint_styles(painter, planned(painter, classes), rows, mask)]


def saved(every: Iterable[list[np.ndarray]], out: Path, names: list[str], seeds: list[int]) -> Iterator[list[np.ndarray]]:
    """The same mosaics, the portraits of those that have a name written on the way."""
    for name, tiles in zip_longest(names, every):
        for seed, picture in zip(seeds, tiles[1:]) if name else ():
            write_png(out / f"{name}_style{seed}.png", picture)
        yield tiles


def chosen_seeds(config: StyleOptions, painter: Painter, labels: np.ndarray, parser: Parser | None) -> list[int]:
    """The seeds given, or as many whose portraits of a label map agree with it. Raises InputError for too few styles to mix."""
    if len(config.styles) < 1 + bool(config.style_mask):
        raise InputError(f"--styles: expected {1 + bool(config.style_mask)} or more, got {len(config.styles)}")
    if not config.filter_styles:
        return config.styles
    parser, classes, mean = parser or load_parser(config), painter_labels(painter, labels), mean_code(painter)
    plan = planned(painter, classes)
    score = lambda seeds: agreement(parser, paint_styles(painter, plan, style_codes(painter, seeds, config.psi, mean)[:, None]), classes)
    found = choose(len(config.styles), min(config.styles), score)
    print("agreement with the labels: " + ", ".join(f"style {seed} {value:.3f}" for seed, value in found))
    return [seed for seed, _ in found]


def painter_labels(painter: Painter, labels: np.ndarray) -> Tensor:
    """The painter's classes (1, H, W) of SOF's label map (H, W)."""
    return condition_labels(torch.from_numpy(labels).to(painter.device))[None]


@torch.no_grad()
def planned(painter: Painter, classes: Tensor) -> Plan:
    """What the painter makes of label maps of its classes, for painting alone."""
    return painter.plan(classes)


def progress(frames: Iterable, count: int) -> Iterator:
    """The same frames, with a bar."""
    from tqdm import tqdm

    return iter(tqdm(frames, "portraits", count, leave=False, disable=None))


# Networks

def load_painter(config: PainterOptions) -> Painter:
    """The authors' painter, or one of drawn weights. Raises InputError that says where the file comes from."""
    device = device_of(config.device)
    if config.draw_weights is None:
        return painters.load(there(config.generator, "--generator", "generator.pt"), config.split_norm).to(device)
    print("drawn weights: the portraits show that the machinery runs, nothing more")
    torch.manual_seed(config.draw_weights)
    return Painter(PainterConfig(published_widths(config.draw_resolution), split_norm=config.split_norm)).to(device).eval()


def load_parser(config: ParserOptions) -> Parser:
    """The face parser given, or one of drawn weights. Raises InputError that says where the authors' comes from, and for other classes than SOF's."""
    device = device_of(config.device)
    if config.draw_weights is not None and config.parser is None:
        torch.manual_seed(config.draw_weights)
        return Parser(BiSeNet().to(device).eval(), parsers.PUBLISHED_SIDE)
    parser = parsers.load(there(config.parser, "--parser", "segNet-20Class.pth"), device)
    if parser.classes != len(SOF_LABELS):
        raise InputError(f"--parser {config.parser}: tells {parser.classes} classes apart, expected SOF's {len(SOF_LABELS)}")
    return parser


def there(path: str | None, flag: str, name: str) -> str:
    """The path, if something is there."""
    if path is None or not Path(path).exists():
        raise InputError(f"{flag}: {'not given' if path is None else f'{path} is not there'}; expected {name}. {ORIGIN}")
    return path


# Label maps and photos

def maps_of_head(config: PaintConfig) -> np.ndarray:
    """Label maps (N, S, S) of the head from the path."""
    sof = opened(config)
    poses = path_poses(config.path, config.count, distance_of(config, sof))
    code = code_of(config, sof, config.instance)
    return drawer(sof, lambda some: cameras_at(config, sof, some), config.side)(poses, code.expand(len(poses), -1))


def label_files(paths: list[str]) -> list[Path]:
    """The files given, and the seg_*.png of folders given. Raises InputError for one that is empty."""
    found = []
    for path in map(Path, paths):
        files = sorted(path.glob("seg_[0-9]*.png")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"--labels: {path} holds no seg_*.png")
        found += files
    return found


def photo_files(paths: list[str]) -> list[Path]:
    if not paths:
        raise InputError("PHOTOS: give one or more pictures")
    return [Path(path) for path in paths]


def distinct(files: list[Path]) -> list[str]:
    """Names for what is made of each file: its stem, with its number in front where two would share one."""
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [f"{k:03d}_{stem}" for k, stem in enumerate(stems)]


def square_labels(path: Path) -> np.ndarray:
    """The label map (S, S) of a file. Raises InputError for one that is not square."""
    labels = read_labels(path)
    if labels.shape[0] != labels.shape[1]:
        raise InputError(f"{path}: {labels.shape[1]}x{labels.shape[0]}, expected a square label map")
    return labels


def square_photo(path: Path, side: int) -> np.ndarray:
    """The middle square of a picture file, (side, side, 3) uint8."""
    picture = read_picture(path)
    picture = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]
    size = min(picture.shape[:2])
    top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
    return at_side(picture[top:top + size, left:left + size], side)


def at_side(picture: np.ndarray, side: int) -> np.ndarray:
    """A square picture at another side."""
    from PIL import Image

    return np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    run_commands({"paint": (paint, PaintConfig), "mix": (mix, MixConfig), "restyle": (restyle, RestyleConfig), "parse": (parse, ParseConfig)}, __doc__)
