"""cli/output.py: the JSON records of --json and their log-probabilities."""

import numpy as np
import pytest
from conftest import ROOT
from run_script import STORY, records_of, text_of

import gpt2_pico
import utils


def test_a_record_has_the_text_and_all_that_is_needed_to_reproduce_it(here):
    (record,) = records_of(here, STORY, "-n", "12", "--top_p", "0.9", "--seed", "5", "--model_size", "tiny")
    assert list(record) == [
        *("index", "prompt", "text", "finish_reason", "seed", "model", "settings", "usage", "timings"),
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
