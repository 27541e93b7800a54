"""SOF's multi-view folder as one data set in memory: label maps decoded once, with the camera of each.

    data_root/<head>/   cam2world.npy     (V, 4, 4), or a dict {view's file name: 4x4}
                        intrinsic.npy     (or intrinsics.npy) 3x3 or 4x4 of all views, one of each view, or a dict; pixels of the stored picture
                        seg_00.png ...    8-bit label maps; where previews seg_vis_00.png stand beside them, those say which views count
                        depth_00.png ...  and zRange.npy: optional depth maps and their near and far
                        params.npy        optional face parameters, for codes from an encoder
    Views without a prefix (00000.png ..., as the published README draws the folder) are read too. Heads of one view each, without cameras, are a flat
    folder of label maps: data_root/<head>.png (`load_single_views`).

SOF's pixels are integers: pixel j of a side S picture is at u = j with the intrinsics of that side, and a label map of another side takes pixel
floor(j * scale); so intrinsics are scaled to the side that is read before ``sof.cameras`` turns them into the project's.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from common.cameras import Cameras, check_cam2world, check_intrinsics
from common.errors import InputError
from common.files import replacing
from common.images import decode_labels, one_channel, read_depth, read_labels, read_picture, resize_nearest
from common.published import read_npy
from sof.cameras import single_view_cameras, sof_cameras


@dataclass(frozen=True)
class Views:
    """n labelled views of many heads, in the order of the heads and their views."""

    labels: Tensor                                            # (n, S*S) uint8, row by row
    cameras: Cameras                                          # n
    instances: Tensor                                         # (n,) int64, the head of each view: an index into `names`, a row of the embedding
    names: tuple[str, ...]                                    # the heads
    files: tuple[Path, ...]                                   # (n,) the stored label maps
    side: int
    z_depth: Tensor | None = None                             # (n, S*S) float32 camera z in world units, 0 where there is no surface

    def __len__(self) -> int:
        return len(self.files)

    def pick(self, index: Tensor) -> Views:
        """Some of the views."""
        files = tuple(self.files[k] for k in index.tolist())
        z_depth = None if self.z_depth is None else self.z_depth[index]
        return replace(self, labels=self.labels[index], cameras=self.cameras.pick(index), instances=self.instances[index], files=files, z_depth=z_depth)


def load(data_root: str | Path, side: int, *, instances: str | None = None, observations: str | None = None, names: tuple[str, ...] | None = None,
         data_type: str = "seg", orthographic: bool = False, encoding: str = "plain", depth: str | None = None, published_pairing: bool = False,
         seed: int = 0, threads: int = 4) -> Views:
    """The views of a multi-view folder, label maps at side x side.

    instances, observations: which heads and which views of each, counted from 0 in the order of their names: "0-30" (inclusive), "0,3,7" or None for all.
    names: the heads that a model knows, by row of its embedding (`read_indexing`); by default the heads loaded.
    depth: whether to read depth maps: resized to the "nearest" pixel, which is the one whose label is taken, or "bilinear", as the release does.
    published_pairing: the release's defect, for comparison: the label maps of a head are shuffled (a function of seed and head), its cameras are not.
    Raises InputError naming the file for whatever is missing, broken or does not fit together.
    """
    folders = head_folders(data_root, data_type)
    folders = [folders[k] for k in select(instances, len(folders), f"sample_instances: {data_root}")]
    names, rows = rows_of(folders, names)
    read = partial(_read_head, side=side, observations=observations, data_type=data_type, encoding=encoding, depth=depth,
                   shuffle_seed=seed if published_pairing else None)
    heads = _read_all(read, folders, threads)
    labels, cam2world, intrinsics, files, z_depths = zip(*heads)
    index = [row for row, head in zip(rows, files) for _ in head]
    cameras = sof_cameras(torch.cat(cam2world), torch.cat(intrinsics), side, orthographic).move(torch.float32)
    z_depth = torch.cat(z_depths) if depth else None
    return Views(torch.cat(labels), cameras, torch.tensor(index), names, tuple(file for head in files for file in head), side, z_depth)


def load_single_views(data_root: str | Path, side: int, *, instances: str | None = None, names: tuple[str, ...] | None = None, orthographic: bool = False,
                      encoding: str = "plain", threads: int = 4) -> Views:
    """The heads of one view each in a flat folder of label maps, or in one file, as from `single_view_cameras`; arguments and errors as for `load`."""
    files = single_files(data_root)
    files = [files[k] for k in select(instances, len(files), f"sample_instances: {data_root}")]
    names, rows = rows_of(files, names)
    labels = _read_all(lambda file: read_labels(file, side, encoding).ravel(), files, threads)
    cameras = single_view_cameras(len(files), side, orthographic)
    return Views(torch.from_numpy(np.stack(labels)), cameras, torch.tensor(rows), names, tuple(files), side)


def rows_of(places: list[Path], names: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[int]]:
    """All heads by row, those at `places` unless `names` says more, and the row of each place. Raises InputError for one that is not among `names`."""
    found = [place.name.removesuffix(".png") for place in places]
    names = tuple(found if names is None else names)
    table = {name: row for row, name in enumerate(names)}
    unknown = [place for place, name in zip(places, found) if name not in table]
    if unknown:
        raise InputError(f"{unknown[0]}: not one of the {len(names)} heads of the model (indexing.txt)")
    return names, [table[name] for name in found]


def _read_all(read: Callable, places: list[Path], threads: int) -> list:
    from tqdm import tqdm
    with ThreadPoolExecutor(threads) as pool:
        return list(tqdm(pool.map(read, places), "label maps", len(places), unit="head", leave=False, disable=None))


def _read_head(folder: Path, side: int, observations: str | None, data_type: str, encoding: str, depth: str | None, shuffle_seed: int | None):
    """Labels (v, S*S), cam2world (v, 4, 4), intrinsics (v, 3, 3) in pixels of that side, files and depth (v, S*S) or None of a head's chosen views."""
    files = view_files(folder, data_type)
    cam2world, pixels = read_cam2world(folder, files), read_intrinsics(folder, files)
    z_range = read_z_range(folder, files) if depth else None
    order = np.arange(len(files)) if shuffle_seed is None else np.random.default_rng([shuffle_seed, crc32(folder.name.encode())]).permutation(len(files))
    chosen = select(observations, len(files), f"sample_observations: {folder}")
    labels, intrinsics = zip(*(_read_view(files[order[k]], pixels[k], side, encoding) for k in chosen))
    z_depth = torch.from_numpy(np.stack([_read_depth(files[k], data_type, side, depth, z_range[k]) for k in order[chosen]])) if depth else None
    return torch.from_numpy(np.stack(labels)), cam2world[chosen], torch.stack(intrinsics), [files[k] for k in order[chosen]], z_depth


