"""The texts of a file, for views that take many: a text per line, or JSON Lines."""

import json
from typing import NamedTuple

from checkpoints.messages import named
from cli.checks import shown
from cli.options import Options
from cli.prompt import read_file, read_prompt

JSON_LINES = (".jsonl", ".ndjson")
FIELDS = ("text", "prompt", "given")


class Line(NamedTuple):
    """A text of a file, the number of its line, from 1, and the context that precedes the text, if it is given."""

    number: int
    text: str
    given: str | None = None


def read_lines(name: str, options: Options, may_be_given: bool) -> list[Line]:
    """Return the texts of a file, or of stdin if the name is "-". Blank lines are left out.

    may_be_given: whether a line of JSON may have the field "given". Raise ValueError with the number of a line that is
    no text, and if there are no texts.
    """
    content = read_prompt(name, options) if name == "-" else read_file(name)  # a pipe beside the file is not read
    numbered = [(n, line) for n, line in enumerate(content.split("\n"), start=1) if line.strip()]
    source = "stdin" if name == "-" else f"'{named(name)}'"
    if not numbered:
        raise ValueError(f"{source} has no texts")
    is_json = name.lower().endswith(JSON_LINES) or (name == "-" and numbered[0][1].startswith("{"))
    if not is_json:
        return [Line(n, line.removesuffix("\r")) for n, line in numbered]
    return [parse(n, line, source, may_be_given) for n, line in numbered]


def parse(number, line, source, may_be_given):
    """Return the Line of a line of JSON."""
    where = f"line {number} of {source}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {shown(line)}") from error
    if isinstance(record, str):
        return Line(number, record)
    fields = record if isinstance(record, dict) else {}
    text = fields.get("text", fields.get("prompt"))
    given = fields.get("given")
    if not isinstance(text, str):
        raise ValueError(f'{where} has no text: it must be a JSON string, or an object with a string in "text"')
    if given is not None and not (may_be_given and isinstance(given, str)):
        rule = "it must be a string" if may_be_given else "only score takes it"
        raise ValueError(f'{where} has the field "given"; {rule}')
    return Line(number, text, given)
