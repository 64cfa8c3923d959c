"""Test engine/prefill.py: chunks in threads give the result of one pass, and no thread waits forever."""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpt2
from engine import prefill
from engine.batching import Job, decode_together
from engine.completion import Completion
from random_gpt2 import HPARAMS

N_HEAD, N_CTX, N_VOCAB = HPARAMS["n_head"], HPARAMS["n_ctx"], HPARAMS["n_vocab"]


@pytest.fixture(scope="session")
def params(any_params):
    return any_params


def ids_of(*shape):
    return np.random.default_rng(0).integers(N_VOCAB, size=shape)


def cached(params, past, batch=()):
    """Return a cache that holds the ids `past`."""
    cache = gpt2.make_kv_cache(params, N_HEAD, N_CTX, batch)
    if past.shape[-1]:
        gpt2.gpt2(past, **params, n_head=N_HEAD, cache=cache)
    return cache


@pytest.mark.parametrize("n_chunks", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(5,), (28,), (2, 28), (2, 3, 9)])
@pytest.mark.parametrize("n_past", [0, 3])
def test_chunks_give_the_logits_keys_and_values_of_one_pass(params, n_chunks, shape, n_past):
    past = ids_of(*shape[:-1], n_past)
    ids = ids_of(*shape)
    whole = cached(params, past, shape[:-1])
    parts = cached(params, past, shape[:-1])
    expected = gpt2.gpt2(ids, **params, n_head=N_HEAD, cache=whole, last_only=True)
    logits = prefill.in_chunks(gpt2.gpt2, ids, parts, n_chunks, **params, n_head=N_HEAD, last_only=True)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    for layer, other in zip(parts, whole, strict=True):
        assert layer.length == n_past + shape[-1]
        np.testing.assert_allclose(layer.k, other.k, rtol=0, atol=1e-4)
        np.testing.assert_allclose(layer.v, other.v, rtol=0, atol=1e-4)


def test_chunks_are_computed_at_the_same_time(params):
    together = threading.Barrier(3, timeout=20)

    def forward(*args, **options):
        together.wait()  # for three calls: fails if the chunks run one after another
        return gpt2.gpt2(*args, **options)

    logits = prefill.in_chunks(
        forward, ids_of(20), cached(params, ids_of(0)), 3, **params, n_head=N_HEAD, last_only=True
    )
    assert logits.shape == (1, N_VOCAB)


class Forward:
    """A stand-in for gpt2.gpt2 that records the lengths of its inputs and the number of BLAS threads."""

    def __init__(self):
        self.lengths = []
        self.n_threads = set()

    def __call__(self, inputs, cache):
        self.lengths.append(inputs.shape[-1])
        self.n_threads.add(prefill.n_threads())
        for layer in cache:
            layer.append(*np.zeros((2, N_HEAD, inputs.shape[-1], 4), dtype=np.float32))
        return cache[0].length


def empty_cache(n_positions, n_layer=3):
    return [gpt2.LayerCache(*np.zeros((2, N_HEAD, n_positions, 4), dtype=np.float32)) for _ in range(n_layer)]


@pytest.fixture
def two_cores(monkeypatch):
    """Make prefill see two cores and two BLAS threads on any machine."""
    monkeypatch.setattr(prefill, "n_cores", lambda: 2)
    with prefill.blas_controller().limit(limits=2):
        if prefill.n_threads() != 2:
            pytest.skip("NumPy does not use OpenBLAS here")
        yield


@pytest.mark.parametrize(("n", "n_calls"), [(1, 1), (511, 1), (512, 2), (1000, 2)])
def test_only_a_prompt_with_a_full_chunk_for_every_core_is_chunked(two_cores, n, n_calls):
    forward = Forward()
    prefill.prefill(forward, np.zeros(n, dtype=int), empty_cache(n))
    assert len(forward.lengths) == n_calls
    assert sum(forward.lengths) == n


def test_a_later_chunk_is_shorter(two_cores):
    forward = Forward()
    prefill.prefill(forward, np.zeros(1000, dtype=int), empty_cache(1000))
    assert sorted(forward.lengths) == [464, 536]


@pytest.mark.parametrize("n_cores", [1, 4, 64])
def test_one_core_or_too_many_cores_disable_chunking(two_cores, monkeypatch, n_cores):
    monkeypatch.setattr(prefill, "n_cores", lambda: n_cores)
    forward = Forward()
    prefill.prefill(forward, np.zeros(1000, dtype=int), empty_cache(1000))
    assert forward.lengths == [1000]


def test_one_blas_thread_disables_chunking(two_cores):
    forward = Forward()
    with prefill.blas_controller().limit(limits=1):  # like OMP_NUM_THREADS=1
        prefill.prefill(forward, np.zeros(1000, dtype=int), empty_cache(1000))
    assert forward.lengths == [1000]


@pytest.mark.parametrize("libraries", [[], [{"num_threads": 2, "threading_layer": "openmp"}], [{"num_threads": 2}]])
def test_a_blas_whose_threads_cannot_be_limited_disables_chunking(two_cores, monkeypatch, libraries):
    class Controller:
        def info(self):
            return libraries

    monkeypatch.setattr(prefill, "blas_controller", Controller)
    forward = Forward()
    prefill.prefill(forward, np.zeros(1000, dtype=int), empty_cache(1000))
    assert forward.lengths == [1000]


