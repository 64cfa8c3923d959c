"""How fast one sequence is decoded, against the textbook form and against the machine's own memory bandwidth.

Decoding a token multiplies one vector with every matrix of the model, so no program that reads each weight once can be
faster than that alone; with the context grows the cache, which is read, too. The three take turns in one run; their
ratios are the result, the times are context.

    python benchmarks/make_checkpoint.py --size 124M --models_dir /tmp/models --name random-124M
    python benchmarks/decode.py --models_dir /tmp/models --model_size random-124M
"""

import json
import sys
from pathlib import Path
from statistics import median

import numpy as np
from fire import Fire

sys.path.insert(0, str(Path(__file__).parent.parent))

from walls import seconds

import gpt2
import gpt2_pico
from utils import load_encoder_hparams_and_params


def decode_step(params, n_head, prompt, n_tokens):
    """Mean seconds a token of gpt2.py, its prefill left out."""
    ids = gpt2.generate(prompt, params, n_head, n_tokens + 1)
    next(ids)
    return seconds(lambda: list(ids)) / n_tokens


def textbook_step(params, n_head, prompt):
    """Seconds a token of gpt2_pico.py, which computes the whole prompt again."""
    return seconds(lambda: list(gpt2_pico.generate(prompt, params, n_head, 1, gpt2.greedy)))


def matrices(params):
    """Every matrix a token is multiplied with, as it lies in memory."""
    for block in params["blocks"]:
        yield from (block["attn"]["c_attn"]["w"], block["attn"]["c_proj"]["w"])
        yield from (block["mlp"]["c_fc"]["w"], block["mlp"]["c_proj"]["w"])
    yield params["wte"].T


def bare_products(params):
    """Seconds to multiply one vector with each matrix: the wall."""
    pairs = [(np.ones((1, len(w)), dtype=np.float32), w) for w in matrices(params)]
    return seconds(lambda: [x @ w for x, w in pairs])


def main(models_dir, model_size="random-124M", prompt_tokens=(100, 400), n_tokens=40, rounds=5):
    """Print a line per prompt length, and everything as JSON at the end."""
    _, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    n_head, n_bytes = hparams["n_head"], sum(w.nbytes for w in matrices(params))
    results = []
    for n_prompt in prompt_tokens if isinstance(prompt_tokens, tuple) else [int(prompt_tokens)]:
        prompt = np.random.default_rng(0).integers(hparams["n_vocab"], size=n_prompt).tolist()
        bare_products(params), decode_step(params, n_head, prompt, 2)  # warm up
        turns = [
            (
                bare_products(params),
                decode_step(params, n_head, prompt, n_tokens),
                textbook_step(params, n_head, prompt),
            )
            for _ in range(rounds)
        ]
        wall, ours, _ = (median(times) for times in zip(*turns, strict=True))
        n_cached = 8 * hparams["n_layer"] * hparams["n_embd"] * (n_prompt + n_tokens / 2)  # bytes of keys and values
        results.append(
            {
                "prompt_tokens": n_prompt,
                "tokens_per_second": round(1 / ours, 1),
                "wall_tokens_per_second": round(1 / wall, 1),
                "wall_gb_per_second": round(n_bytes / wall / 1e9, 1),
                "of_the_wall": round(median(wall / ours for wall, ours, _ in turns), 3),
                "of_its_bandwidth": round(median(wall / ours for wall, ours, _ in turns) * (1 + n_cached / n_bytes), 3),
                "times_gpt2_pico": round(median(textbook / ours for _, ours, textbook in turns), 1),
            }
        )
        print(", ".join(f"{name} {value}" for name, value in results[-1].items()))
    print(json.dumps({"model": model_size, "numpy": np.__version__, "rounds": rounds, "results": results}))


if __name__ == "__main__":
    Fire(main)
