"""From logits to one token id: the strategies, and the one draw they share.

A sampler is a function `(logits, rng) -> id`: logits [n_vocab] as the model gives them, a numpy Generator, and
back comes a Python int. It sees no text, no history and no model, and it owns no randomness.

    >>> import numpy as np
    >>> logits = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])  # "every effort moves you" ...
    >>> words = "closer every effort forward inches moves pizza toward you".split()
    >>> words[greedy(logits)]
    'forward'
    >>> sampler = make_sampler("temperature_top_p", temperature=0.7, top_p=0.9)
    >>> rng = np.random.default_rng(42)
    >>> [words[sampler(logits, rng)] for _ in range(5)]
    ['toward', 'forward', 'toward', 'toward', 'forward']

What is asked for together is done in this order: temperature, top_k, top_p, softmax, one draw. The rules at the edges:

- The nucleus of top_p keeps the token that crosses p, and stops exactly at p. top_k keeps exactly k.
- Equal logits rank lowest id first, in every strategy. So temperature 0, top_k 1 and top_p 0 are all greedy.
- A draw takes exactly one uniform number from the rng, and never returns an id of zero probability.
- Probabilities are computed in float64: 50,257 float32 terms do not add up to one.

The example's words and logits are from Sebastian Raschka, "Build a Large Language Model (From Scratch)", chapter 5.
"""

import difflib
import functools
import math
import numbers

import numpy as np

GREEDY_BELOW = 1e-5  # a temperature under this is greedy: dividing by it leaves one token anyway

# What a strategy promises to use, with the value a knob has when the strategy is named and the knob is not.
# Temperature and the truncations go with any strategy but greedy, named or not.
STRATEGIES = {
    "greedy": {},
    "temperature": {"temperature": 1.0},
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.9},
    "temperature_top_k": {"temperature": 1.0, "top_k": 50},
    "temperature_top_p": {"temperature": 1.0, "top_p": 0.9},
}

# The knobs: type, test and the rule in words. NaN fails every comparison, and so every test.
KNOBS = {
    "temperature": (numbers.Real, lambda t: 0 <= t < math.inf, "a number from 0 (greedy) upwards, such as 0.8"),
    "top_k": (numbers.Integral, lambda k: k >= 0, "a whole number, such as 50, or 0 for all tokens"),
    "top_p": (numbers.Real, lambda p: 0 <= p <= 1, "a number from 0 to 1, such as 0.9"),
}


# ---- the distribution ------------------------------------------------------------------------------------------


def softmax_with_temperature(logits, temperature=1.0):
    """Probabilities exp(x / T) / sum(exp(x / T)): float64 [n_vocab] from logits [n_vocab].

    T below 1 sharpens, above 1 flattens; below 1e-5 all is on the greedy token.
    Raises ValueError if a logit is NaN or +inf, or if all are -inf.

    >>> softmax_with_temperature(np.array([1.0, 2.0, 3.0, 4.0]), 0.5).round(6).tolist()
    [0.002144, 0.015842, 0.117059, 0.864955]
    """
    if temperature < GREEDY_BELOW:
        return np.eye(1, len(logits), greedy(logits))[0]
    exp_x = np.exp((np.asarray(logits, dtype=np.float64) - largest(logits)) / temperature)
    return exp_x / exp_x.sum()


def largest(logits):
    """The largest logit, as a float; ValueError if it is not finite: then there is nothing to choose between."""
    top = float(np.max(logits))
    if math.isfinite(top):
        return top
    if top == -math.inf:
        raise ValueError("every token is banned: all logits are -inf")
    raise ValueError(f"the largest logit is {top}: the model's output is not usable, its weights may be damaged")


# ---- truncations: logits -> the same logits, -inf where a token is out -----------------------------------------


def keep_top_k(logits, k):
    """Keep exactly the `k` largest logits, lowest ids first among equals. All of them if k is 0 or
    n_vocab or more.

    Source: Fan et al. 2018, "Hierarchical Neural Story Generation".

    >>> keep_top_k(np.array([1.0, 3.0, 3.0, 3.0, 0.0]), 2).tolist()
    [-inf, 3.0, 3.0, -inf, -inf]
    """
    if k == 0 or k >= len(logits):
        return logits
    kth = np.partition(logits, -k)[-k]
    keep = logits > kth
    tied = np.flatnonzero(logits == kth)
    keep[tied[: k - np.count_nonzero(keep)]] = True
    return np.where(keep, logits, -np.inf)


def keep_top_p(logits, p):
    """Keep the nucleus: the fewest most likely tokens whose probabilities add up to `p` or more, at least one.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration". The token that crosses p belongs
    to it. (GPT-2's own code and several tutorials drop that token.)

    >>> probs = np.array([0.125, 0.5, 0.25, 0.125])
    >>> np.flatnonzero(keep_top_p(np.log(probs), 0.75) > -np.inf).tolist()
    [1, 2]
    """
    if p >= 1:
        return logits
    probs = softmax_with_temperature(logits)
    # The tokens after the first share out less than 1 - p once the nucleus is complete, so whatever has less than an
    # even part of that is not in it. Setting it aside before the sort changes nothing and saves most of the
    # work; half of that part is a margin for rounding.
    likely = np.flatnonzero(probs >= 0.5 * (1 - p) / len(probs))
    by_rank = likely[np.argsort(-logits[likely], kind="stable")]  # stable: equal logits stay in the order of ids
    n_keep = np.searchsorted(np.cumsum(probs[by_rank]), p) + 1  # sums below p, and the one that crosses
    nucleus = by_rank[:n_keep]
    kept = np.full_like(logits, -np.inf)
    kept[nucleus] = logits[nucleus]
    return kept


