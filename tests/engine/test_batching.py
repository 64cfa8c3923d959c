"""Test engine/batching.py: a text does not depend on other texts, in other slots or earlier in the same slot."""

import weakref

import numpy as np
import pytest

import gpt2
import utils
from engine import memory, slots
from engine.batching import Job, decode_together, generate_samples, sequences
from engine.completion import Completion
from random_gpt2 import HPARAMS
from sampling import make_logits_processor, make_sampler

N_HEAD, N_CTX, N_VOCAB = HPARAMS["n_head"], HPARAMS["n_ctx"], HPARAMS["n_vocab"]


@pytest.fixture(scope="session")
def params(any_params):
    return any_params


def drawing(*seed, **options):
    """Return a completion that draws at random."""
    return Completion(make_sampler(temperature=1.2, top_k=20), np.random.default_rng([7, *seed]), **options)


def prompts(n, longest=20):
    """Return `n` random prompts of different lengths."""
    rng = np.random.default_rng(5)
    return [rng.integers(N_VOCAB, size=size).tolist() for size in rng.integers(1, longest, size=n, endpoint=True)]


def ragged_jobs(n=20, n_samples=1):
    """Return jobs with prompts and texts of different lengths."""
    return [
        Job(prompt, [drawing(j, i) for i in range(n_samples)], n_tokens=1 + 5 * j % 12)
        for j, prompt in enumerate(prompts(n))
    ]


def run(params, jobs, n_slots):
    """Run the jobs; return the number of jobs that took part in each step."""
    return [len(taking_part) for taking_part in decode_together(iter(jobs), params, N_HEAD, n_slots)]


def ids_and_reasons(jobs):
    return [[(completion.ids, completion.finish_reason) for completion in job.completions] for job in jobs]


@pytest.mark.parametrize("n_slots", [1, 2, 3, 16, 100])
def test_the_engine_and_the_reference_loop_produce_the_same_ids(params, n_slots):
    jobs = ragged_jobs()
    run(params, jobs, n_slots)
    for j, job in enumerate(jobs):
        alone = drawing(j, 0)
        ids = list(gpt2.generate(job.prompt, params, N_HEAD, job.n_tokens, alone.sampler, alone.rng))
        assert (job.completions[0].ids, job.completions[0].finish_reason) == (ids, "length")
    assert len({tuple(job.completions[0].ids) for job in jobs}) > 15


@pytest.mark.parametrize("n_slots", [1, 4, 7, 64])
def test_completions_of_a_job_do_not_depend_on_the_number_of_slots(params, n_slots):
    jobs = ragged_jobs(5, n_samples=6)
    alone = ragged_jobs(5, n_samples=6)
    run(params, jobs, n_slots)
    for job in alone:
        list(generate_samples(job.prompt, params, N_HEAD, job.n_tokens, job.completions))
    assert ids_and_reasons(jobs) == ids_and_reasons(alone)


def test_the_next_job_takes_a_free_slot_in_the_next_step(params):
    n_tokens = [5, 1, 1, 1, 1, 1, 2]
    jobs = [Job([1, 2], [Completion()], n) for n in n_tokens]
    assert run(params, jobs, 2) == [2, 2, 2, 2, 2, 1, 1]
    assert sum([2, 2, 2, 2, 2, 1, 1]) == sum(n_tokens)  # each step uses every slot while jobs wait


def test_jobs_are_taken_from_the_iterable_only_when_a_slot_is_free(params):
    taken = []

    def arriving():
        for j in range(10):
            taken.append(j)
            yield Job([j], [Completion()], 2)

    counts = [len(taken) for _ in decode_together(arriving(), params, N_HEAD, n_slots=3)]
    assert counts[:3] == [3, 3, 6]
    assert counts[-1] == 10


def test_the_prompt_of_a_job_is_computed_once_for_all_its_completions(params, passes):
    run(params, [Job([1, 2, 3, 4], [drawing(i) for i in range(5)], 3)], n_slots=2)
    assert passes == [(1, 4)] + [(2, 1)] * 4 + [(1, 1)] * 2


