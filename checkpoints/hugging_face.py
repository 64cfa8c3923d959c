"""Hugging Face's format: config.json, the files of the tokenizer, and the weights in one file or in shards.

The weights are safetensors or pytorch_model.bin. The matrices are [in, out], as in OpenAI's checkpoints. A single
safetensors file of float32 is mapped in place; everything else is converted to float32 once (see state_dict.py).
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import files, mapped
from checkpoints.files import CheckpointError
from checkpoints.mapped import Arrays
from checkpoints.messages import abbreviated, named, shown
from checkpoints.places import Places
from checkpoints.state_dict import (
    FLOAT32_NAME,
    IGNORED,
    SIZES,
    Differences,
    StoredTensor,
    Tensors,
    as_checkpoint_errors,
    assemble,
    bare_name,
    collect,
    fingerprint,
    load_converted,
    map_converted,
    n_tokens,
    read_activation,
    read_eps,
    scale_queries,
    select,
)
from checkpoints.tensors import check_hparams, tensor_shapes
from checkpoints.tokenizer import Loaded, read_special_tokens
from checkpoints.vocabulary import get_encoder
from encoder import Encoder

# Other names of sizes in config.json, in the order of precedence.
ALIASES = {"n_embd": ("hidden_size",), "n_layer": ("num_hidden_layers",), "n_head": ("num_attention_heads",)}
ALIASES |= {"n_positions": ("max_position_embeddings", "n_ctx")}

CLASSIFIERS = ("Classification", "QuestionAnswering")  # parts of the names of architectures that write no text
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class Architecture(NamedTuple):
    """What differs between the kinds of models of this format."""

    read_config: Callable[[dict, Path], tuple[dict[str, Any], Differences]]  # config.json, its path -> sizes, ...
    as_gpt2: Callable[[Tensors, dict[str, Any]], Tensors] | None  # tensors, sizes -> tensors with the names of GPT-2


def load(folder: Path, places: Places | None = None) -> Loaded:
    """Return the parts of the model in a folder.

    Raise CheckpointError if files are missing, damaged or inconsistent, or the model is of another kind.
    """
    path = folder / "config.json"
    with as_checkpoint_errors():
        config = files.read_json_object(path)
        architecture = find_architecture(config, path)
        hparams, differences = architecture.read_config(config, path)
        encoder = read_vocabulary(folder, hparams["n_vocab"])
        special = read_special_tokens(folder, encoder, n_tokens(encoder, hparams))
        arrays = load_tensors(folder, hparams, differences, architecture.as_gpt2)
    return assemble(encoder, hparams, arrays, differences, special)


def read_sizes(folder: Path) -> dict[str, Any]:
    """Return the hyper-parameters."""
    return read_config_of(folder / "config.json")[0]


def read_config_of(path: Path) -> tuple[dict[str, Any], Differences]:
    """Return the hyper-parameters in config.json and the differences from GPT-2."""
    config = files.read_json_object(path)
    return find_architecture(config, path).read_config(config, path)


def state(folder: Path) -> str:
    """Return whether a model is ready, to be converted or incomplete, without reading its weights."""
    path = folder / "config.json"
    sources = weight_files(folder)
    _, differences = read_config_of(path)
    is_ready = files.is_file(folder / FLOAT32_NAME)
    if len(sources) == 1 and sources[0].suffix == ".safetensors" and not differences.query_scales:
        found, _ = mapped.read_header(sources[0])
        types = {dtype for name, (dtype, _) in found.items() if not IGNORED.fullmatch(bare_name(name))}
        is_ready |= types == {"F32"}
    return "ready" if is_ready else "to be converted"


def read_vocabulary(folder: Path, n_rows: int) -> Encoder:
    """Return the encoder. Raise CheckpointError if a file is missing, damaged or of another model."""
    try:
        return get_encoder(folder, n_rows)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{named(folder)} lacks the vocabulary: a Hugging Face folder holds tokenizer.json, or vocab.json and "
            "merges.txt; copy them there from the original folder"
        ) from error


# ---- configuration ---------------------------------------------------------------------------------------------


def find_architecture(config: dict[str, Any], path: Path) -> Architecture:
    """Return the architecture of a model. Raise CheckpointError if it is not one of those that write text here."""
    model_type = config.get("model_type", "gpt2")
    if model_type not in ("gpt2", "gpt_neo"):
        problem = f"{named(path)}: model_type is {shown(model_type)}"
        raise CheckpointError(f"{problem}; it must be 'gpt2' or 'gpt_neo': choose a model of that kind")
    if (quantization := config.get("quantization_config")) is not None:
        problem = f"{named(path)}: quantization_config is {shown(quantization)}"
        raise CheckpointError(f"{problem}; quantized weights of this kind are not read: choose the original model")
    classes = config.get("architectures")
    for name in classes if isinstance(classes, list) else []:
        if isinstance(name, str) and any(part in name for part in CLASSIFIERS):
            problem = f"{named(path)}: architectures names {abbreviated(name)}, which rates a text and does not write"
            raise CheckpointError(f"{problem} one: choose a model with a language-model head, such as GPT2LMHeadModel")
    if model_type == "gpt_neo":
        from checkpoints import gpt_neo

        return Architecture(gpt_neo.read_config, gpt_neo.as_gpt2)
    return Architecture(read_config, None)


def read_config(config: dict[str, Any], path: Path) -> tuple[dict[str, Any], Differences]:
    """Return the hyper-parameters of a GPT-2 and its differences. Raise CheckpointError if one is not supported."""
    if config.get("add_cross_attention", False) is not False:
        raise CheckpointError(f"{named(path)}: add_cross_attention is set; choose a model without an encoder")
    names = {ours: name_in(config, theirs) for ours, theirs in SIZES.items()}
    hparams = {ours: config.get(theirs) for ours, theirs in names.items()}
    if config.get("n_inner") is not None:
        hparams["n_inner"] = config["n_inner"]
    check_hparams(path, hparams, names)
    differences = Differences(
        activation=read_activation(config, path, "activation_function", "gelu_new"),
        eps=read_eps(config, path),
        is_tied=config.get("tie_word_embeddings", True) is not False,
        query_scales=query_scales(config, hparams),
    )
    return hparams, differences


def name_in(config: dict[str, Any], name: str) -> str:
    """Return the name, or one of its aliases, under which config.json has a size."""
    return next((each for each in (name, *ALIASES.get(name, ())) if each in config), name)


def query_scales(config: dict[str, Any], hparams: dict[str, Any]) -> tuple[float, ...]:
    """Return the factor of each layer's queries that gives its attention the scale in config.json, () for GPT-2's."""
    is_scaled = config.get("scale_attn_weights", True) is not False
    is_scaled_by_layer = config.get("scale_attn_by_inverse_layer_idx", False) is True
    if is_scaled and not is_scaled_by_layer:
        return ()
    d_head = hparams["n_embd"] // hparams["n_head"]
    factor = 1.0 if is_scaled else d_head**0.5  # gpt2.attention divides by it
    return tuple(factor / (i + 1) if is_scaled_by_layer else factor for i in range(hparams["n_layer"]))


# ---- weights ---------------------------------------------------------------------------------------------------


def load_tensors(
    folder: Path, hparams: dict[str, Any], differences: Differences, as_gpt2: Callable | None = None
) -> Arrays:
    """Return the weights {path: float32 array}, mapped from the original file or from its conversion to float32.

    as_gpt2: gives the tensors the names and shapes of GPT-2.
    """
    shapes = tensor_shapes(hparams)
    converted = folder / FLOAT32_NAME
    sources = weight_files(folder)
    source = fingerprint(sources, differences) if sources else None
    arrays = map_converted(converted, source, shapes, "config.json") if files.is_file(converted) else None
    if arrays is not None:
        return arrays
    with contextlib.ExitStack() as open_files:
        stored = collect([pair for file in sources for pair in stored_tensors(file, open_files)], folder)
        if as_gpt2 is not None:
            stored = as_gpt2(stored, hparams)
        tensors = select(stored, shapes, folder, "config.json", differences.is_tied)
        if is_mappable(sources, tensors) and not as_gpt2 and not differences.query_scales:
            return {path: tensor.read() for path, tensor in tensors.items()}
        return load_converted(scale_queries(tensors, differences.query_scales, hparams["n_embd"]), converted, source)


def is_mappable(sources: list[Path], tensors: Tensors) -> bool:
    """Return whether all tensors can be used where they lie in one file."""
    is_single = len(sources) == 1 and sources[0].suffix == ".safetensors"
    return is_single and all(tensor.dtype == "F32" and tensor.read().flags.aligned for tensor in tensors.values())


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, [] if only the converted file is there.

    Raise CheckpointError if there is no such file.
    """
    for path in [folder / name for name in WEIGHT_FILES]:
        if files.is_file(path):
            return shards(path) if path.suffix == ".json" else [path]
    if files.is_file(folder / FLOAT32_NAME):
        return []
    problem = f"{named(folder)} lacks the weights: model.safetensors or pytorch_model.bin, or their shards and index"
    raise CheckpointError(f"{problem}; copy them there from the original folder")


