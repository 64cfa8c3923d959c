"""The bundled model: the files in models/tiny are a model that has learnt English, read as transformers reads them."""

from pathlib import Path

import numpy as np
import pytest

from gpt2 import generate, gpt2
from sampling import make_sampler
from utils import load_encoder_hparams_and_params

HERE = Path(__file__).parent

# Written for this test, in the manner of the training text; the model has not seen it.
STORY = (
    "Once upon a time, there was a little boy named Ben. He had a red kite. One windy day, Ben went to the park with "
    "his mom. The wind took the kite up, up into a tall tree. Ben was sad. A big bird saw him and wanted to help. "
    "The bird flew to the top of the tree and gave the kite back to Ben. Ben smiled and said, "
    '"Thank you, bird!" They became good friends.'
)


@pytest.fixture(scope="module")
def tiny():
    return load_encoder_hparams_and_params("tiny", HERE.parent / "models")


def nats_a_token(tiny, ids):
    _, hparams, params = tiny
    logits = gpt2(ids[:-1], **params, n_head=hparams["n_head"]).astype(np.float64)
    log_sums = np.log(np.exp(logits).sum(axis=-1))
    return (log_sums - logits[np.arange(len(ids) - 1), ids[1:]]).mean()


def test_its_sizes_are_those_of_its_card(tiny):
    _, hparams, _ = tiny
    n_params = hparams["n_vocab"] * hparams["n_embd"] + hparams["n_ctx"] * hparams["n_embd"] + 2 * hparams["n_embd"]
    n_params += hparams["n_layer"] * (12 * hparams["n_embd"] ** 2 + 13 * hparams["n_embd"])
    card = (HERE.parent / "models" / "tiny" / "README.md").read_text(encoding="utf-8")
    assert 1_000_000 <= n_params <= 3_500_000
    assert f"{n_params:,}" in card
    assert (hparams["n_vocab"], hparams["n_ctx"]) == (2048, 512)


def test_its_logits_are_those_of_transformers(tiny):
    encoder, hparams, params = tiny
    with np.load(HERE / "golden_tiny.npz") as golden:
        ids, logits, greedy = golden["ids"].tolist(), golden["logits"], golden["greedy"].tolist()
    assert encoder.encode(STORY) == ids
    np.testing.assert_allclose(gpt2(ids, **params, n_head=hparams["n_head"])[-8:], logits, rtol=0, atol=1e-4)
    assert list(generate(ids[:20], params, hparams["n_head"], 100)) == greedy


def test_it_expects_a_story_told_in_order_and_not_the_same_words_shuffled(tiny):
    ids = tiny[0].encode(STORY)
    assert nats_a_token(tiny, ids) < 2.2
    assert nats_a_token(tiny, np.random.default_rng(0).permutation(ids).tolist()) > 5


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("Lily was very happy. She had a big smile on her", " face", " tree"),
        ("Tom and Sam went to the park. They liked to", " play", " apple"),
        ("The dog was very hungry. He wanted to", " eat", " happy"),
        ('"Thank you, Mom!" said', " Lily", " ran"),
    ],
)
def test_it_knows_what_comes_next(tiny, text, right, wrong):
    encoder, hparams, params = tiny
    logits = gpt2(encoder.encode(text), **params, n_head=hparams["n_head"], last_only=True)[-1]
    assert logits[encoder.encode(right)[0]] > logits[encoder.encode(wrong)[0]] + 3


def test_a_story_ends_by_itself_and_leaves_no_mark(tiny):
    encoder, hparams, params = tiny
    stories = [
        encoder.decode(
            generate(
                encoder.encode("Once upon a time"),
                params,
                hparams["n_head"],
                500,
                make_sampler(temperature=0.8),
                np.random.default_rng(seed),
                {encoder.end_of_text},
            )
        )
        for seed in range(4)
    ]
    assert len(set(stories)) == 4
    assert sum(story.rstrip().endswith((".", '"', "!")) for story in stories) >= 2
    assert not any("endoftext" in story for story in stories)
