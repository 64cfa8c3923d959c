"""GPT-Neo, llm.c, GGUF, minGPT and LLMs-from-scratch: damaged, incomplete and unsupported files and settings.

test_golden_models.py compares what sound files compute.
"""

import json
import struct
import sys

import numpy as np
import pytest
from conftest import requires
from gguf_builder import gguf_file_of
from model_folders import assert_error, change_json, load_parts

import gpt2
from checkpoints import gguf_file

HEADER = 1024  # bytes, in files of llm.c


def put(path, position, number):
    """Replace an int32 in a header."""
    content = bytearray(path.read_bytes())
    content[4 * position : 4 * position + 4] = struct.pack("<i", number)
    path.write_bytes(content)


# ---- GPT-Neo ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["neo"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window_size": 0}, "window_size is 0; it must be a whole number, 1 or more"),
        ({"window_size": True}, "window_size is True"),
        ({"attention_layers": ["global"]}, r"is \['global'\]; it must name global or local for each of the 2 layers"),
        ({"attention_layers": ["global", "sparse"]}, r"is \['global', 'sparse'\]"),
        ({"attention_layers": None, "attention_types": 5}, "is 5; it must name global or local"),
        ({"attention_layers": None, "attention_types": [[["global"], 10**12]]}, "is "),
        ({"num_heads": 3}, "n_embd 8 is not a multiple of n_head 3"),
        ({"hidden_size": None}, "hidden_size is missing or null"),
        ({"num_layers": 3}, "h\\.2\\."),
        ({"activation_function": "mish"}, "activation_function is 'mish'"),
    ],
)
def test_the_error_for_a_config_of_gpt_neo_names_the_invalid_entry(folder, changes, said):
    if changes.get("num_layers"):
        changes = changes | {"attention_layers": ["global"] * 3}
    change_json(folder / "config.json", **changes)
    if "attention_types" in changes and isinstance(changes["attention_types"], list):
        load_parts(folder)  # a repetition beyond the number of layers has no effect
        return
    assert_error(folder, said)


@pytest.mark.parametrize("folder", ["plain", "neo"], indirect=True)
def test_a_model_with_quantized_weights_is_refused_by_name(folder):
    change_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert_error(folder, r"quantization_config is \{'bits': 4, 'quant_method': 'gptq'\}; .*choose the original model")


# ---- llm.c -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["llm_c"], indirect=True)
@pytest.mark.parametrize(
    ("position", "number", "said"),
    [
        (2, 0, r"model\.bin: n_ctx is 0"),
        (3, -1, "n_vocab is -1"),
        (4, 3, "has 13,184 bytes of weights; the sizes in its header give 16,672 for float32 or 8,336 for bfloat16"),
        (4, 2**31 - 1, "n_layer is 2147483647"),
        (5, 3, "n_embd 8 is not a multiple of n_head 3"),
        (6, 9, "n_embd 9 is not a multiple of n_head 2"),
        (7, 2**31 - 1, "has 13,184 bytes of weights; the sizes in its header give"),
    ],
)
def test_the_error_for_a_header_of_llm_c_names_the_invalid_number(folder, position, number, said):
    put(folder / "model.bin", position, number)
    assert_error(folder, said)


@pytest.mark.parametrize("folder", ["llm_c"], indirect=True)
@pytest.mark.parametrize(
    ("n", "said"),
    [
        (4, "does not begin with the header"),
        (HEADER - 1, "does not begin"),
        (HEADER, "has 0 bytes"),
        (-1, "has 13,183"),
    ],
)
def test_a_truncated_model_of_llm_c_is_an_error(folder, n, said):
    path = folder / "model.bin"
    path.write_bytes(path.read_bytes()[:n])
    assert_error(folder, said)


@pytest.mark.parametrize("folder", ["llm_c"], indirect=True)
@pytest.mark.parametrize(
    ("position", "number", "said"),
    [
        (0, 1, r"gpt2_tokenizer\.bin does not begin with the header"),
        (1, 3, "does not begin with the header"),
        (2, 0, "does not begin with the header"),
        (2, 100, "ends after 31 of 100 tokens"),
        (3, 99, "has 31 tokens, of which number 99 ends a text"),
        (3, -1, "number -1 ends a text"),
    ],
)
def test_the_error_for_a_tokenizer_of_llm_c_names_the_fault(folder, position, number, said):
    put(folder / "gpt2_tokenizer.bin", position, number)
    assert_error(folder, said)


