"""Download from a server that goes wrong: python tests/fuzz_downloads.py --downloads 550

Not collected by pytest. A download must end with the official files or with CheckpointError, and the next one from a
sound server must succeed.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "checkpoints")]

from file_server import Server  # noqa: E402

from checkpoints import download, files, transfer  # noqa: E402
from checkpoints.files import CheckpointError  # noqa: E402

LONGEST_MESSAGE = 2500  # characters

WORDS = [
    "status 400",
    "status 404",
    "status 416",
    "status 429",
    "status 500",
    "status 503",
    "truncate",
    "reset",
    "wrong",
]
WORDS += [
    "without_range",
    "other_range",
    "until_close",
    "until_early_close",
    "chunked",
    "chunked cut",
    "page text/html",
]
WORDS += [
    "page text/plain",
    "plain_page",
    "padded_page",
    "too_long",
    "short_ranges 100",
    "short_ranges 1",
    "short_ranges 0",
]
WORDS += [
    "announce 1",
    "announce 100000",
    "gzip",
    "never",
    "drip",
    "drip_headers",
    "reason \x1b[31m",
    "reason " + "x" * 9000,
]
WORDS += [
    f"redirect {to}" for to in ("http://[::1", "ftp://x/y", "file:///etc/passwd", "http://:1", "http://a b/", "//", "")
]
WORDS += [
    f"redirect {to}"
    for to in ("http://127.0.0.1:99999999/", "http://xn--/", "http://" + "a." * 200, "loop", "\x1b[31m")
]
WORDS += [
    r"raw garbage\r\n\r\n",
    "raw ",
    r"raw HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nx",
    r"raw HTTP/9.9 xyz\r\n\r\n",
]
WORDS += [r"raw HTTP/1.1 200 OK\r\nContent-Length: " + "9" * 5000 + r"\r\n\r\nx", r"raw HTTP/1.1 206 OK\r\n\r\nx"]
WORDS += [r"raw HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"]
WORDS += [
    r"raw HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    r"raw HTTP/1.1 200 OK\r\n" + r"X: y\r\n" * 200,
]
WORDS += [r"raw HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", r"raw HTTP/1.1 999 \r\n\r\n"]
WORDS += [r"raw HTTP/1.1 206 X\r\nContent-Range: bytes 0-" + "9" * 400 + r"/5\r\nContent-Length: 1\r\n\r\nx"]
UNHASHED = ["hparams.json", download.INDEX]  # files whose checksum is not published for every model
CONTENTS = {
    "hparams.json": json.dumps({"n_vocab": 64, "n_ctx": 12, "n_embd": 8, "n_head": 2, "n_layer": 2}).encode(),
    "vocab.bpe": b"#version: 0.2\n" + b"a b\n" * 500,
    download.INDEX: bytes(range(256)) * 8 + download.INDEX_END,
    download.DATA: random.Random(0).randbytes(9000),
}


def fuzz_downloads(n_faults, seed):
    """Download from a server that goes wrong; return the counts of outcomes and the complaints."""
    counts = collections.Counter()
    complaints = []
    download.BACK_OFF = (0, 0)
    transfer.TIMEOUT = (1, 0.1)
    transfer.LONGEST_START = 0.3
    transfer.LONGEST_CHUNK = 0.3
    files.CHUNK = 1000
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        os.environ.pop(name, None)
    os.environ["NO_PROXY"] = "127.0.0.1"
    for i in range(n_faults):
        rng = random.Random(f"{seed}/download/{i}")
        server = Server()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        os.environ["PICOGPT_MODELS_URL"] = server.url
        server.files = {f"/124M/{name}": raw for name, raw in CONTENTS.items()}
        server.files["/elsewhere"] = b"elsewhere"
        name = rng.choice(list(CONTENTS))
        words = [WORDS[i % len(WORDS)]] + [rng.choice(WORDS) for _ in range(rng.choice([0, 0, 1, 2]))]
        server.script[f"/124M/{name}"] = list(words)
        if words[0] == "redirect loop":
            server.script[f"/124M/{name}"] = [f"redirect {server.url}/124M/{name}"] * 50
        has_hash = rng.random() < 0.7
        official = {
            name: (len(raw), hashlib.sha256(raw).hexdigest()) if has_hash or name not in UNHASHED else (None, None)
            for name, raw in CONTENTS.items()
        }
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            outcome, complaint = download_twice(Path(place, "models", "124M"), official, server)
        counts[outcome] += 1
        if complaint:
            complaints.append(f"seed {seed}, download {i}: {name}: {words}: {complaint}")
            print(complaints[-1][:3000], flush=True)
        server.stopping.set()
        server.shutdown()
        server.server_close()
    return counts, complaints


def download_twice(folder, official, server):
    """Return the outcome of a download and a complaint or None. A second download has no faults."""
    outcome, complaint = "complete", None
    try:
        download.ensure_files(folder, list(CONTENTS), official)
    except CheckpointError as error:
        outcome = "error"
        if len(str(error)) > LONGEST_MESSAGE or not str(error).replace("\n", "").isprintable():
            complaint = f"a long or forged message: {str(error)[:500]!r}"
    except Exception:
        return "failure", traceback.format_exc()
    for name, raw in CONTENTS.items():
        path = folder / name
        if path.exists() and path.read_bytes() != raw:
            return outcome, f"a wrong file under its final name, {name}"
    if outcome == "error" and folder.exists() and os.listdir(folder) in ([], [".lock"]):
        return outcome, "an empty folder remains"
    server.script.clear()
    for attempt in (1, 2):  # a wrong part is deleted by the first
        try:
            download.ensure_files(folder, list(CONTENTS), official)
            break
        except CheckpointError as error:
            if attempt == 2 or "run again" not in str(error):
                return outcome, f"no recovery: {error}"
    return outcome, complaint


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--downloads", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    start = time.monotonic()
    counts, complaints = fuzz_downloads(arguments.downloads, arguments.seed)
    print(f"downloads: {dict(counts)} in {time.monotonic() - start:.0f} s")
    print(f"{len(complaints)} complaints")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
