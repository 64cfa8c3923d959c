"""Where a prompt comes from: an argument, a file, a pipe, or somebody at a terminal who types one after another."""

import contextlib
import logging
import re
import select
import sys

from checkpoints import files
from cli.command import as_utf8

log = logging.getLogger("picogpt")


def check_words(prompt, words):
    if words:
        several = " ".join(map(str, (prompt, *words)))
        raise ValueError(f"the prompt must be in quotes: {several!r} came as several words")


def read_prompt(prompt):
    """The text to continue: what was typed, a file, what is piped in, or both; None if a person is to be asked."""
    if prompt == "-":
        return drop_newline(read_stdin())
    if prompt is not None and prompt.startswith("FILE:"):
        prompt = read_file(prompt.removeprefix("FILE:"))
    if sys.stdin is not None and sys.stdin.isatty():
        return prompt
    if prompt is not None:
        remark_if_waiting()
        return read_stdin() + prompt
    piped = read_stdin()
    if piped:
        return drop_newline(piped)
    raise ValueError('there is no prompt; give one in quotes, as in "Once upon a time", or "" to start from nothing')


def read_file(path):
    try:
        with open(files.expand(path), "rb") as file:
            return drop_newline(decode(file.read(), path))
    except OSError as error:
        raise ValueError(f"cannot read the prompt from {path!r}: {error.strerror}") from error


def read_stdin():
    if sys.stdin is None:  # closed
        return ""
    if sys.stdin.isatty():
        log.info("Type the prompt; a line with Ctrl-D alone ends it.")
    return decode(sys.stdin.buffer.read(), "stdin")


def remark_if_waiting():
    """A pipe that nobody writes to and nobody closes stops a run that has its prompt: the one remark for logs too."""
    with contextlib.suppress(OSError, ValueError, TypeError):  # no pipe, no stdin, or Windows, which waits for sockets
        if not select.select([sys.stdin], [], [], 1.0)[0]:
            print("Waiting for the end of what is piped in; add < /dev/null if nothing is.", file=sys.stderr)


def decode(data, source):
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text (byte {error.start}); convert it, with iconv say") from None


def drop_newline(text):
    """Files and `echo` end in a newline that nobody meant as part of the prompt."""
    return re.sub(r"\r?\n\Z", "", text)


def prompt_loop(answer):
    """Ask for prompts and call `answer(prompt, index)`, until Ctrl-D; Ctrl-C stops only the text that is coming."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401, its import gives input() a history and the arrow keys
    log.info("Type the beginning of a text. Ctrl-C stops the answer, Ctrl-D leaves.")
    index = 0
    while True:
        try:
            prompt = as_utf8(ask_once("> "))
            if prompt:
                index += 1
                answer(prompt, index - 1)
        except EOFError:
            return log.info("")
        except KeyboardInterrupt:
            log.info("")
        except ValueError as error:
            print(f"Error: {error}", file=sys.__stderr__)


def ask_once(sign):
    """A line from the person at the terminal; where stdout is a file or a pipe, the sign goes to stderr."""
    if sys.stdout.isatty():
        return input(sign)
    print(sign, end="", file=sys.stderr, flush=True)
    return input()
