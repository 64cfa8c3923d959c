"""Bans and biases that are given as texts: `--banned_words`, and the keys of `--logit_bias` that are no ids."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

import sampling
from cli.checks import shown
from cli.options import Options
from encoder import Encoder


class Words(NamedTuple):
    """The tokens that an option names by their text."""

    logit_bias: dict[int, float]  # also of the tokens given by id
    banned_ids: tuple[int, ...]
    banned_sequences: tuple[tuple[int, ...], ...]  # of several tokens each


def read_words(options: Options, encoder: Encoder) -> Words:
    """Return the tokens of a model. Raise ValueError if a text in logit_bias is not one token."""
    biases = {}
    for key, number in (options.logit_bias or {}).items():
        biases[key if type(key) is int else token_of(key, encoder)] = number
    found = {ids for word in options.banned_words for ids in spellings(word, encoder)}
    single = tuple(ids[0] for ids in found if len(ids) == 1)
    return Words(biases, (*options.banned_ids, *single), tuple(sorted(ids for ids in found if len(ids) > 1)))


def token_of(text: str, encoder: Encoder) -> int:
    """Return the id of a text that is one token."""
    ids = encoder.encode(text)
    if len(ids) != 1:
        tokens = ", ".join(shown(encoder.decode([i])) for i in ids[:8])
        raise ValueError(
            f"logit_bias has the text {shown(text)}, which is {len(ids)} tokens of this model ({tokens}); it must be "
            "one token, and a word within a text begins with a space"
        )
    return ids[0]


def spellings(word: str, encoder: Encoder) -> Iterator[tuple[int, ...]]:
    """Yield the ids of a word, with and without a space before it. A vocabulary without its characters has none."""
    for spelling in dict.fromkeys((word, f" {word.lstrip(' ')}")):
        try:
            ids = encoder.encode(spelling)
        except ValueError:
            continue
        if ids:
            yield tuple(ids)


def without_sequences(processor: Callable | None, sequences: Sequence[tuple[int, ...]]) -> Callable | None:
    """Return a logits processor that also bans sequences of tokens, by their last token.

    Source: bad_words_ids of transformers.
    """
    if not sequences:
        return processor

    def process(logits: np.ndarray, ids: list[int]) -> np.ndarray:  # [n_vocab] -> [n_vocab]
        changed = processor(logits, ids) if processor else logits
        last = [last for *first, last in sequences if ids[-len(first) :] == first]
        return sampling.ban(changed, ids, last) if last else changed

    return process
