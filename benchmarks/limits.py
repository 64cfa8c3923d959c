"""Measure the limits of the machine: the matrix products of a model alone, and the fastest product of all.

Decoding a token multiplies a vector by every matrix of the model, so memory bandwidth limits it (GEMV). A prompt or a
large batch multiplies matrices by matrices, so arithmetic limits it (GEMM). Both use NumPy's products, as gpt2.py does.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import numpy as np

SQUARES = (1024, 2048, 3072)  # sizes of the square products that are tried for the GEMM peak
ROWS = 1024  # rows of the products in the shapes of a model


def seconds(function: Callable) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def anonymous_memory() -> int:
    """Return the bytes of this process's memory that belong to no file (Linux; 0 elsewhere).

    Mapped weights belong to a file, so they are not counted.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def matrices(params: dict) -> Iterator[np.ndarray]:
    """Yield every matrix that a token is multiplied by, in place; the last one is `wte` transposed."""
    for block in params["blocks"]:
        yield block["attn"]["c_attn"]["w"]
        yield block["attn"]["c_proj"]["w"]
        yield block["mlp"]["c_fc"]["w"]
        yield block["mlp"]["c_proj"]["w"]
    yield params["wte"].T


def operands(params: dict, n_rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs (x, w), one for each matrix w: the products x @ w are the least work for `n_rows` tokens."""
    return [(np.ones((n_rows, len(w)), dtype=np.float32), w) for w in matrices(params)]


class Limits:
    """Times of bare products with the weights of a model."""

    def __init__(self, params: dict):
        self.params = params
        self.rng = np.random.default_rng(0)

    def products(self, n_rows: int, repeats: int) -> float:
        """Return the mean seconds of all products of `n_rows` tokens; the first repetition is not counted."""
        pairs = operands(self.params, n_rows)
        times = [seconds(lambda: [x @ w for x, w in pairs]) for _ in range(repeats + 1)]
        return sum(times[1:]) / repeats

    def gemm_peak(self, repeats: int) -> float:
        """Return the most floating-point operations per second, over large squares and the shapes of the model."""
        squares = [(n, n, n) for n in SQUARES]
        one_block = zip(range(4), matrices(self.params), strict=False)
        shapes = squares + [(ROWS, *w.shape) for _, w in one_block]
        return max(self.gemm_speed(*shape, repeats) for shape in shapes)

    def gemm_speed(self, m, k, n, repeats):
        a = self.rng.standard_normal((m, k), dtype=np.float32)
        b = self.rng.standard_normal((k, n), dtype=np.float32)
        out = np.empty((m, n), dtype=np.float32)
        fastest = min(seconds(lambda: np.matmul(a, b, out=out)) for _ in range(repeats + 1))
        return 2 * m * k * n / fastest
