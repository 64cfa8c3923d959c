"""Run the commands in tests: as a process, or in this process by the fixture `here`, with the bundled model."""

import json
import os
import subprocess
import sys

from conftest import ROOT

STORY = "Once upon a time"


def run_script(*words, script="gpt2.py", env=None, piped=b""):
    """Return the finished process of a script. Warnings of Python are errors."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PICOGPT", "TF_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-W", "error", script, *words],
        cwd=ROOT,
        env=settings | (env or {}),
        input=piped,
        capture_output=True,
        timeout=120,
    )


def stdout_of(*words, **options):
    """Return the stdout, as text, of a script that must succeed and write nothing to stderr."""
    done = run_script(*words, **options)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout.decode("utf-8")


def text_of(here, *words, **options):
    """Return the stdout of a command in this process that must succeed and write nothing to stderr."""
    code, out, err = here(*words, "--model_size", "tiny", **options)
    assert (code, err) == (0, "")
    return out


def records_of(here, *words, **options):
    """Return the records that a command prints with --json."""
    return [json.loads(line) for line in text_of(here, *words, "--json", **options).splitlines()]
