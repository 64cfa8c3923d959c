"""The batch engine: every text is what it is alone, whatever shares its steps and whatever was in its slot before."""

import numpy as np
import pytest

import gpt2
from engine import batching
from engine.batching import Job, decode_together
from random_gpt2 import HPARAMS, random_params
from sampling import Sample, make_processor, make_sampler

N_HEAD, N_CTX, N_VOCAB = HPARAMS["n_head"], HPARAMS["n_ctx"], HPARAMS["n_vocab"]


@pytest.fixture(scope="module")
def params():
    return random_params(**HPARAMS)


def drawing(*seed, **options):
    return Sample(make_sampler(temperature=1.2, top_k=20), np.random.default_rng([7, *seed]), **options)


def prompts(n, longest=20):
    rng = np.random.default_rng(5)
    return [rng.integers(N_VOCAB, size=size).tolist() for size in rng.integers(1, longest, size=n, endpoint=True)]


def ragged_jobs(n=20, n_samples=1):
    """Jobs of different lengths, in prompt and in text, that draw."""
    return [
        Job(prompt, [drawing(j, i) for i in range(n_samples)], n_tokens=1 + 5 * j % 12)
        for j, prompt in enumerate(prompts(n))
    ]


def run(params, jobs, n_slots):
    """Number of steps, and for each how many jobs took part."""
    return [len(taking_part) for taking_part in decode_together(iter(jobs), params, N_HEAD, n_slots)]


def ids_and_ends(jobs):
    return [[(sample.ids, sample.ended) for sample in job.samples] for job in jobs]


def noted_shapes(monkeypatch, name):
    """The shapes of the inputs that the engine's `gpt2` or `transformer` is called with, as a list that grows."""
    shapes, original = [], getattr(batching, name)

    def noting(inputs, *args, **options):
        shapes.append(np.shape(inputs))
        return original(inputs, *args, **options)

    monkeypatch.setattr(batching, name, noting)
    return shapes


@pytest.mark.parametrize("n_slots", [1, 2, 3, 16, 100])
def test_every_text_is_what_generate_makes_of_it_alone(params, n_slots):
    jobs = ragged_jobs()
    run(params, jobs, n_slots)
    for j, job in enumerate(jobs):
        alone = drawing(j, 0)
        ids = list(gpt2.generate(job.prompt, params, N_HEAD, job.n_tokens, alone.sampler, alone.rng))
        assert (job.samples[0].ids, job.samples[0].ended) == (ids, "length")
    assert len({tuple(job.samples[0].ids) for job in jobs}) > 15


@pytest.mark.parametrize("n_slots", [1, 4, 7, 64])
def test_samples_of_a_job_are_those_of_generate_samples_even_if_they_do_not_fit_in_at_once(params, n_slots):
    jobs, alone = ragged_jobs(5, n_samples=6), ragged_jobs(5, n_samples=6)
    run(params, jobs, n_slots)
    for job in alone:
        list(gpt2.generate_samples(job.prompt, params, N_HEAD, job.n_tokens, job.samples))
    assert ids_and_ends(jobs) == ids_and_ends(alone)


def test_a_free_slot_is_taken_in_the_very_next_step(params):
    n_tokens = [5, 1, 1, 1, 1, 1, 2]
    jobs = [Job([1, 2], [Sample()], n) for n in n_tokens]
    assert run(params, jobs, 2) == [2, 2, 2, 2, 2, 1, 1]
    assert sum([2, 2, 2, 2, 2, 1, 1]) == sum(n_tokens)  # no step was wasted


def test_jobs_are_taken_from_the_iterator_only_as_slots_get_free(params):
    taken = []

    def arriving():
        for j in range(10):
            taken.append(j)
            yield Job([j], [Sample()], 2)

    counts = [len(taken) for _ in decode_together(arriving(), params, N_HEAD, n_slots=3)]
    assert counts[:3] == [3, 3, 6]
    assert counts[-1] == 10


def test_the_prefix_of_a_job_is_computed_once_for_all_its_samples(params, monkeypatch):
    prefills, steps = noted_shapes(monkeypatch, "transformer"), noted_shapes(monkeypatch, "gpt2")
    run(params, [Job([1, 2, 3, 4], [drawing(i) for i in range(5)], 3)], n_slots=2)
    assert prefills == [(1, 3)]
    assert steps == [(2, 1)] * 6 + [(1, 1)] * 3


