"""A pickle machine that builds plain data and never runs what the pickle names.

Python's machine imports a global and calls it. Here a global is only ever a `Record`, an inert note of its name. Calling one of the names in
ADMITTED builds a tensor, an array or a container with a function of this file; calling any other name makes another Record, which keeps the
arguments and the state. So nothing real is ever within a pickle's reach. A name of the standard library that no checkpoint needs
(os.system, builtins.eval) is a sign of an attack and refused.

What a file can make us hold is bounded by its size: lengths that exceed it, views past the end of their storage, and copies of copies are
refused. For the same reason this builds on pickle's machine in Python: the compiled one allocates what a length or memo index claims, unread.
"""
from __future__ import annotations

import math
import pickle
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

SLACK = 2**20                                               # bytes that copies and expanded views may take beyond four times the file
PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
INERT = {"argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "functools", "pathlib", "types", "uuid"}
INERT_BUILTINS = {"object", "type", "list", "dict", "tuple", "int", "float", "str", "bool", "bytes", "slice", "range", "Ellipsis", "NotImplemented"}
DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.dtype)
STORAGES = {
    f"{name}Storage": dtype for name, dtype in {
        "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
        "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8,
    }.items()
}


@dataclass(eq=False, repr=False)
class Record:
    """What a pickle holds of an object whose class is not admitted: names, never the class.

    args is None for the class or function itself. `state` is what BUILD gave (the attributes, for most objects), `items` what was appended
    to the object and `entries` what was set in it by key (for classes derived from list and dict).
    """

    module: str
    name: str
    args: tuple | None = None
    state: Any = None
    items: list = field(default_factory=list)
    entries: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Record {self.module}.{self.name}>"


