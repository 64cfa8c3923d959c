"""OpenAI's format: reading it and converting its TensorFlow checkpoint. Downloads are in test_download.py."""

import importlib
import json
import os
import sys

import numpy as np
import pytest
from conftest import TINY_HPARAMS, four_at_once, requires, tiny_tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folders import assert_weights, change_hparams, convert, files_in, load_weights, remove_checkpoint, run_python
from safetensors.numpy import load_file, save_file

from checkpoints import files, openai, tensorflow_reader, verified
from checkpoints.download import DATA
from utils import CheckpointError, load_encoder_hparams_and_params

NOTE = "model.ckpt.verified"

# ---- load ------------------------------------------------------------------------------------------------------


def test_the_first_and_the_second_load_return_the_weights_of_the_checkpoint(tiny_checkpoint):
    encoder, hparams, params = load_encoder_hparams_and_params("tiny-random", str(tiny_checkpoint.parent))
    assert hparams == TINY_HPARAMS
    assert encoder.decode(encoder.encode("the end")) == "the end"
    assert set(params) == {"wte", "wpe", "blocks", "ln_f"}
    assert params["blocks"][1]["mlp"]["c_fc"]["w"].shape == (8, 32)
    assert_weights(params)
    assert_weights(load_weights(tiny_checkpoint))


def test_loading_drops_only_the_axis_of_the_convolution(tiny_checkpoint, save_checkpoint):
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=1, n_embd=1, n_layer=1))
    change_hparams(tiny_checkpoint, n_embd=1, n_head=1, n_layer=1)
    params = load_weights(tiny_checkpoint)
    assert params["wte"].shape == (260, 1)
    assert params["blocks"][0]["attn"]["c_attn"]["w"].shape == (1, 3)
    assert params["blocks"][0]["attn"]["c_proj"]["w"].shape == (1, 1)
    assert_weights(params, n_embd=1, n_layer=1)


# ---- hyper-parameters and vocabulary ---------------------------------------------------------------------------


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
def test_the_error_for_an_invalid_hparams_json_names_it(tiny_checkpoint, raw):
    (tiny_checkpoint / "hparams.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"hparams\.json"):
        load_weights(tiny_checkpoint)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda json: st.lists(json) | st.dictionaries(st.sampled_from([*TINY_HPARAMS]) | st.text(), json),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_hparams_json_is_valid_or_raises_checkpoint_error(tmp_path, raw):
    (tmp_path / "hparams.json").write_bytes(raw)
    try:
        hparams = openai.read_hparams(tmp_path)
    except CheckpointError as error:
        assert "hparams.json" in str(error)
    else:
        assert hparams["n_embd"] % hparams["n_head"] == 0


def test_additional_hyper_parameters_are_returned(tiny_checkpoint):
    change_hparams(tiny_checkpoint, comment="ours")
    assert load_encoder_hparams_and_params(tiny_checkpoint, "")[1] == TINY_HPARAMS | {"comment": "ours"}


def test_a_vocabulary_of_another_size_is_an_error_before_the_weights_are_read(tiny_checkpoint, monkeypatch):
    change_hparams(tiny_checkpoint, n_vocab=50257)
    monkeypatch.setattr(openai, "load_tensors", None)
    with pytest.raises(CheckpointError, match=r"encoder\.json has 260 tokens but hparams\.json has n_vocab 50257"):
        load_weights(tiny_checkpoint)


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_a_damaged_vocabulary_raises_checkpoint_error(tiny_checkpoint, name):
    (tiny_checkpoint / name).write_bytes(b"\xff{{{")
    with pytest.raises(CheckpointError, match=name):
        load_weights(tiny_checkpoint)


def test_one_error_names_all_missing_files(tiny_checkpoint):
    (tiny_checkpoint / "hparams.json").unlink()
    (tiny_checkpoint / "vocab.bpe").unlink()
    with pytest.raises(CheckpointError, match=r"lacks hparams\.json, vocab\.bpe:"):
        load_weights(tiny_checkpoint)


# ---- the converted file ----------------------------------------------------------------------------------------


def test_loading_adds_one_small_file_to_the_folder(tiny_checkpoint):
    before = files_in(tiny_checkpoint)
    load_weights(tiny_checkpoint)
    assert files_in(tiny_checkpoint) == before | {NOTE}
    assert (tiny_checkpoint / NOTE).stat().st_size < 300


def test_the_converted_file_alone_is_enough_without_tensorflow(tiny_checkpoint, monkeypatch):
    convert(tiny_checkpoint)
    remove_checkpoint(tiny_checkpoint)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert_weights(load_weights(tiny_checkpoint))


def test_a_new_checkpoint_is_used_in_place_of_the_converted_file(tiny_checkpoint, save_checkpoint):
    convert(tiny_checkpoint)
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=2))
    assert_weights(load_weights(tiny_checkpoint), seed=2)


