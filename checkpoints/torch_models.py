"""Models of LLMs-from-scratch and minGPT: a state dict, saved by torch.save, from which the sizes follow.

    LLMs-from-scratch   tok_emb.weight, trf_blocks.0.att.W_query.weight, ...; the weights of Sebastian Raschka's book
    minGPT              transformer.wte.weight, transformer.h.0.attn.c_attn.weight, ...

The matrices are [out, in], or [in, out] in a state dict of a GPT-2 of transformers. GELU is computed by tanh. The
number of heads is not in the file: `n_heads` or `n_head` in a config.json beside it, otherwise n_embd / 64, as in every
size of the book and of GPT-2. The vocabulary is that in the folder, or GPT-2's own. The weights are converted to
float32 once.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from checkpoints import files
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named
from checkpoints.places import Places
from checkpoints.state_dict import (
    Differences,
    StoredTensor,
    Tensors,
    as_checkpoint_errors,
    assemble,
    collect,
    converted_file,
    joined,
    load_once,
    n_tokens,
    read_activation,
    select,
    transposed,
    zeros,
)
from checkpoints.tensors import check_hparams, tensor_shapes
from checkpoints.tokenizer import Loaded, default_tokens
from checkpoints.torch_weights import named_tensors, state_dict
from checkpoints.torchfile import TorchFile
from checkpoints.vocabulary import find_gpt2_vocabulary

D_HEAD = 64
MIN_GPT_HEADS = {"openai-gpt": 12, "gpt2": 12, "gpt2-medium": 16, "gpt2-large": 20, "gpt2-xl": 25}
MIN_GPT_HEADS |= {"gopher-44m": 16, "gpt-mini": 6, "gpt-micro": 4, "gpt-nano": 3}  # minGPT's model_type

# Parts of the names in LLMs-from-scratch -> those of Hugging Face.
NAMES = {"tok_emb.weight": "wte.weight", "pos_emb.weight": "wpe.weight", "out_head.weight": "lm_head.weight"}
NAMES |= {"final_norm.scale": "ln_f.weight", "final_norm.shift": "ln_f.bias"}
PARTS = {"norm1.scale": "ln_1.weight", "norm1.shift": "ln_1.bias", "norm2.scale": "ln_2.weight"}
PARTS |= {"norm2.shift": "ln_2.bias", "att.out_proj.weight": "attn.c_proj.weight"}
PARTS |= {"att.out_proj.bias": "attn.c_proj.bias", "ff.layers.0.weight": "mlp.c_fc.weight"}
PARTS |= {"ff.layers.0.bias": "mlp.c_fc.bias", "ff.layers.2.weight": "mlp.c_proj.weight"}
PARTS |= {"ff.layers.2.bias": "mlp.c_proj.bias"}
BLOCK = re.compile(r"trf_blocks\.(\d{1,4})\.(.+)")
BUFFER = re.compile(r"trf_blocks\.\d+\.att\.(mask|cache_[kv])")  # causal masks and caches, which are no weights
MATRIX = re.compile(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight")


def read_sizes(path: Path) -> dict[str, Any]:
    """Return the hyper-parameters."""
    with as_checkpoint_errors(), TorchFile(path) as file:
        return sizes_in(read_tensors(file), read_settings(path), path)


def state(path: Path) -> str:
    """Return whether a model is ready or to be converted."""
    return "ready" if files.is_file(converted_file(path)) else "to be converted"


def read_tensors(file: TorchFile) -> Tensors:
    """Return the tensors in an open file, under the names of GPT-2."""
    return as_gpt2(collect(named_tensors(file, state_dict(file.content)), file.path), file.path)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the content of config.json beside a file, {} if there is none."""
    config = path.with_name("config.json")
    return files.read_json_object(config) if files.is_file(config) else {}


def load(path: Path, places: Places) -> Loaded:
    """Return the parts of the model in a file. Raise CheckpointError if it is damaged or of another kind."""
    settings = read_settings(path)
    config = path.with_name("config.json")
    with as_checkpoint_errors(), TorchFile(path) as file:
        tensors = read_tensors(file)
        hparams = sizes_in(tensors, settings, path)
        shapes = tensor_shapes(hparams)
        arrays = load_once(converted_file(path), path, shapes, lambda: select(tensors, shapes, path, "its embeddings"))
        differences = Differences(activation=read_activation(settings, config, "activation", "gelu_new"))
    encoder = find_gpt2_vocabulary(path.parent, places, hparams["n_vocab"])
    special = default_tokens(encoder, n_tokens(encoder, hparams))
    return assemble(encoder, hparams, arrays, differences, special)


