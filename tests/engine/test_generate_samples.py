"""Test generate_samples and generate_by of engine/batching.py against gpt2.generate and gpt2_pico."""

import numpy as np
import pytest

import gpt2
import gpt2_pico
from engine import memory
from engine.batching import generate_by, generate_samples
from engine.completion import Completion
from random_gpt2 import HPARAMS
from sampling import make_logits_processor, make_sampler

N_HEAD, N_CTX, N_VOCAB = HPARAMS["n_head"], HPARAMS["n_ctx"], HPARAMS["n_vocab"]


@pytest.fixture(scope="session")
def params(any_params):
    return any_params


def drawing(i, **options):
    """Return a completion that draws at random."""
    return Completion(make_sampler(temperature=1.2), np.random.default_rng([7, 0, i]), **options)


def continued(params, prompt, n, completions, keep=None):
    """Return the ids and finish reasons of the completions, and the number of completions in each step."""
    steps = [len(live) for live in generate_samples(prompt, params, N_HEAD, n, completions, keep)]
    ids = [completion.ids for completion in completions]
    reasons = [completion.finish_reason for completion in completions]
    return ids, reasons, steps


def test_completions_of_any_number_equal_the_reference_loop(params):
    alone = [list(gpt2.generate([1, 2, 3], params, N_HEAD, 20, drawing(i).sampler, drawing(i).rng)) for i in range(5)]
    assert len({tuple(ids) for ids in alone}) == 5
    for n in (1, 2, 5):
        ids, reasons, steps = continued(params, [1, 2, 3], 20, [drawing(i) for i in range(n)])
        assert ids == alone[:n]
        assert reasons == ["length"] * n and steps == [n] * 20


def test_a_finished_completion_leaves_the_batch_and_does_not_change_the_others(params):
    free, _, _ = continued(params, [1, 2], 20, [drawing(i) for i in range(4)])
    stop = next(token for i, token in enumerate(free[1]) if i > 4 and token not in free[1][:i])
    completions = [drawing(i, stop_ids={stop}) for i in range(4)]
    ids, reasons, steps = continued(params, [1, 2], 20, completions)
    expected = [one[: one.index(stop)] if stop in one else one for one in free]
    assert ids == expected
    assert reasons == ["eos" if stop in one else "length" for one in free]
    assert steps == sorted(steps, reverse=True) and steps[0] == 4 and steps[-1] < 4


def test_the_caller_can_end_a_completion(params):
    completions = [drawing(0), drawing(1)]
    for live in generate_samples([1], params, N_HEAD, 10, completions):
        if len(completions[0].ids) == 3:
            completions[0].finish_reason = "stop"
        assert completions[1] in live
    assert [len(completion.ids) for completion in completions] == [3, 10]
    assert completions[0].finish_reason == "stop"


def test_the_prompt_is_computed_once_for_all_completions(params, passes):
    continued(params, [1, 2, 3, 4], 3, [drawing(i) for i in range(5)])
    assert passes == [(1, 4), (5, 1), (5, 1)]


def test_a_logits_processor_gets_the_prompt_and_the_new_ids_of_its_completion(params):
    no_repeats = make_logits_processor(n_prompt=2, no_repeat_ngram_size=1)
    completions = [Completion(logits_processor=no_repeats) for _ in range(2)]
    ids, _, _ = continued(params, [1, 2], 20, completions)
    assert ids[0] == ids[1]
    assert len({1, 2, *ids[0]}) == 22


def test_a_logits_processor_gets_the_prompt_before_the_new_ids(params):
    histories = []

    def record(logits, ids):
        histories.append(ids)
        return logits

    completion = Completion(logits_processor=record)
    continued(params, [1, 2], 3, [completion])
    assert histories == [[1, 2, *completion.ids[:n]] for n in range(3)]


@pytest.mark.parametrize("n_prompt", [1, 5, 31, 32])
def test_the_end_of_the_context_ends_a_text_that_does_not_slide(params, n_prompt):
    ids, reasons, _ = continued(params, range(n_prompt), 1000, [Completion(), drawing(1)])
    assert [n_prompt + len(one) - 1 for one in ids] == [N_CTX] * 2
    assert reasons == ["context"] * 2


def test_length_precedes_context_if_both_end_a_text(params):
    _, reasons, _ = continued(params, [1], N_CTX, [Completion()])
    assert reasons == ["length"]