def test_new_modification_times_leave_the_converted_file_in_use(tiny_checkpoint, monkeypatch):
    convert(tiny_checkpoint)
    for path in tiny_checkpoint.iterdir():
        os.utime(path, (2e9, 2e9))
    monkeypatch.setattr(openai, "map_data", None)
    assert_weights(load_weights(tiny_checkpoint))


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
def test_a_damaged_converted_file_is_ignored_or_without_a_checkpoint_an_error(tiny_checkpoint, damage):
    convert(tiny_checkpoint)
    copy = tiny_checkpoint / "model.safetensors"
    damaged = damage(copy.read_bytes())
    copy.write_bytes(damaged)
    assert_weights(load_weights(tiny_checkpoint))

    copy.write_bytes(damaged)
    remove_checkpoint(tiny_checkpoint)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_weights(tiny_checkpoint)


def test_a_converted_file_with_a_wrong_tensor_name_is_ignored(tiny_checkpoint):
    convert(tiny_checkpoint)
    copy = tiny_checkpoint / "model.safetensors"
    copy.write_bytes(copy.read_bytes().replace(b"wte.weight", b"wte.weighs"))
    assert_weights(load_weights(tiny_checkpoint))


def test_a_safetensors_file_of_another_program_is_used_and_never_replaced(tiny_checkpoint):
    convert(tiny_checkpoint)
    copy = tiny_checkpoint / "model.safetensors"
    tensors = load_file(copy)
    save_file(tensors | {"wpe.weight": tensors["wpe.weight"] + 1}, copy)
    theirs = copy.read_bytes()
    np.testing.assert_array_equal(load_weights(tiny_checkpoint)["wpe"], tiny_tensors(seed=1)["model/wpe"] + 1)
    save_file(tensors | {"h.0.attn.masked_bias": tensors["wpe.weight"]}, copy)
    with pytest.raises(CheckpointError, match=r"h\.0\.attn\.masked_bias: expected nothing, found F32 \[16, 8\]"):
        convert(tiny_checkpoint)
    assert len(copy.read_bytes()) > len(theirs)


# ---- the checkpoint -----------------------------------------------------------------------------------------------


def test_loading_prints_nothing_if_stderr_is_no_terminal(tiny_checkpoint):
    code = "import sys, utils; utils.load_encoder_hparams_and_params('tiny-random', sys.argv[1]); print('loaded')"
    arguments = f"import sys; sys.argv.append({str(tiny_checkpoint.parent)!r}); "
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "0"}  # all of TensorFlow's messages
    assert run_python(arguments + code, **quiet) == (0, "loaded\n", "")
    os.truncate((tiny_checkpoint / DATA), 1000)
    failing = f"try:\n    {code}\nexcept utils.CheckpointError: print('named')"
    code, out, err = run_python(arguments + "import utils\n" + failing)
    assert (code, out, err) == (0, "named\n", "")


def assert_error_names_the_folder_and_adds_no_file(folder, match="model.ckpt"):
    before = files_in(folder)
    with pytest.raises(CheckpointError, match=match) as error:
        load_weights(folder)
    assert str(folder) in str(error.value)
    assert files_in(folder) == before


