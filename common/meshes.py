"""Triangle meshes: from a grid of values, coloured, measured, saved, loaded and pictured.

Faces turn counter-clockwise seen from outside, so that a closed mesh encloses a positive `volume` and its normals point outwards.
"""
from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from common.cameras import Cameras
from common.chunks import in_chunks
from common.errors import InputError
from common.files import replacing
from common.raycast import build, first_hits, interpolate
from common.rays import camera_rays, pixel_grid

FORMATS = (".ply", ".glb", ".obj")
GRAY = 205                                                    # of a mesh without colours
KEY, FILL = (-0.7, -0.8, -0.6), (0.9, 0.1, -0.5)              # towards the lights, in camera axes: from the upper left and from the right
KEY_LIGHT, FILL_LIGHT, AMBIENT_LIGHT = 0.78, 0.20, 0.20


@dataclass(frozen=True)
class Mesh:
    """vertices (V, 3) float, faces (F, 3) integer, colors (V, 3) uint8 sRGB or None."""

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None = None


def marching_cubes(values: Tensor | np.ndarray, level: float, box: Tensor | np.ndarray) -> Mesh:
    """The surface of a grid (X, Y, Z) of values over a box (2, 3) (see ``common.surfaces``), inside where a value is above the level.

    Lewiner's marching cubes (JGT 2003). Raises InputError where nothing crosses the level.
    """
    from skimage.measure import marching_cubes as lewiner
    values, (low, high) = np.asarray(values, np.float32), np.asarray(box, np.float64)
    if not values.min() < level < values.max():
        raise InputError(f"no surface at level {level}: the values lie between {values.min():.4g} and {values.max():.4g}")
    index, faces, _, _ = lewiner(values, level, gradient_direction="ascent")
    return Mesh((low + index * (high - low) / (np.array(values.shape) - 1)).astype(np.float32), faces)


def area(mesh: Mesh) -> float:
    """The sum of |(b - a) x (c - a)| / 2 over faces (a, b, c)."""
    a, b, c = _corners(mesh)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=-1).sum() / 2)


def volume(mesh: Mesh) -> float:
    """The signed volume, the sum of a . (b x c) / 6 over faces (a, b, c): positive where the faces of a closed mesh point outwards."""
    a, b, c = _corners(mesh)
    return float((a * np.cross(b, c)).sum() / 6)


def _corners(mesh: Mesh) -> np.ndarray:
    return mesh.vertices.astype(np.float64)[mesh.faces.T]


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (V, 3), the mean of each vertex's faces weighted by area; zero where a vertex has no face."""
    a, b, c = vertices[faces.T]
    normals = torch.zeros_like(vertices).index_add_(0, faces.flatten(), torch.linalg.cross(b - a, c - a).repeat_interleave(3, 0))
    return normalize(normals, dim=-1)


