"""Call this project as its commands do. The functions that several benchmarks need are here, in one place.

Importing this module also makes the project's modules importable from a script of this folder.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import gpt2
from engine.batching import Job, decode_together
from engine.prefill import prefill
from sampling import Sample, greedy
from utils import load_encoder_hparams_and_params

ROOT = Path(__file__).parent.parent


def load(folder: str | Path) -> tuple:
    """Return the encoder, the hyper-parameters and the weights of the model in a folder; the weights are arrays."""
    return load_encoder_hparams_and_params(str(folder), ".")


def new_cache(params: dict, n_head: int, n_positions: int, batch: tuple[int, ...] = ()) -> list:
    """Return an empty KV cache: one LayerCache per block."""
    return gpt2.kv_cache(params, n_head, n_positions, batch)


def forward(ids: list, params: dict, n_head: int, cache: list) -> np.ndarray:
    """Return the logits that follow the last of `ids`, [..., 1, n_vocab]; a long prompt uses all cores."""
    return prefill(gpt2.gpt2, ids, cache=cache, **params, n_head=n_head, last_only=True)


def repeat_cache(cache: list, params: dict, n_head: int, n_rows: int, n_positions: int) -> list:
    """Return a cache of `n_rows` sequences, all with the keys and values of the one sequence in `cache`."""
    repeated = new_cache(params, n_head, n_positions, batch=(n_rows,))
    for layer, source in zip(repeated, cache, strict=True):
        layer.k[:, :, : source.length] = source.k[..., : source.length, :]
        layer.v[:, :, : source.length] = source.v[..., : source.length, :]
        layer.length = source.length
    return repeated


def continue_together(prompts: list, params: dict, n_head: int, n_new: int, batch_size: int) -> list[list[int]]:
    """Return `n_new` greedy ids for each prompt, computed by the engine of batch.py."""
    samples = [Sample(greedy) for _ in prompts]
    jobs = [Job(prompt, [sample], n_new) for prompt, sample in zip(prompts, samples, strict=True)]
    for _ in decode_together(jobs, params, n_head, batch_size):
        pass
    return [sample.ids for sample in samples]