def _read_view(file: Path, pixels: Tensor, side: int, encoding: str) -> tuple[np.ndarray, Tensor]:
    picture = one_channel(read_picture(file), str(file))
    height, width = picture.shape
    return decode_labels(picture, side, encoding, where=str(file)).ravel(), scale_intrinsics(pixels, width, height, side)


def _read_depth(file: Path, data_type: str, side: int, resize: str, z_range: np.ndarray) -> np.ndarray:
    """z_depth (S*S,) float32 of the view whose label map is `file`."""
    path = file.with_name(file.name.replace(data_type, "depth", 1) if file.name.startswith(data_type) else f"depth_{file.name}")
    depth = read_depth(path, side, z_range) if resize == "bilinear" else resize_nearest(read_depth(path, None, z_range), side, side)
    return depth.astype(np.float32).ravel()


# What lies where

def holds_single_views(data_root: str | Path) -> bool:
    """Whether this is one label map, or a flat folder of them, rather than a folder of heads."""
    root = Path(data_root)
    return root.is_file() or bool(list(root.glob("*.png")) and not any(_is_head(folder, "seg") for folder in root.iterdir()))


def single_files(data_root: str | Path) -> list[Path]:
    """The label maps of a flat folder, sorted by name, without previews (..._vis...), or the one file. Raises InputError where there is none."""
    root = Path(data_root)
    files = [root] if root.is_file() else sorted(file for file in root.glob("*.png") if "_vis" not in file.stem)
    if not files:
        raise InputError(f"{root}: no label maps, expected *.png")
    return files


