"""The prompt loop: one prompt after another, and commands that begin with a slash."""

import logging
import re
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cli import terminal
from cli.checks import shown
from cli.messages import describe

log = logging.getLogger("picogpt")
COMMAND = re.compile(r"/([a-z?]+)(?:\s+(.*))?", re.DOTALL)
SIGN = "> "
LEAVING = ("bye", "quit", "exit", "q")
FAREWELLS = ("quit", "exit", ":q", "bye")  # words of people who want to leave


class Command(NamedTuple):
    """A command of the loop."""

    run: Callable[[str], object]  # takes the text behind its name
    help: str


def prompt_loop(
    answer: Callable[[str], object],
    commands: Mapping[str, Command] | None = None,
    on_empty: Callable[[], object] = lambda: None,
    keeps_history: bool = True,
) -> None:
    """Ask for prompts and call `answer(prompt)` until Ctrl-D, /bye or a second Ctrl-C.

    An answer or a command that raises ValueError or RuntimeError is an error message, and the loop goes on; Ctrl-C
    stops only the answer. commands: {name: Command}. on_empty: called for an empty line.
    """
    log.info("Type the beginning of a text. Ctrl-C stops the answer; Ctrl-D or /bye leaves; /help lists more.")
    is_shown = log.isEnabledFor(logging.INFO) or (sys.stdout is not None and sys.stdout.isatty())
    n_interrupts = 0  # in sequence
    with terminal.line_editing(keeps_history):
        while n_interrupts < 2:
            try:
                line = terminal.ask(SIGN if is_shown else "")
            except EOFError:
                log.info("")  # the terminal's cursor is still behind the sign
                return
            except KeyboardInterrupt:
                n_interrupts += 0 if terminal.has_typed() else 1
                log.info("" if n_interrupts != 1 else "\nCtrl-C again, or Ctrl-D, leaves.")
                continue
            try:
                if obey(line, answer, commands or {}, on_empty):
                    return
                n_interrupts = 0
            except KeyboardInterrupt:
                n_interrupts = 1
                log.info("")
            except (ValueError, RuntimeError, OSError) as error:
                if isinstance(error, BrokenPipeError):
                    raise
                log.error(f"Error: {describe(error)}")


def obey(line, answer, commands, on_empty):
    """Answer a line or run its command; return whether to leave."""
    command = COMMAND.fullmatch(line.rstrip())
    if not line.strip():
        on_empty()
    elif line.lower() in FAREWELLS:
        log.warning(f"Ctrl-D or /bye leaves. To continue the word {shown(line)}, type a space behind it.")
    elif not command:
        answer(line)
    elif command[1] in LEAVING:
        return True
    elif command[1] in ("help", "?"):
        show_help(commands)
    elif command[1] in commands:
        commands[command[1]].run((command[2] or "").strip())
    else:
        raise ValueError(f"there is no command /{command[1]}; /help lists them. A text may begin with a space before /")
    return False


def show_help(commands):
    """List the commands, also in a log, because the user asks for it."""
    lines = [f"/{name:18}{command.help}" for name, command in commands.items()]
    lines += [f"/{'help':18}list the commands", f"/{'bye':18}leave, as Ctrl-D does"]
    lines += [f"{terminal.QUOTES:19}begins and ends a text of several lines"]
    log.warning("\n".join(lines))
