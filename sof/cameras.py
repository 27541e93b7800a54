"""SOF's cameras: its integer pixels, its published paths, the camera that a code carries, normals of a depth picture.

SOF counts pixels from integer centres, in pixels of the grid that is rendered, with the principal point at S // 2; `sof_cameras` and
`pixel_centers` are the only places where that meets ``common.cameras``. Paths are float64 (positions (N, 3), targets (N, 3)) for ``look_at``.
"""
from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from common.cameras import Cameras, look_at, normalise_intrinsics
from common.errors import InputError
from common.rays import pixel_grid, unproject

LEARNED_TARGET = (0.0, 0.0, 0.1)                                # where a learned camera (opt_cam) looks
CENTER = (0.0, 0.1, 0.0)                                        # what cameras turn about
FILM_RADII = (0.5, 0.6, 0.5)                                    # of the notebooks' films
PUBLISHED_FOCAL, PUBLISHED_SIDE, PUBLISHED_DISTANCE = 36.0, 128, 4.5
SINGLE_VIEW_FOCAL, SINGLE_VIEW_DISTANCE = 2000 / 512, 1.1       # of perspective pictures without cameras: picture widths, world units

Path = tuple[Tensor, Tensor]                                    # positions (N, 3), targets (N, 3)


def sof_cameras(cam2world: Tensor, intrinsics: Tensor, side: int, orthographic: bool) -> Cameras:
    """Cameras of cam2world (N, 4, 4) and SOF's intrinsics (N, 3, 3), in integer pixels (when orthographic, per world unit) of a side x side grid."""
    return Cameras(cam2world, normalise_intrinsics(intrinsics, side, side, first_center=0.0), orthographic)


def pixel_centers(pixels: Tensor, side: int) -> Tensor:
    """(u, v) in picture sizes of SOF's integer pixels (x, y) (..., 2) on a side x side grid."""
    return (pixels + 0.5) / side


def published_cameras(cam2world: Tensor, focal: float = PUBLISHED_FOCAL, side: int = PUBLISHED_SIDE, orthographic: bool = True) -> Cameras:
    """The released model's cameras at poses (N, 4, 4): focal 36 on a 128 grid, principal point 64."""
    K = torch.tensor([[focal, 0, side // 2], [0, focal, side // 2], [0, 0, 1]], dtype=torch.float32).expand(len(cam2world), 3, 3)
    return sof_cameras(cam2world.float(), K, side, orthographic)


def single_view_cameras(count: int, side: int, orthographic: bool) -> Cameras:
    """The frontal cameras that pictures without any are taken for: focal 2000 at 512 px, as the release has it, or the released model's orthographic ones."""
    cam2world = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])).repeat(count, 1, 1)
    cam2world[:, 2, 3] = PUBLISHED_DISTANCE if orthographic else SINGLE_VIEW_DISTANCE
    focal = side * (PUBLISHED_FOCAL / PUBLISHED_SIDE if orthographic else SINGLE_VIEW_FOCAL)
    return published_cameras(cam2world, focal, side, orthographic)


def learned_cameras(centers: Tensor, intrinsics: Tensor, orthographic: bool, published_transpose: bool = False) -> Cameras:
    """The cameras (opt_cam) at centres (B, 3), which look at (0, 0, 0.1), with normalised intrinsics (B, 3, 3).

    The release stacked right, down and forward as rows, the transpose of a cam2world rotation; `published_transpose` does so too.
    """
    cam2world = look_at(centers, torch.tensor(LEARNED_TARGET, dtype=centers.dtype, device=centers.device))
    if published_transpose:
        turned = cam2world[..., :3, :3].transpose(-1, -2)
        cam2world = torch.cat([torch.cat([turned, cam2world[..., :3, 3:]], dim=-1), cam2world[..., 3:, :]], dim=-2)
    return Cameras(cam2world, intrinsics, orthographic)


