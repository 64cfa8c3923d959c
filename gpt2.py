"""GPT-2 in NumPy, from token ids to the next token id.

Read it top to bottom: the arithmetic, then attention and its cache, then the model, then the loop that
generates. What it adds to the plainest possible version, gpt2_pico.py, is two things: the heads are an axis
of one array instead of a Python loop, and keys and values of past positions are kept, not computed again.
Where it also computes in portions or in place, because a CPU likes it better, a comment says so. The sizes:

    n_seq      positions computed in this call: the whole prompt, a piece of it, or one token
    n_total    positions attended to: n_seq, plus what a cache already holds
    n_queries  positions that ask, as many as the mask has rows: n_seq, or 1 where only the last is needed
    n_embd     width of the residual stream        n_head * d_head = n_embd
    n_vocab    size of the vocabulary              n_ctx: positions the model was trained for
    ...        leading batch axes, none or many; the sequences of a batch are equally long, but for slots.py

All weights and all activations are float32. Parameter names are the checkpoint's own, so that the tree of
weights unpacks straight into the functions with `**`. A model that is not quite GPT-2 says so in the tree: a block's
mlp may name its activation, a norm its eps.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and the code OpenAI
published with it; the compact NumPy form is after Jay Mody's picoGPT.
"""

from functools import partial

import numpy as np

from sampling import greedy

BLOCK = 128  # queries that attend at once; see causal_attention
TOKENS = 4096  # of the vocabulary whose logits are computed at once; see gpt2
CACHED = 2**16  # numbers that fit in a core's own cache together with what is made of them; see by_rows


def gelu(x):
    """Smooth ReLU, x * Phi(x), in the tanh form GPT-2 was trained with (Hendrycks and Gimpel 2016).

    0.5 x (1 + tanh(z)), with z = sqrt(2 / pi) (x + 0.044715 x^3), is x / (1 + exp(-2 z)); in one array, to be fast.
    """
    scale = -2 * (2 / np.pi) ** 0.5  # a Python float keeps it float32; np.sqrt(2 / np.pi) is float64 and would not
    y = x * x  # x**3 would be fifty times slower
    y *= scale * 0.044715
    y += scale
    y *= x
    np.minimum(y, 88, out=y)  # beyond, exp overflows, and x / exp(88) is nothing already
    np.exp(y, out=y)
    y += 1
    return np.divide(x, y, out=y)


def relu(x):
    return np.maximum(x, 0)


