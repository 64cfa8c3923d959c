"""The index of a TensorFlow checkpoint, model.ckpt.index: where each tensor lies in the data, and its checksum.

The file is a table of LevelDB: blocks of keys and values, each followed by its checksum; an index block with the places
of the others; a footer with the place of the index block. The first key, "", has the header of the checkpoint; every
other key is the name of a tensor, and its value a protocol buffer (BundleEntryProto). Nothing in the file is trusted:
every place and length is checked against the content.

Sources: LevelDB, doc/table_format.md; TensorFlow, tensorflow/core/protobuf/tensor_bundle.proto.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes
TRAILER = 5  # bytes behind a block: the type of its compression and its checksum
LITTLE_ENDIAN = 0

DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 6: "int8", 7: "string", 9: "int64", 10: "bool"}
DTYPES |= {14: "bfloat16", 19: "float16"}


class Damaged(ValueError):
    """The content is no valid index; the message says why in a few words."""


class Unsupported(ValueError):
    """The index is valid but of a kind that only TensorFlow reads; the message names the kind."""


class Entry(NamedTuple):
    """A tensor of a checkpoint."""

    dtype: str
    shape: tuple[int, ...]
    shard: int  # the number of the data file
    offset: int  # in that file
    size: int  # bytes
    checksum: int  # CRC32C of the bytes, masked
    is_partitioned: bool  # its parts are tensors of their own


class Index(NamedTuple):
    """The content of an index."""

    n_shards: int
    entries: dict[str, Entry]


def read_index(content: bytes) -> Index:
    """Return what an index says. Raise Damaged or Unsupported."""
    if len(content) < FOOTER or struct.unpack("<Q", content[-8:])[0] != MAGIC:
        raise Damaged("it does not end as a TensorFlow index")
    footer = content[-FOOTER:]
    _, position = read_handle(footer, 0)
    handle, _ = read_handle(footer, position)
    n_shards = None
    entries = {}
    for _, value in read_block(content, *handle):
        data_handle, _ = read_handle(value, 0)
        for key, entry in read_block(content, *data_handle):
            if key == b"":
                n_shards = read_header(entry)
            elif key in entries:
                raise Damaged("it has two tensors of the same name")
            else:
                entries[key] = read_entry(entry)
    if n_shards is None:
        raise Damaged("it has no header")
    return Index(n_shards, {as_name(key): entry for key, entry in entries.items()})


def as_name(key: bytes) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damaged("the name of a tensor is not UTF-8") from error


# ---- blocks ----------------------------------------------------------------------------------------------------


def read_varint(content: bytes, position: int) -> tuple[int, int]:
    """Return a number of seven bits per byte and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise Damaged("a number in it does not end")


def read_handle(content: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Return the place of a block, its offset and size, and the position behind it."""
    offset, position = read_varint(content, position)
    size, position = read_varint(content, position)
    return (offset, size), position


def read_block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block. A key shares its beginning with the key before it."""
    block = checked_block(content, offset, size)
    n_restarts = struct.unpack("<I", block[-4:])[0]
    end = len(block) - 4 - 4 * n_restarts
    if end < 0:
        raise Damaged("a block has a wrong length")
    position = 0
    key = b""
    while position < end:
        n_shared, position = read_varint(block, position)
        n_new, position = read_varint(block, position)
        n_value, position = read_varint(block, position)
        stop = position + n_new + n_value
        if n_shared > len(key) or stop > end:
            raise Damaged("an entry has a wrong length")
        key = key[:n_shared] + block[position : position + n_new]
        yield key, block[position + n_new : stop]
        position = stop


def checked_block(content: bytes, offset: int, size: int) -> bytes:
    """Return the bytes of a block. Raise Damaged if its checksum differs, Unsupported if it is compressed."""
    end = offset + size
    if size < 4 or end + TRAILER > len(content) - FOOTER:
        raise Damaged("a block lies outside the file")
    (checksum,) = struct.unpack("<I", content[end + 1 : end + TRAILER])
    if masked(crc32c(content[offset : end + 1])) != checksum:
        raise Damaged("the checksum of a block does not match")
    if content[end] != 0:
        raise Unsupported("a compressed index")
    return content[offset:end]


def crc32c(content: bytes, before: int = 0) -> int:
    """Return the CRC32C of bytes that follow bytes with the CRC32C `before`."""
    import google_crc32c

    return google_crc32c.extend(before, content)


def masked(checksum: int) -> int:
    """Return a CRC32C in the form in which LevelDB stores it: rotated, plus a constant."""
    rotated = (checksum >> 15) | (checksum << 17)
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


# ---- protocol buffers ------------------------------------------------------------------------------------------


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field of a protocol buffer."""
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = read_varint(message, position)
        else:
            if kind == 2:
                size, position = read_varint(message, position)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise Damaged("an entry has a field of unknown type")
            stop = position + size
            if stop > len(message):
                raise Damaged("a field ends behind its entry")
            value = message[position:stop]
            position = stop
            if kind != 2:
                value = int.from_bytes(value, "little")
        yield tag >> 3, value


def read_header(message: bytes) -> int:
    """Return the number of data files in a BundleHeaderProto. Raise Unsupported for big-endian numbers."""
    fields = dict(read_fields(message))
    n_shards = fields.get(1, 0)
    if fields.get(2, LITTLE_ENDIAN) != LITTLE_ENDIAN:
        raise Unsupported("big-endian numbers")
    if type(n_shards) is not int or not 1 <= n_shards <= 99_999:
        raise Damaged(f"it says that there are {n_shards} data files")
    return n_shards


def read_entry(message: bytes) -> Entry:
    """Return the entry of a tensor, a BundleEntryProto."""
    fields = {}
    is_partitioned = False
    for number, value in read_fields(message):
        if number == 7:
            is_partitioned = True
        elif type(value) is not (bytes if number == 2 else int):
            raise Damaged("an entry has a field of a wrong type")
        else:
            fields[number] = value
    numbers = [fields.get(number, 0) for number in (3, 4, 5, 6)]
    kind = fields.get(1, 0)
    return Entry(DTYPES.get(kind, f"type {kind}"), read_shape(fields.get(2, b"")), *numbers, is_partitioned)


def read_shape(message: bytes) -> tuple[int, ...]:
    """Return the sizes in a TensorShapeProto."""
    shape = []
    for number, value in read_fields(message):
        if number == 2:
            if type(value) is not bytes:
                raise Damaged("a shape has a field of a wrong type")
            size = dict(read_fields(value)).get(1, 0)
            if type(size) is not int or size >= 2**63:
                raise Damaged("a tensor has a negative size")
            shape.append(size)
    return tuple(shape)
