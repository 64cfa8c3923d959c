"""What the views write: lines, JSON and files, with a progress bar for what takes long."""

import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from checkpoints import files
from checkpoints.messages import named, reason
from cli import output

log = logging.getLogger("picogpt")


def with_progress_bar(steps: Iterable, n_steps: int, label: str, unit: str = "token") -> Iterable:
    """Return the steps, with a progress bar on a terminal if they take more than half a second.

    label: says what is done. unit: the noun for a step.
    """
    if not sys.stderr.isatty():
        return steps
    from tqdm import tqdm

    return tqdm(steps, total=n_steps, desc=label, unit=f" {unit}s", leave=False, delay=0.5)


def write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        output.write(line + "\n")


def write_json(record: dict) -> None:
    output.escape_lone_surrogates()
    output.write(output.as_line(record))


def write_file(name: str, write: Callable[[BinaryIO], object]) -> None:
    """Let `write(file)` fill a file. It appears under its name only when it is complete."""
    try:
        with files.new_file(Path(files.expand(name))) as file:
            write(file)
    except OSError as error:
        raise OSError(f"cannot write {named(name)}: {reason(error)}") from error
    log.info(f"wrote {named(name)}")
