"""A tiny GPT-2 with random weights, equal on every machine, for tests of the arithmetic."""

import numpy as np

HPARAMS = {"n_vocab": 101, "n_ctx": 32, "n_embd": 24, "n_head": 3, "n_layer": 3}


def random_params(n_vocab, n_ctx, n_embd, n_head, n_layer, seed=0):
    """Return a weights tree for gpt2.py. The scales are large, so that every part of the model affects the logits."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale, mean=0.0):
        return (mean + scale * rng.standard_normal(shape)).astype(np.float32)

    def linear(n_in, n_out):
        return {"w": normal(n_in, n_out, scale=2 * n_in**-0.5), "b": normal(n_out, scale=0.2)}

    def norm():
        return {"g": normal(n_embd, scale=0.3, mean=1.0), "b": normal(n_embd, scale=0.2)}

    def block():
        return {
            "ln_1": norm(),
            "attn": {"c_attn": linear(n_embd, 3 * n_embd), "c_proj": linear(n_embd, n_embd)},
            "ln_2": norm(),
            "mlp": {"c_fc": linear(n_embd, 4 * n_embd), "c_proj": linear(4 * n_embd, n_embd)},
        }

    return {
        "wte": normal(n_vocab, n_embd, scale=0.3),
        "wpe": normal(n_ctx, n_embd, scale=1.0),
        "blocks": [block() for _ in range(n_layer)],
        "ln_f": norm(),
    }


def with_differences(params, windows=(None, 5, 2)):
    """Return weights with everything that a model may have and GPT-2 has not; the last two layers see few positions."""
    n_vocab, n_embd = params["wte"].shape
    head = (0.3 * np.random.default_rng(1).standard_normal((n_vocab, n_embd))).astype(np.float32)
    blocks = []
    for block, window in zip(params["blocks"], windows, strict=True):
        attn = block["attn"] | ({"window": window} if window else {})
        norms = {name: block[name] | {"eps": 1e-3} for name in ("ln_1", "ln_2")}
        blocks.append(block | norms | {"attn": attn, "mlp": block["mlp"] | {"activation": "silu"}})
    return params | {"blocks": blocks, "head": head, "ln_f": params["ln_f"] | {"eps": 1e-3}}
