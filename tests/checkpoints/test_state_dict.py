"""Hugging Face and nanoGPT checkpoints: logits, conversion, checks.

The expected logits are those that transformers and torch computed. The folders are in golden_formats.zip, as
transformers' save_pretrained and torch.save wrote them; make_golden_formats.py made the archive.
"""

import mmap
import os
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import (
    ROOT,
    arrays,
    assert_error,
    assert_golden,
    change_json,
    change_tensors,
    files_in,
    load_parts,
    roots_of,
)

import gpt2
import gpt2_pico
import sampling
from checkpoints import files, mapped
from checkpoints.state_dict import FLOAT32_NAME
from utils import CheckpointError

HUGGING_FACE = ["hf", "hf_float16", "hf_bfloat16", "hf_sharded", "hf_gelu", "hf_relu_eps_inner"]
NANOGPT = ["nano_characters", "nano_padded"]
CONVERTED = ["hf_float16", "hf_bfloat16", "hf_sharded", *NANOGPT]


# ---- logits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [gpt2, gpt2_pico])
@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_logits_equal_those_of_transformers_and_torch_in_the_first_and_the_second_load(models, golden, name, module):
    assert_golden(models / name, golden, module=module)
    assert_golden(models / name, golden, module=module)


def test_the_golden_logits_differ_between_the_models(golden):
    assert all(golden[name].std() > 0.5 for name in golden if name != "ids")
    for name in HUGGING_FACE[1:3] + HUGGING_FACE[4:]:
        assert np.abs(golden[name] - golden["hf"]).max() > 5e-4  # 25 times the tolerance above


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_hyper_parameters_have_openai_s_names(models, name):
    encoder, hparams, params = load_parts(models / name)
    assert hparams.items() >= {"n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 2, "n_vocab": encoder.n_vocab}.items()
    assert params["wte"].shape == (encoder.n_vocab, 8) and params["wpe"].shape == (16, 8)


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_loading_needs_neither_tensorflow_nor_torch_nor_transformers(models, golden, name, monkeypatch):
    for module in ("tensorflow", "torch", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    assert_golden(models / name, golden)


# ---- mapped and converted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_all_weights_are_read_only_views_of_one_mapping(models, name):
    weights = list(arrays(load_parts(models / name)[2]))
    for array in weights:
        assert type(array) is np.ndarray and array.dtype == np.float32
        assert array.flags.c_contiguous and array.flags.aligned and not array.flags.writeable
    roots = roots_of(weights)
    assert len(roots) == 1 and isinstance(roots.pop(), mmap.mmap)


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_only_weights_that_cannot_be_mapped_are_converted_and_add_one_file(models, name):
    before = files_in(models / name)
    load_parts(models / name)
    assert files_in(models / name) == before | ({FLOAT32_NAME} if name in CONVERTED else set())


@pytest.mark.parametrize("name", CONVERTED)
def test_a_second_load_does_not_convert(models, golden, name, monkeypatch):
    load_parts(models / name)
    monkeypatch.setattr(mapped, "write_safetensors", None)
    assert_golden(models / name, golden)


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-1], lambda raw: raw.replace(b"wte", b"wtf", 1)])
def test_a_damaged_converted_file_is_replaced(models, golden, name, damage):
    load_parts(models / name)
    copy = models / name / FLOAT32_NAME
    copy.write_bytes(damage(copy.read_bytes()))
    assert_golden(models / name, golden)


@pytest.mark.parametrize("name", CONVERTED)
def test_a_changed_source_file_is_converted_again(models, name):
    source = next(path for path in (models / name).iterdir() if path.suffix in (".pt", ".safetensors"))
    copy = models / name / FLOAT32_NAME
    load_parts(models / name)
    made = copy.stat().st_ino
    os.utime(source, ns=(1, 1))
    load_parts(models / name)
    assert copy.stat().st_ino != made


def test_new_weights_in_the_source_file_are_loaded(models, golden):
    folder = models / "hf_float16"
    load_parts(folder)
    shutil.copy(models / "hf_bfloat16" / "model.safetensors", folder / "model.safetensors")
    assert_golden(folder, golden, "hf_bfloat16")


