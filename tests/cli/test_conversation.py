"""The prompt loop of gpt2.py: seeds, empty lines, commands, control characters and the history."""

import logging
import re

import pytest
from conftest import ROOT
from run_script import STORY, text_of

import gpt2
from cli import loop, terminal


@pytest.fixture
def talk(monkeypatch, capsys, caplog):
    """Type lines into the prompt loop of gpt2.py; return stdout and the remarks. An exception stands for a key."""

    def talk(*lines, **options):
        typed = iter(lines)

        def ask(sign):
            line = next(typed, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.chdir(ROOT)
        monkeypatch.setattr("cli.prompt.is_terminal", lambda stream: True)
        monkeypatch.setattr(terminal, "ask", ask)
        monkeypatch.setattr(logging.getLogger("picogpt"), "propagate", True)
        caplog.clear()
        with caplog.at_level(logging.INFO, "picogpt"):
            gpt2.main(model_size="tiny", history=False, **{"n_tokens_to_generate": 6, **options})
        return capsys.readouterr().out, caplog.messages

    return talk


def answer(here, prompt, *args):
    return text_of(here, prompt, "-n", "6", *args)


# ---- seeds -----------------------------------------------------------------------------------------------------


def seeds_in(messages):
    return [int(message.removeprefix("seed ")) for message in messages if message.startswith("seed ")]


def test_the_shown_seed_of_each_prompt_reproduces_its_text(talk, here):
    out, messages = talk(STORY, STORY, "A dog", temperature=1.5)
    seeds = seeds_in(messages)
    assert len(set(seeds)) == 3
    for prompt, seed in zip((STORY, STORY, "A dog"), seeds, strict=True):
        text = answer(here, prompt, "--temperature", "1.5", "--seed", seed)
        assert out.startswith(text)
        out = out.removeprefix(text)


def test_a_given_seed_is_that_of_every_prompt_and_is_shown_once(talk, here):
    out, messages = talk(STORY, "A dog", temperature=1.5, seed=7)
    assert seeds_in(messages) == [7]
    args = ("--temperature", "1.5", "--seed", "7")
    assert out == answer(here, STORY, *args) + answer(here, "A dog", *args)


def test_retry_draws_a_new_seed_unless_another_one_was_chosen(talk, here):
    out, messages = talk(STORY, "/retry", "/seed 5", "/retry", "/retry", "/seed", STORY, temperature=1.5)
    seeds = seeds_in(messages)
    assert len(set(seeds)) == 5 and seeds[2] == 5
    assert out == "".join(answer(here, STORY, "--temperature", "1.5", "--seed", seed) for seed in seeds)


# ---- lines -----------------------------------------------------------------------------------------------------


def test_an_empty_line_continues_the_last_text(talk, here):
    out, _ = talk("", STORY, "", "  ")
    first = answer(here, STORY).removesuffix("\n")
    second = answer(here, STORY + first).removesuffix("\n")
    third = answer(here, STORY + first + second)
    assert out == f"{first}\n{second}\n{third}"


@pytest.mark.parametrize("word", ["quit", "exit", "QUIT", ":q"])
def test_a_word_of_farewell_produces_a_hint_and_no_text(talk, word):
    out, messages = talk(word)
    assert out == ""
    assert any(message.startswith("Ctrl-D or /bye leaves.") for message in messages)


def test_such_a_word_can_still_be_continued(talk, here):
    assert talk("quit ")[0] == answer(here, "quit ")


@pytest.mark.parametrize("word", ["/bye", "/quit", "/exit"])
def test_bye_leaves(talk, word):
    assert talk(word, STORY)[0] == ""


def test_a_text_that_begins_with_a_slash_is_a_prompt_unless_it_has_the_form_of_a_command(talk, here):
    assert talk("/usr/bin is")[0] == answer(here, "/usr/bin is")
    out, messages = talk("/usr is", " /usr is")
    assert out == answer(here, " /usr is")
    assert "Error: there is no command /usr; /help lists them. A text may begin with a space before /" in messages


def test_an_error_does_not_end_the_loop(talk, here):
    out, messages = talk("word " * 600, STORY)
    assert out == answer(here, STORY)
    assert any("this model reads at most 512" in message for message in messages)


def test_ctrl_c_twice_leaves_and_a_prompt_between_them_prevents_it(talk, here):
    assert talk(KeyboardInterrupt(), KeyboardInterrupt(), STORY)[0] == ""
    assert talk(KeyboardInterrupt(), STORY, KeyboardInterrupt())[0] == answer(here, STORY)


# ---- commands --------------------------------------------------------------------------------------------------


def test_set_changes_an_option_and_shows_options(talk, here):
    out, messages = talk("/set n 3", STORY, "/set temperature 0", "/set", "/set stop .", "/set n_tokens", STORY)
    assert out == 2 * text_of(here, STORY, "-n", "3")
    assert "n_tokens_to_generate is 3" in messages and "stop is ('.',)" in messages
    assert any("--temperature=0" in message and "--model_size='tiny'" in message for message in messages)
    assert any(
        message.startswith("Error: there is no flag --n_tokens; did you mean --n_tokens_to_g") for message in messages
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/set temperature hot", "temperature is 'hot'; it must be a number"),
        ("/set temperature 0,7", "temperature is 0,7; it must be a number"),
        ("/set strategy greedy", "temperature has no effect with strategy greedy"),
        ("/set models_dir x", "models_dir cannot be changed here"),
        ("/set zzz 1", "there is no flag --zzz"),
        ("/seed now", "seed is 'now'; it must be a whole number"),
        ("/model", "/model needs the name of a model"),
        ("/model nowhere", "there is no model 'nowhere'"),
        ("/save", "/save needs the name of a new file"),
        ("/save README.md", "there is no text yet"),
        ("/retry", "there is no prompt yet"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_changes_nothing(talk, here, line, said):
    out, messages = talk(line, STORY, temperature=1.0, seed=3)
    assert out == answer(here, STORY, "--temperature", "1", "--seed", "3")
    assert any(message.startswith("Error: ") and said in message for message in messages)


def test_model_replaces_the_model_and_an_error_keeps_it(talk, here, models):
    out, _ = talk(f"/model {models / 'hf'}", "he said", "/model nowhere", "he said", "/model tiny", STORY)
    code, other, _ = here("he said", "--model_size", models / "hf", "-n", "6")
    assert code == 0
    assert out == 2 * other + answer(here, STORY)


def test_save_writes_the_prompt_and_its_text_to_a_new_file(talk, here, tmp_path):
    file = tmp_path / "a story.txt"
    _, messages = talk(STORY, f"/save {file}", "A dog", f"/save {file}")
    assert file.read_text(encoding="utf-8") == STORY + answer(here, STORY)
    assert f"Error: {file} exists; /save writes a new file" in messages


def test_help_lists_every_command(talk):
    _, messages = talk("/help")
    listed = re.findall(r"^/(\w+)", "\n".join(messages), re.MULTILINE)
    assert listed == ["retry", "set", "seed", "model", "save", "help", "bye"]
    assert all(len(line) <= 79 for line in "\n".join(messages).splitlines() if line.startswith("/"))


# ---- the lines themselves --------------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch):
    """Return what `ask` returns if these lines are typed."""

    def ask(*lines):
        left = iter(lines)
        monkeypatch.setattr("builtins.input", lambda sign: next(left))
        return terminal.ask("> ")

    return ask


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("A cat", "A cat"),
        ("a\x1b[Ab\x1b[1;5Cc", "abc"),
        ("\x1b[200~pasted\x1b[201~", "pasted"),
        ("a\x1bOPb\x1b]0;title\x07c", "aPbc"),
        ("a\x07\x08b\x7f\x9b", "ab"),
        ("one\r\ntwo\rthree\n\tfour", "one\ntwo\nthree\n\tfour"),
        ("naïve 你好 🤗", "naïve 你好 🤗"),
    ],
)
def test_control_sequences_never_reach_the_model(typed, line, text):
    assert typed(line) == text


def test_quotes_begin_and_end_a_text_of_several_lines(typed):
    assert typed('"""one', "two", 'three"""') == "one\ntwo\nthree"
    assert typed('"""', "one", "", "two", '"""') == "one\n\ntwo"
    assert typed('"""one"""') == "one"


def test_the_loop_of_another_command_has_no_commands_of_gpt2_py(caplog, monkeypatch):
    lines = iter(["/retry", "/help", "/bye"])
    monkeypatch.setattr(terminal, "ask", lambda sign: next(lines))
    with caplog.at_level(logging.INFO, "picogpt"):
        loop.prompt_loop(lambda text: None, keeps_history=False)
    assert (
        "Error: there is no command /retry; /help lists them. A text may begin with a space before /" in caplog.messages
    )


# ---- history ---------------------------------------------------------------------------------------------------


def test_the_history_is_stored_in_the_state_folder_and_read_by_the_next_run(tmp_path, monkeypatch):
    readline = pytest.importorskip("readline", reason="Windows has no readline")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = terminal.history_file()
    with terminal.line_editing(keeps_history=True):
        readline.clear_history()
        readline.add_history("A cat")
    assert "A cat" in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o77 == 0
    readline.clear_history()
    with terminal.line_editing(keeps_history=True):
        assert readline.get_history_item(1) == "A cat"
    readline.clear_history()
    with terminal.line_editing(keeps_history=False):
        assert readline.get_current_history_length() == 0
