"""Pictures to features, by a network that is a parameter; those of real pictures are kept. ``common.evaluation`` compares them.

    extractor = open_extractor("people", device)                                    or "inception"
    real = real_features(stored_pictures(open_image_folder(path)), extractor, "out/features")

inception   torch-fidelity's Inception-v3 on uint8 RGB: FID, KID and IS of the literature. Its weights are fetched on first use.
people      the trunk of the parser of people that ships: FD_people and KD_people, which compare with those of the same parser alone, never with an FID.

Pictures reach a network as lossless uint8 (N, H, W, 3). Features of real pictures are kept in a folder under a name made of their files' bytes, what was
done to them, and the network: a changed picture, size, crop or network is extracted anew.
"""
from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import parser as parsers
from common import ranks
from common.chunks import in_chunks
from common.errors import InputError
from common.files import replacing
from common.images import ImageFolder

PARSER = Path(__file__).parents[1] / "pretrained" / "people_parser.safetensors"
INCEPTION_SHA256 = "6726825d"                                # the first digits, which the authors' file name ends with
BATCH = 32                                                   # pictures that a network sees at once

Features = dict[str, Tensor]                                 # "features" (n, F), with logits also "logits" (n, classes), "size" (2,): H, W; on the CPU


# Networks

@dataclass(frozen=True)
class Extractor:
    """A network: its name, what its numbers depend on in words, its device, and pictures (N, H, W, 3) uint8 -> {"features", perhaps "logits"}."""

    name: str
    version: str
    device: torch.device
    describe: Callable[[np.ndarray], Features]


def open_extractor(name: str = "inception", device: torch.device | str = "cpu", weights: str | Path | None = None) -> Extractor:
    """"inception" or "people", or these with another file of weights. Raises InputError for an unknown name, and where weights are missing or not those."""
    if name not in EXTRACTORS:
        raise InputError(f"--extractor: expected {' or '.join(EXTRACTORS)}, got {name!r}")
    return EXTRACTORS[name](torch.device(device), weights)


def _inception(device: torch.device, weights: str | Path | None) -> Extractor:
    from torch_fidelity import __version__
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    plain = io.BytesIO()                                     # torch-fidelity would run what a file of weights holds: it gets a file of ours instead
    torch.save(torch.load(inception_weights(weights), weights_only=True), plain)
    plain.seek(0)
    network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], plain).to(device)

    def describe(some: Tensor) -> Features:
        features, logits = network(some.to(device).permute(0, 3, 1, 2))
        return {"features": features.cpu(), "logits": logits.cpu()}

    version = f"Inception-v3 of 2015-12-05 ({INCEPTION_SHA256}) by torch-fidelity {__version__}"
    return Extractor("inception", version, device, lambda pictures: in_chunks(describe, torch.from_numpy(pictures), chunk=BATCH))


def inception_weights(given: str | Path | None = None) -> Path:
    """The file of Inception's weights: the given one, or that of torch's cache (TORCH_HOME), fetched if it is not there. Raises InputError."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    path = Path(given or Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name)
    if not given and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), INCEPTION_SHA256)
        except (OSError, RuntimeError) as error:             # no network; or other bytes than expected
            raise InputError(f"--extractor inception: its weights are not here and cannot be fetched ({error}); put {path.name} into {path.parent} or name it "
                             "with --extractor_weights, or take --extractor people") from None
    if not digest(path).startswith(INCEPTION_SHA256):
        raise InputError(f"{path}: not the Inception weights that FID is defined by, whose sha256 begins with {INCEPTION_SHA256}")
    return path


def _people(device: torch.device, weights: str | Path | None) -> Extractor:
    path = Path(weights or PARSER)
    parser = parsers.load(path, device)
    return Extractor("people", f"trunk of {path.name} ({digest(path)[:8]})", device,
                     lambda pictures: {"features": torch.from_numpy(parsers.describe(parser, pictures))})


EXTRACTORS = {"inception": _inception, "people": _people}


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Pictures

@dataclass(frozen=True)
class PictureSet:
    """`count` real pictures: load(indices) -> uint8 (N, H, W, 3); `key` changes with any picture's bytes and with what is done to them (`content_key`)."""

    count: int
    key: str
    load: Callable[[Sequence[int]], np.ndarray]


