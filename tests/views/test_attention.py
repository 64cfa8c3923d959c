"""explore.py attention and views/inside.py: the weights and predictions are those of the reference model."""

import json
from functools import partial

import numpy as np
import pytest
from views_helpers import STORY, run_explore, stdout_of

import gpt2
import gpt2_pico
import utils
from random_gpt2 import HPARAMS
from views import inside


@pytest.fixture
def seen(here):
    return partial(stdout_of, here, "attention")


@pytest.fixture
def model(any_params):
    return utils.Model("random", None, HPARAMS, any_params, None)


IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def weights_of_pico(ids, params, n_head, monkeypatch):
    """Return the weights that gpt2_pico.py computes: every result of its softmax, [n_layer, n_head, n_seq, n_seq]."""
    computed = []
    softmax = gpt2_pico.softmax
    with monkeypatch.context() as patch:
        patch.setattr(gpt2_pico, "softmax", lambda x: computed.append(softmax(x)) or computed[-1])
        gpt2_pico.gpt2(ids, **params, n_head=n_head)
    return np.array(computed).reshape(len(params["blocks"]), n_head, len(ids), len(ids))


def test_the_weights_are_those_of_gpt2_pico(model, monkeypatch):
    expected = weights_of_pico(IDS, model.params, model.n_head, monkeypatch)
    assert np.allclose(inside.attention(IDS, model), expected, atol=1e-6)


def test_the_last_prediction_is_that_of_the_model(model):
    *_, (x, _) = inside.layers(IDS, model)
    logits = gpt2.gpt2(IDS, **model.params, n_head=model.n_head)
    for found, expected in zip(inside.lens(x, model), logits, strict=True):
        assert np.allclose(found, np.exp(expected) / np.exp(expected).sum(), atol=1e-5)


def test_there_is_a_residual_stream_for_the_embedding_and_each_block(model):
    streams = [x for x, _ in inside.layers(IDS, model)]
    assert len(streams) == 1 + HPARAMS["n_layer"]
    embedded = model.params["wte"][IDS] + model.params["wpe"][: len(IDS)]
    assert np.allclose(streams[0], embedded)


def test_the_table_is_the_mean_of_the_heads(seen):
    tiny = utils.load("tiny")
    expected = inside.attention(tiny.encode(STORY), tiny)[:, :, -1]
    lines = seen(STORY, "--model_size", "tiny").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("place"))
    found = [float(line.split()[2]) for line in lines[at + 1 : at + 5]]
    assert found == pytest.approx(expected.mean(axis=(0, 1)), abs=1e-4)
    one = seen(STORY, "--model_size", "tiny", "--layer", "2", "--head", "3").splitlines()
    at = next(i for i, line in enumerate(one) if line.startswith("place"))
    found = [float(line.split()[2]) for line in one[at + 1 : at + 5]]
    assert found == pytest.approx(expected[1, 2], abs=1e-4)
    assert "largest weight" not in "\n".join(one)


def test_the_json_has_all_weights_of_the_last_token(seen):
    found = json.loads(seen(STORY, "--model_size", "tiny", "--json"))
    tiny = utils.load("tiny")
    assert [token["id"] for token in found["tokens"]] == tiny.encode(STORY)
    assert np.allclose(found["weights"], inside.attention(tiny.encode(STORY), tiny)[:, :, -1], atol=1e-5)
    assert found["tokens"][1]["token"] == " upon"


def test_of_a_long_text_the_largest_weights_are_shown(seen):
    lines = seen("One day " * 60, "--model_size", "tiny", "--rows", "7").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("place"))
    assert "more, together" in lines[at + 8]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--layer", "7"), "layer is 7; this model has layers 1 to 6"),
        (("--head", "4"), "head is 4; this model has heads 1 to 3"),
        (("--layer", "0"), "layer is 0; it must be a whole number from 1 upwards"),
        (("--top_p", "0.5"), "attention takes no --top_p"),
    ],
)
def test_a_usage_error_prints_one_line(here, words, message):
    code, out, err = run_explore(here, "attention", STORY, "--model_size", "tiny", *words)
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)
