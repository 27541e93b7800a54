"""What stands behind rendered people: LSUN's scenes, a folder of photos, or plain and graded colours; named so that a frame's settings replay them."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import InputError
from common.images import SUFFIXES, read_picture

SCENES = ("bedroom", "bridge", "church_outdoor", "classroom", "conference_room", "dining_room", "kitchen", "living_room", "restaurant", "tower")
MOST_OF_A_SCENE = 30000
COLORED = "colors:"                                                            # colors:r,g,b,r,g,b,degrees: from one to the other


def find(folder: str) -> list[list[Path]]:
    """The photos of a folder, one list a scene of LSUN, or one list of all; none without a folder. Raises InputError where a folder has no photos."""
    if not folder:
        return []
    lsun = [base for base in (Path(folder) / "LSUN/train_jpg", Path(folder) / "train_jpg", Path(folder)) if (base / SCENES[0]).is_dir()]
    scenes = [sorted((lsun[0] / scene).glob("*.jpg"))[:MOST_OF_A_SCENE] for scene in SCENES] if lsun else [
        sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)]
    scenes = [scene for scene in scenes if scene]
    if not scenes:
        raise InputError(f"--bgDirSearch {folder}: no photos; expected LSUN/train_jpg/{SCENES[0]}/*.jpg and so on, or photos anywhere below it")
    return scenes


def draw(rng: np.random.Generator, pool: list[list[Path]], count: int) -> list[str]:
    """Names of `count` backgrounds: a photo of as many scenes, of different ones where there are enough."""
    if not pool:
        return [_colors(rng) for _ in range(count)]
    scenes = np.concatenate([rng.permutation(len(pool)) for _ in range(-(-count // len(pool)))])[:count]
    return [str(pool[scene][rng.integers(len(pool[scene]))].resolve()) for scene in scenes]


def _colors(rng: np.random.Generator) -> str:
    """A plain colour, or two and a direction."""
    first, second = rng.integers(20, 236, (2, 3))
    second = first if rng.uniform() < 0.4 else second
    return COLORED + ",".join(map(str, [*first, *second, int(rng.integers(0, 360))]))


def read(name: str, folder: str, height: int, width: int) -> np.ndarray:
    """The background (height, width, 3) from 0 to 1: resized to a square of `height`, its middle columns. Raises InputError where it is missing."""
    if name.startswith(COLORED):
        return _graded(name, height, width)
    import cv2

    picture = read_picture(_located(name, folder))
    picture = np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture[..., :3]
    square = cv2.resize(picture, (height, height), interpolation=cv2.INTER_LINEAR)
    left = (height - width) // 2
    return square[:, left:left + width] / 255 if left >= 0 else cv2.resize(picture, (width, height)) / 255


def _located(name: str, folder: str) -> Path:
    """A recorded background: where it was, or the same scene's file below a folder."""
    tail = Path(*Path(name.replace("\\", "/")).parts[-2:])
    places = [Path(name), *(Path(folder) / middle / tail for middle in ("LSUN/train_jpg", "train_jpg", "")), Path(folder) / tail.name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"{name}: the background is missing, and below --bgDirSearch {folder or '(empty)'} there is no {tail}")
    return found


def _graded(name: str, height: int, width: int) -> np.ndarray:
    """The picture of a "colors:" name. Raises InputError."""
    try:
        *colors, degrees = map(float, name.removeprefix(COLORED).split(","))
        first, second = np.array(colors).reshape(2, 3) / 255
    except ValueError:
        raise InputError(f"{name}: expected {COLORED}r,g,b,r,g,b,degrees") from None
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    share = 0.5 + 0.5 * (columns * np.cos(np.radians(degrees)) + rows * np.sin(np.radians(degrees))) / 2**0.5
    return first + (second - first) * share[..., None]
