"""The settings that a model's files suggest: the remark, `--preset model`, and the words of a newcomer."""

import json
import logging

import pytest
from model_folders import ROOT

from checkpoints import download
from checkpoints.generation import read_suggestions
from cli.complete import check_for_command
from cli.options import check_options
from cli.suggestions import with_suggestions

SAMPLED = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}


@pytest.fixture
def folder(tmp_path):
    def write(config):
        (tmp_path / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, {}),
        ({"eos_token_id": 5, "temperature": 0.7, "top_k": 9}, {}),  # without do_sample, transformers is greedy
        ({"do_sample": False, "temperature": 0.7, "repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "top_k": 0}, {"temperature": 1.0}),
        ({"do_sample": True, "top_k": None}, {"temperature": 1.0}),
        (SAMPLED, {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1}),
        ({"suppress_tokens": [3, 4]}, {"banned_ids": [3, 4]}),
        ({"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 3}),
    ],
)
def test_the_suggestions_are_those_that_transformers_would_apply(folder, config, options):
    assert read_suggestions(folder(config)).options == options


def test_settings_without_an_equivalent_are_named(folder):
    config = {"num_beams": 4, "forced_eos_token_id": 5, "penalty_alpha": 0.6, "num_beam_groups": 1}
    assert set(read_suggestions(folder(config)).unsupported) == {"num_beams", "forced_eos_token_id", "penalty_alpha"}


def test_the_preset_model_applies_the_suggestions_and_explicit_options_override_them(folder):
    options = with_suggestions(check_options({"preset": "model", "top_p": 0.5}), folder(SAMPLED))
    assert options.sampling == {"temperature": 0.7, "top_k": 50, "top_p": 0.5}
    assert options.repetition_penalty == 1.1
    assert "preset" not in options.given and options.preset is None


def test_the_preset_model_without_suggestions_is_an_error(folder):
    with pytest.raises(ValueError, match=r"preset is model, but the files of .* suggest no settings"):
        with_suggestions(check_options({"preset": "model"}), folder({}))


@pytest.mark.parametrize("value", ["hot", -1, [1]])
def test_an_invalid_suggestion_is_an_error_only_if_it_is_applied(folder, value):
    config = SAMPLED | {"temperature": value}
    with_suggestions(check_options({}), folder(config))
    with pytest.raises(ValueError, match="temperature is"):
        with_suggestions(check_options({"preset": "model"}), folder(config))


def test_a_remark_shows_the_suggestions_as_flags_unless_such_an_option_is_given(folder, caplog):
    path = folder(SAMPLED | {"num_beams": 2, "suppress_tokens": [1, 2]})
    with caplog.at_level(logging.INFO, logger="picogpt"):
        with_suggestions(check_options({"temperature": 1}), path)
        assert "The files of this model suggest" not in caplog.text
        with_suggestions(check_options({}), path)
    flags = "--temperature 0.7 --top_p 0.9 --repetition_penalty 1.1 --banned_ids 1,2"
    assert all(flag in caplog.text for flag in flags.split(" --"))
    assert "--preset model applies these settings" in caplog.text
    assert "num_beams, which has no equivalent here" in caplog.text


def test_a_row_cannot_ask_for_the_preset_model():
    from cli.command_flags import BATCH_FLAGS
    from runner.prompts import Row, make_request

    with pytest.raises(ValueError, match="preset is model; this preset is an option of the run, not of a row"):
        make_request(Row(0, 1, {"prompt": "a", "preset": "model"}), check_options({}, BATCH_FLAGS), 0)


# ---- words of a newcomer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["help", "Version", "list", "--list".strip("-"), "HELP"])
def test_a_word_that_looks_like_a_command_starts_no_download(here, monkeypatch, word):
    monkeypatch.setattr(download, "ensure_files", None)
    code, out, err = here(word, "--model_size", "355M")
    assert (code, out) == (2, "")
    assert f"did you mean --{word.lower()}?" in err


def test_the_same_word_is_continued_by_a_model_that_is_present(here):
    code, out, err = here("help", "--model_size", "tiny", "-n", "3")
    assert (code, err) == (0, "")
    assert out


def test_a_prompt_that_is_the_name_of_a_file_causes_a_remark(monkeypatch, caplog):
    monkeypatch.chdir(ROOT)
    with caplog.at_level(logging.INFO, logger="picogpt"):
        check_for_command("README.md", check_options({"model_size": "tiny"}))
        assert "There is a file 'README.md'; to continue its text, write --file README.md." in caplog.text
        caplog.clear()
        for prompt in ("README", "", None, "docs", "x" * 5000):
            check_for_command(prompt, check_options({"model_size": "tiny"}))
    assert caplog.text == ""


def test_the_variable_of_the_model_is_named_if_its_value_is_wrong(here, monkeypatch):
    monkeypatch.setenv("PICOGPT_MODEL", "tinny")
    code, _, err = here("a")
    assert code == 2
    assert "PICOGPT_MODEL is set: there is no model 'tinny'" in err
    monkeypatch.setenv("PICOGPT_MODEL", "tiny")
    assert here("a", "-n", "1")[0] == 0
    assert "355M" in here("help", "--model_size", "355M")[2]
