"""Hostile pickles: nothing in them runs, is imported or grows; they end as one InputError line or as inert Records, quickly.

Each attack is first shown to work on Python's own machine, which leaves a canary file; then ours must read or refuse it without one.
"""
from __future__ import annotations

import _codecs
import copyreg
import functools
import io
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections import OrderedDict, defaultdict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common import published
from common.errors import InputError
from common.published import Record
from tests.foreign import Call, Stored, archive, archive_bytes, archive_parts, python2, torch_bytes

SECONDS, MEGABYTES = 2.0, 300


@contextmanager
def bounded():
    """Fails when what is inside takes long or much memory."""
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MEGABYTES * 1024


def outcome(path: Path, read=published.read):
    """What reading gives, or the InputError, after checking that it is one line that names the file."""
    with bounded():
        try:
            return read(path)
        except InputError as error:
            assert str(path) in str(error) and "expected" in str(error) and str(error).isprintable() and len(str(error)) < 1200
            return error


# --- attacks ------------------------------------------------------------------------------------------------------------------------------

def touch(canary: Path) -> str:
    return f"touch '{canary}'"


def source(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


class Toucher:
    """Acts on the state that it is given."""

    def __setstate__(self, state):
        Path(state).touch()


CALLS = {                                                    # written by pickle itself, in every protocol
    "os.system": lambda c: Call(os.system, touch(c)),
    "exec": lambda c: Call(exec, source(c)),
    "eval": lambda c: Call(eval, source(c)),
    "open": lambda c: Call(open, str(c), "w"),
    "subprocess": lambda c: Call(subprocess.call, ["touch", str(c)]),
    "getattr chain": lambda c: Call(Call(getattr, Call(__import__, "os"), "system"), touch(c)),
    "partial": lambda c: Call(functools.partial(os.system, touch(c))),
    "partial of a partial": lambda c: Call(Call(functools.partial, functools.partial(os.system), touch(c))),
    "map": lambda c: Call(list, Call(map, os.system, [touch(c)])),
    "default factory": lambda c: Call(defaultdict.__missing__, Call(defaultdict, functools.partial(os.system, touch(c))), 1),
    "class that acts on its state": lambda c: Call(copyreg._reconstructor, Toucher, object, None, state=str(c)),
    "nested torch stream": lambda c: Call(torch.storage._load_from_bytes, torch_bytes(Call(os.system, touch(c)), zipped=False)),
    "nested torch archive": lambda c: Call(torch.storage._load_from_bytes, torch_bytes(Call(os.system, touch(c)))),
    "array of objects": lambda c: np.array([Call(os.system, touch(c))], dtype=object),
    "beside a state dict": lambda c: {"model": {"a": torch.ones(2)}, "b": Call(os.system, touch(c))},
    "as a key": lambda c: {Call(os.system, touch(c)): 1},
    "torch": lambda c: Call(torch.save, 1, str(c)),
}
OPCODES = {                                                  # COMMAND stands for the shell's
    "INST": b'(S"COMMAND"\nios\nsystem\n.',
    "OBJ": b'(cos\nsystem\nS"COMMAND"\no.',
    "names from the memo": b'\x80\x04\x8c\x02os\x94\x8c\x06system\x9400h\0h\1\x93(S"COMMAND"\ntR.',
    "dotted name": b'\x80\x04\x8c\x02os\x8c\x0epath.os.system\x93(S"COMMAND"\ntR.',
    "the module behind os": b'cposix\nsystem\n(S"COMMAND"\ntR.',
    "name of Python 2": b'ccommands\ngetoutput\n(S"COMMAND"\ntR.',
    "setter set by BUILD": b'ctypes\nSimpleNamespace\n)R}S"__setstate__"\ncos\nsystem\nsbS"COMMAND"\nb.',
    "extension code": b'\x80\x02\x82\x4d(S"COMMAND"\ntR.',
    "NEWOBJ_EX": b'\x80\x04cfunctools\npartial\ncos\nsystem\nS"COMMAND"\n\x86}\x92)R.',
}


def fires(load, data, canary: Path) -> bool:
    """Whether reading leaves the canary; it is removed."""
    try:
        load(data)
    except Exception:
        pass
    fired = canary.exists()
    canary.unlink(missing_ok=True)
    return fired


def python_reads(data: bytes):
    return pickle.Unpickler(io.BytesIO(data)).load()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_calls_do_not_run(tmp_path, name):
    canary, path = tmp_path / "canary", tmp_path / "file.pkl"
    value = CALLS[name](canary)
    for protocol in range(6):
        path.write_bytes(pickle.dumps(value, protocol))
        assert fires(python_reads, path.read_bytes(), canary)
        for read in (published.read, published.read_pickle):
            assert not fires(lambda path, read=read: outcome(path, read), path, canary)
    for zipped in (True, False):
        path.write_bytes(torch_bytes({"x": value}, zipped))
        assert not fires(outcome, path, canary)
    np.save(tmp_path / "a.npy", np.array({"x": value}, dtype=object))
    assert fires(lambda path: np.load(path, allow_pickle=True), tmp_path / "a.npy", canary)
    assert not fires(lambda path: outcome(path, published.read_npy), tmp_path / "a.npy", canary)


@pytest.mark.parametrize("name", OPCODES)
def test_opcodes_do_not_run(tmp_path, name):
    canary, path = tmp_path / "canary", tmp_path / "file.pkl"
    path.write_bytes(OPCODES[name].replace(b"COMMAND", touch(canary).encode()))
    copyreg.add_extension("os", "system", 0x4D)
    try:
        assert fires(python_reads, path.read_bytes(), canary)
        assert not fires(published.read, path, canary) and isinstance(outcome(path), InputError | Record)
    finally:
        copyreg.remove_extension("os", "system", 0x4D)


def test_modules_are_not_imported(tmp_path, monkeypatch):
    canary, path = tmp_path / "canary", tmp_path / "file.pkl"
    (tmp_path / "imported_by_a_pickle.py").write_text(source(canary))
    monkeypatch.syspath_prepend(tmp_path)
    path.write_bytes(b"\x80\x02cimported_by_a_pickle\nThing\n)\x81}X\1\0\0\0aK\1sb.")
    assert fires(python_reads, path.read_bytes(), canary) and sys.modules.pop("imported_by_a_pickle")
    read = outcome(path)
    assert not canary.exists() and "imported_by_a_pickle" not in sys.modules
    assert (read.module, read.name, read.args, read.state) == ("imported_by_a_pickle", "Thing", (), {"a": 1})


def test_what_is_not_known_stays_inert(tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps([Call(torch.save, 1, "x"), torch.nn.functional.relu, Path("a"), {Path("key"): 1}], 4))
    saved, function, name, keyed = outcome(path)
    assert [(type(key), value) for key, value in keyed.items()] == [(Record, 1)]
    assert (saved.name, saved.args, function.args) == ("save", (1, "x"), None) and isinstance(name, Record)
    assert not any(callable(record) for record in (saved, function, name)) and repr(function) == "<Record torch.nn.functional.relu>"


# --- lies ---------------------------------------------------------------------------------------------------------------------------------

ARRAY, BUFFER, SCALAR, F4, O = np._core.multiarray._reconstruct, np._core.numeric._frombuffer, np._core.multiarray.scalar, np.dtype("f4"), np.dtype("O")
TENSOR, NESTED = torch._utils._rebuild_tensor, torch.storage._load_from_bytes


def array(shape=(2,), dtype=F4, data=bytes(8), state=None):
    return Call(ARRAY, np.ndarray, (0,), b"b", state=state or (1, shape, dtype, False, data))


LIES = [
    array((3,)), array((-2,)), array((2.0,)), array([2]), array((2**40, 2**40)), array(data=[1, 2]), array(data="\u1234" * 8), array(dtype="f4"),
    array(dtype=None), array(dtype=np.dtype("f4,f4")), array(dtype=np.dtype("M8[s]")), array(dtype=O), array((2,), O, [1]), array(state=(1, 2)),
    array(state={"a": 1}), array(dtype=Call(np.dtype, "(9999999,)f4", False, True)), array((2**50,), Call(np.dtype, "U0", False, True), b""),
    Call(ARRAY, 3, (0,)), Call(BUFFER, bytes(7), F4, (2,), "C"), Call(BUFFER, bytes(8), F4, (-1,), "C"), Call(BUFFER, bytes(8), F4, (2,), "Z"),
    Call(BUFFER, 8, F4, (2,), "C"), Call(BUFFER, bytes(8), O, (1,), "C"), Call(SCALAR, F4, bytes(3)), Call(SCALAR, O, 1), Call(SCALAR, F4, 1),
    Call(SCALAR, F4), Call(bytearray, 10**12), Call(bytes, 10**12), Call(set, 5), Call(set, [[1]]), Call(frozenset, [(1, (2,))]),
    Call(_codecs.encode, "eJw=", "zlib"), Call(OrderedDict, 3), Call(OrderedDict, [1, 2]), Call(OrderedDict, [(1, 2, 3)]), Call(complex, "1"),
    Call(complex, 1.0), Call(torch.Size, 5), Call(torch.device, [1]), Call(TENSOR, 1, 0, (1,), (1,)), Call(TENSOR, torch.eye(2), 0, (1,), (1,)),
    Call(torch._utils._rebuild_tensor_v3, torch.ones(2), 0, (1,), (1,), False, {}, "float32"), Call(torch._utils._rebuild_parameter, 5, True, {}),
    Call(torch._tensor._rebuild_from_type_v2, 1, 2, (), {}), Call(NESTED, 5), Call(NESTED, b"x"), Call(NESTED, torch_bytes([1], False)), {(1, (2, 3)): 1},
    {2**100: 1}, {frozenset(): 1}, b"Ptext\n.", b"\x80\x02K\1Q.", b"\x80\x02]}b.", b"\x80\x02K\1}b.", b"\x80\x02ca\nb\n}b.", b"\x80\x02}K\1a.",
    b"\x80\x02}(K\1e.", b"\x80\x02]K\0K\1s.", b"\x80\x02)(K\1K\2u.", b"\x80\x04](K\1\x90.", b"\x80\x02K\1)R.", b"\x80\x02U\1a)R.", b"\x80\x02ca\nb\n)R)R.",
    b"\x80\x02ca\nb\nK\1R.", b"\x80\x02ca\nb\n]R.", b"\x80\x02U\1a)\x81.", b"\x80\x04ca\nb\n)]\x92.", b"\x80\x02ca\nb\nK\1a.", b"\x80\x04K\1K\2\x93.",
    b"\x80\x02h\7.", b"\x80\x05\x97.", b"\x80\x02}(K\1u.", b"(K\1d.", b"(]K\1d.", b"\x80\x09N.", b".", b"0.", b"2.", b"R.", b"b.", b"t.", b"\x80", b"\xff",
    b"\x80\x02ca\nb",
]


@pytest.mark.parametrize("value", LIES, ids=range(len(LIES)))
def test_lies_are_refused(tmp_path, value):
    path = tmp_path / "file.pkl"
    for protocol in (2, 4):
        path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
        assert isinstance(outcome(path), InputError)


# --- bombs --------------------------------------------------------------------------------------------------------------------------------

LONG, MUCH, MANY = struct.pack("<Q", 2**40), bytes(2**20), list(range(10**5))
U1, PAIRS, TUPLES = np.dtype("u1"), dict.fromkeys(MANY), b"N" + b"2\x86" * 60      # 2**60 Nones, in 121 bytes
REFUSED_BOMBS = {
    "bytes": b"\x80\x04\x8e" + LONG + b"a.", "text": b"\x80\x04\x8d" + LONG + b"a.", "bytearray": b"\x80\x05\x96" + LONG + b"a.",
    "frame": b"\x80\x04\x95" + LONG + b"K\1.", "string": b"\x80\x02T\xff\xff\xff\x7fa.", "integer": b"\x80\x02\x8b\xff\xff\xff\x7f\1.",
    "digits": b"I" + b"9" * 10**6 + b"\n.", "key": b"\x80\x02}" + TUPLES + b"Ns.", "member": b"\x80\x04\x8f(" + TUPLES + b"\x90.",
    "frozen": b"\x80\x04(" + TUPLES + b"\x91.", "arrays of the same bytes": [Call(BUFFER, MUCH, U1, (2**20,), "C") for _ in range(2000)],
    "old arrays of the same bytes": [array((2**20,), U1, MUCH) for _ in range(2000)], "copies of bytes": [Call(bytearray, MUCH) for _ in range(2000)],
    "copies of a list": [Call(set, MANY) for _ in range(2000)], "copies of a dict": [Call(OrderedDict, PAIRS) for _ in range(2000)],
    "nested twice": Call(NESTED, pickle.dumps(Call(NESTED, torch_bytes(torch.ones(1).untyped_storage(), False)))),
}
HARMLESS_BOMBS = {
    "memo": b"\x80\x02Nr\xff\xff\xff\x7f.", "laughs": b"\x80\x02" + TUPLES + b".", "depth": b"]" * 300000 + b"a" * 299999 + b".",
    "the same nested storage": [Call(NESTED, nested) for nested in [torch_bytes(torch.ones(10**5).untyped_storage(), False)] for _ in range(2000)],
}


@pytest.mark.parametrize("name", [*REFUSED_BOMBS, *HARMLESS_BOMBS])
def test_pickle_bombs(tmp_path, name):
    path, value = tmp_path / "file.pkl", (REFUSED_BOMBS | HARMLESS_BOMBS)[name]
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, 5))
    assert isinstance(outcome(path), InputError) == (name in REFUSED_BOMBS)


