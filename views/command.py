"""Look inside: what the model expects next, what the knobs make of it, and how well it expects a text.

One command, four views, each with any model that gpt2.py takes, or with nine words that fit on a blackboard (--toy):

    next    the next token, from the logits to the draw             views/next_token.py
    plot    the same for several settings, as a picture             views/plot.py
    sweep   the texts of a grid of settings, side by side           views/sweep.py
    score   how likely a text is, token by token                    views/score.py

Nothing is computed in a way of its own: the logits come from gpt2.py, and what a filter keeps from sampling.py.
"""

import logging
import sys
from pathlib import Path

import numpy as np

import gpt2
import sampling
import utils
from checkpoints import files
from cli import flags, output
from cli.flags import FLAGS, Flag
from cli.prompt import check_words, prompt_loop, read_prompt
from views import next_token, plot, score, screen, settings, sweep
from views.toy import TOY_PROMPT, toy_model

log = logging.getLogger("picogpt")

# ---- the views -------------------------------------------------------------------------------------------------


def show_next(model, options, prompt, ids):
    """The way of each token, and at the end the text; or a JSON object a token."""
    for note in next_token.walk(model, ids, options):
        if options.json:
            put_json({"model": model.name, **note})
        else:
            put_lines([*next_token.lines_of(note, model.name, screen.width()), ""])
    if options.steps > 1 and not options.json:
        text = note["text"] + model.encoder.decode([note["draw"]["id"]])
        put_lines(screen.wrap(screen.printable(text), screen.width()))


def show_plot(model, options, prompt, ids):
    """Bars in the terminal, or a picture in a file."""
    title = f"{screen.cut_left(screen.printable(prompt), 60)} …"
    if options.heatmap:
        notes = list(watch(next_token.walk(model, ids, options), options.steps))
        how = settings.label(options.settings[0]) or "greedy"
        figure = plot.heatmap(notes, title, f"{how}, seed {options.seed}" if "u" in notes[0]["draw"] else how)
    else:
        names, own, series = plot.data(model, ids, options)
        title += "".join(f"  ({words})" for words in [settings.fixed(options.settings)] if words)
        if options.output is None:
            put_lines([screen.paint(title, "bold"), "", *plot.lines_of(names, series, screen.width())])
            return
        figure = plot.bars(names, own, series, title)
    write_file(options.output, lambda file: plot.save(figure, file, options.output))


