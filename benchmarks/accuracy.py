"""Measure what int8 weights cost: python benchmarks/accuracy.py TEXT [--model_size tiny] [--models_dir FOLDER]

TEXT is a file that the model has not learned from. For int8 weights, and for the rules of two other programs, computed
here in NumPy, the script prints the bits per byte of the text, the Kullback-Leibler divergence of the next-token
distribution from that of float32 (mean and 99th percentile, in nats), and the share of positions whose likeliest token
is that of float32.

    Q8_0     llama.cpp: weights and activations in blocks of 32 int8 numbers with a scale each
    per row  CTranslate2 int8: one scale per output of the weights and one per position of the activations
"""

import math
import sys
from pathlib import Path

import numpy as np
from fire import Fire

sys.path.insert(0, str(Path(__file__).parent.parent))

import gpt2
import utils
from engine.int8 import matrices, replaced, with_int8_products

N_BITS = 127


def rounded(x, axis_size):
    """Return an array with the error of int8 with a scale for each `axis_size` numbers of the last axis."""
    blocks = x.reshape(-1, axis_size)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / N_BITS
    scales[scales == 0] = 1
    return (np.rint(blocks / scales) * scales).reshape(x.shape)


class Rounded:
    """A matrix whose weights and activations are rounded to int8. block: numbers per scale, None for all of a row."""

    __array_ufunc__ = None

    def __init__(self, rows, block):
        self.block = block or rows.shape[1]
        self.rows = rounded(rows, self.block)  # [n_out, n_in]
        self.shape = rows.shape
        self.T = self

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, ids):
        return self.rows[ids]

    def __rmatmul__(self, x):
        return rounded(np.ascontiguousarray(x), self.block) @ self.rows.T


def with_rounded(params, block):
    """Return the weights tree with Rounded matrices."""
    return replaced(params, {name: Rounded(np.ascontiguousarray(rows), block) for name, rows in matrices(params)})


def log_probabilities(ids, params, n_head):
    """Return the log-probabilities after each id, float64 [n_seq, n_vocab]."""
    logits = gpt2.gpt2(ids, **params, n_head=n_head).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def measure(windows, params, exact, n_head):
    """Return (log-probability of the text, divergences, agreements) of the windows of ids."""
    total = 0.0
    divergences = []
    agreements = []
    for ids, reference in zip(windows, exact, strict=True):
        found = log_probabilities(ids[:-1], params, n_head)
        total += found[np.arange(len(ids) - 1), ids[1:]].sum()
        divergences.append((np.exp(reference) * (reference - found)).sum(axis=1))
        agreements.append(found.argmax(axis=1) == reference.argmax(axis=1))
    return total, np.concatenate(divergences), np.concatenate(agreements)


def main(text, model_size="tiny", models_dir=None, windows=20):
    model = utils.load(model_size, models_dir)
    content = Path(text).read_text(encoding="utf-8")
    ids = model.encoder.encode(content)[: windows * (model.n_ctx - 1)]
    parts = [
        np.array([model.special.start, *ids[i : i + model.n_ctx - 1]]) for i in range(0, len(ids), model.n_ctx - 1)
    ]
    n_bytes = len(model.encoder.decode_bytes(ids))
    exact = [log_probabilities(part[:-1], model.params, model.n_head) for part in parts]
    kinds = {
        "float32": model.params,
        "int8": with_int8_products(model.params),
        "Q8_0": with_rounded(model.params, 32),
        "per row": with_rounded(model.params, None),
    }
    print(f"{model.name}, {len(ids)} tokens, {n_bytes} bytes of {Path(text).name}")
    print(f"{'':8}  bits/byte  KL mean   KL 99 %   agreement")
    for name, params in kinds.items():
        total, divergences, agreements = measure(parts, params, exact, model.n_head)
        bits = -total / math.log(2) / n_bytes
        tail = np.quantile(divergences, 0.99)
        print(f"{name:8}  {bits:9.5f}  {divergences.mean():.1e}  {tail:.1e}  {agreements.mean():9.4%}")


if __name__ == "__main__":
    Fire(main)
