"""nanoGPT's format: ckpt.pt, written by its train.py, and meta.pkl if the tokens are characters.

The checkpoint is a file of torch.save (see torchfile.py) with `model`, the state dict, `model_args`, the sizes, and
`config`, the training options. The matrices are [out, in], the biases are optional, the vocabulary may be padded. The
weights are converted to float32 once (see state_dict.py). nanoGPT computed GELU by tanh until May 2023 and exactly
since then; `activation` in a config.json beside the checkpoint tells which, the exact one is the default.
"""

import logging
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import files, mapped
from checkpoints.files import CheckpointError
from checkpoints.mapped import Arrays
from checkpoints.messages import named
from checkpoints.pickles import LARGEST_PICKLE, load_pickle
from checkpoints.places import Places
from checkpoints.state_dict import (
    FLOAT32_NAME,
    SIZES,
    Differences,
    StoredTensor,
    Tensors,
    as_checkpoint_errors,
    assemble,
    bare_name,
    collect,
    load_once,
    n_tokens,
    read_activation,
    select,
    transposed,
    zeros,
)
from checkpoints.tensors import Shapes, check_hparams, in_safetensors, tensor_shapes
from checkpoints.tokenizer import Loaded, default_tokens
from checkpoints.torch_weights import as_dict, named_tensors
from checkpoints.torchfile import TorchFile
from checkpoints.vocabulary import find_gpt2_vocabulary
from encoder import CharacterEncoder, Encoder

log = logging.getLogger("picogpt")

