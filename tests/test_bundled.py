"""Test the bundled model: models/tiny has learnt English, and its logits equal those of transformers."""

from pathlib import Path

import numpy as np
import pytest

from gpt2 import generate, gpt2
from sampling import make_sampler
from utils import load_encoder_hparams_and_params

HERE = Path(__file__).parent

# Written for this test in the style of the training text, which does not contain it.
STORY = (
    "Once upon a time, there was a little boy named Ben. He had a red kite. One windy day, Ben went to the park with "
    "his mom. The wind took the kite up, up into a tall tree. Ben was sad. A big bird saw him and wanted to help. "
    "The bird flew to the top of the tree and gave the kite back to Ben. Ben smiled and said, "
    '"Thank you, bird!" They became good friends.'
)


@pytest.fixture(scope="module")
def tiny():
    return load_encoder_hparams_and_params("tiny", HERE.parent / "models")


def nats_per_token(tiny, ids):
    """Return the mean of -ln p over the tokens after the first."""
    _, hparams, params = tiny
    logits = gpt2(ids[:-1], **params, n_head=hparams["n_head"]).astype(np.float64)
    log_sums = np.log(np.exp(logits).sum(axis=-1))
    return (log_sums - logits[np.arange(len(ids) - 1), ids[1:]]).mean()


def test_the_sizes_of_the_bundled_model_are_those_of_its_model_card(tiny):
    _, hparams, _ = tiny
    n_params = hparams["n_vocab"] * hparams["n_embd"] + hparams["n_ctx"] * hparams["n_embd"] + 2 * hparams["n_embd"]
    n_params += hparams["n_layer"] * (12 * hparams["n_embd"] ** 2 + 13 * hparams["n_embd"])
    card = (HERE.parent / "models" / "tiny" / "README.md").read_text(encoding="utf-8")
    assert 1_000_000 <= n_params <= 3_500_000
    assert f"{n_params:,}" in card
    assert (hparams["n_vocab"], hparams["n_ctx"]) == (2048, 512)


def test_the_logits_of_the_bundled_model_equal_those_of_transformers(tiny):
    encoder, hparams, params = tiny
    with np.load(HERE / "golden_tiny.npz") as golden:
        ids = golden["ids"].tolist()
        logits = golden["logits"]
        greedy = golden["greedy"].tolist()
    assert encoder.encode(STORY) == ids
    np.testing.assert_allclose(gpt2(ids, **params, n_head=hparams["n_head"])[-8:], logits, rtol=0, atol=1e-4)
    assert list(generate(ids[:20], params, hparams["n_head"], 100)) == greedy


def test_the_bundled_model_prefers_a_story_to_its_words_in_random_order(tiny):
    ids = tiny[0].encode(STORY)
    assert nats_per_token(tiny, ids) < 2.2
    assert nats_per_token(tiny, np.random.default_rng(0).permutation(ids).tolist()) > 5


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("Lily was very happy. She had a big smile on her", " face", " tree"),
        ("Tom and Sam went to the park. They liked to", " play", " apple"),
        ("The dog was very hungry. He wanted to", " eat", " happy"),
        ('"Thank you, Mom!" said', " Lily", " ran"),
    ],
)
def test_the_bundled_model_prefers_a_plausible_next_word(tiny, text, right, wrong):
    encoder, hparams, params = tiny
    logits = gpt2(encoder.encode(text), **params, n_head=hparams["n_head"], last_only=True)[-1]
    assert logits[encoder.encode(right)[0]] > logits[encoder.encode(wrong)[0]] + 3


def test_the_stories_of_the_bundled_model_end_without_an_end_of_text_mark(tiny):
    encoder, hparams, params = tiny
    prompt = encoder.encode("Once upon a time")
    sampler = make_sampler(temperature=0.8)
    stories = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        ids = generate(prompt, params, hparams["n_head"], 500, sampler, rng, stop_ids={encoder.end_of_text})
        stories.append(encoder.decode(ids))
    assert len(set(stories)) == 4
    assert sum(story.rstrip().endswith((".", '"', "!")) for story in stories) >= 2
    assert not any("endoftext" in story for story in stories)
