"""What the machine itself allows: the bare matrix products of a model, and the fastest product of all.

Decoding one token multiplies a vector with each matrix, and is bound by how fast memory delivers them (GEMV); a prompt
or a large batch multiplies matrices, and is bound by arithmetic (GEMM). Both are NumPy's, as gpt2.py could use them.
"""

import contextlib
import time

import numpy as np

SQUARES = (1024, 2048, 3072)  # sizes of square products that are tried for the GEMM peak
ROWS = 1024  # of the products in the shapes of a model


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def anonymous_memory():
    """Bytes of memory of this process that are not a file's (Linux; 0 elsewhere): mapped weights are not counted."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


class Walls:
    """Times of bare products with a model's own weights, where they lie."""

    def __init__(self, params):
        self.params, self.rng = params, np.random.default_rng(0)

    @staticmethod
    def matrices(params):
        """Every matrix a token is multiplied with; the last product takes `wte` transposed."""
        for block in params["blocks"]:
            yield from (block["attn"]["c_attn"]["w"], block["attn"]["c_proj"]["w"])
            yield from (block["mlp"]["c_fc"]["w"], block["mlp"]["c_proj"]["w"])
        yield params["wte"].T

    @staticmethod
    def pairs(params, n_rows):
        """An x for each matrix w, so that x @ w is what `n_rows` tokens cost at least."""
        return [(np.ones((n_rows, len(w)), dtype=np.float32), w) for w in Walls.matrices(params)]

    def products(self, n_rows, repeats):
        """Mean seconds of all products of `n_rows` tokens; the first time is not counted."""
        pairs = self.pairs(self.params, n_rows)
        times = [seconds(lambda: [x @ w for x, w in pairs]) for _ in range(repeats + 1)]
        return sum(times[1:]) / repeats

    def gemm_peak(self, repeats):
        """The most floating-point operations a second, over large squares and products in the shapes of the model."""
        shapes = [(n, n, n) for n in SQUARES]
        shapes += [(ROWS, *w.shape) for _, w in zip(range(4), self.matrices(self.params), strict=False)]  # one block's
        return max(self.gemm_speed(*shape, repeats) for shape in shapes)

    def gemm_speed(self, m, k, n, repeats):
        a, b = (self.rng.standard_normal(shape, dtype=np.float32) for shape in ((m, k), (k, n)))
        out = np.empty((m, n), dtype=np.float32)
        return 2 * m * k * n / min(seconds(lambda: np.matmul(a, b, out=out)) for _ in range(repeats + 1))
