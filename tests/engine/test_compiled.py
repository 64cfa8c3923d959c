"""The compiled loops of float32 weights compute what NumPy computes, and only long runs use them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import engine
import gpt2
import utils
from engine import compiled, float_kernels
from engine.batching import Job, decode_together
from engine.compiled import CompiledEmbedding, CompiledMatrix, pays, with_compiled_products, with_fitting_products
from engine.completion import Completion
from engine.products import Embedding, with_fast_products

ROOT = Path(__file__).parent.parent.parent
SHAPES = [(1, 1), (7, 5), (8, 3), (17, 33), (768, 100), (250, 1), (3, 1000)]


@pytest.fixture(scope="module")
def params():
    return utils.load("tiny", "models").params


def random(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 5, compiled.MOST_ROWS, compiled.MOST_ROWS + 1])
def test_a_compiled_product_is_the_product_of_numpy_in_both_orders_of_memory(shape, n_rows):
    rng = np.random.default_rng(0)
    x = random(rng, n_rows, shape[0])
    for w in (random(rng, *shape), random(rng, *shape[::-1]).T):
        exact = x.astype(np.float64) @ w
        bound = 1e-6 * (np.abs(x) @ np.abs(w))  # 17 roundings of float32 of the sum of the sizes
        assert (np.abs(x @ CompiledMatrix(w) - exact) <= bound).all()


def test_a_compiled_product_takes_batch_axes_and_strides_and_arrays_that_are_not_aligned():
    rng = np.random.default_rng(0)
    w = random(rng, 12, 9)
    x = random(rng, 2, 3, 12)
    turned = np.asfortranarray(x)
    every_other = random(rng, 24, 9)[::2]
    shifted = np.frombuffer(b"\0" + w.tobytes(), np.uint8)[1:].view(np.float32).reshape(12, 9)
    for operand in (w, shifted, every_other):
        expected = x @ operand
        assert (x @ CompiledMatrix(operand)).shape == (2, 3, 9)
        np.testing.assert_allclose(x @ CompiledMatrix(operand), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(turned @ CompiledMatrix(operand), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(x[0, 0] @ CompiledMatrix(w), x[0, 0] @ w, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_reach_the_product(bad):
    rng = np.random.default_rng(0)
    x = random(rng, 2, 20)
    x[1, 3] = bad
    for w in (random(rng, 20, 9), random(rng, 9, 20).T):
        with np.errstate(invalid="ignore"):  # OpenBLAS adds inf and -inf of its own in some machines' loops
            expected = x @ w
        np.testing.assert_array_equal(np.isfinite(x @ CompiledMatrix(w)), np.isfinite(expected))
        assert not np.isfinite(x @ CompiledMatrix(w))[1].any()


def test_the_compiled_gelu_is_that_of_the_page_for_all_sizes_of_numbers():
    special = [0, 1e30, -1e30, np.inf, -np.inf, np.nan, 1e-30, -1e-40]
    x = np.concatenate([np.linspace(-150, 150, 20_001), special]).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = gpt2.gelu(x)
    found = x.copy()
    float_kernels.gelu(found)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 7, 8, 1023, 1024, 1025, 3000])
def test_the_gelu_of_a_row_is_the_same_bit_for_bit_beside_any_others(n):
    rows = random(np.random.default_rng(0), 5, n)
    together = rows.copy()
    float_kernels.gelu_on_all_threads(together)
    for row, expected in zip(rows, together, strict=True):
        float_kernels.gelu(row)
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("n_rows", [1, 3, compiled.MOST_ROWS + 4])
def test_texts_with_compiled_operands_are_those_of_the_reference_loop(params, n_rows):
    prompts = [[5 + row, 80, 300][: 1 + row % 3] for row in range(n_rows)]
    completions = [Completion() for _ in prompts]
    jobs = [Job(prompt, [completion], 12) for prompt, completion in zip(prompts, completions, strict=True)]
    for _ in decode_together(jobs, with_compiled_products(params), 3, n_rows):
        pass
    expected = [list(gpt2.generate(prompt, params, 3, 12)) for prompt in prompts]
    assert [completion.ids for completion in completions] == expected


def test_logits_of_a_prompt_with_compiled_operands_are_those_of_plain_arrays(params):
    ids = np.random.default_rng(0).integers(0, 2048, 300)
    expected = gpt2.gpt2(ids, **params, n_head=3)
    np.testing.assert_allclose(gpt2.gpt2(ids, **with_compiled_products(params), n_head=3), expected, rtol=0, atol=2e-4)


def test_other_activations_keep_their_functions(params):
    blocks = [block | {"mlp": block["mlp"] | {"activation": "relu"}} for block in params["blocks"]]
    changed = params | {"blocks": blocks}
    ids = [1, 2, 3]
    expected = gpt2.gpt2(ids, **changed, n_head=3)
    np.testing.assert_allclose(gpt2.gpt2(ids, **with_compiled_products(changed), n_head=3), expected, atol=2e-4)
    assert np.abs(expected - gpt2.gpt2(ids, **params, n_head=3)).max() > 0.1


def test_only_long_runs_of_models_that_are_large_enough_are_compiled(params, monkeypatch):
    large = {"wte": np.broadcast_to(np.float32(0), (124_000, 1000)), "blocks": []}
    assert compiled.n_weights(large) == 124_000_000
    assert not pays(large, 100)
    assert pays(large, 200)
    assert pays(large, compiled.MANY)
    assert not pays(params, compiled.MANY)
    monkeypatch.setattr(compiled, "WORTHWHILE", 0)
    assert isinstance(with_fitting_products(params, 1)["wte"], CompiledEmbedding)
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert type(with_fitting_products(params, 1)["wte"]) is Embedding


def test_a_numba_that_cannot_be_imported_changes_nothing(params, monkeypatch):
    monkeypatch.setattr(compiled, "WORTHWHILE", 0)
    monkeypatch.delattr(engine, "float_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "engine.float_kernels", None)  # makes its import raise ImportError
    found = with_fitting_products(params, 1)
    assert type(found["wte"]) is Embedding
    np.testing.assert_array_equal(
        gpt2.gpt2([1, 2, 3], **found, n_head=3), gpt2.gpt2([1, 2, 3], **with_fast_products(params), n_head=3)
    )


def test_a_short_run_of_the_command_does_not_import_numba():
    code = "import sys; sys.argv = ['gpt2.py', 'Once', '-n', '2', '--model_size', 'tiny', '--quiet']\n"
    code += "import runpy\ntry:\n    runpy.run_path('gpt2.py', run_name='__main__')\nexcept SystemExit:\n    pass\n"
    code += "import json; print(json.dumps('numba' in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, stdin=-3)
    assert json.loads(done.stderr.splitlines()[-1]) is False, done.stderr
