"""Folders of Hugging Face and of nanoGPT, against the logits that transformers and torch computed from them once.

The folders are in golden_formats.zip, as transformers' save_pretrained and torch.save left them; make_golden_formats.py
made them.
"""

import json
import mmap
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import gpt2
import gpt2_pico
import sampling
import utils
from checkpoints import files, mapped, nanogpt
from utils import CheckpointError, load_encoder_hparams_and_params

ROOT = Path(__file__).parents[2]
HUGGING_FACE = ["hf", "hf_float16", "hf_bfloat16", "hf_sharded", "hf_gelu", "hf_relu_eps_inner"]
NANOGPT = ["nano_characters", "nano_padded"]
CONVERTED = ["hf_float16", "hf_bfloat16", "hf_sharded", *NANOGPT]
COPY = "model.float32.safetensors"


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    with zipfile.ZipFile(ROOT / "tests" / "golden_formats.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def golden(pristine):
    with np.load(pristine / "golden.npz") as file:
        return dict(file)


@pytest.fixture
def models(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "models")


def load(folder):
    return load_encoder_hparams_and_params(folder, folder.parent)


def logits_of(folder, ids, module=gpt2):
    _, hparams, params = load(folder)
    return module.gpt2(ids, **params, n_head=hparams["n_head"])


def assert_golden(folder, golden, name=None, module=gpt2):
    expected = golden[name or folder.name]
    found = logits_of(folder, golden["ids"], module)
    np.testing.assert_allclose(found, expected[:, : found.shape[1]], rtol=0, atol=2e-5)


def arrays(tree):
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, dict | list):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from arrays(child)


