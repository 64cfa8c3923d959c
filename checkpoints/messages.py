"""Foreign text in messages, such as names and answers: limited in length, without control characters."""

MAX_LENGTH = 80  # characters of one foreign text in a message


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
