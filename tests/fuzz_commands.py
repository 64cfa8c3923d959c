"""Run random command lines in this process and check how they end: python tests/fuzz_commands.py --lines 100000.

A command line is drawn from a grammar of flags, values, awkward words, bytes and numbers. It must end with exit code
0, 1 or 2; an error is one line of bounded length on stderr, without a traceback, and leaves stdout empty; no exception
but SystemExit leaves the command; no command takes longer than TIME_LIMIT. The model is random and very small, and
files are written in a temporary folder.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import os
import random
import signal
import sys
import tempfile
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import batch
import cli.command
import explore
import gpt2
import gpt2_pico
import utils
from checkpoints.tokenizer import default_tokens
from cli import command_flags, flags, help, hints
from encoder import Encoder, bytes_to_unicode
from random_gpt2 import random_params
from runner.command import BATCH
from views.command import EXPLORE, VIEWS

TIME_LIMIT = 5  # seconds of one command
MAX_ERROR = 5100  # characters of an error
HPARAMS = {"n_vocab": 257, "n_ctx": 16, "n_embd": 4, "n_head": 2, "n_layer": 1}
COMMANDS = {
    "gpt2.py": (gpt2.main, help.GPT2),
    "gpt2_pico.py": (gpt2_pico.main, help.PICO),
    "batch.py": (batch.main, BATCH),
    "explore.py": (explore.main, EXPLORE),
}

# ---- the grammar -----------------------------------------------------------------------------------------------


def texts(without_space: str, *others: str) -> list[str]:
    """Return the texts that white space separates, and others."""
    return [*without_space.split(), *others]


WORDS = texts(
    r"""x - -- --- -x = --= -=x --x= None True 1984 FILE: FILE:/nowhere FILE:/ FILE:/dev/null {x} [1 ' " `ls` $HOME %s%n
    {0} --help=x --separator=+ --interactive --trace --completion -i -v closer \n 人工🤗""",
    *("", " ", "Once upon", "- milk", "--a list", "every effort", "\r\n", "a\0b", "a\nError: forged", "\x1b[31mred"),
    *("\udcff\udcfe", "\ud800", "\u202ereversed", "FILE:\0", "FILE:" + "n" * 300, "FILE:\ud800", "e\u0301"),
    *("a" * 5000, "🤗" * 2000, "-" * 300, "--" + "b" * 3000),
)
NUMBERS = texts(
    """0 1 2 -1 -0 +3 0.5 .5 5. 1e5 1e-5 1e999 -1e999 1e-999 nan inf -inf 0x10 1_000 1__0 1is 0o7 1j 1.5.2 --5 00 ٣ 1,2
    9223372036854775807 9223372036854775808 2147483648 0.5,1 1, , 1,,2 2,x""",
    *("1" * 20, "9" * 40, "9" * 41, "1" * 400, "1" * 5000),
)
NESTED = texts(
    """[ ] [] () {} [1,2] (1,2) {1} [[1]] ["a","b"] ["a",1] [""] [None] {"5":-5} {"5":"x"} {"-5":1} {"5":1e999} {5:1}
    {"5":NaN} {"99999999999999999999":1} {"05":1} null true "text" """,
    *("[1" * 30, "[" * 3000, "[" * 3000 + "]" * 3000, "(" * 500, "{" * 500, '{"a":' * 3000, '{" 5":1}'),
    *('{"5":' + "1" * 5000 + "}", "[" + "1," * 2000 + "1]", "{" + ",".join(f'"{i}":1' for i in range(300)) + "}"),
)
CHOICES = texts(
    """tiny nowhere 124N ../.. / . gpt2 owner/name stop slide greedy top_p mirostat entmax typical chatbot txt csv jsonl
    chatbot,chatbot yes False OUT/a.md OUT/a.csv OUT/a.json OUT/a.txt OUT/none/a.md OUT""",
    *("OUT/" + "n" * 300 + ".md", "OUT/\ud800.md", "a\0.csv"),
)
KINDS = (WORDS, NUMBERS, NESTED, CHOICES)
VALID = {  # flag -> valid values, so that a part of the command lines reach the model
    "n_tokens_to_generate": ("0", "1", "3", "30"),
    "model_size": ("tiny",),
    "models_dir": ("models",),
    "num_samples": ("1", "2", "3"),
    "seed": ("0", "7", "9" * 30),
    "temperature": ("0", "1", "0.7", "1e300", "1e-300"),
    "top_p": ("0", "0.5", "1"),
    "top_k": ("0", "1", "5", "9" * 40),
    "min_p": ("0", "0.1", "1"),
    "typical_p": ("0", "0.5", "1"),
    "entmax_alpha": ("1", "1.5", "2"),
    "mirostat_tau": ("0", "3", "1e300"),
    "mirostat_eta": ("0", "1"),
    "strategy": ("greedy", "top_p", "typical"),
    "preset": ("chatbot",),
    "repetition_penalty": ("1", "1.2", "100", "1e-300"),
    "presence_penalty": ("-100", "0", "100"),
    "frequency_penalty": ("-100", "0", "100"),
    "no_repeat_ngram_size": ("0", "1", "2", "9" * 30),
    "min_new_tokens": ("0", "1"),
    "logit_bias": ('{"5": -100}', "{}", '{"256": 100, "3": -Infinity}'),
    "banned_ids": ("5", "[5,6]", "[" + ",".join(map(str, range(257))) + "]"),
    "stop": ("a", "\\n", '["a", "b"]', "ab" * 4999),
    "context": ("stop", "slide"),
    "keep": ("0", "3"),
    "logprobs": ("0", "2", "1000"),
    "output": ("OUT/a.jsonl", "OUT/a.md", "OUT/a.csv", "OUT/a.json", "OUT/a.html", "-"),
    "weights": ("float32", "int8"),
    "draft": ("lookup", "tiny"),
    "lines": ("OUT/prompts.txt", "OUT/prompts.jsonl", "OUT/texts.jsonl", "-", "OUT"),
    "given": ("x", "", "a ", "FILE:OUT/prompts.txt"),
    "layer": ("1", "3", "4"),
    "head": ("1", "3", "4"),
    "format": ("txt", "jsonl", "csv"),
    "batch_size": ("1", "3"),
    "steps": ("1", "3", "100"),
    "rows": ("1", "3", "1000000"),
    "stride": ("1", "3"),
    "file": ("OUT/prompts.txt", "-", "OUT", "OUT/absent.txt"),
    "config": ("OUT/c.toml", "OUT/c.json", "OUT/bad.toml", "OUT/c.py", "OUT/absent.toml", "OUT"),
    "banned_words": ("cat", '["a", " b"]', "xyz", "['q']"),
    "separator": ("", "\\n", "* * *"),
    "threads": ("1", "2"),
    "completion": ("bash", "fish"),
}


class Grammar:
    """Random command lines. folder: takes the place of OUT in values."""

    def __init__(self, seed: int, folder: str):
        self.random = random.Random(seed)
        self.folder = folder

    def line(self) -> tuple[str, list[str]]:
        """Return the name of a command and its words."""
        script = self.random.choice(list(COMMANDS))
        words = [self.view()] if script == "explore.py" else []
        if self.random.random() < 0.9:
            words.append(self.prompt(script))
        for _ in range(self.random.choice((0, 1, 1, 2, 2, 3, 5, 9))):
            words += self.option(COMMANDS[script][1].flags)
        if self.random.random() < 0.1:
            self.random.shuffle(words)
        return script, [word.replace("OUT", self.folder) for word in words]

    def view(self):
        return self.random.choice([*VIEWS] * 5 + ["nxt", "", "--toy", "-"])

    def prompt(self, script):
        if script == "batch.py" and self.random.random() < 0.7:
            return self.random.choice(["OUT/prompts.txt", "OUT/prompts.jsonl", "OUT/prompts.csv", "-", "OUT"])
        return self.value() if self.random.random() < 0.5 else self.random.choice(["x", "every effort", "Once"])

    def option(self, table):
        """Return the one or two words of an option, or an awkward word."""
        if self.random.random() < 0.1:
            return [self.value()]
        name = self.name(table)
        plain = name.lstrip("-").replace("-", "_")
        if self.random.random() < 0.7:
            return [f"{name}={self.random.choice(VALID[plain])}"] if plain in VALID else [name]
        if self.random.random() < 0.5:
            return [f"{name}={self.value()}"]
        return [name, self.value()] if self.random.random() < 0.8 else [name]

    def name(self, table):
        aliases = [alias for flag in table.values() for alias in flag.aliases]
        others = [*hints.UNSUPPORTED_FLAGS, *flags.FLAGS, "no_" + self.random.choice(list(table)), "prompt", "words"]
        name = self.random.choice(self.random.choice([list(table)] * 6 + [aliases or ["n"], others]))
        name = name.replace("_", "-") if self.random.random() < 0.1 else name
        if self.random.random() < 0.05:
            at = self.random.randrange(len(name))
            name = name[:at] + self.random.choice("xyz\0é\n ") + name[at + 1 :]
        return f"--{name}" if self.random.random() < 0.95 else f"-{name}"

    def value(self):
        kind = self.random.choices((*KINDS, None), weights=(2, 5, 2, 2, 1))[0]
        if kind is None:
            data = self.random.randbytes(self.random.choice((1, 3, 10, 50)))
            return os.fsdecode(data)
        return self.random.choice(kind)


# ---- one command -----------------------------------------------------------------------------------------------


class TookTooLong(BaseException):
    """A command did not end in time."""


def stop_it(signum, frame):
    raise TookTooLong


def run_line(script: str, words: list[str], piped: bytes) -> tuple[object, str, str]:
    """Return (exit code, or the traceback of an exception that left the command; stdout; stderr)."""
    main, command = COMMANDS[script]
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    sys.argv = [script, *words]
    sys.stdin = io.TextIOWrapper(io.BytesIO(piped))
    code = 0
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            cli.command.run(main, command)
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        code = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))
    return code, *texts


def fault_of(code: object, out: str, err: str, script: str) -> str | None:
    """Return the fault in the exit code or the output of a command, or None."""
    if code not in (0, 1, 2):
        return f"ended by {code}"
    if "Traceback" in err or "this is a fault of the program" in err:
        return "shows an unexpected exception"
    if code == 2 and out:
        return "wrote to stdout before a usage error"
    n_lines = err.count("\n")
    if code and not (err.endswith("\n") and "Error: " in err):
        return "has no error message"
    if code == 2 and (n_lines > 1 or not err.startswith("Error: ")):
        return "has more than one line"
    if len(err) > MAX_ERROR or any(not (c.isprintable() or c == "\n") for c in err):
        return "has a message that is too long, or control characters in it"
    return None


# ---- the model and the files -----------------------------------------------------------------------------------


def small_model(*args, **options) -> utils.Model:
    ids = dict(zip(bytes_to_unicode().values(), range(256), strict=True)) | {"<|endoftext|>": 256}
    encoder = Encoder(ids, [])
    return utils.Model("tiny", encoder, HPARAMS, random_params(**HPARAMS), default_tokens(encoder, len(ids)))


def prepare(folder: str) -> None:
    """Write files of prompts, enter the folder, and let every command load the same small model."""
    os.chdir(folder)
    Path("models", "tiny").mkdir(parents=True)
    rows = ['{"prompt": "x"}', '{"prompt": "y", "temperature": 1, "seed": 3}', '{"prompt": 5}', "[[", ""]
    for name, lines in {
        "txt": ["a", "b", "\x1b[31m"],
        "jsonl": rows,
        "csv": ["prompt,seed", "a,1", '"b', "c,x"],
    }.items():
        Path(folder, f"prompts.{name}").write_text("\n".join(lines), encoding="utf-8")
    texts_of_lines = ['{"text": "x", "given": "y "}', '"z"', '{"prompt": "a"}']
    Path(folder, "texts.jsonl").write_text("\n".join(texts_of_lines), encoding="utf-8")
    configurations = {
        "c.toml": "temperature = 0.9\nstop = ['a']\nbatch_size = 2\nsteps = 2\n",
        "c.json": '{"seed": 3, "logit_bias": {" ": 1}, "top_p": 0.5}',
        "bad.toml": "temperature = 'hot'\nzzz = 1\n",
        "c.py": "raise SystemExit(7)",
    }
    for name, text in configurations.items():
        Path(folder, name).write_text(text, encoding="utf-8")
    model = small_model()
    models = {kind: utils.with_operands(model, kind) for kind in ("float32", "int8")}
    utils.load_found = lambda path, where, fast=False, weights="float32", *_: models[weights] if fast else model
    default = "tiny"
    for table in (flags.FLAGS, command_flags.PICO_FLAGS, command_flags.BATCH_FLAGS, command_flags.EXPLORE_FLAGS):
        table["model_size"] = dataclasses.replace(table["model_size"], default=default)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts = collections.Counter()
    faults = collections.Counter()
    signal.signal(signal.SIGALRM, stop_it)
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        for i in range(asked.lines):
            grammar = Grammar(seed=asked.seed * 1_000_003 + i, folder=folder)
            script, words = grammar.line()
            piped = grammar.random.choice((b"", b"", b"x", b"\xff", b"every effort\n", b'{"prompt": "x"}\n' * 3))
            code, out, err = run_line(script, words, piped)
            fault = fault_of(code, out, err, script)
            counts[script, code if code in (0, 1, 2) else "exception"] += 1
            if fault:
                faults[f"{script}: {fault[-300:]}"] += 1
                if faults[f"{script}: {fault[-300:]}"] <= 3:
                    print(f"line {i}: {script} {fault}\n  {[word[:200] for word in words]}\n  {err[-500:]}", flush=True)
    for (script, code), n in sorted(counts.items(), key=str):
        print(f"{n:8} {script} exit code {code}")
    print(f"{asked.lines} lines, {sum(faults.values())} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
