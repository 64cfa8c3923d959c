"""Compiled loops for int8 weights, with numba: integer products, and attention over sequences of different lengths.

Every result is computed by one loop whose order depends on the sizes of its own row alone, so that it is the same, bit
for bit, for any other rows in the batch and any number of threads. The sums of a product are integers, which are exact.

LLVM makes vpmovsxbw and vpmaddwd of `dot` only if it has one accumulator. Asking for the number of threads inside a
compiled function would prevent its caching; it is an argument. Numba compiles a cached function again if its own file
has changed, but not if only tiles.py or a module that it calls has: delete engine/__pycache__ after such a change.
"""

import functools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numba import get_num_threads, njit, prange

from engine import tiles

REORDERED = {"reassoc", "contract", "nsz"}  # sums may be vectorized; NaN and infinity keep their meaning
LOCK = threading.Lock()  # some of numba's threading layers may not be entered by two threads
LARGEST = 2047  # of a quantized activation: 12 bits, so that int32 holds the sum of 8,260 products
MOST_INPUTS = 8192  # of a sum in int32
OUTLIER = np.float32(24)  # times the mean size of a row: larger activations are multiplied in float32
INFINITY_BITS = 0x7F800000  # of a float32; NaN is above
FIXED_POINT = 65535  # of the largest activation, in the integer sum of the sizes of a row
SMALLEST_NORMAL = np.float32(1e-30)  # activations below are 0; the quotients below stay finite
BLOCK = 32  # rows of weights that stay in the first-level cache for all rows of activations
LOG2_E = np.float32(math.log2(math.e))
LN_2_HIGH = np.float32(0.693359375)  # exact in few bits, so that n * LN_2_HIGH is exact
LN_2_LOW = np.float32(math.log(2) - 0.693359375)
SMALLEST = np.float32(-87)  # exp of less is no normal float32

# ---- products --------------------------------------------------------------------------------------------------


@njit(cache=True)
def largest_size(bits):
    """Return the largest of the sizes of float32 numbers, given as their bits, int32; NaN and infinity count as larger.

    Without the sign, the bits are ordered as the numbers are.
    """
    largest = np.int32(0)
    for j in range(bits.shape[0]):
        largest = max(largest, bits[j] & np.int32(0x7FFFFFFF))
    return largest


@njit(cache=True)
def mean_size(x, largest):
    """Return the mean of |x|, from a sum of integers: a sum of floats could depend on how the loop is compiled."""
    total = np.int64(0)
    factor = np.float32(FIXED_POINT) / largest
    for j in range(x.shape[0]):
        total += np.int64(abs(x[j]) * factor)
    return np.float32(total) / factor / np.float32(x.shape[0])


@njit(cache=True)
def quantize_row(x, row, outliers):
    """Write a row of activations as int16; return (step, number of outliers), with x ≈ row * step.

    x: float32 [n_in]. row: int16 [n_in]. outliers: int32 [n_in // 24 + 1], which receives the positions of activations
    that are much larger than the mean; these are 0 in the row. NaN or infinity makes the step NaN.
    """
    bits = x.view(np.int32)
    largest_bits = np.empty(1, np.int32)
    largest_bits[0] = largest_size(bits)
    largest = largest_bits.view(np.float32)[0]
    if largest_bits[0] >= INFINITY_BITS or largest < SMALLEST_NORMAL:
        row[:] = 0
        return np.float32(0) if largest < SMALLEST_NORMAL else np.float32(np.nan), 0
    n_outliers = 0
    limit = OUTLIER * mean_size(x, largest)
    if largest > limit:
        largest = np.float32(0)
        for j in range(x.shape[0]):
            size = abs(x[j])
            if size <= limit:
                largest = max(largest, size)
            elif n_outliers < outliers.shape[0]:
                outliers[n_outliers] = j
                n_outliers += 1
    if largest < SMALLEST_NORMAL:
        row[:] = 0
        return np.float32(0), n_outliers
    scale = np.float32(LARGEST) / largest
    for j in range(x.shape[0]):
        row[j] = np.int16(min(max(np.rint(x[j] * scale), np.float32(-LARGEST)), np.float32(LARGEST)))
    for i in range(n_outliers):
        row[outliers[i]] = 0
    return largest / np.float32(LARGEST), n_outliers


@njit(cache=True)
def dot(w, x):
    """Return the product of int8 [n] and int16 [n], int32."""
    total = np.int32(0)
    for j in range(w.shape[0]):
        total = np.int32(total + np.int32(w[j]) * np.int32(x[j]))
    return total


@njit(cache=True)
def long_dot(w, x):
    """Return the product of int8 [n] and int16 [n] for more inputs than an int32 sum holds, int64."""
    total = np.int64(0)
    for start in range(0, w.shape[0], MOST_INPUTS):
        stop = min(start + MOST_INPUTS, w.shape[0])
        total += dot(w[start:stop], x[start:stop])
    return total