def shards(index: Path) -> list[Path]:
    """Return the files that an index names. Raise CheckpointError if it is damaged or a file is missing."""
    weight_map = files.read_json_object(index).get("weight_map")
    names = file_names(weight_map) if isinstance(weight_map, dict) else set()
    if not names:
        raise CheckpointError(
            f"{named(index)} has no weight_map from tensor names to files in the same folder: copy or download it again"
        )
    paths = {name: index.parent / name for name in names}
    missing = sorted(name for name, path in paths.items() if os.path.isdir(path) or not os.path.exists(path))
    if missing:
        listed = ", ".join(abbreviated(name) for name in missing[:5])
        raise CheckpointError(
            f"{named(index.parent)} lacks {listed}, listed in {index.name}: copy the missing files there"
        )
    return [paths[name] for name in sorted(names)]


def file_names(weight_map: dict) -> set[str]:
    """Return the set of file names in a weight_map, empty if one is not a plain name."""
    names = list(weight_map.values())
    is_valid = all(isinstance(name, str) and Path(name).name == name for name in names)
    return set(names) if is_valid else set()


def stored_tensors(path: Path, open_files: contextlib.ExitStack) -> Iterable[tuple[str, StoredTensor]]:
    """Return a name and a StoredTensor for each tensor of a file of weights, which can be read while it is open."""
    if path.suffix == ".bin":
        from checkpoints.torch_weights import named_tensors, state_dict
        from checkpoints.torchfile import TorchFile

        file = open_files.enter_context(TorchFile(path))
        return named_tensors(file, state_dict(file.content))
    return mapped_tensors(path)


def mapped_tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Yield a name and a mapped StoredTensor for each tensor of a safetensors file."""
    found, _ = mapped.read_header(path)
    with files.open_to_read(path) as file:
        arrays = mapped.map_file(file, found)
    for name, array in arrays.items():
        yield name, StoredTensor(*found[name], read=lambda array=array: array)
