"""views/screen.py: text fits the terminal, colours change only the colour, every token is visible."""

import os
import re
import subprocess
import sys
import time
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from views_helpers import ROOT, STORY, stdout_of

import utils
from views import screen

NEXT = ("next", STORY, "--temperature", "0.7", "--top_k", "6", "--min_p", "0.05", "--repetition_penalty", "1.3")
VIEWS = [
    (*NEXT, "--seed", "1"),
    ("next", "你好 🤗 é", "--temperature", "3", "--seed", "1", "--steps", "3"),
    ("next", "word " * 90, "--logit_bias", '{"199": 50}'),
    ("plot", STORY, "--temperature", "0.1,1,5", "--top_p", "0.9"),
    ("sweep", STORY, "--temperature", "1,5", "--num_samples", "2", "--seed", "1", "-n", "25"),
    ("score", "Once upon a time, there was a 你好 dog.\n\nHe\tate \x1b[31m 🤗."),
]


@pytest.fixture
def seen(here):
    return partial(stdout_of, here)


# ---- width -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 200])
@pytest.mark.parametrize("args", VIEWS)
def test_no_line_is_wider_than_the_screen(seen, monkeypatch, args, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = seen(*args, "--model_size", "tiny")
    assert "\x1b" not in out
    assert max(map(screen.display_width, out.splitlines())) <= columns
    if columns == 200:
        assert max(map(screen.display_width, out.splitlines())) > 80


@pytest.mark.parametrize("args", [args for args in VIEWS if args[0] != "sweep"])  # its measures take 55 columns
def test_no_line_is_wider_than_the_narrowest_screen(seen, monkeypatch, args):
    monkeypatch.setenv("COLUMNS", "10")
    out = seen(*args, "--model_size", "tiny")
    assert max(map(screen.display_width, out.splitlines())) <= screen.MIN_WIDTH


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=60), st.integers(4, 30))
def test_a_wrapped_text_fits_and_loses_only_spaces(text, n_columns):
    text = screen.printable(text)
    lines = screen.wrap(text, n_columns)
    assert max(map(screen.display_width, lines)) <= n_columns
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


# ---- tokens ----------------------------------------------------------------------------------------------------


def test_every_token_is_visible_and_has_a_known_width():
    encoder = utils.load("tiny", ROOT / "models").encoder
    for token in range(encoder.n_vocab):
        shown = screen.visible(encoder.decode_bytes([token]))
        assert shown and shown.isprintable() and " " not in shown
        assert screen.display_width(screen.pad(shown, 9)) == screen.display_width(screen.pad(shown, -9)) == 9


def test_a_combining_mark_at_the_beginning_gets_a_base_character():
    assert screen.visible("\u0301".encode()) == "◌\u0301"
    assert screen.display_width("e\u0301") == screen.display_width("◌\u0301") == 1


# ---- colours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", VIEWS)
def test_colours_change_only_the_colour(seen, monkeypatch, args):
    if args[0] == "score":
        return  # it prints the coloured text instead of a table: see test_score.py
    plain = seen(*args, "--model_size", "tiny")
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = seen(*args, "--model_size", "tiny")
    assert "\x1b[" in coloured and re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert seen(*args, "--model_size", "tiny") == plain


@pytest.mark.parametrize(
    ("env", "is_terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": ""}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colours_follow_the_conventions(monkeypatch, env, is_terminal, expected):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    assert screen.has_colour() is expected


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_shows_colours_in_its_own_width(columns):
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    import fcntl
    import struct
    import termios

    fd, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    command = [sys.executable, "-W", "error", "explore.py", "next", "--toy", "--temperature", "1", "--seed", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"TERM": "xterm"}, stdin=other, stdout=other, stderr=subprocess.PIPE, timeout=60
    )
    os.close(other)
    printed = b""
    while True:
        try:
            printed += os.read(fd, 4096)
        except OSError:
            break
    os.close(fd)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = re.sub(r"\x1b\[[\d;]*m", "", printed.decode()).splitlines()
    assert "\x1b[36m" in printed.decode()
    assert (max(map(screen.display_width, lines)) > 80) == (columns == 200)


def test_a_long_text_is_cut_in_linear_time():
    start = time.perf_counter()
    assert screen.cut("a" * 10**6, 5) == "aaaa…"
    assert screen.cut_left("b" + "a" * 10**6, 5) == "…aaaa"
    assert time.perf_counter() - start < 2