def test_prompts_that_arrive_together_are_computed_together_longest_with_longest(params, monkeypatch):
    monkeypatch.setattr(batching, "PREFILL_TOKENS", 30)
    prefills = noted_shapes(monkeypatch, "transformer")
    run(params, [Job(list(range(n)), [Sample()], 1) for n in (3, 14, 2, 15, 1, 4)], n_slots=6)
    assert prefills == [(2, 14), (4, 3)]


def test_a_prompt_of_one_token_needs_no_prefill(params, monkeypatch):
    prefills = noted_shapes(monkeypatch, "transformer")
    run(params, [Job([5], [Sample()], 3)], n_slots=2)
    assert prefills == []


def test_what_was_in_a_slot_before_leaves_no_trace(params, monkeypatch):
    original = batching.kv_cache

    def spoilt(*args, **options):
        cache = original(*args, **options)
        for layer in cache:
            layer.k[:], layer.v[:] = 1e6, 1e6
        return cache

    jobs, clean = ragged_jobs(), ragged_jobs()
    run(params, clean, 3)
    monkeypatch.setattr(batching, "kv_cache", spoilt)
    run(params, jobs, 3)
    assert ids_and_ends(jobs) == ids_and_ends(clean)


def test_memory_is_bounded_by_the_slots_and_the_longest_text(params, monkeypatch):
    sizes, original = [], batching.kv_cache

    def noting(params, n_head, n_positions, batch):
        sizes.append((*batch, n_positions))
        return original(params, n_head, n_positions, batch)

    monkeypatch.setattr(batching, "kv_cache", noting)
    run(params, [Job([1, 2, 3], [Sample()], 4) for _ in range(50)], n_slots=2)
    # Empty at first; two prompts together; then room for two texts, in multiples of 32 but not beyond the context.
    assert set(sizes) == {(2, 0), (2, 2), (2, N_CTX)}
    assert sizes.count((2, N_CTX)) == 1


@pytest.mark.parametrize("keep", [0, 3])
def test_beyond_the_context_a_text_slides_as_it_does_alone(params, keep):
    lengths = (1, 5, 31, 32, 40)
    jobs = [Job(prompts(1, n)[0] * 40, [drawing(n)], 60, keep) for n in lengths]
    alone = [Job(prompts(1, n)[0] * 40, [drawing(n)], 60, keep) for n in lengths]
    run(params, jobs, n_slots=2)
    for job in alone:
        list(gpt2.generate_samples(job.prompt, params, N_HEAD, 60, job.samples, keep))
    assert ids_and_ends(jobs) == ids_and_ends(alone)


@pytest.mark.parametrize("n_prompt", [1, 5, 31, 32])
def test_without_sliding_the_end_of_the_context_ends_a_text(params, n_prompt):
    jobs = [Job(list(range(n_prompt)), [Sample()], 1000), Job([3], [Sample()], 4)]
    run(params, jobs, n_slots=2)
    (sample,) = jobs[0].samples
    assert n_prompt + len(sample.ids) - 1 == N_CTX and sample.ended == "context"
    assert jobs[1].samples[0].ended == "length"


def test_a_stop_id_or_whoever_reads_along_frees_the_slot(params):
    free = Job([1, 2], [Sample()], 10)
    run(params, [free], 1)
    stop = next(i for i in free.samples[0].ids if i != free.samples[0].ids[0])
    stopped, read = Job([1, 2], [Sample(stop_ids={stop})], 10), Job([9], [Sample()], 10)
    after = Job([4, 4], [Sample()], 1)
    for _ in decode_together([stopped, read, after], params, N_HEAD, n_slots=1):
        if len(read.samples[0].ids) == 3:
            read.samples[0].ended = "stop"
    assert stopped.samples[0].ids == free.samples[0].ids[: free.samples[0].ids.index(stop)]
    assert [job.samples[0].ended for job in (stopped, read, after)] == ["eos", "stop", "length"]
    assert len(read.samples[0].ids) == 3


def test_a_job_that_cannot_go_on_ends_with_its_error_and_no_other_does(params):
    ban_all = make_processor(banned_ids=range(N_VOCAB))
    bad = Job([1], [Sample(), Sample(processor=ban_all), Sample()], 5)
    good = [Job([2], [Sample()], 5), Job([3], [Sample()], 5)]
    run(params, [good[0], bad, good[1]], n_slots=2)
    assert "every token is banned" in bad.error
    assert [sample.ended for sample in bad.samples] == ["error"] * 3
    assert [(job.error, len(job.samples[0].ids)) for job in good] == [(None, 5)] * 2


def test_no_jobs_are_no_steps(params):
    assert run(params, [], 3) == []
