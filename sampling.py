"""From logits to one token id: every strategy, what they share, and what they do at the edges.

Three contracts, and the model knows nothing of them:

    processor  (logits, ids) -> logits    history: penalties for what was said, bans, biases
    filter     (logits, knob) -> kept     truncation: the positions that stay in the race, ascending
    sampler    (logits, rng) -> id        the choice: logits [n_vocab], a numpy Generator, back comes a Python int

    >>> import numpy as np
    >>> logits = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])  # "every effort moves you" ...
    >>> words = "closer every effort forward inches moves pizza toward you".split()
    >>> words[greedy(logits)]
    'forward'
    >>> sampler = make_sampler("temperature_top_p", temperature=0.7, top_p=0.9)
    >>> rng = np.random.default_rng(42)
    >>> [words[sampler(logits, rng)] for _ in range(5)]
    ['toward', 'forward', 'toward', 'toward', 'forward']

What is asked for together happens in this order, whatever the order it was asked for in:

    biases and bans -> penalties -> temperature -> top_k -> top_p -> min_p -> typical_p -> softmax or entmax -> one draw

Each filter sees the distribution that the one before it left. The rules at the edges:

- The nucleus of top_p keeps the token that crosses p, and stops exactly at p. top_k keeps exactly k.
- Equal logits rank lowest id first, everywhere. So temperature 0, top_k 1 and top_p 0 are greedy, always.
- Every filter keeps at least one token. A draw takes exactly one uniform number, and never gives a token of
  probability zero. NaN is never sampled: it is an error, as is a vocabulary with every token banned.
- Probabilities are float64: 50,257 float32 terms do not add up to one.

Where others do otherwise is in a table in README.md. The words and logits of the examples are from Sebastian Raschka,
"Build a Large Language Model (From Scratch)", chapter 5.
"""

import difflib
import functools
import math
import numbers

import numpy as np

GREEDY_BELOW = 1e-5  # a temperature below this is greedy, as in vLLM: dividing by it leaves one token anyway

# What each strategy uses, with the value of a knob that is not given. Temperature and the filters go with any of them
# but greedy; the knobs of entmax and mirostat are theirs alone.
STRATEGIES = {
    "greedy": {},
    "temperature": {"temperature": 1.0},
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.9},
    "temperature_top_k": {"temperature": 1.0, "top_k": 50},
    "temperature_top_p": {"temperature": 1.0, "top_p": 0.9},
    "min_p": {"min_p": 0.05},
    "typical": {"typical_p": 0.95},
    "entmax": {"entmax_alpha": 1.3},
    "mirostat": {"mirostat_tau": 5.0, "mirostat_eta": 0.1},
}
OWNERS = {"entmax_alpha": "entmax", "mirostat_tau": "mirostat", "mirostat_eta": "mirostat"}

# Starting points by purpose, after a widely read guide to temperature and top_p; what is given beside one overrides it.
PRESETS = {
    "code_generation": {"temperature": 0.2, "top_p": 0.1},
    "creative_writing": {"temperature": 0.7, "top_p": 0.8},
    "chatbot": {"temperature": 0.5, "top_p": 0.5},
    "code_comments": {"temperature": 0.3, "top_p": 0.2},
    "data_analysis": {"temperature": 0.2, "top_p": 0.1},
    "exploratory_code": {"temperature": 0.6, "top_p": 0.7},
}

# The knobs: type, test and the rule in words. NaN fails every comparison, and so every test.
KNOBS = {
    "temperature": (numbers.Real, lambda t: 0 <= t < math.inf, "a number from 0 (greedy) upwards, such as 0.8"),
    "top_k": (numbers.Integral, lambda k: k >= 0, "a whole number, such as 50, or 0 for all tokens"),
    "top_p": (numbers.Real, lambda p: 0 <= p <= 1, "a number from 0 to 1, such as 0.9"),
    "min_p": (numbers.Real, lambda p: 0 <= p <= 1, "a number from 0 to 1, such as 0.05"),
    "typical_p": (numbers.Real, lambda p: 0 <= p <= 1, "a number from 0 to 1, such as 0.95"),
    "entmax_alpha": (numbers.Real, lambda a: 1 <= a <= 2, "a number from 1 (softmax) to 2 (sparsemax), such as 1.3"),
    "mirostat_tau": (numbers.Real, lambda t: 0 <= t < math.inf, "a number of bits from 0 upwards, such as 5"),
    "mirostat_eta": (numbers.Real, lambda e: 0 <= e <= 1, "a number from 0 to 1, such as 0.1"),
}
PENALTIES = {
    "repetition_penalty": (numbers.Real, lambda r: 0 < r <= 100, "a number above 0 and up to 100; 1 is none"),
    "presence_penalty": (numbers.Real, lambda p: -100 <= p <= 100, "a number from -100 to 100; 0 is none"),
    "frequency_penalty": (numbers.Real, lambda p: -100 <= p <= 100, "a number from -100 to 100; 0 is none"),
    "no_repeat_ngram_size": (numbers.Integral, lambda n: n >= 0, "a whole number, such as 3; 0 is none"),
    "min_new_tokens": (numbers.Integral, lambda n: n >= 0, "a whole number, such as 20; 0 is none"),
}


