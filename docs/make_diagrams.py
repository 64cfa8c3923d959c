"""Draw the diagrams of tour.md from the bundled model: python docs/make_diagrams.py"""

import sys
from html import escape
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import gpt2
import utils
from sampling import keep_top_p, softmax_with_temperature
from views import inside

DOCS = Path(__file__).parent
PROMPT = "One day, a"
SEED = 3
TEMPERATURE = 0.8
TOP_P = 0.9
INK = "#1f2933"
QUIET = "#52606d"
BLUE = "#2f6fb7"
PALE = "#dbe8f6"
GREY = "#eef0f2"
FONT = "font-family='DejaVu Sans, Verdana, sans-serif'"

# ---- SVG ---------------------------------------------------------------------------------------------------------


def drawing(width, height, title, parts):
    """Return an SVG file with a white background, which is legible on a dark page too."""
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
    marker = (
        "<defs><marker id='end' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        f"<path d='M0 0 L8 4 L0 8 z' fill='{QUIET}'/></marker></defs>"
    )
    background = f"<rect width='{width}' height='{height}' rx='8' fill='#ffffff'/>"
    lines = [f"{head} role='img' {FONT}>", f"<title>{escape(title)}</title>", marker, background, *parts, "</svg>", ""]
    return "\n".join(lines)


def text(x, y, words, size=13, color=INK, anchor="middle"):
    return f"<text x='{x}' y='{y}' font-size='{size}' fill='{color}' text-anchor='{anchor}'>{escape(words)}</text>"


def box(x, y, width, height, words="", fill=PALE, stroke=BLUE, size=13):
    shape = f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='4' fill='{fill}' stroke='{stroke}'/>"
    return shape + text(x + width / 2, y + height / 2 + 4.5, words, size)


def arrow(x1, y1, x2, y2):
    return f"<path d='M{x1} {y1} L{x2} {y2}' stroke='{QUIET}' stroke-width='1.3' marker-end='url(#end)'/>"


def line(points):
    path = " L".join(f"{x} {y}" for x, y in points)
    return f"<path d='M{path}' stroke='{QUIET}' stroke-width='1.3' fill='none'/>"


def shape_of(*sizes):
    return "[" + ", ".join(f"{size:,}" for size in sizes) + "]"


def seen(token):
    """Return a token with its spaces visible."""
    return token.replace(" ", "␣")


# ---- the diagrams ------------------------------------------------------------------------------------------------


def model_diagram(model, ids, drawn):
    """The way from a text to the next token, one row per step, with the shape of its result."""
    n_seq = len(ids)
    n_embd = model.hparams["n_embd"]
    n_layer = model.hparams["n_layer"]
    vectors = shape_of(n_seq, n_embd)
    steps = [
        ("text", f'"{PROMPT}"'),
        ("encode", f"ids {ids}"),
        ("rows of wte + rows of wpe", f"residual stream {vectors}"),
        (f"{n_layer} layers: attention, feed-forward network", f"residual stream {vectors}"),
        ("ln_f, then product with wte", f"logits {shape_of(n_seq, model.n_vocab)}"),
        ("last row, temperature, top_p, softmax", f"probabilities {shape_of(model.n_vocab)}"),
        ("draw with one uniform number", f'id {drawn}, "{seen(model.encoder.decode([drawn]))}"'),
    ]
    parts = []
    for i, (step, result) in enumerate(steps):
        y = 16 + 52 * i
        parts.append(box(20, y, 330, 34, step))
        parts.append(text(370, y + 22, result, anchor="start"))
        if i:
            parts.append(arrow(185, y - 18, 185, y - 1))
    return drawing(640, 16 + 52 * len(steps), "From a text to the next token", parts)


def layer_diagram(model, ids):
    """The residual stream of one layer, with its two branches."""
    n_seq = len(ids)
    n_embd = model.hparams["n_embd"]
    d_head = n_embd // model.n_head
    branches = [
        [
            ("ln_1", shape_of(n_seq, n_embd)),
            ("c_attn", shape_of(n_seq, 3 * n_embd)),
            (f"{model.n_head} heads", f"{model.n_head} x {shape_of(n_seq, d_head)}"),
            ("c_proj", shape_of(n_seq, n_embd)),
        ],
        [
            ("ln_2", shape_of(n_seq, n_embd)),
            ("c_fc", shape_of(n_seq, 4 * n_embd)),
            ("gelu", shape_of(n_seq, 4 * n_embd)),
            ("c_proj", shape_of(n_seq, n_embd)),
        ],
    ]
    parts = [text(70, 26, "residual stream"), arrow(70, 34, 70, 286), text(70, 306, shape_of(n_seq, n_embd))]
    for i, branch in enumerate(branches):
        parts += branch_parts(58 + 122 * i, branch, ("attention", "feed-forward network")[i])
    return drawing(690, 320, "One layer of GPT-2", parts)


