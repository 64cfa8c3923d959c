"""The manners of a command: what a person types comes in unharmed, text goes out as it is made, errors are a sentence.

`run(main)` turns a function into a command and is all that the bottom of a script needs; `complete` is what
gpt2.py and gpt2_pico.py do with a prompt. Generated text is all that goes to stdout; remarks go to stderr, and only if
it is a terminal. Exit codes: 0 done, 1 it could not be done, 2 it was asked for wrongly, 130 interrupted.
"""

import inspect
import os
import sys

import numpy as np

import sampling
import utils

DEBUG = "PICOGPT_DEBUG"  # set to 1 to see the traceback behind an error


# ---- a function as a command -----------------------------------------------------------------------------------


def run(main):
    """Run `main` with the command line's words and flags, and exit the process with the right code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # whatever the locale or Windows code page
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(inspect.getdoc(main))
        sys.exit(0)
    try:
        call_with_arguments(main)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain on leaving
    except KeyboardInterrupt:  # what was generated so far has been printed
        sys.exit(130)
    except ValueError as error:
        fail(error, 2)
    except (OSError, RuntimeError, MemoryError) as error:
        fail(error, 1)


def call_with_arguments(main):
    """Call `main` through Fire, which would otherwise evaluate the prompt as Python: "1984", "a, b", "{x}", "a # b"."""
    from fire import Fire, decorators, parser

    values = dict.fromkeys(("n_tokens_to_generate", "seed", *sampling.KNOBS), parser.DefaultParseValue)
    decorators.SetParseFn(str)(main)
    decorators.SetParseFns(**values)(main)
    Fire(main)


def fail(error, code):
    if os.environ.get(DEBUG) == "1":
        raise error
    print(f"Error: {error or type(error).__name__}", file=sys.stderr)
    sys.exit(code)


# ---- one prompt, one text --------------------------------------------------------------------------------------


def complete(generate, prompt, words, n_tokens_to_generate, model_size, models_dir, seed=None, **flags):
    """Print the text with which `generate` continues `prompt`, as it is made.

    Everything that can be wrong with the request is checked before a model is read or downloaded, by ValueError.
    """
    check_prompt(prompt, words)
    check_flags(flags)
    sampler = sampling.make_sampler(**flags)
    check_whole_number("n_tokens_to_generate", n_tokens_to_generate)
    if seed is not None:
        check_whole_number("seed", seed)
    utils.find_model(model_size, models_dir)

    encoder, hparams, params = utils.load_encoder_hparams_and_params(model_size, models_dir)
    ids = encoder.encode(prompt) or [encoder.start]
    check_context(len(ids), n_tokens_to_generate, hparams["n_ctx"])
    rng = make_rng(seed, sampler)
    write(
        encoder.stream(
            generate(ids, params, hparams["n_head"], n_tokens_to_generate, sampler, rng, {encoder.end_of_text})
        )
    )


def check_prompt(prompt, words):
    if prompt is None:
        raise ValueError(
            'there is no prompt; give one in quotes, as in "Once upon a time", or "" to start from nothing'
        )
    if words:
        raise ValueError(
            f"the prompt must be in quotes: {' '.join(map(str, (prompt, *words)))!r} came as several words"
        )


def check_flags(flags):
    known = ("n_tokens_to_generate", "model_size", "models_dir", "seed", "strategy", "preset", *sampling.KNOBS)
    for name in flags:
        if name not in known:
            raise ValueError(f"there is no flag --{name}{sampling.did_you_mean(name, known)}; --help explains them")


def check_whole_number(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from 0 upwards")


def make_rng(seed, sampler):
    """The generator of prompt 0, sample 0. A seed not given is drawn, and told, so that the text can be had again."""
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
        if sampler is not sampling.greedy:
            utils.notice(f"seed {seed}")
    return np.random.default_rng([seed, 0, 0])


def check_context(n_prompt, n_tokens_to_generate, n_ctx):
    if n_prompt > n_ctx:
        raise ValueError(f"the prompt has {n_prompt} tokens; this model reads at most {n_ctx}: shorten it")
    room = n_ctx - max(n_prompt, 1) + 1  # the last token is never fed back
    if room < n_tokens_to_generate:
        utils.notice(f"the context of {n_ctx} tokens leaves room for {room} of the {n_tokens_to_generate} new ones")


def write(pieces):
    """Print pieces of text as they come, and one newline at the end, however it ends."""
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except ValueError as error:  # the request was checked before: this is the model, not the user
        raise RuntimeError(f"the text ends here: {error}") from error
    finally:
        print(flush=True)
