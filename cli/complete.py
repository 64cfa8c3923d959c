"""Complete one prompt: check the request, load the model, generate, write."""

import functools
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import sampling
import utils
from checkpoints import formats
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated
from cli import models, output
from cli.arguments import check_known
from cli.checks import shown
from cli.command import quiet
from cli.flags import FLAGS, PICO_FLAGS, without
from cli.messages import run_time_failures
from cli.options import MODEL_PRESET, Options, check_options
from cli.prompt import check_words, prompt_loop, read_prompt
from cli.suggestions import with_suggestions
from engine.batching import generate_by, generate_samples
from engine.completion import Completion
from gpt2 import check_length
from sampling import make_sampler
from utils import Model

log = logging.getLogger("picogpt")
LONG_PROMPT = 2**16  # characters; a shorter prompt is encoded without a look at its length
LONGEST_NAME = 255  # of a file
COMMANDS = ("help", "version", "list")  # words after which a newcomer expects no text

# ---- a prompt and its completions ------------------------------------------------------------------------------


def complete(
    prompt: str | None, words: tuple, options: Options, new_sampler: Callable, generate: Callable = generate_samples
) -> None:
    """Print the completions of `prompt`, or of each prompt typed at the terminal if it is None.

    words: further words of the command line. new_sampler: returns the sampler of one text. generate: yields the steps,
    as engine.batching.generate_samples does. Errors of the request raise ValueError before the model is loaded.
    """
    check_words(prompt, words)
    output.check_stdout()
    if options.values.get("list"):
        output.write(models.listing(utils.search_places(options.models_dir), options.json))
        return
    with quiet(options.quiet):
        check_for_command(prompt, options)
        path = find_model(options)  # an unknown model is an error before a pipe is read
        is_suggested = options.preset == MODEL_PRESET
        options = with_suggestions(options, path)
        if is_suggested:
            new_sampler = partial(make_sampler, **options.sampling)
        prompt = read_prompt(prompt)
        seed = draw_seed() if options.seed is None else options.seed
        is_engine = generate is generate_samples  # the reference loops compute with plain arrays
        with run_time_failures():
            model = load_model(path, options, fast=is_engine)

        def answer(text, index=0):
            complete_prompt(text, model, options, new_sampler, generate, seed, index)

        if prompt is None:
            prompt_loop(answer)
        else:
            answer(prompt)


def check_for_command(prompt: str | None, options: Options) -> None:
    """Raise ValueError for a prompt that looks like a command, if a model would be downloaded to continue it."""
    word = (prompt or "").strip().lstrip("-").lower()
    if word in COMMANDS and not is_present(options):
        raise ValueError(
            f"the prompt is {shown(prompt)}, and continuing it would download the model {options.model_size}: did you "
            f"mean --{word}? To continue this word, run again with --model_size tiny"
        )
    if prompt and len(prompt) < LONGEST_NAME and os.path.isfile(prompt):
        log.info(f"There is a file {shown(prompt)}; to continue its text, write FILE:{abbreviated(prompt)}.")


def is_present(options: Options) -> bool:
    """Return whether the model is on this machine."""
    try:
        path = utils.find_model(options.model_size, options.models_dir, offline=True)
    except (ValueError, CheckpointError):
        return False
    return formats.recognize(path) is not None


def find_model(options: Options) -> Path:
    """Return the folder or the file of the model. Raise ValueError if there is none."""
    try:
        return utils.find_model(options.model_size, options.models_dir, options.offline)
    except ValueError as error:
        variable = FLAGS["model_size"].variable
        if "model_size" in options.given or not os.environ.get(variable):
            raise
        raise ValueError(f"{variable} is set: {error}") from error


def load_model(path: Path, options: Options, fast: bool = True) -> Model:
    """Return the model that find_model found."""
    return utils.load_found(path, utils.search_places(options.models_dir, options.offline), fast)


def complete_with_reference(generate: Callable, prompt: str | None, words: tuple, asked: dict) -> None:
    """Print one completion by a reference loop such as gpt2_pico.generate, without penalties or a sliding context."""
    for name in asked:
        check_known(name, PICO_FLAGS)
    options = check_options(asked, without(FLAGS, "context", "keep"))
    complete(prompt, words, options, partial(make_sampler, **options.sampling), partial(generate_by, generate))


def complete_prompt(prompt, model, options, new_sampler, generate, seed, index):
    """Print the completions of one prompt to stdout and remarks about them to stderr."""
    ids = encode_prompt(prompt, model, options)
    with run_time_failures():
        write_completions(ids, prompt, model, options, new_sampler, generate, seed, index)


def write_completions(ids, prompt, model, options, new_sampler, generate, seed, index):
    completions = [
        new_completion(model, options, new_sampler(), ids, (seed, index, i)) for i in range(options.num_samples)
    ]
    remark_before(options, prompt, completions, seed, n_room=model.n_ctx - len(ids) + 1)
    n_tokens = options.n_tokens_to_generate
    steps = generate(ids, model.params, model.n_head, n_tokens, completions, options.window_keep)
    clock = output.Clock()
    pieces = output.follow(clock.watch(progress_bar(steps, options)), completions)
    if not is_streamed(options):
        pieces = list(pieces)
    beginning = prompt if options.echo else ""
    if options.json:
        record_of = partial(
            output.make_record,
            prompt=prompt,
            n_prompt=len(ids),
            seed=seed,
            model=model,
            options=options,
            clock=clock,
        )
        output.write_json(pieces, beginning, record_of)
    else:
        output.write_text(pieces, beginning)
    remark_after(completions, clock)


