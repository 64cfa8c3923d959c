"""Measure one call of each sampler on a vocabulary of GPT-2's size, relative to NumPy's argmax or a float64 softmax.

    python benchmarks/bench_sampling.py

Logits are float32 [50257]. "peaked": as in a trained model, a few tokens have nearly all the probability. "flat": the
logits differ so little that thousands of tokens have some. All samplers take turns in every round; the ratios are the
result.
"""

import functools
import json
import sys
import tracemalloc
from pathlib import Path
from statistics import median

import numpy as np
from fire import Fire
from limits import seconds

sys.path.insert(0, str(Path(__file__).parent.parent))

from sampling import STRATEGIES, make_sampler

N_VOCAB = 50257
BUDGETS = {  # what a call is compared with, and the largest ratio on peaked and on flat logits
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
    """Return a float64 softmax in its simplest form."""
    exp_x = np.exp(logits.astype(np.float64) - logits.max())
    return exp_x / exp_x.sum()


def microseconds(function, calls):
    return seconds(lambda: [function() for _ in range(calls)]) / calls * 1e6


def contenders(logits):
    """Return {name: function} for the samplers and for the functions that they are compared with."""
    rng = np.random.default_rng(0)
    calls = {"np.argmax": lambda: np.argmax(logits), "softmax": lambda: softmax(logits)}
    return calls | {strategy: functools.partial(make_sampler(strategy), logits, rng) for strategy in STRATEGIES}


def peak_arrays(function):
    """Return the most memory that a call uses, in float64 arrays of the vocabulary's size."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / (8 * N_VOCAB)


def measure(kind, logits, budget_index, rounds, calls):
    """Yield the result of each sampler on one kind of logits."""
    functions = contenders(logits)
    turns = [{name: microseconds(function, calls) for name, function in functions.items()} for _ in range(rounds)]
    for strategy, (other, *budgets) in BUDGETS.items():
        ratio = median(turn[strategy] / turn[other] for turn in turns)
        budget = budgets[budget_index]
        yield {
            "logits": kind,
            "strategy": strategy,
            "microseconds": round(median(turn[strategy] for turn in turns)),
            "ratio": round(ratio, 2),
            "to": other,
            "budget": budget,
            "within": ratio <= budget,
            "arrays": round(peak_arrays(functions[strategy]), 1),
        }


def main(rounds=15, calls=20):
    """Print a line for each sampler and kind of logits, and all results as JSON at the end."""
    np.ones(2**21)  # 16 MiB, as much as a model frees: from now on malloc keeps freed memory, and pages stay mapped
    noise = np.random.default_rng(0).normal(0, 1, N_VOCAB)
    results = []
    for budget_index, (kind, logits) in enumerate([("peaked", 3 * noise**2), ("flat", noise)]):
        for result in measure(kind, logits.astype(np.float32), budget_index, rounds, calls):
            results.append(result)
            print(
                f"{kind:6} {result['strategy']:12} {result['microseconds']:6} us, "
                f"{result['ratio']:5} times {result['to']:11} "
                f"(at most {result['budget']}: {'yes' if result['within'] else 'NO'}), {result['arrays']} arrays"
            )
    print(json.dumps({"n_vocab": N_VOCAB, "numpy": np.__version__, "results": results}))


if __name__ == "__main__":
    Fire(main)
