"""Run the commands of one source tree of this project within one process, for compare_versions.py.

    python benchmarks/compare_worker.py TREE     serves questions (see worker.py)

The commands run through their `main`, with the options of the command line. Only the loaded model is kept from one
command to the next, so that a question takes no longer than the command's own work.
"""

import contextlib
import functools
import io
import os
import sys
import time
from collections.abc import Iterator

import numpy as np
import worker


class Commands:
    """The commands of a source tree, imported from there."""

    def __init__(self, tree: str):
        sys.path.insert(0, tree)
        import batch
        import gpt2
        import utils

        keep_models(utils)
        self.mains = {"gpt2.py": gpt2.main, "batch.py": batch.main}

    def about(self) -> dict:
        return {"version": f"numpy {np.__version__}"}

    def run(self, script: str, argument: str, options: dict) -> tuple[float, str]:
        """Run a command with an empty stdin; return the seconds and its stdout."""
        stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        with empty_stdin(), contextlib.redirect_stdout(stdout):
            start = time.perf_counter()
            self.mains[script](argument, **options)
            seconds = time.perf_counter() - start
        stdout.flush()
        return seconds, stdout.buffer.getvalue().decode("utf-8")


def keep_models(utils) -> None:
    """Make the functions of utils that load a model return the same model for the same arguments."""
    for name in ("load", "load_found", "load_encoder_hparams_and_params"):
        if hasattr(utils, name):
            setattr(utils, name, functools.cache(getattr(utils, name)))


@contextlib.contextmanager
def empty_stdin() -> Iterator[None]:
    """Replace stdin, which carries the worker's questions, by an empty file."""
    stdin = sys.stdin
    with open(os.devnull, encoding="utf-8") as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = stdin


if __name__ == "__main__":
    worker.serve(lambda: Commands(sys.argv[1]))
