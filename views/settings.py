"""Settings: one or several values of each sampling option, the grid that they span, a completion for each setting."""

import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np

import sampling
from cli import request
from cli.command_flags import VIEW_SETTINGS
from cli.flags import STRATEGY_FLAGS
from cli.options import Options
from engine.completion import Completion
from utils import Model

MAX_SETTINGS = 1000  # in a grid
MAX_TEXTS = 10_000  # of all settings together

# ---- the grid --------------------------------------------------------------------------------------------------


def grid(options: Options) -> list[dict]:
    """Return every combination of the values given, as {option: value}; the last option changes fastest.

    >>> from cli.command_flags import EXPLORE_FLAGS
    >>> from cli.options import check_each
    >>> grid(check_each({"temperature": (0.3, 0.7), "top_p": 0.9}, EXPLORE_FLAGS))
    [{'temperature': 0.3, 'top_p': 0.9}, {'temperature': 0.7, 'top_p': 0.9}]
    """
    values = values_of(options)
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def values_of(options: Options) -> dict[str, tuple]:
    """Return the values of each option that is given."""
    return sampling.without_none({name: options.values[name] for name in VIEW_SETTINGS})


def check_size(options: Options) -> None:
    """Raise ValueError if the grid is too large, before it is made."""
    n_settings = math.prod(map(len, values_of(options).values()))
    if n_settings > MAX_SETTINGS:
        raise ValueError(f"the options span a grid of {n_settings} settings; at most {MAX_SETTINGS} are compared")
    n_texts = n_settings * options.num_samples
    if n_texts > MAX_TEXTS:
        raise ValueError(
            f"{n_settings} settings with {options.num_samples} samples each are {n_texts} texts; at most {MAX_TEXTS} "
            "are generated"
        )


def check_grid(settings: list[dict], options: Options) -> None:
    """Raise ValueError if one of the settings is invalid."""
    for setting in settings:
        new_sampler(setting)
        sampling.make_logits_processor(banned_ids=options.banned_ids, **selected(setting, sampling.PENALTIES))


def varying(settings: list[dict]) -> list[str]:
    """Return the options that have several values in these settings; all options if there is only one setting."""
    names = settings[0]
    return [name for name in names if len({setting[name] for setting in settings}) > 1] or list(names)


def label(setting: dict) -> str:
    """Return a setting in words.

    >>> label({"temperature": 0.7, "top_p": 0.9}), label({"preset": "chatbot"}), label({})
    ('temperature = 0.7, top_p = 0.9', 'chatbot', '')
    """
    return ", ".join(value if isinstance(value, str) else f"{name} = {value:g}" for name, value in setting.items())


def label_of_fixed(settings: list[dict]) -> str:
    """Return in words what several settings have in common; "" for one setting."""
    first = settings[0]
    return label({name: first[name] for name in first if name not in varying(settings)})


def selected(setting: dict, names: Iterable[str]) -> dict:
    return {name: value for name, value in setting.items() if name in names}


def drawing(setting: dict) -> dict:
    """Return a setting that draws: without options of the sampler, from the model's own distribution."""
    return setting if selected(setting, STRATEGY_FLAGS) else {**setting, "temperature": 1.0}


# ---- a setting -> a completion ---------------------------------------------------------------------------------


def new_sampler(setting: dict) -> Callable:
    return sampling.make_sampler(**selected(setting, STRATEGY_FLAGS))


def new_logits_processor(model: Model, setting: dict, options: Options, n_prompt: int) -> Callable | None:
    """Return the logits processor of a setting; biases and bans are those of the options, equal for all settings."""
    return request.new_logits_processor(model, options, n_prompt, selected(setting, sampling.PENALTIES))


def random_numbers(seed: int, i: int = 0, row: int = 0) -> np.random.Generator:
    """Return the generator of sample `i` of a row: that of gpt2.py and batch.py, and the same for every setting."""
    return np.random.default_rng((seed, row, i))


def new_completion(
    model: Model,
    setting: dict,
    options: Options,
    n_prompt: int,
    rng: np.random.Generator,
    on_token: Callable,
) -> Completion:
    """Return an empty completion of a prompt of `n_prompt` ids. on_token: see Completion."""
    return Completion(
        new_sampler(setting),
        rng,
        new_logits_processor(model, setting, options, n_prompt),
        model.special.stop_ids,
        on_token=on_token,
    )
