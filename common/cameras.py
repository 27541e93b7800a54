"""Cameras, once for all methods.

    world: right-handed, y up, the face looks along +z       camera (OpenCV): x right, y down, z forward, looks along +z

                  y                                              z (forward)
                  |   o  camera                                 /
                  |  /                                         +---- x (right)
        head (.)  +----- x                                     |
                 /                                             y (down)
                z                                    pixel (row i, column j) of an H x W picture has its centre
                                                     at (u, v) = ((j + 0.5) / W, (i + 0.5) / H), u right, v down

``cam2world`` (..., 4, 4) takes camera points to world points; its columns are right, down, forward and the camera centre.
``intrinsics`` (..., 3, 3) are normalised by the picture size, so they hold at any resolution:
    pinhole       u = fx X / Z + skew Y / Z + cx,  v = fy Y / Z + cy      (fx in picture widths)
    orthographic  u = fx X + skew Y + cx,          v = fy Y + cy          (fx in picture widths per world unit)
A method's published convention is converted at that method's edge, with the functions below.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import InputError

ORTHONORMAL_TOLERANCE = 1e-3
POLE = 1e-5                                                   # how near to the poles pi-GAN's pitch may come, radians
FLIP_YZ = (1.0, -1.0, -1.0, 1.0)                              # OpenGL axes (y up, z backwards) <-> OpenCV axes


@dataclass(frozen=True)
class Cameras:
    """N cameras of one kind: cam2world (N, 4, 4), intrinsics (N, 3, 3) in picture sizes."""

    cam2world: Tensor
    intrinsics: Tensor
    orthographic: bool = False

    def __len__(self) -> int:
        return self.cam2world.shape[0]

    def pick(self, index) -> Cameras:
        """The cameras at `index` (a slice, a list or an index tensor), still N cameras."""
        return Cameras(self.cam2world[index], self.intrinsics[index], self.orthographic)

    def move(self, *args, **kwargs) -> Cameras:
        """The same cameras on another device or in another dtype (arguments of ``Tensor.to``)."""
        return Cameras(self.cam2world.to(*args, **kwargs), self.intrinsics.to(*args, **kwargs), self.orthographic)


def look_at(positions: Tensor, targets: Tensor, up: Tensor | tuple = (0.0, 1.0, 0.0)) -> Tensor:
    """cam2world (..., 4, 4) of cameras at positions (..., 3) that look at targets (..., 3), `up` upwards in the picture."""
    positions, targets = torch.broadcast_tensors(positions, targets)
    up = torch.as_tensor(up, dtype=positions.dtype, device=positions.device).expand_as(positions)
    forward = torch.nn.functional.normalize(targets - positions, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up, dim=-1), dim=-1)
    down = torch.linalg.cross(forward, right, dim=-1)
    return rigid(torch.stack([right, down, forward], dim=-1), positions)


def rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """The 4x4 matrices of rotations (..., 3, 3), columns first, and translations (..., 3)."""
    matrix = torch.zeros(*rotation.shape[:-2], 4, 4, dtype=rotation.dtype, device=rotation.device)
    matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = rotation, translation, 1.0
    return matrix


def orbit(azimuths: Tensor, elevations: Tensor, radius: float, target: tuple = (0.0, 0.0, 0.0)) -> Tensor:
    """cam2world (N, 4, 4) on a sphere round `target`: azimuth 0 is frontal (+z), towards +x where positive; elevation upwards; radians."""
    azimuths, elevations = torch.broadcast_tensors(torch.as_tensor(azimuths), torch.as_tensor(elevations))
    target = torch.as_tensor(target, dtype=azimuths.dtype, device=azimuths.device)
    offset = torch.stack([azimuths.sin() * elevations.cos(), elevations.sin(), azimuths.cos() * elevations.cos()], dim=-1)
    return look_at(target + radius * offset, target.expand_as(offset))


def intrinsics_matrix(focal, center: tuple[float, float] = (0.5, 0.5), dtype: torch.dtype = torch.float32) -> Tensor:
    """Intrinsics (..., 3, 3) of one focal length (...) for both axes and a principal point, in picture sizes."""
    focal = torch.as_tensor(focal, dtype=dtype)
    matrix = torch.zeros(*focal.shape, 3, 3, dtype=dtype, device=focal.device)
    matrix[..., 0, 0] = matrix[..., 1, 1] = focal
    matrix[..., 0, 2], matrix[..., 1, 2], matrix[..., 2, 2] = center[0], center[1], 1.0
    return matrix


def normalise_intrinsics(pixels: Tensor, width: float, height: float, first_center: float = 0.5) -> Tensor:
    """Intrinsics in picture sizes from intrinsics in pixels (..., 3, 3) of a width x height picture.

    `first_center` is where that convention puts the centre of pixel 0: 0.5, or 0 for integer pixels (SOF, COLMAP's numpy users).
    """
    scale = torch.tensor([[1 / width], [1 / height], [1.0]], dtype=pixels.dtype, device=pixels.device)
    normal = pixels[..., :3, :3].clone()
    normal[..., :2, 2] += 0.5 - first_center
    return normal * scale


def pixel_intrinsics(normal: Tensor, width: float, height: float, first_center: float = 0.5) -> Tensor:
    """The inverse of `normalise_intrinsics`."""
    pixels = normal * torch.tensor([[float(width)], [float(height)], [1.0]], dtype=normal.dtype, device=normal.device)
    pixels[..., :2, 2] -= 0.5 - first_center
    return pixels


def flip_yz(cam2world: Tensor) -> Tensor:
    """OpenGL's cam2world (y up, z backwards) to ours and back: the y and z columns change sign."""
    return cam2world * torch.tensor(FLIP_YZ, dtype=cam2world.dtype, device=cam2world.device)


def invert_rigid(matrix: Tensor) -> Tensor:
    """world2cam (..., 4, 4) of cam2world, or cam2world of extrinsics (COLMAP, OpenCV); rotations must be orthonormal."""
    rotation = matrix[..., :3, :3].transpose(-1, -2)
    return rigid(rotation, -(rotation @ matrix[..., :3, 3:])[..., 0])


def project(cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """(u, v) (N, P, 2) in picture sizes and z_depth (N, P) of world points (N, P, 3)."""
    local = torch.einsum("nij,npj->npi", invert_rigid(cameras.cam2world)[:, :3, :3], points - cameras.cam2world[:, None, :3, 3])
    z_depth = local[..., 2]
    plane = local[..., :2] if cameras.orthographic else local[..., :2] / z_depth[..., None]
    K = cameras.intrinsics[:, None]
    u = K[..., 0, 0] * plane[..., 0] + K[..., 0, 1] * plane[..., 1] + K[..., 0, 2]
    v = K[..., 1, 1] * plane[..., 1] + K[..., 1, 2]
    return torch.stack([u, v], dim=-1), z_depth


def check_cam2world(matrix: Tensor, where: str) -> None:
    """Refuse what is no rigid cam2world (..., 4, 4): InputError naming `where` and the first bad entry."""
    if matrix.shape[-2:] != (4, 4):
        raise InputError(f"{where}: cam2world must be 4x4 matrices, not of shape {tuple(matrix.shape)}")
    flat = matrix.reshape(-1, 4, 4).double()
    rotation = flat[:, :3, :3]
    identity = torch.eye(3, dtype=flat.dtype)
    last_row = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=flat.dtype)
    checks = {
        "is not finite": ~flat.isfinite().all(-1).all(-1),
        "has a rotation that is not orthonormal": ((rotation.transpose(-1, -2) @ rotation - identity).abs() > ORTHONORMAL_TOLERANCE).any(-1).any(-1),
        "has a rotation with determinant -1 (a mirror)": torch.linalg.det(rotation.nan_to_num()) < 0,
        "has a last row other than 0 0 0 1": ((flat[:, 3] - last_row).abs() > ORTHONORMAL_TOLERANCE).any(-1),
    }
    for what, bad in checks.items():
        if bad.any():
            raise InputError(f"{where}: cam2world of view {int(bad.nonzero()[0])} {what}")


def check_intrinsics(matrix: Tensor, where: str) -> None:
    """Refuse intrinsics (..., 3, 3) that are not finite or have no positive focal length: InputError naming `where`."""
    if matrix.shape[-2:] != (3, 3):
        raise InputError(f"{where}: intrinsics must be 3x3, not of shape {tuple(matrix.shape)}")
    flat = matrix.reshape(-1, 3, 3)
    bad = ~flat.isfinite().all(-1).all(-1) | (flat[:, 0, 0] <= 0) | (flat[:, 1, 1] <= 0)
    if bad.any():
        raise InputError(f"{where}: intrinsics of view {int(bad.nonzero()[0])} need finite numbers and positive focal lengths, not {flat[bad][0].tolist()}")


def eg3d_label(cameras: Cameras) -> Tensor:
    """EG3D's 25 camera numbers (N, 25): cam2world row by row, then the normalised intrinsics row by row."""
    return torch.cat([cameras.cam2world.flatten(1), cameras.intrinsics.flatten(1)], dim=1)


def from_eg3d_label(label: Tensor) -> Cameras:
    """The pinhole cameras of EG3D's labels (N, 25)."""
    return Cameras(label[:, :16].reshape(-1, 4, 4), label[:, 16:25].reshape(-1, 3, 3))


# --- pi-GAN: cameras on the unit sphere that look at its centre, by angles [pitch, yaw] in radians; pitch from +y, frontal (0, 0, 1) at (pi/2, pi/2) -------

def pigan_cam2world(angles: Tensor) -> Tensor:
    """cam2world (N, 4, 4) of [pitch, yaw] (N, 2): centre (sin p cos y, cos p, sin p sin y), pitch held 1e-5 from the poles; a growing yaw moves towards -x."""
    pitch, yaw = angles[:, 0].clamp(POLE, math.pi - POLE), angles[:, 1]
    centers = torch.stack([pitch.sin() * yaw.cos(), pitch.cos(), pitch.sin() * yaw.sin()], dim=-1)
    return look_at(centers, torch.zeros_like(centers))


def pigan_angles(cam2world: Tensor) -> Tensor:
    """[pitch, yaw] (N, 2) of the way that cameras (N, 4, 4) look, whatever point they turn about; the inverse of `pigan_cam2world`, yaw in (-pi, pi]."""
    x, y, z = (-cam2world[:, :3, 2]).unbind(-1)
    return torch.stack([torch.atan2(torch.hypot(x, z), y), torch.atan2(z, x)], dim=-1)


def pigan_intrinsics(fov_degrees: Tensor | float, width: int, height: int | None = None) -> Tensor:
    """Intrinsics (..., 3, 3) whose field of view (...), one for both axes, ends at the CENTRES of the first and last pixel: fx = (W - 1) / (2 W tan(fov/2))."""
    fov = torch.as_tensor(fov_degrees, dtype=torch.float64)
    matrix = intrinsics_matrix(0.5 / (fov.deg2rad() / 2).tan(), dtype=torch.float64)
    matrix[..., 0, 0] *= 1 - 1 / width
    matrix[..., 1, 1] *= 1 - 1 / (height or width)
    return matrix


def pigan_cameras(angles: Tensor, fov_degrees: Tensor | float, width: int, height: int | None = None) -> Cameras:
    """N cameras at [pitch, yaw] (N, 2); with `rays.pixel_grid` of that size, `rays.camera_rays` gives pi-GAN's rays, row by row from the top left."""
    intrinsics = pigan_intrinsics(fov_degrees, width, height).to(angles)
    return Cameras(pigan_cam2world(angles), intrinsics.expand(len(angles), 3, 3))
