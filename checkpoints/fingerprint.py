"""The fingerprint of a model: a hash of its files that is the same wherever they lie.

The index of a TensorFlow checkpoint holds the checksums of all tensors, so that no tensor is read. Other weights are
read once; their checksums are kept in the small file model.fingerprint beside them, with the sizes and modification
times for which they hold.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from checkpoints import files, formats, mapped, openai, verified
from checkpoints.files import CheckpointError

NOTE = "model.fingerprint"
TEXTS = ("hparams.json", "encoder.json", "vocab.bpe", "config.json", "vocab.json", "merges.txt", "tokenizer.json")
TEXTS += ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "meta.pkl")
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pth", "*.pt")
CONVERTED = ".float32.safetensors"  # the end of the names of weights that this program converted
DIGITS = 16


def fingerprint(path: Path) -> str | None:
    """Return 16 hexadecimal digits for the model in a folder or a file; None if it is incomplete or unreadable."""
    folder = path if path.is_dir() else path.parent
    try:
        facts = weights_facts(path, folder)
        for name in TEXTS:
            if files.is_file(folder / name):
                facts[name] = sha256(folder / name)
    except (CheckpointError, OSError):
        return None
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:DIGITS]


def sha256(file):
    return hashlib.sha256(files.read_bytes(file)).hexdigest()


def weights_facts(path, folder):
    """Return {name: hash or checksum} of a model's weights. Raise CheckpointError if there are none."""
    found = formats.recognize(path)
    index = index_hash(folder) if found and found.module == formats.OPENAI.module else None
    if index:
        return {"index": index}
    weights = [found.file_of(path)] if found and found.is_model else sorted(set(weight_files(folder)))
    if not weights:
        raise CheckpointError("there are no weights")
    return checksums(folder, weights)


def index_hash(folder):
    """Return the SHA-256 of a checkpoint's index, or None. Weights that were converted from it hold the hash too."""
    index = openai.checkpoint_index(folder)
    if files.is_file(index):
        return sha256(index)
    converted = folder / openai.CONVERTED_NAME
    return mapped.read_header(converted)[1] if files.is_file(converted) else None


def weight_files(folder):
    """Yield the files of weights in a folder, without those that this program converted."""
    for pattern in WEIGHTS:
        for file in folder.glob(pattern):
            if not file.name.endswith(CONVERTED) and files.is_file(file):
                yield file


def checksums(folder, weights):
    """Return {name: [size, CRC32C]} of files. Those in the note are not read again."""
    noted = read_note(folder / NOTE)
    known = {}
    for file in weights:
        status = os.stat(file)
        facts = [status.st_size, status.st_mtime_ns]
        before = noted.get(file.name)
        is_known = isinstance(before, list) and before[:2] == facts and len(before) == 3
        known[file.name] = before if is_known else [*facts, checksum(file)]
    if any(noted.get(name) != facts for name, facts in known.items()):
        with contextlib.suppress(OSError, CheckpointError), files.replacing(folder / NOTE) as note:  # not writable
            note.write(json.dumps(noted | known).encode())
    return {name: [size, value] for name, (size, _, value) in known.items()}


def read_note(note):
    """Return the content of the note, {} if there is none or it is damaged."""
    try:
        return files.read_json_object(note) if files.is_file(note) else {}
    except (CheckpointError, OSError):
        return {}


def checksum(path):
    with files.open_to_read(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            return 0
        return verified.checksum_of(np.memmap(file, np.uint8, mode="r"))
