"""Measure int8 weights beside float32 (pip install numba):

    python benchmarks/make_checkpoint.py --size 124M --models_dir /tmp/models
    python benchmarks/bench_int8.py --models_dir /tmp/models

Each kind has a process of its own, because idle threads of OpenBLAS and of numba disturb each other, and the processes
take turns. For decoding one and several sequences, for a prompt, and for a process with one token, the script prints
the tokens per second of both and the median ratio of the rounds.
"""

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from fire import Fire

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import utils  # noqa: E402
from engine.batching import Job  # noqa: E402
from engine.completion import Completion  # noqa: E402
from engine.slots import Prefix, Sequence, Slots  # noqa: E402
from sampling import greedy  # noqa: E402

KINDS = ("float32", "int8")
PAUSE = 0.2  # seconds after which the threads of the other process have gone to sleep
DECODE = ((1, 100), (1, 960), (4, 100), (16, 100), (64, 100))  # sequences, tokens of context


def sequences(n, n_tokens, n_vocab):
    """Return new sequences with random prompts."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        ids = rng.integers(0, n_vocab, n_tokens).tolist()
        completion = Completion(greedy, None, None, ())
        made.append(Sequence(Job(ids, [completion], 10**6), completion, Prefix(ids)))
    return made


def started(model, n, n_tokens):
    """Return slots whose prompts are computed, each with a first new token."""
    slots = Slots(model.params, model.n_head, n)
    arriving = sequences(n, n_tokens, model.n_vocab)
    slots.admit(arriving)
    for sequence in arriving:
        sequence.completion.ids.append(5)
    for _ in range(3):
        slots.step()
    return slots


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(title, tokens, times):
    """Print the tokens per second and the ratio. times: {kind: seconds of each round}."""
    ratio = median(a / b for a, b in zip(times["float32"], times["int8"], strict=True))
    speeds = "  ".join(f"{kind} {tokens / median(times[kind]):8.1f}" for kind in KINDS)
    print(f"{title:32}  {speeds} tokens/s  ratio {ratio:.2f}", flush=True)


class Worker:
    """A process with one kind of weights. `ask` calls one of the functions of Answers in it."""

    def __init__(self, *model):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, *model), daemon=True)
        self.process.start()

    def ask(self, *call):
        self.pipe.send(call)
        return self.pipe.recv()


def serve(pipe, model_size, models_dir, kind):
    answers = Answers(utils.load(model_size, models_dir, fast=True, weights=kind))
    while True:
        name, *arguments = pipe.recv()
        pipe.send(getattr(answers, name)(*arguments))


class Answers:
    """What a worker measures."""

    def __init__(self, model):
        self.model = model
        self.slots = None

    def prepare(self, n, n_tokens):
        self.slots = None  # frees its memory first
        self.slots = started(self.model, n, n_tokens)

    def step(self):
        """Return the median seconds of five steps, after one that wakes the threads up."""
        self.slots.step()
        return median(seconds(self.slots.step) for _ in range(5))

    def prefill(self, n_tokens):
        slots = Slots(self.model.params, self.model.n_head, 1)
        arriving = sequences(1, n_tokens, self.model.n_vocab)
        return seconds(lambda: slots.admit(arriving))


def in_turns(workers, rounds, *call):
    """Return {kind: answers} of a question that the workers answer in turns."""
    times = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, worker in workers.items():
            time.sleep(PAUSE)
            times[kind].append(worker.ask(*call))
    return times


def first_token(models_dir, model_size, rounds):
    command = [sys.executable, "gpt2.py", "Once upon a time", "-n", "1", "--models_dir", models_dir]
    command += ["--model_size", model_size, "--quiet"]
    times = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            run = [*command, "--weights", kind]
            quiet = {"cwd": ROOT, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "check": True}
            times[kind].append(seconds(lambda run=run, quiet=quiet: subprocess.run(run, **quiet)))
    report("a process with one token", 1, times)


def main(models_dir, model_size="random-124M", rounds=30):
    workers = {kind: Worker(model_size, models_dir, kind) for kind in KINDS}
    for n, n_tokens in DECODE:
        for worker in workers.values():
            worker.ask("prepare", n, n_tokens)
        report(f"{n} sequences, {n_tokens} tokens", n, in_turns(workers, rounds, "step"))
    report("a prompt of 900 tokens", 900, in_turns(workers, max(3, rounds // 6), "prefill", 900))
    for worker in workers.values():
        worker.process.terminate()
    first_token(models_dir, model_size, max(3, rounds // 6))


if __name__ == "__main__":
    Fire(main)
