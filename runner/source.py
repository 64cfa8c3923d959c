"""Where the prompts of a run come from: a field of each row or a template, and which rows are selected."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.messages import abbreviated
from cli.checks import shown, unescaped
from cli.options import Options

PROMPT = "prompt"
PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")  # a brace, or the name of a field


@dataclass(frozen=True)
class Source:
    """The field that holds the prompt, or a template with names of fields; the limit and the shard of the rows.

    shard: (i, n), the rows whose number leaves the remainder i - 1 if it is divided by n; together, the n shards are
    all rows. limit: only rows with smaller numbers are selected.

    >>> Source("text").prompt_of({"text": "Once"}), Source(template="Q: {q}{{}}").prompt_of({"q": "Why?", "id": 7})
    ('Once', 'Q: Why?{}')
    >>> [number for number in range(9) if Source(limit=8, shard=(2, 3)).selects(number)]
    [1, 4, 7]
    """

    field: str = PROMPT
    template: str | None = None
    limit: int | None = None
    shard: tuple[int, int] = (1, 1)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that every row must have."""
        if self.template is None:
            return (self.field,)
        return tuple(dict.fromkeys(match[1] for match in PLACE.finditer(self.template) if match[1] is not None))

    def prompt_of(self, fields: Mapping[str, Any]) -> str:
        """Return the prompt of a row. Raise ValueError if the row lacks a field, or the prompt is no text."""
        for name in self.fields:
            if fields.get(name) is None:
                raise ValueError(self.lacks(name))
        if self.template is None:
            return check_text(self.field, fields[self.field])
        return PLACE.sub(lambda match: filled(match, fields), self.template)

    def lacks(self, name):
        if self.template is not None:
            return f"the row has no field {shown(name)}, which the template names"
        return f'the row has no {name}: add a field "{name}" with a text'

    def selects(self, number: int) -> bool:
        """Return whether the row with this number belongs to the run."""
        i, n = self.shard
        return number % n == i - 1 and (self.limit is None or number < self.limit)

    def count(self, n_rows: int) -> int:
        """Return how many of the first `n_rows` rows are selected."""
        i, n = self.shard
        n_rows = n_rows if self.limit is None else min(n_rows, self.limit)
        return len(range(i - 1, n_rows, n))


def check_text(name: str, value: Any) -> str:
    """Return a field that is a text. Raise ValueError for another value."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {abbreviated(repr(value))}; it must be a text")
    return value


def filled(match: re.Match, fields: Mapping[str, Any]) -> str:
    """Return what takes the place of a match of PLACE: a brace, or a field, as JSON if it is no text."""
    if match[1] is None:
        return match[0][0]
    value = fields[match[1]]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def source_of(options: Options) -> Source:
    """Return the source that the options describe. Raise ValueError if they contradict each other."""
    if options.prompt_field is not None and options.template is not None:
        raise ValueError("--prompt_field and --template are both given; a template names fields itself: remove one")
    template = None if options.template is None else unescaped(options.template)
    source = Source(options.prompt_field or PROMPT, template, options.limit, options.shard or (1, 1))
    if template is not None and not source.fields:
        raise ValueError(f"template is {shown(options.template)}; it must name a field in braces, such as {{prompt}}")
    return source
