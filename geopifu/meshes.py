"""From a field of occupancies to a coloured mesh, as the release makes and writes it (specification, section 4.8), or sooner.

The grid of X x Y x Z points has point i at low + i (high - low) / X along an axis: the last plane is one step short of the box. `values_on_grid` asks
for every point (dense), for those near the surface (refine: the same mesh, see ``common.surfaces``), or as the release's octree does, which guesses.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.chunks import POINTS, in_chunks
from common.files import replacing
from common.meshes import Mesh, marching_cubes
from common.surfaces import Field, dense_grid, grid_axes, refine_grid
from geopifu.geometry import BOX
from geopifu.model import GeoPIFu, Scene
from geopifu.sampling import project, sample_picture

RESOLUTION = (171, 256, 171)
LEVEL = 0.5
OCTREE_START, OCTREE_THRESHOLD = 64, 0.01
EVALUATIONS = ("refine", "dense", "octree")


def index_to_world(resolution: tuple[int, int, int], box: np.ndarray = BOX) -> np.ndarray:
    """(4, 4): the canonical point of a grid index."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.diag((box[1] - box[0]) / resolution), box[0]
    return matrix


def grid_box(resolution: tuple[int, int, int], box: np.ndarray = BOX) -> Tensor:
    """(2, 3) float64: the first and the last point of the grid, the box of ``common.surfaces``."""
    matrix = index_to_world(resolution, box)
    return torch.from_numpy(np.stack([matrix[:3, 3], matrix[:3, :3] @ (np.array(resolution) - 1) + matrix[:3, 3]]))


def values_on_grid(field: Field, box: Tensor, resolution: tuple[int, int, int], evaluation: str = "refine", chunk: int = POINTS) -> tuple[Tensor, int]:
    """Values (X, Y, Z) of field(points (P, 3)) -> (P,), and for how many points it was asked; `evaluation` is one of EVALUATIONS."""
    if evaluation == "refine":
        return refine_grid(field, box, resolution, LEVEL, chunk=chunk)
    return (dense_grid if evaluation == "dense" else octree_grid)(field, box, resolution, chunk=chunk)


@torch.no_grad()
def octree_grid(field: Field, box: Tensor, resolution: tuple[int, int, int], start: int = OCTREE_START, threshold: float = OCTREE_THRESHOLD,
                chunk: int = POINTS) -> tuple[Tensor, int]:
    """The release's octree: a cell whose corners differ by less than `threshold` gets the middle of them all through, others are halved.

    It begins with `start` cells along x. (The release gives zeros where x has fewer points than that; here the stride is 1 then.)
    """
    axes = grid_axes(box, resolution)
    values, known, evaluations = axes[0].new_zeros(resolution), torch.zeros(resolution, dtype=torch.bool, device=box.device), 0
    stride = max(resolution[0] // start, 1)
    while stride:
        lattice = (slice(None, None, stride),) * 3
        unknown = (~known[lattice]).nonzero() * stride
        points = torch.stack([axis[unknown[:, i]] for i, axis in enumerate(axes)], dim=-1)
        values[tuple(unknown.T)], known[lattice] = in_chunks(field, points, chunk=chunk).to(values), True
        evaluations += len(unknown)
        if stride > 1:
            _fill_flat_cells(values, known, stride, threshold)
        stride //= 2
    return values, evaluations


def _fill_flat_cells(values: Tensor, known: Tensor, stride: int, threshold: float) -> None:
    """Give the cells of the lattice whose centre is unknown and whose corners nearly agree their middle, in place; a cell ends before its far corners."""
    corners = values[::stride, ::stride, ::stride].unfold(0, 2, 1).unfold(1, 2, 1).unfold(2, 2, 1).flatten(3)
    low, high = corners.amin(-1), corners.amax(-1)
    cells, half = low.shape, stride // 2
    centers = known[half::stride, half::stride, half::stride][:cells[0], :cells[1], :cells[2]]
    everywhere = lambda of_cells: of_cells.repeat_interleave(stride, 0).repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    flat = everywhere(~centers & (high - low < threshold))
    region = tuple(slice(n * stride) for n in cells)
    values[region] = torch.where(flat, everywhere((high + low) / 2), values[region])
    known[region] |= flat


def surface(values: Tensor, box: Tensor) -> Mesh:
    """The surface at 0.5 of a grid's values. Raises InputError where there is none."""
    return marching_cubes(values.cpu(), LEVEL, box.cpu())


def coarse_surface(occupancy: Tensor, published: bool = False) -> Mesh:
    """The surface of a V-net's occupancy (D, H, W), in the photo's own view; voxel i is centred at i + 1/2, `published`: at i, half a voxel off."""
    values = occupancy.permute(2, 1, 0)                         # x, y, z
    counts = np.array(values.shape)
    low = (0.5 * (not published) - counts / 2) / counts[1]
    return surface(values, torch.from_numpy(np.stack([low, low + (counts - 1) / counts[1]])))


def body(model: GeoPIFu, scene: Scene, resolution: tuple[int, int, int] = RESOLUTION, evaluation: str = "refine", chunk: int = POINTS) -> Mesh:
    """The canonical surface of a scene of one person. Raises InputError where there is none."""
    box = grid_box(resolution)
    here = box.to(scene.calibs)
    values, _ = values_on_grid(lambda points: model.field(scene, points[None])[0], here, resolution, evaluation, chunk)
    return surface(values, box)


def vertex_colors(vertices: np.ndarray, photo: Tensor, calib: Tensor, published: bool = False) -> np.ndarray:
    """Colours (V, 3) from 0 to 1 of canonical vertices (V, 3), as the photo (3, S, S) shows them; grey beyond its mask."""
    calibrated = project(torch.as_tensor(vertices).T[None].to(photo), calib[None].to(photo))
    return (sample_picture(photo[None], calibrated[:, :2], published)[0].T * 0.5 + 0.5).cpu().numpy()


def picture(photo: Tensor) -> np.ndarray:
    """The photo (3, S, S) as the network sees it, (S, S, 3) uint8."""
    return ((photo * 0.5 + 0.5) * 255).clamp(0, 255).permute(1, 2, 0).to(torch.uint8).cpu().numpy()


def write_obj(path: str | Path, mesh: Mesh, colors: np.ndarray) -> None:
    """Write the release's .obj, "v x y z r g b" of four decimals, colours (V, 3) from 0 to 1; whole or not at all."""
    rows = np.concatenate([mesh.vertices, colors], axis=1)
    faces = np.roll(mesh.faces, 1, axis=1) + 1                  # the corner that the release begins with
    lines = [f"v {' '.join(f'{number:.4f}' for number in row)}\n" for row in rows] + [f"f {a} {b} {c}\n" for a, b, c in faces]
    with replacing(path) as temporary:
        temporary.write_text("".join(lines))
