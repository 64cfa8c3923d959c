"""engine/int8.py and its kernels: exact integers, nearly the logits of float32, and texts that no neighbour changes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import requires

import gpt2
import utils
from checkpoints import mapped
from engine import forward, int8, slots
from engine.attention import KernelCache
from engine.batching import Job, decode_together
from engine.completion import Completion
from engine.int8 import Int8Embedding, Int8Matrix, quantize, with_int8_products
from random_gpt2 import HPARAMS, random_params, with_differences
from sampling import make_sampler

requires("numba")
from engine import kernels, tiles  # noqa: E402

ROOT = Path(__file__).parents[2]
N_HEAD, N_CTX, N_VOCAB = HPARAMS["n_head"], HPARAMS["n_ctx"], HPARAMS["n_vocab"]


# ---- products --------------------------------------------------------------------------------------------------


def reference_product(x, values, scales):
    """Return what the kernel computes, in NumPy: the same integers, and outliers in float32."""
    x = x.astype(np.float64)
    size = np.abs(x)
    is_outlier = size > 24 * size.mean(axis=1, keepdims=True)
    steps = np.where(is_outlier, 0, size).max(axis=1, keepdims=True) / 2047
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.where(steps > 0, np.rint(np.where(is_outlier, 0, x) / steps), 0)
    exact = (rows * steps) @ (values.astype(np.float64) * scales[:, None]).T
    return exact + np.where(is_outlier, x, 0) @ (values.astype(np.float64) * scales[:, None]).T


@pytest.mark.parametrize("n_rows", [1, 2, 7, 8, 9, 33, 64])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (7, 5), (24, 72), (31, 33), (64, 101), (768, 100), (3072, 40)])
def test_a_product_is_that_of_the_integers_for_any_shape(n_rows, n_in, n_out):
    rng = np.random.default_rng(n_rows * n_in)
    values, scales = quantize(rng.standard_normal((n_out, n_in)).astype(np.float32))
    x = rng.standard_normal((n_rows, n_in)).astype(np.float32)
    x[0] *= rng.standard_normal(n_in) ** 4  # heavy tails
    expected = reference_product(x, values, scales)
    np.testing.assert_allclose(x @ Int8Matrix(values, scales), expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("n_in", [1, 31, 32, 33, 64, 95, 100, 768, 8192])
@pytest.mark.parametrize("n_out", [1, 3, 4, 5, 31, 32, 33, 70])
def test_tiles_give_the_integers_of_the_loop_for_any_tail(n_in, n_out):
    rng = np.random.default_rng(n_in)
    w = rng.integers(-127, 127, (n_out, n_in), endpoint=True).astype(np.int8)
    rows = rng.integers(-2047, 2047, (8, n_in), endpoint=True).astype(np.int16)
    w[0] = 127
    rows[0] = 2047  # the largest sum
    for start in range(0, n_out, kernels.BLOCK):
        stop = min(start + kernels.BLOCK, n_out)
        for r in (0, 4):
            exact = rows[r : r + 4].astype(np.int64) @ w[start:stop].T
            for function in (kernels.several_totals, kernels.plain_totals):
                totals = np.empty((4, kernels.BLOCK), np.int32)
                function(w, rows, r, start, stop, totals)
                np.testing.assert_array_equal(totals[:, : stop - start], exact)


def test_machines_without_avx_and_with_avx2_compute_nearly_the_same(tmp_path):
    code = (
        "import sys; sys.path.insert(0, '.'); import numpy as np, gpt2, utils; from engine import tiles; "
        "m = utils.load('tiny', weights='int8'); ids = m.encode('Once upon a time there was a dog'); "
        "np.save(sys.argv[1], gpt2.gpt2(ids, **m.params, n_head=m.n_head)); print(tiles.IS_AVAILABLE)"
    )
    machines = {"plain": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, "own": {}}
    if tiles.IS_AVX512:
        machines["avx2"] = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse4.2,+avx,+avx2,+fma"}
    results = []
    for name, features in machines.items():
        environment = {**os.environ, **features, "NUMBA_CACHE_DIR": str(tmp_path / name)}
        command = [sys.executable, "-c", code, str(tmp_path / f"{name}.npy")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert name == "own" or done.stdout == f"{name == 'avx2'}\n"
        results.append(np.load(tmp_path / f"{name}.npy"))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 4, 7), (2, 3, 4, 7), (0, 7)])
def test_a_matrix_keeps_the_batch_axes_and_takes_any_strides(shape):
    rng = np.random.default_rng(0)
    values, scales = quantize(rng.standard_normal((5, 7)).astype(np.float32))
    x = rng.standard_normal(shape).astype(np.float32)
    expected = x @ (values * scales[:, None]).T
    np.testing.assert_allclose(x @ Int8Matrix(values, scales), expected, rtol=0, atol=0.02)
    if len(shape) > 1:
        turned = np.asfortranarray(x)
        np.testing.assert_array_equal(turned @ Int8Matrix(values, scales), x @ Int8Matrix(values, scales))
    assert Int8Matrix(values, scales).shape == (7, 5)


def test_a_sum_of_more_inputs_than_int32_holds_is_exact():
    n_in = 20_000
    values = np.full((2, n_in), 127, np.int8)
    values[1] = -127
    x = np.ones((1, n_in), np.float32)
    product = x @ Int8Matrix(values, np.ones(2, np.float32))
    np.testing.assert_allclose(product, [[127 * n_in, -127 * n_in]], rtol=1e-6)


def test_the_largest_sum_of_int32_is_exact():
    values = np.full((1, kernels.MOST_INPUTS), 127, np.int8)
    product = np.ones((1, kernels.MOST_INPUTS), np.float32) @ Int8Matrix(values, np.ones(1, np.float32))
    np.testing.assert_allclose(product, [[127 * kernels.MOST_INPUTS]], rtol=1e-6)


def q8_0(x):
    """Return activations with the error of llama.cpp's Q8_0: blocks of 32 with a scale each."""
    blocks = x.reshape(-1, 32)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
    return (np.rint(blocks / scales) * scales).reshape(x.shape)


