"""Continuous batching: many texts share every pass through the model.

A step reads all weights once, for one text or for many, so that many texts take less time each. Texts of different
lengths share a step: each has a slot with its own keys and values, all slots take every step together,
and when a text ends, the next prompt takes its slot at once (Yu et al. 2022, "Orca").

    jobs -> sequences -> slots (engine/slots.py) -> logits -> Completion.extend (engine/completion.py)

The model is the one of gpt2.py.
"""

import itertools
from collections.abc import Iterable, Iterator

from engine.completion import Completion
from engine.memory import check_memory
from engine.slots import Prefix, Sequence, Slots, slide
from gpt2 import check_request

# ---- jobs ------------------------------------------------------------------------------------------------------


class Job:
    """A prompt and its completions.

    prompt: ids, at least one. completions: Completion objects, which receive the new ids. n_tokens: the most new ids
    of each. keep: None ends a completion with the context. A number lets it go on: the window then slides to the first
    `keep` ids and the newest half of the others that fit, and is computed again.
    Attribute: `error`, the message of a sampler that failed, or None.
    """

    def __init__(self, prompt: list[int], completions: list[Completion], n_tokens: int, keep: int | None = None):
        self.prompt = prompt
        self.completions = completions
        self.n_tokens = n_tokens
        self.keep = keep
        self.error = None
        if n_tokens == 0:
            self.finish("length")

    @property
    def is_finished(self) -> bool:
        return all(completion.finish_reason for completion in self.completions)

    def extend(self, completion, logits, is_full):
        """Choose the next token of one completion. A sampler that fails ends this job; other jobs go on."""
        try:
            completion.extend(logits, self.prompt, self.n_tokens, is_full and self.keep is None)
        except ValueError as error:
            self.error = str(error)
            self.finish("error")

    def finish(self, reason):
        for completion in self.completions:
            completion.finish_reason = reason


def sequences(jobs, n_ctx):
    """Yield a sequence for each unfinished completion of each job, None where the jobs have None."""
    for job in jobs:
        if job is None:
            yield None
            continue
        unfinished = [completion for completion in job.completions if not completion.finish_reason]
        prefix = Prefix(slide(job.prompt, job.keep, n_ctx), len(unfinished))
        for completion in unfinished:
            if not completion.finish_reason:  # the job may have failed since
                yield Sequence(job, completion, prefix)


def is_ready(sequence):
    return sequence is not None


# ---- the loop --------------------------------------------------------------------------------------------------


def decode_together(jobs: Iterable[Job | None], params: dict, n_head: int, n_slots: int) -> Iterator[list[Job]]:
    """Continue all jobs, up to `n_slots` completions at a time; yield after each step the jobs that took part in it.

    A job is taken from the iterable only when a slot is free. None in place of a job means that no job is ready yet:
    the others go on, and without others the loop ends. A completion leaves its slot when it has a finish reason, which
    the caller may set too. A job whose sampler fails gets an `error`; the others go on.
    """
    slots = Slots(params, n_head, n_slots)
    waiting = sequences(jobs, slots.n_ctx)
    slid = []
    while True:
        logits = slots.step()
        n_free = n_slots - len(slots.live) - len(slid)
        logits += slots.admit(slid + list(itertools.takewhile(is_ready, itertools.islice(waiting, n_free))))
        if not slots.live:
            return
        for sequence, row_logits in zip(slots.live, logits, strict=True):
            if not sequence.completion.finish_reason:
                is_full = sequence.n_cached == slots.n_ctx
                sequence.job.extend(sequence.completion, row_logits, is_full)
        yield list(dict.fromkeys(sequence.job for sequence in slots.live))
        slid = slots.retire()


def generate_samples(
    inputs: Iterable[int],
    params: dict,
    n_head: int,
    n_tokens_to_generate: int,
    completions: list[Completion],
    keep: int | None = None,
) -> Iterator[list[Completion]]:
    """Continue one prompt in several ways; yield after each step the completions that took part in it.

    inputs: the ids of the prompt, as in gpt2.generate. completions, keep: as in Job. Raises ValueError on the first
    step as gpt2.generate does, and later if a sampler fails; RuntimeError if there is not enough memory.
    """
    inputs = list(inputs)
    n_ctx = len(params["wpe"]) if keep is None else max(1, len(inputs))
    prompt = check_request(inputs, n_tokens_to_generate, len(params["wte"]), n_ctx)
    job = Job(prompt, completions, n_tokens_to_generate, keep)
    n_positions = min(len(params["wpe"]), len(prompt) + n_tokens_to_generate)
    check_memory(params, len(completions), n_positions)
    live = completions
    for _ in decode_together([job], params, n_head, n_slots=len(completions)):
        if job.error:
            raise ValueError(job.error)
        yield live
        live = [completion for completion in live if not completion.finish_reason]


def generate_by(generate, inputs, params, n_head, n_tokens_to_generate, completions, keep=None):
    """The same steps as `generate_samples`, computed by a reference loop such as gpt2_pico.generate: one completion."""
    (completion,) = completions
    n_ctx = len(params["wpe"])
    prompt = check_request(inputs, n_tokens_to_generate, len(params["wte"]), n_ctx)
    job = Job(prompt, completions, n_tokens_to_generate, keep)
    no_token = -1

    def choose(logits, rng):
        n_cached = len(job.prompt) + len(completion.ids)
        completion.extend(logits, job.prompt, n_tokens_to_generate, is_full=n_cached == n_ctx)
        return no_token if completion.finish_reason == "eos" else completion.ids[-1]

    for _ in generate(job.prompt, params, n_head, n_tokens_to_generate, choose, stop_ids=(no_token,)):
        yield completions
        if completion.finish_reason:
            return
