"""One prompt and its samples: check the request, load the model, generate, write."""

import contextlib
import logging
import sys

import numpy as np

import sampling
import utils
from cli import flags, output
from cli.command import hushed
from cli.prompt import check_words, prompt_loop, read_prompt

log = logging.getLogger("picogpt")


def complete(generate_samples, prompt, words, **asked):
    """Print how `generate_samples` continues `prompt`, or what a person types if there is none.

    Everything that can be wrong with the request is checked before a model is read or downloaded, by ValueError.
    """
    options = flags.check_flags(asked)
    with hushed() if options.quiet else contextlib.nullcontext():
        check_words(prompt, words)
        options.model = utils.find_model(options.model_size, options.models_dir).name
        prompt = read_prompt(prompt)
        if options.seed is None:
            options.seed = int(np.random.SeedSequence().generate_state(1)[0])
        model = utils.load(options.model_size, options.models_dir)
        if prompt is None:
            prompt_loop(lambda typed, index: continue_prompt(generate_samples, model, options, typed, index))
        else:
            continue_prompt(generate_samples, model, options, prompt)


def complete_plainly(generate, prompt, words, **asked):
    """The same with a plain generator of ids: one sample, without penalties, up to the end of the context."""
    flags.refuse(asked, "num_samples", "context", "keep", "logprobs", "ignore_eos", *flags.PENALTY_FLAGS)

    def generate_samples(inputs, params, n_head, n_tokens_to_generate, samples, keep=None):
        (sample,) = samples
        ids = generate(inputs, params, n_head, n_tokens_to_generate, sample.sampler, sample.rng, sample.stop_ids)
        for token in ids:
            sample.ids.append(token)
            sample.ended = "length" if len(sample.ids) == n_tokens_to_generate else None
            yield samples
            if sample.ended:
                return
        n_fed = len(inputs) + len(sample.ids) - 1
        sample.ended = "length" if n_tokens_to_generate == 0 else "context" if n_fed == len(params["wpe"]) else "eos"

    complete(generate_samples, prompt, words, **asked)


def continue_prompt(generate_samples, model, options, prompt, index=0):
    """Print all samples of one prompt, the one numbered `index`, on stdout, and on stderr how it went."""
    encoder, hparams, params = model.encoder, model.hparams, model.params
    prompt_ids = encoder.encode(prompt) or [encoder.start]
    check_fit(len(prompt_ids), options, hparams)
    samples = [make_sample(options, encoder, len(prompt_ids), index, i) for i in range(options.num_samples)]
    remark_before(options, prompt, samples, hparams["n_ctx"] - len(prompt_ids) + 1)
    keep = options.keep if options.context == "slide" else None
    steps = generate_samples(prompt_ids, params, hparams["n_head"], options.n_tokens_to_generate, samples, keep)
    clock = output.Clock()
    texts = [output.Text(sample, encoder, options.stop, clock) for sample in samples]
    write = output.write_json if options.json else output.write_text
    pieces = output.follow(clock.watch(bar(steps, options)), texts)
    write(pieces if is_streamed(options) else list(pieces), options, encoder, prompt, len(prompt_ids))
    n_new = sum(len(sample.ids) for sample in samples)
    log.info(
        f"{n_new} tokens in {clock.seconds:.1f} s ({n_new / clock.seconds:.1f} tokens/s), "
        f"the first after {clock.first_token:.2f} s; ended by: {', '.join(sample.ended for sample in samples)}"
    )


def is_streamed(options):
    return options.stream and not options.json


def check_fit(n_prompt, options, hparams):
    """What can only be checked against the model's sizes: the context and the vocabulary."""
    n_ctx, n_vocab = hparams["n_ctx"], hparams["n_vocab"]
    sampling.check_ids((*(options.logit_bias or ()), *options.banned_ids), n_vocab)
    if options.context == "slide":
        if options.keep > n_ctx - 2:
            raise ValueError(f"keep is {options.keep}; this model's context of {n_ctx} leaves at most {n_ctx - 2}")
    elif n_prompt > n_ctx:
        raise ValueError(
            f"the prompt has {n_prompt} tokens; this model reads at most {n_ctx}: shorten it, or add --context slide"
        )


def make_sample(options, encoder, n_prompt, index, i):
    """Sample `i` of prompt `index`, with a sampler, a processor and random numbers of its own."""
    sampler = sampling.make_sampler(**{name: getattr(options, name) for name in flags.STRATEGY_FLAGS})
    penalties = {name: getattr(options, name) for name in flags.PENALTY_FLAGS}
    stop_ids = set() if encoder.end_of_text is None else {encoder.end_of_text}
    if options.ignore_eos:
        penalties["banned_ids"] = (*options.banned_ids, *stop_ids)
    processor = sampling.make_processor(n_prompt=n_prompt, end_of_text=encoder.end_of_text, **penalties)
    rng = np.random.default_rng([options.seed, index, i])
    sample = sampling.Sample(sampler, rng, processor, stop_ids)
    return sample if options.logprobs is None else output.with_logprobs(sample, options.logprobs)


def remark_before(options, prompt, samples, room):
    """What a person at a terminal should know: the seed that gives the same text again, and what will disappoint."""
    if samples[0].sampler is not sampling.greedy:
        log.info(f"seed {options.seed}")
    elif len(samples) > 1:
        log.info(f"the {len(samples)} samples will be the same: nothing is drawn without --temperature or the like")
    if prompt.endswith(" "):
        log.info("the prompt ends with a space, which makes GPT-2 stumble: the space belongs to the next word")
    if room < options.n_tokens_to_generate and options.context == "stop":
        log.info(f"the context has room for {room} new tokens; --context slide goes on beyond it")


def bar(steps, options):
    """The steps, with a progress bar if a person watches who does not see the text itself."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and is_streamed(options)):
        return steps
    from tqdm import tqdm

    return tqdm(steps, "generating", options.n_tokens_to_generate, leave=False)
