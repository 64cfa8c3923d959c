"""Prompts on every core: pieces of a long one, or many short ones, that go through the model side by side.

OpenBLAS computes the matrix products of a prompt on all cores, but softmax, gelu and all else between them run on one,
for a third of the time. So a long prompt is cut into as many pieces as there are cores, and each goes through the
whole model in a thread of its own, products included. All that a piece needs from those before it is their keys and
values, a layer at a time:

    first piece    layer 1 | layer 2 | layer 3 | ...
    second piece   layer 1 | layer 2 | layer 3 | ...    in each, the keys and values of the first are there, or awaited

The model is gpt2.py's, as it is; only the cache that it is given waits. Many short prompts of a batch, which need
nothing of each other, are computed side by side in the same way. This needs threadpoolctl, for OpenBLAS must keep to
the one core of whoever calls it: threads that all want all cores are slower than one. Without it, and for what is too
short, one thing is computed after another, on all cores as far as OpenBLAS goes.
"""

import functools
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

log = logging.getLogger("picogpt")

PIECE = 256  # tokens of a piece, at least: products of fewer rows lose more than the rest wins


class Relay(threading.Condition):
    """Tells the waiting pieces that keys and values have come, or, if `is_over`, that none will."""

    is_over = False

    def end(self):
        with self:
            self.is_over = True
            self.notify_all()


class PieceCache:
    """What a LayerCache is to one piece: `length` is where the piece begins, and `append` waits until it can."""

    def __init__(self, layer, length, relay):
        self.layer, self.k, self.length, self.relay = layer, layer.k, length, relay

    def append(self, k, v):  # [..., n_head, n_seq, d_head] twice -> [..., n_head, n_total, d_head] twice
        """Store what is new behind all earlier pieces; return everything so far, as views."""
        with self.relay:
            self.relay.wait_for(lambda: self.layer.length == self.length or self.relay.is_over)
            if self.relay.is_over:
                raise RuntimeError("another piece of the prompt could not be computed")
            self.relay.notify_all()
            return self.layer.append(k, v)


def prefill(forward, inputs, cache, **arguments):  # ids [..., n_seq] -> what forward gives for the last of them
    """`forward(inputs, cache=cache, **arguments)`, in pieces if there is a piece for every core.

    forward: gpt2.gpt2 or gpt2.transformer, whose arguments must include last_only=True. cache: as from gpt2.kv_cache.
    """
    inputs = np.asarray(inputs)
    n = n_pieces(inputs.shape[-1])
    if n == 1:
        return forward(inputs, cache=cache, **arguments)
    return in_pieces(forward, inputs, cache, n, **arguments)


def n_pieces(n_tokens):
    """One for every core if so many tokens are worth it; else one."""
    return min(n_cores(), n_threads()) if n_tokens >= PIECE * max(2, n_cores()) else 1


def in_pieces(forward, inputs, cache, n, **arguments):  # the same again
    """The same in `n` pieces, however short they are; threadpoolctl must be there."""
    n_past, relay = cache[0].length, Relay()

    def run(start, stop):
        piece = [PieceCache(layer, n_past + start, relay) for layer in cache]
        return forward(inputs[..., start:stop], cache=piece, **arguments)

    # The later a piece, the more it looks back at: shorter pieces take as long.
    edges = [round(inputs.shape[-1] * (i / n) ** 0.9) for i in range(n + 1)]
    with one_core_each(), ThreadPoolExecutor(n) as pool:
        try:
            return list(pool.map(run, edges[:-1], edges[1:]))[-1]
        except BaseException:  # a piece failed, or Ctrl-C: let the others neither wait nor go on
            relay.end()
            raise


def side_by_side(function, items, sizes):
    """Call `function` with every item, on one core each if that keeps all cores busy; else in turns, on all cores each.

    sizes: how many tokens an item is, padding included.
    """
    n = n_pieces(sum(sizes))
    if n == 1 or n * max(sizes) > 1.2 * sum(sizes):  # one core would work on alone
        for item in items:
            function(item)
    else:
        with one_core_each(), ThreadPoolExecutor(n) as pool:
            list(pool.map(function, items))  # which raises what went wrong


@functools.cache  # every decoding step asks
def n_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def controller():
    """threadpoolctl's hold on the library that NumPy multiplies with, or None."""
    try:
        import threadpoolctl
    except ImportError:
        if "openblas" in str(np.show_config(mode="dicts")):
            log.info("a prompt of this length is read faster after: pip install threadpoolctl")
        return None
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


def n_threads():
    """How many threads compute a product; 1 also if that is not ours to change for all who call, as with OpenMP."""
    libraries = controller().info() if controller() else []
    ours = [library["num_threads"] for library in libraries if library.get("threading_layer") == "pthreads"]
    return max(ours, default=1)


def one_core_each():
    return controller().limit(limits=1)
