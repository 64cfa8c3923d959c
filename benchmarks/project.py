"""Call the engine of this project as its commands do.

Importing this module also makes the project's modules importable from a script of this folder.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils
from engine.batching import Job, decode_together
from engine.compiled import MANY
from engine.completion import Completion
from engine.prefill import prefill
from engine.slots import Prefix, Sequence, Slots
from gpt2 import gpt2, make_kv_cache

ROOT = Path(__file__).parent.parent


def load(folder: str | Path, weights: str = "float32") -> utils.Model:
    """Return the model in a folder, with plain arrays as weights, or with the operands of int8."""
    return utils.load(folder, ".", weights=weights)


class Text:
    """A text in the slots of the engine: a prompt, then one id at a time."""

    def __init__(self, ids: list[int], params: dict, n_head: int, n_slots: int = 1, n_tokens: int = MANY):
        self.slots = Slots(params, n_head, n_slots)
        self.completions = [Completion() for _ in range(n_slots)]
        arriving = [Sequence(Job(ids, [each], n_tokens), each, Prefix(ids)) for each in self.completions]
        self.logits = self.slots.admit(arriving)[0]  # [n_vocab]

    def feed(self, ids: list[int]) -> np.ndarray:
        """Continue every sequence with an id; return the logits that follow that of the first one, [n_vocab]."""
        for completion, i in zip(self.completions, ids, strict=True):
            completion.ids.append(i)
        return self.slots.step()[0]


def forward(ids: list, params: dict, n_head: int, cache: list) -> np.ndarray:
    """Return the logits that follow the last of `ids`, [..., 1, n_vocab]; a long prompt uses all cores."""
    return prefill(gpt2, ids, cache, **params, n_head=n_head, last_only=True)


def repeat_cache(cache: list, params: dict, n_head: int, n_rows: int, n_positions: int) -> list:
    """Return a cache of `n_rows` sequences, all with the keys and values of the one sequence in `cache`."""
    repeated = make_kv_cache(params, n_head, n_positions, batch=(n_rows,))
    for layer, source in zip(repeated, cache, strict=True):
        layer.k[:, :, : source.length] = source.k[..., : source.length, :]
        layer.v[:, :, : source.length] = source.v[..., : source.length, :]
        layer.length = source.length
    return repeated


def continue_together(prompts: list, params: dict, n_head: int, n_new: int, batch_size: int) -> list[list[int]]:
    """Return `n_new` greedy ids for each prompt, computed by the engine of batch.py."""
    completions = [Completion() for _ in prompts]
    jobs = [Job(prompt, [completion], n_new) for prompt, completion in zip(prompts, completions, strict=True)]
    for _ in decode_together(jobs, params, n_head, batch_size):
        pass
    return [completion.ids for completion in completions]
