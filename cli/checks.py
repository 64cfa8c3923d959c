"""Checks of a flag's value: (name, value) -> value, or ValueError with the name, the value and the rule."""

import ast
import json
import math
import numbers
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
MAX_STOP_LENGTH = 10_000  # characters of all texts in a list
MAX_BIAS = 100
LISTS = ('["', "['")  # how a list of texts begins


def shown(value: object) -> str:
    """Return a value for a message, of limited length, a list as the user typed it.

    >>> shown("a\\n"), shown([0.5, 10**60])
    ("'a\\\\n'", '[0.5, 100000000000000000...0000000000000000000]')
    """
    return abbreviated(repr(value) if isinstance(value, str) else reprlib.repr(value))


# ---- from text to values ---------------------------------------------------------------------------------------


class AsTyped:
    """A value that messages show as the user typed it. Attribute: `text`."""

    def __new__(cls, value, text: str):
        self = super().__new__(cls, value)
        self.text = text
        return self

    def __repr__(self):
        return abbreviated(self.text)


class Typed(AsTyped, tuple):
    """A list of values."""


class TypedNumber(AsTyped, float):
    """A number."""


def evaluate(name: str, text: str) -> object:
    """Return the value of a text of the command line: a number, True, False, None, or a tuple of these.

    Any other text is returned as it is. Raise ValueError for a number with too many digits.

    >>> evaluate("top_p", "0.9"), tuple(evaluate("top_p", "[0.5, 1]")), evaluate("seed", "now")
    (0.9, (0.5, 1), 'now')
    """
    text = text.strip()
    is_list = text[:1] + text[-1:] in ("[]", "()")
    if not is_list and "," not in text:
        return evaluate_one(name, text)
    parts = [part.strip() for part in (text[1:-1] if is_list else text).split(",")]
    if not parts[-1]:
        parts.pop()
    return Typed([evaluate_one(name, part) for part in parts], text)


def evaluate_one(name, text):
    if text in WORDS:
        return WORDS[text]
    kind = int if INTEGER.fullmatch(text) else float if DECIMAL.fullmatch(text) else None
    if kind is None:
        return text
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{name} is {shown(text)}, a number of {len(text)} digits; at most {MAX_DIGITS} are read")
    value = kind(text)
    return value if kind is int or repr(value) == text else TypedNumber(value, text)


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


def shard(name: str, value: object) -> tuple[int, int]:
    """Return (i, n) from "i/n", with i from 1 to n."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})", str(value))
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(f"{name} is {shown(value)}; it must be I/N with I from 1 to N, as in 1/4")
    return int(match[1]), int(match[2])


def cluster(name: str, value: object) -> str:
    """Return the address of a cluster: local, auto or HOST:PORT."""
    if not re.fullmatch(r"local|auto|[^\s:/]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}", str(value)):
        raise ValueError(f"{name} is {shown(value)}; it must be local, auto or HOST:PORT, as in 10.0.0.5:6379")
    return str(value)


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
    """Return a tuple of texts: one text with escapes such as \\n, or a list in JSON or in Python's form."""
    if isinstance(value, str):
        check_stop_length(name, [value])
        value = listed(name, value) if value.startswith(LISTS) or value == "[]" else [unescaped(value)]
    if not isinstance(value, (list, tuple)) or not all(isinstance(string, str) and string for string in value):
        raise ValueError(f"{name} is {shown(value)}; it must be a text or a list of texts, none of them empty")
    check_stop_length(name, value)
    return tuple(value)


def listed(name, text):
    """Return the value of a list in JSON or in Python's form."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise ValueError(f"""{name} is {shown(text)}, which begins as a list but is none; write '["one", "two"]'""")


def unescaped(text: str) -> str:
    """Return a text with its escapes replaced: \\n, \\r, \\t and \\\\."""
    return re.sub(r"\\([nrt\\])", lambda match: ESCAPES[match[1]], text)


def escaped_text(name: str, value: object) -> str:
    """Return a text in which escapes are replaced."""
    return unescaped(str(value))


def check_stop_length(name, texts):
    n_characters = sum(map(len, texts))
    if n_characters > MAX_STOP_LENGTH:
        raise ValueError(f"{name} has {n_characters} characters; at most {MAX_STOP_LENGTH} are compared with the text")


def ids(name: str, value: object) -> tuple:
    return tuple(value) if isinstance(value, (list, tuple, set)) else (value,)


def biases(name: str, value: object) -> dict[int | str, float]:
    """Return {id or text: number} from a JSON object. Digits are a token id, other keys the text of a token."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(no_biases(name, value)) from None
    if not isinstance(value, dict):
        raise ValueError(no_biases(name, value))
    return {bias_key(name, key): bias(name, key, number) for key, number in value.items()}


def bias_key(name, key):
    """Return a key as an id or a text."""
    if isinstance(key, str) and key and not key.isdecimal():
        return key
    if isinstance(key, bool) or not TOKEN_ID.fullmatch(abbreviated(key)):
        raise ValueError(f"{name} has the key {shown(key)}; a key is a token id, 0 to {MAX_ID}, or the text of a token")
    return int(key)


def bias(name, key, number):
    is_number = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not is_number or not (-MAX_BIAS <= number <= MAX_BIAS or number == -math.inf):
        rule = f"a number from -{MAX_BIAS} to {MAX_BIAS}, or -Infinity to ban it"
        raise ValueError(f"{name} of {shown(key)} is {shown(number)}; it must be {rule}")
    return number


def no_biases(name, value):
    example = '{"50256": -100}'
    return f"{name} is {shown(value)}; it must map token ids or texts to numbers, as in '{example}'"


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
        if any(each is None for each in values):
            raise ValueError(f"{name} is {shown(value)}; None is not one of several values")
        return tuple(check(name, each) for each in values)

    return check_several
