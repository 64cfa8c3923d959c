"""The settings that a model's files suggest: a remark that shows them as flags, and `--preset model`."""

import logging
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from checkpoints.files import CheckpointError
from checkpoints.generation import read_suggestions
from checkpoints.messages import abbreviated
from cli.flags import FLAGS
from cli.options import MODEL_PRESET, Options, check_together

log = logging.getLogger("picogpt")


def with_suggestions(options: Options, path: Path) -> Options:
    """Return the options, with those that the model at `path` suggests if the preset is `model`; else remark on them.

    Raise ValueError if the preset is `model` and the model suggests nothing, or an invalid value.
    """
    if options.preset != MODEL_PRESET:
        remark(options, path)
        return options
    suggested = read_suggestions(path).options
    if not suggested:
        raise ValueError(f"preset is {MODEL_PRESET}, but the files of {abbreviated(path.name)} suggest no settings")
    changed = {name: checked(name, value) for name, value in suggested.items() if name not in options.given}
    values = MappingProxyType({**options.values, **changed, "preset": None})
    given = tuple(name for name in (*options.given, *changed) if name != "preset")
    options = replace(options, values=values, given=given)
    check_together(options)
    return options


def checked(name: str, value: object) -> object:
    try:
        return FLAGS[name].check(name, value)
    except ValueError as error:
        raise ValueError(f"generation_config.json of the model: {error}") from error


def remark(options: Options, path: Path) -> None:
    """Show the suggestions as flags, unless the user has chosen such options."""
    try:
        suggested, unsupported = read_suggestions(path)
    except (CheckpointError, OSError):  # reported where the model is loaded
        return
    if suggested and not set(options.given) & {*suggested, "preset", "strategy"}:
        shown = " ".join(f"--{name} {shown_value(value)}" for name, value in suggested.items())
        log.info(f"The files of this model suggest {shown}; --preset {MODEL_PRESET} applies these settings.")
    if unsupported:
        log.info(f"The files of this model also set {', '.join(unsupported)}, which has no equivalent here.")


def shown_value(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return abbreviated(text, 40)
