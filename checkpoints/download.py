"""OpenAI's official files: names, sizes and checksums; download, resume and verification.

A file is received as NAME.part. After a network error the download resumes where it stopped, also in a later run.
Size and SHA-256 are compared with those in OFFICIAL before the file gets its final name. Where no SHA-256 is published,
the file must at least have the form that its name promises. transfer.py talks to the server.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from checkpoints import files, transfer
from checkpoints.files import CheckpointError
from checkpoints.messages import named, reason
from checkpoints.tensors import check_hparams

log = logging.getLogger("picogpt")

INDEX = "model.ckpt.index"
DATA = "model.ckpt.data-00000-of-00001"
TEXT_FILES = ("hparams.json", "encoder.json", "vocab.bpe")
WEIGHT_FILES = (INDEX, "checkpoint", DATA)

FileTable = dict[str, tuple[int | None, str | None]]  # {name: (bytes, SHA-256)}; None where none is published

COMMON: FileTable = {
    "checkpoint": (77, "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb"),
    "encoder.json": (1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    "vocab.bpe": (456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
}
OFFICIAL: dict[str, FileTable] = {
    "124M": {
        **COMMON,
        "hparams.json": (90, "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"),
        INDEX: (5215, "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687"),
        DATA: (497759232, "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118"),
    },
    "355M": {
        **COMMON,
        "hparams.json": (91, "310dfdb1f0c786b79d93459eaa470f3978d873bdc3e1f9fed1cad24d9dd0b1f6"),
        INDEX: (10399, "4490e7b1f5ec0abfc1e111fcd27cdda7cb280c597ba0a885c364134e62ce43aa"),
        DATA: (1419292672, "22b4212602a087d1cdeec3509648f4d7b1f181eaa33ce0f3c688fbfb732d622f"),
    },
    "774M": {**COMMON, "hparams.json": (None, None), INDEX: (None, None), DATA: (3096120320, None)},
    "1558M": {
        **COMMON,
        "hparams.json": (91, "647420ef8cf586f8933899000aa50c1996eaca50e4dc6fbd25bfdc64f4207bbf"),
        INDEX: (20724, "3a968cd212647a6007ddf7d6c9f52c9b158d0e9aabc9206390709c37d4175e5e"),
        DATA: (6230444800, None),
    },
}
ALIASES = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
ALIASES |= {"117M": "124M", "345M": "355M"}  # OpenAI's first names of the first two sizes

BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # unless PICOGPT_MODELS_URL is set
BACK_OFF = (0.5, 1, 2, 4)  # seconds to wait before each retry

HEADS = {"vocab.bpe": b"#version", "checkpoint": b"model_checkpoint_path"}  # how a file of that name begins
INDEX_END = bytes.fromhex("57fb808b247547db")  # the last bytes of every TensorFlow index


def ensure_files(folder: Path, names: list[str] | tuple[str, ...], official: FileTable) -> int:
    """Download the files `names` that `folder` lacks, with the sizes and checksums in `official`; return how many.

    If `official` is empty the folder is the user's own and nothing is downloaded.
    Raise CheckpointError if a file is missing then, or cannot be downloaded.
    """
    missing = [name for name in names if not is_complete(folder / name, official)]
    if not missing:
        return 0
    if not official:
        raise CheckpointError(
            f"{named(folder)} lacks {named(', '.join(missing))}: a folder in OpenAI's format holds "
            f"{', '.join(TEXT_FILES + WEIGHT_FILES)} (or model.safetensors in place of the last three); copy the "
            "missing files there (see docs/models.md)"
        )
    n_received = 0
    announce(folder, missing, official)
    try:
        with created(folder), files.locked(folder), emptied_on_failure(folder):
            for name in missing:
                if not is_complete(folder / name, official):  # another process may have downloaded it meanwhile
                    download(folder / name, *official[name])
                    n_received += 1
    except OSError as error:
        raise CheckpointError(
            f"cannot download to {named(folder)}: {reason(error)}; free some disk space, make the folder writable or "
            "choose another --models_dir"
        ) from error
    return n_received


def announce(folder, names, official):
    """Say where a download goes and how large it is, before it starts."""
    sizes = [official[name][0] for name in names]
    n_bytes = sum(size or 0 for size in sizes)
    at_least = "at least " if None in sizes else ""
    log.info(f"downloading {', '.join(names)} of {folder.name}, {at_least}{n_bytes / 1e6:,.1f} MB, to {named(folder)}")


def is_complete(path, official):
    """Return whether the file exists and has its official size or, if that is not published, the form that it must."""
    size, sha256 = official.get(path.name, (None, None))
    if not files.is_file(path):
        return False
    if official and size is sha256 is None:
        return is_plausible(path, path.name)
    return size in (None, path.stat().st_size)


@contextlib.contextmanager
def created(folder: Path) -> Iterator[None]:
    """Create a folder for a `with` block. If the block fails and leaves it empty, remove what was created."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty
            for path in new:
                path.rmdir()
        raise


