"""Files of torch.save: read as torch reads them, or rejected; no code in them is ever run."""

import collections
import os
import pickle
import re
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import torchfile
from checkpoints.pickles import Opaque, Storage, Tensor, load_pickle
from checkpoints.torch_weights import named_tensors
from checkpoints.torchfile import TorchFile

FLOAT = Storage("torch.FloatStorage", "0", 12)


def pickled_tensor(size=12, offset=0, shape=(3, 4), strides=(4, 1), storage=b"FloatStorage", key="0"):
    """Return the pickle of one tensor as torch.save writes it: GLOBAL, a persistent id, REDUCE."""

    def number(n):
        return pickle.dumps(n, 2)[2:-1]

    def sizes(numbers):
        return b"(" + b"".join(map(number, numbers)) + b"t"

    tag = b"(" + number("storage") + b"ctorch\n" + storage + b"\n" + number(key) + number("cpu") + number(size) + b"tQ"
    arguments = b"(" + tag + number(offset) + sizes(shape) + sizes(strides) + b"\x89ccollections\nOrderedDict\n)Rt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."


def save(path, data, members=None, root="archive", compression=zipfile.ZIP_STORED):
    members = {"data/0": np.arange(12, dtype="<f4").tobytes()} if members is None else members
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {"data.pkl": data, **members}.items():
            archive.writestr(f"{root}/{name}", content)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ckpt.pt"


def read(path):
    with TorchFile(path) as file:
        return file.read(file.content) if isinstance(file.content, Tensor) else None


# ---- reading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        {"stoi": {"\n": 0, "é": 1}, "itos": {0: "\n", 1: "é"}, "vocab_size": 2},
        [1, -1, 255, 65536, 2**31, -(2**40), 0.1, float("inf"), True, False, None],
        [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, "", "x" * 300, [[[]]], {"a": {"b": ({},)}}],
        list(range(3000)),
        {i: str(i) for i in range(3000)},
    ],
)
def test_plain_data_is_unpickled_unchanged(value, protocol):
    assert load_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_ordered_dict_becomes_a_dict_without_attributes(protocol):
    ordered = collections.OrderedDict(a=1, b=2)
    ordered._metadata = {"": {"version": 1}}
    assert load_pickle(pickle.dumps(ordered, protocol)) == {"a": 1, "b": 2}


def test_a_shared_value_stays_shared():
    shared = [1]
    a, b = load_pickle(pickle.dumps([shared, shared]))
    assert a is b


def test_a_tensor_is_a_view_of_its_storage(path):
    save(path, pickled_tensor())
    with TorchFile(path) as file:
        assert file.content == Tensor(FLOAT, 0, (3, 4), (4, 1)) and file.content.dtype == "F32"
        np.testing.assert_array_equal(file.read(file.content), np.arange(12, dtype=np.float32).reshape(3, 4))
        np.testing.assert_array_equal(file.read(Tensor(FLOAT, 2, (2, 2), (1, 5))), [[2, 7], [3, 8]])
        assert file.read(Tensor(FLOAT, 11, (), ())) == 11
        assert file.read(Tensor(FLOAT, 0, (0, 4), (4, 1))).shape == (0, 4)


@pytest.mark.parametrize(
    ("storage", "kind"), [(b"HalfStorage", "<f2"), (b"DoubleStorage", "<f8"), (b"LongStorage", "<i8")]
)
def test_a_storage_is_read_with_its_own_type(path, storage, kind):
    save(path, pickled_tensor(storage=storage), {"data/0": np.arange(12, dtype=kind).tobytes()})
    np.testing.assert_array_equal(read(path), np.arange(12, dtype=kind).reshape(3, 4), strict=True)


# ---- code is not run -------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, open, getattr, pickle.loads, np.fromfile])
def test_a_pickle_that_calls_a_function_runs_nothing_and_the_error_names_the_function(tmp_path, function, protocol):
    marker = tmp_path / "marker"
    argument = f"touch {marker}" if function is os.system else str(marker)
    data = pickle.dumps({"model": Evil(function, argument)}, protocol)
    with pytest.raises(ValueError, match=function.__name__ if protocol >= 2 else "instruction|names"):
        load_pickle(data)
    save(tmp_path / "ckpt.pt", data)
    with pytest.raises(ValueError, match=r"ckpt\.pt cannot be read"):
        TorchFile(tmp_path / "ckpt.pt")
    assert not marker.exists()


