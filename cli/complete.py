"""Complete one prompt, or each prompt that is typed: check the request, load the model, generate, write."""

import contextlib
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sampling
import utils
from checkpoints import formats
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated
from cli import json_record, models, output, shell_completion
from cli.checks import shown
from cli.command import quiet
from cli.command_flags import PICO_FLAGS
from cli.conversation import Conversation
from cli.flags import FLAGS, without
from cli.hints import check_known
from cli.loop import prompt_loop
from cli.messages import run_time_failures
from cli.options import MODEL_PRESET, Options, check_options
from cli.prompt import read_prompt, source_of
from cli.request import encode_prompt, find_model, load_model, new_completions, seed_of
from cli.suggestions import with_suggestions
from engine.batching import generate_by, generate_samples
from engine.speculative import LOOKUP, Lookup, ModelDraft, generate_with_draft
from sampling import make_sampler
from utils import Model

log = logging.getLogger("picogpt")
LONGEST_NAME = 255  # of a file
COMMANDS = ("help", "version", "list")  # words after which a newcomer expects no text

# ---- the command -----------------------------------------------------------------------------------------------


def complete(
    prompt: str | None, options: Options, new_sampler: Callable, generate: Callable = generate_samples
) -> None:
    """Print the completions of `prompt`, or of each prompt typed at the terminal if it is None.

    new_sampler: returns the sampler of one text. generate: yields the steps, as engine.batching.generate_samples does.
    Errors of the request raise ValueError before the model is loaded.
    """
    output.check_stdout()
    if options.values.get("list"):
        output.write(models.listing(utils.search_places(options.models_dir), options.json))
        return
    if options.values.get("completion"):
        output.write(shell_completion.script(options.completion))
        return
    with quiet(options.quiet):
        check_for_command(prompt, options)
        output.check_file(options.output, options.overwrite)
        path = find_model(options)  # an unknown model is an error before a pipe is read
        find_draft(options)  # and so is an unknown draft
        is_suggested = options.preset == MODEL_PRESET
        options = with_suggestions(options, path)
        if is_suggested:
            new_sampler = partial(make_sampler, **options.sampling)
        prompt = read_prompt(source_of(prompt, options), options)
        is_engine = generate is generate_samples  # the reference loops compute with plain arrays
        with run_time_failures():
            model = load_model(path, options, fast=is_engine, n_tokens=n_expected(options))
        generator = Generator(model, options, new_sampler, generate)
        generator.check_draft()
        ids = None if prompt is None else encode_prompt(prompt, model, options)  # an error leaves the output as it is
        with output.stdout_to(options.output, options.overwrite):
            if prompt is None:
                converse(generator)
            else:
                generator.write_completions(ids, prompt, seed_of(options))


def complete_with_reference(generate: Callable, prompt: str | None, asked: dict) -> None:
    """Print one completion by a reference loop such as gpt2_pico.generate, without penalties or a sliding context."""
    for name in asked:
        check_known(name, PICO_FLAGS)
    options = check_options(asked, without(FLAGS, "context", "keep"))
    complete(prompt, options, partial(make_sampler, **options.sampling), partial(generate_by, generate))


def converse(generator: "Generator") -> None:
    """Complete one prompt after another, and let the user change the options."""
    conversation = Conversation(generator)
    prompt_loop(
        conversation.answer, conversation.commands(), conversation.go_on, keeps_history=generator.options.history
    )


def find_draft(options: Options) -> Path | None:
    """Return the path of the model that --draft names, None without one. Raise ValueError if there is none."""
    if options.values.get("draft") in (None, LOOKUP):
        return None
    try:
        return utils.find_model(options.draft, options.models_dir, options.offline)
    except ValueError as error:
        raise ValueError(f"draft: {error}; or {LOOKUP}") from error


def check_for_command(prompt: str | None, options: Options) -> None:
    """Raise ValueError for a prompt that looks like a command, if a model would be downloaded to continue it."""
    word = (prompt or "").strip().lstrip("-").lower()
    if word in COMMANDS and not is_present(options):
        raise ValueError(
            f"the prompt is {shown(prompt)}, and continuing it would download the model {options.model_size}: did you "
            f"mean --{word}? To continue this word, run again with --model_size tiny"
        )
    if prompt and len(prompt) < LONGEST_NAME and os.path.isfile(prompt):
        log.info(f"There is a file {shown(prompt)}; to continue its text, write --file {abbreviated(prompt)}.")


def n_expected(options: Options) -> int:
    """Return the number of new tokens per prompt."""
    return options.n_tokens_to_generate * options.num_samples


def is_present(options: Options) -> bool:
    """Return whether the model is on this machine."""
    try:
        path = utils.find_model(options.model_size, options.models_dir, offline=True)
    except (ValueError, CheckpointError):
        return False
    return formats.recognize(path) is not None


# ---- a prompt and its completions ------------------------------------------------------------------------------