def sphere_path(center: Tensor, radius: float, count: int, theta=(math.pi / 2 - 0.3, math.pi / 2 + 0.3), phi=(math.pi / 2 - 0.6, math.pi / 2 + 0.6)) -> Path:
    """A grid over polar angles theta and azimuths phi (from +x), row by row and to and fro, looking at the centre."""
    theta, phi = _serpentine(theta, phi, count)
    offset = torch.stack([theta.sin() * phi.cos(), theta.cos(), theta.sin() * phi.sin()], dim=-1)
    return center + radius * offset, center.expand(count, 3)


def plane_path(center: Tensor, radius: float, count: int, x=(0.05, -0.05), y=(0.13, 0.12)) -> Path:
    """A grid of parallel views along -z from the plane z = radius."""
    x, y = _serpentine(x, y, count)
    positions = center + torch.stack([x, y, torch.full_like(x, radius)], dim=-1)
    return positions, positions - positions.new_tensor([0.0, 0.0, 1.0])


def uniform_path(center: Tensor, radius: float, count: int, theta=(-0.55, 0.55), heights=(0.3, 0.175, 0.05, -0.075, -0.2)) -> Path:
    """`count` azimuths (from +z) at each height, looking at the centre."""
    azimuth = torch.linspace(*theta, count, dtype=torch.float64).repeat(len(heights))
    height = torch.tensor(heights, dtype=torch.float64).repeat_interleave(count)
    offset = torch.stack([radius * azimuth.sin(), height, radius * azimuth.cos()], dim=-1)
    return center + offset, center.expand_as(offset)