def test_only_the_names_needed_for_tensors_are_admitted():
    for module, name in [("torch", "load"), ("torch", "FloatStorage.from_file"), ("torch._utils", "__builtins__")]:
        with pytest.raises(ValueError, match=f"names {module}.{name}"):
            load_pickle(f"\x80\x02c{module}\n{name}\n.".encode("latin-1"))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.",  # NEWOBJ
        b"\x80\x02R.",
        b"\x80\x02s.",
        b"\x80\x02t.",
        b"\x80\x02\x87.",
        b"\x80\x02h\x05.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x04\x93.",
        b"\x80\x02K\x01",
        b".",
        b"",
        b"\xff",
    ],
)
def test_an_invalid_program_is_an_error(data):
    with pytest.raises(ValueError, match=r"\w"):
        load_pickle(data)


# ---- the stream of torch before 1.6 ----------------------------------------------------------------------------

MAGIC = 0x1950A86A20F9469CFC6C


def save_stream(path, data, keys=("0",), storages=None, magic=MAGIC, version=1001):
    """Write a file as torch before 1.6 does: pickles of the magic number, the version, the machine, the data and the
    keys of the storages, then the storages, each after its count."""
    numbers = struct.pack("<q", 12) + np.arange(12, dtype="<f4").tobytes()
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(part, 2) for part in (magic, version, machine))
    path.write_bytes(head + data + pickle.dumps(list(keys), 2) + (numbers if storages is None else storages))
    return path


def in_stream(data):
    """Return the pickle of a tensor as the stream has it: a persistent id ends with a view, None."""
    return data.replace(b"tQ", b"NtQ")


def test_a_tensor_in_a_stream_is_read_from_its_storage(path):
    save_stream(path, in_stream(pickled_tensor()))
    np.testing.assert_array_equal(read(path), np.arange(12, dtype=np.float32).reshape(3, 4), strict=True)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, open, getattr, pickle.loads, np.fromfile])
@pytest.mark.parametrize("place", ["magic", "version", "data", "keys"])
def test_a_function_in_any_pickle_of_a_stream_is_not_called(tmp_path, path, function, protocol, place):
    marker = tmp_path / "marker"
    evil = Evil(function, f"touch {marker}" if function is os.system else str(marker))
    raw = {"magic": MAGIC, "version": 1001, "data": {}, "keys": []} | {place: evil}
    pickles = [raw["magic"], raw["version"], {}, raw["data"], raw["keys"]]
    path.write_bytes(b"".join(pickle.dumps(part, protocol if part is evil else 2) for part in pickles))
    with pytest.raises(ValueError, match=r"ckpt\.pt cannot be read"):
        TorchFile(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"magic": 5}, "it begins neither as a zip archive nor as the older form of torch.save"),
        ({"magic": MAGIC + 1}, "its magic number or its version is not that of torch.save"),
        ({"version": 1000}, "its magic number or its version"),
        ({"keys": (1,)}, "its list of storages is no list of names"),
        ({"storages": b""}, "storage 0 ends at byte"),
        ({"storages": struct.pack("<q", 2**62)}, "storage 0 ends at byte"),
        ({"storages": struct.pack("<q", -1) + bytes(48)}, "storage 0 ends at byte"),
        ({"storages": struct.pack("<q", 11) + bytes(48)}, "storage 0 is missing, of another type or too small"),
        ({"keys": ()}, "storage 0 is missing"),
    ],
)
def test_the_error_for_a_damaged_stream_gives_the_fault(path, changes, said):
    def load():
        read(save_stream(path, in_stream(pickled_tensor()), **changes))

    assert re.search(said, cheap_error(load))


# ---- errors allocate little ------------------------------------------------------------------------------------


