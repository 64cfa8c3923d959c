"""Measure what limits decoding on this machine: python benchmarks/walls.py (pip install numba)

Decoding one text reads all weights once per token, so that the rate at which all cores read memory is its limit. The
script measures that rate with a compiled sum, which does nothing but read, and with NumPy's product of a matrix and a
vector. It prints how many tokens per second the higher rate allows for the shapes of GPT-2, in float32 and in int8,
without keys and values.
"""

import time
from statistics import median

import numpy as np
from fire import Fire
from numba import get_num_threads, njit, prange

PARAMETERS = {"124M": 124_439_808, "355M": 354_823_168, "774M": 774_030_080, "1558M": 1_557_611_200}
BYTES = {"float32": 4, "int8": 1}


@njit
def part_total(numbers):
    total = np.int64(0)
    for number in numbers:
        total += number
    return total


@njit(parallel=True)
def total(numbers, n_threads):
    """Return the sum of int64 numbers, a part of them per thread."""
    sums = np.zeros(n_threads, np.int64)
    for t in prange(n_threads):
        sums[t] = part_total(numbers[len(numbers) * t // n_threads : len(numbers) * (t + 1) // n_threads])
    return sums.sum()


def rate(function, n_bytes, rounds):
    """Return the bytes per second of a function that reads `n_bytes`: the median of the rounds."""
    function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return n_bytes / median(times)


def read_rates(megabytes: int = 512, rounds: int = 20) -> dict[str, float]:
    """Return {what reads: bytes per second of all cores}."""
    numbers = np.arange(megabytes * 2**20 // 8)
    matrix = np.ones((megabytes * 2**20 // 4 // 768, 768), np.float32)
    vector = np.ones(768, np.float32)
    return {
        "a compiled sum": rate(lambda: total(numbers, get_num_threads()), numbers.nbytes, rounds),
        "NumPy, matrix @ vector": rate(lambda: matrix @ vector, matrix.nbytes, rounds),
    }


def main(megabytes=512, rounds=20):
    rates = read_rates(megabytes, rounds)
    for name, found in rates.items():
        print(f"{name:24} {found / 1e9:6.1f} GB/s")
    limit = max(rates.values())
    for size, n in PARAMETERS.items():
        tokens = "  ".join(f"{kind} {limit / (n * width):6.1f}" for kind, width in BYTES.items())
        print(f"{size:6} at most, in tokens/s: {tokens}")


if __name__ == "__main__":
    Fire(main)
