"""The command explore.py: its help, and how it comes from a prompt to a view.

    next        how the next token is chosen                   views/next_token.py
    plot        the next token for several settings, as bars   views/plot.py
    sweep       the texts of a grid of settings                views/sweep.py
    score       how likely a text is, token by token           views/score.py
    tokens      the tokens of a text, and the merges           views/tokens.py
    attention   what the newest token attends to               views/attention.py
    page        an interactive page that contains the model    views/page/

The views add no computation of their own: the logits are those of gpt2.py and the engine, the filters those of
sampling.py. `--toy` replaces the model by nine words with fixed logits (views/toy.py). views/checks.py says which
options each view takes.
"""

from cli import output
from cli.checks import shown
from cli.command_flags import EXPLORE_FLAGS
from cli.help import Command
from cli.loop import prompt_loop
from cli.messages import run_time_failures
from cli.options import Options
from cli.prompt import read_prompt, source_of
from cli.request import encode_prompt, find_model, load_model, seed_of
from views import attention, score, tokens
from views.attention import show_attention
from views.checks import VIEWS, check
from views.next_token import show_next
from views.page import build
from views.page.build import DEFAULT_PROMPT, show_page
from views.plot import show_plot
from views.score import show_score
from views.score_lines import show_score_lines
from views.sweep import show_sweep, show_sweep_lines
from views.texts import read_lines
from views.tokens import show_tokens
from views.toy import TOY_PROMPT, toy_model

__all__ = ["EXPLORE", "check", "explore"]

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
        | tokens   ids, bytes and tokens of a text, and the merges that make them
        | attention
        |          what the newest token attends to, per layer and head
        | page     an interactive page that contains the model: one HTML file

        The prompt, or the text to score, is a quoted text, FILE:notes.txt, or the text of a pipe; if both are given,
        the piped text comes first. The newline that ends a file or a pipe is removed. Without a prompt, a terminal asks
        for one after another, and --toy continues "every effort moves you". page needs no
        prompt, and no --model_size: it shows the bundled model.

        next, plot, sweep and page take the sampling options and penalties of gpt2.py. plot and sweep take several
        values of each, as in --temperature 0.3,0.7,1.0, and show every combination; --logit_bias, --banned_ids and
        --seed are the same for all of them.""",
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
        'python explore.py tokens " unbelievable" --model_size tiny --merges',
        'python explore.py attention "Once upon a time" --model_size tiny --layer 2',
    ),
)

# ---- the command -----------------------------------------------------------------------------------------------


def explore(view: str, prompt: str | None, options: Options) -> None:
    """Show a view of `prompt`, of the texts of --lines, or of each prompt typed at the terminal if it is None.

    options: as from `check`.
    """
    if options.output is None:
        output.check_stdout()
    if not options.toy:
        path = find_model(options)
    lines, prompt = read_texts(view, prompt, options)
    with run_time_failures():
        model = toy_model() if options.toy else load_model(path, options, fast=view != "page")

    def answer(text):
        show(view, model, text, options, seed_of(options))

    if lines:
        show_lines(view, model, lines, options, seed_of(options))
    elif prompt is None:
        prompt_loop(answer, keeps_history=options.history)
    else:
        answer(prompt)


def read_texts(view, prompt, options):
    """Return the texts of --lines, and the prompt; the first are [] without --lines, the second None with it."""
    prompt = source_of(prompt, options)
    if options.lines is not None:
        if prompt is not None:
            raise ValueError(f"the texts are given twice, by --lines and as {shown(prompt)}; remove one of them")
        return read_lines(options.lines, options, may_be_given=view == "score"), None
    default = default_prompt(view, options)
    return [], default if prompt is None and default is not None else read_prompt(prompt, options)


def default_prompt(view, options):
    """Return the prompt of a view that was given none, None if it needs one."""
    if view == "score":
        return None
    if options.toy:
        return TOY_PROMPT
    return DEFAULT_PROMPT if view == "page" else None


def show(view, model, prompt, options, seed):
    """Show a view. The request is valid once it is prepared; a later ValueError is a run-time failure."""
    prepare, show_view = SHOW[view]
    request = prepare(model, prompt, options)
    with run_time_failures():
        show_view(model, request, prompt, options, seed)


def show_lines(view, model, lines, options, seed):
    """Show a view of many texts. All of them are checked before the first one is shown."""
    prepare, show_view = SHOW_LINES[view]
    requests = [prepare_line(prepare, model, line, options) for line in lines]
    with run_time_failures():
        show_view(model, requests, lines, options, seed)


def prepare_line(prepare, model, line, options):
    """Return the request of a line. Raise ValueError with its number if it is invalid."""
    given = {} if line.given is None else {"given": line.given}
    try:
        return prepare(model, line.text, options, **given)
    except ValueError as error:
        raise ValueError(f"line {line.number}: {error}") from error


def prepare_prompt(model, prompt, options):
    return encode_prompt(prompt, model, options)


SHOW = {  # view -> the function that checks and encodes its text, and the one that shows it
    "next": (prepare_prompt, show_next),
    "plot": (prepare_prompt, show_plot),
    "sweep": (prepare_prompt, show_sweep),
    "score": (score.prepare, show_score),
    "tokens": (tokens.prepare, show_tokens),
    "attention": (attention.prepare, show_attention),
    "page": (build.prepare, show_page),
}
SHOW_LINES = {"sweep": (prepare_prompt, show_sweep_lines), "score": (score.prepare, show_score_lines)}
