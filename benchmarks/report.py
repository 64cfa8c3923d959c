"""From what bench.py measured to tables and plots.

    python benchmarks/report.py benchmarks/results/bench.json     makes README.md and the plots beside it again

A figure with a range in brackets is a median and the least and the most of all rounds. A ratio is taken within each
round before that.
"""

import json
from pathlib import Path
from statistics import median

import numpy as np
from fire import Fire

OURS, MACHINE, PICO = "gpt2.py", "the machine", "gpt2_pico.py"
DECODE, PREFILL, LONG = "decode at 100 tokens", "prefill of 900 tokens", "decode at 1000 tokens"
FIRST, WHOLE = "first token of the process", "process with 40 tokens"
SIZES = {"124M": (768, 12), "355M": (1024, 24), "774M": (1280, 36), "1558M": (1600, 48)}  # n_embd, n_layer
N_VOCAB = 50257


# ---- arithmetic ------------------------------------------------------------------------------------------------


def ratios(above, below):
    return [a / b for a, b in zip(above, below, strict=True)]


def number(value):
    """Three digits, and never an exponent: 0.0123, 1.23, 123, 1230."""
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value)))))}f}" if value else "0"


def spread(values):
    """Median, and in brackets the least and the most."""
    if not values:
        return "-"
    return f"{number(median(values))} ({number(min(values))} to {number(max(values))})"


def n_weights(size):
    """How many weights a token is multiplied with."""
    n_embd, n_layer = SIZES[size]
    return 12 * n_layer * n_embd**2 + N_VOCAB * n_embd


def prefill_flops(n_tokens, size="124M"):
    """Floating-point operations that a prompt needs, and no more.

    That is attention to the past alone; in the last block the keys and values, and for the last token alone the rest.
    """
    n_embd, n_layer = SIZES[size]
    attention = 2 * n_tokens**2 * n_embd  # two products of 2 * n^2 * n_embd, of which half is the future
    block = 2 * n_tokens * 12 * n_embd**2 + attention
    last_block = 2 * n_tokens * 2 * n_embd**2 + 2 * 10 * n_embd**2 + 4 * n_tokens * n_embd
    return (n_layer - 1) * block + last_block + 2 * N_VOCAB * n_embd


def batch_flops(n_sequences, n_context=100, size="124M"):
    n_embd, n_layer = SIZES[size]
    return n_sequences * (2 * n_weights(size) + n_layer * 4 * n_context * n_embd)


def line(x, y):
    """Slope and start of the straight line nearest to the points, in the sense of least squares."""
    slope, start = np.polyfit(x, y, 1)
    return float(slope), float(start)


class Figures:
    """What was measured, by the questions that are asked of it. Lists have one value a round; [] if not measured."""

    def __init__(self, results):
        self.results, self.records = results, results["records"]
        self.peers = [name for name in self.records[DECODE] if name != MACHINE]

    def of(self, title, name):
        return self.records.get(title, {}).get(name, [])

    def speed_over(self, title, name):
        """How many times as fast as another program ours is."""
        return ratios(self.of(title, name), self.of(title, OURS)) if self.of(title, name) else []

    def of_wall(self, title):
        """The part of the machine's bandwidth that a decoding step leaves for nothing else: wall over step."""
        return self.speed_over(title, MACHINE)

    def of_peak(self, name=OURS):
        """The part of the GEMM peak that a prompt of 900 tokens reaches."""
        peaks = self.of(PREFILL, MACHINE)
        return [prefill_flops(900) / time / peak for time, peak in zip(self.of(PREFILL, name), peaks, strict=True)]

    def batch(self, n):
        """Of a step of n sequences: seconds; n single steps, the GEMM peak's bound, and bare products, over it."""
        series = self.records["batches"]
        steps, bare = series[f"step of {n}"], series[f"bare products of {n}"]
        bounds = [batch_flops(n) / peak for peak in series["GEMM peak"]]
        singles = [n * time for time in series["step of 1"]]
        return {
            "seconds": steps,
            "singles": ratios(singles, steps),
            "of bound": ratios(bounds, steps),
            "of bare": ratios(bare, steps),
        }

    def batch_sizes(self):
        return [int(name.rpartition(" ")[2]) for name in self.records["batches"] if name.startswith("step of ")]

    def overhead(self):
        """The part of a step that is not a matrix product; of each round the median of its steps."""
        rounds = self.of("overhead", "steps and products")
        return [median(1 - products / step for step, products in pairs) for pairs in rounds]

    def step(self):
        """Seconds of a step of `generate`, of each round the median."""
        return [median(step for step, _ in pairs) for pairs in self.of("overhead", "steps and products")]

    def samplers(self):
        """The part of a step that each sampler takes."""
        calls = self.of("samplers", "calls")
        return {name: ratios([call[name] for call in calls], self.step()) for name in calls[0]}

    def growth(self, title):
        """The x of a series whose names are numbers, and the median seconds of each."""
        series = self.records[title]
        return [int(name) for name in series], [median(times) for times in series.values()]

    def sizes(self):
        """The x and seconds of models of all sizes that were measured: weights a token is multiplied with."""
        found = {"124M": DECODE} | {size: f"decode of {size}" for size in SIZES if f"decode of {size}" in self.records}
        return list(found), [n_weights(size) for size in found], [median(self.of(t, OURS)) for t in found.values()]


