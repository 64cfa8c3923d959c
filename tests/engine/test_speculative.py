"""engine/speculative.py: a draft changes the speed but not the text, and a draft that costs time is paused."""

from functools import partial

import numpy as np
import pytest
from conftest import requires

import gpt2
from engine import speculative
from engine.batching import generate_samples
from engine.completion import Completion
from engine.int8 import with_int8_products
from engine.speculative import Lookup, ModelDraft, Pace, generate_with_draft
from random_gpt2 import HPARAMS, random_params, with_differences
from sampling import make_logits_processor, make_sampler

requires("numba")

N_HEAD, N_CTX, N_VOCAB = HPARAMS["n_head"], HPARAMS["n_ctx"], HPARAMS["n_vocab"]
SAMPLERS = {
    "greedy": {},
    "temperature": {"temperature": 1.0},
    "top_p": {"temperature": 1.3, "top_p": 0.8},
    "mirostat": {"mirostat_tau": 3.0},
}


class Wild:
    """A draft that proposes the true tokens, wrong ones, or a mixture."""

    def __init__(self, expected, seed):
        self.expected = expected
        self.rng = np.random.default_rng(seed)

    def propose(self, ids, n, completion):
        true = self.expected[len(completion.ids) :][:n]
        n_true = self.rng.integers(len(true), endpoint=True)
        wrong = self.rng.integers(N_VOCAB, size=self.rng.integers(n - n_true, endpoint=True)).tolist()
        return true[:n_true] + wrong


@pytest.fixture(scope="module", params=["GPT-2", "with windows and a head"])
def params(request):
    params = random_params(**HPARAMS)
    return with_int8_products(params if request.param == "GPT-2" else with_differences(params))


@pytest.fixture
def always(monkeypatch):
    """Let every pass have a draft, also those that measure."""
    monkeypatch.setattr(speculative, "N_PLAIN", 0)
    monkeypatch.setattr(Pace, "count", lambda self, n_drafted, n_tokens: None)


def new_completion(sampler, seed=1, **more):
    knobs = SAMPLERS[sampler]
    processor = make_logits_processor(n_prompt=3, repetition_penalty=1.3, frequency_penalty=0.2)
    return Completion(make_sampler(**knobs), np.random.default_rng(seed), processor, (7,), **more)


def continued(generate, params, prompt, completion, n, keep=None):
    for _ in generate(prompt, params, N_HEAD, n, [completion], keep):
        pass
    return completion.ids, completion.finish_reason


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("n", "keep"), [(10, None), (60, None), (90, 2)])
@pytest.mark.parametrize("kind", ["lookup", "the same model", "another model", "wild"])
def test_the_text_is_that_without_a_draft(params, always, sampler, n, keep, kind):
    for seed in range(4):
        prompt = np.random.default_rng(seed).integers(N_VOCAB, size=3 + 5 * seed).tolist()
        expected = continued(generate_samples, params, prompt, new_completion(sampler, seed), n, keep)
        new_draft = {
            "lookup": Lookup,
            "the same model": partial(ModelDraft, params, N_HEAD),
            "another model": partial(ModelDraft, with_int8_products(random_params(**HPARAMS, seed=5)), N_HEAD),
            "wild": partial(Wild, expected[0], seed),
        }[kind]
        drafting = partial(generate_with_draft, new_draft=new_draft)
        assert continued(drafting, params, prompt, new_completion(sampler, seed), n, keep) == expected


def test_every_token_is_a_step_and_the_logits_are_bit_equal(params, always):
    def run(generate):
        seen = []
        completion = new_completion("temperature", on_token=lambda raw, processed, token: seen.append(raw.tobytes()))
        steps = [list(completion.ids) for _ in generate([1, 2, 3], params, N_HEAD, 20, [completion])]
        return seen, [len(ids) for ids in steps]

    plain = run(generate_samples)
    assert run(partial(generate_with_draft, new_draft=partial(ModelDraft, params, N_HEAD))) == plain


def count_passes(monkeypatch):
    passes = []
    original = speculative.gpt2

    def counting(ids, **more):
        passes.append(len(ids))
        return original(ids, **more)

    monkeypatch.setattr(speculative, "gpt2", counting)
    return passes


def test_a_draft_that_is_right_saves_passes(params, always, monkeypatch):
    passes = count_passes(monkeypatch)
    expected = continued(generate_samples, params, [1, 2, 3], new_completion("greedy"), 25)[0]

    class Right(Wild):
        def propose(self, ids, n, completion):
            return self.expected[len(completion.ids) :][:n]

    continued(
        partial(generate_with_draft, new_draft=lambda: Right(expected, 0)),
        params,
        [1, 2, 3],
        new_completion("greedy"),
        25,
    )
    assert len(passes) <= 1 + 25 / 4 and sum(passes) <= 3 + 25


