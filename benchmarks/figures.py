"""Compute speeds, ratios and bounds from the results of bench.py. report.py prints them, plots.py draws them."""

from statistics import median

import numpy as np

OURS = "gpt2.py"
NUMBA = "gpt2.py with numba"
INT8 = "gpt2.py int8"
PICO = "gpt2_pico.py"
MACHINE = "the machine"
DECODE = "decode at 100 tokens"
LONG = "decode at 1000 tokens"
PREFILL = "prefill of 900 tokens"
FIRST = "first token of the process"
WHOLE = "process with 40 tokens"
MEMORY = "rate of reading memory"
MANY = "many prompts"
SIZES = {"124M": (768, 12), "355M": (1024, 24), "774M": (1280, 36), "1558M": (1600, 48)}  # n_embd, n_layer
N_VOCAB = 50257

# ---- arithmetic ------------------------------------------------------------------------------------------------


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Divide two lists element by element."""
    return [a / b for a, b in zip(above, below, strict=True)]


def number(value: float) -> str:
    """Format a number with three digits and without an exponent: 0.0123, 1.23, 123, 1230."""
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value)))))}f}" if value else "0"


def spread(values: list[float]) -> str:
    """Format the median, with the minimum and the maximum in brackets."""
    if not values:
        return "-"
    return f"{number(median(values))} ({number(min(values))} to {number(max(values))})"


def n_weights(size: str) -> int:
    """Return the number of weights that a token is multiplied by."""
    n_embd, n_layer = SIZES[size]
    return 12 * n_layer * n_embd**2 + N_VOCAB * n_embd


def prefill_flops(n_tokens: int, size: str = "124M") -> int:
    """Return the floating-point operations that a prompt needs at least.

    Attention covers only past positions. The last block computes keys and values for all positions, and everything
    else for the last position only.
    """
    n_embd, n_layer = SIZES[size]
    attention = 2 * n_tokens**2 * n_embd  # two products of 2 * n^2 * n_embd; half is the future
    block = 2 * n_tokens * 12 * n_embd**2 + attention
    last_block = 2 * n_tokens * 2 * n_embd**2 + 2 * 10 * n_embd**2 + 4 * n_tokens * n_embd
    return (n_layer - 1) * block + last_block + 2 * N_VOCAB * n_embd


def batch_flops(n_sequences: int, n_context: int = 100, size: str = "124M") -> int:
    """Return the floating-point operations of a step of several sequences."""
    n_embd, n_layer = SIZES[size]
    return n_sequences * (2 * n_weights(size) + n_layer * 4 * n_context * n_embd)


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return the slope and the intercept of the least-squares line through the points."""
    slope, start = np.polyfit(x, y, 1)
    return float(slope), float(start)


# ---- results ---------------------------------------------------------------------------------------------------


class Figures:
    """The results of a run of bench.py. Lists have one value per round; they are empty for what was not measured."""

    def __init__(self, results: dict):
        self.results = results
        self.records = results["records"]
        self.peers = [name for name in self.records[DECODE] if name != MACHINE]

    def of(self, title: str, name: str) -> list:
        """Return the measured values of one program in one series."""
        return self.records.get(title, {}).get(name, [])

    def speed_over(self, title: str, name: str) -> list[float]:
        """Return the speed of gpt2.py divided by the speed of another program."""
        return ratios(self.of(title, name), self.of(title, OURS)) if self.of(title, name) else []

    def time_over(self, title: str, name: str) -> list[float]:
        """Return the time of gpt2.py divided by the time of another program."""
        return ratios(self.of(title, OURS), self.of(title, name)) if self.of(title, name) else []

    def ratio(self, title: str, ours: str, name: str) -> list[float]:
        """Return the speed of one of our programs divided by the speed of another program."""
        both = self.of(title, name), self.of(title, ours)
        return ratios(*both) if all(both) else []

    def of_memory_limit(self, title: str, name: str, n_context: int) -> list[float]:
        """Return the fraction of the rate of reading memory at which a program reads weights, keys and values."""
        rates = self.of(MEMORY, MACHINE)
        times = self.of(title, name)
        if not times or None in rates:
            return []
        n_embd, n_layer = SIZES["124M"]
        width = 1 if name == INT8 else 4
        n_bytes = width * n_weights("124M") + 8 * n_layer * n_embd * n_context
        return [n_bytes / time / rate for time, rate in zip(times, rates, strict=True)]

    def of_gemv_limit(self, title: str) -> list[float]:
        """Return the fraction of a decoding step of gpt2.py that the matrix products alone would take."""
        return self.speed_over(title, MACHINE)

    def of_gemm_peak(self, name: str = OURS) -> list[float]:
        """Return the fraction of the GEMM peak that a program reaches with a prompt of 900 tokens."""
        peaks = self.of(PREFILL, MACHINE)
        if not self.of(PREFILL, name):
            return []
        return [prefill_flops(900) / time / peak for time, peak in zip(self.of(PREFILL, name), peaks, strict=True)]

    def batch(self, n: int) -> dict[str, list[float]]:
        """Return the seconds of a step of n sequences, and its speed relative to three others.

        "singles": n single steps. "of bound": the GEMM peak. "of bare": the matrix products alone.
        """
        series = self.records["batches"]
        steps = series[f"step of {n}"]
        bounds = [batch_flops(n) / peak for peak in series["GEMM peak"]]
        singles = [n * time for time in series["step of 1"]]
        return {
            "seconds": steps,
            "singles": ratios(singles, steps),
            "of bound": ratios(bounds, steps),
            "of bare": ratios(series[f"bare products of {n}"], steps),
        }

    def batch_sizes(self) -> list[int]:
        """Return the numbers of sequences that were decoded at once."""
        return [int(name.rpartition(" ")[2]) for name in self.records["batches"] if name.startswith("step of ")]

    def overhead(self) -> list[float]:
        """Return the fraction of a step that is not a matrix product, for each round the median of its steps."""
        rounds = self.of("overhead", "steps and products")
        return [median(1 - products / step for step, products in pairs) for pairs in rounds]

    def step(self) -> list[float]:
        """Return the seconds of a step of `generate`, for each round the median."""
        return [median(step for step, _ in pairs) for pairs in self.of("overhead", "steps and products")]

    def samplers(self) -> dict[str, list[float]]:
        """Return the fraction of a step that each sampler takes."""
        calls = self.of("samplers", "calls")
        return {name: ratios([call[name] for call in calls], self.step()) for name in calls[0]}

    def growth(self, title: str) -> tuple[list[int], list[float]]:
        """Return the x values of a series whose names are numbers, and the median seconds for each."""
        series = self.records[title]
        return [int(name) for name in series], [median(times) for times in series.values()]

    def sizes(self) -> tuple[list[str], list[int], list[float]]:
        """Return the measured sizes of models, the weights that a token is multiplied by, and the seconds of a step."""
        found = {"124M": DECODE} | {size: f"decode of {size}" for size in SIZES if f"decode of {size}" in self.records}
        return list(found), [n_weights(size) for size in found], [median(self.of(t, OURS)) for t in found.values()]
