"""Compare the decoding of one sequence with gpt2_pico.py and with the memory bandwidth of the machine.

Decoding a token multiplies a vector by every matrix of the model, so no program that reads each weight once can be
faster than these products alone. The cache, which is also read, grows with the context. All three take turns in one
run. The ratios are the result; times depend on the machine and the hour.

    python benchmarks/make_checkpoint.py --size 124M --models_dir /tmp/models
    python benchmarks/bench_decode.py --models_dir /tmp/models --model_size random-124M
"""

import json
from statistics import median

import numpy as np
import project  # noqa: F401, makes the modules below importable
from fire import Fire
from limits import Limits, matrices, seconds

import gpt2
import gpt2_pico
from sampling import greedy
from utils import load_encoder_hparams_and_params


def decode_step(params, n_head, prompt, n_tokens):
    """Return the mean seconds of a token of gpt2.py, without its prefill."""
    ids = gpt2.generate(prompt, params, n_head, n_tokens + 1)
    next(ids)
    return seconds(lambda: list(ids)) / n_tokens


def pico_step(params, n_head, prompt):
    """Return the seconds of a token of gpt2_pico.py, which computes the whole prompt again."""
    return seconds(lambda: list(gpt2_pico.generate(prompt, params, n_head, 1, greedy)))


def measure(hparams, params, n_prompt, n_tokens, rounds):
    """Return the results for a prompt of random ids."""
    n_head = hparams["n_head"]
    prompt = np.random.default_rng(0).integers(hparams["n_vocab"], size=n_prompt).tolist()
    limits = Limits(params)
    decode_step(params, n_head, prompt, 2)  # warm-up
    turns = [
        (
            limits.products(n_rows=1, repeats=1),
            decode_step(params, n_head, prompt, n_tokens),
            pico_step(params, n_head, prompt),
        )
        for _ in range(rounds)
    ]
    bare, ours, _ = (median(times) for times in zip(*turns, strict=True))
    n_bytes = sum(w.nbytes for w in matrices(params))
    n_cached = 8 * hparams["n_layer"] * hparams["n_embd"] * (n_prompt + n_tokens / 2)  # bytes of keys and values
    of_limit = median(bare / ours for bare, ours, _ in turns)
    return {
        "prompt_tokens": n_prompt,
        "tokens_per_second": round(1 / ours, 1),
        "limit_tokens_per_second": round(1 / bare, 1),
        "limit_gb_per_second": round(n_bytes / bare / 1e9, 1),
        "of_the_limit": round(of_limit, 3),
        "of_its_bandwidth": round(of_limit * (1 + n_cached / n_bytes), 3),
        "speed_over_gpt2_pico": round(median(pico / ours for _, ours, pico in turns), 1),
    }


def main(models_dir, model_size="random-124M", prompt_tokens=(100, 400), n_tokens=40, rounds=5):
    """Print a line for each length of the prompt, and all results as JSON at the end."""
    _, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    results = []
    for n_prompt in prompt_tokens if isinstance(prompt_tokens, tuple) else (prompt_tokens,):
        results.append(measure(hparams, params, n_prompt, n_tokens, rounds))
        print(", ".join(f"{name} {value}" for name, value in results[-1].items()))
    print(json.dumps({"model": model_size, "numpy": np.__version__, "rounds": rounds, "results": results}))


if __name__ == "__main__":
    Fire(main)