def spiral_path(center: Tensor, look_at_point: Tensor, radius: float, count: int, sweeps=(0.0, -0.55, 0.0, 0.55, 0.0)) -> Path:
    """Sweeps of count // 8 frames between consecutive azimuths, then count // 2 frames on a spiral in front of the face; all look at `look_at_point`."""
    near = (radius - 0.2) / 2
    return sweep_path(center, look_at_point, (radius, radius / 2, near, near), sweeps, count // 8, count // 2)


def film_path(center: Tensor, look_at_point: Tensor, radii: tuple[float, float, float] = FILM_RADII, steps: int = 20, sweeps=(0.0, -0.45, 0.45, 0.0),
              spiral_per_step: int = 4) -> Path:
    """The notebooks' films of radii (a, b, c): sweeps of `steps` frames at a further than `center`, then spiral_per_step * steps frames of the spiral
    (-b sin t, -c sin(t / 2), a cos t) about `center`."""
    a, b, c = radii
    return sweep_path(center, look_at_point, (a, b, c, a), sweeps, steps, spiral_per_step * steps)


def sweep_path(center: Tensor, look_at_point: Tensor, radii: tuple[float, float, float, float], sweeps, per_sweep: int, on_spiral: int) -> Path:
    """Sweeps of `per_sweep` frames between consecutive azimuths about `look_at_point`, radii[0] further away than `center`; then `on_spiral` frames
    of two turns about `center`, radii[1:] wide, high and deep. All look at `look_at_point`."""
    further, wide, high, deep = radii
    azimuth = torch.cat([torch.linspace(a, b, per_sweep, dtype=torch.float64) for a, b in pairwise(sweeps)])
    far = (center - look_at_point).norm() + further
    sweep = look_at_point + far * torch.stack([azimuth.sin(), torch.zeros_like(azimuth), azimuth.cos()], dim=-1)
    t = torch.linspace(0, 4 * math.pi, on_spiral, dtype=torch.float64)
    spiral = center + torch.stack([-t.sin() * wide, -(t / 2).sin() * high, t.cos() * deep], dim=-1)
    positions = torch.cat([sweep, spiral])
    return positions, look_at_point.expand_as(positions)


def fibonacci_positions(radius: float, count: int, omega: float = 20.0) -> Tensor:
    """Positions (N, 3) of the first release's spiral up a sphere."""
    t = torch.linspace(0, 2 * radius, count, dtype=torch.float64)
    height = t - radius
    ring = (radius**2 - height**2).clamp_min(0).sqrt()
    return torch.stack([ring * (omega * t).cos(), height, ring * (omega * t).sin()], dim=-1)


def fibonacci_path(center: Tensor, radius: float, count: int, turns: float = 20.0) -> Path:
    """`fibonacci_positions` about `center`, looking at it, as wound as on the unit sphere whatever the radius."""
    positions = center + fibonacci_positions(radius, count, turns / radius)
    return positions, center.expand_as(positions)


def upwards(forward: Tensor) -> Tensor:
    """Directions (N, 3) that are up in pictures looking along `forward` (N, 3): +y, or, for a view straight down or up, as for a camera that comes
    there from before the face."""
    vertical = torch.nn.functional.normalize(forward, dim=-1)[..., 1:2]
    up, zero = torch.tensor([0.0, 1.0, 0.0], dtype=forward.dtype), torch.zeros_like(vertical)
    return torch.where(vertical.abs() > 1 - 1e-9, torch.cat([zero, zero, vertical.sign()], dim=-1), up)


def _serpentine(outer, inner, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` points of a square grid: the inner range runs up, then down, and so on."""
    side = math.ceil(math.sqrt(count))
    rows = torch.linspace(*outer, side, dtype=torch.float64).repeat_interleave(side)
    up = torch.linspace(*inner, side, dtype=torch.float64)
    columns = torch.cat([up.flip(0) if i % 2 else up for i in range(side)])
    return rows[:count], columns[:count]


def normal_map(cameras: Cameras, z_depth: Tensor) -> Tensor:
    """Normals in camera space (N, 3, S-2, S-2) of depth pictures (N, S, S): the cross product of central differences, each normalised."""
    size = z_depth.shape[-1]
    identity = Cameras(torch.eye(4, dtype=z_depth.dtype, device=z_depth.device).expand(len(cameras), 4, 4), cameras.intrinsics, cameras.orthographic)
    points = unproject(identity, pixel_grid(size, size, z_depth.device, z_depth.dtype)[None], z_depth.flatten(1)[..., None])
    points = points.transpose(1, 2).unflatten(2, (size, size))
    normalize = torch.nn.functional.normalize
    rows = normalize(points[:, :, :-2] - points[:, :, 2:], dim=1)[..., 1:-1]
    columns = normalize(points[..., 2:] - points[..., :-2], dim=1)[:, :, 1:-1]
    return torch.linalg.cross(rows, columns, dim=1)


def path_poses(name: str, count: int, distance: float = PUBLISHED_DISTANCE) -> Tensor:
    """cam2world (N, 4, 4), float64, of a named path round the head: turntable, sphere, uniform, spiral, plane or fibonacci.

    plane is as wide at distance d as the release's at 1; fibonacci passes over the head and below it.

    Raises InputError for another name.
    """
    center = torch.tensor(CENTER, dtype=torch.float64)
    if name == "turntable":
        azimuth = torch.arange(count, dtype=torch.float64) / count * 2 * math.pi
        swing = 0.9 * azimuth.sin()                             # to and fro in front of the face: nobody trained the back of a head
        offset = torch.stack([swing.sin(), torch.zeros_like(swing), swing.cos()], dim=-1)
        return look_at(center + distance * offset, center.expand_as(offset))
    front = center + torch.tensor([0.0, 0.0, distance], dtype=torch.float64)
    paths = {
        "sphere": lambda: sphere_path(center, distance, count),
        "uniform": lambda: uniform_path(center, distance, count),
        "spiral": lambda: spiral_path(front, center, distance, count),
        "plane": lambda: plane_path(torch.zeros_like(center), distance, count, (0.05 * distance, -0.05 * distance)),
        "fibonacci": lambda: fibonacci_path(center, distance, count),
    }
    if name not in paths:
        raise InputError(f"--path: {name!r} is none of turntable, {', '.join(paths)}")
    positions, targets = paths[name]()
    return look_at(positions, targets, upwards(targets - positions))