def test_a_failing_sampler_is_an_error_as_without_a_draft(params):
    def fail(logits, rng):
        raise ValueError("no token")

    completion = Completion(fail, np.random.default_rng(0))
    with pytest.raises(ValueError, match="no token"):
        continued(partial(generate_with_draft, new_draft=Lookup), params, [1], completion, 5)


@pytest.mark.parametrize("prompt", [[], [1] * (N_CTX + 1), [N_VOCAB]])
def test_an_invalid_prompt_is_an_error(params, prompt):
    with pytest.raises(ValueError, match="the prompt "):
        continued(partial(generate_with_draft, new_draft=Lookup), params, prompt, new_completion("greedy"), 5)


def test_a_float32_model_can_have_a_draft_too(always):
    params = random_params(**HPARAMS)
    expected = continued(generate_samples, params, [1, 2, 3], new_completion("temperature"), 25)
    for new_draft in (Lookup, partial(ModelDraft, params, N_HEAD)):
        drafting = partial(generate_with_draft, new_draft=new_draft)
        assert continued(drafting, params, [1, 2, 3], new_completion("temperature"), 25) == expected


# ---- drafts ----------------------------------------------------------------------------------------------------


def naive_lookup(ids, n):
    for size in speculative.NGRAMS:
        for end in range(len(ids) - 1, size - 1, -1):
            if len(ids) > size and ids[end - size : end] == ids[-size:]:
                return (ids[end:] * n)[:n]
    return []


def test_a_lookup_finds_the_last_place_of_the_longest_sequence():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lookup = Lookup()
        ids = []
        for _ in range(60):
            ids.append(int(rng.integers(4)))
            assert lookup.propose(ids, 5, None) == naive_lookup(ids, 5)
        assert lookup.propose(ids[:20], 5, None) == naive_lookup(ids[:20], 5)  # the context has slid


def test_a_model_draft_computes_only_what_is_new(monkeypatch):
    params = random_params(**HPARAMS)
    passes = count_passes(monkeypatch)
    draft = ModelDraft(params, N_HEAD)
    completion = Completion(make_sampler(), None)
    drafted = draft.propose([1, 2, 3], 3, completion)
    assert drafted == list(gpt2.generate([1, 2, 3], params, N_HEAD, 3)) and passes == [3, 1, 1]
    draft.propose([1, 2, 3, drafted[0], 9], 2, completion)
    assert passes[3:] == [1, 1]
    assert draft.propose([1] * N_CTX, 3, completion) == []


# ---- the pace --------------------------------------------------------------------------------------------------


def run_pace(seconds_of, n_accepted, n_passes=4000):
    """Return (tokens per second with the pace, tokens per second of plain passes). n_accepted: of the drafted ones."""
    now = [0.0]
    pace = Pace(lambda: now[0])
    n_tokens = 0
    for _ in range(n_passes):
        n = pace.n_to_draft()
        now[0] += seconds_of(1 + n)
        n_tokens += 1 + min(n, n_accepted)
        pace.count(n, 1 + min(n, n_accepted))
    return n_tokens / now[0], 1 / seconds_of(1)


@pytest.mark.parametrize("cost", [0.02, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("n_accepted", [0, 1, 2, 5, 12])
def test_drafts_never_cost_more_than_5_percent(cost, n_accepted):
    with_pace, plain = run_pace(lambda n: 1 + cost * (n - 1), n_accepted)
    assert with_pace >= 0.95 * plain


def test_drafts_that_are_right_and_cheap_are_used():
    with_pace, plain = run_pace(lambda n: 1 + 0.1 * (n - 1), 12)
    assert with_pace > 4 * plain


# ---- the command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft", ["lookup", "tiny"])
def test_the_text_of_the_command_stays_the_same(here, draft):
    words = (
        "One day, a cat and a dog",
        "--model_size",
        "tiny",
        "--weights",
        "int8",
        "--temperature",
        "1",
        "--seed",
        "3",
    )
    words += ("-n", "60")
    plain = here(*words)
    assert plain[0] == 0
    assert here(*words, "--draft", draft) == plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--draft", "lookup", "--num_samples", "2"), "draft is 'lookup', which continues one sample"),
        (("--draft", "lokup"), "draft: there is no model 'lokup'"),
    ],
)
def test_a_draft_that_cannot_be_used_is_a_usage_error(here, words, message):
    code, out, err = here("x", "--model_size", "tiny", *words)
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_draft_with_another_vocabulary_is_a_usage_error(here, tiny_checkpoint):
    code, _, err = here("x", "--model_size", "tiny", "--draft", tiny_checkpoint)
    assert code == 2 and "have different vocabularies; use a model with the same one, or lookup" in err