@pytest.mark.parametrize("size", [1, 30, 1000, 3000])
def test_outliers_among_the_activations_cost_less_accuracy_than_in_q8_0(size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 768)).astype(np.float32)
    x[:, [138, 378, 447]] *= size  # GPT-2 has a few such columns
    values, scales = quantize(rng.standard_normal((200, 768)).astype(np.float32))
    w = (values.astype(np.float64) * scales[:, None]).T
    error = np.abs(x @ Int8Matrix(values, scales) - x.astype(np.float64) @ w).max()
    assert error < np.abs((q8_0(x) - x.astype(np.float64)) @ w).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_not_lost(bad):
    values, scales = quantize(np.ones((3, 8), np.float32))
    x = np.ones((9, 8), np.float32)
    x[4, 5] = bad
    product = x @ Int8Matrix(values, scales)
    assert np.isnan(product[4]).all() and np.isfinite(np.delete(product, 4, axis=0)).all()
    weights = np.ones((3, 8), np.float32)
    weights[1, 2] = bad
    product = np.ones((2, 8), np.float32) @ Int8Matrix(*quantize(weights))
    assert np.isnan(product[:, 1]).all() and np.isfinite(product[:, [0, 2]]).all()


def test_an_embedding_gives_the_weights_with_the_error_of_int8():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((11, 8)).astype(np.float32)
    embedding = Int8Embedding(*quantize(weights))
    ids = np.array([[3, 0], [10, 3]])
    step = np.abs(weights).max(axis=1)[ids][..., None] / 127
    assert embedding[ids].shape == (2, 2, 8) and embedding[ids].dtype == np.float32
    assert np.all(np.abs(embedding[ids] - weights[ids]) <= 0.51 * step)
    assert (len(embedding), embedding.shape) == (11, (11, 8))


# ---- attention -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_query", [1, 2, 5, 128, 129, 300])
@pytest.mark.parametrize("n_past", [0, 1, 37])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_is_that_of_gpt2_py(n_query, n_past, window):
    np.random.default_rng(n_query)
    shape = (2, 3, n_past + n_query + 4, 8)  # the cache has room for more
    caches = [
        cache(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for cache in (gpt2.LayerCache, KernelCache)
    ]
    caches[1].window = window
    results = []
    for cache in caches:
        draw = np.random.default_rng(1)
        cache.append(*draw.standard_normal((2, 2, 3, n_past, 8)).astype(np.float32))
        k, v = cache.append(*draw.standard_normal((2, 2, 3, n_query, 8)).astype(np.float32))
        q = 3 * draw.standard_normal((2, 3, n_query, 8)).astype(np.float32)
        mask = gpt2.causal_mask(n_past + np.arange(n_query), n_past + n_query, window)
        results.append(gpt2.causal_attention(q, k, v, mask))
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=2e-5)


