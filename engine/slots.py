"""The slots of continuous batching: sequences in progress, each with its own keys and values, and their prefill.

sequences -> admit: a slot and prefill -> step: one token for every slot -> retire: the slot is free again
"""

import numpy as np

from engine import prefill
from engine.attention import AttendsRagged, Keys, Values, caches_for, prompts_attend_ragged, windows_of
from engine.forward import gpt2, transformer
from engine.memory import check_slots
from gpt2 import LayerCache, make_kv_cache, predict

PREFILL_TOKENS = 512  # of new prompts per pass: enough for efficient products, little memory
POSITION_STEP = 32  # the caches grow by multiples of it, not for every text that is slightly longer

# ---- sequences -------------------------------------------------------------------------------------------------


def slide(ids: list[int], keep: int | None, n_ctx: int) -> list[int]:
    """Return the ids if they fit into the context, otherwise the first `keep` and the newest (n_ctx - keep) // 2.

    >>> slide([0, 1, 2, 3, 4, 5, 6, 7, 8], keep=2, n_ctx=8)
    [0, 1, 6, 7, 8]
    """
    if len(ids) <= n_ctx:
        return ids
    n_newest = (n_ctx - keep) // 2
    return ids[:keep] + ids[-n_newest:]


class Prefix:
    """The ids that one or more sequences begin with.

    Attributes: `n_waiting`, the number of sequences that have no slot yet. Once computed: `hidden` [n_embd], the
    hidden state of the last position; `logits` [n_vocab], which follow from it; `cache`, the keys and values of every
    layer, each [n_head, n_positions, d_head]; `row`, the slot that they were computed in, or None; `is_copied`, whether
    they are a copy.
    """

    def __init__(self, ids, n_waiting=1):
        self.ids = ids
        self.n_waiting = n_waiting
        self.hidden = None
        self.logits = None
        self.cache = None
        self.row = None
        self.is_copied = False

    def keep_copy(self):
        """Copy the keys and values out of the slot, whose sequence may leave before the others arrive."""
        n = len(self.ids)
        self.cache = [(k[:, :n].copy(), v[:, :n].copy()) for k, v in self.cache]
        self.row = None
        self.is_copied = True


class Sequence:
    """A completion in a slot. `n_cached` positions are in the cache; the newest id enters it in the next step."""

    def __init__(self, job, completion, prefix):
        self.job = job
        self.completion = completion
        self.prefix = prefix
        self.n_cached = len(prefix.ids)

    def n_needed(self, n_ctx):
        """Return the number of positions that the sequence will fill: its last id is not fed back."""
        n_left = self.job.n_tokens - len(self.completion.ids)
        return min(n_ctx, len(self.prefix.ids) + n_left - 1)

    def slide(self, n_ctx):
        """Return the sequence with a shorter window. Sliding renumbers the positions, so nothing remains cached."""
        ids = slide(self.job.prompt + self.completion.ids, self.job.keep, n_ctx)
        return Sequence(self.job, self.completion, Prefix(ids))


# ---- slots -----------------------------------------------------------------------------------------------------


class SlotCache(LayerCache):
    """The keys and values of one layer for sequences of different lengths: `length` is [n_rows, 1].

    window: see KernelCache. wte: the embedding, which says whether to return operands of the kernel.
    """

    def __init__(self, k, v, window, wte):
        super().__init__(k, v)
        self.window = window
        self.wte = wte

    def append(self, k, v):  # 2 x [n_rows, n_head, 1, d_head] -> 2 x [n_rows, n_head, n_total, d_head]
        """Store one new position of each row after its last; return those of all positions, as views."""
        n_rows = len(k)
        ends = self.length[:, 0]
        self.k[np.arange(n_rows), :, ends] = k[..., 0, :]
        self.v[np.arange(n_rows), :, ends] = v[..., 0, :]
        n_total = ends.max() + 1  # of the longest row; the mask hides the rest of the shorter ones
        if isinstance(self.wte, AttendsRagged):
            is_beside_blas = n_rows > self.wte.most_rows
            return Keys(self.k, n_total, self.window, self.length + 1, is_beside_blas), Values(self.v)
        return self.k[:n_rows, :, :n_total], self.v[:n_rows, :, :n_total]


