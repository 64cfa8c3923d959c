"""cli/help.py: every flag is explained once, with its default, in lines of at most 79 columns."""

import re

import pytest
from run_script import stdout_of

import gpt2_pico
import sampling
from cli import help
from runner.command import BATCH
from views.command import EXPLORE

COMMANDS = [
    help.GPT2,
    help.PICO,
    BATCH,
    EXPLORE,
]
every_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.usage.split()[0])


def entry_of(name, text):
    """Return what the help says about a flag, in one line."""
    (entry,) = re.findall(rf"^  --{name}\b.*\n(?: {{{help.NAME_WIDTH}}}\S.*\n)*", text, re.MULTILINE)
    return " ".join(entry.split())


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["x", "--help"], ["x", "--seed", "now", "-h"]])
def test_help_is_printed_and_nothing_else_is_done(args):
    assert stdout_of(*args) == help.render(help.GPT2)


def test_gpt2_pico_py_prints_its_own_help(here):
    assert here("--help", main=gpt2_pico.main, command=help.PICO) == (0, help.render(help.PICO), "")


@every_command
def test_no_line_of_the_help_has_more_than_79_columns(command):
    lines = help.render(command).splitlines()
    assert [line for line in lines if len(line) > 79] == []
    assert [line for line in lines if line.endswith(" ")] == []


@every_command
def test_every_flag_has_a_group_and_a_help_and_is_in_the_help_exactly_once(command):
    text = help.render(command)
    for name, flag in command.flags.items():
        assert flag.group in help.GROUPS
        assert flag.help and flag.help in entry_of(name, text)
    explained = re.findall(r"^  --(\w+)", text, re.MULTILINE)
    assert sorted(explained) == sorted([*command.flags, "help"])


@every_command
def test_the_help_has_every_default_and_the_recommended_value_of_every_knob(command):
    text = help.render(command)
    for name, flag in command.flags.items():
        if flag.metavar and flag.default not in (None, ()):
            assert entry_of(name, text).endswith(f"(default {flag.default})")
        else:
            assert "default" not in entry_of(name, text).removeprefix(f"--{name} {flag.metavar} {flag.help}")
    for name in sampling.KNOBS.keys() & command.flags.keys() - {"temperature"}:
        assert entry_of(name, text).endswith(f"; try {sampling.KNOBS[name][-1]:g}")


@every_command
def test_the_help_names_every_strategy_and_preset(command):
    text = help.render(command)
    assert [name for name in sampling.STRATEGIES if name not in entry_of("strategy", text)] == []
    assert [name for name in sampling.PRESETS if name not in entry_of("preset", text)] == []


def test_the_default_0_of_keep_is_in_the_help():
    assert entry_of("keep", help.render(help.GPT2)).endswith("(default 0)")


def test_a_table_keeps_its_lines_and_a_paragraph_is_wrapped():
    about = """Summary
        in two lines.

        | a.txt    one
        | b.jsonl  two

        End."""
    text = help.render(help.Command("x.py", about, {}, ("python x.py",), closing="Closing."))
    assert text.split("\n\n") == [
        "Summary in two lines.",
        "  python x.py",
        "  a.txt    one\n  b.jsonl  two",
        "End.",
        "  --help, --version          print this text, or the version, and exit",
        "Closing.",
        "Examples\n  python x.py\n",
    ]


def test_the_usage_and_the_examples_name_the_command():
    for command in (help.GPT2, help.PICO):
        script = command.usage.split()[0]
        assert command.examples and all(f"python {script}" in line for line in command.examples)
        assert f"  python {command.usage}\n" in help.render(command)
