"""How likely a text is: the log-probability of each token, and what follows from it.

A perplexity depends on the unit that is counted and on the context that each token sees, so that it needs a
definition. This one is that of EleutherAI's lm-evaluation-harness (`loglikelihood_rolling`): <|endoftext|> precedes
the text; the text is cut into windows as long as the context, which overlap by one token, the first input; the last
window reaches back as far as the context does; and every token is scored exactly once. With a smaller stride the
windows overlap, so that every token sees more context, at the price of more computation.

    token perplexity   exp(nll / tokens)         depends on the tokenizer: compare only with the same vocabulary
    word perplexity    exp(nll / words)          words are separated by white space
    byte perplexity    exp(nll / bytes)          bytes of UTF-8
    bits per byte      nll / bytes / ln 2        comparable between any two models of text

nll: the negative log-likelihood of the whole text, in nats.

With --given, only the tokens of the text are scored, after a context: lm-evaluation-harness's `loglikelihood`.
"""

import decimal
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import gpt2
import sampling
from checkpoints.messages import abbreviated
from cli.command_flags import N_ROWS
from cli.options import Options
from cli.request import allows_special
from encoder import Encoder
from utils import Model
from views import screen, writing
from views.next_token import MAX_BAR_WIDTH, MAX_TOKEN_WIDTH, name_of

WIDE = decimal.Context(prec=28, Emax=decimal.MAX_EMAX)  # for perplexities beyond the range of a float
CHUNK = 128  # positions per call of gpt2, so that not all logits of a window are in memory
OTHER_COLUMNS = 34  # width of the table without the token and the bar
SHADES = [  # upper limit in bits, ANSI codes, in words
    (1, "", "under 1"),
    (3, "30;48;5;230", "1 to 3"),
    (6, "30;48;5;221", "3 to 6"),
    (10, "30;48;5;208", "6 to 10"),
    (math.inf, "97;48;5;88", "10 and more"),
]


# ---- the request -----------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """The ids of a text, and those of the context that was given, None if the whole text is scored."""

    ids: list[int]
    context: list[int] | None = None


def prepare(model: Model, text: str, options: Options, given: str | None = None) -> Request:
    """Return the request of a text. Raise ValueError if it is empty, or too long for the model."""
    given = options.values["given"] if given is None else given
    if (options.stride or 1) > model.n_ctx:
        raise ValueError(f"stride is {options.stride}; it must be at most this model's context, {model.n_ctx}")
    special = allows_special(f"{given or ''}{text}", model, options)
    if given is None:
        request = Request(model.encoder.encode(text, special))
    else:
        request = encode_pair(given, text, model.encoder, special)
    if not request.ids:
        raise ValueError("there is nothing to score: the text is empty")
    if given is not None and len(request.ids) > model.n_ctx:
        raise ValueError(
            f"the text has {len(request.ids)} tokens; after a context, this model scores at most {model.n_ctx}: "
            "shorten it, or remove --given"
        )
    return request


def encode_pair(given: str, text: str, encoder: Encoder, special: bool = False) -> Request:
    """Return the request of a text after a context, as lm-evaluation-harness encodes them.

    Spaces at the end of the context belong to the text. Both are encoded together, and the ids behind those of the
    context are the text's.
    """
    context = given.rstrip()
    text = given[len(context) :] + text
    context_ids = encoder.encode(context, special)
    return Request(encoder.encode(context + text, special)[len(context_ids) :], context_ids)


# ---- the numbers -----------------------------------------------------------------------------------------------


