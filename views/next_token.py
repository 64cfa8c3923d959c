"""The next token, from the logits to the draw: expected tokens, removed tokens, the drawn token.

    logits → penalties and bans → temperature → top_k, top_p, min_p, typical_p → softmax or entmax → one draw

This module only observes: the filters are those of sampling.py, and the token is the one that the sampler chose.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

import sampling
from checkpoints.messages import abbreviated
from cli.command_flags import N_ROWS
from cli.options import Options
from engine.batching import generate_samples
from utils import Model
from views import screen, settings, writing

MAX_TOKEN_WIDTH = 16  # columns
MAX_BAR_WIDTH = 60
MIN_BAR_WIDTH = 16  # on a narrower screen, columns of the table are omitted
OPTIONAL_COLUMNS = ("id", "becomes", "sum", "logit")  # in the order in which they are omitted

# ---- what a sampler does ---------------------------------------------------------------------------------------


def knobs_of(sampler: Callable) -> dict:
    """Return the knobs of a sampler that `make_sampler` made."""
    return sampler.knobs if isinstance(sampler, sampling.Mirostat) else getattr(sampler, "keywords", {})


def drawn_from(sampler: Callable, logits: np.ndarray) -> np.ndarray:
    """Return the probability of drawing each token, float64 [n_vocab]."""
    if sampler is sampling.greedy:
        return np.eye(1, len(logits), sampling.greedy(logits))[0]
    if isinstance(sampler, sampling.Mirostat):
        ids, probs = sampler.candidates(logits)
        return np.bincount(ids, weights=probs, minlength=len(logits))
    return sampling.distribution(logits, **knobs_of(sampler))


def stages(sampler: Callable, logits: np.ndarray) -> Iterator[tuple]:
    """Yield (name, value, remaining ids) of each step that removes tokens, in the order of the steps."""
    knobs = knobs_of(sampler)
    temperature = knobs.get("temperature", 1.0)
    is_allowed = ~np.isneginf(logits)
    if not is_allowed.all():
        yield "ban", None, np.flatnonzero(is_allowed)
    if temperature < sampling.GREEDY_BELOW:
        yield "temperature", temperature, sampling.filtered(logits, temperature)[0]
    filters = sampling.without_none({name: knobs.get(name) for name in sampling.FILTERS})
    for n, (name, value) in enumerate(filters.items(), start=1):
        first_filters = dict(list(filters.items())[:n])
        yield name, value, sampling.filtered(logits, temperature, **first_filters)[0]
    remaining = np.flatnonzero(drawn_from(sampler, logits))
    if sampler is sampling.greedy:
        yield "greedy", None, remaining
    elif isinstance(sampler, sampling.Mirostat):
        yield "mirostat", round(sampler.mu, 4), remaining
    elif "entmax_alpha" in knobs:
        yield "entmax_alpha", knobs["entmax_alpha"], remaining


def removed_by(stages: Iterable[tuple], n_vocab: int) -> np.ndarray:
    """Return the name of the step that removed each token, "" for the remaining tokens: [n_vocab]."""
    removed = np.full(n_vocab, "", dtype=object)
    for name, _, ids in stages:
        remains = np.zeros(n_vocab, dtype=bool)
        remains[ids] = True
        removed[~remains & (removed == "")] = name
    return removed


def ranked(logits: np.ndarray) -> np.ndarray:
    """Return the ids, the likeliest first; equal logits rank the lowest id first."""
    return np.argsort(-logits, kind="stable")


def entropy(probs: np.ndarray) -> float:
    """Return the entropy in bits; that of n equally likely tokens is log2(n).

    >>> entropy(np.array([0.25, 0.25, 0.25, 0.25, 0.0]))
    2.0
    """
    positive = probs[probs > 0]
    return float(-(positive * np.log2(positive)).sum()) + 0.0  # + 0.0: not -0.0


# ---- records of the choices ------------------------------------------------------------------------------------


def trace(model: Model, prompt_ids: list[int], setting: dict, options: Options, seed: int) -> Iterator[dict]:
    """Yield a record of each of `options.steps` choices, ready for JSON: the likeliest tokens, and the draw."""
    recorder = ChoiceRecorder(model, prompt_ids, setting, options, seed)
    rng = settings.random_numbers(seed)
    completion = settings.new_completion(model, setting, options, len(prompt_ids), rng, on_token=recorder)
    for _ in generate_samples(prompt_ids, model.params, model.n_head, options.steps, [completion]):
        yield recorder.record


class ChoiceRecorder:
    """An observer of a completion that describes how each token is chosen.

    Without options of the sampler the choice is greedy, and the record shows the model's own distribution.
    Attribute: `record`, the description of the newest choice.
    """

    def __init__(self, model: Model, prompt_ids: list[int], setting: dict, options: Options, seed: int):
        self.encoder = model.encoder
        self.n_prompt = len(prompt_ids)
        self.ids = list(prompt_ids)
        self.n_rows = options.rows or N_ROWS["next" if options.steps == 1 else "next --steps"]
        self.seed = seed
        self.record = None
        # The observer is called after the draw. A second sampler, one draw behind, still has the state from before it
        # (Mirostat's mu). A draw uses exactly one uniform number, so that a generator with the same seed gives u.
        self.sampler = settings.new_sampler(setting)
        drawing = settings.drawing(setting)
        self.shown_sampler = self.sampler if drawing == setting else settings.new_sampler(drawing)
        self.sampler_rng = settings.random_numbers(seed)
        self.rng = settings.random_numbers(seed)

    def __call__(self, raw, processed, token):
        self.record = {
            "step": len(self.ids) - self.n_prompt + 1,
            "text": self.encoder.decode(self.ids),
            **describe(self.encoder, self.shown_sampler, raw, processed, token, self.n_rows),
        }
        if self.sampler is not sampling.greedy:
            self.record["draw"] |= {"seed": self.seed, "u": self.rng.random()}
            self.sampler(processed, self.sampler_rng)
        self.ids.append(token)


def describe(encoder, sampler, raw, processed, token, n_rows):
    """Return what the model expects and what the sampler leaves: of the likeliest tokens, and of the chosen one."""
    temperature = knobs_of(sampler).get("temperature", 1.0)
    steps = list(stages(sampler, processed))
    order = ranked(processed)
    own = sampling.softmax_with_temperature(raw)
    at_temperature = sampling.softmax_with_temperature(processed, temperature)
    drawn_with = drawn_from(sampler, processed)
    columns = {  # each [n_vocab]
        "logit": raw,
        "penalised_logit": processed,
        "probability": own,
        "at_temperature": at_temperature,
        "cumulative": cumulative(at_temperature, order),
        "removed_by": removed_by(steps, len(raw)),
        "drawn_with": drawn_with,
    }
    rank_of_token = int(np.flatnonzero(order == token)[0])
    shown = sorted({*range(min(n_rows, len(order))), rank_of_token})
    return {
        "temperature": temperature,
        "is_penalised": bool(np.any((raw != processed) & np.isfinite(processed))),
        "filters": [{"name": name, "value": value, "keeps": len(ids)} for name, value, ids in steps],
        "n_vocab": len(raw),
        "support": int(np.count_nonzero(drawn_with)),
        "entropy_bits": entropy(drawn_with),
        "model_entropy_bits": entropy(own),
        "tokens": [describe_token(encoder, order[i], i + 1, columns) for i in shown],
        "draw": {
            "id": token,
            **names_of(encoder, token),
            "probability": float(drawn_with[token]),
            "begins_at": float(drawn_with[:token].sum()),
        },
    }


def cumulative(probs, order):
    """Return the sum of the probabilities up to each token, in the given order: [n_vocab]."""
    sums = np.empty(len(probs))
    sums[order] = np.cumsum(probs[order])
    return sums


def describe_token(encoder, token, rank, columns):
    values = {name: json_value(column[token]) for name, column in columns.items()}
    return {"rank": rank, "id": int(token), **names_of(encoder, token), **values}


def names_of(encoder, token):
    """Return the text of a token, in which U+FFFD replaces an incomplete character, and its name for a terminal."""
    return {"token": encoder.decode([int(token)]), "name": name_of(encoder, token)}


def json_value(value):
    """Return a name or a number for JSON, which has no infinity; None for "" and for an infinite number."""
    if isinstance(value, str):
        return value or None
    return float(value) if math.isfinite(value) else None


def name_of(encoder, token: int) -> str:
    """Return a token in visible characters."""
    return screen.visible(encoder.decode_bytes([int(token)]))


# ---- the record as lines of text -------------------------------------------------------------------------------


def render(record: dict, model_name: str, width: int) -> Iterator[str]:
    """Yield the text so far, the steps of the choice, the table of tokens, the entropy, and the draw."""
    yield screen.paint(screen.cut_left(screen.printable(record["text"]), width), "bold")
    unbroken = " → ".join(step.replace(" ", "\0") for step in steps_of(record))  # lines end between two steps
    yield from (line.replace("\0", " ") for line in screen.wrap(f"{abbreviated(model_name)}: {unbroken}", width))
    yield ""
    yield from table(record, width)
    yield ""
    yield from screen.wrap(entropy_sentence(record), width)
    yield from screen.wrap(draw_sentence(record["draw"]), width)


def steps_of(record):
    """Return what happens to the logits, in order: "9 tokens", "temperature 0.7", "top_p 0.9: 2 left", "one draw"."""
    steps = [f"{record['n_vocab']} tokens"]
    steps += [filter_label(step) for step in record["filters"] if step["name"] == "ban"]
    if record["is_penalised"]:
        steps.append("biases and penalties")
    if record["temperature"] >= sampling.GREEDY_BELOW and record["temperature"] != 1:
        steps.append(f"temperature {record['temperature']:g}")
    steps += [filter_label(step) for step in record["filters"] if step["name"] != "ban"]
    if "u" in record["draw"]:
        steps.append("one draw")
    elif not record["filters"]:
        steps.append("the likeliest token")
    return steps


def filter_label(step):
    value = "" if step["value"] is None else f" {step['value']:g}"
    return f"{step['name']}{value}: {step['keeps']} left"


def entropy_sentence(record):
    return (
        f"{record['support']} of {record['n_vocab']} tokens left; their entropy is {record['entropy_bits']:.2f} bits, "
        f"that of {2 ** record['entropy_bits']:.1f} equally likely tokens "
        f"(the model's own entropy: {record['model_entropy_bits']:.2f} bits)"
    )


def draw_sentence(draw):
    if "u" not in draw:
        return f"the likeliest token is '{draw['name']}' (id {draw['id']}); nothing is drawn"
    end = draw["begins_at"] + draw["probability"]
    return (
        f"seed {draw['seed']}: u = {draw['u']:.4f} lies in the interval [{draw['begins_at']:.4f}, {end:.4f}) of "
        f"'{draw['name']}' (id {draw['id']}); the intervals of the tokens follow each other in the order of their ids"
    )


def table(record, width):
    """Yield the lines of the table: columns that differ from each other, and bars in the remaining width."""
    rows = record["tokens"]
    columns = columns_that_fit(record, width)
    bar_width = min(width - width_of_columns(columns), MAX_BAR_WIDTH)
    largest = max(row["drawn_with"] for row in rows)
    sizes = {name: size_of(name, values) for name, values in columns.items()}
    yield screen.paint("  ".join(screen.pad(name, size) for name, size in sizes.items()), "dim")
    for i, row in enumerate(rows):
        if i and row["rank"] > rows[i - 1]["rank"] + 1:
            yield screen.paint("   ⋮  ⋮", "dim")
        cells = [screen.pad(values[i], sizes[name]) for name, values in columns.items()]
        is_chosen = row["id"] == record["draw"]["id"]
        yield table_line(row, cells, row["drawn_with"] / largest, bar_width, is_chosen)
    if record["n_vocab"] > len(rows):
        n_left = record["support"] - sum(row["drawn_with"] > 0 for row in rows)
        yield screen.paint(f"   ⋮  {record['n_vocab'] - len(rows)} more, {n_left or 'none'} of them left", "dim")


def table_line(row, cells, share, bar_width, is_chosen):
    """Return the line of a token: its cells, and a bar or the name of the filter that removed it."""
    if row["removed_by"]:
        return screen.paint("  ".join([*cells, f"✗ {row['removed_by']}"]), "dim")
    if is_chosen:
        rank, token, *others = cells
        cells = [rank, screen.highlight(token), *others]
    bar = screen.paint(screen.bar(share, bar_width - 2), "cyan")
    return "  ".join([*cells, bar + " ◀" * is_chosen]).rstrip()


def columns_that_fit(record, width):
    """Return the columns of the table, {heading: values}, without some on a narrow screen."""
    columns = dict(columns_of(record))
    for name in (*OPTIONAL_COLUMNS, temperature_heading(record)):
        if width_of_columns(columns) + MIN_BAR_WIDTH > width:
            columns.pop(name, None)
    return columns


def temperature_heading(record):
    return f"T={record['temperature']:g}"


def width_of_columns(columns):
    return sum(abs(size_of(name, values)) + 2 for name, values in columns.items())


def size_of(name, values):
    """Return the width of a column, negative if it is aligned on the right."""
    size = max(map(screen.display_width, (name, *values)))
    return min(size, MAX_TOKEN_WIDTH) if name == "token" else -size


def columns_of(record):
    """Yield (heading, values). The effects of penalties and of the temperature have columns only if there are any."""

    def column(key, text):
        return ["-inf" if row[key] is None else text(row[key]) for row in record["tokens"]]

    for heading, key in {"rank": "rank", "token": "name", "id": "id"}.items():
        yield heading, [str(row[key]) for row in record["tokens"]]
    yield "logit", column("logit", "{:.2f}".format)
    if column("logit", str) != column("penalised_logit", str):
        yield "becomes", column("penalised_logit", "{:.2f}".format)
    yield "prob", column("probability", screen.decimal)
    if record["is_penalised"] or record["temperature"] != 1:
        yield temperature_heading(record), column("at_temperature", screen.decimal)
    yield "sum", column("cumulative", screen.decimal)
    drawn_with = column("drawn_with", screen.decimal)
    is_removed = [row["removed_by"] is not None for row in record["tokens"]]
    if record["filters"]:
        yield "drawn", ["" if removed else p for p, removed in zip(drawn_with, is_removed, strict=True)]


# ---- the view ----------------------------------------------------------------------------------------------------


def show_next(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Print how each token is chosen, and at the end the text; or a JSON object per token."""
    (setting,) = settings.grid(options)
    shown = list(ids)
    for record in trace(model, ids, setting, options, seed):
        shown.append(record["draw"]["id"])
        if options.json:
            writing.write_json({"model": model.name, **record})
        else:
            writing.write_lines([*render(record, model.name, screen.width()), ""])
    if options.steps > 1 and not options.json:
        writing.write_lines(screen.wrap(screen.printable(model.encoder.decode(shown)), screen.width()))
