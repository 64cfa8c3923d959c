"""The flags of all commands: one table, and the steps from the words of a command line to checked options.

    ["--max-new-tokens", "5", "Once upon"] -> ["--n_tokens_to_generate=5", "Once upon"] -> {...} -> Options

`--help` (cli/help.py), the settings of batch rows and of explore.py, and the tables in docs/ derive from these tables.
"""

import contextlib
import difflib
import json
import math
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import sampling
import utils

# ---- checks: (name, value) -> value, or ValueError -------------------------------------------------------------

Check = Callable[[str, object], object]
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def whole(least: int, most: float = math.inf) -> Check:
    """Return a check for whole numbers from `least` to `most`."""

    def check(name, value):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            end = "upwards" if most == math.inf else f"to {most}"
            raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} {end}")
        return value

    return check


def one_of(*choices: str) -> Check:
    """Return a check for one of several words."""

    def check(name, value):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; it must be {' or '.join(choices)}")
        return value

    return check


def switch(name: str, value: object) -> bool:
    if str(value).lower() not in BOOLEANS:
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return BOOLEANS[str(value).lower()]


def text(name: str, value: object) -> str:
    return str(value)


def strings(name: str, value: object) -> tuple[str, ...]:
    """Return a tuple of strings: one string, in which \\n, \\t and \\\\ are escapes, or a JSON list of strings."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # not JSON: an ordinary text that begins with a bracket
            value = json.loads(value) if value.startswith("[") else value
    if isinstance(value, str):
        value = [re.sub(r"\\([nrt\\])", lambda match: ESCAPES[match[1]], value)]
    if not isinstance(value, (list, tuple)) or not all(isinstance(string, str) and string for string in value):
        raise ValueError(f"{name} is {value!r}; it must be a text or a JSON list of texts, none of them empty")
    return tuple(value)


def ids(name: str, value: object) -> tuple:
    return tuple(value) if isinstance(value, (list, tuple, set)) else (value,)


def biases(name: str, value: object) -> dict[int, float]:
    """Return {id: number} from a JSON object {"id": number}."""
    try:
        value = json.loads(value) if isinstance(value, str) else value
        return {int(token): number for token, number in value.items()}
    except (ValueError, TypeError, AttributeError):
        example = '{"50256": -100}'
        raise ValueError(f"{name} is {value!r}; it must map token ids to numbers, as in '{example}'") from None


def unchecked(name: str, value: object) -> object:
    return value  # sampling.py checks it


def several(check: Check) -> Check:
    """Return a check for one value or several, as in 0.3,0.7,1.0: a tuple.

    >>> several(unchecked)("temperature", (0.3, 0.7)), several(unchecked)("preset", "chatbot,code_comments")
    ((0.3, 0.7), ('chatbot', 'code_comments'))
    """

    def check_several(name, value):
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        values = value if isinstance(value, (list, tuple, set)) else [value]
        if not values:
            raise ValueError(f"{name} is an empty list; give one value, or several separated by commas")
        return tuple(check(name, each) for each in values)

    return check_several


# ---- the tables ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flag:
    """A flag of the command line.

    default: the value if the flag is not given. check: (name, value) -> value, or ValueError. group: its section in
    --help. help: one sentence for --help. metavar: the name of its value in --help, "" for a switch. aliases: its
    names in other programs. is_value: Fire evaluates the value (a number, a list); otherwise it is a string.
    per_row: a row of a batch run may set it.
    """

    default: object
    check: Check
    group: str
    help: str
    metavar: str = ""
    aliases: tuple[str, ...] = ()
    is_value: bool = False
    per_row: bool = False


knob = partial(Flag, None, unchecked, is_value=True, per_row=True)  # the flag of an option that sampling.py checks


def knob_default(name: str) -> str:
    """Return the value that a strategy gives to a knob that is not set, for the help."""
    *_, default = sampling.KNOBS[name]
    return f"{default:g}"


FLAGS = {
    "n_tokens_to_generate": Flag(
        40,
        whole(0),
        "text",
        "generate at most N new tokens, each about four letters long",
        "N",
        aliases=("n", "max_new_tokens", "max_tokens", "n_predict", "length"),
        is_value=True,
        per_row=True,
    ),
    "model_size": Flag(
        "124M",
        text,
        "text",
        "124M, 355M, 774M or 1558M, which are downloaded once; tiny, which is bundled; or the name or path of a folder "
        "with a model in the format of OpenAI, Hugging Face or nanoGPT",
        "NAME",
        aliases=("m", "model", "model_name", "init_from", "out_dir"),
    ),
    "models_dir": Flag(
        utils.MODELS_DIR,
        text,
        "text",
        "look for the folders of models in FOLDER, and download them there",
        "FOLDER",
    ),
    "num_samples": Flag(
        1,
        whole(1),
        "text",
        "generate N continuations, decoded together",
        "N",
        aliases=("nsamples", "n_samples", "num_return_sequences"),
        is_value=True,
        per_row=True,
    ),
    "seed": Flag(
        None,
        whole(0),
        "text",
        "the same seed gives the same text; without it, every run draws a new one",
        "N",
        is_value=True,
        per_row=True,
    ),
    "temperature": knob(
        "sampling",
        "draw at random: T below 1 favours likely tokens, T above 1 evens out the probabilities, 0 always takes the "
        "likeliest token; try 0.8",
        "T",
        aliases=("temp",),
    ),
    "top_p": knob(
        "sampling",
        f"draw from the fewest tokens whose probabilities sum to P, 0 to 1; try {knob_default('top_p')}",
        "P",
    ),
    "top_k": knob(
        "sampling",
        f"draw from the K likeliest tokens, all if K is 0; try {knob_default('top_k')}",
        "K",
    ),
    "min_p": knob(
        "sampling",
        f"draw from the tokens at least P times as likely as the likeliest one, 0 to 1; try {knob_default('min_p')}",
        "P",
    ),
    "typical_p": knob(
        "sampling",
        "draw from the fewest tokens whose probabilities sum to P, those whose surprise, -log(probability), is nearest "
        f"to its mean; try {knob_default('typical_p')}",
        "P",
        aliases=("typical",),
    ),
    "entmax_alpha": knob(
        "sampling",
        "draw by entmax, which gives unlikely tokens probability zero: none at 1 (softmax), most at 2 (sparsemax); "
        f"try {knob_default('entmax_alpha')}",
        "A",
    ),
    "mirostat_tau": knob(
        "sampling",
        "draw by mirostat, which holds the mean surprise of the text at this number of bits per token; "
        f"try {knob_default('mirostat_tau')}",
        "BITS",
    ),
    "mirostat_eta": knob(
        "sampling",
        f"how fast mirostat corrects the surprise, from 0 (never) to 1; try {knob_default('mirostat_eta')}",
        "RATE",
    ),
    "strategy": knob(
        "sampling",
        f"choose options by a name: {', '.join(sampling.STRATEGIES)}. Those that are not given have the value after "
        f"'try', temperature has {knob_default('temperature')}",
        "NAME",
        is_value=False,
    ),
    "preset": knob(
        "sampling",
        f"set temperature and top_p for a purpose: {', '.join(sampling.PRESETS)}",
        "NAME",
        is_value=False,
    ),
    "repetition_penalty": knob(
        "penalties",
        "make the tokens of the prompt and the new text less likely: divide positive logits by R, multiply negative "
        "ones by R; 1 has no effect, try 1.2",
        "R",
        aliases=("repeat_penalty",),
    ),
    "presence_penalty": knob(
        "penalties",
        "subtract A from the logit of every token that the new text contains; 0 has no effect",
        "A",
    ),
    "frequency_penalty": knob(
        "penalties",
        "subtract A from a token's logit once per occurrence in the new text; 0 has no effect",
        "A",
    ),
    "no_repeat_ngram_size": knob(
        "penalties",
        "never repeat N successive tokens of the prompt or the new text; try 3",
        "N",
        aliases=("no_repeat_ngram",),
    ),
    "logit_bias": Flag(
        None,
        biases,
        "penalties",
        """add to the logits of tokens, by id: '{"50256":-5}'""",
        "JSON",
        per_row=True,
    ),
    "banned_ids": Flag(
        (),
        ids,
        "penalties",
        "never generate the tokens with these ids: '[198,628]'",
        "LIST",
        is_value=True,
        per_row=True,
    ),
    "stop": Flag(
        (),
        strings,
        "end",
        r"""end before TEXT, in which \n is a new line; or before any text of a list: '["one", "two"]'""",
        "TEXT",
        aliases=("stop_sequences", "stop_strings"),
        per_row=True,
    ),
    "min_new_tokens": knob(
        "end",
        "ban <|endoftext|> until there are N new tokens",
        "N",
        aliases=("min_tokens",),
    ),
    "ignore_eos": Flag(False, switch, "end", "ban <|endoftext|>, so that the text goes on", per_row=True),
    "context": Flag(
        "stop",
        one_of("stop", "slide"),
        "end",
        "when the model's context is full, stop; or slide: drop the older half of it and go on",
        "stop|slide",
    ),
    "keep": Flag(
        0,
        whole(0),
        "end",
        "when the context slides, keep the first N tokens of the prompt",
        "N",
        aliases=("n_keep",),
        is_value=True,
    ),
    "echo": Flag(False, switch, "output", "print the prompt before the text"),
    "stream": Flag(
        True, switch, "output", "print the text as it is generated; False: when it is complete", "True|False"
    ),
    "json": Flag(
        False,
        switch,
        "output",
        "print one line of JSON per sample: prompt, text, finish_reason, seed, index, model, settings, usage, timings",
        aliases=("jsonl",),
    ),
    "logprobs": Flag(
        None,
        whole(0),
        "output",
        "add to the JSON the log-probability of every token, and the K likeliest tokens with theirs",
        "K",
        is_value=True,
    ),
    "quiet": Flag(False, switch, "output", "print nothing but errors to stderr: no seed, no progress bar, no speed"),
}
STRATEGY_FLAGS = tuple(name for name, flag in FLAGS.items() if flag.group == "sampling")
PENALTY_FLAGS = (*sampling.PENALTIES, "logit_bias", "banned_ids")
ROW_FLAGS = tuple(name for name, flag in FLAGS.items() if flag.per_row)


def without(table: Mapping[str, Flag], *names: str) -> dict[str, Flag]:
    """Return a table without the flags of these names."""
    return {name: flag for name, flag in table.items() if name not in names}


PICO_FLAGS = without(FLAGS, "num_samples", "context", "keep", "logprobs", "ignore_eos", *PENALTY_FLAGS)
BATCH_FLAGS = {
    "output": Flag(None, text, "run", "file of the records; without it, or with -, they go to stdout", "FILE"),
    "overwrite": Flag(
        False, switch, "run", "start again; otherwise a run whose output exists continues where it stopped"
    ),
    "batch_size": Flag(
        None,
        whole(1),
        "run",
        "decode N samples at a time; by default as many as fit in half of the free memory, at most 64",
        "N",
        is_value=True,
    ),
    "format": Flag(
        None,
        one_of("txt", "jsonl", "csv"),
        "run",
        "format of PROMPTS, if its name does not show it",
        "txt|jsonl|csv",
    ),
    **without(FLAGS, "json", "stream"),
    "num_samples": replace(FLAGS["num_samples"], check=whole(1, 10_000)),
}
VIEW_SETTINGS = (*STRATEGY_FLAGS, *sampling.PENALTIES)  # the settings that plot and sweep compare
EXPLORE_FLAGS = {
    "model_size": FLAGS["model_size"],
    "models_dir": FLAGS["models_dir"],
    "toy": Flag(False, switch, "text", "nine words with nine fixed logits instead of a model"),
    "seed": FLAGS["seed"],
    "steps": Flag(1, whole(1), "view", "next, plot --heatmap: show N tokens, one after another", "N", is_value=True),
    "rows": Flag(
        None,
        whole(1),
        "view",
        "next, plot: show the N likeliest tokens (default 12 and 10; 5 with --steps); score: list the N most "
        "surprising tokens (default 5, all without colour)",
        "N",
        is_value=True,
    ),
    "heatmap": Flag(False, switch, "view", "plot: draw the likeliest tokens at each of --steps positions"),
    "num_samples": replace(FLAGS["num_samples"], group="view", help="sweep: texts per setting"),
    "n_tokens_to_generate": replace(
        FLAGS["n_tokens_to_generate"], group="view", help="sweep: at most N new tokens per text"
    ),
    "stride": Flag(
        None,
        whole(1),
        "view",
        "score: move overlapping windows by N tokens, for more context; by default windows do not overlap, as in "
        "lm-evaluation-harness",
        "N",
        is_value=True,
    ),
    "output": Flag(
        None,
        text,
        "view",
        "plot: a .png, .svg or .pdf file (pip install matplotlib); sweep: a .md, .csv or .json file",
        "FILE",
    ),
    "json": replace(FLAGS["json"], group="view", help="next, sweep, score: print JSON"),
    **{name: replace(FLAGS[name], check=several(FLAGS[name].check)) for name in VIEW_SETTINGS},
    "logit_bias": FLAGS["logit_bias"],
    "banned_ids": FLAGS["banned_ids"],
}

POSITIONAL_ALIASES = {"start": "prompt", "p": "prompt"}
UNSUPPORTED_FLAGS = {  # flags of other programs -> what to use instead
    "max_length": "it counts the prompt too; --n_tokens_to_generate counts the new tokens",
    "do_sample": "any of --temperature, --top_k, --top_p and similar options is enough to sample",
    "t": "it could be --temperature, --top_k or --top_p; write it out",
    "s": "write out --seed or --stop",
    "device": "NumPy runs on the CPU; OMP_NUM_THREADS sets the number of its threads",
    "threads": "set the environment variable OMP_NUM_THREADS",
}


def aliases_of(table: Mapping[str, Flag]) -> dict[str, str]:
    """Return {alias: name} of the flags in a table, and of the prompt."""
    return POSITIONAL_ALIASES | {alias: name for name, flag in table.items() for alias in flag.aliases}


# ---- from words to flags ---------------------------------------------------------------------------------------

FLAG_PATTERN = re.compile(r"--?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)


def normalize_args(
    arguments: Iterable[str], table: Mapping[str, Flag] = FLAGS, positional: tuple[str, ...] = ("prompt",)
) -> list[str]:
    """Rewrite arguments so that Fire reads them in only one way: `--name=value` for flags, by our names.

    A word is a flag if it looks like -n, --name or --name=value; "- milk" and "--a list item" are therefore prompts. A
    switch consumes no word after it but True or False, "-" is a prompt (stdin), and no word after "--" is a flag.
    table: the flags of the command. positional: the names of the other words, in order.

    >>> normalize_args(["--json", "Once upon", "--max-new-tokens", "5", "--nostream"])
    ['--json=True', '--n_tokens_to_generate=5', '--stream=False', 'Once upon']
    """
    arguments = deque(arguments)
    flags = []
    words = []
    while arguments:
        argument = arguments.popleft()
        if argument == "--":
            words += arguments
            break
        if match := FLAG_PATTERN.fullmatch(argument):
            flags.append(normalize_flag(match[1].replace("-", "_"), match[2], arguments, table, positional))
        else:
            words.append(argument)
    check_given_once([name for name, _ in flags], words, positional)
    for i, (name, word) in enumerate(zip(positional, words, strict=False)):
        if word.startswith("-"):
            words[i] = f"--{name}={word}"
    return [f"--{name}={value}" for name, value in flags] + words


def check_given_once(names, words, positional):
    """Raise ValueError if --stop or a positional argument is given twice."""
    if names.count("stop") > 1:
        raise ValueError("""stop is given twice; give a list, as in --stop '["one", "two"]'""")
    for name, word in zip(positional, words, strict=False):
        if name in names:
            raise ValueError(f"the {name} is given twice, as --{name} and as {word!r}; remove one of them")


def normalize_flag(name, value, following, table, positional):
    """Return a flag's name in the table, and its value, which may be the first of the words that follow."""
    name = name if name in table else aliases_of(FLAGS).get(name, name)
    if value is not None:
        return name, value
    switches = [switch_name for switch_name, flag in table.items() if flag.check is switch]
    opposite = re.sub("^no_?", "", name)
    if opposite != name and opposite in switches:
        return opposite, "False"
    if name in switches:
        is_followed = following and following[0].lower() in ("true", "false")
        return name, following.popleft() if is_followed else "True"
    if following and following[0] != "--" and not FLAG_PATTERN.fullmatch(following[0]):
        return name, following.popleft()
    check_known(name, {**table, **dict.fromkeys(positional)})
    raise ValueError(f"--{name} needs a value; write a value that begins with a dash as --{name}=VALUE")


