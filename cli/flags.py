"""From the words of a command line to checked options: every flag, what else it is called, and what it may be.

["--max-new-tokens", "5", "Once upon"] -> ["--n_tokens_to_generate=5", "Once upon"] -> {...} -> options
"""

import contextlib
import difflib
import json
import math
import os
import re
import sys
from collections import deque
from types import SimpleNamespace

import sampling

FLAG = re.compile(r"--?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)

ALIASES = {  # what others call it -> what we do
    **dict.fromkeys(("n", "max_new_tokens", "max_tokens", "n_predict", "length"), "n_tokens_to_generate"),
    **dict.fromkeys(("start", "p"), "prompt"),
    **dict.fromkeys(("m", "model", "model_name", "init_from", "out_dir"), "model_size"),
    **dict.fromkeys(("nsamples", "n_samples", "num_return_sequences"), "num_samples"),
    **dict.fromkeys(("stop_sequences", "stop_strings"), "stop"),
    **{"temp": "temperature", "typical": "typical_p", "min_tokens": "min_new_tokens", "n_keep": "keep"},
    **{"repeat_penalty": "repetition_penalty", "no_repeat_ngram": "no_repeat_ngram_size", "jsonl": "json"},
}
ANSWERS = {  # what others have and we do not -> what to do in its place
    "max_length": "it counts the prompt too; --n_tokens_to_generate counts the new tokens",
    "do_sample": "any of --temperature, --top_k, --top_p and the like is enough to sample",
    "t": "it could be --temperature, --top_k or --top_p; write it out",
    "s": "write out --seed or --stop",
    "device": "NumPy runs on the CPU; OMP_NUM_THREADS sets the number of its threads",
    "threads": "set the environment variable OMP_NUM_THREADS",
}


def spell_out(arguments, table=None, positional=("prompt",)):
    """Rewrite arguments so that Fire can read them in one way only: `--name=value` for flags, by our names.

    A word is a flag if it looks like -n, --name or --name=value, so "- milk" and "--a list item" are prompts. A switch
    does not swallow the prompt behind it, "-" is a prompt (it stands for stdin), and no flag follows "--".
    table: the flags there are, FLAGS if None. positional: what the words that are no flags are called, in order.

    >>> spell_out(["--json", "Once upon", "--max-new-tokens", "5", "--nostream"])
    ['--json=True', '--n_tokens_to_generate=5', '--stream=False', 'Once upon']
    """
    table = FLAGS if table is None else table
    arguments, flags, words = deque(arguments), [], []
    while arguments:
        argument = arguments.popleft()
        if argument == "--":
            words += arguments
            break
        if match := FLAG.fullmatch(argument):
            flags.append(spell_flag(match[1].replace("-", "_"), match[2], arguments, table, positional))
        else:
            words.append(argument)
    names = [name for name, _ in flags]
    if names.count("stop") > 1:
        raise ValueError("""stop is given twice; give a list, as in --stop '["one", "two"]'""")
    for i, (name, word) in enumerate(zip(positional, words, strict=False)):
        if name in names:
            raise ValueError(f"the {name} is given twice, as --{name} and as {word!r}; leave one of them out")
        if word.startswith("-"):
            words[i] = f"--{name}={word}"
    return [f"--{name}={value}" for name, value in flags] + words


def spell_flag(name, value, following, table, positional):
    """A flag by our name, and its value, which may be the first of the words that follow it."""
    name = name if name in table else ALIASES.get(name, name)
    if value is not None:
        return name, value
    switches = [name for name, flag in table.items() if flag.check is switch]
    opposite = re.sub("^no_?", "", name)
    if opposite != name and opposite in switches:
        return opposite, "False"
    if name in switches:
        return name, following.popleft() if following and following[0].lower() in ("true", "false") else "True"
    if following and following[0] != "--" and not FLAG.fullmatch(following[0]):
        return name, following.popleft()
    check_known(name, {**table, **dict.fromkeys(positional)})
    raise ValueError(f"--{name} needs a value; one that begins with a dash is written --{name}=VALUE")


# ---- what a flag may be -----------------------------------------------------------------------------------------


class Flag:
    """A flag's default, and the function (name, value) -> value that checks it, or raises ValueError in its words."""

    def __init__(self, default, check, is_value=False):
        self.default, self.check = default, check
        self.is_value = is_value  # Fire reads it as a Python value, a number say; else it is the text as typed


def whole(least, most=math.inf):
    def check(name, value):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            end = "upwards" if most == math.inf else f"to {most}"
            raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} {end}")
        return value

    return check


def switch(name, value):
    if str(value).lower() not in BOOLEANS:
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return BOOLEANS[str(value).lower()]


