"""Load damaged and hostile model files, and download from a faulty server: python tests/fuzz_models.py --files 60000

Not collected by pytest. Each load must give a model, or CheckpointError or ValueError with one line of limited length;
within the time limit, without a warning, and without a change outside the model's folder. A download must end with the
official files or with CheckpointError, and the next one from a sound server must succeed.
"""

import argparse
import collections
import faulthandler
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "checkpoints")]

import numpy as np  # noqa: E402
from file_server import Server  # noqa: E402

import gpt2  # noqa: E402
from checkpoints import download, files, transfer  # noqa: E402
from utils import CheckpointError, load_encoder_hparams_and_params  # noqa: E402

TIME_LIMIT = 20  # seconds for one load
LONGEST_MESSAGE = 2500  # characters
MEMORY = 6 * 2**30  # bytes of address space


class Slow(BaseException):
    """A load took longer than the time limit."""


# ---- sound models ----------------------------------------------------------------------------------------------


def sound_models(with_tensorflow):
    """Return {name: {file name: content}} of models in every format."""
    models = collections.defaultdict(dict)
    with zipfile.ZipFile(ROOT / "tests" / "golden_formats.zip") as archive:
        for name in archive.namelist():
            folder, _, file = name.rpartition("/")
            if folder:
                models[folder][file] = archive.read(name)
    hf = models["hf"]
    vocabulary = json.loads(hf["vocab.json"])
    merges = hf["merges.txt"].decode().split("\n")[1:]
    tokenizer = {
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [pair for pair in merges if pair]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "added_tokens": [],
        "normalizer": None,
    }
    models["hf_tokenizer"] = {"tokenizer.json": json.dumps(tokenizer).encode(), **hf}
    del models["hf_tokenizer"]["vocab.json"], models["hf_tokenizer"]["merges.txt"]
    config = json.loads(hf["config.json"])
    sizes = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_head": "n_head"}
    hparams = {ours: config[theirs] for ours, theirs in sizes.items()} | {"n_layer": config["n_layer"]}
    openai = {"hparams.json": json.dumps(hparams).encode(), "encoder.json": hf["vocab.json"]}
    openai["vocab.bpe"] = hf["merges.txt"]
    openai["checkpoint"] = b'model_checkpoint_path: "model.ckpt"\n'
    models["openai"] = openai | {"model.safetensors": without_prefix(hf["model.safetensors"])}
    if with_tensorflow:
        models["openai_checkpoint"] = openai | tensorflow_checkpoint(hf)
    return dict(models)


def without_prefix(raw):
    from safetensors.numpy import load, save

    return save({name.removeprefix("transformer."): array for name, array in load(raw).items()})