GPT2_N_VOCAB = 50257
LONGEST_NAME = 200  # characters of a dataset's name
MATRIX = re.compile(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight")


def load(folder: Path, places: Places) -> Loaded:
    """Return the parts of the model in a folder.

    places: where GPT-2's vocabulary is looked for if the folder has none.
    Raise CheckpointError if files are missing, damaged or inconsistent.
    """
    path = folder / "ckpt.pt"
    with as_checkpoint_errors(), TorchFile(path) as file:
        weights, arguments, config = read_checkpoint(file)
        hparams = read_arguments(path, arguments)
        encoder = read_vocabulary(folder, config.get("dataset"), hparams["n_vocab"], places)
        check_size(encoder, hparams["n_vocab"], path)
        has_biases = arguments.get("bias", True) is not False
        arrays = load_tensors(file, weights, tensor_shapes(hparams), has_biases)
        differences = Differences(activation=read_variant(folder))
    special = default_tokens(encoder, n_tokens(encoder, hparams))
    return assemble(encoder, hparams, arrays, differences, special)


def read_sizes(folder: Path) -> dict[str, Any]:
    """Return the hyper-parameters."""
    path = folder / "ckpt.pt"
    with as_checkpoint_errors(), TorchFile(path) as file:
        _, arguments, _ = read_checkpoint(file)
        return read_arguments(path, arguments)


def state(folder: Path) -> str:
    """Return whether a model is ready or to be converted."""
    return "ready" if files.is_file(folder / FLOAT32_NAME) else "to be converted"


def check_size(encoder: Encoder, n_vocab: int, path: Path) -> None:
    """Raise CheckpointError if the vocabulary has more tokens than the model; fewer mean a padded model."""
    if encoder.n_vocab > n_vocab:
        raise CheckpointError(
            f"the vocabulary has {encoder.n_vocab:,} tokens but {named(path)} says {n_vocab:,}: copy all files of one "
            "model there"
        )


def read_variant(folder: Path) -> str | None:
    """Return the activation named in config.json, or the exact GELU. The checkpoint does not tell which one it has."""
    path = folder / "config.json"
    config = files.read_json_object(path) if files.is_file(path) else {}
    return read_activation(config, path, "activation", "gelu")


def read_checkpoint(file: TorchFile) -> tuple[dict, dict, dict]:
    """Return the state dict, the model's arguments and the training options of a checkpoint."""
    content = as_dict(file.content)
    weights = as_dict(content.get("model"))
    arguments = as_dict(content.get("model_args"))
    if not weights or not arguments:
        raise CheckpointError(
            f"{named(file.path)} has no model and model_args: it must be a checkpoint of nanoGPT's train.py; choose one"
        )
    return weights, arguments, as_dict(content.get("config"))


def read_arguments(path: Path, arguments: dict) -> dict[str, Any]:
    """Return the hyper-parameters in a checkpoint's model_args."""
    names = SIZES | {"n_ctx": "block_size"}
    hparams = {ours: arguments.get(theirs) for ours, theirs in names.items()}
    check_hparams(path, hparams, names)
    return hparams


# ---- weights ---------------------------------------------------------------------------------------------------


def load_tensors(file: TorchFile, weights: dict, shapes: Shapes, has_biases: bool) -> Arrays:
    """Return the weights {path: float32 array}, mapped from their conversion to float32, made first if necessary."""

    def read():
        if not files.is_file(file.path.with_name("config.json")):
            log.info(
                "The activation is assumed to be the exact GELU, nanoGPT's since May 2023. For an older checkpoint, "
                'put a file config.json with {"activation": "gelu_new"} beside it.'
            )
        stored = collect(stored_tensors(file, weights), file.path)
        check_sizes(file, [stored[name] for name in in_safetensors(shapes) if name in stored])
        biases = {} if has_biases else zero_biases(shapes)
        return select(biases | stored, shapes, file.path, "its model_args")

    return load_once(file.path.with_name(FLOAT32_NAME), file.path, shapes, read)


def check_sizes(file: TorchFile, tensors: Iterable[StoredTensor]) -> None:
    """Raise CheckpointError if the tensors need more bytes than the file has: they would share their numbers."""
    n_bytes = sum(np.dtype(mapped.DTYPES[tensor.dtype]).itemsize * math.prod(tensor.shape) for tensor in tensors)
    if n_bytes > file.size:
        raise CheckpointError(
            f"{named(file.path)} has {file.size:,} bytes but its tensors need {n_bytes:,}: they share their numbers, "
            "which those of nanoGPT do not; choose another checkpoint"
        )


def stored_tensors(file: TorchFile, weights: dict) -> Iterator[tuple[str, StoredTensor]]:
    """Yield a name and a StoredTensor for each tensor of a state dict, with the matrices as [in, out]."""
    for name, tensor in named_tensors(file, weights):
        yield name, transposed(tensor) if MATRIX.fullmatch(bare_name(name)) else tensor


def zero_biases(shapes: Shapes) -> Tensors:
    """Return a tensor of zeros for each bias: adding zero equals adding no bias."""
    return {name: zeros(shape) for name, (_, shape) in in_safetensors(shapes).items() if name.endswith(".bias")}


# ---- vocabulary ------------------------------------------------------------------------------------------------


def read_vocabulary(folder: Path, dataset: Any, n_vocab: int, places: Places) -> Encoder:
    """Return the characters in meta.pkl, or GPT-2's vocabulary if there is no meta.pkl.

    nanoGPT keeps meta.pkl beside the training text, in data/<dataset> beside the checkpoint's folder, and takes GPT-2's
    vocabulary from a library. Here it is read from the folder or from one of OpenAI's models.
    """
    if not isinstance(dataset, str) or Path(dataset).name != dataset or len(dataset) > LONGEST_NAME:
        dataset = "NAME"
    for place in (folder, folder.resolve().parent / "data" / dataset):
        if files.is_file(place / "meta.pkl"):
            return read_characters(place / "meta.pkl")
    try:
        return find_gpt2_vocabulary(folder, places, n_vocab)
    except CheckpointError as error:
        if n_vocab >= GPT2_N_VOCAB or has_vocabulary(folder):
            raise
        raise CheckpointError(
            f"{named(folder)} lacks meta.pkl, the characters of its {n_vocab:,} tokens: copy it there from nanoGPT's "
            f"{named(Path('data', dataset))}"
        ) from error


def has_vocabulary(folder: Path) -> bool:
    return any(files.is_file(folder / name) for name in ("encoder.json", "vocab.json", "tokenizer.json"))


def read_characters(meta: Path) -> CharacterEncoder:
    """Return the encoder of a meta.pkl, {"stoi": {character: id}, ...}; its other entries follow from stoi."""
    content = files.read_bytes(meta, LARGEST_PICKLE)
    try:
        ids = as_dict(as_dict(load_pickle(content)).get("stoi"))
    except ValueError as error:
        raise CheckpointError(f"{named(meta)}: {error}; copy the file from nanoGPT again") from error
    are_characters = all(type(key) is str and len(key) == 1 and type(i) is int for key, i in ids.items())
    if not (ids and are_characters and sorted(ids.values()) == list(range(len(ids)))):
        raise CheckpointError(
            f"{named(meta)} has no stoi that numbers characters from 0 without gaps: copy the file from nanoGPT again"
        )
    return CharacterEncoder(ids)
