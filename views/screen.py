"""Text for a terminal: visible tokens, text cut and wrapped to a width, colours, bars.

A token is bytes and need not be whole characters, and a character takes zero, one or two columns of a terminal.
Therefore every token that explore.py prints or draws passes through `visible`, and every text through `printable`.
"""

import os
import shutil
import sys
import unicodedata

from checkpoints.messages import escaped

MIN_WIDTH = 40  # columns; narrower terminals wrap the lines themselves
EIGHTHS = " ▏▎▍▌▋▊▉"
ANSI = {"bold": "1", "dim": "2", "cyan": "36", "reverse": "1;7"}


# ---- tokens and texts ------------------------------------------------------------------------------------------


def visible(token: bytes) -> str:
    """Return a token in visible characters: a space is ␣, and unprintable bytes are escaped as in Python.

    >>> visible(b" cat"), visible(b"\\n"), visible("é".encode()), visible("é".encode()[:1])
    ('␣cat', '\\\\n', 'é', '\\\\xc3')
    """
    return printable(token.decode("utf-8", "backslashreplace")).replace(" ", "␣")


def printable(text: str, but: str = "") -> str:
    """Return the text with an escape for each character that does not print, except for the characters of `but`.

    >>> printable("a\\x1b[31m\\u200b\\n")
    'a\\\\x1b[31m\\\\u200b\\\\n'
    """
    shown = escaped(text, but)
    starts_with_mark = bool(shown) and unicodedata.combining(shown[0])
    return f"◌{shown}" if starts_with_mark else shown  # a combining mark needs a character before it


def display_width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal.

    >>> display_width("naïve"), display_width("你好")
    (5, 4)
    """
    return sum(width_of(character) for character in text)


def width_of(character):
    if unicodedata.category(character) in ("Mn", "Me"):  # marks, shown in the column of the character before
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, n_columns: int) -> str:
    """Return the text if it fits; otherwise its beginning and "…".

    >>> cut("incomprehensible", 8), cut("你好吗", 4)
    ('incompr…', '你…')
    """
    n_used = 0
    n_kept = 0  # characters that leave room for the "…"
    for i, character in enumerate(text, start=1):
        n_used += width_of(character)
        if n_used > n_columns:
            return text[:n_kept] + "…"
        if n_used < n_columns:
            n_kept = i
    return text


def cut_left(text: str, n_columns: int) -> str:
    """Return the text if it fits; otherwise "…" and its end."""
    return cut(text[::-1], n_columns)[::-1]


def pad(text: str, n_columns: int) -> str:
    """Return the text cut or padded to a width; a negative width aligns it on the right."""
    text = cut(text, abs(n_columns))
    space = " " * (abs(n_columns) - display_width(text))
    return text + space if n_columns > 0 else space + text


def wrap(text: str, n_columns: int) -> list[str]:
    """Return lines that fit the width, broken at spaces, or within a word that is wider than a line.

    >>> wrap("a cat, a dog and 你好你好", 8)
    ['a cat, a', 'dog and', '你好你好']
    """
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and display_width(lines[-1]) + 1 + display_width(word) <= n_columns:
            lines[-1] += " " + word
        else:
            lines += break_word(word, n_columns)
    return [line for line in lines if line] or [""]


def break_word(word, n_columns):
    """Return the lines that a word takes, at least one."""
    lines = [""]
    for character in word:
        if display_width(lines[-1]) + width_of(character) > n_columns:
            lines.append("")
        lines[-1] += character
    return lines


def counted(n: int, noun: str) -> str:
    """Return "1 token" or "2 tokens"."""
    return f"{n} {noun}{'s' * (n != 1)}"


# ---- the terminal ----------------------------------------------------------------------------------------------


def width() -> int:
    """Return the number of columns: COLUMNS, or the terminal's, or 80 for a pipe; at least 40."""
    return max(MIN_WIDTH, shutil.get_terminal_size((80, 24)).columns)


def has_colour() -> bool:
    """Return whether to colour stdout, by the conventions of NO_COLOR, FORCE_COLOR and TERM=dumb, in this order."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str) -> str:
    """Return the text in a style: a name in ANSI, or ANSI codes. Without colours, or without a style, unchanged."""
    return f"\x1b[{ANSI.get(style, style)}m{text}\x1b[0m" if style and text and has_colour() else text


def highlight(cell: str) -> str:
    """Return a padded cell with its text in reverse, but not its padding."""
    text = cell.rstrip()
    return paint(text, "reverse") + cell[len(text) :]


def bar(share: float, n_columns: int) -> str:
    """Return a bar that fills `share`, 0 to 1, of the columns, in steps of an eighth; "" for no columns or fewer.

    >>> bar(0.5, 4), bar(0.3, 4), bar(0.001, 4), bar(1, -1)
    ('██', '█▎', '', '')
    """
    n_eighths = max(0, round(share * n_columns * 8))
    return "█" * (n_eighths // 8) + EIGHTHS[n_eighths % 8].strip()


def decimal(p: float) -> str:
    """Return a probability in at most six columns: four decimals, or its magnitude if all four would be zero.

    >>> decimal(0.57212), decimal(0.0000021), decimal(0)
    ('0.5721', '2e-06', '0.0000')
    """
    return f"{p:.0e}" if 0 < p < 0.00005 else f"{p:.4f}"
