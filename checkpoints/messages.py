"""Foreign text in messages, such as names and answers: limited in length, without control characters."""

import json
import reprlib
from os import PathLike

MAX_LENGTH = 80  # characters of one foreign text in a message
MAX_PATH = 240  # characters of a path, which readers copy


def abbreviated(text: object, limit: int = MAX_LENGTH) -> str:
    """Return a text for a message: at most `limit` characters, the middle left out, control characters escaped.

    Escapes keep a text from moving the cursor, changing colours or forging a line of output.

    >>> abbreviated("red\\x1b[31m\\nError: forged")
    'red\\\\x1b[31m\\\\nError: forged'
    >>> abbreviated("a" * 1000, limit=11)
    'aaaa...aaaa'
    """
    text = str(text)
    if len(text) > limit:
        n_kept = (limit - 3) // 2
        text = f"{text[:n_kept]}...{text[-n_kept:]}"
    return escaped(text)


def escaped(text: str, but: str = "") -> str:
    """Return a text with an escape for each character that does not print, except those in `but`."""
    return "".join(c if c.isprintable() or c in but else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """Return a value of a file for a message.

    >>> shown("gelu"), shown(None), shown([1] * 100)
    ("'gelu'", 'missing or null', '[1, 1, 1, 1, 1, 1, ...]')
    """
    return "missing or null" if value is None else reprlib.repr(value)


def as_json(value: object) -> str:
    """Return a part of a JSON file for a message, as it is written there.

    >>> as_json(None), as_json(["a", True])
    ('null', '["a", true]')
    """
    return abbreviated(json.dumps(value))


def named(path: str | PathLike) -> str:
    """Return a path for a message."""
    return abbreviated(path, MAX_PATH)


def reason(error: BaseException) -> str:
    """Return why the operating system refused something, without the number and the file's name.

    >>> reason(FileNotFoundError(2, "No such file or directory", "x"))
    'No such file or directory'
    """
    return abbreviated(getattr(error, "strerror", None) or str(error) or type(error).__name__, MAX_PATH)
