"""Bans and biases by text, the shortest text, and what a preset causes."""

import numpy as np
import pytest
from conftest import ROOT
from run_script import STORY, records_of, text_of

import sampling
import utils
from cli.options import check_options
from cli.words import read_words, without_sequences


@pytest.fixture(scope="module")
def encoder():
    return utils.load("tiny", ROOT / "models").encoder


def test_a_banned_word_is_banned_with_and_without_a_space_before_it(encoder):
    words = read_words(check_options({"banned_words": "One", "banned_ids": 7}), encoder)
    found = {(i,) for i in words.banned_ids} | set(words.banned_sequences)
    assert found == {(7,), tuple(encoder.encode("One")), tuple(encoder.encode(" One"))}
    both = read_words(check_options({"banned_words": '[" One", "One"]', "banned_ids": 7}), encoder)
    assert both == words


def test_a_word_of_several_tokens_is_banned_as_a_sequence(encoder):
    spellings = {tuple(encoder.encode("xylophone")), tuple(encoder.encode(" xylophone"))}
    words = read_words(check_options({"banned_words": "xylophone"}), encoder)
    assert set(words.banned_sequences) == spellings and words.banned_ids == ()


def test_a_sequence_bans_its_last_token_after_the_others_and_nothing_else():
    process = without_sequences(None, ((1, 2), (3, 1, 4)))
    logits = np.zeros(6, np.float32)
    for ids, banned in (([1], {2}), ([0, 1], {2}), ([3, 1], {2, 4}), ([3], set()), ([], set()), ([2], set())):
        assert set(np.flatnonzero(np.isneginf(process(logits, ids)))) == banned
    assert np.all(logits == 0)
    assert without_sequences(len, ()) is len


def test_a_processor_runs_before_the_sequences():
    ban = sampling.make_logits_processor(banned_ids=[5])
    assert set(np.flatnonzero(np.isneginf(without_sequences(ban, ((1, 2),))(np.zeros(6), [1])))) == {2, 5}


def test_banned_words_do_not_appear(here):
    plain = text_of(here, STORY, "-n", "60")
    assert " little" in plain and " Lily" in plain
    text = text_of(here, STORY, "-n", "60", "--banned_words", '["little", "Lily", "toys"]')
    assert not any(word in text for word in ("little", "Lily", "toys"))
    assert text_of(here, STORY, "-n", "60", "--bad_words", "little") != plain


def test_a_bias_of_a_text_is_that_of_its_token(here, encoder):
    (i,) = encoder.encode(" dog")
    by_text = text_of(here, STORY, "--logit_bias", '{" dog": 20}')
    assert by_text == text_of(here, STORY, "--logit_bias", f'{{"{i}": 20}}') != text_of(here, STORY)
    assert " dog" in by_text
    (record,) = records_of(here, STORY, "--logit_bias", '{" dog": 20, "5": -1}')
    assert record["settings"]["logit_bias"] == {" dog": 20, "5": -1}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ('{"xylophone": 1}', "logit_bias has the text 'xylophone', which is "),
        ('{" a cat": 1}', "it must be one token, and a word within a text begins with a space"),
        ('{"dog": "much"}', "logit_bias of 'dog' is 'much'; it must be a number from -100 to 100"),
        ('{"dog": 101}', "logit_bias of 'dog' is 101; it must be a number from -100 to 100"),
        ('{"": 1}', "logit_bias has the key ''; a key is a token id, 0 to 2147483647, or the text of a token"),
        ('{"007": 1}', "logit_bias has the key '007'"),
        ('{"9999": 1}', "there is no token 9999"),
    ],
)
def test_a_wrong_bias_is_one_line(here, typed, said):
    code, out, err = here(STORY, "--model_size", "tiny", "--logit_bias", typed)
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err


def test_rows_and_explore_take_words_too(here, tmp_path):
    import json

    import batch
    import explore
    from runner.command import BATCH
    from views.command import EXPLORE

    rows = [
        {"prompt": STORY},
        {"prompt": STORY, "banned_words": ["little"]},
        {"prompt": STORY, "logit_bias": {" dog": 20}},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    args = ("--model_size", "tiny", "-n", "20")
    code, out, _ = here(str(tmp_path / "rows.jsonl"), *args, main=batch.main, command=BATCH)
    texts = [json.loads(line)["text"] for line in out.splitlines()]
    assert code == 0
    assert [f"{text}\n" for text in texts] == [
        text_of(here, STORY, "-n", "20"),
        text_of(here, STORY, "-n", "20", "--banned_words", "little"),
        text_of(here, STORY, "-n", "20", "--logit_bias", '{" dog": 20}'),
    ]
    code, out, _ = here("next", STORY, *args[:2], "--banned_words", ",", "--json", main=explore.main, command=EXPLORE)
    assert code == 0 and json.loads(out)["draw"]["token"] != ","


def test_min_new_tokens_delays_a_stop_text_too(here):
    plain = records_of(here, STORY, "-n", "100")[0]
    at = plain["text"].index(".")
    (short,) = records_of(here, STORY, "-n", "100", "--stop", ".")
    assert (short["text"], short["finish_reason"]) == (plain["text"][:at], "stop")
    n = short["usage"]["completion_tokens"]
    (later,) = records_of(here, STORY, "-n", "100", "--stop", ".", "--min_new_tokens", str(n + 1))
    second = plain["text"].index(".", at + 1)
    assert (later["text"], later["finish_reason"]) == (plain["text"][:second], "stop")
    (same,) = records_of(here, STORY, "-n", "100", "--stop", ".", "--min_new_tokens", str(n))
    assert same["text"] == short["text"]


@pytest.mark.parametrize(
    "args", [("--preset", "chatbot", "--strategy", "greedy"), ("--strategy", "greedy", "--preset", "creative_writing")]
)
def test_an_error_names_the_preset_that_causes_it(here, args):
    code, _, err = here(STORY, "--model_size", "tiny", *args)
    assert code == 2 and f"; the preset {args[args.index('--preset') + 1]} sets temperature" in err


def test_an_error_in_the_user_s_own_value_does_not_name_the_preset(here):
    code, _, err = here(STORY, "--model_size", "tiny", "--preset", "chatbot", "--top_p", "7")
    assert code == 2 and "preset" not in err