# ---- the distribution ------------------------------------------------------------------------------------------


def softmax_with_temperature(logits, temperature=1.0):
    """Probabilities exp(x / T) / sum(exp(x / T)): float64 [n_vocab] from logits [n_vocab].

    T below 1 sharpens, above 1 flattens; below 1e-5 all is on the greedy token.
    Raises ValueError if a logit is NaN or +inf, if all are -inf, or if there is no such temperature.

    >>> softmax_with_temperature(np.array([1.0, 2.0, 3.0, 4.0]), 0.5).round(6).tolist()
    [0.002144, 0.015842, 0.117059, 0.864955]
    """
    if check_knob("temperature", temperature, KNOBS) < GREEDY_BELOW:
        return np.eye(1, len(logits), greedy(logits))[0]
    return softmax(scale(logits, temperature))


def scale(logits, temperature=1.0):
    """(x - max x) / T in float64. The maximum goes first, or a small T would overflow; softmax does not miss it."""
    scaled = np.subtract(logits, check_finite(np.max(logits)), dtype=np.float64)
    if temperature != 1:
        scaled /= min(float(temperature), 1e100)  # hotter is no flatter, but would make small differences ties
    return scaled


def softmax(scaled):
    """Probabilities, float64, from what `scale` gives."""
    probs = np.exp(scaled)
    probs /= probs.sum()
    return probs


def check_finite(largest):
    """The largest logit, unless it is no number: then there is nothing to choose between, and ValueError."""
    if math.isfinite(largest):
        return float(largest)
    if largest == -math.inf:
        raise ValueError("every token is banned: all logits are -inf")
    raise ValueError(
        f"the largest logit is {largest}: the output of the model is not usable, its weights may be damaged"
    )


def entmax(logits, alpha=1.3):
    """Probabilities that are exactly zero for all but the likelier tokens: float64 [n_vocab].

    p_i = max(0, (alpha - 1) x_i - tau) ^ (1 / (alpha - 1)), with the tau that makes them add up to one. The closer
    alpha, 1 to 2, is to 2, the fewer survive: 1 is softmax, 2 is sparsemax. Only logits within 1 / (alpha - 1) of the
    largest can. Source: Peters et al. 2019, "Sparse Sequence-to-Sequence Models"; alpha 1.3 is GPT-Neo's default.

    >>> entmax(np.array([2.0, 1.0, 0.1, 0.0]), 1.5).round(6).tolist()
    [0.830719, 0.169281, 0.0, 0.0]
    """
    x = scale(logits)
    if check_knob("entmax_alpha", alpha, KNOBS) - 1 < 1e-6:  # the limit, which the power below cannot reach
        return softmax(x)
    x *= alpha - 1
    power = 1 / (alpha - 1)
    # The norm (sum z ^ power) ^ (1 / power) of z = max(0, x - tau) must be one. It is convex in tau and nearly a
    # straight line, so Newton's method, from the left end, where it is one or more, arrives in a few steps.
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


# ---- filters: logits and a knob -> the positions that are kept, ascending --------------------------------------


def keep_top_k(logits, k):
    """Exactly the `k` largest; all if k is 0, or n_vocab or more.

    Source: Fan et al. 2018, "Hierarchical Neural Story Generation".

    >>> keep_top_k(np.array([1.0, 3.0, 3.0, 3.0, 0.0]), 2).tolist()
    [1, 2]
    """
    if k == 0 or k >= len(logits):
        return all_ids(len(logits))
    return keep_best(logits, k, np.partition(logits, -k)[-k])


