"""The compiled blocks of int8 models compute what gpt2.py computes with the same operands."""

import numpy as np
import pytest
from conftest import requires

import gpt2
from engine import forward
from engine.attention import KernelCache, caches_for
from engine.int8 import with_int8_products
from random_gpt2 import random_params

requires("numba")
from engine import block_kernels  # noqa: E402

HEADS = 3
SHAPE = {"n_vocab": 71, "n_ctx": 48, "n_embd": 39, "n_head": HEADS, "n_layer": 3}  # 39: not a multiple of LANES


@pytest.fixture(scope="module")
def params():
    return with_int8_products(random_params(**SHAPE))


def filled_cache(params, n_past, batch):
    """Return a cache with random keys and values of `n_past` positions."""
    rng = np.random.default_rng(5)
    layers = caches_for(params, gpt2.make_kv_cache(params, HEADS, 40, batch=batch))
    for layer in layers:
        layer.k[..., :n_past, :] = rng.standard_normal(layer.k[..., :n_past, :].shape)
        layer.v[..., :n_past, :] = rng.standard_normal(layer.v[..., :n_past, :].shape)
        layer.length = n_past
    return layers


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize(
    ("batch", "n_seq", "n_past"), [((), 1, 0), ((), 17, 0), ((2,), 1, 9), ((3,), 5, 20), ((9,), 1, 30)]
)
def test_compiled_blocks_are_those_of_gpt2_py(params, batch, n_seq, n_past, last_only):
    ids = np.random.default_rng(0).integers(71, size=(*batch, n_seq))
    body = {name: params[name] for name in ("wte", "wpe", "blocks")}
    results = []
    for transformer in (gpt2.transformer, forward.transformer):
        cache = filled_cache(params, n_past, batch)
        x = transformer(ids, **body, n_head=HEADS, cache=cache, last_only=last_only)
        results.append((x, [layer.k for layer in cache], [layer.v for layer in cache], cache[0].length))
    (expected, keys, values, length), (found, found_keys, found_values, found_length) = results
    assert found.shape == expected.shape and found_length == length == n_past + n_seq
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)  # activations that are rounded to another integer
    np.testing.assert_allclose(found_keys, keys, rtol=0, atol=0.02)
    np.testing.assert_allclose(found_values, values, rtol=0, atol=0.02)


@pytest.mark.parametrize("n_embd", [1, 15, 16, 17, 768])
@pytest.mark.parametrize("n_rows", [1, block_kernels.FEW, 33])
def test_a_layer_norm_is_that_of_gpt2_py(n_embd, n_rows):
    rng = np.random.default_rng(0)
    x = (5 + 3 * rng.standard_normal((n_rows, n_embd))).astype(np.float32)
    g = rng.standard_normal(n_embd).astype(np.float32)
    b = rng.standard_normal(n_embd).astype(np.float32)
    found = np.empty_like(x)
    block_kernels.layer_norm_of_rows(x, g, b, np.float32(1e-5), found, 2)
    np.testing.assert_allclose(found, gpt2.layer_norm(x, g, b), rtol=1e-4, atol=1e-4)


def test_a_row_of_a_layer_norm_is_the_same_alone_and_among_others():
    x = np.random.default_rng(0).standard_normal((40, 771)).astype(np.float32)
    g = np.ones(771, np.float32)
    several = np.empty_like(x)
    block_kernels.layer_norm_of_rows(x, g, g, np.float32(1e-5), several, 2)
    for row, expected in zip(x, several, strict=True):
        alone = np.empty((1, 771), np.float32)
        block_kernels.layer_norm_of_rows(row[None], g, g, np.float32(1e-5), alone, 2)
        np.testing.assert_array_equal(alone[0], expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_reaches_the_logits(params, bad):
    broken = {**params, "wpe": np.where(np.arange(48)[:, None] == 2, np.float32(bad), params["wpe"])}
    cache = caches_for(params, gpt2.make_kv_cache(params, HEADS, 8))
    with np.errstate(invalid="ignore"):
        logits = forward.gpt2([1, 2, 3], **broken, n_head=HEADS, cache=cache)
    assert np.isfinite(logits[:2]).all() and np.isnan(logits[2]).all()


def test_positions_after_the_end_of_the_cache_are_an_error(params):
    cache = caches_for(params, gpt2.make_kv_cache(params, HEADS, 4))
    forward.gpt2([1, 2, 3], **params, n_head=HEADS, cache=cache)
    with pytest.raises(ValueError, match="3 \\+ 2 positions do not fit in 4: the context is full"):
        forward.gpt2([4, 5], **params, n_head=HEADS, cache=cache)


def test_another_activation_is_computed_by_gpt2_py():
    plain = random_params(**SHAPE)
    blocks = [block | {"mlp": block["mlp"] | {"activation": "relu"}} for block in plain["blocks"]]
    params = with_int8_products(plain | {"blocks": blocks})
    assert params["wte"].transformer is None
    cache = caches_for(params, gpt2.make_kv_cache(params, HEADS, 8))
    again = [KernelCache(layer.k.copy(), layer.v.copy()) for layer in cache]
    found = forward.gpt2([1, 2, 3], **params, n_head=HEADS, cache=cache)
    np.testing.assert_array_equal(found, gpt2.gpt2([1, 2, 3], **params, n_head=HEADS, cache=again))
