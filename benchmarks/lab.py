"""Prepare models and files, start workers, let them take turns, and save the results.

bench.py, bench_batch.py and compare_versions.py share this module.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from limits import n_cores
from peers import KINDS
from worker import SETTLE, Missing, Worker, WorkerError, environment

HERE = Path(__file__).parent
WORK_DIR = "~/.cache/picogpt-benchmarks"


def say(text: str) -> None:
    """Print a remark about the progress on stderr."""
    print(text, file=sys.stderr, flush=True)


class Lab:
    """Random models, their files for other programs, and the workers that have loaded them.

    work_dir: the folder for converted files and logs, about 3 GB for 124M. models_dir: the folder for random models.
    threads: the number of threads of each program, by default the number of cores.
    """

    def __init__(self, work_dir=None, models_dir=None, threads=None):
        self.work_dir = Path(work_dir or WORK_DIR).expanduser()
        self.models_dir = Path(models_dir).expanduser() if models_dir else self.work_dir / "models"
        self.threads = int(threads or n_cores())
        self.workers = {}
        self.skipped = {}
        (self.work_dir / "logs").mkdir(parents=True, exist_ok=True)

    def checkpoint(self, size: str) -> Path:
        """Return the folder of the random model of a size; make it if it does not exist."""
        folder = self.models_dir / f"random-{size}"
        if not (folder / "checkpoint").exists():  # written last
            say(f"making {folder}")
            self.run("make_checkpoint.py", "--size", size, "--models_dir", self.models_dir)
        return folder

    def file(self, size: str, kind: str) -> Path:
        """Return the file or folder of a kind (see convert.py) with the weights of a size; make it if necessary."""
        path = self.work_dir / f"random-{size}" / kind
        if not path.exists():
            say(f"making {path}")
            self.run("convert.py", "--model", self.models_dir / f"random-{size}", "--kind", kind, "--to", path)
        return path

    def run(self, script: str, *arguments: Any) -> None:
        """Run a script of this folder. If it fails, raise Missing or WorkerError with its last line."""
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment(self.threads))
        if result.returncode:
            message = last_line(result.stderr)
            error = Missing if message.startswith("ModuleNotFoundError") else WorkerError
            raise error(f"{script}: {message}")

    def start(self, name: str, size: str = "124M") -> None:
        """Start the worker `name` of peers.py with the model of a size; record the reason if that is impossible."""
        key = name if size == "124M" else f"{name}, {size}"
        try:
            model = self.checkpoint(size)
            self.file(size, "huggingface")
            if name in KINDS:
                self.file(size, KINDS[name])
            files = self.work_dir / f"random-{size}"
            self.start_worker(key, HERE / "peers.py", name, files, model, self.threads)
        except WorkerError as error:
            self.skipped[key] = str(error)
            say(f"skipped: {key}: {'not installed: ' if isinstance(error, Missing) else ''}{error}")

    def start_worker(self, key: str, script: Path, *arguments: Any) -> None:
        """Start a script that serves questions (see worker.py), under the name `key`."""
        command = [sys.executable, str(script), *map(str, arguments)]
        log = self.work_dir / "logs" / f"{key}.txt"
        self.workers[key] = Worker(key, command, log, self.threads)

    def ask(self, key: str, call: str, **arguments: Any) -> Any:
        """Return the answer of a worker to one call."""
        return self.workers[key].ask(call, **arguments)

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            with contextlib.suppress(OSError):
                worker.close()


def in_turns(series: dict[str, dict[str, Callable]], rounds: int) -> dict[str, dict[str, list]]:
    """Call every function of every series once per round; return {series: {name: [one result per round]}}.

    The function that begins changes from round to round. Only results of the same series are compared with each other,
    because they are measured within moments. Ctrl-C ends the measurement and keeps the complete rounds.
    """
    results = []
    for i in range(rounds):
        try:
            results.append(
                {title: one_round(functions, i, f"{i + 1} of {rounds}: {title}") for title, functions in series.items()}
            )
        except KeyboardInterrupt:
            if not results:
                raise
            say(f"interrupted: {len(results)} rounds are kept")
            break
    return {
        title: {name: [result[title][name] for result in results] for name in names} for title, names in series.items()
    }


def one_round(functions, i, what):
    """Call every function once, beginning with number i; return {name: result}."""
    say(f"round {what}")
    names = list(functions)
    start = i % len(names)
    return {name: functions[name]() for name in names[start:] + names[:start]}


def timed(function: Callable) -> tuple[Any, float]:
    """Return the answer of a function that asks a worker one question, and the seconds that it takes."""
    start = time.perf_counter()
    answer = function()
    return answer, time.perf_counter() - start - SETTLE


def run_command(command: list, threads: int) -> tuple[float, float, bytes]:
    """Run a command; return the seconds to the first byte of its stdout, the seconds to its end, and its stdout."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(threads),
        bufsize=0,
    )
    first_byte = process.stdout.read(1)
    first = time.perf_counter() - start
    others, errors = process.communicate()
    whole = time.perf_counter() - start
    if process.returncode:
        raise WorkerError(f"{command[1]}: {last_line(errors.decode(errors='replace'))}")
    return first, whole, first_byte + others


def last_line(text):
    return (text.strip() or "no message").splitlines()[-1]


# ---- results ---------------------------------------------------------------------------------------------------


def machine() -> dict:
    """Return the properties of the machine that the figures depend on, as far as the system reports them."""
    cpu = platform.processor()
    memory = None
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
        flags = next(line.split() for line in lines if line.startswith("flags"))
        cpu += f" ({', '.join(flag for flag in ('avx2', 'avx512f', 'avx512_vnni') if flag in flags)})"
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    about = {"cpu": cpu, "cores": n_cores(), "memory_bytes": memory, "python": platform.python_version()}
    return about | {"system": f"{platform.system()} {platform.machine()}"}


def commit(folder: Path = HERE) -> str:
    """Return the commit of the tree around `folder`, with a + if tracked files have changed; "" without git."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True).stdout.strip()

    with contextlib.suppress(OSError):
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    return ""


def notes(lab: Lab, records: dict) -> dict:
    """Return the fields that every results file begins with. records: see in_turns."""
    series = next(iter(records.values()))
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "commit": commit(),
        "machine": machine(),
        "threads": lab.threads,
        "rounds": len(next(iter(series.values()))),
        "versions": {name: worker.about["version"] for name, worker in lab.workers.items()},
        "skipped": lab.skipped,
    }


def save(results: dict, path: str | Path) -> Path:
    """Write results as JSON; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")
    return path


def rounded(value):
    """Round every float to five digits; further digits are noise."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
