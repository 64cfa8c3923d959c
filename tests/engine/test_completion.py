"""Test engine/completion.py: the text is certain, in order and free of stop strings; every end has its reason."""

import itertools
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.output import Clock, follow
from encoder import Encoder, bytes_to_unicode
from engine.completion import Completion, overlap

BYTES = Encoder(dict(zip(bytes_to_unicode().values(), range(256), strict=True)), [])
END = 0  # the stop id of these tests; no text contains the byte


def writing(data, **options):
    """Return a completion whose sampler chooses these bytes in order."""
    ids = iter(data)
    return Completion(lambda logits, rng: next(ids), encoder=BYTES, stop_ids={END}, **options)


def steps_of(completion, n_tokens):
    """Yield a completion after each step until it ends."""
    while completion.finish_reason is None and n_tokens:
        completion.extend(np.zeros(256), [1], n_tokens)
        yield [completion]


def pieces_and_reason(data, stops=(), n_tokens=None):
    """Return the pieces of text that become certain in each step, and the finish reason."""
    completion = writing(data, stops=stops)
    n_tokens = len(data) if n_tokens is None else n_tokens
    pieces = [piece for _, piece, _ in follow(steps_of(completion, n_tokens), [completion])]
    return pieces, completion.finish_reason or "length"


def cut_at_stop(text, stops):
    """Return the text up to the first stop string, as if characters came one at a time."""
    for n in range(len(text) + 1):
        ends = [stop for stop in stops if text[:n].endswith(stop)]
        if ends:
            return text[: n - max(map(len, ends))], "stop"
    return text, "length"


@pytest.mark.parametrize(
    ("text", "stops", "expected", "expected_reason"),
    [
        ("one two", (), "one two", "length"),
        ("one two", ("two",), "one ", "stop"),
        ("one tw", ("two",), "one tw", "length"),
        ("aaab", ("aab",), "a", "stop"),
        ("ababac", ("abac",), "ab", "stop"),
        ("x", ("x",), "", "stop"),
        ("line\n\nnext", ("\n\n",), "line", "stop"),
        ("一二三", ("二",), "一", "stop"),
        ("abc", ("abc", "b"), "a", "stop"),
        ("", ("a",), "", "length"),
    ],
)
def test_a_text_ends_before_the_stop_string(text, stops, expected, expected_reason):
    pieces, reason = pieces_and_reason(text.encode(), stops)
    assert ("".join(pieces), reason) == (expected, expected_reason)


@given(st.text("ab一", max_size=12), st.lists(st.text("ab一", min_size=1, max_size=4), max_size=3))
def test_a_stream_of_bytes_ends_where_the_complete_text_ends(text, stops):
    pieces, reason = pieces_and_reason(text.encode(), tuple(stops))
    assert ("".join(pieces), reason) == cut_at_stop(text, stops)


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=4))
def test_no_part_of_a_stop_string_becomes_certain_text(text, stop):
    pieces, _ = pieces_and_reason(text.encode() + b"!", (stop,))
    certain = ""
    for piece in pieces[:-1]:
        certain += piece
        assert not any(
            certain.endswith(stop[:n]) and (text + "!")[len(certain) - n :].startswith(stop) for n in range(1, 4)
        )


def test_the_stop_string_that_is_complete_first_ends_the_text():
    words = Encoder({"xabcd": 0}, [])
    for stops in (("cd", "ab"), ("ab", "cd"), ("abcd", "bc"), ("bc", "abcd")):
        completion = Completion(encoder=words, stops=stops)
        completion.extend(np.zeros(1), [0], n_tokens=1)
        assert (completion.text.take(), completion.finish_reason) == ("xabcd"[: 1 + ("bc" in stops)], "stop")


def test_text_becomes_certain_as_early_as_possible_and_in_whole_characters():
    assert pieces_and_reason("añ🤗b".encode())[0] == ["a", "", "ñ", "", "", "", "🤗", "b"]
    assert pieces_and_reason(b"ab.c", (".!",))[0][:4] == ["a", "b", "", ".c"]
    assert "".join(pieces_and_reason("a🤗".encode()[:-1])[0]) == "a�"


def test_follow_yields_the_whole_text_of_a_completion_before_the_next():
    first = writing(b"ab")
    second = writing(b"wxyz")
    clock = Clock()

    def steps():
        for _ in range(4):
            live = [completion for completion in (first, second) if completion.finish_reason is None]
            for completion in live:
                completion.extend(np.zeros(256), [1], n_tokens=2 if completion is first else 4)
            yield live

    pieces = list(follow(clock.watch(steps()), [first, second]))
    assert [(completion is second, piece, is_last) for completion, piece, is_last in pieces if piece or is_last] == [
        (False, "a", False),
        (False, "b", True),
        (True, "wx", False),
        (True, "y", False),
        (True, "z", True),
    ]
    assert 0 < clock.seconds_of(first) < clock.seconds_of(second) == clock.seconds


@pytest.mark.parametrize(
    ("stop", "data"),
    [
        ("a" * 10_000, b"a" * 4000),
        ("a" * 5000 + "b", b"a" * 4000),
        ("ab" * 5000, b"ab" * 2000),
        ("a" * 3000 + "c", b"a" * 2999 + b"b" + b"a" * 1000),
    ],
)
def test_a_long_stop_string_is_compared_in_about_linear_time(stop, data):
    completion = writing(data, stops=[stop])
    start = time.perf_counter()
    for i in range(len(data)):
        completion.text.ids.append(data[i])
        completion.text.read(is_last=False)
    assert time.perf_counter() - start < 2


def test_the_held_text_is_the_longest_end_that_begins_a_stop_string():
    for stop in ("aab", "abab", "a", "aaa", "bab"):
        for text in map("".join, itertools.product("ab", repeat=6)):
            by_definition = max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
            assert overlap(text, stop) == by_definition


# ---- finish reasons --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "options", "is_full", "reason"),
    [
        (b"a", {}, False, None),
        (b"a", {}, True, "context"),
        (b"ab", {}, False, "length"),
        (b"ab", {}, True, "length"),
        (bytes([END]), {}, True, "eos"),
        (b"a", {"stops": ["a"]}, True, "stop"),
        (b"ab", {"stops": ["b"]}, False, "stop"),
        (b"ab", {"stops": ["bc"]}, False, "length"),
    ],
)
def test_each_end_of_a_completion_has_one_finish_reason(data, options, is_full, reason):
    completion = writing(data, **options)
    for i in range(len(data)):
        completion.extend(np.zeros(256), [1], n_tokens=2, is_full=is_full and i == len(data) - 1)
    assert completion.finish_reason == reason
    assert END not in completion.ids


def test_a_completion_without_an_encoder_has_ids_and_no_text():
    completion = Completion()
    completion.extend(np.array([0.0, 1.0]), [0], n_tokens=1)
    assert (completion.ids, completion.text) == ([1], None)


def test_the_ids_of_a_completion_are_python_ints():
    completion = Completion(lambda logits, rng: np.int64(1))
    completion.extend(np.zeros(2), [0], n_tokens=1)
    assert [type(token) for token in completion.ids] == [int]


def test_json_reads_back_a_lone_surrogate_written_with_backslashreplace():
    line = json.dumps("a\ud800\\", ensure_ascii=False).encode("utf-8", "backslashreplace")
    assert json.loads(line) == "a\ud800\\"
