"""Many prompts at once: continuous batching.

A decoding step reads every weight once, whether it computes a token for one text or for sixty-four, so texts should
share it. Texts of different lengths can: each has a slot with keys and values of its own, all slots take each step
together, and when a text ends the next prompt takes its slot at once (Yu et al. 2022, "Orca").

    jobs -> sequences -> admit: prefill, a slot for each -> step: one token for all -> leave: the slot is free again

All that is specific to texts of different lengths is in SlotCache; the model is gpt2.py's, as it is.
"""

import itertools

import numpy as np

from engine import prefill as threads
from gpt2 import LayerCache, gpt2, kv_cache, slide, transformer

PREFILL_TOKENS = 512  # of new prompts that are computed in one pass: enough for the products, little for the memory


class Job:
    """A prompt and how it is to be continued.

    prompt: ids, one or more. samples: sampling.Sample objects, which get the new ids. n_tokens: how many at most, from
    1. keep: as in gpt2.generate_samples. `error` stays None unless a sampler could not go on; then it says why.
    """

    def __init__(self, prompt, samples, n_tokens, keep=None):
        self.prompt, self.samples, self.n_tokens, self.keep, self.error = prompt, samples, n_tokens, keep, None

    def extend(self, sample, logits, is_full):
        """Choose the sample's next token, and note if it is the last. is_full: the context has no room for another."""
        try:
            sample.extend(logits, self.prompt)
        except ValueError as error:  # of this job alone: the other slots go on
            self.error = str(error)
            for other in self.samples:
                other.ended = "error"
        if len(sample.ids) == self.n_tokens:
            sample.ended = sample.ended or "length"
        elif is_full and self.keep is None:
            sample.ended = sample.ended or "context"


class Prefix:
    """The ids a sequence begins with, and, once computed, where the keys and values are of all but the last."""

    def __init__(self, ids):
        self.ids, self.cache, self.row = ids, None, None


class Sequence:
    """A sample in a slot. Its newest id is not in the cache yet: the next step puts it there."""

    def __init__(self, job, sample, prefix):
        self.job, self.sample, self.prefix = job, sample, prefix
        self.newest, self.n_cached = prefix.ids[-1], len(prefix.ids) - 1


class SlotCache(LayerCache):
    """The keys and values of one layer for sequences of different lengths: `length` is [n_rows, 1]."""

    def append(self, k, v):  # [n_rows, n_head, 1, d_head] twice -> [n_rows, n_head, n_total, d_head] twice
        """Store the new position of each row behind its last; return everything so far, as views."""
        n_rows, ends = len(k), self.length[:, 0]
        self.k[np.arange(n_rows), :, ends] = k[..., 0, :]
        self.v[np.arange(n_rows), :, ends] = v[..., 0, :]
        n_total = ends.max() + 1  # the longest; what a shorter row has there is masked
        return self.k[:n_rows, :, :n_total], self.v[:n_rows, :, :n_total]


