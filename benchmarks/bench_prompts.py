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
import project  # noqa: F401, makes the modules below importable
from fire import Fire
from limits import seconds

import utils
from engine import prefill, slots
from gpt2 import gpt2, make_kv_cache


def compare(what, plain, parallel, rounds):
    """Print how long two functions take, in turns; the first round is not counted."""
    turns = [[1000 * seconds(function) for function in (plain, parallel)] for _ in range(rounds + 1)][1:]
    one, many = (median(times) for times in zip(*turns, strict=True))
    ratio = median(a / b for a, b in turns)
    print(f"{what}: one after another {one:7.1f} ms, in parallel {many:7.1f} ms; speed-up {ratio:.2f}")


def compare_one(ids, model, rounds):
    """Compare the two ways for one prompt."""
    arguments = model.params | {"n_head": model.n_head, "last_only": True}

    def new_cache():
        return make_kv_cache(model.params, model.n_head, len(ids))

    def whole():
        gpt2(ids, cache=new_cache(), **arguments)

    def in_chunks():
        prefill.in_chunks(gpt2, ids, new_cache(), prefill.n_threads(), **arguments)

    compare(f"{len(ids):4} tokens ", whole, in_chunks, rounds)


def compare_many(prompts, model, rounds):
    """Compare the two ways for the prompts of a batch, which are computed in groups of similar length."""
    prefixes = [slots.Prefix(prompt) for prompt in prompts]
    groups = [[prefix.ids for prefix in group] for group in slots.group_by_length(prefixes, slots.PREFILL_TOKENS)]
    sizes = [len(group) * len(group[0]) for group in groups]

    def compute(group):
        cache = make_kv_cache(model.params, model.n_head, len(group[0]), batch=(len(group),))
        slots.compute_prompts(group, model.params, model.n_head, cache)

    def one_after_another():
        for group in groups:
            compute(group)

    def in_parallel():
        prefill.in_parallel(compute, groups, sizes)

    compare(f"{len(prompts)} prompts ", one_after_another, in_parallel, rounds)


def main(model_size="124M", models_dir="models", tokens=(256, 400, 512, 700, 900), rounds=5):
    """Print a line for each number of tokens that fits into the model's context, and one for a batch."""
    model = utils.load(model_size, str(models_dir), fast=True)
    if prefill.n_threads() < 2:
        sys.exit("Error: this benchmark needs several cores and the package threadpoolctl: pip install threadpoolctl")
    rng = np.random.default_rng(0)
    for n in tokens if isinstance(tokens, tuple) else (tokens,):
        if n <= model.n_ctx:
            compare_one(rng.integers(model.n_vocab, size=n), model, rounds)
    prompts = [rng.integers(model.n_vocab, size=n).tolist() for n in rng.integers(10, 101, size=64)]
    compare_many(prompts, model, rounds)


if __name__ == "__main__":
    Fire(main)
