"""What one call of each sampler costs, on a vocabulary of GPT-2's size, beside NumPy's argmax and a float64 softmax.

    python benchmarks/sampling.py

Logits are float32 [50257]: "peaked" are like a trained model's, where a few tokens have nearly all the probability;
"flat" have so little difference that thousands have some. All take turns in every round; the ratios are the result.
"""

import functools
import json
import sys
import time
import tracemalloc
from pathlib import Path
from statistics import median

import numpy as np
from fire import Fire

sys.path.insert(0, str(Path(__file__).parent.parent))

from sampling import STRATEGIES, make_sampler

N_VOCAB = 50257
# What each may cost: the yardstick, and times it, on peaked and on flat logits.
BUDGETS = {
    "greedy": ("np.argmax", 1.5, 1.5),
    "temperature": ("softmax", 2, 2),
    "top_k": ("temperature", 2, 2),
    "min_p": ("temperature", 2, 2),
    "top_p": ("temperature", 1.5, 4),
    "entmax": ("temperature", 5, 5),
    "typical": ("temperature", 5, 5),
    "mirostat": ("temperature", 5, 5),
}


def softmax(logits):
    """The yardstick: a float64 softmax as one would write it down."""
    exp_x = np.exp(logits.astype(np.float64) - logits.max())
    return exp_x / exp_x.sum()


def microseconds(function, calls):
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls * 1e6


def contenders(logits):
    rng = np.random.default_rng(0)
    calls = {"np.argmax": lambda: np.argmax(logits), "softmax": lambda: softmax(logits)}
    calls |= {strategy: functools.partial(make_sampler(strategy), logits, rng) for strategy in STRATEGIES}
    return calls


def peak_arrays(function):
    """The most memory a call needs at once, in float64 arrays of the vocabulary's size."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / (8 * N_VOCAB)


def main(rounds=15, calls=20):
    """Print a line for each sampler and kind of logits, and everything as JSON at the end."""
    np.ones(2**21)  # 16 MiB, such as a model frees: from then on malloc keeps what it gets back, and pages stay mapped
    noise = np.random.default_rng(0).normal(0, 1, N_VOCAB)
    results = []
    for kind, (name, logits) in enumerate([("peaked", 3 * noise**2), ("flat", noise)]):
        functions = contenders(logits.astype(np.float32))
        turns = [{key: microseconds(function, calls) for key, function in functions.items()} for _ in range(rounds)]
        for strategy, (yardstick, *budgets) in BUDGETS.items():
            ratio = median(turn[strategy] / turn[yardstick] for turn in turns)
            result = {
                "logits": name,
                "strategy": strategy,
                "microseconds": round(median(turn[strategy] for turn in turns)),
                "ratio": round(ratio, 2),
                "to": yardstick,
                "budget": budgets[kind],
                "within": ratio <= budgets[kind],
                "arrays": round(peak_arrays(functions[strategy]), 1),
            }
            results.append(result)
            print(
                f"{name:6} {strategy:12} {result['microseconds']:6} us, {result['ratio']:5} times {yardstick:11} "
                f"(at most {result['budget']}: {'yes' if result['within'] else 'NO'}), "
                f"{result['arrays']} arrays at once"
            )
    print(json.dumps({"n_vocab": N_VOCAB, "numpy": np.__version__, "results": results}))


if __name__ == "__main__":
    Fire(main)
