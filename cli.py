"""The manners of a command: what a person types comes in unharmed, text goes out as it is made, errors are a sentence.

`run(main)` turns a function into a command and is all that the bottom of a script needs; `complete` is what
gpt2.py and gpt2_pico.py do with a prompt. Read it in the order things happen:

    words and flags -> checked options -> the prompt -> samples in the making -> text on stdout (writer.py)

Generated text is all that goes to stdout; remarks go to stderr, and only if it is a terminal. Exit codes: 0 done,
1 it could not be done, 2 it was asked for wrongly, 130 interrupted.
"""

import contextlib
import inspect
import itertools
import os
import platform
import re
import select
import sys

import numpy as np

import flags
import sampling
import utils
import writer

VERSION = "0.1.0"
DEBUG = "PICOGPT_DEBUG"  # set to 1 to see the traceback behind an error


# ---- a function as a command -----------------------------------------------------------------------------------


def run(main, table=flags.FLAGS):
    """Run `main` with the command line's words and flags, those of `table`, and exit with the right code."""
    if sys.stderr is None:  # closed by the caller; print would take stdout in its place
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, it stays open to the end
    try:
        if sys.stdout is None:
            raise OSError("stdout is closed: there is nowhere to write to")
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding="utf-8", errors="replace")  # whatever the locale or Windows code page
        call_with_arguments(main, [as_utf8(argument) for argument in sys.argv[1:]], table)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output, `head` say, has seen enough
        discard_stdout()
    except KeyboardInterrupt:  # what was generated so far has been printed
        sys.exit(130)
    except ValueError as error:
        fail(error, 2)
    except (OSError, RuntimeError, MemoryError) as error:
        fail(error, 1)


def fail(error, code):
    if os.environ.get(DEBUG) == "1":
        raise error
    print(f"Error: {error or type(error).__name__}", file=sys.stderr)
    if isinstance(error, OSError) and sys.stdout:
        discard_stdout()
    sys.exit(code)


