"""Says what is wrong with a data set, file by file, and what is in it.

    python scripts/check_data.py DIR                         a SOF multi-view folder, or EG3D's folder or zip of pictures with dataset.json
    python scripts/check_data.py DIR --transform celeba      a folder or zip of pictures as GOF takes them, which may lack dataset.json

The layout is recognised by content. Every finding is one line that names the file; exit code 0 if there is none, else 2.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.cameras import check_cam2world, check_intrinsics, from_eg3d_label
from common.config import option, run_program
from common.errors import InputError
from common.images import ENCODINGS, ImageFolder, decode_labels, one_channel, open_image_folder, read_picture
from common.labels import SOF_LABELS
from gof.data import TRANSFORMS, Transform, read_cropped, read_truth
from sof.data import find_views, read_cam2world, read_intrinsics, read_z_range

UNIT = 5e-3                                                   # of normals stored in half precision


@dataclass
class CheckConfig:
    dir: str = option(..., "the data set: a folder, or a zip file", positional=True)
    data_type: str = option("seg", "SOF: prefix of the label maps, as in seg_00.png")
    encoding: str = option("plain", "SOF: how the PNG files store labels", choices=ENCODINGS)
    transform: str | None = option(None, "GOF: the transform that the pictures of a folder or zip are to fit", choices=TRANSFORMS)
    threads: int = option(4, "files read at once")


@dataclass
class Report:
    """What a check found wrong, and what it counted."""

    findings: list[str] = field(default_factory=list)
    what: str = ""
    views: int = 0
    sizes: set[str] = field(default_factory=set)
    classes: set[int] = field(default_factory=set)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Turn what a reader refuses into a finding."""
        try:
            yield
        except InputError as error:
            self.findings.append(str(error))
        except OSError as error:
            self.findings.append(f"{error.filename}: {error.strerror}")

    def note(self, wrong: bool, finding: str) -> None:
        """Take down a finding if something is `wrong`."""
        if wrong:
            self.findings.append(finding)

    def add(self, other: Report) -> None:
        """Count in another report."""
        self.findings += other.findings
        self.views += other.views
        self.sizes |= other.sizes
        self.classes |= other.classes


def main(config: CheckConfig) -> None:
    root = Path(config.dir)
    found = {path: check(path, config) for path, check in data_sets(root, config).items()}
    findings = [finding for report in found.values() for finding in report.findings]
    print("".join(f"{finding}\n" for finding in findings), end="")
    for path, report in found.items():
        print(f"{path}: {report.what}, {report.views} pictures of {', '.join(sorted(report.sizes)) or 'no size'}")
        if report.classes:
            print(f"    labels: {', '.join(SOF_LABELS[label] for label in sorted(report.classes))}")
    if findings:
        raise InputError(f"{root}: {len(findings)} finding{'s' * (len(findings) > 1)}")
    print("sound")


def data_sets(root: Path, config: CheckConfig) -> dict[Path, Callable[[Path, CheckConfig], Report]]:
    """The data sets at `root`, recognised by their content, and the check of each: heads' folders may have zips beside them."""
    data_type = config.data_type
    if config.transform:
        return {root: check_gan}
    if root.is_file() or (root / "dataset.json").exists():
        return {root: check_eg3d}
    heads = {root: check_sof} if any((folder / "cam2world.npy").exists() or find_views(folder, data_type) for folder in subfolders(root)) else {}
    sets = heads | dict.fromkeys(sorted(root.glob("*.zip")), check_eg3d)
    if not sets:
        raise InputError(f"{root}: no data set, expected a zip, a folder with dataset.json, or heads' folders with {data_type}_00.png and cam2world.npy")
    return sets


