"""explore.py page: the file that it writes, without a browser. test_page_browser.py opens it in Chromium."""

import base64
import gzip
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load
from views_helpers import run_explore

import gpt2_pico
import utils
from random_gpt2 import random_params
from views import inside
from views.page import build, weights


@pytest.fixture(scope="module")
def tiny():
    return utils.load("tiny")


def write_page(here, tmp_path, *words):
    path = tmp_path / "page.html"
    assert run_explore(here, "page", *words, "--output", path) == (0, "", "")
    return path.read_text(encoding="utf-8")


def parts_of(html):
    """Return the description and the tensors of a page."""
    description = json.loads(re.search(r'id="description">(.*?)</script>', html)[1])
    packed = re.search(r'id="data">(.*?)</script>', html)[1]
    return description, load(gzip.decompress(base64.b64decode(packed)))


# ---- the file --------------------------------------------------------------------------------------------------


def test_the_file_refers_to_no_other_resource(here, tmp_path):
    html = write_page(here, tmp_path, "--toy")
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', html) == []
    assert "default-src 'none'" in html and "@import" not in html and "url(" not in html


def test_the_same_command_writes_the_same_file(here, tmp_path):
    assert write_page(here, tmp_path, "--toy") == write_page(here, tmp_path, "--toy")


def test_the_bundled_model_is_the_default_and_a_page_of_it_has_at_most_five_megabytes(here, tmp_path):
    html = write_page(here, tmp_path)
    description, _ = parts_of(html)
    assert (description["model"], description["is_live"]) == ("tiny", True)
    assert len(html) < 5_000_000


@pytest.mark.parametrize("text", ["</script><b>", "<!-- x", "@data @scripts @title", "\u2028 \\ \" '"])
def test_a_prompt_cannot_change_the_page(here, tmp_path, text):
    html = write_page(here, tmp_path, text)
    description, _ = parts_of(html)
    assert description["prompt"] == text
    assert html.count("<script") == write_page(here, tmp_path).count("<script")


def test_settings_of_the_command_line_are_those_of_the_page(here, tmp_path):
    words = ("--toy", "--strategy", "top_p", "--top_p", "0.5", "--repetition_penalty", "1.2", "--lesson")
    description, _ = parts_of(write_page(here, tmp_path, *words))
    assert description["settings"] == {"top_p": 0.5, "repetition_penalty": 1.2}
    assert description["is_lesson"] is True
    assert parts_of(write_page(here, tmp_path, "--toy"))[0]["settings"] == {"temperature": 1.0}
    assert parts_of(write_page(here, tmp_path, "--toy", "--strategy", "greedy"))[0]["settings"] == {"temperature": 0}


# ---- the weights -----------------------------------------------------------------------------------------------


def test_the_error_of_a_weight_is_at_most_half_a_step_of_its_output():
    rows = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    rows[3] = 0
    values, scales = weights.quantize(rows)
    assert np.abs(values).max() == 127
    assert np.all(np.abs(values * scales[:, None] - rows) <= 0.5001 * scales[:, None])
    assert np.array_equal(values[3], np.zeros(30))


def test_the_tensors_are_the_weights_with_the_error_of_int8(tiny):
    tensors, constants = weights.as_tensors(tiny.params)
    changed = weights.flat(weights.with_dequantized(tiny.params))
    assert constants == {}
    for name, array in weights.flat(tiny.params).items():
        found = changed[name]
        assert found.shape == array.shape
        if array.ndim == 2:
            rows = tensors[name] * tensors[f"{name}.scale"][:, None]
            assert np.array_equal(weights.as_rows(name, found), rows)
        else:
            assert np.array_equal(found, array)


# ---- a recording -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tiny):
    """The description and the tensors of a recording of the bundled model, which is small enough to be checked."""
    from cli.command_flags import EXPLORE_FLAGS
    from cli.options import check_each

    options = check_each({"steps": 6}, EXPLORE_FLAGS)
    ids = tiny.encode("Once upon a time")
    return build.recorded(tiny, ids, {"temperature": 0.9}, options, seed=3)


def test_a_recording_has_the_logits_of_each_step(tiny, recorded):
    description, tensors = recorded
    ids = tensors["ids"].tolist()
    assert description["hparams"]["n_steps"] == len(description["draws"]) == 6 and len(ids) == 10
    logits = gpt2_pico.gpt2(ids, **tiny.params, n_head=tiny.n_head)[3:9]  # [6, n_vocab]
    relative = logits - logits.max(axis=1, keepdims=True)
    assert np.allclose(tensors["other_logits"], relative, atol=0.02)
    best = tensors["best_ids"]
    assert best.shape == (6, 512)
    assert np.allclose(tensors["best_logits"], np.take_along_axis(relative, best, axis=1), atol=1e-4)


def test_a_recording_has_the_attention_the_lens_and_the_surprise_of_each_position(tiny, recorded):
    _, tensors = recorded
    ids = tensors["ids"].tolist()
    attention = inside.attention(ids, tiny)  # [n_layer, n_head, n_seq, n_seq]
    assert np.allclose(attention.sum(axis=-1), 1, atol=1e-5)
    stored = tensors["weights"]
    assert len(stored) == 6 * 3 * 55
    assert np.allclose(stored[-180:].reshape(6, 3, 10), attention[:, :, 9], atol=1e-3)
    logits = gpt2_pico.gpt2(ids, **tiny.params, n_head=tiny.n_head)
    logprobs = logits - logits.max(axis=1, keepdims=True)
    logprobs -= np.log(np.exp(logprobs).sum(axis=1, keepdims=True))
    assert np.array_equal(tensors["lens_ids"][:, -1, 0], logits.argmax(axis=1))
    assert np.allclose(tensors["lens_probs"][:, -1, 0], np.exp(logprobs.max(axis=1)), atol=1e-4)
    expected = [-logprobs[i, token] / np.log(2) for i, token in enumerate(ids[1:])]
    assert np.allclose(tensors["surprises"][1:], expected, atol=1e-3)


def test_a_model_of_more_than_20_million_parameters_is_recorded(tiny):
    params = random_params(n_vocab=2048, n_ctx=16, n_embd=8, n_head=2, n_layer=1)
    large = replace(tiny, params=params | {"wte": np.zeros((10**6, 20), np.float32)})
    assert build.is_live(tiny) and not build.is_live(large)


# ---- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a page needs a file: add --output page.html"),
        (("--output", "page.txt"), "its name must end in .html, .htm"),
        (("--output", "nowhere/page.html"), "there is no folder 'nowhere'"),
        (("--output", "a.html", "--temperature", "1,2"), "temperature has several values; page takes one"),
        (("--output", "a.html", "--strategy", "mirostat"), "strategy is 'mirostat'; a page has no mirostat"),
        (("--output", "a.html", "--mirostat_tau", "3"), "page takes no --mirostat_tau"),
        (("--output", "a.html", "--top_p", "2"), "top_p is 2"),
    ],
)
def test_a_usage_error_prints_one_line_before_a_model_is_loaded(here, monkeypatch, words, message):
    monkeypatch.setattr(utils, "load_found", None)
    code, out, err = run_explore(here, "page", *words)
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_recording_that_would_be_too_long_is_a_usage_error(here, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "MAX_LIVE", 10)
    words = ("word " * 200, "--steps", "100", "--output", tmp_path / "a.html")
    code, _, err = run_explore(here, "page", *words)
    assert code == 2 and "together: shorten the prompt, or reduce --steps" in err
    assert not (tmp_path / "a.html").exists()
