"""cli/arguments.py and cli/hints.py: which words are flags, which are prompts, and what is said about the others."""

import sys

import pytest

import batch
import explore
import gpt2
from cli import command, help
from cli.arguments import normalize_args
from cli.command_flags import BATCH_FLAGS, EXPLORE_FLAGS
from cli.flags import FLAGS
from cli.hints import nearest_flag
from runner.command import BATCH
from views.command import EXPLORE

COMMANDS = {
    "gpt2.py": (gpt2.main, help.GPT2),
    "batch.py": (batch.main, BATCH),
    "explore.py": (explore.main, EXPLORE),
}

# ---- words that Fire would misread -----------------------------------------------------------------------------

AWKWARD = [  # (words, the error, or the prompt that they are)
    (["Tom", "-", "Jerry"], "must be in quotes|must be one file"),
    (["-", "x", "y"], "arrived as several words"),
    (["x", "y", "-", "--json"], "arrived as several words|has no --json"),
    (["x", "y", "--", "-"], "arrived as several words"),
    (["x", "y", "z", "--", "--verbose"], "arrived as several words"),
    (["x", "y", "z", "--", "--interactive"], "arrived as several words"),
    (["--words", "x"], "there is no flag --words"),
    (["--words=x"], "there is no flag --words"),
    (["--args=1"], "there is no flag --args"),
    (["--self", "x"], "there is no flag --self"),
    (["--separator_=x"], "there is no flag --separator_"),
    (["--=5"], "'--=5' is no flag; a prompt that begins with dashes follows --"),
    (["--5"], "'--5' is no flag"),
    (["---seed=5"], "'---seed=5' is no flag"),
    (["--é"], "'--é' is no flag"),
    (["--interactive"], "there is no flag --interactive: without a prompt, the command asks"),
    (["--trace"], "there is no flag --trace"),
    (["--verbose"], "there is no flag --verbose"),
    (["--seed"], "--seed needs a value"),
    (["--seed", "--offline"], "--seed needs a value"),
    (["--model_size="], "there is no model ''|there is no prompt|there are no prompts|the view is missing"),
]


@pytest.mark.parametrize("script", COMMANDS)
@pytest.mark.parametrize(("words", "message"), AWKWARD)
def test_awkward_words_are_an_error_in_one_line_in_every_command(here, words, message, script):
    main, description = COMMANDS[script]
    code, out, err = here(*words, main=main, command=description)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("Error: ")
    assert any(part in err for part in message.split("|")), err


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (["--", "--interactive"], "--interactive"),
        (["--", "--help"], "--help"),
        (["--", "-"], "-"),
        (["--prompt=--=5"], "--=5"),
        (["- Jerry"], "- Jerry"),
        (["-5"], "-5"),
        (["-"], "-"),
        (["--no such flag"], "--no such flag"),
        (["--json", "yes"], "yes"),
        (["--json", "off", "on"], "on"),
        (["--json", "True", "False"], "False"),
        (["no", "--json"], "no"),
    ],
)
def test_a_prompt_reaches_main_unchanged_and_opens_no_python(monkeypatch, words, prompt):
    received = []

    def main(prompt=None, **options):
        received.append(prompt)

    monkeypatch.setattr(sys, "argv", ["gpt2.py", *words])
    command.run(main)
    assert received == [prompt]


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--json", "yes", "x"], ["--json=yes", "--prompt=x"]),
        (["x", "--json", "no", "--quiet", "ON"], ["--json=no", "--quiet=ON", "--prompt=x"]),
        (["--json", "true"], ["--json=true"]),
        (["--json", "1", "x"], ["--json=1", "--prompt=x"]),
        (["--stop", "a", "x", "--stop=b"], ["--prompt=x", '--stop=["a", "b"]']),
        (["--stop", "\\n", "--stop", '["b", "c"]', "x"], ["--prompt=x", '--stop=["\\n", "b", "c"]']),
        (["--stop", "\\n", "x"], ["--prompt=x", "--stop=\\n"]),
        (["-n", "3", "-f", "a.txt"], ["--n_tokens_to_generate=3", "--file=a.txt"]),
        (["--no_history", "--no-stdin", "x"], ["--history=False", "--stdin=False", "--prompt=x"]),
        (["--seed", "-1", "x"], ["--seed=-1", "--prompt=x"]),
    ],
)
def test_flags_have_one_form(words, flags):
    assert sorted(normalize_args(words)) == sorted(flags)


def test_a_switch_before_two_words_takes_the_first_one_only_if_it_is_a_switch_word():
    with pytest.raises(ValueError, match="'maybe x' arrived as several words"):
        normalize_args(["--json", "maybe", "x"])
    with pytest.raises(ValueError, match="'yes yes' arrived as several words"):
        normalize_args(["--json", "no", "yes", "yes"])


# ---- hints -----------------------------------------------------------------------------------------------------

HINTS = [
    ("n_tokens", "n_tokens_to_generate"),
    ("tokens", "n_tokens_to_generate"),
    ("temprature", "temperature"),
    ("temperatur", "temperature"),
    ("tempp", "temperature"),
    ("rep", "repetition_penalty"),
    ("penalty", "repetition_penalty"),
    ("samples", "num_samples"),
    ("sead", "seed"),
    ("lenght", "n_tokens_to_generate"),
    ("modelsize", "model_size"),
    ("words", "banned_words"),
    ("mirostat", "mirostat_tau"),
    ("beam_width", None),
    ("size", "model_size"),
    ("zzz", None),
    ("x", None),
    ("verbose", None),
]


@pytest.mark.parametrize(("typed", "name"), HINTS)
def test_an_unknown_flag_suggests_the_flag_that_it_begins_or_resembles(typed, name):
    assert nearest_flag(typed, FLAGS) == name


def test_a_hint_names_a_flag_of_the_same_command():
    assert nearest_flag("overwrit", BATCH_FLAGS) == "overwrite"
    assert nearest_flag("batchsize", BATCH_FLAGS) == "batch_size"
    assert nearest_flag("heat", EXPLORE_FLAGS) == "heatmap"
    assert nearest_flag("heat", BATCH_FLAGS) is None


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--num_beams", "--temperature 0 takes the likeliest token"),
        ("--beam_size", "--temperature 0 takes the likeliest token"),
        ("--reverse_prompt", "--stop TEXT ends before a text"),
        ("--ctx_size", "--context slide goes on beyond it"),
        ("--repeat_last_n", "--repetition_penalty counts the whole prompt and text"),
        ("--dtype", "weights and activations are float32"),
        ("--model_path", "--model_size takes a path too"),
        ("--interactive", "asks for one after another"),
        ("-i", "asks for one after another"),
    ],
)
def test_a_flag_of_another_program_is_answered(here, flag, said):
    code, _, err = here("x", flag, "3")
    assert code == 2 and f"there is no flag --{flag.strip('-')}: " in err and said in err


# ---- versions and help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", COMMANDS)
def test_v_prints_the_version_and_h_the_help(here, script):
    main, description = COMMANDS[script]
    for flag in ("-v", "-V", "--version"):
        code, out, err = here("x", flag, main=main, command=description)
        assert (code, err) == (0, "") and out.startswith("picoGPT, extended ")
    assert here("-h", main=main, command=description) == here("--help", main=main, command=description)
