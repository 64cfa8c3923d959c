"""nanoGPT's format: ckpt.pt and meta.pkl."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
from model_folders import assert_error, assert_golden, load_parts

from checkpoints import nanogpt
from checkpoints.tensors import tensor_shapes
from checkpoints.torchfile import TorchFile
from utils import CheckpointError

# ---- vocabulary ------------------------------------------------------------------------------------------------


def test_characters_are_read_from_the_folder_or_from_nanogpt_s_data_folder(models, golden):
    folder = models / "nano_characters"
    data = models / "data" / "letters"
    data.mkdir(parents=True)
    (folder / "meta.pkl").rename(data / "meta.pkl")
    assert_golden(folder, golden)
    encoder = load_parts(folder)[0]
    assert encoder.decode(encoder.encode("hello you!\n")) == "hello you!\n"
    (data / "meta.pkl").unlink()
    assert_error(folder, r"lacks meta\.pkl, the characters of its 29 tokens: .*data.letters")


def test_gpt2_s_vocabulary_is_read_from_a_model_in_models_dir(models, golden):
    folder = models / "nano_padded"
    (models / "355M").mkdir()
    (folder / "vocab.json").rename(models / "355M" / "encoder.json")
    (folder / "merges.txt").rename(models / "355M" / "vocab.bpe")
    assert_golden(folder, golden)
    shutil.rmtree(models / "355M")
    assert_error(folder, r"lacks meta\.pkl, the characters of its 64 tokens")


def test_the_error_for_a_missing_gpt2_vocabulary_says_where_to_get_it(models, monkeypatch):
    monkeypatch.setattr(nanogpt, "GPT2_N_VOCAB", 60)
    (models / "nano_padded" / "vocab.json").unlink()
    assert_error(models / "nano_padded", r"encoder\.json and vocab\.bpe.*--model_size 124M")


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"vocab_size": 5}, "has no stoi"),
        ({"stoi": {}}, "has no stoi"),
        ({"stoi": {"ab": 0}}, "has no stoi"),
        ({"stoi": {"a": 1, "b": 2}}, "has no stoi"),
        ({"stoi": {"a": 0, "b": 0}}, "has no stoi"),
        ({"stoi": {"a": False}}, "has no stoi"),
        ({"stoi": {0: 0}}, "has no stoi"),
        ([], "has no stoi"),
        ({"stoi": {chr(0x100 + i): i for i in range(30)}}, "the vocabulary has 30 tokens but .* says 29"),
        (Path("x"), r"has no stoi that numbers characters"),
    ],
)
def test_a_meta_pkl_without_numbered_characters_is_an_error(models, meta, said):
    (models / "nano_characters" / "meta.pkl").write_bytes(pickle.dumps(meta))
    assert_error(models / "nano_characters", said)


def test_a_meta_pkl_with_an_exponentially_nested_value_is_an_error_at_once(models):
    endless = b"\x80\x02}X\x04\x00\x00\x00stoi}X\x01\x00\x00\x00a)" + b"q\x00h\x00\x86" * 200 + b"ss."
    (models / "nano_characters" / "meta.pkl").write_bytes(endless)
    assert_error(models / "nano_characters", "has no stoi")


@pytest.mark.parametrize("dataset", [b"../data", b"letter\0", b"\xed\xa0\x80test", b"/etc/pa"])
def test_no_folder_is_searched_for_a_dataset_that_is_not_a_plain_name(models, dataset):
    folder = models / "nano_characters"
    (folder / "meta.pkl").unlink()
    (models / "meta.pkl").touch()
    rewrite_pickle(folder / "ckpt.pt", lambda data: data.replace(b"letters", dataset[:7]))
    assert_error(folder, r"lacks meta\.pkl")


# ---- ckpt.pt ---------------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_malicious_pickle_runs_nothing_and_the_error_names_the_function(models, tmp_path):
    marker = tmp_path / "marker"
    (models / "nano_characters" / "meta.pkl").write_bytes(pickle.dumps({"stoi": Evil(marker)}))
    assert_error(models / "nano_characters", rf"meta\.pkl: .* names {os.system.__module__}\.system.* was not run")
    with zipfile.ZipFile(models / "nano_padded" / "ckpt.pt", "w") as archive:
        archive.writestr("ckpt/data.pkl", pickle.dumps({"model": Evil(marker)}))
    assert_error(models / "nano_padded", rf"ckpt\.pt cannot be read.*names {os.system.__module__}\.system")
    assert not marker.exists()


def rewrite_pickle(path, change):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("/data.pkl") else content)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"model_args", b"modell_arg", "has no model and model_args"),
        (b"block_size", b"block_sise", "block_size is missing or null"),
        (b"transformer.ln_f.weight", b"transformer.ln_g.weight", r"ln_f\.weight: expected F32 \[8\], found nothing"),
        (b"transformer.h.0.attn.c_attn.weight", b"transformer.h.0.attn.c_atnt.weight", "does not fit its model_args"),
        (b"FloatStorage", b"IntegStorage", "is of the type torch.IntegStorage"),
        (b"_rebuild_tensor_v2", b"_rebuild_tensor_v9", "_rebuild_tensor_v9"),
    ],
)
def test_the_error_for_an_unexpected_checkpoint_gives_the_reason(models, old, new, said):
    rewrite_pickle(models / "nano_padded" / "ckpt.pt", lambda data: data.replace(old, new))
    assert_error(models / "nano_padded", said)


def test_missing_biases_are_an_error_if_model_args_says_that_there_are_biases(models):
    # renames "bias" in model_args alone, whose default is True; the state dict has no biases
    path = models / "nano_characters" / "ckpt.pt"
    rewrite_pickle(path, lambda data: data.replace(b"\x04\x00\x00\x00bias", b"\x04\x00\x00\x00bios"))
    assert_error(models / "nano_characters", r"ln_1\.bias: expected F32 \[8\], found nothing")


def test_tensors_that_need_more_bytes_than_the_file_has_are_an_error_before_the_conversion(models):
    path = models / "nano_characters" / "ckpt.pt"
    with TorchFile(path) as file:
        weights, arguments, _ = nanogpt.read_checkpoint(file)
        hparams = nanogpt.read_arguments(path, arguments)
        file.size = 5000
        with pytest.raises(
            CheckpointError, match=r"has 5,000 bytes but its tensors need [\d,]+: they share their numbers"
        ):
            nanogpt.load_tensors(file, weights, tensor_shapes(hparams), has_biases=True)
    assert not (models / "nano_characters" / "model.float32.safetensors").exists()


def test_a_meta_pkl_over_the_size_limit_is_an_error_with_both_numbers(models, monkeypatch):
    monkeypatch.setattr(nanogpt, "LARGEST_PICKLE", 100)
    assert_error(models / "nano_characters", r"meta\.pkl has 343 bytes; at most 100 are read")


def test_a_meta_pkl_whose_keys_collide_is_an_error_at_once(models):
    (models / "nano_characters" / "meta.pkl").write_bytes(
        pickle.dumps({"stoi": {i * (2**61 - 1): 0 for i in range(10)}})
    )
    assert_error(models / "nano_characters", "has no stoi that numbers characters")
