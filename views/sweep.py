"""A grid of settings and the texts that each setting gives, for the same prompt and the same seed.

The prompt is computed once for the whole grid; all texts then continue as one batch (engine/batching.py).
Each setting is measured by numbers that are simple and common, but do not replace reading:

    distinct-n   different sequences of n tokens / all, over the texts of a setting          Li et al. 2016
    repeated     sequences of four tokens that occurred in the text before / all             Welleck et al. 2020
    log-prob     mean log-probability of a token under the model itself, without the setting, in nats
"""

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import sampling
from cli.options import Options
from encoder import Encoder
from engine.batching import generate_samples
from engine.completion import Completion
from utils import Model
from views import screen, settings, writing

MEASURES = ("distinct_1", "distinct_2", "repeated", "logprob")
MEANING = (
    "distinct-n: different sequences of n tokens / all, over the texts of a setting; repeated: sequences of four "
    "tokens that occurred in the text before / all; log-prob: mean log-probability of a token under the model itself, "
    "in nats"
)


# ---- the texts -------------------------------------------------------------------------------------------------


class LogprobObserver:
    """An observer of a completion that records the log-probability of each token under the model itself.

    That is the probability before penalties and temperature. stop_ids: ids that are not recorded.
    Attribute: `logprobs`, one float per token.
    """

    def __init__(self, stop_ids: Collection[int] = ()):
        self.stop_ids = stop_ids
        self.logprobs = []

    def __call__(self, raw, processed, token):
        if token not in self.stop_ids:
            self.logprobs.append(float(sampling.log_softmax(raw)[token]))


def run_grid(
    model: Model, ids: list[int], grid: list[dict], options: Options, seed: int, watch: Callable = iter
) -> list[dict]:
    """Return a cell per setting: {"settings", the measures, "texts", "finish_reason"}.

    watch: wraps the steps of the generation, for a progress bar.
    """
    completions = [
        [new_completion(model, setting, options, len(ids), seed, i) for i in range(options.num_samples)]
        for setting in grid
    ]
    together = [completion for cell in completions for completion in cell]
    for _ in watch(generate_samples(ids, model.params, model.n_head, options.n_tokens_to_generate, together)):
        pass
    return [measure(setting, cell, model.encoder, ids) for setting, cell in zip(grid, completions, strict=True)]


def new_completion(model, setting, options, n_prompt, seed, i):
    observer = LogprobObserver(model.special.stop_ids)
    rng = settings.random_numbers(seed, i)
    return settings.new_completion(model, setting, options, n_prompt, rng, on_token=observer)


def measure(setting: dict, completions: list[Completion], encoder: Encoder, prompt_ids: Collection[int] = ()) -> dict:
    """Return the cell of a setting, whose completions have a LogprobObserver."""
    ids = [completion.ids for completion in completions]
    return {
        "settings": setting,
        "distinct_1": distinct(ids, 1),
        "distinct_2": distinct(ids, 2),
        "repeated": mean([1 - distinct([one], 4) for one in ids if len(one) >= 4]),
        "logprob": mean([p for completion in completions for p in completion.on_token.logprobs]),
        "texts": ["".join(encoder.stream(one, prompt_ids)) for one in ids],
        "finish_reason": [completion.finish_reason for completion in completions],
    }


def distinct(texts: list[list[int]], n: int) -> float | None:
    """Return the share of different sequences of n tokens among all in these texts; None if there are none.

    >>> distinct([[1, 2, 1, 2], [1, 2]], 1), distinct([[1, 2, 1, 2], [1, 2]], 2), distinct([[1]], 2)
    (0.3333333333333333, 0.5, None)
    """
    sequences = [tuple(ids[i : i + n]) for ids in texts for i in range(len(ids) - n + 1)]
    return len(set(sequences)) / len(sequences) if sequences else None


def mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


# ---- in the terminal -------------------------------------------------------------------------------------------


