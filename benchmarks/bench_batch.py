"""Compare how fast many prompts are continued: by batch.py, transformers and CTranslate2, and by gpt2.py one by one.

    .venv-bench/bin/python benchmarks/bench_batch.py             after make bench; about half an hour
    .venv-bench/bin/python benchmarks/bench_batch.py --quick     fewer and shorter texts, two batch sizes

All programs have the same random weights in the shape of GPT-2 124M, run in processes of their own, and take turns in
rounds; see bench.py. The script prints a table and writes into benchmarks/results: batch.md, and batch.json with all
measurements.
"""

import sys
from itertools import pairwise
from pathlib import Path
from statistics import median

import lab
import numpy as np
from figures import OURS, ratios, spread
from fire import Fire
from report import TARGETS, conditions, markdown, plain
from worker import WorkerError

TOGETHER = "batch.py"
ONE_BY_ONE = "gpt2.py, one by one"
OTHERS = ("transformers", "CTranslate2 float32")
TARGET_RATIOS = {ONE_BY_ONE: 4, "transformers": 1.8, "CTranslate2 float32": 1.1}  # speed of batch.py over each
FULL = {"n_prompts": 64, "n_new": 50, "sizes": (1, 2, 3, 4, 8, 16, 32, 64), "peer_sizes": (8, 32, 64), "rounds": 3}
QUICK = {"n_prompts": 16, "n_new": 10, "sizes": (1, 2, 4, 16), "peer_sizes": (4, 16), "rounds": 1}

EXPLANATION = """\
[bench_batch.py](../bench_batch.py) wrote this page. {n_prompts} prompts of 10 to 100 random tokens are each continued
by {n_new} greedy tokens; no text ends earlier. All programs have the same random weights in the shape of GPT-2 124M.
Figures and ratios are as in [README.md](README.md). The `generate` of transformers receives batches in the order of
the prompts, padded on the left. The `generate_batch` of CTranslate2 receives all prompts at once, sorts them by length
and forms the batches. batch.py is this project's; its batch size is the number of slots. "Texts equal" counts the
texts that are equal to those of gpt2.py one by one."""


def random_prompts(n_prompts):
    rng = np.random.default_rng(0)
    return [rng.integers(50256, size=rng.integers(10, 101)).tolist() for _ in range(n_prompts)]


class Contest:
    """Asks workers for texts. `texts` are those of the first worker; `equal` counts how many others are the same."""

    def __init__(self, place, prompts, n_new):
        self.place = place
        self.prompts = prompts
        self.n_new = n_new
        self.texts = None
        self.equal = {}

    def turn(self, worker, call, label, **arguments):
        """Return a function that continues all prompts and returns the seconds."""

        def run():
            options = {"prompts": self.prompts, "n_new": self.n_new, **arguments}
            texts, seconds = lab.timed(lambda: self.place.ask(worker, call, **options))
            if [len(text) for text in texts] != [self.n_new] * len(self.prompts):
                sys.exit(f"Error: {label} did not make {self.n_new} tokens for each of {len(self.prompts)} prompts")
            self.texts = self.texts or texts
            self.equal[label] = sum(a == b for a, b in zip(texts, self.texts, strict=True))
            return seconds

        return run

    def series(self, sizes, peer_sizes):
        """Return one series, {label: function}, so that all are compared within a round."""
        turns = {ONE_BY_ONE: self.turn(OURS, "batch_one_by_one", ONE_BY_ONE)}
        engines = {TOGETHER: (OURS, sizes)}
        engines |= {name: (name, peer_sizes) for name in OTHERS if name in self.place.workers}
        for name, (worker, batch_sizes) in engines.items():
            for n in batch_sizes:
                turns[f"{name}, {n}"] = self.turn(worker, "batch_together", f"{name}, {n}", batch_size=n)
        return turns


def rows(records, n_tokens, equal, n_prompts):
    """Yield a row for each program and batch size."""
    for label, seconds in records.items():
        faster = ratios(records[ONE_BY_ONE], seconds)
        speeds = [n_tokens / each for each in seconds]
        yield [label, spread(speeds), spread(faster), f"{equal[label]} of {n_prompts}"]


def targets(sizes, peer_sizes):
    """Yield (label of ours, label of another, least ratio): against equal batch sizes, and against fewer slots."""
    for n in peer_sizes:
        for name, least in TARGET_RATIOS.items():
            yield f"{TOGETHER}, {n}", name if name == ONE_BY_ONE else f"{name}, {n}", least
    for fewer, more in pairwise(sizes):
        yield f"{TOGETHER}, {more}", f"{TOGETHER}, {fewer}", 1


def target_rows(records, sizes, peer_sizes):
    """Yield a row for each target of batch.py whose two sides were both measured."""
    for ours, other, least in targets(sizes, peer_sizes):
        if ours in records and other in records:
            faster = ratios(records[other], records[ours])
            answer = "yes" if median(faster) >= least else "no"
            yield [f"{ours}, relative to {other}", f"at least {least}", spread(faster), answer]


def as_tuple(sizes):
    return tuple(sizes) if isinstance(sizes, (tuple, list)) else (sizes,)


def main(
    quick=False, sizes=None, peer_sizes=None, rounds=None, threads=None, work_dir=None, models_dir=None, output=None
):
    """Run the benchmark.

    sizes, peer_sizes: batch sizes of batch.py and of the others, as in 16,64. See bench.py for the other flags.
    """
    overrides = {"sizes": sizes, "peer_sizes": peer_sizes, "rounds": rounds}
    settings = (QUICK if quick else FULL) | {name: value for name, value in overrides.items() if value}
    sizes = as_tuple(settings["sizes"])
    peer_sizes = as_tuple(settings["peer_sizes"])
    n_prompts = settings["n_prompts"]
    n_new = settings["n_new"]
    output = Path(output) if output else lab.HERE / "results" / ("quick" if quick else "")
    place = lab.Lab(work_dir, models_dir, threads)
    try:
        for name in (OURS, *OTHERS):
            place.start(name)
        if OURS not in place.workers:
            sys.exit(f"Error: {place.skipped[OURS]}")
        contest = Contest(place, random_prompts(n_prompts), n_new)
        records = lab.in_turns({"batches": contest.series(sizes, peer_sizes)}, settings["rounds"])
    except WorkerError as error:
        sys.exit(f"Error: {error}")
    finally:
        place.close()
    results = lab.notes(place, records) | {"settings": settings, "equal": contest.equal, "records": records}
    lab.save(results, output / "batch.json")
    print(page(results, sizes, peer_sizes, plain))
    explanation = EXPLANATION.format(n_prompts=n_prompts, n_new=n_new)
    text = f"# Many prompts\n\n{explanation}\n\n{page(results, sizes, peer_sizes, markdown)}\n"
    (output / "batch.md").write_text(text, encoding="utf-8")


def page(results, sizes, peer_sizes, table):
    """Return the conditions and the tables of the results. table: `plain` or `markdown`."""
    records = results["records"]["batches"]
    n_prompts = results["settings"]["n_prompts"]
    n_tokens = n_prompts * results["settings"]["n_new"]
    head = ["program, batch size", "tokens/s", "relative to one by one", "texts equal"]
    parts = [conditions(results), table(head, rows(records, n_tokens, results["equal"], n_prompts))]
    checked = list(target_rows(records, sizes, peer_sizes))
    if checked:
        parts.append(table(TARGETS, checked))
    return "\n\n".join(parts)


if __name__ == "__main__":
    Fire(main)
