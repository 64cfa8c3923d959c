"""The index of a TensorFlow checkpoint: OpenAI's own files, TensorFlow's reading of them, and damage of every kind.

tests/official has the indexes that OpenAI published.
"""

import math
import shutil
import struct
import tracemalloc

import pytest
from conftest import requires
from hypothesis import given, settings
from hypothesis import strategies as st
from index_builder import index_of, resealed, sealed, varint
from model_folders import ROOT

from checkpoints import openai
from checkpoints.files import CheckpointError
from checkpoints.tensor_index import (
    Damaged,
    Entry,
    Index,
    Unsupported,
    crc32c,
    masked,
    read_index,
    read_varint,
)
from checkpoints.tensors import in_checkpoint, tensor_shapes

SIZES = {"124M": (12, 768, 497_759_232), "355M": (24, 1024, 1_419_292_672), "1558M": (48, 1600, 6_230_444_800)}
OFFICIAL = {name: (ROOT / "tests" / "official" / f"{name}.index").read_bytes() for name in SIZES}
INDEX = OFFICIAL["124M"]


@pytest.mark.parametrize("name", SIZES)
def test_an_official_index_has_the_tensors_of_its_size_without_gaps_and_aligned(name):
    n_layer, n_embd, n_bytes = SIZES[name]
    index = read_index(OFFICIAL[name])
    shapes = tensor_shapes({"n_vocab": 50257, "n_ctx": 1024, "n_embd": n_embd, "n_layer": n_layer})
    found = {tensor: (entry.dtype, entry.shape) for tensor, entry in index.entries.items()}
    assert found == in_checkpoint(shapes)
    assert index.n_shards == 1
    end = 0
    for entry in index.entries.values():
        assert entry.offset == end and entry.offset % 64 == 0
        assert entry.size == 4 * math.prod(entry.shape)
        end += entry.size
    assert end == n_bytes


@pytest.mark.parametrize("name", SIZES)
def test_tensorflow_reads_the_same_names_and_shapes(tmp_path, name):
    tf = requires("tensorflow")
    shutil.copyfile(ROOT / "tests" / "official" / f"{name}.index", tmp_path / "model.ckpt.index")
    expected = {tensor: tuple(shape) for tensor, shape in tf.train.list_variables(str(tmp_path / "model.ckpt"))}
    assert {tensor: entry.shape for tensor, entry in read_index(OFFICIAL[name]).entries.items()} == expected


def test_a_checksum_is_masked_as_leveldb_does():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert masked(0) == 0xA282EAD8
    assert masked(0x00018003) == (0x00060003 + 0xA282EAD8) & 0xFFFFFFFF  # rotated to the right by 15 bits
    assert crc32c(b"789", crc32c(b"123456")) == crc32c(b"123456789")


# ---- damage ----------------------------------------------------------------------------------------------------


def cheap(function):
    """Call a function and return its result; it may allocate little."""
    tracemalloc.start()
    try:
        return function()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20


@pytest.mark.parametrize("n", [0, 1, 47, 48, 100, 5214])
def test_a_truncated_index_is_an_error(n):
    with pytest.raises(Damaged):
        cheap(lambda: read_index(INDEX[:n]))


@pytest.mark.parametrize("position", range(0, len(INDEX), 97))
def test_a_wrong_bit_is_an_error_or_without_effect(position):
    content = bytearray(INDEX)
    content[position] ^= 1 << (position % 8)
    try:
        found = cheap(lambda: read_index(bytes(content)))
    except (Damaged, Unsupported):
        return
    assert found == read_index(INDEX)  # the padding of the footer


HEADER = (b"", b"\x08\x01\x1a\x02\x08\x01")
TENSOR = b"\x08\x01\x12\x04\x12\x02\x08\x08\x28\x20\x35\x00\x00\x00\x00"  # float32 [8], 32 bytes


