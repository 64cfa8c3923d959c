"""Checks of a flag's value: (name, value) -> value, or ValueError with the name, the value and the rule."""

import json
import os
import re
import reprlib
from collections.abc import Callable

from checkpoints.messages import abbreviated
from sampling import MAX_ID

Check = Callable[[str, object], object]
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
WORDS = {"True": True, "False": False, "None": None}
INTEGER = re.compile(r"[+-]?[0-9]+")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")  # integers that fit in 40 bits never collide in a dict
MAX_DIGITS = 40  # characters of a number
MAX_WHOLE = 2**63 - 1
MAX_STOP_LENGTH = 10_000  # characters of all stop strings together


def shown(value: object) -> str:
    """Return a value for a message, of limited length.

    >>> shown("a\\n"), shown([0.5, 10**60])
    ("'a\\\\n'", '[0.5, 100000000000000000...0000000000000000000]')
    """
    return abbreviated(repr(value) if isinstance(value, str) else reprlib.repr(value))


# ---- from text to values ---------------------------------------------------------------------------------------


def evaluate(name: str, text: str) -> object:
    """Return the value of a text of the command line: a number, True, False, None, or a tuple of these.

    Any other text is returned as it is. Raise ValueError for a number with too many digits.

    >>> evaluate("top_p", "0.9"), evaluate("top_p", "[0.5, 1]"), evaluate("top_p", "0.5,high"), evaluate("seed", "now")
    (0.9, (0.5, 1), (0.5, 'high'), 'now')
    """
    text = text.strip()
    is_list = text[:1] + text[-1:] in ("[]", "()")
    if not is_list and "," not in text:
        return evaluate_one(name, text)
    parts = [part.strip() for part in (text[1:-1] if is_list else text).split(",")]
    if not parts[-1]:
        parts.pop()
    return tuple(evaluate_one(name, part) for part in parts)


def evaluate_one(name, text):
    if text in WORDS:
        return WORDS[text]
    kind = int if INTEGER.fullmatch(text) else float if DECIMAL.fullmatch(text) else None
    if kind is None:
        return text
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{name} is {shown(text)}, a number of {len(text)} digits; at most {MAX_DIGITS} are read")
    return kind(text)


# ---- checks ----------------------------------------------------------------------------------------------------


def whole(least: int, most: int = MAX_WHOLE) -> Check:
    """Return a check for whole numbers from `least` to `most`."""

    def check(name, value):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            is_large = isinstance(value, int) and value > most
            end = "upwards" if most == MAX_WHOLE and not is_large else f"to {most}"
            raise ValueError(f"{name} is {shown(value)}; it must be a whole number from {least} {end}")
        return value

    return check


def one_of(*choices: str) -> Check:
    """Return a check for one of several words."""

    def check(name, value):
        if value not in choices:
            raise ValueError(f"{name} is {shown(value)}; it must be {' or '.join(choices)}")
        return value

    return check


def switch(name: str, value: object) -> bool:
    word = str(value).lower() if isinstance(value, (str, int)) else ""
    if word not in BOOLEANS:
        raise ValueError(f"{name} is {shown(value)}; it must be True or False")
    return BOOLEANS[word]


def path(name: str, value: object) -> str:
    """Return a name of a file or a folder. It need not exist."""
    try:
        is_possible = b"\0" not in os.fsencode(str(value))
    except UnicodeError:
        is_possible = False
    if not is_possible:
        raise ValueError(f"{name} is {shown(str(value))}; no file or folder can have this name")
    return str(value)


def strings(name: str, value: object) -> tuple[str, ...]:
    """Return a tuple of strings: one string, in which \\n, \\t and \\\\ are escapes, or a JSON list of strings."""
    if isinstance(value, str):
        check_stop_length(name, [value])
        value = listed(name, value) if value.startswith("[") else value
    if isinstance(value, str):
        value = [re.sub(r"\\([nrt\\])", lambda match: ESCAPES[match[1]], value)]
    if not isinstance(value, (list, tuple)) or not all(isinstance(string, str) and string for string in value):
        raise ValueError(f"{name} is {shown(value)}; it must be a text or a JSON list of texts, none of them empty")
    check_stop_length(name, value)
    return tuple(value)


def listed(name, text):
    """Return the value of a JSON list; the text itself if it is not JSON but only begins with a bracket."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} is {shown(text)}, which is nested too deep; it must be a list of texts") from None
    except ValueError:
        return text


def check_stop_length(name, texts):
    n_characters = sum(map(len, texts))
    if n_characters > MAX_STOP_LENGTH:
        raise ValueError(f"{name} has {n_characters} characters; at most {MAX_STOP_LENGTH} are compared with the text")


def ids(name: str, value: object) -> tuple:
    return tuple(value) if isinstance(value, (list, tuple, set)) else (value,)


def biases(name: str, value: object) -> dict[int, float]:
    """Return {id: number} from a JSON object {"id": number}."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(no_biases(name, value)) from None
    if not isinstance(value, dict):
        raise ValueError(no_biases(name, value))
    numbers = {}
    for key, number in value.items():
        if isinstance(key, bool) or not TOKEN_ID.fullmatch(abbreviated(key)):
            raise ValueError(f"{name} has the key {shown(key)}; a key is a token id, 0 to {MAX_ID}")
        numbers[int(key)] = number
    return numbers


def no_biases(name, value):
    example = '{"50256": -100}'
    return f"{name} is {shown(value)}; it must map token ids to numbers, as in '{example}'"


def unchecked(name: str, value: object) -> object:
    return value  # sampling.py checks it


def several(check: Check) -> Check:
    """Return a check for one value or several, as in 0.3,0.7,1.0: a tuple.

    >>> several(unchecked)("temperature", (0.3, 0.7)), several(unchecked)("preset", "chatbot,code_comments")
    ((0.3, 0.7), ('chatbot', 'code_comments'))
    """

    def check_several(name, value):
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        values = value if isinstance(value, (list, tuple, set)) else [value]
        if not values:
            raise ValueError(f"{name} is an empty list; give one value, or several separated by commas")
        return tuple(check(name, each) for each in values)

    return check_several
