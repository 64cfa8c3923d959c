"""A model with a vocabulary of nine words and fixed logits, for calculations by hand (explore.py --toy)."""

import math
from collections.abc import Collection, Iterable, Iterator
from typing import ClassVar

import numpy as np

from checkpoints.tokenizer import SpecialTokens
from cli.checks import shown
from utils import Model

# The words that may follow "every effort moves you", and their logits. Source: Sebastian Raschka, "Build a Large
# Language Model (From Scratch)", chapter 5.
TOY = {
    "closer": 4.51,
    "every": 0.89,
    "effort": -1.90,
    "forward": 6.75,
    "inches": 1.63,
    "moves": -1.62,
    "pizza": -1.89,
    "toward": 6.28,
    "you": 1.79,
}
TOY_PROMPT = "every effort moves you"
N_CTX = 1024


class ToyEncoder:
    """The parts of an Encoder that the views use. Each word is a token.

    >>> ToyEncoder().encode("Every effort moves you"), ToyEncoder().decode([3, 7])
    ([1, 2, 5, 8], 'forward toward')
    """

    longest = math.inf  # a word of any length is checked, so that the message names it
    special: ClassVar = {}

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        words = text.lower().split()
        for word in words:
            if word not in TOY:
                raise ValueError(f"{shown(word)} is not in the vocabulary of the toy model: {', '.join(TOY)}")
        return [list(TOY).index(word) for word in words]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self.decode(ids).encode()

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(list(TOY)[i] for i in ids)

    def stream(self, ids: Iterable[int], before: Collection[int] = ()) -> Iterator[str]:
        return (list(TOY)[i] + " " for i in ids)


def toy_model() -> Model:
    """Return a GPT-2 that gives the logits of TOY for every input.

    Its residual stream has one number. Its block adds 0, and its last norm returns 1 (g is 0, b is 1), so that the
    logits are the embedding.
    """
    one = np.ones(1, np.float32)
    zero = np.zeros(1, np.float32)
    block = {
        "ln_1": {"g": one, "b": zero},
        "attn": {"c_attn": zero_weights(1, 3), "c_proj": zero_weights(1, 1)},
        "ln_2": {"g": one, "b": zero},
        "mlp": {"c_fc": zero_weights(1, 4), "c_proj": zero_weights(4, 1)},
    }
    params = {
        "wte": np.array([list(TOY.values())], np.float32).T,  # [n_vocab, 1]
        "wpe": np.zeros((N_CTX, 1), np.float32),
        "blocks": [block],
        "ln_f": {"g": zero, "b": one},
    }
    hparams = {"n_vocab": len(TOY), "n_ctx": N_CTX, "n_head": 1}
    return Model("toy", ToyEncoder(), hparams, params, SpecialTokens(start=list(TOY).index("you")))


def zero_weights(n_in, n_out):
    return {"w": np.zeros((n_in, n_out), np.float32), "b": np.zeros(n_out, np.float32)}