def keep_top_p(logits, p):
    """The nucleus: the fewest, likeliest first, whose probabilities add up to `p` or more; all if p is 1.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration". The token that crosses p belongs
    to it. (GPT-2's own code and several tutorials drop that token.)

    >>> keep_top_p(np.log([0.125, 0.5, 0.25, 0.125]), 0.75).tolist()
    [1, 2]
    """
    if p >= 1:
        return all_ids(len(logits))
    x = scale(logits)
    total = np.exp(x).sum()
    # When the nucleus is complete, less than 1 - p is left for the others. So no token outside the first that has less
    # than an even part of 1 - p is in it, and setting those aside before the sort changes nothing and saves most
    # of the work. Half of that part leaves a margin for rounding.
    ranked = x[x >= math.log(total * 0.5 * (1 - p) / len(x))]
    ranked[::-1].sort()  # the values alone, descending: several times faster than an argsort; the ids come last
    sums = np.exp(ranked)
    sums /= total
    np.cumsum(sums, out=sums)
    n_kept = min(np.searchsorted(sums, p) + 1, len(ranked))  # the sums below p, and the one that crosses
    return keep_best(x, n_kept, ranked[n_kept - 1])


def keep_best(logits, n, nth):
    """The `n` largest, given the n-th of them; of those equal to it, the lowest ids."""
    keep = logits > nth
    tied = np.flatnonzero(logits == nth)
    keep[tied[: n - np.count_nonzero(keep)]] = True
    return np.flatnonzero(keep)


def keep_min_p(logits, p):
    """Those at least `p` times as likely as the likeliest; all if p is 0.

    Source: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs".

    >>> keep_min_p(np.log([0.5, 0.3, 0.15, 0.05]), 0.25).tolist()
    [0, 1, 2]
    """
    if p == 0:
        return all_ids(len(logits))
    return np.flatnonzero(logits >= np.max(logits) + math.log(p))


def keep_typical(logits, mass):
    """The fewest whose surprise, -ln p, is nearest to the entropy, with probabilities that add up to `mass`; all if 1.

    Source: Meister et al. 2023, "Locally Typical Sampling". The likeliest token may be left out: it can be
    surprisingly unsurprising.

    >>> keep_typical(np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]), 0.3).tolist()
    [7]
    """
    if mass >= 1:
        return all_ids(len(logits))
    x = np.maximum(scale(logits), -1e300)  # banned tokens are at -inf, which times 0 is NaN
    probs = np.exp(x)
    total = probs.sum()
    probs /= total
    mean = probs @ x
    entropy = math.log(total) - mean
    distance = np.abs(np.subtract(x, mean, out=x), out=x)  # of -ln p from the entropy: log(total) cancels
    # A sort of the whole vocabulary would be slow. So the tokens go into buckets by distance, and only the bucket in
    # which the mass is reached is sorted: the nearer ones are kept, the further ones are not, whatever their order.
    bucket = np.minimum(distance * (1000 / (2 * entropy + 10)), 1000).astype(np.intp)
    sums = np.cumsum(np.bincount(bucket, weights=probs))
    crossing = min(np.searchsorted(sums, max(mass, 1e-300)), len(sums) - 1)
    keep, last = bucket < crossing, np.flatnonzero(bucket == crossing)
    missing = mass - (sums[crossing - 1] if crossing else 0.0)
    keep[last[nearest(distance[last], probs[last], missing)]] = True
    return np.flatnonzero(keep)


def nearest(distance, probs, mass):
    """The fewest of the least distance that have probability `mass`; of equal distances, the lowest ids first."""
    order = np.argsort(distance, kind="stable")
    return order[: np.searchsorted(np.cumsum(probs[order]), mass) + 1]


@functools.lru_cache(maxsize=4)
def all_ids(n_vocab):
    """0, 1, 2, ..., made once and read-only."""
    ids = np.arange(n_vocab)
    ids.flags.writeable = False
    return ids


FILTERS = {"top_k": keep_top_k, "top_p": keep_top_p, "min_p": keep_min_p, "typical_p": keep_typical}  # in this order


def candidates(logits, temperature=1.0, **knobs):
    """What the temperature and the filters leave: ids, ascending, and their logits as of `scale`; [n_kept] each."""
    if temperature < GREEDY_BELOW:
        return np.array([greedy(logits)]), np.zeros(1)
    ids, x = all_ids(len(logits)), scale(logits, temperature)
    for name, keep in FILTERS.items():
        if knobs.get(name) is not None:
            kept = keep(x, knobs[name])
            ids, x = ids[kept], x[kept]
            x -= x.max()  # typical_p may have left out the likeliest
    return ids, x


