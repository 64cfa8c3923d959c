"""Finding, converting, mapping and checking a model. Downloads are in test_download.py."""

import importlib
import json
import math
import mmap
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_HPARAMS, four_at_once, tiny_tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from checkpoints import download, files, mapped, openai, tensors
from utils import CheckpointError, find_model, load_encoder_hparams_and_params

ROOT = Path(__file__).parents[2]
SIZES = {
    "124M": ({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}, 148, 124_439_808),
    "355M": ({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1024, "n_head": 16, "n_layer": 24}, 292, 354_823_168),
    "774M": ({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1280, "n_head": 20, "n_layer": 36}, 436, 774_030_080),
    "1558M": ({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1600, "n_head": 25, "n_layer": 48}, 580, 1_557_611_200),
}


def load(folder):
    """Load the weights of a folder of models/."""
    return load_encoder_hparams_and_params(folder.name, folder.parent)[2]


def flat(params, n_layer=2):
    """The weights tree as {official name: array}, kernels [1, in, out]: the inverse of loading, spelled out here."""
    tensors = {"model/wte": params["wte"], "model/wpe": params["wpe"]}
    tensors |= {f"model/ln_f/{leaf}": params["ln_f"][leaf] for leaf in "gb"}
    for i in range(n_layer):
        block = params["blocks"][i]
        for norm in ("ln_1", "ln_2"):
            tensors |= {f"model/h{i}/{norm}/{leaf}": block[norm][leaf] for leaf in "gb"}
        for part, linear in (("attn", "c_attn"), ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj")):
            tensors[f"model/h{i}/{part}/{linear}/w"] = block[part][linear]["w"][np.newaxis]
            tensors[f"model/h{i}/{part}/{linear}/b"] = block[part][linear]["b"]
    return tensors


def assert_weights(params, seed=1, **sizes):
    expected, found = tiny_tensors(seed, **sizes), flat(params, sizes.get("n_layer", 2))
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name, strict=True)


def change_hparams(folder, **changes):
    hparams = json.loads((folder / "hparams.json").read_text(encoding="utf-8")) | changes
    (folder / "hparams.json").write_text(json.dumps(hparams), encoding="utf-8")


def remove_checkpoint(folder):
    for path in (folder / "checkpoint", *folder.glob("model.ckpt.*")):
        path.unlink()