def as_gpt2(tensors: Tensors, path: Path) -> Tensors:
    """Return the tensors under the names and in the shapes of a GPT-2 in Hugging Face's format."""
    if "tok_emb.weight" in tensors:
        return from_scratch(tensors)
    if "wte.weight" in tensors and "wpe.weight" in tensors:
        return tensors if is_in_out(tensors) else with_matrices_transposed(tensors)
    raise CheckpointError(
        f"{named(path)} holds no state dict of a model that is known here; its names are {first_names(tensors)}: "
        "choose a model of nanoGPT, minGPT or LLMs-from-scratch, or save it in Hugging Face's format"
    )


def is_in_out(tensors: Tensors) -> bool:
    """Return whether the matrices are [in, out], as in the state dict of a GPT-2 of transformers."""
    n_in, n_out = size_of(tensors, "h.0.attn.c_attn.weight")
    return n_out == 3 * n_in


def with_matrices_transposed(tensors: Tensors) -> Tensors:
    return {name: transposed(each) if MATRIX.fullmatch(name) else each for name, each in tensors.items()}


def first_names(names: Iterable[str]) -> str:
    """Return the first few names for a message."""
    first = [abbreviated(name) for name in names][:5]
    return ", ".join(first) or "none"


def from_scratch(tensors: Tensors) -> Tensors:
    """Return the tensors of LLMs-from-scratch as those of GPT-2."""
    renamed = {}
    projections = {}  # (layer, "weight" or "bias") -> {"query": ..., "key": ..., "value": ...}
    for name, tensor in tensors.items():
        block = BLOCK.fullmatch(name)
        if BUFFER.fullmatch(name):
            continue
        if block and block[2].startswith("att.W_"):
            kind, leaf = block[2].removeprefix("att.W_").partition(".")[::2]
            projections.setdefault((int(block[1]), leaf), {})[kind] = as_in_out(tensor)
        elif block and block[2] in PARTS:
            renamed[f"h.{int(block[1])}.{PARTS[block[2]]}"] = as_in_out(tensor)
        else:
            renamed[NAMES.get(name, name)] = tensor
    for (layer, leaf), parts in projections.items():
        renamed |= joined_projections(layer, leaf, parts)
    return renamed


def as_in_out(tensor: StoredTensor) -> StoredTensor:
    return transposed(tensor) if len(tensor.shape) == 2 else tensor


def joined_projections(layer: int, leaf: str, parts: dict[str, StoredTensor]) -> Tensors:
    """Return the query, key and value projections of a layer as c_attn, with zeros if there are no biases."""
    names = ("query", "key", "value")
    shapes = {part.shape for part in parts.values()}
    if parts.keys() != set(names) or len(shapes) != 1:  # reported under their own names
        return {f"trf_blocks.{layer}.att.W_{kind}.{leaf}": part for kind, part in parts.items()}
    c_attn = joined([parts[name] for name in names])
    found = {f"h.{layer}.attn.c_attn.{leaf}": c_attn}
    return {f"h.{layer}.attn.c_attn.bias": zeros(c_attn.shape[-1:])} | found if leaf == "weight" else found


# ---- sizes -----------------------------------------------------------------------------------------------------


def sizes_in(tensors: Tensors, settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the hyper-parameters that the shapes of the tensors and config.json give."""
    layers = {int(name.split(".")[1]) for name in tensors if re.match(r"h\.\d{1,4}\.", name)}
    n_vocab, n_embd = size_of(tensors, "wte.weight")
    n_ctx, _ = size_of(tensors, "wpe.weight")
    hparams = {"n_vocab": n_vocab, "n_ctx": n_ctx, "n_embd": n_embd, "n_layer": max(layers, default=-1) + 1}
    hparams["n_head"] = n_heads(settings, n_embd, path)
    check_hparams(path, hparams)
    return hparams


def size_of(tensors: Tensors, name: str) -> tuple[int, int]:
    """Return the shape of a matrix, (0, 0) for another tensor, which the checks of the sizes refuse."""
    shape = tensors[name].shape if name in tensors else ()
    return shape if len(shape) == 2 else (0, 0)


def n_heads(settings: dict[str, Any], n_embd: int, path: Path) -> int:
    """Return the number of heads. Raise CheckpointError if config.json does not give it and the width does not."""
    model = settings.get("model") if isinstance(settings.get("model"), dict) else {}
    for found in (settings.get("n_heads"), settings.get("n_head"), model.get("n_head")):
        if found is not None:
            return found
    if isinstance(model.get("model_type"), str) and model["model_type"] in MIN_GPT_HEADS:
        return MIN_GPT_HEADS[model["model_type"]]
    if n_embd % D_HEAD:
        raise CheckpointError(
            f"{named(path)} does not tell the number of heads, and its width {n_embd} is no multiple of {D_HEAD}: put "
            'a file config.json with {"n_heads": ...} beside it'
        )
    return n_embd // D_HEAD
