"""New heads: python sof/sample.py fit|heads|vae --checkpoint log/people --out out/samples

fit: a Gaussian mixture over the codes of the trained heads; heads: new heads drawn from it, as label maps and codes that sof/render.py takes
(--instance out/samples/codes.npy:3); vae: the codes on a plane. `sample_ins`, `sample_pose` and `interp_ins` are the methods of the release's FaceSegSampler.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.cameras import Cameras, look_at
from common.config import option, run_commands
from common.figures import new_figure, write_figure
from common.files import replacing
from common.images import contact_sheet, write_png
from common.render import render
from common.report import curve_plot
from sof import mixture as mixtures
from sof.cameras import published_cameras, spiral_path
from sof.edit import blend
from sof.look import View, cameras_at, distance_of, facing, opened, write_labels
from sof.mixture import Mixture, MixtureOptions
from sof.model import SOF
from sof.plots import plot_mixture, plot_plane
from sof.predict import rays_at_once, shooter

SAMPLE_RADIUS = 1.2                                             # of FaceSegSampler's spiral


# Label maps of codes

@torch.no_grad()
def label_maps(model: SOF, codes: Tensor, cameras: Cameras, size: int, side: int = 128, features: bool = False) -> Tensor:
    """Label maps (N, size, size) int64 of codes (N, C) from N cameras: a grid of side x side rays, its scores resized bilinearly with aligned corners.

    With `features` their log-probabilities (N, classes, size, size).
    """
    pictures, before = [], None
    for k in range(len(cameras)):
        if before is None or not codes[k].equal(before):
            before, scene = codes[k], model.scene(codes[k:k + 1])
        seen = render(shooter(model, scene, scores=True), cameras.pick([k]), side, side, rays_at_once(model, side))
        scores = interpolate(seen["scores"].permute(0, 3, 1, 2), size=(size, size), mode="bilinear", align_corners=True)
        pictures.append(scores.log_softmax(dim=1) if features else scores.argmax(dim=1))
    return torch.cat(pictures)


def sample_ins(model: SOF, mixture: Mixture, count: int, cam2world: Tensor, size: int = 128, seed: int = 0, features: bool = False) -> tuple[Tensor, Tensor]:
    """Label maps of `count` new heads from one camera (4, 4), and their codes (count, C)."""
    codes = mixtures.draw(mixture, count, seed).to(_device(model))
    return label_maps(model, codes, cameras_of(model, cam2world.expand(count, 4, 4)), size, features=features), codes


def sample_pose(model: SOF, center: Tensor, look_at_point: Tensor, count: int, code: Tensor | None = None, mixture: Mixture | None = None, size: int = 128,
                seed: int = 0, radius: float = SAMPLE_RADIUS, features: bool = False) -> tuple[Tensor, Tensor]:
    """Label maps of one head, `code` (1, C) or drawn from the mixture, along the spiral, and its poses; 4 * (count // 8) + count // 2 of them."""
    code = mixtures.draw(mixture, 1, seed) if code is None else code
    poses = look_at(*spiral_path(center.double(), look_at_point.double(), radius, count))
    return label_maps(model, code.to(_device(model)).expand(len(poses), -1), cameras_of(model, poses), size, features=features), poses


def interp_ins(model: SOF, source: Tensor, target: Tensor, count: int, cam2world: Tensor, size: int = 128, features: bool = False) -> tuple[Tensor, Tensor]:
    """Label maps of `count` codes evenly from `target` to `source` (1, C), as the release orders them, from one camera (4, 4), and the codes."""
    codes = blend(target, source, torch.linspace(0, 1, count)).to(_device(model))
    return label_maps(model, codes, cameras_of(model, cam2world.expand(count, 4, 4)), size, features=features), codes


def _device(model: SOF) -> torch.device:
    return next(model.parameters()).device


def cameras_of(model: SOF, cam2world: Tensor) -> Cameras:
    """The released model's cameras at poses (N, 4, 4), of the kind and on the device of a model."""
    return published_cameras(cam2world, orthographic=model.config.orthogonal).move(_device(model))


# Commands

@dataclass
class FitConfig(MixtureOptions):
    """Options of `fit`."""

    checkpoint: str = option(..., "run folder, checkpoint of ours or author's file")
    out: str = option(..., "folder for mixture.safetensors and its plot")
    drawn: int = option(200, "new codes shown in the plot", low=0)


@dataclass
class HeadsConfig(MixtureOptions, View):
    """Options of `heads`."""

    mixture: str | None = option(None, "mixture.safetensors of fit; empty: fitted now")
    count: int = option(8, "new heads", low=1)
    columns: int = option(4, "of the sheet", low=1)
    output_sidelength: int | None = option(None, "side of the label maps, in pixels; empty: side", low=8)
    azimuth: float = option(0.0, "of the camera, in degrees from the front")
    seed: int = option(0, "seed of the heads", low=0)


@dataclass
class VaeConfig:
    """Options of `vae`; the defaults are the notebook's."""

    checkpoint: str = option(..., "run folder, checkpoint of ours or author's file")
    out: str = option(..., "folder for vae.png and vae_loss.png")
    epochs: int = option(500, "passes over the codes", low=1)
    vae_batch: int = option(100, "codes a step", low=1)
    lr: float = option(1e-4, "learning rate of Adam", low=0)
    seed: int = option(0, "seed", low=0)
    published_loss: bool = option(False, "the notebook's loss: the KL divergence alone, which leaves nothing to see")


def fit(config: FitConfig) -> None:
    """Fit a Gaussian mixture to the codes and plot it with its 1, 2 and 3 sigma ellipses on their two principal axes."""
    codes, out = codes_of(config.checkpoint), Path(config.out)
    mixture = mixtures.fit(codes, config)
    mixtures.save(out / "mixture.safetensors", mixture, MixtureOptions(**{name: getattr(config, name) for name in MixtureOptions.__dataclass_fields__}))
    figure, axes = new_figure()
    plot_mixture(axes, mixture, codes, mixtures.draw(mixture, config.drawn, 0) if config.drawn else codes[:0])
    write_figure(out / "mixture.png", figure)
    print(f"{len(mixture.weights)} Gaussians of {len(codes)} codes in {out / 'mixture.safetensors'}; {out / 'mixture.png'}")


def heads(config: HeadsConfig) -> None:
    """Draw new heads: label maps, a sheet of them, and their codes."""
    sof, out = opened(config), Path(config.out)
    mixture = mixtures.load(config.mixture) if config.mixture else mixtures.fit(codes_of(config.checkpoint), config)
    codes = mixtures.draw(mixture, config.count, config.seed)
    cameras = cameras_at(config, sof, facing([config.azimuth] * config.count, distance_of(config, sof)))
    labels = label_maps(sof, codes.to(_device(sof)), cameras, config.output_sidelength or config.side, config.side).byte().cpu().numpy()
    write_png(out / "heads.png", contact_sheet(write_labels(out, labels, config.palette), config.columns, gap=10))
    with replacing(out / "codes.npy") as temporary, temporary.open("wb") as file:
        np.save(file, codes.numpy())
    print(f"{len(codes)} new heads in {out / 'heads.png'}; sof/render.py takes them as --instance {out / 'codes.npy'}:0 ...")


def vae(config: VaeConfig) -> None:
    """Plot the codes on the plane of a small variational autoencoder, and its loss."""
    from sof.latent_vae import train

    out = Path(config.out)
    plane, history = train(codes_of(config.checkpoint), config.epochs, config.vae_batch, config.lr, config.seed, config.published_loss)
    figure, axes = new_figure()
    plot_plane(axes, plane)
    write_figure(out / "vae.png", figure)
    curve_plot(out / "vae_loss.png", {name: (range(1, len(values) + 1), values) for name, values in history.items()}, "epoch", "loss", log_y=True)
    print(f"KL {history['KL'][0]:.3g} after the first epoch, {history['KL'][-1]:.3g} after the last; {out / 'vae.png'}, {out / 'vae_loss.png'}")


@torch.no_grad()
def codes_of(checkpoint: str) -> Tensor:
    """The codes (N, embedding_size) of all heads of a checkpoint, without their cameras."""
    from sof import model

    sof = model.load(checkpoint)[0]
    return sof.split_codes(sof.codes(torch.arange(sof.heads)))[1]


if __name__ == "__main__":
    run_commands({"fit": (fit, FitConfig), "heads": (heads, HeadsConfig), "vae": (vae, VaeConfig)}, __doc__)
