"""One continuation of a prompt: it chooses tokens, assembles their text and decides why the text ends.

The finish reasons: "eos", a stop id; "stop", a stop string; "length", the number of tokens; "context", the end of the
context; "error", a sampler that failed.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from encoder import Encoder
from gpt2 import check_id
from sampling import greedy


class Completion:
    """One continuation of a prompt: its settings and, so far, its ids and text.

    sampler: (logits [n_vocab], rng) -> id. rng: the numpy Generator for the sampler. logits_processor: (logits, ids)
    -> logits, or None. stop_ids: ids that end the text and do not belong to it.
    encoder: assembles the text, which follows the ids `before`; None if only the ids are needed. stops: strings that
    end the text once it has `shortest` tokens.
    on_token: an observer, called after each choice with the raw logits, the processed logits and the chosen id.

    Attributes: `ids`, the new ids; `finish_reason`, None while the text goes on; `text`, a Text or None. A caller may
    end a completion by setting `finish_reason`.

    >>> completion = Completion(stop_ids={2})
    >>> for logits in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]):
    ...     completion.extend(np.array(logits), prompt=[0], n_tokens=5)
    >>> completion.ids, completion.finish_reason
    ([1], 'eos')
    """

    def __init__(
        self,
        sampler: Callable = greedy,
        rng: np.random.Generator | None = None,
        logits_processor: Callable | None = None,
        stop_ids: Collection[int] = (),
        *,
        encoder: Encoder | None = None,
        before: Collection[int] = (),
        stops: Sequence[str] = (),
        shortest: int = 0,
        on_token: Callable | None = None,
    ):
        self.sampler = sampler
        self.rng = rng
        self.logits_processor = logits_processor
        self.stop_ids = stop_ids
        self.on_token = on_token
        self.ids = []
        self.finish_reason = None
        self.text = Text(self.ids, encoder, stops, before, shortest) if encoder else None

    def extend(self, logits: np.ndarray, prompt: list[int], n_tokens: int, is_full: bool = False) -> None:
        """Choose one more token from the logits [n_vocab] that follow the ids `prompt + self.ids`.

        n_tokens: the number of tokens that ends the text. is_full: the context has no room for another position.
        """
        token = self.choose(logits, prompt)
        if token in self.stop_ids:
            self.finish_reason = "eos"
        else:
            self.ids.append(token)
            if len(self.ids) == n_tokens:
                self.finish_reason = "length"
            elif is_full:
                self.finish_reason = "context"
        if self.text and self.text.read(is_last=self.finish_reason is not None):
            self.finish_reason = "stop"

    def choose(self, logits, prompt):
        """Return the id that the sampler chooses from the processed logits."""
        processed = self.logits_processor(logits, prompt + self.ids) if self.logits_processor else logits
        token = check_id(self.sampler(processed, self.rng), len(logits), "the sampler returned")
        if self.on_token:
            self.on_token(logits, processed, token)
        return token


class Text:
    """The text of a list of ids that grows. Text that may be part of a character or of a stop string is held back."""

    def __init__(
        self,
        ids: list[int],
        encoder: Encoder,
        stops: Sequence[str] = (),
        before: Collection[int] = (),
        shortest: int = 0,
    ):
        self.ids = ids
        self.stops = stops
        self.shortest = shortest
        self.pieces = encoder.stream(iter(ids), before)  # one piece per id
        self.n_read = 0
        self.held = ""  # may be the beginning of a stop string
        self.certain = ""  # not yet taken

    def read(self, is_last: bool) -> bool:
        """Add the pieces of new ids; return whether a stop string is complete. is_last: no more ids will follow."""
        n_new = len(self.ids) - self.n_read
        self.held += "".join(next(self.pieces) for _ in range(n_new))
        self.n_read = len(self.ids)
        if is_last:
            self.held += "".join(self.pieces)  # what remains of an incomplete character
        n_certain, is_stopped = self.split_held(is_last)
        self.certain += self.held[:n_certain]
        self.held = self.held[n_certain:]
        return is_stopped

    def split_held(self, is_last):
        """Return how many characters of `held` are certain, and whether a stop string follows them."""
        stops = self.stops if len(self.ids) >= self.shortest else ()
        found = [(at + len(stop), at) for stop in stops if (at := self.held.find(stop)) >= 0]
        if found:
            _, start = min(found)  # the stop string that is complete first, as if characters came one at a time
            return start, True
        if is_last:
            return len(self.held), False
        return len(self.held) - max((overlap(self.held, stop) for stop in stops), default=0), False

    def take(self) -> str:
        """Return the certain text that has not been taken before."""
        text = self.certain
        self.certain = ""
        return text


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`, without being all of it.

    >>> overlap("and the", "the end"), overlap("the end", "the end"), overlap("tot", "tott"), overlap("an", "the")
    (3, 0, 3, 0)
    """
    start = max(0, len(text) - len(stop) + 1)
    while (start := text.find(stop[:1], start)) >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0
