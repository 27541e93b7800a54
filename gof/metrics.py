"""What GOF is measured by: how near its pictures are to real ones, in training and out of it, and how thin its surfaces are.

    figures = measure(generator, real_pictures(folder, "celeba", 128), extractor, 2048, 128, ("fid", "kid"))         a dict for JSON

Weighted variance (GOF, sec. 4; specification 4.2): how far along a ray the light that makes its colour is spread; low where a surface is thin. Reported is
1e4 times the mean over pictures of the mean over their opaque rays, of 1,000 codes at 128 px, psi 0.7, cameras drawn as in training.
"""
from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import draws, ranks
from common.cameras import pigan_cameras
from common.chunks import in_chunks
from common.config import option
from common.evaluation import check_request, evaluate
from common.features import EXTRACTORS, Extractor, PictureSet, content_key, open_extractor
from common.gan import Ema
from common.images import ImageFolder
from common.march import Density, March, alphas_of, search_surface
from common.poses import draw_angles
from common.rays import camera_rays, pixel_grid
from common.volume import composite
from gof.data import TRANSFORMS, naming, read_cropped
from gof.look import as_pictures, look
from gof.model import Generator, march_options, shoot

BATCH = 32                                                   # pictures handed to an extractor at once
SAMPLES = 36                                                 # on a ray, regular; a variance compares only with those of as many
OPAQUE = 0.99
SCALE = 1e4
RAYS = 2048


# How near pictures are to real ones

@dataclass
class Judging:
    """What generated pictures are compared by."""

    extractor: str = option("inception", "network whose features are compared: inception gives FID, people FD_people", choices=EXTRACTORS, free=True)
    extractor_weights: str = option("", "file of its weights; empty: inception's are fetched, people's ship", free=True)
    num_images: int = option(2048, "generated pictures", low=2, free=True)


@dataclass
class TrainingJudge(Judging):
    """When a training is measured, and on what."""

    eval_freq: int = option(0, "steps between two measurements against the training's pictures, at the last stage's side; 0: none", low=0, free=True)
    num_eval_imgs: int = option(0, "real pictures that it is measured against, drawn once; 0: all", low=0, free=True)


def measure(generator: Generator, reals: PictureSet, extractor: Extractor, count: int, side: int, metrics: Sequence[str] = ("fid",),
            cache: str | Path | None = None, psi: float = 1.0, published: bool = False, seed: int = 0, kid_subset_size: int = 1000) -> dict:
    """`common.evaluation.evaluate` of `count` pictures of a generator, side x side, beside real ones; on rank 0, which all ranks work for."""
    figures = evaluate(fakes(generator, count, side, psi, published, seed), count, reals, extractor, metrics, cache, kid_subset_size=kid_subset_size)
    return figures and figures | {"psi": psi, "seed": seed, "published": published}


@torch.no_grad()
def fakes(generator: Generator, count: int, side: int, psi: float = 1.0, published: bool = False, seed: int = 0) -> Iterator[np.ndarray]:
    """This rank's share of `count` random pictures, uint8 (N, side, side, 3), cameras drawn as in training; picture i is a function of the seed and i.

    published: nothing gets what light is left behind the field, and pictures go through JPEG.
    """
    config, device = generator.config, generator.siren.final_layer.weight.device
    by, own, batch = march_options(config), range(count)[ranks.rank()::ranks.count()], []
    by = replace(by, last_back=False) if published else by
    for i in own:
        source = draws.generator(seed, i, "evaluation")
        z = torch.randn(1, config.latent_dim, generator=source).to(device)
        angles = draw_angles(config.sample_dist, 1, config.h_mean, config.h_stddev, config.v_mean, config.v_stddev, source)
        seen = look(generator, generator.scene(generator.codes(z, psi)), angles, side, by, shoot=partial(shoot, of_surface=False))
        picture = as_pictures(seen["colors"])[0]
        batch.append(through_jpeg(picture) if published else picture)
        if len(batch) == BATCH or i == own[-1]:
            yield np.stack(batch)
            batch = []


def real_pictures(folder: ImageFolder, transform: str, side: int, count: int = 0, published: bool = False, seed: int = 0) -> PictureSet:
    """The pictures of a folder or zip as a training sees them, unflipped; `count` of them drawn by the seed, 0: all. published: through JPEG."""
    count = min(count or len(folder), len(folder))
    chosen = torch.randperm(len(folder), generator=draws.generator(seed, 0, "real pictures"))[:count].sort().values.tolist()

    def picture(i: int) -> np.ndarray:
        whole = read_cropped(folder, i, TRANSFORMS[transform])
        with naming(folder, i):
            ready = TRANSFORMS[transform].resize(whole, side, False)
        return through_jpeg(ready) if published else ready

    def load(indices: Sequence[int]) -> np.ndarray:
        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(picture, [chosen[i] for i in indices])))

    return PictureSet(count, content_key(folder, f"{transform} {side} {published} {chosen if count < len(folder) else 'all'}"), load)