@pytest.mark.parametrize("folder", ["llm_c"], indirect=True)
@pytest.mark.parametrize("token", [b"\0", b"\1b"])
def test_an_empty_token_and_two_equal_tokens_of_llm_c_are_an_error(folder, token):
    path = folder / "gpt2_tokenizer.bin"
    content = path.read_bytes()
    path.write_bytes(content[:HEADER] + token + content[HEADER + 2 :])
    assert_error(folder, "has an empty token or two equal ones|ends after")


@pytest.mark.parametrize("folder", ["llm_c", "from_scratch", "min_gpt"], indirect=True)
def test_the_error_for_a_missing_vocabulary_tells_where_it_comes_from(folder):
    for name in ("gpt2_tokenizer.bin", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    assert_error(folder, r"lacks GPT-2's vocabulary, encoder\.json and vocab\.bpe: .*--model_size 124M")


# ---- GGUF ------------------------------------------------------------------------------------------------------

ANY = object()  # remove the setting


def change_gguf(path, settings=(), infos=()):
    """Write a file again with changed settings and changed descriptions of tensors."""
    raw = path.read_bytes()
    old_settings, old_infos, data = gguf_file.read_head(np.frombuffer(raw, np.uint8), path)
    changed = {key: value for key, value in (old_settings | dict(settings)).items() if value is not ANY}
    path.write_bytes(gguf_file_of(changed, old_infos | dict(infos), raw[data:]))


@pytest.mark.parametrize("folder", ["gguf"], indirect=True)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"general.architecture": "llama"}, "general.architecture is 'llama'; it must be gpt2"),
        ({"general.architecture": ANY}, "general.architecture is missing or null"),
        ({"general.alignment": 0}, "general.alignment is 0"),
        ({"general.alignment": "x"}, "general.alignment is 'x'"),
        ({"gpt2.block_count": "1"}, "gpt2.block_count is '1'"),
        ({"gpt2.block_count": 2}, r"h\.1\."),
        ({"gpt2.context_length": ANY}, "gpt2.context_length is missing or null"),
        ({"gpt2.attention.head_count": 5}, "n_embd 32 is not a multiple of n_head 5"),
        ({"gpt2.attention.layer_norm_epsilon": "x"}, "layer_norm_epsilon is 'x'; it must be a number from 0 to 1"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is 'llama', with the rule 'gpt-2'; it must be gpt2"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "with the rule 'llama-bpe'"),
        ({"tokenizer.ggml.tokens": ANY}, "the number of tokenizer.ggml.tokens is missing or null"),
        ({"tokenizer.ggml.token_type": [1]}, "has 31 tokens but 1 values in tokenizer.ggml.token_type"),
        ({"tokenizer.ggml.token_type": 1}, "tokenizer.ggml.token_type is 1; it must be a list"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "has the merge 'a b c', which is not two symbols"),
        ({"tokenizer.ggml.merges": True}, "tokenizer.ggml.merges is True; it must be a list"),
    ],
)
def test_the_error_for_a_setting_in_a_gguf_file_names_it(folder, settings, said):
    change_gguf(folder / "gguf.gguf", settings)
    assert_error(folder, said)


@pytest.mark.parametrize("folder", ["gguf"], indirect=True)
@pytest.mark.parametrize(
    ("infos", "said"),
    [
        ({"token_embd.weight": gguf_file.Info((31, 32), 0, 2**63)}, "its tensor token_embd.weight ends at byte 9,223"),
        ({"token_embd.weight": gguf_file.Info((2**40, 2**40), 0, 0)}, "its tensor token_embd.weight ends at byte"),
        ({"token_embd.weight": gguf_file.Info((30, 32), 0, 0)}, r"wte\.weight: expected F32 \[31, 32\]"),
        ({"blk.7.ffn_up.weight": gguf_file.Info((1,), 0, 0)}, r"h\.7\.mlp\.c_fc\.weight"),
    ],
)
def test_the_error_for_a_tensor_in_a_gguf_file_names_it(folder, infos, said):
    change_gguf(folder / "gguf.gguf", infos=infos)
    assert_error(folder, said)