class Generator:
    """Completes prompts. The model, the options and the sampler may change between two prompts.

    Attribute: `shown_seed`, the last seed that a remark showed.
    """

    def __init__(self, model: Model, options: Options, new_sampler: Callable, generate: Callable):
        self.model = model
        self.options = options
        self.new_sampler = new_sampler
        self.generate = generate
        self.draft = None  # the model that proposes tokens
        self.shown_seed = None

    def load(self, path: Path) -> None:
        """Replace the model."""
        with run_time_failures():
            is_engine = self.generate is generate_samples
            self.model = load_model(path, self.options, fast=is_engine, n_tokens=n_expected(self.options))

    def complete(self, prompt: str, seed: int) -> str:
        """Print the completions of a prompt and remarks about them; return the text of the first one."""
        return self.write_completions(encode_prompt(prompt, self.model, self.options), prompt, seed)

    def write_completions(self, ids: list[int], prompt: str, seed: int) -> str:
        """Do the same for a prompt whose ids are known. A failure is no usage error, because the request is valid."""
        with run_time_failures():
            return self.write_valid(ids, prompt, seed)

    def write_valid(self, ids, prompt, seed):
        options = self.options
        completions = new_completions(self.model, options, self.new_sampler, ids, seed, options.row)
        self.remark_before(prompt, completions, seed, n_room=self.model.n_ctx - len(ids) + 1)
        generate = self.with_draft() if options.values.get("draft") else self.generate
        steps = generate(
            ids, self.model.params, self.model.n_head, options.n_tokens_to_generate, completions, options.window_keep
        )
        clock = output.Clock()
        first = output.Kept(completions[0])
        with progress_bar(steps, options) as steps:
            pieces = first.watch(output.follow(clock.watch(steps), completions))
            if not is_streamed(options):
                pieces = list(pieces)
            self.write(pieces, prompt, ids, seed, clock)
        remark_after(completions, clock)
        warn_about_full_context(completions, options)
        return first.text

    def with_draft(self):
        """Return the loop that checks the proposals of a draft. Raise ValueError for a model with other tokens."""
        self.check_draft()
        if self.options.draft == LOOKUP:
            return partial(generate_with_draft, new_draft=Lookup)
        return partial(generate_with_draft, new_draft=partial(ModelDraft, self.draft.params, self.draft.n_head))

    def check_draft(self) -> None:
        """Load the draft that the options name. Raise ValueError if its vocabulary is another one."""
        path = find_draft(self.options)
        if path is None:
            return
        if self.draft is None or self.draft.path != path:
            with run_time_failures():
                self.draft = load_model(path, self.options)
        if self.draft.encoder.encoder != self.model.encoder.encoder or self.draft.n_vocab != self.model.n_vocab:
            names = f"{abbreviated(self.draft.name)} and {abbreviated(self.model.name)}"
            raise ValueError(f"draft: {names} have different vocabularies; use a model with the same one, or {LOOKUP}")

    def write(self, pieces, prompt, ids, seed, clock):
        options = self.options
        beginning = prompt if options.echo else ""
        if not options.json:
            output.write_text(pieces, beginning, options.values.get("separator"))
            return
        record_of = partial(
            json_record.make_record,
            prompt=prompt,
            prompt_ids=ids,
            seed=seed,
            model=self.model,
            options=options,
            clock=clock,
        )
        output.write_json(pieces, beginning, record_of, self.model.encoder if is_streamed(options) else None)

    def remark_before(self, prompt, completions, seed, n_room):
        """Remark on the seed, and on options that have no effect. n_room: new tokens that fit in the context."""
        if completions[0].sampler is not sampling.greedy:
            if seed != self.shown_seed:
                log.info(f"seed {seed}")
            self.shown_seed = seed
        elif len(completions) > 1:
            log.info(f"The {len(completions)} samples will be equal: add --temperature or a similar option to draw.")
        if prompt.endswith(" "):
            log.info("The prompt ends with a space. GPT-2 writes better without it: its tokens begin with the space.")
        if n_room < self.options.n_tokens_to_generate and self.options.window_keep is None:
            log.info(f"The context has room for {n_room} new tokens{remedy_of_full(self.options)}.")


def is_streamed(options):
    """Return whether text is printed while it is generated; JSON only if the user asks for it."""
    return options.stream and (not options.json or "stream" in options.given)


# ---- remarks ---------------------------------------------------------------------------------------------------


def remark_after(completions, clock):
    """Remark on the number of tokens, the speed and the finish reasons, unless a pipe shows the text later."""
    if output.is_pipe(sys.stdout):
        return
    n_new = sum(len(each.ids) for each in completions)
    counts = Counter(each.finish_reason for each in completions)
    reasons = ", ".join(f"{reason} x{n}" if len(completions) > 1 else reason for reason, n in counts.items())
    log.info(
        f"{n_new} tokens in {clock.seconds:.1f} s ({n_new / clock.seconds:.1f} tokens/s), "
        f"the first after {clock.first_token:.2f} s; ended by: {reasons}"
    )


def warn_about_full_context(completions, options):
    """Warn in logs, which have no remark before the text, that the context has cut off a text."""
    if any(each.finish_reason == "context" for each in completions) and not sys.stderr.isatty():
        log.warning(f"Warning: the text ends where the model's context is full{remedy_of_full(options)}")


def remedy_of_full(options):
    """Return the end of a remark about a full context, if the command can slide it."""
    return "; --context slide goes on beyond it" if "context" in options.values else ""


def progress_bar(steps, options):
    """Return a context of the steps, with a progress bar if a terminal shows stderr, and no terminal the text."""
    if options.quiet or not sys.stderr.isatty() or not output.is_file(sys.stdout):
        return contextlib.nullcontext(steps)
    from tqdm import tqdm

    n_columns = shutil.get_terminal_size().columns - 4  # room for ^C, which would wrap the line
    return tqdm(steps, "generating", options.n_tokens_to_generate, leave=False, ncols=n_columns)
