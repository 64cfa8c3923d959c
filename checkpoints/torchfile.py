"""Files of torch.save, read without torch and without running any code in them (see pickles.py).

    archive   torch 1.6 and later: an uncompressed zip archive. Its member data.pkl is a pickle of the saved value, with
              a reference in place of each tensor. The members data/0, data/1, ... hold the numbers, one per storage
    stream    before: pickles of a magic number, the version and facts about the machine; the pickle of the value; a
              pickle of the storages' keys; then the numbers of each storage, after their count

A tensor is a view of a storage, and several tensors may share one.
"""

import contextlib
import io
import math
import os
import reprlib
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import files
from checkpoints.messages import abbreviated, named, reason
from checkpoints.pickles import LARGEST_PICKLE, STORAGES, Invalid, Machine, Storage, Tensor, load_pickle

LARGEST_DIRECTORY = 2**22  # bytes; the list of the archive's members, about a hundred for each tensor
STREAM_MAGIC = 0x1950A86A20F9469CFC6C
STREAM_VERSION = 1001

# What zipfile and NumPy raise for damaged files.
DAMAGE = (zipfile.BadZipFile, LookupError, RuntimeError, EOFError, struct.error, ValueError, ArithmeticError, OSError)


class TorchFile:
    """An open file of torch.save. `content` is the saved value, with a Tensor in place of each tensor.

    Opening and `read` raise ValueError if the file is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self.file = files.open_to_read(path)
        try:
            self.size = os.fstat(self.file.fileno()).st_size
            with self.wrapped_errors():
                self.form = open_form(self.file, self.size)
                self.content = self.form.content
        except BaseException:
            self.file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def read(self, tensor: Tensor) -> np.ndarray:
        """Return the elements of a tensor, with NumPy's type in STORAGES. Memory: at most its storage."""
        with self.wrapped_errors():
            storage, offset, shape, strides = tensor
            kind = np.dtype(STORAGES[storage.kind][1])
            if math.prod(shape) > storage.size:  # possible with strides of 0
                raise Invalid(f"a tensor {reprlib.repr(shape)} is larger than its storage of {storage.size:,}")
            last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
            if 0 not in shape and last >= storage.size:
                raise Invalid(f"a tensor ends at element {last + 1:,} of a storage of {storage.size:,}")
            data = self.form.read_storage(storage, kind.itemsize)
            return np.ndarray(shape, kind, data, offset * kind.itemsize, [n * kind.itemsize for n in strides])

    @contextlib.contextmanager
    def wrapped_errors(self) -> Iterator[None]:
        """Raise ValueError, with the file's name and a remedy, in place of the many errors that damage causes."""
        try:
            yield
        except DAMAGE as error:
            raise ValueError(
                f"{named(self.path)} cannot be read as a file of torch.save ({fault(error)}): copy it again, or save "
                "the weights alone again"
            ) from error


def open_form(file: io.BufferedReader, size: int) -> Any:
    """Return the Archive or the Stream in a file. Raise Invalid if it is neither."""
    if size == 0:
        raise Invalid("it is empty")
    first = file.read(512)
    file.seek(0)
    if first[257:262] == b"ustar":
        raise Invalid("it is a tar archive, the form of torch before 0.1.10")
    if first.startswith(b"\x80") and first[2:4] == b"\x8a\x0a":  # the pickle of a number of ten bytes
        return Stream(file)
    if not first.startswith(b"PK"):
        raise Invalid("it begins neither as a zip archive nor as the older form of torch.save")
    return Archive(file, size)


def fault(error: Exception) -> str:
    """Return the fault of a file: the message of our own error, or the type of a library's error."""
    if isinstance(error, Invalid | zipfile.BadZipFile | OSError):
        return reason(error)
    return f"its structure is invalid, {type(error).__name__}"


# ---- archive ---------------------------------------------------------------------------------------------------


class Archive:
    """The form of torch 1.6 and later."""

    def __init__(self, file: io.BufferedReader, size: int):
        self.size = size
        reader = DirectoryReader(io.FileIO(file.fileno(), closefd=False))
        self.archive = zipfile.ZipFile(reader)
        reader.limit = size
        self.root = self.find_root()
        self.content = load_pickle(self.read_member("data.pkl", range(LARGEST_PICKLE)))

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

    def read_storage(self, storage: Storage, n_item_bytes: int) -> bytes:
        n_bytes = storage.size * n_item_bytes
        return self.read_member(f"data/{storage.key}", range(n_bytes, n_bytes + 1))

    def read_member(self, name: str, sizes: range) -> bytes:
        """Return a member of the archive; zipfile verifies its checksum. Raise Invalid unless its size is valid."""
        member = self.archive.getinfo(self.root + name)
        is_stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if not is_stored or member.file_size > self.size or member.file_size not in sizes:
            raise Invalid(
                f"its member {abbreviated(name)} has {member.file_size:,} bytes: its size is wrong or it is compressed"
            )
        return self.archive.read(member)


class DirectoryReader(io.BufferedReader):
    """A reader of an archive that reads at most `limit` bytes at once: zipfile reads the list of members as a whole."""

    limit = LARGEST_DIRECTORY

    def read(self, size=-1):
        if size is not None and size > self.limit:
            raise Invalid(f"its list of members has {size:,} bytes, more than {self.limit:,}")
        return super().read(size)


# ---- stream ----------------------------------------------------------------------------------------------------


class Stream:
    """The form of torch before 1.6."""

    def __init__(self, file: io.BufferedReader):
        self.data = np.memmap(file, np.uint8, mode="r").view(np.ndarray)
        self.position = 0
        if self.next_pickle() != STREAM_MAGIC or self.next_pickle() != STREAM_VERSION:
            raise Invalid("its magic number or its version is not that of torch.save")
        self.next_pickle()  # facts about the machine
        self.content = self.next_pickle()
        kinds = self.storages
        self.places = dict(self.find_places(self.next_pickle(), kinds))

    def next_pickle(self) -> Any:
        """Return the value of the next pickle."""
        pickle = io.BytesIO(self.data[self.position : self.position + LARGEST_PICKLE].tobytes())
        machine = Machine()
        value = machine.run(pickle)
        self.storages = machine.storages
        self.position += pickle.tell()
        return value

    def find_places(self, keys: Any, kinds: dict[str, str]) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
        """Yield the key of each storage, and its class and its bytes. The numbers follow their count.

        kinds: {key: class}. A storage of unknown class hides those behind it.
        """
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise Invalid("its list of storages is no list of names")
        start = self.position
        for key in keys:
            if key not in kinds:
                return
            n_bytes = int.from_bytes(self.data[start : start + 8].tobytes(), "little")
            n_bytes *= np.dtype(STORAGES[kinds[key]][1]).itemsize
            stop = start + 8 + n_bytes
            if stop > len(self.data):
                raise Invalid(f"its storage {abbreviated(key)} ends at byte {stop:,}, behind the end of the file")
            yield key, (kinds[key], self.data[start + 8 : stop])
            start = stop

    def read_storage(self, storage: Storage, n_item_bytes: int) -> np.ndarray:
        """Return the bytes of a storage, as a view of the file."""
        kind, data = self.places.get(storage.key, (None, None))
        stop = (storage.start + storage.size) * n_item_bytes
        if kind != storage.kind or stop > len(data):
            raise Invalid(f"its storage {abbreviated(storage.key)} is missing, of another type or too small")
        return data[storage.start * n_item_bytes : stop]
