"""The settings that a Hugging Face model's authors suggest for generation, in generation_config.json.

transformers applies them by default. Here they are a suggestion: greedy decoding stays the default.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import files

# The names there -> our options, and the value without effect.
SAMPLING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}  # used if do_sample is true
PENALTIES = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
DEFAULT_TOP_K = 50  # of transformers, if do_sample is true

# Settings without an equivalent, and their values without effect.
UNSUPPORTED = {"num_beams": 1, "num_beam_groups": 1, "penalty_alpha": None, "diversity_penalty": 0.0}
UNSUPPORTED |= {"forced_bos_token_id": None, "forced_eos_token_id": None, "forced_decoder_ids": None}
UNSUPPORTED |= {"begin_suppress_tokens": None, "bad_words_ids": None, "sequence_bias": None, "epsilon_cutoff": 0.0}
UNSUPPORTED |= {"eta_cutoff": 0.0, "guidance_scale": None, "exponential_decay_length_penalty": None}


class Suggestions(NamedTuple):
    """What a model's files suggest."""

    options: dict[str, Any]  # {name of an option: value}, not yet checked
    unsupported: tuple[str, ...] = ()  # names of settings without an equivalent


def read_suggestions(path: Path) -> Suggestions:
    """Return the suggestions in the folder of a model, empty ones for other models.

    Raise CheckpointError if the file is damaged.
    """
    file = path / "generation_config.json"
    if not files.is_file(file):
        return Suggestions({})
    config = files.read_json_object(file)
    options = differing(config, PENALTIES)
    if config.get("do_sample") is True:
        options = differing({"top_k": DEFAULT_TOP_K} | config, SAMPLING) | options
        options.setdefault("temperature", 1.0)  # drawing is what do_sample asks for
    if config.get("suppress_tokens"):
        options["banned_ids"] = config["suppress_tokens"]
    return Suggestions(options, tuple(differing(config, UNSUPPORTED)))


def differing(config: Mapping[str, Any], neutral: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are given and have an effect."""
    found = {name: config.get(name) for name in neutral}
    return {name: value for name, value in found.items() if value is not None and value != neutral[name]}
