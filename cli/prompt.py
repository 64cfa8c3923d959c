"""Sources of a prompt: an argument, a file, a pipe, or a terminal that asks for one prompt after another."""

import contextlib
import itertools
import logging
import re
import select
import sys
from collections.abc import Callable
from typing import BinaryIO

from checkpoints import files
from checkpoints.messages import named, reason
from cli import checks
from cli.checks import shown
from cli.command import as_utf8
from cli.messages import describe

MAX_MEGABYTES = 64  # of a prompt; the longest context of GPT-2 takes a few kilobytes

log = logging.getLogger("picogpt")

# ---- one prompt ------------------------------------------------------------------------------------------------


def check_words(prompt: str | None, words: tuple) -> None:
    """Raise ValueError if the prompt was split into several words."""
    if words:
        several = " ".join(map(str, (prompt, *words)))
        raise ValueError(f"the prompt must be in quotes: {shown(several)} arrived as several words")


def read_prompt(prompt: str | None) -> str | None:
    """Return the text to continue: an argument, a file, piped text, or piped text and an argument.

    Returns None if there is no prompt and stdin is a terminal.
    """
    if prompt == "-":
        return drop_newline(read_stdin())
    if prompt is not None and prompt.startswith("FILE:"):
        prompt = read_file(prompt.removeprefix("FILE:"))
    if sys.stdin is not None and sys.stdin.isatty():
        return prompt
    if prompt is not None:
        warn_about_idle_pipe()
        return read_stdin() + prompt
    piped = read_stdin()
    if piped:
        return drop_newline(piped)
    raise ValueError('there is no prompt; give one in quotes, as in "Once upon a time", or "" to start from nothing')


def read_file(path):
    source = f"'{named(path)}'"
    checks.path("the name after FILE:", path)
    try:
        with open(files.expand(path), "rb") as file:
            data = read_bounded(file, source)
    except OSError as error:
        raise ValueError(f"cannot read the prompt from {source}: {reason(error)}") from error
    return drop_newline(decode(data, source))


def read_bounded(stream: BinaryIO, source: str) -> bytes:
    """Return all bytes of a stream. Raise ValueError if it cannot be read or does not end within the limit."""
    n_most = MAX_MEGABYTES * 10**6
    try:
        data = stream.read(n_most + 1) or b""  # None: a pipe that does not block and is empty
    except OSError as error:
        raise ValueError(f"cannot read the prompt from {source}: {error.strerror or 'it is not readable'}") from error
    if len(data) > n_most:
        raise ValueError(f"{source} has more than {MAX_MEGABYTES} MB, the most that a prompt may have")
    return data


def read_stdin():
    if sys.stdin is None:  # closed
        return ""
    if sys.stdin.isatty():
        log.info("Type the prompt and end it with Ctrl-D on a line of its own.")
    return decode(read_bounded(sys.stdin.buffer, "stdin"), "stdin")


def warn_about_idle_pipe():
    """Warn, even in logs, that a pipe without a writer blocks a run that already has its prompt."""
    with contextlib.suppress(OSError, ValueError, TypeError):  # not a pipe, no stdin, or Windows
        if not select.select([sys.stdin], [], [], 1.0)[0]:
            log.warning("Waiting for the end of the piped text; add < /dev/null if there is none.")


def decode(data, source):
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text (byte {error.start}); convert it, for example by iconv") from None


def drop_newline(text):
    """Remove the last newline, which files and `echo` append to a text."""
    return re.sub(r"\r?\n\Z", "", text)


# ---- the prompt loop -------------------------------------------------------------------------------------------


def prompt_loop(answer: Callable[[str, int], None]) -> None:
    """Ask for prompts and call `answer(prompt, index)` until Ctrl-D. Ctrl-C stops only the current answer.

    An answer that raises ValueError is an error message, and the loop goes on. Empty prompts are not counted.
    """
    with contextlib.suppress(ImportError):  # Windows has no readline
        import readline  # noqa: F401, its import gives input() a history and line editing
    log.info("Type the beginning of a text. Ctrl-C stops the answer, Ctrl-D leaves.")
    indices = itertools.count()
    while True:
        try:
            prompt = as_utf8(ask_once("> "))
            if prompt:
                answer(prompt, next(indices))
        except EOFError:
            log.info("")  # the terminal's cursor is still behind the sign
            return
        except KeyboardInterrupt:
            log.info("")
        except ValueError as error:
            log.error(f"Error: {describe(error)}")


def ask_once(sign: str) -> str:
    """Return a line from the terminal. If stdout is a file or a pipe, the sign goes where remarks go."""
    if sys.stdout and sys.stdout.isatty():
        return input(sign)
    if log.isEnabledFor(logging.INFO):
        sys.stderr.write(sign)
        sys.stderr.flush()
    return input()