def through_jpeg(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 as the release compares it: written and read as JPEG of quality 75."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=75)
    return np.array(Image.open(file))


def judge_of(config: TrainingJudge, pictures: ImageFolder, generator: Generator, ema: Ema, folder: Path) -> Callable[[int], dict[str, float]]:
    """judge(steps done) -> {"FID" or "FD_people": figure} of the averaged weights where one is due, else nothing; all ranks call it.

    Raises InputError at once for what will not work later.
    """
    if not config.eval_freq:
        return lambda steps: {}
    extractor = open_extractor(config.extractor, generator.siren.final_layer.weight.device, config.extractor_weights or None)
    reals = real_pictures(pictures, config.transform, config.img_size[-1], config.num_eval_imgs, seed=config.seed)
    check_request(("fid",), config.num_images, reals.count, extractor)

    def judge(steps: int) -> dict[str, float]:
        if steps % config.eval_freq:
            return {}
        with ema.applied(generator):
            figures = measure(generator, reals, extractor, config.num_images, config.img_size[-1], cache=folder / "features", seed=config.seed)
        return {name: value for name, value in figures.items() if name == "FID" or name.startswith("FD_")}

    return judge


# How thin surfaces are

@torch.no_grad()
def variance_of(generator: Generator, seeds: Sequence[int], side: int = 128, psi: float = 0.7) -> dict:
    """{"weighted_variance", "codes", "codes_with_opaque_rays", ...} of the codes of seeds, each from a camera drawn as in training."""
    from tqdm import tqdm

    config, means = generator.config, []
    for seed in tqdm(seeds, "variance", leave=False, disable=None, dynamic_ncols=True):
        source = draws.generator(seed, 0, "camera")
        angles = draw_angles(config.sample_dist, 1, config.h_mean, config.h_stddev, config.v_mean, config.v_stddev, source)
        scene = generator.scene(generator.codes(generator.latents([seed]), psi))
        rays = camera_rays(pigan_cameras(angles.to(scene.toward), config.fov, side), pixel_grid(side, side, scene.toward.device)[None])
        spread = depth_spread(partial(generator.siren.density, scene), *rays, march_options(config), config.interval_max / 2)
        means.append(weighted_variance(*spread))
    means = torch.cat(means)
    opaque = int((~means.isnan()).sum())
    return {"weighted_variance": float(SCALE * means.nanmean()), "codes": len(means), "codes_with_opaque_rays": opaque, "side": side, "psi": psi}


@torch.no_grad()
def depth_spread(density: Density, origins: Tensor, directions: Tensor, options: March, cut: float,
                 samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """The variance of depth along rays (B, R, 3) and their opacity, (B, R) each.

    Where the options search for a surface, what lies more than `cut` (GOF: half of interval_max) before it does not count, so that a haze does not.
    """
    def spread(origins: Tensor, directions: Tensor) -> dict[str, Tensor]:
        depths = torch.linspace(options.near, options.far, samples, dtype=origins.dtype, device=origins.device).expand(*origins.shape[:2], -1)
        at = lambda depths: density((origins[:, :, None] + directions[:, :, None] * depths[..., None]).flatten(1, 2)).view(depths.shape)
        logits = at(depths)
        before = search_surface(at, logits, depths, options)["surface_depth"][..., None] - cut if options.surface else None
        return spread_of(alphas_of(logits, depths, options), depths, before)

    return tuple(in_chunks(spread, origins, directions, chunk=RAYS, axis=1).values())


def spread_of(alphas: Tensor, depths: Tensor, before: Tensor | None = None) -> dict[str, Tensor]:
    """{"depth_variance", "opacity"} (...) of samples' opacities and depths (..., S); those at depths up to `before` (..., 1) do not count."""
    if before is not None:
        alphas = torch.where(depths <= before, 0, alphas)
    seen = composite(alphas, depths[..., None], depths)
    return {name: seen[name] for name in ("depth_variance", "opacity")}


def weighted_variance(variances: Tensor, opacities: Tensor, least: float = OPAQUE) -> Tensor:
    """The mean variance (B,) of each picture's rays (B, R) whose opacity is above `least`, not yet scaled; NaN for a picture without such rays.

    The release lets one such picture turn the whole figure to NaN; `torch.nanmean` of these leaves it out.
    """
    opaque = opacities > least
    return torch.where(opaque, variances, 0).sum(1) / opaque.sum(1)
