"""Sources of a prompt: an argument, a file or a pipe."""

import contextlib
import logging
import re
import select
import sys
from typing import BinaryIO

from checkpoints import files
from checkpoints.messages import named, reason
from cli import checks
from cli.checks import shown, unescaped
from cli.options import Options

FILE = "FILE:"  # begins a prompt that names a file
MAX_MEGABYTES = 64  # of a prompt; the longest context of GPT-2 takes a few kilobytes

log = logging.getLogger("picogpt")

# ---- one prompt ------------------------------------------------------------------------------------------------


def source_of(prompt: str | None, options: Options) -> str | None:
    """Return the prompt, or the file that the options name, as FILE:name. Raise ValueError if both are given."""
    if options.file is None:
        return prompt
    if prompt is not None:
        raise ValueError(f"the prompt is given twice, as --file and as {shown(prompt)}; remove one of them")
    return "-" if options.file == "-" else f"{FILE}{options.file}"


def read_prompt(prompt: str | None, options: Options) -> str | None:
    """Return the text to continue: an argument, a file, piped text, or piped text and an argument.

    Returns None if there is no prompt and stdin is a terminal.
    """
    if prompt == "-":
        return drop_newline(read_stdin())
    if prompt is not None and prompt.startswith(FILE):
        prompt = read_file(prompt.removeprefix(FILE))
    elif prompt is not None:
        prompt = with_escapes(prompt, options.escape)
    if is_terminal(sys.stdin) or (prompt is not None and not options.stdin):
        return prompt
    if prompt is not None:
        warn_about_idle_pipe()
        return read_stdin() + prompt
    piped = read_stdin() if options.stdin else ""
    if piped:
        return drop_newline(piped)
    raise ValueError('there is no prompt; give one in quotes, as in "Once upon a time", or "" to start from nothing')


def is_terminal(stream):
    return stream is not None and stream.isatty()


def with_escapes(prompt, escape):
    """Return a prompt with its escapes replaced, if the user asks for it; otherwise remark on them."""
    if escape:
        return unescaped(prompt)
    if "\\n" in prompt:
        log.info("The prompt contains \\n, a backslash and a letter; --escape reads it as a new line.")
    return prompt


def read_file(path):
    source = f"'{named(path)}'"
    checks.path("the name after FILE:", path)
    try:
        with open(files.expand(path), "rb") as file:
            data = read_bounded(file, source)
    except OSError as error:
        raise ValueError(f"cannot read the prompt from {source}: {reason(error)}") from error
    return drop_newline(decode(data, source).replace("\r\n", "\n"))


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