# ---- the draw --------------------------------------------------------------------------------------------------


def sample_categorical(probs, rng=None):
    """Draw an id from `probs` [n_vocab]: the first whose cumulative probability exceeds one uniform number.

    The sum need not be exactly one. Source: inverse transform sampling, as in GPT-Neo's function of this name.

    >>> sample_categorical([0.0, 0.25, 0.75], np.random.default_rng(0))  # the uniform number is 0.637
    2
    """
    rng = rng or np.random.default_rng()
    cdf = np.cumsum(probs, dtype=np.float64)
    # "right" skips ids of probability zero; scaling by the last sum instead of one never runs off the end.
    return int(np.searchsorted(cdf, rng.random() * cdf[-1], side="right"))


# ---- samplers --------------------------------------------------------------------------------------------------


def greedy(logits, rng=None):
    """The likeliest token; of several, the lowest id. Draws nothing. Raises ValueError if no logit is finite."""
    best = int(np.argmax(logits))
    largest(logits[best])
    return best


def distribution(logits, temperature=1.0, top_k=None, top_p=None):
    """The probabilities a token is drawn from: float64 [n_vocab], 0 for what was truncated.

    >>> distribution(np.array([1.0, 2.0, 3.0, 4.0]), temperature=2.0, top_k=2).round(6).tolist()
    [0.0, 0.0, 0.377541, 0.622459]
    """
    if temperature < GREEDY_BELOW:
        return softmax_with_temperature(logits, temperature)
    logits = (np.asarray(logits, dtype=np.float64) - largest(logits)) / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return softmax_with_temperature(logits)


def sample(logits, rng=None, **knobs):
    """Draw one id from the distribution that the knobs leave."""
    return sample_categorical(distribution(logits, **knobs), rng)


def make_sampler(strategy=None, **knobs):
    """A sampler `(logits, rng) -> id` from a strategy's name and its knobs, all checked here, once.

    strategy: a name in STRATEGIES, a callable (returned as it is), or None: greedy when there is no knob, otherwise
    whatever the knobs say. A knob that is None counts as not given.
    temperature: 0 or more; below 1e-5 is greedy. top_k: 0 or a whole number; 0 and n_vocab or more keep everything.
    top_p: 0 to 1; 1 keeps everything. Raises ValueError, in the words of the person who set the knob.

    >>> make_sampler("top_p", top_p=1.5)
    Traceback (most recent call last):
    ValueError: top_p is 1.5; it must be a number from 0 to 1, such as 0.9
    """
    knobs = {name: check_knob(name, value) for name, value in knobs.items() if value is not None}
    if callable(strategy):
        if knobs:
            raise ValueError(f"{one_of(knobs)} cannot be set for a sampler of your own")
        return strategy
    if strategy is None:
        strategy = "temperature" if knobs else "greedy"
    if strategy not in STRATEGIES:
        raise ValueError(f"Unknown sampling strategy: {strategy!r}{did_you_mean(strategy, STRATEGIES)}")
    if strategy == "greedy":
        if knobs:
            raise ValueError(
                f"{one_of(knobs)} cannot be set with strategy greedy: leave it out, or name another strategy"
            )
        return greedy
    return functools.partial(sample, **STRATEGIES[strategy] | knobs)


def check_knob(name, value):
    """The value of a knob if it is in range, ValueError if it is not, or if there is no such knob."""
    if name not in KNOBS:
        raise ValueError(f"Unknown sampling option: {name}{did_you_mean(name, KNOBS)}")
    kind, fits, rule = KNOBS[name]
    if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
        raise ValueError(f"{name} is {value!r}; it must be {rule}")
    return value


def one_of(names):
    return " and ".join(names)


def did_you_mean(name, names):
    """The end of a sentence about an unknown name: the nearest known one, and all there are."""
    near = difflib.get_close_matches(str(name), names, n=1)
    return (f"; did you mean {near[0]}?" if near else ";") + f" There are: {', '.join(names)}"


# ---- the same by the names that articles use -------------------------------------------------------------------


def temperature_sampling(logits, temperature=1.0, rng=None):
    """Draw an id at this temperature.

    >>> temperature_sampling(np.array([1.0, 2.0, 3.0, 4.0]), temperature=0)
    3
    """
    return make_sampler("temperature", temperature=temperature)(logits, rng)


def top_k_sampling(logits, top_k=50, rng=None):
    """Draw an id from the `top_k` likeliest."""
    return make_sampler("top_k", top_k=top_k)(logits, rng)


def top_p_sampling(logits, top_p=0.9, rng=None):
    """Draw an id from the nucleus of mass `top_p`."""
    return make_sampler("top_p", top_p=top_p)(logits, rng)


def sample_from_logits(logits, strategy="greedy", temperature=1.0, top_p=0.9, rng=None):
    """Draw an id by a strategy's name. Of `temperature` and `top_p`, those the name does not mention are not used."""
    if strategy not in STRATEGIES:
        raise ValueError(f"Unknown sampling strategy: {strategy!r}{did_you_mean(strategy, STRATEGIES)}")
    given = {"temperature": temperature, "top_p": top_p}
    return make_sampler(strategy, **{name: given[name] for name in STRATEGIES[strategy] if name in given})(logits, rng)
