"""What a product with all weights costs, by the number of rows: NumPy's `@` beside gpt2.py's ways.

Those pad or split the rows (gpt2.multiply), and take the vocabulary in parts (gpt2.gpt2).

    python benchmarks/products.py

The matrices have the shapes of GPT-2 124M, 500 MB in all. The two take turns; the ratios are the result, times context.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from fire import Fire

sys.path.insert(0, str(Path(__file__).parent.parent))

import gpt2

SHAPES = ((768, 2304), (768, 768), (768, 3072), (3072, 768))  # of one block
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 30, 32, 40, 44, 48, 56, 64)


def mapped(rng, shape):
    """A random matrix that lies in a file, as weights do: its pages of memory are small ones."""
    with tempfile.TemporaryFile() as file:
        matrix = np.memmap(file, np.float32, "w+", shape=shape)
    matrix[:] = rng.standard_normal(shape, dtype=np.float32)
    return np.asarray(matrix)


def milliseconds(multiply, rows, weights):
    start = time.perf_counter()
    for w in weights:
        multiply(rows[len(w)], w)
    return (time.perf_counter() - start) * 1e3


def main(rows=ROWS, rounds=5):
    """Print a line for each number of rows."""
    rng = np.random.default_rng(0)
    weights = [mapped(rng, shape) for shape in 12 * SHAPES]
    vocabulary = mapped(rng, (50257, 768)).T
    parts = [vocabulary[:, start : start + gpt2.TOKENS] for start in range(0, 50257, gpt2.TOKENS)]
    ways = (np.matmul, [*weights, vocabulary]), (gpt2.multiply, [*weights, *parts])
    for n_rows in rows if isinstance(rows, tuple) else (rows,):
        x = {n: rng.standard_normal((n_rows, n), dtype=np.float32) for n in (768, 3072)}
        turns = [[milliseconds(multiply, x, matrices) for multiply, matrices in ways] for _ in range(rounds)]
        plain, ours = (median(times) for times in zip(*turns, strict=True))
        ratio = median(plain / ours for plain, ours in turns)
        print(
            f"{n_rows:3} rows: @ {plain:6.1f} ms, multiply {ours:6.1f} ms, "
            f"{ours / n_rows:5.2f} ms a row; {ratio:.2f} times as fast"
        )


if __name__ == "__main__":
    Fire(main)
