"""OpenAI's official files: their names, sizes and checksums, and how they are downloaded, resumed and verified."""

import hashlib
import logging
import os
import time

from checkpoints import files
from checkpoints.files import CheckpointError

log = logging.getLogger("picogpt")

INDEX = "model.ckpt.index"
DATA = "model.ckpt.data-00000-of-00001"

TEXT_FILES = ("hparams.json", "encoder.json", "vocab.bpe")
WEIGHT_FILES = (INDEX, "checkpoint", DATA)
# OpenAI's files: {size of the model: {name: (bytes, SHA-256)}}, with None for what nobody has published.
COMMON = {
    "checkpoint": (77, "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb"),
    "encoder.json": (1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    "vocab.bpe": (456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
}
OFFICIAL = {
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
ALIASES |= {"117M": "124M", "345M": "355M"}  # what the first two sizes were called at first
BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"  # unless PICOGPT_MODELS_URL names another
TIMEOUT = (10, 60)  # seconds to connect; seconds without a byte
BACK_OFF = (0.5, 1, 2, 4)  # seconds before each new try


def ensure_files(folder, names, official):
    """Make sure that the files `names` are in `folder`: the official ones are downloaded, others must be there."""
    missing = [name for name in names if not is_complete(folder / name, official)]
    if not missing:
        return
    if not official:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}: the folder of a model holds {', '.join(TEXT_FILES + WEIGHT_FILES)} "
            f"(or model.safetensors in place of the last three); copy there what is missing. In the layout of Hugging Face it "
            "holds config.json, in nanoGPT's ckpt.pt; README.md says what else"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.locked(folder):
            for name in missing:
                if not is_complete(folder / name, official):  # another process may just have brought it
                    download(folder / name, *official[name])
    except OSError as error:
        raise CheckpointError(
            f"cannot download to {folder}: {error}; make room, make it writable or choose another --models_dir"
        ) from error


def is_complete(path, official):
    size, _ = official.get(path.name, (None, None))
    return path.is_file() and size in (None, path.stat().st_size)


def download(target, size, sha256):
    """Download one file, in as many tries as BACK_OFF allows, each of which goes on where the one before ended.

    size (bytes), sha256: of the official file, or None. CheckpointError: it cannot be had, or is not the official one.
    """
    import requests

    base_url = (os.environ.get("PICOGPT_MODELS_URL") or BASE_URL).rstrip("/")
    url = f"{base_url}/{target.parent.name}/{target.name}"
    part = target.with_name(f"{target.name}.part")
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    for wait in (*BACK_OFF, None):
        try:
            digest = receive(url, part, size)
            break
        except requests.RequestException as error:
            if wait is None or not isinstance(error, passing):
                raise CheckpointError(manual_steps(url, target.parent, error)) from error
            log.info(f"{url}: {root_cause(error)}; trying again")
        time.sleep(wait)
    verify(part, url, "bytes", size, part.stat().st_size)
    verify(part, url, "SHA-256", sha256, digest)
    os.replace(part, target)


def receive(url, part, size):
    """Append to `part` what it lacks of `url`; return the SHA-256 of the whole, computed on the way.

    Raises what requests does, and so: requests.ConnectionError where another try may help, HTTPError where it cannot.
    """
    import requests
    from tqdm import tqdm

    start, digest = part.stat().st_size if part.exists() else 0, files.sha256_of(part)
    if start == size:
        return digest.hexdigest()
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if not is_resumed(response, start, part):
            start, digest = 0, hashlib.sha256()
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else size
        bar = tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None)
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
    return digest.hexdigest()


def is_resumed(response, start, part):
    """Whether the answer is what follows the first `start` bytes (206) or the whole file (200); else raise."""
    import requests

    status, answer = response.status_code, f"the server answered {response.status_code} {response.reason}"
    if status == 429 or status >= 500:
        raise requests.ConnectionError(answer)
    following = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    if status == 416 or (status == 206 and not following):
        part.unlink(missing_ok=True)
        raise requests.ConnectionError(f"{answer} when asked for what follows byte {start:,}")
    if status not in (200, 206):
        raise requests.HTTPError(answer)
    if "text/html" in response.headers.get("Content-Type", ""):
        raise requests.HTTPError("the server answered with a web page in place of the file")
    return following


def verify(part, url, what, expected, found):
    """Raise CheckpointError, and delete `part`, unless what was found is what is known of the official file."""
    if expected not in (None, found):
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"{url} is not the official file: expected {what} {expected}, found {found}. What was downloaded is "
            "deleted: run again, and if that does not help look at the address (PICOGPT_MODELS_URL) or for a proxy"
        )


def manual_steps(url, folder, error):
    files = ", ".join(sorted((*TEXT_FILES, *WEIGHT_FILES, "model.ckpt.meta")))
    return (
        f"could not download {url}: {root_cause(error)}.\n"
        f"To do it by hand, put the files {files} (model.ckpt.meta is not needed) "
        f"from {url.rpartition('/')[0]}/ into {folder}.\n"
        "Meanwhile try the bundled model: --model_size tiny"
    )


def root_cause(error):
    """Return the message of the exception that began it; those around it tell of the inner life of a library."""
    while error.__context__:
        error = error.__context__
    return str(error) or type(error).__name__
