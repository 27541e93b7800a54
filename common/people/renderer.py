"""Pictures of a scene by ray casting: exact labels, depth and normals at the pixel centres, antialiased RGB under a key, a fill and a sky light."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from common import rays
from common.cameras import Cameras
from common.raycast import build, first_hits, interpolate

CHANNELS = ("labels", "rgb", "z_depth", "depth", "normals", "mask")
RAYS_AT_ONCE = 1 << 20
KEY, FILL = (0.45, 0.55, 0.75), (-0.75, 0.10, 0.60)          # towards the lights, in the world
KEY_LIGHT, FILL_LIGHT, SKY_LIGHT = (0.80, 0.77, 0.71), (0.16, 0.18, 0.22), (0.46, 0.48, 0.52)
BACKGROUND = (0.72, 0.75, 0.78)


@dataclass
class Scene:
    """Triangles with colours and part labels, in any world: what one person looks like.

    vertices (V, 3) float32, faces (F, 3) int64, labels (F,) uint8, albedo (V, 3) linear colour in [0, 1], gloss (V,) in [0, 1].
    """

    vertices: np.ndarray
    faces: np.ndarray
    labels: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray

    def transform(self, scale: float, translation) -> Scene:
        """The scene in another world: vertices -> scale * vertices + translation."""
        moved = (scale * self.vertices + np.asarray(translation)).astype(np.float32)
        return Scene(moved, self.faces, self.labels, self.albedo, self.gloss)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3), each vertex's faces weighted by area; zero where a vertex has no face."""
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack([sum(np.bincount(faces[:, k], cross[:, axis], len(vertices)) for k in range(3)) for axis in range(3)], axis=1)
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)).astype(np.float32)


def render(scene: Scene, cameras: Cameras, height: int, width: int, channels=CHANNELS, samples: int = 3, device="cpu",
           background: tuple = BACKGROUND) -> dict[str, np.ndarray]:
    """Pictures of N cameras, {channel: (N, H, W[, 3])}; the scene is in the cameras' world.

    labels uint8 and mask bool; z_depth and depth (along the unit ray) float32, 0 where nothing is seen; normals float32, smooth, unit, in the world;
    all one ray per pixel centre.
    rgb uint8, `samples` x `samples` rays a pixel, over a `background` colour in [0, 1].
    """
    lit = _Lit(scene, device, shaded=bool({"rgb", "normals"} & set(channels)))
    cameras = cameras.move(device=lit.vertices.device, dtype=torch.float32)
    views = [_view(lit, cameras.pick([n]), height, width, channels, samples, background) for n in range(len(cameras))]
    return {channel: np.stack([view[channel] for view in views]) for channel in channels}


class _Lit:
    """A scene's tensors and its hierarchy on the device, made once for all views."""

    def __init__(self, scene: Scene, device, shaded: bool) -> None:
        on = lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)
        self.vertices, self.faces, self.labels = on(scene.vertices), on(scene.faces), on(scene.labels)
        if shaded:                                                            # what shading interpolates: normals, albedo, gloss
            normals = vertex_normals(scene.vertices, scene.faces)
            self.surface = on(np.concatenate([normals, scene.albedo, scene.gloss[:, None]], axis=1).astype(np.float32))
        self.mesh = build(self.vertices, self.faces)
        self.epsilon = 1e-4 * float(np.ptp(scene.vertices, axis=0).max())


def _view(lit: _Lit, camera: Cameras, height: int, width: int, channels, samples: int, background: tuple) -> dict[str, np.ndarray]:
    """The channels of one camera."""
    view, shape = {}, (height, width)
    if set(channels) - {"rgb"}:
        origins, directions = (x[0] for x in rays.camera_rays(camera, rays.pixel_grid(*shape, device=lit.vertices.device)[None]))
        hits = first_hits(lit.mesh, origins, directions)
        seen = hits.faces >= 0
        view["mask"] = seen
        view["labels"] = lit.labels[hits.faces.clamp(min=0)] * seen
        if "z_depth" in channels:
            points = torch.where(seen[:, None], origins + hits.distances[:, None] * directions, 0)
            view["z_depth"] = rays.z_depth(camera, points[None])[0, :, 0] * seen
        if "depth" in channels:
            view["depth"] = torch.where(seen, hits.distances, 0)
        if "normals" in channels:
            view["normals"] = normalize(interpolate(lit.surface[:, :3], lit.faces, hits), dim=-1) * seen[:, None]
    if "rgb" in channels:
        view["rgb"] = _picture(lit, camera, shape, samples, background)
    return {channel: view[channel].reshape(*shape, *view[channel].shape[1:]).cpu().numpy() for channel in channels}


