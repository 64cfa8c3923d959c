"""From samples in the making to text on stdout: each character as soon as it is certain, or JSON at the end.

    ids of a sample -> characters -> certain not to begin a stop string -> in the order of the samples -> stdout

The samples of a prompt are generated side by side but printed one after another: the first one streams, and what the
others have so far waits for their turn.
"""

import itertools
import json
import sys
import time
from collections import deque

import numpy as np

import sampling

SEPARATOR = "-" * 15  # a line between two samples, as in nanoGPT


# ---- samples in the making -> text, as soon as it is certain ---------------------------------------------------


class Text:
    """What there is to show of a sample: no half characters, no stop string, nor what may become one."""

    def __init__(self, sample, encoder, stops, clock):
        self.sample, self.stops, self.clock = sample, stops, clock
        self.pieces = encoder.stream(iter(sample.ids))  # one piece for each id, over the list as it grows
        self.n_read = 0
        self.held = ""  # may be the beginning of a stop string
        self.fresh = ""  # certain, and not yet taken
        self.seconds = None  # from the start to the end of this text

    def read(self):
        """Take in the ids that are new; a stop string among them ends the sample."""
        if self.seconds is not None:
            return
        for _ in range(self.n_read, len(self.sample.ids)):
            self.held += next(self.pieces)
        self.n_read = len(self.sample.ids)
        if self.sample.ended:
            self.held += "".join(self.pieces)
        certain, stopped = self.certain()
        if stopped:
            self.sample.ended = "stop"
        self.fresh += self.held[:certain]
        self.held = self.held[certain:]
        if self.sample.ended:
            self.seconds = self.clock.seconds

    def certain(self):
        """How many characters of `held` can be shown, and whether a stop string follows them."""
        found = [(at + len(stop), at) for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:
            return min(found)[1], True  # the one that is complete first, as if characters came one at a time
        if self.sample.ended:
            return len(self.held), False
        beginnings = (n for stop in self.stops for n in range(1, len(stop)) if self.held.endswith(stop[:n]))
        return len(self.held) - max(beginnings, default=0), False

    def take(self):
        fresh, self.fresh = self.fresh, ""
        return fresh


class Clock:
    """Seconds since it was made: `seconds` until the last step so far, `first_token` until the first."""

    def __init__(self):
        self.start, self.first_token, self.seconds = time.perf_counter(), 0.0, 1e-9

    def tick(self):
        self.seconds = time.perf_counter() - self.start
        self.first_token = self.first_token or self.seconds

    def watch(self, steps):
        try:
            for step in steps:
                self.tick()
                yield step
        except ValueError as error:  # the request was checked before: this is the model, not the user
            raise RuntimeError(f"the text ends here: {error}") from error


def follow(steps, texts):
    """Yield (text, new piece of it, whether it is the last): texts in order, one to the end before the next begins."""
    waiting = deque(texts)
    for _ in itertools.chain(steps, [None]):
        for text in waiting:
            text.read()
        while waiting:
            ended = waiting[0].sample.ended is not None
            yield waiting[0], waiting[0].take(), ended
            if not ended:
                break
            waiting.popleft()


# ---- text -> stdout --------------------------------------------------------------------------------------------


def put(text):
    """Print and flush. OSError, with a sentence, if stdout takes no more; BrokenPipeError if nobody reads it."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"cannot write to stdout: {error.strerror}") from error


def write_text(pieces, options, encoder, prompt, n_prompt):
    """Print every text as it comes, and one newline at its end, however it ends; a line between two."""
    before = beginning = prompt if options.echo else ""
    try:
        for _, piece, is_last in pieces:
            put(before + piece)
            before = f"\n{SEPARATOR}\n{beginning}" if is_last else ""
    finally:
        put("\n")


def write_json(pieces, options, encoder, prompt, n_prompt):
    """Print one JSON object a text, in a line, as soon as it has ended."""
    escape_half_pairs()
    index, whole_text = 0, prompt if options.echo else ""
    for text, piece, is_last in pieces:
        whole_text += piece
        if is_last:
            put(as_line(record(index, prompt, whole_text, text, options, encoder, n_prompt)))
            index, whole_text = index + 1, prompt if options.echo else ""


def escape_half_pairs():
    """From now on, half a surrogate pair comes out on stdout as JSON spells it: \\udXXX."""
    sys.stdout.reconfigure(errors="backslashreplace")


def as_line(record):
    return json.dumps(record, ensure_ascii=False) + "\n"


def record(index, prompt, whole_text, text, options, encoder, n_prompt):
    """All that is to be said of a text, ready for JSON."""
    sample, n_new = text.sample, len(text.sample.ids)
    said = {
        "index": index,
        "prompt": prompt,
        "text": whole_text,
        "finish_reason": sample.ended,
        "seed": options.seed,
        "model": options.model,
        "settings": settings(sample.sampler, options),
        "usage": {"prompt_tokens": n_prompt, "completion_tokens": n_new},
        "timings": {
            "first_token_seconds": round(text.clock.first_token, 6),
            "seconds": round(text.seconds, 6),
            "tokens_per_second": round(n_new / max(text.seconds, 1e-9), 3),
        },
    }
    if options.logprobs is not None:
        said["logprobs"] = [with_token(entry, encoder) for entry in sample.logprobs]
    return said


def settings(sampler, options):
    """What was asked for, and the values of the knobs that a strategy or a preset stands for."""
    given = {name: getattr(options, name) for name in options.given if name not in NOT_SETTINGS}
    return {"n_tokens_to_generate": options.n_tokens_to_generate, **getattr(sampler, "keywords", {}), **given}


NOT_SETTINGS = ("seed", "model_size", "models_dir", "json", "stream", "quiet")  # nothing that the text depends on


def with_token(entry, encoder):
    """An entry of `with_logprobs` with the text of its tokens, U+FFFD for half a character."""
    top = [{"token": encoder.decode([other["id"]]), **other} for other in entry["top"]]
    return {"token": encoder.decode([entry["id"]]), **entry, "top": top}


def with_logprobs(sample, n_top):
    """The same sample, which notes in `logprobs` what the model itself, before all penalties, gave each token."""
    extend, sample.logprobs = sample.extend, []

    def noting(logits, prompt):
        extend(logits, prompt)
        logprobs = np.log(np.maximum(sampling.softmax(sampling.scale(logits)), 1e-300))
        top = np.lexsort((np.arange(len(logits)), -logprobs))[:n_top].tolist()
        if sample.ended != "eos":
            chosen, *best = ({"id": token, "logprob": float(logprobs[token])} for token in (sample.ids[-1], *top))
            sample.logprobs.append({**chosen, "top": best})

    sample.extend = noting
    return sample
