"""cli/output.py: the JSON records of --json and their log-probabilities."""

import json

import numpy as np
import pytest
from conftest import ROOT
from model_folders import change_json
from run_script import STORY, records_of, text_of

import gpt2_pico
import utils
from cli import json_record


def test_a_record_has_the_text_and_all_that_is_needed_to_reproduce_it(here):
    (record,) = records_of(here, STORY, "-n", "12", "--top_p", "0.9", "--seed", "5", "--model_size", "tiny")
    assert list(record) == [
        *("index", "prompt", "text", "finish_reason", "seed", "model", "fingerprint", "settings", "usage", "timings"),
    ]
    assert record["text"] + "\n" == text_of(here, STORY, "-n", "12", "--top_p", "0.9", "--seed", "5")
    assert record["usage"]["completion_tokens"] == 12
    assert (record["seed"], record["model"], record["index"], record["prompt"]) == (5, "tiny", 0, STORY)
    assert record["settings"] == {"n_tokens_to_generate": 12, "temperature": 1.0, "top_p": 0.9}
    assert 0 < record["timings"]["first_token_seconds"] <= record["timings"]["seconds"]


def test_a_seed_that_was_drawn_is_recorded_and_gives_the_text_again(here):
    first, second = (records_of(here, STORY, "--temperature", "1")[0] for _ in range(2))
    assert first["seed"] != second["seed"]
    (again,) = records_of(here, STORY, "--temperature", "1", "--seed", str(first["seed"]))
    assert again["text"] == first["text"]


def test_logprobs_are_those_of_the_model_before_penalties_and_temperature(here):
    def logprobs_of(*args):
        return records_of(here, STORY, "-n", "8", "--logprobs", "3", *args)[0]["logprobs"]

    plain = logprobs_of()
    for entry in plain:  # greedy
        assert entry["id"] == entry["top"][0]["id"] and entry["logprob"] == entry["top"][0]["logprob"] <= 0
        assert len(entry["top"]) == 3
        assert entry["top"][0]["logprob"] >= entry["top"][1]["logprob"] >= entry["top"][2]["logprob"]
    encoder, hparams, params = utils.load_encoder_hparams_and_params("tiny", ROOT / "models")
    x = gpt2_pico.gpt2(encoder.encode(STORY), **params, n_head=hparams["n_head"])[-1].astype(np.float64)
    assert plain[0]["logprob"] == pytest.approx(x.max() - np.log(np.exp(x).sum()), abs=1e-4)
    assert "".join(entry["token"] for entry in plain) + "\n" == text_of(here, STORY, "-n", "8")
    first = logprobs_of("--temperature", "3", "--banned_ids", str(plain[0]["id"]))[0]
    assert first["top"] == plain[0]["top"]
    assert first["id"] != plain[0]["id"] and first["logprob"] < plain[0]["logprob"]


def test_every_new_token_has_a_logprob_and_a_stop_token_has_none(here):
    args = ("-n", "400", "--num_samples", "4", "--temperature", "0.8", "--seed", "1", "--logprobs", "0")
    records = records_of(here, STORY, *args)
    assert "eos" in {record["finish_reason"] for record in records}
    for record in records:
        assert len(record["logprobs"]) == record["usage"]["completion_tokens"]


# ---- one line per token ----------------------------------------------------------------------------------------


def test_json_with_stream_prints_a_line_per_token_before_each_record(here):
    args = (STORY, "-n", "5", "--temperature", "1", "--seed", "3", "--num_samples", "2")
    plain = records_of(here, *args)
    lines = records_of(here, *args, "--stream")
    assert [lines[5]["text"], lines[11]["text"]] == [record["text"] for record in plain]
    assert all(lines[i].keys() == plain[0].keys() for i in (5, 11))
    for index, tokens in enumerate((lines[:5], lines[6:11])):
        assert [list(line) for line in tokens] == [["index", "id", "token", "text"]] * 5
        assert {line["index"] for line in tokens} == {index}
        assert "".join(line["text"] for line in tokens) == plain[index]["text"]
        assert "".join(line["token"] for line in tokens) == plain[index]["text"]


