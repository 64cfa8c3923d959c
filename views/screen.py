"""What a terminal shows: tokens made visible, text cut and wrapped to its width, colours, bars.

A character takes no, one or two cells of a terminal, and a token need not be characters at all: it is bytes. All that
explore.py prints or draws of a token or of a text goes through `visible` or `printable` first.
"""

import os
import shutil
import sys
import unicodedata

EIGHTHS = " ▏▎▍▌▋▊▉"
ANSI = {"bold": "1", "dim": "2", "cyan": "36", "reverse": "1;7"}


# ---- tokens and texts ------------------------------------------------------------------------------------------


def visible(token):
    """A token, bytes, as something to look at: a space is ␣, what has no shape of its own is written as in Python.

    >>> visible(b" cat"), visible(b"\\n"), visible("é".encode()), visible("é".encode()[:1])
    ('␣cat', '\\\\n', 'é', '\\\\xc3')
    """
    return printable(token.decode("utf-8", "backslashreplace")).replace(" ", "␣")


def printable(text, but=""):
    """The text with an escape for each character that does not print, except those of `but`.

    >>> printable("a\\x1b[31m\\u200b\\n")
    'a\\\\x1b[31m\\\\u200b\\\\n'
    """
    shown = "".join(c if c.isprintable() or c in but else c.encode("unicode_escape").decode() for c in text)
    return f"◌{shown}" if shown and unicodedata.combining(shown[0]) else shown  # an accent needs something to sit on


def cells(text):
    """How many cells of a terminal a text takes.

    >>> cells("naïve"), cells("你好")
    (5, 4)
    """
    return sum(width_of(character) for character in text)


def width_of(character):
    if unicodedata.category(character) in ("Mn", "Me"):  # marks that sit on the character before
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text, n_cells):
    """The text, or as much of it as fits in so many cells, and then "…".

    >>> cut("incomprehensible", 8), cut("你好吗", 4)
    ('incompr…', '你…')
    """
    if cells(text) <= n_cells:
        return text
    while cells(text) > n_cells - 1:
        text = text[:-1]
    return text + "…"


def cut_left(text, n_cells):
    """The same from the end: "…" and the last of it."""
    return cut(text[::-1], n_cells)[::-1]


def pad(text, n_cells):
    """Cut or fill with spaces to exactly so many cells: to the left if `n_cells` is negative."""
    text = cut(text, abs(n_cells))
    space = " " * (abs(n_cells) - cells(text))
    return text + space if n_cells > 0 else space + text


def wrap(text, n_cells):
    """Lines of at most so many cells, broken at spaces, and within a word if there is no other way.

    >>> wrap("a cat, a dog and 你好你好", 8)
    ['a cat, a', 'dog and', '你好你好']
    """
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and cells(lines[-1]) + 1 + cells(word) <= n_cells:
            lines[-1] += " " + word
            continue
        lines.append("")
        for character in word:
            if cells(lines[-1]) + width_of(character) > n_cells:
                lines.append("")
            lines[-1] += character
    return [line for line in lines if line] or [""]


# ---- the terminal ----------------------------------------------------------------------------------------------


def width():
    """The columns of the terminal; 80 through a pipe, unless COLUMNS says otherwise."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def has_colour():
    """Whether stdout is to be coloured: the conventions of NO_COLOR, FORCE_COLOR and TERM=dumb, in this order."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def paint(text, style):
    """The text in a style of ANSI, or in the codes given; as it is where there is no colour, or no style."""
    return f"\x1b[{ANSI.get(style, style)}m{text}\x1b[0m" if style and text and has_colour() else text


def highlight(cell):
    """A padded cell with its text, but not its padding, in reverse."""
    text = cell.rstrip()
    return paint(text, "reverse") + cell[len(text) :]


def bar(share, n_cells):
    """A bar of `share`, 0 to 1, of so many cells, to an eighth of a cell.

    >>> bar(0.5, 4), bar(0.3, 4), bar(0.001, 4)
    ('██', '█▎', '')
    """
    n_eighths = round(share * n_cells * 8)
    return "█" * (n_eighths // 8) + EIGHTHS[n_eighths % 8].strip()


def decimal(p):
    """A probability in six cells at most: four decimals, or its magnitude where they would all be zero.

    >>> decimal(0.57212), decimal(0.0000021), decimal(0)
    ('0.5721', '2e-06', '0.0000')
    """
    return f"{p:.0e}" if 0 < p < 0.00005 else f"{p:.4f}"
