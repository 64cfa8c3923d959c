"""How likely a text is: the log-probability of each of its tokens, and what that comes to.

Perplexity depends on what is counted and on how much of the text each token was allowed to see, so it says nothing
without a definition. This is that of EleutherAI's lm-evaluation-harness (`loglikelihood_rolling`): <|endoftext|> goes
before the text; windows as long as the context follow each other without overlap, but for one token to begin from, and
for the last, which reaches back as far as the context does; every token is scored exactly once. A smaller stride lets
the windows overlap, and so gives every token more of what came before it, for more work.

    token perplexity   exp(nll / tokens)         depends on the tokenizer: compare only within one vocabulary
    word perplexity    exp(nll / words)          words are what white space parts
    byte perplexity    exp(nll / bytes)          bytes of UTF-8
    bits per byte      nll / bytes / ln 2        comparable between any two models of text
"""

import math
import re

import numpy as np

import gpt2
from views import screen

PIECE = 128  # positions computed at a time, so that the logits of a window need not all be in memory
SHADES = [(1, "", "under 1"), (3, "30;48;5;230", "1 to 3"), (6, "30;48;5;221", "3 to 6")]  # bits, code, in words
SHADES += [(10, "30;48;5;208", "6 to 10"), (math.inf, "97;48;5;88", "10 and more")]


# ---- the numbers -----------------------------------------------------------------------------------------------


def windows(n_tokens, n_ctx, stride):
    """Yield (start, end, n_context) of the tokens that each window scores, and how many positions it reads before them.

    The first reads the text's start, whatever comes before it, and no more.

    >>> list(windows(10, n_ctx=4, stride=4))
    [(0, 4, 1), (4, 8, 1), (8, 10, 3)]
    >>> list(windows(10, n_ctx=4, stride=2))
    [(0, 4, 1), (4, 6, 3), (6, 8, 3), (8, 10, 3)]
    """
    start = 0
    while start < n_tokens:
        end = min(start + (stride if start else n_ctx), n_tokens)
        yield start, end, min(end, n_ctx) - (end - start) + 1
        start = end


def score(ids, model, stride=None):
    """Yield (log-probability, rank) of each of the `ids`, as float and int: rank 1 is what the model thought likeliest.

    The text begins after model.encoder.start. Natural logarithms, float64. stride: None is the length of the context.
    """
    text = [model.encoder.start, *ids]  # token i of the text is text[i + 1], and follows text[: i + 1]
    for start, end, n_context in windows(len(ids), model.n_ctx, stride or model.n_ctx):
        yield from score_window(text[start + 1 - n_context : end], ids[start:end], model)


def score_window(inputs, targets, model):
    """The same of the last tokens of one window: `inputs` are the ids before each of them, and what comes before."""
    cache = gpt2.kv_cache(model.params, model.n_head, len(inputs))
    n_context = len(inputs) - len(targets)
    if n_context:
        gpt2.gpt2(inputs[:n_context], **model.params, n_head=model.n_head, cache=cache, last_only=True)
    for at in range(0, len(targets), PIECE):
        piece, wanted = inputs[n_context:][at : at + PIECE], targets[at : at + PIECE]
        logits = gpt2.gpt2(piece, **model.params, n_head=model.n_head, cache=cache)  # [n_piece, n_vocab]
        for x, target in zip(logits.astype(np.float64), wanted, strict=True):
            x -= x.max()
            rank = np.count_nonzero(x > x[target]) + np.count_nonzero(x[:target] == x[target]) + 1
            yield float(x[target] - np.log(np.exp(x).sum())), int(rank)


def totals(logprobs, text):
    """The sums and the averages: a dict, with the names of lm-evaluation-harness where it has one.

    >>> one = totals([math.log(0.25)] * 4, "a cat sat")
    >>> one["token_perplexity"], one["n_words"], round(one["word_perplexity"], 4), one["n_bytes"]
    (4.0, 3, 6.3496, 9)
    """
    nll, n_words, n_bytes = -math.fsum(logprobs), len(re.split(r"\s+", text)), len(text.encode("utf-8", "replace"))
    return {
        "n_tokens": len(logprobs),
        "n_words": n_words,
        "n_bytes": n_bytes,
        "nll": nll,
        "token_perplexity": exp(nll / len(logprobs)),
        "word_perplexity": exp(nll / n_words),
        "byte_perplexity": exp(nll / n_bytes),
        "bits_per_byte": nll / n_bytes / math.log(2),
    }