def test_prompts_that_arrive_together_are_computed_in_groups_of_similar_length(params, passes, monkeypatch):
    monkeypatch.setattr(slots, "PREFILL_TOKENS", 30)
    run(params, [Job(list(range(n)), [Completion()], 1) for n in (3, 14, 2, 15, 1, 4)], n_slots=6)
    assert passes == [(2, 15), (4, 4)]


def test_a_group_of_prompts_has_at_most_prefill_tokens(params, passes, monkeypatch):
    monkeypatch.setattr(slots, "PREFILL_TOKENS", 20)
    run(params, [Job(list(range(10)), [Completion()], 1) for _ in range(5)], n_slots=5)
    assert passes == [(2, 10), (2, 10), (1, 10)]


def test_the_first_token_needs_one_pass_over_the_prompt_and_no_step(params, passes):
    run(params, [Job([5, 6, 7], [Completion()], 1), Job([5], [Completion()], 2)], n_slots=1)
    assert passes == [(1, 3), (1, 1), (1, 1)]


def test_a_text_does_not_depend_on_the_previous_content_of_its_slot(params, monkeypatch):
    original = slots.make_kv_cache

    def make_filled_cache(*args, **options):
        cache = original(*args, **options)
        for layer in cache:
            layer.k[:] = 1e6
            layer.v[:] = 1e6
        return cache

    jobs = ragged_jobs()
    clean = ragged_jobs()
    run(params, clean, 3)
    monkeypatch.setattr(slots, "make_kv_cache", make_filled_cache)
    run(params, jobs, 3)
    assert ids_and_reasons(jobs) == ids_and_reasons(clean)


def test_memory_is_bounded_by_the_slots_and_the_longest_text(params, monkeypatch):
    sizes = []
    original = slots.make_kv_cache

    def recording(params, n_head, n_positions, batch):
        sizes.append((*batch, n_positions))
        return original(params, n_head, n_positions, batch)

    monkeypatch.setattr(slots, "make_kv_cache", recording)
    run(params, [Job([1, 2, 3], [Completion()], 4) for _ in range(50)], n_slots=2)
    # (2, 0): the slots before the first job. (2, N_CTX): two texts, in multiples of 32 positions within the context.
    # (2, 3): two prompts of 3 tokens, computed as one batch.
    assert set(sizes) == {(0, 0), (2, 3), (2, N_CTX)}
    assert sizes.count((2, N_CTX)) == 1


@pytest.mark.parametrize("step", [1, 5])
def test_caches_that_grow_during_a_run_do_not_change_the_completions(params, monkeypatch, step):
    jobs = ragged_jobs()
    expected = ragged_jobs()
    run(params, expected, 3)
    monkeypatch.setattr(slots, "POSITION_STEP", step)
    run(params, jobs, 3)
    assert ids_and_reasons(jobs) == ids_and_reasons(expected)


@pytest.mark.parametrize(("step", "n_prompt", "n_positions"), [(1, 3, 6), (5, 3, 10), (5, 30, N_CTX)])
def test_slots_have_positions_for_all_ids_but_the_last(params, monkeypatch, step, n_prompt, n_positions):
    monkeypatch.setattr(slots, "POSITION_STEP", step)
    growing = slots.Slots(params, N_HEAD, 2)
    job = Job(list(range(n_prompt)), [Completion()], 4)
    growing.admit([slots.Sequence(job, job.completions[0], slots.Prefix(job.prompt))])
    assert growing.layers[0].k.shape[:3] == (1, N_HEAD, n_positions)


def test_the_keys_of_a_prompt_are_copied_once_if_completions_wait_for_a_slot(params, monkeypatch):
    copied = []
    original = slots.Prefix.keep_copy

    def recording(prefix):
        copied.append(len(prefix.ids))
        original(prefix)

    monkeypatch.setattr(slots.Prefix, "keep_copy", recording)
    run(params, [Job([1, 2, 3], [drawing(i) for i in range(7)], 2), Job([1, 2], [drawing(7)], 2)], n_slots=2)
    assert copied == [3]


