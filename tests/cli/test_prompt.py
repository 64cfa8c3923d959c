"""cli/prompt.py: a prompt from an argument, a file, a pipe, or a pipe and an argument."""

import io
import logging
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from run_script import STORY, records_of, stdout_of, text_of

import explore
import gpt2
from cli import prompt
from views.command import EXPLORE


def prompt_of(here, *words, **options):
    """Return the prompt that a command uses."""
    (record,) = records_of(here, *words, "-n", "0", **options)
    return record["prompt"]


@pytest.mark.parametrize(
    ("args", "piped", "prompt"),
    [
        ([], b"Once upon\n", "Once upon"),
        ([], b"Once upon\r\n", "Once upon"),
        ([], b"Once upon\n\n", "Once upon\n"),
        (["-"], b" x ", " x "),
        (["-"], b"", ""),
        (["--prompt=-"], b"x", "x"),
        (["--prompt", "-"], b"x", "x"),
        (["The end"], b"A tale\n", "A tale\nThe end"),
        ([" a time"], b"Once upon", "Once upon a time"),
        (["x"], b"", "x"),
        ([""], b"", ""),
        ([], "\ufeff你好🤗".encode(), "你好🤗"),
        ([], b"1984", "1984"),
        ([], b"a\0b", "a\0b"),
    ],
)
def test_piped_text_is_the_prompt_or_precedes_it(here, args, piped, prompt):
    assert prompt_of(here, *args, piped=piped) == prompt


def test_a_file_is_a_prompt(here, tmp_path, monkeypatch):
    (tmp_path / "a story.txt").write_bytes("你好 # {x}\n".encode())
    assert prompt_of(here, f"FILE:{tmp_path}/a story.txt") == "你好 # {x}"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prompt_of(here, "FILE:~/a story.txt") == "你好 # {x}"
    assert prompt_of(here, "FILE:~/a story.txt", piped=b"A tale. ") == "A tale. 你好 # {x}"
    assert prompt_of(here, "file: not a file") == "file: not a file"
    (tmp_path / "a story.txt").write_bytes(b"ab\xff")
    code, _, err = here(f"FILE:{tmp_path}/a story.txt")
    assert code == 2 and "is not UTF-8 text (byte 2)" in err


def test_piped_text_that_is_not_utf_8_is_a_usage_error(here):
    code, _, err = here(piped="Blöße".encode("latin-1"))
    assert (code, err) == (2, "Error: stdin is not UTF-8 text (byte 2); convert it, for example by iconv\n")


def test_a_prompt_of_a_hundred_kilobytes_is_used_if_the_context_slides(here):
    text = "Once upon a time there was a dog. " * 3000
    assert prompt_of(here, "--context", "slide", piped=text.encode()) == text
    assert len(text_of(here, "--context", "slide", "-n", "5", piped=text.encode())) > 5


def test_half_of_a_surrogate_pair_in_the_prompt_is_preserved(here):
    assert prompt_of(here, "a\ud800b") == "a\ud800b"


def test_a_closed_stdin_is_like_an_empty_one():
    words = [sys.executable, "gpt2.py", STORY, "--model_size", "tiny"]
    closed = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *words], cwd=ROOT, capture_output=True, timeout=120)
    assert (closed.returncode, closed.stderr) == (0, b"")
    assert closed.stdout.decode() == stdout_of(STORY, "--model_size", "tiny")


# ---- limits ----------------------------------------------------------------------------------------------------


class Endless(io.RawIOBase):
    """A stream without an end, as /dev/zero or `yes`. Attribute: `n_read`, the bytes that were read."""

    n_read = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        self.n_read += len(buffer)
        return len(buffer)


def test_a_prompt_without_an_end_is_an_error_that_states_the_limit(monkeypatch):
    monkeypatch.setattr(prompt, "MAX_MEGABYTES", 1)
    endless = Endless()
    with pytest.raises(ValueError, match=r"^stdin has more than 1 MB, the most that a prompt may have$"):
        prompt.read_bounded(io.BufferedReader(endless), "stdin")
    assert 10**6 < endless.n_read < 1.1 * 10**6


def test_a_prompt_of_exactly_the_limit_is_read(monkeypatch):
    monkeypatch.setattr(prompt, "MAX_MEGABYTES", 1)
    assert len(prompt.read_bounded(io.BytesIO(b"a" * 10**6), "stdin")) == 10**6