def windows(n_tokens: int, n_ctx: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, n_context) of each window: it scores tokens start to end, and reads n_context ids before.

    The first window reads one id before its tokens, the start of the text.

    >>> list(windows(10, n_ctx=4, stride=4))
    [(0, 4, 1), (4, 8, 1), (8, 10, 3)]
    >>> list(windows(10, n_ctx=4, stride=2))
    [(0, 4, 1), (4, 6, 3), (6, 8, 3), (8, 10, 3)]
    """
    start = 0
    while start < n_tokens:
        n_scored = n_ctx if start == 0 else stride
        end = min(start + n_scored, n_tokens)
        yield start, end, min(end, n_ctx) - (end - start) + 1
        start = end


def score(ids: list[int], model: Model, stride: int | None = None) -> Iterator[tuple[float, int]]:
    """Yield (log-probability, rank) of each id: natural logarithms; rank 1 is the token that the model found likeliest.

    The text begins after model.special.start. stride: None is the length of the context.
    """
    text = [model.special.start, *ids]  # ids[i] is text[i + 1] and follows text[: i + 1]
    for start, end, n_context in windows(len(ids), model.n_ctx, stride or model.n_ctx):
        yield from score_window(text[start + 1 - n_context : end], ids[start:end], model)


def score_continuation(request: Request, model: Model) -> Iterator[tuple[float, int]]:
    """Yield (log-probability, rank) of each id of a text after its context. A long context is cut to its last ids."""
    context = request.context or [model.special.start]
    inputs = [*context, *request.ids][:-1]
    yield from score_window(inputs[-model.n_ctx :], request.ids, model)


def score_request(request: Request, model: Model, stride: int) -> Iterator[tuple[float, int]]:
    """Yield (log-probability, rank) of each id of a request."""
    if request.context is None:
        return score(request.ids, model, stride)
    return score_continuation(request, model)


def score_window(inputs, targets, model):
    """Yield (log-probability, rank) of the targets of one window. inputs: the ids up to the last but one."""
    cache = gpt2.make_kv_cache(model.params, model.n_head, len(inputs))
    n_context = len(inputs) - len(targets)
    if n_context:
        gpt2.gpt2(inputs[:n_context], **model.params, n_head=model.n_head, cache=cache, last_only=True)
    for start in range(0, len(targets), CHUNK):
        chunk = inputs[n_context:][start : start + CHUNK]
        logits = gpt2.gpt2(chunk, **model.params, n_head=model.n_head, cache=cache)  # [n_seq, n_vocab]
        for row, target in zip(logits, targets[start : start + CHUNK], strict=True):
            yield float(sampling.log_softmax(row)[target]), rank_of(target, row)


def rank_of(token, logits):
    """Return the rank of a token, from 1; equal logits rank the lowest id first."""
    n_larger = np.count_nonzero(logits > logits[token])
    n_equal_before = np.count_nonzero(logits[:token] == logits[token])
    return int(n_larger + n_equal_before) + 1


def totals(logprobs: list[float], text: str) -> dict:
    """Return the sums and averages, under the names of lm-evaluation-harness if it has one.

    >>> sums = totals([math.log(0.25)] * 4, "a cat sat")
    >>> sums["token_perplexity"], sums["n_words"], round(sums["word_perplexity"], 4), sums["n_bytes"]
    (4.0, 3, 6.3496, 9)
    """
    n_words = len(re.split(r"\s+", text))
    n_bytes = len(text.encode("utf-8", "replace"))
    return measures(-math.fsum(logprobs), len(logprobs), n_words, n_bytes)


def measures(nll: float, n_tokens: int, n_words: int, n_bytes: int) -> dict:
    """Return the measures of a text, or of several texts together."""
    return {
        "n_tokens": n_tokens,
        "n_words": n_words,
        "n_bytes": n_bytes,
        "nll": nll,
        "token_perplexity": exp(nll / n_tokens),
        "word_perplexity": exp(nll / n_words),
        "byte_perplexity": exp(nll / n_bytes),
        "bits_per_byte": nll / n_bytes / math.log(2),
    }


def exp(x):
    """Return e to the x, or None if it is too large for a float, as for a page without spaces, which is one word."""
    return math.exp(x) if x < 700 else None


def exp_as_text(x: float) -> str:
    """Return e to the x with four decimals, from a million on in scientific notation.

    >>> exp_as_text(1.0), exp_as_text(20.0), exp_as_text(9000.0)
    ('2.7183', '4.8517e+8', '4.4703e+3908')
    """
    if x < math.log(1e6):
        return f"{math.exp(x):.4f}"
    return f"{WIDE.exp(decimal.Decimal(x)):.4e}"


def definition(model: Model, request: Request, stride: int) -> str:
    """Return in words how the text was cut into windows."""
    if request.context is not None:
        return "after the given context, as in lm-evaluation-harness (loglikelihood)"
    n_tokens = len(request.ids)
    start = f"after {name_of(model.encoder, model.special.start)}"
    if n_tokens > model.n_ctx and stride != model.n_ctx:
        cut = f"in windows of {model.n_ctx} tokens that move by {stride}, each scoring only its new tokens"
        return f"{start}, {cut}; every token exactly once"
    cut = f"in windows of {stride} tokens without overlap, the last extended back to full length"
    if n_tokens <= model.n_ctx:
        cut = "in one window"
    return f"{start}, {cut}, every token exactly once, as in lm-evaluation-harness (loglikelihood_rolling)"


# ---- in the terminal -------------------------------------------------------------------------------------------


def shade(bits: float) -> str:
    """Return the ANSI codes for a surprise."""
    return next(codes for limit, codes, _ in SHADES if bits < limit)


def coloured(ids: list[int], logprobs: list[float], encoder) -> str:
    """Return the text with a background behind each token that is darker for a larger surprise."""
    text = ""
    bits = 0.0
    for piece, logprob in zip(encoder.stream(ids), [*logprobs, 0.0], strict=False):
        bits -= logprob / math.log(2)
        if piece:  # otherwise the token is a part of a character, and its surprise is added to the next
            text += paint_lines(piece, shade(bits))
            bits = 0.0
    return text


def paint_lines(piece, codes):
    """Return a piece of text, painted line by line, with ⏎ before each line end."""
    *ended, last = (screen.printable(line) for line in piece.split("\n"))
    return "\n".join(screen.paint(line, codes) for line in [*(f"{line}⏎" for line in ended), last])


def render(
    scores: list[tuple], request: Request, model: Model, text: str, n_rows: int | None, stride: int
) -> Iterator[str]:
    """Yield the lines of the view: the coloured text and its most surprising tokens, the totals, the definition.

    Without colours, all tokens are listed instead of the text. n_rows: list the most surprising tokens only.
    """
    width = screen.width()
    ids = request.ids
    logprobs = [logprob for logprob, _ in scores]
    names = [name_of(model.encoder, token) for token in ids]
    by_surprise = np.argsort(logprobs, kind="stable")
    if screen.has_colour():
        yield from coloured(ids, logprobs, model.encoder).split("\n")
        yield ""
        yield "bits of surprise: " + " ".join(screen.paint(f" {words} ", codes) for _, codes, words in SHADES)
        yield ""
        listed = by_surprise[: n_rows or N_ROWS["score"]]
    else:
        listed = by_surprise[:n_rows] if n_rows else range(len(ids))
    yield from table(names, scores, listed, width)
    yield ""
    sums = totals(logprobs, text)
    yield from screen.wrap(summary(sums, scores), width)
    likelihood, *others = total_lines(sums)
    yield from screen.wrap(likelihood, width)
    yield from others  # a long number stays on its line
    yield ""
    yield from screen.wrap(f"Scored with {abbreviated(model.name)} {definition(model, request, stride)}.", width)
    if request.context is not None:
        yield from screen.wrap(continuation_sentence(scores), width)


def continuation_sentence(scores):
    """Return what loglikelihood returns, in words."""
    is_not = "" if is_greedy(scores) else "not "
    return f"log-probability of the text: {-nll_of(scores):.4f}; it is {is_not}the greedy continuation of the context"


def is_greedy(scores) -> bool:
    """Return whether each token was the model's likeliest."""
    return all(rank == 1 for _, rank in scores)


