"""From a model's name to a loaded model: find its folder, recognize the format, load the encoder and the weights.

checkpoints/places.py finds a model, checkpoints/formats.py recognizes its format, and a module for each format reads
it.
"""

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import formats, hub, places
from checkpoints.files import CheckpointError
from checkpoints.fingerprint import fingerprint
from checkpoints.messages import abbreviated, named, reason
from checkpoints.places import Places, search_places
from checkpoints.tokenizer import Loaded, SpecialTokens
from encoder import Encoder
from engine import compiled

__all__ = ["CheckpointError", "Model", "find_model", "load", "load_encoder_hparams_and_params"]


@dataclass(frozen=True)
class Model:
    """A loaded model."""

    name: str  # of its folder, or OWNER/NAME of a model from Hugging Face
    encoder: Encoder
    hparams: dict[str, Any]
    params: dict[str, Any]  # the weights tree; see load_encoder_hparams_and_params
    special: SpecialTokens  # where a text starts and ends
    path: Path | None = None  # of its folder or file

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """The fingerprint of its files (checkpoints/fingerprint.py), None for a model without files."""
        return None if self.path is None else fingerprint(self.path)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of a prompt: what the model's files put before it, then its text; at least one id.

        allow_special: see Encoder.encode, which also lists the errors.

        >>> load("tiny").encode("Once upon a time")
        [422, 433, 258, 394]
        """
        ids = [*self.special.prefix, *self.encoder.encode(text, allow_special)]
        return ids or [self.special.start]

    def complete(self, prompt: str | Sequence[str], **settings: Any) -> str | list:
        """Return the text that continues a prompt, or a list of texts for a list of prompts, computed together.

        settings: those of gpt2.py, under the same names: temperature, top_p and the other options of the sampler,
        penalties, n_tokens_to_generate (40), seed, stop, context, keep, echo. Without them the text is the likeliest.
        num_samples: a number of texts per prompt; each text of the result is then a list. Raise ValueError for an
        invalid setting or prompt before any work, RuntimeError if there is not enough memory.

        >>> load("tiny").complete("Once upon a time", n_tokens_to_generate=5)
        ', there was a little'
        """
        from cli.library import complete

        return complete(self, prompt, settings)

    def stream(self, prompt: str, **settings: Any) -> Iterator[str]:
        """Yield the text of `complete` for one prompt piece by piece, each as soon as it is certain.

        settings, errors: those of complete.

        >>> list(load("tiny").stream("Once upon a time", n_tokens_to_generate=3))
        [',', ' there', ' was']
        """
        from cli.library import stream

        return stream(self, prompt, settings)

    def records(self, prompt: str | Sequence[str], **settings: Any) -> list[dict]:
        """Return what `gpt2.py --json` prints, one dict per text: the text, why it ends, the seed, the settings.

        settings, errors: those of complete, and logprobs: a number of likeliest tokens to list for each token, with
        their log-probabilities (natural logarithms).

        >>> (record,) = load("tiny").records("Once upon a time", n_tokens_to_generate=1, logprobs=1)
        >>> record["text"], record["finish_reason"], round(record["logprobs"][0]["logprob"], 2)
        (',', 'length', -0.11)
        """
        from cli.library import records

        return records(self, prompt, settings)

    @functools.cached_property
    def operands(self) -> dict[str, Any]:
        """The weights tree as operands that compute fast; see with_operands."""
        is_plain = isinstance(self.params["wte"], np.ndarray)
        return with_operands(self).params if is_plain else self.params

    @property
    def n_head(self) -> int:
        return self.hparams["n_head"]

    @property
    def n_ctx(self) -> int:
        return self.hparams["n_ctx"]

    @property
    def n_vocab(self) -> int:
        return self.hparams["n_vocab"]


def load(
    model_size: str | os.PathLike,
    models_dir: str | os.PathLike | None = None,
    fast: bool = False,
    offline: bool = False,
    weights: str = "float32",
) -> Model:
    """Return a Model; arguments, errors and weights are those of load_encoder_hparams_and_params.

    fast: wrap the weights as operands that compute the same faster (engine/products.py). offline: download nothing.
    weights: "float32", or "int8" for operands of engine/int8.py, which need numba. Raise RuntimeError without it.

    >>> model = load("tiny")
    >>> model.n_vocab, model.n_ctx, model.n_head
    (2048, 512, 3)
    """
    where = search_places(models_dir, offline)
    return load_found(places.find_model(model_size, where), where, fast, weights)


def load_found(path: Path, where: Places, fast: bool = False, weights: str = "float32", n_tokens: int = 0) -> Model:
    """Return the model in a folder or a file that find_model found in these places.

    fast, weights: see load. n_tokens: see with_operands.
    """
    encoder, hparams, params, special = load_path(path, where)
    model = Model(hub.name_of(path), encoder, hparams, params, special, path)
    return with_operands(model, weights, n_tokens) if fast or weights != "float32" else model


def with_operands(model: Model, weights: str = "float32", n_tokens: int = 0) -> Model:
    """Return a model with its arrays as operands that compute fast: in float32 the same, in int8 nearly the same.

    n_tokens: the number of new tokens that are expected; for many, float32 uses loops compiled with numba if it is
    installed (engine/compiled.py).
    """
    if weights == "float32":
        return replace(model, params=compiled.with_fitting_products(model.params, n_tokens))
    from engine.int8 import with_int8_products

    return replace(model, params=with_int8_products(model.params, model.path, model.fingerprint))


def load_encoder_hparams_and_params(
    model_size: str | os.PathLike, models_dir: str | os.PathLike | None = None
) -> tuple[Encoder, dict[str, Any], dict[str, Any]]:
    """Return the encoder, the hyper-parameters and the weights of a model; download and convert it if necessary.

    model_size, models_dir: see find_model. The encoder: see encoder.py. The hyper-parameters: a dict with n_vocab,
    n_ctx, n_embd, n_head and n_layer. The weights: a tree of float32 arrays, read-only and mapped from the file,
    with D = n_embd:

        {"wte": [n_vocab, D], "wpe": [n_ctx, D], "blocks": [block] * n_layer, "ln_f": {"g": [D], "b": [D]}}
        block = {"ln_1": {"g", "b"}, "attn": {"c_attn": {"w": [D, 3*D], "b": [3*D]}, "c_proj": {"w", "b"}},
                 "ln_2": {"g", "b"}, "mlp": {"c_fc": {"w": [D, 4*D], "b": [4*D]}, "c_proj": {"w", "b"}}}

    A model of another format may add "head": [n_vocab, D], "activation" to mlp, "window" to attn and "eps" to ln_1,
    ln_2 and ln_f, and its mlp may have another width than 4*D.

    Raise ValueError if there is no such model, CheckpointError if its files are missing, damaged or inconsistent, or
    cannot be downloaded.

    >>> encoder, hparams, params = load_encoder_hparams_and_params("tiny")
    >>> encoder.encode("Once"), hparams["n_layer"], params["wte"].shape
    ([422], 6, (2048, 192))
    """
    where = search_places(models_dir)
    loaded = load_path(places.find_model(model_size, where), where)
    return loaded.encoder, loaded.hparams, loaded.params


def find_model(
    model_size: str | os.PathLike, models_dir: str | os.PathLike | None = None, offline: bool = False
) -> Path:
    """Return the folder or the file of a model, as places.find_model does.

    models_dir: see places.py, which says where models are looked for; None is the default. offline: download nothing.
    Raise ValueError if there is no such model.

    >>> find_model("tiny").name
    'tiny'
    """
    return places.find_model(model_size, search_places(models_dir, offline))


def is_official(path: Path, where: Places) -> bool:
    """Return whether a folder, which may not exist yet, is one of OpenAI's models, which can be downloaded."""
    return bool(formats.OPENAI.reader.official_files(path, where))


def load_path(path: Path, where: Places) -> Loaded:
    """Return the parts of the model in a folder or a file, in any of the formats."""
    try:
        found = formats.recognize(path)
        if not found and not is_official(path, where):
            raise formats.unknown(path)
        return (found or formats.OPENAI).load(path, where)  # OpenAI's format downloads the model
    except OSError as error:
        place = error.filename or path
        problem = f"cannot read {named(place)}, a file of the model {abbreviated(path.name)}: {reason(error)}"
        raise CheckpointError(f"{problem}; correct its permissions or copy the model again") from error
