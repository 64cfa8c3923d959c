"""From logits to one token id: the strategies, their shared parts, and their edge cases.

Three contracts. None of them knows the model:

    logits processor   (logits, ids) -> logits    depends on the history: penalties, bans, biases
    filter             (logits, knob) -> kept     truncation: the positions that remain, ascending
    sampler            (logits, rng) -> id        the choice: logits [n_vocab], a numpy Generator -> an integer

    >>> import numpy as np
    >>> logits = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])  # "every effort moves you" ...
    >>> words = "closer every effort forward inches moves pizza toward you".split()
    >>> words[greedy(logits)]
    'forward'
    >>> sampler = make_sampler("temperature_top_p", temperature=0.7, top_p=0.9)
    >>> rng = np.random.default_rng(42)
    >>> [words[sampler(logits, rng)] for _ in range(5)]
    ['toward', 'forward', 'toward', 'toward', 'forward']

The steps run in this order, independent of the order of the options:

    biases and bans -> penalties -> temperature -> top_k -> top_p -> min_p -> typical_p -> softmax or entmax -> one draw

Each filter sees the distribution that the previous one left. The edge cases:

- The nucleus of top_p includes the token that crosses p and stops exactly at p. top_k keeps exactly k.
- Equal logits rank the lowest id first. Therefore temperature 0, top_k 1 and top_p 0 are always greedy.
- Every filter keeps at least one token. A draw uses exactly one uniform number and never returns a token of
  probability zero. NaN is an error, and so is a vocabulary with every token banned.
- Probabilities are float64: in float32, the sum of 50,257 terms is less exact.

docs/sampling.md compares these rules with those of other programs. The words and logits of the examples are from
Sebastian Raschka, "Build a Large Language Model (From Scratch)", chapter 5.
"""

import difflib
import functools
import math
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real

import numpy as np

MAX_ID = 2**31 - 1  # of a token in any model
LARGEST = 10**308  # whole numbers above it have no value as a float
GREEDY_BELOW = 1e-5  # a lower temperature is greedy, as in vLLM

# ---- the distribution --------------------------------------------------------------------------------------------


