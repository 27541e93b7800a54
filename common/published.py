"""Reads the original authors' checkpoints and pickles without running anything in them.

    data = published.read("generator.pth")              plain data: dicts, lists, numbers, text, tensors on the CPU, arrays, and Records
    state = published.tensors(data["model"])            {dotted key: tensor}, from a state dict or from a whole pickled module alike

PyTorch's zip archives, its older streams and bare pickles are told apart by content. A `Record` stands for an object of a class that is not
plain data: its module, name and attributes; the class is never imported. ``common.unpickle`` has the machine and its bounds.
"""
from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.unpickle import Record, Unpickler, as_array, as_tensor

__all__ = ["Record", "read", "read_npy", "read_pickle", "tensors"]

MAGIC = 0x1950A86A20F9469CFC6C                              # first object of PyTorch's streams, before 1.6
ATTEMPTS = 3                                                # to read a header, after which it stands as broken
MOST_TENSORS, DEEPEST, LONGEST = 2**15, 100, 300            # tensors, levels and letters of a key that `tensors` puts up with


def read(path: str | Path) -> Any:
    """What an author's checkpoint holds: dict, list, tuple, set, str, bytes, number, None, Tensor (CPU), ndarray and Record.

    Takes torch.save's zip archives, its streams from before PyTorch 1.6 and bare pickles of any protocol; text of Python 2 is read as latin1.
    Parameters come as plain tensors, storages as tensors (numel,). Raises InputError, one line, for anything broken, hostile or not read.
    """
    with _opened(path, "a PyTorch checkpoint or a pickle") as (file, size):
        return _container(file, size, nested=lambda data: _container(io.BytesIO(data), len(data)))


def read_pickle(path: str | Path, encoding: str = "ASCII") -> Any:
    """What a bare pickle holds, as `read`; `encoding` is that of Python 2's text ("latin1" where it holds arrays)."""
    with _opened(path, "a pickle") as (file, size):
        return Unpickler(_Source(file, size), size, encoding, nested=lambda data: _container(io.BytesIO(data), len(data))).load()


def read_npy(path: str | Path) -> Any:
    """The ndarray of a .npy file of numbers or text; of an object array what it holds: the object of shape (), else nested lists."""
    with _opened(path, "a .npy file of numbers, or of a pickled dict or list") as (file, size):
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise UnpicklingError("is of a newer .npy version")
        shape, fortran, dtype = _header(file, np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)
        if dtype.hasobject:
            array = Unpickler(_Source(file, size), size).load()
            if type(array) is not np.ndarray:
                raise UnpicklingError("holds no array")
            return array.tolist() if array.size else []
        count = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "biufcSU" or any(n < 0 for n in shape) or count != size - file.tell():
            raise UnpicklingError(f"does not hold the array of {str(dtype)[:40]} that its header says")
        return as_array(bytearray(file.read(count)), dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: BinaryIO, read: Callable) -> tuple:
    """A .npy header, asked for again where CPython 3.11's parser of literals stumbles over another thread's (SystemError, gh-106905)."""
    start = file.tell()
    for _ in range(ATTEMPTS):
        try:
            return read(file)
        except SystemError:
            file.seek(start)
    return read(file)


@contextmanager
def _opened(path: str | Path, expected: str) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size. Whatever its bytes lead to ends as one InputError line."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected {expected}")
    try:
        with Path(path).open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except UnpicklingError as error:
        raise InputError(_line(f"{path}: {error}; expected {expected}")) from error
    except EOFError as error:
        raise InputError(f"{path}: ends too early; expected {expected}") from error
    except Exception as error:                               # a reader of arbitrary bytes fails in as many ways as there are bytes
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(_line(f"{path}: damaged or of another kind ({reason}); expected {expected}")) from error


