"""`--help`, generated from the tables of cli/flags.py and the description of a command."""

import platform
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cli.command_flags import PICO_FLAGS
from cli.flags import FLAGS, Flag

WIDTH = 79
NAME_WIDTH = 29  # columns of the names of the flags

GROUPS = {  # heading of each group of flags
    "run": "The run",
    "view": "The view",
    "text": "The text",
    "sampling": "The choice of each token: the likeliest one, unless one of these is given",
    "penalties": "Penalties, biases and bans",
    "end": "The end of the text, besides N tokens and <|endoftext|>",
    "output": "Output: text goes to stdout, remarks go to stderr if it is a terminal",
    "process": "The process",
}


EXIT_CODES = {
    "0": "success; also if the reader of the pipe closed it, as `head` does",
    "1": "run-time failure, such as a damaged model file or a full disk",
    "2": "usage error: one line on stderr states the problem, the value and the rule",
    "130": "Ctrl-C; the text so far has been printed",
    "143, 129": "SIGTERM, or SIGHUP from a closed terminal; the text so far has been printed, stderr has one line",
}
ENVIRONMENT = {
    "PICOGPT_MODEL": "the default of --model_size",
    "PICOGPT_MODELS_DIR": "the default of --models_dir",
    "PICOGPT_CONFIG": "a configuration file, read before that of --config",
    "PICOGPT_MODELS_URL": "a mirror of OpenAI's models, with the same layout",
    "PICOGPT_DEBUG": "1 shows the traceback of an error, and the warnings of libraries",
    "OMP_NUM_THREADS": "the default of --threads",
    "HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE": "as in the package huggingface_hub",
    "COLUMNS, NO_COLOR, FORCE_COLOR": "the width and the colours of explore.py",
}


@dataclass(frozen=True)
class Command:
    """A command: its flags, and the parts of its help that are not about a flag.

    usage: the words after `python`. about: paragraphs before the flags; the usage follows the first one. closing:
    paragraphs after the flags. kinds: a positional argument and, for each of its values, the names of the flags that
    have an effect with it. Paragraphs are wrapped, but the lines of a table, which begin with "| ", stay lines.
    examples: complete command lines.
    """

    usage: str
    about: str
    flags: Mapping[str, Flag]
    examples: tuple[str, ...]
    closing: str = ""
    kinds: tuple[str, Mapping[str, tuple[str, ...]]] = ("", MappingProxyType({}))

    def flags_of(self, given: Mapping[str, str]) -> Mapping[str, Flag]:
        """Return the flags that the command takes with these arguments."""
        positional, kinds = self.kinds
        names = kinds.get(given.get(positional), self.flags)
        return {name: self.flags[name] for name in names}


GPT2 = Command(
    usage='gpt2.py "PROMPT" [--option value ...]',
    about="""Continue a text with GPT-2.

        PROMPT is a text in quotes, FILE:notes.txt for the text of a file, or - for stdin. Piped text comes before it,
        or is the prompt by itself. "" starts from nothing. Without a prompt, the command asks for prompts at a
        terminal, one after another. Put a prompt that looks like an option after --, or write --prompt="-x".""",
    flags=FLAGS,
    closing="""Names may be written with - for _. Names of other programs work too: -n, --max_new_tokens, --start,
        --temp, --repeat_penalty, --init_from.

        Exit codes: 0 success, 1 run-time failure, 2 usage error, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.""",
    examples=(
        'python gpt2.py "Once upon a time" --model_size tiny --temperature 0.8',
        'python gpt2.py "Alan Turing theorized that computers would one day become"',
        'python gpt2.py "The meaning of life is" --top_p 0.9 --seed 7 --num_samples 3',
        r'cat story.txt | python gpt2.py --temperature 0.7 --stop "\n" > next.txt',
    ),
)
PICO = Command(
    usage='gpt2_pico.py "PROMPT" [--option value ...]',
    about="""Continue a text with the minimal form of GPT-2. It is slow, because it computes the whole text again for
        every token, and it generates one sample, without penalties.""",
    flags=PICO_FLAGS,
    examples=('python gpt2_pico.py "Once upon a time" --model_size tiny --temperature 0.8',),
)


def render(command: Command) -> str:
    """Return the help of a command, at most WIDTH columns wide."""
    summary, *others = paragraphs(command.about)
    parts = [summary, f"  python {command.usage}", *others]
    parts += [section(command.flags, group) for group in GROUPS if has_flags(command.flags, group)]
    parts.append(f"{'  --help, --version':{NAME_WIDTH}}print this text, or the version, and exit")
    parts += paragraphs(command.closing)
    parts.append("\n".join(["Examples", *(f"  {line}" for line in command.examples)]))
    return "\n\n".join(parts) + "\n"


def version(number: str) -> str:
    """Return the line that --version prints."""
    return f"picoGPT, extended {number} (Python {platform.python_version()}, NumPy {np.__version__})\n"


def paragraphs(text):
    """Return the paragraphs of a text, wrapped, and its tables."""
    return [wrap_paragraph(textwrap.dedent(part).strip("\n")) for part in text.split("\n\n") if part.strip()]


def wrap_paragraph(text):
    lines = [line.strip() for line in text.splitlines()]
    if all(line.startswith("| ") for line in lines):
        return "\n".join("  " + line.removeprefix("| ") for line in lines)
    return textwrap.fill(" ".join(lines), WIDTH, break_on_hyphens=False)


def has_flags(flags, group):
    return any(flag.group == group for flag in flags.values())


def section(flags, group):
    """Return the heading of a group and a hanging paragraph per flag."""
    lines = [GROUPS[group]]
    for name, flag in flags.items():
        if flag.group == group:
            lines += describe(name, flag)
    return "\n".join(lines)


def describe(name, flag):
    """Return the lines about one flag: its name, and beside it its help and its default."""
    label = f"  --{name} {flag.metavar}".rstrip()
    is_switch = flag.metavar == ""
    has_default = not is_switch and flag.default not in (None, ())
    text = f"{flag.help} (default {flag.default})" if has_default else flag.help
    first, *others = textwrap.wrap(text, WIDTH - NAME_WIDTH, break_on_hyphens=False, break_long_words=False)
    indent = " " * NAME_WIDTH
    return [f"{label:{NAME_WIDTH}}{first}", *(indent + line for line in others)]
