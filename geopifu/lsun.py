"""Backgrounds from LSUN: python geopifu/lsun.py export bedroom_train_lmdb ... --out_dir data/LSUN/train_jpg --limit 30000

LSUN's lmdb folders (http://dl.yf.io/lsun/scenes/SCENE_train_lmdb.zip, research use) become OUT_DIR/SCENE/KEY.jpg, which geopifu/render_data.py reads.
"""
from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common.config import option, run_commands
from common.errors import InputError
from common.files import replacing


@dataclass
class ExportConfig:
    lmdb: list[str] = option(..., "lmdb folders", positional=True)
    out_dir: str = option("", "folder to write to; empty: here")
    flat: bool = option(False, "no folder for each scene")
    imageType: str = option("jpg", "jpg, or webp as stored", choices=("jpg", "webp"))
    limit: int | None = option(None, "photos of each scene at most", low=1)


def export(config: ExportConfig) -> None:
    """Write the photos of lmdb folders; those that are there stay."""
    for folder in map(Path, config.lmdb):
        scene = re.sub(r"_(train|val)?_?lmdb$", "", folder.name)
        out, count = Path(config.out_dir) / ("" if config.flat else scene), 0
        for key, photo in tqdm(photos(folder, config.limit), desc=scene, unit="photo", dynamic_ncols=True):
            path = out / f"{key}.{config.imageType}"
            if not path.is_file():
                with replacing(path) as temporary:
                    temporary.write_bytes(photo if config.imageType == "webp" else as_jpeg(photo, f"{folder}: {key}"))
            count += 1
        with open(Path(config.out_dir) / "count.txt", "a", encoding="utf-8") as file:
            file.write(f"{scene} {count}\n")


def photos(folder: Path, limit: int | None) -> Iterator[tuple[str, bytes]]:
    """(key, webp) of an lmdb folder. Raises InputError where it is none, or lmdb is not installed."""
    try:
        import lmdb
    except ImportError:
        raise InputError("reading LSUN needs the package lmdb: pip install lmdb") from None
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, readahead=False, max_readers=1) as store, store.begin() as transaction:
            for number, (key, value) in enumerate(transaction.cursor()):
                if number == limit:
                    return
                yield key.decode("ascii"), bytes(value)
    except (lmdb.Error, UnicodeDecodeError) as error:
        raise InputError(f"{folder}: not an lmdb folder of LSUN ({error})") from None


def as_jpeg(photo: bytes, where: str) -> bytes:
    """A stored photo as JPEG. Raises InputError."""
    from PIL import Image

    buffer = io.BytesIO()
    try:
        Image.open(io.BytesIO(photo)).convert("RGB").save(buffer, "JPEG", quality=95)
    except Exception as error:                                                 # whatever a broken photo makes of a decoder
        raise InputError(f"{where}: broken, expected a photo ({type(error).__name__})") from None
    return buffer.getvalue()


if __name__ == "__main__":
    run_commands({"export": (export, ExportConfig)}, "LSUN's photos as backgrounds.")