def load_params(data_root: str | Path, names: tuple[str, ...], size: int) -> Tensor:
    """The face parameters (heads, size) float32 in the params.npy of each head. Raises InputError naming the file."""
    rows = []
    for path in (Path(data_root) / name / "params.npy" for name in names):
        row = np.asarray(read_npy(path))
        if row.dtype.kind not in "fiu" or row.size != size or not np.isfinite(row).all():
            raise InputError(f"{path}: expected {size} finite numbers (--encoder_size), found {row.dtype} {row.shape}")
        rows.append(row.astype(np.float32).ravel())
    return torch.from_numpy(np.stack(rows))

def head_folders(data_root: str | Path, data_type: str = "seg") -> list[Path]:
    """The folders of the heads, sorted by name: those below `data_root` that hold views or cam2world.npy."""
    root = Path(data_root)
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    heads = [folder for folder in folders if _is_head(folder, data_type)]
    if not heads:
        raise InputError(f"{root}: no heads, expected folders with cam2world.npy, intrinsic.npy and {data_type}_00.png ...")
    return heads


def _is_head(folder: Path, data_type: str) -> bool:
    return (folder / "cam2world.npy").exists() or bool(find_views(folder, data_type))


def find_views(folder: Path, data_type: str = "seg") -> list[Path]:
    """The label maps of a head, sorted by name: those with a preview, or all {data_type}_*.png, or all 00000.png; maybe none, maybe missing files."""
    previews = sorted(folder.glob(f"{data_type}_vis_[0-9]*.png"))
    if previews:
        return [preview.with_name(preview.name.replace("_vis", "")) for preview in previews]
    return sorted(folder.glob(f"{data_type}_[0-9]*.png")) or sorted(folder.glob("[0-9]*.png"))


def view_files(folder: Path, data_type: str = "seg") -> list[Path]:
    """`find_views`, of which there must be one at least; InputError for a preview without its label map."""
    files = find_views(folder, data_type)
    if not files:
        raise InputError(f"{folder}: no views {data_type}_00.png ...")
    missing = [file for file in files if not file.exists()]
    if missing:
        raise InputError(f"{missing[0]}: missing, though its preview is there")
    return files


def select(text: str | None, count: int, where: str) -> list[int]:
    """The indices below `count` that "a-c" (inclusive) or "a,b,c" names; all for None. InputError naming `where`."""
    if text is None:
        return list(range(count))
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise InputError(f"{where}: expected a-c (inclusive) or a,b,c, not {text!r}")
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    beyond = [part for part in ends if not part[0] <= part[-1] < count]
    if beyond:
        raise InputError(f"{where}: {'-'.join(map(str, beyond[0]))} is no part of 0-{count - 1}")
    return [k for part in ends for k in range(part[0], part[-1] + 1)]


def write_indexing(path: str | Path, names: tuple[str, ...]) -> None:
    """Write indexing.txt: line i names the head of row i of the embedding."""
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names))


def read_indexing(path: str | Path) -> tuple[str, ...]:
    """The heads of indexing.txt by row: the last part of each line, so that it holds for a data root elsewhere (the release writes whole paths)."""
    try:
        names = tuple(Path(line.strip()).name for line in Path(path).read_text().splitlines() if line.strip())
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file, expected one head a line") from None
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path}: expected one head a line, each once")
    return names


def find_indexing(checkpoint: str | Path) -> tuple[str, ...] | None:
    """The heads, by row, that a checkpoint's run wrote down: beside the checkpoint or above it; None where no run did."""
    path = Path(checkpoint)
    listing = next((folder / "indexing.txt" for folder in (path, *path.parents[:2]) if (folder / "indexing.txt").is_file()), None)
    return read_indexing(listing) if listing else None


# Cameras

def read_cam2world(folder: Path, files: list[Path]) -> Tensor:
    """cam2world (V, 4, 4) float64 of a head's views; InputError unless all are rigid."""
    path = folder / "cam2world.npy"
    cam2world = torch.from_numpy(per_view(path, files, [(4, 4)], shared=False))
    check_cam2world(cam2world, str(path))
    return cam2world