@pytest.mark.parametrize("folder", ["gguf"], indirect=True)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGUF", "it is cut off, or one of its lengths is wrong"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1, not 2 or 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "1,152,921,504,606,846,976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63), "it is cut off"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 99) + bytes(90), "the unknown type 99"),
    ],
)
def test_a_damaged_head_of_a_gguf_file_is_an_error(folder, content, said):
    (folder / "gguf.gguf").write_bytes(content)
    assert_error(folder, said)


@pytest.mark.parametrize("folder", ["gguf"], indirect=True)
@pytest.mark.parametrize("n", range(24, 1900, 131))
def test_a_truncated_gguf_file_is_an_error(folder, n):
    path = folder / "gguf.gguf"
    path.write_bytes(path.read_bytes()[:n])
    assert_error(folder, "cannot be read as GGUF|bytes of data")


@pytest.mark.parametrize("folder", ["gguf_q8_0"], indirect=True)
def test_quantized_weights_without_the_package_are_an_error_with_the_pip_command(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert_error(folder, "pip install gguf")


@pytest.mark.parametrize("folder", ["gguf_q8_0"], indirect=True)
@pytest.mark.parametrize(
    ("info", "said"),
    [
        (gguf_file.Info((31, 32), 99, 0), "ggml's type 99, which the installed package gguf does not know"),
        (gguf_file.Info((31, 33), 8, 0), "is no number of blocks"),
    ],
)
def test_the_error_for_a_quantized_tensor_names_its_type_or_shape(folder, info, said):
    requires("gguf")
    change_gguf(folder / "gguf_q8_0.gguf", infos={"token_embd.weight": info})
    assert_error(folder, said)


# ---- LLMs-from-scratch and minGPT ------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["min_gpt", "from_scratch_heads"], indirect=True)
def test_a_missing_number_of_heads_is_an_error_with_the_remedy(folder):
    (folder / "config.json").unlink()
    assert_error(folder, r"width 8 is no multiple of 64: put a file config\.json with .*n_heads")


@pytest.mark.parametrize("folder", ["from_scratch_heads"], indirect=True)
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"n_heads": 3}, "n_embd 8 is not a multiple of n_head 3"),
        ({"n_heads": "2"}, "n_head is '2'"),
        ({"n_heads": 2, "activation": "mish"}, "activation is 'mish'; it must be one of"),
    ],
)
def test_the_error_for_a_config_beside_a_file_names_the_invalid_entry(folder, config, said):
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_error(folder, said)


def make_state_dict(folder, old=b"", new=b""):
    """Make a folder of transformers one that holds a state dict alone, and replace a name in it."""
    weights = folder / "pytorch_model.bin"
    content = weights.read_bytes()
    (folder / "model.pth").write_bytes(content.replace(old, new) if old else content)
    weights.unlink()
    (folder / "config.json").write_text('{"n_heads": 2}', encoding="utf-8")


@pytest.mark.parametrize("folder", ["torch_stream", "torch_zip"], indirect=True)
def test_a_state_dict_of_transformers_is_read_without_its_config(folder, expected):
    make_state_dict(folder)
    _, hparams, params = load_parts(folder)
    logits = gpt2.gpt2(expected["ids"].tolist(), **params, n_head=hparams["n_head"])
    np.testing.assert_allclose(logits, expected[f"{folder.name}/logits"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("folder", ["torch_stream"], indirect=True)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"wte.weight", b"wtx.weight", r"its names are .*wtx\.weight"),
        (b"ln_f.weight", b"ln_g.weight", r"ln_f\.weight"),
    ],
)
def test_the_error_for_a_state_dict_with_unknown_names_shows_them(folder, old, new, said):
    make_state_dict(folder, old, new)
    assert_error(folder, said)