def test_slots_keep_no_prefix_whose_completions_have_slots(params):
    growing = slots.Slots(params, N_HEAD, 2)
    job = Job([1, 2, 3], [Completion()], 4)
    prefix = slots.Prefix(job.prompt)
    is_alive = weakref.ref(prefix)
    growing.admit([slots.Sequence(job, job.completions[0], prefix)])
    assert is_alive()
    del prefix
    assert not is_alive()


def test_a_sliding_completion_does_not_change_a_job_that_waits_for_slots(params):
    """The first completion moves to the other slot when the text slides, and the text then overwrites its slot."""

    def make_jobs():
        sliding = Job(list(range(31)), [drawing(0)], 60, keep=0)
        return [sliding, Job([1, 2, 3, 4, 5], [drawing(1, i) for i in range(4)], 6)]

    jobs = make_jobs()
    alone = make_jobs()
    run(params, jobs, n_slots=2)
    for job in alone:
        list(generate_samples(job.prompt, params, N_HEAD, job.n_tokens, job.completions, job.keep))
    assert ids_and_reasons(jobs) == ids_and_reasons(alone)


@pytest.mark.parametrize("keep", [0, 3])
def test_sliding_completions_in_a_batch_equal_those_generated_alone(params, keep):
    lengths = (1, 5, 31, 32, 40)
    jobs = [Job(prompts(1, n)[0] * 40, [drawing(n)], 60, keep) for n in lengths]
    alone = [Job(prompts(1, n)[0] * 40, [drawing(n)], 60, keep) for n in lengths]
    run(params, jobs, n_slots=2)
    for job in alone:
        list(generate_samples(job.prompt, params, N_HEAD, 60, job.completions, keep))
    assert ids_and_reasons(jobs) == ids_and_reasons(alone)


@pytest.mark.parametrize("n_prompt", [1, 5, 31, 32])
def test_the_end_of_the_context_ends_a_completion_that_does_not_slide(params, n_prompt):
    jobs = [Job(list(range(n_prompt)), [Completion()], 1000), Job([3], [Completion()], 4)]
    run(params, jobs, n_slots=2)
    (completion,) = jobs[0].completions
    assert n_prompt + len(completion.ids) - 1 == N_CTX and completion.finish_reason == "context"
    assert jobs[1].completions[0].finish_reason == "length"


def test_a_stop_id_and_a_finish_reason_set_by_the_caller_free_the_slot(params):
    free = Job([1, 2], [Completion()], 10)
    run(params, [free], 1)
    stop = next(i for i in free.completions[0].ids if i != free.completions[0].ids[0])
    stopped = Job([1, 2], [Completion(stop_ids={stop})], 10)
    ended_by_caller = Job([9], [Completion()], 10)
    after = Job([4, 4], [Completion()], 1)
    for _ in decode_together([stopped, ended_by_caller, after], params, N_HEAD, n_slots=1):
        if len(ended_by_caller.completions[0].ids) == 3:
            ended_by_caller.completions[0].finish_reason = "stop"
    assert stopped.completions[0].ids == free.completions[0].ids[: free.completions[0].ids.index(stop)]
    jobs = (stopped, ended_by_caller, after)
    assert [job.completions[0].finish_reason for job in jobs] == ["eos", "stop", "length"]
    assert len(ended_by_caller.completions[0].ids) == 3


def test_a_failing_sampler_ends_only_its_own_job(params):
    ban_all = make_logits_processor(banned_ids=range(N_VOCAB))
    bad = Job([1], [Completion(), Completion(logits_processor=ban_all), Completion()], 5)
    good = [Job([2], [Completion()], 5), Job([3], [Completion()], 5)]
    run(params, [good[0], bad, good[1]], n_slots=2)
    assert "every token is banned" in bad.error
    assert [completion.finish_reason for completion in bad.completions] == ["error"] * 3
    assert [(job.error, len(job.completions[0].ids)) for job in good] == [(None, 5)] * 2


