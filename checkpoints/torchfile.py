"""What torch.save has written, read without torch, and without running any of it.

Such a file is a zip archive in which nothing is compressed. One member, data.pkl, is a pickle: it says what was saved,
with a note wherever a tensor belongs. The numbers are in the members data/0, data/1, ..., one for each storage; a
tensor is a view of a storage, so two tensors may share one.

A pickle is a program for a little machine with a stack. Python's own machine calls whatever function the program names,
so a stranger's pickle can do anything that you can. The one below knows only the instructions it takes to put dicts,
lists, tuples, strings and numbers together, and only the names in NAMES, none of which it calls. All else is refused.

>>> import pickle
>>> load_pickle(pickle.dumps({"stoi": {"a": 0}, "itos": {0: "a"}}))
{'stoi': {'a': 0}, 'itos': {0: 'a'}}
>>> load_pickle(pickle.dumps(print))
Traceback (most recent call last):
ValueError: it asks for builtins.print, which is not needed to read tensors and is not run
"""

import contextlib
import math
import pickletools
import reprlib
import struct
import zipfile
from typing import NamedTuple

import numpy as np

LARGEST_PICKLE = 2**24  # bytes; that of a GPT-2 with its optimizer has some hundred thousand

STORAGES = {  # name: what safetensors calls it, NumPy's type (which has no bfloat16)
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
REBUILD, ORDERED_DICT = "torch._utils._rebuild_tensor_v2", "collections.OrderedDict"
NAMES = {*STORAGES, REBUILD, ORDERED_DICT}


class Name(NamedTuple):
    """One of NAMES, where Python's machine would have the function or class itself."""

    name: str


class Storage(NamedTuple):
    kind: str  # one of STORAGES
    key: str  # its numbers are the archive's member data/<key>
    size: int  # elements


class Tensor(NamedTuple):
    """A view of a storage; nothing about it has been checked but the types."""

    storage: Storage
    offset: int  # elements
    shape: tuple
    strides: tuple  # elements

    @property
    def dtype(self):
        return STORAGES[self.storage.kind][0]


class TorchFile:
    """An open file of torch.save. `content` is what was saved, with a Tensor in place of each tensor.

    ValueError, here and in `read`: the file is damaged, or needs more than tensors and plain data to be read.
    """

    def __init__(self, path):
        self.path, self.size = path, path.stat().st_size
        with self._damage():
            self.archive = zipfile.ZipFile(path)
        try:
            with self._damage():
                self.root = self._find_root()
                data = self._member("data.pkl", range(LARGEST_PICKLE))
                self.content = load_pickle(data)
        except BaseException:
            self.archive.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.archive.close()

    def read(self, tensor):
        """Return the elements of one tensor, as NumPy's type in STORAGES, shaped; at most its storage is in memory."""
        with self._damage():
            storage, offset, shape, strides = tensor
            kind = np.dtype(STORAGES[storage.kind][1])
            if math.prod(shape) > storage.size:  # strides of 0 could make more of them
                raise ValueError(f"a tensor {reprlib.repr(shape)} has more elements than its storage, {storage.size:,}")
            size = storage.size * kind.itemsize
            data = self._member(f"data/{storage.key}", range(size, size + 1))
            # This raises ValueError if it runs past the end.
            return np.ndarray(shape, kind, data, offset * kind.itemsize, [n * kind.itemsize for n in strides])

    def _find_root(self):
        """Return the folder all members are in, which torch names after the file."""
        roots = [name.removesuffix("data.pkl") for name in self.archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it has no data.pkl, or several")
        byteorder = f"{roots[0]}byteorder"
        if byteorder in self.archive.namelist() and self.archive.getinfo(byteorder).file_size != len("little"):
            raise ValueError("its numbers are big-endian")
        return roots[0]

    def _member(self, name, sizes):
        """Return a member of the archive, whose checksum zipfile verifies, unless its size is not one of `sizes`."""
        member = self.archive.getinfo(self.root + name)
        stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if not stored or member.file_size > self.size or member.file_size not in sizes:
            raise ValueError(f"its member {name} has {member.file_size:,} bytes, more or fewer than it should")
        return self.archive.read(member)

    @contextlib.contextmanager
    def _damage(self):
        try:
            yield
        except (zipfile.BadZipFile, LookupError, RuntimeError, EOFError, struct.error, ValueError, OSError) as error:
            raise ValueError(
                f"{self.path} cannot be read as a file of torch.save ({error}): if it is damaged or cut off, copy it "
                "anew; if it is from torch older than 1.6, or holds more than weights, save it anew"
            ) from error


def load_pickle(data):
    """Return what a pickle builds out of dicts, lists, tuples, strings, numbers and Tensors; refuse any other.

    data: bytes. ValueError: it is damaged, or needs a function or class that is not one of NAMES, or an instruction
    that torch.save and pickle.dump do not write for such things.
    """
    try:
        return run(pickletools.genops(data))
    except (IndexError, KeyError, TypeError, AttributeError) as error:  # what a senseless program ends in
        raise ValueError(f"its pickle is damaged ({type(error).__name__})") from error


def run(instructions):
    """The machine: `stack` holds what is being built, `marks` where a series begins, `memo` what comes again."""
    stack, marks, memo = [], [], {}

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
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(admit(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                module, name = stack.pop(-2), stack.pop()
                stack.append(admit(f"{module}.{name}" if type(module) is type(name) is str else "no name"))
            case "BINPERSID":
                stack.append(as_storage(*stack.pop()))
            case "REDUCE":
                name, arguments = stack.pop(-2), stack.pop()
                stack.append(reduce(name, arguments))
            case "BUILD":
                stack.pop()  # attributes of an OrderedDict, in which torch keeps versions
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"its pickle has the instruction {other}, which reading tensors does not take")


def set_items(target, items):
    keys, values = items[::2], items[1::2]
    if not all(type(key) in (str, int) for key in keys):  # Python can be kept busy for ever with a tuple as a key
        raise ValueError("its pickle has a dict whose keys are neither strings nor whole numbers")
    target.update(zip(keys, values, strict=True))


def admit(name):
    if name not in NAMES:
        raise ValueError(f"it asks for {name:.100}, which is not needed to read tensors and is not run")
    return Name(name)


def as_storage(tag, kind, key, location, size):
    """The note that torch leaves for a storage; `location` is the device it was on."""
    if not (kind.name in STORAGES and type(key) is str and is_size(size)):
        raise ValueError("its pickle has a storage of no known kind")
    return Storage(kind.name, key, size)


def reduce(name, arguments):
    """What calling one of NAMES would give."""
    if name == Name(ORDERED_DICT) and len(arguments) == 0:
        return {}
    if name != Name(REBUILD):
        raise ValueError("its pickle calls what is not to be called")
    storage, offset, shape, strides, *_ = arguments  # then whether it needs gradients, and hooks
    sizes = type(shape) is type(strides) is tuple and len(shape) == len(strides) <= 8
    if not (type(storage) is Storage and sizes and all(map(is_size, (offset, *shape, *strides)))):
        raise ValueError("its pickle has a tensor of no possible shape")
    return Tensor(storage, offset, shape, strides)


def is_size(value):
    return type(value) is int and 0 <= value < 2**48