def test_a_made_index_is_read():
    found = read_index(index_of([HEADER, (b"model/ln_f/b", TENSOR)]))
    assert found == Index(1, {"model/ln_f/b": Entry("float32", (8,), 0, 0, 32, 0, False)})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (index_of([]), "no header"),
        (index_of([(b"a", TENSOR)]), "no header"),
        (index_of([HEADER, (b"a", TENSOR), (b"a", TENSOR)]), "two tensors of the same name"),
        (index_of([HEADER, (b"\xff", TENSOR)]), "not UTF-8"),
        (index_of([HEADER, (b"a", b"\x12")]), "does not end"),
        (index_of([HEADER, (b"a", b"\x12\x7f")]), "ends behind its entry"),
        (index_of([HEADER, (b"a", b"\x0b")]), "field of unknown type"),
        (index_of([HEADER, (b"a", b"\x10\x01")]), "field of a wrong type"),
        (index_of([HEADER, (b"a", b"\x12\x02\x10\x01")]), "shape has a field of a wrong type"),
        (index_of([HEADER, (b"a", b"\x12\x0d\x12\x0b\x08" + b"\xff" * 9 + b"\x01")]), "negative size"),
        (index_of([(b"", b"\x08" + b"\xff" * 8 + b"\x01")]), "data files"),
        (index_of([(b"", b"\x08\x00")]), "0 data files"),
        (index_of([], sealed(struct.pack("<I", 2**32 - 1))), "wrong length"),
        (index_of([], sealed(b"\x05\x01\x01ab" + struct.pack("<II", 0, 1))), "wrong length"),
        (index_of([], sealed(b"\0" + b"\xff" * 12 + struct.pack("<II", 0, 1))), "does not end"),
        (INDEX[:-48] + varint(0) * 2 + varint(2**60) + varint(2**60) + bytes(20) + INDEX[-8:], "outside the file"),
        (INDEX[:-48] + varint(0) * 4 + bytes(36) + INDEX[-8:], "outside the file"),
        (bytes(40) + INDEX[-8:], "outside the file"),
    ],
)
def test_a_damaged_index_is_a_cheap_error_that_gives_the_fault(content, said):
    with pytest.raises(Damaged, match=said):
        cheap(lambda: read_index(content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (index_of([], sealed(b"\0" * 8, b"\1")), "a compressed index"),
        (index_of([(b"", b"\x08\x01\x10\x01")]), "big-endian numbers"),
    ],
)
def test_what_only_tensorflow_reads_is_named(content, said):
    with pytest.raises(Unsupported, match=said):
        read_index(content)


def test_a_number_of_more_than_ten_bytes_is_an_error():
    with pytest.raises(Damaged):
        read_varint(b"\xff" * 100, 0)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_random_damage_under_valid_checksums_raises_one_kind_of_error(data):
    content = bytearray(INDEX)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        cheap(lambda: read_index(resealed(bytes(content), INDEX)))
    except (Damaged, Unsupported) as error:
        assert str(error).isprintable() and len(str(error)) < 100


# ---- places ----------------------------------------------------------------------------------------------------


def entry(offset, size=32, shape=(8,), shard=0):
    return Entry("float32", shape, shard, offset, size, 0, False)


@pytest.mark.parametrize(
    ("entries", "n_shards"),
    [
        ({"a": entry(0), "b": entry(31)}, 1),
        ({"a": entry(0), "b": entry(0)}, 1),
        ({"a": entry(0, size=31)}, 1),
        ({"a": entry(0, shape=(2**62, 4), size=0)}, 1),
        ({"a": entry(0, shard=1)}, 1),
    ],
)
def test_tensors_in_impossible_places_are_an_error(entries, n_shards):
    with pytest.raises(Damaged):
        openai.check_places(entries, n_shards)


def test_tensors_in_the_same_place_of_two_files_are_valid():
    openai.check_places({"a": entry(0), "b": entry(0, shard=1)}, 2)


def test_a_tensor_behind_the_end_of_the_data_is_an_error_with_both_numbers(tmp_path):
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(bytes(40))
    with pytest.raises(CheckpointError, match=r"has 40 bytes but its tensors need 1,099,511,627,808"):
        openai.map_data(tmp_path / "model.ckpt", 1, {"a": entry(2**40)})


def test_a_tensor_at_an_odd_address_is_copied(tmp_path):
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    path.write_bytes(b"x" + struct.pack("<8f", *range(8)))
    odd = entry(1)
    array = openai.as_array(openai.map_data(tmp_path / "model.ckpt", 1, {"a": odd}), odd, (8,))
    assert array.flags.aligned and array.tolist() == list(range(8))


def test_data_in_several_files_are_mapped(tmp_path):
    entries = {"a": entry(0), "b": entry(4, shard=1)}
    for shard in (0, 1):
        path = tmp_path / f"model.ckpt.data-0000{shard}-of-00002"
        path.write_bytes(struct.pack("<9f", *range(shard, 9 + shard)))
    data = openai.map_data(tmp_path / "model.ckpt", 2, entries)
    assert openai.as_array(data, entries["a"], (8,))[0] == 0
    assert openai.as_array(data, entries["b"], (8,))[0] == 2
