"""Writes what a V-net makes of frames: latent voxels for --stage query to train on, or coarse meshes (the release's test_shape_coarse).

    python geopifu/export_latents.py --load_netV_checkpoint_path log/coarse --datasetDir data/humanRender --resultsDir data/latents     every frame's voxels
    python geopifu/export_latents.py ... --dataType test                                                        meshes of the test frames

Frame n's voxels are n_deepVoxels.npy (8, W, H, D), 1.6 MB at the published size, half of it with --half. What is there already is left; run the same
command again to go on, or several with --splitNum and --splitIdx.
"""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import option, run_program
from common.errors import InputError
from common.files import replacing
from common.ranks import device_of
from geopifu import meshes, published
from geopifu.data import Frames
from geopifu.geometry import calibration
from geopifu.layout import shard
from geopifu.model import GeoPIFu
from geopifu.options import DataConfig
from geopifu.train import Items, stacked


@dataclass
class ExportConfig(DataConfig):
    """Options of geopifu/export_latents.py."""

    load_netV_checkpoint_path: str = option(..., "the V-net: a run folder, a file of ours or netV_epoch_29_2899")
    resultsDir: str = option(..., "folder to write to")
    dataType: str = option("train", "train: latent voxels of all frames; test: meshes of the test frames", choices=("train", "test"))
    loadSize: int = option(512, "side of the photos, in pixels", low=16)
    batch_size: int = option(1, "frames at once", low=1)
    splitNum: int = option(1, "programs that share the work", low=1)
    splitIdx: int = option(0, "which of them this is", low=0)
    half: bool = option(False, "store voxels as float16: half the size, three digits")
    num_threads: int = option(2, "threads that read frames", low=1)
    device: str = option("auto", "auto (a GPU if there is one), cpu, cuda or cuda:NUMBER")


def main(config: ExportConfig) -> None:
    """Load the V-net and the frames, and write."""
    model, _ = published.load(config.load_netV_checkpoint_path, device=device_of(config.device))
    if model.netV is None:
        raise InputError(f"{config.load_netV_checkpoint_path}: holds no netV")
    export(model, Frames(replace(config, num_sample_inout=0, deepVoxelsDir=""), "all" if config.dataType == "train" else "test"), config)


@torch.no_grad()
def export(model: GeoPIFu, frames: Items, config: ExportConfig) -> None:
    """Write the voxels or meshes of this program's share of the frames that are not there yet."""
    from tqdm import tqdm

    device, suffix = next(model.parameters()).device, "deepVoxels.npy" if config.dataType == "train" else "meshCoarse.obj"
    path = lambda i: Path(config.resultsDir) / f"{frames.names[i]}_{suffix}"
    todo = [i for i in shard(len(frames), config.splitNum, config.splitIdx) if not path(i).exists()]
    batches = [todo[k:k + config.batch_size] for k in range(0, len(todo), config.batch_size)]
    with ThreadPoolExecutor(config.num_threads) as pool:
        for rows in tqdm(batches, desc=suffix, dynamic_ncols=True):
            photos = stacked(list(pool.map(lambda i: {"img": frames.item(i, 0)["img"]}, rows)), device)["img"][:, 0]
            for i, photo, latents in zip(rows, photos, model.latents(photos)):
                if config.dataType == "train":
                    write_latents(path(i), latents, config.half)
                else:
                    write_mesh(path(i), model, photo, latents)


def write_latents(path: Path, latents: Tensor, half: bool = False) -> None:
    """Latent voxels (8, D, H, W) as the release's (8, W, H, D)."""
    array = latents.permute(0, 3, 2, 1).cpu().numpy().astype(np.float16 if half else np.float32)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array))


def write_mesh(path: Path, model: GeoPIFu, photo: Tensor, latents: Tensor) -> None:
    """The coloured surface of latent voxels (8, D, H, W), in the photo's own view; where there is none, a line that says so."""
    from tqdm import tqdm

    try:
        mesh = meshes.coarse_surface(model.netV.occupancy(latents[None])[0, 0], model.config.published_voxels)
    except InputError as empty:
        tqdm.write(f"{path.name}: {empty}")
        return
    meshes.write_obj(path, mesh, meshes.vertex_colors(mesh.vertices, photo, torch.from_numpy(calibration(0)), model.config.published_pixels))


if __name__ == "__main__":
    run_program(main, ExportConfig, __doc__)