def subfolders(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def check_all(check: Callable[..., Report], items: Iterable, threads: int, unit: str) -> Report:
    """The reports of all items together, in their order, with a progress bar."""
    from tqdm import tqdm
    total = Report()
    with ThreadPoolExecutor(threads) as pool:
        for report in tqdm(pool.map(check, items), "checking", len(items), unit=unit, leave=False, disable=None):
            total.add(report)
    return total


# SOF

def check_sof(root: Path, config: CheckConfig) -> Report:
    """Every head's folder."""
    folders = subfolders(root)
    report = check_all(partial(check_head, data_type=config.data_type, encoding=config.encoding), folders, config.threads, "head")
    report.what = f"SOF's multi-view layout, {len(folders)} heads"
    return report


def check_head(folder: Path, data_type: str, encoding: str) -> Report:
    """A head's label maps, previews, depth maps and cameras."""
    report, files = Report(), find_views(folder, data_type)
    if not files:
        return Report([f"{folder}: no views {data_type}_00.png"])
    sizes = [check_view(file, encoding, report) for file in files]
    known = [size for size in sizes if size]
    usual = max(known, key=known.count, default=None)
    for file, size in zip(files, sizes):
        report.note(size not in (None, usual), f"{file}: {size} pixels (height, width), other views of this head {usual}")
    check_previews(folder, files, data_type, report)
    check_depth(folder, files, usual, data_type, report)
    with report.noting():
        read_cam2world(folder, files)
    with report.noting():
        centers = read_intrinsics(folder, files)[:, :2, 2].tolist()
        for file, center in zip(files, centers) if usual else []:
            outside = not (0 <= center[0] <= usual[1] and 0 <= center[1] <= usual[0])
            report.note(outside, f"{file}: principal point {center} outside the picture; intrinsics are in pixels of the stored picture")
    return report


def check_view(file: Path, encoding: str, report: Report) -> tuple[int, int] | None:
    """The size (H, W) of a label map, or None where it cannot be read."""
    report.views += 1
    with report.noting():
        picture = one_channel(read_picture(file), str(file))
        report.sizes.add(f"{picture.shape[1]}x{picture.shape[0]}")
        with report.noting():
            report.classes |= set(np.unique(decode_labels(picture, None, encoding, where=str(file))).tolist())
        return picture.shape
    return None


def check_previews(folder: Path, files: list[Path], data_type: str, report: Report) -> None:
    previews = sorted(folder.glob(f"{data_type}_vis_[0-9]*.png"))
    for preview in previews:
        with report.noting():
            read_picture(preview)
    for file in sorted(folder.glob(f"{data_type}_[0-9]*.png")) if previews else []:
        report.note(file not in files, f"{file}: has no preview {data_type}_vis_, so that it is not read")


def check_depth(folder: Path, files: list[Path], usual: tuple[int, int] | None, data_type: str, report: Report) -> None:
    depths = [file.with_name(file.name.replace(data_type, "depth")) for file in files]
    if not any(depth.exists() and depth != file for depth, file in zip(depths, files)):
        return
    with report.noting():
        read_z_range(folder, files)
    for depth in depths:
        with report.noting():
            size = one_channel(read_picture(depth), str(depth)).shape
            report.note(usual not in (None, size), f"{depth}: {size} pixels (height, width), label maps {usual}")


# EG3D

def check_eg3d(path: Path, config: CheckConfig) -> Report:
    """Pictures, which must be square and alike, and the camera label of each."""
    report = Report(what="EG3D's layout")
    with report.noting():
        pictures = open_image_folder(path, use_labels=False)
        with report.noting():
            check_eg3d_labels(open_image_folder(path), report)
        report.add(check_all(partial(check_eg3d_picture, pictures, holds_truth(pictures)), range(len(pictures)), config.threads, "picture"))
    report.note(len(report.sizes) > 1, f"{path}: pictures of several sizes, expected one")
    return report


def check_eg3d_labels(pictures: ImageFolder, report: Report) -> None:
    where = f"{pictures.path}/dataset.json"
    for name in pictures.unmatched:
        report.findings.append(f"{where}: label of {name}, which is not there")
    if pictures.labels is None:
        return
    if pictures.labels.shape[1] != 25:
        raise InputError(f"{where}: expected 25 camera numbers a picture, not {pictures.labels.shape[1]}")
    cameras = from_eg3d_label(torch.from_numpy(pictures.labels))
    with report.noting():
        check_cam2world(cameras.cam2world, where)
    with report.noting():
        check_intrinsics(cameras.intrinsics, where)


def check_eg3d_picture(pictures: ImageFolder, truth: bool, i: int) -> Report:
    report = Report(views=1)
    with report.noting():
        shape = pictures.read(i).shape
        report.sizes.add("x".join(map(str, shape)))
        report.note(shape[0] != shape[1], f"{pictures.path}/{pictures.names[i]}: {shape[1]}x{shape[0]}, expected a square")
        if truth:
            check_truth(pictures, i, shape[:2], report)
    return report


def holds_truth(pictures: ImageFolder) -> bool:
    return any(name.endswith(".npz") for name in pictures.others)


def check_truth(pictures: ImageFolder, i: int, size: tuple[int, int], report: Report) -> None:
    """The depth and normals beside a picture."""
    depth, normals = read_truth(pictures, i).values()
    where, seen = f"{pictures.path}/{pictures.names[i]}", depth > 0
    fits = depth.shape == size and normals.shape == (*size, 3)
    report.note(not fits, f"{where}: depth {tuple(depth.shape)} and normals {tuple(normals.shape)} beside it, expected {size} and {(*size, 3)}")
    report.note(not (depth.isfinite().all() and (depth >= 0).all()), f"{where}: depth beside it that is not finite or negative")
    report.note(fits and not ((normals[seen].norm(dim=-1) - 1).abs() < UNIT).all(), f"{where}: normals beside it that are not unit where there is depth")


# GOF

def check_gan(path: Path, config: CheckConfig) -> Report:
    """Pictures of any shape that the transform takes; labels and depth only where there are some."""
    report = Report(what=f"pictures for --transform {config.transform}")
    with report.noting():
        pictures = open_image_folder(path, use_labels=False)
        if "dataset.json" in pictures.others:
            with report.noting():
                check_eg3d_labels(open_image_folder(path), report)
        check = partial(check_gan_picture, pictures, TRANSFORMS[config.transform], holds_truth(pictures))
        report.add(check_all(check, range(len(pictures)), config.threads, "picture"))
    return report


def check_gan_picture(pictures: ImageFolder, transform: Transform, truth: bool, i: int) -> Report:
    report = Report(views=1)
    with report.noting():
        height, width = read_cropped(pictures, i, transform).shape[:2]
        report.sizes.add(f"{width}x{height}")
        if truth:
            check_truth(pictures, i, (height, width), report)
    return report


if __name__ == "__main__":
    run_program(main, CheckConfig, __doc__.splitlines()[0])
