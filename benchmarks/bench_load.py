"""Measure how long a model takes to load, and how much memory of its own the process then has.

    python benchmarks/make_checkpoint.py --size 124M --models_dir /tmp/models
    python benchmarks/bench_load.py --models_dir /tmp/models --model_size random-124M

With --trees, several checkouts of this project are compared, in turns: --trees OLD,NEW. The first load of each is
reported apart, because it verifies the files or converts them. Each load is a new process. Anonymous memory (RssAnon of
/proc/self/status) is what a process does not share with others that map the same file; only Linux reports it.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from fire import Fire

ROOT = Path(__file__).parent.parent
LOAD = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import utils

def anonymous():
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("RssAnon"))

before = anonymous()
start = time.perf_counter()
model = utils.load(sys.argv[2], sys.argv[3])
print(json.dumps([time.perf_counter() - start, anonymous() - before]))
"""


def load_once(tree: str, model_size: str, models_dir: str) -> tuple[float, float]:
    """Return the seconds and the anonymous bytes of a load by the project in the folder `tree`, in a new process."""
    command = [sys.executable, "-c", LOAD, str(Path(tree).resolve()), model_size, models_dir]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, n_bytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, n_bytes


def main(models_dir, model_size="random-124M", trees=ROOT, rounds=5):
    """Print the time and the memory of the first load, and the medians of `rounds` further ones, for each tree."""
    trees = [str(tree) for tree in (trees if isinstance(trees, tuple | list) else str(trees).split(","))]
    models_dir = str(Path(models_dir).expanduser())
    first = {tree: load_once(tree, model_size, models_dir) for tree in trees}
    later = {tree: [] for tree in trees}
    for _ in range(rounds):
        for tree in trees:
            later[tree].append(load_once(tree, model_size, models_dir))
    for tree in trees:
        medians = [statistics.median(numbers) for numbers in zip(*later[tree], strict=True)]
        for label, (seconds, n_bytes) in (("first load", first[tree]), ("later loads", medians)):
            print(f"{tree}: {model_size}, {label}: {seconds:8.3f} s, {n_bytes / 1e6:8.1f} MB of anonymous memory")


if __name__ == "__main__":
    Fire(main)
