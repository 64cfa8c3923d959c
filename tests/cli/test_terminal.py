"""The command with a person at a terminal (a pseudo-terminal here): the prompt loop, Ctrl-C, remarks, the bar."""

import os
import re
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")

ROOT = Path(__file__).parent.parent
STORY = "Once upon a time"
ENDLESS = ("--model_size", "tiny", "-n", "1000000", "--context", "slide", "--ignore_eos")


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal, but for those given; `seen` is what is on its screen."""

    def __init__(self, *args, **streams):
        import fcntl
        import termios

        self.fd, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("4H", 40, 200, 0, 0))  # lines, columns
        settings = {name: value for name, value in os.environ.items() if not name.startswith(("PICOGPT", "PYTHON"))}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "gpt2.py", *args],
            cwd=ROOT,
            env=settings | {"TERM": "dumb", "NO_COLOR": "1"},
            **({"stdin": other, "stdout": other, "stderr": other} | streams),
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(other, termios.TIOCSCTTY, 0)),
        )
        os.close(other)
        self.seen = ""

    def read_until(self, pattern, timeout=60):
        """What comes on the screen up to the pattern, which must come; it counts as read."""
        deadline, text = time.monotonic() + timeout, b""
        while not re.search(pattern, text.decode("utf-8", "ignore")):
            if not select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no {pattern!r} in {text!r}")
            try:
                text += os.read(self.fd, 4096)
            except OSError:  # so Linux says that the other side is closed
                if pattern == "$closed":
                    break
                raise AssertionError(f"no {pattern!r} in {text!r}") from None
        self.seen += (new := text.decode("utf-8", "replace").replace("\r\n", "\n"))
        return new

    def is_there(self, pattern):
        try:
            return bool(self.read_until(pattern, timeout=3))
        except AssertionError:
            return False

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        """The exit code, when all is read."""
        self.read_until("$closed")
        return self.process.wait(60)


@pytest.fixture
def terminal():
    opened = []

    def start(*args, **streams):
        opened.append(Terminal(*args, **streams))
        return opened[-1]

    yield start
    for one in opened:
        one.process.kill()
        one.process.wait()
        for stream in (one.process.stdin, one.process.stdout, one.process.stderr):
            if stream:
                stream.close()
        os.close(one.fd)


def test_without_a_prompt_it_asks_for_one_after_another_until_ctrl_d(terminal):
    person = terminal("--model_size", "tiny", "-n", "8")
    person.read_until("> $")
    person.type(STORY + "\n")
    first = person.read_until("> $")
    person.type("\n")
    person.read_until("> $")
    person.type("word " * 600 + "\n")
    assert "Error: the prompt has" in person.read_until("> $")
    person.type(STORY + "\n")
    assert first.split("\n")[1] == person.read_until("> $").split("\n")[1] != ""
    person.type("\x04")
    assert person.end() == 0
    assert "Traceback" not in person.seen


def test_ctrl_c_stops_the_current_text_only(terminal):
    person = terminal(*ENDLESS)
    person.read_until("> $")
    for _ in range(2):
        person.type(STORY + "\n")
        person.read_until(r"\w+ \w+ \w+ \w+ \w+ \w+ \w+")
        person.type("\x03")
        person.read_until("\n> $")
    person.type("half a line")
    person.read_until("half a line$")
    for _ in range(9):  # one that comes just before readline begins to wait is seen only with the next key
        person.type("\x03")
        if person.is_there("\n> $"):
            break
    person.type("\x04")
    assert person.end() == 0
    assert "Traceback" not in person.seen


def test_ctrl_c_ends_a_command_with_130_and_what_was_printed_stays(terminal):
    person = terminal(STORY, *ENDLESS)
    person.read_until(r"\w+ \w+ \w+ \w+ \w+ \w+ \w+")
    person.type("\x03")
    assert person.end() == 130
    assert person.seen.endswith("\n") and "Traceback" not in person.seen


def test_the_prompt_may_be_typed_at_a_terminal_with_a_dash(terminal):
    person = terminal("-", "--model_size", "tiny", "-n", "5", "--echo")
    person.read_until("Ctrl-D")
    person.type("A dog\n\x04")
    assert person.end() == 0
    assert person.seen.count("A dog") == 2


def test_a_person_is_told_the_seed_the_speed_and_what_will_disappoint(terminal):
    person = terminal(STORY + " ", "--model_size", "tiny", "-n", "5", "--temperature", "0.8", "--seed", "77")
    assert person.end() == 0
    assert "seed 77\n" in person.seen
    assert "ends with a space" in person.seen
    assert re.search(r"5 tokens in [\d.]+ s \([\d.]+ tokens/s\)", person.seen)
    assert "generating" not in person.seen and "\x1b" not in person.seen


def test_who_waits_for_a_pipe_is_told_so(terminal):
    person = terminal("The end", "--model_size", "tiny", "-n", "3", "--echo", stdin=subprocess.PIPE)
    person.read_until("Waiting for the end of what is piped in")
    person.process.stdin.write(b"A tale. ")
    person.process.stdin.close()
    assert "A tale. The end" in person.read_until("tokens/s")
    assert person.end() == 0


def test_quiet_is_quiet_and_errors_are_still_told(terminal):
    text = terminal(STORY, "--model_size", "tiny", "-n", "5", "--quiet", "--temperature", "1")
    assert text.end() == 0
    assert "tokens/s" not in text.seen and "seed" not in text.seen and text.seen.count("\n") == 1
    wrong = terminal("word " * 600, "--model_size", "tiny", "--quiet")
    assert wrong.end() == 2
    assert "Error: the prompt has" in wrong.seen
    asked = terminal("--model_size", "tiny", "--quiet", "-n", "3")
    asked.read_until("> $")
    asked.type("word " * 600 + "\n")
    assert "Error: the prompt has" in asked.read_until("\n> $")


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_who_does_not_see_the_text_sees_a_bar_which_is_gone_at_the_end(terminal, args):
    person = terminal(STORY, "--model_size", "tiny", "-n", "200", *args, stdout=subprocess.PIPE)
    out = person.process.stdout.read().decode()
    assert person.end() == 0
    assert "generating" in person.seen and "tokens/s" in person.seen and "\x1b" not in person.seen
    assert "generating" not in out and "tokens/s" not in out and "\r" not in out


def test_a_text_that_is_not_streamed_does_not_collide_with_the_bar(terminal):
    person = terminal(STORY, "--model_size", "tiny", "-n", "100", "--stream", "False")
    assert person.end() == 0
    assert "generating" in person.seen
    after = person.seen[person.seen.rindex("generating") :]
    assert re.match(r"generating[^\r\n]*\r +\r\S", after)


def test_the_sign_of_the_prompt_loop_does_not_end_up_in_a_file(terminal, tmp_path):
    with open(tmp_path / "out.txt", "wb") as file:
        person = terminal("--model_size", "tiny", "-n", "5", stdout=file)
    person.read_until("> $")
    person.type(STORY + "\n")
    person.read_until("tokens/s.*\n> $")
    person.type("\x04")
    assert person.end() == 0
    out = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert ">" not in out and "generating" not in out and len(out) > 5
