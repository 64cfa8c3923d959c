"""From a request to what the engine needs: the model, the ids of a prompt, the settings of a completion."""

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

import sampling
import utils
from cli.checks import shown
from cli.flags import FLAGS
from cli.json_record import LogprobRecorder
from cli.options import Options
from cli.words import read_words, without_sequences
from engine.completion import Completion
from gpt2 import check_length
from utils import Model

log = logging.getLogger("picogpt")
LONG_PROMPT = 2**16  # characters; a shorter prompt is encoded without a look at its length

# ---- the model -------------------------------------------------------------------------------------------------


def find_model(options: Options) -> Path:
    """Return the folder or the file of the model. Raise ValueError if there is none."""
    try:
        return utils.find_model(options.model_size, options.models_dir, options.offline)
    except ValueError as error:
        variable = FLAGS["model_size"].variable
        if "model_size" in options.given or not os.environ.get(variable):
            raise
        raise ValueError(f"{variable} is set: {error}") from error


def load_model(path: Path, options: Options, fast: bool = True, n_tokens: int = 0) -> Model:
    """Return the model that find_model found. n_tokens: see utils.with_operands."""
    places = utils.search_places(options.models_dir, options.offline)
    weights = options.values.get("weights", "float32") if fast else "float32"
    return utils.load_found(path, places, fast, weights, n_tokens)


def draw_seed() -> int:
    """Return a random seed for a run that was given none."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def seed_of(options: Options) -> int:
    """Return the seed that is given, otherwise a new one."""
    return draw_seed() if options.seed is None else options.seed


# ---- the prompt ------------------------------------------------------------------------------------------------


def encode_prompt(prompt: str, model: Model, options: Options) -> list[int]:
    """Return the ids of a prompt, as Model.encode does. Raise ValueError if it is too long for the model.

    Token ids in the options and `keep` are checked here too, because their limits are sizes of the model.
    """
    check_size(prompt, model, options)
    ids = model.encode(prompt, allows_special(prompt, model, options))
    words = read_words(options, model.encoder)
    sampling.check_ids((*words.logit_bias, *words.banned_ids), model.n_vocab)
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


# ---- a completion ----------------------------------------------------------------------------------------------


def new_completions(
    model: Model, options: Options, new_sampler: Callable, prompt: list[int], seed: int, index: int
) -> list[Completion]:
    """Return the completions of the ids of a prompt, one per sample. They share a logits processor, which has no state.

    new_sampler: returns the sampler of one text. index: the number of the prompt in the seed sequence.
    """
    processor = new_logits_processor(model, options, len(prompt), options.penalties)
    return [
        Completion(
            new_sampler(),
            np.random.default_rng((seed, index, i)),
            processor,
            model.special.stop_ids,
            encoder=model.encoder,
            before=prompt,
            stops=options.stop,
            shortest=options.min_new_tokens or 0,
            on_token=recorder(options, model),
        )
        for i in range(options.num_samples)
    ]


def recorder(options: Options, model: Model) -> LogprobRecorder | None:
    """Return an observer of log-probabilities, None if the options ask for none."""
    return None if options.logprobs is None else LogprobRecorder(options.logprobs, model.special.stop_ids)


def new_logits_processor(model: Model, options: Options, n_prompt: int, penalties: dict) -> Callable | None:
    """Return the logits processor of a completion of `n_prompt` ids, with the bans and biases of the options.

    penalties: {name: value} of the others.
    """
    words = read_words(options, model.encoder)
    special = model.special
    banned_ids = (*words.banned_ids, *special.unused_ids)
    if options.values.get("ignore_eos"):
        banned_ids += special.stop_ids
    bans = {"logit_bias": words.logit_bias, "banned_ids": banned_ids}
    processor = sampling.make_logits_processor(n_prompt=n_prompt, stop_ids=special.stop_ids, **penalties | bans)
    return without_sequences(processor, words.banned_sequences)
