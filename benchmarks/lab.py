"""What bench.py and batch.py have in common: models and files made ready, workers started, turns taken, notes kept."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from peers import KINDS
from threads import n_cores
from worker import Missing, Worker, WorkerError, environment

HERE = Path(__file__).parent
WORK_DIR = "~/.cache/picogpt-benchmarks"


def say(text):
    print(text, file=sys.stderr, flush=True)


class Lab:
    """A place to measure in: random models, their files for other programs, and the workers that have loaded them.

    work_dir: where converted files and logs are kept, some 3 GB for 124M. models_dir: where random models are kept.
    threads: of each program; by default as many as there are cores.
    """

    def __init__(self, work_dir=None, models_dir=None, threads=None):
        self.work_dir = Path(work_dir or WORK_DIR).expanduser()
        self.models_dir = Path(models_dir).expanduser() if models_dir else self.work_dir / "models"
        self.threads = int(threads or n_cores())
        self.workers, self.skipped = {}, {}
        (self.work_dir / "logs").mkdir(parents=True, exist_ok=True)

    def model(self, size):
        """The folder of the random model of a size, which is made if it is not there."""
        folder = self.models_dir / f"random-{size}"
        if not (folder / "checkpoint").exists():  # it is written last
            say(f"making {folder}")
            self.run("make_checkpoint.py", "--size", size, "--models_dir", self.models_dir)
        self.file(size, "huggingface")  # whose making saves our own converted copy, too
        return folder

    def file(self, size, kind):
        """The file or folder of a kind (see convert.py) with the weights of a size, made if it is not there."""
        path = self.work_dir / f"random-{size}" / kind
        if not path.exists():
            say(f"making {path}")
            self.run("convert.py", "--model", self.models_dir / f"random-{size}", "--kind", kind, "--to", path)
        return path

    def run(self, script, *arguments):
        """Run a script of this folder; raise Missing or WorkerError with its last words if it fails."""
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(self.threads))
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise (Missing if last.startswith("ModuleNotFoundError") else WorkerError)(f"{script}: {last}")

    def start(self, name, size="124M"):
        """Start the worker `name` of peers.py with the model of a size; note why if that cannot be."""
        key = name if size == "124M" else f"{name}, {size}"
        try:
            model = self.model(size)
            if name in KINDS:
                self.file(size, KINDS[name])
            command = [sys.executable, str(HERE / "peers.py"), name, str(self.work_dir / f"random-{size}")]
            log = self.work_dir / "logs" / f"{key}.txt"
            self.workers[key] = Worker(key, [*command, str(model), str(self.threads)], log, self.threads)
        except WorkerError as error:
            self.skipped[key] = str(error)
            say(f"skipped: {key}: {'not installed: ' if isinstance(error, Missing) else ''}{error}")

    def ask(self, worker, call, **arguments):
        return self.workers[worker].ask(call, **arguments)

    def close(self):
        for worker in self.workers.values():
            with contextlib.suppress(OSError):
                worker.close()


def in_turns(series, rounds):
    """Call every function of every series once a round; return their results {series: {name: [one a round]}}.

    Who begins changes from round to round. What is compared is of one series, so that it was measured within moments.
    Ctrl-C ends it: what came of the whole rounds before is kept.
    """
    done = []
    for i in range(rounds):
        try:
            done.append(
                {title: one_round(functions, i, f"{i + 1} of {rounds}: {title}") for title, functions in series.items()}
            )
        except KeyboardInterrupt:
            if not done:
                raise
            say(f"interrupted: {len(done)} rounds are kept")
            break
    return {title: {name: [each[title][name] for each in done] for name in names} for title, names in series.items()}


def one_round(functions, i, what):
    """Call every function once, the i-th first; return {name: result}."""
    say(f"round {what}")
    names = list(functions)
    start = i % len(names)
    return {name: functions[name]() for name in names[start:] + names[:start]}


def run_command(command, threads):
    """Run a command; return the seconds to the first byte of its stdout, and to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(threads),
        bufsize=0,
    )
    process.stdout.read(1)
    first = time.perf_counter() - start
    _, errors = process.communicate()
    whole = time.perf_counter() - start
    if process.returncode:
        raise WorkerError(f"{command[1]}: {(errors.decode(errors='replace').strip() or 'no message').splitlines()[-1]}")
    return [first, whole]


# ---- notes -----------------------------------------------------------------------------------------------------


def machine():
    """What the figures depend on, as far as the system tells."""
    cpu, memory = platform.processor(), None
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
        flags = next(line.split() for line in lines if line.startswith("flags"))
        cpu += f" ({', '.join(flag for flag in ('avx2', 'avx512f', 'avx512_vnni') if flag in flags)})"
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    about = {"cpu": cpu, "cores": n_cores(), "memory_bytes": memory, "python": platform.python_version()}
    return about | {"system": f"{platform.system()} {platform.machine()}"}


def commit():
    """The commit that was measured, with a + if files that git knows have been changed since."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True).stdout.strip()

    with contextlib.suppress(OSError):
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    return ""


def notes(lab, records):
    """What every file of results begins with. records: see in_turns."""
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


def save(results, path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")
    return path


def rounded(value):
    """Five digits of every float: more are noise."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