@pytest.mark.parametrize("function", ["locked", "replacing"])
@pytest.mark.parametrize("name", CONVERTED)
def test_a_model_in_a_read_only_folder_is_converted_for_this_run(models, golden, name, function, monkeypatch):
    original = getattr(files, function)

    def refuse(path):
        if models / name in (path, path.parent):
            raise OSError(30, "Read-only file system", str(path))
        return original(path)

    before = files_in(models / name)
    monkeypatch.setattr(files, function, refuse)
    assert_golden(models / name, golden)
    assert files_in(models / name) == before


# ---- which tensors are accepted --------------------------------------------------------------------------------


def without_prefix(tensors):
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def masks(prefix):
    mask = np.tril(np.ones((1, 1, 16, 16), np.float32))
    return {f"{prefix}h.{i}.attn.bias": mask for i in range(2)} | {
        f"{prefix}h.{i}.attn.masked_bias": np.float32([-1e4]) for i in range(2)
    }


@pytest.mark.parametrize(
    "change",
    [
        without_prefix,
        lambda t: t | masks("transformer."),
        lambda t: without_prefix(t) | masks(""),
        lambda t: without_prefix(t) | {name: mask.astype(bool) for name, mask in masks("").items()},
        lambda t: t | {"lm_head.weight": t["transformer.wte.weight"]},
        lambda t: {name: t[name] for name in reversed(t)},
        lambda t: {name: tensor.astype(np.float64) for name, tensor in t.items()},
        lambda t: t | {"transformer.ln_f.weight": t["transformer.ln_f.weight"].astype(np.float64)},
    ],
)
def test_prefixes_masks_a_tied_head_the_order_and_the_float_type_change_no_logits(models, golden, change):
    change_tensors(models / "hf", change)
    assert_golden(models / "hf", golden)


def test_a_padded_vocabulary_generates_no_id_beyond_the_tokenizer_s(models, golden):
    change_json(models / "hf" / "config.json", vocab_size=40)
    wte, padding = "transformer.wte.weight", np.full((9, 8), 100, np.float32)
    change_tensors(models / "hf", lambda t: t | {wte: np.concatenate([t[wte], padding])})
    assert_golden(models / "hf", golden)
    _, hparams, params = load_parts(models / "hf")
    sampler = sampling.make_sampler(temperature=100)
    for ids in ([30], [1, 2]):
        found = list(gpt2.generate(ids, params, hparams["n_head"], 12, sampler, np.random.default_rng(0)))
        assert len(found) == 12 and max(found) < 31


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t | {"lm_head.weight": np.zeros((3, 8), np.float32)}, r"lm_head\.weight: expected F32 \[31, 8\]"),
        (lambda t: t | {"wte.weight": t["transformer.wte.weight"]}, r"holds wte\.weight twice"),
        (lambda t: t | {"h.0.attn.extra": np.zeros(3, np.float32)}, r"h\.0\.attn\.extra: expected nothing, found F32"),
        (lambda t: {n: x for n, x in t.items() if "h.1.ln_2.bias" not in n}, r"h\.1\.ln_2\.bias: expected F32 \[8\]"),
        (lambda t: t | {"transformer.wpe.weight": np.zeros((15, 8), np.float32)}, r"wpe\.weight: expected F32"),
        (lambda t: t | {"transformer.ln_f.bias": np.zeros(8, np.int32)}, r"ln_f\.bias: expected F32 \[8\], found I32"),
        (lambda t: {n: x.T.copy() for n, x in t.items()}, r"expected F32 \[8, 24\], found F32 \[24, 8\]"),
    ],
)
def test_the_error_for_tensors_that_do_not_fit_the_config_gives_the_reason(models, change, said):
    change_tensors(models / "hf", change)
    assert_error(models / "hf", said)