@njit(cache=True)
def outlier_sum(w, x, outliers):
    """Return the product of int8 [n_in] and float32 [n_in] at the positions of the outliers."""
    total = np.float32(0)
    for j in outliers:
        total += x[j] * np.float32(w[j])
    return total


@njit(cache=True)
def plain_totals(w, rows, r, start, stop, totals):
    """Write the integer products of rows r to r + 3 with the outputs start to stop to totals [4, BLOCK]."""
    for k in range(tiles.N_X):
        for i in range(start, stop):
            totals[k, i - start] = dot(w[i], rows[r + k])


@njit(cache=True)
def tiled_totals(w, rows, r, start, stop, totals):
    """Do the same in tiles, and the outputs and inputs that do not fill a tile one by one."""
    n_in = w.shape[1]
    n_wide = n_in - n_in % tiles.WIDTH
    last = stop - (stop - start) % tiles.N_W
    for i in range(start, last, tiles.N_W):
        products = tiles.tile(w, i, rows, r, n_wide)
        for pair in range(tiles.N_W * tiles.N_X):
            totals[pair % tiles.N_X, i - start + pair // tiles.N_X] = products[pair]
    for k in range(tiles.N_X):
        for i in range(start, last if n_wide < n_in else start):
            for j in range(n_wide, n_in):
                totals[k, i - start] += np.int32(w[i, j]) * np.int32(rows[r + k, j])
        for i in range(last, stop):
            totals[k, i - start] = dot(w[i], rows[r + k])


several_totals = tiled_totals if tiles.IS_AVAILABLE else plain_totals


@njit(cache=True, parallel=True)
def product(x, w, scales, y, n_threads):
    """Write x @ w.T to y. x: float32 [n_rows, n_in]. w: int8 [n_out, n_in]. scales: [n_out]. y: [n_rows, n_out]."""
    n_rows, n_in = x.shape
    n_out = w.shape[0]
    rows = np.zeros((n_rows + -n_rows % tiles.N_X, n_in), np.int16)
    steps = np.empty(n_rows, np.float32)
    outliers = np.empty((n_rows, n_in // 24 + 1), np.int32)
    n_outliers = np.empty(n_rows, np.int32)
    if n_rows < 8:
        for r in range(n_rows):
            steps[r], n_outliers[r] = quantize_row(x[r], rows[r], outliers[r])
    else:
        for r in prange(n_rows):
            steps[r], n_outliers[r] = quantize_row(x[r], rows[r], outliers[r])
    for t in prange(n_threads):
        last = n_out * (t + 1) // n_threads
        totals = np.empty((tiles.N_X, BLOCK), np.int32)
        for start in range(n_out * t // n_threads, last, BLOCK):
            stop = min(start + BLOCK, last)
            if n_in > MOST_INPUTS:
                for r in range(n_rows):
                    for i in range(start, stop):
                        y[r, i] = np.float32(long_dot(w[i], rows[r])) * (scales[i] * steps[r])
            elif n_rows == 1:
                for i in range(start, stop):
                    y[0, i] = np.float32(dot(w[i], rows[0])) * (scales[i] * steps[0])
            else:
                for r in range(0, n_rows, tiles.N_X):
                    several_totals(w, rows, r, start, stop, totals)
                    for k in range(min(tiles.N_X, n_rows - r)):
                        for i in range(start, stop):
                            y[r + k, i] = np.float32(totals[k, i - start]) * (scales[i] * steps[r + k])
            for r in range(n_rows):
                for i in range(start, stop if n_outliers[r] else start):
                    y[r, i] += outlier_sum(w[i], x[r], outliers[r, : n_outliers[r]]) * scales[i]


# ---- attention -------------------------------------------------------------------------------------------------


@njit(cache=True, fastmath=REORDERED)
def exponential(z):
    """Return (exp(r), the bits of the float32 2^n), whose product is exp(z), for z from -87 to 88.

    exp(z) = 2^n * exp(r) with |r| <= ln(2) / 2: a polynomial (Cephes), and n in the exponent bits of a float32.
    """
    n = np.floor(z * LOG2_E + np.float32(0.5))
    r = z - n * LN_2_HIGH - n * LN_2_LOW
    series = np.float32(1.9875691500e-4)
    series = series * r + np.float32(1.3981999507e-3)
    series = series * r + np.float32(8.3334519073e-3)
    series = series * r + np.float32(4.1665795894e-2)
    series = series * r + np.float32(1.6666665459e-1)
    series = series * r + np.float32(0.5)
    return series * r * r + r + np.float32(1), (np.int32(n) + np.int32(127)) << np.int32(23)


@njit(cache=True, fastmath=REORDERED)
def softmax(x, powers):
    """Replace scores by exponentials that sum to 1. powers: int32, a work area of the same length."""
    largest = x[0]
    not_finite = np.float32(0)
    for p in range(x.shape[0]):
        largest = max(largest, x[p])
        not_finite += x[p] - x[p]  # 0, or NaN if a score is NaN or infinite, which a maximum could hide
    for p in range(x.shape[0]):
        z = max(x[p] - largest, SMALLEST)
        x[p], powers[p] = exponential(z)
    factors = powers.view(np.float32)
    total = np.float32(0)
    for p in range(x.shape[0]):
        x[p] = x[p] * factors[p] + not_finite
        total += x[p]
    for p in range(x.shape[0]):
        x[p] /= total


@njit(cache=True, fastmath=REORDERED)
def attend(q, k, v, scores, powers, out):
    """Write the attention of one query to out [d_head]. q: [d_head], scaled. k, v: [n_total, d_head].

    Four positions at a time: q and out are loaded once for all of them.
    """
    n_total, d_head = k.shape
    n_fours = n_total - n_total % 4
    for p in range(0, n_fours, 4):
        score_0 = np.float32(0)
        score_1 = np.float32(0)
        score_2 = np.float32(0)
        score_3 = np.float32(0)
        for i in range(d_head):
            score_0 += q[i] * k[p, i]
            score_1 += q[i] * k[p + 1, i]
            score_2 += q[i] * k[p + 2, i]
            score_3 += q[i] * k[p + 3, i]
        scores[p] = score_0
        scores[p + 1] = score_1
        scores[p + 2] = score_2
        scores[p + 3] = score_3
    for p in range(n_fours, n_total):
        score = np.float32(0)
        for i in range(d_head):
            score += q[i] * k[p, i]
        scores[p] = score
    softmax(scores[:n_total], powers[:n_total])
    out[:] = 0
    for p in range(0, n_fours, 4):
        for i in range(d_head):
            first = scores[p] * v[p, i] + scores[p + 1] * v[p + 1, i]
            second = scores[p + 2] * v[p + 2, i] + scores[p + 3] * v[p + 3, i]
            out[i] += first + second
    for p in range(n_fours, n_total):
        for i in range(d_head):
            out[i] += scores[p] * v[p, i]


@njit(cache=True, nogil=True)
def attention_of_some(q, k, v, ends, window, out, t, n_threads):
    """Compute the part of `attention` that belongs to thread t."""
    n_rows, n_head, n_query, _ = q.shape
    scores = np.empty(k.shape[2], np.float32)
    powers = np.empty(k.shape[2], np.int32)
    for item in range(t, n_rows * n_head * n_query, n_threads):
        query = item % n_query
        head = item // n_query % n_head
        row = item // n_query // n_head
        end = ends[row, query]
        first = max(0, end - window)
        keys = k[row, head, first:end]
        values = v[row, head, first:end]
        attend(q[row, head, query], keys, values, scores, powers, out[row, head, query])


@njit(cache=True, parallel=True)
def attention(q, k, v, ends, window, out, n_threads):
    """Write the attention of every query to out, each over its own positions.

    q, out: [n_rows, n_head, n_query, d_head]. k, v: [n_rows, n_head, n_positions, d_head]. ends: [n_rows, n_query], the
    number of positions that a query attends to, its own included; window: at most this many of them.
    """
    for t in prange(n_threads):
        attention_of_some(q, k, v, ends, window, out, t, n_threads)


# ---- calls -----------------------------------------------------------------------------------------------------


def is_cached(function) -> bool:
    """Return whether numba has kept a compiled function of an earlier process; False if it has no place to keep it."""
    folder = function.stats.cache_path
    code = function.py_func.__code__
    name = f"{Path(code.co_filename).stem}.{function.__name__}-{code.co_firstlineno}"
    return folder is not None and any(Path(folder).glob(f"{name}.*.nbi"))


def multiply(x, w, scales, y):
    """Call `product` on all threads: --threads, or the cores that the process may use."""
    with LOCK:
        product(x, w, scales, y, get_num_threads())


def attend_all(q, k, v, ends, window, out, is_beside_blas=False):
    """Call `attention` on all threads.

    is_beside_blas: take Python's threads, which sleep afterwards. Numba's wait actively for some milliseconds, which
    would keep the threads of a BLAS product from their cores.
    """
    n_threads = get_num_threads()
    if is_beside_blas:
        parts = [
            pool(n_threads).submit(attention_of_some, q, k, v, ends, window, out, t, n_threads)
            for t in range(n_threads)
        ]
        for part in parts:
            part.result()
    else:
        with LOCK:
            attention(q, k, v, ends, window, out, n_threads)


@functools.cache
def pool(n_threads):
    return ThreadPoolExecutor(n_threads)