class _Source:
    """A file of `size` bytes that refuses to read past its end, so that no length is believed before it is checked."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        """The next `count` bytes; raises UnpicklingError if they are not there."""
        if count > 4096 and count > self.size - self.file.tell():
            raise UnpicklingError("ends too early")
        return self.file.read(count)


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:1000])


# --- PyTorch's containers -----------------------------------------------------------------------------------------------------------------

def _container(file: BinaryIO, size: int, nested: Callable | None = None) -> Any:
    start = file.read(4)
    file.seek(0)
    return _archive(file, size, nested) if start == b"PK\3\4" else _stream(_Source(file, size), size, nested)


def _archive(file: BinaryIO, size: int, nested: Callable | None) -> Any:
    """A zip archive: NAME/data.pkl, and each storage in NAME/data/KEY."""
    with zipfile.ZipFile(file) as archive:
        parts = _parts(archive, size)
        names = [name for name in parts if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(names) != 1:
            raise UnpicklingError("is a zip archive that holds no PyTorch checkpoint")
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in parts and archive.read(f"{folder}byteorder") != b"little":
            raise UnpicklingError("was written on a big-endian machine")
        loaded: dict[str, Tensor] = {}

        def storage(dtype, key, numel, view) -> Tensor:
            name = f"{folder}data/{key}"
            if name not in parts or parts[name].file_size != numel * dtype.itemsize or view is not None:
                raise UnpicklingError("has a storage that is missing or of another size")
            if name not in loaded:
                loaded[name] = as_tensor(bytearray(archive.read(name)))
            return loaded[name].view(dtype)

        data = archive.read(names[0])
        return Unpickler(io.BytesIO(data), len(data), storage=storage, nested=nested).load()


def _parts(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name: as torch.save writes them, uncompressed, each once, side by side."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1 for info in infos):
        raise UnpicklingError("is a compressed archive, which torch.save does not make")
    ends = [info.header_offset + 30 + info.file_size for info in infos]
    if any(end > info.header_offset for end, info in zip(ends, infos[1:])) or max(ends, default=0) > size:
        raise UnpicklingError("is an archive whose parts overlap")
    parts = {info.filename: info for info in infos}
    if len(parts) != len(infos):
        raise UnpicklingError("is an archive with two parts of one name")
    return parts


def _stream(source: _Source, size: int, nested: Callable | None) -> Any:
    """A bare pickle; or, before PyTorch 1.6, five of them (magic, version, machine, data, keys), then each storage: its length and its bytes."""
    first = Unpickler(source, size, nested=nested).load()
    if type(first) is not int or first != MAGIC:
        return first
    version, machine = Unpickler(source, size).load(), Unpickler(source, size).load()
    if type(version) is not int or version != 1001 or type(machine) is not dict or machine.get("little_endian") is not True:
        raise UnpicklingError("is a stream of an unknown version or of a big-endian machine")
    storages = _Storages(size)
    data = Unpickler(source, size, storage=storages.promise, nested=nested).load()
    storages.fill(source, Unpickler(source, size).load())
    return data


class _Storages:
    """The storages of a stream, promised while the data are read and filled from what follows them."""

    def __init__(self, size: int):
        self.size, self.memory = size, {}                    # {key: (bytes, the same as a tensor, bytes of an element)}

    def promise(self, dtype: torch.dtype, key: str | int, numel: int, view: tuple | None) -> Tensor:
        """The storage (numel,), or the view (key, offset, length) of it."""
        if key not in self.memory:
            self.size -= numel * dtype.itemsize
            if self.size < 0:
                raise EOFError
            data = bytearray(numel * dtype.itemsize)
            self.memory[key] = data, as_tensor(data), dtype.itemsize
        whole = self.memory[key][1].view(dtype)
        _, offset, length = view or (key, 0, numel)
        if len(whole) != numel or not 0 <= offset <= offset + length <= numel:
            raise UnpicklingError("has a storage of two sizes")
        return whole[offset:offset + length]

    def fill(self, source: _Source, keys: Any) -> None:
        """Read each storage in the order of `keys`: its length (int64), then its bytes."""
        if type(keys) is not list or not all(type(key) in (str, int) for key in keys) or sorted(map(str, keys)) != sorted(map(str, self.memory)):
            raise UnpicklingError("has storages that are missing or not named")
        for key in keys:
            data, _, width = self.memory[key]
            (numel,) = struct.unpack("<q", source.read(8))
            content = source.read(len(data))
            if numel * width != len(data) or len(content) != len(data):
                raise UnpicklingError("has a storage that is missing or of another size")
            data[:] = content


# --- state dicts --------------------------------------------------------------------------------------------------------------------------

def tensors(data: Any, where: str = "checkpoint") -> dict[str, Tensor]:
    """{dotted key: tensor} of all tensors in what `read` gave, or in a part of it such as data["model"].

    Dicts and lists add their keys and positions ("param_groups", "shadow_params.0"), records their attributes. A pickled torch module gives what
    its state_dict() would: parameters and persistent buffers by their dotted names. The level "module" that DataParallel adds is left out.
    Raises InputError naming `where` for two tensors of one key, and for what is nested or repeated beyond any checkpoint.
    """
    found: dict[str, Tensor] = {}
    for path, tensor in _leaves(data, where):
        key = ".".join(part for part in path.split(".") if part != "module")
        if key in found:
            raise InputError(_line(f"{where}: two tensors named {key}, expected one"))
        found[key] = tensor
    return found


def _leaves(root: Any, where: str) -> list[tuple[str, Tensor]]:
    """(path, tensor) below a node. Every node is walked once, however often it occurs; one that contains itself adds nothing there."""
    known: dict[int, list] = {}

    def walk(node: Any, depth: int) -> list[tuple[str, Tensor]]:
        if isinstance(node, Tensor):
            return [("", node)]
        if depth > DEEPEST:
            raise InputError(f"{where}: nested deeper than any state dict")
        if id(node) not in known:
            known[id(node)], found = [], []
            for key, child in _children(node):
                for path, tensor in walk(child, depth + 1):
                    if len(found) == MOST_TENSORS or len(str(key)) + len(path) > LONGEST:
                        raise InputError(f"{where}: holds more tensors, or longer names, than any state dict")
                    found.append((f"{key}.{path}" if path else str(key), tensor))
            known[id(node)] = found
        return known[id(node)]

    return walk(root, 0)


def _children(node: Any) -> Iterator[tuple[str | int, Any]]:
    """The named parts of a container or record that may hold tensors."""
    if isinstance(node, list | tuple):
        yield from enumerate(node)
    elif isinstance(node, dict):
        yield from ((key, value) for key, value in node.items() if isinstance(key, str | int))
    elif isinstance(node, Record):
        for part in _module_parts(node.state) or (node.state, node.items, node.entries):
            yield from _children(part)


def _module_parts(state: Any) -> list[dict] | None:
    """The parameters, persistent buffers and submodules of a pickled torch module's attributes; None if they are not a module's."""
    parts = [state.get(name) for name in ("_parameters", "_buffers", "_modules")] if isinstance(state, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        return None
    passing = state.get("_non_persistent_buffers_set", set())
    parts[1] = {name: buffer for name, buffer in parts[1].items() if not (isinstance(passing, set) and name in passing)}
    return parts