def content_key(files: ImageFolder, done: str) -> str:
    """The sha256 of every file's bytes, in order, and of `done`, the words for what turns a file into the picture that is compared."""
    from tqdm import tqdm
    key = hashlib.sha256(done.encode())
    for i in tqdm(range(len(files)), "fingerprint", unit="picture", leave=False, disable=_quiet(), dynamic_ncols=True):
        key.update(hashlib.sha256(files.read_bytes(i)).digest())
    return key.hexdigest()


def stored_pictures(files: ImageFolder) -> PictureSet:
    """The pictures as they lie in a folder or zip, gray as RGB, without alpha. Loading raises InputError for one of another size."""
    def read(i: int) -> np.ndarray:
        picture = files.read(i)
        return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]

    def load(indices: Sequence[int]) -> np.ndarray:
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(read, indices))
        for i, picture in zip(indices, pictures):
            if picture.shape != pictures[0].shape:
                raise InputError(f"{files.path}/{files.names[i]}: {sides(picture.shape)} among pictures of {sides(pictures[0].shape)}")
        return np.stack(pictures)

    return PictureSet(len(files), content_key(files, "as stored"), load)


def to_uint8(pictures: Tensor) -> np.ndarray:
    """uint8 (N, H, W, 3) of pictures (N, 3, H, W) in [-1, 1], rounded; what lies beyond is clamped."""
    return (pictures.detach() * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


# Extraction

def extract(batches: Iterable[np.ndarray], extractor: Extractor, count: int, what: str = "features") -> Features:
    """The features of batches of pictures (N, H, W, 3) uint8, all of one size, `count` pictures together. Raises InputError where sizes differ."""
    from tqdm import tqdm
    parts, size = [], None
    with tqdm(desc=what, total=count, unit="picture", leave=False, disable=_quiet(), dynamic_ncols=True) as bar:
        for pictures in batches:
            assert pictures.dtype == np.uint8 and pictures.ndim == 4 and pictures.shape[3] == 3, f"pictures of {pictures.shape}, {pictures.dtype}"
            if (size := size or pictures.shape[1:3]) != pictures.shape[1:3]:
                raise InputError(f"{what}: a picture of {sides(pictures.shape[1:])} after others of {sides(size)}")
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                parts.append(extractor.describe(pictures))
            bar.update(len(pictures))
    assert sum(len(part["features"]) for part in parts) == count, f"not the {count} pictures that were announced"
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} | {"size": torch.tensor(size)}


def real_features(pictures: PictureSet, extractor: Extractor, cache: str | Path | None = None) -> Features:
    """The features of all real pictures, on every rank: out of the folder `cache` where they are there and whole, else extracted by all ranks together."""
    name = hashlib.sha256(f"{pictures.key} {extractor.version}".encode()).hexdigest()[:32]
    path = Path(cache) / f"{extractor.name}_{name}.npz" if cache else None
    features = _read(path, pictures.count) if path else None
    if ranks.any_says(features is None, extractor.device):
        own = range(pictures.count)[ranks.rank()::ranks.count()]
        features = extract((pictures.load(own[i:i + BATCH]) for i in range(0, len(own), BATCH)), extractor, len(own), "real pictures")
        features = gathered(features, pictures.count, extractor.device)
        if path and ranks.rank() == 0:
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **features)
    return features


def _read(path: Path, count: int) -> Features | None:
    """What a file of the cache holds, or None where it is missing or, with a line on stderr, broken."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            features = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if len(features["features"]) == count and len(features["size"]) == 2:
            return features
    except Exception:                                        # damaged bytes make readers raise anything; the features can be made again
        pass
    print(f"warning: {path}: broken, its features are extracted again", file=sys.stderr)
    return None


def gathered(own: Features, count: int, device: torch.device) -> Features:
    """All `count` rows, on every rank, of ranks that hold rows rank, rank + ranks, rank + 2 ranks, ..."""
    def whole(rows: Tensor) -> Tensor:
        every = rows.new_zeros(count, *rows.shape[1:], device=device)
        every[ranks.rank()::ranks.count()] = rows.to(device)
        return ranks.total(every).cpu()

    return {name: rows if name == "size" or ranks.count() == 1 else whole(rows) for name, rows in own.items()}


def _quiet() -> bool | None:
    """Whether a bar is not to be shown: on further ranks; else tqdm sees whether there is a terminal."""
    return True if ranks.rank() else None


def sides(shape: Sequence[int]) -> str:
    """A picture's shape in words, width first."""
    return f"{shape[1]}x{shape[0]}"