def render(cells: list[dict], names: list[str], width: int) -> Iterator[str]:
    """Yield a line per cell with its setting and measures, and its texts below it. names: the options of a setting."""
    headings = [*names, *(name.replace("_", "-").replace("logprob", "log-prob") for name in MEASURES)]
    rows = [row_of(cell, names) for cell in cells]
    sizes = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    yield screen.paint("  ".join(map(str.rjust, headings, sizes)), "dim")
    for row, cell in zip(rows, cells, strict=True):
        yield screen.paint("  ".join(map(str.rjust, row, sizes)), "bold")
        for i, text in enumerate(cell["texts"], start=1):
            number = f"{i:5} " if len(cell["texts"]) > 1 else " " * 6
            yield from render_text(text, number, width)
        yield ""
    yield from screen.wrap(MEANING, width)


def render_text(text, number, width):
    """Yield the lines of a text, the first with its number, the others indented."""
    shown = screen.printable(text).replace("\\n", "⏎ ").strip()
    for line in screen.wrap(shown, width - len(number)):
        yield screen.paint(number, "dim") + line
        number = " " * len(number)


def row_of(cell, names):
    values = (cell["settings"][name] for name in names)
    measures = (cell[name] for name in MEASURES)
    return [
        *(value if isinstance(value, str) else f"{value:g}" for value in values),
        *("-" if number is None else f"{number:.2f}" for number in measures),
    ]


# ---- in a file -------------------------------------------------------------------------------------------------


def as_markdown(cells: list[dict], names: list[str], about: dict) -> str:
    """Return a table with a row per text. about: "model", "prompt" and "seed"."""
    headings = [*names, *MEASURES, "text"]
    lines = [
        f"{escape_markdown(about['model'])}: {escape_markdown(about['prompt'])}",
        "",
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * len(headings),
    ]
    for cell in cells:
        for text in cell["texts"]:
            lines.append("| " + " | ".join([*row_of(cell, names), escape_markdown(text.strip())]) + " |")
    return "\n".join([*lines, "", f"Seed {about['seed']}. {MEANING}.", ""])


def escape_markdown(text):
    """Return text that Markdown shows literally."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", screen.printable(text, but="\n")).replace("\n", "<br>")


def as_csv(cells: list[dict], names: list[str], about: dict) -> str:
    """Return a header and a row per text, as in RFC 4180. Spreadsheets need the byte order mark to read UTF-8."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*names, "sample", *MEASURES, "finish_reason", "text"])
    for cell in cells:
        setting = [cell["settings"][name] for name in names]
        measures = [cell[name] for name in MEASURES]
        for i, (text, reason) in enumerate(zip(cell["texts"], cell["finish_reason"], strict=True)):
            writer.writerow([*setting, i, *measures, reason, text])
    return "\ufeff" + out.getvalue()


def as_json(cells: list[dict], names: list[str], about: dict) -> str:
    return json.dumps({**about, "measures": MEANING, "cells": cells}, ensure_ascii=False, indent=1) + "\n"


FORMATS = {".md": as_markdown, ".csv": as_csv, ".json": as_json}


# ---- the view ----------------------------------------------------------------------------------------------------


def show_sweep(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Print the texts of each setting, or write them to a file."""
    grid = settings.grid(options)
    names = list(grid[0])
    n_tokens = options.n_tokens_to_generate
    cells = run_grid(model, ids, grid, options, seed, lambda steps: writing.with_progress_bar(steps, n_tokens))
    about = {"model": model.name, "prompt": prompt, "seed": seed, "n_tokens_to_generate": n_tokens}
    if options.output:
        text = FORMATS[Path(options.output).suffix.lower()](cells, names, about)
        writing.write_file(options.output, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    elif options.json:
        writing.write_json({**about, "measures": MEANING, "cells": cells})
    else:
        lines = render(cells, names, screen.width())
        end = screen.wrap(f"Seed {seed}, the same for every setting.", screen.width())
        writing.write_lines([*lines, *end])
