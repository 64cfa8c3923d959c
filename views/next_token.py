"""The next token, from the logits to the draw: what the model says, what each filter takes away, what is drawn.

    logits → penalties and bans → temperature → top_k, top_p, min_p, typical_p → softmax or entmax → one draw

Nothing is decided here: what a filter keeps is what sampling.py keeps, and the token drawn is the one that it draws.
"""

import copy
import math

import numpy as np

import gpt2
import sampling
from views import screen, settings

# ---- what a sampler does ---------------------------------------------------------------------------------------


def knobs_of(sampler):
    """The settings of a sampler that `make_sampler` made."""
    return sampler.knobs if isinstance(sampler, sampling.Mirostat) else getattr(sampler, "keywords", {})


def drawn_from(sampler, logits):
    """The probabilities with which a sampler would draw: [n_vocab]."""
    if sampler is sampling.greedy:
        return np.eye(1, len(logits), sampling.greedy(logits))[0]
    if not isinstance(sampler, sampling.Mirostat):
        return sampling.distribution(logits, **knobs_of(sampler))
    ids, probs = sampler.candidates(logits)
    return np.bincount(ids, weights=probs, minlength=len(logits))


def stages(sampler, logits):
    """Yield (name, value, ids that are left) of all that takes tokens out of the race, in the order it happens."""
    knobs = knobs_of(sampler)
    temperature, before = knobs.get("temperature", 1.0), {}
    if np.isneginf(logits).any():
        yield "ban", None, np.flatnonzero(~np.isneginf(logits))
    if temperature < sampling.GREEDY_BELOW:
        yield "temperature", temperature, sampling.candidates(logits, temperature)[0]
    for name in sampling.FILTERS:
        if knobs.get(name) is not None:
            before[name] = knobs[name]
            yield name, knobs[name], sampling.candidates(logits, temperature, **before)[0]
    left = np.flatnonzero(drawn_from(sampler, logits))
    if sampler is sampling.greedy:
        yield "greedy", None, left
    elif isinstance(sampler, sampling.Mirostat):
        yield "mirostat", round(sampler.mu, 4), left
    elif "entmax_alpha" in knobs:
        yield "entmax_alpha", knobs["entmax_alpha"], left


def removed_by(stages, n_vocab):
    """The name of the stage that took each token out, "" for those that are left: [n_vocab]."""
    removed = np.full(n_vocab, "", dtype=object)
    for name, _, ids in stages:
        left = np.zeros(n_vocab, dtype=bool)
        left[ids] = True
        removed[~left & (removed == "")] = name
    return removed


def ranked(logits):
    """The ids, likeliest first; of equals the lowest id."""
    return np.argsort(-logits, kind="stable")


def entropy(probs):
    """In bits: that of n equally likely tokens is log2(n).

    >>> entropy(np.array([0.25, 0.25, 0.25, 0.25, 0.0]))
    2.0
    """
    some = probs[probs > 0]
    return float(-(some * np.log2(some)).sum()) + 0.0  # not -0.0


def walk(model, prompt_ids, options):
    """Yield a record of each of `steps` choices, as JSON has it: the tokens of most weight, and the draw."""
    sampler, penalise = settings.sampler_and_processor(model, options.settings[0], options, len(prompt_ids))
    n_rows, raw, notes = options.rows or (12 if options.steps == 1 else 5), None, []

    def processor(logits, ids):
        nonlocal raw
        raw = logits
        return penalise(logits, ids) if penalise else logits

    def noting(logits, rng):
        token = copy.deepcopy(sampler)(logits, copy.deepcopy(rng))  # the one that it is about to choose
        note = describe(model.encoder, sampler, raw, logits, token, n_rows)
        if sampler is not sampling.greedy:
            note["draw"] |= {"seed": options.seed, "u": copy.deepcopy(rng).random()}
        notes.append(note)
        return sampler(logits, rng)

    rng, stops = settings.random_numbers(options), {model.encoder.end_of_text}
    ids = list(prompt_ids)
    for token in gpt2.generate(prompt_ids, model.params, model.n_head, options.steps, noting, rng, stops, processor):
        yield {"step": len(ids) - len(prompt_ids) + 1, "text": model.encoder.decode(ids), **notes.pop()}
        ids.append(token)
    for note in notes:  # the end of the text, which is chosen but not yielded
        yield {"step": len(ids) - len(prompt_ids) + 1, "text": model.encoder.decode(ids), **note}


def describe(encoder, sampler, raw, logits, drawn, n_rows):
    """What the model says of its likeliest tokens and of the one drawn, and what the sampler leaves of them."""
    taken, temperature = list(stages(sampler, logits)), knobs_of(sampler).get("temperature", 1.0)
    own, heated = sampling.softmax_with_temperature(raw), sampling.softmax_with_temperature(logits, temperature)
    left, removed, order = drawn_from(sampler, logits), removed_by(taken, len(logits)), ranked(logits)
    sums, rank_drawn = np.cumsum(heated[order]), int(np.flatnonzero(order == drawn)[0])
    tokens = [
        {
            "rank": rank + 1,
            "id": int(order[rank]),
            "token": name_of(encoder, order[rank]),
            "logit": finite(raw[order[rank]]),
            "penalised_logit": finite(logits[order[rank]]),
            "probability": float(own[order[rank]]),
            "at_temperature": float(heated[order[rank]]),
            "cumulative": float(sums[rank]),
            "removed_by": removed[order[rank]] or None,
            "drawn_with": float(left[order[rank]]),
        }
        for rank in sorted({*range(min(n_rows, len(logits))), rank_drawn})
    ]
    return {
        "temperature": temperature,
        "is_penalised": bool(np.any((raw != logits) & np.isfinite(logits))),
        "filters": [{"name": name, "value": value, "keeps": len(ids)} for name, value, ids in taken],
        "n_vocab": len(logits),
        "support": int(np.count_nonzero(left)),
        "entropy_bits": entropy(left),
        "model_entropy_bits": entropy(own),
        "tokens": tokens,
        "draw": {
            "id": drawn,
            "token": name_of(encoder, drawn),
            "probability": float(left[drawn]),
            "begins_at": float(left[:drawn].sum()),
        },
    }


