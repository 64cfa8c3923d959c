"""Hugging Face's format: config.json, the vocabulary, and model.safetensors or several shards with an index.

The vocabulary is vocab.json and merges.txt, or tokenizer.json. The matrices are [in, out], as in OpenAI's checkpoints.
A single float32 file is mapped in place; shards and other types are converted to float32 once (see state_dict.py).
"""

import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoints import files, mapped
from checkpoints.files import CheckpointError
from checkpoints.mapped import Arrays
from checkpoints.messages import abbreviated, named
from checkpoints.state_dict import (
    FLOAT32_NAME,
    GPT2_EPS,
    SIZES,
    StoredTensor,
    as_checkpoint_errors,
    assemble,
    check_vocabulary_size,
    collect,
    fingerprint,
    is_converted_from,
    load_converted,
    select,
)
from checkpoints.tensors import Shapes, check_hparams, tensor_shapes
from encoder import Encoder, get_encoder

# config.json's names of the activations; None is GPT-2's default, tanh GELU.
HF_ACTIVATIONS = {"gelu_new": None, "gelu_pytorch_tanh": None, "gelu": "gelu_erf", "relu": "relu"}

# Properties of GPT-2's forward pass; config.json may omit them but not change them.
FIXED = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}


def load(folder: Path) -> tuple[Encoder, dict[str, Any], dict[str, Any]]:
    """Return the encoder, the hyper-parameters and the weights tree.

    Raise CheckpointError if files are missing, damaged or inconsistent, or the model is not a GPT-2.
    """
    config = folder / "config.json"
    with as_checkpoint_errors():
        hparams, is_tied = read_config(config)
        encoder = check_vocabulary_size(read_vocabulary(folder), hparams["n_vocab"], config)
        arrays = load_tensors(folder, tensor_shapes(hparams), is_tied)
    return assemble(encoder, hparams, arrays)


# ---- configuration and vocabulary ------------------------------------------------------------------------------


def read_config(file: Path) -> tuple[dict[str, Any], bool]:
    """Return the hyper-parameters in config.json, and whether the output layer equals the embedding.

    The hyper-parameters include `activation` and `eps`. Raise CheckpointError if the model is not a GPT-2.
    """
    config = files.read_json_object(file)
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                f"{named(file)}: {name} is {reprlib.repr(config[name])}, but GPT-2 has {value!r}; choose a GPT-2 model"
            )
    names = SIZES if "n_positions" in config else SIZES | {"n_ctx": "n_ctx"}
    hparams = {ours: config.get(theirs) for ours, theirs in names.items()}
    if config.get("n_inner") is not None:
        hparams["n_inner"] = config["n_inner"]
    check_hparams(file, hparams, names)
    hparams |= {"activation": read_activation(file, config), "eps": read_eps(file, config)}
    return hparams, config.get("tie_word_embeddings", True) is not False


def read_activation(file, config):
    name = config.get("activation_function", "gelu_new")
    if not isinstance(name, str) or name not in HF_ACTIVATIONS:
        raise CheckpointError(
            f"{named(file)}: activation_function is {reprlib.repr(name)}; it must be one of {', '.join(HF_ACTIVATIONS)}"
        )
    return HF_ACTIVATIONS[name]


def read_eps(file, config):
    eps = config.get("layer_norm_epsilon", GPT2_EPS)
    if type(eps) not in (int, float) or not 0 <= eps <= 1:
        raise CheckpointError(
            f"{named(file)}: layer_norm_epsilon is {reprlib.repr(eps)}; it must be a number from 0 to 1"
        )
    return float(eps)


def read_vocabulary(folder: Path) -> Encoder:
    """Return the encoder. Raise CheckpointError if a file is missing, ValueError if one is damaged."""
    try:
        return get_encoder(folder)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{named(folder)} lacks the vocabulary: a Hugging Face folder holds vocab.json and merges.txt, or "
            "tokenizer.json; copy them there from the original folder"
        ) from error


# ---- weights ---------------------------------------------------------------------------------------------------


def load_tensors(folder: Path, shapes: Shapes, is_tied: bool) -> Arrays:
    """Return the weights {path: float32 array}, mapped from the original file or from its conversion to float32."""
    converted = folder / FLOAT32_NAME
    sources = weight_files(folder)
    if not sources:
        return mapped.map_tensors(converted, shapes, "config.json")
    source = fingerprint(sources)
    if is_converted_from(source, converted, shapes):
        return mapped.map_tensors(converted, shapes)
    stored = collect([pair for file in sources for pair in stored_tensors(file)], folder)
    tensors = select(stored, shapes, folder, "config.json", is_tied)
    arrays = {path: tensor.read() for path, tensor in tensors.items()}
    if len(sources) == 1 and all(is_float32(tensor, arrays[path]) for path, tensor in tensors.items()):
        return arrays
    return load_converted(tensors, converted, source, shapes)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold the weights, [] if only the converted file is there.

    Raise CheckpointError if there is no such file.
    """
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if files.is_file(single):
        return [single]
    if files.is_file(index):
        return shards(index)
    if files.is_file(folder / FLOAT32_NAME):
        return []
    problem = f"{named(folder)} lacks model.safetensors (or its shards and {index.name})"
    if files.is_file(folder / "pytorch_model.bin"):
        raise CheckpointError(
            f"{problem}: pytorch_model.bin is not supported; convert it with transformers' save_pretrained"
        )
    raise CheckpointError(f"{problem}: copy it there from the original folder")


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


def file_names(weight_map):
    """Return the set of file names in a weight_map, empty if one is not a plain name."""
    names = list(weight_map.values())
    is_valid = all(isinstance(name, str) and Path(name).name == name for name in names)
    return set(names) if is_valid else set()


def stored_tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Yield a name and a mapped StoredTensor for each tensor of a safetensors file."""
    found, _ = mapped.read_header(path)
    with files.open_to_read(path) as file:
        arrays = mapped.map_file(file, found)
    for name, array in arrays.items():
        yield name, StoredTensor(*found[name], read=lambda array=array: array)


def is_float32(tensor, array):
    return tensor.dtype == "F32" and array.flags.aligned
