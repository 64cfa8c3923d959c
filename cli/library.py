"""Texts from a loaded model in one call, with the settings of the command line.

    model = utils.load("tiny")
    model.complete("Once upon a time", temperature=0.8)    -> the new text

The texts are those of gpt2.py with the same seed and settings; several prompts go through the model together, as rows
of batch.py do.
"""

import functools
from collections.abc import Iterator, Sequence

from cli.command_flags import MAX_BATCH_SIZE
from cli.flags import FLAGS, PENALTY_FLAGS, STRATEGY_FLAGS
from cli.json_record import make_record
from cli.options import Options, check_options
from cli.output import Clock
from cli.request import encode_prompt, new_completions, seed_of
from cli.suggestions import with_suggestions
from engine.batching import Job, decode_together
from engine.completion import Completion
from engine.memory import slots_that_fit
from sampling import make_sampler
from utils import Model

OF_TEXTS = (
    "n_tokens_to_generate",
    "num_samples",
    "seed",
    "special",
    "stop",
    "ignore_eos",
    "context",
    "keep",
    "echo",
    "banned_words",
)
SETTINGS = {name: FLAGS[name] for name in (*STRATEGY_FLAGS, *PENALTY_FLAGS, *OF_TEXTS, "min_new_tokens", "logprobs")}


def complete(model: Model, prompts: str | Sequence[str], settings: dict) -> str | list:
    """Return what Model.complete does."""
    found = [[record["text"] for record in group] for group in groups(model, prompts, settings)]
    texts = [group if settings.get("num_samples") is not None else group[0] for group in found]
    return texts if isinstance(prompts, (list, tuple)) else texts[0]


def records(model: Model, prompts: str | Sequence[str], settings: dict) -> list[dict]:
    """Return what Model.records does."""
    return [record for group in groups(model, prompts, settings) for record in group]


def stream(model: Model, prompt: str, settings: dict) -> Iterator[str]:
    """Return what Model.stream does."""
    options, seed = checked(model, settings)
    (job,) = new_jobs(model, [text_of(prompt)], options, seed)
    if len(job.completions) > 1:
        raise ValueError(f"num_samples is {options.num_samples}; stream continues one text: use complete")
    return pieces(model, job, prompt if options.echo else "")


def pieces(model, job, beginning):
    """Yield the beginning, if there is one, and the new text of a job, piece by piece."""
    if beginning:
        yield beginning
    (completion,) = job.completions
    for _ in steps(model, [job]):
        if piece := completion.text.take():
            yield piece


# ---- requests --------------------------------------------------------------------------------------------------


def groups(model: Model, prompts: str | Sequence[str], settings: dict) -> list[list[dict]]:
    """Return the records of each prompt, one per sample. All prompts are checked before any is continued."""
    options, seed = checked(model, settings)
    several = prompts if isinstance(prompts, (list, tuple)) else [prompts]
    texts = [text_of(prompt) for prompt in several]
    jobs = new_jobs(model, texts, options, seed)
    clock = Clock()
    for finished in steps(model, jobs):
        clock.tick(completion for job in finished for completion in job.completions)
    return [
        [
            record_of(i, completion, job, text, model, options, seed, clock)
            for i, completion in enumerate(job.completions)
        ]
        for job, text in zip(jobs, texts, strict=True)
    ]


def checked(model: Model, settings: dict) -> tuple[Options, int]:
    """Return the options and the seed. Raise ValueError for an unknown setting or an invalid value."""
    options = check_options(settings, SETTINGS)
    if model.path is not None and options.preset == "model":
        options = with_suggestions(options, model.path)
    return options, seed_of(options)


def text_of(prompt):
    """Return a prompt. Raise ValueError if it is no text."""
    if not isinstance(prompt, str):
        raise ValueError(f"a prompt is {prompt!r}, of the type {type(prompt).__name__}; it must be a text")
    return prompt


def new_jobs(model: Model, prompts: list[str], options: Options, seed: int) -> list[Job]:
    """Return the jobs of the prompts. Raise ValueError if the model cannot take one of them."""
    new_sampler = functools.partial(make_sampler, **options.sampling)
    jobs = []
    for index, prompt in enumerate(prompts):
        ids = encode_prompt(prompt, model, options)
        completions = new_completions(model, options, new_sampler, ids, seed, index)
        jobs.append(Job(ids, completions, options.n_tokens_to_generate, options.window_keep))
    return jobs


def steps(model: Model, jobs: list[Job]) -> Iterator[list[Job]]:
    """Continue the jobs together; yield after each step those that took part. Raise ValueError if a sampler fails."""
    n_samples = sum(len(job.completions) for job in jobs)
    n_slots, _ = slots_that_fit(model.hparams, MAX_BATCH_SIZE)
    for stepped in decode_together(jobs, model.operands, model.n_head, max(1, min(n_samples, n_slots))):
        for job in stepped:
            if job.error:
                raise ValueError(job.error)
        yield stepped


def record_of(
    index: int, completion: Completion, job: Job, prompt: str, model: Model, options: Options, seed: int, clock: Clock
) -> dict:
    """Return the record of a completion, as `gpt2.py --json` prints it."""
    text = completion.text.take()
    text = prompt + text if options.echo else text
    places = {"prompt": prompt, "prompt_ids": job.prompt, "seed": seed}
    return make_record(index, completion, text, **places, model=model, options=options, clock=clock)
