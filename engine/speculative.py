"""Speculative decoding: a cheap draft proposes tokens, one pass of the model checks all of them.

A pass over several tokens takes little longer than a pass over one, as long as reading the weights takes most of the
time. The model draws its own token at each position, with that position's uniform number; the draft only decides how
many positions of the pass are of use. The text is therefore the text without a draft wherever the logits are equal, bit
for bit, as with int8 weights; in float32 a pass over several positions rounds differently.

    context  the cat sat on the mat . the cat
    draft                                     sat on the mat
    model                                     sat on a            the third token differs: two are accepted, and "a"

Leviathan et al. 2023 ("Fast Inference from Transformers via Speculative Decoding") and Chen et al. 2023 accept a
proposal with probability min(1, p / q) and draw again otherwise. That accepts more often, but needs further random
numbers, so that a seed would give another text.
"""

import copy
import time
from collections.abc import Callable, Iterator

import numpy as np

from engine import prefill
from engine.attention import caches_for
from engine.batching import Job
from engine.completion import Completion
from engine.forward import gpt2
from engine.slots import slide
from gpt2 import check_request, make_kv_cache

LOOKUP = "lookup"
NGRAMS = (4, 3, 2)  # lengths of the sequences that a lookup finds again, the longest first
MOST_DRAFTED = 12
FIRST_DRAFTED = 4
FIRST_PAUSE = 32  # passes without a draft after drafts that cost more than they saved; each pause is longer
N_PLAIN = 3  # passes that measure the time of a single token

# ---- the cache -------------------------------------------------------------------------------------------------


class Positions:
    """A model and the keys and values of a text, from which the newest positions can be removed."""

    def __init__(self, params: dict, n_head: int, n_positions: int):
        self.params = params
        self.n_head = n_head
        self.layers = caches_for(params, make_kv_cache(params, n_head, n_positions))

    @property
    def length(self) -> int:
        return self.layers[0].length

    def cut(self, length: int) -> None:
        """Forget all positions from `length` on."""
        for layer in self.layers:
            layer.length = length

    def last_logits(self, ids: list[int]) -> np.ndarray:  # -> [n_vocab]
        """Add ids; return the logits that follow the last one. A long prompt is computed on all cores."""
        return prefill.prefill(gpt2, ids, self.layers, **self.params, n_head=self.n_head, last_only=True)[-1]

    def logits(self, ids: list[int]) -> np.ndarray:  # -> [n_seq, n_vocab]
        """Add ids; return the logits that follow each of them."""
        return gpt2(ids, cache=self.layers, **self.params, n_head=self.n_head)


# ---- drafts ----------------------------------------------------------------------------------------------------


class Lookup:
    """Proposes the tokens that followed the newest ones where they occurred before in the text.

    A text that repeats a short sequence is expected to go on repeating it. Source: Saxena 2023, "Prompt Lookup
    Decoding".

    >>> Lookup().propose([5, 6, 7, 8, 9, 5, 6], 3, None), Lookup().propose([1, 2, 1, 2], 5, None)
    ([7, 8, 9], [1, 2, 1, 2, 1])
    """

    def __init__(self):
        self.places = {}  # sequence of ids -> where its last occurrence but the newest ends
        self.n_read = 0

    def propose(self, ids: list[int], n: int, completion: Completion | None) -> list[int]:
        """Return up to `n` ids that may follow `ids`."""
        self.read(ids)
        for size in NGRAMS:
            place = self.places.get(tuple(ids[-size:]))
            if place is not None and len(ids) > size:
                period = len(ids) - place
                return [ids[place + i % period] for i in range(n)]
        return []

    def read(self, ids):
        """Note the sequences that end before the last id."""
        if len(ids) < self.n_read:  # the context has slid
            self.places = {}
            self.n_read = 0
        for end in range(max(self.n_read, 1), len(ids)):
            for size in NGRAMS:
                if end >= size:
                    self.places[tuple(ids[end - size : end])] = end
        self.n_read = len(ids)


class ModelDraft:
    """Proposes the tokens of a smaller model with the same vocabulary.

    It draws with copies of the sampler and of the random numbers of the text, so that it draws the same token as the
    model wherever their distributions are alike.
    """

    def __init__(self, params: dict, n_head: int):
        self.params = params
        self.n_head = n_head
        self.cached = []  # ids
        self.positions = None

    def propose(self, ids: list[int], n: int, completion: Completion) -> list[int]:
        """Return up to `n` ids that may follow `ids`."""
        n_ctx = len(self.params["wpe"])
        n = min(n, n_ctx - len(ids))
        if n <= 0:
            return []
        self.positions = self.positions or Positions(self.params, self.n_head, n_ctx)
        self.keep_common(ids)
        sampler = copy.deepcopy(completion.sampler)
        rng = copy.deepcopy(completion.rng)
        drafted = []
        for _ in range(n):
            text = ids + drafted
            logits = self.positions.last_logits(text[self.positions.length :])
            self.cached = text
            if completion.logits_processor:
                logits = completion.logits_processor(logits, text)
            drafted.append(int(sampler(logits, rng)))
        return drafted

    def keep_common(self, ids):
        """Forget the positions in the cache that are not those of `ids`; the last id is always computed."""
        n = 0
        while n < min(len(ids) - 1, len(self.cached)) and ids[n] == self.cached[n]:
            n += 1
        self.positions.cut(min(n, self.positions.length))


