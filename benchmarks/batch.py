"""How fast many prompts are continued: batches of ours, of transformers and of CTranslate2, and ours one by one.

    .venv-bench/bin/python benchmarks/batch.py             after make bench; about half an hour
    .venv-bench/bin/python benchmarks/batch.py --quick     fewer and shorter texts, two batch sizes

All have the same random weights in the shape of GPT-2 124M, are processes of their own, and take turns in rounds; see
bench.py. It prints a table, and writes it to benchmarks/results: batch.md, and batch.json with all that was measured.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import lab
import numpy as np
from fire import Fire
from report import conditions, markdown, plain, ratios, spread
from worker import SETTLE, WorkerError

OURS, TOGETHER = "gpt2.py", "batch.py"
PEERS = (OURS, "transformers", "CTranslate2 float32")
ONE_BY_ONE = "gpt2.py, one by one"
LEAST = {ONE_BY_ONE: 4, "transformers": 1.8, "CTranslate2 float32": 1.1}  # times as fast as these batch.py must be
FULL = {"n_prompts": 64, "n_new": 50, "sizes": (1, 2, 3, 4, 8, 16, 32, 64), "peer_sizes": (8, 32, 64), "rounds": 3}
QUICK = {"n_prompts": 16, "n_new": 10, "sizes": (1, 2, 4, 16), "peer_sizes": (4, 16), "rounds": 1}

EXPLANATION = """\
Made by [batch.py](../batch.py). {n_prompts} prompts of 10 to 100 random tokens, each continued by {n_new}, greedily; no
text ends before. All have the same random weights in the shape of GPT-2 124M. Figures and ratios are as in
[README.md](README.md). Transformers' `generate` gets batches in the order of the prompts, padded on the left.
CTranslate2's `generate_batch` gets all prompts at once and makes its batches itself, sorted by length. Ours is the
project's batch.py, with as many slots. Texts equal: to those that gpt2.py makes one by one."""


def random_prompts(n_prompts):
    rng = np.random.default_rng(0)
    return [rng.integers(50256, size=rng.integers(10, 101)).tolist() for _ in range(n_prompts)]


class Contest:
    """Asks workers for texts, and keeps the texts of the first one to compare the others with."""

    def __init__(self, place, prompts, n_new):
        self.place, self.prompts, self.n_new = place, prompts, n_new
        self.texts, self.equal = None, {}

    def turn(self, worker, call, label, **arguments):
        """A function that has all prompts continued and returns the seconds it took."""

        def run():
            start = time.perf_counter()
            texts = self.place.ask(worker, call, prompts=self.prompts, n_new=self.n_new, **arguments)
            seconds = time.perf_counter() - start - SETTLE
            if [len(text) for text in texts] != [self.n_new] * len(self.prompts):
                sys.exit(f"Error: {label} did not make {self.n_new} tokens for each of {len(self.prompts)} prompts")
            self.texts = self.texts or texts
            self.equal[label] = sum(a == b for a, b in zip(texts, self.texts, strict=True))
            return seconds

        return run

    def series(self, sizes, peer_sizes):
        """One series, so that all are compared within a round: {label: function}."""
        turns = {ONE_BY_ONE: self.turn(OURS, "batch_one_by_one", ONE_BY_ONE)}
        engines = {TOGETHER: (OURS, sizes)} if self.has_engine() else {}
        engines |= {name: (name, peer_sizes) for name in PEERS[1:] if name in self.place.workers}
        for name, (worker, batch_sizes) in engines.items():
            for n in batch_sizes:
                turns[f"{name}, {n}"] = self.turn(worker, "batch_together", f"{name}, {n}", batch_size=n)
        return turns

    def has_engine(self):
        """Whether there is a batch engine to import; without, only the others are measured."""
        reason = self.place.ask(OURS, "no_engine")
        if reason:
            self.place.skipped[TOGETHER] = f"{TOGETHER}: {reason}"
            lab.say(f"skipped: {TOGETHER}: {reason}")
        return not reason


def rows(records, n_tokens, equal, n_prompts):
    """A row for each contender: tokens a second, times one by one, texts equal to those made one by one."""
    for label, seconds in records.items():
        faster = ratios(records[ONE_BY_ONE], seconds)
        speeds = [n_tokens / each for each in seconds]
        yield [label, spread(speeds), spread(faster), f"{equal[label]} of {n_prompts}"]


def promises(sizes, peer_sizes):
    """Yield (label of ours, label of another, least ratio): others have as many rows; more slots are not slower."""
    for n in peer_sizes:
        for name, least in LEAST.items():
            yield f"{TOGETHER}, {n}", name if name == ONE_BY_ONE else f"{name}, {n}", least
    for fewer, more in pairwise(sizes):
        yield f"{TOGETHER}, {more}", f"{TOGETHER}, {fewer}", 1


def check_rows(records, sizes, peer_sizes):
    """What batch.py must reach of the speed of others, as far as both were measured."""
    for ours, other, least in promises(sizes, peer_sizes):
        if ours in records and other in records:
            faster = ratios(records[other], records[ours])
            reached = "yes" if median(faster) >= least else "no"
            yield [f"{ours}, times {other}", f"at least {least}", spread(faster), reached]


def as_tuple(sizes):
    return tuple(sizes) if isinstance(sizes, (tuple, list)) else (sizes,)


def main(
    quick=False, sizes=None, peer_sizes=None, rounds=None, threads=None, work_dir=None, models_dir=None, output=None
):
    """Run the contest. sizes, peer_sizes: of our batches and theirs, as in 16,64; see bench.py for the other flags."""
    asked = {"sizes": sizes, "peer_sizes": peer_sizes, "rounds": rounds}
    settings = (QUICK if quick else FULL) | {name: value for name, value in asked.items() if value}
    rounds, sizes, peer_sizes = (settings["rounds"], *(as_tuple(settings[name]) for name in ("sizes", "peer_sizes")))
    n_prompts, n_new = settings["n_prompts"], settings["n_new"]
    output = Path(output) if output else lab.HERE / "results" / ("quick" if quick else "")
    place = lab.Lab(work_dir, models_dir, threads)
    try:
        for name in PEERS:
            place.start(name)
        contest = Contest(place, random_prompts(n_prompts), n_new)
        series = contest.series(sizes, peer_sizes)
        records = lab.in_turns({"batches": series}, rounds)
    except WorkerError as error:
        sys.exit(f"Error: {error}")
    finally:
        place.close()
    results = lab.notes(place, records) | {"settings": settings, "equal": contest.equal, "records": records}
    records = records["batches"]
    lab.save(results, output / "batch.json")
    table = ["program, batch size", "tokens/s", "times one by one", "texts equal"]
    tables = [(table, list(rows(records, n_prompts * n_new, contest.equal, n_prompts)))]
    tables += [(["what", "must be", "is", "reached"], list(check_rows(records, sizes, peer_sizes)))]
    tables = [(head, lines) for head, lines in tables if lines]
    print("\n\n".join(plain(head, lines) for head, lines in tables), "", conditions(results), sep="\n")
    explanation = EXPLANATION.format(n_prompts=n_prompts, n_new=n_new)
    said = ["# Many prompts", explanation, conditions(results), *(markdown(*each) for each in tables)]
    (output / "batch.md").write_text("\n\n".join(said) + "\n", encoding="utf-8")


if __name__ == "__main__":
    Fire(main)
