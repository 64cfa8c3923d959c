"""Prefill on every core: chunks of a long prompt, or many short prompts, go through the model side by side.

OpenBLAS computes the matrix products of a prompt on all cores, but softmax, gelu and the other steps between them run
on one core, for a third of the time. A long prompt is therefore cut into one chunk per core, and each chunk goes
through the whole model in a thread of its own, products included. A chunk needs the keys and values of the chunks
before it, one layer at a time:

    first chunk    layer 1 | layer 2 | layer 3 | ...
    second chunk   layer 1 | layer 2 | layer 3 | ...    each layer waits for the first chunk's keys and values

The model is the one of gpt2.py; only its cache waits. Short prompts of a batch are independent and run side by side
without waiting. Both need threadpoolctl, which limits OpenBLAS to one thread per caller: oversubscribed BLAS threads
are slower than one. Without it, and for short inputs, prompts run one after another on OpenBLAS's own threads.
"""

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from engine.attention import KernelCache
from engine.cores import n_cores

CHUNK_TOKENS = 256  # tokens per chunk, at least: smaller products lose more than the parallel steps gain
log = logging.getLogger("picogpt")


class Relay(threading.Condition):
    """Tells waiting chunks that keys and values have arrived, or, if `is_over`, that none will."""

    is_over = False

    def end(self):
        with self:
            self.is_over = True
            self.notify_all()


class ChunkCache:
    """The LayerCache of one chunk: `length` is the position where the chunk begins, and `append` waits for its turn."""

    def __init__(self, layer, length, relay):
        self.layer = layer
        self.k = layer.k
        self.length = length
        self.relay = relay

    def append(self, k, v):  # 2 x [..., n_head, n_seq, d_head] -> 2 x [..., n_head, n_total, d_head]
        """Store the new keys and values after those of all earlier chunks; return all of them, as views."""
        with self.relay:
            self.relay.wait_for(lambda: self.layer.length == self.length or self.relay.is_over)
            if self.relay.is_over:
                raise RuntimeError("another chunk of the prompt failed")
            self.relay.notify_all()
            return self.layer.append(k, v)


def prefill(forward: Callable, inputs, cache: list, **arguments) -> np.ndarray:  # [..., n_seq] -> [..., 1, n]
    """Return `forward(inputs, cache=cache, **arguments)`, computed in chunks if there is one for every core.

    forward: gpt2.transformer or gpt2.gpt2, whose arguments must include last_only=True. cache: see gpt2.make_kv_cache.
    """
    inputs = np.asarray(inputs)
    n = n_chunks(inputs.shape[-1])
    if n == 1 or isinstance(cache[0], KernelCache):  # compiled loops use all cores themselves
        return forward(inputs, cache=cache, **arguments)
    return in_chunks(forward, inputs, cache, n, **arguments)


def n_chunks(n_tokens: int) -> int:
    """Return the number of cores if that many chunks are large enough, otherwise 1."""
    is_long = n_tokens >= CHUNK_TOKENS * max(2, n_cores())
    return min(n_cores(), n_threads()) if is_long else 1


def in_chunks(forward, inputs, cache, n, **arguments):  # [..., n_seq] -> [..., 1, n]
    """Compute `forward` in `n` chunks of any length; requires threadpoolctl."""
    n_past = cache[0].length
    relay = Relay()

    def run(start, stop):
        chunk_cache = [ChunkCache(layer, n_past + start, relay) for layer in cache]
        return forward(inputs[..., start:stop], cache=chunk_cache, **arguments)

    # A later chunk attends to more positions; a shorter one takes equally long.
    edges = [round(inputs.shape[-1] * (i / n) ** 0.9) for i in range(n + 1)]
    with one_blas_thread_each(), ThreadPoolExecutor(n) as pool:
        try:
            return list(pool.map(run, edges[:-1], edges[1:]))[-1]
        except BaseException:  # a chunk failed, or Ctrl-C: the others must not wait or go on
            relay.end()
            raise


def in_parallel(function: Callable, items: Iterable, sizes: Sequence[int]) -> None:
    """Call `function` with every item: on one core each if that keeps all cores busy, otherwise one after another.

    sizes: the number of tokens of each item, padding included.
    """
    n = n_chunks(sum(sizes))
    leaves_a_core_idle = n * max(sizes, default=0) > 1.2 * sum(sizes)
    if n == 1 or leaves_a_core_idle:
        for item in items:
            function(item)
    else:
        with one_blas_thread_each(), ThreadPoolExecutor(n) as pool:
            list(pool.map(function, items))  # list: raises the exception of an item that failed


@functools.cache
def blas_controller():
    """Return the threadpoolctl controller of NumPy's BLAS, or None without threadpoolctl."""
    try:
        import threadpoolctl
    except ImportError:
        if "openblas" in str(np.show_config(mode="dicts")):
            log.info("Tip: pip install threadpoolctl speeds up prompts of this length.")
        return None
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


def n_threads() -> int:
    """Return the number of BLAS threads; 1 if the limit cannot be set for the whole process, as with OpenMP."""
    libraries = blas_controller().info() if blas_controller() else []
    n_settable = [library["num_threads"] for library in libraries if library.get("threading_layer") == "pthreads"]
    return max(n_settable, default=1)


def one_blas_thread_each():
    return blas_controller().limit(limits=1)