@pytest.mark.parametrize("where", [0, 5000, -1])
def test_a_single_wrong_bit_in_the_checkpoint_is_an_error(tiny_checkpoint, where):
    raw = bytearray((tiny_checkpoint / DATA).read_bytes())
    raw[where] ^= 1
    (tiny_checkpoint / DATA).write_bytes(raw)
    assert_error_names_the_folder_and_adds_no_file(tiny_checkpoint, r"the checksum of the tensor \S+ does not match")


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_truncated_checkpoint_is_an_error(tiny_checkpoint, size):
    os.truncate((tiny_checkpoint / DATA), size)
    assert_error_names_the_folder_and_adds_no_file(tiny_checkpoint)


def test_the_error_for_too_few_data_gives_both_numbers(tiny_checkpoint):
    size = (tiny_checkpoint / DATA).stat().st_size
    os.truncate(tiny_checkpoint / DATA, 1000)
    assert_error_names_the_folder_and_adds_no_file(
        tiny_checkpoint, rf"has 1,000 bytes but its tensors need {size:,}: delete"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs")
def test_a_data_file_that_is_a_fifo_is_an_error(tiny_checkpoint):
    (tiny_checkpoint / DATA).unlink()
    os.mkfifo(tiny_checkpoint / DATA)
    assert_error_names_the_folder_and_adds_no_file(tiny_checkpoint, f"{DATA} is a FIFO")


def test_an_index_over_the_size_limit_is_an_error_at_once(tiny_checkpoint):
    os.truncate(tiny_checkpoint / "model.ckpt.index", 2**40)
    assert_error_names_the_folder_and_adds_no_file(tiny_checkpoint, "has 1,099,511,627,776 bytes; at most 16,777,216")


def test_a_missing_data_file_is_an_error(tiny_checkpoint):
    (tiny_checkpoint / DATA).unlink()
    assert_error_names_the_folder_and_adds_no_file(tiny_checkpoint, "model.ckpt.data-00000-of-00001")


def test_a_missing_index_is_an_error(tiny_checkpoint):
    (tiny_checkpoint / "model.ckpt.index").unlink()
    assert_error_names_the_folder_and_adds_no_file(tiny_checkpoint, "lacks model.ckpt.index")


@pytest.mark.parametrize("raw", [b"", b"x", b"<html>" * 100, None])
def test_a_damaged_index_is_an_error(tiny_checkpoint, raw):
    index = tiny_checkpoint / "model.ckpt.index"
    index.write_bytes(index.read_bytes()[:-9] if raw is None else raw)
    assert_error_names_the_folder_and_adds_no_file(tiny_checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model/wte": np.zeros((259, 8), "f4")}, r"model/wte: expected float32 \[260, 8\], found float32 \[259, 8\]"),
        ({"model/wte": np.zeros((260, 8), "i4")}, r"model/wte: expected float32 \[260, 8\], found int32 \[260, 8\]"),
        (
            {"model/h1/mlp/c_fc/w": np.zeros((8, 32), "f4")},
            r"model/h1/mlp/c_fc/w: expected float32 \[1, 8, 32\], found float32 \[8, 32\]",
        ),
        ({"model/ln_f/g": None}, r"model/ln_f/g: expected float32 \[8\], found nothing"),
        ({"model/h2/ln_1/g": np.ones(8, "f4")}, r"model/h2/ln_1/g: expected nothing, found float32 \[8\]"),
    ],
)
def test_the_error_for_a_wrong_tensor_says_what_was_expected_and_found(
    tiny_checkpoint, save_checkpoint, change, message
):
    tensors = {name: tensor for name, tensor in (tiny_tensors(seed=1) | change).items() if tensor is not None}
    save_checkpoint(tiny_checkpoint, tensors)
    assert_error_names_the_folder_and_adds_no_file(tiny_checkpoint, message)


