"""Measure batch runs on a Ray cluster on this machine (pip install "ray>=2.50"): overhead, division of cores, driver.

    python benchmarks/make_checkpoint.py --size 124M --models_dir /tmp/models
    python benchmarks/bench_cluster.py overhead --models_dir /tmp/models   one worker, and the same run without Ray
    python benchmarks/bench_cluster.py division --models_dir /tmp/models   two workers with half of the cores each
    python benchmarks/bench_cluster.py driver                              rows per second with workers that do nothing

Runs of the first two take turns; each has its own process, and its seconds include everything from the start of Python
to its end. Seconds of work are those in the run's last line, without starting and loading. `driver` also prints how
many machines a driver feeds: its rows per second, times the tokens of a row, divided by the tokens per second of one
machine.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from fire import Fire

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
TOTALS = re.compile(r"([\d,]+) tokens in ([\d.]+) s")
MACHINE = 300  # tokens per second of the 124M model on two cores; see results/batch.md
TEXT = "Once upon a time there was a little girl who lived in a big house near the forest with her old dog"


class Bench:
    """The measurements."""

    def overhead(self, models_dir, model_size="random-124M", rows=2000, tokens=20, rounds=2):
        """Compare one worker that has all cores with a run without a cluster."""
        n = os.cpu_count()
        runs = {"without Ray": [], "one worker": ["--cluster", "local", "--workers", 1, "--worker_cpus", n]}
        compare(runs, models_dir, model_size, rows, tokens, rounds)

    def division(self, models_dir, model_size="random-124M", rows=600, tokens=20, rounds=3):
        """Compare two workers with half of the cores each with one that has all."""
        n = os.cpu_count()
        runs = {
            f"one worker, {n} cores": ["--cluster", "local", "--workers", 1, "--worker_cpus", n],
            f"two workers, {n // 2} each": ["--cluster", "local", "--workers", 2, "--worker_cpus", n // 2],
        }
        compare(runs, models_dir, model_size, rows, tokens, rounds)

    def driver(self, rows=50_000, workers=2):
        """Measure the rows per second of a driver whose workers return ready records at once."""
        with tempfile.TemporaryDirectory() as folder:
            prompts = write_prompts(Path(folder), rows)
            seconds = run_idle(prompts, Path(folder) / "out.jsonl", workers)
        print(f"{rows} rows in {seconds:.1f} s: {rows / seconds:.0f} rows/s")
        for tokens in (20, 100, 500):
            machines = rows / seconds * tokens / MACHINE
            print(f"  {tokens} tokens a row, {MACHINE} tokens/s a machine: {machines:,.0f} machines")


def write_prompts(folder, rows):
    path = folder / "prompts.jsonl"
    words = TEXT.split()
    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            start = number % (len(words) - 8)
            file.write(json.dumps({"prompt": " ".join(words[start : start + 8]), "id": number}) + "\n")
    return path


def compare(runs, models_dir, model_size, rows, tokens, rounds):
    """Run the commands in turn and print their speeds and ratios to the first."""
    model = ["--models_dir", models_dir, "--model_size", model_size, "--n_tokens_to_generate", tokens, "--ignore_eos"]
    found = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as folder:
        prompts = write_prompts(Path(folder), rows)
        for round_number in range(rounds):
            for name, words in list(runs.items())[:: 1 if round_number % 2 == 0 else -1]:
                out = Path(folder) / "out.jsonl"
                found[name].append(seconds_of([prompts, "--output", out, "--overwrite", *model, *words]))
    first = next(iter(found.values()))
    print(f"{rows} rows of {tokens} tokens, {model_size}, {rounds} rounds")
    for name, measured in found.items():
        work, whole = (median(column) for column in zip(*measured, strict=True))
        ratios = [median(column) for column in zip(*first, strict=True)]
        print(
            f"{name:22} {rows * tokens / work:7.1f} tokens/s, {work:7.1f} s of work ({work / ratios[0]:.3f}), "
            f"{whole:7.1f} s in all ({whole / ratios[1]:.3f})"
        )


def seconds_of(words):
    """Run batch.py; return its seconds of work, and all seconds."""
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "batch.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    whole = time.perf_counter() - start
    return float(TOTALS.search(done.stderr)[2]), whole


# ---- a driver whose workers do nothing -------------------------------------------------------------------------


class IdleWorker:
    """A worker that returns a record of 40 tokens for each row, without a model."""

    def __init__(self, plan):
        self.plan = plan

    def start(self, model=None):
        return 64

    def complete(self, requests):
        from runner.cluster_worker import Answer
        from runner.run import Outcome

        return Answer([Outcome([record_of(request)], 40) for request in requests], [])


def record_of(request):
    """Return a record of the usual size."""
    return {
        "row": request.row.number,
        "format": 2,
        "id": request.row.fields["id"],
        "index": 0,
        "prompt": request.prompt,
        "text": " and they lived in a small house by the sea. They were very happy" * 3,
        "finish_reason": "length",
        "seed": request.seed,
        "model": "tiny",
        "fingerprint": "0123456789abcdef",
        "settings": {"n_tokens_to_generate": 40, "temperature": 1.0, "top_p": 0.9},
        "usage": {"prompt_tokens": 8, "completion_tokens": 40},
        "timings": {"first_token_seconds": 0.1, "seconds": 1.0, "tokens_per_second": 40.0},
    }


def run_idle(prompts, out, workers):
    """Complete the prompts with idle workers; return the seconds of work."""
    from cli.command_flags import BATCH_FLAGS
    from cli.messages import log_to_stderr
    from cli.options import check_options
    from runner import cluster, command
    from runner.run import Run

    seconds = []
    summary = Run.summary
    Run.summary = lambda run, n_before: seconds.append(run.clock.seconds) or summary(run, n_before)
    cluster.Worker = IdleWorker
    log_to_stderr()
    options = {"output": str(out), "model_size": "tiny", "cluster": "local", "workers": workers, "temperature": 1}
    command.complete_all(str(prompts), check_options(options, BATCH_FLAGS))
    return seconds[0]


if __name__ == "__main__":
    Fire(Bench, name="bench_cluster.py")
