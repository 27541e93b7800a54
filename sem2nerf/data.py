"""Label maps, pictures and poses in the layouts of CelebAMask-HQ and CatMask, decoded by threads ahead of the training.

    faces = Faces(find("data/CelebAMask-HQ", LAYOUTS["celebahq_seg_to_3dface"], "train", "train_paths.txt"), View(...))
    faces.expect(indices)                                     # the next batch, while this one is trained on
    batch = faces.batch(indices)                              # planes, targets, angles

    DATA/CelebA-HQ-img/7.jpg   DATA/masks/7.png   DATA/CelebAMask-HQ-pose-anno.txt        masks by sem2nerf/build_masks.py
    DATA/images/7.png          DATA/masks/7.png   DATA/pose-pseudo.txt                    CatMask
"""
from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import draws
from common.errors import InputError
from common.images import SUFFIXES, decode_rgb, one_channel, read_picture
from sem2nerf.labels import merge
from sem2nerf.pictures import Crop, label_planes, normalise, resized_labels, resized_picture
from sem2nerf.poses import picture_number, pose_of, read_poses

SPLIT_SEED, TEST_SHARE = 0, 1 / 15                            # of a split of our own; both published ones test on 2,000 of 30,000
CACHE_BYTES = 2**31


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files, the family of its labels, and whether pictures show more than the network sees."""

    root: str
    pictures: str
    poses: str
    env: str
    cropped: bool
    masks: str = "masks"


LAYOUTS = {
    "celebahq_seg_to_3dface": Layout("data/CelebAMask-HQ", "CelebA-HQ-img", "CelebAMask-HQ-pose-anno.txt", "CelebAMask_HQ", cropped=True),
    "catmask_seg_to_3dface": Layout("data/CatMask", "images", "pose-pseudo.txt", "CatMask", cropped=False),
    "people_seg_to_3dface": Layout("data/people_sem2nerf", "CelebA-HQ-img", "CelebAMask-HQ-pose-anno.txt", "CelebAMask_HQ", cropped=False),
}


def published_crop(layout: Layout, side: int) -> Crop | None:
    """The middle 80 % of CelebAMask-HQ's frames, for targets of a side; None where the whole frame is seen."""
    if not layout.cropped:
        return None
    size = 256 if side <= 256 else side
    return Crop(round(1.25 * size), size)


# Which files there are

@dataclass(frozen=True)
class Face:
    """One sample: its name, its mask, its picture or None, its (pitch, yaw) or None."""

    name: str
    mask: Path
    picture: Path | None = None
    angles: tuple[float, float] | None = None


def find(root: str | Path, layout: Layout, split: str, paths_conf: str | None = None) -> list[Face]:
    """The faces of a data set that a path list names, an id a line; without a list our own split, "train" or "test". Raises InputError."""
    root = Path(root)
    masks, pictures = by_stem(root / layout.masks), by_stem(root / layout.pictures)
    poses = read_poses(root / layout.poses, layout.env)
    if paths_conf:
        names = read_paths(paths_conf)
    else:
        names = own_split(sorted(masks), split)
        print(f"{split}: {len(names)} of the {len(masks)} masks in {root / layout.masks}, by a split of our own (seed {SPLIT_SEED}), not the published "
              f"lists: figures do not compare with those of others. --{split}_paths_conf takes a list")
    missing = [name for name in names if name not in masks or picture_of(name, pictures) is None]
    if missing:
        folder = layout.pictures if missing[0] in masks else layout.masks
        raise InputError(f"{root / folder}: nothing of the name {missing[0]}, nor {len(missing) - 1} others of {len(names)} that {paths_conf or 'masks'} names")
    return [Face(name, masks[name], picture_of(name, pictures), pose_of(poses, name, str(root / layout.poses))) for name in names]


def find_masks(folder: str | Path, paths_conf: str | None = None) -> list[Face]:
    """The masks alone of a folder (all below it) or of one file, in the order of their names or of a list. Raises InputError."""
    folder = Path(folder)
    masks = {folder.stem: folder} if folder.is_file() else by_stem(folder)
    names = read_paths(paths_conf) if paths_conf else list(masks)
    missing = [name for name in names if name not in masks]
    if missing:
        raise InputError(f"{folder}: no mask {missing[0]}, nor {len(missing) - 1} others of {len(names)} that {paths_conf} names")
    return [Face(name, masks[name]) for name in names]


