"""The model with the transformer that fits its weights: that of gpt2.py, or the compiled blocks of int8 weights.

`transformer` and `gpt2` have the arguments of the functions in gpt2.py and return the same. A model has one of the two
forms for all of its positions, prompts and new tokens, so that a text does not depend on how it is computed.
"""

import numpy as np

import gpt2 as plain
from engine.attention import AttendsRagged, as_batch, windows_of


def transformer(inputs, wte, wpe, blocks, n_head, cache, last_only=False):  # -> [..., n_query, n_embd]
    compiled = wte.transformer if isinstance(wte, AttendsRagged) else None
    compute = compiled or plain.transformer
    return compute(inputs, wte, wpe, blocks, n_head=n_head, cache=cache, last_only=last_only)


def gpt2(inputs, wte, wpe, blocks, ln_f, n_head, cache, last_only=False, head=None):  # -> [..., n_query, n_vocab]
    x = transformer(inputs, wte, wpe, blocks, n_head, cache, last_only)  # [..., n_query, n_embd]
    return plain.predict(x, wte, ln_f, head)


class CompiledTransformer:
    """gpt2.transformer for int8 operands with GPT-2's activation: one compiled call per block."""

    def __init__(self, params: dict):
        self.blocks = [layers_of(block) for block in params["blocks"]]
        self.windows = windows_of(params)

    def __call__(self, inputs, wte, wpe, blocks, n_head, cache, last_only=False):  # -> [..., n_query, n_embd]
        from engine import block_kernels

        inputs = np.asarray(inputs)
        n_past = cache[0].length
        positions = new_positions(inputs.shape[-1], cache[0], len(wpe))  # [n_seq] or [n_rows, n_seq]
        x = wte[inputs] + wpe[positions]  # [..., n_seq, n_embd]
        batch = x.shape[:-2]
        x = x.reshape(-1, *x.shape[-2:])  # [..., n_seq, n_embd] -> [n_rows, n_seq, n_embd]
        ends = np.ascontiguousarray(np.broadcast_to(positions + 1, x.shape[:-1]))  # [n_rows, n_seq]
        for layers, layer, window in zip(self.blocks, cache, self.windows, strict=True):
            n_query = 1 if last_only and layers is self.blocks[-1] else x.shape[1]
            k = as_batch(layer.k)
            v = as_batch(layer.v)
            x = block_kernels.compute(x, k, v, ends, window or len(wpe), n_query, layers)
            if np.ndim(n_past) == 0:  # the lengths of slots are set before each step
                layer.length = n_past + inputs.shape[-1]
        return x.reshape(*batch, *x.shape[-2:])  # [n_rows, n_query, n_embd] -> [..., n_query, n_embd]


def new_positions(n_seq, layer, n_ctx):
    """Return the positions of new tokens. Raise ValueError, as gpt2.transformer does, if there is no room for them."""
    positions = layer.length + np.arange(n_seq)
    n_positions = min(n_ctx, layer.k.shape[-2])
    n_total = np.max(layer.length) + n_seq
    if n_total > n_positions:
        raise ValueError(f"{n_total - n_seq} + {n_seq} positions do not fit in {n_positions}: the context is full")
    return positions


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
