"""Selecting a model's format, and the record that `load` returns."""

import dataclasses
import os
import shutil

import pytest
from model_folders import assert_error, assert_weights, run_python

from checkpoints import files
from utils import CheckpointError, load, load_encoder_hparams_and_params

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


def test_the_error_for_weights_without_sizes_names_both_files(models):
    (models / "hf" / "config.json").unlink()
    assert_error(models / "hf", r"holds model\.safetensors but no config\.json")


def test_the_error_for_an_adapter_names_it(models):
    (models / "hf" / "config.json").rename(models / "hf" / "adapter_config.json")
    assert_error(models / "hf", r"holds an adapter \(adapter_config\.json\)")


def test_the_error_for_a_folder_without_a_model_names_some_of_its_files(tmp_path):
    for i in range(7):
        (tmp_path / f"{i}.txt").touch()
    assert_error(tmp_path, r"holds no model in a known format, but 0\.txt, 1\.txt, .*4\.txt and 2 more")


def test_the_error_for_a_file_of_another_kind_names_it(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    assert_error(tmp_path / "model.onnx", r"model\.onnx is a file of no known format")


def test_the_error_for_an_empty_folder_lists_the_files_of_a_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no model.*no files.*hparams\.json.*config\.json.*ckpt\.pt"):
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
@pytest.mark.parametrize("file", ["checkpoint", "hparams.json", "encoder.json", "vocab.bpe", "model.safetensors"])
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
