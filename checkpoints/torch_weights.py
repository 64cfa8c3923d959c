"""State dicts in files of torch.save: where they are in the saved value, and their tensors."""

from collections.abc import Iterator
from typing import Any

from checkpoints.messages import abbreviated, named
from checkpoints.pickles import Opaque, Tensor
from checkpoints.state_dict import IGNORED, StoredTensor, bare_name
from checkpoints.torchfile import TorchFile

WRAPPERS = ("model_state_dict", "state_dict", "model")  # keys under which training programs save a state dict


def state_dict(content: Any) -> dict:
    """Return the state dict in a saved value, {} if there is none."""
    found = as_dict(content)
    for name in WRAPPERS:
        if isinstance(found.get(name), dict):
            return found[name]
    return found


def as_dict(value: Any) -> dict:
    """Return the value if it is a dict, else an empty dict."""
    return value if isinstance(value, dict) else {}


def named_tensors(file: TorchFile, weights: dict) -> Iterator[tuple[str, StoredTensor]]:
    """Yield a name and a StoredTensor for each tensor of a state dict. It can be read while the file is open.

    Raise ValueError if a tensor of the model is of a type that is not read.
    """
    for name, tensor in weights.items():
        if isinstance(tensor, Opaque) and not IGNORED.fullmatch(bare_name(name)):
            problem = f"{named(file.path)}: {abbreviated(name)} is of the type {abbreviated(tensor.name)}"
            raise ValueError(f"{problem}; it must be a tensor of torch's number types: save the weights as float32")
        if isinstance(tensor, Tensor):
            yield name, StoredTensor(tensor.dtype, tensor.shape, lambda tensor=tensor: file.read(tensor))