def branch_parts(y, steps, name):
    """One branch: it leaves the residual stream, computes the steps from left to right, and is added again."""
    parts = [text(150, y - 8, name, color=QUIET, anchor="start"), arrow(70, y + 17, 149, y + 17)]
    for i, (step, shape) in enumerate(steps):
        x = 150 + 132 * i
        parts.append(box(x, y, 90, 34, step))
        parts.append(text(x + 45, y + 52, shape, size=11, color=QUIET))
        if i:
            parts.append(arrow(x - 42, y + 17, x - 1, y + 17))
    end = 150 + 132 * (len(steps) - 1) + 90
    parts.append(line([(end, y + 17), (end + 24, y + 17), (end + 24, y + 74), (84, y + 74)]))
    parts.append(f"<circle cx='70' cy='{y + 74}' r='11' fill='{PALE}' stroke='{BLUE}'/>")
    parts.append(text(70, y + 79, "+", size=15))
    return parts


def attention_diagram(model, ids):
    """The weights of the last head of the first layer, as a grid; later positions are crossed out."""
    weights = inside.attention(ids, model)[0, -1]  # [n_seq, n_seq]
    tokens = [seen(model.encoder.decode([i])) for i in ids]
    parts = [text(250, 22, "keys: the position that is attended to", color=QUIET)]
    parts.append(text(20, 22, "queries", color=QUIET, anchor="start"))
    for i, token in enumerate(tokens):
        parts.append(text(145 + 70 * i, 46, token))
        parts.append(text(95, 84 + 44 * i, token, anchor="end"))
        for j in range(len(tokens)):
            parts += weight_cell(110 + 70 * j, 58 + 44 * i, weights[i, j], is_hidden=j > i)
    return drawing(410, 62 + 44 * len(ids) + 8, "Attention weights of one head", parts)


def weight_cell(x, y, weight, is_hidden):
    if is_hidden:
        return [box(x, y, 66, 40, "masked", fill=GREY, stroke="#c5ccd3", size=11)]
    shade = f"rgb({255 - round(125 * weight)}, {255 - round(75 * weight)}, 255)"
    return [box(x, y, 66, 40, f"{weight:.2f}", fill=shade)]


def draw_diagram(model, logits):
    """The probabilities of the nucleus as adjacent intervals, and the uniform number that selects one."""
    kept = keep_top_p(logits / TEMPERATURE, TOP_P)
    probs = softmax_with_temperature(logits[kept], TEMPERATURE)
    ends = np.cumsum(probs)
    u = np.random.default_rng([SEED, 0, 0]).random()
    left, width = 40, 550
    parts = [text(left, 28, f"{len(kept)} tokens, in the order of their ids", color=QUIET, anchor="start")]
    for i, token_id in enumerate(kept):
        x = left + width * (ends[i] - probs[i])
        is_drawn = ends[i] - probs[i] <= u < ends[i]
        parts.append(box(round(x, 1), 62, round(width * probs[i], 1), 40, fill=PALE if is_drawn else GREY))
        middle = round(x + width * probs[i] / 2, 1)
        level = 122 + 17 * (i % 2)  # neighbours in different lines: their names are wider than narrow intervals
        parts.append(text(middle, level, f"{seen(model.encoder.decode([token_id]))} {probs[i]:.2f}", size=12))
    parts.append(arrow(round(left + width * u, 1), 50, round(left + width * u, 1), 62))
    parts.append(text(round(left + width * u, 1), 45, f"u = {u:.4f}", color=BLUE))
    parts += [text(left, 164, "0", color=QUIET), text(left + width, 164, "1", color=QUIET)]
    return drawing(640, 178, "A draw from the nucleus", parts)


def cache_diagram(model, ids, drawn):
    """The positions that the second step computes, without and with the cache."""
    tokens = [seen(model.encoder.decode([i])) for i in [*ids, drawn]]
    parts = []
    for row, (name, first) in enumerate([("without the cache", 0), ("with the cache", len(ids))]):
        y = 44 + 62 * row
        parts.append(text(20, y + 22, name, anchor="start"))
        for i, token in enumerate(tokens):
            is_computed = i >= first
            parts.append(
                box(
                    160 + 92 * i,
                    y,
                    84,
                    34,
                    token,
                    PALE if is_computed else "#ffffff",
                    BLUE if is_computed else "#c5ccd3",
                )
            )
    parts.append(text(20, 24, "The second step", color=QUIET, anchor="start"))
    parts.append(text(160, 180, "filled: computed in this step; empty: keys and values are stored", 12, QUIET, "start"))
    return drawing(640, 196, "Positions computed in the second step", parts)


def diagrams():
    """Return {name of the file: its content}."""
    model = utils.load("tiny")
    ids = model.encode(PROMPT)
    (record,) = model.records(PROMPT, n_tokens_to_generate=1, temperature=TEMPERATURE, top_p=TOP_P, seed=SEED)
    (drawn,) = model.encode(record["text"])
    logits = gpt2.gpt2(ids, **model.params, n_head=model.n_head)[-1]
    return {
        "tour-model.svg": model_diagram(model, ids, drawn),
        "tour-layer.svg": layer_diagram(model, ids),
        "tour-attention.svg": attention_diagram(model, ids),
        "tour-draw.svg": draw_diagram(model, logits),
        "tour-cache.svg": cache_diagram(model, ids, drawn),
    }


if __name__ == "__main__":
    for name, content in diagrams().items():
        (DOCS / name).write_text(content, encoding="utf-8")
