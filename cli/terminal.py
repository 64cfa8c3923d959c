"""Lines that are typed at a terminal: editing, history, pasted text, text of several lines.

GNU readline edits lines, where Python has it. It writes to stdout; if stdout is a file or a pipe, the terminal takes
its place while a line is read.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from checkpoints.places import user_folder
from cli.command import as_utf8

QUOTES = '"""'  # begin and end a text of several lines
LONGEST_HISTORY = 1000  # lines
CONTROL = re.compile(  # sequences of ECMA-48: CSI, OSC, of two characters; and other control characters
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b.?|[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.DOTALL
)


def ask(sign: str) -> str:
    """Return a line, a pasted text, or a text of several lines between quotes. Raise EOFError after Ctrl-D."""
    text = ask_line(sign)
    if not text.startswith(QUOTES):
        return text
    lines = [text.removeprefix(QUOTES)]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(ask_line("... "))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).removeprefix("\n").removesuffix("\n")


def ask_line(sign):
    """Return a line without control sequences, such as those of cursor keys that nothing interprets."""
    with terminal_as_stdout():
        line = input(sign)
    return CONTROL.sub("", as_utf8(line).replace("\r\n", "\n").replace("\r", "\n"))


@contextlib.contextmanager
def terminal_as_stdout() -> Iterator[None]:
    """Let input() write to the terminal, which stderr shows or /dev/tty is, while stdout is a file or a pipe."""
    if sys.stdout is None or sys.stdout.isatty():
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with open_terminal() as terminal:
            os.dup2(terminal.fileno(), 1)
        with open(1, "w", encoding="utf-8", closefd=False) as shown, contextlib.redirect_stdout(shown):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def open_terminal():
    if sys.stderr is not None and sys.stderr.isatty():
        return open(os.dup(2), "w", encoding="utf-8")
    try:
        return open("/dev/tty", "w", encoding="utf-8")
    except OSError:
        return open(os.devnull, "w", encoding="utf-8")


def has_typed() -> bool:
    """Return whether the line that a signal interrupted has characters."""
    readline = sys.modules.get("readline")
    return bool(readline and readline.get_line_buffer())


# ---- history ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def line_editing(keeps_history: bool) -> Iterator[None]:
    """Edit lines within a `with` block; read the history of earlier runs and store it at the end, if it is kept."""
    try:
        import readline  # Windows has none; its import lets input() edit lines
    except ImportError:
        yield
        return
    if os.environ.get("TERM") != "dumb":
        readline.parse_and_bind("set enable-bracketed-paste on")  # a paste is one text; libedit, on macOS, ignores it
    file = history_file() if keeps_history else None
    if file:
        with contextlib.suppress(OSError, UnicodeError):
            readline.read_history_file(file)
    readline.set_history_length(LONGEST_HISTORY)
    try:
        yield
    finally:
        if file:
            with contextlib.suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                readline.write_history_file(file)
                file.chmod(0o600)


def history_file() -> Path | None:
    """Return the file of the history in the user's state folder, None without such a folder."""
    folder = user_folder("state")
    return folder / "history" if folder else None
