"""The JSON object of a completion: its text, the settings in effect, times, and log-probabilities."""

from collections.abc import Collection

import numpy as np

import sampling
from cli.flags import FLAGS, PROMPT_FLAGS, STRATEGY_FLAGS
from cli.options import Options
from cli.output import Clock
from engine.completion import Completion
from gpt2 import check_length, gpt2, make_kv_cache
from utils import Model

SCORED = 128  # tokens of a prompt that are scored in one pass
FIELDS = {  # of a record
    "index": "number of the sample, from 0",
    "prompt": "the prompt as it was read",
    "text": "the new text, after the prompt with --echo",
    "finish_reason": "eos, stop, length or context; see above",
    "seed": "with the same options, this seed gives the same text",
    "model": "name of the model",
    "fingerprint": "of the model's files: 16 digits that are the same wherever the files lie",
    "settings": "the values in effect of the options that the text depends on, without those that are off",
    "usage": "`prompt_tokens`, and `completion_tokens`, those of a stop text included",
    "timings": "`first_token_seconds` and `seconds`, until the sample ended, and `tokens_per_second`",
    "logprobs": "with --logprobs: for each token its text, id, log-probability and the likeliest tokens, as `top`",
}
# The values with which options have no effect, besides the defaults.
OFF = {"top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1, "entmax_alpha": 1, "repetition_penalty": 1}
OFF |= {"presence_penalty": 0, "frequency_penalty": 0, "no_repeat_ngram_size": 0, "min_new_tokens": 0, "logit_bias": {}}
# Flags that do not change the text.
NOT_SETTINGS = (
    "seed",
    "row",
    "model_size",
    "models_dir",
    "list",
    "offline",
    "json",
    "stream",
    "quiet",
    "separator",
    "output",
)
NOT_SETTINGS += ("overwrite", "threads", "config", "completion", *PROMPT_FLAGS)


def make_record(
    index: int,
    completion: Completion,
    text: str,
    *,
    prompt: str,
    prompt_ids: list[int],
    seed: int,
    model: Model,
    options: Options,
    clock: Clock,
) -> dict:
    """Return the JSON object of a completion."""
    n_new = len(completion.ids)
    seconds = clock.seconds_of(completion)
    record = {
        "index": index,
        "prompt": prompt,
        "text": text,
        "finish_reason": completion.finish_reason,
        "seed": seed,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "settings": settings(options),
        "usage": {"prompt_tokens": len(prompt_ids), "completion_tokens": n_new},
        "timings": {
            "first_token_seconds": round(clock.first_token, 6),
            "seconds": round(seconds, 6),
            "tokens_per_second": round(n_new / max(seconds, 1e-9), 3),
        },
    }
    if options.logprobs is not None:
        entries = completion.on_token.entries
        if options.echo:
            entries = prompt_entries(prompt_ids, model, options.logprobs) + entries
        record["logprobs"] = [with_tokens(entry, model.encoder) for entry in entries]
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


def prompt_entries(ids: list[int], model: Model, n_top: int) -> list[dict]:
    """Return the entries of a prompt's tokens. The first one has no log-probability, unless a start token precedes it.

    Raise ValueError if the prompt is longer than the context.
    """
    check_length(len(ids), model.n_ctx, "remove --logprobs or --echo")
    recorder = LogprobRecorder(n_top)
    n_prefix = len(model.special.prefix)
    if ids and n_prefix == 0:
        recorder.entries.append({"id": ids[0], "logprob": None, "top": []})
    cache = make_kv_cache(model.params, model.n_head, len(ids))
    for start in range(0, len(ids) - 1, SCORED):
        part = ids[start : min(start + SCORED, len(ids) - 1)]
        logits = gpt2(part, **model.params, n_head=model.n_head, cache=cache)  # [n_seq, n_vocab]
        for row, token in zip(logits, ids[start + 1 :], strict=False):
            recorder(row, row, token)
    return recorder.entries[max(0, n_prefix - 1) :]


def with_tokens(entry, encoder):
    """Return an entry of a LogprobRecorder with the text of its tokens; U+FFFD replaces incomplete characters."""
    top = [{"token": encoder.decode([other["id"]]), **other} for other in entry["top"]]
    return {"token": encoder.decode([entry["id"]]), **entry, "top": top}
