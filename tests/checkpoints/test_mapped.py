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
from model_folders import assert_weights, change_hparams, files_in, flat, load_weights, remove_checkpoint, roots_of
from safetensors.numpy import load_file, save_file

from checkpoints import files, mapped
from utils import CheckpointError

# ---- write -----------------------------------------------------------------------------------------------------


def test_the_safetensors_library_reads_the_written_file_with_hugging_face_s_names(tiny_checkpoint):
    load_weights(tiny_checkpoint)
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
    load_weights(tiny_checkpoint)
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
    load_weights(tiny_checkpoint)
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
    load_weights(tiny_checkpoint)
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
    load_weights(tiny_checkpoint)
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
        load_weights(tiny_checkpoint)
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
def test_a_model_in_a_read_only_folder_is_converted_for_this_run(tiny_checkpoint, tmp_path, monkeypatch, name):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
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
        load_weights(tiny_checkpoint)
    assert str(tiny_checkpoint) in str(error.value) and "TMPDIR" in str(error.value)