class Pace:
    """Decides how many tokens to draft, from the time that passes take and the tokens that they give.

    Drafts that cost more than they save are paused, each time for longer. clock: returns seconds.
    """

    def __init__(self, clock: Callable = time.perf_counter):
        self.clock = clock
        self.n = FIRST_DRAFTED
        self.n_pause = N_PLAIN
        self.next_pause = FIRST_PAUSE
        self.seconds = None  # of a pass over one token
        self.balance = 0.0  # seconds that drafts have saved
        self.start = 0.0

    def n_to_draft(self) -> int:
        self.start = self.clock()
        if self.n_pause:
            self.n_pause -= 1
            return 0
        return self.n

    def count(self, n_drafted: int, n_tokens: int) -> None:
        """Note a pass that began with `n_to_draft`: its number of proposals, and of tokens that it gave."""
        seconds = self.clock() - self.start
        if n_drafted == 0:
            self.seconds = seconds if self.seconds is None else min(seconds, 1.05 * self.seconds)
            return
        saved = n_tokens * self.seconds - seconds
        self.balance = min(self.balance + saved, 10 * self.seconds)
        self.n = min(MOST_DRAFTED, 2 * self.n) if n_tokens > n_drafted else max(1, n_tokens)
        if self.balance < -2 * self.seconds:
            self.n_pause = self.next_pause
            self.next_pause *= 2
            self.balance = 0.0


# ---- the loop --------------------------------------------------------------------------------------------------


def generate_with_draft(
    inputs: list[int],
    params: dict,
    n_head: int,
    n_tokens_to_generate: int,
    completions: list[Completion],
    keep: int | None = None,
    *,
    new_draft: Callable,
) -> Iterator[list[Completion]]:
    """Continue one prompt in one way; the steps and errors are those of engine.batching.generate_samples.

    new_draft: returns a Lookup or a ModelDraft.
    """
    (completion,) = completions
    n_ctx = len(params["wpe"])
    longest = n_ctx if keep is None else max(1, len(inputs))
    prompt = check_request(inputs, n_tokens_to_generate, len(params["wte"]), longest)
    job = Job(prompt, completions, n_tokens_to_generate, keep)
    text = list(slide(prompt, keep, n_ctx))  # the ids in the window
    positions = Positions(params, n_head, min(n_ctx, len(text) + n_tokens_to_generate))
    draft = new_draft()
    pace = Pace()
    while not completion.finish_reason:
        if positions.length == n_ctx:  # the context is full: it slides, and nothing remains cached
            text = list(slide(prompt + completion.ids, keep, n_ctx))
            positions.cut(0)
        drafted = proposals(draft, pace, text, positions, job, completion)
        rows = logits_of(positions, text[positions.length :], drafted)
        n_tokens = 0
        for i, row in enumerate(rows):
            is_full = positions.length - len(drafted) + i == n_ctx
            job.extend(completion, row, is_full)
            n_tokens += 1
            if job.error:
                raise ValueError(job.error)
            yield completions
            if completion.finish_reason:
                return
            text.append(completion.ids[-1])
            if i == len(drafted) or drafted[i] != text[-1]:
                break
        positions.cut(positions.length - len(drafted) + n_tokens - 1)
        pace.count(len(drafted), n_tokens)


def proposals(draft, pace, text, positions, job, completion):
    """Return ids that may follow the text: none for a prompt, and no more than the text and the cache can take."""
    n = pace.n_to_draft()
    n_left = job.n_tokens - len(completion.ids) - 1
    room = positions.layers[0].k.shape[-2] - len(text)
    if positions.length == 0 or min(n, n_left, room) <= 0:
        return []
    return draft.propose(text, min(n, n_left, room), completion)


def logits_of(positions, ids, drafted):
    """Return the logits that follow the last of the new ids and each drafted one, [1 + n_drafted, n_vocab]."""
    if not drafted:
        return positions.last_logits(ids)[None]
    return positions.logits(ids + drafted)[-1 - len(drafted) :]