# ---- what must be reached --------------------------------------------------------------------------------------


def checks(figures):
    """Yield (what, the least or most it may be, the values, whether more is better) for each promise of speed."""
    f = figures
    yield "decode at 100 tokens, of the GEMV wall", 0.9, f.of_wall(DECODE), True
    yield "decode at 100 tokens, times transformers", 1.7, f.speed_over(DECODE, "transformers"), True
    yield "decode at 100 tokens, times llama.cpp F32", 0.95, f.speed_over(DECODE, "llama.cpp F32"), True
    yield "decode at 100 tokens, times CTranslate2 float32", 0.95, f.speed_over(DECODE, "CTranslate2 float32"), True
    yield "decode at 1000 tokens, of the speed at 100", 0.8, ratios(f.of(DECODE, OURS), f.of(LONG, OURS)), True
    yield "prefill of 900 tokens, of the GEMM peak", 0.75, f.of_peak(), True
    yield "prefill of 900 tokens, times transformers", 1.3, f.speed_over(PREFILL, "transformers"), True
    yield "prefill of 900 tokens, times llama.cpp F32", 1.0, f.speed_over(PREFILL, "llama.cpp F32"), True
    for n in (2, 3, 4):
        if n in f.batch_sizes():
            yield f"{n} sequences at once, times {n} single steps", 1.0, f.batch(n)["singles"], True
    for n in (16, 64):
        if n in f.batch_sizes():
            yield f"{n} sequences at once, of the GEMM peak's bound", 0.8, f.batch(n)["of bound"], True
    yield "first token of the process, of transformers' time", 1 / 3, ratios_or_none(f, FIRST, "transformers"), False
    yield "first token of the process, of llama.cpp's time", 2.0, ratios_or_none(f, FIRST, "llama.cpp F32"), False
    for name in (PICO, f"{PICO} in float64"):
        yield f"process with 40 tokens, times {name}", 15.0, f.speed_over(WHOLE, name), True
    yield "process with 40 tokens, times transformers", 4.0, f.speed_over(WHOLE, "transformers"), True
    yield "overhead outside matrix products, of the step", 0.1, f.overhead(), False
    for name, part in f.samplers().items():
        yield f"sampler, {name}, of the step", 0.03, part, False
    memory = f.results["memory"][OURS]
    yield "anonymous memory without the cache, MB", 150.0, [(memory["peak"] - memory["cache"]) / 1e6], False
    growth = [memory["growth_per_token"] / memory["cache_per_token"]]
    yield "growth of memory a token, of the cache's own", 1.1, growth, False
    yield "decode with the 1558M shape, of the GEMV wall", 0.9, f.of_wall("decode of 1558M"), True


def ratios_or_none(figures, title, name):
    return ratios(figures.of(title, OURS), figures.of(title, name)) if figures.of(title, name) else []


