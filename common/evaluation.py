"""Generated pictures beside real ones: FID and its kin, by one path in training and in every eval.py.

    figures = evaluate(fakes, 2048, stored_pictures(folder), open_extractor("inception"), ("fid", "kid"), "out/features")      a dict for JSON

The Frechet and the kernel distance are called FID and KID when Inception made the features, and else after their network: FD_people, KD_people.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from common import ranks
from common.errors import InputError
from common.features import Extractor, Features, PictureSet, extract, gathered, real_features, sides
from common.fidelity import Moments, frechet_distance, inception_score, kernel_distances, moments, over_ranks, precision_recall, random_subsets

METRICS = ("fid", "kid", "is", "pr")
SPLITS = 10                                                  # of the inception score
NEIGHBOURS = 3                                               # whose distance is a ball's radius: the 3 of pr50k3


def evaluate(fakes: Iterable[np.ndarray], count: int, reals: PictureSet, extractor: Extractor, metrics: Sequence[str] = ("fid",),
             cache: str | Path | None = None, kid_subsets: int = 100, kid_subset_size: int = 1000, seed: int = 2020) -> dict:
    """What `count` generated pictures are worth beside real ones: figures, both counts, resolution, network and versions, for JSON.

    Arguments: fakes, batches uint8 (N, H, W, 3) of this rank's share, pictures rank, rank + ranks, ...; metrics, some of METRICS ("pr": precision and recall).
    All ranks call it; rank 0 gets the dict, the others an empty one. Raises InputError for an unknown metric, too few pictures, an inception score
    without Inception (before a fake is asked for), and pictures of another size than the real ones.
    """
    check_request(metrics, count, reals.count, extractor, kid_subset_size)
    real = real_features(reals, extractor, cache)
    own = extract(fakes, extractor, len(range(count)[ranks.rank()::ranks.count()]), "generated pictures")
    if not torch.equal(own["size"], real["size"]):
        raise InputError(f"generated pictures of {sides(own['size'].tolist())}, real ones of {sides(real['size'].tolist())}: compare pictures of one size")
    spread = over_ranks(moments(own["features"].to(extractor.device)))
    fake = gathered(own, count, extractor.device) if set(metrics) - {"fid"} else {}
    if ranks.rank():
        return {}
    subsets = list(random_subsets(count, reals.count, kid_subsets, kid_subset_size, seed)) if "kid" in metrics else ()
    figures = _figures(spread, fake, real, extractor, metrics, subsets, seed)
    settings = {"kid_subsets": kid_subsets, "kid_subset_size": kid_subset_size} if "kid" in metrics else {}
    return figures | settings | {"generated": count, "real": reals.count, "resolution": real["size"].tolist(), "extractor": extractor.name,
                                 "extractor_version": extractor.version, "torch": torch.__version__}


def check_request(metrics: Sequence[str], fakes: int, reals: int, extractor: Extractor, kid_subset_size: int = 1000) -> None:
    """Refuse with an InputError what cannot be measured on so many pictures or with this network."""
    least = {"fid": 2, "kid": kid_subset_size, "is": SPLITS, "pr": NEIGHBOURS + 1}
    for metric in metrics:
        if metric not in METRICS:
            raise InputError(f"--metrics: expected some of {', '.join(METRICS)}, got {metric!r}")
        if min(fakes, reals) < least[metric]:
            raise InputError(f"--metrics {metric}: needs {least[metric]} pictures on either side{' (--kid_subset_size)' * (metric == 'kid')}; "
                             f"there are {fakes} generated and {reals} real ones")
    if "is" in metrics and extractor.name != "inception":
        raise InputError(f"--metrics is: the inception score needs --extractor inception; {extractor.name} has no classes")


def _figures(spread: Moments, fake: Features, real: Features, extractor: Extractor, metrics: Sequence[str], subsets: Collection, seed: int) -> dict:
    """{name: figure} of the metrics that are asked for."""
    from tqdm import tqdm
    frechet, kernel = ("FID", "KID") if extractor.name == "inception" else (f"FD_{extractor.name}", f"KD_{extractor.name}")
    on = lambda features: features["features"].to(extractor.device)
    figures = {}
    if "fid" in metrics:
        figures[frechet] = frechet_distance(spread, moments(on(real)))
    if "kid" in metrics:
        bar = tqdm(subsets, kernel, leave=False, disable=None, dynamic_ncols=True)
        distances = kernel_distances(fake["features"], real["features"], bar)
        figures |= {kernel: float(distances.mean()), f"{kernel}_std": float(distances.std())}
    if "is" in metrics:
        figures["IS"], figures["IS_std"] = inception_score(fake["logits"], SPLITS, seed)
    if "pr" in metrics:
        figures["precision"], figures["recall"] = precision_recall(on(fake), on(real), NEIGHBOURS)
    return figures