def test_the_softmax_is_that_of_numpy():
    rng = np.random.default_rng(0)
    for n in (1, 2, 15, 16, 17, 1000):
        x = (20 * rng.standard_normal(n)).astype(np.float32)
        expected = np.exp((x - x.max()).astype(np.float64))
        expected /= expected.sum()
        kernels.softmax(x, np.empty(n, np.int32))
        np.testing.assert_allclose(x, expected, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_attention_keeps_nan(part):
    arrays = {name: np.ones((1, 1, 4, 8), np.float32) for name in "qkv"}
    arrays[part][0, 0, 1, 3] = np.nan
    out = np.empty((1, 1, 4, 8), np.float32)
    ends = np.array([[1, 2, 3, 4]])
    kernels.attend_all(arrays["q"], arrays["k"], arrays["v"], ends, 4, out)
    assert np.isnan(out[0, 0, 1]).any() and np.isfinite(out[0, 0, 0]).all()


# ---- the model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params():
    return with_int8_products(random_params(**HPARAMS))


def test_the_logits_are_nearly_those_of_float32():
    model = utils.load("tiny")
    ids = model.encode("Once upon a time there was a little girl. She had a dog, and the dog was very big.")
    expected = gpt2.gpt2(ids, **model.params, n_head=model.n_head)
    found = gpt2.gpt2(ids, **with_int8_products(model.params), n_head=model.n_head)
    assert 0 < np.abs(found - expected).max() < 0.25
    assert np.mean(found.argmax(axis=1) == expected.argmax(axis=1)) > 0.9


def jobs_of(n, seed=0):
    """Return jobs of different prompts, lengths and numbers of samples; some slide."""
    rng = np.random.default_rng(seed)
    jobs = []
    for j in range(n):
        prompt = rng.integers(N_VOCAB, size=int(rng.integers(1, 28))).tolist()
        completions = [
            Completion(make_sampler(temperature=1.0), np.random.default_rng([j, i])) for i in range(1 + j % 3)
        ]
        jobs.append(Job(prompt, completions, n_tokens=int(rng.integers(1, 25)), keep=2 if j % 4 == 0 else None))
    return jobs


def texts_of(params, jobs, n_slots):
    logits = []
    for job in jobs:
        for completion in job.completions:
            completion.on_token = lambda raw, processed, token: logits.append((token, raw.tobytes()))
    for _ in decode_together(iter(jobs), params, N_HEAD, n_slots):
        pass
    return [completion.ids for job in jobs for completion in job.completions], sorted(logits)


@pytest.mark.parametrize("kind", ["GPT-2", "with windows and a head", "with another activation, too"])
def test_every_logit_is_the_same_for_any_batch_size_any_neighbours_and_any_grouping_of_prompts(kind, monkeypatch):
    params = random_params(**HPARAMS)
    if kind != "GPT-2":
        params = with_differences(params)
    if kind == "with windows and a head":
        for block in params["blocks"]:
            del block["mlp"]["activation"]
    params = with_int8_products(params)
    assert (params["wte"].transformer is None) == (kind == "with another activation, too")
    alone = texts_of(params, jobs_of(30), 1)
    for n_slots in (2, 7, 8, 9, 64):
        assert texts_of(params, jobs_of(30), n_slots) == alone
    monkeypatch.setattr(slots, "PREFILL_TOKENS", 40)
    assert texts_of(params, jobs_of(30), 64) == alone


@pytest.mark.parametrize("model", [gpt2.gpt2, forward.gpt2], ids=["operands", "compiled blocks"])
def test_a_prompt_in_chunks_has_the_logits_of_a_prompt_in_one_pass(model):
    shape = {"n_vocab": 101, "n_ctx": 400, "n_embd": 24, "n_head": 3, "n_layer": 2}
    params = with_int8_products(random_params(**shape))
    ids = np.random.default_rng(0).integers(101, size=390).tolist()

    def logits_of(chunks):
        caches = [KernelCache(layer.k, layer.v) for layer in gpt2.make_kv_cache(params, 3, 400)]
        parts = [model(chunk, **params, n_head=3, cache=caches) for chunk in np.split(np.array(ids), chunks)]
        return np.concatenate(parts)

    whole = logits_of([])
    for chunks in ([1], [128], [129, 130], [40, 300], range(7, 390, 7)):
        np.testing.assert_array_equal(logits_of(list(chunks)), whole)


def test_every_text_is_the_same_for_any_number_of_threads(tmp_path):
    code = (
        "import sys; sys.path[:0] = ['tests', '.', 'tests/engine']; import test_int8 as t; "
        "print(t.texts_of(t.with_int8_products(t.random_params(**t.HPARAMS)), t.jobs_of(12), 5)[0])"
    )
    outputs = set()
    for n in ("1", "2"):
        environment = {**os.environ, "NUMBA_NUM_THREADS": n, "CI": ""}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_a_damaged_model_is_the_same_error_as_in_float32():
    params = random_params(**HPARAMS)
    params["blocks"][1]["mlp"]["c_fc"]["w"][3, 5] = np.nan
    completion = Completion(make_sampler(temperature=1.0), np.random.default_rng(0))
    job = Job([1, 2, 3], [completion], n_tokens=3)
    for _ in decode_together(iter([job]), with_int8_products(params), N_HEAD, 1):
        pass
    assert "its weights may be damaged" in job.error


# ---- the file --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def loaded(params, folder, source="a"):
    """Return the integers of wte after a load."""
    return with_int8_products(params, folder, source)["wte"].values


def test_the_integers_are_kept_beside_the_model_and_mapped(folder, monkeypatch):
    params = random_params(**HPARAMS)
    first = loaded(params, folder)
    size = (folder / "model.int8").stat().st_size
    assert size < 0.35 * sum(array.nbytes for _, array in int8.matrices(params)) + 8192
    monkeypatch.setattr(int8, "values_of", None)  # nothing is quantized again
    assert np.array_equal(loaded(params, folder), first)
    tree = with_int8_products(params, folder, "a")
    for name, array in int8.matrices(params):
        expected = np.abs(array).max(axis=1) / np.float32(127)
        found = tree
        for key in name.split("."):
            found = found[int(key) if key.isdecimal() else key]
        assert np.allclose(found.scales, expected) and found.scales.flags.aligned


@pytest.mark.parametrize("change", ["source", "version", "damage", "truncation", "other shapes"])
def test_integers_of_another_model_or_version_or_damaged_ones_are_written_again(folder, monkeypatch, change):
    params = random_params(**HPARAMS)
    expected = loaded(params, folder).copy()
    file = folder / "model.int8"
    source = "a"
    if change == "source":
        params["wte"] = params["wte"][::-1].copy()
        expected = expected[::-1]
        source = "b"
    elif change == "version":
        monkeypatch.setattr(int8, "VERSION", "int8-0")
    elif change == "damage":
        file.write_bytes(b"x" * 1000)
    elif change == "truncation":
        file.write_bytes(file.read_bytes()[:-7])
    else:
        with_int8_products(random_params(**{**HPARAMS, "n_layer": 2}), folder, "a")
    assert np.array_equal(loaded(params, folder, source), expected)
    assert mapped.read_header(file)[1] == f"{int8.VERSION} {source}"
    assert [path.name for path in folder.iterdir() if path.name not in ("model.int8", ".lock")] == []


def test_a_folder_that_is_not_writable_is_no_obstacle(folder, monkeypatch, caplog):
    def fail(*args):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(int8.files, "replacing", fail)
    params = random_params(**HPARAMS)
    assert np.array_equal(loaded(params, folder), int8.quantized(params)["wte"])
    assert "is not writable (Read-only file system): the weights are quantized for this run only" in caplog.text
    assert not (folder / "model.int8").exists()


def test_the_file_of_a_single_file_model_has_its_name(folder):
    (folder / "a.gguf").write_bytes(b"")
    with_int8_products(random_params(**HPARAMS), folder / "a.gguf", "a")
    assert (folder / "a.gguf.int8").exists()


# ---- the commands ----------------------------------------------------------------------------------------------


def test_gpt2_py_and_batch_py_give_the_same_text_in_int8(here, tmp_path):
    import json

    import batch
    from runner.command import BATCH

    words = ("--model_size", "tiny", "--weights", "int8", "--temperature", "1", "--seed", "5", "-n", "20")
    prompts = tmp_path / "p.txt"
    prompts.write_text("One day\nOnce upon a time\nThe\n", encoding="utf-8")
    code, out, _ = here("One day", *words, "--json")
    record = json.loads(out)
    assert code == 0 and record["settings"]["weights"] == "int8"
    code, out, _ = here(prompts, *words, "--output", "-", main=batch.main, command=BATCH)
    assert code == 0 and json.loads(out.splitlines()[0])["text"] == record["text"]
    assert "weights" not in json.loads(here("One day", "--model_size", "tiny", "--json")[1])["settings"]


def test_a_run_is_not_continued_with_other_weights(here, tmp_path):
    import batch
    from runner.command import BATCH

    (tmp_path / "p.txt").write_text("One day\n", encoding="utf-8")
    words = (tmp_path / "p.txt", "--model_size", "tiny", "--seed", "5", "-n", "3", "--output", tmp_path / "o.jsonl")
    assert here(*words, main=batch.main, command=BATCH)[0] == 0
    code, _, err = here(*words, "--weights", "int8", main=batch.main, command=BATCH)
    assert code == 2 and 'was made with weights not given, now it is "int8"' in err


def test_without_numba_the_message_has_the_command_that_installs_it(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "engine.kernels", None)
    monkeypatch.delattr("engine.kernels")
    code, out, err = here("x", "--model_size", "tiny", "--weights", "int8")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "int8 weights need numba" in err and "pip install numba" in err


def test_an_unknown_kind_of_weights_is_a_usage_error(here):
    code, _, err = here("x", "--model_size", "tiny", "--weights", "int4")
    assert code == 2 and "weights is 'int4'; it must be float32 or int8" in err
