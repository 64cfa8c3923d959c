"""Other people's folders: the models of Hugging Face and of nanoGPT, in the form in which utils.py returns all models.

    Hugging Face   config.json, vocab.json and merges.txt (or tokenizer.json), model.safetensors (or parts of it, with
                   an index). The weights are GPT-2's own, [in, out]; those in float32 are mapped where they lie.
    nanoGPT        ckpt.pt, and meta.pkl if the tokens are characters. The weights are [out, in], there may be no
                   biases, and the vocabulary may have been padded.

Whatever cannot be mapped is converted once, to a float32 safetensors file beside it. How a model differs from GPT-2 is
said in the weights tree: {"mlp": {"activation": "relu", ...}}, {"ln_1": {"eps": 1e-6, ...}}. What the forward pass does
not do at all is refused.
"""

import contextlib
import hashlib
import json
import os
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import utils
from encoder import CharacterEncoder, get_encoder
from torchfile import LARGEST_PICKLE, Tensor, TorchFile, load_pickle
from utils import CheckpointError

COPY = "model.float32.safetensors"  # what is converted, is saved as
FLOATS = ("F32", "F16", "BF16", "F64")

# config.json's names of the sizes, and of the activations; None is GPT-2's own, of which nothing need be said.
SIZES = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}
ACTIVATIONS = {"gelu_new": None, "gelu_pytorch_tanh": None, "gelu": "gelu_erf", "relu": "relu"}

# What the forward pass does; a config.json may leave these out, but not say otherwise.
FIXED = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}

GPT2_N_VOCAB = 50257
LINEAR = re.compile(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight")
NOT_WEIGHTS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # causal masks, which some files have among the weights


class Stored(NamedTuple):
    """A tensor in a file: what safetensors calls its type, its shape, and a function that returns its elements."""

    dtype: str
    shape: tuple
    read: Callable[[], np.ndarray]  # bfloat16 as uint16


def load(folder, models_dir):
    """Return the encoder, the hyper-parameters and the weights, as utils.load_encoder_hparams_and_params does.

    Hyper-parameters: those in utils.HPARAMS; n_vocab is the encoder's. Raises CheckpointError alone.
    """
    try:
        if (folder / "config.json").is_file():
            encoder, hparams, tensors = load_hugging_face(folder)
        else:
            encoder, hparams, tensors = load_nanogpt(folder, models_dir)
    except ValueError as error:  # encoder.py and torchfile.py know no CheckpointError
        raise CheckpointError(str(error)) from error
    params = utils.nest(tensors, hparams["n_layer"])
    params["wte"] = params["wte"][: encoder.n_vocab]  # of a padded vocabulary, no token but those that mean something
    tell_differences(params, hparams.pop("activation"), hparams.pop("eps"))
    return encoder, hparams | {"n_vocab": encoder.n_vocab}, params


def tell_differences(params, activation, eps):
    """Write into the weights tree how the model differs from GPT-2, for gpt2.py's functions to find."""
    for block in params["blocks"]:
        if activation is not None:
            block["mlp"]["activation"] = activation
    if eps != 1e-5:
        for norm in [params["ln_f"], *(block[name] for block in params["blocks"] for name in ("ln_1", "ln_2"))]:
            norm["eps"] = eps


# ---- Hugging Face ----------------------------------------------------------------------------------------------


def load_hugging_face(folder):
    """Return the encoder, the hyper-parameters and the tensors {path: float32 array}."""
    config = folder / "config.json"
    hparams, tied = read_config(config)
    encoder = check_vocabulary(get_vocabulary(folder), hparams["n_vocab"], config)
    shapes, files, copy = utils.layout(hparams), weight_files(folder), folder / COPY
    if not files:  # somebody has kept the converted file alone
        return encoder, hparams, utils.map_tensors(copy, shapes, config.name)
    source = fingerprint(files)
    if is_current(copy, source, shapes):
        return encoder, hparams, utils.map_tensors(copy, shapes)
    stored = collect([pair for file in files for pair in map_stored(file)], folder)
    tensors = select(stored, shapes, folder, config.name, tied)
    arrays = {path: tensor.read() for path, tensor in tensors.items()}
    if len(files) == 1 and all(is_float32(tensor, arrays[path]) for path, tensor in tensors.items()):
        return encoder, hparams, arrays
    return encoder, hparams, converted(tensors, copy, source, shapes)


def read_config(file):
    """Return the hyper-parameters in config.json, and whether the output's weights are the input's (else unknown)."""
    config = utils.read_json_object(file)
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                f"{file}: {name} is {reprlib.repr(config[name])}; only GPT-2 is computed here, where it is {value!r}"
            )
    names = SIZES if "n_positions" in config else SIZES | {"n_ctx": "n_ctx"}
    hparams = {ours: config.get(theirs) for ours, theirs in names.items()}
    if config.get("n_inner") is not None:
        hparams["n_inner"] = config["n_inner"]
    utils.check_hparams(file, hparams, names)
    activation = config.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{file}: activation_function is {reprlib.repr(activation)}; it must be one of {', '.join(ACTIVATIONS)}"
        )
    eps = config.get("layer_norm_epsilon", 1e-5)
    if type(eps) not in (int, float) or not 0 <= eps <= 1:
        raise CheckpointError(f"{file}: layer_norm_epsilon is {reprlib.repr(eps)}; it must be a number from 0 to 1")
    hparams |= {"activation": ACTIVATIONS[activation], "eps": float(eps)}
    return hparams, config.get("tie_word_embeddings", True) is not False


