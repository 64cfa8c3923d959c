"""Tokens around a text: where it starts, what precedes a prompt, and which ids end it.

Hugging Face's folders define them in generation_config.json, config.json, tokenizer_config.json and tokenizer.json. For
models of other formats, <|endoftext|> has all of these roles.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import files
from checkpoints.vocabulary import content_of, read_settings
from encoder import Encoder


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens around a text."""

    start: int  # from which an empty text is continued, and after which a text is scored
    stop_ids: tuple[int, ...] = ()  # each ends a text
    prefix: tuple[int, ...] = ()  # precede every prompt
    unused_ids: tuple[int, ...] = ()  # ids without a token, which are never drawn


class Loaded(NamedTuple):
    """What every format is read to."""

    encoder: Encoder
    hparams: dict[str, Any]  # n_vocab, n_ctx, n_embd, n_head, n_layer
    params: dict[str, Any]  # the weights tree; see utils.load_encoder_hparams_and_params
    special: SpecialTokens


def default_tokens(encoder: Encoder, n_vocab: int) -> SpecialTokens:
    """Return the tokens around a text of a model whose files do not define them."""
    stop_ids = () if encoder.end_of_text is None else (encoder.end_of_text,)
    return SpecialTokens(encoder.start, stop_ids, unused_ids=unused_ids(encoder, n_vocab))


def unused_ids(encoder: Encoder, n_vocab: int) -> tuple[int, ...]:
    """Return the ids below n_vocab that no token has."""
    return tuple(sorted(set(range(n_vocab)).difference(encoder.decoder)))


def read_special_tokens(folder: Path, encoder: Encoder, n_vocab: int) -> SpecialTokens:
    """Return the tokens around a text as the files of a Hugging Face folder define them."""
    path = folder / "generation_config.json"
    generation = files.read_json_object(path) if files.is_file(path) else {}
    config = generation_ids(files.read_json_object(folder / "config.json")) | generation_ids(generation)
    stop_ids = default_tokens(encoder, n_vocab).stop_ids
    if "eos_token_id" in config:
        stop_ids = known_ids(config["eos_token_id"], n_vocab)
    starts = known_ids(config.get("bos_token_id"), n_vocab) or (encoder.start,)
    prefix = known_ids(read_prefix(folder, encoder), n_vocab)
    return SpecialTokens(starts[0], stop_ids, prefix, unused_ids(encoder, n_vocab))


def generation_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("bos_token_id", "eos_token_id") if name in config}


def known_ids(value: Any, n_vocab: int) -> tuple[int, ...]:
    """Return the ids of this vocabulary in an id, a list of ids, or None."""
    several = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(i for i in several if type(i) is int and 0 <= i < n_vocab))


# ---- before a prompt -------------------------------------------------------------------------------------------


def read_prefix(folder: Path, encoder: Encoder) -> list[int]:
    """Return the ids that tokenizer.json, or add_bos_token in tokenizer_config.json, puts before a prompt."""
    settings = read_settings(folder)
    contents = []
    if settings.get("add_bos_token") is True:
        contents = [content_of(settings.get("bos_token"))]
    elif settings.get("add_bos_token") is None and files.is_file(folder / "tokenizer.json"):
        contents = template_prefix(files.read_json_object(folder / "tokenizer.json", 2**25).get("post_processor"))
    return [encoder.encoder[content] for content in contents if content in encoder.encoder]


def template_prefix(processor: Any) -> list[str]:
    """Return the tokens before a text in the template of a post-processor.

    A template that also puts tokens after the text, as BERT's [CLS] text [SEP], marks a whole text. A prompt is the
    beginning of one, so that nothing precedes it.
    """
    processor = processor if isinstance(processor, dict) else {}
    if processor.get("type") == "Sequence":
        inner = processor.get("processors")
        prefixes = [template_prefix(part) for part in inner] if isinstance(inner, list) else []
        return next(filter(None, prefixes), [])
    parts = processor.get("single") if processor.get("type") == "TemplateProcessing" else None
    names = [special_name(part) for part in parts] if isinstance(parts, list) else []
    is_open = bool(names) and names[-1] is None  # the text is last
    return [name for name in names if name] if is_open else []


def special_name(part: Any) -> str | None:
    """Return the token of a part of a template, None if the part is the text."""
    special = part.get("SpecialToken") if isinstance(part, dict) else None
    return special.get("id") if isinstance(special, dict) and isinstance(special.get("id"), str) else None
