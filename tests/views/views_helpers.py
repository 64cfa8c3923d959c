"""What the tests of the views share: running explore.py in this process, and counting passes through the model."""

import json
from pathlib import Path

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
    """Return a list that grows by the number of positions of every pass through the first block of the model."""
    n_positions = []
    first_block = []
    original = gpt2.transformer_block

    def recording(x, mlp, **options):  # x: [..., n_seq, n_embd]
        first_block.append(mlp)
        if mlp is first_block[0]:
            n_positions.append(x[..., 0].size)
        return original(x, mlp, **options)

    monkeypatch.setattr(gpt2, "transformer_block", recording)
    return n_positions
