"""gpt2.py at a terminal (here a pseudo-terminal): the prompt loop, Ctrl-C, remarks, the progress bar."""

import os
import re
import select
import struct
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from run_script import STORY

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")

ENDLESS = ("--model_size", "tiny", "-n", "1000000", "--context", "slide", "--ignore_eos")


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal, except for the streams given.

    Attribute: `seen`, the text that was read from the terminal so far.
    """

    def __init__(self, *args, **streams):
        import fcntl
        import termios

        self.fd, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("4H", 40, 200, 0, 0))  # lines, columns
        settings = {name: value for name, value in os.environ.items() if not name.startswith(("PICOGPT", "PYTHON"))}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "gpt2.py", *args],
            cwd=ROOT,
            env=settings | {"TERM": "dumb", "NO_COLOR": "1", "XDG_STATE_HOME": "/nonexistent"},
            **({"stdin": other, "stdout": other, "stderr": other} | streams),
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(other, termios.TIOCSCTTY, 0)),
        )
        os.close(other)
        self.seen = ""

    def read_until(self, pattern, timeout=60):
        """Return the text that the terminal shows up to the pattern, which must appear within the timeout."""
        deadline = time.monotonic() + timeout
        text = b""
        while not re.search(pattern, text.decode("utf-8", "ignore")):
            if not select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no {pattern!r} in {text!r}")
            try:
                text += os.read(self.fd, 4096)
            except OSError:  # on Linux: the other side is closed
                if pattern == "$closed":
                    break
                raise AssertionError(f"no {pattern!r} in {text!r}") from None
        new = text.decode("utf-8", "replace").replace("\r\n", "\n")
        self.seen += new
        return new

    def shows(self, pattern):
        """Return whether the terminal shows the pattern soon."""
        try:
            self.read_until(pattern, timeout=3)
        except AssertionError:
            return False
        return True

    def type(self, text):
        os.write(self.fd, text.encode())

    def press(self, key, pattern):
        """Type a key until the terminal shows the pattern.

        Readline sees a Ctrl-C that arrives just before it begins to wait only with the next key, and no Ctrl-D.
        """
        for _ in range(9):
            self.type(key)
            if self.shows(pattern):
                return
        raise AssertionError(f"no {pattern!r} after {key!r}")

    def end(self):
        """Return the exit code, after all text was read."""
        self.read_until("$closed")
        return self.process.wait(60)


@pytest.fixture
def start():
    """Start gpt2.py at a terminal; it is killed at the end of the test."""
    terminals = []

    def start_terminal(*args, **streams):
        terminals.append(Terminal(*args, **streams))
        return terminals[-1]

    yield start_terminal
    for terminal in terminals:
        process = terminal.process
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
        os.close(terminal.fd)


def test_without_a_prompt_the_command_asks_for_prompts_until_ctrl_d(start):
    terminal = start("--model_size", "tiny", "-n", "8")
    terminal.read_until("> $")
    terminal.type(STORY + "\n")
    first = terminal.read_until("> $")
    terminal.type("\n")
    terminal.read_until("> $")
    terminal.type("word " * 600 + "\n")
    assert "Error: the prompt has" in terminal.read_until("> $")
    terminal.type(STORY + "\n")
    assert first.split("\n")[1] == terminal.read_until("> $").split("\n")[1] != ""
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.seen


def test_ctrl_c_in_the_prompt_loop_stops_only_the_current_text(start):
    terminal = start(*ENDLESS)
    terminal.read_until("> $")
    for _ in range(2):
        terminal.type(STORY + "\n")
        terminal.read_until(r"\w+ \w+ \w+ \w+ \w+ \w+ \w+")
        terminal.type("\x03")
        terminal.read_until("\n> $")
    terminal.type("half a line")
    terminal.read_until("half a line$")
    terminal.press("\x03", "\n> $")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.seen


def test_a_second_ctrl_c_leaves_the_prompt_loop(start):
    terminal = start(*ENDLESS)
    terminal.read_until("> $")
    terminal.type(STORY + "\n")
    terminal.read_until(r"\w+ \w+ \w+ \w+ \w+ \w+ \w+")
    terminal.type("\x03")
    terminal.read_until("\n> $")
    terminal.press("\x03", "$closed")
    assert terminal.process.wait(60) == 0
    assert "Traceback" not in terminal.seen


def test_ctrl_c_ends_a_command_with_130_and_keeps_the_text_so_far(start):
    terminal = start(STORY, *ENDLESS)
    terminal.read_until(r"\w+ \w+ \w+ \w+ \w+ \w+ \w+")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert terminal.seen.endswith("\n") and "Traceback" not in terminal.seen


def test_a_dash_reads_the_prompt_from_the_terminal(start):
    terminal = start("-", "--model_size", "tiny", "-n", "5", "--echo")
    terminal.read_until("Ctrl-D")
    terminal.type("A dog\n\x04")
    assert terminal.end() == 0
    assert terminal.seen.count("A dog") == 2


def test_a_terminal_shows_the_seed_a_warning_and_the_closing_remark(start):
    terminal = start(STORY + " ", "--model_size", "tiny", "-n", "5", "--temperature", "0.8", "--seed", "77")
    assert terminal.end() == 0
    assert "seed 77\n" in terminal.seen
    assert "ends with a space" in terminal.seen
    closing = r"\n5 tokens in [\d.]+ s \([\d.]+ tokens/s\), the first after [\d.]+ s; ended by: length\n$"
    assert re.search(closing, terminal.seen)
    assert "generating" not in terminal.seen and "\x1b" not in terminal.seen


def test_an_idle_pipe_on_stdin_gives_a_warning(start):
    terminal = start("The end", "--model_size", "tiny", "-n", "3", "--echo", stdin=subprocess.PIPE)
    terminal.read_until("Waiting for the end of the piped text")
    terminal.process.stdin.write(b"A tale. ")
    terminal.process.stdin.close()
    assert "A tale. The end" in terminal.read_until("tokens/s")
    assert terminal.end() == 0


def test_quiet_hides_remarks_but_not_errors(start):
    text = start(STORY, "--model_size", "tiny", "-n", "5", "--quiet", "--temperature", "1")
    assert text.end() == 0
    assert "tokens/s" not in text.seen and "seed" not in text.seen and text.seen.count("\n") == 1
    too_long = start("word " * 600, "--model_size", "tiny", "--quiet")
    assert too_long.end() == 2
    assert "Error: the prompt has" in too_long.seen
    loop = start("--model_size", "tiny", "--quiet", "-n", "3")
    loop.read_until("> $")
    loop.type("word " * 600 + "\n")
    assert "Error: the prompt has" in loop.read_until("\n> $")


@pytest.mark.parametrize("args", [(), ("--json",), ("--stream", "False")])
def test_the_progress_bar_is_drawn_if_the_text_goes_to_a_file_and_is_erased_at_the_end(start, tmp_path, args):
    with open(tmp_path / "out.txt", "wb") as file:
        terminal = start(STORY, "--model_size", "tiny", "-n", "200", *args, stdout=file)
    assert terminal.end() == 0
    assert re.search(r"generating[^\r\n]*\r +\r\d+ tokens in", terminal.seen) and "\x1b" not in terminal.seen
    out = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert "generating" not in out and "tokens/s" not in out and "\r" not in out


def test_the_progress_bar_is_drawn_if_the_text_goes_to_the_null_device_or_to_output(start, tmp_path):
    for args, stream in (((), subprocess.DEVNULL), (("--output", str(tmp_path / "out.txt")), subprocess.PIPE)):
        terminal = start(STORY, "--model_size", "tiny", "-n", "200", *args, stdout=stream)
        assert terminal.end() == 0
        assert "generating" in terminal.seen
    assert len((tmp_path / "out.txt").read_text(encoding="utf-8")) > 200


@pytest.mark.parametrize("args", [(), ("--json",), ("--stream", "False"), ("--temperature", "1", "--seed", "7")])
def test_nothing_is_drawn_over_a_text_that_a_pipe_shows_later(start, args):
    terminal = start(STORY, "--model_size", "tiny", "-n", "200", *args, stdout=subprocess.PIPE)
    assert len(terminal.process.stdout.read()) > 100
    assert terminal.end() == 0
    assert terminal.seen == ("seed 7\n" if "--seed" in args else "")


@pytest.mark.parametrize("args", [("--json",), ("--stream", "False")])
def test_no_progress_bar_is_drawn_where_the_text_will_appear(start, args):
    terminal = start(STORY, "--model_size", "tiny", "-n", "100", *args)
    assert terminal.end() == 0
    assert "generating" not in terminal.seen and "\r" not in terminal.seen


def test_quiet_hides_the_progress_bar(start):
    terminal = start(STORY, "--model_size", "tiny", "-n", "200", "--quiet", stdout=subprocess.DEVNULL)
    assert terminal.end() == 0
    assert terminal.seen == ""


def test_ctrl_c_erases_the_progress_bar_and_the_shell_continues_on_its_own_line(start):
    terminal = start(STORY, *ENDLESS, stdout=subprocess.DEVNULL)
    terminal.read_until("generating.*[1-9]/")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert re.search(r"\r +\r\n$", terminal.seen)


def test_a_terminal_shows_escapes_in_place_of_control_characters(start):
    terminal = start("a\x1b[31mb\tc\rd\u202ee", "--model_size", "tiny", "-n", "0", "--echo")
    assert terminal.end() == 0
    assert terminal.seen.startswith("a\\x1b[31mb\tc\\rd\\u202ee\n")
    piped = start("a\x1b[31mb", "--model_size", "tiny", "-n", "0", "--echo", stdout=subprocess.PIPE)
    assert piped.process.stdout.read() == b"a\x1b[31mb\n"


def test_the_sign_of_the_prompt_loop_is_not_written_to_a_file(start, tmp_path):
    with open(tmp_path / "out.txt", "wb") as file:
        terminal = start("--model_size", "tiny", "-n", "5", stdout=file)
    terminal.read_until("> $")
    terminal.type(STORY + "\n")
    terminal.read_until("tokens/s.*\n> $")
    terminal.type("\x04")
    assert terminal.end() == 0
    out = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert ">" not in out and "generating" not in out and len(out) > 5


def test_quiet_hides_the_sign_of_the_prompt_loop_if_stdout_is_a_pipe(start):
    terminal = start("--model_size", "tiny", "-n", "5", "--quiet", stdout=subprocess.PIPE)
    terminal.type(STORY + "\n")
    assert len(terminal.process.stdout.readline()) > 5
    terminal.press("\x04", "$closed")
    assert terminal.process.wait(60) == 0
    assert terminal.seen.replace(STORY + "\n", "").strip() == ""
