"""The commands of sof/render.py that change a head: `interpolate` from head to head, `edit` its expression, hair or shape, `film` as the notebooks do."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.cameras import look_at
from common.config import option
from common.errors import InputError
from common.images import contact_sheet, write_png
from common.labels import colorize
from common.ranks import device_of
from sof.cameras import CENTER, film_path, path_poses
from sof.edit import Draw, FilmOptions, drawer, eased, exchange_film, expression_film, journey, keep_face, overlay, there_and_back, with_expressions
from sof.look import PALETTES, Look, cameras_at, code_of, distance_of, facing, opened, read_codes, read_rows, row_of, write_views
from sof.model import SOF

WEIGHTS = {"cdf": eased, "linear": lambda count: torch.linspace(0, 1, count, dtype=torch.float64)}
FACE = tuple(range(2, 11))                                      # what an expression changes: brows, eyes, nose, mouth, lips
SHEET_CODES, SHEET_AZIMUTHS = 8, (-40.0, 0.0, 40.0)
SWEEPS = {"expressions": 0.45, "exchange": 0.55}                # radians to each side, TestAll's and Test_MV_Inference's


@dataclass
class InterpolateConfig(Look):
    """Options of `interpolate`."""

    to: list[str] = option(..., "heads to go on to, in this order; each as for instance")
    count: int = option(60, "frames", low=2)
    weights: str = option("cdf", "cdf: eased in and out, linear: evenly", choices=WEIGHTS)
    path: str = option("front", "cameras meanwhile", choices=("front", "turntable", "sphere", "spiral"))
    fps: float = option(15.0, "frames a second of the films", low=1)


@dataclass
class EditConfig(Look):
    """Options of `edit`."""

    what: str = option("shape", "what of the face may change: its expression alone, its hair alone, or all of it", choices=("expression", "hair", "shape"))
    direction: str | None = option(None, "direction in code space, an .npy file of one code's size")
    towards: str | None = option(None, "head whose code the direction leads to, as for instance")
    amount: float | None = option(None, "how far along the direction; empty: 0.6, as the notebooks go, of a file, 1 towards a head")
    azimuth: float = option(0.0, "of the camera, in degrees from the front")
    count: int = option(40, "frames, there and back", low=3)
    fps: float = option(15.0, "frames a second of the films", low=1)


@dataclass
class FilmConfig(FilmOptions, Look):
    """Options of `film`."""

    to: str = option(..., "the other head, as for instance")
    kind: str = option("expressions", "expressions: TestAll's, exchange: Test_MV_Inference's, which turns about both heads", choices=SWEEPS)
    sweep: float | None = option(None, "radians that the camera swings to each side first; empty: 0.45 for expressions (TestAll's other film: 0.55), else 0.55")
    directions: list[str] = option([], "for expressions: two .npy files, the direction for closed mouths (a smile) and for open ones (neutral); empty: none")
    fps: float = option(15.0, "frames a second of the films", low=1)


@dataclass
class ExpressionsConfig(Look):
    """Options of `expressions`."""

    params: str | None = option(None, "face parameters, one expression a row, an .npy file; empty: those of the heads that the model was trained on")
    kept: int = option(164, "of the head's own face parameters, the first that stay: who it is", low=0)
    azimuth: float = option(0.0, "of the camera, in degrees from the front")
    fps: float = option(15.0, "frames a second of the films", low=1)


@torch.no_grad()
def interpolate(config: InterpolateConfig) -> None:
    """From head to head: label maps, films, and a sheet of the codes between from three sides."""
    sof = opened(config)
    heads = torch.cat([code_of(config, sof, head) for head in (config.instance, *config.to)])
    distance = distance_of(config, sof)
    poses = facing([0.0] * config.count, distance) if config.path == "front" else path_poses(config.path, config.count, distance)
    if len(poses) < len(heads):
        raise InputError(f"--count {config.count}: {len(heads)} heads need as many frames")
    draw, out = drawer_of(config, sof), Path(config.out)
    write_views(out, draw(poses, journey(heads, len(poses), WEIGHTS[config.weights])), config.palette, config.fps, "interpolation")
    some = journey(heads, max(SHEET_CODES, len(heads)), WEIGHTS["linear"])
    rows = [draw(facing([azimuth] * len(some), distance), some) for azimuth in SHEET_AZIMUTHS]
    write_png(out / "interpolation.png", contact_sheet([frame for row in rows for frame in colorize(row, PALETTES[config.palette])], columns=len(some)))
    print(f"{len(poses)} frames in {out}; {out / 'interpolation.png'}")


@torch.no_grad()
def edit(config: EditConfig) -> None:
    """One head along a direction of code space and back, all of it or its expression or hair alone."""
    sof = opened(config)
    code = code_of(config, sof, config.instance)
    direction, amount = direction_of(config, sof, code)
    codes = there_and_back(code, direction, amount, config.count)
    frames = drawer_of(config, sof)(facing([config.azimuth] * config.count, distance_of(config, sof)), codes)
    if config.what == "expression":
        frames = overlay(frames[0], frames, FACE)
    elif config.what == "hair":
        frames = keep_face(frames[0], frames)
    write_views(Path(config.out), frames, config.palette, config.fps, "edit")
    print(f"{len(frames)} frames in {config.out}, {config.count // 2} of them there")


@torch.no_grad()
def film(config: FilmConfig) -> None:
    """The notebooks' films: a head from all sides, its expression, and into another head."""
    sof = opened(config)
    source, target = (code_of(config, sof, head) for head in (config.instance, config.to))
    center = torch.tensor(CENTER, dtype=torch.float64)
    front = center + torch.tensor([0.0, 0.0, distance_of(config, sof)], dtype=torch.float64)
    swing = SWEEPS[config.kind] if config.sweep is None else config.sweep
    poses, draw = look_at(*film_path(front, center, steps=config.steps, sweeps=(0.0, -swing, swing, 0.0))), drawer_of(config, sof)
    if config.kind == "exchange":
        frames = exchange_film(draw, source, target, poses, config, again=4 * config.steps)
    else:
        frames = expression_film(draw, source, target, poses, config, directions_of(config, sof))
    write_views(Path(config.out), frames, config.palette, config.fps, "film")
    print(f"{len(frames)} frames in {config.out}")