def finite(number):
    return float(number) if math.isfinite(number) else None  # JSON has no infinity


def name_of(encoder, token):
    return screen.visible(encoder.decode_bytes([int(token)]))


# ---- next: the table -------------------------------------------------------------------------------------------


def lines_of(note, model, width):
    """The text so far, the way through the filters, the table, what the numbers come to, the draw."""
    yield screen.paint(screen.cut_left(screen.printable(note["text"]), width), "bold")
    way_on = " → ".join(step.replace(" ", "\0") for step in way(note))  # a line ends between two steps, not within one
    yield from (line.replace("\0", " ") for line in screen.wrap(f"{model}: {way_on}", width))
    yield from ["", *table(note, width), ""]
    yield from screen.wrap(
        f"{note['support']} of {note['n_vocab']} tokens left; entropy {note['entropy_bits']:.2f} bits, as of "
        f"{2 ** note['entropy_bits']:.1f} equally likely ones (the model's own: {note['model_entropy_bits']:.2f})",
        width,
    )
    yield from screen.wrap(how_drawn(note["draw"]), width)


def way(note):
    """What happens to the logits, in order, and what is left: "9 tokens", "temperature 0.7", "top_p 0.9: 2 left"."""
    steps = [
        " ".join([step["name"], *([] if step["value"] is None else [f"{step['value']:g}"])]) + f": {step['keeps']} left"
        for step in note["filters"]
    ]
    n_before = sum(step["name"] == "ban" for step in note["filters"])  # a ban comes before all else
    if note["is_penalised"]:
        steps.insert(n_before, "biases and penalties")
        n_before += 1
    if note["temperature"] >= sampling.GREEDY_BELOW and note["temperature"] != 1:
        steps.insert(n_before, f"temperature {note['temperature']:g}")
    return [f"{note['n_vocab']} tokens", *steps, *(["one draw"] if "u" in note["draw"] else [])]


def how_drawn(draw):
    if "u" not in draw:
        return f"the likeliest is {draw['token']} (id {draw['id']}); nothing is drawn"
    return (
        f"seed {draw['seed']} draws u = {draw['u']:.4f}, which falls to {draw['token']} (id {draw['id']}): end to end, "
        f"in the order of ids, its part is {draw['begins_at']:.4f} to {draw['begins_at'] + draw['probability']:.4f}"
    )


def table(note, width):
    """The lines of the table: the columns that have something to say, and bars in what room is left."""
    rows = note["tokens"]
    columns = {name: (size_of(name, values), values) for name, values in columns_of(note)}
    for name in ("id", "becomes", "sum", "logit"):  # what can be done without on a narrow screen
        if sum(abs(size) + 2 for size, _ in columns.values()) + 16 > width:
            columns.pop(name, None)
    room = min(width - sum(abs(size) + 2 for size, _ in columns.values()), 60)
    yield screen.paint("  ".join(screen.pad(name, size) for name, (size, _) in columns.items()), "dim")
    largest = max(row["drawn_with"] for row in rows)
    for i, row in enumerate(rows):
        if i and row["rank"] > rows[i - 1]["rank"] + 1:
            yield screen.paint("   ⋮  ⋮", "dim")
        cells = [screen.pad(values[i], size) for size, values in columns.values()]
        if row["removed_by"]:
            yield screen.paint("  ".join([*cells, f"✗ {row['removed_by']}"]), "dim")
            continue
        is_drawn = row["id"] == note["draw"]["id"]
        cells[1] = screen.highlight(cells[1]) if is_drawn else cells[1]
        bar = screen.bar(row["drawn_with"] / largest, room - 2)
        yield "  ".join([*cells, screen.paint(bar, "cyan") + " ◀" * is_drawn]).rstrip()
    if note["n_vocab"] > len(rows):
        n_left = note["support"] - sum(row["drawn_with"] > 0 for row in rows)
        yield screen.paint(f"   ⋮  {note['n_vocab'] - len(rows)} more, {n_left or 'none'} of them left", "dim")


def size_of(name, values):
    """The cells that a column takes; below 0, it is set to the right."""
    size = max(map(screen.cells, (name, *values)))
    return min(size, 16) if name == "token" else -size


def columns_of(note):
    """Yield (heading, values). What penalties and the temperature change has a column only if they do."""

    def column(key, text):
        return ["-inf" if row[key] is None else text(row[key]) for row in note["tokens"]]

    for key in ("rank", "token", "id"):
        yield key, [str(row[key]) for row in note["tokens"]]
    yield "logit", column("logit", "{:.2f}".format)
    if column("logit", str) != column("penalised_logit", str):
        yield "becomes", column("penalised_logit", "{:.2f}".format)
    yield "prob", column("probability", screen.decimal)
    if note["is_penalised"] or note["temperature"] != 1:
        yield f"T={note['temperature']:g}", column("at_temperature", screen.decimal)
    yield "sum", column("cumulative", screen.decimal)
    kept = [row["removed_by"] is None for row in note["tokens"]]
    yield "drawn", [text if left else "" for text, left in zip(column("drawn_with", screen.decimal), kept, strict=True)]
