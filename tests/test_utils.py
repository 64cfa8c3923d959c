"""Finding a model by its name, selecting its format, and the record that `load` returns."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from model_folders import assert_error, assert_weights, run_python

from checkpoints import files
from utils import CheckpointError, find_model, load, load_encoder_hparams_and_params

SIZES = ["124M", "355M", "774M", "1558M"]


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
def test_all_names_of_a_size_find_one_folder_which_need_not_exist(tmp_path, name, folder):
    assert find_model(name, tmp_path / "models") == tmp_path / "models" / folder
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["mine", "mine/", "gpt2", "117M"])
def test_a_folder_in_models_dir_takes_precedence_over_sizes_and_paths(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("models", name).mkdir(parents=True)
    Path(name).mkdir()
    assert find_model(name, "models") == Path("models", name)


def test_a_relative_or_absolute_path_with_tilde_or_variables_finds_a_model(tmp_path, monkeypatch):
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


def test_the_error_for_an_unknown_name_lists_sizes_folders_and_the_nearest_name(tmp_path):
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
def test_a_value_that_names_no_model_raises_value_error(tmp_path, name):
    with pytest.raises(ValueError, match="there is no model"):
        find_model(name, tmp_path)


def test_a_file_is_neither_a_model_nor_a_models_dir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="there is no model"):
        find_model(tmp_path / "file", tmp_path)
    with pytest.raises(ValueError, match=r"models_dir is .*file"):
        find_model("124M", tmp_path / "file")


def test_an_unreadable_models_dir_counts_as_empty(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert find_model("124M", tmp_path) == tmp_path / "124M"
    with pytest.raises(ValueError, match="none found"):
        find_model("mine", tmp_path)


def test_files_and_dangling_links_in_models_dir_are_not_listed_as_models(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"a folder in .* \(mine\)"):
        find_model("other", tmp_path)


def test_the_error_for_a_name_at_hugging_face_lists_the_files_to_copy(tmp_path):
    with pytest.raises(ValueError, match="there is no model 'distilbert/distilgpt2'") as error:
        find_model("distilbert/distilgpt2", tmp_path)
    for word in ("config.json", "model.safetensors", "merges.txt", str(tmp_path / "distilgpt2")):
        assert word in str(error.value)
    assert str(error.value).endswith("--model_size distilgpt2")


def test_the_error_for_an_unknown_name_lists_at_most_20_folders_and_escapes_their_names(tmp_path):
    (tmp_path / "a\x1b[31m\nError: forged").mkdir()
    for i in range(30):
        (tmp_path / f"m{i:02}{'x' * 200}").mkdir()
    with pytest.raises(ValueError, match="there is no model") as error:
        find_model("y\n" * 5000, tmp_path)
    message = str(error.value)
    assert len(message) < 3000 and message.isprintable() and "and 11 more" in message
    assert r"a\x1b[31m\nError: forged" in message


# ---- load ------------------------------------------------------------------------------------------------------


def test_load_returns_the_parts_that_load_encoder_hparams_and_params_returns(tiny_checkpoint):
    model = load("tiny-random", tiny_checkpoint.parent)
    encoder, hparams, params = load_encoder_hparams_and_params("tiny-random", tiny_checkpoint.parent)
    assert model.name == "tiny-random" and model.encoder.encoder == encoder.encoder and model.hparams == hparams
    assert_weights(model.params)
    assert_weights(params)
    assert (model.n_head, model.n_ctx, model.n_vocab) == (2, 16, 260)


def test_a_model_is_frozen(tiny_checkpoint):
    model = load(tiny_checkpoint, tiny_checkpoint.parent)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"


def test_a_path_loads_the_same_weights_as_a_name(tiny_checkpoint):
    assert_weights(load_encoder_hparams_and_params(tiny_checkpoint, "nowhere")[2])


def test_hparams_json_selects_openai_s_format_before_config_json(models):
    (models / "hf" / "hparams.json").write_text("{}", encoding="utf-8")
    assert_error(models / "hf", "lacks encoder.json, vocab.bpe")


def test_the_error_for_a_folder_without_a_known_format_lists_the_files_of_each(models):
    (models / "hf" / "config.json").unlink()
    assert_error(models / "hf", r"hparams\.json.*config\.json.*ckpt\.pt")


def test_the_error_for_an_empty_folder_lists_the_files_of_a_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds hparams\.json, encoder\.json, vocab\.bpe, model\.ckpt\.index"):
        load_encoder_hparams_and_params(tmp_path, "models")


FILES = [("hf", "config.json"), ("hf", "model.safetensors"), ("hf", "vocab.json"), ("hf", "merges.txt")]
FILES += [("hf", "added_tokens.json"), ("hf", "hparams.json"), ("hf", "tokenizer.json")]
FILES += [("hf_sharded", "model.safetensors.index.json"), ("hf_sharded", "model-00001-of-00003.safetensors")]
FILES += [("hf_float16", ".lock")]
FILES += [("nano_characters", "ckpt.pt"), ("nano_characters", "meta.pkl"), ("nano_padded", "encoder.json")]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs")
@pytest.mark.parametrize("kind", ["FIFO", "device"])
@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_fifo_or_a_device_among_the_files_of_a_model_is_an_error_that_names_it(models, name, file, kind):
    path = models / name / file
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "FIFO" else path.symlink_to("/dev/zero")
    if file == "tokenizer.json":
        (models / name / "vocab.json").unlink()
    assert_error(models / name, rf"{file} is ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs")
@pytest.mark.parametrize(
    "file", ["checkpoint", "hparams.json", "encoder.json", "vocab.bpe", "model.safetensors", ".lock"]
)
def test_a_fifo_among_openai_s_files_is_an_error_that_names_it(tiny_checkpoint, file):
    (tiny_checkpoint / file).unlink(missing_ok=True)
    os.mkfifo(tiny_checkpoint / file)
    assert_error(tiny_checkpoint, rf"{file} is ")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_model_whose_files_are_links_loads(models):
    shutil.move(models / "hf", models / "blobs")
    (models / "hf").mkdir()
    for path in (models / "blobs").iterdir():
        (models / "hf" / path.name).symlink_to(path)
    assert load(models / "hf").n_vocab > 0


def test_an_input_error_names_the_file_and_the_reason_without_a_number(models, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(files, "open_to_read", fail)
    assert_error(models / "hf", r"cannot read .*config\.json, a file of the model hf: Input/output error; ")


def test_importing_utils_imports_no_slow_library():
    code = (
        "import sys, utils; print([m for m in ('tensorflow', 'requests', 'safetensors', 'tqdm') if m in sys.modules])"
    )
    assert run_python(code) == (0, "[]\n", "")
