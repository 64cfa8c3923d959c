"""explore.py tokens: ids, bytes and merges are those of the encoder."""

import json
import random
from functools import partial

import pytest
from views_helpers import run_explore, stdout_of

import encoder
import utils
from views import tokens

TEXT = " unbelievable 你\n🙂"


@pytest.fixture(scope="module")
def tiny():
    return utils.load("tiny")


@pytest.fixture
def seen(here):
    return partial(stdout_of, here, "tokens")


def test_the_json_has_the_ids_and_the_bytes_of_every_token(seen, tiny):
    found = json.loads(seen(TEXT, "--model_size", "tiny", "--json"))["tokens"]
    assert [token["id"] for token in found] == tiny.encoder.encode(TEXT)
    assert bytes.fromhex("".join(token["bytes"] for token in found)).decode() == TEXT
    assert found[0]["token"].startswith(" ") and found[0]["name"].startswith("␣")


def test_the_table_has_a_line_per_token_and_a_summary(seen, tiny):
    *rows, blank, summary = seen(TEXT, "--model_size", "tiny").splitlines()[1:]
    assert [int(row.split()[1]) for row in rows] == tiny.encoder.encode(TEXT)
    assert blank == "" and summary.startswith(f"{len(rows)} tokens, 17 characters, 22 bytes; ")


def test_the_merges_end_with_the_tokens(seen, tiny):
    found = json.loads(seen(TEXT, "--model_size", "tiny", "--merges", "--json"))
    assert "".join(piece["piece"] for piece in found["pieces"]) == TEXT
    last = [piece["merges"][-1]["symbols"] if piece["merges"] else [None] for piece in found["pieces"]]
    assert last[0] == [token["name"] for token in found["tokens"][: len(last[0])]]
    ranks = list(tiny.encoder.ranks)
    for piece in found["pieces"]:
        for merge in piece["merges"]:
            assert "".join(merge["pair"]) in merge["symbols"]
            assert ranks[merge["rank"]] == tuple(part.replace("␣", "Ġ") for part in merge["pair"])


def test_the_steps_end_where_the_bpe_ends():
    rng = random.Random(0)
    for _ in range(300):
        pairs = [(rng.choice("ab"), rng.choice("ab")) for _ in range(3)]
        pairs += [("".join(rng.choice("ab") for _ in range(2)), rng.choice(("a", "ab"))) for _ in range(4)]
        ranks = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
        symbols = [rng.choice("ab") for _ in range(rng.randint(1, 12))]
        steps = [after for after, _, _ in tokens.merge_steps(symbols, ranks)]
        assert [symbols, *steps][-1] == encoder.bpe(symbols, ranks)


def test_a_very_long_piece_has_no_merges_but_its_tokens(seen):
    out = seen("a" * 5000, "--model_size", "tiny", "--merges")
    assert "merge " not in out and "5000 characters" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("", "--model_size", "tiny"), "there are no tokens to show: the text is empty"),
        (("--toy", "--merges"), "this model's vocabulary has no merges that can be shown"),
        (("x", "--toy"), "'x' is not in the vocabulary of the toy model"),
        (("x", "--model_size", "tiny", "--top_k", "3"), "tokens takes no --top_k"),
    ],
)
def test_a_usage_error_prints_one_line(here, words, message):
    code, out, err = run_explore(here, "tokens", *words)
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_text_longer_than_the_context_is_shown(seen):
    assert seen("word " * 2000, "--model_size", "tiny").count("\n") > 2000
