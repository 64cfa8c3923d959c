"""One call of a loaded model gives the texts of the command."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import utils
from engine.completion import Completion
from gpt2 import generate

ROOT = Path(__file__).parent.parent.parent
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model():
    return utils.load("tiny", "models")


def of_the_command(*arguments):
    """Return the records of gpt2.py."""
    command = [sys.executable, "gpt2.py", PROMPT, "--model_size", "tiny", "--json", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_three_lines_give_the_greedy_text(model):
    found = model.complete(PROMPT, n_tokens_to_generate=20)
    assert found == model.encoder.decode(list(generate(model.encode(PROMPT), model.params, model.n_head, 20)))


def test_a_seed_gives_the_records_of_the_command(model):
    settings = {"temperature": 0.8, "top_p": 0.9, "seed": 5, "num_samples": 2, "stop": ".", "logprobs": 2}
    expected = of_the_command(
        "--temperature", 0.8, "--top_p", 0.9, "--seed", 5, "--num_samples", 2, "--stop", ".", "--logprobs", 2
    )
    found = model.records(PROMPT, **settings)
    for record in found + expected:
        del record["timings"]
    assert json.loads(json.dumps(found)) == expected
    texts = model.complete(PROMPT, **{name: value for name, value in settings.items() if name != "logprobs"})
    assert texts == [record["text"] for record in expected]


def test_several_prompts_give_several_texts_in_their_order(model):
    prompts = ["A dog", "", "The cat and the dog", "A dog"]
    settings = {"temperature": 1, "seed": 3, "n_tokens_to_generate": 8}
    texts = model.complete(prompts, **settings)
    assert len(texts) == 4
    assert texts[0] == model.complete("A dog", **settings)
    assert texts[0] != texts[3]
    samples = model.complete(prompts, num_samples=2, **settings)
    assert [len(of_prompt) for of_prompt in samples] == [2, 2, 2, 2]
    assert model.complete(prompts[:1], **settings) == texts[:1]
    assert model.complete([]) == []


def test_a_stream_yields_the_text_in_pieces(model):
    settings = {"temperature": 0.7, "seed": 1, "stop": ["!", "."], "echo": True}
    pieces = list(model.stream(PROMPT, **settings))
    assert len(pieces) > 5
    assert pieces[0] == PROMPT
    assert "".join(pieces) == model.complete(PROMPT, **settings)


def test_int8_weights_and_operands_give_texts_too(model):
    pytest.importorskip("numba")
    text = utils.load("tiny", "models", weights="int8").complete(PROMPT, n_tokens_to_generate=5)
    assert text == model.complete(PROMPT, n_tokens_to_generate=5)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (PROMPT, {"temprature": 1}, "temperature"),
        (PROMPT, {"temperature": -1}, "temperature"),
        (PROMPT, {"num_samples": 0}, "num_samples"),
        (PROMPT, {"output": "x"}, "output"),
        (5, {}, "a prompt is 5, of the type int; it must be a text"),
        ([PROMPT, None], {}, "a prompt is None, of the type NoneType; it must be a text"),
        ([PROMPT, "word " * 600], {}, "tokens; this model reads at most 512"),
    ],
)
def test_an_invalid_call_is_an_error_in_one_sentence(model, prompt, settings, message):
    with pytest.raises(ValueError, match=message):
        model.complete(prompt, **settings)


def test_a_stream_of_several_samples_is_refused_before_it_begins(model):
    with pytest.raises(ValueError, match="num_samples is 2; stream continues one text: use complete"):
        model.stream(PROMPT, num_samples=2)


@pytest.mark.parametrize("bad", [-1, 3.5, 2048, "x", None, math.nan])
def test_an_id_that_the_model_does_not_have_is_an_error_of_the_sampler(model, bad):
    message = f"the sampler returned the token id {bad}; this model's ids are 0 to 2047"
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        list(generate([1, 2], model.params, model.n_head, 3, lambda logits, rng: bad))
    with pytest.raises(ValueError, match="the sampler returned"):
        Completion(lambda logits, rng: bad).extend(np.zeros(2048), [1], 3)
    with pytest.raises(ValueError, match="the sampler returned"):
        model.complete(PROMPT, strategy=lambda logits, rng: bad)


@pytest.mark.parametrize("prompt", ["Once", ["Once"], [1.5], [[1, 2]]])
def test_a_prompt_of_the_loop_must_be_encoded(model, prompt):
    with pytest.raises(ValueError, match=r"encode a text first"):
        list(generate(prompt, model.params, model.n_head, 3))
