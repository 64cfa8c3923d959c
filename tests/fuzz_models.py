"""Load damaged and hostile model files: python tests/fuzz_models.py --files 60000

Not collected by pytest. Each load must give a model, or CheckpointError or ValueError with one line of limited length;
within the time limit, without a warning, and without a change outside the model's folder.
"""

import argparse
import collections
import contextlib
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "checkpoints")]

import numpy as np  # noqa: E402
from fuzz_damage import damage  # noqa: E402
from index_builder import checkpoint_of  # noqa: E402
from safetensors.numpy import load as load_safetensors  # noqa: E402

import gpt2  # noqa: E402
import utils  # noqa: E402
from checkpoints import formats  # noqa: E402
from checkpoints.generation import read_suggestions  # noqa: E402
from utils import CheckpointError  # noqa: E402

TIME_LIMIT = 20  # seconds for one load
LONGEST_MESSAGE = 2500  # characters
USER_ERRORS = ("there is no model", "this vocabulary has no token", "this model has no token for", "the text has the")
MEMORY = 6 * 2**30  # bytes of address space


class Slow(BaseException):
    """A load took longer than the time limit."""


# ---- sound models ----------------------------------------------------------------------------------------------

OF_ONE_FORMAT = ("gelu_", "silu", "swish", "half", "relu", "quick_gelu", "reordered", "gguf_q8_0", "neo_inner")
GENERATION = {"eos_token_id": [30, 2], "bos_token_id": 30, "do_sample": True, "temperature": 0.7, "top_k": 40}


def sound_models():
    """Return {name: {file name: content}} of models in every format."""
    models = collections.defaultdict(dict)
    for archive_name in ("golden_formats.zip", "golden_models.zip"):
        with zipfile.ZipFile(ROOT / "tests" / archive_name) as archive:
            for name in archive.namelist():
                folder, _, file = name.rpartition("/")
                if folder and not folder.startswith(OF_ONE_FORMAT):
                    models[folder][file] = archive.read(name)
    hf = models["hf"]
    merges = [pair for pair in hf["merges.txt"].decode().split("\n")[1:] if pair]
    weights = {name: hf[name] for name in ("config.json", "model.safetensors")}
    weights["generation_config.json"] = json.dumps(GENERATION).encode()
    symbols = json.loads(hf["vocab.json"])
    models["hf_tokenizer"] = weights | tokenizer_files(byte_level(symbols, merges))
    models["hf_unigram"] = weights | tokenizer_files(unigram(len(symbols)))
    models["hf_bert"] = weights | {"vocab.txt": "\n".join(bert_words(len(symbols))).encode()}
    models["hf_added"] = hf | added_files(len(symbols))
    models["openai"] = official_files(hf)
    return dict(models)


def byte_level(symbols, merges):
    end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    return {
        "model": {"type": "BPE", "vocab": symbols, "merges": merges},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [end, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [30], "tokens": ["<|endoftext|>"]}},
        },
        "added_tokens": [added_token("<|endoftext|>", 30, special=True), added_token("he", 3, lstrip=True)],
        "normalizer": None,
    }


def added_token(content, i, **settings):
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": i, "content": content} | plain | settings


def unigram(n):
    """Return a SentencePiece vocabulary of n tokens, as tokenizer.json has it."""
    pieces = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], ["\u2581", -2.0]]
    pieces += [[letter, -3.0 - i] for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz\u2581".ljust(n, "."))]
    pieces = [[f"{piece}{i}" if piece == "." else piece, score] for i, (piece, score) in enumerate(pieces[:n])]
    return {
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "normalizer": {"type": "NFKC"},
        "added_tokens": [added_token("</s>", 2, special=True)],
        "post_processor": None,
    }


def tokenizer_files(tokenizer):
    settings = {"add_prefix_space": False, "add_bos_token": True, "bos_token": "<|endoftext|>", "eos_token": "</s>"}
    return {"tokenizer.json": json.dumps(tokenizer).encode(), "tokenizer_config.json": json.dumps(settings).encode()}


def bert_words(n):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"人工智能的未来是", *"abcdefghijklmnopqrstuvwxyz"]
    return [*words, *(f"##{word}" for word in words)][:n]


def added_files(n):
    decoder = {str(30): added_token("<|endoftext|>", 30, special=True), "4": added_token("très", 4, rstrip=True)}
    return {
        "added_tokens.json": json.dumps({"[PAD]": n, "đem": n - 1}).encode(),
        "special_tokens_map.json": json.dumps({"bos_token": {"content": "<|endoftext|>"}}).encode(),
        "tokenizer_config.json": json.dumps({"added_tokens_decoder": decoder}).encode(),
    }


