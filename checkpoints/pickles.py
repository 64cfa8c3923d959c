"""Pickles, read without running any code in them.

A pickle is a program for a small stack machine. Python's own unpickler calls any function that the program names, so a
pickle from an untrusted source can run arbitrary code. The machine below calls nothing. It builds dicts, lists, tuples,
strings, numbers and descriptions of torch's tensors. An object of another class becomes an Opaque value, of which only
the name is known. The name of a function is an error, except for those that torch and NumPy write for their data: it
has no place in a checkpoint.

>>> import argparse, pickle
>>> load_pickle(pickle.dumps({"itos": {0: "a"}, "options": argparse.Namespace(lr=0.1)}))
{'itos': {0: 'a'}, 'options': Opaque(name='argparse.Namespace')}
>>> load_pickle(pickle.dumps(print))
Traceback (most recent call last):
checkpoints.pickles.Invalid: its pickle names builtins.print, which is no data and was not run
"""

import io
import pickletools
import re
import warnings
from typing import Any, BinaryIO, NamedTuple

from checkpoints.messages import abbreviated

LARGEST_PICKLE = 2**22  # bytes; the pickle of a GPT-2 with its optimizer has a few hundred thousand
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
TENSOR_MAKERS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETER_MAKERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
DICT_CLASSES = ("collections.OrderedDict", "builtins.dict", "__builtin__.dict", "collections.defaultdict")

# Names of data: classes, by the convention that they begin with a capital letter, and the functions that make the
# objects of NumPy, torch and Python itself.
CLASS = re.compile(r"(\w+\.)+_?[A-Z]\w*")
DATA = re.compile(
    r"torch\.(device|[a-z]*(float|int|bool|complex|qint|quint)\w*|strided|preserve_format|contiguous_format)"
    r"|torch\._utils\._rebuild_(tensor(_v[23])?|parameter(_with_state)?|\w*sparse\w*|\w*quantized\w*|qtensor|device_tensor_\w+)|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout"
    r"|numpy\.(dtype|ndarray|(_?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)))"
    r"|numpy\.random\._pickle\.\w+|datetime\.(date|datetime|time|timedelta|timezone)|uuid\.\w+"
    r"|collections\.(deque|defaultdict)|copy_?reg\._reconstructor|_codecs\.encode|functools\.partial"
    r"|(builtins|__builtin__)\.(dict|list|set|frozenset|tuple|object|bytearray|bytes|complex|slice|range|int|float|bool|str)"
)
RUNNING = re.compile(r"(os|posix|nt|subprocess|socket|ctypes|multiprocessing|importlib|pty|code|runpy)\b.*")

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
LITERALS |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
LITERALS |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}


class Invalid(ValueError):
    """The file is not what it must be; the message says why in a few words."""


class Opaque(NamedTuple):
    """An object, a class or a function that is not read: only its name is known."""

    name: str


class Storage(NamedTuple):
    """A reference to numbers in the file."""

    kind: str  # one of STORAGES
    key: str
    size: int  # elements
    start: int = 0  # of these elements in the numbers with the key


class Tensor(NamedTuple):
    """A view of a storage. Only the types of the fields have been checked; TorchFile.read checks the rest."""

    storage: Storage
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements

    @property
    def dtype(self) -> str:
        return STORAGES[self.storage.kind][0]


def load_pickle(data: bytes) -> Any:
    """Return the value of a pickle, with Opaque in place of everything but plain data and tensors.

    Raise Invalid if the pickle is damaged.
    """
    return Machine().run(io.BytesIO(data))


class Machine:
    """The stack machine.

    stack: values under construction. marks: where series begin. memo: values used again.
    Attribute: `storages`, {key: name of the class} of the storages that the pickle refers to.
    """

    def __init__(self):
        self.stack = []
        self.marks = []
        self.memo = {}
        self.storages = {}

    def run(self, file: BinaryIO) -> Any:
        """Return the value of the pickle at the position of the file, which moves behind it."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of strings in old pickles with invalid escapes
                return self.run_instructions(pickletools.genops(file))
        except Invalid:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:  # of invalid programs
            raise Invalid(f"its pickle is damaged or cut off, {type(error).__name__}") from error

    def run_instructions(self, instructions):
        for opcode, argument, _ in instructions:
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise Invalid("its pickle is cut off")

    def step(self, name, argument):
        stack = self.stack
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            items = self.pop_series()
            stack.append(items if name == "LIST" else tuple(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(self.pop_tuple(int(name[-1])))
        elif name == "DICT":
            stack.append({})
            items = self.pop_series_below()
            set_items(stack[-1], items)
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if name == "APPEND" else self.pop_series()
            extend(stack[-1], items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.pop_tuple(2) if name == "SETITEM" else self.pop_series()
            set_items(stack[-1], items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.remember(len(self.memo) if name == "MEMOIZE" else argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "POP":
            self.pop()
        elif name == "POP_MARK":
            self.pop_series()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            self.step_object(name, argument)

    def step_object(self, name, argument):
        """Run an instruction that makes an object."""
        stack = self.stack
        if name == "GLOBAL":
            stack.append(admit(str(argument).replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            module, attribute = self.pop_tuple(2)
            stack.append(admit(f"{module}.{attribute}" if type(module) is type(attribute) is str else "no name"))
        elif name in ("REDUCE", "NEWOBJ"):
            maker, arguments = self.pop_tuple(2)
            stack.append(make(maker, arguments))
        elif name == "NEWOBJ_EX":
            maker, *_ = self.pop_tuple(3)
            stack.append(make(maker, ()))
        elif name in ("OBJ", "INST"):
            items = self.pop_series()
            stack.append(admit(str(argument).replace(" ", ".")) if name == "INST" else make(items[0], items[1:]))
        elif name == "BUILD":
            stack.pop()  # the attributes of an object
        elif name in ("BINPERSID", "PERSID"):
            storage = as_storage(stack.pop() if name == "BINPERSID" else None)
            if type(storage) is Storage:
                self.storages[storage.key] = storage.kind
            stack.append(storage)
        else:
            raise Invalid(f"its pickle has the instruction {abbreviated(name)}, which is not needed to read tensors")

    def pop(self):
        """Remove the last value, or the last mark if nothing follows it."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def pop_tuple(self, n):
        items = self.stack[-n:]
        if len(items) < n:
            raise Invalid("its pickle takes values that are not there")
        del self.stack[-n:]
        return tuple(items)

    def pop_series(self):
        start = self.marks.pop()
        series = self.stack[start:]
        del self.stack[start:]
        return series

    def pop_series_below(self):
        """Return the series below the last value, which stays."""
        last = self.stack.pop()
        series = self.pop_series()
        self.stack.append(last)
        return series

    def remember(self, number):
        if number > len(self.memo):
            raise Invalid("its pickle numbers its values with gaps")
        self.memo[number] = self.stack[-1]