def test_the_error_for_a_wrong_number_of_layers_is_short(tiny_checkpoint):
    change_hparams(tiny_checkpoint, n_layer=48)
    with pytest.raises(CheckpointError, match=r"model/h2/ln_1/g: expected .* found nothing; .*and \d+ more") as error:
        load_weights(tiny_checkpoint)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("path", ["model-1000", "/home/somebody/run1/model-1000", r"C:\\run1\\model-1000"])
def test_the_file_named_checkpoint_selects_the_weights(tiny_checkpoint, save_checkpoint, path):
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=2), prefix="model-1000")
    (tiny_checkpoint / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n', encoding="utf-8")
    assert_weights(load_weights(tiny_checkpoint), seed=2)


@pytest.mark.parametrize("raw", [None, b"", b"\xff\xfe nonsense"])
def test_the_file_named_checkpoint_may_be_missing_or_invalid(tiny_checkpoint, raw):
    (tiny_checkpoint / "checkpoint").unlink()
    if raw is not None:
        (tiny_checkpoint / "checkpoint").write_bytes(raw)
    assert_weights(load_weights(tiny_checkpoint))


# ---- checksums -------------------------------------------------------------------------------------------------


def damage_one_bit(path, where=5000):
    raw = bytearray(path.read_bytes())
    raw[where] ^= 1
    path.write_bytes(raw)


@pytest.fixture
def compared(monkeypatch):
    """A list that grows with each comparison of checksums."""
    calls = []
    compare = verified.compare
    monkeypatch.setattr(verified, "compare", lambda *arguments: (calls.append(1), compare(*arguments)))
    return calls


def test_checksums_are_compared_once(tiny_checkpoint, compared):
    for _ in range(3):
        assert_weights(load_weights(tiny_checkpoint))
    assert len(compared) == 1


def test_a_file_with_a_new_size_time_or_index_is_compared_again(tiny_checkpoint, save_checkpoint, compared):
    load_weights(tiny_checkpoint)
    os.utime(tiny_checkpoint / DATA, (2e9, 2e9))
    load_weights(tiny_checkpoint)
    with open(tiny_checkpoint / DATA, "ab") as file:
        file.write(b"more")
    load_weights(tiny_checkpoint)
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=2))
    assert_weights(load_weights(tiny_checkpoint), seed=2)
    assert len(compared) == 4


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"null", b"\xff", b'{"index": 5}', b"[" * 10_000, bytes(2**21)])
def test_a_damaged_note_causes_a_comparison(tiny_checkpoint, compared, note):
    (tiny_checkpoint / NOTE).write_bytes(note)
    assert_weights(load_weights(tiny_checkpoint))
    load_weights(tiny_checkpoint)
    assert len(compared) == 1


def test_damage_is_found_in_every_run_until_it_is_mended(tiny_checkpoint):
    whole = (tiny_checkpoint / DATA).read_bytes()
    damage_one_bit(tiny_checkpoint / DATA)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"{DATA} is damaged: the checksum of the tensor \S+ does not"):
            load_weights(tiny_checkpoint)
    (tiny_checkpoint / DATA).write_bytes(whole)
    assert_weights(load_weights(tiny_checkpoint))


def test_in_a_folder_that_is_not_writable_checksums_are_compared_in_every_run(tiny_checkpoint, monkeypatch, compared):
    def refuse(path):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(files, "replacing", refuse)
    for _ in range(2):
        assert_weights(load_weights(tiny_checkpoint))
    assert len(compared) == 2


# ---- other tensors and names -----------------------------------------------------------------------------------


def test_tensors_of_an_optimizer_are_left_out(tiny_checkpoint, save_checkpoint):
    extra = {"global_step": np.array(7, "i8"), "beta1_power": np.array(0.9, "f4")}
    extra |= {"model/wte/Adam": np.ones((260, 8), "f4"), "model/h0/mlp/c_fc/w/Adam_1": np.ones((1, 8, 32), "f4")}
    save_checkpoint(tiny_checkpoint, tiny_tensors(seed=1) | extra)
    assert_weights(load_weights(tiny_checkpoint))


