"""From ids to stdout: what is shown is certain, in order, and nothing of a stop string."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.output import Clock, Text, follow
from encoder import Encoder, bytes_to_unicode
from sampling import Sample

BYTES = Encoder(dict(zip(bytes_to_unicode().values(), range(256), strict=True)), [])


def told(data, stops=(), ended="length"):
    """The pieces in which bytes are shown as they come, and why the text ended."""
    sample = Sample()
    text = Text(sample, BYTES, stops, Clock())

    def steps():
        for i, byte in enumerate(data):
            sample.ids.append(byte)
            sample.ended = ended if i == len(data) - 1 else None
            yield [sample]
            if sample.ended == "stop":
                return
        sample.ended = sample.ended or ended

    return [piece for _, piece, _ in follow(steps(), [text])], sample.ended


def stopped_by_hand(text, stops):
    """The text up to the first stop string, as it would be if characters came one at a time."""
    for n in range(len(text) + 1):
        ends = [stop for stop in stops if text[:n].endswith(stop)]
        if ends:
            return text[: n - max(map(len, ends))], "stop"
    return text, "length"


@pytest.mark.parametrize(
    ("text", "stops", "shown", "why"),
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
def test_a_text_ends_before_the_stop_string(text, stops, shown, why):
    pieces, ended = told(text.encode(), stops)
    assert ("".join(pieces), ended) == (shown, why)


@given(st.text("ab一", max_size=12), st.lists(st.text("ab一", min_size=1, max_size=4), max_size=3))
def test_stopping_in_a_stream_of_bytes_is_stopping_by_hand(text, stops):
    pieces, ended = told(text.encode(), tuple(stops))
    assert ("".join(pieces), ended) == stopped_by_hand(text, stops)


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=4))
def test_what_is_shown_is_never_the_beginning_of_a_stop_string(text, stop):
    pieces, _ = told(text.encode() + b"!", (stop,))
    shown = ""
    for piece in pieces[:-1]:
        shown += piece
        assert not any(
            shown.endswith(stop[:n]) and (text + "!")[len(shown) - n :].startswith(stop) for n in range(1, 4)
        )


def test_of_two_stop_strings_in_one_token_the_one_that_is_complete_first_counts():
    words = Encoder({"xabcd": 0}, [])
    for stops in (("cd", "ab"), ("ab", "cd"), ("abcd", "bc"), ("bc", "abcd")):
        sample = Sample()
        sample.ids, sample.ended = [0], "length"
        shown = [piece for _, piece, _ in follow([], [Text(sample, words, stops, Clock())])]
        assert ("".join(shown), sample.ended) == ("xabcd"[: 1 + ("bc" in stops)], "stop")


def test_text_is_shown_as_soon_as_it_is_certain_and_characters_whole():
    assert told("añ🤗b".encode())[0] == ["a", "", "ñ", "", "", "", "🤗", "b"]
    assert told(b"ab.c", (".!",))[0][:4] == ["a", "b", "", ".c"]
    assert "".join(told("a🤗".encode()[:-1])[0]) == "a�"


def test_samples_are_shown_one_after_another_though_they_grow_side_by_side():
    samples = [Sample(), Sample()]
    clock = Clock()

    def steps():
        for i in range(4):
            for sample, letters in zip(samples, (b"ab", b"wxyz"), strict=True):
                if sample.ended is None:
                    sample.ids.append(letters[i])
                    sample.ended = "length" if i == len(letters) - 1 else None
            yield samples

    texts = [Text(sample, BYTES, (), clock) for sample in samples]
    shown = [(texts.index(text), piece, is_last) for text, piece, is_last in follow(clock.watch(steps()), texts)]
    assert [one for one in shown if one[1] or one[2]] == [
        (0, "a", False),
        (0, "b", True),
        (1, "wx", False),
        (1, "y", False),
        (1, "z", True),
    ]
    assert 0 < texts[0].seconds < texts[1].seconds == clock.seconds


def test_half_a_surrogate_pair_comes_back_from_json_as_it_was():
    line = json.dumps("a\ud800\\", ensure_ascii=False).encode("utf-8", "backslashreplace")
    assert json.loads(line) == "a\ud800\\"