def by_stem(folder: Path) -> dict[str, Path]:
    """{name without suffix: file} of the pictures below a folder. Raises InputError if there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected pictures ({' '.join(sorted(SUFFIXES))})")
    found = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES}
    if not found:
        raise InputError(f"{folder}: no pictures ({' '.join(sorted(SUFFIXES))})")
    return found


def picture_of(name: str, pictures: dict[str, Path]) -> Path | None:
    """A mask's picture: of the same name, or of its number, which edited masks share (419_eye)."""
    return pictures.get(name, pictures.get(name.partition("_")[0]))


def read_paths(path: str | Path) -> list[str]:
    """The ids of a path list, one a line, blank lines passed over. Raises InputError."""
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a list of ids, one a line") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; expected a list of ids, one a line") from None
    if not names:
        raise InputError(f"{path}: empty; expected a list of ids, one a line")
    return names


def own_split(names: list[str], split: str) -> list[str]:
    """The names of "train" or "test": one number in fifteen is test, with all its edited masks."""
    def number(name: str) -> str:
        try:
            return str(picture_number(name))
        except ValueError:
            return name

    groups = sorted({number(name) for name in names})
    order = torch.randperm(len(groups), generator=draws.generator(SPLIT_SEED, 0, "split")).tolist()
    test = {groups[i] for i in order[:max(1, round(TEST_SHARE * len(groups)))]} if len(groups) > 1 else set()
    return [name for name in names if (number(name) in test) == (split == "test")]


# What the network sees of them

@dataclass(frozen=True)
class View:
    """How masks and pictures are brought to the network: labels, planes of `side` pixels, targets of `target` pixels."""

    env: str
    label_nc: int
    merged: bool = True
    contours: bool = True
    side: int = 224
    target: int = 512
    crop: Crop | None = None
    published_contour: bool = False


def read_labels(face: Face, view: View) -> np.ndarray:
    """The label map (S, S) uint8 of a face's mask, grey or RGB of equal channels, merged where the view says so. Raises InputError naming the file."""
    labels = one_channel(read_picture(face.mask), str(face.mask))
    if labels.shape[0] != labels.shape[1]:
        raise InputError(f"{face.mask}: {labels.shape[1]}x{labels.shape[0]} pixels, expected a square label map")
    return merge(labels, view.env, str(face.mask)) if view.merged else labels


def planes_of(labels: np.ndarray, view: View, where: str) -> np.ndarray:
    """The planes (1 or 3, side, side) uint8 of a label map (S, S): labels, contours and distances, drawn at its own size. Raises InputError naming `where`."""
    planes = label_planes(labels, view.label_nc, view.contours, view.published_contour, where)
    return np.stack([resized_labels(plane, view.crop, view.side) for plane in planes])


class Faces:
    """The samples of a data set under a view; what is decoded is kept in memory if all of it takes at most `cache_bytes`."""

    def __init__(self, faces: list[Face], view: View, threads: int = 4, cache_bytes: int = CACHE_BYTES):
        self.faces, self.view = faces, view
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        planes, target = self._read(0)                        # a data set that does not fit the view is refused at once
        self._keeps = (planes.nbytes + target.nbytes) * len(faces) <= cache_bytes
        self._pool = ThreadPoolExecutor(threads, "faces")
        self._ahead: tuple[tuple[int, ...], list[Future]] = ((), [])

    def __len__(self) -> int:
        return len(self.faces)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """{"planes" (B, 1 or 3, side, side) uint8, "targets" (B, 3, target, target) in [-1, 1], "angles" [pitch, yaw] (B, 2) float64} of faces (B,)."""
        wanted = tuple(indices.tolist())
        expected, futures = self._ahead
        self._ahead = ((), [])
        futures = futures if expected == wanted else self._start(wanted)
        planes, targets = zip(*(future.result() for future in futures))
        angles = torch.tensor([self.faces[i].angles for i in wanted], dtype=torch.float64)
        return {"planes": torch.from_numpy(np.stack(planes)), "targets": normalise(np.stack(targets)), "angles": angles}

    def expect(self, indices: Tensor) -> None:
        """Begin to decode the batch that will probably be asked for next."""
        wanted = tuple(indices.tolist())
        self._ahead = (wanted, self._start(wanted))

    def _start(self, indices: tuple[int, ...]) -> list[Future]:
        return [self._pool.submit(self._item, i) for i in indices]

    def _item(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        item = self._kept.get(i) or self._read(i)
        if self._keeps:
            self._kept[i] = item
        return item

    def _read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        face, view = self.faces[i], self.view
        planes = planes_of(read_labels(face, view), view, str(face.mask))
        picture = decode_rgb(face.picture.read_bytes(), str(face.picture))
        return planes, resized_picture(picture, view.crop, view.target)
