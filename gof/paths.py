"""The camera paths of the published scripts, as pure functions; angles are [pitch, yaw] (N, 2) in radians about the unit sphere, float64.

    steps      views from the sides            render_multiview_images.py        around     the same about a mesh          render_meshimg.py
    ellipse    a nod and a shake at once       render_video.py                   nodding    an ellipse about a mesh        render_meshvideo.py
    front      the same, zooming               render_video_interpolation.py
    circle     all the way round, from above   render_video_interpolation.py
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

from common.cameras import orbit

FRONT = (math.pi / 2, math.pi / 2)
OFFSETS = (-0.5, -0.25, 0.0, 0.25, 0.5)                       # radians of yaw, of the views from the sides
ELLIPSE = (0.5, 0.25)                                         # radians of yaw and pitch to each side
FRONT_SWING, CIRCLE_NOD, CIRCLE_PITCH = (0.4, 0.2), 0.2, math.pi / 4
ZOOM = 5.0                                                    # degrees by which the field of view grows and shrinks about itself plus as many
MESH_DISTANCE = 4.5                                           # sides of the cube between its centre and the camera


def shares(count: int) -> Tensor:
    """`count` numbers (count,) from 0 to 1: how far along the path, and from one code to the next, a frame is."""
    return torch.linspace(0, 1, count, dtype=torch.float64)


def turn(count: int) -> Tensor:
    """`count` angles (count,) over a full turn, both ends included."""
    return 2 * math.pi * shares(count)


def steps(offsets: tuple[float, ...] = OFFSETS, center: tuple[float, float] = FRONT) -> Tensor:
    """Angles (len(offsets), 2) at these yaws from the centre [pitch, yaw]."""
    return torch.tensor(center, dtype=torch.float64) + torch.tensor([(0.0, offset) for offset in offsets], dtype=torch.float64)


def ellipse(count: int, yaw: float = ELLIPSE[0], pitch: float = ELLIPSE[1], center: tuple[float, float] = FRONT) -> Tensor:
    """Angles (count, 2) once round an ellipse of these half axes about the centre [pitch, yaw], from the largest yaw on."""
    angle = turn(count)
    return torch.tensor(center, dtype=torch.float64) + torch.stack([pitch * angle.sin(), yaw * angle.cos()], dim=-1)


def front(count: int, fov: float, center: tuple[float, float] = FRONT) -> tuple[Tensor, Tensor]:
    """Angles (count, 2) swinging about the centre [pitch, yaw], and fields of view (count,), fov to fov + 10 degrees."""
    angle, (yaw, pitch) = turn(count), FRONT_SWING
    angles = torch.tensor(center, dtype=torch.float64) + torch.stack([pitch * angle.cos(), yaw * angle.sin()], dim=-1)
    return angles, fov + ZOOM + ZOOM * angle.sin()


def circle(count: int, fov: float) -> tuple[Tensor, Tensor]:
    """Angles (count, 2) all the way round at 45 degrees from above, nodding once, and fields of view (count,), all fov."""
    angle = turn(count)
    return torch.stack([CIRCLE_PITCH + CIRCLE_NOD * angle.cos(), angle], dim=-1), torch.full_like(angle, fov)


def around(offsets: tuple[float, ...] = OFFSETS, center: tuple[float, float, float] = (0.0, 0.0, 0.0), distance: float = MESH_DISTANCE) -> Tensor:
    """cam2world (len(offsets), 4, 4) that look at `center` from these azimuths, 0 frontal, radians."""
    azimuths = torch.tensor(offsets, dtype=torch.float64)
    return orbit(azimuths, torch.zeros_like(azimuths), distance, center)


def nodding(count: int, center: tuple[float, float, float] = (0.0, 0.0, 0.0), distance: float = MESH_DISTANCE) -> Tensor:
    """cam2world (count, 4, 4) that look at `center` from an ellipse of azimuths and elevations, once round."""
    angle, (yaw, pitch) = turn(count), ELLIPSE
    return orbit(-yaw * angle.cos(), -pitch * angle.sin(), distance, center)