class Slots:
    """The sequences in progress, `live`, and their keys and values: row i of every layer belongs to live[i]."""

    def __init__(self, params, n_head, n_slots):
        self.params = params
        self.n_head = n_head
        self.n_slots = n_slots
        self.n_ctx = len(params["wpe"])
        self.live = []
        self.layers = []
        self.grow(n_rows=0, n_positions=0)

    def grow(self, n_rows, n_positions):
        """Make room for `n_rows` sequences of `n_positions`. Raise RuntimeError if the memory does not suffice."""
        check_slots(self.params, n_rows, n_positions)
        old = self.layers
        new = make_kv_cache(self.params, self.n_head, n_positions, batch=(n_rows,))
        pairs = zip(new, windows_of(self.params), strict=True)
        self.layers = [SlotCache(layer.k, layer.v, window, self.params["wte"]) for layer, window in pairs]
        for layer, old_layer in zip(self.layers, old, strict=False):
            for row, sequence in enumerate(self.live):
                copy_row(layer, row, old_layer, row, sequence.n_cached)

    def step(self):
        """Compute the newest id of every sequence; return the logits [n_vocab] that follow each, in a list."""
        if not self.live:
            return []
        lengths = np.array([[sequence.n_cached] for sequence in self.live])  # [n_rows, 1]
        for layer in self.layers:
            layer.length = lengths
        newest = [[sequence.completion.ids[-1]] for sequence in self.live]  # [n_rows, 1]
        logits = gpt2(newest, **self.params, n_head=self.n_head, cache=self.layers, last_only=True)
        for sequence in self.live:
            sequence.n_cached += 1
        return list(logits[:, -1])  # [n_rows, 1, n_vocab] -> n_rows x [n_vocab]

    def admit(self, arriving):
        """Give each arriving sequence a slot; return the logits [n_vocab] that follow each prefix, in a list."""
        self.make_room(arriving)
        rows = range(len(self.live), len(self.live) + len(arriving))
        self.live += arriving
        self.compute_prefixes(rows)
        for row in rows:
            self.load_prefix(row)
        prefixes = [sequence.prefix for sequence in arriving]
        for prefix in dict.fromkeys(prefixes):
            if prefix.n_waiting and not prefix.is_copied:
                prefix.keep_copy()
        for sequence in arriving:
            sequence.prefix = None  # the last reference frees the memory
        return [prefix.logits for prefix in prefixes]

    def make_room(self, arriving):
        """Grow if the arriving sequences need more rows or more positions. Unused slots take no memory."""
        n_rows, _, n_positions, _ = self.layers[0].k.shape  # [n_rows, n_head, n_positions, d_head]
        rows_needed = len(self.live) + len(arriving)
        needed = max((sequence.n_needed(self.n_ctx) for sequence in arriving), default=0)
        if rows_needed > n_rows or needed > n_positions:
            more_rows = n_rows if rows_needed <= n_rows else min(self.n_slots, max(rows_needed, 2 * n_rows))
            rounded = ceil_div(needed, POSITION_STEP) * POSITION_STEP
            self.grow(more_rows, max(n_positions, min(self.n_ctx, rounded)))

    def compute_prefixes(self, rows):
        """Compute the keys, values and logits of the prefixes that are new."""
        row_of = {}  # prefix -> the slot of its first sequence; completions of one job share a prefix
        for row in rows:
            prefix = self.live[row].prefix
            if prefix.logits is None:
                row_of.setdefault(prefix, row)
        if row_of:
            self.compute_groups(row_of)
            hidden = np.stack([prefix.hidden for prefix in row_of])  # [n_prefixes, n_embd]
            output_layer = {name: self.params[name] for name in ("wte", "ln_f", "head") if name in self.params}
            logits = predict(hidden, **output_layer)  # [n_prefixes, n_embd] -> [n_prefixes, n_vocab]
            for prefix, prefix_logits in zip(row_of, logits, strict=True):
                prefix.logits = prefix_logits

    def compute_groups(self, row_of):
        """Compute the keys, values and hidden states of prefixes, in groups, on all cores."""
        if prompts_attend_ragged(self.params):  # compiled loops use all cores themselves
            for group in group_by_length(row_of, PREFILL_TOKENS):
                self.compute_group(group, row_of)
            return
        n_tokens = sum(len(prefix.ids) for prefix in row_of)
        n_per_core = ceil_div(n_tokens, prefill.n_chunks(n_tokens))
        groups = list(group_by_length(row_of, min(PREFILL_TOKENS, n_per_core)))
        sizes = [len(group) * len(group[0].ids) for group in groups]
        prefill.in_parallel(lambda group: self.compute_group(group, row_of), groups, sizes)

    def compute_group(self, prefixes, row_of):
        """Compute prefixes, the longest first, as one batch. A single one is computed in its slot, without a copy."""
        if len(prefixes) == 1:
            (prefix,) = prefixes
            prefix.row = row_of[prefix]
            row = slice(prefix.row, prefix.row + 1)
            cache = [LayerCache(layer.k[row], layer.v[row]) for layer in self.layers]
        else:
            cache = make_kv_cache(self.params, self.n_head, len(prefixes[0].ids), batch=(len(prefixes),))
        cache = caches_for(self.params, cache)
        hidden = compute_prompts([prefix.ids for prefix in prefixes], self.params, self.n_head, cache)
        for i, prefix in enumerate(prefixes):
            prefix.hidden = hidden[i]
            prefix.cache = [(layer.k[i], layer.v[i]) for layer in cache]

    def load_prefix(self, row):
        """Copy the keys and values of a sequence's prefix to its row, unless they were computed there."""
        sequence = self.live[row]
        prefix = sequence.prefix
        prefix.n_waiting -= 1
        if prefix.row == row:
            return
        for layer, (k, v) in zip(self.layers, prefix.cache, strict=True):
            layer.k[row, :, : sequence.n_cached] = k[:, : sequence.n_cached]
            layer.v[row, :, : sequence.n_cached] = v[:, : sequence.n_cached]

    def retire(self):
        """Free the slots of finished sequences and of full ones; return the full ones with a window that slid."""
        slid = []
        for row in reversed(range(len(self.live))):
            sequence = self.live[row]
            if sequence.completion.finish_reason:
                self.free(row)
            elif sequence.n_cached == self.n_ctx:
                self.free(row)
                slid.append(sequence.slide(self.n_ctx))
        return slid

    def free(self, row):
        """Free a slot. The last sequence moves into the gap, so that the rows in use stay the first ones."""
        last = self.live.pop()
        if row < len(self.live):
            for layer in self.layers:
                copy_row(layer, row, layer, len(self.live), last.n_cached)
            self.live[row] = last


