"""Float32 weights as operands of `x @ w`: the same products, in the shapes that OpenBLAS multiplies fast.

`with_fast_products(params)` wraps the matrices of a weights tree, without a copy. Which shapes gain how much:
benchmarks/bench_products.py.
"""

import numpy as np


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
        product = np.empty((*x.shape[:-1], self.shape[1]), dtype=np.float32)
        rows = x.reshape(-1, self.shape[0])  # [..., n_in] -> [n_rows, n_in]
        multiply(rows, self.array, out=product.reshape(len(rows), self.shape[1]))
        return product


class Embedding:
    """The token embedding wte [n_vocab, n_embd]: `wte[ids]` for the input, `x @ wte.T` for the logits."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.T = Matrix(array.T)

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, ids):  # [...] -> [..., n_embd]
        return self.array[ids]


def multiply(rows, w, out):  # [n_rows, n_in] @ [n_in, n_out] -> [n_rows, n_out]
    """Write `rows @ w` into `out`."""
    if len(rows) in (2, 3):  # one by one: the rows after the first find most of `w` in the CPU's cache
        for row, result in zip(rows, out, strict=True):
            np.matmul(row, w, out=result)
    else:
        np.matmul(rows, w, out=out)


def with_fast_products(params: dict) -> dict:
    """Return the weights tree with every matrix wrapped; vectors and positions stay as they are."""
    blocks = [wrap_matrices(block) for block in params["blocks"]]
    return params | {"wte": Embedding(params["wte"]), "blocks": blocks}


def wrap_matrices(tree):
    if isinstance(tree, dict):
        return {name: wrap_matrices(child) for name, child in tree.items()}
    is_matrix = isinstance(tree, np.ndarray) and tree.ndim == 2
    return Matrix(tree) if is_matrix else tree