@pytest.mark.parametrize("scope", ["", "gpt2/model/", "x/"])
def test_other_scopes_than_openai_s_are_found(tiny_checkpoint, save_checkpoint, scope):
    tensors = {scope + name.removeprefix("model/"): tensor for name, tensor in tiny_tensors(seed=1).items()}
    save_checkpoint(tiny_checkpoint, tensors)
    assert_weights(load_weights(tiny_checkpoint))


# ---- checkpoints that TensorFlow converts ----------------------------------------------------------------------


@pytest.fixture
def double_checkpoint(tiny_checkpoint, save_checkpoint):
    """A checkpoint with float64 numbers, which only TensorFlow reads."""
    save_checkpoint(tiny_checkpoint, {name: tensor.astype("f8") for name, tensor in tiny_tensors(seed=1).items()})
    return tiny_checkpoint


def test_numbers_of_another_type_are_converted_once(double_checkpoint, monkeypatch):
    before = files_in(double_checkpoint)
    assert_weights(load_weights(double_checkpoint))
    assert files_in(double_checkpoint) == before | {"model.safetensors"}
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert_weights(load_weights(double_checkpoint))


def test_a_checkpoint_of_one_file_is_converted(tiny_checkpoint):
    tf = requires("tensorflow")

    remove_checkpoint(tiny_checkpoint)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, tensor in tiny_tensors(seed=3).items():
            tf.compat.v1.get_variable(name, initializer=tensor)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
        saver.save(session, str(tiny_checkpoint / "model.ckpt"), write_meta_graph=False)
    assert (tiny_checkpoint / "model.ckpt").is_file()
    assert_weights(load_weights(tiny_checkpoint), seed=3)


def interrupt_after(monkeypatch, n, exception):
    """Let reading the checkpoint raise an exception after n tensors."""
    original = tensorflow_reader.open_checkpoint

    def open_checkpoint(*arguments):
        found, read = original(*arguments)
        left = iter(range(n))

        def read_or_raise(name):
            if next(left, None) is None:
                raise exception
            return read(name)

        return found, read_or_raise

    monkeypatch.setattr(tensorflow_reader, "open_checkpoint", open_checkpoint)


@pytest.mark.parametrize("exception", [KeyboardInterrupt(), MemoryError(), SystemExit(1)])
def test_an_interrupted_conversion_adds_no_file(double_checkpoint, monkeypatch, exception):
    before = files_in(double_checkpoint)
    interrupt_after(monkeypatch, 20, exception)
    with pytest.raises(type(exception)):
        load_weights(double_checkpoint)
    assert files_in(double_checkpoint) == before
    monkeypatch.undo()
    assert_weights(load_weights(double_checkpoint))


def test_four_threads_convert_a_checkpoint_once(double_checkpoint, monkeypatch):
    conversions = []
    convert = openai.convert
    monkeypatch.setattr(openai, "convert", lambda *args: (conversions.append(args), convert(*args)))
    results = four_at_once(lambda: load_weights(double_checkpoint))
    assert len(conversions) == 1 and len(results) == 4
    for params in results:
        assert_weights(params)


# ---- TensorFlow missing ----------------------------------------------------------------------------------------


def test_the_error_without_tensorflow_gives_the_reason_and_two_remedies(double_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(
        CheckpointError, match=r"numbers of the type float64, which only .*pip install tensorflow"
    ) as error:
        load_weights(double_checkpoint)
    assert str(double_checkpoint) in str(error.value)
    assert "or copy model.safetensors there" in str(error.value)


def test_the_error_for_a_broken_tensorflow_gives_the_reason(double_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libsomething.so is missing')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]:
        monkeypatch.delitem(sys.modules, module)
    importlib.invalidate_caches()
    with pytest.raises(CheckpointError, match=r"libsomething\.so is missing.*pip install"):
        load_weights(double_checkpoint)
