"""Write completions to stdout: text as soon as it is certain, or JSON objects.

The completions of a prompt are generated side by side but printed one after another: the first one streams, and the
text of the others waits until all earlier ones have ended.
"""

import contextlib
import itertools
import json
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from checkpoints import files
from checkpoints.messages import escaped, named, reason
from cli.flags import SEPARATOR
from cli.messages import run_time_failures
from engine.completion import Completion

# ---- completions -> pieces of text -----------------------------------------------------------------------------


class Clock:
    """The times of a generation. Attributes: `first_token` and `seconds`, until the first and the last step."""

    def __init__(self):
        self.start = time.perf_counter()
        self.first_token = 0.0
        self.seconds = 1e-9  # not zero, because speeds divide by it
        self.ends = {}  # completion -> seconds

    def tick(self, completions: Iterable[Completion]) -> None:
        """Record the time of a step in which these completions took part."""
        self.seconds = time.perf_counter() - self.start
        self.first_token = self.first_token or self.seconds
        for completion in completions:
            if completion.finish_reason:
                self.ends.setdefault(completion, self.seconds)

    def seconds_of(self, completion: Completion) -> float:
        """Return the seconds until a completion ended."""
        return self.ends.get(completion, self.seconds)

    def watch(self, steps: Iterable[list[Completion]]) -> Iterator[list[Completion]]:
        """Yield the steps and record their times. A failure is a run-time failure, as in `run_time_failures`."""
        with run_time_failures("the text ends here: "):
            for step in steps:
                self.tick(step)
                yield step


def follow(steps: Iterable, completions: list[Completion]) -> Iterator[tuple[Completion, str, bool]]:
    """Yield (completion, new text, whether it is the last), one completion to its end before the next begins."""
    waiting = deque(completions)
    for _ in itertools.chain(steps, [None]):  # and once more, for completions that end without a step
        while waiting:
            is_last = waiting[0].finish_reason is not None
            yield waiting[0], waiting[0].text.take(), is_last
            if not is_last:
                break
            waiting.popleft()


class Kept:
    """Keeps the text of a completion. Attribute: `text`."""

    def __init__(self, completion: Completion):
        self.completion = completion
        self.text = ""

    def watch(self, pieces: Iterable) -> Iterator:
        """Yield the pieces, as from `follow`."""
        for completion, piece, is_last in pieces:
            if completion is self.completion:
                self.text += piece
            yield completion, piece, is_last


# ---- a file in place of stdout ---------------------------------------------------------------------------------


def check_file(name: str | None, overwrite: bool) -> None:
    """Raise ValueError if a file of --output exists and may not be replaced, or its folder is missing."""
    if name is None:
        return
    path = files.expand(name)
    if os.path.isdir(path):
        raise ValueError(f"{named(name)} is a folder; --output needs the name of a file")
    if os.path.exists(path) and not overwrite and not is_device(path):
        raise ValueError(is_taken(name))
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"there is no folder {named(folder)}, where --output {named(name)} would be")


def is_taken(name):
    return f"{named(name)} exists; add --overwrite to replace it, or name another --output"


def is_device(path):
    return not os.path.isfile(path) and not os.path.isdir(path)


@contextlib.contextmanager
def stdout_to(name: str | None, overwrite: bool) -> Iterator[None]:
    """Write what is printed within a `with` block to a file. What was written stays, whatever happens later.

    A new file in which an error has left nothing is removed.
    """
    if name is None:
        yield
        return
    path = files.expand(name)
    is_new = not os.path.exists(path)
    try:
        file = open(path, "w" if overwrite or is_device(path) else "x", encoding="utf-8", errors="replace")  # noqa: SIM115
    except FileExistsError as error:
        raise ValueError(is_taken(name)) from error
    except OSError as error:
        raise OSError(f"cannot write {named(name)}: {reason(error)}") from error
    try:
        with file, contextlib.redirect_stdout(file):
            yield
    finally:
        if is_new and os.path.getsize(path) == 0:
            os.unlink(path)


def is_pipe(stream: Any) -> bool:
    """Return whether a stream is a pipe, whose reader may be slow."""
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    return False


def is_file(stream: Any) -> bool:
    """Return whether a stream is a regular file or /dev/null, which no terminal shows."""
    with contextlib.suppress(OSError, ValueError):
        status = os.fstat(stream.fileno())
        return stat.S_ISREG(status.st_mode) or os.path.samestat(status, os.stat(os.devnull))
    return False


# ---- pieces of text -> stdout ----------------------------------------------------------------------------------


def check_stdout() -> None:
    """Raise OSError if the caller has closed stdout."""
    if sys.stdout is None:
        raise OSError("stdout is closed: there is nowhere to write to")


def write(text: str) -> None:
    """Print and flush. Raise OSError if stdout cannot be written to, BrokenPipeError if its reader has closed it."""
    check_stdout()
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"cannot write to stdout: {error.strerror}") from error


def write_text(pieces: Iterable, beginning: str = "", separator: str | None = None) -> None:
    """Print each text as it arrives, a separator between two, and one newline at the end, also of a text cut off.

    A terminal gets escapes in place of control characters, except new line and tab. pieces: as from `follow`.
    beginning: printed before each text.
    """
    shown = for_terminal if sys.stdout.isatty() else str
    before = beginning
    is_begun = False
    try:
        for _, piece, is_last in pieces:
            write(shown(before + piece))
            is_begun = True
            before = f"\n{SEPARATOR if separator is None else separator}\n{beginning}" if is_last else ""
    except BaseException as error:
        if is_begun or isinstance(error, KeyboardInterrupt):
            write("\n")
        raise
    write("\n")


def for_terminal(text: str) -> str:
    """Return a text that cannot move the cursor or change colours."""
    return escaped(text, but="\n\t\u200d")  # the last one joins emoji


def write_json(
    pieces: Iterable, beginning: str, record_of: Callable[[int, Completion, str], dict], encoder: Any = None
) -> None:
    """Print one line of JSON per completion as soon as it has ended. record_of: (index, completion, text) -> dict.

    encoder: if it is given, also print a line per token, as soon as it is generated.
    """
    escape_lone_surrogates()
    index = 0
    n_shown = 0
    whole = beginning
    for completion, piece, is_last in pieces:
        whole += piece
        if encoder:
            new = completion.ids[n_shown:]
            n_shown += len(new)
            write("".join(map(as_line, token_records(index, new, piece, encoder))))
        if is_last:
            n_shown = 0
            write(as_line(record_of(index, completion, whole)))
            index += 1
            whole = beginning


def token_records(index: int, ids: list[int], piece: str, encoder: Any) -> list[dict]:
    """Return a record for each new id; the text that became certain belongs to the last one."""
    records = [{"index": index, "id": i, "token": encoder.decode([i]), "text": ""} for i in ids]
    if records:
        records[-1]["text"] = piece
    return records


def escape_lone_surrogates() -> None:
    """Let stdout write half of a surrogate pair as JSON spells it, \\udXXX."""
    sys.stdout.reconfigure(errors="backslashreplace")


def as_line(record: dict) -> str:
    """Return a record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"
