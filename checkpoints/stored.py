"""What the Hugging Face and nanoGPT formats share: tensors as a file stores them, checked and converted once."""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from checkpoints import mapped
from checkpoints.files import CheckpointError
from checkpoints.tensors import check_tensors, in_safetensors, nest

CONVERTED_NAME = "model.float32.safetensors"  # what is converted, is saved as
FLOATS = ("F32", "F16", "BF16", "F64")
# config.json's names of the sizes, and of the activations; None is GPT-2's own, of which nothing need be said.
SIZES = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}
NOT_WEIGHTS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # causal masks, which some files have among the weights


class Stored(NamedTuple):
    """A tensor in a file: what safetensors calls its type, its shape, and a function that returns its elements."""

    dtype: str
    shape: tuple
    read: Callable[[], np.ndarray]  # bfloat16 as uint16


@contextlib.contextmanager
def vocabulary_errors():
    """Turn a ValueError of encoder.py or torchfile.py, which know no CheckpointError, into one."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def as_model(encoder, hparams, tensors):
    """Return the encoder, the hyper-parameters (those in tensors.HPARAMS; n_vocab is the encoder's) and the weights tree."""
    params = nest(tensors, hparams["n_layer"])
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


def check_vocabulary(encoder, n_vocab, file):
    """Return the encoder, unless it has more tokens than the model; if it has fewer, the vocabulary was padded."""
    if encoder.n_vocab > n_vocab:
        raise CheckpointError(
            f"the vocabulary has {encoder.n_vocab:,} tokens but {file} says {n_vocab:,}: they are of two models; "
            "copy all files of one there"
        )
    return encoder


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
    names = in_safetensors(shapes)
    types = {name: found[name][0] for name in names if name in found and found[name][0] in FLOATS}
    check_tensors(where, {name: (types.get(name, "F32"), shape) for name, (_, shape) in names.items()}, found, fits)
    if not (is_same(head, stored["wte.weight"]) if head else tied):
        raise CheckpointError(
            f"{where} has an output layer of its own (lm_head.weight is not wte.weight, or is said not to be); in "
            "GPT-2 they are the same, and only that is computed here: choose a model whose two are tied"
        )
    return {path: stored[name] for path, name in zip(shapes, names, strict=True)}


def is_same(a, b):
    return (a.dtype, a.shape) == (b.dtype, b.shape) and np.array_equal(a.read(), b.read())


def load_converted(tensors, copy, source, shapes):
    """Return the tensors {path: Stored} as {path: float32 array}, mapped from the file `copy`, which is written."""

    def convert(copy):
        arrays = (as_float32(tensor.dtype, tensor.read()) for tensor in tensors.values())
        mapped.write_safetensors(copy, in_safetensors(shapes), source, arrays)

    return mapped.convert_once(copy, shapes, lambda: is_current(copy, source, shapes), convert)


def as_float32(dtype, array):
    """Return the array as float32. bfloat16, which comes as uint16, is the upper half of a float32."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def is_current(copy, source, shapes):
    """Whether the converted file is whole and was made from what has that fingerprint."""
    try:
        return mapped.read_header(copy) == (in_safetensors(shapes), source)
    except (CheckpointError, OSError):
        return False


def fingerprint(files):
    """Return what changes when one of the files does: their names, sizes and times, for hashing all would take long."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode("utf-8")).hexdigest()
