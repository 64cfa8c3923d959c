"""GGUF, the format of llama.cpp, with GPT-2's architecture: weights, sizes and vocabulary in one file.

A file is a list of settings (key, type, value), a list of tensors (name, shape, type, place) and the data. The matrices
are [out, in]. Float32 weights are mapped in place. Other types are converted to float32 once, quantized ones by the
optional package `gguf`, of llama.cpp's authors. Source: ggml-org/ggml, docs/gguf.md.
"""

import contextlib
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checkpoints import files
from checkpoints.files import CheckpointError
from checkpoints.mapped import Arrays
from checkpoints.messages import abbreviated, named, shown
from checkpoints.places import Places
from checkpoints.state_dict import (
    Differences,
    StoredTensor,
    Tensors,
    as_checkpoint_errors,
    assemble,
    converted_file,
    load_once,
    n_tokens,
    read_eps,
    select,
    transposed,
)
from checkpoints.tensors import Shapes, check_hparams, tensor_shapes
from checkpoints.tokenizer import Loaded, SpecialTokens, default_tokens, known_ids
from checkpoints.vocabulary import make_encoder
from encoder import AddedToken, Encoder

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, unless general.alignment says otherwise
MAX_AXES = 4

# The types of values: NumPy's types; strings and arrays are read by functions.
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
STRING = 8
ARRAY = 9

FLOATS = {0: ("F32", "<f4"), 1: ("F16", "<f2"), 30: ("BF16", "<u2")}  # the types of tensors that are not quantized
NORMAL = 1  # the type of tokens of the vocabulary
CONTROL = 3  # the type of special tokens
USER_DEFINED = 4  # of other added tokens
UNUSED = 5  # of ids that pad the vocabulary

SIZES = {"n_ctx": "context_length", "n_embd": "embedding_length", "n_head": "attention.head_count"}
SIZES |= {"n_layer": "block_count", "n_inner": "feed_forward_length"}

# The names of tensors -> those of Hugging Face.
NAMES = {"token_embd.weight": "wte.weight", "position_embd.weight": "wpe.weight", "output.weight": "lm_head.weight"}
NAMES |= {"output_norm.weight": "ln_f.weight", "output_norm.bias": "ln_f.bias"}
PARTS = {"attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2"}
PARTS |= {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}


class Info(NamedTuple):
    """A tensor in a GGUF file."""

    shape: tuple[int, ...]
    kind: int  # ggml's number of the type
    offset: int  # in the data


def read_sizes(path: Path) -> dict[str, Any]:
    """Return the hyper-parameters."""
    settings, _, _ = read_head(map_bytes(path), path)
    return sizes_in(settings, path)


def state(path: Path) -> str:
    """Return whether a model is ready or to be converted."""
    _, infos, _ = read_head(map_bytes(path), path)
    is_ready = is_mappable(infos) or files.is_file(converted_file(path))
    return "ready" if is_ready else "to be converted"


def load(path: Path, places: Places | None = None) -> Loaded:
    """Return the parts of the model in a file. Raise CheckpointError if it is damaged or no GPT-2."""
    with as_checkpoint_errors():
        content = map_bytes(path)
        settings, infos, data = read_head(content, path)
        hparams = sizes_in(settings, path)
        encoder = read_vocabulary(settings, hparams["n_vocab"], path)
        special = read_special_tokens(settings, encoder, n_tokens(encoder, hparams))
        arrays = load_tensors(path, infos, content[data:], tensor_shapes(hparams))
    eps = read_eps(settings, path, "gpt2.attention.layer_norm_epsilon")
    differences = Differences(eps=float(f"{eps:.6g}"))  # it is stored as float32
    return assemble(encoder, hparams, arrays, differences, special)


def map_bytes(path: Path) -> np.ndarray:
    """Return the content of a file as mapped bytes."""
    with files.open_to_read(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise CheckpointError(f"{named(path)} is empty: copy it again")
        return np.memmap(file, np.uint8, mode="r").view(np.ndarray)


# ---- settings and tensors --------------------------------------------------------------------------------------


class Cursor:
    """Reads values one after another. A value that does not end within the content raises ValueError."""

    def __init__(self, content: np.ndarray):
        self.content = content
        self.position = 0

    def take(self, n: int) -> memoryview:
        start = self.position
        if n > len(self.content) - start:
            raise ValueError("it is cut off, or one of its lengths is wrong")
        self.position = start + n
        return memoryview(self.content[start : start + n])

    def number(self, form: str) -> Any:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return value

    def string(self) -> str:
        return bytes(self.take(self.number("<Q"))).decode("utf-8", "surrogateescape")

    def value(self) -> Any:
        kind = self.number("<I")
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        return self.scalars(kind, 1)[0]

    def array(self) -> list:
        kind = self.number("<I")
        n = self.number("<Q")
        if kind == STRING:
            if n > len(self.content) // 8:
                raise ValueError(f"it has a list of {n:,} strings")
            return [self.string() for _ in range(n)]
        return self.scalars(kind, n)

    def scalars(self, kind: int, n: int) -> list:
        if kind not in SCALARS:
            raise ValueError(f"it has a value of the unknown type {kind}")
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.take(n * dtype.itemsize), dtype).tolist()


