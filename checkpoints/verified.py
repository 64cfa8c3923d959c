"""The checksums of a mapped checkpoint: compared once, and the result remembered in a small file beside it.

The file NAME.verified holds the SHA-256 of the index, which contains all checksums, and the size and modification time
of each data file. A change of any of them causes a new comparison.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from checkpoints import files
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named
from checkpoints.tensor_index import Entry, crc32c, masked

CHUNK = 2**20  # bytes per call of google_crc32c, which takes bytes objects only
LARGEST_NOTE = 2**20


def verify(
    index: Path, content: bytes, data: list[np.ndarray], entries: dict[str, Entry], is_verified: bool = False
) -> None:
    """Compare the tensors with their checksums unless that has been done before.

    index, content: the index file. data: the bytes of each data file. entries: {path: entry} of the tensors.
    is_verified: the data have just been compared with a published SHA-256.
    Raise CheckpointError with the name of the first tensor that differs.
    """
    note = index.with_suffix(".verified")
    facts = describe(index, content, len(data))
    if is_remembered(note, facts):
        return
    if not is_verified:
        compare(index, data, entries)
    with contextlib.suppress(OSError), files.replacing(note) as file:  # a folder that is not writable
        file.write(json.dumps(facts).encode())


def describe(index: Path, content: bytes, n_shards: int) -> dict:
    """Return what identifies the files that are compared."""
    sizes = []
    for shard in range(n_shards):
        status = os.stat(index.with_name(f"{index.stem}.data-{shard:05}-of-{n_shards:05}"))
        sizes.append([status.st_size, status.st_mtime_ns])
    return {"index": hashlib.sha256(content).hexdigest(), "data": sizes}


def is_remembered(note: Path, facts: dict) -> bool:
    try:
        return files.is_file(note) and files.parse_json(files.read_bytes(note, LARGEST_NOTE)) == facts
    except (CheckpointError, OSError, ValueError):
        return False


def compare(index: Path, data: list[np.ndarray], entries: dict[str, Entry]) -> None:
    """Raise CheckpointError if a tensor does not match its checksum."""
    n_bytes = sum(entry.size for entry in entries.values())
    bar = files.progress_bar(desc="comparing checksums", total=n_bytes, unit="B", unit_scale=True, leave=False, delay=1)
    with bar:
        for path, entry in entries.items():
            raw = data[entry.shard][entry.offset : entry.offset + entry.size]
            if masked(checksum_of(raw)) != entry.checksum:
                name = f"{index.stem}.data-{entry.shard:05}-of-{len(data):05}"
                raise CheckpointError(
                    f"{named(index.with_name(name))} is damaged: the checksum of the tensor {abbreviated(path)} does "
                    f"not match; delete {abbreviated(name)} and run again if it was downloaded, otherwise copy it again"
                )
            bar.update(entry.size)


def checksum_of(raw: np.ndarray) -> int:
    """Return the CRC32C of bytes."""
    checksum = 0
    for start in range(0, len(raw), CHUNK):
        checksum = crc32c(raw[start : start + CHUNK].tobytes(), checksum)
    return checksum
