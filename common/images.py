"""Pictures on disk: PNG, label maps, depth maps, contact sheets, and EG3D's picture folders and zips.

In memory a picture is uint8 (H, W), (H, W, 3) or (H, W, 4), a label map uint8 (H, W), a z_depth map float (H, W).
Whatever is broken, too large or of the wrong kind raises InputError in one line that names the file.
"""
from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from common.cameras import Cameras, eg3d_label
from common.errors import InputError
from common.files import replacing
from common.labels import SOF_LABELS, check_range, relabel

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
MODES = {"L": "8-bit gray", "RGB": "RGB", "RGBA": "RGBA"}
RGB_MODES = MODES | {"LA": "gray with alpha", "P": "palette", "1": "black and white", "CMYK": "CMYK"}
MAX_PIXELS = 2 ** 26                                          # 8192 x 8192
MAX_PICTURE_BYTES, MAX_JSON_BYTES = 2 ** 28, 2 ** 30          # of one member of a zip, unpacked
ENCODINGS = ("plain", "times10", "auto_published")


# Pictures

def decode_picture(data: bytes, where: str) -> np.ndarray:
    """The uint8 picture (H, W), (H, W, 3) or (H, W, 4) in the bytes of a PNG, JPEG, WebP, BMP, PPM or TIFF file; InputError names `where`."""
    with _opening(data, where, MODES) as image:
        return np.array(image)


def decode_rgb(data: bytes, where: str) -> np.ndarray:
    """The same in RGB (H, W, 3): gray three times, palettes and CMYK as their colours, whatever is transparent over white."""
    from PIL import Image
    with _opening(data, where, RGB_MODES) as image:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


@contextmanager
def _opening(data: bytes, where: str, modes: dict[str, str]) -> Iterator:
    """A picture file, checked before its pixels are read."""
    from PIL import Image
    with _decoding(where, "a whole picture file (PNG, JPEG, WebP, BMP, PPM, TIFF)"):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"{where}: {image.width}x{image.height} is larger than {MAX_PIXELS} pixels")
        if image.mode not in modes:
            raise InputError(f"{where}: pixels of mode {image.mode!r}, expected {', '.join(modes.values())}")
        image.verify()                                        # checksums: decoding alone lets damaged rows pass
        yield Image.open(io.BytesIO(data), formats=FORMATS)


def read_picture(path: str | Path) -> np.ndarray:
    """`decode_picture` of a file."""
    return decode_picture(Path(path).read_bytes(), str(path))


def one_channel(picture: np.ndarray, where: str) -> np.ndarray:
    """The gray values (H, W) of a picture, whose colour channels, if any, must be equal."""
    if picture.ndim == 3 and (picture[..., :3] != picture[..., :1]).any():
        raise InputError(f"{where}: a colour picture, expected 8-bit gray")
    return picture if picture.ndim == 2 else picture[..., 0]


def encode_png(picture: np.ndarray) -> bytes:
    """The bytes of a PNG file of a uint8 picture (H, W), (H, W, 3) or (H, W, 4)."""
    from PIL import Image
    assert picture.dtype == np.uint8, f"pictures are uint8, not {picture.dtype}"
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Write a uint8 picture (H, W), (H, W, 3) or (H, W, 4); the file is whole or not there."""
    with replacing(path) as temporary:
        temporary.write_bytes(encode_png(picture))


def contact_sheet(pictures: Iterable[np.ndarray], columns: int, gap: int = 2) -> np.ndarray:
    """One picture (H', W', 3) of equally large uint8 pictures (H, W) or (H, W, 3), row by row in `columns`, on white with `gap` pixels between."""
    tiles = [np.broadcast_to(picture.reshape(*picture.shape[:2], -1), (*picture.shape[:2], 3)) for picture in pictures]
    height, width = tiles[0].shape[0] + gap, tiles[0].shape[1] + gap
    sheet = np.full((-(-len(tiles) // columns) * height - gap, min(columns, len(tiles)) * width - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet[row * height:row * height + tile.shape[0], column * width:column * width + tile.shape[1]] = tile
    return sheet


# Label maps and depth

def nearest_index(n_out: int, n_in: int) -> np.ndarray:
    """The source index floor(j * n_in / n_out) of each of n_out samples, with OpenCV's rounding: pixel 0 stays on pixel 0."""
    return np.minimum(np.floor(np.arange(n_out) * (1.0 / (n_out / n_in))).astype(np.int64), n_in - 1)