def get_vocabulary(folder):
    try:
        return get_encoder(folder)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} lacks the vocabulary: a Hugging Face folder has vocab.json and merges.txt, or tokenizer.json; "
            "copy them there from where the model came from"
        ) from error


def check_vocabulary(encoder, n_vocab, file):
    """Return the encoder, unless it has more tokens than the model; if it has fewer, the vocabulary was padded."""
    if encoder.n_vocab > n_vocab:
        raise CheckpointError(
            f"the vocabulary has {encoder.n_vocab:,} tokens but {file} says {n_vocab:,}: they are of two models; "
            "copy all files of one there"
        )
    return encoder


def weight_files(folder):
    """Return the safetensors files that hold the weights, none if there is only the converted one."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return shards(index)
    if (folder / COPY).is_file():
        return []
    reason = f"{folder} lacks model.safetensors (or its parts with {index.name})"
    if (folder / "pytorch_model.bin").is_file():
        raise CheckpointError(f"{reason}: pytorch_model.bin is not read; transformers' save_pretrained makes the other")
    raise CheckpointError(f"{reason}: copy it there from where the model came from")


def shards(index):
    weight_map = utils.read_json_object(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) and all_strings(weight_map.values()) else ()
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} has no weight_map of tensors to files beside it: get it anew")
    missing = sorted(name for name in names if not os.path.isfile(index.parent / name))
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing[:5])}, which {index.name} names: copy it there")
    return [index.parent / name for name in sorted(names)]


def map_stored(file):
    """Return pairs of a name and a Stored, for each tensor of a safetensors file, mapped."""
    found, _ = utils.read_header(file)
    return [
        (name, Stored(*found[name], lambda array=array: array)) for name, array in utils.map_file(file, found).items()
    ]


def is_float32(tensor, array):
    return tensor.dtype == "F32" and array.flags.aligned


# ---- nanoGPT ---------------------------------------------------------------------------------------------------


def load_nanogpt(folder, models_dir):
    """Return the encoder, the hyper-parameters and the tensors {path: float32 array}."""
    path, copy = folder / "ckpt.pt", folder / COPY
    with TorchFile(path) as file:
        content = file.content if isinstance(file.content, dict) else {}
        weights, arguments, config = [as_dict(content.get(name)) for name in ("model", "model_args", "config")]
        if not weights or not arguments:
            raise CheckpointError(f"{path} has no model and model_args: it is not a checkpoint of nanoGPT's train.py")
        hparams = read_arguments(path, arguments)
        encoder = nanogpt_encoder(folder, config.get("dataset"), hparams["n_vocab"], models_dir)
        check_vocabulary(encoder, hparams["n_vocab"], path)
        shapes, source = utils.layout(hparams), fingerprint([path])
        if is_current(copy, source, shapes):
            return encoder, hparams, utils.map_tensors(copy, shapes)
        stored = collect(stored_in(file, weights), path)
        if arguments.get("bias", True) is False:
            stored = zero_biases(shapes) | stored
        tensors = select(stored, shapes, path, "its model_args")
        return encoder, hparams, converted(tensors, copy, source, shapes)


def read_arguments(path, arguments):
    """Return the hyper-parameters in a nanoGPT checkpoint."""
    names = SIZES | {"n_ctx": "block_size"}
    hparams = {ours: arguments.get(theirs) for ours, theirs in names.items()}
    utils.check_hparams(path, hparams, names)
    return hparams | {"activation": "gelu_erf", "eps": 1e-5}


def stored_in(file, weights):
    """Return pairs of a name and a Stored, for each tensor of a state_dict; the matrices of Linear are [out, in]."""
    for name, tensor in weights.items():
        if isinstance(tensor, Tensor):
            yield name, transposed(file, tensor) if LINEAR.fullmatch(plain(name)) else as_it_is(file, tensor)


def as_it_is(file, tensor):
    return Stored(tensor.dtype, tensor.shape, lambda: file.read(tensor))


def transposed(file, tensor):
    return Stored(tensor.dtype, tensor.shape[::-1], lambda: file.read(tensor).T)


def zero_biases(shapes):
    """Return {name: Stored} of a zero for each bias: to add none is to add zero."""

    def zeros(shape):
        return Stored("F32", shape, lambda: np.zeros(shape, np.float32))

    names = utils.in_safetensors(shapes)
    return {name: zeros(shape) for name, (_, shape) in names.items() if name.endswith(".bias")}


def nanogpt_encoder(folder, dataset, n_vocab, models_dir):
    """Return the characters in meta.pkl, or else GPT-2's vocabulary, which nanoGPT has from elsewhere.

    nanoGPT keeps meta.pkl with the text that it was made from, in the folder data/<dataset> beside its out_dir.
    """
    if not isinstance(dataset, str) or Path(dataset).name != dataset:
        dataset = "NAME"
    for home in (folder, folder.resolve().parent / "data" / dataset):
        if os.path.isfile(home / "meta.pkl"):
            return read_characters(home / "meta.pkl")
    for home in (folder, *(Path(utils.expand(models_dir), size) for size in utils.OFFICIAL)):
        with contextlib.suppress(FileNotFoundError):
            encoder = get_encoder(home)
            if encoder.n_vocab <= n_vocab:
                return encoder
    if n_vocab < GPT2_N_VOCAB:
        raise CheckpointError(
            f"{folder} lacks meta.pkl, the characters of its {n_vocab:,} tokens: copy it there from nanoGPT's "
            f"{Path('data', dataset)}"
        )
    raise CheckpointError(
        f"{folder} lacks GPT-2's vocabulary, encoder.json and vocab.bpe: copy them there from the folder of any of "
        f"OpenAI's models, or have one downloaded to {models_dir} with --model_size 124M"
    )


def read_characters(meta):
    """Return the encoder in a meta.pkl, {"stoi": {character: id}, ...}; what else is in it, follows from that."""
    if meta.stat().st_size > LARGEST_PICKLE:
        raise CheckpointError(f"{meta} has more than {LARGEST_PICKLE:,} bytes: it is not one of nanoGPT's")
    try:
        ids = as_dict(as_dict(load_pickle(meta.read_bytes())).get("stoi"))
    except ValueError as error:
        raise CheckpointError(f"{meta}: {error}; copy it anew") from error
    characters = all(type(name) is str and len(name) == 1 and type(i) is int for name, i in ids.items())
    if not (ids and characters and sorted(ids.values()) == list(range(len(ids)))):
        raise CheckpointError(f"{meta} has no stoi that numbers characters from 0: it is damaged, or not of nanoGPT")
    return CharacterEncoder(ids)


def as_dict(value):
    return value if isinstance(value, dict) else {}


# ---- what both have in common ----------------------------------------------------------------------------------


def plain(name):
    """The name of a tensor without what is put before it.

    >>> plain("_orig_mod.transformer.h.0.ln_1.weight"), plain("lm_head.weight")
    ('h.0.ln_1.weight', 'lm_head.weight')
    """
    return str(name).removeprefix("_orig_mod.").removeprefix("transformer.")


def collect(pairs, where):
    """Return {plain name: Stored} of the weights among pairs of a name and a Stored."""
    stored = {}
    for name, tensor in pairs:
        if NOT_WEIGHTS.fullmatch(plain(name)):
            continue
        if plain(name) in stored:
            raise CheckpointError(f"{where} holds {plain(name)} twice: delete one of the files that hold it")
        stored[plain(name)] = tensor
    return stored


def select(stored, shapes, where, fits, tied=True):
    """Return {path: Stored}, one for each of `shapes` and in their order, if `stored` is just that.

    The output's weights, lm_head, must be those of the input, wte; they may be left out only if they are `tied`.
    """
    head = stored.pop("lm_head.weight", None)
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in stored.items()}
    names = utils.in_safetensors(shapes)
    types = {name: found[name][0] for name in names if name in found and found[name][0] in FLOATS}
    utils.check(where, {name: (types.get(name, "F32"), shape) for name, (_, shape) in names.items()}, found, fits)
    if not (is_same(head, stored["wte.weight"]) if head else tied):
        raise CheckpointError(
            f"{where} has an output layer of its own (lm_head.weight is not wte.weight, or is said not to be); in "
            "GPT-2 they are the same, and only that is computed here: choose a model whose two are tied"
        )
    return {path: stored[name] for path, name in zip(shapes, names, strict=True)}


def is_same(a, b):
    return (a.dtype, a.shape) == (b.dtype, b.shape) and np.array_equal(a.read(), b.read())


def converted(tensors, copy, source, shapes):
    """Return the tensors {path: Stored} as {path: float32 array}, mapped from the file `copy`, which is written."""

    def convert(copy):
        arrays = (as_float32(tensor.dtype, tensor.read()) for tensor in tensors.values())
        utils.write_safetensors(copy, utils.in_safetensors(shapes), source, arrays)

    return utils.converted(copy, shapes, lambda: is_current(copy, source, shapes), convert)


def as_float32(dtype, array):
    """Return the array as float32. bfloat16, which comes as uint16, is the upper half of a float32."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def is_current(copy, source, shapes):
    """Whether the converted file is whole and was made from what has that fingerprint."""
    try:
        return utils.read_header(copy) == (utils.in_safetensors(shapes), source)
    except (CheckpointError, OSError):
        return False


def fingerprint(files):
    """Return what changes when one of the files does: their names, sizes and times, for hashing all would take long."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode("utf-8")).hexdigest()


def all_strings(values):
    return all(isinstance(value, str) for value in values)