def exp(x):
    """e to the x, or None where no float is so large: a page without a space is one word."""
    return math.exp(x) if x < 700 else None


def definition(model, n_tokens, stride):
    """How the text was cut, in words."""
    start = f"after {screen.visible(model.encoder.decode_bytes([model.encoder.start]))}"
    if n_tokens <= model.n_ctx:
        cut = "in one window"
    elif stride == model.n_ctx:
        cut = f"in windows of {stride} tokens that do not overlap, but for the last, which reaches back to fill its own"
    else:
        cut = f"in windows of {model.n_ctx} tokens that move on by {stride}, each scoring what the last did not"
        return f"{start}, {cut}; every token exactly once"
    return f"{start}, {cut}, every token exactly once, as lm-evaluation-harness does (loglikelihood_rolling)"


# ---- on the screen ---------------------------------------------------------------------------------------------


def shade(bits):
    return next(code for limit, code, _ in SHADES if bits < limit)


def coloured(ids, logprobs, encoder):
    """The text with each token on a ground that is darker the less the model expected it."""
    text, bits = "", 0.0
    for piece, logprob in zip(encoder.stream(ids), [*logprobs, 0.0], strict=False):
        bits -= logprob / math.log(2)
        if piece:  # else it is a part of a character, which counts with the rest of it
            lines = [screen.printable(line) for line in piece.split("\n")]
            text += "\n".join(
                screen.paint(line, shade(bits)) for line in [f"{line}⏎" for line in lines[:-1]] + lines[-1:]
            )
            bits = 0.0
    return text


def lines_of(scores, ids, model, text, n_rows, stride):
    """The text, coloured, and its most surprising tokens; all tokens where there is no colour; the totals; how."""
    width, logprobs = screen.width(), [logprob for logprob, _ in scores]
    names = [screen.visible(model.encoder.decode_bytes([token])) for token in ids]
    if screen.has_colour():
        yield from coloured(ids, logprobs, model.encoder).split("\n")
        yield ""
        yield "bits of surprise: " + " ".join(screen.paint(f" {words} ", code) for _, code, words in SHADES)
        yield ""
        worst = np.argsort(logprobs, kind="stable")[: n_rows or 5]
        yield from table(names, scores, worst, width)
    else:
        yield from table(names, scores, range(len(ids)) if n_rows is None else np.argsort(logprobs)[:n_rows], width)
    yield ""
    yield from screen.wrap(summary(totals(logprobs, text), scores), width)
    yield from total_lines(totals(logprobs, text))
    yield ""
    yield from screen.wrap(f"Scored with {model.name} {definition(model, len(ids), stride)}.", width)


def table(names, scores, shown, width):
    """A line a token: its place, the token, its log-probability, its surprise in bits, its rank, a bar of the bits."""
    size = min(max(screen.cells(name) for name in ["token", *names]), 16)
    yield screen.paint(f"place  {screen.pad('token', size)}  logprob   bits   rank", "dim")
    largest = max(-logprob for logprob, _ in scores) or 1
    for i in shown:
        logprob, rank = scores[i]
        bar = screen.paint(screen.bar(-logprob / largest, min(max(width - size - 34, 8), 60)), "cyan")
        bits = abs(logprob) / math.log(2)  # abs: 0.00, not -0.00
        yield f"{i + 1:5}  {screen.pad(names[i], size)}  {logprob:7.3f}  {bits:5.2f}  {rank:5}  {bar}".rstrip()


def summary(sums, scores):
    first = sum(rank == 1 for _, rank in scores)
    return (
        f"{sums['n_tokens']} tokens, {sums['n_words']} words, {sums['n_bytes']} bytes; the model's first guess was "
        f"right for {first} tokens ({first / sums['n_tokens']:.0%})"
    )


def total_lines(sums):
    yield f"negative log-likelihood {sums['nll']:14.4f} nats = {sums['nll'] / math.log(2):.4f} bits"
    for name in ("token_perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"):
        value = "too large" if sums[name] is None else f"{sums[name]:.4f}"
        yield f"{name.replace('_', ' '):23} {value:>14}"


def as_json(scores, ids, model, text, stride):
    """All of it as a dict."""
    tokens = [
        {"id": token, "token": screen.visible(model.encoder.decode_bytes([token])), "logprob": logprob, "rank": rank}
        for token, (logprob, rank) in zip(ids, scores, strict=True)
    ]
    how = {"definition": definition(model, len(ids), stride), "window": model.n_ctx, "stride": stride}
    return {"model": model.name, **totals([logprob for logprob, _ in scores], text), **how, "tokens": tokens}
