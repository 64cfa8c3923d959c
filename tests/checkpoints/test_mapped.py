"""safetensors files: written, mapped without a copy, checked. The models are converted TensorFlow checkpoints."""

import json
import mmap
import os
import shutil
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import tiny_tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folders import (
    assert_weights,
    change_hparams,
    change_tensors,
    convert,
    files_in,
    flat,
    load_weights,
    remove_checkpoint,
    roots_of,
    run_python,
)
from safetensors.numpy import load_file, save_file

from checkpoints import files, mapped
from utils import CheckpointError

# ---- write -----------------------------------------------------------------------------------------------------


def test_the_safetensors_library_reads_the_written_file_with_hugging_face_s_names(tiny_checkpoint):
    convert(tiny_checkpoint)
    copy = load_file(tiny_checkpoint / "model.safetensors")
    tensors = tiny_tensors(seed=1)
    assert len(copy) == len(tensors) == 28
    np.testing.assert_array_equal(copy["wte.weight"], tensors["model/wte"])
    np.testing.assert_array_equal(copy["wpe.weight"], tensors["model/wpe"])
    np.testing.assert_array_equal(copy["h.1.ln_2.weight"], tensors["model/h1/ln_2/g"])
    np.testing.assert_array_equal(copy["h.1.ln_2.bias"], tensors["model/h1/ln_2/b"])
    np.testing.assert_array_equal(copy["h.0.attn.c_attn.weight"], tensors["model/h0/attn/c_attn/w"][0])
    np.testing.assert_array_equal(copy["h.0.mlp.c_proj.bias"], tensors["model/h0/mlp/c_proj/b"])
    np.testing.assert_array_equal(copy["ln_f.weight"], tensors["model/ln_f/g"])


def test_the_tensors_start_at_a_multiple_of_64_bytes_and_the_header_says_pt(tiny_checkpoint):
    convert(tiny_checkpoint)
    raw = (tiny_checkpoint / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert (8 + length) % 64 == 0
    assert json.loads(raw[8 : 8 + length])["__metadata__"]["format"] == "pt"


# ---- map -------------------------------------------------------------------------------------------------------


def test_the_arrays_are_plain_read_only_float32_views_of_one_mapping(tiny_checkpoint):
    weights = flat(load_weights(tiny_checkpoint)).values()
    for array in weights:
        assert type(array) is np.ndarray and array.dtype == np.float32
        assert array.flags.c_contiguous and array.flags.aligned
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    roots = roots_of(weights)
    assert len(roots) == 1 and isinstance(roots.pop(), mmap.mmap)


def test_mapping_copies_nothing_and_needs_no_tensorflow(tiny_checkpoint, save_checkpoint, monkeypatch):
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=1, n_ctx=2**20))  # 32 MB
    change_hparams(tiny_checkpoint, n_ctx=2**20)
    convert(tiny_checkpoint)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    tracemalloc.start()
    params = load_weights(tiny_checkpoint)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert params["wpe"].nbytes == 2**25
    assert peak < 2**21


def test_weights_outlive_the_deletion_of_their_folder(tiny_checkpoint):
    params = load_weights(tiny_checkpoint)
    shutil.rmtree(tiny_checkpoint)
    assert_weights(params)


