"""State dicts, the form of the weights in the checkpoints of many programs: a tensor for each parameter name.

The names may carry prefixes, the tensors may be float16, bfloat16 or float64, and causal masks, a copy of the embedding
or the weights of other tasks may lie among them. This module selects a GPT-2's tensors, checks them and, where they
cannot be mapped in place, converts them to float32 once, into model.float32.safetensors beside the checkpoint.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checkpoints import mapped
from checkpoints.files import CheckpointError, is_file
from checkpoints.mapped import Arrays
from checkpoints.messages import abbreviated, named, shown
from checkpoints.tensors import Shapes, check_tensors, in_safetensors, nest
from checkpoints.tokenizer import Loaded, SpecialTokens
from encoder import Encoder

FLOAT32_NAME = "model.float32.safetensors"  # the weights, converted to float32
FLOATS = ("F32", "F16", "BF16", "F64")
GPT2_EPS = 1e-5

# Prefixes of transformers, torch.compile, DataParallel and others, of which a name may have several.
PREFIXES = re.compile(r"^((transformer|_orig_mod|module|model|base_model)\.)+")

# Tensors that do not belong to the forward pass: causal masks and the output layers of other tasks.
IGNORED = re.compile(
    r"h\.\d+\.attn\.(attention\.)?(masked_)?bias|(v_head|score|summary|classifier|multiple_choice_head)\..*"
)

# config.json's name of each size; nanoGPT differs in n_ctx.
SIZES = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}


# The names of activations in config.json -> names in gpt2.ACTIVATIONS; None is GPT-2's own, tanh GELU.
ACTIVATIONS = {"gelu_new": None, "gelu_pytorch_tanh": None, "gelu_python_tanh": None, "gelu_fast": None}
ACTIVATIONS |= {"gelu_accurate": None, "NewGELU": None, "gelu": "gelu_erf", "gelu_python": "gelu_erf"}
ACTIVATIONS |= {"relu": "relu", "silu": "silu", "swish": "silu", "quick_gelu": "quick_gelu"}


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


@dataclass(frozen=True)
class Differences:
    """How a model may differ from GPT-2."""

    activation: str | None = None  # a name in gpt2.ACTIVATIONS; None is GPT-2's, tanh GELU
    eps: float = GPT2_EPS  # of the layer norms
    is_tied: bool = True  # the output layer may be missing, because it is the embedding
    query_scales: tuple[float, ...] = ()  # of each layer: factors that give the attention another scale
    windows: tuple[int | None, ...] = ()  # of each layer: the number of positions that a query attends to


def read_activation(config: dict[str, Any], path: Path, key: str, default: str) -> str | None:
    """Return the name in gpt2.ACTIVATIONS of config[key], None for GPT-2's. Raise CheckpointError for others."""
    name = config.get(key, default)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise CheckpointError(f"{named(path)}: {key} is {shown(name)}; it must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def read_eps(config: Mapping[str, Any], path: Path, key: str = "layer_norm_epsilon") -> float:
    """Return the epsilon of the layer norms. Raise CheckpointError if it is no number from 0 to 1."""
    eps = config.get(key, GPT2_EPS)
    if type(eps) not in (int, float) or not 0 <= eps <= 1:
        raise CheckpointError(f"{named(path)}: {key} is {shown(eps)}; it must be a number from 0 to 1")
    return float(eps)


# ---- select and check ------------------------------------------------------------------------------------------


def collect(pairs: Iterable[tuple[str, StoredTensor]], where: PathLike) -> Tensors:
    """Return {bare name: tensor} of the weights among pairs of a name and a tensor.

    where: the file or folder, for the message. Raise CheckpointError if a name occurs twice.
    """
    tensors = {}
    for name, tensor in pairs:
        bare = bare_name(name)
        if IGNORED.fullmatch(bare):
            continue
        if bare in tensors:
            raise CheckpointError(
                f"{named(where)} holds {abbreviated(bare)} twice: delete one of the files that hold it"
            )
        tensors[bare] = tensor
    return tensors


def bare_name(name: str) -> str:
    """Return the name of a tensor without its prefixes.

    >>> bare_name("_orig_mod.transformer.h.0.ln_1.weight"), bare_name("lm_head.weight")
    ('h.0.ln_1.weight', 'lm_head.weight')
    """
    return PREFIXES.sub("", str(name))


def select(tensors: Tensors, shapes: Shapes, where: PathLike, fits: str, is_tied: bool = True) -> Tensors:
    """Return {path: tensor} in the order of `shapes`, with `head` as the last if the output layer differs from wte.

    is_tied: whether the output layer, lm_head, or the embedding, wte, may be missing because the two are equal.
    where, fits: see check_tensors. Raise CheckpointError if the tensors are not those in `shapes`.
    """
    tensors = dict(tensors)
    if is_tied and "wte.weight" not in tensors and "lm_head.weight" in tensors:
        tensors["wte.weight"] = tensors["lm_head.weight"]  # safetensors' save_model stores one of an equal pair
    head = tensors.get("lm_head.weight")
    if head and is_tied and is_same(head, tensors.get("wte.weight")):
        del tensors["lm_head.weight"]
    elif head or not is_tied:
        shapes = with_head(shapes)
    names = in_safetensors(shapes)
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    expected = {name: (float_type(found, name), shape) for name, (_, shape) in names.items()}
    check_tensors(where, expected, found, fits)
    return {path: tensors[name] for path, name in zip(shapes, names, strict=True)}


def float_type(found, name):
    """Return the tensor's type if it is a float that can be converted, else F32, the type to expect."""
    dtype, _ = found.get(name, ("F32", None))
    return dtype if dtype in FLOATS else "F32"


def is_same(a, b):
    return b is not None and (a.dtype, a.shape) == (b.dtype, b.shape) and (a is b or np.array_equal(a.read(), b.read()))


def with_head(shapes: Shapes) -> Shapes:
    """Return the shapes of a model with an output layer of its own."""
    return shapes | {"head": shapes["wte"]}


def scale_queries(tensors: Tensors, scales: Sequence[float], n_embd: int) -> Tensors:
    """Return the tensors {path: tensor} with the query weights and biases of each layer multiplied by its scale.

    This gives the attention another scale than 1 / sqrt(d_head): the scores are linear in the queries.
    """
    scaled = dict(tensors)
    for i, scale in enumerate(scales):
        for path in (f"h{i}/attn/c_attn/w", f"h{i}/attn/c_attn/b"):
            scaled[path] = scaled_queries(tensors[path], scale, n_embd)
    return scaled


def scaled_queries(tensor, scale, n_embd):
    """Return a tensor [..., 3 * n_embd] whose first n_embd columns are multiplied by `scale`."""

    def read():
        array = as_float32(tensor.dtype, tensor.read()).copy()
        array[..., :n_embd] *= np.float32(scale)
        return array

    return StoredTensor("F32", tensor.shape, read)


# ---- change ----------------------------------------------------------------------------------------------------


def transposed(tensor: StoredTensor) -> StoredTensor:  # [out, in] -> [in, out]
    return StoredTensor(tensor.dtype, tensor.shape[::-1], lambda: tensor.read().T)


def joined(parts: Sequence[StoredTensor]) -> StoredTensor:  # n x [..., n_out] -> [..., n * n_out]
    """Return tensors of equal shape as one, side by side."""
    *others, n_out = parts[0].shape

    def read():
        return np.concatenate([as_float32(part.dtype, part.read()) for part in parts], axis=-1)

    return StoredTensor("F32", (*others, n_out * len(parts)), read)


def zeros(shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor("F32", shape, lambda: np.zeros(shape, np.float32))


# ---- convert ---------------------------------------------------------------------------------------------------


def map_converted(converted: Path, source: str | None, shapes: Shapes, fits: str = "hparams.json") -> Arrays | None:
    """Return {path: float32 array} of a converted file, with or without a head; None if it has another source.

    source: see fingerprint; None accepts every file. fits: see check_tensors.
    """
    for candidate in (shapes, with_head(shapes)):
        if source is not None and is_converted_from(source, converted, candidate):
            return mapped.map_tensors(converted, candidate)
    if source is not None:
        return None
    found, _ = mapped.read_header(converted)
    return mapped.map_tensors(converted, with_head(shapes) if "lm_head.weight" in found else shapes, fits)


def converted_file(file: Path) -> Path:
    """Return the path of the conversion of a model that is one file."""
    return file.with_name(f"{file.name}.float32.safetensors")


def load_once(
    converted: Path, file: Path, shapes: Shapes, read: Callable[[], Tensors], differences: Differences | None = None
) -> Arrays:
    """Return {path: float32 array}, mapped from the file `converted`, which is made from `file` if it is not current.

    read: returns the tensors {path: tensor}.
    """
    source = fingerprint([file], differences)
    arrays = map_converted(converted, source, shapes) if is_file(converted) else None
    return load_converted(read(), converted, source) if arrays is None else arrays


def load_converted(tensors: Tensors, converted: Path, source: str) -> Arrays:
    """Return {path: float32 array}, mapped from the file `converted`, which is written first if necessary."""
    shapes = {path: tensor.shape for path, tensor in tensors.items()}

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


def fingerprint(files: Iterable[Path], differences: Differences | None = None) -> str:
    """Return a hash of the files' names, sizes and modification times; hashing their content would take too long.

    differences: settings that decide about the converted weights are part of the hash.
    """
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    if differences and differences.query_scales:
        facts.append(("query_scales", *differences.query_scales))
    return hashlib.sha256(json.dumps(facts).encode("utf-8")).hexdigest()


# ---- the weights tree ------------------------------------------------------------------------------------------


def assemble(
    encoder: Encoder, hparams: dict[str, Any], arrays: Arrays, differences: Differences, special: SpecialTokens
) -> Loaded:
    """Return the parts of a model, with the weights as a tree that is limited to the encoder's tokens."""
    n_vocab = n_tokens(encoder, hparams)
    params = nest(arrays, hparams["n_layer"])
    for name in {"wte", "head"} & params.keys():
        params[name] = params[name][:n_vocab]  # without the rows that pad the vocabulary
    add_differences(params, differences)
    return Loaded(encoder, hparams | {"n_vocab": n_vocab}, params, special)


def n_tokens(encoder: Encoder, hparams: dict[str, Any]) -> int:
    """Return the number of ids that are both in the vocabulary and in the embedding."""
    return min(encoder.n_vocab, hparams["n_vocab"])


def add_differences(params, differences):
    """Add to the weights tree how the model differs from GPT-2; gpt2.py's functions take these as arguments."""
    if differences.activation is not None:
        for block in params["blocks"]:
            block["mlp"]["activation"] = differences.activation
    if differences.eps != GPT2_EPS:
        norms = [block[name] for block in params["blocks"] for name in ("ln_1", "ln_2")]
        for norm in [params["ln_f"], *norms]:
            norm["eps"] = differences.eps
    for block, window in zip(params["blocks"], differences.windows, strict=False):
        if window is not None:
            block["attn"]["window"] = window
