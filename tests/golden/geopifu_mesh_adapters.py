"""Adapter of the golden kind of Geo-PIFu's meshes: it arranges arguments for the functions that train and reconstruct call."""
from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.meshes import Mesh, volume
from geopifu import meshes
from tests.golden.sof_adapters import numpy, tensors


def field_of(config: dict):
    """The analytic field that the case states."""
    center, radii = torch.tensor(config["center"], dtype=torch.float64), torch.tensor(config["radii"], dtype=torch.float64)
    return lambda points: 1 / (1 + (config["sharpness"] * ((((points - center) / radii).abs() ** config["power"]).sum(-1) - 1)).exp())


def coarse_of(config: dict) -> Tensor:
    """The analytic volume that the case states, (D, H, W)."""
    index = torch.stack(torch.meshgrid(*map(torch.arange, config["shape"]), indexing="ij"), dim=-1).double()
    away = ((index - torch.tensor(config["center"], dtype=torch.float64)) / torch.tensor(config["radii"], dtype=torch.float64)).norm(dim=-1)
    return (1 / (1 + (config["sharpness"] * (config["scale"] * away - config["scale"])).exp())).float().permute(2, 1, 0)


def reconstruct(config: dict, params: dict, inputs: dict) -> dict:
    photo, resolution = tensors(inputs)["image"][0], tuple(config["resolution"])
    limits = np.array([config["b_min"], config["b_max"]])
    box, field = meshes.grid_box(resolution, limits), field_of(config["field"])
    dense, _ = meshes.values_on_grid(field, box, resolution, "dense")
    octree, evaluations = meshes.octree_grid(field, box, resolution, config["octree"]["init_resolution"], config["octree"]["threshold"])
    mesh = meshes.surface(dense, box)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.obj"
        meshes.write_obj(path, mesh, meshes.vertex_colors(mesh.vertices, photo, torch.tensor(config["calib"]), published=True))
        lines = path.read_text().splitlines()
    rows = lambda kind: np.array([line.split()[1:] for line in lines if line.startswith(kind)], np.float64)
    coarse = meshes.coarse_surface(coarse_of(config["coarse_field"]), published=True)
    return numpy({
        "grid_first": box[0], "grid_last": box[1], "mat": meshes.index_to_world(resolution, limits), "dense": dense, "octree": octree,
        "octree_evaluations": np.array(evaluations), "verts_world": mesh.vertices, "n_verts": len(mesh.vertices), "n_faces": len(mesh.faces),
        "obj_vertices": rows("v "), "obj_faces": rows("f ").astype(int), "coarse_verts": coarse.vertices, "coarse_n": len(coarse.vertices),
        "signed_volume_written": volume(Mesh(rows("v ")[:, :3], rows("f ").astype(int) - 1)), "png": meshes.picture(photo),
    })


ADAPTERS = {"geopifu.reconstruct": reconstruct}