@pytest.mark.parametrize("n_slots", [1, 2, 3])
def test_a_failed_job_chooses_no_more_tokens_and_takes_no_more_slots(params, n_slots):
    ban_all = make_logits_processor(banned_ids=range(N_VOCAB))
    bad = Job([1], [Completion(logits_processor=ban_all), Completion(), Completion()], 5)
    assert run(params, [bad], n_slots) == [1]
    assert ids_and_reasons([bad]) == [[([], "error")] * 3]


def test_a_step_yields_each_job_once(params):
    job = Job([1], [drawing(0), drawing(1)], 2)
    assert list(decode_together([job], params, N_HEAD, n_slots=2)) == [[job]] * 2


def test_a_job_is_finished_when_all_its_completions_are():
    job = Job([1], [Completion(), Completion()], 2)
    for completion in job.completions:
        assert not job.is_finished
        completion.finish_reason = "stop"
    assert job.is_finished


def test_an_empty_iterable_of_jobs_needs_no_step(params):
    assert run(params, [], 3) == []


def test_a_job_of_zero_tokens_is_finished_without_a_step(params):
    nothing = Job([1], [Completion(), Completion()], 0)
    assert run(params, [nothing], 3) == []
    assert nothing.is_finished and ids_and_reasons([nothing]) == [[([], "length")] * 2]


def test_a_single_prompt_is_computed_in_its_slot_without_a_copy(params, monkeypatch):
    caches = []
    original = slots.compute_prompts

    def recording(prompts, params, n_head, cache):
        caches.append(cache)
        return original(prompts, params, n_head, cache)

    monkeypatch.setattr(slots, "compute_prompts", recording)
    growing = slots.Slots(params, N_HEAD, 2)
    job = Job([1, 2, 3], [Completion()], 4)
    growing.admit([slots.Sequence(job, job.completions[0], slots.Prefix(job.prompt))])
    assert np.shares_memory(caches[0][0].k, growing.layers[0].k)
    assert np.abs(growing.layers[-1].k[0, :, 2]).min() > 0
    assert np.abs(growing.layers[-1].k[0, :, 3:]).max() == 0


# ---- memory ----------------------------------------------------------------------------------------------------


def test_unused_slots_take_no_memory(params):
    growing = slots.Slots(params, N_HEAD, n_slots=10**9)
    growing.admit(list(sequences([Job([1, 2], [Completion()], 3)], N_CTX)))
    assert growing.layers[0].k.shape[0] == 1

    def jobs():
        return [Job([1, 2], [Completion()], 3), Job([3], [Completion()], 2)]

    assert run(params, jobs(), 10**9) == run(params, jobs(), 2)


def test_the_rows_of_the_caches_double_until_all_slots_exist(params):
    growing = slots.Slots(params, N_HEAD, n_slots=5)
    sizes = []
    for _ in range(5):
        growing.admit(list(sequences([Job([1, 2], [Completion()], 3)], N_CTX)))
        sizes.append(growing.layers[0].k.shape[0])
    assert sizes == [1, 2, 4, 4, 5]


def test_slots_that_do_not_fit_are_refused_with_the_number_that_fits(params, monkeypatch):
    monkeypatch.setattr(memory, "WORTH_A_CHECK", 0)
    one = memory.bytes_per_text(params, N_CTX)
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * one)
    memory.check_slots(params, 3, N_CTX)
    with pytest.raises(RuntimeError, match=rf"^4 texts of {N_CTX} tokens at a time need .*; --batch_size 3 fits$"):
        memory.check_slots(params, 4, N_CTX)


def test_the_engine_computes_float32_with_the_transformer_of_gpt2_py(passes):
    utils.load("tiny").complete("One day", n_tokens_to_generate=3)
    assert passes == [(1, 2), (1, 1), (1, 1)]
