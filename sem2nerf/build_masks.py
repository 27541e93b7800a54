"""Join CelebAMask-HQ's files of single parts to one label map a picture: python sem2nerf/build_masks.py --data_path data/CelebAMask-HQ

    CelebAMask-HQ-mask-anno/*/00007_l_eye.png, 00007_hair.png, ...  ->  masks/7.png
"""
from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import option, run_program
from common.errors import InputError
from common.images import decode_rgb, write_png
from sem2nerf.labels import CELEBA_LABELS

PARTS, MASKS = "CelebAMask-HQ-mask-anno", "masks"
UNREAD = 255                                                  # what the release makes of parts that are not stored as RGB


@dataclass
class BuildConfig:
    data_path: str = option("data/CelebAMask-HQ", f"the data set's folder, which holds {PARTS}")
    published: bool = option(False, "the release's defect: parts stored as grey or palette pictures become the label 255")


def main(config: BuildConfig) -> None:
    """Write every label map that is not there."""
    from tqdm import tqdm

    root = Path(config.data_path)
    pictures = find_parts(root / PARTS)
    todo = {number: parts for number, parts in pictures.items() if not (root / MASKS / f"{number}.png").exists()}
    for number, parts in tqdm(todo.items(), desc="masks", unit="mask", dynamic_ncols=True, disable=not todo):
        write_png(root / MASKS / f"{number}.png", combine({name: path.read_bytes() for name, path in parts.items()}, config.published))
    print(f"{len(pictures)} label maps in {root / MASKS}")


def find_parts(folder: Path) -> dict[int, dict[str, Path]]:
    """{number of the picture: {part: file}} of folder/*/<number>_<part>.png. Raises InputError for none, or a part that CelebAMask-HQ does not have."""
    found: dict[int, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.glob("*/*.png")):
        number, _, part = path.stem.partition("_")
        if not number.isdecimal() or part not in CELEBA_LABELS[1:]:
            raise InputError(f"{path}: expected <number>_<part>.png, the part one of {', '.join(CELEBA_LABELS[1:])}")
        found[int(number)][part] = path
    if not found:
        raise InputError(f"{folder}: no parts; expected files such as 0/00000_skin.png")
    return dict(sorted(found.items()))


def combine(parts: dict[str, bytes], published: bool = False) -> np.ndarray:
    """The label map (H, W) uint8 of {part: the bytes of its black and white picture}: where parts overlap the larger label wins. Raises InputError."""
    labels = None
    for part, data in parts.items():
        value = UNREAD if published and not _stored_as_rgb(data) else CELEBA_LABELS.index(part)
        layer = (decode_rgb(data, part)[..., 0] > 127).astype(np.uint8) * np.uint8(value)
        if labels is not None and labels.shape != layer.shape:
            raise InputError(f"{part}: {layer.shape[1]}x{layer.shape[0]} pixels, expected {labels.shape[1]}x{labels.shape[0]} as the other parts")
        labels = layer if labels is None else np.maximum(labels, layer)
    return labels


def _stored_as_rgb(data: bytes) -> bool:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(data)).mode == "RGB"


if __name__ == "__main__":
    run_program(main, BuildConfig, __doc__.splitlines()[0])
