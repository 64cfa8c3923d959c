"""Compare the operands of engine/products.py with plain arrays: products with all weights, biases and activations.

    python benchmarks/bench_products.py

The matrices have the shapes of GPT-2 124M, 500 MB in all. Both take turns. The ratios are the result; times depend on
the machine and the hour.
"""

import tempfile
from statistics import median

import numpy as np
import project  # noqa: F401, makes the modules below importable
from fire import Fire
from limits import seconds

from engine.products import Embedding, Matrix, Vector, in_row_chunks
from gpt2 import gelu

SHAPES = ((768, 2304), (768, 768), (768, 3072), (3072, 768))  # of one block
WIDTH = 3072  # of the activations
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 30, 32, 40, 44, 48, 56, 64)
LONG_ROWS = (1, 64, 256, 900)  # for biases and activations


def mapped(rng, shape):
    """Return a random matrix that is mapped from a file, as weights are: its pages of memory are small."""
    with tempfile.TemporaryFile() as file:
        matrix = np.memmap(file, np.float32, "w+", shape=shape)
    matrix[:] = rng.standard_normal(shape, dtype=np.float32)
    return np.asarray(matrix)


def compare(what, n_rows, function, plain, fast, rounds):
    """Print the milliseconds of `function` with two operands, in turns; the first round is not counted."""
    turns = [[1e3 * seconds(lambda way=way: function(way)) for way in (plain, fast)] for _ in range(rounds + 1)][1:]
    plain_ms, fast_ms = (median(times) for times in zip(*turns, strict=True))
    ratio = median(plain / fast for plain, fast in turns)
    print(
        f"{what:11} {n_rows:3} rows: arrays {plain_ms:8.3f} ms, engine.products {fast_ms:8.3f} ms, "
        f"{fast_ms / n_rows:7.3f} ms per row; speed-up {ratio:.2f}"
    )


def compare_products(rng, rows, rounds):
    """Compare the products with all matrices, by the number of rows."""
    weights = [mapped(rng, shape) for shape in 12 * SHAPES]
    vocabulary = mapped(rng, (50257, 768))
    arrays = [*weights, vocabulary.T]
    operands = [*map(Matrix, weights), Embedding(vocabulary).T]
    for n_rows in rows:
        x = {n: rng.standard_normal((n_rows, n), dtype=np.float32) for n in (768, 3072)}

        def multiply(matrices, x=x):
            for w in matrices:
                x[w.shape[0]] @ w

        compare("products", n_rows, multiply, arrays, operands, rounds)


def compare_biases_and_activations(rng, rows, rounds):
    """Compare adding one bias and computing one activation, by the number of rows."""
    bias = rng.standard_normal(WIDTH, dtype=np.float32)
    for n_rows in rows:
        x = rng.standard_normal((n_rows, WIDTH), dtype=np.float32)
        compare("biases", n_rows, lambda b, x=x: x.copy() + b, bias, Vector(bias), rounds)
        compare("activations", n_rows, lambda activate, x=x: activate(x.copy()), gelu, in_row_chunks(gelu), rounds)


def main(rows=ROWS, long_rows=LONG_ROWS, rounds=5):
    """Print a line for each number of rows. rows: of products. long_rows: of biases and activations."""
    rng = np.random.default_rng(0)
    compare_products(rng, as_tuple(rows), rounds)
    compare_biases_and_activations(rng, as_tuple(long_rows), rounds)


def as_tuple(rows):
    return rows if isinstance(rows, tuple) else (rows,)


if __name__ == "__main__":
    Fire(main)