def official_files(hf):
    """Return the files of an official model with the weights of one of Hugging Face."""
    config = json.loads(hf["config.json"])
    sizes = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_head": "n_head"}
    hparams = {ours: config[theirs] for ours, theirs in sizes.items()} | {"n_layer": config["n_layer"]}
    index, data = checkpoint_of(official_tensors(load_safetensors(hf["model.safetensors"])))
    return {
        "hparams.json": json.dumps(hparams).encode(),
        "encoder.json": hf["vocab.json"],
        "vocab.bpe": hf["merges.txt"],
        "checkpoint": b'model_checkpoint_path: "model.ckpt"\n',
        "model.ckpt.index": index,
        "model.ckpt.data-00000-of-00001": data,
    }


def official_tensors(stored):
    """Return Hugging Face's tensors under OpenAI's names."""
    leaves = {"ln": {"weight": "g", "bias": "b"}, "c_": {"weight": "w", "bias": "b"}}
    tensors = {}
    for name, array in stored.items():
        parts = name.removeprefix("transformer.").split(".")
        if parts[0] in ("wte", "wpe"):
            tensors[f"model/{parts[0]}"] = array
        elif parts[-2][:2] in leaves:
            layer = [f"h{parts[1]}", *parts[2:-1]] if parts[0] == "h" else parts[:-1]
            leaf = leaves[parts[-2][:2]][parts[-1]]
            tensors["/".join(["model", *layer, leaf])] = array[np.newaxis] if leaf == "w" else array
    return tensors


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
EXTRA += ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "adapter_config.json"]
EXTRA += ["vocab.txt", "tokenizer.model", "model.ckpt.verified", "x.gguf", "gpt2_tokenizer.bin", "model.pth"]
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


def load_once(path):
    """Return the outcome of a load, "ok" or "error", and a complaint or None."""
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        use(path)
        return "ok", None
    except (CheckpointError, ValueError) as error:
        message = str(error)
        if len(message) > LONGEST_MESSAGE:
            return "error", f"a message of {len(message):,} characters: {message[:300]!r}"
        if not message.isprintable():
            return "error", f"a message that does not print: {message!r}"
        if type(error) is not CheckpointError and not message.startswith(USER_ERRORS):
            return "error", f"an error of another kind, {type(error).__name__}: {message}"
        if " is None" in message or " as None" in message:
            return "error", f"a message without a value: {message}"
        return "error", None
    except Slow:
        return "slow", "over the time limit"
    except Exception:
        return "failure", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def use(path):
    """Do with a model what the commands do: list it, read its suggestions, load it, encode, compute and decode."""
    found = None
    with contextlib.suppress(OSError):
        found = formats.recognize(path)
    if found:
        with contextlib.suppress(CheckpointError, OSError):
            found.read_sizes(path)
        with contextlib.suppress(CheckpointError, OSError):
            found.state(path)
    with contextlib.suppress(CheckpointError, OSError):
        read_suggestions(path)
    model = utils.load(path, path.parent, offline=True)
    ids = model.encode("he said")[: model.n_ctx]
    with contextlib.suppress(ValueError):  # small vocabularies lack bytes
        ids = model.encode("he très 人工 <|endoftext|>", allow_special=True)[: model.n_ctx]
    if not all(0 <= i < model.n_vocab for i in [*ids, *model.special.stop_ids, model.special.start]):
        raise RuntimeError(f"ids outside the vocabulary: {ids}, {model.special}")
    with np.errstate(all="ignore"):
        gpt2.gpt2(ids, **model.params, n_head=model.n_head)
    drawn = [i for i in range(min(model.n_vocab, 100)) if i not in model.special.unused_ids]
    text = "".join(model.encoder.stream(iter(drawn), before=ids))
    text.encode()
    model.encoder.decode(drawn)


def fuzz_files(n_files, seed, seconds):
    """Load damaged models; return the counts of outcomes and the complaints."""
    counts = collections.Counter()
    complaints = []
    start = time.monotonic()

    def stop_load(*_):
        raise Slow

    signal.signal(signal.SIGALRM, stop_load)
    os.fsync = lambda fd: None  # the files need not survive a power failure
    models = sound_models()
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
            alone = [path for path in folder.iterdir() if path.suffix in (".gguf", ".bin", ".pth", ".pt")]
            outcome, complaint = load_once(rng.choice([folder, folder, *alone]))
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


# ---- the command -----------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    start = time.monotonic()
    counts, complaints = fuzz_files(arguments.files, arguments.seed, arguments.seconds)
    print(f"files: {dict(counts)} in {time.monotonic() - start:.0f} s")
    print(f"{len(complaints)} complaints")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