def resize_nearest(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """`picture` (H, W, ...) at height x width as OpenCV's INTER_NEAREST takes it."""
    return picture[nearest_index(height, picture.shape[0])[:, None], nearest_index(width, picture.shape[1])]


def decode_labels(picture: np.ndarray, side: int | None = None, encoding: str = "plain", remap: np.ndarray | None = None,
                  classes: int = len(SOF_LABELS), where: str = "label map") -> np.ndarray:
    """The label map uint8 (side, side) of a stored gray picture (H, W), in its own size where `side` is None.

    encoding: "plain" label = value; "times10" label = value / 10; "auto_published" SOF's guess, which takes values above 20 for times10 and
    scales the picture's largest value to 19, so that it turns hair into hat where there is no hat. `remap` (classes,) then renames the labels.
    """
    labels = picture if side is None else resize_nearest(picture, side, side)
    if encoding == "times10":
        if (labels % 10).any():
            raise InputError(f"{where}: encoding times10 expects multiples of 10, found {int(labels[labels % 10 > 0][0])}")
        labels = labels // 10
    elif encoding == "auto_published" and labels.max() > 20:
        labels = (labels // (labels.max() / 19)).astype(np.uint8)
    else:
        assert encoding in ENCODINGS, encoding
    check_range(labels, classes, where)
    return labels if remap is None else relabel(labels, np.asarray(remap, np.uint8), where)


def read_labels(path: str | Path, side: int | None = None, encoding: str = "plain", remap: np.ndarray | None = None,
                classes: int = len(SOF_LABELS)) -> np.ndarray:
    """`decode_labels` of an 8-bit gray picture file."""
    return decode_labels(one_channel(read_picture(path), str(path)), side, encoding, remap, classes, str(path))


def decode_depth(picture: np.ndarray, side: int | None = None, z_range: np.ndarray | None = None) -> np.ndarray:
    """The z_depth (side, side) of a stored 8-bit gray picture (H, W), resized bilinearly, in its own size where `side` is None.

    d = value / 255, and with z_range (near, far) d (far - near) + near in world units where d > 0; the background is 0.
    """
    depth = picture.astype(np.float32)
    if side is not None:
        import cv2
        depth = cv2.resize(depth, (side, side), interpolation=cv2.INTER_LINEAR)
    depth = depth / 255
    return depth if z_range is None else np.where(depth > 1e-12, depth * (z_range[1] - z_range[0]) + z_range[0], 0)


def read_depth(path: str | Path, side: int | None = None, z_range: np.ndarray | None = None) -> np.ndarray:
    """`decode_depth` of an 8-bit gray picture file."""
    return decode_depth(one_channel(read_picture(path), str(path)), side, z_range)


# EG3D's data sets: a folder or a zip of pictures, with their camera labels in dataset.json

@dataclass(frozen=True)
class ImageFolder:
    """The pictures of a folder or zip, sorted by name; labels float32 (n, L) of dataset.json or None.

    `unmatched` labels name no picture; `others` are the files that are no pictures.
    """

    path: Path
    names: tuple[str, ...]
    labels: np.ndarray | None
    unmatched: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> np.ndarray:
        """Picture i, uint8 (H, W, C) or (H, W)."""
        return decode_picture(self.read_bytes(i), f"{self.path}/{self.names[i]}")

    def read_bytes(self, i: int, suffix: str | None = None) -> bytes:
        """The file of picture i, or the one beside it of its name and another suffix, as 00009/view_00.npz beside 00009/view_00.png."""
        name = self.names[i] if suffix is None else PurePosixPath(self.names[i]).with_suffix(suffix).as_posix()
        return _read_member(self.path, name, MAX_PICTURE_BYTES)


def open_image_folder(path: str | Path, use_labels: bool = True) -> ImageFolder:
    """The pictures anywhere below a folder or in a zip, with the labels of its dataset.json if `use_labels`; every picture must have one.

    dataset.json is ``{"labels": [[name, [numbers]], ...]}`` in any order, or ``{"labels": null}`` (EG3D, StyleGAN2-ADA).
    """
    path = Path(path)
    members = _members(path)
    names = tuple(sorted(name for name in members if Path(name).suffix.lower() in SUFFIXES))
    if not names:
        raise InputError(f"{path}: no pictures ({' '.join(sorted(SUFFIXES))})")
    others = tuple(sorted(members - set(names)))
    if not use_labels:
        return ImageFolder(path, names, None, others=others)
    if "dataset.json" not in members:
        raise InputError(f"{path}/dataset.json: missing, expected the pictures' labels")
    table = _label_table(_read_member(path, "dataset.json", MAX_JSON_BYTES), f"{path}/dataset.json")
    if table is None:
        return ImageFolder(path, names, None, others=others)
    return ImageFolder(path, names, _label_rows(table, names, f"{path}/dataset.json"), tuple(sorted(set(table) - set(names))), others)


def _label_table(text: bytes, where: str) -> dict | None:
    with _decoding(where, '{"labels": [[name, [numbers]], ...]} or {"labels": null}'):
        entries = json.loads(text)["labels"]
        return None if entries is None else {name.replace("\\", "/"): numbers for name, numbers in entries}


def _label_rows(table: dict, names: tuple[str, ...], where: str) -> np.ndarray:
    missing = [name for name in names if name not in table]
    if missing:
        raise InputError(f"{where}: no label for {len(missing)} of {len(names)} pictures, the first {missing[0]}")
    with _decoding(where, "equally many numbers for every picture"):
        labels = np.array([table[name] for name in names], np.float32)
    if labels.ndim != 2 or not np.isfinite(labels).all():
        raise InputError(f"{where}: expected a row of finite numbers for every picture")
    return labels


def write_eg3d_zip(path: str | Path, pictures: Iterable[tuple[str, bytes]], cameras: Cameras, beside: Iterable[tuple[str, bytes]] = ()) -> None:
    """Write (name, PNG bytes) of each of the N cameras and dataset.json with their EG3D labels as an uncompressed zip, whole or not there.

    `beside` are more members, which are no pictures. Equal input gives equal bytes: members carry no time. Pinhole cameras only.
    """
    assert not cameras.orthographic, "EG3D's labels are pinhole cameras"
    names = []
    with replacing(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, data in pictures:
                archive.writestr(_member(name), data)
                names.append(name)
            assert len(names) == len(cameras), f"{len(names)} pictures, {len(cameras)} cameras"
            labels = eg3d_label(cameras).float().cpu().numpy()
            rows = [[name, [float(str(number)) for number in row]] for name, row in zip(names, labels)]      # str: the shortest text of a float32
            archive.writestr(_member("dataset.json"), json.dumps({"labels": rows}))
            for name, data in beside:
                archive.writestr(_member(name), data)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def _members(path: Path) -> set[str]:
    if path.is_dir():
        return {member.relative_to(path).as_posix() for member in path.rglob("*") if member.is_file()}
    return {info.filename for info in _archive(path).infolist() if not info.is_dir()}


def _read_member(path: Path, name: str, limit: int) -> bytes:
    if path.is_dir():
        return (path / name).read_bytes()
    archive = _archive(path)
    with _decoding(f"{path}/{name}", "a whole member of the zip"):
        size = archive.getinfo(name).file_size                # zipfile never unpacks more than this
        if size > limit:
            raise InputError(f"{path}/{name}: unpacks to {size} bytes, more than {limit}")
        return archive.read(name)


def _archive(path: Path) -> zipfile.ZipFile:
    with _decoding(path, "a whole zip file"):
        stat = path.stat()
        return _open_archive(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns), os.getpid())


@lru_cache(maxsize=4)
def _open_archive(path: Path, version: tuple, process: int) -> zipfile.ZipFile:
    """One open zip for each process: forked workers that share a file position read each other's bytes."""
    return zipfile.ZipFile(path)


@contextmanager
def _decoding(where: str | Path, expected: str) -> Iterator[None]:
    """Hostile bytes make decoders raise anything; what the file system says, and our own errors, pass."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or getattr(error, "errno", None):
            raise
        raise InputError(f"{where}: broken, expected {expected}") from error