def discard_stdout():
    """What is still to be flushed cannot be; without this, Python would try again on leaving, and complain."""
    with contextlib.suppress(OSError):  # no file at all, in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_utf8(argument):
    """An argument as it would be in a UTF-8 locale, whatever the locale."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def call_with_arguments(main, arguments, table):
    """Call `main` through Fire, which would evaluate the prompt as Python ("1984", "a, b", "{x}") if it were let."""
    asked = set(itertools.takewhile(lambda argument: argument != "--", arguments))
    if asked & {"-h", "--help"}:
        writer.put(inspect.getdoc(main) + "\n")
    elif "--version" in asked:
        writer.put(f"picoGPT, extended {VERSION} (Python {platform.python_version()}, NumPy {np.__version__})\n")
    else:
        from fire import Fire, decorators, parser

        values = {name: parser.DefaultParseValue for name, flag in table.items() if flag.is_value}
        parameters = inspect.signature(main).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        decorators.SetParseFn(str)(main)
        decorators.SetParseFns(**values)(main)
        Fire(main, command=flags.spell_out(arguments, table, positional))


# ---- the prompt ------------------------------------------------------------------------------------------------


def check_words(prompt, words):
    if words:
        several = " ".join(map(str, (prompt, *words)))
        raise ValueError(f"the prompt must be in quotes: {several!r} came as several words")


def read_prompt(prompt):
    """The text to continue: what was typed, a file, what is piped in, or both; None if a person is to be asked."""
    if prompt == "-":
        return drop_newline(read_stdin())
    if prompt is not None and prompt.startswith("FILE:"):
        prompt = read_file(prompt.removeprefix("FILE:"))
    if sys.stdin is not None and sys.stdin.isatty():
        return prompt
    if prompt is not None:
        remark_if_waiting()
        return read_stdin() + prompt
    piped = read_stdin()
    if piped:
        return drop_newline(piped)
    raise ValueError('there is no prompt; give one in quotes, as in "Once upon a time", or "" to start from nothing')


def read_file(path):
    try:
        with open(utils.expand(path), "rb") as file:
            return drop_newline(decode(file.read(), path))
    except OSError as error:
        raise ValueError(f"cannot read the prompt from {path!r}: {error.strerror}") from error


def read_stdin():
    if sys.stdin is None:  # closed
        return ""
    if sys.stdin.isatty():
        utils.notice("Type the prompt; a line with Ctrl-D alone ends it.")
    return decode(sys.stdin.buffer.read(), "stdin")


def remark_if_waiting():
    """A pipe that nobody writes to and nobody closes stops a run that has its prompt: the one remark for logs too."""
    with contextlib.suppress(OSError, ValueError, TypeError):  # no pipe, no stdin, or Windows, which waits for sockets
        if not select.select([sys.stdin], [], [], 1.0)[0]:
            print("Waiting for the end of what is piped in; add < /dev/null if nothing is.", file=sys.stderr)


def decode(data, source):
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 text (byte {error.start}); convert it, with iconv say") from None


def drop_newline(text):
    """Files and `echo` end in a newline that nobody meant as part of the prompt."""
    return re.sub(r"\r?\n\Z", "", text)


# ---- one prompt, its samples -----------------------------------------------------------------------------------


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
        model = utils.load_encoder_hparams_and_params(options.model_size, options.models_dir)
        if prompt is None:
            ask(lambda typed, index: continue_prompt(generate_samples, model, options, typed, index))
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


@contextlib.contextmanager
def hushed():
    """No remarks. Errors are still told: they are raised, and printed outside."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def continue_prompt(generate_samples, model, options, prompt, index=0):
    """Print all samples of one prompt, the one numbered `index`, on stdout, and on stderr how it went."""
    encoder, hparams, params = model
    prompt_ids = encoder.encode(prompt) or [encoder.start]
    check_fit(len(prompt_ids), options, hparams)
    samples = [make_sample(options, encoder, len(prompt_ids), index, i) for i in range(options.num_samples)]
    remark_before(options, prompt, samples, hparams["n_ctx"] - len(prompt_ids) + 1)
    keep = options.keep if options.context == "slide" else None
    steps = generate_samples(prompt_ids, params, hparams["n_head"], options.n_tokens_to_generate, samples, keep)
    clock = writer.Clock()
    texts = [writer.Text(sample, encoder, options.stop, clock) for sample in samples]
    write = writer.write_json if options.json else writer.write_text
    pieces = writer.follow(clock.watch(bar(steps, options)), texts)
    write(pieces if is_streamed(options) else list(pieces), options, encoder, prompt, len(prompt_ids))
    n_new = sum(len(sample.ids) for sample in samples)
    utils.notice(
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
    return sample if options.logprobs is None else writer.with_logprobs(sample, options.logprobs)


# ---- remarks ---------------------------------------------------------------------------------------------------


def remark_before(options, prompt, samples, room):
    """What a person at a terminal should know: the seed that gives the same text again, and what will disappoint."""
    if samples[0].sampler is not sampling.greedy:
        utils.notice(f"seed {options.seed}")
    elif len(samples) > 1:
        utils.notice(f"the {len(samples)} samples will be the same: nothing is drawn without --temperature or the like")
    if prompt.endswith(" "):
        utils.notice("the prompt ends with a space, which makes GPT-2 stumble: the space belongs to the next word")
    if room < options.n_tokens_to_generate and options.context == "stop":
        utils.notice(f"the context has room for {room} new tokens; --context slide goes on beyond it")


def bar(steps, options):
    """The steps, with a progress bar if a person watches who does not see the text itself."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and is_streamed(options)):
        return steps
    from tqdm import tqdm

    return tqdm(steps, "generating", options.n_tokens_to_generate, leave=False)


# ---- prompts typed one after another ---------------------------------------------------------------------------


def ask(answer):
    """Ask for prompts and call `answer(prompt, index)`, until Ctrl-D; Ctrl-C stops only the text that is coming."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401, its import gives input() a history and the arrow keys
    utils.notice("Type the beginning of a text. Ctrl-C stops the answer, Ctrl-D leaves.")
    index = 0
    while True:
        try:
            prompt = as_utf8(ask_once("> "))
            if prompt:
                index += 1
                answer(prompt, index - 1)
        except EOFError:
            return utils.notice("")
        except KeyboardInterrupt:
            utils.notice("")
        except ValueError as error:
            print(f"Error: {error}", file=sys.__stderr__)


def ask_once(sign):
    """A line from the person at the terminal; where stdout is a file or a pipe, the sign goes to stderr."""
    if sys.stdout.isatty():
        return input(sign)
    print(sign, end="", file=sys.stderr, flush=True)
    return input()
