"""Hugging Face folders: config.json, the vocabulary, and model.safetensors or its shards."""

import os
import reprlib
from pathlib import Path

from checkpoints import files, mapped
from checkpoints.files import CheckpointError
from checkpoints.stored import (
    CONVERTED_NAME,
    SIZES,
    Stored,
    as_model,
    check_vocabulary,
    collect,
    fingerprint,
    is_current,
    load_converted,
    select,
    vocabulary_errors,
)
from checkpoints.tensors import check_hparams, tensor_shapes
from encoder import get_encoder

HF_ACTIVATIONS = {"gelu_new": None, "gelu_pytorch_tanh": None, "gelu": "gelu_erf", "relu": "relu"}
# What the forward pass does; a config.json may leave these out, but not say otherwise.
FIXED = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}


def load(folder):
    """Return the encoder, the hyper-parameters and the weights tree. Raises CheckpointError alone."""
    with vocabulary_errors():
        return as_model(*read_folder(folder))


def read_folder(folder):
    """Return the encoder, the hyper-parameters and the tensors {path: float32 array}."""
    config = folder / "config.json"
    hparams, tied = read_config(config)
    encoder = check_vocabulary(get_vocabulary(folder), hparams["n_vocab"], config)
    shapes, files, copy = tensor_shapes(hparams), weight_files(folder), folder / CONVERTED_NAME
    if not files:  # somebody has kept the converted file alone
        return encoder, hparams, mapped.map_tensors(copy, shapes, config.name)
    source = fingerprint(files)
    if is_current(copy, source, shapes):
        return encoder, hparams, mapped.map_tensors(copy, shapes)
    stored = collect([pair for file in files for pair in map_stored(file)], folder)
    tensors = select(stored, shapes, folder, config.name, tied)
    arrays = {path: tensor.read() for path, tensor in tensors.items()}
    if len(files) == 1 and all(is_float32(tensor, arrays[path]) for path, tensor in tensors.items()):
        return encoder, hparams, arrays
    return encoder, hparams, load_converted(tensors, copy, source, shapes)


def read_config(file):
    """Return the hyper-parameters in config.json, and whether the output's weights are the input's (else unknown)."""
    config = files.read_json_object(file)
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                f"{file}: {name} is {reprlib.repr(config[name])}; only GPT-2 is computed here, where it is {value!r}"
            )
    names = SIZES if "n_positions" in config else SIZES | {"n_ctx": "n_ctx"}
    hparams = {ours: config.get(theirs) for ours, theirs in names.items()}
    if config.get("n_inner") is not None:
        hparams["n_inner"] = config["n_inner"]
    check_hparams(file, hparams, names)
    activation = config.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in HF_ACTIVATIONS:
        raise CheckpointError(
            f"{file}: activation_function is {reprlib.repr(activation)}; it must be one of {', '.join(HF_ACTIVATIONS)}"
        )
    eps = config.get("layer_norm_epsilon", 1e-5)
    if type(eps) not in (int, float) or not 0 <= eps <= 1:
        raise CheckpointError(f"{file}: layer_norm_epsilon is {reprlib.repr(eps)}; it must be a number from 0 to 1")
    hparams |= {"activation": HF_ACTIVATIONS[activation], "eps": float(eps)}
    return hparams, config.get("tie_word_embeddings", True) is not False


def get_vocabulary(folder):
    try:
        return get_encoder(folder)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} lacks the vocabulary: a Hugging Face folder has vocab.json and merges.txt, or tokenizer.json; "
            "copy them there from where the model came from"
        ) from error


def weight_files(folder):
    """Return the safetensors files that hold the weights, none if there is only the converted one."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return shards(index)
    if (folder / CONVERTED_NAME).is_file():
        return []
    reason = f"{folder} lacks model.safetensors (or its parts with {index.name})"
    if (folder / "pytorch_model.bin").is_file():
        raise CheckpointError(f"{reason}: pytorch_model.bin is not read; transformers' save_pretrained makes the other")
    raise CheckpointError(f"{reason}: copy it there from where the model came from")


def shards(index):
    weight_map = files.read_json_object(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) and all_strings(weight_map.values()) else ()
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} has no weight_map of tensors to files beside it: get it anew")
    missing = sorted(name for name in names if not os.path.isfile(index.parent / name))
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing[:5])}, which {index.name} names: copy it there")
    return [index.parent / name for name in sorted(names)]


def map_stored(file):
    """Return pairs of a name and a Stored, for each tensor of a safetensors file, mapped."""
    found, _ = mapped.read_header(file)
    return [
        (name, Stored(*found[name], lambda array=array: array)) for name, array in mapped.map_file(file, found).items()
    ]


def is_float32(tensor, array):
    return tensor.dtype == "F32" and array.flags.aligned


def all_strings(values):
    return all(isinstance(value, str) for value in values)