def check_rows(figures):
    for what, limit, values, more_is_better in checks(figures):
        if values:
            reached = median(values) >= limit if more_is_better else median(values) <= limit
            answer = "yes" if reached else "no"
        else:
            answer = "not measured"
        yield what, f"{'at least' if more_is_better else 'at most'} {number(limit)}", spread(values), answer


# ---- tables ----------------------------------------------------------------------------------------------------


def speed_rows(figures):
    """A row for each program: how fast when it has loaded, and how many times as fast ours is."""
    for name in figures.peers:
        row = [name]
        for title, tokens in ((DECODE, 1), (LONG, 1), (PREFILL, 900)):
            row.append(spread([tokens / time for time in figures.of(title, name)]))
            row.append(times(figures.speed_over(title, name), name))
        yield row


SPEEDS = ["program", "decode at 100, tokens/s", "ours is x", "decode at 1000, tokens/s", "ours is x"]
SPEEDS += ["prefill of 900, tokens/s", "ours is x"]


def process_rows(figures):
    """A row for each program: how long a process takes, and how many times as fast ours is."""
    for name in figures.records[FIRST]:
        row = [name]
        for title in (FIRST, WHOLE):
            row.append(spread(figures.of(title, name)))
            row.append(times(figures.speed_over(title, name), name))
        yield row


PROCESSES = ["process", "first token, s", "ours is x", "40 tokens, s", "ours is x"]


def times(values, name):
    return "1" if name == OURS else number(median(values)) if values else "-"


def memory_rows(figures):
    for name, memory in figures.results["memory"].items():
        cache = number(memory["cache"] / 1e6) if "cache" in memory else "-"
        yield [name, number(memory["loaded"] / 1e6), number(memory["peak"] / 1e6), cache]


MEMORIES = ["program", "loaded, MB", "while decoding, MB", "of which is cache, MB"]


def batch_rows(figures):
    for n in figures.batch_sizes():
        batch = figures.batch(n)
        speed = spread([n / time for time in batch["seconds"]])
        milliseconds = spread([1000 * time for time in batch["seconds"]])
        yield [n, milliseconds, speed, *(spread(batch[key]) for key in ("singles", "of bound", "of bare"))]


BATCHES = ["sequences", "step, ms", "tokens/s", "times as many single steps", "of the GEMM bound", "of bare products"]


def wall_rows(figures):
    n_bytes = 4 * n_weights("124M")
    bandwidths = [n_bytes / time / 1e9 for time in figures.of(DECODE, MACHINE)]
    yield ["GEMV over the matrices, GB/s", spread(bandwidths)]
    yield ["... tokens/s", spread([1 / time for time in figures.of(DECODE, MACHINE)])]
    yield ["GEMM peak, GFLOP/s", spread([peak / 1e9 for peak in figures.of(PREFILL, MACHINE)])]


def slope_rows(figures):
    """The fitted slopes of what must grow as the work does, and no faster."""
    contexts, seconds = figures.growth("context")
    slope, start = line(contexts, seconds)
    bandwidth = 4 * n_weights("124M") / median(figures.of(DECODE, MACHINE))
    n_embd, n_layer = SIZES["124M"]
    yield ["step by context", f"{number(1e3 * start)} ms + {number(1e6 * slope)} us a token of context"]
    yield ["... reading the cache at the wall's speed", f"{number(1e6 * 8 * n_layer * n_embd / bandwidth)} us a token"]
    prompts, seconds = figures.growth("prompt")
    exponent, _ = line(np.log(prompts), np.log(seconds))
    yield ["prefill by length of the prompt", f"grows with its power {exponent:.2f}"]
    sizes = [n for n in figures.batch_sizes() if n >= 4]
    slope, start = line(sizes, [median(figures.batch(n)["seconds"]) for n in sizes])
    yield ["step by sequences at once, from 4", f"{number(1e3 * start)} ms + {number(1e3 * slope)} ms a sequence"]
    names, weights, seconds = figures.sizes()
    if len(names) > 1:
        exponent, _ = line(np.log(weights), np.log(seconds))
        yield [f"step by weights, {names[0]} to {names[-1]}", f"grows with their power {exponent:.2f}"]


