"""A program to be measured, in a process of its own: it waits, without a thread that spins, until it is asked.

    worker = Worker("a name for messages", [sys.executable, "peers.py", ...], "log.txt")
    seconds = worker.ask("decode", n_context=100, n_steps=20)

Question and answer are a line of JSON each, on stdin and stdout:
    {"call": "decode", "arguments": {"n_context": 100, "n_steps": 20}}    ->    {"answer": 0.0213}
    or {"error": "RuntimeError: ..."}, {"missing": "No module named 'torch'"}
"""

import json
import os
import subprocess
import sys
import time

SETTLE = 0.05  # seconds; the thread pool of the one that had its turn before spins a little before it sleeps


class WorkerError(RuntimeError):
    """A worker could not start, or what it was asked went wrong."""


class Missing(WorkerError):
    """A worker could not start because something it needs is not installed."""


class Worker:
    """The asking side. Raises WorkerError, or Missing, as soon as the process cannot do its work."""

    def __init__(self, name, command, log, threads):
        self.name, self.log = name, log
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(threads),
                start_new_session=True,  # Ctrl-C is for the one who asks
                text=True,
                encoding="utf-8",
            )
        self.about = self.answer()  # what it says of itself when it has loaded

    def ask(self, call, **arguments):
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

    def close(self):
        self.process.stdin.close()  # it reads the end of its questions, and leaves
        self.process.wait()
        self.process.stdout.close()


def environment(threads):
    """The variables of this process, with the same number of threads for every library that has a pool of them."""
    pools = ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM", "NUMEXPR")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | {f"{pool}_NUM_THREADS": str(threads) for pool in pools} | offline


def serve(load):
    """The answering side: call `load`, then the methods of what it returned, until there is no more question."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # a copy: libraries print to stdout as they like,
    os.dup2(2, 1)  # and what they print goes to the log

    def reply(function):
        try:
            answer = {"answer": function()}
        except ImportError as error:
            answer = {"missing": str(error)}
        except Exception as error:  # whatever it is, the one who asked must know
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
