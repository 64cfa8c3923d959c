"""explore.py attention: what the newest token attends to, in each layer and head."""

from collections.abc import Iterator

import numpy as np

from checkpoints.messages import abbreviated
from cli.command_flags import N_ROWS
from cli.options import Options
from cli.request import encode_prompt
from utils import Model
from views import inside, screen, writing
from views.next_token import MAX_BAR_WIDTH, MAX_TOKEN_WIDTH, name_of

CELL = 14  # columns of a head in the overview


def prepare(model: Model, prompt: str, options: Options) -> list[int]:
    """Return the ids of a prompt. Raise ValueError if it is too long, or if there is no such layer or head."""
    sizes = {"layer": len(model.params["blocks"]), "head": model.n_head}
    for name, n in sizes.items():
        if (options.values[name] or 1) > n:
            raise ValueError(f"{name} is {options.values[name]}; this model has {name}s 1 to {n}")
    return encode_prompt(prompt, model, options)


def weights_of_last(ids: list[int], model: Model) -> np.ndarray:
    """Return the weights with which each head attends from the last position: [n_layer, n_head, n_seq]."""
    steps = writing.with_progress_bar(inside.layers(ids, model), 1 + len(model.params["blocks"]), "computing", "layer")
    return np.stack([weights[:, -1] for _, weights in steps if weights is not None])


def selected(weights: np.ndarray, options: Options) -> np.ndarray:
    """Return the weights of the layer and the head that the options name, of all if they name none."""
    layers = slice(None) if options.layer is None else slice(options.layer - 1, options.layer)
    heads = slice(None) if options.head is None else slice(options.head - 1, options.head)
    return weights[layers, heads]


def show_attention(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Print the weights of the last token, averaged, and the strongest one of each head; or a JSON object."""
    weights = selected(weights_of_last(ids, model), options)
    names = [name_of(model.encoder, token) for token in ids]
    if options.json:
        writing.write_json(as_json(weights, ids, model, options))
        return
    width = screen.width()
    lines = [*screen.wrap(title(model, names[-1], weights, options), width), ""]
    lines += table(names, weights.mean(axis=(0, 1)), options.rows or N_ROWS["attention"], width)
    if weights.shape[:2] != (1, 1):
        lines += ["", *overview(names, weights, options, width)]
    writing.write_lines(lines)


def title(model, name, weights, options):
    n_layer, n_head, _ = weights.shape
    layers = f"layer {options.layer}" if options.layer else screen.counted(n_layer, "layer")
    heads = f"head {options.head}" if options.head else screen.counted(n_head, "head")
    mean = "mean of " if n_layer * n_head > 1 else ""
    weights_of = f"{abbreviated(model.name)}: weights with which '{name}' attends to the tokens up to it"
    return f"{weights_of}, {mean}{layers}, {heads}"


def table(names: list[str], weights: np.ndarray, n_rows: int, width: int) -> Iterator[str]:
    """Yield a line per token; of a long text, those with the largest weights, in the order of the text."""
    size = min(max(map(screen.display_width, ["token", *names])), MAX_TOKEN_WIDTH)
    bar_width = min(width - size - 18, MAX_BAR_WIDTH)
    shown = np.sort(np.argsort(-weights, kind="stable")[:n_rows])
    yield screen.paint(f"place  {screen.pad('token', size)}  weight", "dim")
    for i in shown:
        bar = screen.paint(screen.bar(weights[i] / weights.max(), bar_width), "cyan")
        yield f"{i + 1:5}  {screen.pad(names[i], size)}  {weights[i]:.4f}  {bar}".rstrip()
    if len(shown) < len(names):
        rest = 1 - weights[shown].sum()
        yield screen.paint(f"    ⋮  {len(names) - len(shown)} more, together {max(rest, 0):.4f}", "dim")


def overview(names: list[str], weights: np.ndarray, options: Options, width: int) -> Iterator[str]:
    """Yield the strongest token of each head: a line per layer, in several parts if there are many heads."""
    yield from screen.wrap("The token with the largest weight, per layer and head:", width)
    first_layer = options.layer or 1
    first_head = options.head or 1
    per_part = max(1, (width - 6) // CELL)
    for start in range(0, weights.shape[1], per_part):
        heads = range(start, min(start + per_part, weights.shape[1]))
        cells = [screen.pad(f"head {first_head + h}", CELL) for h in heads]
        yield screen.paint("layer " + "".join(cells).rstrip(), "dim")
        for layer, of_layer in enumerate(weights):
            cells = [cell_of(names, of_layer[h]) for h in heads]
            yield f"{first_layer + layer:5} " + "".join(cells).rstrip()


def cell_of(names, weights):
    strongest = int(np.argmax(weights))
    return screen.pad(f"{screen.cut(names[strongest], CELL - 6)} {weights[strongest]:.2f}", CELL)


def as_json(weights: np.ndarray, ids: list[int], model: Model, options: Options) -> dict:
    """Return the tokens and the weights of the last one, per layer and head, as a dict."""
    tokens = [{"id": token, "token": model.encoder.decode([token])} for token in ids]
    return {
        "model": model.name,
        "tokens": tokens,
        "first_layer": options.layer or 1,
        "first_head": options.head or 1,
        "weights": [[[round(float(w), 6) for w in head] for head in layer] for layer in weights],
    }