def show_sweep(model, options, prompt, ids):
    """The texts of each setting, in the terminal or in a file."""
    table = sweep.cells(model, ids, options, lambda steps: watch(steps, options.n_tokens_to_generate))
    names = list(options.settings[0])
    about = {"model": model.name, "prompt": prompt, "seed": options.seed}
    about["n_tokens_to_generate"] = options.n_tokens_to_generate
    if options.output:
        text = sweep.FORMATS[Path(options.output).suffix.lower()](table, names, about)
        write_file(options.output, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    elif options.json:
        put_json({**about, "measures": sweep.MEANING, "cells": table})
    else:
        put_lines([*sweep.lines_of(table, names, screen.width()), f"Seed {options.seed}, the same for every setting."])


def show_score(model, options, text, ids):
    """The tokens of the text and what they cost the model, and the sums."""
    stride = options.stride or model.n_ctx
    scores = list(watch(score.score(ids, model, stride), len(ids)))
    if options.json:
        put_json(score.as_json(scores, ids, model, text, stride))
    else:
        put_lines(score.lines_of(scores, ids, model, text, options.rows, stride))


def watch(steps, n_steps):
    """The steps, with a progress bar while they take their time, if a person watches."""
    if not sys.stderr.isatty():
        return steps
    from tqdm import tqdm

    return tqdm(steps, total=n_steps, leave=False, delay=0.5)


def put_lines(lines):
    for line in lines:
        output.put(line + "\n")


def put_json(record):
    output.escape_half_pairs()
    output.put(output.as_line(record))


def write_file(name, write):
    """Let `write(file)` fill a file that has its name only when it is whole."""
    path = Path(files.expand(name))
    try:
        with files.new_file(path) as file:
            write(file)
    except OSError as error:
        raise OSError(f"cannot write {name}: {error.strerror or error}") from error
    log.info(f"wrote {name}")


# ---- what is asked for -----------------------------------------------------------------------------------------

MODEL = ("model_size", "models_dir", "toy")
SETTINGS = (*settings.NAMES, "logit_bias", "banned_ids", "seed")
VIEWS = {  # name -> what shows it, and the flags it takes
    "next": (show_next, (*MODEL, *SETTINGS, "steps", "rows", "json")),
    "plot": (show_plot, (*MODEL, *SETTINGS, "output", "rows", "heatmap", "steps")),
    "sweep": (show_sweep, (*MODEL, *SETTINGS, "num_samples", "n_tokens_to_generate", "output", "json")),
    "score": (show_score, (*MODEL, "stride", "rows", "json")),
}
OUR_OWN = {
    "toy": Flag(False, flags.switch),
    "steps": Flag(1, flags.whole(1), is_value=True),
    "rows": Flag(None, flags.whole(1), is_value=True),
    "output": Flag(None, flags.text),
    "heatmap": Flag(False, flags.switch),
    "stride": Flag(None, flags.whole(1), is_value=True),
}
TABLE = {name: FLAGS[name] for _, names in VIEWS.values() for name in names if name not in OUR_OWN} | OUR_OWN
TABLE |= {name: Flag(None, settings.several, FLAGS[name].is_value) for name in settings.NAMES}


def check(view, asked):
    """All options; ValueError for what cannot be. Nothing is read or loaded yet."""
    if view not in VIEWS:
        what = "name a view" if view is None else f"there is no view {view!r}"
        raise ValueError(f"{what}{sampling.did_you_mean(view, VIEWS)}; --help explains them")
    for name in asked:
        flags.check_known(name, TABLE)
        if name not in VIEWS[view][1]:
            others = [other for other, (_, names) in VIEWS.items() if name in names]
            raise ValueError(f"{view} takes no --{name}; it is for {' and '.join(others)}")
    options = flags.check_each(asked, TABLE)
    if options.toy and {"model_size", "models_dir"} & set(options.given):
        raise ValueError("--toy is a model of its own: leave out --model_size and --models_dir, or --toy")
    options.settings = settings.grid(options)
    settings.check(options)
    if len(options.settings) > 1 and (view == "next" or options.heatmap):
        name = settings.varying(options.settings)[0]
        raise ValueError(
            f"{name} has several values; one at a time here, plot without --heatmap and sweep compare them"
        )
    if view == "plot":
        check_plot(options)
    if view == "sweep":
        check_sweep(options)
    return options


def check_plot(options):
    if len(options.settings) > plot.MOST:
        raise ValueError(
            f"{len(options.settings)} settings are too many for a picture; at most {plot.MOST} are told apart"
        )
    if options.heatmap and options.output is None:
        raise ValueError(
            "a heat map needs a file: add --output heatmap.png; in the terminal, next --steps shows the same"
        )
    if options.steps > 1 and not options.heatmap:
        raise ValueError("steps are for --heatmap: bars show the next token alone")
    if options.output is not None:
        check_output(options.output, plot.FORMATS)
        plot.check_matplotlib()


def check_sweep(options):
    if options.settings == [{}]:
        raise ValueError("there is nothing to compare; give a knob several values, as in --temperature 0.3,0.7,1.0")
    n, shortest = options.n_tokens_to_generate, max(options.min_new_tokens or (0,))
    if shortest > n:
        raise ValueError(f"min_new_tokens is {shortest}, but n_tokens_to_generate only {n}")
    if options.output is not None:
        check_output(options.output, sweep.FORMATS)
        if options.json:
            raise ValueError("--json is for stdout, and --output for a file, .json too: leave out one of them")


def check_output(name, suffixes):
    """ValueError unless a file of that name can be what is asked for."""
    path = Path(files.expand(name))
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"output is {name!r}; its name must end in {', '.join(suffixes)}, which says what it will be")
    if not path.parent.is_dir():
        raise ValueError(f"output is {name!r}; there is no folder {str(path.parent)!r}: make it first")
    if path.is_dir():
        raise ValueError(f"output is {name!r}, which is a folder; it must be a file")


