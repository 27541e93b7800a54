"""Where the cameras of a data set stand, estimated from its labels, as lines of a curriculum.

    python gof/cameras.py --data data/people_gof/pigan.zip

    sample_dist: gaussian          h yaw, v pitch, radians; ``common.poses`` draws from it
    h_mean: 1.5719
    ...
    fov: 12.00

and a histogram of both angles under the distribution found. Labels are EG3D's: dataset.json with 25 camera numbers a picture.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.cameras import Cameras, check_cam2world, check_intrinsics, from_eg3d_label, pigan_angles
from common.config import option, run_program
from common.errors import InputError
from common.figures import new_figure, write_figure
from common.images import ImageFolder, open_image_folder
from common.poses import draw_angles, estimate

LABEL, STILL = 25, 1e-5                                      # numbers of a label; angles that vary less are one
BINS, DRAWN = 40, 100_000                                     # of the histogram


@dataclass
class CamerasConfig:
    data: str = option(..., "the data set: EG3D's zip, or folder of pictures with dataset.json")
    out: str = option("out/cameras.png", "the histogram to write")


def main(config: CamerasConfig) -> None:
    """Estimate, print and plot."""
    folder = open_image_folder(config.data)
    cameras = labelled_cameras(folder)
    angles = pigan_angles(cameras.cam2world)
    found = fit(angles)
    fovs = fields_of_view(cameras, folder.read(0).shape[1])
    target, distances = turning_point(cameras.cam2world)
    for name, value in found.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    print(f"fov: {fovs.median():.2f}")
    print(f"# {len(cameras)} cameras, fields of view {fovs.min():.2f} to {fovs.max():.2f} degrees, about ({', '.join(f'{x:z.3f}' for x in target.tolist())})")
    print(f"# at distance {distances.mean():.3f} +- {distances.std(correction=0):.3f}, which is pi-GAN's 1: ray_start and ray_end are in units of it")
    plot(Path(config.out), angles, found)
    print(f"# {config.out}")


def labelled_cameras(folder: ImageFolder) -> Cameras:
    """The cameras, float64, of a data set's labels. Raises InputError where they are missing or no cameras."""
    where = f"{folder.path}/dataset.json"
    if folder.labels is None or folder.labels.shape[1] != LABEL:
        there = "no labels" if folder.labels is None else f"labels of {folder.labels.shape[1]} numbers"
        raise InputError(f"{where}: {there}, expected {LABEL} camera numbers a picture")
    cameras = from_eg3d_label(torch.from_numpy(folder.labels).double())
    check_cam2world(cameras.cam2world, where)
    check_intrinsics(cameras.intrinsics, where)
    return cameras


def fit(angles: Tensor) -> dict[str, str | float]:
    """{"sample_dist", "h_mean", "h_stddev", "v_mean", "v_stddev"}: the likeliest distribution of `common.poses` for [pitch, yaw] (n, 2).

    Of gaussian, uniform and spherical_uniform, by the mean of log p at the angles; "mean" where they do not vary. In a narrow band the last two are alike:
    uniform then.
    """
    gaussian = estimate(angles)
    pitch, yaw = angles.double().unbind(-1)
    yaw = gaussian["h_mean"] + torch.remainder(yaw - gaussian["h_mean"] + math.pi, 2 * math.pi) - math.pi
    found = {
        "gaussian": tuple(gaussian.values()),
        "uniform": (*middle_and_half(yaw), *middle_and_half(pitch)),
        "spherical_uniform": (*middle_and_half(yaw), *(math.pi * x for x in middle_and_half((1 - pitch.cos()) / 2))),
    }
    if max(found["gaussian"][1::2]) < STILL:
        return {"sample_dist": "mean"} | gaussian
    sphere = math.log(8 / math.pi) - float(pitch.sin().log().mean()) + math.log(len(pitch)) / len(pitch)
    offset = {"gaussian": math.log(2 * math.pi * math.e), "uniform": math.log(4), "spherical_uniform": sphere}
    surprise = lambda name: offset[name] + sum(math.log(max(spread, STILL)) for spread in found[name][1::2])         # the mean of -log p
    best = min(found, key=surprise)
    return {"sample_dist": best} | dict(zip(gaussian, found[best]))


def middle_and_half(values: Tensor) -> tuple[float, float]:
    """The middle and half the width of the interval that values (n,) fill evenly: their range, a little wider since its ends are hardly ever drawn."""
    low, high, n = float(values.min()), float(values.max()), len(values)
    return (low + high) / 2, (high - low) / 2 * (n + 1) / max(n - 1, 1)


def fields_of_view(cameras: Cameras, width: int) -> Tensor:
    """Degrees (N,) between the centres of the first and last pixel of a row, `width` pixels wide: the inverse of `common.cameras.pigan_intrinsics`."""
    return 2 * torch.rad2deg(torch.atan((1 - 1 / width) / (2 * cameras.intrinsics[:, 0, 0])))


def turning_point(cam2world: Tensor) -> tuple[Tensor, Tensor]:
    """The point (3,) nearest to all cameras' optical axes (least squares), and the distance (N,) of each camera from it."""
    centers, forward = cam2world[:, :3, 3], cam2world[:, :3, 2]
    across = torch.eye(3).to(forward) - forward[:, :, None] * forward[:, None, :]                # takes a point to its offset from the axis
    target = torch.linalg.pinv(across.mean(0), hermitian=True, rtol=STILL) @ (across @ centers[..., None]).mean(0)[:, 0]
    return target, (centers - target).norm(dim=1)


def plot(path: Path, angles: Tensor, found: dict[str, str | float]) -> None:
    """The histograms of yaw and pitch as a PNG file, under the density of the distribution found."""
    import numpy as np
    name, *where = found.values()
    drawn = draw_angles(name, DRAWN, *where, torch.Generator().manual_seed(0))
    figure, axes = new_figure(7.0, 3.6)
    for column, axis, color in ((1, "yaw", "#2f6fde"), (0, "pitch", "#e0653a")):
        mean = found["h_mean" if axis == "yaw" else "v_mean"]
        apart = lambda values: np.degrees((values[:, column].double() - mean + math.pi).remainder(2 * math.pi).numpy() - math.pi)  # noqa: B023
        axes.hist(apart(angles), BINS, density=True, color=color, alpha=0.4, label=f"{axis} from {math.degrees(mean):.1f}")
        axes.hist(apart(drawn), BINS, density=True, color=color, histtype="step")
    axes.set(xlabel="degrees", ylabel="density", title=f"{len(angles)} cameras; lines: {name}")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(path, figure)


if __name__ == "__main__":
    run_program(main, CamerasConfig, __doc__.splitlines()[0])
