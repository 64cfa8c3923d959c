"""Run a function as a command: Fire, exit codes, signals.

Exit codes: 0 success, 1 run-time failure, 2 usage error, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.

This module imports little. `run` imports the rest, so that a signal during imports ends a command as it does later.
"""

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

VERSION = "1.0.0"
CLEAR_LINE = "\r\x1b[K"  # control sequence EL of ECMA-48
DEBUG = "PICOGPT_DEBUG"  # 1 shows the traceback of an error, and warnings of libraries


class Terminated(BaseException):
    """A signal asks the process to end. It is no Exception, so that it passes handlers of failures, as Ctrl-C does.

    Attribute: `signum`, the number of the signal.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by the signal {signal.Signals(signum).name}")
        self.signum = signum


def run(main: Callable, command: object = "cli.help.GPT2") -> None:
    """Call `main` with the words and flags of the command line; exit with the code that fits the result.

    command: a cli.help.Command, or its dotted name, so that this function imports it.
    """
    import cli.start  # noqa: F401, ends the process if a package is missing

    try:
        with raised_signals(), without_library_messages():
            code = exit_code(main, command)
    except KeyboardInterrupt:  # a signal while the handlers are installed or removed
        code = 130
    except Terminated as error:
        code = fail(error, 128 + error.signum)
    if code:
        sys.exit(code)


def exit_code(main, command):
    """Call `main`; return the exit code after an error message."""
    try:
        prepare_streams()
        call_with_arguments(main, [as_utf8(argument) for argument in sys.argv[1:]], loaded(command))
        if sys.stdout:
            sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        discard_stdout()
        return 0
    except KeyboardInterrupt:  # the text so far has been printed
        end_line()
        return 130
    except Terminated as error:
        return fail(error, 128 + error.signum)
    except Exception as error:
        return fail(error, 2 if type(error) is ValueError else 1)  # a subclass of ValueError comes from a library


def end_line():
    """Let the shell continue on a line of its own, behind ^C. A text that the terminal shows has ended its line."""
    if sys.stderr and sys.stderr.isatty() and not (sys.stdout and sys.stdout.isatty()):
        is_dumb = os.environ.get("TERM", "dumb") == "dumb"
        with contextlib.suppress(OSError):
            print(end="\n" if is_dumb else CLEAR_LINE, file=sys.stderr, flush=True)


def fail(error, code):
    """Print an error as one line and return the exit code."""
    from cli.messages import describe, log_to_stderr

    if os.environ.get(DEBUG) == "1" and not isinstance(error, Terminated):
        raise error
    log_to_stderr().error(f"Error: {describe(error)}")
    if isinstance(error, OSError) and sys.stdout:
        discard_stdout()
    return code


# ---- signals ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def raised_signals() -> Iterator[None]:
    """Raise Terminated on SIGTERM and SIGHUP within a `with` block, unless the caller ignores them, as nohup does."""
    previous = {}
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    with contextlib.suppress(ValueError):  # not the main thread, which alone receives signals
        for signum in (getattr(signal, name) for name in names):
            if signal.getsignal(signum) == signal.SIG_DFL:
                previous[signum] = signal.signal(signum, raise_terminated)
    atexit.register(end_at_once)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def raise_terminated(signum, frame):
    raise Terminated(signum)


def end_at_once():
    """Let Ctrl-C end the process without a traceback while Python shuts down."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def without_library_messages() -> Iterator[None]:
    """Hide warnings of libraries from the user, unless -W or PICOGPT_DEBUG asks for them."""
    if sys.warnoptions or os.environ.get(DEBUG) == "1":
        yield
        return
    import warnings

    showwarning = warnings.showwarning
    unraisablehook = sys.unraisablehook
    warnings.showwarning = lambda *args, **options: None
    sys.unraisablehook = repeat_signal
    try:
        yield
    finally:
        warnings.showwarning = showwarning
        sys.unraisablehook = unraisablehook


def repeat_signal(unraisable):
    """Send a signal again whose exception Python discarded, because it was raised in a finalizer or a callback."""
    import threading

    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signum = signal.SIGINT
    elif issubclass(unraisable.exc_type, Terminated):
        signum = unraisable.exc_value.signum
    else:
        return
    timer = threading.Timer(0.05, signal.raise_signal, [signum])
    timer.daemon = True
    timer.start()


# ---- streams ---------------------------------------------------------------------------------------------------


def prepare_streams():
    """Make the standard streams independent of the locale, and safe if the caller has closed some of them."""
    from cli.messages import log_to_stderr

    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed; a file that is opened later would receive its number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # closed; print would write to stdout instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors="replace")
    log_to_stderr()


def discard_stdout():
    """Send the unwritten rest of stdout to nowhere; otherwise Python fails again when it flushes at exit."""
    with contextlib.suppress(OSError):  # stdout has no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def quiet(is_quiet: bool) -> Iterator[None]:
    """Log errors only, if `is_quiet`, until the block ends."""
    import logging

    log = logging.getLogger("picogpt")
    level = log.level
    if is_quiet:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


# ---- arguments -------------------------------------------------------------------------------------------------


def as_utf8(argument: str) -> str:
    """Return an argument as a UTF-8 locale decodes it, whatever the locale is."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def loaded(command):
    """Return a command, which may be given by its dotted name."""
    if not isinstance(command, str):
        return command
    import importlib

    module, _, name = command.rpartition(".")
    return getattr(importlib.import_module(module), name)


def call_with_arguments(main, arguments, command):
    """Call `main` with the arguments, or print the help or the version."""
    import itertools

    from cli import help, output

    options = set(itertools.takewhile(lambda argument: argument != "--", arguments))
    if options & {"-h", "--help"}:
        output.write(help.render(command))
    elif options & {"-v", "-V", "--version"}:
        output.write(help.version(VERSION))
    else:
        call_with_fire(main, arguments, command)


def call_with_fire(main, arguments, command):
    """Call `main` through Fire."""
    # Fire maps options to the parameters of `main`. The parsing is ours: Fire evaluates words as Python, so that the
    # prompts "1984", "a, b" and "{x}" would arrive as a number, a tuple and a set.
    import inspect
    from functools import partial

    from fire import Fire, decorators

    from cli.arguments import as_arguments, read_pairs
    from cli.checks import evaluate
    from cli.config import with_config

    table = command.flags
    evaluated = {name: partial(evaluate, name) for name, flag in table.items() if flag.is_value}
    parameters = inspect.signature(main).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    decorators.SetParseFn(str)(main)
    decorators.SetParseFns(**evaluated)(main)
    given = read_pairs(arguments, table, tuple(positional))
    Fire(main, command=as_arguments(with_config(given, command, tuple(positional))))
