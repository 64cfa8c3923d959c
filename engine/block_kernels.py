"""A block of a model with int8 weights as one compiled call, with numba: a single text need not wait for Python.

`block` computes what gpt2.transformer_block does with the operands of int8.py. As in kernels.py, every result has one
order of summation. The sums of a layer norm are written out as LANES partial sums, so that no compiler chooses another
order; the other steps are elementwise.
"""

import math

import numpy as np
from numba import get_num_threads, njit, prange

from engine.float_kernels import gelu
from engine.kernels import LOCK, attention, product

LANES = 16  # partial sums of a row
FEW = 8  # rows of activations: fewer are computed by one thread, because starting the others takes longer

# ---- steps between the products --------------------------------------------------------------------------------


@njit(cache=True)
def sum_of(x):
    lanes = np.zeros(LANES, np.float32)
    whole = x.shape[0] - x.shape[0] % LANES
    for start in range(0, whole, LANES):
        for i in range(LANES):
            lanes[i] += x[start + i]
    for j in range(whole, x.shape[0]):
        lanes[j - whole] += x[j]
    total = np.float32(0)
    for i in range(LANES):
        total += lanes[i]
    return total


@njit(cache=True, error_model="numpy")  # "python" would test each divisor
def layer_norm(x, g, b, eps, y):
    """Write the layer norm of a row [n_embd] to y, as gpt2.layer_norm does."""
    n_embd = np.float32(x.shape[0])
    mean = sum_of(x) / n_embd
    for j in range(x.shape[0]):
        y[j] = (x[j] - mean) * (x[j] - mean)
    deviation = np.sqrt(sum_of(y) / n_embd + eps)
    for j in range(x.shape[0]):
        y[j] = (x[j] - mean) / deviation * g[j] + b[j]


@njit(cache=True, parallel=True)
def layer_norm_of_rows(x, g, b, eps, y, n_threads):
    """Do the same for each row of x [n_rows, n_embd]."""
    if x.shape[0] < FEW:
        for r in range(x.shape[0]):
            layer_norm(x[r], g, b, eps, y[r])
    else:
        for t in prange(n_threads):
            for r in range(t, x.shape[0], n_threads):
                layer_norm(x[r], g, b, eps, y[r])


@njit(cache=True)
def split_heads(qkv, bias, ends, q, k, v, r):
    """Add the bias to row r of c_attn's output; store its key and value, and its query, scaled, if it is one.

    qkv: [n_rows * n_seq, 3 * n_embd]. ends: [n_rows, n_seq], one more than the positions. q: [n_rows, n_head, n_query,
    d_head], of the last positions. k, v: [n_rows, n_head, n_positions, d_head].
    """
    _, n_head, n_query, d_head = q.shape
    n_embd = n_head * d_head
    n_seq = ends.shape[1]
    row = r // n_seq
    place = ends[row, r % n_seq] - 1
    query = r % n_seq - (n_seq - n_query)  # negative for an earlier position
    scale = np.float32(1 / math.sqrt(d_head))
    for head in range(n_head):
        first = head * d_head
        for i in range(first, first + d_head):
            k[row, head, place, i - first] = qkv[r, n_embd + i] + bias[n_embd + i]
            v[row, head, place, i - first] = qkv[r, 2 * n_embd + i] + bias[2 * n_embd + i]
        if query >= 0:
            for i in range(first, first + d_head):
                q[row, head, query, i - first] = (qkv[r, i] + bias[i]) * scale


@njit(cache=True, parallel=True)
def split_heads_of_rows(qkv, bias, ends, q, k, v, n_threads):
    """Do the same for all rows."""
    if qkv.shape[0] < FEW:
        for r in range(qkv.shape[0]):
            split_heads(qkv, bias, ends, q, k, v, r)
    else:
        for t in prange(n_threads):
            for r in range(t, qkv.shape[0], n_threads):
                split_heads(qkv, bias, ends, q, k, v, r)


@njit(cache=True)
def merge_heads(heads):  # [n_rows, n_head, n_query, d_head] -> [n_rows * n_query, n_embd]
    n_rows, n_head, n_query, d_head = heads.shape
    merged = np.empty((n_rows * n_query, n_head * d_head), np.float32)
    for row in range(n_rows):
        for head in range(n_head):
            for s in range(n_query):
                for i in range(d_head):
                    merged[row * n_query + s, head * d_head + i] = heads[row, head, s, i]
    return merged


@njit(cache=True)
def add(x, y, bias):
    """Add y + bias to x [n_rows, n_embd]."""
    for r in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[r, j] += y[r, j] + bias[j]


@njit(cache=True, parallel=True)
def activate(x, bias, n_threads):
    """Replace each row of x [n_rows, n_hidden] by gelu(x + bias).

    A single row, too: gelu has one caller, because another one might be compiled with other fused operations.
    """
    for t in prange(n_threads):
        for r in range(t, x.shape[0], n_threads):
            for j in range(x.shape[1]):
                x[r, j] += bias[j]
            gelu(x[r])


# ---- the block -------------------------------------------------------------------------------------------------


@njit(cache=True)
def block(x, k, v, ends, window, n_query, ln_1, c_attn, attn_proj, ln_2, c_fc, mlp_proj, n_threads):
    """Return the residual stream after the block, for the last `n_query` positions of each sequence.

    x: [n_rows, n_seq, n_embd]. k, v, ends, window: see kernels.attention; the keys and values of the new positions are
    stored in k and v. A norm is (g, b, eps); a linear layer is (values, scales, bias), see int8.Int8Matrix.
    """
    n_rows, n_seq, n_embd = x.shape
    rows = x.reshape(n_rows * n_seq, n_embd)
    normed = np.empty_like(rows)
    layer_norm_of_rows(rows, ln_1[0], ln_1[1], ln_1[2], normed, n_threads)
    qkv = np.empty((n_rows * n_seq, 3 * n_embd), np.float32)
    product(normed, c_attn[0], c_attn[1], qkv, n_threads)
    q = np.empty((n_rows, k.shape[1], n_query, k.shape[3]), np.float32)
    split_heads_of_rows(qkv, c_attn[2], ends, q, k, v, n_threads)
    heads = np.empty_like(q)
    attention(q, k, v, ends[:, n_seq - n_query :].copy(), window, heads, n_threads)
    stream = x[:, n_seq - n_query :].copy().reshape(n_rows * n_query, n_embd)
    output = np.empty((n_rows * n_query, n_embd), np.float32)
    product(merge_heads(heads), attn_proj[0], attn_proj[1], output, n_threads)
    add(stream, output, attn_proj[2])
    normed = np.empty_like(stream)
    layer_norm_of_rows(stream, ln_2[0], ln_2[1], ln_2[2], normed, n_threads)
    hidden = np.empty((n_rows * n_query, c_fc[0].shape[0]), np.float32)
    product(normed, c_fc[0], c_fc[1], hidden, n_threads)
    activate(hidden, c_fc[2], n_threads)
    product(hidden, mlp_proj[0], mlp_proj[1], output, n_threads)
    add(stream, output, mlp_proj[2])
    return stream.reshape(n_rows, n_query, n_embd)


def compute(x, k, v, ends, window, n_query, layers):
    """Call `block` on all threads. layers: the six norms and linear layers of the block, in its order."""
    with LOCK:
        return block(x, k, v, ends, window, n_query, *layers, get_num_threads())
