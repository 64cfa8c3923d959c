#!/usr/bin/env python3
"""GPT-2 in NumPy, from token ids to the id of the next token.

Read this file from top to bottom. It extends gpt2_pico.py, the minimal form of the same model, by two ideas: all heads
are one array axis, and the KV cache stores the keys and values of past positions. Sizes in the shape comments:

    n_seq      positions computed in this call: a whole prompt or a chunk of it (prefill), or one token (decode)
    n_total    positions attended to: n_seq and those in the cache
    n_query    positions that need an output: n_seq, but 1 in the last block if only the last logits are needed
    n_embd     width of the residual stream, n_head * d_head
    n_ctx      positions the model was trained for
    ...        any number of batch axes; all inputs of a call have equal length, but the rows of a cache may differ

Weights and activations are float32. A weight is any object that supports `x @ w`: an array, or a Matrix of
engine/products.py, which computes the same faster. Parameters have the checkpoint's names, so that the tree of weights
unpacks into `gpt2(ids, **params)`. Only a model that differs from GPT-2 has `activation`, `eps`, `window` or `head`.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; its form follows Jay Mody's picoGPT.
"""

if __name__ == "__main__":
    import cli.start  # noqa: F401, checks the packages and sets the number of threads

from collections.abc import Iterator
from functools import partial

import numpy as np

from sampling import greedy, make_sampler

QUERY_CHUNK = 128  # queries per call of `attention` in a long prompt

# ---- arithmetic ------------------------------------------------------------------------------------------------


def gelu(x):
    """Smooth ReLU, 0.5 x (1 + tanh(z)) with z = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016)."""
    scale = -2 * (2 / np.pi) ** 0.5  # a Python float keeps float32; np.sqrt(2 / np.pi) is a float64 and does not
    minus_2z = x * (scale + scale * 0.044715 * (x * x))  # x**3 is much slower
    return x / (1 + np.exp(np.minimum(minus_2z, 88)))  # 0.5 (1 + tanh(z)) = 1 / (1 + exp(-2z)); exp(88) is finite


