"""From the words of a command line to flags in the one form that Fire cannot misread.

["--max-new-tokens", "5", "Once upon"] -> ["--n_tokens_to_generate=5", "Once upon"]
"""

import difflib
import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Mapping

from checkpoints.messages import abbreviated
from cli.checks import shown, switch
from cli.flags import FLAGS, UNSUPPORTED_FLAGS, Flag, aliases_of

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
    check_further_words(words, positional)
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
            raise ValueError(f"the {name} is given twice, as --{name} and as {shown(word)}; remove one of them")


def check_further_words(words, positional):
    """Raise ValueError for a word after the positional ones that Fire would take for a flag or a separator."""
    n = len(positional)
    if any(word.startswith("-") for word in words[n:]):
        several = " ".join(words[n - 1 :])
        raise ValueError(f"the {positional[-1]} must be in quotes: {shown(several)} arrived as several words")


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
        script = abbreviated(os.path.basename(sys.argv[0]))
        raise ValueError(f"{script} has no --{name}; --help lists its options (gpt2.py has --{name})")
    aliases = {alias: flag for alias, flag in aliases_of(FLAGS).items() if flag in table}
    near = difflib.get_close_matches(name[:100], [*table, *aliases], n=1)
    hint = f"did you mean --{aliases.get(near[0], near[0])}? " if near else ""
    raise ValueError(f"there is no flag --{abbreviated(name)}; {hint}--help lists all options")
