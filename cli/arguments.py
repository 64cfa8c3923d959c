"""From the words of a command line to flags in the one form that Fire cannot misread: `--name=value`.

["--max-new-tokens", "5", "Once upon"] -> ["--n_tokens_to_generate=5", "--prompt=Once upon"]
"""

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping

from cli.checks import BOOLEANS, shown, strings, switch
from cli.flags import FLAGS, Flag, flag_name
from cli.hints import check_known

FLAG_PATTERN = re.compile(r"--?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
LOOKS_LIKE_FLAG = re.compile(r"--\S*")  # a single word after which there is no prompt


def normalize_args(
    arguments: Iterable[str], table: Mapping[str, Flag] = FLAGS, positional: tuple[str, ...] = ("prompt",)
) -> list[str]:
    """Return the arguments as `--name=value`, so that Fire reads them in only one way; see read_pairs.

    >>> normalize_args(["--json", "Once upon", "--max-new-tokens", "5", "--nostream"])
    ['--json=True', '--n_tokens_to_generate=5', '--stream=False', '--prompt=Once upon']
    """
    return as_arguments(read_pairs(arguments, table, positional))


def as_arguments(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"--{name}={value}" for name, value in pairs]


def read_pairs(
    arguments: Iterable[str], table: Mapping[str, Flag] = FLAGS, positional: tuple[str, ...] = ("prompt",)
) -> list[tuple[str, str]]:
    """Return (name, value) of each flag and of each other word, by our names.

    A word is a flag if it looks like -n, --name or --name=value; "- milk" and "--a list item" are therefore prompts.
    "-" is a prompt (stdin), and no word after "--" is a flag.
    table: the flags of the command. positional: the names of the other words, in order.
    Raise ValueError for unknown flags, missing values and further words.
    """
    flags, words = split(deque(arguments), table, positional)
    words = with_values_of_switches(flags, words, len(positional))
    check_words(words, positional)
    for name, word in zip(positional, words, strict=False):
        if name in dict(flags):
            raise ValueError(f"the {name} is given twice, as --{name} and as {shown(word)}; remove one of them")
    return with_one_stop(flags) + list(zip(positional, words, strict=False))


def split(arguments, table, positional):
    """Return the flags, as [[name, value]], and the other words. The value of a switch without one is None.

    A word that may be such a value, "yes" or "off", is among the words, as a SwitchWord with the place of its flag.
    """
    flags = []
    words = []
    while arguments:
        argument = arguments.popleft()
        if argument == "--":
            words += arguments
            break
        match = FLAG_PATTERN.fullmatch(argument)
        if match:
            flags.append(read_flag(flag_name(match[1], table), match[2], arguments, table, positional))
            if flags[-1][1] is None and arguments and arguments[0].lower() in BOOLEANS:
                words.append(SwitchWord(arguments.popleft(), len(flags) - 1))
        elif LOOKS_LIKE_FLAG.fullmatch(argument):
            raise ValueError(f"{shown(argument)} is no flag; a prompt that begins with dashes follows --")
        else:
            words.append(argument)
    return flags, words


class SwitchWord(str):
    """A word after a switch that may be its value. Attribute: `place`, the index of the switch."""

    def __new__(cls, word: str, place: int):
        self = super().__new__(cls, word)
        self.place = place
        return self


def read_flag(name, value, following, table, positional):
    """Return [name in the table, value]. The value may be the first of the words that follow; None for a switch."""
    opposite = re.sub("^no_?", "", name)
    if value is None and opposite != name and is_switch(opposite, table):
        return [opposite, "False"]
    check_known(name, {**table, **dict.fromkeys(positional)})
    if value is not None:
        return [name, value]
    if is_switch(name, table):
        return [name, None]
    if following and following[0] != "--" and not FLAG_PATTERN.fullmatch(following[0]):
        return [name, following.popleft()]
    raise ValueError(f"--{name} needs a value; write a value that begins with a dash as --{name}=VALUE")


def is_switch(name, table):
    return name in table and table[name].check is switch


def with_values_of_switches(flags, words, n_positional):
    """Give each switch its value; return the words that remain.

    True and False after a switch are its value. Yes, no, on and off are it only if other words are left for a prompt.
    """
    left = list(words)
    for word in [word for word in words if isinstance(word, SwitchWord)][::-1]:
        if word.lower() in ("true", "false") or len(left) > n_positional:
            flags[word.place][1] = str(word)
            left = [each for each in left if each is not word]
    for flag in flags:
        flag[1] = "True" if flag[1] is None else flag[1]
    return left


def check_words(words, positional):
    """Raise ValueError for more words than the command reads."""
    if len(words) <= len(positional):
        return
    several = shown(" ".join(words[len(positional) - 1 :]))
    if positional == ("prompts",):
        raise ValueError(f"the prompts must be one file: {several} arrived as several words")
    raise ValueError(f"the {positional[-1]} must be in quotes: {several} arrived as several words")


def with_one_stop(flags):
    """Return the flags, with all values of a repeated --stop as one list."""
    stops = [value for name, value in flags if name == "stop"]
    others = [(name, value) for name, value in flags if name != "stop"]
    if len(stops) > 1:
        stops = [json.dumps([text for value in stops for text in strings("stop", value)])]
    return others + [("stop", value) for value in stops]
