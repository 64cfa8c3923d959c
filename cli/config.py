"""`--config`: flags from a TOML or JSON file, as in the configuration files of nanoGPT, but without code."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints import files
from checkpoints.messages import named, reason
from cli.checks import path as check_path
from cli.checks import shown, strings
from cli.command_flags import ALL_FLAGS
from cli.flags import POSITIONAL_ALIASES, Flag, flag_name
from cli.help import Command
from cli.hints import check_known

VARIABLE = "PICOGPT_CONFIG"
LARGEST = 2**20  # bytes


def with_config(pairs: list[tuple[str, str]], command: Command, positional: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (name, value) of the command line, and of the configuration files for the names that are not given.

    The file of --config comes before that of PICOGPT_CONFIG.
    """
    given = dict(pairs)
    found = {}
    table = command.flags_of(given)
    for file in (os.environ.get(VARIABLE), given.get("config")):
        found |= flags_in(file, table, positional) if file else {}
    return pairs + [(name, value) for name, value in found.items() if name not in given]


def flags_in(file: str, table: Mapping[str, Flag], positional: tuple[str, ...] = ()) -> dict[str, str]:
    """Return {name: text} of the flags in a file, as they would be typed. Those of other commands are left out.

    table: the flags of the command. positional: the names of its other words, which a file may give too.
    Raise ValueError if the file cannot be read, or names a flag that no command has.
    """
    found = {}
    for key, value in read(file).items():
        name = flag_name(key, table)
        if name not in positional and name not in POSITIONAL_ALIASES.values():
            try:
                check_known(name, ALL_FLAGS)
            except ValueError as error:
                raise ValueError(f"{named(file)}: {error}") from None
        if name in table or name in positional:
            found[name] = as_typed(value, table.get(name))
    return found


def read(file: str) -> dict[str, Any]:
    """Return the object in a TOML or JSON file."""
    path = Path(files.expand(check_path("config", file)))
    if path.suffix == ".py":
        raise ValueError(
            f"{named(file)} is Python code, which is not run; write the same settings to a file whose name ends in "
            f".toml, such as {named(path.stem)}.toml, in the form: temperature = 0.8"
        )
    try:
        with open(path, "rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise ValueError(f"cannot read the configuration {named(file)}: {reason(error)}") from error
    if len(content) > LARGEST:
        raise ValueError(f"the configuration {named(file)} has more than {LARGEST:,} bytes, the most that are read")
    try:
        value = (json.loads if path.suffix == ".json" else parse_toml)(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ValueError(f"{named(file)} is not valid {kind}: {reason(error)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{named(file)} is not a JSON object of flags")
    return value


def parse_toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib
        except ImportError as error:
            raise ValueError("Python 3.10 cannot read TOML; pip install tomli, or use a JSON file") from error
    return tomllib.loads(text)


def as_typed(value: Any, flag: Flag | None) -> str:
    """Return a value as text of the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    is_list_of_texts = isinstance(value, list) and all(isinstance(part, str) for part in value)
    if is_list_of_texts and flag is not None and flag.check is not strings:
        return ",".join(value)
    try:
        return json.dumps(value)
    except (TypeError, ValueError):  # a date of TOML
        raise ValueError(f"the configuration has the value {shown(str(value))}, which no flag takes") from None
