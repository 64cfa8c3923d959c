"""Hugging Face's format: config.json, the vocabulary, one file of weights or shards."""

import json
import tracemalloc

import numpy as np
import pytest
from model_folders import assert_error, assert_golden, change_json, change_tensors, files_in, load_parts

from checkpoints.state_dict import FLOAT32_NAME
from utils import CheckpointError

# ---- weights ---------------------------------------------------------------------------------------------------


def test_mapping_float32_weights_copies_nothing(models):
    folder = models / "hf"
    change_json(folder / "config.json", n_positions=2**20)
    change_tensors(folder, lambda t: t | {"transformer.wpe.weight": np.ones((2**20, 8), np.float32)})  # 32 MB
    load_parts(folder)
    tracemalloc.start()
    params = load_parts(folder)[2]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert params["wpe"].nbytes == 2**25 and peak < 2**21


def test_unaligned_tensors_are_converted(models, golden):
    file = models / "hf" / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    file.write_bytes((length + 1).to_bytes(8, "little") + raw[8 : 8 + length] + b" " + raw[8 + length :])
    assert_golden(models / "hf", golden)
    assert FLOAT32_NAME in files_in(models / "hf")


@pytest.mark.parametrize("name", ["hf_float16", "hf_sharded"])
def test_the_converted_file_alone_is_enough(models, golden, name):
    load_parts(models / name)
    for path in models.joinpath(name).glob("model*"):
        if path.name != FLOAT32_NAME:
            path.unlink()
    assert_golden(models / name, golden)
    change_json(models / name / "config.json", n_layer=1)
    assert_error(models / name, r"does not fit config\.json")


def test_the_error_for_missing_weights_names_the_file(models):
    (models / "hf" / "model.safetensors").unlink()
    assert_error(models / "hf", r"lacks the weights: model\.safetensors or pytorch_model\.bin")
    (models / "hf" / "pytorch_model.bin").touch()
    assert_error(models / "hf", r"pytorch_model\.bin cannot be read as a file of torch\.save \(it is empty\)")
    (models / "hf_sharded" / "model-00002-of-00003.safetensors").unlink()
    assert_error(models / "hf_sharded", r"lacks model-00002-of-00003\.safetensors")


@pytest.mark.parametrize("weight_map", [None, [], {}, {"wte.weight": 5}, {"wte.weight": "../hf/model.safetensors"}])
def test_an_index_that_names_no_files_in_its_folder_is_an_error(models, weight_map):
    change_json(models / "hf_sharded" / "model.safetensors.index.json", weight_map=weight_map)
    assert_error(models / "hf_sharded", "has no weight_map from tensor names to files in the same folder")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800", "..", ""])
def test_an_index_with_an_impossible_file_name_is_an_error(models, name):
    change_json(models / "hf_sharded" / "model.safetensors.index.json", weight_map={"wte.weight": name})
    with pytest.raises(CheckpointError, match="lacks"):
        load_parts(models / "hf_sharded")


# ---- config.json and the vocabulary ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"add_cross_attention": True}, "add_cross_attention is set; choose a model without an encoder"),
        ({"model_type": "gpt_neox"}, "model_type is 'gpt_neox'.*'gpt2'"),
        ({"model_type": None}, "model_type is missing or null"),
        (
            {"architectures": ["GPT2ForSequenceClassification"]},
            "GPT2ForSequenceClassification, which rates a",
        ),
        ({"activation_function": "mish"}, "activation_function is 'mish'; it must be one of gelu_new, gelu_py"),
        ({"activation_function": ["gelu"]}, "activation_function is"),
        ({"layer_norm_epsilon": -1}, "layer_norm_epsilon is -1"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5'"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"n_embd": 9}, "n_embd 9 is not a multiple of n_head 2"),
        ({"n_head": 0}, "n_head is 0"),
        ({"n_positions": 1e3}, r"n_positions is 1000\.0"),
        ({"vocab_size": None}, "vocab_size is missing or null"),
        ({"vocab_size": 2**40}, "vocab_size is 1099511627776"),
        ({"vocab_size": 30}, r"vocab\.json has the token id 30 but the model has embeddings for 30 tokens"),
        ({"n_layer": True}, "n_layer is True"),
        ({"n_layer": 3}, r"h\.2\.ln_1\.weight: expected F32"),
        ({"n_inner": -5}, "n_inner is -5"),
        ({"n_inner": 16}, r"c_fc\.weight: expected F32 \[8, 16\], found F32 \[8, 32\]"),
    ],
)
def test_the_error_for_a_config_names_the_invalid_entry(models, changes, said):
    change_json(models / "hf" / "config.json", **changes)
    assert_error(models / "hf", said)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_the_error_for_invalid_json_names_the_file(models, name, content):
    (models / "hf_sharded" / name).write_bytes(content)
    assert_error(models / "hf_sharded", name)


def test_an_old_config_with_the_sizes_alone_is_enough(models, golden):
    config = json.loads((models / "hf" / "config.json").read_text(encoding="utf-8"))
    old = {name: config[name] for name in ("n_embd", "n_head", "n_layer", "vocab_size")} | {"n_ctx": 16}
    (models / "hf" / "config.json").write_text(json.dumps(old), encoding="utf-8")
    assert_golden(models / "hf", golden)


def test_tokenizer_json_alone_is_enough(models, golden):
    folder = models / "hf"
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    before = load_parts(folder)[0].encode("the then")
    tokenizer = {"pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": vocabulary, "merges": merges}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    assert_golden(folder, golden)
    assert load_parts(folder)[0].encode("the then") == before
    (folder / "tokenizer.json").unlink()
    assert_error(folder, r"lacks the vocabulary.*tokenizer\.json")
