"""Run a function as a command: Fire, exit codes, messages on stderr.

Exit codes: 0 success, 1 run-time failure, 2 usage error, 130 Ctrl-C.
"""

import contextlib
import inspect
import itertools
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator

import numpy as np

from cli import help, output
from cli.arguments import normalize_args

VERSION = "0.1.0"
DEBUG = "PICOGPT_DEBUG"  # 1 shows the traceback of an error
log = logging.getLogger("picogpt")


def run(main: Callable, command: help.Command = help.GPT2) -> None:
    """Call `main` with the words and flags of the command line; exit with the code that fits the result."""
    if sys.stderr is None:  # the caller closed it; print would write to stdout instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, open until the process ends
    log_to_stderr()
    try:
        if sys.stdout is None:
            raise OSError("stdout is closed: there is nowhere to write to")
        for stream in (sys.stdout, sys.stderr):  # independent of the locale and of Windows code pages
            stream.reconfigure(encoding="utf-8", errors="replace")
        call_with_arguments(main, [as_utf8(argument) for argument in sys.argv[1:]], command)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        discard_stdout()
    except KeyboardInterrupt:  # the text so far has been printed
        sys.exit(130)
    except ValueError as error:
        fail(error, 2)
    except (OSError, RuntimeError, MemoryError) as error:
        fail(error, 1)


def log_to_stderr():
    """Send remarks to stderr: all of them to a terminal, only warnings to a log or a pipe."""
    log.handlers = [logging.StreamHandler(sys.stderr)]
    log.propagate = False
    log.setLevel(logging.INFO if sys.stderr.isatty() else logging.WARNING)


def fail(error, code):
    """Print an error as one line and exit."""
    if os.environ.get(DEBUG) == "1":
        raise error
    log.error(f"Error: {error or type(error).__name__}")
    if isinstance(error, OSError) and sys.stdout:
        discard_stdout()
    sys.exit(code)


def discard_stdout():
    """Send the unwritten rest of stdout to nowhere; otherwise Python fails again when it flushes at exit."""
    with contextlib.suppress(OSError):  # stdout has no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_utf8(argument: str) -> str:
    """Return an argument as a UTF-8 locale decodes it, whatever the locale is."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def call_with_arguments(main, arguments, command):
    """Call `main` with the arguments, or print the help or the version."""
    options = set(itertools.takewhile(lambda argument: argument != "--", arguments))
    if options & {"-h", "--help"}:
        output.write(help.render(command))
    elif "--version" in options:
        output.write(f"picoGPT, extended {VERSION} (Python {platform.python_version()}, NumPy {np.__version__})\n")
    else:
        call_with_fire(main, arguments, command.flags)


def call_with_fire(main, arguments, table):
    """Call `main` through Fire."""
    # Fire maps options to the parameters of `main`. The parsing is ours: Fire evaluates words as Python, so that the
    # prompts "1984", "a, b" and "{x}" would arrive as a number, a tuple and a set.
    from fire import Fire, decorators, parser

    evaluated = {name: parser.DefaultParseValue for name, flag in table.items() if flag.is_value}
    parameters = inspect.signature(main).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    decorators.SetParseFn(str)(main)
    decorators.SetParseFns(**evaluated)(main)
    Fire(main, command=normalize_args(arguments, table, tuple(positional)))


@contextlib.contextmanager
def quiet(is_quiet: bool) -> Iterator[None]:
    """Log errors only, if `is_quiet`, until the block ends."""
    level = log.level
    if is_quiet:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
