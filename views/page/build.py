"""explore.py page: an interactive page that contains the model, or a recording of a model that is too large for that.

A live page holds the weights in int8 and computes the model in JavaScript. A recorded page holds the logits, the
attention and the predictions of the layers for each step. page.html, page.css and js/ are what a browser shows.
"""

from dataclasses import replace

import sampling
from cli.options import Options
from cli.request import encode_prompt
from engine.products import with_fast_products
from utils import Model
from views import settings, writing
from views.next_token import knobs_of
from views.page import document, recording, weights

MAX_LIVE = 20_000_000  # parameters; larger models are recorded
N_STEPS = 40  # of a recording, without --steps
DEFAULT_PROMPT = "Once upon a time"
TITLE = "The next token"
ON_THE_PAGE = ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size")


def show_page(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Write the page of a model. model: with plain arrays as weights."""
    (setting,) = settings.grid(options)
    build = live if is_live(model) else recorded
    description, tensors = build(model, ids, setting, options, seed)
    description |= {
        "model": model.name,
        "prompt": prompt,
        "settings": initial_settings(setting),
        "stop_ids": list(model.special.stop_ids),
        "banned_ids": list(model.special.unused_ids),
        "is_lesson": options.lesson,
    }
    tensors["vocabulary"] = document.as_bytes(document.vocabulary(model))
    html = document.page(f"{TITLE}: {model.name}", description, tensors)
    writing.write_file(options.output, lambda file: file.write(html.encode("utf-8", "backslashreplace")))


def n_parameters(model: Model) -> int:
    return sum(value.size for value in weights.flat(model.params).values() if hasattr(value, "size"))


def is_live(model: Model) -> bool:
    """Return whether the page can compute the model: it is small, and the page knows its tokenizer."""
    return n_parameters(model) <= MAX_LIVE and document.can_encode(model.encoder)


def n_steps_of(options: Options) -> int:
    """Return the number of steps of a recording."""
    return options.steps if "steps" in options.given else N_STEPS


def prepare(model: Model, prompt: str, options: Options) -> list[int]:
    """Return the ids of a prompt. Raise ValueError if it is too long, for the model or for a recording."""
    ids = encode_prompt(prompt, model, options)
    if not is_live(model):
        recording.check_length(len(ids), n_steps_of(options), model.n_ctx)
    return ids


def initial_settings(setting: dict) -> dict:
    """Return the settings with which the page opens, {name: number} of js/settings.js."""
    sampler = settings.new_sampler(settings.drawing(setting))
    knobs = {"temperature": 0} if sampler is sampling.greedy else knobs_of(sampler)
    return knobs | settings.selected(setting, ON_THE_PAGE)


def sizes(model: Model, n_steps: int) -> dict:
    names = ("n_vocab", "n_ctx", "n_head")
    return {
        **{name: getattr(model, name) for name in names},
        "n_embd": int(model.params["wte"].shape[1]),
        "n_layer": len(model.params["blocks"]),
        "n_parameters": n_parameters(model),
        "n_steps": n_steps,
    }


def live(model, ids, setting, options, seed):
    """Return the description and the tensors of a page that computes the model."""
    tensors, constants = weights.as_tensors(model.params)
    n_steps = options.steps if "steps" in options.given else 0  # that the page appends when it opens
    return {
        "is_live": True,
        "ids": ids,
        "n_steps": n_steps,
        "constants": constants,
        "hparams": sizes(model, n_steps),
    }, tensors


def recorded(model, ids, setting, options, seed):
    """Return the description and the tensors of a page with recorded steps."""
    fast = replace(model, params=with_fast_products(model.params))
    tensors, draws = recording.record(fast, ids, settings.drawing(setting), options, n_steps_of(options), seed)
    return {"is_live": False, "draws": draws, "hparams": sizes(model, len(draws))}, tensors