def test_weights_declared_untied_need_an_output_layer(models, golden):
    change_json(models / "hf" / "config.json", tie_word_embeddings=False)
    assert_error(models / "hf", r"lm_head\.weight: expected F32 \[31, 8\], found nothing")
    change_tensors(models / "hf", lambda t: t | {"lm_head.weight": t["transformer.wte.weight"]})
    assert_golden(models / "hf", golden)


def test_an_output_layer_that_differs_from_the_embedding_gives_the_logits(models, golden):
    change_tensors(models / "hf", lambda t: t | {"lm_head.weight": 2 * t["transformer.wte.weight"]})
    assert_golden(models / "hf", golden | {"hf": 2 * golden["hf"]})


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_embedding_is_taken_from_an_equal_output_layer_unless_the_two_are_declared_untied(models, golden, is_tied):
    change_json(models / "hf" / "config.json", tie_word_embeddings=is_tied)
    change_tensors(models / "hf", lambda t: {n.replace("transformer.wte", "lm_head"): x for n, x in t.items()})
    if is_tied:
        assert_golden(models / "hf", golden)
    else:
        assert_error(models / "hf", r"wte\.weight: expected F32 \[31, 8\], found nothing")


# ---- damage ----------------------------------------------------------------------------------------------------


DAMAGED = [("hf", "config.json"), ("hf", "model.safetensors"), ("hf", "vocab.json"), ("hf", "merges.txt")]
DAMAGED += [("hf_bfloat16", "model.safetensors"), ("hf_sharded", "model.safetensors.index.json")]
DAMAGED += [("nano_characters", "ckpt.pt"), ("nano_characters", "meta.pkl"), ("nano_padded", "ckpt.pt")]


@pytest.mark.parametrize(("name", "file"), DAMAGED)
def test_random_damage_raises_checkpoint_error_or_nothing(golden_folders, tmp_path, name, file):
    folder = shutil.copytree(golden_folders / name, tmp_path / name)
    raw = (folder / file).read_bytes()
    # the structure of a file is at its start, that of a zip archive at its end
    edges = st.integers(0, min(400, len(raw) - 1)) | st.integers(1, min(400, len(raw))).map(lambda n: len(raw) - n)

    @given(
        st.lists(st.tuples(edges | st.integers(0, len(raw) - 1), st.integers(0, 255)), min_size=1, max_size=4),
        st.integers(0, len(raw)) | st.just(len(raw)),
    )
    @settings(derandomize=True, deadline=None, max_examples=40)
    def damage(changes, length):
        damaged = bytearray(raw)
        for place, byte in changes:
            damaged[place] = byte
        (folder / file).write_bytes(damaged[:length])
        (folder / FLOAT32_NAME).unlink(missing_ok=True)
        try:
            encoder, hparams, params = load_parts(folder)
        except CheckpointError as error:
            assert len(str(error)) < 2000
        else:
            with np.errstate(all="ignore"):
                assert len(gpt2.gpt2([0], **params, n_head=hparams["n_head"])[0]) == encoder.n_vocab

    tracemalloc.start()
    damage()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25


# ---- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def complete(capsys, monkeypatch, models):
    """Return a function that runs the command with a prompt and a model and returns the text it prints."""

    def run(prompt, model, **flags):
        monkeypatch.setattr(sys, "stdin", None)  # no pipe
        gpt2.main(prompt, n_tokens_to_generate=5, model_size=str(models / model), models_dir=str(models), **flags)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
@pytest.mark.parametrize("prompt", ["the hen", ""])
def test_the_command_continues_a_prompt_and_an_empty_prompt(complete, name, prompt):
    text = complete(prompt, name, temperature=1.0, seed=3)
    assert text.endswith("\n") and len(text) > 1


def test_an_empty_prompt_to_a_character_model_equals_a_newline(complete):
    assert complete("", "nano_characters") == complete("\n", "nano_characters")


def test_an_unknown_character_is_a_usage_error_that_names_it(models):
    words = [sys.executable, "gpt2.py", "héllo", "--model_size", str(models / "nano_characters")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.decode("utf-8").startswith("Error: this model has no token for 'é' (U+00E9)")
