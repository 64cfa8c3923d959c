"""The flags of gpt2.py: one table of names, defaults, checks and help.

The tables of the other commands (command_flags.py), `--help` (help.py), the settings of batch rows and of explore.py,
and the tables in docs/ derive from this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import sampling
from cli.checks import Check, biases, escaped_text, ids, one_of, path, strings, switch, unchecked, whole


@dataclass(frozen=True)
class Flag:
    """A flag of the command line.

    default: the value if the flag is not given. check: (name, value) -> value, or ValueError. group: its section in
    --help. help: one sentence for --help. metavar: the name of its value in --help, "" for a switch. aliases: its
    names in other programs. is_value: Fire evaluates the value (a number, a list); otherwise it is a string.
    per_row: a row of a batch run may set it. variable: the environment variable that replaces the default.
    """

    default: object
    check: Check
    group: str
    help: str
    metavar: str = ""
    aliases: tuple[str, ...] = ()
    is_value: bool = False
    per_row: bool = False
    variable: str = ""


MAX_SAMPLES = 10_000  # of one prompt

knob = partial(Flag, None, unchecked, is_value=True, per_row=True)  # the flag of an option that sampling.py checks


def knob_default(name: str) -> str:
    """Return the value that a strategy gives to a knob that is not set, for the help."""
    *_, default = sampling.KNOBS[name]
    return f"{default:g}"


SHELLS = ("bash", "zsh", "fish")
SEPARATOR = "-" * 15  # a line between two samples, as in nanoGPT

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
        path,
        "text",
        "124M, 355M, 774M or 1558M, which are downloaded once; tiny, which is bundled; the name or path of another "
        "model; or OWNER/NAME at Hugging Face. PICOGPT_MODEL sets another default",
        "NAME",
        aliases=("m", "model", "model_name", "init_from", "out_dir"),
        variable="PICOGPT_MODEL",
    ),
    "weights": Flag(
        "float32",
        one_of("float32", "int8"),
        "text",
        "int8: a quarter of the memory, about three times as fast, and nearly as exact (pip install numba)",
        "float32|int8",
    ),
    "draft": Flag(
        None,
        path,
        "text",
        "one sample: let a draft propose tokens, which the model checks several at a time: lookup, for text that "
        "repeats itself, or the name of a small model with the same vocabulary. With int8 weights the text stays the "
        "same",
        "NAME",
    ),
    "models_dir": Flag(
        None,
        path,
        "text",
        "look for models in FOLDER, and download them there; by default in PICOGPT_MODELS_DIR or else in models beside "
        "gpt2.py",
        "FOLDER",
    ),
    "list": Flag(False, switch, "text", "print the models on this machine and those that can be downloaded, and exit"),
    "offline": Flag(False, switch, "text", "download nothing"),
    "num_samples": Flag(
        1,
        whole(1, MAX_SAMPLES),
        "text",
        "generate N continuations, decoded together",
        "N",
        aliases=("nsamples", "n_samples", "num_return_sequences"),
        is_value=True,
        per_row=True,
    ),
    "special": Flag(
        None,
        switch,
        "text",
        "read the model's special tokens in the prompt, such as <|endoftext|>, as such; False: as plain text, without "
        "a warning",
        per_row=True,
    ),
    "file": Flag(
        None,
        path,
        "text",
        "continue the text of FILE, or of stdin if it is -",
        "FILE",
        aliases=("f", "prompt_file"),
    ),
    "escape": Flag(False, switch, "text", r"read \n, \t and \\ in the prompt as a new line, a tab and a backslash"),
    "stdin": Flag(True, switch, "text", "False, or --no_stdin: read no text from a pipe", "True|False"),
    "seed": Flag(
        None,
        whole(0),
        "text",
        "the same seed gives the same text; without it, every run draws a new one",
        "N",
        is_value=True,
        per_row=True,
    ),
    "row": Flag(
        0,
        whole(0),
        "text",
        "draw as batch.py does for row J of a run with the same seed",
        "J",
        is_value=True,
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
        f"set temperature and top_p for a purpose: {', '.join(sampling.PRESETS)}; or model: the settings that the "
        "model's files suggest",
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
        """add to the logits of tokens, given by id or by text: '{"50256": -5, " cat": 2}'""",
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
    "banned_words": Flag(
        (),
        strings,
        "penalties",
        """never generate this word, or the words of a list: '["cat", "dog"]'; with and without a space before it""",
        "TEXT",
        aliases=("bad_words",),
        per_row=True,
    ),
    "stop": Flag(
        (),
        strings,
        "end",
        r"end before TEXT, in which \n is a new line; may be given several times, or as a list: "
        """'["one", "two"]'""",
        "TEXT",
        aliases=("stop_sequences", "stop_strings"),
        per_row=True,
    ),
    "min_new_tokens": knob(
        "end",
        "end at neither <|endoftext|> nor a --stop text until there are N new tokens",
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
    "separator": Flag(
        SEPARATOR,
        escaped_text,
        "output",
        r"print a line with TEXT between two samples; \n is a new line",
        "TEXT",
    ),
    "stream": Flag(
        True,
        switch,
        "output",
        "print the text as it is generated; False: when it is complete. With --json --stream, one line per token",
        "True|False",
    ),
    "output": Flag(
        None,
        path,
        "output",
        "write to FILE, as the text is generated, instead of to stdout; FILE must be new",
        "FILE",
        aliases=("o", "output_file"),
    ),
    "overwrite": Flag(False, switch, "output", "replace the file of --output"),
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
        "add to the JSON the log-probability of every token, and the K likeliest tokens with theirs; with --echo also "
        "those of the prompt",
        "K",
        is_value=True,
    ),
    "quiet": Flag(False, switch, "output", "print nothing but errors to stderr: no seed, no progress bar, no speed"),
}
FLAGS |= {
    "threads": Flag(
        None,
        whole(1),
        "process",
        "compute with N threads; by default OMP_NUM_THREADS, or else the CPUs that this process may use",
        "N",
        is_value=True,
    ),
    "config": Flag(
        None,
        path,
        "process",
        "read flags from a TOML or JSON file; those of the command line come first. PICOGPT_CONFIG names a default "
        "file",
        "FILE",
    ),
    "history": Flag(
        True, switch, "process", "False, or --no_history: do not store the prompts that are typed", "True|False"
    ),
    "completion": Flag(
        None,
        one_of(*SHELLS),
        "process",
        "print a script for the completion of words in this shell, and exit",
        "|".join(SHELLS),
    ),
}
STRATEGY_FLAGS = tuple(name for name, flag in FLAGS.items() if flag.group == "sampling")
PENALTY_FLAGS = (*sampling.PENALTIES, "logit_bias", "banned_ids")
PROMPT_FLAGS = ("file", "escape", "stdin", "history")  # where a prompt comes from
ROW_FLAGS = tuple(name for name, flag in FLAGS.items() if flag.per_row)


def without(table: Mapping[str, Flag], *names: str) -> dict[str, Flag]:
    """Return a table without the flags of these names."""
    return {name: flag for name, flag in table.items() if name not in names}


POSITIONAL_ALIASES = {"start": "prompt", "p": "prompt"}


def flag_name(typed: str, table: Mapping[str, Flag]) -> str:
    """Return the name of a flag in a table that a name may stand for: dashes for underscores, or an alias.

    >>> flag_name("max-new-tokens", FLAGS), flag_name("top_p", FLAGS), flag_name("zzz", FLAGS)
    ('n_tokens_to_generate', 'top_p', 'zzz')
    """
    name = typed.replace("-", "_")
    return name if name in table else aliases_of(FLAGS).get(name, name)


def aliases_of(table: Mapping[str, Flag]) -> dict[str, str]:
    """Return {alias: name} of the flags in a table, and of the prompt."""
    return POSITIONAL_ALIASES | {alias: name for name, flag in table.items() for alias in flag.aliases}
