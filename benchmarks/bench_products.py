"""Compare the product with all weights, by the number of rows: NumPy's `@`, and the faster ways of this project.

Those pad or split the rows (gpt2.multiply) and take the vocabulary in parts (gpt2.gpt2).

    python benchmarks/bench_products.py

The matrices have the shapes of GPT-2 124M, 500 MB in all. Both take turns. The ratios are the result; times depend on
the machine and the hour.
"""

import tempfile
from statistics import median

import numpy as np
import project  # noqa: F401, makes gpt2 importable
from fire import Fire
from limits import seconds

import gpt2

SHAPES = ((768, 2304), (768, 768), (768, 3072), (3072, 768))  # of one block
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 30, 32, 40, 44, 48, 56, 64)


def mapped(rng, shape):
    """Return a random matrix that is mapped from a file, as weights are: its pages of memory are small."""
    with tempfile.TemporaryFile() as file:
        matrix = np.memmap(file, np.float32, "w+", shape=shape)
    matrix[:] = rng.standard_normal(shape, dtype=np.float32)
    return np.asarray(matrix)


def plain_products(x, matrices):
    for w in matrices:
        x[len(w)] @ w


def fast_products(x, matrices):
    for w in matrices:
        gpt2.multiply(x[len(w)], w)


def in_parts(vocabulary):
    """Return the vocabulary in the parts that `gpt2.gpt2` multiplies separately."""
    return [vocabulary[:, start : start + gpt2.TOKENS] for start in range(0, vocabulary.shape[1], gpt2.TOKENS)]


def main(rows=ROWS, rounds=5):
    """Print a line for each number of rows."""
    rng = np.random.default_rng(0)
    weights = [mapped(rng, shape) for shape in 12 * SHAPES]
    vocabulary = mapped(rng, (50257, 768)).T
    plain_matrices = [*weights, vocabulary]
    fast_matrices = [*weights, *in_parts(vocabulary)]
    for n_rows in rows if isinstance(rows, tuple) else (rows,):
        x = {n: rng.standard_normal((n_rows, n), dtype=np.float32) for n in (768, 3072)}
        turns = [
            (
                1e3 * seconds(lambda x=x: plain_products(x, plain_matrices)),
                1e3 * seconds(lambda x=x: fast_products(x, fast_matrices)),
            )
            for _ in range(rounds)
        ]
        plain, fast = (median(times) for times in zip(*turns, strict=True))
        ratio = median(plain / fast for plain, fast in turns)
        print(
            f"{n_rows:3} rows: @ {plain:6.1f} ms, this project {fast:6.1f} ms, "
            f"{fast / n_rows:5.2f} ms per row; speed-up {ratio:.2f}"
        )


if __name__ == "__main__":
    Fire(main)
