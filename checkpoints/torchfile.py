"""Files of torch.save, read without torch and without running any code in them.

Such a file is an uncompressed zip archive. Its member data.pkl is a pickle of the saved value, with a reference in
place of each tensor. The numbers are in the members data/0, data/1, ..., one for each storage. A tensor is a view of a
storage, and several tensors may share one.

A pickle is a program for a small stack machine. Python's own unpickler calls any function that the program names, so a
pickle from an untrusted source can run arbitrary code. The machine below executes only the instructions that build
dicts, lists, tuples, strings and numbers. It accepts only the names in NAMES, and calls none of them.

>>> import pickle
>>> load_pickle(pickle.dumps({"stoi": {"a": 0}, "itos": {0: "a"}}))
{'stoi': {'a': 0}, 'itos': {0: 'a'}}
>>> load_pickle(pickle.dumps(print))
Traceback (most recent call last):
checkpoints.torchfile.Invalid: its pickle names builtins.print, which is not needed to read tensors and was not run
"""

import contextlib
import io
import math
import os
import pickletools
import reprlib
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checkpoints import files
from checkpoints.messages import abbreviated, named, reason

LARGEST_PICKLE = 2**22  # bytes; the pickle of a GPT-2 with its optimizer has a few hundred thousand
LARGEST_DIRECTORY = 2**22  # bytes; the list of the archive's members, about a hundred for each tensor
LARGEST_KEY = 2**24  # of a dict; larger numbers can be chosen such that all have the same place in the dict
LARGEST_SIZE = 2**48  # elements
MAX_AXES = 8

STORAGES = {  # name: safetensors' name of the type, NumPy's type; NumPy has no bfloat16
    "torch.FloatStorage": ("F32", "<f4"),
    "torch.HalfStorage": ("F16", "<f2"),
    "torch.BFloat16Storage": ("BF16", "<u2"),
    "torch.DoubleStorage": ("F64", "<f8"),
    "torch.LongStorage": ("I64", "<i8"),
    "torch.IntStorage": ("I32", "<i4"),
    "torch.ShortStorage": ("I16", "<i2"),
    "torch.CharStorage": ("I8", "<i1"),
    "torch.ByteStorage": ("U8", "<u1"),
    "torch.BoolStorage": ("BOOL", "?"),
}
REBUILD = "torch._utils._rebuild_tensor_v2"
ORDERED_DICT = "collections.OrderedDict"
NAMES = {*STORAGES, REBUILD, ORDERED_DICT}


class Invalid(ValueError):
    """The file is not what it must be; the message says why in a few words."""


# What zipfile and NumPy raise for damaged files.
DAMAGE = (zipfile.BadZipFile, LookupError, RuntimeError, EOFError, struct.error, ValueError, ArithmeticError, OSError)


class Name(NamedTuple):
    """One of NAMES, in place of the function or class that Python's unpickler would import."""

    name: str


class Storage(NamedTuple):
    """A reference to the numbers in the archive's member data/<key>."""

    kind: str  # one of STORAGES
    key: str
    size: int  # elements


class Tensor(NamedTuple):
    """A view of a storage. Only the types of the fields have been checked; TorchFile.read checks the rest."""

    storage: Storage
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements

    @property
    def dtype(self) -> str:
        return STORAGES[self.storage.kind][0]


# ---- the archive -----------------------------------------------------------------------------------------------


class TorchFile:
    """An open file of torch.save. `content` is the saved value, with a Tensor in place of each tensor.

    Opening and `read` raise ValueError if the file is damaged or holds more than tensors and plain data.
    """

    def __init__(self, path: Path):
        self.path = path
        self.file = DirectoryReader(files.open_to_read(path))
        try:
            self.size = os.fstat(self.file.fileno()).st_size
            with self.wrapped_errors():
                if self.size == 0:
                    raise Invalid("it is empty")
                self.archive = zipfile.ZipFile(self.file)
                self.file.limit = self.size
                self.root = self.find_root()
                self.content = load_pickle(self.read_member("data.pkl", range(LARGEST_PICKLE)))
        except BaseException:
            self.file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.archive.close()
        self.file.close()

    def read(self, tensor: Tensor) -> np.ndarray:
        """Return the elements of a tensor, with NumPy's type in STORAGES. Memory: at most its storage."""
        with self.wrapped_errors():
            storage, offset, shape, strides = tensor
            kind = np.dtype(STORAGES[storage.kind][1])
            if math.prod(shape) > storage.size:  # possible with strides of 0
                raise Invalid(f"a tensor {reprlib.repr(shape)} is larger than its storage of {storage.size:,}")
            n_bytes = storage.size * kind.itemsize
            last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            if 0 not in shape and last >= storage.size:
                raise Invalid(f"a tensor ends at element {last + 1:,} of a storage of {storage.size:,}")
            data = self.read_member(f"data/{storage.key}", range(n_bytes, n_bytes + 1))
            return np.ndarray(shape, kind, data, offset * kind.itemsize, [n * kind.itemsize for n in strides])

    def find_root(self) -> str:
        """Return the folder of all members in the archive; torch names it after the file."""
        members = self.archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise Invalid("it has no data.pkl, or several")
        byteorder = f"{roots[0]}byteorder"
        if byteorder in members and self.archive.getinfo(byteorder).file_size != len("little"):
            raise Invalid("its numbers are big-endian")
        return roots[0]

    def read_member(self, name: str, sizes: range) -> bytes:
        """Return a member of the archive; zipfile verifies its checksum. Raise ValueError unless its size is valid."""
        member = self.archive.getinfo(self.root + name)
        is_stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if not is_stored or member.file_size > self.size or member.file_size not in sizes:
            raise Invalid(
                f"its member {abbreviated(name)} has {member.file_size:,} bytes: its size is wrong or it is compressed"
            )
        return self.archive.read(member)

    @contextlib.contextmanager
    def wrapped_errors(self) -> Iterator[None]:
        """Raise ValueError, with the file's name and a remedy, in place of the many errors that damage causes."""
        try:
            yield
        except DAMAGE as error:
            raise ValueError(
                f"{named(self.path)} cannot be read as a file of torch.save ({fault(error)}): if it is damaged or cut "
                "off, copy it again; if torch before 1.6 wrote it or it holds more than weights, save the weights again"
            ) from error


