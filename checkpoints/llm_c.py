"""llm.c's format: a header of 256 numbers, then all weights, each kind for all layers together.

The matrices are [out, in]. Float32 weights are mapped in place; bfloat16 is converted to float32 once. The vocabulary
is gpt2_tokenizer.bin, or GPT-2's own. Source: karpathy/llm.c, write_model and write_tokenizer in train_gpt2.py.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import files
from checkpoints.files import CheckpointError
from checkpoints.mapped import Arrays
from checkpoints.messages import named
from checkpoints.places import Places
from checkpoints.state_dict import (
    Differences,
    StoredTensor,
    Tensors,
    assemble,
    converted_file,
    load_once,
    n_tokens,
)
from checkpoints.tensors import check_hparams, tensor_shapes
from checkpoints.tokenizer import Loaded, default_tokens
from checkpoints.vocabulary import find_gpt2_vocabulary
from encoder import END_OF_TEXT, SYMBOL_OF, AddedToken, Encoder, bpe

MODEL_MAGIC = 20240326
TOKENIZER_MAGIC = 20240328
HEADER = 256  # int32
TOKENIZER_NAME = "gpt2_tokenizer.bin"
LARGEST_TOKENIZER = 2**26  # bytes

FIELDS = ("magic", "version", "n_ctx", "n_vocab", "n_layer", "n_head", "n_embd", "n_padded")  # of the header
KINDS = (  # of weights, in the order of the file
    "wte", "wpe", "ln_1/g", "ln_1/b", "attn/c_attn/w", "attn/c_attn/b", "attn/c_proj/w", "attn/c_proj/b", "ln_2/g",
    "ln_2/b", "mlp/c_fc/w", "mlp/c_fc/b", "mlp/c_proj/w", "mlp/c_proj/b", "ln_f/g", "ln_f/b",
)  # fmt: skip


def read_sizes(path: Path) -> dict[str, Any]:
    """Return the hyper-parameters."""
    header = read_header(path)
    return {name: header[name] for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")}


def state(path: Path) -> str:
    """Return whether a model is ready or to be converted."""
    is_ready = number_type(path, read_header(path)) == "<f4" or files.is_file(converted_file(path))
    return "ready" if is_ready else "to be converted"


def load(path: Path, places: Places) -> Loaded:
    """Return the parts of a model. Raise CheckpointError if the file is damaged or there is no vocabulary."""
    header = read_header(path)
    hparams = read_sizes(path)
    tokenizer = path.with_name(TOKENIZER_NAME)
    if files.is_file(tokenizer):
        encoder = read_tokenizer(tokenizer, header["n_vocab"])
    else:
        encoder = find_gpt2_vocabulary(path.parent, places, header["n_vocab"])
    arrays = load_tensors(path, header, hparams)
    special = default_tokens(encoder, n_tokens(encoder, hparams))
    return assemble(encoder, hparams, arrays, Differences(), special)


def read_header(path: Path) -> dict[str, int]:
    """Return the sizes in the header. Raise CheckpointError if they are invalid."""
    with files.open_to_read(path) as file:
        content = file.read(4 * HEADER)
    numbers = np.frombuffer(content[: len(content) // 4 * 4], "<i4").tolist()
    header = dict(zip(FIELDS, numbers, strict=False))
    if len(numbers) < HEADER or header["magic"] != MODEL_MAGIC:
        raise CheckpointError(f"{named(path)} does not begin with the header of a model of llm.c: copy it again")
    check_hparams(path, header)
    header["n_padded"] = max(header["n_padded"], header["n_vocab"])
    return header


# ---- weights ---------------------------------------------------------------------------------------------------


def load_tensors(path: Path, header: dict[str, int], hparams: dict[str, Any]) -> Arrays:
    """Return the weights {path: float32 array}: mapped, or converted to float32 once."""
    shapes = tensor_shapes(hparams)
    kind = number_type(path, header)
    tensors = stored_tensors(path, header, hparams, kind)
    if kind == "<f4":
        return {name: tensors[name].read() for name in shapes}
    return load_once(converted_file(path), path, shapes, lambda: {name: tensors[name] for name in shapes})


def number_type(path: Path, header: dict[str, int]) -> str:
    """Return NumPy's type of the numbers in the file, which follows from its size. bfloat16 is "<u2"."""
    n_numbers = sum(math.prod(shape) for shape in file_shapes(header).values())
    size = os.stat(path).st_size - 4 * HEADER
    for kind, n_bytes in (("<f4", 4), ("<u2", 2)):
        if size == n_bytes * n_numbers:
            return kind
    raise CheckpointError(
        f"{named(path)} has {size:,} bytes of weights; the sizes in its header give {4 * n_numbers:,} for float32 or "
        f"{2 * n_numbers:,} for bfloat16: copy it again"
    )


