"""Settings: one or several values for each knob, the grid that they span, and the sampler of each place in it."""

import itertools

import numpy as np

import sampling
from cli import flags

NAMES = (*flags.STRATEGY_FLAGS, *sampling.PENALTIES)  # what a setting may set; bans and biases are the same for all


def several(name, value):
    """One value or several, as in 0.3,0.7,1.0; whether they can be is for `check` to say.

    >>> several("temperature", (0.3, 0.7)), several("top_k", 50), several("preset", "chatbot,code_comments")
    ((0.3, 0.7), (50,), ('chatbot', 'code_comments'))
    """
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    values = tuple(value) if isinstance(value, (list, tuple, set)) else (value,)
    if not values:
        raise ValueError(f"{name} is an empty list; give one value, or several with commas between them")
    return values


def grid(options):
    """Every combination of the values given, the last knob changing fastest: a list of {knob: value}.

    >>> from types import SimpleNamespace
    >>> asked = dict.fromkeys(NAMES) | {"temperature": (0.3, 0.7), "top_p": (0.9,)}
    >>> grid(SimpleNamespace(**asked))
    [{'temperature': 0.3, 'top_p': 0.9}, {'temperature': 0.7, 'top_p': 0.9}]
    """
    values = sampling.given({name: getattr(options, name) for name in NAMES})
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def check(options):
    """ValueError if one of the settings cannot be, in the words of the person who asked for it."""
    for setting in options.settings:
        sampling.make_sampler(**of(setting, flags.STRATEGY_FLAGS))
        sampling.make_processor(**of(setting, sampling.PENALTIES), **bans(options))


def of(setting, names):
    return {name: value for name, value in setting.items() if name in names}


def bans(options):
    return {"logit_bias": options.logit_bias, "banned_ids": options.banned_ids}


def sampler_and_processor(model, setting, options, n_prompt):
    """What chooses a token, new for each text, and what penalises before it, None if nothing does."""
    penalties = of(setting, sampling.PENALTIES) | bans(options)
    processor = sampling.make_processor(n_prompt, model.encoder.end_of_text, **penalties)
    return sampling.make_sampler(**of(setting, flags.STRATEGY_FLAGS)), processor


def random_numbers(options, i=0):
    """The random numbers of sample `i`: those of gpt2.py, and the same for every setting."""
    return np.random.default_rng([options.seed, 0, i])


def label(setting):
    """A setting in words.

    >>> label({"temperature": 0.7, "top_p": 0.9}), label({"preset": "chatbot"}), label({})
    ('temperature = 0.7, top_p = 0.9', 'chatbot', '')
    """
    return ", ".join(value if isinstance(value, str) else f"{name} = {value:g}" for name, value in setting.items())


def varying(settings):
    """The names that have more than one value in these settings, or all if there is only one setting."""
    names = settings[0]
    return [name for name in names if len({setting[name] for setting in settings}) > 1] or list(names)


def fixed(settings):
    """What all of these settings have in common, in words, if there are several."""
    first = settings[0]
    return label({name: first[name] for name in first if name not in varying(settings)})
