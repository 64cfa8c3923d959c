"""From flags to checked options: {"top_p": 0.9, ...} -> Options."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import sampling
from cli.checks import Typed, TypedNumber, shown
from cli.flags import FLAGS, PENALTY_FLAGS, STRATEGY_FLAGS, Flag
from cli.hints import check_known

MODEL_PRESET = "model"  # the preset that stands for the suggestions in a model's files; see suggestions.py


@dataclass(frozen=True)
class Options:
    """The checked values of all flags of a command, as attributes: `options.temperature`.

    values: {name: value}, defaults included. given: the names that were set.
    """

    values: Mapping[str, object]
    given: tuple[str, ...]

    def __reduce__(self):  # a read-only mapping cannot be pickled
        return read_only, (dict(self.values), self.given)

    def __getattr__(self, name):
        values = self.__dict__.get("values", {})  # not set yet while a copy is made
        if name not in values:
            raise AttributeError(f"there is no option {name}")
        return values[name]

    @property
    def sampling(self) -> dict:
        """Return the arguments of sampling.make_sampler; without the preset `model`, whose values are in the model."""
        arguments = sampling.without_none({name: self.values[name] for name in STRATEGY_FLAGS})
        if arguments.get("preset") == MODEL_PRESET:
            del arguments["preset"]
        return arguments

    @property
    def penalties(self) -> dict:
        """Return the arguments of sampling.make_logits_processor that are options, without tokens given as texts."""
        found = {name: self.values[name] for name in PENALTY_FLAGS if name in self.values}
        if found.get("logit_bias"):
            found["logit_bias"] = {key: number for key, number in found["logit_bias"].items() if type(key) is int}
        return found

    @property
    def window_keep(self) -> int | None:
        """Return the number of ids to keep when the context slides, None if it does not slide."""
        return self.values["keep"] if self.values.get("context") == "slide" else None


def read_only(values: dict[str, object], given: tuple[str, ...]) -> Options:
    return Options(MappingProxyType(values), given)


def check_options(asked: Mapping[str, object], table: Mapping[str, Flag] = FLAGS) -> Options:
    """Return the options: `asked` and the defaults of the other flags. Raise ValueError for an invalid combination."""
    options = check_each(asked, table)
    check_together(options)
    return options


def check_each(asked: Mapping[str, object], table: Mapping[str, Flag]) -> Options:
    """Return the options of a table. Raise ValueError for an unknown flag or an invalid value."""
    for name in asked:
        check_known(name, table)
    given = sampling.without_none(asked)
    values = {
        name: plain(flag.check(name, given[name])) if name in given else default_of(name, flag)
        for name, flag in table.items()
    }
    return read_only(values, tuple(given))


def plain(value: object) -> object:
    """Return a value with plain numbers: NumPy promotes other kinds of float to float64."""
    if isinstance(value, TypedNumber):
        return float(value)
    if isinstance(value, tuple):
        parts = [plain(part) for part in value]
        return Typed(parts, value.text) if isinstance(value, Typed) else tuple(parts)
    return value


def default_of(name: str, flag: Flag) -> object:
    """Return the default of a flag, or the value of its environment variable."""
    value = os.environ.get(flag.variable) if flag.variable else None
    return flag.check(flag.variable, value) if value else flag.default


def check_sampling(options: Options) -> None:
    """Raise ValueError if the options of the sampler are invalid; the message names the preset if it is the cause."""
    try:
        sampling.make_sampler(**options.sampling)
    except ValueError as error:
        knobs = sampling.PRESETS.get(options.sampling.get("preset"), {})
        causes = [name for name in knobs if name not in options.given and name in str(error)]
        if not causes:
            raise
        raise ValueError(f"{error}; the preset {options.preset} sets {' and '.join(causes)}") from error


def check_together(options: Options) -> None:
    """Raise ValueError for options that contradict each other."""
    check_sampling(options)
    sampling.make_logits_processor(**options.penalties)
    values = options.values
    shortest = values.get("min_new_tokens") or 0
    if shortest > options.n_tokens_to_generate:
        raise ValueError(
            f"min_new_tokens is {shortest}, but n_tokens_to_generate is only {options.n_tokens_to_generate}"
        )
    if values.get("logprobs") is not None and values.get("json") is False:
        raise ValueError("logprobs are part of the JSON output: add --json, or remove --logprobs")
    if values.get("draft") and values.get("num_samples", 1) > 1:
        raise ValueError(
            f"draft is {shown(options.draft)}, which continues one sample, but num_samples is {options.num_samples}; "
            "remove one of them"
        )
    if values.get("keep") and options.context != "slide":
        raise ValueError("keep has no effect unless the context slides: add --context slide, or remove --keep")
