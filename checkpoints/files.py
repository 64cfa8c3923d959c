"""Files of a model: locks, atomic writes, JSON, checksums.

A file is written under a name that ends in .part and renamed when it is complete, by the one process that holds the
lock of its folder. A file under its final name is therefore always complete.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time

log = logging.getLogger("picogpt")

CHUNK = 2**16  # bytes


class CheckpointError(RuntimeError):
    """The files of a model are missing, damaged or at odds with each other, or could not be downloaded."""


def expand(path):
    return os.path.expanduser(os.path.expandvars(str(path)))


def read_json_object(file):
    """Return the dict in a JSON file. CheckpointError: it is something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON ({error}): get it anew") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is not a JSON object: get it anew")
    return value


def sha256_of(path):
    """Return a SHA-256 that has seen the file, if there is one, and can be shown more."""
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest


@contextlib.contextmanager
def locked(folder):
    """Wait until no other process writes in `folder`, then make the others wait.

    The lock is the operating system's and goes when the process does, however it ends; the empty file .lock stays.
    """
    with open(folder / ".lock", "wb") as file:
        if not try_lock(file):
            log.info(f"waiting for another process that is at work in {folder}")
            while not try_lock(file):
                time.sleep(0.1)
        yield


def try_lock(file):
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # what "somebody has it" is called here and on Windows
        return False
    return True


@contextlib.contextmanager
def new_file(path):
    """Open a file that becomes `path` once it is whole and on the disk, and is gone if anything goes wrong."""
    for left in path.parent.glob(f"{path.name}.*.part"):  # by a process that was killed
        left.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            sync(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sync(file):
    file.flush()
    os.fsync(file.fileno())