def softmax_with_temperature(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the probabilities exp(x / T) / sum(exp(x / T)), float64 [n_vocab], of logits [n_vocab].

    T below 1 sharpens, T above 1 flattens; below 1e-5 the greedy token has probability 1.
    Raises ValueError if a logit is NaN or +inf, if all are -inf, or if the temperature is invalid.

    >>> softmax_with_temperature(np.array([1.0, 2.0, 3.0, 4.0]), 0.5).round(6).tolist()
    [0.002144, 0.015842, 0.117059, 0.864955]
    """
    if check_knob("temperature", temperature, KNOBS) < GREEDY_BELOW:
        return np.eye(1, len(logits), greedy(logits))[0]
    return softmax(shifted_logits(logits, temperature))


def shifted_logits(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return (x - max x) / T in float64. Softmax ignores the shift; without it, a small T would overflow."""
    shifted = np.subtract(logits, check_finite(np.max(logits)), dtype=np.float64)
    if temperature != 1:
        shifted /= min(float(temperature), 1e100)  # above, small differences would become ties
    return shifted


def softmax(shifted: np.ndarray) -> np.ndarray:
    """Return the probabilities, float64, of shifted logits."""
    probs = np.exp(shifted)
    probs /= probs.sum()
    return probs


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return ln softmax(logits), float64 [n_vocab].

    >>> log_softmax(np.log([0.5, 0.25, 0.25])).round(4).tolist()
    [-0.6931, -1.3863, -1.3863]
    """
    shifted = shifted_logits(logits)
    return shifted - math.log(np.exp(shifted).sum())


def check_finite(largest):
    """Return the largest logit as a float. Raise ValueError if it is not finite."""
    if math.isfinite(largest):
        return float(largest)
    if largest == -math.inf:
        raise ValueError("every token is banned: all logits are -inf")
    problem = "the output of the model is not usable, its weights may be damaged"
    raise ValueError(f"the largest logit is {largest}: {problem}")


def entmax(logits: np.ndarray, alpha: float = 1.3) -> np.ndarray:
    """Return probabilities that are exactly zero for unlikely tokens, float64 [n_vocab].

    p_i = max(0, (alpha - 1) x_i - tau) ^ (1 / (alpha - 1)), with tau such that they sum to one. alpha is between 1
    (softmax) and 2 (sparsemax); a larger alpha leaves fewer tokens, and only logits within 1 / (alpha - 1) of the
    largest remain. Source: Peters et al. 2019, "Sparse Sequence-to-Sequence Models"; alpha 1.3 is GPT-Neo's default.

    >>> entmax(np.array([2.0, 1.0, 0.1, 0.0]), 1.5).round(6).tolist()
    [0.830719, 0.169281, 0.0, 0.0]
    """
    x = shifted_logits(logits)
    if check_knob("entmax_alpha", alpha, KNOBS) - 1 < 1e-6:  # the limit; the power below would overflow
        return softmax(x)
    x *= alpha - 1
    power = 1 / (alpha - 1)
    # Find tau such that z = max(0, x - tau) has the norm (sum z ^ power) ^ (1 / power) = 1. The norm is convex in tau
    # and nearly linear, so Newton's method converges in a few steps from the left end, where the norm is at least 1.
    tau = -1.0
    for _ in range(50):
        z = x[x > tau] - tau
        slope = z ** (power - 1)
        norm = (z @ slope) ** (1 / power)
        step = (norm - 1) / (norm ** (1 - power) * slope.sum())
        tau += step
        if step <= 1e-15:
            break
    probs = np.maximum(x - tau, 0.0) ** power
    probs /= probs.sum()
    return probs


# ---- filters: logits and a knob -> the positions that remain, ascending ------------------------------------------


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Keep exactly the `k` largest logits; all if k is 0 or at least n_vocab.

    Source: Fan et al. 2018, "Hierarchical Neural Story Generation".

    >>> keep_top_k(np.array([1.0, 3.0, 3.0, 3.0, 0.0]), 2).tolist()
    [1, 2]
    """
    if k == 0 or k >= len(logits):
        return all_ids(len(logits))
    return keep_best(logits, k, np.partition(logits, -k)[-k])


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep the nucleus: the fewest tokens, likeliest first, whose probabilities sum to `p` or more; all if p is 1.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration". The nucleus includes the
    token that crosses p. (OpenAI's GPT-2 code and several tutorials drop that token.)

    >>> keep_top_p(np.log([0.125, 0.5, 0.25, 0.125]), 0.75).tolist()
    [1, 2]
    """
    if p >= 1:
        return all_ids(len(logits))
    x = shifted_logits(logits)
    total = np.exp(x).sum()
    # All tokens with a probability below (1 - p) / n_vocab have less than 1 - p together, so the likelier ones reach p
    # without them. Removing them before the sort saves most of its time. Half of the bound allows for rounding.
    ranked = x[x >= math.log(total * 0.5 * (1 - p) / len(x))]
    ranked[::-1].sort()  # descending; sorting values is several times faster than argsort
    sums = np.exp(ranked)
    sums /= total
    np.cumsum(sums, out=sums)
    n_kept = min(np.searchsorted(sums, p) + 1, len(ranked))  # the sums below p, and the crossing one
    return keep_best(x, n_kept, ranked[n_kept - 1])


def keep_best(logits, n, nth):
    """Keep the `n` largest logits. nth: the n-th largest; of the logits equal to it, the lowest ids remain."""
    keep = logits > nth
    tied = np.flatnonzero(logits == nth)
    keep[tied[: n - np.count_nonzero(keep)]] = True
    return np.flatnonzero(keep)


def keep_min_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep the tokens at least `p` times as likely as the likeliest; all if p is 0.

    Source: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs".

    >>> keep_min_p(np.log([0.5, 0.3, 0.15, 0.05]), 0.25).tolist()
    [0, 1, 2]
    """
    if p == 0:
        return all_ids(len(logits))
    return np.flatnonzero(logits >= np.max(logits) + math.log(p))


def keep_typical(logits: np.ndarray, mass: float) -> np.ndarray:
    """Keep the fewest tokens whose surprise -ln p is nearest to the entropy, with total probability `mass` or more.

    The likeliest token may be removed. Source: Meister et al. 2023, "Locally Typical Sampling".

    >>> keep_typical(np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]), 0.3).tolist()
    [7]
    """
    if mass >= 1:
        return all_ids(len(logits))
    x = np.maximum(shifted_logits(logits), -1e300)  # banned tokens: -inf * 0 would be NaN
    probs = np.exp(x)
    total = probs.sum()
    probs /= total
    mean = probs @ x
    entropy = math.log(total) - mean
    distance = np.abs(np.subtract(x, mean, out=x), out=x)  # between -ln p and the entropy; ln(total) is part of both
    # Sorting all tokens is slow: they go into buckets by distance, and only the bucket that reaches the mass is sorted.
    bucket = np.minimum(distance * (1000 / (2 * entropy + 10)), 1000).astype(np.intp)
    sums = np.cumsum(np.bincount(bucket, weights=probs))
    crossing = min(np.searchsorted(sums, max(mass, 1e-300)), len(sums) - 1)
    keep = bucket < crossing
    last = np.flatnonzero(bucket == crossing)
    missing = mass - (sums[crossing - 1] if crossing else 0.0)
    keep[last[nearest(distance[last], probs[last], missing)]] = True
    return np.flatnonzero(keep)


def nearest(distance, probs, mass):
    """Return the fewest positions, nearest first, with total probability `mass`; equal distances: lowest ids first."""
    order = np.argsort(distance, kind="stable")
    return order[: np.searchsorted(np.cumsum(probs[order]), mass) + 1]


@functools.lru_cache(maxsize=4)
def all_ids(n_vocab):
    """Return 0, 1, 2, ..., cached and therefore read-only."""
    ids = np.arange(n_vocab)
    ids.flags.writeable = False
    return ids


FILTERS = {"top_k": keep_top_k, "top_p": keep_top_p, "min_p": keep_min_p, "typical_p": keep_typical}  # in this order


def filtered(logits, temperature=1.0, **knobs):
    """Apply temperature and filters; return the remaining ids, ascending, and their shifted logits, both [n_kept]."""
    if temperature < GREEDY_BELOW:
        return np.array([greedy(logits)]), np.zeros(1)
    ids = all_ids(len(logits))
    x = shifted_logits(logits, temperature)
    for name, keep in FILTERS.items():
        if knobs.get(name) is not None:
            kept = keep(x, knobs[name])
            ids = ids[kept]
            x = x[kept]
            x -= x.max()  # typical_p may have removed the largest
    return ids, x


def distribution(logits: np.ndarray, *, entmax_alpha: float = 1.0, **knobs) -> np.ndarray:
    """Return the probability of drawing each token, float64 [n_vocab]. The knobs are those of `make_sampler`.

    >>> distribution(np.array([1.0, 2.0, 3.0, 4.0]), temperature=2.0, top_k=2).round(6).tolist()
    [0.0, 0.0, 0.377541, 0.622459]
    """
    ids, x = filtered(logits, **knobs)
    probs = np.zeros(len(logits))
    probs[ids] = entmax(x, entmax_alpha)
    return probs


# ---- samplers ----------------------------------------------------------------------------------------------------


def greedy(logits: np.ndarray, rng: np.random.Generator | None = None) -> int:
    """Return the likeliest token, of several the lowest id. Draws nothing. Raises ValueError if no logit is finite.

    >>> greedy(np.array([1.0, 3.0, 3.0]))
    1
    """
    best = int(np.argmax(logits))  # the position of a NaN, if there is one
    check_finite(logits[best])
    return best


def sample_categorical(probs, rng: np.random.Generator | None = None) -> int:
    """Draw an id from `probs` [n_vocab]: the first whose cumulative probability exceeds one uniform number.

    The sum need not be exactly one. Source: inverse transform sampling, as in GPT-Neo's function of this name; that
    one returns id 0 if rounding leaves the last sum below the uniform number.

    >>> sample_categorical([0.0, 0.25, 0.75], np.random.default_rng(0))  # the uniform number is 0.637
    2
    """
    rng = rng or np.random.default_rng()
    cdf = np.cumsum(probs, dtype=np.float64)
    if not (len(cdf) and 0 < cdf[-1] < math.inf):
        raise ValueError(f"the probabilities sum to {sum(cdf[-1:])}; they must have a positive finite sum")
    # side="right" skips ids of probability zero; scaling by the last sum keeps the result in range.
    return int(np.searchsorted(cdf, rng.random() * cdf[-1], side="right"))


def sample(logits: np.ndarray, rng: np.random.Generator | None = None, *, entmax_alpha: float = 1.0, **knobs) -> int:
    """Draw one id from the tokens that temperature and filters leave. The knobs, unchecked: see `make_sampler`.

    >>> sample(np.array([1.0, 3.0, 2.0]), np.random.default_rng(0), temperature=0.7, top_k=2)
    1
    """
    ids, x = filtered(logits, **knobs)
    weights = np.exp(x, out=x) if entmax_alpha == 1 else entmax(x, entmax_alpha)  # softmax without normalization
    return int(ids[sample_categorical(weights, rng)])


class Mirostat:
    """A sampler that holds the surprise of its text at `mirostat_tau` bits per token. Each text needs a new one.

    Tokens with a surprise above mu are removed; mu starts at 2 tau and moves by eta times the error after each draw.
    Source: Basu et al. 2021, "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity", in the
    simpler version 2 of llama.cpp.

    >>> sampler, rng = Mirostat(1.0, 0.1), np.random.default_rng(0)
    >>> sampler(np.log([0.5, 0.25, 0.125, 0.125]), rng), round(sampler.mu, 3)  # draws 0, a surprise of 0.585 bits
    (0, 2.042)
    """

    def __init__(self, mirostat_tau: float, mirostat_eta: float, **knobs):
        self.tau = mirostat_tau
        self.eta = mirostat_eta
        self.knobs = knobs
        self.mu = 2 * mirostat_tau

    def candidates(self, logits):
        """Return the ids that can be drawn next, ascending, and their probabilities, both [n_kept]."""
        ids, x = filtered(logits, **self.knobs)
        surprise = (math.log(np.exp(x).sum()) - x) / math.log(2)  # bits
        kept = np.flatnonzero(surprise <= max(self.mu, surprise.min()))
        return ids[kept], softmax(x[kept])

    def __call__(self, logits, rng=None):
        ids, probs = self.candidates(logits)
        drawn = sample_categorical(probs, rng)
        self.mu -= self.eta * (-math.log2(probs[drawn]) - self.tau)
        return int(ids[drawn])


# ---- make_sampler: from a strategy and knobs to a sampler --------------------------------------------------------

# The knobs of the samplers: type, test, rule, and the default, for which {} stands in the rule. NaN fails every test.
KNOBS = {
    "temperature": (Real, lambda t: 0 <= t < math.inf, "a number from 0 (greedy) upwards, such as 0.8", 1.0),
    "top_k": (Integral, lambda k: k >= 0, "a whole number from 1, such as {}, or 0 for all tokens", 50),
    "top_p": (Real, lambda p: 0 <= p <= 1, "a number from 0 to 1, such as {}", 0.9),
    "min_p": (Real, lambda p: 0 <= p <= 1, "a number from 0 to 1, such as {}", 0.05),
    "typical_p": (Real, lambda p: 0 <= p <= 1, "a number from 0 to 1, such as {}", 0.95),
    "entmax_alpha": (Real, lambda a: 1 <= a <= 2, "a number from 1 (softmax) to 2 (sparsemax), such as {}", 1.3),
    "mirostat_tau": (Real, lambda t: 0 <= t < math.inf, "a number of bits from 0 upwards, such as {:g}", 5.0),
    "mirostat_eta": (Real, lambda e: 0 <= e <= 1, "a number from 0 to 1, such as {}", 0.1),
}

# The knobs that each strategy uses at least. Temperature and the filters combine with all strategies but greedy; the
# knobs of entmax and mirostat belong to those strategies alone.
STRATEGIES = {
    "greedy": (),
    "temperature": ("temperature",),
    "top_k": ("top_k",),
    "top_p": ("top_p",),
    "temperature_top_k": ("temperature", "top_k"),
    "temperature_top_p": ("temperature", "top_p"),
    "min_p": ("min_p",),
    "typical": ("typical_p",),
    "entmax": ("entmax_alpha",),
    "mirostat": ("mirostat_tau", "mirostat_eta"),
}
OWNERS = {"entmax_alpha": "entmax", "mirostat_tau": "mirostat", "mirostat_eta": "mirostat"}

# A temperature and a top_p by purpose, as a common guide for chat models lists them. Explicit knobs override them.
PRESETS = {
    "code_generation": {"temperature": 0.2, "top_p": 0.1},
    "creative_writing": {"temperature": 0.7, "top_p": 0.8},
    "chatbot": {"temperature": 0.5, "top_p": 0.5},
    "code_comments": {"temperature": 0.3, "top_p": 0.2},
    "data_analysis": {"temperature": 0.2, "top_p": 0.1},
    "exploratory_code": {"temperature": 0.6, "top_p": 0.7},
}


def make_sampler(strategy: str | Callable | None = None, preset: str | None = None, **knobs) -> Callable:
    """Return a sampler `(logits, rng) -> id` for a strategy, a preset and knobs. All are checked here, once.

    strategy: a name in STRATEGIES, a sampler of your own (returned unchanged), or None: the knobs decide, and without
    knobs it is greedy. preset: a name in PRESETS. A knob that is None counts as not given.
    temperature: from 0; below 1e-5 is greedy. top_k: a whole number; 0, or n_vocab and more, keeps all.
    top_p, typical_p: 0 to 1; 1 keeps all. min_p: 0 to 1; 0 keeps all. entmax_alpha: 1 (softmax) to 2 (sparsemax).
    mirostat_tau: bits. mirostat_eta: 0 to 1. A Mirostat sampler has a state: make one per text.
    Raises ValueError with the name, the value and the rule of an invalid knob.

    >>> make_sampler("top_p", top_p=1.5)
    Traceback (most recent call last):
    ValueError: top_p is 1.5; it must be a number from 0 to 1, such as 0.9
    """
    if preset is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"Unknown preset: {reprlib.repr(preset)}{did_you_mean(preset, PRESETS)}")
        knobs = PRESETS[preset] | without_none(knobs)
    knobs = {name: check_knob(name, value, KNOBS) for name, value in without_none(knobs).items()}
    if callable(strategy):
        if knobs:
            raise ValueError(f"{' and '.join(knobs)} cannot be combined with a sampler of your own; remove the options")
        return strategy
    strategy = infer_strategy(knobs) if strategy is None else strategy
    check_strategy(strategy, knobs)
    if strategy == "greedy":
        return greedy
    settings = {name: KNOBS[name][-1] for name in STRATEGIES[strategy]} | knobs
    return Mirostat(**settings) if strategy == "mirostat" else functools.partial(sample, **settings)


def without_none(knobs):
    return {name: value for name, value in knobs.items() if value is not None}


def check_knob(name, value, table):
    """Return the value of a knob. Raise ValueError if it is out of range or if the table has no such knob."""
    if name not in table:
        raise ValueError(f"Unknown sampling option: {name}{did_you_mean(name, table)}")
    kind, fits, rule, *default = table[name]
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    is_huge = isinstance(value, int) and value > LARGEST
    if not is_number or is_huge or not fits(value):
        raise ValueError(f"{name} is {reprlib.repr(value)}; it must be {rule.format(*default)}")
    return value


def infer_strategy(knobs):
    """Return the strategy that the knobs imply."""
    owners = {OWNERS[name] for name in knobs if name in OWNERS}
    if len(owners) > 1:
        raise ValueError(f"{' and '.join(sorted(owners))} cannot be combined; remove the options of one")
    return owners.pop() if owners else "temperature" if knobs else "greedy"


def check_strategy(strategy, knobs):
    """Raise ValueError if the strategy is unknown or does not use one of the knobs."""
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise ValueError(f"Unknown sampling strategy: {reprlib.repr(strategy)}{did_you_mean(strategy, STRATEGIES)}")
    for name in knobs:
        if strategy == "greedy" or OWNERS.get(name, strategy) != strategy:
            other = OWNERS.get(name, "temperature")
            raise ValueError(f"{name} has no effect with strategy {strategy}: remove it, or use strategy {other}")


def did_you_mean(name, names):
    """Return the end of a message about an unknown name: the nearest known name, and all of them."""
    near = difflib.get_close_matches(str(name)[:100], names, n=1)
    return (f"; did you mean {near[0]}?" if near else ";") + f" Choose from: {', '.join(names)}"


# ---- logits processors: logits and all ids so far -> new logits --------------------------------------------------


def repetition_penalty(logits: np.ndarray, ids: Iterable[int], penalty: float) -> np.ndarray:
    """Make every token of `ids` less likely: divide a positive logit by `penalty`, multiply a negative one.

    Each token counts once. Source: Keskar et al. 2019, "CTRL", with Hugging Face's distinction by sign: dividing a
    negative logit would make its token more likely.

    >>> repetition_penalty(np.array([2.0, -2.0, 1.0]), [0, 1, 1], 2.0).tolist()
    [1.0, -4.0, 1.0]
    """
    logits = np.array(logits)
    seen = np.unique(check_ids(ids, len(logits)))
    logits[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
    return logits


def presence_penalty(logits: np.ndarray, ids: Iterable[int], penalty: float) -> np.ndarray:
    """Subtract `penalty` from the logit of every token of `ids`, once. Source: OpenAI's API.

    >>> presence_penalty(np.array([2.0, 2.0, 1.0]), [0, 1, 1], 0.5).tolist()
    [1.5, 1.5, 1.0]
    """
    return np.asarray(logits) - penalty * np.minimum(occurrences(logits, ids), 1)


def frequency_penalty(logits: np.ndarray, ids: Iterable[int], penalty: float) -> np.ndarray:
    """Subtract `penalty` from the logit of every token of `ids`, once per occurrence. Source: OpenAI's API.

    >>> frequency_penalty(np.array([2.0, 2.0, 1.0]), [0, 1, 1], 0.5).tolist()
    [1.5, 1.0, 1.0]
    """
    return np.asarray(logits) - penalty * occurrences(logits, ids)


def occurrences(logits, ids):
    """Return the number of occurrences of each token in `ids`, [n_vocab], in the dtype of the logits."""
    return np.bincount(check_ids(ids, len(logits)), minlength=len(logits)).astype(np.asarray(logits).dtype)


def check_ids(ids, n_vocab):
    """Return the ids as an array. Raise ValueError if one is not in the vocabulary."""
    ids = list(ids)
    try:
        ids = np.array(ids, dtype=np.intp)
    except OverflowError:
        ids = np.array(ids, dtype=object)  # whole numbers of more than 63 bits
    outside = ids[(ids < 0) | (ids >= n_vocab)]
    if len(outside):
        first = reprlib.repr(int(outside[0]))
        raise ValueError(f"there is no token {first}: the ids of this model are 0 to {n_vocab - 1}")
    return ids


def no_repeat_ngram(logits: np.ndarray, ids: Iterable[int], size: int) -> np.ndarray:
    """Ban every token that would repeat a sequence of `size` tokens of `ids`.

    Source: Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization".

    >>> no_repeat_ngram(np.zeros(9), [3, 7, 0, 3], 2).tolist().index(-np.inf)  # 3 was followed by 7
    7
    """
    ids = list(ids)
    recent = ids[len(ids) - size + 1 :]
    followers = [ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == recent]
    return ban(logits, ids, followers)


def ban(logits: np.ndarray, ids: Iterable[int], banned: Iterable[int]) -> np.ndarray:
    """Set the logits of tokens to -inf.

    >>> ban(np.zeros(3), [], [1]).tolist()
    [0.0, -inf, 0.0]
    """
    logits = np.array(logits)
    logits[check_ids(banned, len(logits))] = -np.inf
    return logits


def bias(logits: np.ndarray, ids: Iterable[int], biases: Mapping[int, float]) -> np.ndarray:
    """Add a number to the logits of some tokens: biases {id: number}; -inf bans.

    >>> bias(np.zeros(3), [], {1: 2.5}).tolist()
    [0.0, 2.5, 0.0]
    """
    logits = np.array(logits)
    logits[check_ids(biases, len(logits))] += np.array(list(biases.values()), dtype=logits.dtype)
    return logits


# The knobs of the logits processors: type, test and rule.
PENALTIES = {
    "repetition_penalty": (Real, lambda r: 0 < r <= 100, "a number above 0 and up to 100; 1 is none"),
    "presence_penalty": (Real, lambda p: -100 <= p <= 100, "a number from -100 to 100; 0 is none"),
    "frequency_penalty": (Real, lambda p: -100 <= p <= 100, "a number from -100 to 100; 0 is none"),
    "no_repeat_ngram_size": (Integral, lambda n: n >= 0, "a whole number from 1, such as 3; 0 is none"),
    "min_new_tokens": (Integral, lambda n: n >= 0, "a whole number from 1, such as 20; 0 is none"),
}


def make_logits_processor(
    n_prompt: int = 0, stop_ids: Collection[int] = (), logit_bias: Mapping | None = None, banned_ids=(), **knobs
) -> Callable | None:
    """Return a logits processor `(logits, ids) -> logits` that applies all of these, or None if there are none.

    n_prompt: the number of prompt ids in `ids`. As in vLLM, repetition and n-grams consider the prompt and the new
    tokens, presence and frequency the new tokens alone. stop_ids: the ids that min_new_tokens bans until that number of
    tokens is generated. logit_bias: {id: number}. banned_ids: ids, or None. The other knobs: see the functions.
    Raises ValueError with the name, the value and the rule of an invalid knob.

    >>> make_logits_processor(banned_ids=[1], presence_penalty=0.5)(np.zeros(3), [2]).tolist()
    [0.0, -inf, -0.5]
    """
    knobs = {name: check_knob(name, value, PENALTIES) for name, value in without_none(knobs).items()}
    banned_ids = () if banned_ids is None else banned_ids
    check_biases(logit_bias or {}, banned_ids)
    steps = []
    if logit_bias:
        steps.append(lambda logits, ids: bias(logits, ids, logit_bias))
    if len(banned_ids):
        steps.append(lambda logits, ids: ban(logits, ids, banned_ids))
    if n := knobs.get("no_repeat_ngram_size"):
        steps.append(lambda logits, ids: no_repeat_ngram(logits, ids, n))
    if (shortest := knobs.get("min_new_tokens")) and len(stop_ids):
        steps.append(lambda logits, ids: ban(logits, ids, stop_ids) if len(ids) < n_prompt + shortest else logits)
    if (theta := knobs.get("repetition_penalty", 1)) != 1:
        steps.append(lambda logits, ids: repetition_penalty(logits, ids, theta))
    if presence := knobs.get("presence_penalty"):
        steps.append(lambda logits, ids: presence_penalty(logits, ids[n_prompt:], presence))
    if frequency := knobs.get("frequency_penalty"):
        steps.append(lambda logits, ids: frequency_penalty(logits, ids[n_prompt:], frequency))
    if not steps:
        return None
    return lambda logits, ids: functools.reduce(lambda changed, step: step(changed, ids), steps, logits)


def check_biases(logit_bias, banned_ids):
    """Raise ValueError unless these are token ids and valid biases."""
    for token in (*logit_bias, *banned_ids):
        is_whole = isinstance(token, Integral) and not isinstance(token, bool)
        if not is_whole or not 0 <= token <= MAX_ID:
            rule = f"ids in logit_bias and banned_ids are whole numbers from 0 to {MAX_ID}"
            raise ValueError(f"{reprlib.repr(token)} is not a token id; {rule}")
    for token, number in logit_bias.items():
        is_number = isinstance(number, Real) and not isinstance(number, bool)
        if not is_number or not (-100 <= number <= 100 or number == -math.inf):
            rule = "a number from -100 to 100, or -inf to ban it"
            raise ValueError(f"logit_bias of token {token} is {reprlib.repr(number)}; it must be {rule}")


# ---- the functions of picoGPT tutorials, whose rng comes last; errors as make_sampler ----------------------------


def temperature_sampling(logits: np.ndarray, temperature: float = 1.0, rng=None) -> int:
    """Draw an id from logits [n_vocab] at this temperature.

    >>> temperature_sampling(np.array([1.0, 2.0, 3.0, 4.0]), temperature=0)
    3
    >>> sampler = lambda logits, rng: temperature_sampling(logits, 0.5, rng)  # generate(..., sampler=sampler)
    """
    return make_sampler("temperature", temperature=temperature)(logits, rng)


def top_k_sampling(logits: np.ndarray, top_k: int = 50, rng=None) -> int:
    """Draw an id from the `top_k` likeliest tokens of logits [n_vocab].

    >>> sampler = lambda logits, rng: top_k_sampling(logits, 2, rng)  # generate(..., sampler=sampler)
    """
    return make_sampler("top_k", top_k=top_k)(logits, rng)


def top_p_sampling(logits: np.ndarray, top_p: float = 0.9, rng=None) -> int:
    """Draw an id from the nucleus of logits [n_vocab] with probability `top_p`.

    >>> sampler = lambda logits, rng: top_p_sampling(logits, 0.9, rng)  # generate(..., sampler=sampler)
    """
    return make_sampler("top_p", top_p=top_p)(logits, rng)


def sample_from_logits(
    logits: np.ndarray, strategy: str = "greedy", temperature: float = 1.0, top_p: float = 0.9, rng=None
) -> int:
    """Draw an id by the name of a strategy. It uses `temperature` and `top_p` only if its name mentions them.

    >>> sampler = lambda logits, rng: sample_from_logits(logits, "top_p", top_p=0.9, rng=rng)  # for generate
    """
    check_strategy(strategy, {})
    values = {"temperature": temperature, "top_p": top_p}
    knobs = {name: values[name] for name in STRATEGIES[strategy] if name in values}
    return make_sampler(strategy, **knobs)(logits, rng)
