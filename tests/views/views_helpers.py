"""What the tests of the views share: running explore.py in this process, and counting passes through the model."""

import json
from pathlib import Path

import numpy as np

import explore
import gpt2
from views.command import EXPLORE

ROOT = Path(__file__).parents[2]
STORY = "Once upon a time"


def run_explore(here, *words, **options):
    """Run explore.py with the given words: (exit code, stdout, stderr)."""
    return here(*words, main=explore.main, command=EXPLORE, **options)


def stdout_of(here, *words, **options):
    """Return the stdout of a view that must succeed without remarks."""
    code, out, err = run_explore(here, *words, **options)
    assert (code, err) == (0, "")
    return out


def records_of(here, *words):
    """Return the records of `next --json`."""
    return [json.loads(line) for line in stdout_of(here, "next", *words, "--json").splitlines()]


def record_passes(monkeypatch):
    """Return a list that grows by the number of positions of every pass through the model."""
    n_positions = []
    original = gpt2.transformer

    def recording(inputs, *args, **options):
        n_positions.append(np.size(inputs))
        return original(inputs, *args, **options)

    monkeypatch.setattr(gpt2, "transformer", recording)
    return n_positions
