"""Write completions to stdout: text as soon as it is certain, or JSON objects.

The completions of a prompt are generated side by side but printed one after another: the first one streams, and the
text of the others waits until all earlier ones have ended.
"""

import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np

import sampling
from cli.flags import FLAGS, STRATEGY_FLAGS
from cli.messages import run_time_failures
from cli.options import Options
from engine.completion import Completion
from utils import Model

SEPARATOR = "-" * 15  # a line between two samples, as in nanoGPT
# The values with which options have no effect, besides the defaults.
OFF = {"top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1, "entmax_alpha": 1, "repetition_penalty": 1}
OFF |= {"presence_penalty": 0, "frequency_penalty": 0, "no_repeat_ngram_size": 0, "min_new_tokens": 0, "logit_bias": {}}
# Flags that do not change the text.
NOT_SETTINGS = ("seed", "model_size", "models_dir", "list", "offline", "json", "stream", "quiet")


# ---- completions -> pieces of text -----------------------------------------------------------------------------


class Clock:
    """The times of a generation. Attributes: `first_token` and `seconds`, until the first and the last step."""

    def __init__(self):
        self.start = time.perf_counter()
        self.first_token = 0.0
        self.seconds = 1e-9  # not zero, because speeds divide by it
        self.ends = {}  # completion -> seconds

    def tick(self, completions: Iterable[Completion]) -> None:
        """Record the time of a step in which these completions took part."""
        self.seconds = time.perf_counter() - self.start
        self.first_token = self.first_token or self.seconds
        for completion in completions:
            if completion.finish_reason:
                self.ends.setdefault(completion, self.seconds)

    def seconds_of(self, completion: Completion) -> float:
        """Return the seconds until a completion ended."""
        return self.ends.get(completion, self.seconds)

    def watch(self, steps: Iterable[list[Completion]]) -> Iterator[list[Completion]]:
        """Yield the steps and record their times. A failure is a run-time failure, as in `run_time_failures`."""
        with run_time_failures("the text ends here: "):
            for step in steps:
                self.tick(step)
                yield step


def follow(steps: Iterable, completions: list[Completion]) -> Iterator[tuple[Completion, str, bool]]:
    """Yield (completion, new text, whether it is the last), one completion to its end before the next begins."""
    waiting = deque(completions)
    for _ in itertools.chain(steps, [None]):  # and once more, for completions that end without a step
        while waiting:
            is_last = waiting[0].finish_reason is not None
            yield waiting[0], waiting[0].text.take(), is_last
            if not is_last:
                break
            waiting.popleft()


# ---- pieces of text -> stdout ----------------------------------------------------------------------------------


def check_stdout() -> None:
    """Raise OSError if the caller has closed stdout."""
    if sys.stdout is None:
        raise OSError("stdout is closed: there is nowhere to write to")


def write(text: str) -> None:
    """Print and flush. Raise OSError if stdout cannot be written to, BrokenPipeError if its reader has closed it."""
    check_stdout()
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"cannot write to stdout: {error.strerror}") from error


def write_text(pieces: Iterable, beginning: str = "") -> None:
    """Print each text as it arrives, a separator between two, and one newline at the end, even after an error.

    pieces: as from `follow`. beginning: printed before each text.
    """
    before = beginning
    try:
        for _, piece, is_last in pieces:
            write(before + piece)
            before = f"\n{SEPARATOR}\n{beginning}" if is_last else ""
    finally:
        write("\n")


def write_json(pieces: Iterable, beginning: str, record_of: Callable[[int, Completion, str], dict]) -> None:
    """Print one line of JSON per completion as soon as it has ended. record_of: (index, completion, text) -> dict."""
    escape_lone_surrogates()
    index = 0
    whole = beginning
    for completion, piece, is_last in pieces:
        whole += piece
        if is_last:
            write(as_line(record_of(index, completion, whole)))
            index += 1
            whole = beginning


def escape_lone_surrogates() -> None:
    """Let stdout write half of a surrogate pair as JSON spells it, \\udXXX."""
    sys.stdout.reconfigure(errors="backslashreplace")


