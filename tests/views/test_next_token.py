"""explore.py next: its numbers are those of the model and of the samplers."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from views_helpers import ROOT, STORY, record_passes, records_of, stdout_of

import sampling
import utils
from views import next_token, toy

TOY = np.array(list(toy.TOY.values()))
WORDS = list(toy.TOY)


@pytest.fixture
def seen(here):
    return partial(stdout_of, here)


@pytest.fixture
def records(here):
    return partial(records_of, here)


# ---- the filters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "removed"),
    [  # Raschka's distribution: forward 0.572, toward 0.358, closer 0.061, you, inches, every, moves, ...
        ([], {}),  # the model's own distribution; the likeliest token is chosen
        (["--strategy", "greedy"], {"greedy": "closer every effort inches moves pizza toward you"}),
        (["--temperature", "0"], {"temperature": "closer every effort inches moves pizza toward you"}),
        (["--temperature", "1"], {}),
        (["--top_k", "3"], {"top_k": "every effort inches moves pizza you"}),
        (["--top_p", "0.9"], {"top_p": "closer every effort inches moves pizza you"}),
        (["--top_p", "0.58", "--top_k", "3"], {"top_k": "every effort inches moves pizza you", "top_p": "closer"}),
        (["--min_p", "0.2", "--top_k", "3"], {"top_k": "every effort inches moves pizza you", "min_p": "closer"}),
        (["--typical_p", "0.3"], {"typical_p": "closer every effort forward inches moves pizza you"}),
        (["--entmax_alpha", "1.5"], {"entmax_alpha": "closer every effort inches moves pizza you"}),
        (["--entmax_alpha", "1.3", "--top_k", "2"], {"top_k": "closer every effort inches moves pizza you"}),
        (["--mirostat_tau", "0.25"], {"mirostat": "closer every effort inches moves pizza toward you"}),
        (["--mirostat_tau", "5"], {"mirostat": "effort moves pizza"}),
        (
            ["--banned_ids", "[3]", "--top_k", "1"],
            {"ban": "forward", "top_k": "closer every effort inches moves pizza you"},
        ),
        (["--no_repeat_ngram_size", "1", "--temp", "1"], {"ban": "every effort moves you"}),
    ],
)
def test_every_removed_token_names_the_filter_that_removed_it(records, args, removed):
    (record,) = records("--toy", "--seed", "1", *args)
    found = {}
    for row in record["tokens"]:
        found.setdefault(row["removed_by"], set()).add(row["token"])
        assert (row["removed_by"] is None) == (row["drawn_with"] > 0)
    left = found.pop(None)
    assert found == {name: set(words.split()) for name, words in removed.items()}
    assert record["support"] == len(left)
    for step in record["filters"]:
        assert step["keeps"] >= len(left)


def test_the_filters_are_listed_in_their_order_with_the_number_of_tokens_that_each_leaves(seen):
    out = seen("next", "--toy", "--min_p", "0.2", "--top_p", "0.95", "--top_k", "5", "--temp", "2", "--banned_ids", "6")
    assert (
        "9 tokens → ban: 8 left → temperature 2 → top_k 5: 5 left → top_p 0.95: 4 left → min_p 0.2: 3 left"
        in " ".join(out.split())
    )


@settings(deadline=None, max_examples=60)
@given(
    temperature=st.floats(0.2, 5) | st.none(),
    top_k=st.integers(0, 12) | st.none(),
    top_p=st.floats(0, 1) | st.none(),
    min_p=st.floats(0, 1) | st.none(),
    typical_p=st.floats(0, 1) | st.none(),
    entmax_alpha=st.floats(1.05, 2) | st.none(),
    scale=st.floats(0.1, 3),
)
def test_the_remaining_tokens_are_those_that_can_be_drawn_with_any_knobs(scale, **knobs):
    sampler = sampling.make_sampler(**knobs)
    logits = np.random.default_rng(0).normal(0, scale, 40)
    removed = next_token.removed_by(next_token.stages(sampler, logits), 40)
    drawn = {sampler(logits, np.random.default_rng(i)) for i in range(30)}
    assert drawn <= set(np.flatnonzero(removed == "").tolist())
    assert ((next_token.drawn_from(sampler, logits) > 0) == (removed == "")).all()


def test_equal_logits_rank_the_lowest_id_first():
    assert next_token.ranked(np.array([1.0, 3.0, 3.0, 0.0, 3.0])).tolist() == [1, 2, 4, 0, 3]


# ---- the numbers -----------------------------------------------------------------------------------------------


def test_the_numbers_of_a_row_are_those_of_the_distribution(records):
    (record,) = records("--toy", "--temperature", "2", "--top_p", "0.9", "--seed", "1")
    p = np.exp(TOY) / np.exp(TOY).sum()
    heated = np.exp(TOY / 2) / np.exp(TOY / 2).sum()
    left = dict(zip([3, 7, 0, 8], [0.454423, 0.359253, 0.148269, 0.038055], strict=True))  # published in the issue
    for row in record["tokens"]:
        i = row["id"]
        assert (row["token"], row["logit"]) == (WORDS[i], pytest.approx(TOY[i], abs=1e-6))
        assert row["probability"] == pytest.approx(p[i], abs=1e-6)
        assert row["at_temperature"] == pytest.approx(heated[i], abs=1e-6)
        assert row["cumulative"] == pytest.approx(heated[TOY[i] <= TOY].sum(), abs=1e-6)
        assert row["drawn_with"] == pytest.approx(left.get(i, 0), abs=1e-6)
    assert [row["rank"] for row in record["tokens"]] == list(range(1, 10))
    assert record["model_entropy_bits"] == pytest.approx(0.912715 / math.log(2), abs=1e-5)
    q = np.array(list(left.values()))
    assert record["entropy_bits"] == pytest.approx(-(q * np.log2(q)).sum(), abs=1e-5)


def test_a_penalised_logit_is_shown_beside_the_logit_of_the_model(records, seen):
    args = ("--toy", "--repetition_penalty", "1.3", "--temperature", "1", "--seed", "1")
    (record,) = records(*args)
    changed = {row["id"]: row["penalised_logit"] for row in record["tokens"] if row["penalised_logit"] != row["logit"]}
    expected = {1: 0.684615, 2: -2.47, 5: -2.106, 8: 1.376923}  # as in transformers
    assert changed == {i: pytest.approx(x, abs=1e-5) for i, x in expected.items()}
    assert "becomes" in seen("next", *args) and "becomes" not in seen("next", "--toy")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "args", [("--temperature", "5", "--top_k", "6"), ("--mirostat_tau", "1", "--mirostat_eta", "0.5", "--steps", "6")]
)
def test_every_uniform_number_lies_in_the_interval_of_the_chosen_token(records, args, seed):
    rng = np.random.default_rng([seed, 0, 0])
    for record in records("--toy", *args, "--seed", seed):
        draw = record["draw"]
        assert draw["u"] == rng.random()
        assert draw["begins_at"] <= draw["u"] < draw["begins_at"] + draw["probability"]


def test_mirostat_is_shown_with_its_state_before_the_draw(records):
    shown = records("--toy", "--mirostat_tau", "1", "--mirostat_eta", "0.5", "--steps", "4", "--seed", "1")
    mu = 2.0
    for record in shown:
        (step,) = record["filters"]
        assert step == {"name": "mirostat", "value": pytest.approx(mu, abs=1e-4), "keeps": record["support"]}
        mu -= 0.5 * (-math.log2(record["draw"]["probability"]) - 1)


def test_a_greedy_choice_draws_no_number(records, seen):
    (record,) = records("--toy")
    assert "u" not in record["draw"] and record["draw"]["token"] == "forward"
    assert "the likeliest token is 'forward' (id 3); nothing is drawn" in seen("next", "--toy")


def test_without_options_of_the_sampler_the_bars_are_the_model_s_own_distribution(records, seen):
    (record,) = records("--toy")
    assert [row["drawn_with"] for row in record["tokens"]] == [row["probability"] for row in record["tokens"]]
    assert record["filters"] == [] and record["support"] == 9
    out = seen("next", "--toy")
    assert "✗" not in out and "drawn" not in out.splitlines()[3]
    assert "9 tokens → the likeliest token" in out


def test_the_tokens_of_the_json_are_unchanged(records):
    (record,) = records(STORY, "--model_size", "tiny", "--rows", "2")
    assert [(row["token"], row["name"]) for row in record["tokens"]] == [(",", ","), (" there", "␣there")]


# ---- several steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--temperature", "1"),
        ("--strategy", "mirostat", "--mirostat_tau", "2"),
        ("--top_p", "0.9", "--repetition_penalty", "1.5", "--presence_penalty", "1"),
        ("--temperature", "1.5", "--logit_bias", '{"2047": 6}'),
    ],
)
def test_the_steps_give_the_text_of_gpt2_py(here, records, args):
    args = (STORY, "--model_size", "tiny", "--seed", "4", *args)
    _, text, _ = here(*args, "-n", "25")
    shown = records(*args, "--steps", "25")
    tokens = [record["draw"]["id"] for record in shown]
    encoder = utils.load("tiny", ROOT / "models").encoder
    assert encoder.decode(token for token in tokens if token != encoder.end_of_text) + "\n" == text
    assert [record["step"] for record in shown] == list(range(1, len(tokens) + 1))
    assert [record["text"] for record in shown[:2]] == [STORY, STORY + encoder.decode(tokens[:1])]


def test_the_steps_use_the_cache(seen, monkeypatch):
    n_positions = record_passes(monkeypatch)
    seen("next", STORY, "--model_size", "tiny", "--steps", "5")
    assert n_positions == [4, 1, 1, 1, 1]


def test_the_steps_end_with_the_text(records, seen):
    args = (STORY, "--model_size", "tiny", "--steps", "9", "--logit_bias", '{"2047": 100}')
    assert [record["draw"]["token"] for record in records(*args)] == ["<|endoftext|>"]
    assert seen("next", *args).count("tokens left") == 1


def test_a_chosen_token_of_low_rank_is_in_the_table(records, seen):
    args = (STORY, "--model_size", "tiny", "--temperature", "9", "--seed", "1", "--rows", "3")
    rows = records(*args)[0]["tokens"]
    assert [row["rank"] for row in rows[:3]] == [1, 2, 3] and rows[3]["rank"] > 4
    lines = seen("next", *args).splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith("◀"))
    assert lines[at].split()[0] == str(rows[3]["rank"]) and lines[at - 1].split() == ["⋮", "⋮"]


def test_the_steps_end_with_the_whole_text_and_its_spaces(seen):
    assert seen("next", "--toy", "--steps", "2").endswith("\nevery effort moves you forward forward\n")