def central(data: bytes, offset: int, fmt: str, value: int, entry: int = -1) -> bytes:
    """An archive with a field of an entry in its directory (of the last one) overwritten."""
    starts = [i for i in range(len(data)) if data.startswith(b"PK\1\2", i)]
    at = starts[entry] + offset
    return data[:at] + struct.pack(fmt, value) + data[at + struct.calcsize(fmt):]


def test_archives(tmp_path):
    path = tmp_path / "file.pth"
    value = {"t": Call(torch._utils._rebuild_tensor_v2, Stored("storage", torch.FloatStorage, "0", "cpu", 4), 0, (4,), (1,), False, OrderedDict())}
    good = archive_bytes(value, **{"0": bytes(16), "1": bytes(16)})
    parts = archive_parts(good)
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        for name in ("a/data.pkl", "a/data/0", "a/data/0"):
            file.writestr(name, parts[name])
    bad = {
        "deflated": archive(parts, zipfile.ZIP_DEFLATED), "bomb": archive(parts | {"a/data.pkl": bytes(2**28)}, zipfile.ZIP_DEFLATED),
        "twice": twice.getvalue(), "overlap": central(good, 42, "<I", 0), "encrypted": central(good, 8, "<H", 1), "beyond": central(good, 42, "<I", 2**31),
        "sizes differ": central(good, 24, "<I", 2**31), "long": central(central(good, 20, "<I", 2**31), 24, "<I", 2**31),
        "name": good.replace(b"a/data/0", b"b/data/0", 1), "checksum": good.replace(bytes(16), b"x" * 16), "no data": archive({"a/data/0": bytes(16)}),
        "two data": archive(parts | {"b/data.pkl": b"N."}), "big-endian": archive(parts | {"a/byteorder": b"big"}),
        "directory": good[:-10] + struct.pack("<I", 2**31) + good[-6:], "short": archive_bytes(value, **{"0": bytes(15)}), "missing": archive_bytes(value),
        "empty": archive({}),
    }
    path.write_bytes(good)
    assert outcome(path)["t"].tolist() == [0] * 4
    for name, data in bad.items():
        path.write_bytes(data)
        assert isinstance(outcome(path), InputError), name