def as_line(record: dict) -> str:
    """Return a record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"


# ---- records ---------------------------------------------------------------------------------------------------


def make_record(
    index: int,
    completion: Completion,
    text: str,
    *,
    prompt: str,
    n_prompt: int,
    seed: int,
    model: Model,
    options: Options,
    clock: Clock,
) -> dict:
    """Return the JSON object of a completion. n_prompt: the number of prompt tokens."""
    n_new = len(completion.ids)
    seconds = clock.seconds_of(completion)
    record = {
        "index": index,
        "prompt": prompt,
        "text": text,
        "finish_reason": completion.finish_reason,
        "seed": seed,
        "model": model.name,
        "settings": settings(options),
        "usage": {"prompt_tokens": n_prompt, "completion_tokens": n_new},
        "timings": {
            "first_token_seconds": round(clock.first_token, 6),
            "seconds": round(seconds, 6),
            "tokens_per_second": round(n_new / max(seconds, 1e-9), 3),
        },
    }
    if options.logprobs is not None:
        record["logprobs"] = [with_tokens(entry, model.encoder) for entry in completion.on_token.entries]
    return record


def settings(options: Options) -> dict:
    """Return the values in effect of the options that the text depends on, without those that are off.

    A strategy or a preset is given by the values that it stands for.
    """
    names = (FLAGS.keys() & options.values.keys()) - {*NOT_SETTINGS}
    values = {name: as_json(options.values[name]) for name in FLAGS if name in names}
    others = {name: value for name, value in values.items() if name not in STRATEGY_FLAGS}
    own_sampler = {"strategy": values["strategy"]} if callable(options.strategy) else {}
    effective = others | drawing_knobs(options) | own_sampler
    length = {"n_tokens_to_generate": effective.pop("n_tokens_to_generate")}
    return length | {name: value for name, value in effective.items() if not is_off(name, value)}


def drawing_knobs(options):
    """Return the knobs of the sampler with their values, {} if it is greedy."""
    sampler = sampling.make_sampler(**options.sampling)
    if isinstance(sampler, sampling.Mirostat):
        knobs = {**sampler.knobs, "mirostat_tau": sampler.tau, "mirostat_eta": sampler.eta}
    else:
        knobs = getattr(sampler, "keywords", None)
    if knobs is None or knobs.get("temperature", 1.0) < sampling.GREEDY_BELOW:
        return {}
    return {"temperature": 1.0, **knobs}


def is_off(name, value):
    """Return whether an option has no effect with this value."""
    return value is None or value == OFF.get(name, FLAGS[name].default)


def as_json(value):
    """Return a value that JSON can express: the name of a sampler instead of the sampler."""
    return value.__name__ if callable(value) else value


class LogprobRecorder:
    """An observer of a completion that records log-probabilities of the model, before penalties and temperature.

    n_top: the number of the likeliest tokens to record with each token. stop_ids: ids that are not recorded.
    Attribute: `entries`, one {"id", "logprob", "top": [{"id", "logprob"}]} per token.
    """

    def __init__(self, n_top: int, stop_ids: Collection[int] = ()):
        self.n_top = n_top
        self.stop_ids = stop_ids
        self.entries = []

    def __call__(self, raw: np.ndarray, processed: np.ndarray, token: int) -> None:
        """Record a token, given the logits [n_vocab] before and after the logits processor."""
        if token in self.stop_ids:
            return
        logprobs = np.maximum(sampling.log_softmax(raw), np.log(1e-300))  # JSON has no -inf
        best = np.lexsort((np.arange(len(raw)), -logprobs))[: self.n_top].tolist()
        chosen, *top = ({"id": i, "logprob": float(logprobs[i])} for i in (token, *best))
        self.entries.append({**chosen, "top": top})


def with_tokens(entry, encoder):
    """Return an entry of a LogprobRecorder with the text of its tokens; U+FFFD replaces incomplete characters."""
    top = [{"token": encoder.decode([other["id"]]), **other} for other in entry["top"]]
    return {"token": encoder.decode([entry["id"]]), **entry, "top": top}