def test_the_text_of_the_lines_ends_before_a_stop_text(here):
    *tokens, record = records_of(here, STORY, "--stop", " girl", "--stream")
    assert "".join(line["text"] for line in tokens) == record["text"] and "girl" not in record["text"]
    assert len(tokens) == record["usage"]["completion_tokens"]


def test_without_stream_json_has_one_line_per_sample(here):
    assert len(records_of(here, STORY, "-n", "5")) == 1
    assert len(records_of(here, STORY, "-n", "5", "--stream", "False")) == 1


# ---- the prompt's log-probabilities ----------------------------------------------------------------------------


def reference_logprobs(ids, model):
    """Return the log-probabilities [n_seq, n_vocab] of the minimal model in float64."""
    logits = gpt2_pico.gpt2(ids, **model.params, n_head=model.n_head)
    return logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("n", ["0", "3"])
def test_echo_adds_the_log_probabilities_of_the_prompt(here, n):
    (record,) = records_of(here, STORY, "-n", n, "--echo", "--logprobs", "2")
    model = utils.load("tiny", ROOT / "models")
    ids = model.encoder.encode(STORY)
    entries = record["logprobs"]
    assert [entry["id"] for entry in entries[: len(ids)]] == ids and len(entries) == len(ids) + int(n)
    assert entries[0] == {"token": "Once", "id": ids[0], "logprob": None, "top": []}
    logprobs = reference_logprobs(ids, model)
    for i in range(1, len(ids)):
        assert entries[i]["logprob"] == pytest.approx(logprobs[i - 1, ids[i]], abs=1e-4)
        assert [top["id"] for top in entries[i]["top"]] == np.argsort(-logprobs[i - 1])[:2].tolist()
    (without,) = records_of(here, STORY, "-n", n, "--logprobs", "2")
    assert [entry["id"] for entry in without["logprobs"]] == [entry["id"] for entry in entries[len(ids) :]]


def test_a_prompt_longer_than_a_pass_has_all_its_log_probabilities(here):
    prompt = "Once upon a time there was a dog. " * 40
    (record,) = records_of(here, prompt, "-n", "0", "--echo", "--logprobs", "0")
    model = utils.load("tiny", ROOT / "models")
    ids = model.encoder.encode(prompt)
    assert len(ids) > 300
    logprobs = reference_logprobs(ids, model)
    expected = [logprobs[i - 1, ids[i]] for i in range(1, len(ids))]
    np.testing.assert_allclose([entry["logprob"] for entry in record["logprobs"][1:]], expected, atol=2e-4)


def test_a_model_with_a_start_token_gives_the_first_token_a_log_probability(here, models):
    change_json(models / "hf" / "config.json", bos_token_id=30)
    (models / "hf" / "tokenizer_config.json").write_text(
        '{"add_bos_token": true, "bos_token": "<|endoftext|>"}', encoding="utf-8"
    )
    code, out, err = here("he", "--model_size", models / "hf", "-n", "0", "--echo", "--json", "--logprobs", "0")
    assert code == 0, err
    entries = json.loads(out)["logprobs"]
    assert "".join(entry["token"] for entry in entries) == "he"
    assert all(entry["logprob"] < 0 for entry in entries)


def test_every_field_is_described(here):
    (record,) = records_of(here, STORY, "-n", "1", "--logprobs", "0")
    assert list(record) == list(json_record.FIELDS)


def test_the_settings_of_mirostat_are_recorded_with_their_defaults(here):
    (record,) = records_of(here, STORY, "-n", "1", "--strategy", "mirostat")
    assert record["settings"] == {
        "n_tokens_to_generate": 1,
        "temperature": 1.0,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
    }
