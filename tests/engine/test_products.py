"""Test engine/products.py: the operands give the results of plain arrays."""

import operator

import numpy as np
import pytest

import gpt2
from engine import products
from engine.products import Embedding, Matrix, Vector, with_fast_products
from random_gpt2 import HPARAMS

N_HEAD, N_VOCAB = HPARAMS["n_head"], HPARAMS["n_vocab"]


@pytest.mark.parametrize("n_rows", [*range(19), 30, 127, 128, 129])
def test_a_matrix_gives_the_product_of_its_array_for_any_number_of_rows(n_rows):
    rng = np.random.default_rng(n_rows)
    rows = rng.standard_normal((n_rows, 7), np.float32)
    w = rng.standard_normal((7, 5), np.float32)
    product = rows @ Matrix(w)
    np.testing.assert_allclose(product, rows.astype(np.float64) @ w, rtol=0, atol=1e-5)
    assert product.dtype == np.float32 and product.shape == (n_rows, 5)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 7), (3, 4, 7), (2, 3, 4, 7), (30, 1, 7)])
def test_a_matrix_keeps_the_batch_axes(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, np.float32)
    w = rng.standard_normal((7, 5), np.float32)
    np.testing.assert_allclose(x @ Matrix(w), x @ w, rtol=0, atol=1e-5)


def test_a_matrix_multiplies_rows_that_are_not_contiguous():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 2, 7), np.float32).swapaxes(0, 1)
    w = rng.standard_normal((7, 5), np.float32)
    np.testing.assert_allclose(x @ Matrix(w), x @ w, rtol=0, atol=1e-5)


def test_an_embedding_has_the_operations_of_its_array():
    wte = np.random.default_rng(0).standard_normal((9000, 7), np.float32)
    embedding = Embedding(wte)
    assert (embedding.shape, len(embedding), embedding.T.shape) == ((9000, 7), 9000, (7, 9000))
    np.testing.assert_array_equal(embedding[[3, 1, 3]], wte[[3, 1, 3]])
    for n_rows in (1, 2, 3, 4, 12, 30):
        x = np.random.default_rng(1).standard_normal((n_rows, 7), np.float32)
        np.testing.assert_allclose(x @ embedding.T, x @ wte.T, rtol=0, atol=1e-5)


class Recorded(np.ndarray):
    """A matrix that adds the shapes of its products to `Recorded.shapes`."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [x.view(np.ndarray) if isinstance(x, Recorded) else x for x in inputs]
        if ufunc is np.matmul:
            Recorded.shapes.append((plain[0].shape, plain[1].shape))
        return getattr(ufunc, method)(*plain, **options)


def shapes_of(operand, *batch):
    """Return the shapes of NumPy's products in `x @ operand`."""
    Recorded.shapes = []
    np.ones((*batch, operand.shape[0]), np.float32) @ operand
    return Recorded.shapes


@pytest.mark.parametrize(("batch", "n_multiplied"), [((1,), 1), ((5,), 8), ((6, 5), 32), ((32,), 32), ((130,), 130)])
def test_a_matrix_joins_the_batch_axes_and_pads_the_rows_to_a_multiple_of_eight(batch, n_multiplied):
    w = np.ones((7, 5), np.float32).view(Recorded)
    assert shapes_of(Matrix(w), *batch) == [((n_multiplied, 7), (7, 5))]


@pytest.mark.parametrize("n_rows", [2, 3, 4])
def test_a_few_rows_are_multiplied_one_by_one_with_each_chunk_of_the_vocabulary(n_rows, monkeypatch):
    monkeypatch.setattr(products, "VOCAB_CHUNK", 6)
    w = np.ones((7, 10), np.float32).view(Recorded)
    wte = np.ones((10, 7), np.float32).view(Recorded)
    assert shapes_of(Matrix(w), n_rows) == [((7,), (7, 10))] * n_rows
    assert shapes_of(Embedding(wte).T, n_rows) == [((7,), (7, 6))] * n_rows + [((7,), (7, 4))] * n_rows


