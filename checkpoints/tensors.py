"""The tensors of a GPT-2: names, shapes, checks against the hyper-parameters, and the weights tree.

Inside this package a tensor's name is its path in an OpenAI checkpoint, such as h0/attn/c_attn/w. Files use two other
forms of it: in_checkpoint and in_safetensors translate.
"""

import re
from os import PathLike
from typing import Any

from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named, shown

Shapes = dict[str, tuple[int, ...]]  # {path: shape}
TypedShapes = dict[str, tuple[str, tuple[int, ...]]]  # {name in a file: (dtype, shape)}

# Required hyper-parameters and the largest value accepted; a larger one is taken for damage.
LIMITS = {"n_vocab": 10_000_000, "n_ctx": 10_000_000, "n_embd": 1_000_000, "n_head": 100_000, "n_layer": 1_000}
LIMIT_N_INNER = 10_000_000  # the width of the MLP, if the hyper-parameters name it; otherwise it is 4 * n_embd
MAX_FAULTS = 5  # listed in a message


# ---- hyper-parameters ------------------------------------------------------------------------------------------


def check_hparams(file: PathLike, hparams: dict[str, Any], names: dict[str, str] | None = None) -> None:
    """Raise CheckpointError if the hyper-parameters are invalid.

    file: where they come from, for the message. names: {our name: the name in that file} where the two differ.
    """
    limits = LIMITS | ({"n_inner": LIMIT_N_INNER} if "n_inner" in hparams else {})
    for name, largest in limits.items():
        value = hparams.get(name)
        if type(value) is not int or not 1 <= value <= largest:  # isinstance would accept True
            its_name = (names or {}).get(name, name)
            raise CheckpointError(
                f"{named(file)}: {its_name} is {shown(value)}; it must be a whole number from 1 to {largest:,}"
            )
    if hparams["n_embd"] % hparams["n_head"]:
        raise CheckpointError(
            f"{named(file)}: n_embd {hparams['n_embd']} is not a multiple of n_head {hparams['n_head']}"
        )


# ---- names and shapes ------------------------------------------------------------------------------------------


def tensor_shapes(hparams: dict[str, Any]) -> Shapes:
    """Return {path: shape} of all tensors of a GPT-2 with these hyper-parameters.

    >>> list(tensor_shapes({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_layer": 12}).items())[:4]
    [('wte', (50257, 768)), ('wpe', (1024, 768)), ('h0/ln_1/g', (768,)), ('h0/ln_1/b', (768,))]
    """
    d = hparams["n_embd"]
    d_inner = hparams.get("n_inner", 4 * d)

    def norm(name):
        return {f"{name}/g": (d,), f"{name}/b": (d,)}

    def linear(name, n_in, n_out):
        return {f"{name}/w": (n_in, n_out), f"{name}/b": (n_out,)}

    attn = linear("attn/c_attn", d, 3 * d) | linear("attn/c_proj", d, d)
    mlp = linear("mlp/c_fc", d, d_inner) | linear("mlp/c_proj", d_inner, d)
    block = norm("ln_1") | attn | norm("ln_2") | mlp
    blocks = {f"h{i}/{path}": shape for i in range(hparams["n_layer"]) for path, shape in block.items()}
    return {"wte": (hparams["n_vocab"], d), "wpe": (hparams["n_ctx"], d)} | blocks | norm("ln_f")


def in_checkpoint(shapes: Shapes, scope: str = "model/") -> TypedShapes:
    """Return {name: (dtype, shape)} in an OpenAI checkpoint, where a matrix is the kernel of a convolution of width 1.

    scope: what precedes the paths in the names.

    >>> in_checkpoint({"wte": (50257, 768), "h0/attn/c_attn/w": (768, 2304)})
    {'model/wte': ('float32', (50257, 768)), 'model/h0/attn/c_attn/w': ('float32', (1, 768, 2304))}
    """
    kernels = {path: (1, *shape) for path, shape in shapes.items() if path.endswith("/w")}
    return {f"{scope}{path}": ("float32", shape) for path, shape in (shapes | kernels).items()}


def in_safetensors(shapes: Shapes) -> TypedShapes:
    """Return {name: (dtype, shape)} in a safetensors file, with Hugging Face's names.

    >>> list(in_safetensors({"wte": (50257, 768), "h0/ln_1/g": (768,), "h0/attn/c_attn/b": (2304,)}))
    ['wte.weight', 'h.0.ln_1.weight', 'h.0.attn.c_attn.bias']
    """
    leaves = {"wte": "wte.weight", "wpe": "wpe.weight", "head": "lm_head.weight"}
    leaves |= {"g": "weight", "w": "weight", "b": "bias"}

    def name(path):
        *branches, leaf = re.sub(r"^h(\d)", r"h/\1", path).split("/")
        return ".".join([*branches, leaves[leaf]])

    return {name(path): ("F32", shape) for path, shape in shapes.items()}


def check_tensors(where: PathLike, expected: TypedShapes, found: TypedShapes, fits: str = "hparams.json") -> None:
    """Raise CheckpointError unless the tensors found are exactly the expected ones, in any order.

    where: the file or folder that holds them. fits: the file that gives the expected shapes. Both are for the message.
    """

    def describe(tensor):
        return abbreviated(f"{tensor[0]} {list(tensor[1])}", 40) if tensor else "nothing"

    faults = [
        f"{abbreviated(name, 60)}: expected {describe(expected.get(name))}, found {describe(found.get(name))}"
        for name in {**expected, **found}
        if expected.get(name) != found.get(name)
    ]
    if faults:
        more = f"; and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise CheckpointError(
            f"{named(where)} does not fit {fits} ({'; '.join(faults[:MAX_FAULTS])}{more}): copy all files of one model "
            "there"
        )


# ---- the weights tree ------------------------------------------------------------------------------------------


def nest(tensors: dict[str, Any], n_layer: int) -> dict[str, Any]:
    """Return {path: tensor} as a tree with a level for each part of the path, and h0, h1, ... as the list `blocks`.

    >>> nest({"wte": 1, "h0/ln_1/g": 2, "h0/ln_1/b": 3, "ln_f/g": 4}, n_layer=1)
    {'wte': 1, 'ln_f': {'g': 4}, 'blocks': [{'ln_1': {'g': 2, 'b': 3}}]}
    """
    tree = {}
    for path, tensor in tensors.items():
        *branches, leaf = path.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = tensor
    tree["blocks"] = [tree.pop(f"h{i}") for i in range(n_layer)]
    return tree
