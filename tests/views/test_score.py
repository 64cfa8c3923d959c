"""explore.py score: compared with the loss of transformers in the windows of lm-evaluation-harness."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_bundled import STORY
from views_helpers import ROOT, stdout_of

import gpt2_pico
import sampling
import utils
from checkpoints.tokenizer import default_tokens
from encoder import CharacterEncoder
from views import score, toy


@pytest.fixture(scope="module")
def tiny():
    return utils.load("tiny", ROOT / "models", fast=True)


@pytest.fixture(scope="module")
def plain():
    """The same model with arrays as weights, for gpt2_pico."""
    return utils.load("tiny", ROOT / "models")


@pytest.fixture(scope="module")
def golden():
    with np.load(ROOT / "tests" / "golden_scores.npz") as file:
        return {name: file[name] for name in file}


@pytest.fixture
def scored(here):
    """stdout of `score`, which must succeed without remarks."""
    return lambda text, *args, **options: stdout_of(here, "score", text, *args, **options)


# ---- the numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stride"), [("story", None), ("long", None), ("near", 128)])
def test_every_log_probability_is_that_of_transformers(tiny, golden, name, stride):
    text = STORY if name == "story" else str(golden["text"])
    logprobs = np.array([logprob for logprob, _ in score.score(tiny.encoder.encode(text), tiny, stride)])
    np.testing.assert_allclose(logprobs, golden[f"{name}_logprobs"], rtol=0, atol=1e-4)
    assert -logprobs.mean() == pytest.approx(golden[f"{name}_losses"].sum() / len(logprobs), abs=1e-4)


@given(st.integers(0, 100), st.integers(1, 20), st.data())
def test_every_token_is_scored_exactly_once_in_a_window_that_fills_the_context(n_tokens, n_ctx, data):
    stride = data.draw(st.integers(1, n_ctx))
    scored = []
    windows = list(score.windows(n_tokens, n_ctx, stride))
    for start, end, n_context in windows:
        scored += range(start, end)
        assert n_context >= 1 and n_context + end - start - 1 <= n_ctx
        assert n_context + end - start - 1 == min(end, n_ctx)  # every window reads as much as it can
        assert n_context <= start + 1
    assert scored == list(range(n_tokens))
    assert all(end - start == stride for start, end, _ in windows[1:-1])


def test_the_rank_of_a_token_is_its_position_among_all_tokens(tiny, plain):
    ids = tiny.encoder.encode(STORY)[:20]
    logits = gpt2_pico.gpt2([tiny.encoder.start, *ids[:-1]], **plain.params, n_head=plain.n_head)
    expected = [
        int(np.argsort(-x, kind="stable").tolist().index(token)) + 1 for x, token in zip(logits, ids, strict=True)
    ]
    assert [rank for _, rank in score.score(ids, tiny)] == expected


def test_equally_likely_tokens_rank_the_lowest_id_first():
    model = toy.toy_model()
    flat = replace(model, params=model.params | {"wte": model.params["wte"] * 0})
    assert [rank for _, rank in score.score([0, 4, 8], flat)] == [1, 5, 9]


def test_the_size_of_the_chunks_of_a_window_changes_nothing(tiny, monkeypatch):
    ids = tiny.encoder.encode(STORY)
    whole = [logprob for logprob, _ in score.score(ids, tiny)]
    monkeypatch.setattr(score, "CHUNK", 7)
    np.testing.assert_allclose([logprob for logprob, _ in score.score(ids, tiny)], whole, rtol=0, atol=1e-4)


def test_two_words_of_the_toy_have_the_perplexity_computed_by_hand(scored):
    found = json.loads(scored("forward toward", "--toy", "--json"))
    nll = 0.558406 + 1.028406
    assert found["nll"] == pytest.approx(nll, abs=1e-5)
    assert found["token_perplexity"] == found["word_perplexity"] == pytest.approx(2.210915, abs=1e-5)
    assert found["byte_perplexity"] == pytest.approx(math.exp(nll / 14), abs=1e-6)
    assert found["bits_per_byte"] == pytest.approx(nll / 14 / math.log(2), abs=1e-6)
    assert (found["n_tokens"], found["n_words"], found["n_bytes"]) == (2, 2, 14)
    assert [token["logprob"] for token in found["tokens"]] == pytest.approx([-0.558406, -1.028406], abs=1e-5)


@pytest.mark.parametrize(
    ("text", "n_words", "n_bytes"), [("a  b\nc", 3, 6), ("你好", 1, 6), (" a", 2, 2), ("a\ud800", 1, 2)]
)
def test_words_are_separated_by_white_space_and_bytes_are_utf_8(text, n_words, n_bytes):
    sums = score.totals([-1.0], text)
    assert (sums["n_words"], sums["n_bytes"]) == (n_words, n_bytes)


def test_a_long_text_without_spaces_has_no_word_perplexity(scored):
    text = "你好" * 100
    found = json.loads(scored(text, "--model_size", "tiny", "--json"), parse_constant=pytest.fail)
    assert found["word_perplexity"] is None and found["nll"] > 1000 and found["bits_per_byte"] > 0
    assert re.search(r"word perplexity +\d\.\d{4}e\+\d+\n", scored(text, "--model_size", "tiny"))


# ---- the output ------------------------------------------------------------------------------------------------


def test_the_output_defines_the_measurement(scored, golden):
    assert "as in lm-evaluation-harness" in scored(STORY, "--model_size", "tiny")
    text = str(golden["text"])
    out = " ".join(scored(text, "--model_size", "tiny").split())
    assert "after <|endoftext|>, in windows of 512 tokens without overlap" in out
    assert "as in lm-evaluation-harness" in out
    out = " ".join(scored(text, "--model_size", "tiny", "--stride", "256", "--rows", "1").split())
    assert "windows of 512 tokens that move by 256" in out and "as in lm-evaluation-harness" not in out


def test_a_text_from_a_file_or_a_pipe_has_the_same_score(scored, tmp_path):
    (tmp_path / "a.txt").write_text(f"{STORY}\n", encoding="utf-8")
    typed = scored(STORY, "--model_size", "tiny")
    assert scored(f"FILE:{tmp_path}/a.txt", "--model_size", "tiny") == typed
    assert scored("-", "--model_size", "tiny", piped=STORY.encode()) == typed


def test_without_colours_every_token_has_a_line(scored, tiny):
    lines = scored(STORY, "--model_size", "tiny").splitlines()
    ids = tiny.encoder.encode(STORY)
    assert [line.split()[0] for line in lines[1 : len(ids) + 1]] == [str(i + 1) for i in range(len(ids))]
    logprobs = [float(line.split()[2]) for line in lines[1 : len(ids) + 1]]
    assert sum(logprobs) == pytest.approx(-float(re.search(r"likelihood +([\d.]+)", "\n".join(lines))[1]), abs=0.1)
    few = scored(STORY, "--model_size", "tiny", "--rows", "3").splitlines()
    assert [float(line.split()[2]) for line in few[1:4]] == sorted(logprobs)[:3] and few[4] == ""


@pytest.mark.parametrize("text", [STORY, "Hi\n\n你好 🤗!\tA  dog ", "\n", "x\x1b[2Jy"])
def test_the_coloured_text_is_the_text_but_for_colours(scored, monkeypatch, text):
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = scored(text, "--model_size", "tiny")
    plain = re.sub(r"\x1b\[[\d;]*m", "", out)
    shown = text.replace("\n", "⏎\n").replace("\t", "\\t").replace("\x1b", "\\x1b")
    assert plain.startswith(shown + "\n\nbits of surprise:")
    assert "\x1b[2J" not in out


def test_a_larger_surprise_has_a_darker_background(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    codes = [score.shade(bits) for bits in (0.99, 2.99, 5.99, 9.99, 10)]
    assert codes == [score.shade(bits) for bits in (0, 1, 3, 6, 1000)] == [code for _, code, _ in score.SHADES]
    encoder = toy.ToyEncoder()
    text = score.coloured([6, 3], [-9.2, -0.5], encoder)  # 13.3 and 0.7 bits
    assert text == f"\x1b[{score.SHADES[-1][1]}mpizza \x1b[0mforward "


def test_the_tokens_of_one_character_are_coloured_together(monkeypatch, tiny):
    monkeypatch.setenv("FORCE_COLOR", "1")
    ids = tiny.encoder.encode("你")
    assert len(ids) == 3
    assert score.coloured(ids, [-1.0, -1.0, -0.2], tiny.encoder) == f"\x1b[{score.shade(2.2 / math.log(2))}m你\x1b[0m"


def test_the_json_has_every_token_and_their_sum(scored):
    found = json.loads(scored(STORY, "--model_size", "tiny", "--json"))
    assert found["nll"] == pytest.approx(-sum(token["logprob"] for token in found["tokens"]))
    assert found["n_tokens"] == len(found["tokens"])
    assert (found["model"], found["window"], found["stride"]) == ("tiny", 512, 512)


def test_a_text_in_a_vocabulary_without_end_of_text_begins_after_a_newline(tiny):
    encoder = CharacterEncoder({"\n": 0, "a": 1})
    letters = SimpleNamespace(encoder=encoder, special=default_tokens(encoder, 2), n_ctx=8)
    assert "after \\n, in one window" in score.definition(letters, score.Request([1, 1, 1]), 8)


def test_the_log_probabilities_are_those_of_a_distribution(tiny, plain):
    start = [tiny.encoder.start]
    x = sampling.shifted_logits(gpt2_pico.gpt2(start, **plain.params, n_head=plain.n_head)[-1])
    some = [next(score.score([token], tiny))[0] for token in range(0, tiny.n_vocab, 97)]
    expected = (x - np.log(np.exp(x).sum()))[::97]
    np.testing.assert_allclose(some, expected, rtol=0, atol=1e-4)


def test_an_extreme_perplexity_is_printed_in_scientific_notation(scored):
    out = scored("你好" * 7, "--model_size", "tiny")
    nll = re.search(r"likelihood +([\d.]+) nats", out)[1]
    exponent = re.search(r"^word perplexity +\d\.\d{4}e\+(\d+)$", out, re.MULTILINE)[1]
    assert int(exponent) == int(float(nll) / math.log(10)) > 40


@pytest.mark.parametrize("x", [0.0, 1.0, 13.8, 13.9, 100.0, 709.0, 710.0, 12345.6, 2e6])
def test_a_perplexity_of_any_size_has_its_digits(x):
    text = score.exp_as_text(x)
    mantissa, _, exponent = text.partition("e+")
    assert math.log(float(mantissa)) + int(exponent or 0) * math.log(10) == pytest.approx(x, rel=1e-4, abs=1e-4)
    assert len(text) <= 14


# ---- a continuation --------------------------------------------------------------------------------------------


def test_a_continuation_has_the_log_probabilities_of_its_tokens_after_the_context(scored, plain):
    context = plain.encoder.encode("Once upon a time there was a")
    ids = plain.encoder.encode(" little girl")
    logits = gpt2_pico.gpt2(context + ids, **plain.params, n_head=plain.n_head)
    expected = sum(sampling.log_softmax(logits[len(context) - 1 + i])[token] for i, token in enumerate(ids))
    found = json.loads(
        scored(" little girl", "--given", "Once upon a time there was a", "--model_size", "tiny", "--json")
    )
    assert found["logprob"] == pytest.approx(expected, abs=1e-4)
    assert found["n_tokens"] == len(ids) and "loglikelihood)" in found["definition"]
    assert found["is_greedy"] is True
    assert json.loads(scored(" dog", "--given", "Once upon", "--model_size", "tiny", "--json"))["is_greedy"] is False


def test_spaces_at_the_end_of_the_context_belong_to_the_text(tiny):
    expected = score.encode_pair("The dog", " was", tiny.encoder)
    assert score.encode_pair("The dog ", "was", tiny.encoder) == expected
    assert expected.context + expected.ids == tiny.encoder.encode("The dog was")


def test_an_empty_context_is_the_start_of_a_text(scored):
    words = ("Once upon a time", "--model_size", "tiny", "--json")
    assert json.loads(scored(*words, "--given", ""))["nll"] == pytest.approx(json.loads(scored(*words))["nll"])


def test_of_a_long_context_the_last_tokens_are_read(tiny):
    ids = tiny.encoder.encode(" the dog" * 400)
    request = score.Request([11, 12], ids)
    long = list(score.score_continuation(request, tiny))
    short = list(score.score_continuation(score.Request([11, 12], ids[-511:]), tiny))
    assert [logprob for logprob, _ in long] == pytest.approx([logprob for logprob, _ in short], abs=1e-4)


def test_the_tokens_of_the_json_are_unchanged(scored):
    found = json.loads(scored("One day\n", "--model_size", "tiny", "--json"))
    assert "".join(token["token"] for token in found["tokens"]) == "One day\n"