def gelu_erf(x):
    """Smooth ReLU, x * Phi(x), exact to float32, as nanoGPT has it."""
    # NumPy has no erf. This is Hastings' of 1955, formula 7.1.26 in Abramowitz and Stegun: Phi to 7.5e-8.
    t = 1 / (1 + 0.3275911 * 0.5**0.5 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return relu(x) - np.abs(x) * (0.5 * series * np.exp(-0.5 * (x * x)))


ACTIVATIONS = {"gelu": gelu, "gelu_erf": gelu_erf, "relu": relu}


def softmax(x):
    """Exponentials that sum to one along the last axis; the maximum is taken off first so that none overflows."""
    x = x - x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def by_rows(function, x):  # [..., n] -> [..., n]
    """`function(x)`, some rows at a time, so that what it makes on the way stays in the CPU's cache. Uses x up."""
    if x.size <= CACHED:
        return function(x)
    rows, step = x.reshape(-1, x.shape[-1]), max(1, CACHED // x.shape[-1])
    for start in range(0, len(rows), step):
        rows[start : start + step] = function(rows[start : start + step])
    return rows.reshape(x.shape)


def layer_norm(x, g, b, eps=1e-5):
    """Give every position mean 0 and variance 1, then the learned scale `g` and offset `b` (Ba et al. 2016)."""
    x = x - x.sum(axis=-1, keepdims=True) / x.shape[-1]  # for one row, x.mean() is twice as slow
    variance = (x * x).sum(axis=-1, keepdims=True) / x.shape[-1]
    x /= np.sqrt(variance + eps)
    x *= g
    x += b
    return x


def project(x, w):  # [..., n_in] @ [n_in, n_out] -> [..., n_out]
    """`x @ w` as one two-dimensional product: given a batch, NumPy's own `@` runs one product per sequence."""
    if x.ndim == 2:
        return multiply(x, w)
    return multiply(x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[-1])


def multiply(rows, w):  # [n_rows, n_in] @ [n_in, n_out] -> [n_rows, n_out]
    """`rows @ w`, in the ways that OpenBLAS is good at: one row, or a multiple of eight (benchmarks/products.py)."""
    n_rows = len(rows)
    if n_rows in (2, 3):  # faster one by one: those after the first find most of w in the CPU's cache
        return np.stack([row @ w for row in rows])
    if n_rows % 8 and 3 < n_rows < 128:  # ten take longer than sixteen
        rows = np.concatenate([rows, np.zeros((-n_rows % 8, rows.shape[1]), dtype=rows.dtype)])
    return (rows @ w)[:n_rows]


def linear(x, w, b):  # [..., n_in], [n_in, n_out], [n_out] -> [..., n_out]
    x = project(x, w)
    x += b
    return x


def ffn(x, c_fc, c_proj, activation="gelu"):  # [..., n_seq, n_embd] -> [..., n_seq, n_embd]
    """Feed-forward network: up to four times the width, a nonlinearity, back down; each position by itself."""
    x = by_rows(ACTIVATIONS[activation], linear(x, **c_fc))  # [..., n_seq, n_embd] -> [..., n_seq, 4 * n_embd]
    return linear(x, **c_proj)  # [..., n_seq, 4 * n_embd] -> [..., n_seq, n_embd]


def causal_mask(positions, n_total):  # [..., n_seq] -> [..., 1, n_seq, n_total], the same for every head
    """0 where the query at a position may look, -1e10 at what lies in its future."""
    return np.float32(-1e10) * (np.arange(n_total) > positions[..., None, :, None])


def attention(q, k, v, mask):  # q [..., n_queries, d_head], k, v [..., n_total, d_head], mask [..., n_queries, n_total]
    """For each query, the average of the values, weighted by how well their keys match (Vaswani et al. 2017)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)  # [..., n_queries, d_head] -> [..., n_queries, n_total]
    scores += mask
    return by_rows(softmax, scores) @ v  # [..., n_queries, n_total] -> [..., n_queries, d_head]


def causal_attention(q, k, v, mask):  # the same shapes
    """`attention`, BLOCK queries at a time: each block looks no further than its last query may, for half the work."""
    n_queries, n_total = mask.shape[-2:]
    if n_queries <= BLOCK:
        return attention(q, k, v, mask)
    parts = []
    for start in range(0, n_queries, BLOCK):
        stop = min(start + BLOCK, n_queries)
        queries, keys = slice(start, stop), slice(n_total - n_queries + stop)  # the queries are the last positions
        parts.append(attention(q[..., queries, :], k[..., keys, :], v[..., keys, :], mask[..., queries, keys]))
    return np.concatenate(parts, axis=-2)


def split_heads(x, n_head):  # [..., n_seq, n_embd] -> [..., n_head, n_seq, d_head]
    return x.reshape(*x.shape[:-1], n_head, -1).swapaxes(-2, -3)


def merge_heads(x):  # [..., n_head, n_seq, d_head] -> [..., n_seq, n_embd]
    x = x.swapaxes(-2, -3)  # [..., n_head, n_seq, d_head] -> [..., n_seq, n_head, d_head]
    return x.reshape(*x.shape[:-2], -1)


class LayerCache:
    """The keys and values that one layer has computed so far, in arrays that are never moved or grown.

    Attributes: `k` and `v`, float32 [..., n_head, n_positions, d_head], and `length`, how many positions are filled.
    """

    def __init__(self, k, v):
        self.k, self.v, self.length = k, v, 0

    def append(self, k, v):  # [..., n_head, n_seq, d_head] twice -> [..., n_head, n_total, d_head] twice
        """Store what is new; return everything so far, as views."""
        start, self.length = self.length, self.length + k.shape[-2]
        self.k[..., start : self.length, :] = k
        self.v[..., start : self.length, :] = v
        return self.k[..., : self.length, :], self.v[..., : self.length, :]


def kv_cache(params, n_head, n_positions, batch=()):
    """An empty cache for `gpt2`: one LayerCache a block, with room for `n_positions` positions of each sequence."""
    d_head = params["wte"].shape[-1] // n_head
    # All in one array: a large one gets large pages of memory, which are a third faster to read.
    arrays = np.zeros((len(params["blocks"]), 2, *batch, n_head, n_positions, d_head), dtype=np.float32)
    return [LayerCache(k, v) for k, v in arrays]


def mha(x, c_attn, c_proj, n_head, mask, cache=None):  # [..., n_seq, n_embd] -> [..., n_queries, n_embd]
    """Multi-head attention: n_head attentions side by side, each on its own d_head columns."""
    qkv = split_heads(linear(x, **c_attn), 3 * n_head)  # [..., n_seq, n_embd] -> [..., 3 * n_head, n_seq, d_head]
    q, k, v = qkv[..., :n_head, :, :], qkv[..., n_head:-n_head, :, :], qkv[..., -n_head:, :, :]  # n_head heads each
    if cache is not None:
        k, v = cache.append(k, v)  # [..., n_head, n_seq, d_head] -> [..., n_head, n_total, d_head]
    q = q[..., -mask.shape[-2] :, :]  # [..., n_head, n_seq, d_head] -> [..., n_head, n_queries, d_head]
    x = causal_attention(q, k, v, mask)  # -> [..., n_head, n_queries, d_head]
    return linear(merge_heads(x), **c_proj)  # -> [..., n_queries, n_embd]


def transformer_block(x, mlp, attn, ln_1, ln_2, n_head, mask, cache=None):  # gives [..., n_queries, n_embd]
    """Look at the other positions, then think about each: both added to the residual stream `x`."""
    seen = mha(layer_norm(x, **ln_1), **attn, n_head=n_head, mask=mask, cache=cache)  # -> [..., n_queries, n_embd]
    x = x[..., -seen.shape[-2] :, :] + seen
    return x + ffn(layer_norm(x, **ln_2), **mlp)


def transformer(inputs, wte, wpe, blocks, n_head, cache=None, last_only=False):  # gives [..., n_queries, n_embd]
    """All of the model but its head: look up the tokens and their positions, then go through the blocks."""
    inputs = np.asarray(inputs)
    n_seq, n_past = inputs.shape[-1], cache[0].length if cache else 0
    n_total, room = np.max(n_past) + n_seq, min(len(wpe), cache[0].k.shape[-2]) if cache else len(wpe)
    if n_total > room:
        raise ValueError(
            f"{n_total - n_seq} + {n_seq} positions do not fit in {room}: the context or the cache is full"
        )
    positions = n_past + np.arange(n_seq)  # [n_seq], or [..., n_seq] if the sequences of the cache differ in length
    mask = causal_mask(positions, n_total)  # [..., 1, n_seq, n_total]
    x = wte[inputs] + wpe[positions]  # [..., n_seq] -> [..., n_seq, n_embd]
    for block, layer_cache in zip(blocks, cache or [None] * len(blocks), strict=True):
        if last_only and block is blocks[-1]:  # of all other positions, only the keys and values are needed
            mask = mask[..., -1:, :]  # [..., 1, n_seq, n_total] -> [..., 1, 1, n_total]
        x = transformer_block(x, **block, n_head=n_head, mask=mask, cache=layer_cache)  # [..., n_seq, n_embd]
    return x


def gpt2(inputs, wte, wpe, blocks, ln_f, n_head, cache=None, last_only=False):
    """Logits of the token that follows each position.

    inputs: token ids, [..., n_seq]. Returns float32 [..., n_seq, n_vocab]; with `last_only`, [..., 1, n_vocab]: all
    that generation needs, and the last block and the vocabulary then compute no other position.
    With a `cache` (see `kv_cache`) the inputs continue what it holds, and are added to it. A prompt may go in whole
    or in pieces. Raises ValueError if the positions run past n_ctx or past the cache.
    """
    x = transformer(inputs, wte, wpe, blocks, n_head, cache, last_only)  # [..., n_seq] -> [..., n_queries, n_embd]
    x = layer_norm(x, **ln_f)
    logits = np.empty((*x.shape[:-1], len(wte)), dtype=x.dtype)  # [..., n_queries, n_vocab]
    for start in range(0, len(wte), TOKENS):  # for a few rows OpenBLAS is up to a third faster in parts
        logits[..., start : start + TOKENS] = project(x, wte[start : start + TOKENS].T)
    return logits


def generate(inputs, params, n_head, n_tokens_to_generate, sampler=greedy, rng=None, stop_ids=(), processor=None):
    """Yield the ids that continue `inputs`, one at a time, each as soon as it is known.

    inputs: the prompt's ids, left untouched; an empty prompt starts from `<|endoftext|>`.
    sampler: (logits [n_vocab], rng) -> id, called once per token (see sampling.py).
    rng: a numpy Generator handed to the sampler; a fresh one when None.
    stop_ids: ids that end the text; they are not yielded.
    processor: (logits, ids so far) -> logits, for penalties and bans, called before the sampler.
    Stops sooner where the context ends: the last id is never fed back, so prompt + new - 1 <= n_ctx.
    Raises ValueError, on the first step, for a prompt the model cannot take.
    """
    n_vocab, n_ctx = len(params["wte"]), len(params["wpe"])
    ids = [int(i) for i in inputs] or [n_vocab - 1]  # GPT-2's vocabulary ends with <|endoftext|>
    check_request(ids, n_tokens_to_generate, n_vocab, n_ctx)
    n_new = min(n_tokens_to_generate, n_ctx - len(ids) + 1)
    cache = kv_cache(params, n_head, n_positions=len(ids) + n_new - 1)
    rng = rng or np.random.default_rng()
    unseen = ids  # by the model: at first the whole prompt (prefill), then the one id just chosen (decode)
    for _ in range(n_new):
        logits = gpt2(unseen, **params, n_head=n_head, cache=cache, last_only=True)[-1]  # [n_vocab]
        if processor is not None:
            logits = processor(logits, ids)
        next_id = int(sampler(logits, rng))
        if next_id in stop_ids:
            return
        yield next_id
        unseen = [next_id]
        ids.append(next_id)


def check_request(ids, n_tokens_to_generate, n_vocab, n_ctx):
    """Raise ValueError, with the numbers, for a request that `generate` cannot begin."""
    if n_tokens_to_generate < 0:
        raise ValueError(f"n_tokens_to_generate is {n_tokens_to_generate}; it must be 0 or more")
    if len(ids) > n_ctx:
        raise ValueError(f"the prompt has {len(ids)} tokens; this model reads at most {n_ctx}: shorten it")
    if not 0 <= min(ids) <= max(ids) < n_vocab:
        wrong = next(i for i in ids if not 0 <= i < n_vocab)
        raise ValueError(f"the prompt has the token id {wrong}; this model's ids are 0 to {n_vocab - 1}")


def generate_samples(inputs, params, n_head, n_tokens_to_generate, samples, keep=None, forward=None):
    """Continue one prompt in several ways: the prompt is computed once, then all samples go on as one batch.

    inputs: the prompt's ids, as in `generate`. samples: a list of sampling.Sample, which get the ids.
    forward: what computes the logits: `gpt2`, or the same in another way.
    keep: None ends a sample where the context ends. A number lets it go on: the window then slides, to the first
    `keep` ids and the newest half of what else fits, which are computed anew.
    Yields the samples that took part in a step, after each step. One that has `ended` takes part no more: by one of
    its stop ids ("eos"), for its number of tokens ("length"), at the end of the context ("context"), or by the caller.
    Raises ValueError, on the first step, as `generate` does.
    """
    n_vocab, n_ctx = len(params["wte"]), len(params["wpe"])
    prompt = [int(i) for i in inputs] or [n_vocab - 1]
    check_request(prompt, n_tokens_to_generate, n_vocab, n_ctx if keep is None else len(prompt))
    n_positions = min(len(prompt) + n_tokens_to_generate - 1, n_ctx)
    forward = partial(forward or gpt2, **params, n_head=n_head, last_only=True)  # gives [n_rows, 1, n_vocab]
    cache, unseen = kv_cache(params, n_head, n_positions, batch=(1,)), [slide(prompt, keep, n_ctx)]  # [n_rows, n_seq]
    live, rows = list(samples), [0] * len(samples)  # those that go on, and the row of each: at first all share one
    while live and n_tokens_to_generate > 0:
        logits = forward(unseen, cache=cache)[:, -1]  # [n_rows, n_vocab]
        is_full = cache[0].length == n_ctx
        for sample, row in zip(live, rows, strict=True):
            sample.extend(logits[row], prompt)
            if len(sample.ids) == n_tokens_to_generate:
                sample.ended = "length"
            elif is_full and keep is None:
                sample.ended = sample.ended or "context"
        yield live
        rows = [row for sample, row in zip(live, rows, strict=True) if not sample.ended]
        live = [sample for sample in live if not sample.ended]
        if is_full:  # positions are counted anew in the window, so all that the cache holds is of no use
            cache = kv_cache(params, n_head, n_positions, batch=(len(live),))
            unseen = [slide(prompt + sample.ids, keep, n_ctx) for sample in live]
        else:
            select_rows(cache, rows)
            unseen = [sample.ids[-1:] for sample in live]
        rows = range(len(live))
    for sample in live:
        sample.ended = "length"  # none was asked for


def select_rows(cache, rows):
    """Make row `rows[i]` of a batch its row i: one may be repeated, or left out."""
    if list(rows) == list(range(len(cache[0].k))):
        return
    for layer in cache:
        layer.k, layer.v = layer.k[rows], layer.v[rows]


def slide(ids, keep, n_ctx):
    """The ids, if they fit in the context; else the first `keep` of them and the newest half of what else fits.

    >>> slide([0, 1, 2, 3, 4, 5, 6, 7, 8], keep=2, n_ctx=8)
    [0, 1, 6, 7, 8]
    """
    return ids if len(ids) <= n_ctx else ids[:keep] + ids[-((n_ctx - keep) // 2) :]


def main(
    prompt=None,
    *words,
    n_tokens_to_generate=40,
    model_size="124M",
    models_dir="models",
    strategy=None,
    temperature=None,
    top_p=None,
    top_k=None,
    seed=None,
    **flags,
):
    """Continue a text with GPT-2.

    python gpt2.py "PROMPT" [--flag value ...]

    The prompt goes in quotes, or comes from FILE:notes.txt or a pipe; of both, the pipe
    is first. "" starts from nothing. Without a prompt, at a terminal, you are asked for
    one after another. One that looks like a flag goes behind --, or as --prompt="-x".

    The text
      --n_tokens_to_generate N   at most N new tokens, of about four letters each (40)
      --model_size NAME          124M, 355M, 774M, 1558M, or tiny, which is bundled;
                                 the name or path of another model's folder, be it
                                 OpenAI's, Hugging Face's or nanoGPT's (124M)
      --models_dir FOLDER        where models are kept, and downloaded to (models)
      --num_samples N            N continuations, decoded together (1)
      --seed N                   the same number, the same text (a new one each time)

    How each token is chosen: the likeliest one, unless you say otherwise
      --temperature T            draw at random; from 0, the likeliest; below 1
                                 cautious, above 1 daring; try 0.8
      --top_p P                  draw from the fewest tokens that have probability P
                                 together, 0 to 1; try 0.9
      --top_k K                  draw from the K likeliest tokens, 0 for all; try 50
      --min_p P                  ... from those at least P times as likely as the
                                 likeliest, 0 to 1; try 0.05
      --typical_p P              ... from the fewest whose surprise is about the
                                 expected one, with probability P together; try 0.95
      --entmax_alpha A           from softmax (1) to sparsemax (2); try 1.3
      --mirostat_tau BITS        hold the surprise of the text at so many bits a token,
                                 correcting by --mirostat_eta (0.1); try 5
      --strategy NAME            greedy, temperature, top_k, top_p, temperature_top_k,
                                 temperature_top_p, min_p, typical, entmax, mirostat:
                                 the knobs of that name, at "try" where not given,
                                 temperature at 1
      --preset NAME              code_generation, creative_writing, chatbot,
                                 code_comments, data_analysis, exploratory_code

    What may not come, or less likely
      --repetition_penalty R     divide the logits of all tokens so far by R; try 1.2
      --presence_penalty A       subtract A from those of new tokens that occurred
      --frequency_penalty A      ... A times the number of their occurrences
      --no_repeat_ngram_size N   never the same N tokens in a row twice; try 3
      --logit_bias JSON          add to logits, by token id: '{"50256": -5}'
      --banned_ids LIST          never these token ids: '[198, 628]'

    Where it ends: at <|endoftext|>, after N tokens, at the end of the context, or
      --stop TEXT                before this text, \\n for a new line; or a list,
                                 '["one", "two"]'
      --min_new_tokens N         <|endoftext|> not before N tokens (0)
      --ignore_eos               no <|endoftext|> at all
      --context stop|slide       slide: at the end of the context, forget the older
                                 half and go on (stop)
      --keep N                   ... but not the first N tokens of the prompt (0)

    What is printed: the new text on stdout, as it is made; remarks on a terminal
      --echo                     the prompt too, before the text
      --stream False             not before the text is complete
      --json                     one JSON object a sample: prompt, text, finish_reason,
                                 seed, index, model, settings, usage, timings
      --logprobs K               ... and the K likeliest of every token
      --quiet                    no remarks: no seed, no progress bar, no speed
      --help, --version

    Names may have - for _, and what other tools call them is understood: -n,
    --max_new_tokens, --start, --temp, --repeat_penalty, --init_from.

    Examples
      python gpt2.py "Once upon a time" --model_size tiny --temperature 0.8
      python gpt2.py "Alan Turing theorized that computers would one day become"
      python gpt2.py "The meaning of life is" --top_p 0.9 --seed 7 --num_samples 3
      cat story.txt | python gpt2.py --temperature 0.7 --stop "\\n" > next.txt
    """
    from cli import complete
    from engine import prefill

    flags |= {"n_tokens_to_generate": n_tokens_to_generate, "model_size": model_size, "models_dir": models_dir}
    flags |= {"strategy": strategy, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    forward = partial(prefill.prefill, gpt2)  # long prompts on every core
    complete.complete(partial(generate_samples, forward=forward), prompt, words, **flags)


if __name__ == "__main__":
    from cli.command import run

    run(main)