def _picture(lit: _Lit, camera: Cameras, shape: tuple[int, int], samples: int, background: tuple) -> Tensor:
    """The picture (H*W, 3) uint8: the mean over a pixel's samples, each under lights moved a little, so that shadows are soft."""
    grid = rays.pixel_grid(*shape, device=lit.vertices.device)
    total = torch.zeros(len(grid), 3, device=grid.device)
    for k in range(samples**2):
        shift = (torch.tensor([k % samples, k // samples]) + 0.5) / samples - 0.5
        uv = grid + (shift / torch.tensor([shape[1], shape[0]])).to(grid)
        for start in range(0, len(uv), RAYS_AT_ONCE):
            part = slice(start, start + RAYS_AT_ONCE)
            total[part] += _shade(lit, *(x[0] for x in rays.camera_rays(camera, uv[None, part])), *_light_directions(k, samples**2), background)
    encoded = (total / samples**2).clamp(0, 1) ** (1 / 2.2)
    return (encoded * 255).round().to(torch.uint8)


def _light_directions(k: int, count: int) -> tuple[Tensor, Tensor]:
    """Unit directions to the key light and to one place of the sky, for sample k of `count`: both spread evenly over the samples."""
    turn, rank = 2.399963 * k, (k + 0.5) / count                              # golden angle
    key = torch.tensor(KEY) + 0.12 * rank**0.5 * torch.tensor([np.cos(turn), np.sin(turn), 0.0], dtype=torch.float32)
    height = rank**0.5
    flat = (1 - height**2) ** 0.5
    return normalize(key, dim=0), torch.tensor([flat * np.cos(turn), height, flat * np.sin(turn)], dtype=torch.float32)


def _shade(lit: _Lit, origins: Tensor, directions: Tensor, key: Tensor, sky: Tensor, background: tuple) -> Tensor:
    """Linear colours (R, 3) of rays: Lambert under the key and the sky, both shadowed, a fill without shadow, and a highlight where glossy."""
    color = torch.tensor(background, device=origins.device).expand(len(origins), 3).clone() ** 2.2
    hits = first_hits(lit.mesh, origins, directions)
    seen = (hits.faces >= 0).nonzero()[:, 0]
    origins, directions, hits = origins[seen], directions[seen], type(hits)(*(x[seen] for x in hits))
    values = interpolate(lit.surface, lit.faces, hits)
    normals, albedo, gloss = normalize(values[:, :3], dim=-1), values[:, 3:6], values[:, 6:]
    points = origins + hits.distances[:, None] * directions + lit.epsilon * (normals - directions)
    light = lambda rgb: torch.tensor(rgb, device=points.device)
    key, sky, fill = key.to(points), sky.to(points), normalize(light(FILL), dim=0)
    towards = lambda direction: (normals @ direction)[:, None]
    open_to = lambda direction: (first_hits(lit.mesh, points, direction.expand_as(points)).faces < 0).float()[:, None]
    lit_by_key = open_to(key)
    diffuse = towards(key).clamp(min=0) * lit_by_key * light(KEY_LIGHT) + towards(fill).clamp(min=0) * light(FILL_LIGHT)
    diffuse = diffuse + (0.5 + 0.5 * towards(torch.tensor([0.0, 1, 0], device=points.device))) * (0.35 + 0.65 * open_to(sky)) * light(SKY_LIGHT)
    half = normalize(key - directions, dim=-1)
    shine = gloss * lit_by_key * (normals * half).sum(-1, keepdim=True).clamp(min=0) ** (8 + 120 * gloss)
    color[seen] = albedo * diffuse + shine * light(KEY_LIGHT)
    return color
