"""Where Geo-PIFu's frames and query points come from: the options that reading them (``geopifu.data``), training and export share."""
from __future__ import annotations

from dataclasses import dataclass

from common.config import option


@dataclass
class DataConfig:
    """The release's data flags, by its names."""

    datasetDir: str = option("./data/humanRender", "folder of rendered frames (geopifu/render_data.py)", free=True)
    meshDirSearch: str = option("./data", "folder of the meshes that frames were rendered from, for points sampled as they are needed", free=True)
    deepVoxelsDir: str = option("", "folder of latent voxels (geopifu/export_latents.py); empty: made by the V-net", free=True)
    totalNumFrame: int | None = option(None, "frames that there must be (the release's: 108720); none: those that there are")
    trainingDataRatio: float = option(0.8, "share of the frames that are for training, the first ones", low=0)
    sampleType: str = option("occu_sigma3.5_pts5k", "folder of query points in datasetDir (geopifu/prepare_queries.py)")
    epoch_offline_len: int = option(15, "epochs of query points on disk, used in turn", low=1)
    online_sampling: bool = option(False, "sample points of training frames as they are needed, too; test frames' always are")
    num_sample_inout: int = option(5000, "query points of a frame and epoch, half of them inside at most", low=0)
    sigma: float = option(5.0, "how far points sampled as they are needed lie from the surface, in voxels of 1/192", low=0)
    num_views: int = option(1, "photos of a person, seen from different sides", low=1)
    random_multiview: bool = option(False, "draw the views beyond the first instead of taking those that follow")