class DirectoryReader(io.BufferedReader):
    """A reader of an archive that reads at most `limit` bytes at once: zipfile reads the list of members as a whole."""

    limit = LARGEST_DIRECTORY

    def __init__(self, file):
        super().__init__(file.detach())

    def read(self, size=-1):
        if size is not None and size > self.limit:
            raise Invalid(f"its list of members has {size:,} bytes, more than {self.limit:,}")
        return super().read(size)


def fault(error: Exception) -> str:
    """Return the fault of a file: the message of our own error, or the type of a library's error."""
    if isinstance(error, Invalid | zipfile.BadZipFile | OSError):
        return reason(error)
    return f"its structure is invalid, {type(error).__name__}"


# ---- the pickle ------------------------------------------------------------------------------------------------


def load_pickle(data: bytes) -> Any:
    """Return the value of a pickle of dicts, lists, tuples, strings, numbers and Tensors.

    Raise ValueError if the pickle is damaged, names a function or class outside NAMES, or has an instruction that
    torch.save and pickle.dump do not write for such values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strings in old pickles with invalid escapes
            return run(pickletools.genops(data))
    except Invalid:
        raise
    except (IndexError, KeyError, TypeError, AttributeError, ValueError) as error:  # raised by invalid programs
        raise Invalid(f"its pickle is damaged or cut off, {type(error).__name__}") from error


def run(instructions: Iterable[tuple[pickletools.OpcodeInfo, Any, int]]) -> Any:
    """Run the program and return the value it builds.

    stack: the values under construction. marks: the stack heights where a series begins. memo: values used again.
    """
    stack = []
    marks = []
    memo = {}

    def pop_series():
        start = marks.pop()
        series = stack[start:]
        del stack[start:]
        return series

    for opcode, argument, _ in instructions:
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode.name]())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_series()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(tuple(items[::-1]))
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = pop_series()
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = pop_series() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                set_items(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                if argument > len(memo):
                    raise Invalid("its pickle numbers its values with gaps")
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(admit(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                name = stack.pop()
                module = stack.pop()
                stack.append(admit(f"{module}.{name}" if type(module) is type(name) is str else "no name"))
            case "BINPERSID":
                stack.append(as_storage(*stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                name = stack.pop()
                stack.append(reduce(name, arguments))
            case "BUILD":
                stack.pop()  # the attributes of an OrderedDict, where torch stores version numbers
            case "STOP":
                return stack.pop()
            case other:
                raise Invalid(
                    f"its pickle has the instruction {abbreviated(other)}, which is not needed to read tensors"
                )


def set_items(target, items):
    """Add to a dict the keys and values that alternate in `items`."""
    keys = items[::2]
    values = items[1::2]
    if len(keys) != len(values):
        raise Invalid("its pickle has a dict with a key without a value")
    # The hash of a nested tuple can take forever.
    if not all(type(key) is str or (type(key) is int and 0 <= key < LARGEST_KEY) for key in keys):
        rule = f"strings or whole numbers from 0 to {LARGEST_KEY - 1:,}"
        raise Invalid(f"its pickle has a dict whose keys are not all {rule}")
    target.update(zip(keys, values, strict=True))


def admit(name):
    """Return the Name. Raise ValueError if it is not one of NAMES."""
    if name not in NAMES:
        raise Invalid(f"its pickle names {abbreviated(name)}, which is not needed to read tensors and was not run")
    return Name(name)


def as_storage(tag, kind, key, location, size):
    """Return the Storage that torch's reference describes; `location` is the device it was on."""
    if not (kind.name in STORAGES and type(key) is str and is_size(size)):
        raise Invalid("its pickle has a storage of unknown type")
    return Storage(kind.name, key, size)


def reduce(name, arguments):
    """Return what calling one of NAMES with these arguments would return, without calling it."""
    if name == Name(ORDERED_DICT) and len(arguments) == 0:
        return {}
    if name != Name(REBUILD):
        raise Invalid("its pickle calls a name that must not be called")
    storage, offset, shape, strides, *_ = arguments  # the rest: requires_grad and hooks
    are_tuples = type(shape) is type(strides) is tuple and len(shape) == len(strides) <= MAX_AXES
    if not (type(storage) is Storage and are_tuples and all(map(is_size, (offset, *shape, *strides)))):
        raise Invalid("its pickle has a tensor with an invalid shape")
    return Tensor(storage, offset, shape, strides)


def is_size(value):
    return type(value) is int and 0 <= value < LARGEST_SIZE