def read_head(content: np.ndarray, path: Path) -> tuple[dict[str, Any], dict[str, Info], int]:
    """Return the settings, the tensors and the position of the data. Raise CheckpointError if they are damaged."""
    with damage(path):
        cursor = Cursor(content)
        if bytes(cursor.take(4)) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = cursor.number("<I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, not {' or '.join(map(str, VERSIONS))}")
        n_tensors = cursor.number("<Q")
        n_settings = cursor.number("<Q")
        if max(n_tensors, n_settings) > len(content) // 12:
            raise ValueError(f"it says that it has {n_tensors:,} tensors and {n_settings:,} settings")
        settings = {cursor.string(): cursor.value() for _ in range(n_settings)}
        infos = dict(read_info(cursor) for _ in range(n_tensors))
        if len(settings) < n_settings or len(infos) < n_tensors:
            raise ValueError("it has two settings or two tensors of the same name")
    alignment = settings.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= 2**20:
        raise CheckpointError(f"{named(path)}: general.alignment is {shown(alignment)}: copy the file again")
    return settings, infos, -(-cursor.position // alignment) * alignment


def read_info(cursor: Cursor) -> tuple[str, Info]:
    """Return the name and the place of the next tensor."""
    name = cursor.string()
    n_axes = cursor.number("<I")
    if n_axes > MAX_AXES:
        raise ValueError(f"it has a tensor with {n_axes} axes")
    axes = [cursor.number("<Q") for _ in range(n_axes)]  # the last axis of the array is first
    kind = cursor.number("<I")
    return name, Info(tuple(axes[::-1]), kind, cursor.number("<Q"))


@contextlib.contextmanager
def damage(path: Path) -> Iterator[None]:
    """Raise CheckpointError, with the name of the file, in place of ValueErrors about its content."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{named(path)} cannot be read as GGUF ({abbreviated(error)}): copy it again") from error


def sizes_in(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the hyper-parameters. Raise CheckpointError if the model is no GPT-2."""
    architecture = settings.get("general.architecture")
    if architecture != "gpt2":
        problem = f"{named(path)}: general.architecture is {shown(architecture)}"
        raise CheckpointError(f"{problem}; it must be gpt2: choose a GPT-2 model")
    names = {ours: f"gpt2.{theirs}" for ours, theirs in SIZES.items()}
    hparams = {ours: settings.get(theirs) for ours, theirs in names.items()}
    tokens = settings.get("tokenizer.ggml.tokens")
    hparams["n_vocab"] = len(tokens) if isinstance(tokens, list) else None
    check_hparams(path, hparams, names | {"n_vocab": "the number of tokenizer.ggml.tokens"})
    return hparams


# ---- vocabulary ------------------------------------------------------------------------------------------------


def read_vocabulary(settings: Mapping[str, Any], n_vocab: int, path: Path) -> Encoder:
    """Return the encoder. Raise CheckpointError if the tokenizer is not GPT-2's."""
    model = settings.get("tokenizer.ggml.model")
    splitter = settings.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or splitter not in ("gpt-2", "gpt2", "default"):
        problem = f"{named(path)}: tokenizer.ggml.model is {shown(model)}, with the rule {shown(splitter)}"
        raise CheckpointError(f"{problem}; it must be gpt2 with the rule gpt-2: choose a model with GPT-2's tokenizer")
    tokens = settings["tokenizer.ggml.tokens"]
    kinds = list_in(settings, "tokenizer.ggml.token_type", path) or [NORMAL] * len(tokens)
    merges = [tuple(str(pair).split(" ")) for pair in list_in(settings, "tokenizer.ggml.merges", path)]
    if len(kinds) != len(tokens):
        problem = f"{named(path)} has {len(tokens):,} tokens but {len(kinds):,} values in tokenizer.ggml.token_type"
        raise CheckpointError(f"{problem}: copy it again")
    if invalid := [pair for pair in merges if len(pair) != 2]:
        problem = f"{named(path)} has the merge {shown(' '.join(invalid[0]))}, which is not two symbols"
        raise CheckpointError(f"{problem}: copy it again")
    vocabulary = {}
    added = []
    for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind in (CONTROL, USER_DEFINED):
            added.append(AddedToken(str(token), i, special=kind == CONTROL))
        elif kind != UNUSED:
            vocabulary[str(token)] = i
    return make_encoder(vocabulary, merges, added, False, n_vocab, (path, path))


def list_in(settings: Mapping[str, Any], key: str, path: Path) -> list:
    """Return a list in the settings, [] if it is missing. Raise CheckpointError for another value."""
    value = settings.get(key, [])
    if not isinstance(value, list):
        raise CheckpointError(f"{named(path)}: {key} is {shown(value)}; it must be a list: copy the file again")
    return value


def read_special_tokens(settings: Mapping[str, Any], encoder: Encoder, n_vocab: int) -> SpecialTokens:
    """Return the tokens around a text."""
    defaults = default_tokens(encoder, n_vocab)
    stop_ids = known_ids(settings.get("tokenizer.ggml.eos_token_id"), n_vocab) or defaults.stop_ids
    starts = known_ids(settings.get("tokenizer.ggml.bos_token_id"), n_vocab)
    prefix = starts if settings.get("tokenizer.ggml.add_bos_token") is True else ()
    return SpecialTokens((*starts, defaults.start)[0], stop_ids, prefix, defaults.unused_ids)


# ---- weights ---------------------------------------------------------------------------------------------------


def load_tensors(path: Path, infos: Mapping[str, Info], data: np.ndarray, shapes: Shapes) -> Arrays:
    """Return {path: float32 array}: mapped, or from the conversion to float32, which is made first if necessary."""

    def read() -> Tensors:
        stored = {as_gpt2(name): stored_tensor(name, info, data, path) for name, info in infos.items()}
        matrices = {name: transposed(tensor) for name, tensor in stored.items() if is_matrix(name, tensor)}
        return select(stored | matrices, shapes, path, "its settings")

    if is_mappable(infos):
        return {name: tensor.read() for name, tensor in read().items()}
    return load_once(converted_file(path), path, shapes, read)


def is_mappable(infos: Mapping[str, Info]) -> bool:
    """Return whether all tensors are float32 at addresses that NumPy can use."""
    return all(info.kind == 0 and info.offset % 4 == 0 for info in infos.values())


def as_gpt2(name: str) -> str:
    """Return Hugging Face's name of a tensor.

    >>> as_gpt2("blk.3.attn_qkv.weight")
    'h.3.attn.c_attn.weight'
    """
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in PARTS:
        return f"h.{parts[1]}.{PARTS[parts[2]]}.{parts[3]}"
    return NAMES.get(name, name)


def is_matrix(name: str, tensor: StoredTensor) -> bool:
    return name.startswith("h.") and len(tensor.shape) == 2


def stored_tensor(name: str, info: Info, data: np.ndarray, path: Path) -> StoredTensor:
    """Return the StoredTensor at a place in the data. Raise CheckpointError if it does not lie within."""
    dtype, kind = FLOATS.get(info.kind, ("F32", None))
    n_bytes = math.prod(info.shape) * np.dtype(kind).itemsize if kind else quantized_size(info, path)
    if info.offset + n_bytes > len(data):
        raise CheckpointError(
            f"{named(path)} has {len(data):,} bytes of data, but its tensor {abbreviated(name)} ends at byte "
            f"{info.offset + n_bytes:,}: copy it again"
        )
    raw = data[info.offset : info.offset + n_bytes]
    if kind:
        return StoredTensor(dtype, info.shape, lambda: raw.view(kind).reshape(info.shape))
    return StoredTensor("F32", info.shape, lambda: dequantized(raw, info, path))


def quantized_size(info: Info, path: Path) -> int:
    """Return the bytes of a quantized tensor. Raise CheckpointError for an unknown type or without the package."""
    gguf = import_gguf(path)
    try:
        n_values, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(info.kind)]
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{named(path)} has a tensor of ggml's type {info.kind}, which the installed package gguf does not know: "
            "pip install --upgrade gguf"
        ) from error
    if math.prod(info.shape) % n_values or (info.shape and info.shape[-1] % n_values):
        raise CheckpointError(
            f"{named(path)} has a tensor {list(info.shape)} that is no number of blocks: copy it again"
        )
    return math.prod(info.shape) // n_values * n_bytes


def dequantized(raw: np.ndarray, info: Info, path: Path) -> np.ndarray:
    """Return the float32 values of a quantized tensor."""
    gguf = import_gguf(path)
    try:
        with np.errstate(all="ignore"):  # of scales that are not finite
            values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(info.kind))
    except NotImplementedError as error:
        raise CheckpointError(
            f"{named(path)} has a tensor of ggml's type {info.kind}, which the package gguf cannot convert to float32: "
            "choose a file of type F16 or Q8_0"
        ) from error
    return values.reshape(info.shape)


def import_gguf(path: Path) -> Any:
    """Return the package gguf. Raise CheckpointError if it is missing."""
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(
            f"{named(path)} has quantized weights, which need the package gguf: pip install gguf"
        ) from error
    return gguf
