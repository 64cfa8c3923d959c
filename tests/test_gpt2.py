"""Test gpt2.py against its references: gpt2_pico.py, and logits computed once by Hugging Face transformers."""

import inspect
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import gpt2
import gpt2_pico
from random_gpt2 import HPARAMS
from sampling import make_sampler

HERE = Path(__file__).parent
N_HEAD, N_CTX, N_VOCAB = HPARAMS["n_head"], HPARAMS["n_ctx"], HPARAMS["n_vocab"]
END_OF_TEXT = N_VOCAB - 1


@pytest.fixture(scope="module")
def golden():
    with np.load(HERE / "golden_logits.npz") as file:
        return dict(file)


def arrays(tree):
    if isinstance(tree, np.ndarray):
        yield tree
    else:
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from arrays(child)


def forward(params, ids, **options):
    return gpt2.gpt2(ids, **params, n_head=N_HEAD, **options)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def ids_of(seed, *shape):
    return np.random.default_rng(seed).integers(N_VOCAB, size=shape)


# ---- the forward pass ------------------------------------------------------------------------------------------


def test_logits_equal_those_of_transformers(params, golden):
    for ids, logits in zip(golden["ids"], golden["logits"], strict=True):
        close(forward(params, ids), logits)


def test_logits_of_gpt2_pico_equal_those_of_transformers(params, golden):
    for ids, logits in zip(golden["ids"], golden["logits"], strict=True):
        close(gpt2_pico.gpt2(ids, **params, n_head=N_HEAD), logits)


