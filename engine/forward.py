"""The model with the transformer that fits its weights: that of gpt2.py, or the compiled blocks of int8 weights.

`transformer` and `gpt2` have the arguments of the functions in gpt2.py and return the same. A model has one of the two
forms for all of its positions, prompts and new tokens, so that a text does not depend on how it is computed.
"""

from collections.abc import Callable

import numpy as np

import gpt2 as plain
from engine.attention import AttendsRagged, as_batch, windows_of


def transformer(inputs, wte, wpe, blocks, n_head, cache, last_only=False):  # -> [..., n_query, n_embd]
    compiled = isinstance(wte, AttendsRagged) and wte.transformer
    compute = compiled or plain.transformer
    return compute(inputs, wte, wpe, blocks, n_head=n_head, cache=cache, last_only=last_only)


def gpt2(inputs, wte, wpe, blocks, ln_f, n_head, cache, last_only=False, head=None):  # -> [..., n_query, n_vocab]
    x = transformer(inputs, wte, wpe, blocks, n_head, cache, last_only)  # [..., n_query, n_embd]
    return plain.predict(x, wte, ln_f, head)


def compiled_transformer(params: dict) -> Callable:
    """Return a function like gpt2.transformer for blocks of int8 operands with GPT-2's activation."""
    from engine import block_kernels

    prepared = [layers_of(block) for block in params["blocks"]]
    windows = windows_of(params)

    def transformer(inputs, wte, wpe, blocks, n_head, cache, last_only=False):
        inputs = np.asarray(inputs)
        n_seq = inputs.shape[-1]
        n_past = cache[0].length
        n_total = np.max(n_past) + n_seq
        n_positions = min(len(wpe), cache[0].k.shape[-2])
        if n_total > n_positions:
            raise ValueError(f"{n_total - n_seq} + {n_seq} positions do not fit in {n_positions}: the context is full")
        positions = n_past + np.arange(n_seq)  # [n_seq], or [n_rows, n_seq]
        x = wte[inputs] + wpe[positions]  # [..., n_seq, n_embd]
        batch = x.shape[:-2]
        x = x.reshape(-1, *x.shape[-2:])  # -> [n_rows, n_seq, n_embd]
        ends = np.empty((len(x), n_seq), np.int64)
        ends[:] = positions + 1
        for layers, layer, window in zip(prepared, cache, windows, strict=True):
            n_query = 1 if last_only and layers is prepared[-1] else n_seq
            k = as_batch(layer.k)
            v = as_batch(layer.v)
            x = block_kernels.compute(x, k, v, ends, window or len(wpe), n_query, layers)
            if np.ndim(n_past) == 0:
                layer.length = n_past + n_seq
        return x.reshape(*batch, *x.shape[-2:])

    return transformer


def layers_of(block):
    """Return the norms (g, b, eps) and the linear layers (values, scales, bias) of a block, in their order."""
    attn = block["attn"]
    mlp = block["mlp"]
    return (
        norm(**block["ln_1"]),
        linear(**attn["c_attn"]),
        linear(**attn["c_proj"]),
        norm(**block["ln_2"]),
        linear(**mlp["c_fc"]),
        linear(**mlp["c_proj"]),
    )


def norm(g, b, eps=1e-5):
    return contiguous(g), contiguous(b), np.float32(eps)


def linear(w, b):
    return w.values, w.scales, contiguous(b)


def contiguous(vector):
    """Return the array of a vector as numba compiles it: contiguous, aligned and read-only."""
    array = np.require(vector.array, np.float32, ["C", "A"]).view()
    array.flags.writeable = False
    return array
