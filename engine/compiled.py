"""Float32 weights as operands whose loops are compiled with numba: a few rows are multiplied as fast as memory is read.

The operands compute what those of engine/products.py do, in another order of summation. Importing numba takes as long
as computing many tokens, so that only long runs use them, and only if numba is installed.
"""

import importlib.util
import logging
from collections.abc import Callable

import numpy as np

from engine.attention import AttendsRagged
from engine.products import Embedding, Matrix, with_fast_products

log = logging.getLogger("picogpt")

MOST_ROWS = 8  # rows of activations that are multiplied by the loops; OpenBLAS is faster for more
WORTHWHILE = 2e10  # weights times tokens: 160 tokens of 124M gain as much time as importing numba takes
MANY = 2000  # the number of tokens of a batch, whose length is unknown: its models of 10M weights or more are compiled


class CompiledMatrix(Matrix):
    """A float32 matrix [n_in, n_out] as the right operand of `x @ w`. Its memory has either order of the two axes."""

    def __init__(self, array: np.ndarray):
        super().__init__(array)
        self.product = product_with(array)

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:  # [..., n_in] @ [n_in, n_out] -> [..., n_out]
        rows = x.reshape(-1, x.shape[-1])  # [..., n_in] -> [n_rows, n_in]
        if self.product is None or len(rows) > MOST_ROWS:
            return super().__rmatmul__(x)
        rows = np.require(rows, np.float32, ["C", "W"])
        result = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        self.product(rows, result)
        return result.reshape(*x.shape[:-1], result.shape[-1])  # [n_rows, n_out] -> [..., n_out]


def product_with(array: np.ndarray) -> Callable | None:
    """Return a function that writes `rows @ array` into its second argument; None if no loop reads this array."""
    from engine import float_kernels

    view = array.view()
    view.flags.writeable = False  # mapped files are read-only; numba would compile another form for other arrays
    if not (view.flags.aligned and view.dtype == np.float32):
        return None
    if view.flags.c_contiguous:
        return lambda rows, result: float_kernels.multiply_matrix(rows, view, result)
    if view.flags.f_contiguous:
        return lambda rows, result: float_kernels.multiply_vocabulary(rows, view.T, result)
    return None


class CompiledEmbedding(Embedding, AttendsRagged):
    """The token embedding or the head, whose products with a few rows are compiled."""

    matrix = CompiledMatrix
    in_prompts = False  # the products of prompts, attention included, are OpenBLAS's
    most_rows = MOST_ROWS


def with_fitting_products(params: dict, n_tokens: int) -> dict:
    """Return the weights tree with operands that fit a run of `n_tokens` new tokens: compiled ones for a long run."""
    if pays(params, n_tokens):
        try:
            return with_compiled_products(params)
        except ImportError as error:  # numba is installed, but does not work with this NumPy, for example
            log.debug("numba is not used: %s", error)
    return with_fast_products(params)


def pays(params: dict, n_tokens: int) -> bool:
    """Return whether the computation of `n_tokens` takes much longer than the import of numba, which is installed."""
    return n_weights(params) * n_tokens >= WORTHWHILE and importlib.util.find_spec("numba") is not None


def n_weights(tree) -> int:
    """Return the number of weights of a tree."""
    if isinstance(tree, np.ndarray):
        return tree.size
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return sum(n_weights(child) for child in children)


def with_compiled_products(params: dict) -> dict:
    """Return the weights tree with compiled operands in place of its arrays. Raise ImportError without numba."""
    from engine import float_kernels, kernels

    if not kernels.is_cached(float_kernels.matrix_product):
        log.info("Compiling loops with numba, once on this machine: about 15 seconds.")
    wrapped = with_fast_products(params, CompiledEmbedding)
    compile_activations(wrapped, params, lambda rows: float_kernels.gelu(rows.reshape(-1)))
    return wrapped


def compile_activations(wrapped: dict, params: dict, gelu: Callable) -> None:
    """Replace the activation of every block that has GPT-2's. gelu: changes rows [n_rows, n] in place."""

    def activate(x):  # [..., n]
        gelu(x.reshape(-1, x.shape[-1]))  # a view of x
        return x

    for block, plain in zip(wrapped["blocks"], params["blocks"], strict=True):
        if has_gelu(plain):
            block["mlp"]["activation"] = activate


def has_gelu(block: dict) -> bool:
    """Return whether a block of plain arrays has GPT-2's activation."""
    return block["mlp"].get("activation", "gelu") == "gelu"