def main(view=None, prompt=None, *words, **asked):
    """Look inside GPT-2: what it expects next, and what the knobs make of that.

    python explore.py VIEW "PROMPT" [--flag value ...]

    The four views
      next     the next token: logit, probability, which filter removes what, what is
               left as bars, and the draw
      plot     the next token under several settings: bars, in the terminal or a file
      sweep    the texts of a grid of settings, side by side, and how varied they are
      score    how likely a text is: each token, perplexity, bits per byte

    The prompt, or the text to score, goes in quotes, or comes from FILE:notes.txt or a
    pipe; of both, the pipe is first. The new line that ends them is not part of it.

    The model
      --model_size NAME          as for gpt2.py: 124M, 355M, 774M, 1558M, or tiny, which
                                 is bundled, or another model's folder (124M)
      --models_dir FOLDER        where models are kept, and downloaded to (models)
      --toy                      nine words instead, always with the same nine logits:
                                 no model, nothing to load

    Settings: those of gpt2.py, see its --help. plot and sweep take several values of
    each, as in --temperature 0.3,0.7,1.0, and show every combination
      --temperature --top_k --top_p --min_p --typical_p --entmax_alpha
      --mirostat_tau --mirostat_eta --strategy --preset
      --repetition_penalty --presence_penalty --frequency_penalty
      --no_repeat_ngram_size --min_new_tokens
      --logit_bias JSON, --banned_ids LIST       the same for all
      --seed N                   the same number, the same draws (a new one each time)

    next
      --steps N                  walk on for N tokens (1)
      --rows N                   show the N likeliest tokens (12, or 5 of many steps)
      --json                     one JSON object a token

    plot
      --output FILE              a .png, .svg or .pdf in place of bars in the terminal;
                                 takes matplotlib: pip install matplotlib
      --rows N                   show the N likeliest tokens (10)
      --heatmap                  instead: the likeliest tokens at each of --steps N
                                 places

    sweep
      --num_samples N            texts a setting (1)
      --n_tokens_to_generate N   at most so many new tokens a text (40)
      --output FILE              a .md, .csv or .json in place of the terminal
      --json                     one JSON object on stdout

    score
      --stride N                 windows that move on by N tokens, and so overlap, for
                                 more context; without it they do not, as in
                                 lm-evaluation-harness
      --rows N                   list the N most surprising tokens (5, or all without
                                 colour)
      --json                     one JSON object, with every token

    Colours: on a terminal, unless NO_COLOR is set or TERM is dumb; FORCE_COLOR has them
    everywhere. The width is the terminal's, or COLUMNS.

    Examples
      python explore.py next "Once upon a time" --model_size tiny --top_p 0.9 --seed 1
      python explore.py plot --toy --temperature 0.1,1,5
      python explore.py sweep "Once upon a time" --model_size tiny --temperature 0.3,1
      python explore.py score "Once upon a time there was a dog." --model_size tiny
    """
    options = check(view, asked)
    check_words(prompt, words)
    if not options.toy:
        options.model = utils.find_model(options.model_size, options.models_dir).name
    is_given = prompt is not None or not options.toy or view == "score"
    prompt = read_prompt(prompt) if is_given else TOY_PROMPT
    if options.seed is None:
        options.seed = int(np.random.SeedSequence().generate_state(1)[0])
    model = load(options)
    if prompt is None:
        prompt_loop(lambda typed, index: show(view, model, options, typed))
    else:
        show(view, model, options, prompt)


def load(options):
    """The model, its encoder and its sizes."""
    return toy_model() if options.toy else utils.load(options.model_size, options.models_dir)


def show(view, model, options, prompt):
    """Show a view. What is wrong now is not what was asked for, which has been checked, but the model."""
    ids = encode(view, model, options, prompt)
    try:
        VIEWS[view][0](model, options, prompt, ids)
    except ValueError as error:
        raise RuntimeError(str(error)) from error


def encode(view, model, options, prompt):
    """The ids of the prompt, or of the text to score; ValueError for what does not fit the model."""
    ids = model.encoder.encode(prompt)
    if view == "score":
        if not ids:
            raise ValueError("there is nothing to score: the text is empty")
        if (options.stride or 1) > model.n_ctx:
            raise ValueError(f"stride is {options.stride}; it must be at most this model's context, {model.n_ctx}")
        return ids
    sampling.check_ids((*(options.logit_bias or ()), *options.banned_ids), model.n_vocab)
    ids = ids or [model.encoder.start]
    gpt2.check_request(ids, 0, model.n_vocab, model.n_ctx)
    return ids