def test_files_and_pipes_have_the_limit_of_64_megabytes(here, tmp_path, monkeypatch):
    assert prompt.MAX_MEGABYTES == 64
    monkeypatch.setattr(prompt, "MAX_MEGABYTES", 1)
    (tmp_path / "long.txt").write_bytes(b"a" * 1_000_001)
    message = "has more than 1 MB, the most that a prompt may have\n"
    assert here("--model_size", "tiny", piped=b"a" * 1_000_001) == (2, "", f"Error: stdin {message}")
    assert here(f"FILE:{tmp_path}/long.txt", "--model_size", "tiny")[::2] == (
        2,
        f"Error: '{tmp_path}/long.txt' {message}",
    )


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="Windows has no devices in its file system")
def test_a_device_without_an_end_is_not_read_to_the_end(here, monkeypatch):
    monkeypatch.setattr(prompt, "MAX_MEGABYTES", 1)
    code, _, err = here("FILE:/dev/zero", "--model_size", "tiny")
    assert (code, err) == (2, "Error: '/dev/zero' has more than 1 MB, the most that a prompt may have\n")


@pytest.mark.parametrize("name", ["nowhere.txt", ".", "n" * 5000, "a\x1b[31m\nb"])
def test_a_file_that_cannot_be_read_is_named_in_one_short_line(here, name):
    code, out, err = here(f"FILE:{name}", "--model_size", "tiny")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("Error: cannot read the prompt from '") and len(err) < 350 and "\x1b" not in err


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
def test_a_name_that_no_file_can_have_is_a_usage_error(here, name):
    code, _, err = here(f"FILE:{name}", "--model_size", "tiny")
    assert code == 2 and err.startswith("Error: the name after FILE: is ") and "no file or folder can have" in err


def test_a_stdin_that_cannot_be_read_is_a_usage_error(here, monkeypatch, tmp_path):
    with open(tmp_path / "out.txt", "w") as written:
        monkeypatch.setattr(sys, "stdin", written)
        with pytest.raises(ValueError, match="cannot read the prompt from stdin: it is not readable"):
            prompt.read_bounded(written, "stdin")


def test_several_words_are_named_in_a_line_of_limited_length(here):
    code, _, err = here("x", *["word"] * 10_000, "\x1b[31m", "--model_size", "tiny")
    assert code == 2 and len(err) < 200 and "\x1b" not in err


@pytest.mark.parametrize("words", [["x", "-"], ["x", "--", "--seed"], ["--", "x", "y", "--temperature", "3"]])
def test_a_further_word_that_begins_with_a_dash_is_neither_ignored_nor_taken_for_a_flag(here, words):
    code, _, err = here(*words, "--model_size", "tiny") if "--" not in words else here("--model_size", "tiny", *words)
    assert code == 2 and "arrived as several words" in err


# ---- files, escapes, no stdin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--file", "-f", "--prompt_file", "--prompt-file"])
def test_the_file_of_a_flag_is_the_prompt(here, tmp_path, flag):
    (tmp_path / "story.txt").write_bytes(b"one\r\ntwo\r\n")
    assert prompt_of(here, flag, tmp_path / "story.txt") == "one\ntwo"
    assert prompt_of(here, f"FILE:{tmp_path}/story.txt") == "one\ntwo"
    assert prompt_of(here, flag, "-", piped=b"three\n") == "three"


def test_a_file_and_a_prompt_are_an_error(here):
    code, _, err = here("Once", "--file", "x.txt", "--model_size", "tiny")
    assert (code, err) == (2, "Error: the prompt is given twice, as --file and as 'Once'; remove one of them\n")


def test_explore_reads_a_file_too(here, tmp_path):
    (tmp_path / "story.txt").write_text("Once upon a time\n", encoding="utf-8")
    args = {"main": explore.main, "command": EXPLORE}
    by_file = here("score", "--file", tmp_path / "story.txt", "--model_size", "tiny", **args)
    assert by_file == here("score", "Once upon a time", "--model_size", "tiny", **args)
    assert by_file[0] == 0


def test_escapes_in_a_prompt_are_read_only_on_request(here, tmp_path):
    assert prompt_of(here, r"a\nb\tc\\d") == r"a\nb\tc\\d"
    assert prompt_of(here, r"a\nb\tc\\d\x", "--escape") == "a\nb\tc\\d\\x"
    (tmp_path / "story.txt").write_text(r"a\nb", encoding="utf-8")
    assert prompt_of(here, "--file", tmp_path / "story.txt", "--escape") == r"a\nb"


def test_a_prompt_with_an_escape_causes_a_remark(monkeypatch, caplog):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(logging.getLogger("picogpt"), "propagate", True)
    with caplog.at_level(logging.INFO, "picogpt"):
        gpt2.main(r"a\nb", model_size="tiny", n_tokens_to_generate=1)
    assert r"The prompt contains \n, a backslash and a letter; --escape reads it as a new line." in caplog.messages


def test_no_stdin_reads_no_pipe(here):
    assert prompt_of(here, "Once", "--no_stdin", piped=b"A tale. ") == "Once"
    code, _, err = here("--no_stdin", "--model_size", "tiny", piped=b"A tale.")
    assert code == 2 and "there is no prompt" in err
    assert prompt_of(here, "-", "--no_stdin", piped=b"A tale.") == "A tale."