def gelu_erf(x):
    """Smooth ReLU, x * Phi(x), as in nanoGPT; Phi(x) = (1 + erf(x / sqrt 2)) / 2 by Abramowitz and Stegun 7.1.26."""
    t = 1 / (1 + 0.3275911 * 0.5**0.5 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.maximum(x, 0) - np.abs(x) * (0.5 * series * np.exp(-0.5 * (x * x)))


def silu(x, beta=1.0):
    """Smooth ReLU, x / (1 + exp(-beta x)); with beta 1.702 it approximates gelu_erf (Hendrycks and Gimpel 2016)."""
    return x / (1 + np.exp(np.minimum(-beta * x, 88)))


ACTIVATIONS = {"gelu": gelu, "gelu_erf": gelu_erf, "relu": lambda x: np.maximum(x, 0), "silu": silu}
ACTIVATIONS["quick_gelu"] = partial(silu, beta=1.702)


def softmax(x):
    """Exponentials that sum to 1 along the last axis. Subtracting the maximum first prevents overflow."""
    exp_x = np.exp(x - x.max(axis=-1, keepdims=True))
    exp_x /= exp_x.sum(axis=-1, keepdims=True)
    return exp_x


def layer_norm(x, g, b, eps=1e-5):
    """Scale every position to mean 0 and variance 1, then apply the learned `g` and `b` (Ba et al. 2016)."""
    x = x - x.sum(axis=-1, keepdims=True) / x.shape[-1]  # sum: NumPy's mean and var take longer on a single position
    variance = (x * x).sum(axis=-1, keepdims=True) / x.shape[-1]
    return x / np.sqrt(variance + eps) * g + b


def linear(x, w, b):  # [..., n_in], [n_in, n_out], [n_out] -> [..., n_out]
    return x @ w + b


def ffn(x, c_fc, c_proj, activation="gelu"):  # [..., n_query, n_embd] -> [..., n_query, n_embd]
    """Feed-forward network: expand each position to 4 * n_embd, apply the nonlinearity, project back."""
    activate = ACTIVATIONS.get(activation, activation)  # a name, or a function of engine/products.py
    x = activate(linear(x, **c_fc))  # [..., n_query, n_embd] -> [..., n_query, 4 * n_embd]
    return linear(x, **c_proj)  # [..., n_query, 4 * n_embd] -> [..., n_query, n_embd]


# ---- attention and its cache -----------------------------------------------------------------------------------


def causal_mask(positions, n_total, window=None):  # [..., n_seq] -> [..., 1, n_seq, n_total], the same for every head
    """0 where the position of a query may attend, -1e10 at later positions and at those before its window."""
    queries = positions[..., None, :, None]  # [..., n_seq] -> [..., 1, n_seq, 1]
    is_hidden = np.arange(n_total) > queries  # [..., 1, n_seq, n_total]
    if window is not None:
        is_hidden |= np.arange(n_total) <= queries - window
    return np.float32(-1e10) * is_hidden


def attention(q, k, v, mask):  # [..., n_query, d_head], 2 x [..., n_total, d_head], [..., n_query, n_total]
    """Average the values, weighted by how well the keys match each query (Vaswani et al. 2017)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)  # [..., n_query, d_head] -> [..., n_query, n_total]
    scores += mask
    return softmax(scores) @ v  # [..., n_query, n_total] -> [..., n_query, d_head]


def causal_attention(q, k, v, mask):  # the same shapes as attention
    """`attention` by chunks of queries: each attends only up to its own end, to save nearly half."""
    n_query = q.shape[-2]
    if n_query <= QUERY_CHUNK:
        return attention(q, k, v, mask)
    chunks = []
    for start in range(0, n_query, QUERY_CHUNK):
        stop = min(start + QUERY_CHUNK, n_query)
        n_seen = k.shape[-2] - n_query + stop  # positions up to the last query of the chunk
        chunk = q[..., start:stop, :]
        chunks.append(attention(chunk, k[..., :n_seen, :], v[..., :n_seen, :], mask[..., start:stop, :n_seen]))
    return np.concatenate(chunks, axis=-2)  # [..., n_query, d_head]


def split_heads(x, n_head):  # [..., n_seq, n_embd] -> [..., n_head, n_seq, d_head]
    return x.reshape(*x.shape[:-1], n_head, -1).swapaxes(-2, -3)


def merge_heads(x):  # [..., n_head, n_query, d_head] -> [..., n_query, n_embd]
    x = x.swapaxes(-2, -3)  # -> [..., n_query, n_head, d_head]
    return x.reshape(*x.shape[:-2], -1)


class LayerCache:
    """The keys and values of one layer. They never change again, because a position attends to no later one.

    Attributes: `k` and `v`, float32 [..., n_head, n_positions, d_head]; `length`, the number of positions filled.
    """

    def __init__(self, k, v):
        self.k = k
        self.v = v
        self.length = 0

    def append(self, k, v):  # 2 x [..., n_head, n_seq, d_head] -> 2 x [..., n_head, n_total, d_head]
        """Store the keys and values of new positions; return those of all positions, as views."""
        start = self.length
        self.length = start + k.shape[-2]
        self.k[..., start : self.length, :] = k
        self.v[..., start : self.length, :] = v
        return self.k[..., : self.length, :], self.v[..., : self.length, :]


def make_kv_cache(params: dict, n_head: int, n_positions: int, batch: tuple = ()) -> list[LayerCache]:
    """Return an empty cache for `gpt2`: one LayerCache per block, with room for `n_positions` of each sequence."""
    d_head = params["wte"].shape[-1] // n_head
    shape = (len(params["blocks"]), 2, *batch, n_head, n_positions, d_head)
    return [LayerCache(k, v) for k, v in np.zeros(shape, dtype=np.float32)]  # one array, for large memory pages


def mha(x, c_attn, c_proj, n_head, masks, cache=None, window=None):  # [..., n_seq, n_embd] -> [..., n_query, n_embd]
    """Multi-head attention: n_head attentions side by side, each on d_head columns. masks: {window: mask}."""
    qkv = split_heads(linear(x, **c_attn), 3 * n_head)  # [..., n_seq, n_embd] -> [..., 3 * n_head, n_seq, d_head]
    q = qkv[..., :n_head, :, :]  # [..., n_head, n_seq, d_head], like k and v
    k = qkv[..., n_head : 2 * n_head, :, :]
    v = qkv[..., 2 * n_head :, :, :]
    if cache is not None:
        k, v = cache.append(k, v)  # [..., n_head, n_seq, d_head] -> [..., n_head, n_total, d_head]
    mask = masks[window]  # [..., 1, n_query, n_total]
    n_query = mask.shape[-2]
    q = q[..., -n_query:, :]  # [..., n_head, n_seq, d_head] -> [..., n_head, n_query, d_head]
    heads = causal_attention(q, k, v, mask)  # [..., n_head, n_query, d_head]
    return linear(merge_heads(heads), **c_proj)  # [..., n_head, n_query, d_head] -> [..., n_query, n_embd]


# ---- the model -------------------------------------------------------------------------------------------------


def transformer_block(x, mlp, attn, ln_1, ln_2, n_head, masks, cache=None):  # -> [..., n_query, n_embd]
    """Add to the residual stream `x` what attention and then the feed-forward network compute from it."""
    attended = mha(layer_norm(x, **ln_1), **attn, n_head=n_head, masks=masks, cache=cache)  # [..., n_query, n_embd]
    n_query = attended.shape[-2]
    x = x[..., -n_query:, :] + attended  # [..., n_seq, n_embd] -> [..., n_query, n_embd]
    return x + ffn(layer_norm(x, **ln_2), **mlp)  # [..., n_query, n_embd]


def transformer(inputs, wte, wpe, blocks, n_head, cache=None, last_only=False):  # -> [..., n_query, n_embd]
    """The model without its head: embed the tokens and their positions, then apply the blocks."""
    inputs = np.asarray(inputs)
    n_seq = inputs.shape[-1]
    n_past = cache[0].length if cache else 0
    n_total = np.max(n_past) + n_seq
    n_positions = min(len(wpe), cache[0].k.shape[-2]) if cache else len(wpe)
    if n_total > n_positions:
        raise ValueError(f"{n_total - n_seq} + {n_seq} positions do not fit in {n_positions}: the context is full")
    positions = n_past + np.arange(n_seq)  # [n_seq]; [..., n_seq] if the sequences in the cache differ in length
    windows = {block["attn"].get("window") for block in blocks}  # {None} in GPT-2, {None, 256} in GPT-Neo
    masks = {window: causal_mask(positions, n_total, window) for window in windows}  # {...: [..., 1, n_seq, n_total]}
    x = wte[inputs] + wpe[positions]  # [..., n_seq] -> [..., n_seq, n_embd]
    for block, layer_cache in zip(blocks, cache or [None] * len(blocks), strict=True):
        if last_only and block is blocks[-1]:  # earlier positions contribute only their keys and values
            masks = {window: mask[..., -1:, :] for window, mask in masks.items()}  # -> {...: [..., 1, 1, n_total]}
        x = transformer_block(x, **block, n_head=n_head, masks=masks, cache=layer_cache)
    return x  # [..., n_query, n_embd]


def gpt2(inputs, wte, wpe, blocks, ln_f, n_head: int, cache=None, last_only: bool = False, head=None) -> np.ndarray:
    """Return the logits of the token that follows each position. docs/tour.md has an example in section 7.

    inputs: token ids, [..., n_seq]. Returns float32 [..., n_seq, n_vocab], or [..., 1, n_vocab] with `last_only`,
    which is enough for generation. cache: see `make_kv_cache`; the inputs continue the positions it holds and are
    added to it. head: see `predict`. Raises ValueError if the positions exceed n_ctx or the cache.
    """
    x = transformer(inputs, wte, wpe, blocks, n_head, cache, last_only)  # [..., n_seq] -> [..., n_query, n_embd]
    return predict(x, wte, ln_f, head)  # [..., n_query, n_embd] -> [..., n_query, n_vocab]


def predict(x, wte, ln_f, head=None):  # [..., n_embd] -> [..., n_vocab]
    """Compare each position with every token. GPT-2 uses the embedding again; other models may have a `head`."""
    head = wte if head is None else head  # [n_vocab, n_embd]
    return layer_norm(x, **ln_f) @ head.T


# ---- generation ------------------------------------------------------------------------------------------------


def generate(
    inputs, params, n_head, n_tokens_to_generate, sampler=greedy, rng=None, stop_ids=(), logits_processor=None
) -> Iterator[int]:
    """Yield the ids that continue `inputs`, each as soon as it is known; engine/batching.py computes the same ids.

    inputs: the ids of the prompt, at least one; an empty text is continued from `<|endoftext|>`, 50256 in GPT-2.
    sampler: (logits [n_vocab], rng) -> id, called once per token (see sampling.py). rng: its numpy Generator, None for
    a new one. stop_ids: ids that end the text and are not yielded. logits_processor: (logits, ids so far) -> logits.
    The text also ends with the context. The last new id needs no position in it: prompt + new - 1 <= n_ctx.
    Raises ValueError, on the first step, for an invalid prompt, and later if the sampler returns no id of the model.

    >>> from utils import load; model = load("tiny")
    >>> list(generate(model.encode("Once upon a time"), model.params, model.n_head, n_tokens_to_generate=3))
    [11, 397, 282]
    """
    n_ctx = len(params["wpe"])
    ids = check_request(inputs, n_tokens_to_generate, len(params["wte"]), n_ctx)
    n_new = min(n_tokens_to_generate, n_ctx - len(ids) + 1)
    cache = make_kv_cache(params, n_head, n_positions=len(ids) + n_new - 1)
    rng = rng or np.random.default_rng()
    unseen = ids  # not yet in the cache: first the whole prompt (prefill), then the id just chosen (decode)
    for _ in range(n_new):
        logits = gpt2(unseen, **params, n_head=n_head, cache=cache, last_only=True)[-1]  # [1, n_vocab] -> [n_vocab]
        if logits_processor is not None:
            logits = logits_processor(logits, ids)
        next_id = check_id(sampler(logits, rng), len(params["wte"]), "the sampler returned")
        if next_id in stop_ids:
            return
        yield next_id
        ids.append(next_id)
        unseen = [next_id]


def check_request(inputs, n_tokens_to_generate: int, n_vocab: int, n_ctx: int) -> list[int]:
    """Return the prompt as a new list of ids. Raises ValueError if it is invalid."""
    ids = [check_id(i, n_vocab, "the prompt (encode a text first) has") for i in inputs]
    if not ids:
        raise ValueError("the prompt has no token ids; it must have at least one, such as that of <|endoftext|>")
    if n_tokens_to_generate < 0:
        raise ValueError(f"n_tokens_to_generate is {n_tokens_to_generate}; it must be 0 or more")
    check_length(len(ids), n_ctx)
    return ids


def check_id(i, n_vocab: int, source: str) -> int:
    if not isinstance(i, (int, np.integer)) or not 0 <= i < n_vocab:
        raise ValueError(f"{source} the token id {i}; this model's ids are 0 to {n_vocab - 1}")
    return int(i)


def check_length(n_prompt: int, n_ctx: int, remedy: str = "shorten it") -> None:
    if n_prompt > n_ctx:
        raise ValueError(f"the prompt has {n_prompt} tokens; this model reads at most {n_ctx}: {remedy}")


# ---- the command -----------------------------------------------------------------------------------------------


def main(prompt=None, *, strategy=None, temperature=None, top_p=None, **options):
    """Continue a text. `python gpt2.py --help` lists all options; None means that an option was not given."""
    from cli.complete import complete
    from cli.options import check_options

    options = check_options({"strategy": strategy, "temperature": temperature, "top_p": top_p, **options})
    new_sampler = partial(make_sampler, **options.sampling)  # makes a sampler from strategy, temperature, top_p ...
    complete(prompt, options, new_sampler)  # one sampler per text: (logits, rng) -> id, called once per token


if __name__ == "__main__":
    from cli.command import run

    run(main)