def test_a_model_with_fast_products_has_the_logits_of_the_model_with_arrays(params):
    ids = np.random.default_rng(2).integers(N_VOCAB, size=(3, 20))
    fast = with_fast_products(params)
    logits = gpt2.gpt2(ids, **fast, n_head=N_HEAD)
    np.testing.assert_allclose(logits, gpt2.gpt2(ids, **params, n_head=N_HEAD), rtol=0, atol=1e-4)
    assert list(gpt2.generate([1], fast, N_HEAD, 9)) == list(gpt2.generate([1], params, N_HEAD, 9))


def test_with_fast_products_copies_no_weight_and_does_not_change_the_tree(params):
    fast = with_fast_products(params)
    assert fast["wte"].array is params["wte"] and isinstance(params["wte"], np.ndarray)
    block = fast["blocks"][0]
    assert block["attn"]["c_attn"]["w"].array is params["blocks"][0]["attn"]["c_attn"]["w"]
    assert block["attn"]["c_attn"]["b"].array is params["blocks"][0]["attn"]["c_attn"]["b"]
    assert fast["ln_f"]["g"].array is params["ln_f"]["g"]
    assert fast["wpe"] is params["wpe"]
    assert "activation" not in params["blocks"][0]["mlp"]


@pytest.mark.parametrize("activation", gpt2.ACTIVATIONS)
def test_an_activation_in_row_chunks_has_the_same_result(activation, monkeypatch):
    function = gpt2.ACTIVATIONS[activation]
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 7)).astype(np.float32)
    for n_floats in (1, 20, 35, 10**9):
        monkeypatch.setattr(products, "L2_FLOATS", n_floats)
        np.testing.assert_array_equal(products.in_row_chunks(function)(x.copy()), function(x))


@pytest.mark.parametrize("activation", gpt2.ACTIVATIONS)
def test_with_fast_products_keeps_the_activation_of_the_weights_tree(params, activation):
    blocks = [{**block, "mlp": {**block["mlp"], "activation": activation}} for block in params["blocks"]]
    params = {**params, "blocks": blocks}
    ids = np.arange(9)
    logits = gpt2.gpt2(ids, **with_fast_products(params), n_head=N_HEAD)
    np.testing.assert_allclose(logits, gpt2.gpt2(ids, **params, n_head=N_HEAD), rtol=0, atol=1e-4)


def test_with_fast_products_computes_the_activation_in_row_chunks(params, monkeypatch):
    n_rows = []

    def recording(x):
        n_rows.append(len(x))
        return gpt2.gelu(x)

    monkeypatch.setitem(gpt2.ACTIVATIONS, "gelu", recording)
    monkeypatch.setattr(products, "L2_FLOATS", 3 * 4 * HPARAMS["n_embd"])
    gpt2.gpt2(np.arange(8), **with_fast_products(params), n_head=N_HEAD)
    assert n_rows == [3, 3, 2] * HPARAMS["n_layer"]


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 4, 7)])
def test_a_vector_adds_and_multiplies_in_place_on_its_left_operand(shape):
    """A plain array on the left changes: a vector may follow an intermediate result only."""
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(7, np.float32)
    before = vector.copy()
    for operation in (operator.add, operator.mul):
        x = rng.standard_normal(shape, np.float32)
        expected = operation(x, vector)
        result = operation(x, Vector(vector))
        assert result is x
        np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(vector, before)


def test_a_model_with_vectors_changes_no_weight(params):
    before = np.concatenate([a.ravel() for a in arrays(params)])
    ids = np.arange(9)
    fast = with_fast_products(params)
    first = gpt2.gpt2(ids, **fast, n_head=N_HEAD)
    np.testing.assert_array_equal(gpt2.gpt2(ids, **fast, n_head=N_HEAD), first)
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in arrays(params)]), before)


def arrays(tree):
    if isinstance(tree, np.ndarray):
        yield tree
    else:
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from arrays(child)