def check_known(name: str, table: Mapping[str, object]) -> None:
    """Raise ValueError if a flag is not in the table."""
    if name in table:
        return
    if name in UNSUPPORTED_FLAGS:
        raise ValueError(f"there is no flag --{name}: {UNSUPPORTED_FLAGS[name]}")
    if name in FLAGS:
        script = os.path.basename(sys.argv[0])
        raise ValueError(f"{script} has no --{name}; --help lists its options (gpt2.py has --{name})")
    aliases = {alias: flag for alias, flag in aliases_of(FLAGS).items() if flag in table}
    near = difflib.get_close_matches(name, [*table, *aliases], n=1)
    hint = f"did you mean --{aliases.get(near[0], near[0])}? " if near else ""
    raise ValueError(f"there is no flag --{name}; {hint}--help lists all options")


# ---- from flags to options -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The checked values of all flags of a command, as attributes: `options.temperature`.

    values: {name: value}, defaults included. given: the names that were set.
    """

    values: Mapping[str, object]
    given: tuple[str, ...]

    def __getattr__(self, name):
        values = self.__dict__.get("values", {})  # not set yet while a copy is made
        if name not in values:
            raise AttributeError(f"there is no option {name}")
        return values[name]

    @property
    def sampling(self) -> dict:
        """Return the arguments of sampling.make_sampler."""
        return sampling.without_none({name: self.values[name] for name in STRATEGY_FLAGS})

    @property
    def penalties(self) -> dict:
        """Return the arguments of sampling.make_logits_processor that are options."""
        return {name: self.values[name] for name in PENALTY_FLAGS if name in self.values}

    @property
    def window_keep(self) -> int | None:
        """Return the number of ids to keep when the context slides, None if it does not slide."""
        return self.values["keep"] if self.values.get("context") == "slide" else None


def check_options(asked: Mapping[str, object], table: Mapping[str, Flag] = FLAGS) -> Options:
    """Return the options: `asked` and the defaults of the other flags. Raise ValueError for an invalid combination."""
    options = check_each(asked, table)
    check_together(options)
    return options


def check_each(asked: Mapping[str, object], table: Mapping[str, Flag]) -> Options:
    """Return the options of a table. Raise ValueError for an unknown flag or an invalid value."""
    for name in asked:
        check_known(name, table)
    given = sampling.without_none(asked)
    values = {name: flag.check(name, given[name]) if name in given else flag.default for name, flag in table.items()}
    return Options(MappingProxyType(values), tuple(given))


def check_together(options: Options) -> None:
    """Raise ValueError for options that contradict each other."""
    sampling.make_sampler(**options.sampling)
    sampling.make_logits_processor(**options.penalties)
    values = options.values
    shortest = values.get("min_new_tokens") or 0
    if shortest > options.n_tokens_to_generate:
        raise ValueError(
            f"min_new_tokens is {shortest}, but n_tokens_to_generate is only {options.n_tokens_to_generate}"
        )
    if values.get("logprobs") is not None and values.get("json") is False:
        raise ValueError("logprobs are part of the JSON output: add --json, or remove --logprobs")
    if values.get("keep") and options.context != "slide":
        raise ValueError("keep has no effect unless the context slides: add --context slide, or remove --keep")
