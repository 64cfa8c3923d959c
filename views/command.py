"""The command explore.py: its help, its checks, and what each view prints.

    next    how the next token is chosen                   views/next_token.py
    plot    the next token for several settings, as bars   views/plot.py
    sweep   the texts of a grid of settings                views/sweep.py
    score   how likely a text is, token by token           views/score.py

The views add no computation of their own: the logits are those of gpt2.py and the engine, the filters those of
sampling.py. `--toy` replaces the model by nine words with fixed logits (views/toy.py).
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import sampling
from checkpoints import files
from checkpoints.messages import named, reason
from cli import output
from cli.checks import shown
from cli.command_flags import EXPLORE_FLAGS, VIEW_SETTINGS
from cli.flags import PROMPT_FLAGS
from cli.help import Command
from cli.loop import prompt_loop
from cli.messages import run_time_failures
from cli.options import Options, check_each
from cli.prompt import read_prompt, source_of
from cli.request import allows_special, encode_prompt, find_model, load_model, seed_of
from utils import Model
from views import next_token, plot, score, screen, settings, sweep
from views.toy import TOY_PROMPT, toy_model

log = logging.getLogger("picogpt")

MODEL = ("model_size", "models_dir", "offline", "toy", "special", *PROMPT_FLAGS, "threads", "config")
SETTINGS = (*VIEW_SETTINGS, "logit_bias", "banned_ids", "banned_words", "seed")
VIEWS = {  # view -> its flags, names in EXPLORE_FLAGS
    "next": (*MODEL, *SETTINGS, "steps", "rows", "json"),
    "plot": (*MODEL, *SETTINGS, "output", "rows", "heatmap", "steps"),
    "sweep": (*MODEL, *SETTINGS, "num_samples", "n_tokens_to_generate", "output", "json"),
    "score": (*MODEL, "stride", "rows", "json"),
}

# ---- the help --------------------------------------------------------------------------------------------------

EXPLORE = Command(
    usage='explore.py VIEW "PROMPT" [--option value ...]',
    about="""Inspect GPT-2: what it expects next, how the options change that, and how likely a text is.

        | next     how the next token is chosen: logits, probabilities, what each
        |          filter removes, and the draw
        | plot     the next token for several settings: bars, in the terminal or in
        |          a file, or a heat map of several tokens
        | sweep    the texts of a grid of settings, and measures of their variety
        | score    how likely a text is: each token, perplexity, bits per byte

        The prompt, or the text to score, is a quoted text, FILE:notes.txt, or the text of a pipe; if both are given,
        the piped text comes first. The newline that ends a file or a pipe is removed. Without a prompt, a terminal asks
        for one after another, and --toy continues "every effort moves you".

        next, plot and sweep take the sampling options and penalties of gpt2.py. plot and sweep take several values of
        each, as in --temperature 0.3,0.7,1.0, and show every combination; --logit_bias, --banned_ids and --seed are
        the same for all of them.""",
    flags=EXPLORE_FLAGS,
    kinds=("view", VIEWS),
    closing="""Colours appear on a terminal, unless NO_COLOR is set or TERM is dumb; FORCE_COLOR adds them everywhere.
        The width is the terminal's, or COLUMNS. Exit codes: 0 success, 1 run-time failure, 2 usage error, 130
        Ctrl-C, 143 SIGTERM, 129 SIGHUP.""",
    examples=(
        'python explore.py next "Once upon a time" --model_size tiny --top_p 0.9',
        "python explore.py plot --toy --temperature 0.1,1,5",
        'python explore.py sweep "Once upon a time" --model_size tiny --top_p 0.5,0.9',
        'python explore.py score "Once upon a time there was a dog." --model_size tiny',
    ),
)

# ---- checks ----------------------------------------------------------------------------------------------------


def check(view: str | None, asked: dict) -> Options:
    """Return the options of a view. Raise ValueError if they are invalid, before a model is loaded."""
    check_view(view, asked)
    options = check_each(asked, EXPLORE_FLAGS)
    if options.toy and {"model_size", "models_dir"} & set(options.given):
        raise ValueError("--toy replaces the model; remove it, or remove --model_size and --models_dir")
    settings.check_size(options)
    grid = settings.grid(options)
    settings.check_grid(grid, options)
    if len(grid) > 1 and (view == "next" or options.heatmap):
        name = settings.varying(grid)[0]
        command = "plot --heatmap" if options.heatmap else "next"
        raise ValueError(
            f"{name} has several values; {command} takes one, plot without --heatmap and sweep compare several"
        )
    if view == "plot":
        check_plot(grid, options)
    if view == "sweep":
        check_sweep(grid, options)
    return options


def check_view(view, asked):
    """Raise ValueError if there is no such view or if it does not take one of the flags."""
    if view not in VIEWS:
        problem = "the view is missing" if view is None else f"there is no view {shown(view)}"
        raise ValueError(f"{problem}{sampling.did_you_mean(view, VIEWS)}; --help explains them")
    for name in asked:
        if name in EXPLORE_FLAGS and name not in VIEWS[view]:
            others = [other for other, names in VIEWS.items() if name in names]
            raise ValueError(f"{view} takes no --{name}; it is an option of {' and '.join(others)}")


def check_plot(grid, options):
    if len(grid) > plot.MAX_SETTINGS:
        raise ValueError(f"the grid has {len(grid)} settings; a picture shows at most {plot.MAX_SETTINGS}")
    if options.heatmap and options.output is None:
        raise ValueError(
            "a heat map needs a file: add --output heatmap.png; in the terminal, next --steps shows the same"
        )
    if options.steps > 1 and not options.heatmap:
        raise ValueError(f"steps is {options.steps}, but bars show one token: add --heatmap, or remove --steps")
    if options.output is not None:
        check_output(options.output, plot.FORMATS)
        check_picture_size(options)
        plot.check_matplotlib()


def check_picture_size(options):
    for name, value, most in (("steps", options.steps, plot.MAX_STEPS), ("rows", options.rows or 1, plot.MAX_ROWS)):
        if value > most:
            raise ValueError(f"{name} is {value}; a picture shows at most {most}")


def check_sweep(grid, options):
    if grid == [{}]:
        raise ValueError("there is nothing to compare; give an option several values: --temperature 0.3,0.7,1.0")
    shortest = max(options.min_new_tokens or (0,))
    if shortest > options.n_tokens_to_generate:
        raise ValueError(
            f"min_new_tokens is {shortest}, but n_tokens_to_generate is only {options.n_tokens_to_generate}"
        )
    if options.output is not None:
        check_output(options.output, sweep.FORMATS)
        if options.json:
            raise ValueError("--json prints to stdout and --output writes a file, also .json; remove one of them")


def check_output(name, suffixes):
    """Raise ValueError unless a file of that name can be written in one of the formats."""
    path = Path(files.expand(name))
    output = f"output is '{named(name)}'"
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{output}; its name must end in {', '.join(suffixes)}, which selects the format")
    if not os.path.isdir(path.parent):
        raise ValueError(f"{output}, but there is no folder '{named(path.parent)}'; create it first")
    if os.path.isdir(path):
        raise ValueError(f"{output}, a folder; it must be a file")
    try:
        files.check_replaceable(path, path.stat())
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"{output}: {error.strerror}") from None


# ---- the views -------------------------------------------------------------------------------------------------


def show_next(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Print how each token is chosen, and at the end the text; or a JSON object per token."""
    (setting,) = settings.grid(options)
    shown = list(ids)
    for record in next_token.trace(model, ids, setting, options, seed):
        shown.append(record["draw"]["id"])
        if options.json:
            write_json({"model": model.name, **record})
        else:
            write_lines([*next_token.render(record, model.name, screen.width()), ""])
    if options.steps > 1 and not options.json:
        write_lines(screen.wrap(screen.printable(model.encoder.decode(shown)), screen.width()))