class Unpickler(pickle._Unpickler):
    """`Unpickler(file, size).load()` gives the next pickle of a file of `size` bytes as plain data and Records.

    storage(dtype, key, numel, view) gives a storage of a torch container as a tensor (numel,); nested(bytes) reads the torch file that an old
    pickle keeps of each storage. Raises UnpicklingError, or any other Exception that damaged bytes lead to.
    """

    def __init__(self, file: Any, size: int, encoding: str = "latin1", storage: Callable | None = None, nested: Callable | None = None):
        super().__init__(file, encoding=encoding)
        self.allowance, self.storage, self.nested = 4 * size + SLACK, storage, nested
        self.opened: dict[int, tuple[bytes, Tensor]] = {}

    def spend(self, size: int) -> None:
        """Account for `size` bytes that the pickle asks for beyond those that it holds."""
        self.allowance -= size
        _require(self.allowance >= 0, "would grow far beyond its size")

    # --- names and calls ---------------------------------------------------------------------------------------------------------------

    def find_class(self, module: str, name: str) -> Record | torch.dtype:
        """The global of that name, as a note; a torch.dtype is data."""
        module = PYTHON2.get(module, module)
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        root = module.partition(".")[0]
        inert = name in INERT_BUILTINS if module == "builtins" else root in INERT
        if root in sys.stdlib_module_names and not inert and (module, name) not in ADMITTED:
            raise UnpicklingError(f"refused, for it asks for {module}.{name}, which no checkpoint needs")
        return Record(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """A storage of the torch container, or the class that old files wrap with its source text."""
        _require(type(pid) is tuple and len(pid) >= 2, "has a persistent id that is none of torch's")
        if pid[0] == "module":
            return pid[1]
        _require(pid[0] == "storage" and len(pid) in (5, 6) and self.storage is not None, "has a persistent id that is none of torch's")
        _, kind, key, _, numel, *view = pid
        dtype = STORAGES.get(kind.name) if type(kind) is Record and kind.module in ("torch", "torch.cuda", "torch.storage") else None
        _require(dtype is not None, "holds a tensor of a type that is not read (sparse, quantised)")
        _require(type(key) in (str, int) and _whole(numel), "has a storage without key or length")
        return self.storage(dtype, key, numel, view[0] if view else None)

    def call(self, function: Any, args: Any, kwargs: Any = None) -> Any:
        """What REDUCE, NEWOBJ, INST and OBJ put on the stack."""
        _require(type(function) is Record and function.args is None and type(args) is tuple, "calls something that is not a class")
        maker = ADMITTED.get((function.module, function.name))
        if maker:
            _require(not kwargs, f"calls {function.name} with keywords")
            return maker(self, *args)
        _require(function.module != "torch._utils", f"holds a tensor of a kind that is not read ({function.name})")
        return Record(function.module, function.name, (*args, kwargs) if kwargs else args)

    def _instantiate(self, function: Any, args: list) -> None:
        self.append(self.call(function, tuple(args)))

    def load_reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.append(self.call(function, args))

    def load_newobj_ex(self) -> None:
        kwargs, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        _require(type(kwargs) is dict, "calls something that is not a class")
        self.append(self.call(function, args, kwargs))

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if _is_object(target):
            target.state = state
        elif type(target) is np.ndarray:
            _fill(self, target, state)
        else:                                                # the attributes of an OrderedDict (a state dict's versions) are of no use
            _require(type(target) is dict, "sets attributes of plain data")

    # --- containers: only our own take items, only keys of plain hashes enter -------------------------------------------------------------

    def add(self, items: list) -> None:
        """Append items to the list, or to the object derived from one, on the stack."""
        target = self.stack[-1]
        _require(type(target) is list or _is_object(target), "appends to something that is no list")
        (target if type(target) is list else target.items).extend(items)

    def put(self, items: list) -> None:
        """Set alternating keys and values in the dict, or in the object derived from one, on the stack."""
        target = self.stack[-1]
        _require(type(target) is dict or _is_object(target), "sets items of something that is no dict")
        (target if type(target) is dict else target.entries).update(_pairs(items))

    def load_append(self) -> None:
        self.add([self.stack.pop()])

    def load_appends(self) -> None:
        self.add(self.pop_mark())

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def load_setitems(self) -> None:
        self.put(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()                              # which changes where `append` leads
        self.append(_pairs(items))

    def load_additems(self) -> None:
        items = self.pop_mark()
        _require(type(self.stack[-1]) is set, "adds to something that is no set")
        self.stack[-1].update(map(_key, items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(_key, items)))

    def load_bytearray8(self) -> None:
        size = struct.unpack("<Q", self.read(8))[0]
        data = self.read(size)
        _require(len(data) == size, "ends too early")
        self.append(bytearray(data))

    def load_readonly_buffer(self) -> None:
        pass

    def get_extension(self, code: int) -> None:
        raise UnpicklingError("uses extension codes of copyreg")

    dispatch = pickle._Unpickler.dispatch | {
        pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_reduce, pickle.NEWOBJ_EX[0]: load_newobj_ex, pickle.BUILD[0]: load_build,
        pickle.APPEND[0]: load_append, pickle.APPENDS[0]: load_appends, pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict, pickle.ADDITEMS[0]: load_additems, pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8, pickle.READONLY_BUFFER[0]: load_readonly_buffer,
    }


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UnpicklingError(what)


def _is_object(value: Any) -> bool:
    return type(value) is Record and value.args is not None


def _whole(*numbers: Any) -> bool:
    return all(type(number) is int and 0 <= number < 2**63 for number in numbers)


def _key(value: Any) -> Any:
    """A dict's key or set's member: a scalar or a Record, or a flat tuple of them. (The hash of nested tuples takes exponential time.)"""
    for part in value if type(value) is tuple else (value,):
        _require(type(part) in (*SCALARS, Record) and (type(part) is not int or abs(part) < 2**64), "has a dict or set whose keys are not plain")
    return value


def _pairs(items: list) -> dict:
    _require(len(items) % 2 == 0, "has a dict with a key but no value")
    return {_key(key): value for key, value in zip(items[::2], items[1::2])}


# --- tensors; a storage is a tensor (numel,) ----------------------------------------------------------------------------------------------

def as_tensor(data: bytearray) -> Tensor:
    """The bytes as a uint8 tensor (numel,) of the same memory."""
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _tensor(reader, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> Tensor:
    """A view of a storage, every element of it inside."""
    _require(isinstance(storage, Tensor) and storage.dim() == 1 and storage.is_contiguous(), "has a tensor without storage")
    _require(type(size) is tuple and type(stride) is tuple and len(size) == len(stride) and _whole(offset, *size, *stride), "has a tensor of impossible shape")
    _require(not metadata, "holds a tensor of a kind that is not read (conjugated)")
    count = math.prod(size)
    if count == 0:
        return storage.new_empty(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    _require(last < len(storage), "has a tensor that reaches past the end of its storage")
    reader.spend(max(0, count - len(storage)) * storage.element_size())
    return storage.as_strided(size, stride, storage.storage_offset() + offset)


def _retyped_tensor(reader, storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None) -> Tensor:
    _require(isinstance(storage, Tensor) and type(dtype) is torch.dtype, "has a tensor without storage")
    return _tensor(reader, storage.view(dtype), offset, size, stride, metadata=metadata)


def _parameter(reader, tensor, requires_grad=False, hooks=None, state=None) -> Tensor:
    _require(isinstance(tensor, Tensor), "has a parameter that is no tensor")
    return tensor


def _attributed_tensor(reader, function, kind, args, state) -> Any:
    return reader.call(function, args)


def _nested_storage(reader, data) -> Tensor:
    """The storage in a torch file within the pickle; opened once however often it is named."""
    _require(type(data) is bytes and reader.nested is not None, "nests checkpoints in checkpoints")
    if id(data) not in reader.opened:
        reader.opened[id(data)] = data, reader.nested(data)
    _require(isinstance(reader.opened[id(data)][1], Tensor), "nests something other than a storage")
    return reader.opened[id(data)][1]


def _device(reader, *parts) -> str:
    _require(1 <= len(parts) <= 2 and all(type(part) in (str, int) for part in parts), "has a device that is none")
    return ":".join(map(str, parts))


# --- arrays -------------------------------------------------------------------------------------------------------------------------------

def as_array(data: bytearray, dtype: np.dtype) -> np.ndarray:
    """The bytes as an array (n,) of the same memory, or in the machine's byte order if they are in the other."""
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


def _dtype(note: Any) -> np.dtype:
    """The numpy dtype that a Record of numpy.dtype names: numbers, text or objects, in either byte order."""
    _require(type(note) is Record and (note.module, note.name) == ("numpy", "dtype") and bool(note.args), "has an array without dtype")
    code, state = note.args[0], note.state or (3, "|")
    plain = type(code) is str and re.fullmatch(r"[biufcSU][1-9]\d{0,8}|O8?", code, re.ASCII) and type(state) is tuple and not any(state[2:5])
    _require(bool(plain) and state[1] in ("<", ">", "|", "="), "holds an array that is not of numbers or text")
    return np.dtype(code).newbyteorder(state[1])


def _bytes(reader, data, encoding="latin1", errors="strict") -> bytes:
    """Bytes, which old protocols write as text."""
    _require(type(data) in (bytes, bytearray, str) and encoding in ("latin1", "latin-1"), "has an array without data")
    reader.spend(len(data))
    return data.encode("latin1") if type(data) is str else bytes(data)


def _matched(reader, dtype: np.dtype, shape: Any, data: Any) -> bytes:
    """The bytes of an array, after comparing their number with its dtype and shape."""
    data, width = _bytes(reader, data), 0 if dtype.hasobject else dtype.itemsize
    _require(width > 0 and _count(shape) * width == len(data), "has an array of impossible shape")
    return data


def _count(shape: Any) -> int:
    _require(type(shape) is tuple and _whole(*shape), "has an array of impossible shape")
    return math.prod(shape)


def _empty_array(reader, kind, shape=(0,), code=b"b") -> np.ndarray | Record:
    _require(type(kind) is Record, "has an array without class")
    return np.empty(0, np.int8) if (kind.module, kind.name) == ("numpy", "ndarray") else Record(kind.module, kind.name, ())


def _fill(reader, array: np.ndarray, state: Any) -> None:
    """Give the array that `_empty_array` made its shape, dtype and data, once."""
    _require(type(state) is tuple and len(state) == 5 and array.dtype == np.int8 and array.size == 0, "has an array of impossible shape")
    _, shape, note, fortran, data = state
    dtype = _dtype(note)
    if dtype.hasobject:
        _require(type(data) is list and _count(shape) == len(data), "has an array of impossible shape")
    else:
        data = _matched(reader, dtype, shape, data)
    array.__setstate__((1, shape, dtype, bool(fortran), data))


def _buffered_array(reader, data, note, shape, order, axes=None) -> np.ndarray:
    """Arrays of protocol 5."""
    dtype = _dtype(note)
    array = as_array(bytearray(_matched(reader, dtype, shape, data)), dtype)
    return array.reshape(shape, order="C").transpose(axes) if order == "K" and axes is not None else array.reshape(shape, order=order)


def _scalar(reader, note, data) -> Any:
    dtype = _dtype(note)
    return np.frombuffer(_matched(reader, dtype, (1,), data), dtype).item()


# --- containers ---------------------------------------------------------------------------------------------------------------------------

def _dict(reader, content=()) -> dict:
    """An OrderedDict or its kin, from nothing, a dict or a list of pairs."""
    _require(type(content) in (dict, list, tuple), "has a dict of something that is none")
    if type(content) is not dict:
        _require(all(type(pair) in (list, tuple) and len(pair) == 2 for pair in content), "has a dict of something that is none")
        content = _pairs([part for pair in content for part in pair])
    reader.spend(100 * len(content))
    return dict(content)


def _members(kind: type) -> Callable:
    def make(reader, members=()):
        _require(type(members) in (list, tuple, set), "has a set of something that is none")
        reader.spend(100 * len(members))
        return kind(map(_key, members))
    return make


def _complex(reader, real, imaginary) -> complex:
    _require(type(real) is float and type(imaginary) is float, "has a complex number that is none")
    return complex(real, imaginary)


def _size(reader, size) -> tuple:
    _require(type(size) is tuple, "has a size that is none")
    return size


def _old_object(reader, kind, base, state) -> Any:
    """Objects of protocols 0 and 1: a class, the builtin that it derives from, and that builtin's content."""
    _require(type(base) is Record and base.module == "builtins", "has an object without base class")
    return reader.call(kind, () if base.name == "object" else (state,))


ADMITTED: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _retyped_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _attributed_tensor,
    ("torch.storage", "_load_from_bytes"): _nested_storage,
    ("torch", "device"): _device,
    ("torch", "Size"): _size,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _buffered_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    ("collections", "OrderedDict"): _dict,
    ("collections", "Counter"): _dict,
    ("collections", "defaultdict"): lambda reader, factory=None, content=(): _dict(reader, content),
    ("dnnlib.util", "EasyDict"): _dict,
    ("builtins", "set"): _members(set),
    ("builtins", "frozenset"): _members(frozenset),
    ("builtins", "complex"): _complex,
    ("builtins", "bytes"): lambda reader, data=b"", encoding="latin1": _bytes(reader, data, encoding),
    ("builtins", "bytearray"): lambda reader, data=b"", encoding="latin1": bytearray(_bytes(reader, data, encoding)),
    ("_codecs", "encode"): _bytes,
    ("copyreg", "_reconstructor"): _old_object,
    ("copyreg", "__newobj__"): lambda reader, kind, *args: reader.call(kind, args),
    # the source text that these objects of StyleGAN and EG3D carry along, for their own loader to run, is dropped
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): lambda reader, meta: Record("torch_utils.persistence", meta["class_name"], (), meta["state"]),
}