def distribution(logits, *, entmax_alpha=1.0, **knobs):
    """The probabilities that a token is drawn with: float64 [n_vocab]. The knobs are those of `make_sampler`.

    >>> distribution(np.array([1.0, 2.0, 3.0, 4.0]), temperature=2.0, top_k=2).round(6).tolist()
    [0.0, 0.0, 0.377541, 0.622459]
    """
    ids, x = candidates(logits, **knobs)
    probs = np.zeros(len(logits))
    probs[ids] = entmax(x, entmax_alpha)
    return probs


# ---- samplers --------------------------------------------------------------------------------------------------


def greedy(logits, rng=None):
    """The likeliest token; of several, the lowest id. Nothing is drawn. Raises ValueError as softmax does."""
    best = int(np.argmax(logits))  # of a NaN, if there is one
    check_finite(logits[best])
    return best


def sample_categorical(probs, rng=None):
    """Draw an id from `probs` [n_vocab]: the first whose cumulative probability exceeds one uniform number.

    The sum need not be exactly one. Source: inverse transform sampling, as in GPT-Neo's function of this name, which
    returns id 0 when rounding leaves the last sum below that number.

    >>> sample_categorical([0.0, 0.25, 0.75], np.random.default_rng(0))  # the uniform number is 0.637
    2
    """
    rng = rng or np.random.default_rng()
    cdf = np.cumsum(probs, dtype=np.float64)
    if not (len(cdf) and 0 < cdf[-1] < math.inf):
        raise ValueError(f"the probabilities add up to {sum(cdf[-1:])}: there is nothing to draw from")
    # "right" skips ids of probability zero; scaling by the last sum instead of one never runs off the end.
    return int(np.searchsorted(cdf, rng.random() * cdf[-1], side="right"))


def sample(logits, rng=None, *, entmax_alpha=1.0, **knobs):
    """Draw one id from what the knobs leave."""
    ids, x = candidates(logits, **knobs)
    weights = np.exp(x, out=x) if entmax_alpha == 1 else entmax(x, entmax_alpha)  # softmax but for the sum
    return int(ids[sample_categorical(weights, rng)])


class Mirostat:
    """A sampler that steers the surprise of its text, in bits a token, to `mirostat_tau`: a new one for each text.

    Tokens more surprising than mu are left out; mu starts at 2 tau and moves by eta times the error after each draw.
    Source: Basu et al. 2021, "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity", in the
    simpler second version that llama.cpp made common.

    >>> sampler, rng = Mirostat(mirostat_tau=1.0), np.random.default_rng(0)
    >>> sampler(np.log([0.5, 0.25, 0.125, 0.125]), rng), round(sampler.mu, 3)  # 0 is drawn, a surprise of 0.585 bits
    (0, 2.042)
    """

    def __init__(self, mirostat_tau=5.0, mirostat_eta=0.1, **knobs):
        self.tau, self.eta, self.knobs = mirostat_tau, mirostat_eta, knobs
        self.mu = 2 * mirostat_tau

    def candidates(self, logits):
        """What can be drawn next: ids, ascending, and their probabilities; [n_kept] each."""
        ids, x = candidates(logits, **self.knobs)
        surprise = (math.log(np.exp(x).sum()) - x) / math.log(2)  # bits
        kept = np.flatnonzero(surprise <= max(self.mu, surprise.min()))
        return ids[kept], softmax(x[kept])

    def __call__(self, logits, rng=None):
        ids, probs = self.candidates(logits)
        drawn = sample_categorical(probs, rng)
        self.mu -= self.eta * (-math.log2(probs[drawn]) - self.tau)
        return int(ids[drawn])


def make_sampler(strategy=None, preset=None, **knobs):
    """A sampler `(logits, rng) -> id` from a strategy's name, a preset and knobs, all checked here, once.

    strategy: a name in STRATEGIES, a callable (returned as it is), or None: whatever the knobs say, greedy if there
    is none. preset: a name in PRESETS. A knob that is None counts as not given.
    temperature: from 0; below 1e-5 is greedy. top_k: a whole number; 0, or n_vocab and more, keeps all.
    top_p, typical_p: 0 to 1; 1 keeps all. min_p: 0 to 1; 0 keeps all. entmax_alpha: 1 (softmax) to 2 (sparsemax).
    mirostat_tau: bits. mirostat_eta: 0 to 1. Mirostat remembers what it drew: make one for each text.
    Raises ValueError, in the words of the person who set the knob.

    >>> make_sampler("top_p", top_p=1.5)
    Traceback (most recent call last):
    ValueError: top_p is 1.5; it must be a number from 0 to 1, such as 0.9
    """
    if preset is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"there is no preset {preset!r}{did_you_mean(preset, PRESETS)}")
        knobs = PRESETS[preset] | given(knobs)
    knobs = {name: check_knob(name, value, KNOBS) for name, value in given(knobs).items()}
    if callable(strategy):
        if knobs:
            raise ValueError(f"{' and '.join(knobs)} cannot be set for a sampler of your own")
        return strategy
    strategy = infer_strategy(knobs) if strategy is None else strategy
    check_strategy(strategy, knobs)
    if strategy == "greedy":
        return greedy
    settings = STRATEGIES[strategy] | knobs
    return Mirostat(**settings) if strategy == "mirostat" else functools.partial(sample, **settings)