@torch.no_grad()
def expressions(config: ExpressionsConfig) -> None:
    """One head of a model with an encoder (--use_encoder) with every expression there is, or those of a file (Test_expression)."""
    sof = opened(config)
    if not sof.config.use_encoder:
        raise InputError(f"{config.checkpoint}: its codes are learned one by one, expected a model of face parameters (--use_encoder)")
    row = row_of(config, sof, config.instance)
    params = sof.face_params if config.params is None else read_rows(config.params, sof.config.encoder_size).to(sof.face_params)
    codes = sof.mapping_fn(with_expressions(sof.face_params[row], params, config.kept))
    frames = drawer_of(config, sof)(facing([config.azimuth] * len(codes), distance_of(config, sof)), codes)
    write_views(Path(config.out), frames, config.palette, config.fps, "expressions")
    print(f"{len(frames)} expressions in {config.out}")


def drawer_of(config: Look, sof: SOF) -> Draw:
    """Label maps of the model with the cameras that were asked for."""
    return drawer(sof, lambda poses: cameras_at(config, sof, poses), config.side)


def direction_of(config: EditConfig, sof: SOF, code: Tensor) -> tuple[Tensor, float]:
    """The direction (1, C) and how far to go. Raises InputError unless there is exactly one."""
    if (config.direction is None) == (config.towards is None):
        raise InputError("--direction, --towards: give one of them")
    if config.towards is not None:
        return code_of(config, sof, config.towards) - code, 1.0 if config.amount is None else config.amount
    return code_of(config, sof, config.direction), 0.6 if config.amount is None else config.amount


def directions_of(config: FilmConfig, sof: SOF) -> Tensor | None:
    """The two directions (2, C) of a film's expressions, if any."""
    if len(config.directions) not in (0, 2):
        raise InputError(f"--directions: expected two .npy files, got {len(config.directions)}")
    codes = [read_codes(path, sof)[:1] for path in config.directions]
    return torch.cat(codes).to(device_of(config.device)) if codes else None