def test_gelu_erf_equals_x_times_the_normal_distribution_function():
    x = np.linspace(-12, 12, 40_001, dtype=np.float32)
    exact = [v * 0.5 * math.erfc(-v * 0.5**0.5) for v in x.tolist()]
    np.testing.assert_allclose(gpt2.gelu_erf(x), exact, rtol=1e-7, atol=4e-7)
    np.testing.assert_allclose(gpt2_pico.ACTIVATIONS["gelu_erf"](x), exact, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(gpt2.gelu_erf(np.float32([0, 1e4, -1e4])), [0, 1e4, 0])


@pytest.mark.parametrize("activation", gpt2.ACTIVATIONS)
def test_activation_and_eps_come_from_the_weights_tree(activation, params):
    blocks = [
        {**block, "ln_1": {**block["ln_1"], "eps": 0.1}, "mlp": {**block["mlp"], "activation": activation}}
        for block in params["blocks"]
    ]
    changed = {**params, "blocks": blocks, "ln_f": {**params["ln_f"], "eps": 0.2}}
    logits = forward(changed, ids_of(6, 20))
    close(logits, gpt2_pico.gpt2(ids_of(6, 20), **changed, n_head=N_HEAD))
    assert np.abs(logits - forward(params, ids_of(6, 20))).max() > 0.01


def test_the_golden_logits_vary_enough_to_show_errors(golden):
    assert golden["logits"].std() > 1


@pytest.mark.parametrize("sizes", [[32], [31, 1], [1] * 32, [5, 1, 1, 20, 5], [16, 16]])
def test_cached_passes_over_parts_of_a_prompt_equal_one_uncached_pass(any_params, sizes):
    params = any_params
    ids = ids_of(2, N_CTX)
    cache = gpt2.make_kv_cache(params, N_HEAD, N_CTX)
    parts = []
    start = 0
    for size in sizes:
        parts.append(forward(params, ids[start : start + size], cache=cache))
        start += size
    close(np.concatenate(parts), gpt2_pico.gpt2(ids, **params, n_head=N_HEAD))


@pytest.mark.parametrize("chunk", [1, 5, 31, 32])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_attention_in_chunks_of_queries_gives_the_same_logits(params, monkeypatch, chunk, batch):
    ids = ids_of(8, *batch, N_CTX)
    whole = forward(params, ids)
    monkeypatch.setattr(gpt2, "QUERY_CHUNK", chunk)
    close(forward(params, ids), whole)
    cache = gpt2.make_kv_cache(params, N_HEAD, N_CTX, batch)
    parts = [forward(params, ids[..., :7], cache=cache), forward(params, ids[..., 7:], cache=cache)]
    close(np.concatenate(parts, axis=-2), whole)


def test_a_chunk_of_queries_reads_no_key_after_its_last_position(params, monkeypatch):
    shapes = []
    original = gpt2.attention

    def recording(q, k, v, mask):
        shapes.append((q.shape[-2], k.shape[-2], v.shape[-2], mask.shape[-2:]))
        return original(q, k, v, mask)

    monkeypatch.setattr(gpt2, "attention", recording)
    monkeypatch.setattr(gpt2, "QUERY_CHUNK", 12)
    forward(params, ids_of(8, 30))
    assert shapes[:3] == [(12, 12, 12, (12, 12)), (12, 24, 24, (12, 24)), (6, 30, 30, (6, 30))]


def test_gelu_equals_that_of_gpt2_pico_and_does_not_overflow_far_from_zero():
    x = np.float32([-1e4, -30, -9.8, 0, 30, 1e4])
    np.testing.assert_allclose(gpt2.gelu(x), [0, 0, 0, 0, 30, 1e4], rtol=0, atol=1e-30)
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    np.testing.assert_allclose(gpt2.gelu(x), gpt2_pico.gelu(x.astype(np.float64)), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("batch", [(1,), (4,), (2, 3)])
def test_sequences_in_a_batch_have_the_logits_of_each_sequence_alone(params, batch):
    ids = ids_of(3, *batch, 9)
    cache = gpt2.make_kv_cache(params, N_HEAD, 9, batch)
    together = forward(params, ids)
    parts = [forward(params, ids[..., :6], cache=cache), forward(params, ids[..., 6:], cache=cache)]
    cached = np.concatenate(parts, axis=-2)
    assert together.shape == (*batch, 9, N_VOCAB)
    close(cached, together)
    for index in np.ndindex(batch):
        close(together[index], forward(params, ids[index]))


def test_last_only_returns_only_the_logits_of_the_last_position(params):
    ids = ids_of(4, 2, 7)
    last = forward(params, ids, last_only=True)
    assert last.shape == (2, 1, N_VOCAB)
    close(last, forward(params, ids)[:, -1:])


def test_a_later_token_does_not_change_earlier_logits(params):
    ids = ids_of(5, 12)
    changed = ids.copy()
    changed[8] = (ids[8] + 1) % N_VOCAB
    before = forward(params, ids)
    after = forward(params, changed)
    np.testing.assert_array_equal(before[:8], after[:8])
    assert np.abs(before[8:] - after[8:]).max(axis=-1).min() > 1e-3


@pytest.mark.parametrize("activation", gpt2.ACTIVATIONS)
def test_every_intermediate_result_is_float32(activation, params, monkeypatch):
    blocks = [{**block, "mlp": {**block["mlp"], "activation": activation}} for block in params["blocks"]]
    params = {**params, "blocks": blocks}
    seen = []
    for name in ("linear", "softmax", "layer_norm", "causal_mask", "attention", "split_heads", "predict", "gpt2"):
        original = getattr(gpt2, name)

        def recording(*args, _original=original, _name=name, **kwargs):
            result = _original(*args, **kwargs)
            seen.append((_name, result.dtype))
            return result

        monkeypatch.setattr(gpt2, name, recording)
    cache = gpt2.make_kv_cache(params, N_HEAD, 8)
    gpt2.gpt2([1, 2, 3], **params, n_head=N_HEAD, cache=cache)
    gpt2.gpt2([4], **params, n_head=N_HEAD, cache=cache, last_only=True)
    assert {name for name, _ in seen} >= {"linear", "softmax", "predict", "attention"}
    assert [(name, dtype) for name, dtype in seen if dtype != np.float32] == []
    assert cache[0].k.dtype == cache[0].v.dtype == np.float32
    assert gpt2_pico.gpt2([1, 2, 3], **params, n_head=N_HEAD).dtype == np.float32


class Operand:
    """A weight that is not an array. It supports only `x @ w` and the operations of the embedding."""

    __array_ufunc__ = None

    def __init__(self, array):
        self.array = array
        self.shape = array.shape

    def __rmatmul__(self, x):
        return x @ self.array

    def __getitem__(self, ids):
        return self.array[ids]

    def __len__(self):
        return len(self.array)

    @property
    def T(self):
        return Operand(self.array.T)


def with_operands(tree):
    if isinstance(tree, dict):
        return {name: with_operands(child) for name, child in tree.items()}
    if isinstance(tree, list):
        return [with_operands(child) for child in tree]
    return Operand(tree) if isinstance(tree, np.ndarray) and tree.ndim == 2 else tree


def test_weights_may_be_objects_that_compute_their_own_product(params):
    operands = with_operands(params) | {"wpe": params["wpe"]}
    np.testing.assert_array_equal(forward(operands, ids_of(1, 2, 9)), forward(params, ids_of(1, 2, 9)))
    assert generated(operands, [1, 2], 5) == generated(params, [1, 2], 5)


def test_generate_does_not_change_the_weights(params):
    before = [a.copy() for a in arrays(params)]
    list(gpt2.generate([1, 2, 3], params, N_HEAD, 5))
    assert all(np.array_equal(a, b) for a, b in zip(arrays(params), before, strict=True))


def test_too_many_positions_for_the_context_or_the_cache_are_an_error(params):
    with pytest.raises(ValueError, match=r"0 \+ 33 positions do not fit in 32"):
        forward(params, ids_of(0, N_CTX + 1))
    cache = gpt2.make_kv_cache(params, N_HEAD, 4)
    forward(params, [1, 2, 3], cache=cache)
    with pytest.raises(ValueError, match=r"3 \+ 2 positions do not fit in 4"):
        forward(params, [1, 2], cache=cache)
    assert cache[0].length == 3


# ---- cost: multiplications and memory --------------------------------------------------------------------------


class Counted(np.ndarray):
    """A weight that adds its multiplications to `Counted.n`."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if ufunc is np.matmul:
            Counted.n += plain[0].size * plain[1].shape[-1]
        return getattr(ufunc, method)(*plain, **options)


def counted(tree):
    if isinstance(tree, np.ndarray):
        return tree.view(Counted)
    return {k: counted(v) for k, v in tree.items()} if isinstance(tree, dict) else [counted(v) for v in tree]


def multiplications(params, n_prompt, n_new):
    Counted.n = 0
    list(gpt2.generate(range(n_prompt), counted(params), N_HEAD, n_new))
    return Counted.n


def test_every_token_is_multiplied_once_with_every_weight_it_needs(params):
    def n_weights(tree):
        return sum(w.size for w in arrays(tree) if w.ndim == 2)

    last = params["blocks"][-1]
    in_blocks = n_weights(params["blocks"])
    after_keys = n_weights(last) - n_weights(last["attn"]["c_attn"])  # computed only for positions that need logits
    for n_prompt, n_new in [(1, 1), (3, 1), (1, 20), (8, 20)]:  # prefill and decode
        expected = (n_prompt + n_new - 1) * in_blocks - (n_prompt - 1) * after_keys + n_new * params["wte"].size
        assert multiplications(params, n_prompt, n_new) == expected


def test_a_step_allocates_little_memory_at_any_text_length(params):
    def peak(n_past):
        cache = gpt2.make_kv_cache(params, N_HEAD, N_CTX)
        forward(params, ids_of(0, n_past), cache=cache)
        tracemalloc.start()
        forward(params, [1], cache=cache, last_only=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(3)
    assert abs(peak(30) - peak(3)) < 4 * 4 * N_HEAD * 27 + 200  # a few rows of scores
    assert peak(30) < 10_000


# ---- generate --------------------------------------------------------------------------------------------------


def generated(params, inputs, n, **options):
    return list(gpt2.generate(inputs, params, N_HEAD, n, **options))


def test_greedy_ids_equal_those_of_transformers_and_of_gpt2_pico(params, golden):
    prompt = golden["ids"][0][:4].tolist()
    greedy = generated(params, prompt, 28)
    assert greedy == golden["greedy"].tolist()
    assert greedy == list(gpt2_pico.generate(prompt, params, N_HEAD, 28, gpt2.greedy))
    assert len(set(greedy)) > 5  # does not repeat one token


def test_generate_yields_python_ints(params):
    stream = gpt2.generate([1, 2], params, N_HEAD, 3)
    assert inspect.isgenerator(stream)
    assert [type(i) for i in stream] == [int] * 3
    of_numpy = gpt2.generate([1], params, N_HEAD, 2, sampler=lambda logits, rng: np.int64(7))
    assert [type(i) for i in of_numpy] == [int] * 2


def test_generate_computes_the_prompt_once_and_then_one_position_per_token(params, monkeypatch):
    lengths = []
    original = gpt2.gpt2

    def recording(inputs, **options):
        lengths.append((len(inputs), options["last_only"]))
        return original(inputs, **options)

    monkeypatch.setattr(gpt2, "gpt2", recording)
    generated(params, [1, 2, 3, 4, 5], 4)
    assert lengths == [(5, True), (1, True), (1, True), (1, True)]


def test_generate_calls_the_sampler_once_per_token_with_logits_and_rng(params):
    rng = np.random.default_rng(0)
    calls = []

    def sampler(logits, rng):
        calls.append((logits.shape, logits.dtype, rng))
        return 1

    assert generated(params, [3], 4, sampler=sampler, rng=rng) == [1] * 4
    assert calls == [((N_VOCAB,), np.float32, rng)] * 4


def test_generate_yields_a_token_before_it_computes_the_next(params, monkeypatch):
    stream = gpt2.generate([1], params, N_HEAD, 5)
    next(stream)
    monkeypatch.setattr(gpt2, "gpt2", None)  # the second token needs it
    with pytest.raises(TypeError):
        next(stream)


@pytest.mark.parametrize("inputs", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), iter([1, 2, 3])])
def test_generate_accepts_any_iterable_of_ids_and_does_not_change_a_list(params, inputs):
    before = list(inputs) if isinstance(inputs, list) else None
    assert generated(params, inputs, 3) == generated(params, [1, 2, 3], 3)
    if before is not None:
        assert inputs == before


@pytest.mark.parametrize("n_prompt", [1, 5, 31, 32])
def test_generate_fills_the_context_exactly_and_ends(params, n_prompt):
    new = generated(params, ids_of(6, n_prompt), 1000)
    assert n_prompt + len(new) - 1 == N_CTX


def test_generate_equals_gpt2_pico_up_to_the_end_of_the_context(params):
    prompt = ids_of(7, 30).tolist()
    assert generated(params, prompt, 3) == list(gpt2_pico.generate(prompt, params, N_HEAD, 3, gpt2.greedy))


def test_a_stop_id_ends_the_text_and_is_not_yielded(params):
    free = generated(params, [1, 2], 10)
    stop = next(i for i in free if i != free[0])
    assert generated(params, [1, 2], 10, stop_ids={stop}) == free[: free.index(stop)]
    assert generated(params, [1, 2], 10, stop_ids=(free[0],)) == []


@pytest.mark.parametrize("module", [gpt2, gpt2_pico])
def test_a_prompt_without_ids_is_an_error(params, module):
    with pytest.raises(ValueError, match="the prompt has no token ids; it must have at least one"):
        next(module.generate([], params, N_HEAD, 5, gpt2.greedy))


def test_generate_of_zero_tokens_computes_nothing(params, monkeypatch):
    monkeypatch.setattr(gpt2, "gpt2", None)
    assert generated(params, [1], 0) == []


@pytest.mark.parametrize(
    ("inputs", "n", "message"),
    [
        ([1], -1, "n_tokens_to_generate is -1"),
        (list(range(33)), 1, "the prompt has 33 tokens; this model reads at most 32"),
        ([5, N_VOCAB], 1, f"token id {N_VOCAB}; this model's ids are 0 to {N_VOCAB - 1}"),
        ([-1], 1, "token id -1"),
    ],
)
def test_generate_rejects_requests_that_do_not_fit_the_model(params, inputs, n, message):
    with pytest.raises(ValueError, match=message):
        generated(params, inputs, n)


def test_the_cache_of_generate_has_exactly_the_positions_it_needs(params, monkeypatch):
    sizes = []
    original = gpt2.make_kv_cache

    def recording(*args, **options):
        cache = original(*args, **options)
        sizes.append(cache[0].k.shape)
        return cache

    monkeypatch.setattr(gpt2, "make_kv_cache", recording)
    generated(params, [1, 2, 3], 5)
    assert sizes == [(N_HEAD, 7, HPARAMS["n_embd"] // N_HEAD)]


def test_equal_seeds_give_equal_ids_and_different_seeds_different_ones(params):
    def draw(seed):
        return generated(params, [1], 20, sampler=make_sampler(temperature=1.5), rng=np.random.default_rng(seed))

    assert draw(1) == draw(1) != draw(2)


# ---- imports -------------------------------------------------------------------------------------------------


def modules_imported_by(name):
    code = f"import sys; before = set(sys.modules); import {name}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True, check=True)
    return {module.split(".")[0] for module in done.stdout.split()}


def test_importing_gpt2_needs_no_package_but_numpy():
    project = {"encoder", "utils", "checkpoints", "cli", "engine", "runner", "views"}
    third_party = {"regex", "fire", "tqdm", "requests", "safetensors", "tensorflow", "threadpoolctl"}
    assert modules_imported_by("gpt2") & (project | third_party) == set()


def test_gpt2_pico_does_not_import_the_modules_that_it_is_a_reference_for():
    assert modules_imported_by("gpt2_pico") & {"gpt2", "sampling", "cli", "utils"} == set()
