"""From the canonical frame to the layouts that methods read: one similarity and one kind of camera each, one framing for all.

    SOF     orthographic, focal 36 px on a 128 px grid, integer pixels     the picture is 3.556 world units wide
    EG3D    pinhole, focal 4.2647 picture widths, 2.7 away                 0.633 at the head
    pi-GAN  pinhole, 12 degrees from the first pixel's centre to the last, 1 away   0.210 at the head
The head with its hair stays inside the sphere of radius 1.5 about the origin on which SOF's rays start.
"""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras, intrinsics_matrix, normalise_intrinsics, orbit
from common.cameras import pigan_cameras as cameras_at
from common.people.persons import generator

FRAME = 0.377                                                                 # what a picture's width shows, canonical metres
SOF_FOCAL, SOF_GRID, SOF_DISTANCE = 36.0, 128, 4.5
EG3D_FOCAL, EG3D_DISTANCE = 4.2647, 2.7
PIGAN_FOV = 12.0                                                              # degrees
MAX_AZIMUTH, MAX_ELEVATION = np.radians(60), np.radians(25)


def sof_similarity() -> float:
    """SOF's world units per canonical metre; both frames have the same origin and axes."""
    return SOF_GRID / SOF_FOCAL / FRAME


def eg3d_similarity() -> float:
    """EG3D's world units per canonical metre; both frames have the same origin and axes."""
    return EG3D_DISTANCE / EG3D_FOCAL / FRAME


def pigan_similarity() -> float:
    """pi-GAN's world units per canonical metre; both frames have the same origin and axes."""
    return 2 * np.tan(np.radians(PIGAN_FOV / 2)) / FRAME


def view_angles(seed: int, i: int, view: int) -> tuple[float, float]:
    """Azimuth and elevation (radians) of one view of one person, uniform within +-60 and +-25 degrees, each view for itself."""
    azimuth, elevation = generator(seed, i, "views", view).uniform(-1, 1, 2)
    return MAX_AZIMUTH * azimuth, MAX_ELEVATION * elevation


def sof_cameras(seed: int, i: int, views: int, resolution: int) -> tuple[Cameras, Tensor]:
    """The cameras (V) of a person in SOF's world and their intrinsics (3, 3) in pixels, the first pixel's centre at 0."""
    pixels = intrinsics_matrix(SOF_FOCAL * resolution / SOF_GRID, (resolution // 2, resolution // 2))
    normal = normalise_intrinsics(pixels, resolution, resolution, first_center=0.0)
    return Cameras(_orbit(seed, i, views, SOF_DISTANCE), normal.expand(views, 3, 3), orthographic=True), pixels


def eg3d_cameras(seed: int, i: int, views: int) -> Cameras:
    """The cameras (V) of a person in EG3D's world, from the same directions."""
    return Cameras(_orbit(seed, i, views, EG3D_DISTANCE), intrinsics_matrix(EG3D_FOCAL).expand(views, 3, 3))


def pigan_cameras(seed: int, i: int, views: int, resolution: int, h_stddev: float, v_stddev: float) -> Cameras:
    """The cameras (V) of a person in pi-GAN's world, yaw and pitch gaussian about frontal with these deviations (radians), each view for itself."""
    normals = np.array([generator(seed, i, "views", view).standard_normal(2) for view in range(views)])
    angles = np.pi / 2 + normals * (v_stddev, h_stddev)
    return cameras_at(torch.from_numpy(angles).float(), PIGAN_FOV, resolution)


def _orbit(seed: int, i: int, views: int, distance: float) -> Tensor:
    """cam2world (V, 4, 4) looking at the origin."""
    angles = torch.tensor([view_angles(seed, i, view) for view in range(views)], dtype=torch.float32)
    return orbit(angles[:, 0], angles[:, 1], distance)
