"""What to say about a flag that does not exist: the nearest one, or what another program's flag is called here."""

import difflib
import os
import sys
from collections.abc import Mapping

from checkpoints.messages import abbreviated
from cli.flags import FLAGS, aliases_of

CLOSE = 0.75  # similarity of two names, from which one is suggested for the other
UNSUPPORTED_FLAGS = {  # flags of other programs -> what to use instead
    "max_length": "it counts the prompt too; --n_tokens_to_generate counts the new tokens",
    "do_sample": "any of --temperature, --top_k, --top_p and similar options is enough to sample",
    "t": "it could be --temperature, --top_k or --top_p; write it out",
    "s": "write out --seed or --stop",
    "device": "NumPy runs on the CPU; OMP_NUM_THREADS sets the number of its threads",
    "num_beams": "there is no beam search; --temperature 0 takes the likeliest token each time",
    "beam_size": "there is no beam search; --temperature 0 takes the likeliest token each time",
    "best_of": "there is no selection among samples; --num_samples prints several",
    "reverse_prompt": "--stop TEXT ends before a text",
    "r": "it could be --stop or --repetition_penalty; write it out",
    "ctx_size": "the context is that of the model; --context slide goes on beyond it",
    "n_ctx": "the context is that of the model; --context slide goes on beyond it",
    "c": "the context is that of the model; --context slide goes on beyond it",
    "block_size": "the context is that of the model; --context slide goes on beyond it",
    "repeat_last_n": "--repetition_penalty counts the whole prompt and text",
    "dtype": "weights and activations are float32",
    "model_path": "--model_size takes a path too",
    "interactive": "without a prompt, the command asks for one after another",
    "i": "without a prompt, the command asks for one after another",
    "interactive_first": "without a prompt, the command asks for one after another",
    "color": "texts have no colours",
    "top_a": "--min_p and --top_p also leave out unlikely tokens",
    "tfs_z": "--min_p and --top_p also leave out unlikely tokens",
}


def check_known(name: str, table: Mapping[str, object]) -> None:
    """Raise ValueError if a flag is not in the table."""
    if name in table:
        return
    if name in UNSUPPORTED_FLAGS:
        raise ValueError(f"there is no flag --{name}: {UNSUPPORTED_FLAGS[name]}")
    if name in FLAGS:
        script = abbreviated(os.path.basename(sys.argv[0]))
        raise ValueError(f"{script} has no --{name}; --help lists its options (gpt2.py has --{name})")
    near = nearest_flag(name, table)
    hint = f"did you mean --{near}? " if near else ""
    raise ValueError(f"there is no flag --{abbreviated(name)}; {hint}--help lists all options")


def nearest_flag(name: str, table: Mapping[str, object]) -> str | None:
    """Return the flag whose name, or alias, has a part that begins with `name`, or is spelled similarly.

    >>> nearest_flag("tokens", FLAGS), nearest_flag("temprature", FLAGS), nearest_flag("beam_size", FLAGS)
    ('n_tokens_to_generate', 'temperature', None)
    """
    aliases = {alias: flag for alias, flag in aliases_of(FLAGS).items() if flag in table}
    known = [*table, *aliases]
    beginning = [each for each in known if each.startswith(name)] or [each for each in known if f"_{name}" in each]
    near = beginning if len(name) > 2 and beginning else difflib.get_close_matches(name[:100], known, 1, CLOSE)
    return aliases.get(near[0], near[0]) if near else None
