"""OpenAI's format: hparams.json, encoder.json and vocab.bpe, and a TensorFlow checkpoint, model.ckpt.*.

TensorFlow takes seconds to start and copies what it reads. So it reads a checkpoint only once: the tensors are saved
beside it as model.safetensors, which later runs map. A folder with model.safetensors needs no checkpoint.
"""

import contextlib
import hashlib
import math
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from checkpoints import download, files, mapped
from checkpoints.download import INDEX, TEXT_FILES, WEIGHT_FILES, FileTable
from checkpoints.files import CheckpointError
from checkpoints.mapped import Arrays
from checkpoints.messages import abbreviated, named
from checkpoints.tensors import (
    Shapes,
    TypedShapes,
    check_hparams,
    check_tensors,
    in_checkpoint,
    in_safetensors,
    nest,
    tensor_shapes,
)
from checkpoints.tokenizer import Loaded, default_tokens
from checkpoints.vocabulary import get_encoder
from encoder import Encoder

CONVERTED_NAME = "model.safetensors"  # the checkpoint, converted
LARGEST_NOTE = 2**20  # bytes of the file `checkpoint`, which lists the names of checkpoints


def load(folder: Path, models_dir: str | os.PathLike) -> Loaded:
    """Return the parts of the model in a folder; download and convert its files if necessary.

    Raise CheckpointError if files are missing, damaged or inconsistent, or cannot be downloaded.
    """
    official = official_files(folder, models_dir)
    download.ensure_files(folder, TEXT_FILES, official)
    hparams = read_hparams(folder)
    encoder = read_encoder(folder, hparams["n_vocab"])
    tensors = load_tensors(folder, tensor_shapes(hparams), official)
    special = default_tokens(encoder, hparams["n_vocab"])
    return Loaded(encoder, hparams, nest(tensors, hparams["n_layer"]), special)


def official_files(folder: Path, models_dir: str | os.PathLike) -> FileTable:
    """Return the table of official files for a folder that may be downloaded to, {} for any other folder.

    Such a folder is models_dir/SIZE with one of the four sizes, unless its file `checkpoint` names other weights.
    """
    if folder.parent == Path(files.expand(models_dir)) and checkpoint_index(folder).name == INDEX:
        return download.OFFICIAL.get(folder.name, {})
    return {}


def checkpoint_index(folder: Path) -> Path:
    """Return the path of the checkpoint's index: model.ckpt.index, unless the file `checkpoint` names another."""
    file = folder / "checkpoint"
    text = files.read_bytes(file, LARGEST_NOTE).decode("utf-8", "replace") if files.is_file(file) else ""
    match = re.search(r'^model_checkpoint_path: "(?:.*[/\\])?([^/\\"]+)"', text)  # the last part of the path
    prefix = match[1] if match else "model.ckpt"
    return folder / f"{prefix}.index"


# ---- hyper-parameters and vocabulary ---------------------------------------------------------------------------


def read_hparams(folder: Path) -> dict[str, Any]:
    """Return the dict in hparams.json. Raise CheckpointError if the hyper-parameters are invalid."""
    file = folder / "hparams.json"
    hparams = files.read_json_object(file)
    check_hparams(file, hparams)
    return hparams


def read_encoder(folder: Path, n_vocab: int) -> Encoder:
    """Return the encoder. Raise CheckpointError if the vocabulary is damaged or has another size than n_vocab."""
    encoder = get_encoder(folder)
    if encoder.n_vocab != n_vocab:
        raise CheckpointError(
            f"{named(folder / 'encoder.json')} has {encoder.n_vocab} tokens but hparams.json has n_vocab {n_vocab}: "
            "the files belong to two models; copy all files of one model there"
        )
    return encoder


# ---- weights ---------------------------------------------------------------------------------------------------


def load_tensors(folder: Path, shapes: Shapes, official: FileTable) -> Arrays:
    """Return the weights {path: float32 array}, mapped from model.safetensors, which is written first if necessary."""
    converted = folder / CONVERTED_NAME
    index = checkpoint_index(folder)
    if is_current(converted, index, shapes):
        return mapped.map_tensors(converted, shapes)
    download.ensure_files(folder, [index.name], official)
    import_tensorflow(folder)  # report a missing TensorFlow before a long download
    download.ensure_files(folder, WEIGHT_FILES if official else [], official)
    return mapped.convert_once(
        converted,
        shapes,
        is_current=lambda: is_current(converted, index, shapes),
        convert=lambda file: convert(index, file, shapes),
    )


