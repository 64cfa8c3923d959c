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

import numpy as np

from cli import flags, output

VERSION = "0.1.0"
DEBUG = "PICOGPT_DEBUG"  # set to 1 to see the traceback behind an error


def run(main, table=flags.FLAGS):
    """Run `main` with the command line's words and flags, those of `table`, and exit with the right code."""
    if sys.stderr is None:  # closed by the caller; print would take stdout in its place
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, it stays open to the end
    log_to_stderr()
    try:
        if sys.stdout is None:
            raise OSError("stdout is closed: there is nowhere to write to")
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding="utf-8", errors="replace")  # whatever the locale or Windows code page
        call_with_arguments(main, [as_utf8(argument) for argument in sys.argv[1:]], table)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output, `head` say, has seen enough
        discard_stdout()
    except KeyboardInterrupt:  # what was generated so far has been printed
        sys.exit(130)
    except ValueError as error:
        fail(error, 2)
    except (OSError, RuntimeError, MemoryError) as error:
        fail(error, 1)


def log_to_stderr():
    """Send remarks to stderr: all of them to a terminal, warnings alone to a log or a pipe."""
    log = logging.getLogger("picogpt")
    log.handlers = [logging.StreamHandler(sys.stderr)]
    log.propagate = False
    log.setLevel(logging.INFO if sys.stderr.isatty() else logging.WARNING)


def fail(error, code):
    if os.environ.get(DEBUG) == "1":
        raise error
    print(f"Error: {error or type(error).__name__}", file=sys.stderr)
    if isinstance(error, OSError) and sys.stdout:
        discard_stdout()
    sys.exit(code)


def discard_stdout():
    """What is still to be flushed cannot be; without this, Python would try again on leaving, and complain."""
    with contextlib.suppress(OSError):  # no file at all, in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_utf8(argument):
    """An argument as it would be in a UTF-8 locale, whatever the locale."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def call_with_arguments(main, arguments, table):
    """Call `main` through Fire, which would evaluate the prompt as Python ("1984", "a, b", "{x}") if it were let."""
    asked = set(itertools.takewhile(lambda argument: argument != "--", arguments))
    if asked & {"-h", "--help"}:
        output.put(inspect.getdoc(main) + "\n")
    elif "--version" in asked:
        output.put(f"picoGPT, extended {VERSION} (Python {platform.python_version()}, NumPy {np.__version__})\n")
    else:
        from fire import Fire, decorators, parser

        values = {name: parser.DefaultParseValue for name, flag in table.items() if flag.is_value}
        parameters = inspect.signature(main).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        decorators.SetParseFn(str)(main)
        decorators.SetParseFns(**values)(main)
        Fire(main, command=flags.spell_out(arguments, table, positional))


@contextlib.contextmanager
def hushed():
    """No remarks. Errors are still told: they are raised, and printed outside."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