def cheap_error(function):
    """Call a function that must raise ValueError and allocate at most 4 MiB; return the message."""
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"\w") as error:
        function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
    return str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # BYTEARRAY8
        b"\x80\x05\x8e" + struct.pack("<Q", 2**40) + b".",  # BINBYTES8
        b"\x80\x05\x8d" + struct.pack("<Q", 2**62) + b".",  # BINUNICODE8
        b"\x80\x02X" + struct.pack("<I", 2**31) + b".",  # BINUNICODE
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",  # LONG4
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"h\x00.",  # FRAME
        b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b"h\x00.",  # LONG_BINPUT far away
    ],
)
def test_a_pickle_that_claims_huge_sizes_is_a_cheap_error(data):
    cheap_error(lambda: load_pickle(data))


@pytest.mark.parametrize(
    "key",
    [
        b"}",  # {}
        b")",  # ()
        b")" + b"2\x86" * 1000,  # a tuple of 2**1000 elements, whose hash takes forever
        b")" + b"q\x00h\x00\x86" * 1000,
        b")" + b"\x85" * 50_000,  # whose hash overflows the stack
        b"\x8a\x08" + (2**61 - 1).to_bytes(8, "little"),  # with the hash 0
        b"J" + (2**24).to_bytes(4, "little"),
        b"J\xff\xff\xff\xff",  # -1
    ],
)
def test_a_key_that_is_no_name_or_number_is_left_out(key):
    assert load_pickle(b"\x80\x02}" + key + b"K\x01sX\x01\x00\x00\x00aK\x02s.") == {"a": 2}


def test_a_deeply_nested_pickle_causes_no_stack_overflow():
    assert load_pickle(b"\x80\x02)" + b"\x85" * 100_000 + b".") is not None


@pytest.mark.parametrize(
    "claim",
    [
        {"size": 2**40, "shape": (2**20, 2**20), "strides": (2**20, 1)},
        {"shape": (2**20, 2**20), "strides": (0, 0)},
        {"shape": (2**62, 4), "strides": (0, 0)},
        {"shape": (4, 4)},
        {"offset": 1},
        {"offset": 2**40},
        {"strides": (5, 1)},
        {"strides": (2**40, 1)},
        {"shape": (-3, 4)},
        {"strides": (-4, 1)},
        {"offset": -1},
        {"shape": (3,)},
        {"shape": (1,) * 70, "strides": (1,) * 70},
        {"shape": (3.0, 4)},
        {"shape": (True, 4)},
        {"size": 13},
        {"size": 11},
        {"storage": b"DoubleStorage"},
        {"storage": b"HalfStorage"},
        {"key": "1"},
        {"key": "../../data.pkl"},
    ],
)
def test_a_tensor_beyond_its_storage_is_a_cheap_error(path, claim):
    save(path, pickled_tensor(**claim))
    assert "ckpt.pt" in cheap_error(lambda: read(path))


@pytest.mark.parametrize("claim", [{"size": -12}, {"storage": b"QInt8Storage"}, {"key": 0}])
def test_a_tensor_of_a_storage_that_is_not_read_is_an_error_only_if_it_is_a_weight(path, claim):
    save(path, b"\x80\x02}X\x01\x00\x00\x00a" + pickled_tensor(**claim)[2:-1] + b"s.")
    with TorchFile(path) as file:
        assert isinstance(file.content["a"], Opaque)
        assert list(named_tensors(file, {"score.weight": file.content["a"]})) == []
        with pytest.raises(ValueError, match=r"ckpt\.pt: a is of the type .*; it must be a tensor of torch's number"):
            list(named_tensors(file, file.content))


