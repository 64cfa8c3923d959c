"""Run a program that is measured in a process of its own, and ask it questions.

While a worker waits for a question, none of its threads runs, so it does not slow down the program whose turn it is.

    worker = Worker("a name for messages", [sys.executable, "peers.py", ...], "log.txt", threads=2)
    seconds = worker.ask("decode", n_context=100, n_steps=20)

A question and its answer are one line of JSON each, on stdin and stdout:
    {"call": "decode", "arguments": {"n_context": 100, "n_steps": 20}}    ->    {"answer": 0.0213}
    or {"error": "RuntimeError: ..."}, {"missing": "No module named 'torch'"}
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTLE = 0.05  # seconds before a question: the thread pool of the program asked before spins for a while


class WorkerError(RuntimeError):
    """A worker could not start, or a question failed."""


class Missing(WorkerError):
    """A worker could not start because a package is not installed."""


class Worker:
    """The asking side. Raises WorkerError, or Missing, as soon as the process cannot answer."""

    def __init__(self, name: str, command: list[str], log: str | Path, threads: int):
        self.name = name
        self.log = log
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(threads),
                start_new_session=True,  # Ctrl-C reaches only the asking side
                text=True,
                encoding="utf-8",
            )
        self.about = self.answer()  # the worker describes itself when it has loaded

    def ask(self, call: str, **arguments: Any) -> Any:
        """Return the answer to one call."""
        time.sleep(SETTLE)
        try:
            self.process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"{self.name} has ended; see {self.log}") from None
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.name} ended with code {self.process.wait()}; see {self.log}")
        answer = json.loads(line)
        if "answer" in answer:
            return answer["answer"]
        self.close()
        if "missing" in answer:
            raise Missing(f"{self.name}: {answer['missing']}")
        raise WorkerError(f"{self.name}: {answer['error']}; see {self.log}")

    def close(self) -> None:
        """End the process and wait for it."""
        self.process.stdin.close()  # the worker reads the end of its questions and exits
        self.process.wait()
        self.process.stdout.close()


def environment(threads: int) -> dict[str, str]:
    """Return the variables of this process, with the same number of threads for every library with a thread pool."""
    pools = ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM", "NUMEXPR", "NUMBA")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | {f"{pool}_NUM_THREADS": str(threads) for pool in pools} | offline


def serve(load: Callable) -> None:
    """Run the answering side: call `load`, then the methods of its result, until the questions end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # answers go to a copy of stdout:
    os.dup2(2, 1)  # whatever libraries print to stdout goes to the log

    def reply(function):
        try:
            answer = {"answer": function()}
        except ImportError as error:
            answer = {"missing": str(error)}
        except Exception as error:  # the asking side must receive every error
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        return answer

    loaded = []

    def start():
        loaded.append(load())
        return loaded[0].about()

    if "answer" not in reply(start):
        return
    for line in sys.stdin:
        question = json.loads(line)
        reply(lambda question=question: getattr(loaded[0], question["call"])(**question["arguments"]))