def read_intrinsics(folder: Path, files: list[Path]) -> Tensor:
    """Intrinsics (V, 3, 3) float64 of a head's views, in integer pixels of the stored pictures."""
    path = next((path for path in (folder / "intrinsic.npy", folder / "intrinsics.npy") if path.exists()), folder / "intrinsic.npy")
    intrinsics = torch.from_numpy(per_view(path, files, [(3, 3), (4, 4)]))[:, :3, :3].contiguous()
    check_intrinsics(intrinsics, str(path))
    return intrinsics


def read_z_range(folder: Path, files: list[Path]) -> np.ndarray:
    """near and far (V, 2) float64 of a head's depth maps, in world units."""
    path = folder / "zRange.npy"
    z_range = per_view(path, files, [(2,)])
    if not (np.isfinite(z_range).all() and (z_range[:, 0] < z_range[:, 1]).all()):
        raise InputError(f"{path}: expected finite near < far for every view")
    return z_range


def per_view(path: Path, files: list[Path], shapes: list[tuple[int, ...]], shared: bool = True) -> np.ndarray:
    """The numbers (V, *shape) float64 that an .npy file gives each of V views.

    The file holds (V, *shape) in the order of the views, a dict by file name (of the label map or its preview), or, if `shared`, one for all views.
    """
    data, rank = read_npy(path), len(shapes[0])
    named = isinstance(data, dict)
    try:
        array = np.asarray(_by_name(data, files, path) if named else data)
    except ValueError:
        raise InputError(f"{path}: views of unequal shapes") from None
    if array.dtype.kind not in "fiu" or array.ndim - rank not in (0, 1) or array.shape[-rank:] not in shapes:
        raise InputError(f"{path}: expected numbers of shape {' or '.join(map(str, shapes))} for each view, found {array.dtype} {array.shape}")
    entries = array if array.ndim > rank else array[None]
    if not named and len(entries) > 1 and files != sorted(files, key=_number):
        raise InputError(f"{path}: the views sort otherwise by number than by name; pad their numbers with zeros, or make this file a dict by name")
    if len(entries) == 1 and shared:
        entries = np.broadcast_to(entries, (len(files), *entries.shape[1:]))
    if len(entries) != len(files):
        raise InputError(f"{path}: {len(entries)} entries for {len(files)} views")
    return entries.astype(np.float64)


def _by_name(data: dict, files: list[Path], path: Path) -> list:
    key = lambda name: Path(str(name)).stem.replace("_vis", "")
    table = {key(name): value for name, value in data.items()}
    missing = [file.name for file in files if key(file.name) not in table]
    if missing:
        raise InputError(f"{path}: no entry for {len(missing)} of {len(files)} views, the first {missing[0]}")
    return [table[key(file.name)] for file in files]


def _number(file: Path) -> int:
    return int("".join(filter(str.isdigit, file.stem)))


def scale_intrinsics(pixels: Tensor, width: float, height: float, side: int) -> Tensor:
    """Intrinsics (..., 3, 3) in integer pixels of a width x height picture, for its copy of side x side: fx, cx by side/width, fy, cy by side/height."""
    return pixels * torch.tensor([[side / width], [side / height], [1.0]], dtype=pixels.dtype)


def parse_intrinsics(text: str, side: int, where: str = "intrinsics.txt") -> Tensor:
    """The 4x4 intrinsics float64, in integer pixels of a side x side picture, of an intrinsics.txt (scene representation networks' format).

    Line 1 is "f cx cy 0.", line 4 "height width"; cx is scaled by side/width, cy and the one focal length by side/height.
    """
    try:
        lines = text.splitlines()
        focal, cx, cy = (float(number) for number in lines[0].split()[:3])
        height, width = (float(number) for number in lines[3].split()[:2])
        across, down = side / width, side / height
    except (ValueError, IndexError, ZeroDivisionError):
        raise InputError(f"{where}: expected 'f cx cy 0.' in line 1 and 'height width' in line 4") from None
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 0] = matrix[1, 1] = focal * down
    matrix[0, 2], matrix[1, 2] = cx * across, cy * down
    check_intrinsics(matrix[:3, :3], where)
    return matrix


def read_intrinsics_txt(path: str | Path, side: int) -> Tensor:
    """`parse_intrinsics` of a file. Raises InputError naming it."""
    try:
        return parse_intrinsics(Path(path).read_text(), side, str(path))
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file, expected an intrinsics.txt") from None