def is_current(converted: Path, index: Path, shapes: Shapes) -> bool:
    """Return whether the converted file is complete and was made from the checkpoint with this index.

    The index holds a checksum of every tensor, so the SHA-256 of this small file identifies all weights.
    """
    if not (files.is_file(converted) and files.is_file(index)):
        return converted.is_file()  # without a checkpoint nothing else can be used
    try:
        found, source = mapped.read_header(converted)
    except CheckpointError:
        return False
    if source is None:  # written by another program: use it and never replace it
        return True
    return source == fingerprint(index) and found == in_safetensors(shapes)


def fingerprint(index: Path) -> str:
    """Return the SHA-256 of a checkpoint's index."""
    return hashlib.sha256(files.read_bytes(index)).hexdigest()


def convert(index: Path, file: BinaryIO, shapes: Shapes) -> None:
    """Write the tensors of a TensorFlow checkpoint to an open file as safetensors, one after the other.

    Memory: TensorFlow and the largest tensor.
    Raise CheckpointError if the checkpoint is damaged or its tensors are not those in `shapes`, OSError if the file
    cannot be written.
    """
    source = fingerprint(index)
    names = in_checkpoint(shapes)
    found, read = open_checkpoint(index)
    check_tensors(index.with_suffix(""), names, found)
    check_data_size(index, shapes)
    mapped.write_safetensors(file, CONVERTED_NAME, in_safetensors(shapes), source, map(read, names))


def check_data_size(index: Path, shapes: Shapes) -> None:
    """Raise CheckpointError if the tensors need more bytes than the data files have: they would share their numbers."""
    start = f"{index.stem}.data-"
    paths = [index.parent / name for name in os.listdir(index.parent) if name.startswith(start)]
    n_found = sum(path.stat().st_size for path in paths if files.is_file(path))
    n_needed = 4 * sum(map(math.prod, shapes.values()))
    if paths and n_found < n_needed:
        raise CheckpointError(
            f"the data of the checkpoint {named(index.with_suffix(''))} have {n_found:,} bytes but its tensors need "
            f"{n_needed:,}: copy or download all its files again"
        )


def open_checkpoint(index: Path) -> tuple[TypedShapes, Callable[[str], np.ndarray]]:
    """Return {name: (dtype, shape)} of a TensorFlow checkpoint, and a function that reads a tensor by its name."""
    tf = import_tensorflow(index.parent)
    prefix = index.with_suffix("")  # TensorFlow names a checkpoint by the common part of its file names
    data = f"{prefix.name}.data-"
    if not any(name.startswith(data) for name in os.listdir(index.parent)):
        raise CheckpointError(f"{named(index.parent)} lacks {abbreviated(data)}00000-of-00001: copy it there")

    def checked(read, *arguments):
        try:
            return read(*arguments)
        except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:  # TensorFlow raises all of these
            is_changed = "checksum" in str(error).lower()
            problem = "the checksum of a tensor does not match" if is_changed else "a file is missing or damaged"
            name = abbreviated(prefix.name)
            raise CheckpointError(
                f"the checkpoint {named(prefix)} cannot be read ({problem}): delete {name}.index "
                f"and {name}.data-*, then run again if they were downloaded, otherwise copy them there again"
            ) from error

    reader = checked(tf.train.load_checkpoint, str(prefix))
    shapes = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    found = {name: (dtypes[name].name, tuple(shapes[name])) for name in shapes}
    return found, lambda name: checked(reader.get_tensor, name)


def import_tensorflow(folder: Path):
    """Import and return TensorFlow, without its GPU and deprecation messages.

    folder: the model to convert, for the message. Raise CheckpointError if TensorFlow cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        with warnings.catch_warnings(), silent_stderr():
            warnings.simplefilter("ignore")
            import tensorflow
    except ImportError as error:
        raise CheckpointError(
            f"converting the checkpoint in {named(folder)} requires TensorFlow, once, and importing it failed "
            f"({abbreviated(error, 240)}): pip install tensorflow-cpu (on macOS: tensorflow), or copy {CONVERTED_NAME} "
            "there from a machine where the model has been converted"
        ) from error
    return tensorflow


@contextlib.contextmanager
def silent_stderr():
    """Redirect file descriptor 2 to the null device: C++ code writes to it directly, not to sys.stderr."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