def test_a_compressed_archive_is_a_cheap_error(path):
    huge = pickled_tensor(size=2**24, shape=(2**12, 2**12), strides=(2**12, 1))
    save(path, huge, {"data/0": bytes(2**26)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**18
    cheap_error(lambda: read(path))
    with zipfile.ZipFile(path, "w") as archive:  # the numbers are compressed, data.pkl is not
        archive.writestr("archive/data.pkl", huge)
        archive.writestr("archive/data/0", bytes(2**26), zipfile.ZIP_DEFLATED)
    cheap_error(lambda: read(path))
    save(path, bytes(2**23), {}, compression=zipfile.ZIP_DEFLATED)
    cheap_error(lambda: read(path))


def test_a_false_size_in_the_archive_s_directory_is_a_cheap_error(path):
    raw = save(path, pickled_tensor(size=2**29, shape=(2**14, 2**15), strides=(2**15, 1))).read_bytes()
    assert raw.count(struct.pack("<II", 48, 48)) == 2
    path.write_bytes(raw.replace(struct.pack("<II", 48, 48), struct.pack("<II", 2**31, 2**31)))
    assert "data/0 has 2,147,483,648 bytes" in cheap_error(lambda: read(path))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x02}(K\x01u.", "a key without a value"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "numbers its values with gaps"),
        (b"L" + b"9" * 5000 + b"L\n.", "its pickle is damaged or cut off, ValueError"),
        (b"S'\\q\n.", "its pickle is damaged or cut off, ValueError"),
        (b"c\x1b[31m\nx\n.", r"names \\x1b\[31m\.x, which"),
    ],
)
def test_the_error_for_an_invalid_pickle_is_in_our_own_words_and_without_a_warning(data, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=said) as error:
            load_pickle(data)
    assert len(str(error.value)) < 200 and str(error.value).isprintable()


def test_an_archive_whose_list_of_members_is_over_the_limit_is_an_error_with_both_numbers(path, monkeypatch):
    monkeypatch.setattr(torchfile.DirectoryReader, "limit", 1000)
    save(path, pickled_tensor(), {f"more/{i}": b"" for i in range(30)})
    with pytest.raises(ValueError, match=r"its list of members has \d,\d+ bytes, more than 1,000"):
        TorchFile(path)


def test_the_names_of_foreign_members_are_escaped(path):
    save(path, pickled_tensor(key="\x1b[31m\n"))
    with pytest.raises(ValueError, match="cannot be read") as error:
        read(path)
    assert str(error.value).isprintable()


# ---- damage ----------------------------------------------------------------------------------------------------


def test_the_error_for_another_kind_of_file_gives_a_remedy(path):
    for content in (b"", b"PK", b"\x80\x02}.", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"ckpt\.pt cannot be read .*: copy it again, or save the weights"):
            TorchFile(path)


def test_an_archive_without_exactly_one_pickle_or_with_big_endian_numbers_is_an_error(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", b"")
    with pytest.raises(ValueError, match=r"no data\.pkl"):
        TorchFile(path)
    save(path, pickled_tensor(), {"more/data.pkl": b""})
    with pytest.raises(ValueError, match=r"no data\.pkl, or several"):
        TorchFile(path)
    save(path, pickled_tensor(), {"byteorder": b"big"})
    with pytest.raises(ValueError, match="big-endian"):
        TorchFile(path)


def test_a_changed_number_fails_the_checksum(path):
    save(path, pickled_tensor())
    path.write_bytes(path.read_bytes().replace(np.float32(7).tobytes(), np.float32(8).tobytes()))
    with pytest.raises(ValueError, match="CRC"):
        read(path)


def test_a_file_cut_off_anywhere_is_an_error(path):
    raw = save(path, pickled_tensor()).read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match=r"ckpt\.pt cannot be read"):
            read(path)


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_random_damage_raises_value_error_or_nothing(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    raw = bytearray(save(path, pickled_tensor()).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        read(path)
    except ValueError as error:
        assert "damaged.pt" in str(error)


OPCODES = [b"}", b"]", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"R", b"b", b"Q", b"N"]
OPCODES += [b"K\x01", b"\x88", b"q\x00", b"h\x00", b"\x94", b"X\x01\x00\x00\x00a", b"\x8c\x01b", b"\x93", b"2", b"0"]
OPCODES += [b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"."]


@given(st.lists(st.sampled_from(OPCODES), max_size=40) | st.binary(max_size=60).map(lambda raw: [raw]))
@settings(derandomize=True, deadline=None, max_examples=1000)
def test_a_random_program_gives_a_value_or_a_value_error(program):
    try:
        load_pickle(b"\x80\x04" + b"".join(program) + b".")
    except ValueError as error:
        assert str(error)


def test_a_pickle_over_the_size_limit_is_an_error(path, monkeypatch):
    monkeypatch.setattr(torchfile, "LARGEST_PICKLE", 100)
    save(path, pickle.dumps("x" * 100))
    with pytest.raises(ValueError, match=r"data\.pkl has \d+ bytes"):
        TorchFile(path)
