"""State dicts, the form of the weights in Hugging Face and nanoGPT checkpoints: a tensor for each parameter name.

The names may carry a prefix, the tensors may be float16, bfloat16 or float64, and causal masks or a copy of the
embedding may lie among them. This module selects a GPT-2's tensors, checks them and, where they cannot be mapped in
place, converts them to float32 once, into model.float32.safetensors beside the checkpoint.

A model may differ from GPT-2 in its activation and in the epsilon of its layer norms. The weights tree says so:
{"mlp": {"activation": "relu", ...}} and {"ln_1": {"eps": 1e-6, ...}}. Further differences are errors.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checkpoints import mapped
from checkpoints.files import CheckpointError
from checkpoints.mapped import Arrays
from checkpoints.messages import abbreviated, named
from checkpoints.tensors import Shapes, check_tensors, in_safetensors, nest
from encoder import Encoder

FLOAT32_NAME = "model.float32.safetensors"  # the weights, converted to float32
FLOATS = ("F32", "F16", "BF16", "F64")
MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # causal masks, which some files store among the weights
GPT2_EPS = 1e-5

# config.json's name of each size; nanoGPT differs in n_ctx.
SIZES = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}


class StoredTensor(NamedTuple):
    """A tensor in a file, read on demand."""

    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]  # bfloat16 as uint16


Tensors = dict[str, StoredTensor]  # {name or path: tensor}


@contextlib.contextmanager
def as_checkpoint_errors() -> Iterator[None]:
    """Raise CheckpointError in place of the ValueErrors of encoder.py and torchfile.py."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def check_vocabulary_size(encoder: Encoder, n_vocab: int, file: Path) -> Encoder:
    """Return the encoder. Raise CheckpointError if it has more tokens than the model; fewer mean a padded model."""
    if encoder.n_vocab > n_vocab:
        raise CheckpointError(
            f"the vocabulary has {encoder.n_vocab:,} tokens but {named(file)} says {n_vocab:,}: the files belong to "
            "two models; copy all files of one model there"
        )
    return encoder


# ---- select and check ------------------------------------------------------------------------------------------


def collect(pairs: Iterable[tuple[str, StoredTensor]], where: PathLike) -> Tensors:
    """Return {bare name: tensor} of the weights among pairs of a name and a tensor, without the causal masks.

    where: the file or folder, for the message. Raise CheckpointError if a name occurs twice.
    """
    tensors = {}
    for name, tensor in pairs:
        bare = bare_name(name)
        if MASK.fullmatch(bare):
            continue
        if bare in tensors:
            raise CheckpointError(
                f"{named(where)} holds {abbreviated(bare)} twice: delete one of the files that hold it"
            )
        tensors[bare] = tensor
    return tensors


def bare_name(name: str) -> str:
    """Return the name of a tensor without the prefixes of torch.compile and of transformers.

    >>> bare_name("_orig_mod.transformer.h.0.ln_1.weight"), bare_name("lm_head.weight")
    ('h.0.ln_1.weight', 'lm_head.weight')
    """
    return str(name).removeprefix("_orig_mod.").removeprefix("transformer.")


def select(tensors: Tensors, shapes: Shapes, where: PathLike, fits: str, is_tied: bool = True) -> Tensors:
    """Return {path: tensor} in the order of `shapes`.

    is_tied: whether the output layer, lm_head, may be missing because it equals the embedding, wte.
    where, fits: see check_tensors. Raise CheckpointError if the tensors are not those in `shapes`, or if lm_head
    differs from wte.
    """
    head = tensors.pop("lm_head.weight", None)
    names = in_safetensors(shapes)
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    expected = {name: (float_type(found, name), shape) for name, (_, shape) in names.items()}
    check_tensors(where, expected, found, fits)
    if not (is_same(head, tensors["wte.weight"]) if head else is_tied):
        raise CheckpointError(
            f"{named(where)} has a separate output layer (lm_head.weight differs from wte.weight, or the configuration "
            "says that it does), but in GPT-2 the two are the same; choose a model with tied embeddings"
        )
    return {path: tensors[name] for path, name in zip(shapes, names, strict=True)}


def float_type(found, name):
    """Return the tensor's type if it is a float that can be converted, else F32, the type to expect."""
    dtype, _ = found.get(name, ("F32", None))
    return dtype if dtype in FLOATS else "F32"


def is_same(a, b):
    return (a.dtype, a.shape) == (b.dtype, b.shape) and np.array_equal(a.read(), b.read())


# ---- convert ---------------------------------------------------------------------------------------------------


def load_converted(tensors: Tensors, converted: Path, source: str, shapes: Shapes) -> Arrays:
    """Return {path: float32 array}, mapped from the file `converted`, which is written first if necessary."""

    def convert(file):
        arrays = (as_float32(tensor.dtype, tensor.read()) for tensor in tensors.values())
        mapped.write_safetensors(file, converted.name, in_safetensors(shapes), source, arrays)

    return mapped.convert_once(converted, shapes, lambda: is_converted_from(source, converted, shapes), convert)


def as_float32(dtype, array):
    """Return the array as float32. bfloat16 arrives as uint16 and is the upper half of a float32."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):  # infinities and NaN stay what they are
        return array.astype(np.float32, copy=False)


def is_converted_from(source: str, converted: Path, shapes: Shapes) -> bool:
    """Return whether the converted file is complete and was made from the files with the fingerprint `source`."""
    try:
        return mapped.read_header(converted) == (in_safetensors(shapes), source)
    except (CheckpointError, OSError):
        return False


def fingerprint(files: Iterable[Path]) -> str:
    """Return a hash of the files' names, sizes and modification times; hashing their content would take too long."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode("utf-8")).hexdigest()


# ---- the weights tree ------------------------------------------------------------------------------------------


def assemble(
    encoder: Encoder, hparams: dict[str, Any], arrays: Arrays
) -> tuple[Encoder, dict[str, Any], dict[str, Any]]:
    """Return the encoder, the hyper-parameters and the weights tree, limited to the encoder's tokens.

    hparams: those in tensors.LIMITS, and `activation` and `eps`, which move to the tree.
    """
    sizes = {name: value for name, value in hparams.items() if name not in ("activation", "eps")}
    params = nest(arrays, hparams["n_layer"])
    params["wte"] = params["wte"][: encoder.n_vocab]  # without the rows that pad the vocabulary
    add_differences(params, hparams["activation"], hparams["eps"])
    return encoder, sizes | {"n_vocab": encoder.n_vocab}, params


def add_differences(params, activation, eps):
    """Add to the weights tree how the model differs from GPT-2; gpt2.py's functions take these as arguments."""
    if activation is not None:
        for block in params["blocks"]:
            block["mlp"]["activation"] = activation
    if eps != GPT2_EPS:
        norms = [block[name] for block in params["blocks"] for name in ("ln_1", "ln_2")]
        for norm in [params["ln_f"], *norms]:
            norm["eps"] = eps