def test_tensors_are_found_in_any_order(tiny_checkpoint):
    convert(tiny_checkpoint)
    remove_checkpoint(tiny_checkpoint)
    copy = tiny_checkpoint / "model.safetensors"
    save_file(load_file(copy), copy)  # the library sorts them by name
    assert next(iter(mapped.read_header(copy)[0])) != "wte.weight"
    assert_weights(load_weights(tiny_checkpoint))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("h.0.ln_1.bias", lambda a: a[:7].copy(), r"h\.0\.ln_1\.bias: expected F32 \[8\], found F32 \[7\]"),
        ("wte.weight", lambda a: a.astype(np.float16), r"wte\.weight: expected F32 \[260, 8\], found F16 \[260, 8\]"),
        ("wpe.weight", lambda a: a.reshape(8, 16), r"wpe\.weight: expected F32 \[16, 8\], found F32 \[8, 16\]"),
        ("ln_f.bias", lambda a: None, r"ln_f\.bias: expected F32 \[8\], found nothing"),
    ],
)
def test_the_error_for_a_wrong_tensor_says_what_was_expected_and_found(tiny_checkpoint, name, change, message):
    convert(tiny_checkpoint)
    remove_checkpoint(tiny_checkpoint)
    tensors = load_file(tiny_checkpoint / "model.safetensors")
    if (changed := change(tensors.pop(name))) is not None:
        tensors[name] = changed
    save_file(tensors, tiny_checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_weights(tiny_checkpoint)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_raises_checkpoint_error_or_gives_arrays_of_the_right_shapes(tiny_checkpoint, data):
    copy = tiny_checkpoint / "model.safetensors"
    if not copy.exists():
        convert(tiny_checkpoint)
        remove_checkpoint(tiny_checkpoint)
        (tiny_checkpoint / "whole").write_bytes(copy.read_bytes())
    raw = bytearray((tiny_checkpoint / "whole").read_bytes())
    header_end = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    copy.write_bytes(raw[: data.draw(st.one_of(st.none(), st.integers(0, len(raw))))])
    try:
        params = load_weights(tiny_checkpoint)
    except CheckpointError as error:
        assert "model.safetensors" in str(error)
    else:
        assert {k: v.shape for k, v in flat(params).items()} == {k: v.shape for k, v in tiny_tensors(seed=1).items()}


# ---- a folder that is not writable -----------------------------------------------------------------------------


def refuse_to_write(monkeypatch, name, folder):
    """Let files.<name> fail as on a read-only file system, in that folder only."""
    original = getattr(files, name)

    def refuse(path):
        if folder in (path, path.parent):
            raise OSError(30, "Read-only file system", str(path))
        return original(path)

    monkeypatch.setattr(files, name, refuse)


@pytest.mark.parametrize("name", ["locked", "replacing"])
def test_a_model_in_a_read_only_folder_is_converted_for_this_run(
    tiny_checkpoint, save_checkpoint, tmp_path, monkeypatch, name
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    save_checkpoint(tiny_checkpoint, {name: array.astype("f8") for name, array in tiny_tensors(seed=1).items()})
    before = files_in(tiny_checkpoint)
    refuse_to_write(monkeypatch, name, tiny_checkpoint)
    params = load_weights(tiny_checkpoint)
    assert files_in(tiny_checkpoint) == before
    assert os.name == "nt" or not files_in(scratch)  # Windows cannot delete a mapped file
    assert_weights(params)
    assert not params["wte"].flags.writeable


def test_the_error_without_any_writable_folder_names_both(tiny_checkpoint, monkeypatch):
    def refuse(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "replacing", refuse)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda prefix: refuse(prefix))
    with pytest.raises(CheckpointError, match="No space left on device") as error:
        convert(tiny_checkpoint)
    assert str(tiny_checkpoint) in str(error.value) and "TMPDIR" in str(error.value)


@pytest.mark.skipif(os.name == "nt", reason="a file without a name exists on POSIX only")
def test_a_killed_conversion_leaves_nothing_in_the_temporary_folder(tiny_checkpoint, tmp_path):
    (tmp_path / "scratch").mkdir()
    code = (
        "import os, pathlib\n"
        "from checkpoints import files, mapped\n"
        "def convert(file):\n"
        "    file.write(bytes(100_000)); file.flush(); print(os.listdir(os.environ['TMPDIR']))\n"
        "    os.kill(os.getpid(), 9)\n"
        "def refuse(path): raise OSError(30, 'Read-only file system')\n"
        "files.locked = refuse\n"
        f"mapped.convert_once(pathlib.Path({str(tiny_checkpoint)!r}, 'x'), {{'wte': (1, 1)}}, lambda: False, convert)"
    )
    exit_code, _, _ = run_python(code, TMPDIR=str(tmp_path / "scratch"))
    assert exit_code == -9 and files_in(tmp_path / "scratch") == set()


# ---- limits ----------------------------------------------------------------------------------------------------


def test_a_header_over_the_limit_is_an_error_with_both_numbers(tiny_checkpoint):
    (tiny_checkpoint / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + bytes(100))
    with pytest.raises(
        CheckpointError, match=r"its header has 1,099,511,627,776 bytes; a GPT-2's has at most 8,388,608"
    ):
        mapped.read_header(tiny_checkpoint / "model.safetensors")


def test_a_file_that_cannot_be_mapped_for_lack_of_memory_is_an_error_with_its_size(tiny_checkpoint, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError("Cannot allocate memory (os error 12)")

    (tiny_checkpoint / "x").write_bytes(bytes(100))
    monkeypatch.setattr("safetensors.safe_open", refuse)
    with pytest.raises(CheckpointError, match="x has 100 bytes, more than this process can map into memory: allow it"):
        mapped.read_header(tiny_checkpoint / "x")


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**62, 4]])
def test_an_empty_tensor_of_impossible_shape_is_an_error(tmp_path, shape):
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"x .*(impossible shape|damaged)"), open(tmp_path / "x", "rb") as file:
        mapped.map_file(file, mapped.read_header(tmp_path / "x")[0])


def test_the_names_of_foreign_tensors_are_shortened_and_escaped(tiny_checkpoint):
    convert(tiny_checkpoint)
    remove_checkpoint(tiny_checkpoint)
    change_tensors(tiny_checkpoint, lambda t: t | {"\x1b[31m\nError: forged" + "x" * 10_000: np.zeros(1, np.float32)})
    with pytest.raises(CheckpointError, match="does not fit") as error:
        convert(tiny_checkpoint)
    assert len(str(error.value)) < 1000 and str(error.value).isprintable()
