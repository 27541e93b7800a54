"""Sample the query points of training frames once, for all epochs (specification: ``geopifu.queries``).

    python geopifu/prepare_queries.py --datasetDir data/humanRender --meshDirSearch data/bodies --epoch_range 0 15 --sigma 3.5 --splitNum 8 --splitIdx 0

A frame's points are a function of the seed, the frame and the epoch: not of how the work is split, nor of what was killed and started again.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.config import option, run_program
from common.errors import InputError
from geopifu.data import solid_of
from geopifu.layout import all_frames, read_config, shard, split_frames
from geopifu.queries import Solid, packed_path, query_paths
from geopifu.render_data import write_array

FORMATS = ("packed", "published")


@dataclass
class QueryConfig:
    datasetDir: str = option("./data/humanRender", "folder of rendered frames (geopifu/render_data.py)")
    meshDirSearch: str = option("./data", "folder of the meshes that they were rendered from")
    sampleType: str = option("occu_sigma3.5_pts5k", "folder in datasetDir to write to")
    format: str = option("packed", "packed: a file a group of four views, which share their points; published: two files a frame and epoch", choices=FORMATS)
    epoch_range: list[int] = option([0, 15], "first epoch, and the one after the last", low=0)
    sigma: float = option(3.5, "spread about the surface, in voxels of 1/192", low=0)
    num_sample_inout: int = option(5000, "points of a frame and epoch, half of them inside at most", low=2)
    num_sample_color: int = option(0, "0; points with colours were never trained on", choices=(0,))
    trainingDataRatio: float = option(0.8, "share of the release's frames that are for training", low=0)
    splitNum: int = option(1, "the frames are split into so many chunks", low=1)
    splitIdx: int = option(0, "this process samples this chunk, from 0", low=0)
    seed: int = option(0, "of the points", low=0)


def main(config: QueryConfig) -> None:
    """Sample what is not there yet."""
    if len(config.epoch_range) != 2 or config.epoch_range[0] >= config.epoch_range[1] or (config.format == "packed" and config.epoch_range[0]):
        raise InputError(f"--epoch_range {' '.join(map(str, config.epoch_range))}: expected a first epoch and one after the last; packed begins with 0")
    frames = split_frames(config.datasetDir, config.trainingDataRatio, len(all_frames(config.datasetDir)))["train"]
    groups = sorted({frame - frame % 4 for frame in frames})
    groups = [groups[k] for k in shard(len(groups), config.splitNum, config.splitIdx)]
    sample = sample_packed if config.format == "packed" else sample_published
    for group in tqdm(groups, desc="groups", unit="group", disable=not groups, dynamic_ncols=True):
        sample(config, group, [frame for frame in range(group, group + 4) if frame in set(frames)])
    print(f"query points of {len(groups)} groups in {Path(config.datasetDir) / config.sampleType}")


def sample_packed(config: QueryConfig, group: int, frames: list[int]) -> None:
    """All epochs of a group in one file."""
    path, epochs = packed_path(Path(config.datasetDir) / config.sampleType, group), config.epoch_range[1]
    if path.is_file() and np.load(path, mmap_mode="r", allow_pickle=False).shape == (epochs, config.num_sample_inout, 4):
        return
    solid = solid_of(read_config(config.datasetDir, frames[0]), config.meshDirSearch)
    write_array(path, np.stack([labelled(*draw(config, solid, group, epoch)) for epoch in range(epochs)]))


def labelled(kept: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Points and labels (N, 4) float32."""
    labels = np.arange(len(kept) + len(others)) < len(kept)
    return np.concatenate([np.concatenate([kept, others]), labels[:, None]], axis=1).astype(np.float32)


def sample_published(config: QueryConfig, group: int, frames: list[int]) -> None:
    """Two files for every frame and epoch of a group."""
    solid = None
    for frame in frames:
        for epoch in range(*config.epoch_range):
            paths = query_paths(Path(config.datasetDir) / config.sampleType, frame, epoch)
            if not all(path.is_file() for path in paths):
                solid = solid or solid_of(read_config(config.datasetDir, frame), config.meshDirSearch)
                for path, points in zip(paths, draw(config, solid, frame, epoch)):
                    write_array(path, points)


def draw(config: QueryConfig, solid: Solid, frame: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(inside, outside) of a frame, or of a group by its first frame, and an epoch."""
    return solid.queries(np.random.default_rng([config.seed, frame, epoch]), config.num_sample_inout, config.sigma)


if __name__ == "__main__":
    run_program(main, QueryConfig, __doc__)