def agreement_rows(figures):
    agreement = figures.results["agreement"]
    for name in figures.results["memory"]:
        if name in agreement and name != OURS:
            yield [name, f"{agreement[name]:.0e}"]
    yield ["the logits themselves", f"{agreement['of logits from']:.2g} to {agreement['to']:.2g}"]


def all_tables(figures):
    """Titles, heads and rows of everything there is to say."""
    yield "Decoding and prefill", SPEEDS, speed_rows(figures)
    yield "Processes, from their start", PROCESSES, process_rows(figures)
    yield "Anonymous memory", MEMORIES, memory_rows(figures)
    yield "The walls of the machine", ["what", "figure"], wall_rows(figures)
    yield "Sequences decoded at once by gpt2.py, at 100 tokens of context", BATCHES, batch_rows(figures)
    yield "How cost grows", ["what", "fit"], slope_rows(figures)
    yield "Logits: largest difference from ours", ["program", "difference"], agreement_rows(figures)
    yield "What must be reached", ["what", "must be", "is", "reached"], check_rows(figures)


def plain(head, rows):
    """A table for a terminal, in columns."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def markdown(head, rows):
    rows = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def conditions(results):
    """One sentence on where and when."""
    machine = results["machine"]
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else ""
    skipped = "".join(f" Not measured: {reason}." for reason in results["skipped"].values())
    return (
        f"{machine['cpu']}, {results['threads']} threads{memory}; {machine['system']}, Python {machine['python']}; "
        f"commit {results['commit']}, {results['date']}; {results['rounds']} rounds.{skipped}"
    )


EXPLANATION = """\
Made by `make bench`; see [bench.py](../bench.py). Random weights in the shape of GPT-2 124M, the same for all. Each
figure is the median of the rounds, with the least and the most in brackets. "Ours is x": how many times as fast as that
program gpt2.py is, the median of the ratios within each round; these are the result, times are context. Anonymous
memory is that of no file: weights that are mapped are not counted, for any of them.

Fair or not: transformers' model is called directly, without its `generate`; llama.cpp through its C interface. Where a
process is timed, from its start, transformers is used through `pipeline` and llama.cpp through llama-cpp-python.
CTranslate2 computes all it is asked in one call; its steps are timed by its own callback. llama.cpp F16 and Q8_0 and
CTranslate2 int8 read half or a quarter of the bytes, so they do less for a token and compute it less exactly. The cache
of llama.cpp F32 is in float32 as well; the other two keep its default, float16.

gpt2.py reads prompts as its command does, with threadpoolctl. "Of the GEMM peak" counts the operations that nobody can
leave out: attention to the past alone, and in the last block no more than the logits of the last token need. The bound
of several sequences at once is that of the arithmetic alone; for 16, memory sets one of about the same height.

"gpt2_pico.py in float64" is what the original picoGPT does under NumPy 2. It and gpt2_pico.py have no cache: a step
computes the whole text."""


def page(figures):
    versions = sorted({version for name, version in figures.results["versions"].items() if ", " not in name})
    parts = ["# Speed", EXPLANATION, conditions(figures.results), f"Versions: {'; '.join(versions)}."]
    for title, head, rows in all_tables(figures):
        parts += [f"## {title}", markdown(head, rows)]
    parts += ["![Speed beside other programs](speed.png)", "![How cost grows](scaling.png)"]
    return "\n\n".join(parts) + "\n"


def main(path):
    """Print the tables of a file of results; write README.md and the plots into its folder."""
    path = Path(path)
    figures = Figures(json.loads(path.read_text(encoding="utf-8")))
    for title, head, rows in all_tables(figures):
        print(f"\n{title}\n{plain(head, rows)}")
    print(f"\n{conditions(figures.results)}")
    path.with_name("README.md").write_text(page(figures), encoding="utf-8")
    try:
        import plots
    except ImportError as error:
        print(f"no plots: {error}")
        return
    plots.speed(figures, path.with_name("speed.png"))
    plots.scaling(figures, path.with_name("scaling.png"))


if __name__ == "__main__":
    Fire(main)
