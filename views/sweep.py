"""A grid of settings and the texts that each gives: same prompt, same seed, side by side.

The prompt is computed once for the whole grid: all its texts go on from there as one batch (gpt2.generate_samples).
Each setting is measured by numbers that are cheap and common, and no substitute for reading:

    distinct-n   different runs of n tokens / all of them, over the texts of a setting       Li et al. 2016
    repeated     runs of four tokens that were in the text before / all of them              Welleck et al. 2020
    log-prob     mean log-probability of a token under the model itself, whatever the setting, in nats
"""

import csv
import io
import json
import re

import numpy as np

import gpt2
import sampling
from views import screen, settings

MEASURES = ("distinct_1", "distinct_2", "repeated", "logprob")
MEANING = (
    "distinct-n: different runs of n tokens / all, over the texts of a setting; repeated: runs of four tokens that the "
    "text had before / all; log-prob: mean log-probability of a token under the model itself, in nats"
)


# ---- the texts -------------------------------------------------------------------------------------------------


class Measured(sampling.Sample):
    """A sample that notes what the model itself, before penalties and temperature, gave each of its tokens."""

    def __init__(self, *args):
        super().__init__(*args)
        self.logprobs = []

    def extend(self, logits, prompt):
        super().extend(logits, prompt)
        if self.ended != "eos":
            x = sampling.scale(logits)
            self.logprobs.append(float(x[self.ids[-1]] - np.log(np.exp(x).sum())))


def cells(model, ids, options, watch=iter):
    """The texts of every setting: a list of {"settings", "texts", "ended", and the measures}."""
    stops = {model.encoder.end_of_text} - {None}
    samples = [
        [measured(model, setting, options, len(ids), i, stops) for i in range(options.num_samples)]
        for setting in options.settings
    ]
    n, everyone = options.n_tokens_to_generate, [sample for cell in samples for sample in cell]
    for _ in watch(gpt2.generate_samples(ids, model.params, model.n_head, n, everyone)):
        pass
    return [cell(*pair, model.encoder) for pair in zip(options.settings, samples, strict=True)]


def measured(model, setting, options, n_prompt, i, stops):
    sampler, processor = settings.sampler_and_processor(model, setting, options, n_prompt)
    return Measured(sampler, settings.random_numbers(options, i), processor, stops)


def cell(setting, samples, encoder):
    ids, logprobs = [sample.ids for sample in samples], [p for sample in samples for p in sample.logprobs]
    return {
        "settings": setting,
        "distinct_1": distinct(ids, 1),
        "distinct_2": distinct(ids, 2),
        "repeated": mean([1 - distinct([one], 4) for one in ids if len(one) >= 4]),
        "logprob": mean(logprobs),
        "texts": [encoder.decode(one) for one in ids],
        "ended": [sample.ended for sample in samples],
    }


def distinct(texts, n):
    """Different runs of n tokens, as a part of all runs of n tokens in these texts; None if there is none.

    >>> distinct([[1, 2, 1, 2], [1, 2]], 1), distinct([[1, 2, 1, 2], [1, 2]], 2), distinct([[1]], 2)
    (0.3333333333333333, 0.5, None)
    """
    runs = [tuple(ids[i : i + n]) for ids in texts for i in range(len(ids) - n + 1)]
    return len(set(runs)) / len(runs) if runs else None


def mean(numbers):
    return sum(numbers) / len(numbers) if numbers else None


# ---- on the screen ---------------------------------------------------------------------------------------------


def lines_of(table, names, width):
    """A line of settings and measures a cell, its texts below it."""
    headings = [*names, *(name.replace("_", "-").replace("logprob", "log-prob") for name in MEASURES)]
    rows = [row_of(cell, names) for cell in table]
    sizes = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    yield screen.paint("  ".join(map(str.rjust, headings, sizes)), "dim")
    for row, cell in zip(rows, table, strict=True):
        yield screen.paint("  ".join(map(str.rjust, row, sizes)), "bold")
        for i, text in enumerate(cell["texts"]):
            mark = f"{i + 1:5} " if len(cell["texts"]) > 1 else "      "
            for line in screen.wrap(screen.printable(text).replace("\\n", "⏎ ").strip(), width - len(mark)):
                yield screen.paint(mark, "dim") + line
                mark = " " * len(mark)
        yield ""
    yield from screen.wrap(MEANING, width)


def row_of(cell, names):
    values = (cell["settings"][name] for name in names)
    measures = (cell[name] for name in MEASURES)
    return [
        *(value if isinstance(value, str) else f"{value:g}" for value in values),
        *("-" if number is None else f"{number:.2f}" for number in measures),
    ]


# ---- in a file -------------------------------------------------------------------------------------------------


def as_markdown(table, names, about):
    """A table with a row a text."""
    headings = [*names, *MEASURES, "text"]
    lines = [f"{about['model']}: {escaped(about['prompt'])}", ""] if about else []
    lines += ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for cell in table:
        for text in cell["texts"]:
            lines.append("| " + " | ".join([*row_of(cell, names), escaped(text.strip())]) + " |")
    return "\n".join([*lines, "", f"Seed {about['seed']}. {MEANING}.", ""])


def escaped(text):
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", screen.printable(text, but="\n")).replace("\n", "<br>")


def as_csv(table, names, about):
    """A header and a row a text, as RFC 4180 has it; spreadsheets need the mark in front to read UTF-8."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow([*names, "sample", *MEASURES, "ended", "text"])
    for cell in table:
        setting, measures = [cell["settings"][name] for name in names], [cell[name] for name in MEASURES]
        for i, (text, ended) in enumerate(zip(cell["texts"], cell["ended"], strict=True)):
            rows.writerow([*setting, i, *measures, ended, text])
    return "\ufeff" + out.getvalue()


def as_json(table, names, about):
    return json.dumps({**about, "measures": MEANING, "cells": table}, ensure_ascii=False, indent=1) + "\n"


FORMATS = {".md": as_markdown, ".csv": as_csv, ".json": as_json}
