"""Messages on stderr: what an error says to the user, and the logger that limits and escapes every line."""

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from checkpoints.messages import escaped, named

MAX_LENGTH = 5000  # characters of a whole message; the longest of ours is much shorter
OUR_TYPES = (ValueError, RuntimeError, OSError)  # the types that this project raises, besides its own

log = logging.getLogger("picogpt")


class Printable(logging.Formatter):
    """A formatter that limits messages and escapes all control characters but line ends."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if len(message) > MAX_LENGTH:
            message = f"{message[: MAX_LENGTH // 2]} ... {message[-MAX_LENGTH // 2 :]}"
        return escaped(message, but="\n")


def log_to_stderr() -> logging.Logger:
    """Send remarks to stderr: all of them to a terminal, only warnings to a log or a pipe. Return the logger."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Printable())
    handler.handleError = lambda record: None  # stderr is full or has no reader, so that no message can arrive
    if [type(each.formatter) for each in log.handlers] != [Printable] or log.handlers[0].stream is not sys.stderr:
        log.handlers = [handler]
        logging.lastResort = logging.NullHandler()  # loggers of libraries, which have no handler
        log.propagate = False
        log.setLevel(logging.INFO if sys.stderr.isatty() else logging.WARNING)
    return log


def describe(error: BaseException) -> str:
    """Return the message of an error for the user. The words of a library are not part of it."""
    if isinstance(error, MemoryError):
        return "there is not enough memory; a smaller model, a shorter text or fewer samples need less"
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{named(error.filename)}: "
        return f"{name}{error.strerror}"
    is_ours = type(error) in OUR_TYPES or type(error).__module__.startswith(("checkpoints.", "cli."))
    if is_ours and str(error):
        return str(error)
    return f"{type(error).__name__} at {place_of(error)}; this is a fault of the program, PICOGPT_DEBUG=1 shows more"


@contextlib.contextmanager
def run_time_failures(beginning: str = "") -> Iterator[None]:
    """Raise RuntimeError in place of ValueError: the request has been checked, so that the cause is not the user's.

    beginning: of the message.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:  # of a library
            raise
        raise RuntimeError(f"{beginning}{error}") from error


def place_of(error):
    """Return the file and the line that raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