def from_scratch(params, prompt, n, keep):
    """Return the greedy ids after a sliding window; gpt2_pico computes every token without a cache."""
    window = list(prompt)
    ids = []
    for _ in range(n):
        if len(window) > N_CTX:
            window = window[:keep] + (list(prompt) + ids)[-((N_CTX - keep) // 2) :]
        ids.append(int(np.argmax(gpt2_pico.gpt2(window, **params, n_head=N_HEAD)[-1])))
        window.append(ids[-1])
    return ids


@pytest.mark.parametrize(("n_prompt", "keep"), [(5, 0), (5, 3), (32, 0), (3, 30), (50, 4), (1, 2)])
def test_the_window_slides_to_the_kept_ids_and_the_newest_half(params, n_prompt, keep):
    prompt = np.random.default_rng(3).integers(N_VOCAB, size=n_prompt).tolist()
    ids, reasons, _ = continued(params, prompt, 100, [Completion(), Completion()], keep)
    assert ids[0] == ids[1] == from_scratch(params, prompt, 100, keep)
    assert reasons == ["length"] * 2


def test_sliding_computes_the_window_again_once_per_half_window(params, passes):
    continued(params, [1, 2], 100, [Completion(), drawing(0)], keep=0)
    assert [shape for shape in passes if shape[1] > 1] == [(1, 2), *[(2, 16)] * 5]
    assert len(passes) == 100


def test_zero_tokens_need_no_pass(params, passes):
    assert continued(params, [1], 0, [Completion(), Completion()]) == ([[], []], ["length"] * 2, [])
    assert passes == []


def test_a_prompt_longer_than_the_context_is_an_error_unless_the_window_slides(params):
    with pytest.raises(ValueError, match="the prompt has 40 tokens; this model reads at most 32"):
        continued(params, range(40), 1, [Completion()])
    assert len(continued(params, range(40), 3, [Completion()], keep=0)[0][0]) == 3


@pytest.mark.parametrize("keep", [None, 0])
def test_a_prompt_without_ids_is_an_error(params, keep):
    with pytest.raises(ValueError, match="the prompt has no token ids; it must have at least one"):
        continued(params, [], 5, [Completion()], keep)


def test_a_failing_sampler_raises_its_error(params):
    banned = make_logits_processor(banned_ids=range(N_VOCAB))
    with pytest.raises(ValueError, match="every token is banned"):
        continued(params, [1], 3, [Completion(), Completion(logits_processor=banned)])


def test_an_observer_gets_raw_and_processed_logits_and_the_id_of_every_choice(params):
    seen = []
    bias = make_logits_processor(logit_bias={5: 100})
    completion = Completion(logits_processor=bias, stop_ids={7}, on_token=lambda *step: seen.append(step))
    continued(params, [1, 2], 3, [completion])
    assert [token for _, _, token in seen] == [5, 5, 5]
    for raw, processed, _ in seen:
        np.testing.assert_allclose(processed - raw, 100 * (np.arange(N_VOCAB) == 5), atol=1e-4)
    np.testing.assert_allclose(seen[0][0], gpt2_pico.gpt2([1, 2], **params, n_head=N_HEAD)[-1], atol=1e-4)


def test_an_observer_gets_the_stop_id_too(params):
    seen = []
    first = continued(params, [1, 2], 1, [Completion()])[0][0][0]
    completion = Completion(stop_ids={first}, on_token=lambda raw, processed, token: seen.append(token))
    assert continued(params, [1, 2], 3, [completion])[:2] == ([[]], ["eos"])
    assert seen == [first]


# ---- generate_by: the same steps from a reference loop ---------------------------------------------------------


@pytest.mark.parametrize("generate", [gpt2.generate, gpt2_pico.generate])
@pytest.mark.parametrize(("n_prompt", "n_tokens"), [(3, 0), (3, 6), (31, 1), (31, 2), (30, 50), (32, 5)])
def test_generate_by_returns_the_ids_and_finish_reason_of_the_engine(params, generate, n_prompt, n_tokens):
    prompt = list(range(n_prompt))
    by_engine = drawing(1)
    by_reference = drawing(1)
    continued(params, prompt, n_tokens, [by_engine])
    list(generate_by(generate, prompt, params, N_HEAD, n_tokens, [by_reference]))
    assert (by_reference.ids, by_reference.finish_reason) == (by_engine.ids, by_engine.finish_reason)


@pytest.mark.parametrize("generate", [gpt2.generate, gpt2_pico.generate])
def test_generate_by_rejects_a_prompt_that_is_longer_than_the_context(params, generate):
    with pytest.raises(ValueError, match="the prompt has 40 tokens; this model reads at most 32"):
        list(generate_by(generate, range(40), params, N_HEAD, 1, [Completion()]))


def test_generate_by_ends_when_the_caller_ends_the_completion(params):
    completion = Completion()
    for _ in generate_by(gpt2_pico.generate, [1, 2], params, N_HEAD, 10, [completion]):
        if len(completion.ids) == 3:
            completion.finish_reason = "stop"
    assert len(completion.ids) == 3


def test_generate_by_ends_at_a_stop_id_that_is_the_first_token(params):
    first = continued(params, [1, 2], 1, [Completion()])[0][0][0]
    completion = Completion(stop_ids={first})
    list(generate_by(gpt2_pico.generate, [1, 2], params, N_HEAD, 10, [completion]))
    assert (completion.ids, completion.finish_reason) == ([], "eos")


def test_generate_by_ends_at_a_stop_id(params):
    free = continued(params, [1, 2], 10, [Completion()])[0][0]
    stop = next(token for token in free if token != free[0])
    completion = Completion(stop_ids={stop})
    list(generate_by(gpt2_pico.generate, [1, 2], params, N_HEAD, 10, [completion]))
    assert (completion.ids, completion.finish_reason) == (free[: free.index(stop)], "eos")


# ---- memory ----------------------------------------------------------------------------------------------------


def test_texts_that_do_not_fit_into_the_free_memory_are_rejected_before_any_pass(params, passes, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 10**6)
    completions = [Completion() for _ in range(10_000)]
    with pytest.raises(
        RuntimeError, match=r"^10000 texts of \d+ tokens need \d+\.\d GB of memory, and 0.0 GB are free"
    ):
        next(generate_samples([1], params, HPARAMS["n_head"], 5, completions))
    assert passes == []


def test_texts_that_fit_exactly_are_generated(params, monkeypatch):
    n_floats = 2 * HPARAMS["n_layer"] * HPARAMS["n_embd"] * 6 + HPARAMS["n_vocab"]
    completions = [Completion() for _ in range(3)]
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * 4 * n_floats)
    assert len(list(generate_samples([1], params, HPARAMS["n_head"], 5, completions))) == 5
