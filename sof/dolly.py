"""Depths of one head in pictures, from pinhole cameras: `dolly` away from it, and its mesh's `depth` from a path (TestAll's cells 6 and 8-10).

An orthographic model's world is larger than the one those distances are of: there they count in `WIDE` world units, so that the first picture of the
dolly is as wide as the orthographic one. A pinhole sees any model; it asks the same field along other rays.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import option
from common.images import contact_sheet, write_png
from common.labels import colorize
from common.ranks import device_of
from common.render import render
from sof.cameras import PUBLISHED_FOCAL, path_poses, published_cameras
from sof.look import PALETTES, Head, Picture, code_of, facing, opened, write_films
from sof.model import SOF
from sof.predict import rays_at_once, shooter
from sof.prior import PriorOptions, mesh_depth, prior_shooter, surface_of

NEAREST, FARTHEST, DOLLY_FOCAL, LONGER, DEPTH_FOCAL = 1.1, 3.0, 400.0, 7 * 200.0, 500.0         # TestAll's, on a 128 grid
WIDE = DOLLY_FOCAL / PUBLISHED_FOCAL / NEAREST                # world units of an orthographic model to one of theirs
BEFORE, DEEP, BACKGROUND = 0.25, 0.3, 10                      # colours go from BEFORE nearer than the camera's target over a range DEEP; of nothing


@dataclass
class DollyConfig(Head, Picture):
    """Options of `dolly`."""

    count: int = option(8, "pictures", low=1)
    focal: float = option(DOLLY_FOCAL, "of the first picture, on a 128 grid, in pixels; the last one's is 1400 longer", low=1)
    prior_steps: int = option(4, "steps of the march that begins on the mesh", low=0)
    fps: float = option(2.0, "frames a second of the films", low=1)


@dataclass
class DepthConfig(Head, Picture):
    """Options of `depth`."""

    path: str = option("turntable", "cameras round the head", choices=("turntable", "sphere", "uniform", "spiral", "fibonacci"))
    count: int = option(36, "cameras on the path (uniform: at each of 5 heights)", low=1)
    focal: float = option(DEPTH_FOCAL, "on a 128 grid, in pixels", low=1)
    fps: float = option(15.0, "frames a second of the films", low=1)


@torch.no_grad()
def dolly(config: DollyConfig) -> None:
    """Away from a head with a growing focal length: its labels by the march and with the depth prior, and the depths of both and of its mesh."""
    sof = opened(config)
    scene, unit = sof.scene(code_of(config, sof, config.instance)), unit_of(sof)
    mesh, _ = surface_of(sof, scene)
    prior = PriorOptions(depth_prior="start", prior_steps=config.prior_steps)
    shots = (shooter(sof, scene), prior_shooter(prior, sof, scene, mesh), mesh_depth(mesh, device_of(config.device)))
    frames, agree = [], []
    way = zip(np.linspace(NEAREST, FARTHEST, config.count), np.linspace(config.focal, config.focal + LONGER, config.count))
    for k, (distance, focal) in enumerate(way):
        camera = published_cameras(facing([0.0], distance * unit), focal, orthographic=False).move(device_of(config.device))
        plain, guided, surface = (render(shot, camera, config.side, config.side, rays_at_once(sof, config.side)) for shot in shots)
        labels = torch.cat([plain["labels"], guided["labels"]]).cpu().numpy()
        depths = torch.cat([seen["z_depth"] for seen in (plain, guided, surface)]) / unit
        there = torch.cat([plain["labels"] > 0, guided["labels"] > 0, surface["hit"]])
        frames.append(contact_sheet([*colorize(labels, PALETTES[config.palette]), *depth_colors(depths, there, distance)], columns=5))
        agree.append((labels[0] == labels[1]).mean())
        write_png(Path(config.out) / f"dolly_{k:03d}.png", frames[-1])
    write_films(Path(config.out) / "dolly", np.stack(frames), config.fps)
    print(f"{len(frames)} pictures in {config.out}; {np.mean(agree):.1%} of the labels are the same with the prior, {config.prior_steps} steps from the mesh")


@torch.no_grad()
def depth_film(config: DepthConfig) -> None:
    """The depth of a head's mesh from a path of cameras, ray cast."""
    sof = opened(config)
    unit, (mesh, _) = unit_of(sof), surface_of(sof, sof.scene(code_of(config, sof, config.instance)))
    poses = path_poses(config.path, config.count, NEAREST * unit)
    cameras = published_cameras(poses, config.focal, orthographic=False).move(device_of(config.device))
    seen = render(mesh_depth(mesh, device_of(config.device)), cameras, config.side, config.side)
    frames = depth_colors(seen["z_depth"] / unit, seen["hit"], NEAREST)
    for k, frame in enumerate(frames):
        write_png(Path(config.out) / f"mesh_depth_{k:03d}.png", frame)
    write_films(Path(config.out) / "mesh_depth", frames, config.fps)
    print(f"{len(frames)} pictures of {len(mesh.faces)} faces in {config.out}")


def unit_of(sof: SOF) -> float:
    """World units of the model to one of the perspective models that TestAll's distances are of."""
    return WIDE if sof.config.orthogonal else 1.0


def depth_colors(depths: Tensor, there: Tensor, distance: float) -> np.ndarray:
    """The colours (N, H, W, 3) uint8 of camera z (N, H, W): JET of round(255 (z - distance + 0.25) / 0.3) where something is `there`, of 10 elsewhere."""
    import cv2
    values = (255 * (depths - distance + BEFORE) / DEEP).round().clamp(0, 255)
    values = torch.where(there, values, BACKGROUND).to(torch.uint8).cpu().numpy()
    return np.stack([cv2.applyColorMap(picture, cv2.COLORMAP_JET)[..., ::-1] for picture in values])