def tensorflow_checkpoint(hf):
    """Return the files of a TensorFlow checkpoint with the weights of the Hugging Face model."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        for name, content in hf.items():
            Path(folder, name).write_bytes(content)
        params = load_encoder_hparams_and_params(folder, folder)[2]
        tensors = {"model/wte": params["wte"], "model/wpe": params["wpe"]}
        tensors |= {f"model/ln_f/{leaf}": array for leaf, array in params["ln_f"].items()}
        for i, block in enumerate(params["blocks"]):
            for part, child in block.items():
                for leaf, array in child.items():
                    for name, weight in array.items() if isinstance(array, dict) else [(None, array)]:
                        path = "/".join(filter(None, (f"model/h{i}", part, leaf, name)))
                        tensors[path] = weight[np.newaxis] if name == "w" else weight
        tensors = {name: np.array(array) for name, array in tensors.items()}
        prefix = os.path.join(folder, "model.ckpt")
        specs = [""] * len(tensors)
        tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=list(tensors), shape_and_slices=specs, tensors=list(tensors.values())
        )
        return {path.name: path.read_bytes() for path in Path(folder).glob("model.ckpt.*")}


# ---- damage to the content -------------------------------------------------------------------------------------

FORGED = "\x1b[31m\nError: forged\r"
VALUES = [None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, 0.5, "", "x", "x" * 10_000, FORGED, [], {}, [[]]]
VALUES += [
    {"a": 1},
    ["a", "b"],
    "gelu",
    float("nan"),
    float("inf"),
    "\ud800",
    "\0",
    "../../etc/passwd",
    12,
    64,
    9_999_999,
]
LITERALS = [b"9" * 5000, b"[" * 100_000, b"1e999", b"-0", b"NaN", b'"' + b"\\u0000" * 50 + b'"', b"{" * 3000, b"\xff"]
OPCODES = [
    b"}",
    b"]",
    b")",
    b"(",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"a",
    b"e",
    b"s",
    b"u",
    b"R",
    b"b",
    b"Q",
    b"N",
    b"2",
]
OPCODES += [
    b"K\x01",
    b"\x88",
    b"q\x00",
    b"h\x00",
    b"\x94",
    b"X\x01\x00\x00\x00a",
    b"\x8c\x01b",
    b"\x93",
    b"0",
    b"d",
    b"l",
]
OPCODES += [b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"."]
OPCODES += [
    b"cos\nsystem\n",
    b"S'\\q'\n",
    b"L" + b"9" * 5000 + b"L\n",
    b"I1\n",
    b"F1\n",
    b"V\\ud800\n",
    b"\x8a\x08" + b"\xff" * 8,
]
OPCODES += [
    b"c\x1b[31m\nx\n",
    b"r\xff\xff\xff\x7f",
    b"j\x00\x00\x00\x00",
    b"\x81",
    b"i",
    b"o",
    b"B\x02\x00\x00\x00ab",
    b"P1\n",
]


def flip(rng, raw):
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if raw:
            near_an_end = rng.choice([rng.randrange(len(raw)), rng.randrange(min(400, len(raw)))])
            place = rng.choice([near_an_end, len(raw) - 1 - near_an_end])
            raw[place] = rng.choice([raw[place] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 255])
    return bytes(raw)


def truncate(rng, raw):
    return raw[: rng.randrange(len(raw) + 1)]


def cut(rng, raw):
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + raw[start + rng.choice([1, 8, 100]) :]


def repeat(rng, raw):
    start = rng.randrange(len(raw) + 1)
    return raw[: start + rng.choice([1, 8, 100])] + raw[start:]


def insert(rng, raw):
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + rng.randbytes(rng.choice([1, 8, 200])) + raw[start:]


def zero_tail(rng, raw):
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + bytes(len(raw) - start)


def nonsense(rng, raw):
    return rng.choice(
        [
            b"",
            b"\n",
            b"<html>404</html>",
            rng.randbytes(100),
            bytes(1000),
            b"\xef\xbb\xbf" + raw,
            b"PK",
            FORGED.encode(),
        ]
    )


def swap_value(rng, raw):
    """Replace a value or a key of a JSON text, or a number in it, by a hostile one."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return flip(rng, raw)
    if rng.random() < 0.2:
        text = json.dumps(value).encode()
        places = [i for i, byte in enumerate(text) if byte in b"0123456789[{"]
        place = rng.choice(places or [0])
        return text[:place] + rng.choice(LITERALS) + text[place + 1 :]
    node = value
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
            if isinstance(node, dict) and rng.random() < 0.3:
                node[rng.choice(["x" * 5000, FORGED, "", "\ud800", key + "x"])] = node.pop(key)
            else:
                node[key] = rng.choice(VALUES)
            break
        node = node[key]
    return json.dumps(value).encode()