def admit(name):
    """Return the Opaque of a name. Raise Invalid if it is not a name of data."""
    is_data = CLASS.fullmatch(name) or DATA.fullmatch(name)
    if not is_data or RUNNING.fullmatch(name):
        raise Invalid(f"its pickle names {abbreviated(name)}, which is no data and was not run")
    return Opaque(name)


def extend(target, items):
    """Add items to a list. Other collections are not read."""
    if type(target) is list:
        target.extend(items)
    elif type(target) is not Opaque:
        raise Invalid("its pickle adds values to what is no list")


def set_items(target, items):
    """Add to a dict the keys and values that alternate in `items`. Keys that are no names or numbers are left out."""
    keys = items[::2]
    values = items[1::2]
    if len(keys) != len(values):
        raise Invalid("its pickle has a dict with a key without a value")
    if type(target) is dict:
        target.update((key, value) for key, value in zip(keys, values, strict=True) if is_key(key))
    elif type(target) is not Opaque:
        raise Invalid("its pickle sets values in what is no dict")


def is_key(key):
    """Return whether a key is a string or a small number: the hash of a nested tuple can take forever."""
    return type(key) is str or (type(key) is int and 0 <= key < LARGEST_KEY)


# ---- objects of torch ------------------------------------------------------------------------------------------


def as_storage(reference):
    """Return the Storage of a persistent id, which torch writes in place of numbers; Opaque if it is none."""
    if type(reference) is not tuple or len(reference) not in (5, 6):
        return Opaque("a persistent id")
    _, kind, key, _, size, *view = reference  # the tag "storage", the class, ..., the device, ...
    if not (type(kind) is Opaque and kind.name in STORAGES and type(key) is str and is_size(size)):
        return kind if type(kind) is Opaque else Opaque("a storage")
    if view in ([], [None]):
        return Storage(kind.name, key, size)
    return storage_view(kind.name, key, view[0])


def storage_view(kind, key, view):
    """Return a part of a storage, as the older format refers to it: its own key, the start and the size."""
    if type(view) is not tuple or len(view) != 3 or not all(map(is_size, view[1:])):
        return Opaque("a part of a storage")
    _, start, size = view
    return Storage(kind, key, size, start)


def make(maker, arguments):
    """Return what torch makes from these arguments if it is a tensor or a dict, else Opaque. Nothing is called."""
    name = maker.name if type(maker) is Opaque else "no name"
    arguments = arguments if type(arguments) in (tuple, list) else ()
    if name in TENSOR_MAKERS:
        return as_tensor(*arguments)
    if name in PARAMETER_MAKERS and arguments:
        return arguments[0]
    if name in DICT_CLASSES:
        return as_dict(*arguments)
    return Opaque(name)


def as_dict(pairs=(), *_):
    """Return the dict of pairs in a list, which Python 2 gives to an OrderedDict; {} for other arguments."""
    pairs = pairs if type(pairs) is list else []
    pairs = [pair for pair in pairs if type(pair) in (list, tuple) and len(pair) == 2 and is_key(pair[0])]
    return dict(pairs)


def as_tensor(storage, offset, shape, strides, *_):  # the rest: requires_grad and hooks
    """Return the Tensor, or Opaque if it lies in a storage that is not read."""
    are_tuples = type(shape) is type(strides) is tuple and len(shape) == len(strides) <= MAX_AXES
    if not (are_tuples and all(map(is_size, (offset, *shape, *strides)))):
        raise Invalid("its pickle has a tensor with an invalid shape")
    if type(storage) is not Storage:
        return storage if type(storage) is Opaque else Opaque("a tensor")
    return Tensor(storage, offset, shape, strides)


def is_size(value):
    return type(value) is int and 0 <= value < LARGEST_SIZE