def largest_component(mesh: Mesh) -> Mesh:
    """The connected piece with the most faces."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    a, b = np.concatenate([mesh.faces[:, :2], mesh.faces[:, 1:]]).T
    pieces = connected_components(coo_array((np.ones(len(a), bool), (a, b)), shape=(len(mesh.vertices),) * 2), directed=False)[1]
    largest = np.bincount(pieces[mesh.faces[:, 0]]).argmax()
    kept = pieces == largest
    faces = (np.cumsum(kept) - 1)[mesh.faces[kept[mesh.faces[:, 0]]]]
    return Mesh(mesh.vertices[kept], faces, None if mesh.colors is None else mesh.colors[kept])


def save(path: str | Path, mesh: Mesh) -> None:
    """Write a .ply, .glb or .obj file with the vertices' colours, whole or not at all. Raises InputError for another suffix."""
    import trimesh
    kind = _format(path)
    options = {"include_normals": True} if kind == "glb" else {}        # viewers of glTF shade a mesh without normals flat
    content = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=mesh.colors, process=False).export(file_type=kind, **options)
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def load(path: str | Path) -> Mesh:
    """The mesh of a .ply, .glb or .obj file, its vertices in the file's order.

    Raises InputError for a file that is missing, broken or no triangle mesh, not finite numbers, and faces of vertices that are not there.
    """
    import trimesh
    kind = _format(path)
    try:
        content = io.BytesIO(Path(path).read_bytes())
        read = trimesh.load_mesh(content, file_type=kind, process=False, maintain_order=True)
        vertices, faces = np.asarray(read.vertices, np.float32), np.asarray(read.faces)
        colors = np.asarray(read.visual.vertex_colors)[:, :3] if read.visual.kind == "vertex" else None
    except OSError:
        raise
    except Exception as error:                                # whatever a parser trips over, the file is to blame
        raise InputError(f"{path}: not a readable {kind} mesh ({type(error).__name__}: {error})") from None
    if not len(vertices) or not len(faces):
        raise InputError(f"{path}: a mesh needs vertices and faces; this one has {len(vertices)} and {len(faces)}")
    if not np.isfinite(vertices).all():
        raise InputError(f"{path}: vertex {int(np.argmin(np.isfinite(vertices).all(1)))} is not finite")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path}: a face names vertex {int(faces.max() if faces.min() >= 0 else faces.min())} of {len(vertices)}")
    return Mesh(vertices, faces, colors)


def _format(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path}: meshes are {', '.join(FORMATS)} files, not {suffix or 'without a suffix'}")
    return suffix[1:]


def picture(mesh: Mesh, cameras: Cameras, height: int, width: int, samples: int = 3, device: torch.device | str = "cpu") -> np.ndarray:
    """Pictures (N, H, W, 3) uint8 of the mesh before white, under two lights that move with the camera; samples x samples rays a pixel."""
    on = lambda array, dtype: torch.as_tensor(array, device=device).to(dtype)
    vertices, faces = on(mesh.vertices, torch.float32), on(mesh.faces, torch.int64)
    colors = on(np.full_like(mesh.vertices, GRAY) if mesh.colors is None else mesh.colors, torch.float32)
    surface = torch.cat([vertex_normals(vertices, faces), (colors / 255) ** 2.2], dim=-1)
    cameras, tree = cameras.move(device=device, dtype=torch.float32), build(vertices, faces)
    uv = pixel_grid(height * samples, width * samples, device)[None]
    shade = lambda camera: lambda uv: _shade(tree, surface, faces, camera, uv)
    view = lambda n: in_chunks(shade(cameras.pick([n])), uv, chunk=2**20, axis=1).unflatten(1, (height, samples, width, samples)).mean((2, 4))
    linear = torch.cat([view(n) for n in range(len(cameras))])
    return (255 * linear.clamp(0, 1) ** (1 / 2.2)).round().to(torch.uint8).cpu().numpy()


def _shade(tree, surface: Tensor, faces: Tensor, camera: Cameras, uv: Tensor) -> Tensor:
    """Linear colours (1, R, 3): Lambert under the key, the fill and the same light from everywhere, on whichever side of a face is seen."""
    origins, directions = (rays[0] for rays in camera_rays(camera, uv))
    hits = first_hits(tree, origins, directions)
    normals, albedo = interpolate(surface, faces, hits).split(3, dim=-1)
    normals = normalize(normals, dim=-1)
    normals = torch.where((normals * directions).sum(-1, keepdim=True) > 0, -normals, normals)
    towards = normalize(torch.tensor([KEY, FILL], device=uv.device), dim=-1) @ camera.cam2world[0, :3, :3].T
    light = AMBIENT_LIGHT + (normals @ towards.T).clamp_min(0) @ torch.tensor([KEY_LIGHT, FILL_LIGHT], device=uv.device)
    return torch.where(hits.faces[:, None] >= 0, albedo * light[:, None], 1.0)[None]
