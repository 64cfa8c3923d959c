"""The format of a record: its fields, how a record is made and recognized, and whether it still fits its row.

A record is a line of JSON. Later formats only add fields, so that every version can read it:

    a completion   row, format, the other fields of the row, those of gpt2.py --json
    a failed row   row, format, line, the other fields of the row, prompt, error

Records of the first version have no `format`. Their `settings` are the options that were given; since format 2 these
are the values in effect, without those that are off.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from checkpoints.messages import abbreviated
from cli import json_record, output
from cli.command_flags import BATCH_FLAGS
from cli.options import check_options
from engine.completion import Completion
from runner.prompts import OPTIONS, ROW_SETTINGS, Request, Row
from runner.source import PROMPT
from utils import Model

FORMAT = 2
MAX_ROW_NUMBER = 10**12
MAX_ERROR = 1000  # characters of an error in a record
BEGINNING = b'{"row": '  # of every record
BLANK = b"\0 \t\r\n"  # bytes that a power failure or an editor leaves between and after records


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_settings(value: object) -> bool:
    return isinstance(value, dict) and is_count(value.get("num_samples", 1))


def has_counts(*names: str) -> Callable[[object], bool]:
    """Return a test for objects that have numbers from 0 upwards under these names."""
    return lambda value: (
        isinstance(value, dict)
        and all(isinstance(value.get(name), (int, float)) and value[name] >= 0 for name in names)
    )


COMPLETION_FIELDS = {  # name -> test
    "row": is_count,
    "index": is_count,
    "prompt": is_text,
    "text": is_text,
    "finish_reason": is_text,
    "seed": is_count,
    "model": is_text,
    "settings": is_settings,
    "usage": has_counts("prompt_tokens", "completion_tokens"),
    "timings": has_counts("first_token_seconds", "seconds", "tokens_per_second"),
}
FAILURE_FIELDS = {"row": is_count, "line": is_count, "error": is_text}
ADDED_FIELDS = ("format", "fingerprint", "logprobs")  # which not every record has
RESERVED = {*COMPLETION_FIELDS, *FAILURE_FIELDS, *ADDED_FIELDS}  # a row's field is copied as input_<name>

# ---- make ------------------------------------------------------------------------------------------------------


def make_record(
    request: Request, index: int, completion: Completion, prompt_ids: list[int], model: Model, clock: output.Clock
) -> dict:
    """Return the record of a completion."""
    beginning = request.prompt if request.options.echo else ""
    record = json_record.make_record(
        index,
        completion,
        beginning + completion.text.take(),
        prompt=request.prompt,
        prompt_ids=prompt_ids,
        seed=request.seed,
        model=model,
        options=request.options,
        clock=clock,
    )
    head = {"row": request.row.number, "format": FORMAT}
    return {**head, **other_fields(request.row), **record, "settings": settings(request)}


def make_error_record(row: Row, error: str, is_whole: bool = True) -> dict:
    """Return the record of a row that failed. is_whole: with the fields of the row."""
    head = {"row": row.number, "format": FORMAT, "line": row.line}
    if is_whole:
        head |= other_fields(row)
        if row.prompt is not None or PROMPT in row.fields:
            head[PROMPT] = row.fields[PROMPT] if row.prompt is None else row.prompt
    return {**head, "error": abbreviated(error, MAX_ERROR)}


def other_fields(row):
    """Return the fields of a row that are neither its prompt nor settings."""
    others = {}
    for name, value in row.fields.items():
        is_prompt = name == PROMPT and row.prompt in (None, value)
        if is_prompt or name in ROW_SETTINGS or (name == OPTIONS and isinstance(value, dict)):
            continue
        while name in RESERVED or name in others:
            name = f"input_{name}"
        others[name] = value
    return others


def settings(request):
    """Return the settings of gpt2.py --json, and the seed if it is the row's own."""
    own_seed = {"seed": request.seed} if request.has_own_seed else {}
    return json_record.settings(request.options) | own_seed


# ---- recognize -------------------------------------------------------------------------------------------------


def parse(line: bytes) -> dict | None:
    """Return the record in a line, or None if the line is something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    is_record = has_fields(record, FAILURE_FIELDS if is_failure(record) else COMPLETION_FIELDS)
    return record if is_record and record["row"] <= MAX_ROW_NUMBER else None


def has_fields(record, tests):
    return all(name in record and test(record[name]) for name, test in tests.items())


def is_failure(record: dict) -> bool:
    return "error" in record


def is_certain(record: dict) -> bool:
    """Return whether no other program writes such a record: failed rows of the first version have few fields."""
    return not is_failure(record) or is_count(record.get("format"))


def is_finished(record: dict, n_records: int) -> bool:
    """Return whether a row with this first record has no error and all of its samples."""
    return not is_failure(record) and n_records >= record["settings"].get("num_samples", 1)


def is_blank(line: bytes) -> bool:
    return not line.strip(BLANK)


def is_torn(line: bytes, is_first: bool) -> bool:
    """Return whether a line is the beginning of a record.

    is_first: no record comes before it; then it must begin as a record of this format does, and have no end.
    """
    line_start = line.strip(BLANK)
    if not is_first:
        return begins(line_start, BEGINNING) and (not is_json(line_start) or parse(line_start) is not None)
    numbered = re.sub(rb"[0-9]+", b"0", line_start[:60])
    return begins(numbered, BEGINNING + b'0, "format": 0, ') and not line.endswith(b"\n") and not is_json(line_start)


def begins(line, beginning):
    """Return whether a line begins so, or is shorter and may go on so."""
    return line.startswith(beginning) or (line != b"" and beginning.startswith(line))


def is_json(line):
    try:
        json.loads(line)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


# ---- compare ---------------------------------------------------------------------------------------------------


class Identity(NamedTuple):
    """What identifies a model in records. The fingerprint decides; some records have only the name."""

    name: str
    fingerprint: str | None


def check_unchanged(request: Request, record: dict, model: Identity, path: Path) -> None:
    """Raise ValueError if a row that an earlier run finished would now be generated in another way."""
    has_both = model.fingerprint is not None and record.get("fingerprint") is not None
    identity = {"fingerprint": model.fingerprint} if has_both else {"model": model.name}
    now = {"prompt": request.prompt, **identity, "seed": request.seed}
    made = {name: record[name] for name in now}
    now = json.loads(json.dumps(now | settings(request)))  # tuples become lists, as in the file
    then = made | record["settings"]
    if then != now:
        then = made | in_effect(record["settings"])
    for name in then | now:
        if then.get(name) != now.get(name):
            raise ValueError(
                f"row {request.row.number} of {quoted(path)} was made with {name} {shown(then.get(name))}, now it "
                f"is {shown(now.get(name))}: use the same prompts and options, name another --output, or start "
                "again with --overwrite"
            )


def in_effect(given: dict) -> dict:
    """Return the settings in a record of any version as those of this format: the values in effect."""
    own_seed = {"seed": given["seed"]} if "seed" in given else {}
    known = {name: value for name, value in given.items() if name in BATCH_FLAGS and name != "seed"}
    unknown = {name: value for name, value in given.items() if name not in BATCH_FLAGS}
    try:
        effective = json.loads(json.dumps(json_record.settings(check_options(known, BATCH_FLAGS))))
    except ValueError:
        return given  # another version had other rules
    return effective | unknown | own_seed


def shown(value: object) -> str:
    """Return a value as JSON, for a message."""
    return "not given" if value is None else abbreviated(json.dumps(value, ensure_ascii=False), 60)


def quoted(path: object) -> str:
    """Return a path in quotes, for a message."""
    return f"'{abbreviated(path, 300)}'"
