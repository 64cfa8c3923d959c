"""nanoGPT folders: ckpt.pt, and meta.pkl if the tokens are characters."""

import contextlib
import os
import re
from pathlib import Path

import numpy as np

from checkpoints import download, files, mapped
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
    plain,
    select,
    vocabulary_errors,
)
from checkpoints.tensors import check_hparams, in_safetensors, tensor_shapes
from checkpoints.torchfile import LARGEST_PICKLE, Tensor, TorchFile, load_pickle
from encoder import CharacterEncoder, get_encoder

GPT2_N_VOCAB = 50257
LINEAR = re.compile(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight")


def load(folder, models_dir):
    """Return the encoder, the hyper-parameters and the weights tree. Raises CheckpointError alone."""
    with vocabulary_errors():
        return as_model(*read_folder(folder, models_dir))


def read_folder(folder, models_dir):
    """Return the encoder, the hyper-parameters and the tensors {path: float32 array}."""
    path, copy = folder / "ckpt.pt", folder / CONVERTED_NAME
    with TorchFile(path) as file:
        content = file.content if isinstance(file.content, dict) else {}
        weights, arguments, config = [as_dict(content.get(name)) for name in ("model", "model_args", "config")]
        if not weights or not arguments:
            raise CheckpointError(f"{path} has no model and model_args: it is not a checkpoint of nanoGPT's train.py")
        hparams = read_arguments(path, arguments)
        encoder = nanogpt_encoder(folder, config.get("dataset"), hparams["n_vocab"], models_dir)
        check_vocabulary(encoder, hparams["n_vocab"], path)
        shapes, source = tensor_shapes(hparams), fingerprint([path])
        if is_current(copy, source, shapes):
            return encoder, hparams, mapped.map_tensors(copy, shapes)
        stored = collect(stored_in(file, weights), path)
        if arguments.get("bias", True) is False:
            stored = zero_biases(shapes) | stored
        tensors = select(stored, shapes, path, "its model_args")
        return encoder, hparams, load_converted(tensors, copy, source, shapes)


def read_arguments(path, arguments):
    """Return the hyper-parameters in a nanoGPT checkpoint."""
    names = SIZES | {"n_ctx": "block_size"}
    hparams = {ours: arguments.get(theirs) for ours, theirs in names.items()}
    check_hparams(path, hparams, names)
    return hparams | {"activation": "gelu_erf", "eps": 1e-5}


def stored_in(file, weights):
    """Return pairs of a name and a Stored, for each tensor of a state_dict; the matrices of Linear are [out, in]."""
    for name, tensor in weights.items():
        if isinstance(tensor, Tensor):
            yield name, transposed(file, tensor) if LINEAR.fullmatch(plain(name)) else unchanged(file, tensor)


def unchanged(file, tensor):
    return Stored(tensor.dtype, tensor.shape, lambda: file.read(tensor))


def transposed(file, tensor):
    return Stored(tensor.dtype, tensor.shape[::-1], lambda: file.read(tensor).T)


def zero_biases(shapes):
    """Return {name: Stored} of a zero for each bias: to add none is to add zero."""

    def zeros(shape):
        return Stored("F32", shape, lambda: np.zeros(shape, np.float32))

    names = in_safetensors(shapes)
    return {name: zeros(shape) for name, (_, shape) in names.items() if name.endswith(".bias")}


def nanogpt_encoder(folder, dataset, n_vocab, models_dir):
    """Return the characters in meta.pkl, or else GPT-2's vocabulary, which nanoGPT has from elsewhere.

    nanoGPT keeps meta.pkl with the text that it was made from, in the folder data/<dataset> beside its out_dir.
    """
    if not isinstance(dataset, str) or Path(dataset).name != dataset:
        dataset = "NAME"
    for home in (folder, folder.resolve().parent / "data" / dataset):
        if os.path.isfile(home / "meta.pkl"):
            return read_characters(home / "meta.pkl")
    for home in (folder, *(Path(files.expand(models_dir), size) for size in download.OFFICIAL)):
        with contextlib.suppress(FileNotFoundError):
            encoder = get_encoder(home)
            if encoder.n_vocab <= n_vocab:
                return encoder
    if n_vocab < GPT2_N_VOCAB:
        raise CheckpointError(
            f"{folder} lacks meta.pkl, the characters of its {n_vocab:,} tokens: copy it there from nanoGPT's "
            f"{Path('data', dataset)}"
        )
    raise CheckpointError(
        f"{folder} lacks GPT-2's vocabulary, encoder.json and vocab.bpe: copy them there from the folder of any of "
        f"OpenAI's models, or have one downloaded to {models_dir} with --model_size 124M"
    )


def read_characters(meta):
    """Return the encoder in a meta.pkl, {"stoi": {character: id}, ...}; what else is in it, follows from that."""
    if meta.stat().st_size > LARGEST_PICKLE:
        raise CheckpointError(f"{meta} has more than {LARGEST_PICKLE:,} bytes: it is not one of nanoGPT's")
    try:
        ids = as_dict(as_dict(load_pickle(meta.read_bytes())).get("stoi"))
    except ValueError as error:
        raise CheckpointError(f"{meta}: {error}; copy it anew") from error
    characters = all(type(name) is str and len(name) == 1 and type(i) is int for name, i in ids.items())
    if not (ids and characters and sorted(ids.values()) == list(range(len(ids)))):
        raise CheckpointError(f"{meta} has no stoi that numbers characters from 0: it is damaged, or not of nanoGPT")
    return CharacterEncoder(ids)


def as_dict(value):
    return value if isinstance(value, dict) else {}
