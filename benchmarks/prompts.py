"""What prompts cost in pieces or side by side on the cores of the machine (threads.py), beside all at once.

    python benchmarks/prompts.py --model_size tiny
    python benchmarks/make_checkpoint.py --size 124M --models_dir /tmp/models
    python benchmarks/prompts.py --model_size random-124M --models_dir /tmp/models

The first lines are of one prompt, in as many pieces as there are cores. The last is of 64 prompts of 10 to 100 tokens,
as a batch run begins with. Both ways take turns; the ratios are the result, the times are context.
"""

import sys
from pathlib import Path
from statistics import median

import numpy as np
from fire import Fire

sys.path.insert(0, str(Path(__file__).parent.parent))

import slots
import threads
from walls import seconds

import gpt2
from utils import load_encoder_hparams_and_params


def compare(what, plain, ours, rounds):
    """Print how long two functions take, in turns."""
    turns = [[1000 * seconds(function) for function in (plain, ours)] for _ in range(rounds + 1)][1:]
    whole, pieces = (median(times) for times in zip(*turns, strict=True))
    ratio = median(a / b for a, b in turns)
    print(f"{what}: at once {whole:7.1f} ms, side by side {pieces:7.1f} ms; {ratio:.2f} times as fast")


def main(model_size="124M", models_dir="models", tokens=(256, 400, 512, 700, 900), rounds=5):
    """Print a line for each number of tokens that the model's context has room for, and one for a batch."""
    _, hparams, params = load_encoder_hparams_and_params(model_size, str(models_dir))
    n_head, n_ctx, n_vocab = hparams["n_head"], hparams["n_ctx"], hparams["n_vocab"]
    if (n_cores := threads.n_threads()) < 2:
        sys.exit("Error: this needs several cores, and pip install threadpoolctl")
    rng, weights = np.random.default_rng(0), params | {"n_head": n_head, "last_only": True}
    for n in tokens if isinstance(tokens, tuple) else (tokens,):
        if n > n_ctx:
            continue
        ids = rng.integers(n_vocab, size=n)

        def whole(ids=ids):
            gpt2.gpt2(ids, cache=gpt2.kv_cache(params, n_head, n_ctx), **weights)

        def pieces(ids=ids):
            threads.in_pieces(gpt2.gpt2, ids, gpt2.kv_cache(params, n_head, n_ctx), n_cores, **weights)

        compare(f"{n:4} tokens ", whole, pieces, rounds)

    prompts = [rng.integers(n_vocab, size=n).tolist() for n in rng.integers(10, 101, size=64)]

    def in_turns():
        for group in slots.alike([slots.Prefix(prompt) for prompt in prompts], slots.PREFILL_TOKENS):
            slots.prefill(group, params, n_head)

    def together():
        slots.prefill_all([slots.Prefix(prompt) for prompt in prompts], params, n_head)

    compare("64 prompts ", in_turns, together, rounds)


if __name__ == "__main__":
    Fire(main)
