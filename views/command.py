"""The command explore.py: its help, and how it comes from a prompt to a view.

    next        how the next token is chosen                   views/next_token.py
    plot        the next token for several settings, as bars   views/plot.py
    sweep       the texts of a grid of settings                views/sweep.py
    score       how likely a text is, token by token           views/score.py
    page        an interactive page that contains the model    views/page/

The views add no computation of their own: the logits are those of gpt2.py and the engine, the filters those of
sampling.py. `--toy` replaces the model by nine words with fixed logits (views/toy.py). views/checks.py says which
options each view takes.
"""

from cli import output
from cli.command_flags import EXPLORE_FLAGS
from cli.help import Command
from cli.loop import prompt_loop
from cli.messages import run_time_failures
from cli.options import Options
from cli.prompt import read_prompt, source_of
from cli.request import allows_special, encode_prompt, find_model, load_model, seed_of
from views.checks import VIEWS, check
from views.next_token import show_next
from views.page.build import DEFAULT_PROMPT, check_prompt, show_page
from views.plot import show_plot
from views.score import show_score
from views.sweep import show_sweep
from views.toy import TOY_PROMPT, toy_model

__all__ = ["EXPLORE", "check", "explore"]

SHOW = {"next": show_next, "plot": show_plot, "sweep": show_sweep, "score": show_score, "page": show_page}

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
        | page     an interactive page that contains the model: one HTML file

        The prompt, or the text to score, is a quoted text, FILE:notes.txt, or the text of a pipe; if both are given,
        the piped text comes first. The newline that ends a file or a pipe is removed. Without a prompt, a terminal asks
        for one after another, and --toy continues "every effort moves you". page
        needs no prompt, and no --model_size: it shows the bundled model.

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

# ---- the command -----------------------------------------------------------------------------------------------


def explore(view: str, prompt: str | None, options: Options) -> None:
    """Show a view of `prompt`, or of each prompt typed at the terminal if it is None.

    options: as from `check`.
    """
    if options.output is None:
        output.check_stdout()
    if not options.toy:
        path = find_model(options)
    prompt = source_of(prompt, options)
    default = default_prompt(view, options)
    prompt = default if prompt is None and default is not None else read_prompt(prompt, options)
    with run_time_failures():
        model = toy_model() if options.toy else load_model(path, options, fast=view != "page")

    def answer(text):
        show(view, model, text, options, seed_of(options))

    if prompt is None:
        prompt_loop(answer, keeps_history=options.history)
    else:
        answer(prompt)


def default_prompt(view, options):
    """Return the prompt of a view that was given none, None if it needs one."""
    if view == "score":
        return None
    if options.toy:
        return TOY_PROMPT
    return DEFAULT_PROMPT if view == "page" else None


def show(view, model, prompt, options, seed):
    """Show a view. The request is valid once the prompt is encoded; a later ValueError is a run-time failure."""
    ids = encode_text(prompt, model, options) if view == "score" else encode_prompt(prompt, model, options)
    if view == "page":
        check_prompt(ids, model, options)
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
