"""Inside the model: what each layer attends to, and what each layer would predict.

The functions call those of gpt2.py block by block, so that gpt2.py needs no hooks.
"""

from collections.abc import Iterator

import numpy as np

import gpt2
import sampling
from utils import Model


def attention_weights(x: np.ndarray, block: dict, n_head: int, mask: np.ndarray) -> np.ndarray:
    """Return the attention weights of a block, [n_head, n_seq, n_seq]; row i holds those of position i.

    x: the residual stream before the block, [n_seq, n_embd]. mask: [1, n_seq, n_seq].
    """
    n_seq = len(x)
    normed = gpt2.layer_norm(x, **block["ln_1"])
    qkv = gpt2.split_heads(gpt2.linear(normed, **block["attn"]["c_attn"]), 3 * n_head)  # [3 * n_head, n_seq, d_head]
    q = qkv[:n_head]
    k = qkv[n_head : 2 * n_head]
    identity = np.eye(n_seq, dtype=np.float32)  # as values: the average of unit vectors is the vector of the weights
    return gpt2.attention(q, k, identity, mask)


def layers(ids: list[int], model: Model) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield (residual stream [n_seq, n_embd], attention weights [n_head, n_seq, n_seq]) of each layer.

    The first is the embedding, which attends to nothing: its weights are None. Then one per block, after it.
    """
    params = model.params
    positions = np.arange(len(ids))
    x = params["wte"][np.asarray(ids)] + params["wpe"][positions]  # [n_seq, n_embd]
    yield x.copy(), None
    for block in params["blocks"]:
        mask = gpt2.causal_mask(positions, len(ids), block["attn"].get("window"))  # [1, n_seq, n_seq]
        weights = attention_weights(x, block, model.n_head, mask)
        masks = {block["attn"].get("window"): mask}
        x = gpt2.transformer_block(x, **block, n_head=model.n_head, masks=masks)
        yield x.copy(), weights


def attention(ids: list[int], model: Model) -> np.ndarray:
    """Return the attention weights of all layers, float32 [n_layer, n_head, n_seq, n_seq]."""
    return np.stack([weights for _, weights in layers(ids, model) if weights is not None])


def lens(x: np.ndarray, model: Model) -> np.ndarray:
    """Return what the model would predict if the residual stream x were its last.

    x: [n_seq, n_embd]. Returns probabilities, float64 [n_seq, n_vocab].

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    params = model.params
    logits = gpt2.predict(x, params["wte"], params["ln_f"], params.get("head"))  # [n_seq, n_embd] -> [n_seq, n_vocab]
    return np.stack([sampling.softmax_with_temperature(row) for row in logits])