# --- damage -------------------------------------------------------------------------------------------------------------------------------

def small_files() -> dict[str, tuple]:
    state = {"model": OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.ones(3, dtype=torch.half)), "lr": 0.1, "names": ["x", {"y"}], "net": nn.Linear(2, 1)}
    arrays = {"v": np.arange(6.0).reshape(2, 3), "n": np.float32(2), "s": "text"}
    npy = io.BytesIO()
    np.save(npy, np.array(arrays, dtype=object))
    return {name: (data, published.read) for name, data in {
        "archive": torch_bytes(state), "stream": torch_bytes(state, False), "nested": pickle.dumps(state, 4), "protocol 0": pickle.dumps(arrays, 0),
        "protocol 5": pickle.dumps(arrays, 5), "python 2": python2({"v": arrays["v"], "c": ("chumpy.ch", "Ch", {"x": arrays["v"]})}),
    }.items()} | {"npy": (npy.getvalue(), published.read_npy)}


@pytest.mark.parametrize("name", small_files())
def test_cut_anywhere(tmp_path, name):
    (data, read), path = small_files()[name], tmp_path / "file"
    for length in range(0, len(data), max(1, len(data) // 200)):
        path.write_bytes(data[:length])
        assert isinstance(outcome(path, read), InputError), length
    path.write_bytes(data)
    assert not isinstance(outcome(path, read), InputError)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", small_files())
def test_altered_anywhere(tmp_path, name):
    (data, read), path, draw = small_files()[name], tmp_path / "file", random.Random(zlib.crc32(name.encode()))
    for _ in range(300):
        altered = bytearray(data)
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            at, other, size = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(1, 9)
            altered[at:at + size] = draw.choice((draw.randbytes(1) + data[at + 1:at + size], b"", draw.randbytes(size), data[other:other + size]))
        path.write_bytes(altered)
        result = outcome(path, read)
        if not isinstance(result, InputError):
            with bounded():
                try:
                    published.tensors(result)
                except InputError:
                    pass