class Slots:
    """The sequences in the making, `live`, and their keys and values: row i of every layer is that of live[i]."""

    def __init__(self, params, n_head, n_slots):
        self.params, self.n_head, self.n_slots = params, n_head, n_slots
        self.layers, self.live = [], []
        self.grow(0)

    def grow(self, n_positions):
        """Make room for sequences of so many positions."""
        empty = kv_cache(self.params, self.n_head, n_positions, batch=(self.n_slots,))
        old, self.layers = self.layers, [SlotCache(layer.k, layer.v) for layer in empty]
        for new, layer in zip(self.layers, old, strict=False):
            for i, sequence in enumerate(self.live):
                copy(new, i, layer, i, sequence.n_cached)

    def admit(self, coming):
        """Give each of the new sequences a slot, with the keys and values of its prefix."""
        prefixes = dict.fromkeys(sequence.prefix for sequence in coming)  # samples of one job share theirs
        prefill_all([prefix for prefix in prefixes if prefix.cache is None], self.params, self.n_head)
        n_ctx, n_positions = len(self.params["wpe"]), self.layers[0].k.shape[-2]
        needed = max((n_needed(sequence, n_ctx) for sequence in coming), default=0)
        if needed > n_positions:
            self.grow(min(n_ctx, -(-needed // 32) * 32))  # in multiples of 32, not for every row that is a bit longer
        for sequence in coming:
            for layer, computed in zip(self.layers, sequence.prefix.cache, strict=True):
                copy(layer, len(self.live), computed, sequence.prefix.row, sequence.n_cached)
            self.live.append(sequence)
            sequence.prefix = None  # its memory goes with the last that needs it

    def step(self):
        """Compute every sequence's newest id; return the logits that follow it: [n_rows, n_vocab]."""
        length = np.array([[sequence.n_cached] for sequence in self.live])  # [n_rows, 1]
        for layer in self.layers:
            layer.length = length
        newest = [[sequence.newest] for sequence in self.live]  # [n_rows, 1]
        logits = gpt2(newest, **self.params, n_head=self.n_head, cache=self.layers, last_only=True)
        for sequence in self.live:
            sequence.n_cached += 1
        return logits[:, -1]  # [n_rows, 1, n_vocab] -> [n_rows, n_vocab]

    def leave(self, i):
        """Free slot i; the last sequence moves into the gap, so that the rows in use stay the first ones."""
        last = self.live.pop()
        if i < len(self.live):
            for layer in self.layers:
                copy(layer, i, layer, len(self.live), last.n_cached)
            self.live[i] = last


def copy(layer, row, other, other_row, n):
    """Copy the first n positions of one row of keys and values to a row of another cache."""
    layer.k[row, :, :n] = other.k[other_row, :, :n]
    layer.v[row, :, :n] = other.v[other_row, :, :n]


def n_needed(sequence, n_ctx):
    """How many positions the sequence will fill: its last id is never fed back."""
    return min(n_ctx, sequence.n_cached + sequence.job.n_tokens - len(sequence.sample.ids))


def prefill_all(prefixes, params, n_head):
    """Compute the keys and values of prefixes, in groups; several groups at a time if there is a core for each."""
    n_tokens = sum(len(prefix.ids) for prefix in prefixes)
    groups = list(alike(prefixes, min(PREFILL_TOKENS, -(-n_tokens // threads.n_pieces(n_tokens)))))
    sizes = [len(group) * len(group[0].ids) for group in groups]
    threads.side_by_side(lambda group: prefill(group, params, n_head), groups, sizes)


def alike(prefixes, n_tokens):
    """Groups of prefixes of about the same length, to be computed together: padded, a group is `n_tokens` long."""
    group = []
    for prefix in sorted(prefixes, key=lambda prefix: len(prefix.ids), reverse=True):
        if group and (len(group) + 1) * len(group[0].ids) > n_tokens:
            yield group
            group = []
        group.append(prefix)
    if group:
        yield group


def prefill(prefixes, params, n_head):
    """Compute the keys and values of prefixes, the longest first, as one batch."""
    n_seq = len(prefixes[0].ids) - 1
    cache = kv_cache(params, n_head, n_seq, batch=(len(prefixes),))
    inputs = np.zeros((len(prefixes), n_seq), dtype=int)
    for row, prefix in enumerate(prefixes):
        inputs[row, : len(prefix.ids) - 1] = prefix.ids[:-1]  # what pads the others comes later, so they never see it
        prefix.cache, prefix.row = cache, row
    if n_seq:
        weights = {name: params[name] for name in ("wte", "wpe", "blocks")}
        threads.prefill(transformer, inputs, **weights, n_head=n_head, cache=cache, last_only=True)


def sequences(jobs, n_ctx):
    for job in jobs:
        prefix = Prefix(slide(job.prompt, job.keep, n_ctx))
        for sample in job.samples:
            if not sample.ended:
                yield Sequence(job, sample, prefix)


def decode_together(jobs, params, n_head, n_slots):
    """Continue all jobs, up to `n_slots` samples at a time; yield, after each step, the jobs that took part in it.

    jobs: an iterable of Job, from which one more is taken only when a slot is free. A sample that has `ended` leaves
    its slot: for the reasons in gpt2.generate_samples, for a job's `error`, or because whoever reads along said so.
    """
    n_ctx = len(params["wpe"])
    slots, waiting, slid = Slots(params, n_head, n_slots), sequences(jobs, n_ctx), []
    while True:
        n_free = n_slots - len(slots.live) - len(slid)
        slots.admit(slid + list(itertools.islice(waiting, n_free)))
        if not slots.live:
            return
        for sequence, logits in zip(slots.live, slots.step(), strict=True):
            sequence.job.extend(sequence.sample, logits, is_full=sequence.n_cached == n_ctx)
            sequence.newest = sequence.sample.ids[-1] if sequence.sample.ids else None
        yield list(dict.fromkeys(sequence.job for sequence in slots.live))
        slid = []
        for i in reversed(range(len(slots.live))):
            sequence = slots.live[i]
            if sequence.sample.ended or sequence.n_cached == n_ctx:
                slots.leave(i)
            if not sequence.sample.ended and sequence.n_cached == n_ctx:
                ids = sequence.job.prompt + sequence.sample.ids
                slid.append(Sequence(sequence.job, sequence.sample, Prefix(slide(ids, sequence.job.keep, n_ctx))))
