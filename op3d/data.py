"""Pictures with camera labels: a folder or zip in the format of EG3D and StyleGAN2-ADA, pictures of one size, decoded by threads ahead of the training.

    pictures = Pictures("data/people_op3d/eg3d.zip", mirror=True)
    reals, labels = pictures.batch(indices)                   # (B, 3, R, R) float32 in [-1, 1], (B, 25)
"""
from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.images import decode_rgb, open_image_folder

MIRRORED = [1, 2, 3, 4, 8]                                    # of a label: the entries of cam2world that change sign in a mirror
WINDOW = 0.5                                                  # of the data set: how far the published order mixes as it goes


class Pictures:
    """The pictures of a folder or zip, by name, and their labels float32 (n, L); L is 0 without `use_labels`.

    mirror: twice as many, the second half mirrored, cameras too (the release leaves them: `published_mirror`). max_size: only so many, drawn by `seed`.
    Raises InputError naming the file for pictures of another size than the first or not square, and for labels that are missing.
    """

    def __init__(self, path: str | Path, use_labels: bool = True, mirror: bool = False, max_size: int | None = None, seed: int = 0,
                 published_mirror: bool = False, threads: int = 4):
        self.folder = open_image_folder(path, use_labels)
        labels = self.folder.labels
        self.raw_labels = np.zeros((len(self.folder), 0), np.float32) if labels is None else labels
        index = np.arange(len(self.folder))
        if max_size is not None and max_size < len(index):
            np.random.RandomState(seed).shuffle(index)
            index = np.sort(index[:max_size])
        self.index = np.tile(index, 2) if mirror else index
        self.flips = np.arange(len(self.index)) >= len(index)
        self.labels = self.raw_labels[self.index].copy()
        if self.labels.shape[1] >= 16 and not published_mirror:
            self.labels[np.ix_(self.flips, MIRRORED)] *= -1
        self.side = self._read(0).shape[0]
        self._pool = ThreadPoolExecutor(threads, "pictures")
        self._ahead: tuple[tuple, list[Future]] = ((), [])

    def __len__(self) -> int:
        return len(self.index)

    def picture(self, i: int) -> np.ndarray:
        """Picture i, uint8 (R, R, 3)."""
        pixels = self._read(int(self.index[i]))
        if pixels.shape[0] != self.side:
            raise InputError(f"{self.folder.path}/{self.folder.names[self.index[i]]}: {pixels.shape[0]} pixels a side, expected {self.side} as of the others")
        return pixels[:, ::-1] if self.flips[i] else pixels

    def _read(self, raw: int) -> np.ndarray:
        where = f"{self.folder.path}/{self.folder.names[raw]}"
        pixels = decode_rgb(self.folder.read_bytes(raw), where)
        if pixels.shape[0] != pixels.shape[1]:
            raise InputError(f"{where}: {pixels.shape[1]}x{pixels.shape[0]} pixels, expected a square")
        return pixels

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, R, R) in [-1, 1] and labels (B, L) of indices (B,)."""
        request = tuple(indices.tolist())
        expected, futures = self._ahead
        self._ahead = ((), [])
        pixels = [future.result() for future in (futures if expected == request else self._start(request))]
        return normalised(np.stack(pixels)), torch.from_numpy(self.labels[list(request)])

    def expect(self, indices: Tensor) -> None:
        """Begin to decode the batch that will probably be asked for next."""
        request = tuple(indices.tolist())
        self._ahead = request, self._start(request)

    def _start(self, request: tuple[int, ...]) -> list[Future]:
        return [self._pool.submit(self.picture, i) for i in request]


def normalised(pixels: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) as float32 (N, 3, H, W): x / 127.5 - 1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(pictures: Tensor) -> np.ndarray:
    """Pictures (N, 3, H, W), about [-1, 1], as uint8 (N, H, W, 3): 127.5 x + 128, cut off."""
    return (pictures.detach().permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255).byte().cpu().numpy()


def published_order(items: int, rank: int = 0, ranks: int = 1, seed: int = 0, shuffle: bool = True, window: float = WINDOW) -> Iterator[int]:
    """The endless order in which the release's training takes its pictures: shuffled once, and each, once taken, changed for one of a window before it."""
    order, random = np.arange(items), np.random.RandomState(seed)
    reach = 0
    if shuffle:
        random.shuffle(order)
        reach = round(items * window)
    taken = 0
    while True:
        i = taken % items
        if taken % ranks == rank:
            yield int(order[i])
        if reach >= 2:
            j = (i - random.randint(reach)) % items
            order[i], order[j] = order[j], order[i]
        taken += 1