def given(knobs):
    return {name: value for name, value in knobs.items() if value is not None}


def check_knob(name, value, table):
    """The value of a knob if it is in range, ValueError if it is not, or if there is no such knob."""
    if name not in table:
        raise ValueError(f"Unknown sampling option: {name}{did_you_mean(name, table)}")
    kind, fits, rule = table[name]
    if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
        raise ValueError(f"{name} is {value!r}; it must be {rule}")
    return value


def infer_strategy(knobs):
    """The strategy that the knobs speak of."""
    owners = {OWNERS[name] for name in knobs if name in OWNERS}
    if len(owners) > 1:
        raise ValueError(f"{' and '.join(sorted(owners))} cannot be had at once: leave out the knobs of one of them")
    return owners.pop() if owners else "temperature" if knobs else "greedy"


def check_strategy(strategy, knobs):
    """ValueError if there is no such strategy, or if it would not use one of the knobs."""
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise ValueError(f"Unknown sampling strategy: {strategy!r}{did_you_mean(strategy, STRATEGIES)}")
    for name in knobs:
        if strategy == "greedy" or OWNERS.get(name, strategy) != strategy:
            other = OWNERS.get(name, "temperature")
            raise ValueError(
                f"{name} has no effect with strategy {strategy}: leave it out, or name another, such as {other}"
            )


def did_you_mean(name, names):
    """The end of a sentence about an unknown name: the nearest known one, and all there are."""
    near = difflib.get_close_matches(str(name), names, n=1)
    return (f"; did you mean {near[0]}?" if near else ";") + f" There are: {', '.join(names)}"


# ---- one text in the making ------------------------------------------------------------------------------------


class Sample:
    """One continuation of a prompt: what chooses its next token, and what has come of it so far.

    Attributes: `ids`, the new tokens; `ended`, why there will be no more, or None. Who reads along may set `ended` too.

    >>> sample = Sample(stop_ids={2})
    >>> for logits in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]):
    ...     sample.extend(np.array(logits), prompt=[0])
    >>> sample.ids, sample.ended
    ([1], 'eos')
    """

    def __init__(self, sampler=greedy, rng=None, processor=None, stop_ids=()):
        self.sampler, self.rng, self.processor, self.stop_ids = sampler, rng, processor, stop_ids
        self.ids, self.ended = [], None

    def extend(self, logits, prompt):
        """Choose one token more from the logits [n_vocab] that follow the ids `prompt + self.ids`."""
        if self.processor is not None:
            logits = self.processor(logits, prompt + self.ids)
        token = int(self.sampler(logits, self.rng))
        if token in self.stop_ids:
            self.ended = "eos"
        else:
            self.ids.append(token)


# ---- processors: logits and the ids so far -> logits, always new ones ------------------------------------------


