"""Several continuations of one prompt, and texts longer than the context: against one at a time, and from scratch."""

import numpy as np
import pytest

import gpt2
import gpt2_pico
from random_gpt2 import HPARAMS, random_params
from sampling import Sample, make_processor, make_sampler

N_HEAD, N_CTX, N_VOCAB = HPARAMS["n_head"], HPARAMS["n_ctx"], HPARAMS["n_vocab"]


@pytest.fixture(scope="module")
def params():
    return random_params(**HPARAMS)


def drawing(i, **options):
    return Sample(make_sampler(temperature=1.2), np.random.default_rng([7, 0, i]), **options)


def continued(params, prompt, n, samples, keep=None):
    steps = [len(live) for live in gpt2.generate_samples(prompt, params, N_HEAD, n, samples, keep)]
    return [sample.ids for sample in samples], [sample.ended for sample in samples], steps


def test_every_sample_is_what_generate_gives_alone_whatever_their_number(params):
    alone = [list(gpt2.generate([1, 2, 3], params, N_HEAD, 20, drawing(i).sampler, drawing(i).rng)) for i in range(5)]
    assert len({tuple(ids) for ids in alone}) == 5
    for n in (1, 2, 5):
        ids, ended, steps = continued(params, [1, 2, 3], 20, [drawing(i) for i in range(n)])
        assert ids == alone[:n]
        assert ended == ["length"] * n and steps == [n] * 20


def test_a_sample_that_has_ended_takes_part_no_more_and_changes_nothing_for_the_others(params):
    free, _, _ = continued(params, [1, 2], 20, [drawing(i) for i in range(4)])
    stop = next(token for i, token in enumerate(free[1]) if i > 4 and token not in free[1][:i])
    samples = [drawing(i, stop_ids={stop}) for i in range(4)]
    ids, ended, steps = continued(params, [1, 2], 20, samples)
    expected = [one[: one.index(stop)] if stop in one else one for one in free]
    assert ids == expected
    assert ended == ["eos" if stop in one else "length" for one in free]
    assert steps == sorted(steps, reverse=True) and steps[0] == 4 and steps[-1] < 4


def test_whoever_reads_along_may_end_a_sample(params):
    samples = [drawing(0), drawing(1)]
    for live in gpt2.generate_samples([1], params, N_HEAD, 10, samples):
        if len(samples[0].ids) == 3:
            samples[0].ended = "stop"
        assert samples[1] in live
    assert [len(sample.ids) for sample in samples] == [3, 10]
    assert samples[0].ended == "stop"


def test_the_prompt_is_computed_once_for_all_samples(params, monkeypatch):
    shapes, original = [], gpt2.gpt2

    def noting(inputs, **options):
        shapes.append(np.shape(inputs))
        return original(inputs, **options)

    monkeypatch.setattr(gpt2, "gpt2", noting)
    continued(params, [1, 2, 3, 4], 3, [drawing(i) for i in range(5)])
    assert shapes == [(1, 4), (5, 1), (5, 1)]


def test_a_processor_sees_the_prompt_and_the_new_ids_of_its_own_sample(params):
    samples = [Sample(processor=make_processor(n_prompt=2, no_repeat_ngram_size=1)) for _ in range(2)]
    ids, _, _ = continued(params, [1, 2], 20, samples)
    assert ids[0] == ids[1]
    assert len({1, 2, *ids[0]}) == 22


@pytest.mark.parametrize("n_prompt", [1, 5, 31, 32])
def test_without_sliding_the_end_of_the_context_ends_a_text(params, n_prompt):
    ids, ended, _ = continued(params, range(n_prompt), 1000, [Sample(), drawing(1)])
    assert [n_prompt + len(one) - 1 for one in ids] == [N_CTX] * 2
    assert ended == ["context"] * 2


def test_the_last_token_asked_for_is_the_end_even_where_the_context_ends_too(params):
    _, ended, _ = continued(params, [1], N_CTX, [Sample()])
    assert ended == ["length"]


def from_scratch(params, prompt, n, keep):
    """The same with a window that is cut by hand, and each token computed anew by the textbook form."""
    window, ids = list(prompt), []
    for _ in range(n):
        if len(window) > N_CTX:
            window = window[:keep] + (list(prompt) + ids)[-((N_CTX - keep) // 2) :]
        ids.append(int(np.argmax(gpt2_pico.gpt2(window, **params, n_head=N_HEAD)[-1])))
        window.append(ids[-1])
    return ids


@pytest.mark.parametrize(("n_prompt", "keep"), [(5, 0), (5, 3), (32, 0), (3, 30), (50, 4), (1, 2)])
def test_beyond_the_context_the_window_slides_to_the_kept_ids_and_the_newest_half(params, n_prompt, keep):
    prompt = np.random.default_rng(3).integers(N_VOCAB, size=n_prompt).tolist()
    ids, ended, _ = continued(params, prompt, 100, [Sample(), Sample()], keep)
    assert ids[0] == ids[1] == from_scratch(params, prompt, 100, keep)
    assert ended == ["length"] * 2


def test_sliding_computes_the_window_anew_once_per_half_window(params, monkeypatch):
    shapes, original = [], gpt2.gpt2

    def noting(inputs, **options):
        shapes.append(np.shape(inputs))
        return original(inputs, **options)

    monkeypatch.setattr(gpt2, "gpt2", noting)
    continued(params, [1, 2], 100, [Sample(), drawing(0)], keep=0)
    assert [shape for shape in shapes if shape[1] > 1] == [(1, 2), *[(2, 16)] * 5]
    assert len(shapes) == 100


def test_no_tokens_asked_for_is_none_and_computes_nothing(params, monkeypatch):
    monkeypatch.setattr(gpt2, "gpt2", lambda *args, **options: pytest.fail("computed something"))
    assert continued(params, [1], 0, [Sample(), Sample()]) == ([[], []], ["length"] * 2, [])


def test_a_prompt_that_does_not_fit_is_refused_unless_the_window_slides(params):
    with pytest.raises(ValueError, match="the prompt has 40 tokens; this model reads at most 32"):
        continued(params, range(40), 1, [Sample()])
    assert len(continued(params, range(40), 3, [Sample()], keep=0)[0][0]) == 3
