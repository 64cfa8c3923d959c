"""Files shared by several processes: JSON, checksums, locks, atomic writes.

A file is written under a name that ends in .part and renamed when it is complete, by the process that holds the lock of
its folder. A file under its final name is therefore always complete.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

log = logging.getLogger("picogpt")

CHUNK = 2**16  # bytes read or written at once


class CheckpointError(RuntimeError):
    """The files of a model are missing, damaged or inconsistent, or cannot be downloaded."""


# ---- read ------------------------------------------------------------------------------------------------------


def expand(path: str | os.PathLike) -> str:
    """Return the path with ~ and $VARIABLES expanded."""
    return os.path.expanduser(os.path.expandvars(str(path)))


def read_json_object(file: Path) -> dict[str, Any]:
    """Return the dict in a JSON file. Raise CheckpointError if the file holds anything else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}): copy or download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no JSON object: copy or download it again")
    return value


def sha256_of(path: Path) -> "hashlib._Hash":
    """Return the SHA-256 object of a file's bytes, to which more bytes can be added; a missing file counts as empty."""
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest


# ---- write -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` within a `with` block; wait for it if another process holds it.

    The operating system releases the lock when the process ends, however it ends. The empty file .lock remains.
    """
    with open(folder / ".lock", "wb") as file:
        if not try_lock(file):
            log.info(f"waiting for another process that is writing in {folder}")
            while not try_lock(file):
                time.sleep(0.1)
        yield


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file without waiting. Return whether this succeeded."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # held by another process: on POSIX, on Windows
        return False
    return True


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to `path` when the `with` block succeeds and deleted when it fails."""
    for abandoned in path.parent.glob(f"{path.name}.*.part"):  # left by a process that was killed
        abandoned.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            sync(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Force the file's content to disk."""
    file.flush()
    os.fsync(file.fileno())


def progress_bar(iterable=None, **settings):
    """Return a tqdm progress bar. It is drawn on a terminal only, and not if the logger is limited to warnings."""
    from tqdm import tqdm

    is_quiet = log.level > logging.INFO
    return tqdm(iterable, disable=is_quiet or None, **settings)