def repetition_penalty(logits, ids, penalty):
    """Make every token of `ids` less likely: a positive logit is divided by `penalty`, a negative one multiplied.

    Once, however often it occurred. Source: Keskar et al. 2019, "CTRL", with the care for the sign that Hugging Face
    added: dividing a negative logit would be a reward.

    >>> repetition_penalty(np.array([2.0, -2.0, 1.0]), [0, 1, 1], 2.0).tolist()
    [1.0, -4.0, 1.0]
    """
    logits, seen = np.array(logits), np.unique(check_ids(ids, len(logits)))
    logits[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
    return logits


def presence_penalty(logits, ids, penalty):
    """Subtract `penalty` from the logit of every token of `ids`, once. Source: OpenAI's API.

    >>> presence_penalty(np.array([2.0, 2.0, 1.0]), [0, 1, 1], 0.5).tolist()
    [1.5, 1.5, 1.0]
    """
    return np.asarray(logits) - penalty * np.minimum(occurrences(logits, ids), 1)


def frequency_penalty(logits, ids, penalty):
    """Subtract `penalty` from the logit of every token of `ids`, for each time it occurs. Source: OpenAI's API.

    >>> frequency_penalty(np.array([2.0, 2.0, 1.0]), [0, 1, 1], 0.5).tolist()
    [1.5, 1.0, 1.0]
    """
    return np.asarray(logits) - penalty * occurrences(logits, ids)


def occurrences(logits, ids):
    """How often each token occurs in `ids`, in the logits' own precision: [n_vocab]."""
    return np.bincount(check_ids(ids, len(logits)), minlength=len(logits)).astype(np.asarray(logits).dtype)


def check_ids(ids, n_vocab):
    """The ids as an array; ValueError if one is not in the vocabulary."""
    ids = np.array(list(ids), dtype=np.intp)
    outside = ids[(ids < 0) | (ids >= n_vocab)]
    if len(outside):
        raise ValueError(f"there is no token {outside[0]}: the ids of this model are 0 to {n_vocab - 1}")
    return ids


def no_repeat_ngram(logits, ids, size):
    """Ban every token that would complete, for a second time, a run of `size` tokens that is in `ids`.

    Source: Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization".

    >>> no_repeat_ngram(np.zeros(9), [3, 7, 0, 3], 2).tolist().index(-np.inf)  # 3 was followed by 7
    7
    """
    ids = list(ids)
    recent = ids[len(ids) - size + 1 :]
    followers = [ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == recent]
    return ban(logits, ids, followers)


def ban(logits, ids, banned):
    """Never these tokens.

    >>> ban(np.zeros(3), [], [1]).tolist()
    [0.0, -inf, 0.0]
    """
    logits = np.array(logits)
    logits[check_ids(banned, len(logits))] = -np.inf
    return logits


def bias(logits, ids, biases):
    """Add a number to the logits of some tokens: biases {id: number}; -inf bans.

    >>> bias(np.zeros(3), [], {1: 2.5}).tolist()
    [0.0, 2.5, 0.0]
    """
    logits = np.array(logits)
    logits[check_ids(biases, len(logits))] += np.array(list(biases.values()), dtype=logits.dtype)
    return logits


def make_processor(n_prompt=0, end_of_text=None, logit_bias=None, banned_ids=(), **knobs):
    """A processor `(logits, ids) -> logits` that does all that is asked for, or None if nothing is.

    n_prompt: how many of `ids` are the prompt. As in vLLM, repetition and n-grams count in the prompt and the new
    tokens, presence and frequency in the new tokens alone.
    end_of_text: the id that min_new_tokens bans until so many tokens are new. logit_bias: {id: number}.
    repetition_penalty, presence_penalty, frequency_penalty, no_repeat_ngram_size: see the functions.
    Raises ValueError, in the words of the person who set the knob.
    """
    knobs = {name: check_knob(name, value, PENALTIES) for name, value in given(knobs).items()}
    banned_ids = () if banned_ids is None else banned_ids
    check_biases(logit_bias or {}, banned_ids)
    steps = []
    if logit_bias:
        steps.append(lambda logits, ids: bias(logits, ids, logit_bias))
    if len(banned_ids):
        steps.append(lambda logits, ids: ban(logits, ids, banned_ids))
    if n := knobs.get("no_repeat_ngram_size"):
        steps.append(lambda logits, ids: no_repeat_ngram(logits, ids, n))
    if (shortest := knobs.get("min_new_tokens")) and end_of_text is not None:
        steps.append(lambda logits, ids: ban(logits, ids, [end_of_text]) if len(ids) < n_prompt + shortest else logits)
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
    """ValueError unless these are token ids, and numbers to add."""
    for token in (*logit_bias, *banned_ids):
        if isinstance(token, bool) or not isinstance(token, numbers.Integral) or token < 0:
            raise ValueError(
                f"{token!r} is not a token id; logit_bias and banned_ids take whole numbers from 0 upwards"
            )
    for token, number in logit_bias.items():
        is_number = isinstance(number, numbers.Real) and not isinstance(number, bool)
        if not is_number or not (-100 <= number <= 100 or number == -math.inf):
            raise ValueError(
                f"logit_bias of token {token} is {number!r}; it must be a number from -100 to 100, or -inf to ban it"
            )


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
    check_strategy(strategy, {})
    values = {"temperature": temperature, "top_p": top_p}
    return make_sampler(strategy, **{name: values[name] for name in STRATEGIES[strategy] if name in values})(
        logits, rng
    )