def files_in(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def change_tensors(folder, change):
    """Rewrite model.safetensors with the tensors that `change` makes of those in it."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file)


def refused(folder, match):
    with pytest.raises(CheckpointError, match=match) as error:
        load(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


# ---- the same logits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [gpt2, gpt2_pico])
@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_logits_equal_those_of_transformers_and_torch_the_first_time_and_the_second(models, golden, name, module):
    assert_golden(models / name, golden, module=module)
    assert_golden(models / name, golden, module=module)


def test_the_golden_logits_tell_the_models_apart(golden):
    assert all(golden[name].std() > 0.5 for name in golden if name != "ids")
    for name in HUGGING_FACE[1:3] + HUGGING_FACE[4:]:
        assert np.abs(golden[name] - golden["hf"]).max() > 5e-4  # 25 times the tolerance above


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_the_hyper_parameters_are_named_as_in_an_official_folder(models, name):
    encoder, hparams, params = load(models / name)
    assert hparams.items() >= {"n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 2, "n_vocab": encoder.n_vocab}.items()
    assert params["wte"].shape == (encoder.n_vocab, 8) and params["wpe"].shape == (16, 8)


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_neither_tensorflow_nor_torch_nor_transformers_is_needed(models, golden, name, monkeypatch):
    for module in ("tensorflow", "torch", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    assert_golden(models / name, golden)


def test_a_folder_with_hparams_json_is_official_whatever_else_lies_there(models):
    (models / "hf" / "hparams.json").write_text("{}", encoding="utf-8")
    refused(models / "hf", "lacks encoder.json, vocab.bpe")


def test_a_folder_of_no_layout_is_told_what_each_layout_has(models):
    (models / "hf" / "config.json").unlink()
    refused(models / "hf", r"hparams\.json.*config\.json.*ckpt\.pt")


def test_a_name_at_hugging_face_is_told_which_files_to_put_where(tmp_path):
    with pytest.raises(ValueError, match="there is no model 'distilbert/distilgpt2'") as error:
        utils.find_model("distilbert/distilgpt2", tmp_path)
    for word in ("config.json", "model.safetensors", "merges.txt", str(tmp_path / "distilgpt2")):
        assert word in str(error.value)
    assert str(error.value).endswith("--model_size distilgpt2")


# ---- mapped and converted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_all_weights_are_read_only_views_of_one_mapping(models, name):
    roots = set()
    for array in arrays(load(models / name)[2]):
        assert type(array) is np.ndarray and array.dtype == np.float32
        assert array.flags.c_contiguous and array.flags.aligned and not array.flags.writeable
        while isinstance(array, np.ndarray):
            array = array.base
        roots.add(array)
    assert len(roots) == 1 and isinstance(roots.pop(), mmap.mmap)


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
def test_only_what_cannot_be_mapped_is_converted_and_leaves_one_file(models, name):
    before = files_in(models / name)
    load(models / name)
    assert files_in(models / name) == before | ({COPY} if name in CONVERTED else set())


def test_loading_float32_copies_nothing(models):
    folder = models / "hf"
    change_json(folder / "config.json", n_positions=2**20)
    change_tensors(folder, lambda t: t | {"transformer.wpe.weight": np.ones((2**20, 8), np.float32)})  # 32 MB
    load(folder)
    tracemalloc.start()
    params = load(folder)[2]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert params["wpe"].nbytes == 2**25 and peak < 2**21


@pytest.mark.parametrize("name", CONVERTED)
def test_a_second_run_does_not_convert_again(models, golden, name, monkeypatch):
    load(models / name)
    monkeypatch.setattr(mapped, "write_safetensors", None)
    assert_golden(models / name, golden)


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-1], lambda raw: raw.replace(b"wte", b"wtf", 1)])
def test_a_damaged_copy_is_made_again(models, golden, name, damage):
    load(models / name)
    copy = models / name / COPY
    copy.write_bytes(damage(copy.read_bytes()))
    assert_golden(models / name, golden)


@pytest.mark.parametrize("name", CONVERTED)
def test_a_copy_is_made_again_when_a_source_has_changed(models, name):
    source = next(path for path in (models / name).iterdir() if path.suffix in (".pt", ".safetensors"))
    copy = models / name / COPY
    load(models / name)
    made = copy.stat().st_ino
    os.utime(source, ns=(1, 1))
    load(models / name)
    assert copy.stat().st_ino != made


def test_a_model_trained_on_is_noticed(models, golden):
    folder = models / "hf_float16"
    load(folder)
    shutil.copy(models / "hf_bfloat16" / "model.safetensors", folder / "model.safetensors")
    assert_golden(folder, golden, "hf_bfloat16")


@pytest.mark.parametrize("name", ["hf_float16", "hf_sharded"])
def test_the_copy_alone_is_enough_for_a_hugging_face_folder(models, golden, name):
    load(models / name)
    for path in models.joinpath(name).glob("model*"):
        if path.name != COPY:
            path.unlink()
    assert_golden(models / name, golden)
    change_json(models / name / "config.json", n_layer=1)
    refused(models / name, r"does not fit config\.json")


@pytest.mark.parametrize("function", ["locked", "new_file"])
@pytest.mark.parametrize("name", CONVERTED)
def test_a_read_only_folder_works_without_the_copy(models, golden, name, function, monkeypatch):
    original = getattr(files, function)

    def refuse(path):
        if models / name in (path, path.parent):
            raise OSError(30, "Read-only file system", str(path))
        return original(path)

    before = files_in(models / name)
    monkeypatch.setattr(files, function, refuse)
    assert_golden(models / name, golden)
    assert files_in(models / name) == before


# ---- Hugging Face: tensors -------------------------------------------------------------------------------------


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
def test_prefixes_masks_a_tied_head_any_order_and_other_floats_change_nothing(models, golden, change):
    change_tensors(models / "hf", change)
    assert_golden(models / "hf", golden)


def test_tensors_that_lie_askew_are_converted(models, golden):
    file = models / "hf" / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    file.write_bytes((length + 1).to_bytes(8, "little") + raw[8 : 8 + length] + b" " + raw[8 + length :])
    assert_golden(models / "hf", golden)
    assert COPY in files_in(models / "hf")


def test_a_vocabulary_that_was_padded_gives_no_ids_past_the_tokenizer_s(models, golden):
    change_json(models / "hf" / "config.json", vocab_size=40)
    wte, padding = "transformer.wte.weight", np.full((9, 8), 100, np.float32)
    change_tensors(models / "hf", lambda t: t | {wte: np.concatenate([t[wte], padding])})
    assert_golden(models / "hf", golden)
    _, hparams, params = load(models / "hf")
    sampler = sampling.make_sampler(temperature=100)
    for ids in ([], [1, 2]):
        found = list(gpt2.generate(ids, params, hparams["n_head"], 12, sampler, np.random.default_rng(0)))
        assert len(found) == 12 and max(found) < 31


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t | {"lm_head.weight": t["transformer.wte.weight"] + 1}, "a separate output layer"),
        (lambda t: t | {"lm_head.weight": np.zeros((3, 8), np.float32)}, "a separate output layer"),
        (lambda t: t | {"wte.weight": t["transformer.wte.weight"]}, r"holds wte\.weight twice"),
        (lambda t: t | {"h.0.attn.extra": np.zeros(3, np.float32)}, r"h\.0\.attn\.extra: expected nothing, found F32"),
        (lambda t: {n: x for n, x in t.items() if "h.1.ln_2.bias" not in n}, r"h\.1\.ln_2\.bias: expected F32 \[8\]"),
        (lambda t: t | {"transformer.wpe.weight": np.zeros((15, 8), np.float32)}, r"wpe\.weight: expected F32"),
        (lambda t: t | {"transformer.ln_f.bias": np.zeros(8, np.int32)}, r"ln_f\.bias: expected F32 \[8\], found I32"),
        (lambda t: {n: x.T.copy() for n, x in t.items()}, r"expected F32 \[8, 24\], found F32 \[24, 8\]"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused_with_the_reason(models, change, said):
    change_tensors(models / "hf", change)
    refused(models / "hf", said)


def test_weights_said_to_be_untied_need_the_same_head_all_the_same(models, golden):
    change_json(models / "hf" / "config.json", tie_word_embeddings=False)
    refused(models / "hf", "a separate output layer")
    change_tensors(models / "hf", lambda t: t | {"lm_head.weight": t["transformer.wte.weight"]})
    assert_golden(models / "hf", golden)


# ---- Hugging Face: config.json and the rest --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"model_type": "gpt_neox"}, "model_type is 'gpt_neox'.*'gpt2'"),
        ({"activation_function": "silu"}, "activation_function is 'silu'; it must be one of gelu_new, gelu_py"),
        ({"activation_function": ["gelu"]}, "activation_function is"),
        ({"layer_norm_epsilon": -1}, "layer_norm_epsilon is -1"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5'"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"n_embd": 9}, "n_embd 9 is not a multiple of n_head 2"),
        ({"n_head": 0}, "n_head is 0"),
        ({"n_positions": 1e3}, r"n_positions is 1000\.0"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"vocab_size": 2**40}, "vocab_size is 1099511627776"),
        ({"vocab_size": 30}, "the vocabulary has 31 tokens but .* says 30"),
        ({"n_layer": True}, "n_layer is True"),
        ({"n_layer": 3}, r"h\.2\.ln_1\.weight: expected F32"),
        ({"n_inner": -5}, "n_inner is -5"),
        ({"n_inner": 16}, r"c_fc\.weight: expected F32 \[8, 16\], found F32 \[8, 32\]"),
    ],
)
def test_a_config_that_is_not_gpt2_is_refused_by_the_name_of_what_differs(models, changes, said):
    change_json(models / "hf" / "config.json", **changes)
    refused(models / "hf", said)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_none_is_refused_by_the_file_s_name(models, name, content):
    (models / "hf_sharded" / name).write_bytes(content)
    refused(models / "hf_sharded", name)


def test_an_older_config_says_little_and_n_ctx(models, golden):
    config = json.loads((models / "hf" / "config.json").read_text(encoding="utf-8"))
    old = {name: config[name] for name in ("n_embd", "n_head", "n_layer", "vocab_size")} | {"n_ctx": 16}
    (models / "hf" / "config.json").write_text(json.dumps(old), encoding="utf-8")
    assert_golden(models / "hf", golden)


def test_tokenizer_json_alone_is_enough(models, golden):
    folder = models / "hf"
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    before = load(folder)[0].encode("the then")
    tokenizer = {"pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": vocabulary, "merges": merges}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    assert_golden(folder, golden)
    assert load(folder)[0].encode("the then") == before
    (folder / "tokenizer.json").unlink()
    refused(folder, r"lacks the vocabulary.*tokenizer\.json")


def test_missing_weights_are_named(models):
    (models / "hf" / "model.safetensors").unlink()
    refused(models / "hf", r"lacks model\.safetensors")
    (models / "hf" / "pytorch_model.bin").touch()
    refused(models / "hf", r"pytorch_model\.bin is not supported.*save_pretrained")
    (models / "hf_sharded" / "model-00002-of-00003.safetensors").unlink()
    refused(models / "hf_sharded", r"lacks model-00002-of-00003\.safetensors")


@pytest.mark.parametrize("weight_map", [None, [], {}, {"wte.weight": 5}, {"wte.weight": "../hf/model.safetensors"}])
def test_an_index_names_files_beside_it_or_is_refused(models, weight_map):
    change_json(models / "hf_sharded" / "model.safetensors.index.json", weight_map=weight_map)
    refused(models / "hf_sharded", "has no weight_map from tensor names to files in the same folder")


# ---- nanoGPT ---------------------------------------------------------------------------------------------------


def test_characters_are_found_beside_the_checkpoint_or_where_nanogpt_keeps_them(models, golden):
    folder = models / "nano_characters"
    data = models / "data" / "letters"
    data.mkdir(parents=True)
    (folder / "meta.pkl").rename(data / "meta.pkl")
    assert_golden(folder, golden)
    encoder = load(folder)[0]
    assert encoder.decode(encoder.encode("hello you!\n")) == "hello you!\n"
    (data / "meta.pkl").unlink()
    refused(folder, r"lacks meta\.pkl, the characters of its 29 tokens: .*data.letters")


def test_gpt2_s_vocabulary_is_taken_from_a_model_in_models_dir(models, golden):
    folder = models / "nano_padded"
    (models / "355M").mkdir()
    (folder / "vocab.json").rename(models / "355M" / "encoder.json")
    (folder / "merges.txt").rename(models / "355M" / "vocab.bpe")
    assert_golden(folder, golden)
    shutil.rmtree(models / "355M")
    refused(folder, r"lacks meta\.pkl, the characters of its 64 tokens")


def test_a_model_of_gpt2_s_size_without_the_vocabulary_says_where_to_get_it(models, monkeypatch):
    monkeypatch.setattr(nanogpt, "GPT2_N_VOCAB", 60)
    (models / "nano_padded" / "vocab.json").unlink()
    refused(models / "nano_padded", r"encoder\.json and vocab\.bpe.*--model_size 124M")


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
        (Path("x"), r"names pathlib.* was not run"),
    ],
)
def test_a_meta_pkl_that_is_not_the_characters_is_refused(models, meta, said):
    (models / "nano_characters" / "meta.pkl").write_bytes(pickle.dumps(meta))
    refused(models / "nano_characters", said)


def test_a_meta_pkl_that_would_take_for_ever_to_print_is_refused_at_once(models):
    endless = b"\x80\x02}X\x04\x00\x00\x00stoi}X\x01\x00\x00\x00a)" + b"q\x00h\x00\x86" * 200 + b"ss."
    (models / "nano_characters" / "meta.pkl").write_bytes(endless)
    refused(models / "nano_characters", "has no stoi")


@pytest.mark.parametrize("dataset", [b"../data", b"letter\0", b"\xed\xa0\x80test", b"/etc/pa"])
def test_a_dataset_that_is_no_plain_name_is_looked_for_nowhere(models, dataset):
    folder = models / "nano_characters"
    (folder / "meta.pkl").unlink()
    (models / "meta.pkl").touch()
    rewrite_pickle(folder / "ckpt.pt", lambda data: data.replace(b"letters", dataset[:7]))
    refused(folder, r"lacks meta\.pkl")


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_malicious_pickle_is_refused_by_the_name_of_what_it_calls_and_runs_nothing(models, tmp_path):
    marker = tmp_path / "marker"
    (models / "nano_characters" / "meta.pkl").write_bytes(pickle.dumps({"stoi": Evil(marker)}))
    refused(models / "nano_characters", rf"meta\.pkl: its pickle names {os.system.__module__}\.system.* was not run")
    with zipfile.ZipFile(models / "nano_padded" / "ckpt.pt", "w") as archive:
        archive.writestr("ckpt/data.pkl", pickle.dumps({"model": Evil(marker)}))
    refused(models / "nano_padded", rf"ckpt\.pt cannot be read.*names {os.system.__module__}\.system")
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
        (b"block_size", b"block_sise", "block_size is None"),
        (b"transformer.ln_f.weight", b"transformer.ln_g.weight", r"ln_f\.weight: expected F32 \[8\], found nothing"),
        (b"transformer.h.0.attn.c_attn.weight", b"transformer.h.0.attn.c_atnt.weight", "does not fit its model_args"),
        (b"FloatStorage", b"IntegStorage", "names torch.IntegStorage"),
        (b"_rebuild_tensor_v2", b"_rebuild_tensor_v9", "_rebuild_tensor_v9"),
    ],
)
def test_a_checkpoint_that_is_not_what_train_py_saves_is_refused_with_the_reason(models, old, new, said):
    rewrite_pickle(models / "nano_padded" / "ckpt.pt", lambda data: data.replace(old, new))
    refused(models / "nano_padded", said)


def test_biases_are_missing_only_where_the_model_has_none(models):
    # the one place where False follows the name "bias": model_args says True, the tensors say no
    path = models / "nano_characters" / "ckpt.pt"
    rewrite_pickle(path, lambda data: data.replace(b"\x04\x00\x00\x00bias", b"\x04\x00\x00\x00bios"))
    refused(models / "nano_characters", r"ln_1\.bias: expected F32 \[8\], found nothing")


# ---- damage ----------------------------------------------------------------------------------------------------

DAMAGED = [("hf", "config.json"), ("hf", "model.safetensors"), ("hf", "vocab.json"), ("hf", "merges.txt")]
DAMAGED += [("hf_bfloat16", "model.safetensors"), ("hf_sharded", "model.safetensors.index.json")]
DAMAGED += [("nano_characters", "ckpt.pt"), ("nano_characters", "meta.pkl"), ("nano_padded", "ckpt.pt")]


@pytest.mark.parametrize(("name", "file"), DAMAGED)
def test_random_damage_is_one_checkpoint_error_or_none(pristine, tmp_path, name, file):
    folder = shutil.copytree(pristine / name, tmp_path / name)
    raw = (folder / file).read_bytes()
    # the head of a file is where its structure is, or for a zip archive the tail
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
        (folder / COPY).unlink(missing_ok=True)
        try:
            encoder, hparams, params = load(folder)
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
def tell(capsys, monkeypatch, models):
    """What the command prints for a prompt and a model."""

    def told(prompt, model, **flags):
        monkeypatch.setattr(sys, "stdin", None)  # nothing is piped in
        gpt2.main(prompt, n_tokens_to_generate=5, model_size=str(models / model), models_dir=str(models), **flags)
        return capsys.readouterr().out

    return told


@pytest.mark.parametrize("name", [*HUGGING_FACE, *NANOGPT])
@pytest.mark.parametrize("prompt", ["the hen", ""])
def test_the_command_continues_a_prompt_and_an_empty_one(tell, name, prompt):
    text = tell(prompt, name, temperature=1.0, seed=3)
    assert text.endswith("\n") and len(text) > 1


def test_an_empty_prompt_to_a_model_of_characters_starts_a_line(tell):
    assert tell("", "nano_characters") == tell("\n", "nano_characters")


def test_an_unknown_character_is_named_with_exit_code_2(models):
    words = [sys.executable, "gpt2.py", "héllo", "--model_size", str(models / "nano_characters")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.decode("utf-8").startswith("Error: this model has no token for 'é' (U+00E9)")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800", "..", ""])
def test_an_index_with_a_name_no_file_can_have_is_refused(models, name):
    change_json(models / "hf_sharded" / "model.safetensors.index.json", weight_map={"wte.weight": name})
    with pytest.raises(CheckpointError, match="lacks"):
        load(models / "hf_sharded")
