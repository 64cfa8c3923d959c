"""sampling.py: the published numbers, the edges, and the frequencies of what is drawn."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sampling
from sampling import (
    STRATEGIES,
    distribution,
    greedy,
    keep_top_k,
    keep_top_p,
    make_sampler,
    sample_categorical,
    sample_from_logits,
    softmax_with_temperature,
    temperature_sampling,
    top_k_sampling,
    top_p_sampling,
)

VECTORS = json.loads(Path(__file__).with_name("sampling_vectors.json").read_text(encoding="utf-8"))
LOGITS = np.array(VECTORS["logits"])
TIES = np.array(VECTORS["ties"]["logits"], dtype=np.float32)


class Fixed:
    """A generator of given uniform numbers, which notes how many were taken."""

    def __init__(self, *numbers):
        self.numbers, self.taken = numbers, 0

    def random(self):
        self.taken += 1
        return self.numbers[(self.taken - 1) % len(self.numbers)]


def kept(logits):
    return np.flatnonzero(logits > -np.inf).tolist()


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


# ---- published vectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "probs"), VECTORS["softmax_T"].items())
def test_probabilities_at_a_temperature_are_the_published_ones(temperature, probs):
    close(softmax_with_temperature(LOGITS, float(temperature)), probs)
    close(distribution(LOGITS, temperature=float(temperature)), probs)


@pytest.mark.parametrize("temperature", ["0.1", "0.5", "1.0", "2.0"])
def test_the_article_s_four_logits_give_the_published_probabilities(temperature):
    close(distribution(np.array([1, 2, 3, 4]), float(temperature)), VECTORS["seed000_test_logits"][temperature])


@pytest.mark.parametrize(("k", "expected"), VECTORS["top_k"].items())
def test_top_k_keeps_the_published_tokens(k, expected):
    assert kept(keep_top_k(LOGITS, int(k))) == expected["kept"]
    close(distribution(LOGITS, top_k=int(k)), expected["probs"])


@pytest.mark.parametrize(("p", "expected"), VECTORS["top_p"].items())
def test_top_p_keeps_the_published_tokens(p, expected):
    assert kept(keep_top_p(LOGITS, float(p))) == sorted(expected["kept_desc"])
    close(distribution(LOGITS, top_p=float(p)), expected["probs"])


@pytest.mark.parametrize(("knobs", "expected"), VECTORS["temp_then_top_p"].items())
def test_temperature_comes_before_top_p(knobs, expected):
    t, p = (float(knob.split("=")[1]) for knob in knobs.split(","))
    close(distribution(LOGITS, temperature=t, top_p=p), expected["probs"])


@pytest.mark.parametrize("preset", VECTORS["presets_seed004"].values())
def test_the_presets_of_the_guide_keep_the_published_tokens(preset):
    probs = distribution(LOGITS, temperature=preset["T"], top_p=preset["top_p"])
    assert np.flatnonzero(probs).tolist() == sorted(preset["kept_desc"])


def test_the_nucleus_stops_exactly_at_p():
    dyadic = VECTORS["dyadic_boundary"]
    for knob, expected in dyadic.items():
        if knob != "probs":
            assert kept(keep_top_p(np.log(dyadic["probs"]), float(knob.split("=")[1]))) == expected


def test_draws_are_the_published_ids():
    vector = VECTORS["inverse_cdf_numpy_default_rng"]
    rng = np.random.default_rng(vector["seed"])
    assert [temperature_sampling(LOGITS, rng=rng) for _ in range(10)] == vector["ids"]


@pytest.mark.parametrize(("temperature", "counts"), VECTORS["counts_1000_seed123"].items())
def test_a_thousand_draws_fall_as_published(temperature, counts):
    rng, sampler = np.random.default_rng(123), make_sampler("temperature", temperature=float(temperature))
    drawn = Counter(sampler(LOGITS, rng) for _ in range(1000))
    assert [drawn[i] for i in range(9)] == counts


def test_draws_equal_those_of_numpy_choice():
    ours, theirs = np.random.default_rng(5), np.random.default_rng(5)
    probs = np.random.default_rng(6).dirichlet(np.ones(1000))
    assert [sample_categorical(probs, ours) for _ in range(50)] == [theirs.choice(1000, p=probs) for _ in range(50)]


# ---- ties, and what is greedy ----------------------------------------------------------------------------------


def test_equal_logits_rank_lowest_id_first():
    assert greedy(TIES) == VECTORS["ties"]["greedy"]
    for k in (1, 2):
        assert kept(keep_top_k(TIES, k)) == VECTORS["ties"][f"top_k={k}"]
    for p in (0.5, 0.01):
        assert kept(keep_top_p(TIES, p)) == VECTORS["ties"][f"top_p={p}"]


@pytest.mark.parametrize(
    "knobs",
    [{"temperature": 0}, {"temperature": 1e-6}, {"temperature": 5e-324}, {"top_k": 1}, {"top_p": 0}, {"top_p": 1e-9}],
)
@given(logits=st.lists(st.sampled_from([-2.0, 0.0, 1.0, 3.0]), min_size=1, max_size=12), u=st.floats(0, 1 - 2**-53))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_the_least_knobs_are_greedy_with_ties_too(knobs, logits, u):
    logits = np.array(logits, dtype=np.float32)
    assert make_sampler(**knobs)(logits, Fixed(u)) == greedy(logits)


def test_temperature_zero_is_greedy_whatever_else_is_set():
    for strategy in STRATEGIES:
        if strategy != "greedy":
            assert make_sampler(strategy, temperature=0, top_p=0.95, top_k=5)(LOGITS, Fixed(0.999)) == 3


# ---- properties ------------------------------------------------------------------------------------------------

logit_arrays = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60).map(
    lambda values: np.array(values, dtype=np.float32)
)
knob_sets = st.fixed_dictionaries(
    {}, optional={"temperature": st.floats(0.05, 5), "top_k": st.integers(1, 70), "top_p": st.floats(0, 1)}
)


@given(logits=logit_arrays, knobs=knob_sets, u=st.floats(0, 1 - 2**-53))
@settings(derandomize=True, deadline=None)
def test_what_is_drawn_was_kept_and_the_input_is_unharmed(logits, knobs, u):
    before, rng = logits.copy(), Fixed(u)
    probs = distribution(logits, **knobs)
    token = make_sampler("temperature", **knobs)(logits, rng)
    assert abs(probs.sum() - 1) < 1e-9
    assert probs.dtype == np.float64
    assert type(token) is int and probs[token] > 0
    assert rng.taken == 1
    assert np.array_equal(logits, before)


@given(logits=logit_arrays, p=st.floats(0, 0.999999))
@settings(derandomize=True, deadline=None)
def test_the_nucleus_is_the_shortest_prefix_with_mass_p(logits, p):
    probs = softmax_with_temperature(logits)
    order = np.argsort(-logits, kind="stable")
    mass_before = np.concatenate([[0], np.cumsum(probs[order])[:-1]])
    naive = [i for i, before in zip(order, mass_before, strict=True) if before < p] or [order[0]]
    assert kept(keep_top_p(logits, p)) == sorted(naive)


@given(logits=logit_arrays, k=st.integers(1, 70))
@settings(derandomize=True, deadline=None)
def test_top_k_keeps_exactly_k(logits, k):
    assert kept(keep_top_k(logits, k)) == sorted(np.argsort(-logits, kind="stable")[:k].tolist())


@given(logits=logit_arrays, knobs=knob_sets)
@settings(derandomize=True, deadline=None)
def test_adding_a_constant_to_the_logits_changes_nothing(logits, knobs):
    shifted = np.round(logits.astype(np.float64) * 4) / 4  # so that adding is exact
    close(distribution(shifted, **knobs), distribution(shifted + 8, **knobs))


def test_a_full_vocabulary_has_the_same_nucleus_with_and_without_the_crop():
    logits = np.random.default_rng(0).normal(0, 3, 50257).astype(np.float32)
    probs = softmax_with_temperature(logits)
    order = np.argsort(-logits, kind="stable")
    for p in (0.1, 0.9, 0.99, 0.9999):
        n = np.searchsorted(np.cumsum(probs[order]), p) + 1
        assert kept(keep_top_p(logits, p)) == sorted(order[:n].tolist())


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "greedy"])
def test_frequencies_of_100_000_draws_fit_the_distribution(strategy):
    sampler, rng = make_sampler(strategy, temperature=2.0), np.random.default_rng(7)
    probs = distribution(LOGITS, **STRATEGIES[strategy] | {"temperature": 2.0})
    counts = np.bincount([sampler(LOGITS, rng) for _ in range(100_000)], minlength=9)
    assert counts[probs == 0].sum() == 0
    expected = 100_000 * probs[probs > 0]
    chi_square = ((counts[probs > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 30  # with 8 degrees of freedom or fewer, a right sampler exceeds it once in 5,000 seeds


# ---- edges -----------------------------------------------------------------------------------------------------


def test_u_of_zero_never_draws_a_token_without_probability():
    assert sample_categorical([0.0, 0.0, 0.5, 0.5], Fixed(0.0)) == 2


@given(probs=st.lists(st.floats(0, 1), min_size=1, max_size=20).filter(lambda p: sum(p) > 1e-300))
@settings(derandomize=True, deadline=None)
def test_u_close_to_one_never_runs_off_the_end(probs):
    token = sample_categorical(probs, Fixed(1 - 2**-53))
    assert probs[token] > 0


def test_a_sum_that_is_not_quite_one_is_no_error():
    probs = softmax_with_temperature(np.random.default_rng(0).normal(0, 2.5, 50257)).astype(np.float32) * 0.999
    assert 0 <= sample_categorical(probs, Fixed(1 - 2**-53)) < 50257


@pytest.mark.parametrize("scale", [1e30, 1e-300])
def test_extreme_logits_give_no_warning_and_sum_to_one(scale):
    assert distribution(LOGITS * scale, temperature=1e-4, top_p=0.9).sum() == pytest.approx(1)


def test_a_vocabulary_of_one_always_gives_its_token():
    for strategy in STRATEGIES:
        assert make_sampler(strategy)(np.array([-3.0]), Fixed(0.5)) == 0


def test_more_than_the_vocabulary_or_zero_keeps_every_token():
    for k in (0, 9, 10, 10**9):
        assert kept(keep_top_k(LOGITS, k)) == list(range(9))


def test_fewer_candidates_than_k_are_fine():
    logits = np.array([1.0, -np.inf, 2.0, -np.inf])
    assert np.flatnonzero(distribution(logits, top_k=3)).tolist() == [0, 2]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_never_sampled(strategy, bad):
    with pytest.raises(ValueError, match=f"the largest logit is {bad}"):
        make_sampler(strategy)(np.array([1.0, bad, 2.0]), Fixed(0.5))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_vocabulary_with_every_token_banned_is_an_error(strategy):
    with pytest.raises(ValueError, match="every token is banned"):
        make_sampler(strategy)(np.full(5, -np.inf), Fixed(0.5))


# ---- make_sampler ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "knobs", "message"),
    [
        (None, {"temperature": -0.1}, "temperature is -0.1; it must be a number from 0"),
        (None, {"temperature": math.nan}, "temperature is nan"),
        (None, {"temperature": math.inf}, "temperature is inf"),
        (None, {"temperature": "warm"}, "temperature is 'warm'"),
        (None, {"temperature": True}, "temperature is True"),
        (None, {"top_k": -1}, "top_k is -1; it must be a whole number"),
        (None, {"top_k": 2.5}, "top_k is 2.5"),
        (None, {"top_p": 1.01}, "top_p is 1.01; it must be a number from 0 to 1"),
        (None, {"top_p": -0.01}, "top_p is -0.01"),
        (None, {"top_q": 0.5}, r"Unknown sampling option: top_q; did you mean top_\w\?"),
        ("top_p", {"top_p": (0.9,)}, r"top_p is \(0.9,\)"),
        ("topp", {}, r"Unknown sampling strategy: 'topp'; did you mean top_p\? There are: greedy, "),
        (5, {}, "Unknown sampling strategy: 5; There are"),
        ("greedy", {"temperature": 0.5, "top_p": 0.9}, "temperature and top_p cannot be set with strategy greedy"),
        (greedy, {"temperature": 0.5}, "temperature cannot be set for a sampler of your own"),
    ],
)
def test_a_wrong_request_is_refused_in_the_words_of_the_user(strategy, knobs, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(strategy, **knobs)


def test_without_a_name_the_knobs_say_what_the_strategy_is():
    assert make_sampler() is greedy
    assert make_sampler(temperature=None, top_p=None) is greedy
    assert make_sampler(temperature=5.0)(LOGITS, Fixed(0.0)) == 0  # greedy and the truncations would say 3
    assert make_sampler(top_k=2)(LOGITS, Fixed(0.0)) == 3
    assert make_sampler(top_p=0.95)(LOGITS, Fixed(0.0)) == 0


def test_a_named_strategy_has_its_default_knobs_and_takes_others():
    assert make_sampler("top_p")(LOGITS, Fixed(0.0)) == 3  # 0.9 keeps 3 and 7
    assert make_sampler("temperature")(LOGITS, Fixed(0.0)) == 0
    assert make_sampler("temperature", top_p=0.9)(LOGITS, Fixed(0.0)) == 3
    assert make_sampler("top_p", temperature=2.0)(LOGITS, Fixed(0.0)) == 0  # flatter, so 0 is in the nucleus


def test_a_sampler_of_one_s_own_is_taken_as_it_is():
    def last(logits, rng):
        return len(logits) - 1

    assert make_sampler(last) is last


# ---- the articles' call shapes ---------------------------------------------------------------------------------


def test_the_articles_functions_take_their_articles_arguments():
    calls = [
        lambda rng: temperature_sampling(LOGITS, 0.8, rng=rng),
        lambda rng: top_p_sampling(LOGITS, 0.9, rng=rng),
        lambda rng: top_k_sampling(LOGITS, 3, rng=rng),
        lambda rng: sample_from_logits(LOGITS, "temperature_top_p", 0.7, 0.95, rng=rng),
        lambda rng: sample_categorical(softmax_with_temperature(LOGITS, 0.8), rng),
    ]
    for call in calls:
        assert type(call(np.random.default_rng(0))) is int
        assert call(np.random.default_rng(0)) == call(np.random.default_rng(0))
        assert call(None) in range(9)
    assert sample_from_logits(LOGITS) == 3


def test_sample_from_logits_uses_only_the_knobs_its_strategy_names():
    assert sample_from_logits(LOGITS, "top_p", temperature=9.0, top_p=0.5, rng=Fixed(0.999)) == 3
    assert sample_from_logits(LOGITS, "temperature", temperature=1.0, top_p=0.0, rng=Fixed(0.0)) == 0
    with pytest.raises(ValueError, match="Unknown sampling strategy: 'best'"):
        sample_from_logits(LOGITS, "best")


def test_every_strategy_only_names_knobs_that_exist():
    assert {knob for knobs in STRATEGIES.values() for knob in knobs} <= set(sampling.KNOBS)


# The first article's own experiment, as a script: python tests/test_sampling.py
def draw_a_thousand(temperature):
    rng = np.random.default_rng(0)
    counts = Counter(temperature_sampling(np.array([1.0, 2.0, 3.0, 4.0]), temperature, rng) for _ in range(1000))
    return {i: counts[i] for i in range(4)}


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.0])
def test_a_thousand_draws_follow_the_temperature(temperature):
    for i, count in draw_a_thousand(temperature).items():
        expected = 1000 * VECTORS["seed000_test_logits"][str(temperature)][i]
        assert abs(count - expected) <= 4 * math.sqrt(max(expected, 1))


if __name__ == "__main__":
    for temperature in (0.1, 0.5, 1.0, 2.0):
        print(f"Temperature={temperature}: {draw_a_thousand(temperature)}")