def nll_of(scores) -> float:
    return -math.fsum(logprob for logprob, _ in scores)


def table(names, scores, listed, width):
    """Yield a line per token: position, token, log-probability, surprise in bits, rank, a bar of the surprise."""
    size = min(max(screen.display_width(name) for name in ["token", *names]), MAX_TOKEN_WIDTH, width - OTHER_COLUMNS)
    bar_width = min(width - size - OTHER_COLUMNS, MAX_BAR_WIDTH)
    largest = max(-logprob for logprob, _ in scores) or 1
    yield screen.paint(f"place  {screen.pad('token', size)}  logprob   bits   rank", "dim")
    for i in listed:
        logprob, rank = scores[i]
        bits = abs(logprob) / math.log(2)  # abs: 0.00, not -0.00
        bar = screen.paint(screen.bar(-logprob / largest, bar_width), "cyan")
        yield f"{i + 1:5}  {screen.pad(names[i], size)}  {logprob:7.3f}  {bits:5.2f}  {rank:5}  {bar}".rstrip()


def summary(sums, scores):
    n_first = sum(rank == 1 for _, rank in scores)
    share = f"{n_first / sums['n_tokens']:.0%}"
    return f"{counts_in_words(sums)}; {n_first} of the tokens ({share}) were the model's likeliest"


def counts_in_words(sums: dict) -> str:
    """Return "4 tokens, 1 word, 9 bytes"."""
    return ", ".join(screen.counted(sums[f"n_{noun}s"], noun) for noun in ("token", "word", "byte"))


def total_lines(sums: dict) -> Iterator[str]:
    """Yield the measures, one per line."""
    yield f"negative log-likelihood {sums['nll']:14.4f} nats = {sums['nll'] / math.log(2):.4f} bits"
    for unit in ("token", "word", "byte"):
        yield f"{unit + ' perplexity':23} {exp_as_text(sums['nll'] / sums[f'n_{unit}s']):>14}"
    yield f"{'bits per byte':23} {sums['bits_per_byte']:14.4f}"


# ---- as JSON ---------------------------------------------------------------------------------------------------


def as_json(scores: list[tuple], request: Request, model: Model, text: str, stride: int) -> dict:
    """Return the totals, the definition and every token as a dict."""
    tokens = [
        {"id": token, "token": model.encoder.decode([token]), "logprob": logprob, "rank": rank}
        for token, (logprob, rank) in zip(request.ids, scores, strict=True)
    ]
    is_continuation = request.context is not None
    return {
        "model": model.name,
        **({"logprob": -nll_of(scores), "is_greedy": is_greedy(scores)} if is_continuation else {}),
        **totals([logprob for logprob, _ in scores], text),
        "definition": definition(model, request, stride),
        "window": model.n_ctx,
        "stride": stride,
        "tokens": tokens,
    }


# ---- the view ----------------------------------------------------------------------------------------------------


def show_score(model: Model, request: Request, text: str, options: Options, seed: int) -> None:
    """Print the tokens of a text with their log-probabilities, and the totals."""
    stride = options.stride or model.n_ctx
    scores = list(writing.with_progress_bar(score_request(request, model, stride), len(request.ids), "scoring"))
    if options.json:
        writing.write_json(as_json(scores, request, model, text, stride))
    else:
        writing.write_lines(render(scores, request, model, text, options.rows, stride))
