"""OpenAI's format: hparams.json, encoder.json and vocab.bpe, and a TensorFlow checkpoint, model.ckpt.*.

The tensors lie in the data of the checkpoint as float32 numbers and are used there: the file is mapped. Each tensor is
compared once with its checksum in the index (verified.py). Checkpoints of other kinds are converted by TensorFlow to
model.safetensors. A folder with model.safetensors, which the first version of this program made, needs no checkpoint.
"""

import hashlib
import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from checkpoints import download, files, mapped, tensor_index, tensorflow_reader, verified
from checkpoints.download import INDEX, TEXT_FILES, WEIGHT_FILES, FileTable
from checkpoints.files import CheckpointError
from checkpoints.mapped import Arrays
from checkpoints.messages import abbreviated, named
from checkpoints.places import Places
from checkpoints.tensor_index import Entry, Index
from checkpoints.tensors import (
    Shapes,
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
CONVERTIBLE = ("float32", "float64", "float16", "bfloat16")  # types that TensorFlow reads and NumPy converts
GPT2_TENSOR = re.compile(r"wte|wpe|ln_f/[gb]|h\d+/(ln_[12]/[gb]|(attn|mlp)/c_\w+/[wb])")  # paths in a checkpoint
LARGEST_NOTE = 2**20  # bytes of the file `checkpoint`, which lists the names of checkpoints


def load(folder: Path, places: Places) -> Loaded:
    """Return the parts of the model in a folder; download and convert its files if necessary.

    Raise CheckpointError if files are missing, damaged or inconsistent, or cannot be downloaded.
    """
    official = official_files(folder, places)
    download.ensure_files(folder, TEXT_FILES, official)
    hparams = read_hparams(folder)
    encoder = read_encoder(folder, hparams["n_vocab"])
    tensors = load_tensors(folder, tensor_shapes(hparams), official)
    special = default_tokens(encoder, hparams["n_vocab"])
    return Loaded(encoder, hparams, nest(tensors, hparams["n_layer"]), special)


def official_files(folder: Path, places: Places) -> FileTable:
    """Return the table of official files for a folder that may be downloaded to, {} for any other folder.

    Such a folder has the name of one of the four sizes, unless its file `checkpoint` names other weights.
    Raise CheckpointError if files are missing and nothing may be downloaded.
    """
    if folder.parent not in places.folders or checkpoint_index(folder).name != INDEX:
        return {}
    official = download.OFFICIAL.get(folder.name, {})
    missing = [name for name in official if not files.is_file(folder / name)]
    if official and places.offline and missing and not files.is_file(folder / CONVERTED_NAME):
        raise CheckpointError(
            f"the model {folder.name} is not complete on this machine: {named(folder)} lacks {', '.join(missing)}, and "
            "--offline forbids a download; run once without it, or use the bundled model, --model_size tiny"
        )
    return official


def checkpoint_index(folder: Path) -> Path:
    """Return the path of the checkpoint's index: model.ckpt.index, unless the file `checkpoint` names another."""
    file = folder / "checkpoint"
    text = files.read_bytes(file, LARGEST_NOTE).decode("utf-8", "replace") if files.is_file(file) else ""
    match = re.search(r'^model_checkpoint_path: "(?:.*[/\\])?([^/\\"]+)"', text)  # the last part of the path
    prefix = match[1] if match else "model.ckpt"
    return folder / f"{prefix}.index"


def state(folder: Path) -> str:
    """Return whether a model is ready, to be converted or incomplete, without reading its weights."""
    index = checkpoint_index(folder)
    if files.is_file(folder / CONVERTED_NAME):
        return "ready"
    if not files.is_file(index):
        return "to be converted" if files.is_file(index.with_suffix("")) else f"incomplete: lacks {index.name}"
    try:
        found = tensor_index.read_index(files.read_bytes(index))
        entries = select_entries(found, tensor_shapes(read_hparams(folder)), index.with_suffix(""))
        map_data(index.with_suffix(""), found.n_shards, entries)
    except tensor_index.Unsupported:
        return "to be converted"
    except tensor_index.Damaged as error:
        return f"damaged: {index.name} cannot be read ({error})"
    except CheckpointError as error:
        return f"incomplete: {error}"
    missing = [name for name in TEXT_FILES if not files.is_file(folder / name)]
    return f"incomplete: lacks {', '.join(missing)}" if missing else "ready"


# ---- hyper-parameters and vocabulary ---------------------------------------------------------------------------


def read_sizes(folder: Path) -> dict[str, Any]:
    """Return the hyper-parameters."""
    return read_hparams(folder)


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
    """Return the weights {path: float32 array}: mapped from the checkpoint or from model.safetensors."""
    converted = folder / CONVERTED_NAME
    index = checkpoint_index(folder)
    if is_current(converted, index, shapes):
        return mapped.map_tensors(converted, shapes)
    prefix = index.with_suffix("")
    if not files.is_file(index) and files.is_file(prefix):
        return convert_once(prefix, converted, shapes, "the form of TensorFlow 0.x, one file")
    n_received = download.ensure_files(folder, [index.name], official)
    n_received += download.ensure_files(folder, WEIGHT_FILES if official else [], official)
    content = files.read_bytes(index)
    try:
        found = tensor_index.read_index(content)
        entries = select_entries(found, shapes, prefix)
    except tensor_index.Damaged as error:
        raise CheckpointError(f"{named(index)} cannot be read ({error}): {remedy(index.name)}") from error
    except tensor_index.Unsupported as error:
        return convert_once(prefix, converted, shapes, str(error))
    data = map_data(prefix, found.n_shards, entries)
    is_verified = n_received == len(WEIGHT_FILES) and official[download.DATA][1] is not None
    verified.verify(index, content, data, entries, is_verified)
    return {path: as_array(data, entries[path], shape) for path, shape in shapes.items()}


def remedy(name: str) -> str:
    return f"delete {name} and run again if it was downloaded, otherwise copy it again"


def is_current(converted: Path, index: Path, shapes: Shapes) -> bool:
    """Return whether model.safetensors is used: there is no checkpoint, or it is not older than the checkpoint.

    The index holds a checksum of every tensor, so the SHA-256 of this small file identifies all weights.
    """
    has_checkpoint = files.is_file(index) or files.is_file(index.with_suffix(""))
    if not (files.is_file(converted) and has_checkpoint):
        return converted.is_file()  # without a checkpoint nothing else can be used
    try:
        found, source = mapped.read_header(converted)
    except CheckpointError:
        return False
    if source is None:  # written by another program: use it and never replace it
        return True
    return source == fingerprint(index) and found == in_safetensors(shapes)


def fingerprint(index: Path) -> str:
    """Return the SHA-256 of a checkpoint's index, or the size and time of a checkpoint that has none."""
    if files.is_file(index):
        return hashlib.sha256(files.read_bytes(index)).hexdigest()
    status = os.stat(index.with_suffix(""))
    return f"{status.st_size} {status.st_mtime_ns}"


# ---- mapped in place -------------------------------------------------------------------------------------------


def select_entries(index: Index, shapes: Shapes, prefix: Path) -> dict[str, Entry]:
    """Return {path: entry} of the tensors of a GPT-2. Others, such as those of an optimizer, are left out.

    Raise CheckpointError if they are not those in `shapes`, Unsupported if TensorFlow must read them.
    """
    scope = find_scope(index)
    names = in_checkpoint(shapes, scope)
    of_gpt2 = {name: entry for name, entry in index.entries.items() if is_of_gpt2(name, scope)}
    for entry in of_gpt2.values():
        if entry.is_partitioned:
            raise tensor_index.Unsupported("partitioned variables")
        if entry.dtype in CONVERTIBLE[1:]:
            raise tensor_index.Unsupported(f"numbers of the type {entry.dtype}")
    check_tensors(prefix, names, {name: (entry.dtype, entry.shape) for name, entry in of_gpt2.items()})
    entries = {path: of_gpt2[name] for path, name in zip(shapes, names, strict=True)}
    check_places(entries, index.n_shards)
    return entries


def find_scope(index: Index) -> str:
    """Return what precedes the paths of tensors in their names: model/ in OpenAI's checkpoints."""
    scopes = sorted((name.removesuffix("wte") for name in index.entries if re.search(r"(^|/)wte$", name)), key=len)
    return "model/" if "model/" in scopes or not scopes else scopes[0]


def is_of_gpt2(name: str, scope: str) -> bool:
    return name.startswith(scope) and GPT2_TENSOR.fullmatch(name.removeprefix(scope)) is not None


def check_places(entries: dict[str, Entry], n_shards: int) -> None:
    """Raise Damaged if a tensor has another size than its shape, or two lie in the same place."""
    end_of = {}
    for entry in sorted(entries.values(), key=lambda entry: (entry.shard, entry.offset)):
        if entry.size != 4 * math.prod(entry.shape) or entry.shard >= n_shards:
            raise tensor_index.Damaged("a tensor has a wrong size or lies in a file that does not belong to it")
        if entry.offset < end_of.get(entry.shard, 0):
            raise tensor_index.Damaged("two tensors lie in the same place")
        end_of[entry.shard] = entry.offset + entry.size


def map_data(prefix: Path, n_shards: int, entries: dict[str, Entry]) -> list[np.ndarray]:
    """Return the bytes of each data file, mapped. Raise CheckpointError if a file is missing or too short."""
    data = []
    for shard in range(n_shards):
        path = prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{n_shards:05}")
        if not files.is_file(path):
            raise CheckpointError(f"{named(path.parent)} lacks {abbreviated(path.name)}: copy it there")
        n_needed = max((entry.offset + entry.size for entry in entries.values() if entry.shard == shard), default=0)
        with files.open_to_read(path) as file:
            n_found = os.fstat(file.fileno()).st_size
            if n_found < n_needed:
                problem = f"{named(path)} has {n_found:,} bytes but its tensors need {n_needed:,}"
                raise CheckpointError(f"{problem}: {remedy(path.name)}")
            data.append(np.memmap(file, np.uint8, mode="r").view(np.ndarray) if n_found else np.zeros(0, np.uint8))
    return data


def as_array(data: list[np.ndarray], entry: Entry, shape: tuple[int, ...]) -> np.ndarray:
    """Return a tensor where it lies, or a copy if its address is not a multiple of four bytes."""
    raw = data[entry.shard][entry.offset : entry.offset + entry.size]
    array = raw.view("<f4").reshape(shape)
    return array if array.flags.aligned else array.copy()


# ---- converted by TensorFlow -----------------------------------------------------------------------------------


def convert_once(prefix: Path, converted: Path, shapes: Shapes, kind: str) -> Arrays:
    """Return the tensors, mapped from model.safetensors, which TensorFlow makes first if necessary.

    kind: what the checkpoint has that only TensorFlow reads.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    return mapped.convert_once(
        converted,
        shapes,
        is_current=lambda: is_current(converted, index, shapes),
        convert=lambda file: convert(index, file, shapes, kind),
    )


def convert(index: Path, file: BinaryIO, shapes: Shapes, kind: str) -> None:
    """Write the tensors of a TensorFlow checkpoint to an open file as safetensors, one after the other.

    Memory: TensorFlow and the largest tensor.
    Raise CheckpointError if the checkpoint is damaged or its tensors are not those in `shapes`, OSError if the file
    cannot be written.
    """
    source = fingerprint(index)
    prefix = index.with_suffix("")
    found, read = tensorflow_reader.open_checkpoint(prefix, kind)
    scope = find_scope(Index(1, dict.fromkeys(found)))
    names = in_checkpoint(shapes, scope)
    known = {name: as_float32(entry) for name, entry in found.items() if is_of_gpt2(name, scope)}
    check_tensors(prefix, names, known)
    mapped.write_safetensors(file, CONVERTED_NAME, in_safetensors(shapes), source, map(read, names))


def as_float32(entry):
    """Return (dtype, shape) with float32 in place of a type that is converted to it."""
    dtype, shape = entry
    return ("float32" if dtype in CONVERTIBLE else dtype), shape
