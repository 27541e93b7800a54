"""The rendered data set on disk: one file per frame and item, named by the frame's number, humanRender/ITEM/000123.EXT.

    frame = group + view, group = mesh * 4 * backgrounds + background * 4          (four views share mesh, background, rotation and lights)

    config/.json            args, meshPath, bgImgPath, dataPrefix (the group), skyLightRotDegrees [left, right, back], randomRot
    rgbImage/.jpg           maskImage/.png   normalRGB/.png   meshSem/.png _KeepRatio.png   smplSem/.png _KeepRatio.png   smplIUV/.png (RGB: V, U, part)
    meshVoxels/.npy         bool (128, 192, 128);  maskFromVoxels/.png _Resized.png its silhouette;  smplSemVoxels/.npy uint8 (128, 192, 128, 3)
    skeleton3D/.obj         24 joints in the view's frame;  skeleton2D/.npy float64 (24, 2) in pixels

The release writes JPEG where this says PNG; readers take both.
"""
from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.images import read_picture
from common.people.persons import split as person_split

ITEMS = ("rgbImage", "maskImage", "normalRGB", "meshVoxels", "maskFromVoxels", "meshSem", "skeleton3D", "skeleton2D", "smplSem", "smplIUV", "smplSemVoxels")
OF_BODY = ("meshSem", "skeleton3D", "skeleton2D", "smplSem", "smplIUV", "smplSemVoxels")         # need the body model under the scan
BLACK_LIST = (*range(92908, 92912), *range(90844, 90848))                      # test frames of the release that it leaves out
PUBLISHED_FRAMES = 108720
CONFIG_KEYS = {"meshPath", "dataPrefix", "skyLightRotDegrees", "randomRot"}


def item_path(folder: str | Path, item: str, frame: int, suffix: str, more: str = "") -> Path:
    """Where an item of a frame is written."""
    return Path(folder) / item / f"{frame:06d}{more}{suffix}"


def find_picture(folder: str | Path, item: str, frame: int, more: str = "") -> Path:
    """The picture of a frame's item, PNG or JPEG. Raises InputError where there is neither."""
    paths = [item_path(folder, item, frame, suffix, more) for suffix in (".png", ".jpg")]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise InputError(f"{paths[0]}: missing (nor .jpg); expected the {item} of frame {frame}")
    return found


def read_rgb(folder: str | Path, item: str, frame: int) -> np.ndarray:
    """The colour picture (H, W, 3) of a frame's item."""
    path = find_picture(folder, item, frame)
    picture = read_picture(path)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"{path}: expected three channels, found an array of shape {picture.shape}")
    return picture


def read_mask(folder: str | Path, frame: int) -> np.ndarray:
    """The mask (H, W) uint8 of 0 and 1; a value counts as 1 from 128 on."""
    picture = read_picture(find_picture(folder, "maskImage", frame))
    return np.round((picture if picture.ndim == 2 else picture[..., 0]) / 255).astype(np.uint8)


def read_config(folder: str | Path, frame: int) -> dict:
    """The settings that a frame was rendered with. Raises InputError for what is missing, broken or lacks a key."""
    path = item_path(folder, "config", frame, ".json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rotation = np.array(config["randomRot"], np.float64)
        assert not CONFIG_KEYS - set(config) and rotation.shape == (3, 3) and np.isfinite(rotation).all()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a frame's settings") from None
    except Exception:                                                           # whatever hostile JSON makes
        raise InputError(f"{path}: broken, expected the keys {', '.join(sorted(CONFIG_KEYS))} and a rotation of 3 x 3") from None
    return config


def rotation_of_frame(config: dict) -> np.ndarray:
    """R (3, 3) of a frame's settings."""
    return np.array(config["randomRot"], np.float64)


def all_frames(folder: str | Path) -> list[int]:
    """The frames that have settings. Raises InputError where there is none."""
    frames = sorted(int(path.stem) for path in Path(folder).glob("config/*.json") if path.stem.isdecimal())
    if not frames:
        raise InputError(f"{folder}: no config/*.json; expected data rendered by geopifu/render_data.py, or the release's configs")
    return frames


def split_frames(folder: str | Path, ratio: float, total: int) -> dict[str, list[int]]:
    """{"train": frames, "test": frames}: people are split by person (every tenth is test), the release's scans by number, from ratio * total on test.

    The black list is left out of the release's test frames.
    """
    frames = all_frames(folder)
    if _subject(read_config(folder, frames[0])) is None:
        first = int(ratio * total)
        test = [n for n in frames if n >= first and not (total == PUBLISHED_FRAMES and n in BLACK_LIST)]
        return {"train": [n for n in frames if n < first], "test": test}
    splits: dict[str, list[int]] = {"train": [], "test": []}
    for _, group in groupby(frames, lambda n: n - n % 4):
        views = list(group)
        splits[person_split(_subject(read_config(folder, views[0])) or 0)] += views
    return splits


def _subject(config: dict) -> int | None:
    """The person's number in a mesh path .../results_00012_F/0/mesh.obj of our people, else None."""
    found = re.search(r"results_(\d{5})_[FM][/\\][^/\\]+[/\\]mesh\.obj$", config["meshPath"])
    return int(found[1]) if found else None


def mesh_name(config: dict) -> str:
    """results_x+NNN, the release's name of a frame's scan."""
    parts = config["meshPath"].replace("\\", "/").split("/")
    return f"{parts[-3]}+{parts[-2]}"


def shard(count: int, split_num: int, split_idx: int) -> range:
    """The release's share of `count` things: contiguous chunks of ceil(count / split_num). Raises InputError for an index out of range."""
    if not 0 <= split_idx < split_num:
        raise InputError(f"--splitIdx {split_idx}: expected 0 ... {split_num - 1}, less than --splitNum")
    size = -(-count // split_num)
    return range(min(split_idx * size, count), min((split_idx + 1) * size, count))