def copy_row(layer, row, other, other_row, n_positions):
    """Copy the first positions of one row of keys and values to a row of another cache."""
    layer.k[row, :, :n_positions] = other.k[other_row, :, :n_positions]
    layer.v[row, :, :n_positions] = other.v[other_row, :, :n_positions]


# ---- prefill ---------------------------------------------------------------------------------------------------


def ceil_div(a, b):
    return -(-a // b)


def group_by_length(prefixes, n_tokens):
    """Yield groups of prefixes of similar length, the longest first; a padded group has at most `n_tokens` tokens."""
    group = []
    for prefix in sorted(prefixes, key=lambda prefix: len(prefix.ids), reverse=True):
        if group and (len(group) + 1) * len(group[0].ids) > n_tokens:
            yield group
            group = []
        group.append(prefix)
    if group:
        yield group


def compute_prompts(prompts, params, n_head, cache):
    """Fill an empty cache with prompts, the longest first; return the hidden state of each last position.

    Returns [n_rows, n_embd].
    """
    n_rows = len(prompts)
    last = np.array([len(prompt) - 1 for prompt in prompts])  # [n_rows]
    inputs = np.zeros((n_rows, last[0] + 1), dtype=int)  # [n_rows, n_seq]; the causal mask hides the padding
    for row, prompt in enumerate(prompts):
        inputs[row, : len(prompt)] = prompt
    body = {name: params[name] for name in ("wte", "wpe", "blocks")}
    if last[-1] == last[0]:  # equal lengths
        return prefill.prefill(transformer, inputs, cache, **body, n_head=n_head, last_only=True)[:, -1]
    x = transformer(inputs, **body, n_head=n_head, cache=cache)  # [n_rows, n_seq] -> [n_rows, n_seq, n_embd]
    return x[np.arange(n_rows), last]  # [n_rows, n_seq, n_embd] -> [n_rows, n_embd]
