"""Compare prompts computed on all cores (engine/prefill.py) with prompts computed one after another.

    python benchmarks/bench_prompts.py --model_size tiny
    python benchmarks/make_checkpoint.py --size 124M --models_dir /tmp/models
    python benchmarks/bench_prompts.py --model_size random-124M --models_dir /tmp/models

The first lines are about one prompt, which is cut into one chunk per core. The last line is about 64 prompts of 10 to
100 tokens, such as a batch run begins with. Both ways take turns. The ratios are the result; times depend on the
machine and the hour.
"""

import sys
from statistics import median

import numpy as np
import project
from fire import Fire
from limits import seconds

import gpt2
from engine import batching, prefill
from utils import load_encoder_hparams_and_params


def compare(what, plain, parallel, rounds):
    """Print how long two functions take, in turns; the first round is not counted."""
    turns = [[1000 * seconds(function) for function in (plain, parallel)] for _ in range(rounds + 1)][1:]
    one, many = (median(times) for times in zip(*turns, strict=True))
    ratio = median(a / b for a, b in turns)
    print(f"{what}: one after another {one:7.1f} ms, in parallel {many:7.1f} ms; speed-up {ratio:.2f}")


def compare_one(ids, params, n_head, n_ctx, n_cores, rounds):
    """Compare the two ways for one prompt."""
    weights = params | {"n_head": n_head, "last_only": True}

    def whole():
        gpt2.gpt2(ids, cache=project.new_cache(params, n_head, n_ctx), **weights)

    def in_chunks():
        prefill.in_pieces(gpt2.gpt2, ids, project.new_cache(params, n_head, n_ctx), n_cores, **weights)

    compare(f"{len(ids):4} tokens ", whole, in_chunks, rounds)


def compare_many(prompts, params, n_head, rounds):
    """Compare the two ways for the prompts of a batch."""

    def one_after_another():
        for group in batching.alike([batching.Prefix(prompt) for prompt in prompts], batching.PREFILL_TOKENS):
            batching.prefill(group, params, n_head)

    def in_parallel():
        batching.prefill_all([batching.Prefix(prompt) for prompt in prompts], params, n_head)

    compare(f"{len(prompts)} prompts ", one_after_another, in_parallel, rounds)


def main(model_size="124M", models_dir="models", tokens=(256, 400, 512, 700, 900), rounds=5):
    """Print a line for each number of tokens that fits into the model's context, and one for a batch."""
    _, hparams, params = load_encoder_hparams_and_params(model_size, str(models_dir))
    n_head = hparams["n_head"]
    n_ctx = hparams["n_ctx"]
    n_vocab = hparams["n_vocab"]
    n_cores = prefill.n_threads()
    if n_cores < 2:
        sys.exit("Error: this benchmark needs several cores and the package threadpoolctl: pip install threadpoolctl")
    rng = np.random.default_rng(0)
    for n in tokens if isinstance(tokens, tuple) else (tokens,):
        if n <= n_ctx:
            compare_one(rng.integers(n_vocab, size=n), params, n_head, n_ctx, n_cores, rounds)
    prompts = [rng.integers(n_vocab, size=n).tolist() for n in rng.integers(10, 101, size=64)]
    compare_many(prompts, params, n_head, rounds)


if __name__ == "__main__":
    Fire(main)
