"""GPT-Neo in Hugging Face's format, as a GPT-2: EleutherAI's models and the TinyStories models.

Three things differ, of which only the first reaches the forward pass:

    attention  layers that are "local" attend to the last window_size positions only
    scores     not divided by sqrt(d_head): the query weights are multiplied by it
    weights    q, k and v are three matrices without biases, and all matrices are [out, in]

Source: transformers' GPTNeoForCausalLM, whose names the files have.
"""

import re
from pathlib import Path
from typing import Any

from checkpoints.files import CheckpointError
from checkpoints.messages import named, shown
from checkpoints.state_dict import Differences, Tensors, joined, read_activation, read_eps, transposed, zeros
from checkpoints.tensors import check_hparams

NAMES = {"n_vocab": "vocab_size", "n_ctx": "max_position_embeddings", "n_embd": "hidden_size"}
NAMES |= {"n_head": "num_heads", "n_layer": "num_layers"}
MATRIX = re.compile(r"h\.\d+\.(attn\.attention\.out_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
PROJECTION = re.compile(r"h\.\d+\.attn\.attention\.[qkv]_proj\.weight")


def read_config(config: dict[str, Any], path: Path) -> tuple[dict[str, Any], Differences]:
    """Return the hyper-parameters and the differences from GPT-2. Raise CheckpointError if one is invalid.

    config: the content of config.json. path: its place, for messages.
    """
    hparams = {ours: config.get(theirs) for ours, theirs in NAMES.items()}
    if config.get("intermediate_size") is not None:
        hparams["n_inner"] = config["intermediate_size"]
    check_hparams(path, hparams, NAMES | {"n_inner": "intermediate_size"})
    d_head = hparams["n_embd"] // hparams["n_head"]
    differences = Differences(
        activation=read_activation(config, path, "activation_function", "gelu_new"),
        eps=read_eps(config, path),
        is_tied=config.get("tie_word_embeddings", True) is not False,
        query_scales=(d_head**0.5,) * hparams["n_layer"],  # gpt2.attention divides by it
        windows=read_windows(config, hparams["n_layer"], path),
    )
    return hparams, differences


def read_windows(config: dict[str, Any], n_layer: int, path: Path) -> tuple[int | None, ...]:
    """Return the attention window of each layer, None where a layer attends to all positions."""
    window = config.get("window_size", 256)
    if type(window) is not int or window < 1:
        problem = f"{named(path)}: window_size is {shown(window)}"
        raise CheckpointError(f"{problem}; it must be a whole number, 1 or more")
    kinds = config.get("attention_layers")
    if kinds is None:
        kinds = expanded(config.get("attention_types"), n_layer)
    is_valid = isinstance(kinds, list) and len(kinds) == n_layer and set(map(str, kinds)) <= {"global", "local"}
    if not is_valid:
        raise CheckpointError(
            f"{named(path)}: attention_layers, or attention_types expanded, is {shown(kinds)}; it must name "
            f"global or local for each of the {n_layer} layers"
        )
    return tuple(window if kind == "local" else None for kind in kinds)


def expanded(types: Any, n_layer: int) -> Any:
    """Return attention_types as a list with an entry for each layer; a value of another form is returned unchanged.

    >>> expanded([[["global", "local"], 2]], n_layer=4)
    ['global', 'local', 'global', 'local']
    """
    try:
        return [kind for kinds, n in types for _ in range(min(n, n_layer)) for kind in kinds]
    except (TypeError, ValueError):
        return types


def as_gpt2(tensors: Tensors, hparams: dict[str, Any]) -> Tensors:
    """Return the tensors under the names and in the shapes of a GPT-2 in Hugging Face's format."""
    n_embd = hparams["n_embd"]
    renamed = {}
    for name, tensor in tensors.items():
        if PROJECTION.fullmatch(name):
            continue
        ours = name.replace("attn.attention.out_proj", "attn.c_proj")
        renamed[ours] = transposed(tensor) if MATRIX.fullmatch(name) else tensor
    for i in range(hparams["n_layer"]):
        names = [f"h.{i}.attn.attention.{letter}_proj.weight" for letter in "qkv"]
        parts = [tensors[name] for name in names if name in tensors]
        if [part.shape for part in parts] == [(n_embd, n_embd)] * 3:
            renamed[f"h.{i}.attn.c_attn.weight"] = joined([transposed(part) for part in parts])
            renamed[f"h.{i}.attn.c_attn.bias"] = zeros((3 * n_embd,))
        else:  # a missing or misshapen matrix is reported under its own name
            renamed |= {name: tensors[name] for name in names if name in tensors}
    return renamed