def test_blas_has_one_thread_during_the_chunks_and_all_threads_afterwards(two_cores):
    forward = Forward()
    prefill.prefill(forward, np.zeros(1000, dtype=int), empty_cache(1000))
    assert forward.n_threads == {1}
    assert prefill.n_threads() == 2


def test_a_missing_threadpoolctl_disables_chunking_and_logs_at_most_one_tip(two_cores, monkeypatch):
    messages = []
    monkeypatch.setattr(prefill.log, "info", messages.append)
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    prefill.blas_controller.cache_clear()
    try:
        for _ in range(2):
            forward = Forward()
            assert prefill.prefill(forward, np.zeros(1000, dtype=int), empty_cache(1000)) == 1000
            assert forward.lengths == [1000]
    finally:
        prefill.blas_controller.cache_clear()
    assert len(messages) <= 1
    assert all("pip install threadpoolctl" in message for message in messages)
    assert messages or "openblas" not in str(np.show_config(mode="dicts"))


def calls_of(sizes):
    """Return the number of BLAS threads in each call of `in_parallel`, and the items, in order."""
    n_threads = []
    items = []

    def function(item):
        n_threads.append(prefill.n_threads())
        items.append(item)

    prefill.in_parallel(function, range(len(sizes)), sizes)
    return n_threads, sorted(items)


@pytest.mark.parametrize("sizes", [[256, 256], [512] * 9, [500, 500, 400]])
def test_prompts_that_keep_every_core_busy_are_computed_in_parallel(two_cores, sizes):
    assert calls_of(sizes) == ([1] * len(sizes), [*range(len(sizes))])
    assert prefill.n_threads() == 2
    together = threading.Barrier(2, timeout=20)
    prefill.in_parallel(lambda item: together.wait(), range(2), [256, 256])


@pytest.mark.parametrize("sizes", [[], [1000], [255, 256], [900, 300], [512, 50, 50]])
def test_few_tokens_or_uneven_prompts_are_computed_one_after_another(two_cores, sizes):
    assert calls_of(sizes) == ([2] * len(sizes), [*range(len(sizes))])


def test_in_parallel_raises_the_error_of_a_failing_item(two_cores):
    def function(item):
        if item == 1:
            raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        prefill.in_parallel(function, range(4), [512] * 4)


def within_seconds(function):
    """Return the exception of `function`, which runs in a thread with a time limit: a deadlock fails the test."""
    raised = []

    def catch():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=catch, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    return raised[0]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failing_chunk_raises_its_error_and_leaves_no_chunk_waiting(failing):
    def forward(inputs, cache):
        if cache[0].length == [0, 37, 69][failing]:
            raise MemoryError("no more")
        return Forward()(inputs, cache)

    error = within_seconds(lambda: prefill.in_chunks(forward, np.zeros(100, dtype=int), empty_cache(100), 3))
    assert (type(error), str(error)) == (MemoryError, "no more")


def interrupted(relay):
    """Send SIGINT to the main thread; return whether the relay ends within a second.

    It may not if the signal arrives just before the main thread begins to wait.
    """
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    with relay:
        return relay.wait_for(lambda: relay.is_over, timeout=1)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_ctrl_c_ends_all_chunks_at_their_next_layer():
    start = threading.Barrier(2, timeout=20)
    n_layers = []
    is_over = []

    def forward(inputs, cache):
        start.wait()
        if cache[0].length == 0:
            is_over.append(any(interrupted(cache[0].relay) for _ in range(10)))
        for layer in cache:
            layer.append(*np.zeros((2, N_HEAD, inputs.shape[-1], 4), dtype=np.float32))
            n_layers.append(1)

    with pytest.raises(KeyboardInterrupt):
        prefill.in_chunks(forward, np.zeros(100, dtype=int), empty_cache(100), 2)
    assert (is_over, n_layers) == ([True], [])


def test_the_engine_computes_long_prompts_in_chunks(params, two_cores, monkeypatch):
    monkeypatch.setattr(prefill, "CHUNK_TOKENS", 8)
    n_chunks = []
    in_chunks = prefill.in_chunks

    def recording(forward, inputs, cache, n, **arguments):
        n_chunks.append(n)
        return in_chunks(forward, inputs, cache, n, **arguments)

    monkeypatch.setattr(prefill, "in_chunks", recording)
    prompt = ids_of(24).tolist()
    expected = list(gpt2.generate(prompt, params, N_HEAD, 6))
    assert n_chunks == []
    completion = Completion()
    for _ in decode_together([Job(prompt, [completion], 6)], params, N_HEAD, 4):
        pass
    assert (completion.ids, n_chunks) == (expected, [2])


def test_prompts_computed_in_parallel_have_the_same_completions(params, two_cores, monkeypatch):
    def texts(chunk_tokens):
        monkeypatch.setattr(prefill, "CHUNK_TOKENS", chunk_tokens)
        jobs = [Job(ids_of(n).tolist(), [Completion()], 5) for n in (3, 9, 14, 20, 7, 20, 11)]
        for _ in decode_together(jobs, params, N_HEAD, 7):
            pass
        return [job.completions[0].ids for job in jobs]

    expected = texts(10_000)
    pools = []

    def recording(n):
        pools.append(n)
        return ThreadPoolExecutor(n)

    monkeypatch.setattr(prefill, "ThreadPoolExecutor", recording)
    assert texts(30) == expected
    assert pools == [2]