@contextlib.contextmanager
def emptied_on_failure(folder: Path) -> Iterator[None]:
    """Remove the lock from a folder if the `with` block fails and the folder holds nothing else."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if os.listdir(folder) == [".lock"]:
                (folder / ".lock").unlink()
        raise


# ---- one file --------------------------------------------------------------------------------------------------


def download(target, size, sha256):
    """Download one official file and verify it.

    size: bytes. size and sha256 are None if they are not known.
    Raise CheckpointError if the file cannot be downloaded or is not the official one.
    """
    base_url = (os.environ.get("PICOGPT_MODELS_URL") or BASE_URL).rstrip("/")
    url = f"{base_url}/{target.parent.name}/{target.name}"
    part = target.with_name(f"{target.name}.part")
    digest = receive_with_retries(url, part, size)
    if size not in (None, found := part.stat().st_size):
        raise not_official(part, url, f"expected bytes {size}, found {found}")
    if sha256 not in (None, digest):
        raise not_official(part, url, f"expected SHA-256 {sha256}, found {digest}")
    if sha256 is None and not is_plausible(part, target.name):
        raise not_official(part, url, f"{found:,} bytes that are no {target.name}")
    os.replace(part, target)


def receive_with_retries(url, part, size):
    """Return the SHA-256 of the file received; retry after network errors, with the pauses in BACK_OFF."""
    for pause in (*BACK_OFF, None):
        try:
            return receive(url, part, size)
        except transfer.Refused as error:
            raise CheckpointError(manual_steps(url, part.parent, error)) from error
        except transfer.Interrupted as error:
            if pause is None:
                raise CheckpointError(manual_steps(url, part.parent, error)) from error
            log.info(f"{named(url)}: {error}; trying again")
        time.sleep(pause)


def receive(url, part, size):
    """Append to `part` the bytes of `url` that it lacks; return the SHA-256 of the complete file.

    Raise CheckpointError as soon as the server announces a file larger than `size`, transfer.Interrupted if a retry may
    help, transfer.Refused if not.
    """
    with files.open_to_append(part) as file:
        if os.fstat(file.fileno()).st_nlink > 1:
            raise CheckpointError(f"{named(part)} has several names (hard links) and is not written: remove it")
        if os.fstat(file.fileno()).st_size > (files.LARGEST_TEXT if size is None else size):
            file.truncate(0)  # of another file
        received = transfer.Part(file, part.stem)
        total = size
        try:
            while received.size != total:  # an answer may hold a part of what is missing
                total = transfer.receive_more(url, received, size)
                if size is not None and total > size:
                    raise not_official(part, url, f"expected bytes {size}, the server announces {total}")
                if total is None or received.size > total:
                    break
            files.sync(file)
        except BaseException:
            if received.size == 0:
                with contextlib.suppress(OSError):
                    part.unlink()
            raise
        return received.digest.hexdigest()


def is_plausible(path: Path, name: str) -> bool:
    """Return whether a file can be what an official file of that name is; it is not compared with a checksum."""
    with files.open_to_read(path) as file:
        head = file.read(100).lstrip().lower()
        file.seek(-min(len(INDEX_END), os.fstat(file.fileno()).st_size), os.SEEK_END)
        tail = file.read()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return False
    try:
        if name == "hparams.json":
            check_hparams(path, files.read_json_object(path))
        elif name == "encoder.json":
            files.read_json_object(path)
    except CheckpointError:
        return False
    return head.startswith(HEADS.get(name, b"")) and (name != INDEX or tail == INDEX_END)


def not_official(part, url, problem):
    """Delete `part` and return an error that says why it is not the official file."""
    part.unlink(missing_ok=True)
    return CheckpointError(
        f"{named(url)} is not the official file: {problem}. The download was deleted; run again, and if the error "
        "persists check the address (PICOGPT_MODELS_URL) and your proxy"
    )


def manual_steps(url, folder, error):
    """Return a message with the cause of the failure and instructions for a manual download."""
    names = ", ".join(sorted((*TEXT_FILES, *WEIGHT_FILES)))
    return (
        f"could not download {named(url)}: {error}.\n"
        f"To download by hand, put the files {names} (model.ckpt.meta is not needed) "
        f"from {named(url.rpartition('/')[0])}/ into {named(folder)}.\n"
        "To run without a download, use the bundled model: --model_size tiny"
    )
