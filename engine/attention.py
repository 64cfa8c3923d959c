"""Attention as one compiled loop per query over its own positions, for models whose kernels are compiled.

gpt2.attention computes softmax(q @ k.T + mask) @ v. With a KernelCache, k and v are operands that delay this expression
until its last product, which engine/kernels.py computes at once: each query over its own positions, without a mask and
without the padding of a batch. A result depends on nothing but its own sequence.
"""

import numpy as np

from gpt2 import LayerCache


class AttendsRagged:
    """A mark of an embedding whose model attends with the kernel, in steps of one token for each of several texts.

    in_prompts: whether all other positions do so, too, with a KernelCache per layer. most_rows: of a product that is
    computed without BLAS. transformer: what replaces gpt2.transformer in the engine, if anything does (forward.py).
    """

    in_prompts = True
    most_rows = np.inf
    transformer = None


def prompts_attend_ragged(params: dict) -> bool:
    """Return whether all positions of a model with these weights attend with the kernel."""
    return isinstance(params["wte"], AttendsRagged) and params["wte"].in_prompts


class KernelCache(LayerCache):
    """A LayerCache whose keys and values are operands of the kernel.

    window: the number of positions that a query attends to, None for all.
    """

    def __init__(self, k, v, window=None):
        super().__init__(k, v)
        self.window = window

    def append(self, k, v):  # 2 x [..., n_head, n_seq, d_head] -> operands of [..., n_head, n_total, d_head]
        super().append(k, v)
        return Keys(self.k, self.length, self.window), Values(self.v)


def caches_for(params: dict, layers: list[LayerCache]) -> list[LayerCache]:
    """Return caches of a model that hold the arrays of these: KernelCaches if it is computed with them."""
    if not prompts_attend_ragged(params):
        return layers
    windows = windows_of(params)
    return [KernelCache(layer.k, layer.v, window) for layer, window in zip(layers, windows, strict=True)]


def windows_of(params: dict) -> list[int | None]:
    """Return the number of positions that each layer attends to, None for all."""
    return [block["attn"].get("window") for block in params["blocks"]]


class Keys:
    """Keys [..., n_head, n_total, d_head]: `q @ keys.swapaxes(-1, -2)` gives Scores.

    k: all of the cache, [..., n_head, n_positions, d_head]; the kernel has one form, for contiguous arrays, because
    another one might add in another order. ends: the number of positions that each query of a row attends to,
    [n_rows, 1]; None: the queries are the last of the positions. is_beside_blas: see kernels.attend_all.
    """

    __array_ufunc__ = None

    def __init__(self, k, n_total, window, ends=None, is_beside_blas=False):
        self.k = k
        self.n_total = n_total
        self.window = window
        self.ends = ends
        self.is_beside_blas = is_beside_blas

    @property
    def shape(self):
        return (*self.k.shape[:-2], self.n_total, self.k.shape[-1])

    def swapaxes(self, *axes):
        return self

    def __getitem__(self, index):  # [..., :n_seen, :], of causal_attention
        _, seen, _ = index
        return Keys(self.k, seen.stop, self.window)

    def __rmatmul__(self, q):
        return Scores(q, self)


class Values:
    """Values [..., n_head, n_total, d_head], the last operand of the expression. v: all of the cache."""

    def __init__(self, v):
        self.v = v

    def __getitem__(self, index):
        return self


class Scores:
    """The scores of queries that nothing has been computed of: the mask and the softmax are parts of the kernel."""

    def __init__(self, q, keys):
        self.q = q
        self.keys = keys

    def __iadd__(self, mask):
        return self

    def max(self, **axes):
        return 0

    def __sub__(self, largest):
        return self

    def __array_ufunc__(self, ufunc, method, *inputs, **options):  # np.exp
        return self

    def sum(self, **axes):
        return 1

    def __itruediv__(self, total):
        return self

    def __matmul__(self, values):  # [..., n_query, n_total] @ [..., n_total, d_head] -> [..., n_query, d_head]
        from engine import kernels

        q = as_batch(self.q)  # [n_rows, n_head, n_query, d_head]
        out = np.empty_like(q)
        window = self.keys.window or self.keys.n_total
        keys = as_batch(self.keys.k)
        kernels.attend_all(q, keys, as_batch(values.v), self.ends(q), window, out, self.keys.is_beside_blas)
        return out.reshape(self.q.shape)

    def ends(self, q):
        """Return the number of positions that each query attends to, [n_rows, n_query]."""
        if self.keys.ends is not None:
            return self.keys.ends
        n_rows, _, n_query, _ = q.shape
        ends = self.keys.n_total - n_query + 1 + np.arange(n_query)
        return np.tile(ends, (n_rows, 1))


def as_batch(x):
    """Return [..., n_head, n, d_head] as a contiguous array [n_rows, n_head, n, d_head]; a cache is not copied."""
    return np.ascontiguousarray(x).reshape(-1, *x.shape[-3:])