def file_shapes(header: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Return {kind: shape} in the order of the file, with a leading axis for the layers and matrices as [out, in]."""
    shapes = tensor_shapes({**header, "n_vocab": header["n_padded"], "n_layer": 1})
    found = {}
    for kind in KINDS:
        shape = shapes.get(kind) or (header["n_layer"], *shapes[f"h0/{kind}"][::-1])
        found[kind] = shape
    return found


def stored_tensors(path: Path, header: dict[str, int], hparams: dict[str, Any], kind: str) -> Tensors:
    """Return {path: StoredTensor} of mapped views, with the matrices as [in, out]."""
    with files.open_to_read(path) as file:
        numbers = np.memmap(file, kind, mode="r", offset=4 * HEADER).view(np.ndarray)
    arrays = {}
    start = 0
    for name, shape in file_shapes(header).items():
        stop = start + math.prod(shape)
        arrays[name] = numbers[start:stop].reshape(shape)
        start = stop
    arrays["wte"] = arrays["wte"][: hparams["n_vocab"]]
    by_layer = {name: arrays.pop(name) for name in KINDS if name not in ("wte", "wpe", "ln_f/g", "ln_f/b")}
    for i in range(header["n_layer"]):
        arrays |= {f"h{i}/{name}": array[i].T for name, array in by_layer.items()}
    dtype = "F32" if kind == "<f4" else "BF16"
    return {name: StoredTensor(dtype, array.shape, lambda array=array: array) for name, array in arrays.items()}


# ---- vocabulary ------------------------------------------------------------------------------------------------


def read_tokenizer(path: Path, n_vocab: int) -> Encoder:
    """Return the encoder of gpt2_tokenizer.bin: the bytes of each token, from which the merges follow."""
    content = files.read_bytes(path, LARGEST_TOKENIZER)
    numbers = np.frombuffer(content[: 4 * HEADER].ljust(4 * HEADER, b"\0"), "<i4").tolist()
    magic, version, n_found, end_of_text = numbers[:4]
    if magic != TOKENIZER_MAGIC or version not in (1, 2) or not 0 < n_found <= len(content):
        raise CheckpointError(f"{named(path)} does not begin with the header of a tokenizer of llm.c: copy it again")
    tokens = read_tokens(content[4 * HEADER :], n_found, path)
    if version == 1:
        end_of_text = n_found - 1  # GPT-2's vocabulary ends with it
    if len(tokens) > n_vocab or not 0 <= end_of_text < len(tokens):
        problem = f"{named(path)} has {len(tokens):,} tokens, of which number {end_of_text:,} ends a text"
        raise CheckpointError(f"{problem}, but the model has {n_vocab:,}: copy the files of one model there")
    vocabulary = {}
    for i, token in enumerate(tokens):
        if i != end_of_text:
            vocabulary.setdefault("".join(SYMBOL_OF[byte] for byte in token), i)
    added = [AddedToken(END_OF_TEXT, end_of_text, special=True)]
    return Encoder(vocabulary, derived_merges(vocabulary), added)


def read_tokens(content: bytes, n_found: int, path: Path) -> list[bytes]:
    """Return the tokens. A byte before each token gives its length. Raise CheckpointError if two tokens are equal."""
    tokens = []
    start = 0
    for _ in range(n_found):
        size = content[start] if start < len(content) else 0
        stop = start + 1 + size
        if stop > len(content) or start >= len(content):
            raise CheckpointError(f"{named(path)} ends after {len(tokens):,} of {n_found:,} tokens: copy it again")
        tokens.append(content[start + 1 : stop])
        start = stop
    if not all(tokens) or len(set(tokens)) < n_found:
        raise CheckpointError(f"{named(path)} has an empty token or two equal ones: copy it again")
    return tokens


def derived_merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges of a vocabulary whose ids are in the order in which the merges were learnt, as in GPT-2's.

    The earlier merges leave two symbols of a token, which are its own merge.

    >>> derived_merges({"l": 0, "o": 1, "w": 2, "lo": 3, "low": 4})
    [('l', 'o'), ('lo', 'w')]
    """
    ranks = {}
    for token in sorted((token for token in vocabulary if len(token) > 1), key=vocabulary.get):
        symbols = bpe(token, ranks)
        if len(symbols) == 2:
            ranks[symbols[0], symbols[1]] = len(ranks)
    return list(ranks)
