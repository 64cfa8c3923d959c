"""The tensors of a GPT-2: their names and shapes, checks against the hyper-parameters, and the tree of weights."""

import re
import reprlib

from checkpoints.files import CheckpointError

# What hparams.json must have, and the largest of each that is believed.
HPARAMS = {"n_vocab": 10_000_000, "n_ctx": 10_000_000, "n_embd": 1_000_000, "n_head": 100_000, "n_layer": 1_000}


def check_hparams(file, hparams, names=None):
    """Raise CheckpointError if no GPT-2 is like that. names: what `file` calls them, {our name: its}, if otherwise."""
    optional = {"n_inner": 10_000_000} if "n_inner" in hparams else {}  # the width of mlp, if it is not 4 * n_embd
    for name, largest in {**HPARAMS, **optional}.items():
        value, its_name = hparams.get(name), (names or {}).get(name, name)
        if type(value) is not int or not 1 <= value <= largest:  # type: True is an int to isinstance
            raise CheckpointError(
                f"{file}: {its_name} is {reprlib.repr(value)}; it must be a whole number from 1 to {largest:,}"
            )
    if hparams["n_embd"] % hparams["n_head"]:
        raise CheckpointError(f"{file}: n_embd {hparams['n_embd']} is not a multiple of n_head {hparams['n_head']}")


def tensor_shapes(hparams):
    """Return {path: shape} of every tensor of a GPT-2. This is where their names come from.

    >>> list(tensor_shapes({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_layer": 12}).items())[:4]
    [('wte', (50257, 768)), ('wpe', (1024, 768)), ('h0/ln_1/g', (768,)), ('h0/ln_1/b', (768,))]
    """
    d, d_inner = hparams["n_embd"], hparams.get("n_inner", 4 * hparams["n_embd"])

    def norm(name):
        return {f"{name}/g": (d,), f"{name}/b": (d,)}

    def linear(name, n_in, n_out):
        return {f"{name}/w": (n_in, n_out), f"{name}/b": (n_out,)}

    attn = linear("attn/c_attn", d, 3 * d) | linear("attn/c_proj", d, d)
    mlp = linear("mlp/c_fc", d, d_inner) | linear("mlp/c_proj", d_inner, d)
    block = norm("ln_1") | attn | norm("ln_2") | mlp
    blocks = {f"h{i}/{path}": shape for i in range(hparams["n_layer"]) for path, shape in block.items()}
    return {"wte": (hparams["n_vocab"], d), "wpe": (hparams["n_ctx"], d)} | blocks | norm("ln_f")


def in_checkpoint(shapes):
    """Return {name: (dtype, shape)} as it is in a checkpoint, where a kernel is that of a convolution over one token.

    >>> in_checkpoint({"wte": (50257, 768), "h0/attn/c_attn/w": (768, 2304)})
    {'model/wte': ('float32', (50257, 768)), 'model/h0/attn/c_attn/w': ('float32', (1, 768, 2304))}
    """
    kernels = {path: (1, *shape) for path, shape in shapes.items() if path.endswith("/w")}
    return {f"model/{path}": ("float32", shape) for path, shape in (shapes | kernels).items()}


def in_safetensors(shapes):
    """Return {name: (dtype, shape)} as it is in a safetensors file, where the names are those Hugging Face gives.

    >>> list(in_safetensors({"wte": (50257, 768), "h0/ln_1/g": (768,), "h0/attn/c_attn/b": (2304,)}))
    ['wte.weight', 'h.0.ln_1.weight', 'h.0.attn.c_attn.bias']
    """
    leaves = {"wte": "wte.weight", "wpe": "wpe.weight", "g": "weight", "w": "weight", "b": "bias"}

    def name(path):
        *branches, leaf = re.sub(r"^h(\d)", r"h/\1", path).split("/")
        return ".".join([*branches, leaves[leaf]])

    return {name(path): ("F32", shape) for path, shape in shapes.items()}


def check_tensors(where, expected, found, fits="hparams.json"):
    """Raise CheckpointError unless the tensors found, {name: (dtype, shape)}, are just those that `fits` expects."""

    def describe(tensor):
        return f"{tensor[0]} {list(tensor[1])}" if tensor else "nothing"

    faults = [
        f"{name}: expected {describe(expected.get(name))}, found {describe(found.get(name))}"
        for name in {**expected, **found}
        if expected.get(name) != found.get(name)
    ]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(
            f"{where} does not fit {fits} ({'; '.join(faults[:5])}{more}): copy all files of one model there"
        )


def nest(tensors, n_layer):
    """Return the tensors as a tree: one level for each part of a path, and the blocks h0, h1, ... as a list.

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
