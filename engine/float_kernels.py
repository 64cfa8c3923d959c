"""Compiled loops for float32 weights, with numba: products of a few rows at the rate at which memory is read, and gelu.

The product of a single row with a matrix reads the matrix once, at about half of the memory's rate in NumPy; that of a
few rows reads it several times. These loops read it once, on all cores. Many rows are a matter of arithmetic, in which
OpenBLAS is at the limit of the machine.
"""

import numpy as np
from numba import get_num_threads, njit, prange

from engine.kernels import LOCK, REORDERED, SMALLEST, exponential

ROWS_TOGETHER = 16  # rows of a vocabulary that stay in the first-level cache for all rows of activations
INPUTS_TOGETHER = 8  # rows of a matrix that are added to a sum in one pass over it
GELU_CHUNK = 1024  # numbers whose intermediate results stay in the first-level cache
GELU_SCALE = np.float32(-2 * (2 / np.pi) ** 0.5)  # see gpt2.gelu
GELU_CUBIC = np.float32(-2 * (2 / np.pi) ** 0.5 * 0.044715)
LARGEST_EXPONENT = np.float32(88)  # exp(88) is a finite float32


@njit(cache=True, fastmath=REORDERED)
def dot(w, x):
    total = np.float32(0)
    for j in range(w.shape[0]):
        total += w[j] * x[j]
    return total


@njit(cache=True, parallel=True)
def vocabulary_product(x, w, y, n_threads):
    """Write x @ w.T to y. x: [n_rows, n_in]. w: [n_out, n_in], one row per output. y: [n_rows, n_out]."""
    n_out = w.shape[0]
    for t in prange(n_threads):
        last = n_out * (t + 1) // n_threads
        for start in range(n_out * t // n_threads, last, ROWS_TOGETHER):
            for r in range(x.shape[0]):
                for i in range(start, min(start + ROWS_TOGETHER, last)):
                    y[r, i] = dot(w[i], x[r])


@njit(cache=True, fastmath=REORDERED)
def add_inputs(x, w, j, total):
    """Add the product of 8 inputs, which begin at j, to total [n_out]."""
    x_0 = x[j]
    x_1 = x[j + 1]
    x_2 = x[j + 2]
    x_3 = x[j + 3]
    x_4 = x[j + 4]
    x_5 = x[j + 5]
    x_6 = x[j + 6]
    x_7 = x[j + 7]
    for i in range(total.shape[0]):
        first = x_0 * w[j, i] + x_1 * w[j + 1, i] + x_2 * w[j + 2, i] + x_3 * w[j + 3, i]
        second = x_4 * w[j + 4, i] + x_5 * w[j + 5, i] + x_6 * w[j + 6, i] + x_7 * w[j + 7, i]
        total[i] += first + second


@njit(cache=True, parallel=True)
def matrix_product(x, w, y, n_threads):
    """Write x @ w to y. x: [n_rows, n_in]. w: [n_in, n_out]. y: [n_rows, n_out].

    Each thread reads consecutive rows of w, the products of some of the inputs, and adds them to a sum of its own.
    """
    n_rows, n_in = x.shape
    n_out = w.shape[1]
    sums = np.zeros((n_threads, n_rows, n_out), np.float32)
    for t in prange(n_threads):
        first = n_in * t // n_threads
        last = n_in * (t + 1) // n_threads
        full = last - (last - first) % INPUTS_TOGETHER
        for j in range(first, full, INPUTS_TOGETHER):
            for r in range(n_rows):
                add_inputs(x[r], w, j, sums[t, r])
        for j in range(full, last):
            for r in range(n_rows):
                for i in range(n_out):
                    sums[t, r, i] += x[r, j] * w[j, i]
    y[:] = sums[0]
    for t in range(1, n_threads):
        y += sums[t]


@njit(cache=True, fastmath=REORDERED, nogil=True, error_model="numpy")  # "python" would test each divisor
def gelu(x):
    """Replace x [n] by gelu(x), computed as gpt2.gelu does."""
    powers = np.empty(GELU_CHUNK, np.int32)
    factors = powers.view(np.float32)
    for start in range(0, x.shape[0], GELU_CHUNK):
        part = x[start : start + GELU_CHUNK]
        terms = np.empty(part.shape[0], np.float32)
        for i in range(part.shape[0]):
            minus_2z = part[i] * (GELU_SCALE + GELU_CUBIC * (part[i] * part[i]))
            z = max(min(minus_2z, LARGEST_EXPONENT), SMALLEST)
            terms[i], powers[i] = exponential(z)
        for i in range(part.shape[0]):
            part[i] /= np.float32(1) + terms[i] * factors[i]


@njit(cache=True, parallel=True)
def gelu_of_rows(x, n_threads):
    """Do the same for each row of x [n_rows, n], so that a result depends on its own row alone."""
    for t in prange(n_threads):
        for r in range(t, x.shape[0], n_threads):
            gelu(x[r])


# ---- calls -----------------------------------------------------------------------------------------------------


def multiply_vocabulary(x, w, y):
    """Call `vocabulary_product` on all threads."""
    with LOCK:
        vocabulary_product(x, w, y, get_num_threads())


def gelu_on_all_threads(x):
    """Call `gelu` for x [n_rows, n], a single row on this thread."""
    if len(x) == 1:
        gelu(x[0])
    else:
        with LOCK:
            gelu_of_rows(x, get_num_threads())


def multiply_matrix(x, w, y):
    """Call `matrix_product` on all threads."""
    with LOCK:
        matrix_product(x, w, y, get_num_threads())
