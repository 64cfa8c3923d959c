"""Build the index of a TensorFlow checkpoint, byte by byte (checkpoints/tensor_index.py describes the format)."""

import struct

from checkpoints.tensor_index import crc32c, masked, read_block, read_handle


def block_of(pairs):
    """Return a block, with its trailer, of keys and values; no key shares its beginning with another."""
    block = b""
    for key, value in pairs:
        block += b"\0" + varint(len(key)) + varint(len(value)) + key + value
    return sealed(block + struct.pack("<II", 0, 1))


def sealed(block, compression=b"\0"):
    return block + compression + struct.pack("<I", masked(crc32c(block + compression)))


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def index_of(pairs, data_block=None):
    """Return an index with these keys and values."""
    data = block_of(pairs) if data_block is None else data_block
    handles = block_of([(b"z", varint(0) + varint(len(data) - 5))])
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(handles) - 5)
    return data + handles + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def resealed(content, sound):
    """Return a changed index with correct checksums behind its blocks, so that their content is read.

    sound: the index before the change, which has the places of the blocks.
    """
    for offset, size in places_of_blocks(sound):
        end = offset + size
        seal = struct.pack("<I", masked(crc32c(content[offset : end + 1])))
        content = content[: end + 1] + seal + content[end + 5 :]
    return content


def places_of_blocks(content):
    """Return (offset, size) of each data block and of the index block of a valid index."""
    _, position = read_handle(content[-48:], 0)
    last, _ = read_handle(content[-48:], position)
    return [*(read_handle(value, 0)[0] for _, value in read_block(content, *last)), last]


def checkpoint_of(tensors):
    """Return (index, data) of a checkpoint with these float32 arrays; each tensor starts at a multiple of 64 bytes."""
    entries = [(b"", b"\x08\x01\x1a\x02\x08\x01")]  # the header: one data file, version 1
    data = b""
    for name in sorted(tensors):
        content = tensors[name].tobytes()
        entries.append((name.encode(), entry_of(tensors[name].shape, len(data), content)))
        data += content + bytes(-len(content) % 64)
    return index_of(entries), data


def entry_of(shape, offset, content):
    """Return the entry of a float32 tensor, a BundleEntryProto: its dtype, shape, offset, size and checksum."""
    sizes = b"".join(field(2, b"\x08" + varint(size)) for size in shape)
    place = b"\x20" + varint(offset) + b"\x28" + varint(len(content))
    return b"\x08\x01" + field(2, sizes) + place + b"\x35" + struct.pack("<I", masked(crc32c(content)))


def field(number, content):
    """Return a field of a protocol buffer that contains bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content
