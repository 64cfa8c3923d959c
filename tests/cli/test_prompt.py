"""cli/prompt.py: a prompt from an argument, a file, a pipe, or a pipe and an argument."""

import subprocess
import sys

import pytest
from conftest import ROOT
from run_script import STORY, records_of, stdout_of, text_of


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
