"""Float32 weights as operands of `x @ w`: the same results as with arrays, in shapes that a CPU multiplies fast.

`with_fast_products(params)` wraps the matrices, biases, gains and activations of a weights tree, without a copy.
benchmarks/bench_products.py measures the gain of each step.
"""

from collections.abc import Callable

import numpy as np

from gpt2 import ACTIVATIONS

L2_FLOATS = 2**17  # floats that fit in a core's L2 cache together with the intermediate results of an activation
VOCAB_CHUNK = 4096  # tokens whose embeddings stay in the cache while a few rows are multiplied with them


class Matrix:
    """A float32 matrix [n_in, n_out] as the right operand of `x @ w`.

    Batch axes are joined: NumPy's own `@` multiplies each sequence of a batch separately, which reads `w` every time.
    """

    __array_ufunc__ = None  # makes NumPy call __rmatmul__ for `array @ matrix`

    def __init__(self, array: np.ndarray):
        self.array = array

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:  # [..., n_in] @ [n_in, n_out] -> [..., n_out]
        rows = x.reshape(-1, x.shape[-1])  # [..., n_in] -> [n_rows, n_in]
        product = multiply(rows, self.array)
        return product.reshape(*x.shape[:-1], product.shape[-1])  # [n_rows, n_out] -> [..., n_out]


class Embedding:
    """The token embedding wte or the head [n_vocab, n_embd]: `wte[ids]` for the input, `x @ head.T` for the logits."""

    matrix = Matrix  # the class of its transpose

    def __init__(self, array: np.ndarray):
        self.array = array
        self.T = self.matrix(array.T)

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, ids):  # [...] -> [..., n_embd]
        return self.array[ids]


class Vector:
    """A bias or gain [n_out] that is applied in place: `x + vector` and `x * vector` change the array x.

    This saves an array, but x must be an intermediate result that is not used again, as in `linear` and `layer_norm`.
    """

    __array_ufunc__ = None

    def __init__(self, array: np.ndarray):
        self.array = array

    def __radd__(self, x):  # [..., n_out] + [n_out]
        x += self.array
        return x

    def __rmul__(self, x):  # [..., n_out] * [n_out]
        x *= self.array
        return x


def multiply(rows, w):  # [n_rows, n_in] @ [n_in, n_out] -> [n_rows, n_out]
    """Return `rows @ w`, computed in shapes that OpenBLAS multiplies fast."""
    n_rows = len(rows)
    if 2 <= n_rows <= 4:
        return multiply_one_by_one(rows, w)
    if 4 < n_rows < 128 and n_rows % 8:
        padding = np.zeros((-n_rows % 8, rows.shape[1]), dtype=np.float32)
        return (np.concatenate([rows, padding]) @ w)[:n_rows]  # 30 rows take longer than 32
    return rows @ w


def multiply_one_by_one(rows, w):
    """Multiply row by row. The rows after the first find `w`, or each chunk of a vocabulary, in the CPU's cache."""
    product = np.empty((len(rows), w.shape[1]), dtype=np.float32)
    is_vocabulary = w.flags.f_contiguous
    step = VOCAB_CHUNK if is_vocabulary else w.shape[1]
    for start in range(0, w.shape[1], step):
        columns = slice(start, start + step)
        for row, result in zip(rows, product, strict=True):
            np.matmul(row, w[:, columns], out=result[columns])
    return product


def in_row_chunks(function: Callable) -> Callable:
    """Return `function` of an array [..., n], computed a few rows at a time, in place.

    The intermediate results of a few rows stay in the L2 cache; those of a whole prompt do not fit.
    """

    def chunked(x):  # [..., n] -> [..., n]
        if x.size <= L2_FLOATS:
            return function(x)
        rows = x.reshape(-1, x.shape[-1])
        n_rows = max(1, L2_FLOATS // x.shape[-1])
        for start in range(0, len(rows), n_rows):
            chunk = rows[start : start + n_rows]
            chunk[:] = function(chunk)
        return rows.reshape(x.shape)

    return chunked


def with_fast_products(params: dict, embedding: type[Embedding] = Embedding) -> dict:
    """Return the weights tree with every matrix, bias, gain and activation wrapped; only `wpe` stays an array.

    embedding: the class of wte and the head; the other matrices have the class of their transposes.
    """
    blocks = [wrap(block, embedding.matrix) for block in params["blocks"]]
    for block in blocks:
        activation = block["mlp"].get("activation", "gelu")
        block["mlp"]["activation"] = in_row_chunks(ACTIVATIONS[activation])
    vocabularies = {name: embedding(params[name]) for name in ("wte", "head") if name in params}
    return params | vocabularies | {"blocks": blocks, "ln_f": wrap(params["ln_f"], embedding.matrix)}


def wrap(tree, matrix):
    if isinstance(tree, dict):
        return {name: wrap(child, matrix) for name, child in tree.items()}
    if not isinstance(tree, np.ndarray):
        return tree
    return matrix(tree) if tree.ndim == 2 else Vector(tree)
