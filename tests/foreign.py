"""Files as other programs write them: objects of classes that are not installed, Python 2's pickles, hand-made torch archives."""
from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def foreign_module(name: str, **members) -> Iterator[types.ModuleType]:
    """A module that exists while files are written and is gone when they are read."""
    module = types.ModuleType(name)
    for key, value in members.items():
        value.__module__, value.__qualname__, value.__name__ = name, key, key
        setattr(module, key, value)
    parents = {part: types.ModuleType(part) for part in (name.split(".")[0],) if part not in sys.modules}
    sys.modules.update(parents | {name: module})
    try:
        yield module
    finally:
        for part in {name, *parents}:
            del sys.modules[part]


def torch_bytes(value, zipped: bool = True, protocol: int = 2) -> bytes:
    """What torch.save writes, as an archive or as the stream of its first versions."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return file.getvalue()


def archive(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, data in parts.items():
            target.writestr(name, data)
    return file.getvalue()


def archive_parts(data: bytes) -> dict[str, bytes]:
    """The parts of a zip archive by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        return {name: source.read(name) for name in source.namelist()}


class Stored:
    """A storage by its persistent id, for `stream_bytes`."""

    def __init__(self, *pid):
        self.pid = pid


def _pickled(value) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return item.pid if isinstance(item, Stored) else None

    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


def archive_bytes(value, **storages: bytes) -> bytes:
    """A torch archive by hand: a value with `Stored` parts, and the storages that it names."""
    return archive({"a/data.pkl": _pickled(value)} | {f"a/data/{key}": data for key, data in storages.items()})


def stream_bytes(value, storages: dict[str, tuple[int, bytes]], keys: list | None = None) -> bytes:
    """A torch stream by hand: a value with `Stored` parts, then {key: (numel, bytes)}."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}, value, list(storages) if keys is None else keys)
    return b"".join(map(_pickled, head)) + b"".join(struct.pack("<q", numel) + data for numel, data in storages.values())


class Call:
    """Pickles as a call of a function, and calls it when Python's pickle reads it."""

    def __init__(self, function, *args, state=None):
        self.value = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.value

    def __call__(self):                                      # pickle writes calls of callable things only
        raise NotImplementedError


# --- Python 2, protocol 2 -----------------------------------------------------------------------------------------------------------------

def python2(value) -> bytes:
    """A pickle as Python 2 wrote it: text and the bytes of arrays are its `str`; ("module", "class", state) is an object of the new style."""
    return b"\x80\x02" + _emit(value) + b"."


def _emit(value) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_emit(key) + _emit(item) for key, item in value.items()) + b"u"
    if isinstance(value, str | bytes):
        data = value.encode("latin1") if isinstance(value, str) else value
        return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data
    if isinstance(value, np.ndarray):
        order = "|" if value.dtype.itemsize == 1 else "<"
        dtype = b"cnumpy\ndtype\n" + _emit(value.dtype.str[1:]) + b"K\x00K\x01\x87R(K\x03" + _emit(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return made + b"(K\x01(" + b"".join(map(_emit, value.shape)) + b"t" + dtype + b"\x89" + _emit(value.tobytes()) + b"tb"
    if isinstance(value, tuple):
        module, name, state = value
        return f"ccopy_reg\n_reconstructor\n(c{module}\n{name}\nc__builtin__\nobject\nNtR".encode() + _emit(state) + b"b"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    raise TypeError(type(value))
