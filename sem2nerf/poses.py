"""Where Sem2NeRF's cameras stand: the data sets' pose files, the films' trajectories, the random cameras of GAN-only steps.

Cameras are pi-GAN's [pitch, yaw] (N, 2), float64 radians (see ``common.cameras``); frontal is (pi/2, pi/2).
"""
from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from common.errors import InputError

FRONT = math.pi / 2
RANGES = {"CelebAMask_HQ": ((0.4, 0.55), (0.3, 0.45)), "CatMask": ((0.3, 0.5), (0.25, 0.4))}          # how far random cameras stand aside: yaw, pitch
NOVEL_YAWS = {"CelebAMask_HQ": (-0.45, -0.25, 0.0, 0.25, 0.45), "CatMask": (-0.4, -0.2, 0.0, 0.2, 0.4)}
TRAJECTORIES = ("front", "orbit")
HEADER = {"CelebAMask_HQ": 2, "CatMask": 1}                   # lines


# Pose files

def read_poses(path: str | Path, env: str) -> dict[int, tuple[float, float]]:
    """{number of a picture: (pitch, yaw)} of a data set's pose file. Raises InputError naming the file and line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected the pose file of {env}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; expected the pose file of {env}") from None
    return parse_poses(text, env, str(path))


def parse_poses(text: str, env: str, where: str = "pose file") -> dict[int, tuple[float, float]]:
    """{number: (pitch, yaw)} of a pose file's text, after its header.

    CelebAMask_HQ: "<id>.jpg yaw pitch roll" in degrees from frontal; CatMask: "<id>.png yaw pitch", pi-GAN's radians.
    """
    poses = {}
    for line in [line.split() for line in text.splitlines() if line.strip()][HEADER[env]:]:
        try:
            number, first, second = picture_number(line[0]), float(line[1]), float(line[2])
        except (IndexError, ValueError):
            number, first, second = -1, math.nan, math.nan
        if not (math.isfinite(first) and math.isfinite(second)):
            raise InputError(f"{where}: {' '.join(line)[:60]!r} is no pose; expected a picture's name, its yaw and its pitch")
        poses[number] = (math.radians(90 + second), math.radians(90 - first)) if env == "CelebAMask_HQ" else (second, first)
    return poses


def picture_number(name: str) -> int:
    """The number of a picture or mask by its name: 419 of 00419.jpg and of 419_eye.png. Raises ValueError if it has none."""
    return int(Path(name).name.partition(".")[0].partition("_")[0])


def pose_of(poses: dict[int, tuple[float, float]], name: str, where: str) -> tuple[float, float]:
    """The (pitch, yaw) of a picture or mask by its name. Raises InputError naming the pose file."""
    try:
        return poses[picture_number(name)]
    except (KeyError, ValueError):
        raise InputError(f"{where}: no pose of {name}; expected a line that begins with its number") from None


# Cameras

def trajectory(name: str, frames: int, fov: float) -> Tensor:
    """[pitch, yaw, fov in degrees] (frames, 3) of a film; the first and the last frame are the same. Raises InputError for an unknown name.

    front: once round the front on an ellipse, zooming between 12 and 22 degrees; orbit: once round the head from 45 degrees above.
    """
    t = 2 * math.pi * torch.linspace(0, 1, frames, dtype=torch.float64)
    if name == "front":
        return torch.stack([FRONT + 0.2 * t.cos(), FRONT + 0.4 * t.sin(), 17 + 5 * t.sin()], dim=-1)
    if name == "orbit":
        return torch.stack([torch.full_like(t, math.pi / 4), t, torch.full_like(t, fov)], dim=-1)
    raise InputError(f"--trajectory: no trajectory {name!r}, expected one of {', '.join(TRAJECTORIES)}")


def novel_angles(env: str) -> Tensor:
    """[pitch, yaw] (5, 2): the published novel views, a turn from one side to the other."""
    yaws = FRONT + torch.tensor(NOVEL_YAWS[env], dtype=torch.float64)
    return torch.stack([torch.full_like(yaws, FRONT), yaws], dim=-1)


def random_candidates(u: Tensor, h_range: tuple[float, float], v_range: tuple[float, float]) -> Tensor:
    """[pitch, yaw] (4, ..., 2) of uniforms u (4, ...): far aside to either side, far above and far below, the other angle frontal."""
    spans = [(-h_range[1], -h_range[0]), h_range, (-v_range[1], -v_range[0]), v_range]
    aside = torch.stack([FRONT + low + row * (high - low) for row, (low, high) in zip(u, spans)])
    front = torch.full_like(aside, FRONT)
    return torch.stack([torch.cat([front[:2], aside[2:]]), torch.cat([aside[:2], front[2:]])], dim=-1)


def draw_random(n: int, env: str, generator: torch.Generator) -> Tensor:
    """[pitch, yaw] (n, 2) of random extreme cameras, each of one of the four kinds."""
    candidates = random_candidates(torch.rand(4, n, dtype=torch.float64, generator=generator), *RANGES[env])
    return candidates[torch.randint(4, (n,), generator=generator), torch.arange(n)]