def is_streamed(options):
    """Return whether text is printed while it is generated."""
    return options.stream and not options.json


def draw_seed() -> int:
    """Return a random seed for a run that was given none."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def encode_prompt(prompt: str, model: Model, options: Options) -> list[int]:
    """Return the ids of a prompt, as Model.encode does. Raise ValueError if it is too long for the model.

    Token ids in the options and `keep` are checked here too, because their limits are sizes of the model.
    """
    check_size(prompt, model, options)
    ids = model.encode(prompt, allows_special(prompt, model, options))
    sampling.check_ids((*(options.logit_bias or ()), *options.banned_ids), model.n_vocab)
    if options.values.get("context") == "slide":
        if options.keep > model.n_ctx - 2:
            raise ValueError(
                f"keep is {options.keep}; it must be at most {model.n_ctx - 2}, this model's context minus 2"
            )
    else:
        check_length(len(ids), model.n_ctx, remedy_of(options))
    return ids


def allows_special(text: str, model: Model, options: Options) -> bool:
    """Return whether special tokens in a text are encoded as such. Warn if it has some and the option is not given."""
    if options.values.get("special") is None:
        for spelling in model.encoder.special:
            if spelling in text:
                warn_about_special(spelling)
    return options.values.get("special") is True


@functools.cache  # once, not for each row of a batch
def warn_about_special(spelling: str) -> None:
    log.warning(
        f"{shown(spelling)} in the prompt is read as plain text: add --special to read it as the model's special "
        "token, or --special False to omit this warning"
    )


def check_size(prompt: str, model: Model, options: Options) -> None:
    """Raise ValueError for a prompt that no encoding makes short enough. Encoding it would take much memory."""
    if len(prompt) <= LONG_PROMPT or options.values.get("context") == "slide":
        return
    longest = model.encoder.longest
    if len(prompt) > model.n_ctx * longest:
        raise ValueError(
            f"the prompt has {len(prompt)} characters; this model reads at most {model.n_ctx} tokens of at most "
            f"{longest} characters each: {remedy_of(options)}"
        )


def remedy_of(options):
    """Return the remedy for a prompt that is too long."""
    return "shorten it, or add --context slide" if "context" in options.values else "shorten it"


def new_completion(
    model: Model, options: Options, sampler: Callable, prompt: list[int], seeds: tuple[int, int, int]
) -> Completion:
    """Return a completion of the ids of a prompt. seeds: the seed, the number of the prompt and that of the sample."""
    stop_ids = model.special.stop_ids
    penalties = options.penalties
    penalties["banned_ids"] = (*options.banned_ids, *model.special.unused_ids)
    if options.ignore_eos:
        penalties["banned_ids"] += stop_ids
    return Completion(
        sampler,
        np.random.default_rng(seeds),
        sampling.make_logits_processor(n_prompt=len(prompt), stop_ids=stop_ids, **penalties),
        stop_ids,
        encoder=model.encoder,
        before=prompt,
        stops=options.stop,
        on_token=None if options.logprobs is None else output.LogprobRecorder(options.logprobs, stop_ids),
    )


# ---- remarks ---------------------------------------------------------------------------------------------------


def remark_before(options, prompt, completions, seed, n_room):
    """Remark on the seed, and on options that have no effect. n_room: new tokens that fit in the context."""
    if completions[0].sampler is not sampling.greedy:
        log.info(f"seed {seed}")
    elif len(completions) > 1:
        log.info(f"The {len(completions)} samples will be equal: add --temperature or a similar option to draw.")
    if prompt.endswith(" "):
        log.info("The prompt ends with a space. GPT-2 writes better without it: its tokens begin with the space.")
    if n_room < options.n_tokens_to_generate and options.window_keep is None:
        remedy = "; --context slide goes on beyond it" if "context" in options.values else ""
        log.info(f"The context has room for {n_room} new tokens{remedy}.")


def remark_after(completions, clock):
    """Remark on the number of tokens, the speed and the finish reasons."""
    n_new = sum(len(completion.ids) for completion in completions)
    reasons = ", ".join(completion.finish_reason for completion in completions)
    log.info(
        f"{n_new} tokens in {clock.seconds:.1f} s ({n_new / clock.seconds:.1f} tokens/s), "
        f"the first after {clock.first_token:.2f} s; ended by: {reasons}"
    )


def progress_bar(steps, options):
    """Return the steps, with a progress bar if a terminal shows stderr but not the text as it is generated."""
    shows_text = sys.stdout.isatty() and is_streamed(options)
    if options.quiet or shows_text or not sys.stderr.isatty():
        return steps
    from tqdm import tqdm

    return tqdm(steps, "generating", options.n_tokens_to_generate, leave=False)
