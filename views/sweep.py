"""A grid of settings and the texts that each setting gives, for the same prompt and the same seed.

The prompt is computed once for the whole grid; all texts then continue as one batch (engine/batching.py).
Each setting is measured by numbers that are simple and common, but do not replace reading:

    distinct-n   different sequences of n tokens / all, over the texts of a setting          Li et al. 2016
    repeated     sequences of four tokens that occurred in the text before / all             Welleck et al. 2020
    log-prob     mean log-probability of a token under the model itself, without the setting, in nats
"""

import csv
import functools
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
from views.texts import Line

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
    model: Model, ids: list[int], grid: list[dict], options: Options, new_rng: Callable, watch: Callable = iter
) -> list[dict]:
    """Return a cell per setting: {"settings", the measures, "texts", "finish_reason"}.

    new_rng: returns the generator of sample i. watch: wraps the steps of the generation, for a progress bar.
    """
    completions = [
        [new_completion(model, setting, options, len(ids), new_rng(i)) for i in range(options.num_samples)]
        for setting in grid
    ]
    together = [completion for cell in completions for completion in cell]
    for _ in watch(generate_samples(ids, model.params, model.n_head, options.n_tokens_to_generate, together)):
        pass
    return [measure(setting, cell, model.encoder, ids) for setting, cell in zip(grid, completions, strict=True)]


def new_completion(model, setting, options, n_prompt, rng):
    observer = LogprobObserver(model.special.stop_ids)
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

# A result is (cells, about) of a prompt; about: "model", "prompt", "seed" and "n_tokens_to_generate".


def as_markdown(results: list[tuple], names: list[str]) -> str:
    """Return a table per prompt with a row per text. names: the options of a setting."""
    return "\n".join(markdown_table(cells, names, about) for cells, about in results)


def markdown_table(cells, names, about):
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


def as_csv(results: list[tuple], names: list[str]) -> str:
    """Return a header and a row per text, as in RFC 4180. Spreadsheets need the byte order mark to read UTF-8."""
    out = io.StringIO()
    writer = csv.writer(out)
    has_prompts = len(results) > 1
    writer.writerow([*["prompt"] * has_prompts, *names, "sample", *MEASURES, "finish_reason", "text"])
    for cells, about in results:
        for cell in cells:
            setting = [cell["settings"][name] for name in names]
            measures = [cell[name] for name in MEASURES]
            for i, (text, reason) in enumerate(zip(cell["texts"], cell["finish_reason"], strict=True)):
                writer.writerow([*[about["prompt"]] * has_prompts, *setting, i, *measures, reason, text])
    return "\ufeff" + out.getvalue()


def as_json(results: list[tuple], names: list[str]) -> str:
    """Return an object; of several prompts, a list of objects."""
    records = [record_of(*result) for result in results]
    return json.dumps(records[0] if len(records) == 1 else records, ensure_ascii=False, indent=1) + "\n"


def record_of(cells, about):
    return {**about, "measures": MEANING, "cells": cells}


FORMATS = {".md": as_markdown, ".csv": as_csv, ".json": as_json}


# ---- the view ----------------------------------------------------------------------------------------------------


def show_sweep(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Print the texts of each setting, or write them to a file."""
    show_sweep_lines(model, [ids], [Line(1, prompt)], options, seed)


def show_sweep_lines(model: Model, prompts: list[list[int]], lines: list[Line], options: Options, seed: int) -> None:
    """Print or write the texts of each setting for each prompt. They are those of batch.py with the same seed."""
    grid = settings.grid(options)
    names = list(grid[0])
    results = []
    for row, (ids, line) in enumerate(zip(prompts, lines, strict=True)):
        new_rng = functools.partial(settings.random_numbers, seed, row=row)
        cells = run_grid(model, ids, grid, options, new_rng, functools.partial(watch, options, row, len(lines)))
        about = {
            "model": model.name,
            "prompt": line.text,
            "seed": seed,
            "n_tokens_to_generate": options.n_tokens_to_generate,
        }
        if options.output:
            results.append((cells, about))
        elif options.json:
            writing.write_json(record_of(cells, about))
        else:
            heading = [screen.paint(screen.printable(line.text), "bold"), ""] if len(lines) > 1 else []
            writing.write_lines([*heading, *render(cells, names, screen.width())])
    if options.output:
        text = FORMATS[Path(options.output).suffix.lower()](results, names)
        writing.write_file(options.output, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    elif not options.json:
        writing.write_lines(screen.wrap(f"{MEANING}. Seed {seed}, the same for every setting.", screen.width()))


def watch(options, row, n_rows, steps):
    """Return the steps of a prompt with a progress bar."""
    label = f"prompt {row + 1} of {n_rows}" if n_rows > 1 else "generating"
    return writing.with_progress_bar(steps, options.n_tokens_to_generate, label)