def files_in(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def data_of(folder):
    return folder / "model.ckpt.data-00000-of-00001"


def run_python(code, **environment):
    """Run code in a new process, in the repository; return (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


# ---- find ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        *((size, size) for size in SIZES),
        ("gpt2", "124M"),
        ("gpt2-medium", "355M"),
        ("gpt2-large", "774M"),
        ("gpt2-xl", "1558M"),
        ("117M", "124M"),
        ("345M", "355M"),
    ],
)
def test_a_size_and_each_of_its_names_are_one_folder_which_need_not_exist(tmp_path, name, folder):
    assert find_model(name, tmp_path / "models") == tmp_path / "models" / folder
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["mine", "mine/", "gpt2", "117M"])
def test_a_folder_in_models_dir_goes_before_everything(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("models", name).mkdir(parents=True)
    Path(name).mkdir()
    assert find_model(name, "models") == Path("models", name)


def test_a_path_is_a_model_too_relative_absolute_with_tilde_and_with_variables(tmp_path, monkeypatch):
    (tmp_path / "some where" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("PLACE", "some where")
    expected = tmp_path / "some where" / "mine"
    assert find_model(expected, "models") == expected
    assert find_model("~/$PLACE/mine", "models") == expected
    assert find_model("some where/mine", "models").resolve() == expected
    assert find_model("./some where/mine/", "models").resolve() == expected
    assert find_model("mine", "~/${PLACE}") == expected
    assert find_model("124M", "~/$PLACE") == tmp_path / "some where" / "124M"


def test_an_unknown_name_is_refused_with_the_sizes_the_folders_and_the_nearest(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="'tinny'") as error:
        find_model("tinny", tmp_path)
    message = str(error.value)
    assert all(size in message for size in SIZES)
    assert "mine, tiny" in message and "did you mean tiny?" in message
    assert "file" not in message
    with pytest.raises(ValueError, match="did you mean gpt2-medium"):
        find_model("gpt2-mediun", tmp_path)
    with pytest.raises(ValueError, match="none found"):
        find_model("124m", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["", " ", "no/such", "124", 124, 124.5, None, True, "x" * 5000, "a\0b", "~nobody-here"]
)
def test_what_is_no_model_is_refused_by_value_error(tmp_path, name):
    with pytest.raises(ValueError, match="there is no model"):
        find_model(name, tmp_path)


def test_a_file_is_no_model_and_no_models_dir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="there is no model"):
        find_model(tmp_path / "file", tmp_path)
    with pytest.raises(ValueError, match=r"models_dir is .*file"):
        find_model("124M", tmp_path / "file")


def test_importing_utils_is_cheap():
    code = (
        "import sys, utils; print([m for m in ('tensorflow', 'requests', 'safetensors', 'tqdm') if m in sys.modules])"
    )
    assert run_python(code) == (0, "[]\n", "")


# ---- load ------------------------------------------------------------------------------------------------------


def test_the_weights_are_those_of_the_checkpoint_the_first_time_and_the_second(tiny_checkpoint):
    encoder, hparams, params = load_encoder_hparams_and_params("tiny-random", str(tiny_checkpoint.parent))
    assert hparams == TINY_HPARAMS
    assert encoder.decode(encoder.encode("the end")) == "the end"
    assert set(params) == {"wte", "wpe", "blocks", "ln_f"}
    assert params["blocks"][1]["mlp"]["c_fc"]["w"].shape == (8, 32)
    assert_weights(params)
    assert_weights(load(tiny_checkpoint))


def test_a_path_loads_as_a_name_does(tiny_checkpoint):
    assert_weights(load_encoder_hparams_and_params(tiny_checkpoint, "nowhere")[2])


def test_only_the_axis_of_the_convolution_is_dropped(tiny_checkpoint, save_checkpoint):
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=1, n_embd=1, n_layer=1))
    change_hparams(tiny_checkpoint, n_embd=1, n_head=1, n_layer=1)
    params = load(tiny_checkpoint)
    assert params["wte"].shape == (260, 1)
    assert params["blocks"][0]["attn"]["c_attn"]["w"].shape == (1, 3)
    assert params["blocks"][0]["attn"]["c_proj"]["w"].shape == (1, 1)
    assert_weights(params, n_embd=1, n_layer=1)


def test_the_arrays_are_plain_float32_read_only_views_of_one_mapping(tiny_checkpoint):
    roots = set()
    for array in flat(load(tiny_checkpoint)).values():
        assert type(array) is np.ndarray and array.dtype == np.float32
        assert array.flags.c_contiguous and array.flags.aligned
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        while isinstance(array, np.ndarray):
            array = array.base
        roots.add(array)
    assert len(roots) == 1 and isinstance(roots.pop(), mmap.mmap)


def test_loading_what_is_converted_copies_nothing_and_needs_no_tensorflow(
    tiny_checkpoint, save_checkpoint, monkeypatch
):
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=1, n_ctx=2**20))  # 32 MB
    change_hparams(tiny_checkpoint, n_ctx=2**20)
    load(tiny_checkpoint)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    tracemalloc.start()
    params = load(tiny_checkpoint)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert params["wpe"].nbytes == 2**25
    assert peak < 2**21


def test_weights_outlive_the_deletion_of_their_folder(tiny_checkpoint):
    params = load(tiny_checkpoint)
    shutil.rmtree(tiny_checkpoint)
    assert_weights(params)


# ---- the saved copy --------------------------------------------------------------------------------------------


def test_the_saved_copy_is_what_the_safetensors_library_reads_in_hugging_face_naming(tiny_checkpoint):
    load(tiny_checkpoint)
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


def test_the_tensors_begin_at_a_multiple_of_64_bytes_and_the_header_says_pt(tiny_checkpoint):
    load(tiny_checkpoint)
    raw = (tiny_checkpoint / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert (8 + length) % 64 == 0
    assert json.loads(raw[8 : 8 + length])["__metadata__"]["format"] == "pt"


def test_converting_leaves_the_copy_beside_the_checkpoint_and_nothing_else(tiny_checkpoint):
    before = files_in(tiny_checkpoint)
    load(tiny_checkpoint)
    assert files_in(tiny_checkpoint) == before | {"model.safetensors"}


def test_the_copy_can_be_read_by_whoever_may_read_a_new_file(tiny_checkpoint):
    load(tiny_checkpoint)
    (tiny_checkpoint / "other").touch()
    assert (tiny_checkpoint / "model.safetensors").stat().st_mode == (tiny_checkpoint / "other").stat().st_mode


def test_a_folder_with_the_copy_alone_is_a_model(tiny_checkpoint, monkeypatch):
    load(tiny_checkpoint)
    remove_checkpoint(tiny_checkpoint)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert_weights(load(tiny_checkpoint))


def test_a_copy_whose_checkpoint_was_replaced_is_made_again(tiny_checkpoint, save_checkpoint):
    load(tiny_checkpoint)
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=2))
    assert_weights(load(tiny_checkpoint), seed=2)


def test_a_copy_is_not_made_again_because_of_new_dates(tiny_checkpoint, monkeypatch):
    load(tiny_checkpoint)
    for path in tiny_checkpoint.iterdir():
        os.utime(path, (2e9, 2e9))
    monkeypatch.setattr(openai, "convert", None)
    assert_weights(load(tiny_checkpoint))


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:5],
        lambda raw: raw[:100],
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: b"\xff" * 8 + raw[8:],
        lambda raw: raw[:8] + b"[" + raw[9:],
        lambda raw: raw.replace(b"F32", b"F64", 1),
        lambda raw: raw.replace(b"[0, ", b"[4, ", 1),
        lambda raw: b"<html>not found</html>",
    ],
)
def test_a_damaged_copy_is_made_again_or_named_where_there_is_no_checkpoint(tiny_checkpoint, damage):
    load(tiny_checkpoint)
    copy = tiny_checkpoint / "model.safetensors"
    damaged = damage(copy.read_bytes())
    copy.write_bytes(damaged)
    assert_weights(load(tiny_checkpoint))

    copy.write_bytes(damaged)
    remove_checkpoint(tiny_checkpoint)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load(tiny_checkpoint)


def test_a_copy_with_a_wrong_letter_in_a_name_is_made_again(tiny_checkpoint):
    load(tiny_checkpoint)
    copy = tiny_checkpoint / "model.safetensors"
    copy.write_bytes(copy.read_bytes().replace(b"wte.weight", b"wte.weighs"))
    assert_weights(load(tiny_checkpoint))


def test_a_safetensors_file_made_elsewhere_is_used_and_never_replaced(tiny_checkpoint):
    load(tiny_checkpoint)
    copy = tiny_checkpoint / "model.safetensors"
    tensors = load_file(copy)
    save_file(tensors | {"wpe.weight": tensors["wpe.weight"] + 1}, copy)
    theirs = copy.read_bytes()
    np.testing.assert_array_equal(load(tiny_checkpoint)["wpe"], tiny_tensors(seed=1)["model/wpe"] + 1)
    save_file(tensors | {"h.0.attn.masked_bias": tensors["wpe.weight"]}, copy)
    with pytest.raises(CheckpointError, match=r"h\.0\.attn\.masked_bias: expected nothing, found F32 \[16, 8\]"):
        load(tiny_checkpoint)
    assert len(copy.read_bytes()) > len(theirs)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("h.0.ln_1.bias", lambda a: a[:7].copy(), r"h\.0\.ln_1\.bias: expected F32 \[8\], found F32 \[7\]"),
        ("wte.weight", lambda a: a.astype(np.float16), r"wte\.weight: expected F32 \[260, 8\], found F16 \[260, 8\]"),
        ("wpe.weight", lambda a: a.reshape(8, 16), r"wpe\.weight: expected F32 \[16, 8\], found F32 \[8, 16\]"),
        ("ln_f.bias", lambda a: None, r"ln_f\.bias: expected F32 \[8\], found nothing"),
    ],
)
def test_a_mapped_file_that_does_not_fit_says_what_was_expected_and_found(tiny_checkpoint, name, change, message):
    load(tiny_checkpoint)
    remove_checkpoint(tiny_checkpoint)
    tensors = load_file(tiny_checkpoint / "model.safetensors")
    if (changed := change(tensors.pop(name))) is not None:
        tensors[name] = changed
    save_file(tensors, tiny_checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load(tiny_checkpoint)


def test_tensors_are_found_in_whatever_order_they_lie(tiny_checkpoint):
    load(tiny_checkpoint)
    remove_checkpoint(tiny_checkpoint)
    copy = tiny_checkpoint / "model.safetensors"
    save_file(load_file(copy), copy)  # the library sorts them by name
    assert next(iter(mapped.read_header(copy)[0])) != "wte.weight"
    assert_weights(load(tiny_checkpoint))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbled_and_truncated_copies_give_one_error_or_arrays_of_the_right_shapes(tiny_checkpoint, data):
    copy = tiny_checkpoint / "model.safetensors"
    if not copy.exists():
        load(tiny_checkpoint)
        remove_checkpoint(tiny_checkpoint)
        (tiny_checkpoint / "whole").write_bytes(copy.read_bytes())
    raw = bytearray((tiny_checkpoint / "whole").read_bytes())
    header_end = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    copy.write_bytes(raw[: data.draw(st.one_of(st.none(), st.integers(0, len(raw))))])
    try:
        params = load(tiny_checkpoint)
    except CheckpointError as error:
        assert "model.safetensors" in str(error)
    else:
        assert {k: v.shape for k, v in flat(params).items()} == {k: v.shape for k, v in tiny_tensors(seed=1).items()}


# ---- convert ---------------------------------------------------------------------------------------------------


def test_converting_and_failing_to_convert_are_silent_where_stderr_is_no_terminal(tiny_checkpoint):
    code = "import sys, utils; utils.load_encoder_hparams_and_params('tiny-random', sys.argv[1]); print('loaded')"
    arguments = f"import sys; sys.argv.append({str(tiny_checkpoint.parent)!r}); "
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "0"}  # even if it is told to speak
    assert run_python(arguments + code, **quiet) == (0, "loaded\n", "")
    os.truncate(data_of(tiny_checkpoint), 1000)
    (tiny_checkpoint / "model.safetensors").unlink()
    failing = f"try:\n    {code}\nexcept utils.CheckpointError: print('named')"
    code, out, err = run_python(arguments + "import utils\n" + failing)
    assert (code, out, err) == (0, "named\n", "")


def assert_names_the_checkpoint_and_leaves_no_file(folder, match="model.ckpt"):
    before = files_in(folder)
    with pytest.raises(CheckpointError, match=match) as error:
        load(folder)
    assert str(folder) in str(error.value)
    assert files_in(folder) == before


@pytest.mark.parametrize("where", [0, 5000, -1])
def test_a_single_wrong_bit_in_the_checkpoint_is_noticed(tiny_checkpoint, where):
    raw = bytearray(data_of(tiny_checkpoint).read_bytes())
    raw[where] ^= 1
    data_of(tiny_checkpoint).write_bytes(raw)
    assert_names_the_checkpoint_and_leaves_no_file(tiny_checkpoint, "Checksum does not match")


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_truncated_checkpoint_is_named(tiny_checkpoint, size):
    os.truncate(data_of(tiny_checkpoint), size)
    assert_names_the_checkpoint_and_leaves_no_file(tiny_checkpoint)


def test_a_missing_data_file_is_named(tiny_checkpoint):
    data_of(tiny_checkpoint).unlink()
    assert_names_the_checkpoint_and_leaves_no_file(tiny_checkpoint, "model.ckpt.data-00000-of-00001")


def test_a_missing_index_is_named(tiny_checkpoint):
    (tiny_checkpoint / "model.ckpt.index").unlink()
    assert_names_the_checkpoint_and_leaves_no_file(tiny_checkpoint, "lacks model.ckpt.index")


@pytest.mark.parametrize("raw", [b"", b"x", b"<html>" * 100, None])
def test_a_damaged_index_is_named(tiny_checkpoint, raw):
    index = tiny_checkpoint / "model.ckpt.index"
    index.write_bytes(index.read_bytes()[:-9] if raw is None else raw)
    assert_names_the_checkpoint_and_leaves_no_file(tiny_checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model/wte": np.zeros((259, 8), "f4")}, r"model/wte: expected float32 \[260, 8\], found float32 \[259, 8\]"),
        ({"model/wte": np.zeros((260, 8), "f8")}, r"model/wte: expected float32 \[260, 8\], found float64 \[260, 8\]"),
        (
            {"model/h1/mlp/c_fc/w": np.zeros((8, 32), "f4")},
            r"model/h1/mlp/c_fc/w: expected float32 \[1, 8, 32\], found float32 \[8, 32\]",
        ),
        ({"model/ln_f/g": None}, r"model/ln_f/g: expected float32 \[8\], found nothing"),
        ({"model/h2/ln_1/g": np.ones(8, "f4")}, r"model/h2/ln_1/g: expected nothing, found float32 \[8\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_what_was_expected_and_found(
    tiny_checkpoint, save_checkpoint, change, message
):
    tensors = {name: tensor for name, tensor in (tiny_tensors(seed=1) | change).items() if tensor is not None}
    save_checkpoint(tiny_checkpoint, tensors)
    assert_names_the_checkpoint_and_leaves_no_file(tiny_checkpoint, message)


def test_a_wrong_number_of_layers_is_told_in_a_few_lines(tiny_checkpoint):
    change_hparams(tiny_checkpoint, n_layer=48)
    with pytest.raises(CheckpointError, match=r"model/h2/ln_1/g: expected .* found nothing; .*and \d+ more") as error:
        load(tiny_checkpoint)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("path", ["model-1000", "/home/somebody/run1/model-1000", r"C:\\run1\\model-1000"])
def test_the_file_checkpoint_says_which_weights_are_meant(tiny_checkpoint, save_checkpoint, path):
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=2), prefix="model-1000")
    (tiny_checkpoint / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n', encoding="utf-8")
    assert_weights(load(tiny_checkpoint), seed=2)


@pytest.mark.parametrize("raw", [None, b"", b"\xff\xfe nonsense"])
def test_the_file_checkpoint_can_be_missing_or_senseless(tiny_checkpoint, raw):
    (tiny_checkpoint / "checkpoint").unlink()
    if raw is not None:
        (tiny_checkpoint / "checkpoint").write_bytes(raw)
    assert_weights(load(tiny_checkpoint))


def interrupt_after(monkeypatch, n, exception):
    """Let reading the checkpoint raise at the n-th tensor."""
    original = openai.open_checkpoint

    def open_checkpoint(index):
        found, read = original(index)
        left = iter(range(n))

        def read_or_raise(name):
            if next(left, None) is None:
                raise exception
            return read(name)

        return found, read_or_raise

    monkeypatch.setattr(openai, "open_checkpoint", open_checkpoint)


@pytest.mark.parametrize("exception", [KeyboardInterrupt(), MemoryError(), SystemExit(1)])
def test_an_interrupted_conversion_leaves_no_file(tiny_checkpoint, monkeypatch, exception):
    before = files_in(tiny_checkpoint)
    interrupt_after(monkeypatch, 20, exception)
    with pytest.raises(type(exception)):
        load(tiny_checkpoint)
    assert files_in(tiny_checkpoint) == before
    monkeypatch.undo()
    assert_weights(load(tiny_checkpoint))


def test_an_interrupted_conversion_keeps_the_old_copy_as_it_was(tiny_checkpoint, save_checkpoint, monkeypatch):
    load(tiny_checkpoint)
    old = (tiny_checkpoint / "model.safetensors").read_bytes()
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=2))
    interrupt_after(monkeypatch, 20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        load(tiny_checkpoint)
    assert (tiny_checkpoint / "model.safetensors").read_bytes() == old


def test_what_a_killed_conversion_left_is_cleared_away_by_the_next(tiny_checkpoint):
    left = tiny_checkpoint / "model.safetensors.0123abcd.part"
    left.write_bytes(b"half")
    load(tiny_checkpoint)
    assert not left.exists()


def test_the_copy_gets_its_name_only_when_it_is_whole_and_on_the_disk(tiny_checkpoint, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda fd, fsync=os.fsync: (fsync(fd), done.append(os.fstat(fd).st_size)))
    monkeypatch.setattr(os, "replace", lambda a, b, replace=os.replace: (replace(a, b), done.append(Path(b).name)))
    load(tiny_checkpoint)
    assert done == [(tiny_checkpoint / "model.safetensors").stat().st_size, "model.safetensors"]


def test_two_at_once_convert_once(tiny_checkpoint, monkeypatch):
    conversions, convert = [], openai.convert
    monkeypatch.setattr(openai, "convert", lambda *args: (conversions.append(args), convert(*args)))
    results = four_at_once(lambda: load(tiny_checkpoint))
    assert len(conversions) == 1 and len(results) == 4
    for params in results:
        assert_weights(params)


def test_the_lock_keeps_others_out_and_dies_with_its_process(tmp_path):
    code = (
        "import pathlib\nfrom checkpoints import files\n"
        f"with files.locked(pathlib.Path({str(tmp_path)!r})): print('in', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder, open(tmp_path / ".lock", "ab") as file:
        assert holder.stdout.readline().strip() == b"in"
        assert not files.try_lock(file)
        holder.kill()
        holder.wait()
        assert files.try_lock(file)


# ---- a folder that cannot be written to ------------------------------------------------------------------------


def refuse_to_write(monkeypatch, name, folder):
    """Let files.<name> fail as on a read-only file system, but only in that folder."""
    original = getattr(files, name)

    def refuse(path):
        if folder in (path, path.parent):
            raise OSError(30, "Read-only file system", str(path))
        return original(path)

    monkeypatch.setattr(files, name, refuse)


@pytest.mark.parametrize("name", ["locked", "new_file"])
def test_a_read_only_folder_works_without_the_saved_copy(tiny_checkpoint, tmp_path, monkeypatch, name):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = files_in(tiny_checkpoint)
    refuse_to_write(monkeypatch, name, tiny_checkpoint)
    params = load(tiny_checkpoint)
    assert files_in(tiny_checkpoint) == before
    assert os.name == "nt" or not files_in(scratch)  # Windows cannot delete what is mapped
    assert_weights(params)
    assert not params["wte"].flags.writeable


def test_nowhere_to_write_is_told_with_both_places(tiny_checkpoint, monkeypatch):
    def refuse(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "new_file", refuse)
    with pytest.raises(CheckpointError, match="No space left on device") as error:
        load(tiny_checkpoint)
    assert str(tiny_checkpoint) in str(error.value) and "TMPDIR" in str(error.value)


# ---- TensorFlow missing ----------------------------------------------------------------------------------------


def test_without_tensorflow_the_error_says_how_to_do_without_or_get_it(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(CheckpointError, match=r"pip install tensorflow.*or copy model\.safetensors") as error:
        load(tiny_checkpoint)
    assert str(tiny_checkpoint) in str(error.value)


def test_a_broken_tensorflow_is_told_with_its_reason(tiny_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libsomething.so is missing')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]:
        monkeypatch.delitem(sys.modules, module)
    importlib.invalidate_caches()
    with pytest.raises(CheckpointError, match=r"libsomething\.so is missing.*pip install"):
        load(tiny_checkpoint)


# ---- check -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_layout_has_the_tensors_and_parameters_of_the_official_models(size):
    hparams, n_tensors, n_parameters = SIZES[size]
    shapes = tensors.tensor_shapes(hparams)
    assert len(shapes) == n_tensors
    assert sum(map(math.prod, shapes.values())) == n_parameters
    data_size, _ = download.OFFICIAL[size]["model.ckpt.data-00000-of-00001"]
    assert data_size == 4 * n_parameters


def test_the_layout_of_a_small_model_is_that_of_its_checkpoint():
    expected = {name: ("float32", tensor.shape) for name, tensor in tiny_tensors(seed=1).items()}
    assert tensors.in_checkpoint(tensors.tensor_shapes(TINY_HPARAMS)) == expected


@pytest.mark.parametrize("name", TINY_HPARAMS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 0, 1.5, 2.0, True, "2", None, [2], 10**12])
def test_a_senseless_hyper_parameter_is_named(tiny_checkpoint, name, value):
    change_hparams(tiny_checkpoint, **{name: value})
    with pytest.raises(CheckpointError, match=rf"hparams\.json: {name} is .*; it must be a whole number from 1 to"):
        load(tiny_checkpoint)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"12",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b"<html>",
        b'{"n_vocab": 1' + b"0" * 9999 + b"}",
    ],
)
def test_a_senseless_hparams_json_is_named(tiny_checkpoint, raw):
    (tiny_checkpoint / "hparams.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"hparams\.json"):
        load(tiny_checkpoint)


def test_the_width_must_be_a_multiple_of_the_heads(tiny_checkpoint):
    change_hparams(tiny_checkpoint, n_head=3)
    with pytest.raises(CheckpointError, match="n_embd 8 is not a multiple of n_head 3"):
        load(tiny_checkpoint)


def test_further_hyper_parameters_are_handed_on(tiny_checkpoint):
    change_hparams(tiny_checkpoint, comment="ours")
    assert load_encoder_hparams_and_params(tiny_checkpoint, "")[1] == TINY_HPARAMS | {"comment": "ours"}


def test_a_vocabulary_of_another_model_is_refused_before_the_weights_are_touched(tiny_checkpoint, monkeypatch):
    change_hparams(tiny_checkpoint, n_vocab=50257)
    monkeypatch.setattr(openai, "load_tensors", None)
    with pytest.raises(CheckpointError, match=r"encoder\.json has 260 tokens but hparams\.json has n_vocab 50257"):
        load(tiny_checkpoint)


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_a_damaged_vocabulary_is_a_checkpoint_error(tiny_checkpoint, name):
    (tiny_checkpoint / name).write_bytes(b"\xff{{{")
    with pytest.raises(CheckpointError, match=name):
        load(tiny_checkpoint)


def test_all_missing_files_are_named_at_once(tiny_checkpoint):
    (tiny_checkpoint / "hparams.json").unlink()
    (tiny_checkpoint / "vocab.bpe").unlink()
    with pytest.raises(CheckpointError, match=r"lacks hparams\.json, vocab\.bpe:"):
        load(tiny_checkpoint)


def test_an_empty_folder_is_told_what_a_model_is(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds hparams\.json, encoder\.json, vocab\.bpe, model\.ckpt\.index"):
        load_encoder_hparams_and_params(tmp_path, "models")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda json: st.lists(json) | st.dictionaries(st.sampled_from([*TINY_HPARAMS]) | st.text(), json),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_hparams_json_does_more_than_raise_a_checkpoint_error(tmp_path, raw):
    (tmp_path / "hparams.json").write_bytes(raw)
    try:
        hparams = openai.read_hparams(tmp_path)
    except CheckpointError as error:
        assert "hparams.json" in str(error)
    else:
        assert hparams["n_embd"] % hparams["n_head"] == 0
