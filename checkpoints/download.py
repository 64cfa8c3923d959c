"""OpenAI's official files: names, sizes and checksums; download, resume and verification.

A file is received as NAME.part. After a network error the download resumes where it stopped, also in a later run.
Size and SHA-256 are compared with those in OFFICIAL before the file gets its final name.
"""

import hashlib
import logging
import os
import time
from pathlib import Path

from checkpoints import files
from checkpoints.files import CheckpointError

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
TIMEOUT = (10, 60)  # seconds to connect; seconds without a byte
BACK_OFF = (0.5, 1, 2, 4)  # seconds to wait before each retry


def ensure_files(folder: Path, names: list[str] | tuple[str, ...], official: FileTable) -> None:
    """Download the files `names` that `folder` lacks, with the sizes and checksums in `official`.

    If `official` is empty the folder is the user's own and nothing is downloaded.
    Raise CheckpointError if a file is missing then, or cannot be downloaded.
    """
    missing = [name for name in names if not is_complete(folder / name, official)]
    if not missing:
        return
    if not official:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}: a folder in OpenAI's format holds "
            f"{', '.join(TEXT_FILES + WEIGHT_FILES)} (or model.safetensors in place of the last three), a Hugging Face "
            "folder holds config.json, a nanoGPT folder ckpt.pt; copy the missing files there (see docs/models.md)"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.locked(folder):
            for name in missing:
                if not is_complete(folder / name, official):  # another process may have downloaded it meanwhile
                    download(folder / name, *official[name])
    except OSError as error:
        raise CheckpointError(
            f"cannot download to {folder}: {error}; free some disk space, make the folder writable or choose another "
            "--models_dir"
        ) from error


def is_complete(path, official):
    """Return whether the file exists and has its official size, if that is known."""
    size, _ = official.get(path.name, (None, None))
    return path.is_file() and size in (None, path.stat().st_size)


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
    verify(part, url, "bytes", size, part.stat().st_size)
    verify(part, url, "SHA-256", sha256, digest)
    os.replace(part, target)


def receive_with_retries(url, part, size):
    """Return the SHA-256 of the file received; retry after network errors, with the pauses in BACK_OFF."""
    import requests

    retryable = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    for pause in (*BACK_OFF, None):
        try:
            return receive(url, part, size)
        except requests.RequestException as error:
            if pause is None or not isinstance(error, retryable):
                raise CheckpointError(manual_steps(url, part.parent, error)) from error
            log.info(f"{url}: {root_cause(error)}; trying again")
        time.sleep(pause)


def receive(url, part, size):
    """Append to `part` the bytes of `url` that it lacks; return the SHA-256 of the complete file.

    Raise requests.ConnectionError or another retryable error if a retry may help, requests.HTTPError if not.
    """
    import requests

    start = part.stat().st_size if part.exists() else 0
    digest = files.sha256_of(part)
    if start == size:
        return digest.hexdigest()
    headers = {"Accept-Encoding": "identity"}  # a compressed body could not be resumed
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if not is_resumed(response, start, part):
            start = 0
            digest = hashlib.sha256()
        write_body(response, part, start, size, digest)
    return digest.hexdigest()


def is_resumed(response, start, part):
    """Return True if the body continues after byte `start` (206), False if it is the complete file (200).

    Raise requests.ConnectionError for any other response that a retry may improve, requests.HTTPError for the rest.
    """
    import requests

    status = response.status_code
    answer = f"the server answered {status} {response.reason}"
    if status == 429 or status >= 500:
        raise requests.ConnectionError(answer)
    continues = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    if status == 416 or (status == 206 and not continues):
        part.unlink(missing_ok=True)
        raise requests.ConnectionError(f"{answer} to a request for the bytes from {start:,} on")
    if status not in (200, 206):
        raise requests.HTTPError(answer)
    if "text/html" in response.headers.get("Content-Type", ""):
        raise requests.HTTPError("the server sent a web page instead of the file")
    return continues


def write_body(response, part, start, size, digest):
    """Write the body to `part` from byte `start` on and add it to `digest`. Stop if it exceeds `size`."""
    import requests

    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else size
    bar = files.progress_bar(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True)
    with open(part, "ab" if start else "wb") as file, bar:
        for chunk in response.iter_content(files.CHUNK):
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
            if size and file.tell() > size:
                break
        files.sync(file)
        if total and file.tell() < total:
            raise requests.ConnectionError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def verify(part, url, quantity, expected, found):
    """Delete `part` and raise CheckpointError unless its size or checksum is as expected, or not known."""
    if expected not in (None, found):
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"{url} is not the official file: expected {quantity} {expected}, found {found}. The download was deleted; "
            "run again, and if the error persists check the address (PICOGPT_MODELS_URL) and your proxy"
        )


# ---- messages --------------------------------------------------------------------------------------------------


def manual_steps(url, folder, error):
    """Return a message with the cause of the failure and instructions for a manual download."""
    names = ", ".join(sorted((*TEXT_FILES, *WEIGHT_FILES)))
    return (
        f"could not download {url}: {root_cause(error)}.\n"
        f"To download by hand, put the files {names} (model.ckpt.meta is not needed) "
        f"from {url.rpartition('/')[0]}/ into {folder}.\n"
        "To run without a download, use the bundled model: --model_size tiny"
    )


def root_cause(error):
    """Return the message of the innermost exception; the outer ones are library internals."""
    while error.__context__:
        error = error.__context__
    return str(error) or type(error).__name__