def change_header(rng, raw):
    """Change the header of a safetensors file, or only its length."""
    size = int.from_bytes(raw[:8], "little")
    if rng.random() < 0.2:
        return rng.choice([0, 2**63, 2**40, size + 1, size - 1, 2**26, len(raw)]).to_bytes(8, "little") + raw[8:]
    header = swap_value(rng, raw[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + raw[8 + size :]


def collide(rng, raw):
    """Return a vocabulary whose ids, or a pickle whose keys, have the same place in a dict."""
    if rng.random() < 0.9:
        return flip(rng, raw)
    numbers = [i * (2**61 - 1) for i in range(20_000)]
    if raw[:1] == b"{":
        return json.dumps({str(i): number for i, number in enumerate(numbers)}).encode()
    return pickle.dumps({"stoi": dict.fromkeys(numbers, 0)})


def change_pickle(rng, raw):
    program = b"".join(rng.choice(OPCODES) for _ in range(rng.randrange(40)))
    start = rng.randrange(2, len(raw) + 1) if len(raw) > 2 else 0
    kind = rng.random()
    if kind < 0.3:
        return b"\x80\x04" + program + b"."
    if kind < 0.6:
        return raw[:start] + program + raw[start:]
    if kind < 0.97:
        return rng.choice([flip, truncate])(rng, raw)
    if kind < 0.98:
        return collide(rng, b"")
    return rng.choice([rng.choice(OPCODES) * 20_000, b"\x80\x02" + b"}" * 500_000 + b"."])


def change_archive(rng, raw):
    """Change the pickle or another member of a file of torch.save and build the archive again."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return flip(rng, raw)
    pickles = [name for name in members if name.endswith("data.pkl")]
    storages = [name for name in members if "/data/" in name]
    kind = rng.randrange(6)
    if kind <= 2 and pickles:
        members[pickles[0]] = change_pickle(rng, members[pickles[0]])
    elif kind == 3 and pickles:  # all tensors share a storage
        key = rng.choice(storages).rpartition("/")[2].encode()
        members[pickles[0]] = members[pickles[0]].replace(b"X\x01\x00\x00\x001q", b"X\x01\x00\x00\x00" + key[:1] + b"q")
    elif kind == 4 and storages:
        name = rng.choice(storages)
        members[name] = rng.choice([truncate, flip, zero_tail, insert])(rng, members[name])
    else:
        name = rng.choice(list(members))
        members[rng.choice([FORGED, "../x", name + "x", "x" * 3000])] = members.pop(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return archived(members, rng.choice([zipfile.ZIP_STORED] * 5 + [zipfile.ZIP_DEFLATED]))


def archived(members, compression):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return raw.getvalue()


GENERAL = [flip, flip, truncate, cut, repeat, insert, zero_tail, nonsense]


def damage(rng, name, raw):
    """Return (what was done, the damaged content) for a file of that name."""
    special = []
    if name.endswith(".json"):
        special = [swap_value, swap_value, swap_value, collide]
    elif name.endswith(".safetensors"):
        special = [change_header, change_header, change_header]
    elif name == "ckpt.pt":
        special = [change_archive, change_archive, change_archive]
    elif name == "meta.pkl":
        special = [change_pickle, change_pickle, collide]
    change = rng.choice(GENERAL + special * 2)
    return change.__name__, change(rng, raw)


# ---- damage to the folder --------------------------------------------------------------------------------------

EXTRA = [
    ".lock",
    "model.safetensors",
    "model.float32.safetensors",
    "checkpoint",
    "config.json",
    "hparams.json",
    "ckpt.pt",
]
EXTRA += ["meta.pkl", "tokenizer.json", "added_tokens.json", "vocab.json", "encoder.json", "model.ckpt.index"]
EXTRA += [
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "vocab.bpe.part",
    "model.float32.safetensors.0123abcd.part",
]


def put_special_file(rng, path, sandbox):
    """Put something else than a regular file in place of `path`; return its kind."""
    path.unlink(missing_ok=True)
    outside = sandbox / "outside"
    targets = {
        "link to a file": outside / "precious",
        "link to a folder": outside,
        "dangling link": outside / "missing",
        "link to itself": path,
        "link to a device": Path(rng.choice(["/dev/zero", "/dev/null", "/dev/full", "/dev/random"])),
        "link to /proc": Path(rng.choice(["/proc/self/mem", "/proc/kmsg", "/proc/self/maps", "/proc/version"])),
    }
    kind = rng.choice([*targets, "FIFO", "folder", "socket", "hard link", "sparse file", "nothing", "huge name"])
    if kind in targets:
        path.symlink_to(targets[kind])
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end, in_folder(path.parent):
            end.bind(path.name)
    elif kind == "hard link":
        os.link(outside / "precious", path)
    elif kind == "sparse file":
        with open(path, "wb") as file:
            file.truncate(2**40)
    elif kind == "huge name":
        (path.parent / ("*?[" + "n" * 200)).touch()
    return kind


class in_folder:
    """Work in another folder: the name of a socket has at most 107 characters."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        self.before = os.getcwd()
        os.chdir(self.folder)

    def __exit__(self, *exception):
        os.chdir(self.before)


# ---- one load --------------------------------------------------------------------------------------------------


def outside_state(sandbox):
    """Return the names and contents of everything in the sandbox except the model's folder."""
    found = {}
    for folder, _, names in os.walk(sandbox / "outside"):
        for name in names:
            path = Path(folder, name)
            found[str(path)] = path.read_bytes() if path.is_file() and path.stat().st_size < 2**20 else "special"
    return found, sorted(os.listdir(sandbox)), sorted(os.listdir(sandbox / "tmp"))


def attack(rng, models, sandbox):
    """Make a damaged model; return its folder and a description."""
    name = rng.choice(list(models))
    folder = sandbox / "model"
    folder.mkdir()
    contents = models[name]
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    done = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        if rng.random() < 0.25:
            file = rng.choice([*contents, *EXTRA])
            path = folder / file
            if path.is_dir() and not path.is_symlink():
                continue
            done.append(f"{file}: {put_special_file(rng, path, sandbox)}")
        else:
            file = rng.choice(list(contents))
            path = folder / file
            if path.is_symlink() or not path.is_file():
                continue
            kind, raw = damage(rng, file, contents[file])
            path.unlink()
            path.write_bytes(raw)
            done.append(f"{file}: {kind}")
    return folder, f"{name}, {', '.join(done)}"


def load_once(folder):
    """Return the outcome of a load, "ok" or "error", and a complaint or None."""
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        encoder, hparams, params = load_encoder_hparams_and_params(folder, folder.parent)
        if len(params["wte"]) != encoder.n_vocab:
            return "ok", "the embedding has another size than the vocabulary"
        with np.errstate(all="ignore"):
            gpt2.gpt2([0], **params, n_head=hparams["n_head"])
        return "ok", None
    except (CheckpointError, ValueError) as error:
        message = str(error)
        if len(message) > LONGEST_MESSAGE:
            return "error", f"a message of {len(message):,} characters: {message[:300]!r}"
        if not message.isprintable():
            return "error", f"a message that does not print: {message!r}"
        return "error", None
    except Slow:
        return "slow", "over the time limit"
    except Exception:
        return "failure", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz_files(n_files, seed, with_tensorflow, seconds):
    """Load damaged models; return the counts of outcomes and the complaints."""
    counts = collections.Counter()
    complaints = []
    start = time.monotonic()

    def stop_load(*_):
        raise Slow

    signal.signal(signal.SIGALRM, stop_load)
    os.fsync = lambda fd: None  # the files need not survive a power failure
    models = sound_models(with_tensorflow)
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        sandbox = Path(place)
        (sandbox / "outside").mkdir()
        (sandbox / "tmp").mkdir()
        (sandbox / "outside" / "precious").write_bytes(b"precious\n")
        tempfile.tempdir = str(sandbox / "tmp")
        before = outside_state(sandbox)
        for i in range(n_files):
            if time.monotonic() - start > seconds:
                break
            rng = random.Random(f"{seed}/{i}")
            faulthandler.dump_traceback_later(3 * TIME_LIMIT, exit=True)
            folder, what = attack(rng, models, sandbox)
            began = time.monotonic()
            outcome, complaint = load_once(folder)
            counts[outcome] += 1
            counts["slowest load, ms"] = max(counts["slowest load, ms"], round(1000 * (time.monotonic() - began)))
            shutil.rmtree(folder)
            if complaint is None and (after := outside_state(sandbox)) != before:
                complaint = f"a change outside the folder: {after}"
                before = after
            if complaint:
                complaints.append(f"seed {seed}, file {i}: {what}: {complaint}")
                print(complaints[-1], flush=True)
        faulthandler.cancel_dump_traceback_later()
        tempfile.tempdir = None
    return counts, complaints


# ---- downloads -------------------------------------------------------------------------------------------------

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


# ---- the command -----------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--downloads", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop loading files after this time")
    parser.add_argument("--tensorflow", action="store_true", help="also damage TensorFlow checkpoints")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    start = time.monotonic()
    counts, complaints = fuzz_files(arguments.files, arguments.seed, arguments.tensorflow, arguments.seconds)
    print(f"files: {dict(counts)} in {time.monotonic() - start:.0f} s", flush=True)
    found, more = fuzz_downloads(arguments.downloads, arguments.seed)
    print(f"downloads: {dict(found)} in {time.monotonic() - start:.0f} s")
    print(f"{len(complaints) + len(more)} complaints")
    sys.exit(1 if complaints or more else 0)


if __name__ == "__main__":
    main()
