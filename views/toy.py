"""A model of nine words with fixed logits, small enough for a blackboard (explore.py --toy)."""

import numpy as np

from utils import Model

# What may come after "every effort moves you", and the logits of each: Sebastian Raschka, "Build a Large Language
# Model (From Scratch)", chapter 5.
TOY = {"closer": 4.51, "every": 0.89, "effort": -1.90, "forward": 6.75, "inches": 1.63}
TOY |= {"moves": -1.62, "pizza": -1.89, "toward": 6.28, "you": 1.79}
TOY_PROMPT = "every effort moves you"


class ToyEncoder:
    """Words for tokens, with as much of an Encoder as the views ask for.

    >>> ToyEncoder().encode("Every effort moves you"), ToyEncoder().decode([3, 7])
    ([1, 2, 5, 8], 'forward toward')
    """

    end_of_text, start = None, list(TOY).index("you")

    def encode(self, text):
        words = text.lower().split()
        for word in words:
            if word not in TOY:
                raise ValueError(f"the toy knows nine words, and {word!r} is none of them: {', '.join(TOY)}")
        return [list(TOY).index(word) for word in words]

    def decode_bytes(self, ids):
        return self.decode(ids).encode()

    def decode(self, ids):
        return " ".join(list(TOY)[i] for i in ids)

    def stream(self, ids):
        return (list(TOY)[i] + " " for i in ids)


def toy_model():
    """A GPT-2 that gives TOY's logits whatever it reads: one wide, a block that adds nothing, a norm that says 1."""

    def zeros(n_in, n_out):
        return {"w": np.zeros((n_in, n_out), np.float32), "b": np.zeros(n_out, np.float32)}

    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    block = {"ln_1": {"g": one, "b": zero}, "ln_2": {"g": one, "b": zero}}
    block |= {
        "attn": {"c_attn": zeros(1, 3), "c_proj": zeros(1, 1)},
        "mlp": {"c_fc": zeros(1, 4), "c_proj": zeros(4, 1)},
    }
    wte = np.array([list(TOY.values())], np.float32).T  # [9, 1]: the output is the last norm, 1, times this
    params = {"wte": wte, "wpe": np.zeros((1024, 1), np.float32), "blocks": [block], "ln_f": {"g": zero, "b": one}}
    return Model("toy", ToyEncoder(), {"n_vocab": 9, "n_ctx": 1024, "n_head": 1}, params)
