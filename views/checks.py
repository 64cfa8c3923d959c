"""Which options each view takes, and their checks, before a model is loaded."""

import os
from pathlib import Path

import sampling
from checkpoints import files
from checkpoints.messages import named
from cli.checks import shown
from cli.command_flags import EXPLORE_FLAGS, VIEW_SETTINGS
from cli.flags import PROMPT_FLAGS
from cli.options import Options, check_each
from views import pictures, plot, settings, sweep

MODEL = ("model_size", "models_dir", "offline", "toy", "special", *PROMPT_FLAGS, "threads", "config")
SETTINGS = (*VIEW_SETTINGS, "logit_bias", "banned_ids", "banned_words", "seed")
PAGE_SETTINGS = tuple(name for name in VIEW_SETTINGS if name not in ("mirostat_tau", "mirostat_eta", "min_new_tokens"))
VIEWS = {  # view -> its flags, names in EXPLORE_FLAGS
    "next": (*MODEL, "weights", *SETTINGS, "steps", "rows", "json"),
    "plot": (*MODEL, "weights", *SETTINGS, "output", "rows", "heatmap", "steps"),
    "sweep": (*MODEL, "weights", *SETTINGS, "lines", "num_samples", "n_tokens_to_generate", "output", "json"),
    "score": (*MODEL, "weights", "lines", "given", "stride", "rows", "json"),
    "tokens": (*MODEL, "merges", "json"),
    "attention": (*MODEL, "layer", "head", "rows", "json"),
    "page": (*MODEL, *PAGE_SETTINGS, "seed", "steps", "lesson", "output"),
}
BUNDLED = "tiny"  # the model of a page, unless the user chooses another


def check(view: str | None, asked: dict) -> Options:
    """Return the options of a view. Raise ValueError if they are invalid, before a model is loaded."""
    check_view(view, asked)
    options = check_each(with_bundled_model(view, asked), EXPLORE_FLAGS)
    if options.toy and {"model_size", "models_dir"} & set(options.given):
        raise ValueError("--toy replaces the model; remove it, or remove --model_size and --models_dir")
    settings.check_size(options)
    grid = settings.grid(options)
    settings.check_grid(grid, options)
    if len(grid) > 1 and (view in ("next", "page") or options.heatmap):
        name = settings.varying(grid)[0]
        command = "plot --heatmap" if options.heatmap else view
        raise ValueError(
            f"{name} has several values; {command} takes one, plot without --heatmap and sweep compare several"
        )
    if view == "plot":
        check_plot(grid, options)
    if view == "sweep":
        check_sweep(grid, options)
    if view == "page":
        check_page(grid, options)
    if options.values["given"] is not None and "stride" in options.given:
        raise ValueError("stride has no effect with --given, which reads one window: remove it")
    return options


def with_bundled_model(view, asked):
    """Return the options that were given; those of a page have the bundled model if no model was chosen."""
    is_chosen = asked.get("toy") or asked.get("model_size") or os.environ.get(EXPLORE_FLAGS["model_size"].variable)
    return asked if view != "page" or is_chosen else {**asked, "model_size": BUNDLED}


def check_view(view, asked):
    """Raise ValueError if there is no such view or if it does not take one of the flags."""
    if view not in VIEWS:
        problem = "the view is missing" if view is None else f"there is no view {shown(view)}"
        raise ValueError(f"{problem}{sampling.did_you_mean(view, VIEWS)}; --help explains them")
    for name in asked:
        if name in EXPLORE_FLAGS and name not in VIEWS[view]:
            others = [other for other, names in VIEWS.items() if name in names]
            raise ValueError(f"{view} takes no --{name}; it is an option of {in_words(others)}")


def in_words(names):
    """Return "next, plot and sweep"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


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
        check_output(options.output, pictures.FORMATS)
        check_picture_size(options)
        pictures.check_matplotlib()


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


def check_page(grid, options):
    if options.output is None:
        raise ValueError("a page needs a file: add --output page.html")
    check_output(options.output, (".html", ".htm"))
    if isinstance(settings.new_sampler(grid[0]), sampling.Mirostat):
        raise ValueError("strategy is 'mirostat'; a page has no mirostat, whose state depends on the draws: remove it")


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
