"""Kill workers, machines and drivers of runs on a Ray cluster; compare the records with those of one machine.

    pip install "ray>=2.50"
    python tests/chaos_cluster.py --kills 50

The cluster has several nodes on this machine, in a network of its own (network_namespace.py). Attacks at random times:
SIGKILL to a worker or to all processes of a node, a new node, and SIGKILL, SIGTERM or Ctrl-C to the driver, which is
then started again. After each run of the driver every record must be right and there once, and after a complete one
all must be there. Exit code 0 if that was always so.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from network_namespace import isolated  # noqa: E402

INSIDE = "PICOGPT_CHAOS_CLUSTER"  # set in the network of its own
TEXT = "Once upon a time there was a little girl named Lily who went to the park with her mom and saw a big dog"
MAX_NODES = 3
DRIVER_SIGNALS = {signal.SIGKILL: (-9,), signal.SIGTERM: (143,), signal.SIGINT: (130,)}


class Violation(Exception):
    """A promise that a run broke."""


def write_prompts(path, n_rows, rng):
    with open(path, "w", encoding="utf-8") as file:
        for number in range(n_rows):
            words = TEXT.split()
            start = rng.randrange(len(words) - 5)
            row = {"prompt": " ".join(words[start : start + rng.randint(1, 5)]), "id": number, "temperature": 1}
            row |= {"n_tokens_to_generate": rng.choice((5, 30, 100)), "num_samples": rng.choice((1, 1, 1, 2))}
            if rng.random() < 0.02:
                row = {"prompt": 3, "id": number}
            file.write(json.dumps(row) + "\n")


def records_of(path):
    """Return {(row, index): text or error}. Raise Violation if one is there twice."""
    found = {}
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        if not line.endswith(b"\n"):
            break  # torn by a signal; the next run cuts it off
        record = json.loads(line)
        key = (record["row"], record.get("index"))
        if key in found:
            raise Violation(f"{key} is in the output twice")
        found[key] = record.get("text", record.get("error"))
    return found


class Cluster:
    """A cluster of several nodes on this machine."""

    def __init__(self, rng):
        from ray.cluster_utils import Cluster as RayCluster

        self.rng = rng
        self.cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.nodes = []
        self.add_node()

    @property
    def address(self):
        return self.cluster.address

    def add_node(self):
        if len(self.nodes) < MAX_NODES - 1:
            self.nodes.append(self.cluster.add_node(num_cpus=1))
            return True
        return False

    def kill_node(self):
        """Kill all processes of a node that is not the head."""
        if not self.nodes:
            return False
        node = self.nodes.pop(self.rng.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        return True

    def kill_worker(self):
        """Kill a process that completes rows."""
        workers = list(self.workers())
        if not workers:
            return False
        os.kill(self.rng.choice(workers), signal.SIGKILL)
        return True

    def workers(self):
        nodes = self.cluster.list_all_nodes()
        raylets = {raylet.process.pid for node in nodes for raylet in node.all_processes["raylet"]}
        for entry in Path("/proc").iterdir():
            try:
                name = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            except (OSError, ValueError):
                continue
            if name.startswith(b"ray::Worker") and parent in raylets:
                yield int(entry.name)


def start_driver(words, folder):
    log = open(folder / "log", "wb")  # noqa: SIM115, the driver has it
    return subprocess.Popen(
        [sys.executable, ROOT / "batch.py", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=log,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def play(cluster, words, out, expected, rng, counts, is_over):
    """Complete a run under attacks."""
    folder = out.parent
    out.unlink(missing_ok=True)
    while True:
        driver = start_driver([*words, "--output", out, "--cluster", cluster.address], folder)
        codes = (0, 1)
        while driver.poll() is None:
            end = time.monotonic() + rng.uniform(0.2, 4)
            while time.monotonic() < end and driver.poll() is None:
                time.sleep(0.01)
            if driver.poll() is not None or is_over():
                continue
            attack = rng.random()
            if attack < 0.55:
                counts["SIGKILL sent to a worker"] += cluster.kill_worker()
            elif attack < 0.7:
                counts["nodes killed"] += cluster.kill_node()
            elif attack < 0.9:
                counts["nodes added"] += cluster.add_node()
            else:
                signum = rng.choice(list(DRIVER_SIGNALS))
                driver.send_signal(signum)
                counts[f"{signum.name} sent to the driver"] += 1
                codes = (0, 1, *DRIVER_SIGNALS[signum])
                driver.wait(timeout=60)
        counts[f"drivers that ended with {driver.returncode}"] += 1
        text = (folder / "log").read_text(encoding="utf-8")
        if driver.returncode not in codes or "Traceback" in text:
            raise Violation(f"exit code {driver.returncode}, expected one of {codes}; stderr: {text}")
        found = records_of(out)
        wrong = [key for key, text in found.items() if expected.get(key) != text]
        if wrong:
            raise Violation(f"{wrong[0]} is {found[wrong[0]]!r}, not {expected.get(wrong[0])!r}")
        if driver.returncode in (0, 1):
            if found.keys() != expected.keys():
                raise Violation(f"{len(expected) - len(found)} records are missing; stderr: {text}")
            counts["rows finished"] += len({row for row, _ in found})
            counts["runs completed"] += 1
            return


def n_kills(counts):
    return sum(n for name, n in counts.items() if " sent to " in name or name == "nodes killed")


def attack(asked):
    rng = random.Random(asked.seed)
    counts = collections.Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prompts = folder / "prompts.jsonl"
        write_prompts(prompts, asked.rows, rng)
        words = [prompts, "--model_size", "tiny", "--seed", 5, "--batch_size", asked.batch_size]
        alone = folder / "alone.jsonl"
        code = start_driver([*words, "--output", alone, "--threads", 1], folder).wait()  # as many as a worker
        expected = records_of(alone)
        cluster = Cluster(rng)
        try:
            while n_kills(counts) < asked.kills:
                done = lambda: n_kills(counts) >= asked.kills  # noqa: E731
                play(cluster, words, folder / "out.jsonl", expected, rng, counts, done)
                print(f"{n_kills(counts)} kills, {counts['runs completed']} runs", flush=True)
        finally:
            print(f"seed {asked.seed}, {time.monotonic() - start:.0f} s; a single machine ended with {code}")
            for name, n in sorted(counts.items()):
                print(f"{n:8} {name}")
            cluster.cluster.shutdown()
    print("No row was lost or written twice, and all texts equal those of a single machine.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if os.environ.get(INSIDE) is None:
        environment = {**os.environ, INSIDE: "1", "RAY_USAGE_STATS_ENABLED": "0"}
        words = isolated([sys.executable, *sys.argv])
        os.execvpe(words[0], words, environment)
    attack(asked)


if __name__ == "__main__":
    main()
