#!/usr/bin/env python3
"""GPT-2 in NumPy, minimal: a loop over the heads, no cache, the whole text computed again for every token.

It is slow and short, and it is the reference that gpt2.py is tested against.
"""

if __name__ == "__main__":
    import cli.start  # noqa: F401

from functools import partial
from math import erf

import numpy as np


def gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)))


def gelu_erf(x):
    return x * np.vectorize(lambda z: (1 + erf(z / 2**0.5)) / 2, otypes=[x.dtype])(x)


def silu(x, beta=1.0):
    return x / (1 + np.exp(-beta * x))


ACTIVATIONS = {"gelu": gelu, "gelu_erf": gelu_erf, "relu": lambda x: np.maximum(x, 0), "silu": silu}
ACTIVATIONS["quick_gelu"] = partial(silu, beta=1.702)


def softmax(x):
    exp_x = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return exp_x / np.sum(exp_x, axis=-1, keepdims=True)


def layer_norm(x, g, b, eps=1e-5):
    mean = np.mean(x, axis=-1, keepdims=True)
    variance = np.var(x, axis=-1, keepdims=True)
    return g * (x - mean) / np.sqrt(variance + eps) + b


def linear(x, w, b):  # [n_seq, n_in], [n_in, n_out], [n_out] -> [n_seq, n_out]
    return x @ w + b


def ffn(x, c_fc, c_proj, activation="gelu"):  # [n_seq, n_embd] -> [n_seq, 4 * n_embd] -> [n_seq, n_embd]
    return linear(ACTIVATIONS[activation](linear(x, **c_fc)), **c_proj)


def attention(q, k, v, mask):  # 3 x [n_seq, d_head], [n_seq, n_seq] -> [n_seq, d_head]
    return softmax(q @ k.T / q.shape[-1] ** 0.5 + mask) @ v


def mha(x, c_attn, c_proj, n_head, window=None):  # [n_seq, n_embd] -> [n_seq, n_embd]
    q, k, v = (np.split(part, n_head, axis=-1) for part in np.split(linear(x, **c_attn), 3, axis=-1))
    is_past = np.tri(len(x), dtype=np.float32)  # [n_seq, n_seq]: this position and those before
    is_too_old = np.tri(len(x), k=-window, dtype=np.float32) if window else 0
    mask = (1 - is_past + is_too_old) * -1e10
    heads = [attention(q[i], k[i], v[i], mask) for i in range(n_head)]  # n_head x [n_seq, d_head]
    return linear(np.hstack(heads), **c_proj)


def transformer_block(x, mlp, attn, ln_1, ln_2, n_head):  # [n_seq, n_embd] -> [n_seq, n_embd]
    x = x + mha(layer_norm(x, **ln_1), **attn, n_head=n_head)
    return x + ffn(layer_norm(x, **ln_2), **mlp)


def gpt2(inputs, wte, wpe, blocks, ln_f, n_head, head=None):  # [n_seq] -> [n_seq, n_vocab]
    x = wte[inputs] + wpe[: len(inputs)]
    for block in blocks:
        x = transformer_block(x, **block, n_head=n_head)
    head = wte if head is None else head  # [n_vocab, n_embd]
    return layer_norm(x, **ln_f) @ head.T


def generate(inputs, params, n_head, n_tokens_to_generate, sampler, rng=None, stop_ids=()):
    ids = list(inputs)
    if not ids:
        raise ValueError("the prompt has no token ids; it must have at least one, such as that of <|endoftext|>")
    for _ in range(min(n_tokens_to_generate, len(params["wpe"]) - len(ids) + 1)):
        next_id = sampler(gpt2(ids, **params, n_head=n_head)[-1], rng)
        if next_id in stop_ids:
            return
        yield next_id
        ids.append(next_id)


def main(prompt=None, **options):
    """Continue a text. `python gpt2_pico.py --help` lists the options."""
    from cli.complete import complete_with_reference

    complete_with_reference(generate, prompt, options)


if __name__ == "__main__":
    from cli.command import run

    run(main, "cli.help.PICO")
