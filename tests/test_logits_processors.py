"""Test the logits processors of sampling.py, alone and in gpt2.generate."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2 import generate
from random_gpt2 import HPARAMS, random_params
from sampling import (
    PENALTIES,
    ban,
    bias,
    frequency_penalty,
    make_logits_processor,
    make_sampler,
    no_repeat_ngram,
    presence_penalty,
    repetition_penalty,
)

deterministic = settings(derandomize=True, deadline=None, max_examples=100, database=None)
INF = math.inf

# name -> a step with a typical value of its knob
STEPS = {
    "repetition_penalty": lambda logits, ids: repetition_penalty(logits, ids, 1.5),
    "presence_penalty": lambda logits, ids: presence_penalty(logits, ids, 0.5),
    "frequency_penalty": lambda logits, ids: frequency_penalty(logits, ids, 0.5),
    "no_repeat_ngram": lambda logits, ids: no_repeat_ngram(logits, ids, 2),
    "ban": lambda logits, ids: ban(logits, ids, [0, 2]),
    "bias": lambda logits, ids: bias(logits, ids, {0: 1.5, 1: -INF}),
    "all": make_logits_processor(
        n_prompt=1,
        stop_ids=(2,),
        logit_bias={0: 1.5, 1: -INF},
        banned_ids=[0],
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        no_repeat_ngram_size=2,
        min_new_tokens=3,
    ),
}


# ---- small tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "penalty", "expected"),
    [
        ([0], 2.0, [2.0, 2.0, -2.0, 0.0]),  # positive: divided
        ([2], 2.0, [4.0, 2.0, -4.0, 0.0]),  # negative: multiplied
        ([3], 2.0, [4.0, 2.0, -2.0, 0.0]),  # zero: the same either way
        ([0, 0, 0], 2.0, [2.0, 2.0, -2.0, 0.0]),  # once for any number of occurrences
        ([0, 1, 2], 0.5, [8.0, 4.0, -1.0, 0.0]),  # below 1: a reward
        ([], 2.0, [4.0, 2.0, -2.0, 0.0]),
    ],
)
def test_repetition_penalty_divides_positive_logits_and_multiplies_negative_ones(ids, penalty, expected):
    assert repetition_penalty(np.array([4.0, 2.0, -2.0, 0.0]), ids, penalty).tolist() == expected


@pytest.mark.parametrize(
    ("ids", "presence", "frequency"),
    [
        ([], [4.0, 2.0, -2.0], [4.0, 2.0, -2.0]),
        ([1], [4.0, 1.5, -2.0], [4.0, 1.5, -2.0]),
        ([1, 1, 2, 1], [4.0, 1.5, -2.5], [4.0, 0.5, -2.5]),
    ],
)
def test_presence_penalty_counts_a_token_once_and_frequency_penalty_every_time(ids, presence, frequency):
    logits = np.array([4.0, 2.0, -2.0])
    assert presence_penalty(logits, ids, 0.5).tolist() == presence
    assert frequency_penalty(logits, ids, 0.5).tolist() == frequency
    assert (presence_penalty(logits, ids, -0.5) - logits == logits - presence).all()  # a negative penalty is a reward


@pytest.mark.parametrize(
    ("ids", "size", "banned"),
    [
        ([3, 7, 0, 3], 2, [7]),
        ([3, 7, 0, 3, 7], 3, [0]),
        ([3, 7], 1, [3, 7]),
        ([], 1, []),
        ([], 2, []),
        ([3], 2, []),  # no pair yet
        ([3, 3], 2, [3]),  # 3 has followed 3
        ([3, 3], 3, []),
        ([3, 3, 3], 3, [3]),
        ([3, 4, 3, 5, 3, 4, 3], 2, [4, 5]),
        ([1, 2, 3, 1, 2, 4, 1, 2], 3, [3, 4]),
        ([1, 2, 3, 1, 2], 4, []),
        ([1, 2], 99, []),
    ],
)
def test_no_repeat_ngram_bans_the_tokens_that_would_repeat_a_sequence(ids, size, banned):
    for history in (ids, np.array(ids, dtype=np.int64)):
        assert np.flatnonzero(no_repeat_ngram(np.zeros(9), history, size) == -INF).tolist() == banned


@given(ids=st.lists(st.integers(0, 3), max_size=30), size=st.integers(1, 5))
@deterministic
def test_no_repeat_ngram_bans_a_token_if_and_only_if_it_would_repeat_a_sequence(ids, size):
    ngrams = [ids[i : i + size] for i in range(len(ids) - size + 1)]
    expected = [token for token in range(4) if len(ids) + 1 >= size and [*ids, token][-size:] in ngrams]
    assert np.flatnonzero(no_repeat_ngram(np.zeros(4), ids, size) == -INF).tolist() == expected


def test_bans_and_biases_change_only_their_own_tokens():
    logits = np.array([1.0, 2.0, 3.0])
    for banned in ([1], (1,), {1}, np.array([1]), [1, 1], {1: "any"}):
        assert ban(logits, [], banned).tolist() == [1.0, -INF, 3.0]
    assert ban(logits, [], []).tolist() == [1.0, 2.0, 3.0]
    assert bias(logits, [], {0: 0.5, 2: -INF}).tolist() == [1.5, 2.0, -INF]
    assert bias(logits, [], {}).tolist() == [1.0, 2.0, 3.0]
    assert bias(np.array([-INF, 2.0]), [], {0: 100.0}).tolist() == [-INF, 2.0]  # a bias lifts no ban


# ---- properties of every processor -----------------------------------------------------------------------------------

histories = st.lists(st.integers(0, 5), max_size=12)
some_logits = st.lists(st.floats(-30, 30, width=32) | st.just(-INF), min_size=6, max_size=6).map(
    lambda values: np.array(values, dtype=np.float32)
)


@pytest.mark.parametrize("step", STEPS)
@given(logits=some_logits, ids=histories)
@deterministic
def test_a_processor_returns_new_logits_and_changes_neither_its_inputs_nor_bans(step, logits, ids):
    logits_before = logits.copy()
    ids_before = list(ids)
    changed = STEPS[step](logits, ids)
    assert np.array_equal(logits, logits_before)
    assert ids == ids_before
    assert not np.shares_memory(changed, logits)
    assert changed.dtype == np.float32
    assert changed.shape == logits.shape
    assert not np.isnan(changed).any()
    assert (changed[logits == -INF] == -INF).all()
    assert (changed < INF).all()


@pytest.mark.parametrize("step", ["repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram"])
@given(logits=some_logits, ids=histories)
@deterministic
def test_a_penalty_changes_only_logits_of_the_history_and_increases_none(step, logits, ids):
    changed = STEPS[step](logits, ids)
    others = [token for token in range(6) if token not in ids]
    assert np.array_equal(changed[others], logits[others])
    assert (changed <= logits).all()


@pytest.mark.parametrize("step", ["repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram"])
def test_a_penalty_with_an_empty_history_changes_no_logit(step):
    logits = np.array([1.0, -2.0, 0.0])
    assert STEPS[step](logits, []).tolist() == [1.0, -2.0, 0.0]
    assert STEPS[step](logits, np.array([], dtype=int)).tolist() == [1.0, -2.0, 0.0]


@pytest.mark.parametrize("token", [-1, 3, 10**6])
@pytest.mark.parametrize(
    "call",
    [
        lambda logits, token: repetition_penalty(logits, [0, token], 1.5),
        lambda logits, token: presence_penalty(logits, [0, token], 1.5),
        lambda logits, token: frequency_penalty(logits, [0, token], 1.5),
        lambda logits, token: ban(logits, [], [0, token]),
        lambda logits, token: bias(logits, [], {0: 1.0, token: 1.0}),
        lambda logits, token: no_repeat_ngram(logits, [token], 1),
    ],
)
def test_the_error_for_an_id_outside_the_vocabulary_states_the_id(call, token):
    with pytest.raises(ValueError) as error:
        call(np.zeros(3), token)
    assert str(error.value) == f"there is no token {token}: the ids of this model are 0 to 2"


# ---- make_logits_processor -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "neutral",
    [
        {},
        {"n_prompt": 5, "stop_ids": (2,)},
        {"logit_bias": None, "banned_ids": None},
        {"logit_bias": {}, "banned_ids": []},
        {"banned_ids": np.array([], dtype=int)},
        {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0.0},
        {"no_repeat_ngram_size": 0, "min_new_tokens": 0, "stop_ids": (2,)},
        dict.fromkeys(PENALTIES),
    ],
)
def test_make_logits_processor_returns_none_for_neutral_settings(neutral):
    assert make_logits_processor(**neutral) is None


def test_presence_and_frequency_ignore_the_prompt_and_the_other_penalties_do_not():
    logits = np.full(4, 2.0)
    ids = [0, 1, 0, 2]
    for n_prompt, presence, frequency in [
        (0, [1.5, 1.5, 1.5, 2.0], [1.0, 1.5, 1.5, 2.0]),
        (2, [1.5, 2.0, 1.5, 2.0], [1.5, 2.0, 1.5, 2.0]),
        (3, [2.0, 2.0, 1.5, 2.0], [2.0, 2.0, 1.5, 2.0]),
        (4, [2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]),
    ]:
        assert make_logits_processor(n_prompt, presence_penalty=0.5)(logits, ids).tolist() == presence
        assert make_logits_processor(n_prompt, frequency_penalty=0.5)(logits, ids).tolist() == frequency
        assert make_logits_processor(n_prompt, repetition_penalty=2)(logits, ids).tolist() == [1.0, 1.0, 1.0, 2.0]
        assert make_logits_processor(n_prompt, no_repeat_ngram_size=1)(logits, ids).tolist() == [-INF, -INF, -INF, 2.0]


def test_min_new_tokens_bans_end_of_text_until_the_number_is_reached():
    processor = make_logits_processor(n_prompt=3, stop_ids=(1,), min_new_tokens=2)
    logits = np.zeros(3)
    for n_ids, banned in [(3, True), (4, True), (5, False), (6, False)]:
        assert processor(logits, [0] * n_ids).tolist() == [0.0, -INF if banned else 0.0, 0.0]
    assert make_logits_processor(min_new_tokens=2) is None  # for a model without an end of text


def test_all_settings_together_apply_in_the_documented_order():
    # id 0: (2 + 6) / 2 - 0.5 - 3 * 0.25, with 3 occurrences after the prompt. id 1: the bias makes the logit positive,
    # so that the penalty divides it. id 2: banned in spite of its bias. id 3: not in the history. id 4: banned, because
    # it is the end of text. id 5: banned, because it would repeat 0 0 5.
    processor = make_logits_processor(
        n_prompt=1,
        stop_ids=(4,),
        logit_bias={0: 6, 1: 6, 2: 100},
        banned_ids=[2],
        repetition_penalty=2,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        no_repeat_ngram_size=3,
        min_new_tokens=9,
    )
    logits = np.array([2.0, -1.0, 1.0, 3.0, 9.0, 9.0])
    assert processor(logits, [0, 0, 5, 1, 0, 0]).tolist() == [
        8 / 2 - 0.5 - 3 * 0.25,
        5 / 2 - 0.5 - 0.25,
        -INF,
        3.0,
        -INF,
        -INF,
    ]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        *(({"repetition_penalty": v}, "a number above 0 and up to 100; 1 is none") for v in (0, -1, INF, "2", True)),
        *(({"presence_penalty": v}, "a number from -100 to 100; 0 is none") for v in (INF, -INF, "2", [1], True)),
        *(({"frequency_penalty": v}, "a number from -100 to 100; 0 is none") for v in (INF, -INF, "2", [1], True)),
        *(({"no_repeat_ngram_size": v}, "a whole number from 1, such as 3; 0 is none") for v in (-1, 2.0, "2", True)),
        *(({"min_new_tokens": v}, "a whole number from 1, such as 20; 0 is none") for v in (-1, 2.0, "2", True)),
        *(({name: math.nan}, "; 0 is none") for name in [*PENALTIES][1:]),
        ({"repetition_penalty": math.nan}, "it must be a number above 0"),
        ({"repetition_penalti": 1.2}, "Unknown sampling option: repetition_penalti; did you mean repetition_penalty?"),
        ({"temperature": 1.2}, "Unknown sampling option: temperature"),
        ({"banned_ids": [1, -1]}, "-1 is not a token id"),
        ({"banned_ids": [1.0]}, "1.0 is not a token id"),
        ({"banned_ids": ["1"]}, "'1' is not a token id"),
        ({"banned_ids": [True]}, "True is not a token id"),
        ({"logit_bias": {"1": 2.0}}, "'1' is not a token id"),
        ({"logit_bias": {-5: 2.0}}, "-5 is not a token id"),
        ({"logit_bias": {5: INF}}, "logit_bias of token 5 is inf; it must be a number from -100 to 100, or -inf"),
        ({"logit_bias": {5: math.nan}}, "logit_bias of token 5 is nan"),
        ({"logit_bias": {5: "2"}}, "logit_bias of token 5 is '2'"),
        ({"logit_bias": {5: True}}, "logit_bias of token 5 is True"),
    ],
)
def test_make_logits_processor_rejects_invalid_settings_by_name(knobs, message):
    with pytest.raises(ValueError) as error:
        make_logits_processor(**knobs)
    assert message in str(error.value)
    assert str(next(iter(knobs))) in str(error.value)


def test_make_logits_processor_accepts_numpy_numbers():
    processor = make_logits_processor(
        banned_ids=np.array([0]), logit_bias={np.int64(1): np.float32(2)}, repetition_penalty=np.float32(2)
    )
    assert processor(np.zeros(3, dtype=np.float32), np.array([1])).tolist() == [-INF, 1.0, 0.0]


# ---- with the model --------------------------------------------------------------------------------------------------

PARAMS = random_params(**HPARAMS)
PROMPT = [5, 17, 42]


def texts(n_new=29, sampler="greedy", seed=0, prompt=PROMPT, **knobs):
    processor = make_logits_processor(n_prompt=len(prompt), **knobs)
    rng = np.random.default_rng(seed)
    options = {"sampler": make_sampler(sampler), "rng": rng, "logits_processor": processor}
    return list(generate(prompt, PARAMS, HPARAMS["n_head"], n_new, **options))


def repeats_an_ngram(ids, size):
    ngrams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
    return len(ngrams) > len(set(ngrams))


def test_a_repetition_penalty_changes_the_greedy_text_unless_it_is_1():
    assert texts(repetition_penalty=1.5) != texts() == texts(repetition_penalty=1)
    assert len(set(texts(repetition_penalty=5.0))) > len(set(texts()))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeat_ngram_size_allows_no_ngram_twice_in_prompt_and_text(size):
    flat = {"sampler": "temperature", "logit_bias": {7: 6.0, 8: 6.0}}  # two tokens that repeat often
    assert repeats_an_ngram(PROMPT + texts(**flat), size)
    for seed in range(3):
        assert not repeats_an_ngram(PROMPT + texts(seed=seed, no_repeat_ngram_size=size, **flat), size)
    assert not repeats_an_ngram(PROMPT + texts(no_repeat_ngram_size=size), size)


def test_a_banned_token_never_appears_and_a_token_with_a_high_bias_always_does():
    first = texts()[0]
    assert first not in texts(banned_ids=[first])
    assert first not in texts(logit_bias={first: -INF}, sampler="temperature")
    assert texts(logit_bias={77: 100.0}) == [77] * 29
    assert set(texts(banned_ids=set(range(101)) - {9}, sampler="top_k")) == {9}


def test_the_prompt_s_tokens_get_no_presence_or_frequency_penalty():
    plain = texts()
    first = plain[0]
    assert texts(n_new=1, prompt=[*PROMPT, *plain[:5]], presence_penalty=100.0) == plain[5:6]
    assert len(set(texts(presence_penalty=100.0))) == len(set(texts(frequency_penalty=100.0))) == 29
    assert texts(frequency_penalty=100.0)[0] == first


def test_the_text_does_not_end_before_min_new_tokens():
    end = texts()[0]

    def text(**knobs):
        processor = make_logits_processor(n_prompt=3, stop_ids=[end], **knobs)

        def favour_end(logits, ids):
            logits = bias(logits, ids, {end: 99.0})
            return processor(logits, ids) if processor else logits

        return list(generate(PROMPT, PARAMS, HPARAMS["n_head"], 29, stop_ids=[end], logits_processor=favour_end))

    assert text() == []
    assert [len(text(min_new_tokens=n)) for n in (1, 2, 10)] == [1, 2, 10]


def test_banning_every_token_or_an_unknown_one_is_an_error():
    with pytest.raises(ValueError, match="every token is banned"):
        texts(banned_ids=range(101))
    with pytest.raises(ValueError, match="there is no token 101: the ids of this model are 0 to 100"):
        texts(banned_ids=[101])


def test_a_processor_gets_the_ids_of_the_prompt_and_the_new_ids():
    histories = []

    def record(logits, ids):
        histories.append(list(ids))
        assert logits.shape == (HPARAMS["n_vocab"],)
        assert logits.dtype == np.float32
        return logits

    prompt = list(PROMPT)
    new = list(generate(prompt, PARAMS, HPARAMS["n_head"], 6, logits_processor=record))
    assert histories == [PROMPT + new[:n] for n in range(6)]
    assert prompt == PROMPT