def show_plot(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Print bars, or write a picture to a file."""
    title = f"{screen.cut_left(screen.printable(prompt), 60)} …"
    if options.heatmap:
        figure = heatmap(model, ids, title, options, seed)
        write_file(options.output, lambda file: plot.save(figure, file, options.output))
        return
    grid = settings.grid(options)
    names, own, series = plot.compare(model, ids, grid, options)
    if fixed := settings.label_of_fixed(grid):
        title += f"  ({fixed})"
    if options.output is None:
        write_lines([screen.paint(title, "bold"), "", *plot.render(names, series, screen.width())])
    else:
        figure = plot.bars(names, own, series, title)
        write_file(options.output, lambda file: plot.save(figure, file, options.output))


def heatmap(model, ids, title, options, seed):
    (setting,) = settings.grid(options)
    records = list(with_progress_bar(next_token.trace(model, ids, setting, options, seed), options.steps))
    how = settings.label(setting) or "greedy"
    is_drawn = "u" in records[0]["draw"]
    return plot.heatmap(records, title, f"{how}, seed {seed}" if is_drawn else how)


def show_sweep(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Print the texts of each setting, or write them to a file."""
    grid = settings.grid(options)
    names = list(grid[0])
    n_tokens = options.n_tokens_to_generate
    cells = sweep.run_grid(model, ids, grid, options, seed, lambda steps: with_progress_bar(steps, n_tokens))
    about = {"model": model.name, "prompt": prompt, "seed": seed, "n_tokens_to_generate": n_tokens}
    if options.output:
        text = sweep.FORMATS[Path(options.output).suffix.lower()](cells, names, about)
        write_file(options.output, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    elif options.json:
        write_json({**about, "measures": sweep.MEANING, "cells": cells})
    else:
        lines = sweep.render(cells, names, screen.width())
        end = screen.wrap(f"Seed {seed}, the same for every setting.", screen.width())
        write_lines([*lines, *end])


def show_score(model: Model, ids: list[int], text: str, options: Options, seed: int) -> None:
    """Print the tokens of a text with their log-probabilities, and the totals."""
    stride = options.stride or model.n_ctx
    scores = list(with_progress_bar(score.score(ids, model, stride), len(ids)))
    if options.json:
        write_json(score.as_json(scores, ids, model, text, stride))
    else:
        write_lines(score.render(scores, ids, model, text, options.rows, stride))


SHOW = {"next": show_next, "plot": show_plot, "sweep": show_sweep, "score": show_score}


def with_progress_bar(steps: Iterable, n_steps: int) -> Iterable:
    """Return the steps, with a progress bar on a terminal if they take more than half a second."""
    if not sys.stderr.isatty():
        return steps
    from tqdm import tqdm

    return tqdm(steps, total=n_steps, leave=False, delay=0.5)


def write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        output.write(line + "\n")


def write_json(record: dict) -> None:
    output.escape_lone_surrogates()
    output.write(output.as_line(record))


def write_file(name: str, write: Callable[[BinaryIO], object]) -> None:
    """Let `write(file)` fill a file. It appears under its name only when it is complete."""
    try:
        with files.new_file(Path(files.expand(name))) as file:
            write(file)
    except OSError as error:
        raise OSError(f"cannot write {named(name)}: {reason(error)}") from error
    log.info(f"wrote {named(name)}")


# ---- the command -----------------------------------------------------------------------------------------------


def explore(view: str, prompt: str | None, options: Options) -> None:
    """Show a view of `prompt`, or of each prompt typed at the terminal if it is None.

    options: as from `check`.
    """
    if options.output is None:
        output.check_stdout()
    if not options.toy:
        path = find_model(options)
    has_default = options.toy and view != "score"
    prompt = source_of(prompt, options)
    prompt = TOY_PROMPT if prompt is None and has_default else read_prompt(prompt, options)
    with run_time_failures():
        model = toy_model() if options.toy else load_model(path, options)

    def answer(text):
        show(view, model, text, options, seed_of(options))

    if prompt is None:
        prompt_loop(answer, keeps_history=options.history)
    else:
        answer(prompt)


def show(view, model, prompt, options, seed):
    """Show a view. The request is valid once the prompt is encoded; a later ValueError is a run-time failure."""
    ids = encode_text(prompt, model, options) if view == "score" else encode_prompt(prompt, model, options)
    with run_time_failures():
        SHOW[view](model, ids, prompt, options, seed)


def encode_text(text, model, options):
    """Return the ids of a text to score. Raise ValueError if it is empty, or if the stride is too large."""
    ids = model.encoder.encode(text, allows_special(text, model, options))
    if not ids:
        raise ValueError("there is nothing to score: the text is empty")
    if (options.stride or 1) > model.n_ctx:
        raise ValueError(f"stride is {options.stride}; it must be at most this model's context, {model.n_ctx}")
    return ids
