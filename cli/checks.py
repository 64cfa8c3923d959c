"""Checks of a flag's value: (name, value) -> value, or ValueError with the name, the value and the rule."""

import contextlib
import json
import math
import re
from collections.abc import Callable

Check = Callable[[str, object], object]
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def whole(least: int, most: float = math.inf) -> Check:
    """Return a check for whole numbers from `least` to `most`."""

    def check(name, value):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            end = "upwards" if most == math.inf else f"to {most}"
            raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} {end}")
        return value

    return check


def one_of(*choices: str) -> Check:
    """Return a check for one of several words."""

    def check(name, value):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; it must be {' or '.join(choices)}")
        return value

    return check


def switch(name: str, value: object) -> bool:
    if str(value).lower() not in BOOLEANS:
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return BOOLEANS[str(value).lower()]


def text(name: str, value: object) -> str:
    return str(value)


def strings(name: str, value: object) -> tuple[str, ...]:
    """Return a tuple of strings: one string, in which \\n, \\t and \\\\ are escapes, or a JSON list of strings."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # not JSON: an ordinary text that begins with a bracket
            value = json.loads(value) if value.startswith("[") else value
    if isinstance(value, str):
        value = [re.sub(r"\\([nrt\\])", lambda match: ESCAPES[match[1]], value)]
    if not isinstance(value, (list, tuple)) or not all(isinstance(string, str) and string for string in value):
        raise ValueError(f"{name} is {value!r}; it must be a text or a JSON list of texts, none of them empty")
    return tuple(value)


def ids(name: str, value: object) -> tuple:
    return tuple(value) if isinstance(value, (list, tuple, set)) else (value,)


def biases(name: str, value: object) -> dict[int, float]:
    """Return {id: number} from a JSON object {"id": number}."""
    try:
        value = json.loads(value) if isinstance(value, str) else value
        return {int(token): number for token, number in value.items()}
    except (ValueError, TypeError, AttributeError):
        example = '{"50256": -100}'
        raise ValueError(f"{name} is {value!r}; it must map token ids to numbers, as in '{example}'") from None


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