def text(name, value):
    return str(value)


def one_of(*choices):
    def check(name, value):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; it must be {' or '.join(choices)}")
        return value

    return check


def strings(name, value):
    """One string, with \\n, \\t and \\\\ for what is hard to type, or a JSON list of strings."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # then it is just a text that begins with a bracket
            value = json.loads(value) if value.startswith("[") else value
    if isinstance(value, str):
        value = [re.sub(r"\\([nrt\\])", lambda match: ESCAPES[match[1]], value)]
    if not isinstance(value, (list, tuple)) or not all(isinstance(string, str) and string for string in value):
        raise ValueError(f"{name} is {value!r}; it must be a text, or a JSON list of texts, and none may be empty")
    return tuple(value)


def ids(name, value):
    return tuple(value) if isinstance(value, (list, tuple, set)) else (value,)


def biases(name, value):
    """A JSON object {"id": number}."""
    try:
        value = json.loads(value) if isinstance(value, str) else value
        return {int(token): number for token, number in value.items()}
    except (ValueError, TypeError, AttributeError):
        example = '{"50256": -100}'
        raise ValueError(f"{name} is {value!r}; it must be token ids and numbers, as in '{example}'") from None


def as_it_is(name, value):
    return value  # sampling.py checks it


ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
FLAGS = {
    "n_tokens_to_generate": Flag(40, whole(0), is_value=True),
    "model_size": Flag("124M", text),
    "models_dir": Flag("models", text),
    "strategy": Flag(None, as_it_is),
    "preset": Flag(None, as_it_is),
    **dict.fromkeys((*sampling.KNOBS, *sampling.PENALTIES), Flag(None, as_it_is, is_value=True)),
    "logit_bias": Flag(None, biases),
    "banned_ids": Flag((), ids, is_value=True),
    "seed": Flag(None, whole(0), is_value=True),
    "num_samples": Flag(1, whole(1), is_value=True),
    "stop": Flag((), strings),
    "ignore_eos": Flag(False, switch),
    "context": Flag("stop", one_of("stop", "slide")),
    "keep": Flag(0, whole(0), is_value=True),
    "echo": Flag(False, switch),
    "stream": Flag(True, switch),
    "json": Flag(False, switch),
    "logprobs": Flag(None, whole(0), is_value=True),
    "quiet": Flag(False, switch),
}
STRATEGY_FLAGS = ("strategy", "preset", *sampling.KNOBS)
PENALTY_FLAGS = (*sampling.PENALTIES, "logit_bias", "banned_ids")


def check_known(name, table):
    if name in table:
        return
    if name in ANSWERS:
        raise ValueError(f"there is no flag --{name}: {ANSWERS[name]}")
    if name in FLAGS:
        raise ValueError(f"{os.path.basename(sys.argv[0])} has no --{name}; --help explains those it has")
    near = difflib.get_close_matches(name, [*table, *(alias for alias in ALIASES if ALIASES[alias] in table)], n=1)
    hint = f"did you mean --{ALIASES.get(near[0], near[0])}? " if near else ""
    raise ValueError(f"there is no flag --{name}; {hint}--help explains them all")


def refuse(flags, *names):
    """ValueError for a flag that is known, but not to the script that calls."""
    for name in names:
        if name in flags:
            raise ValueError(f"{os.path.basename(sys.argv[0])} has no --{name}; use gpt2.py")


def check_flags(flags):
    """All options, `flags` and the defaults of the rest; ValueError for what cannot be, alone or together."""
    options = check_each(flags, FLAGS)
    check_together(options)
    return options


def check_each(flags, table):
    """All options of the table; ValueError for a flag that it does not have, or a value that cannot be."""
    for name in flags:
        check_known(name, table)
    given = sampling.given(flags)
    options = {name: flag.check(name, given[name]) if name in given else flag.default for name, flag in table.items()}
    return SimpleNamespace(**options, given=tuple(given))


def check_together(options):
    """ValueError for options that contradict each other."""
    sampling.make_sampler(**{name: getattr(options, name) for name in STRATEGY_FLAGS})
    sampling.make_processor(**{name: getattr(options, name) for name in PENALTY_FLAGS})
    if (options.min_new_tokens or 0) > options.n_tokens_to_generate:
        raise ValueError(
            f"min_new_tokens is {options.min_new_tokens}, but n_tokens_to_generate only {options.n_tokens_to_generate}"
        )
    if options.logprobs is not None and not options.json:
        raise ValueError("logprobs are part of the JSON output: add --json, or leave out --logprobs")
    if options.keep and options.context != "slide":
        raise ValueError("keep has no effect unless the context slides: add --context slide, or leave out --keep")
