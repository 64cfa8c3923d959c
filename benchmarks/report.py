"""Print the tables of bench.py's results, and write README.md and the plots.

    python benchmarks/report.py benchmarks/results/bench.json     writes README.md and the plots next to the file

A figure with a range in brackets is the median of all rounds, with the minimum and the maximum. A ratio is computed
within each round first.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
from figures import (
    DECODE,
    FIRST,
    INT8,
    LONG,
    MACHINE,
    MANY,
    NUMBA,
    OURS,
    PICO,
    PREFILL,
    SIZES,
    WHOLE,
    Figures,
    line,
    n_weights,
    number,
    ratios,
    spread,
)
from fire import Fire

# ---- targets ---------------------------------------------------------------------------------------------------


def checks(figures: Figures) -> Iterator[tuple[str, float, list[float], bool]]:
    """Yield (quantity, its limit, the values, whether more is better) for each speed target."""
    f = figures
    yield "decode at 100 tokens, fraction of the GEMV limit", 0.9, f.of_gemv_limit(DECODE), True
    for name, limit in (("transformers", 1.7), ("llama.cpp F32", 0.95), ("CTranslate2 float32", 0.95)):
        yield f"decode at 100 tokens, relative to {name}", limit, f.speed_over(DECODE, name), True
    yield "decode at 1000 tokens, relative to 100 tokens", 0.8, ratios(f.of(DECODE, OURS), f.of(LONG, OURS)), True
    yield "prefill of 900 tokens, fraction of the GEMM peak", 0.75, f.of_gemm_peak(), True
    for name, limit in (("transformers", 1.3), ("llama.cpp F32", 1.0)):
        yield f"prefill of 900 tokens, relative to {name}", limit, f.speed_over(PREFILL, name), True
    for n in (2, 3, 4):
        if n in f.batch_sizes():
            yield f"{n} sequences at once, relative to {n} single steps", 1.0, f.batch(n)["singles"], True
    for n in (16, 64):
        if n in f.batch_sizes():
            yield f"{n} sequences at once, fraction of the GEMM peak's bound", 0.8, f.batch(n)["of bound"], True
    for name, limit in (("transformers", 1 / 3), ("llama.cpp F32", 2.0)):
        yield f"first token of the process, time relative to {name}", limit, f.time_over(FIRST, name), False
    for name, limit in ((PICO, 15.0), (f"{PICO} in float64", 15.0), ("transformers", 4.0)):
        yield f"process with 40 tokens, relative to {name}", limit, f.speed_over(WHOLE, name), True
    yield "work other than matrix products, fraction of a step", 0.1, f.overhead(), False
    for name, part in f.samplers().items():
        yield f"sampler, {name}, fraction of a step", 0.03, part, False
    memory = f.results["memory"][OURS]
    yield "anonymous memory without the cache, MB", 150.0, [(memory["peak"] - memory["cache"]) / 1e6], False
    growth = [memory["growth_per_token"] / memory["cache_per_token"]]
    yield "growth of memory per token, relative to the cache's", 1.1, growth, False
    yield "decode with the 1558M shape, fraction of the GEMV limit", 0.9, f.of_gemv_limit("decode of 1558M"), True
    yield from compiled_checks(f)


def compiled_checks(f: Figures) -> Iterator[tuple[str, float, list[float], bool]]:
    """Yield the targets of int8 weights and of float32 with numba, on a machine with AVX-512."""
    for name, limit in (("llama.cpp Q8_0", 1.25), ("CTranslate2 int8", 2.0), (OURS, 4.0)):
        yield f"int8, decode at 100 tokens, relative to {name}", limit, f.ratio(DECODE, INT8, name), True
    yield "int8, decode at 1000 tokens, relative to llama.cpp Q8_0", 1.25, f.ratio(LONG, INT8, "llama.cpp Q8_0"), True
    for n, limit in ((4, 3.5), (16, 2.0)):
        title = f"{n} sequences at once"
        yield f"int8, {title}, relative to {OURS}", limit, f.ratio(title, INT8, OURS), True
    yield "int8, many prompts, relative to CTranslate2 int8", 1.0, f.ratio(MANY, INT8, "CTranslate2 int8"), True
    yield "int8, prefill of 900, relative to llama.cpp Q8_0", 1.2, f.ratio(PREFILL, INT8, "llama.cpp Q8_0"), True
    for title in (DECODE, LONG):
        for name, limit in (("llama.cpp F32", 1.1), ("CTranslate2 float32", 1.0)):
            yield f"with numba, {title}, relative to {name}", limit, f.ratio(title, NUMBA, name), True
    for title, n_context, name, limit in (
        (DECODE, 100, NUMBA, 0.8),
        (LONG, 1000, NUMBA, 0.7),
        (LONG, 1000, INT8, 0.7),
    ):
        yield f"{name}, {title}, of the memory limit", limit, f.of_memory_limit(title, name, n_context), True
    yield "with numba, prefill of 900 tokens, fraction of the GEMM peak", 0.75, f.of_gemm_peak(NUMBA), True
    times = f.ratio(FIRST, OURS, INT8)
    yield "int8, first token of the process, time relative to float32", 2.0, times, False
    yield "int8, 1558M, relative to float32", 4.0, f.ratio("decode of 1558M", INT8, OURS), True
    memory = f.results["memory"].get(f"{INT8}, 1558M")
    beside = [(memory["peak"] - memory["cache"]) / 1e6] if memory else []
    yield "int8, 1558M, anonymous memory beside the cache, MB", 200.0, beside, False


def check_rows(figures: Figures) -> Iterator[list]:
    for quantity, limit, values, more_is_better in checks(figures):
        if values:
            is_reached = median(values) >= limit if more_is_better else median(values) <= limit
            answer = "yes" if is_reached else "no"
        else:
            answer = "not measured"
        yield [quantity, f"{'at least' if more_is_better else 'at most'} {number(limit)}", spread(values), answer]


# ---- tables ----------------------------------------------------------------------------------------------------

SPEEDS = ["program", "decode at 100, tokens/s", "speed-up", "decode at 1000, tokens/s", "speed-up"]
SPEEDS += ["prefill of 900, tokens/s", "speed-up"]
PROCESSES = ["process", "first token, s", "speed-up", "40 tokens, s", "speed-up"]
MEMORIES = ["program", "loaded, MB", "while decoding, MB", "cache in it, MB"]
BATCHES = ["sequences", "step, ms", "tokens/s", "relative to single steps", "of the GEMM bound", "of bare products"]
TARGETS = ["quantity", "target", "measured", "reached"]


def speed_rows(figures: Figures) -> Iterator[list]:
    """Yield a row for each program: the speed after loading, and the speed-up of gpt2.py over it."""
    for name in figures.peers:
        row = [name]
        for title, tokens in ((DECODE, 1), (LONG, 1), (PREFILL, 900)):
            row.append(spread([tokens / time for time in figures.of(title, name)]))
            row.append(speed_up(figures, title, name))
        yield row


def process_rows(figures: Figures) -> Iterator[list]:
    """Yield a row for each program: the duration of a process, and the speed-up of gpt2.py over it."""
    for name in figures.records[FIRST]:
        row = [name]
        for title in (FIRST, WHOLE):
            row.append(spread(figures.of(title, name)))
            row.append(speed_up(figures, title, name))
        yield row


def speed_up(figures, title, name):
    values = figures.speed_over(title, name)
    if name == OURS:
        return "1"
    return number(median(values)) if values else "-"


def memory_rows(figures: Figures) -> Iterator[list]:
    for name, memory in figures.results["memory"].items():
        cache = number(memory["cache"] / 1e6) if "cache" in memory else "-"
        yield [name, number(memory["loaded"] / 1e6), number(memory["peak"] / 1e6), cache]


def batch_rows(figures: Figures) -> Iterator[list]:
    for n in figures.batch_sizes():
        batch = figures.batch(n)
        speed = spread([n / time for time in batch["seconds"]])
        milliseconds = spread([1000 * time for time in batch["seconds"]])
        yield [n, milliseconds, speed, *(spread(batch[key]) for key in ("singles", "of bound", "of bare"))]


def limit_rows(figures: Figures) -> Iterator[list]:
    n_bytes = 4 * n_weights("124M")
    times = figures.of(DECODE, MACHINE)
    yield ["GEMV over all matrices, GB/s", spread([n_bytes / time / 1e9 for time in times])]
    yield ["GEMV over all matrices, tokens/s", spread([1 / time for time in times])]
    yield ["GEMM peak, GFLOP/s", spread([peak / 1e9 for peak in figures.of(PREFILL, MACHINE)])]


def slope_rows(figures: Figures) -> Iterator[list]:
    """Yield the fits of quantities that must not grow faster than the work."""
    contexts, seconds = figures.growth("context")
    slope, start = line(contexts, seconds)
    yield ["step, by context", f"{number(1e3 * start)} ms + {number(1e6 * slope)} us per token of context"]
    bandwidth = 4 * n_weights("124M") / median(figures.of(DECODE, MACHINE))
    n_embd, n_layer = SIZES["124M"]
    cache_bytes = 8 * n_layer * n_embd  # keys and values of a token
    yield ["reading the cache at the GEMV limit", f"{number(1e6 * cache_bytes / bandwidth)} us per token"]
    prompts, seconds = figures.growth("prompt")
    exponent, _ = line(np.log(prompts), np.log(seconds))
    yield ["prefill, by tokens of the prompt", f"grows with the power {exponent:.2f}"]
    sizes = [n for n in figures.batch_sizes() if n >= 4]
    slope, start = line(sizes, [median(figures.batch(n)["seconds"]) for n in sizes])
    yield ["step, by sequences at once, from 4", f"{number(1e3 * start)} ms + {number(1e3 * slope)} ms per sequence"]
    names, weights, seconds = figures.sizes()
    if len(names) > 1:
        exponent, _ = line(np.log(weights), np.log(seconds))
        yield [f"step, by weights, {names[0]} to {names[-1]}", f"grows with the power {exponent:.2f}"]


def agreement_rows(figures: Figures) -> Iterator[list]:
    agreement = figures.results["agreement"]
    for name in figures.results["memory"]:
        if name in agreement and name != OURS:
            yield [name, f"{agreement[name]:.0e}"]
    yield ["range of the logits", f"{agreement['of logits from']:.2g} to {agreement['to']:.2g}"]


def all_tables(figures: Figures) -> Iterator[tuple[str, list[str], Iterator[list]]]:
    """Yield the title, the head and the rows of every table."""
    yield "Decoding and prefill", SPEEDS, speed_rows(figures)
    yield "Processes, from their start", PROCESSES, process_rows(figures)
    yield "Anonymous memory", MEMORIES, memory_rows(figures)
    yield "Limits of the machine", ["quantity", "figure"], limit_rows(figures)
    yield "Sequences decoded at once by gpt2.py, at 100 tokens of context", BATCHES, batch_rows(figures)
    yield "Growth of the cost", ["quantity", "fit"], slope_rows(figures)
    yield "Largest difference of logits from those of gpt2.py", ["program", "difference"], agreement_rows(figures)
    yield "Targets", TARGETS, check_rows(figures)


def plain(head: list[str], rows: Iterable[list]) -> str:
    """Format a table for a terminal, in columns."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def markdown(head: list[str], rows: Iterable[list]) -> str:
    """Format a table in Markdown."""
    rows = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def conditions(results: dict) -> str:
    """Describe in one sentence where and when the results were measured."""
    machine = results["machine"]
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else ""
    skipped = "".join(f" Not measured: {reason}." for reason in results["skipped"].values())
    return (
        f"{machine['cpu']}, {results['threads']} threads{memory}; {machine['system']}, Python {machine['python']}; "
        f"commit {results['commit']}, {results['date']}; {results['rounds']} rounds.{skipped}"
    )


EXPLANATION = """\
`make bench` wrote this page; see [bench.py]({script}). All programs have the same random weights in the shape of
GPT-2 124M. Each figure is the median of the rounds, with the minimum and the maximum in brackets. The speed-up is the
speed of gpt2.py divided by the speed of that program, the median of the ratios within each round. The ratios are the
result; times depend on the machine and the hour. Anonymous memory belongs to no file, so mapped weights are not
counted, for any program.

How the programs are called: transformers' model directly, without its `generate`; llama.cpp through its C interface.
Where a process is timed from its start, transformers runs its `pipeline` and llama.cpp runs llama-cpp-python.
CTranslate2 computes a whole request in one call; its own callback times its steps. llama.cpp F16 and Q8_0 and
CTranslate2 int8 read half or a quarter of the bytes, so they do less work per token and are less exact. The cache of
llama.cpp F32 is float32 as well; the other two kinds keep the default, float16.

"gpt2.py" is float32 without numba; "gpt2.py with numba" and "gpt2.py int8" are computed in the slots of the commands.
The memory limit is the highest rate at which all cores read memory (walls.py), divided by the bytes of weights, keys
and values. Many prompts are 64 prompts of 10 to 100 tokens, each continued by 20 tokens (5 in a quick run, of 16).

gpt2.py reads prompts as its command does, with threadpoolctl. "Of the GEMM peak" counts only the operations that every
program needs: attention to past positions, and in the last block the logits of the last token. The bound of several
sequences at once considers arithmetic only; at 16 sequences, memory sets a bound of about the same height.

"gpt2_pico.py in float64" computes like the original picoGPT under NumPy 2. It and gpt2_pico.py have no cache, so a
step computes the whole text."""


def page(figures: Figures, folder: Path) -> str:
    """Return README.md of the results, which lies in `folder`."""
    script = Path(os.path.relpath(Path(__file__).with_name("bench.py"), folder)).as_posix()
    versions = sorted({version for name, version in figures.results["versions"].items() if ", " not in name})
    parts = [
        "# Speed",
        EXPLANATION.format(script=script),
        conditions(figures.results),
        f"Versions: {'; '.join(versions)}.",
    ]
    for title, head, rows in all_tables(figures):
        parts += [f"## {title}", markdown(head, rows)]
    parts += ["![Speed compared with other programs](speed.png)", "![Growth of the cost](scaling.png)"]
    return "\n\n".join(parts) + "\n"


def main(path):
    """Print the tables of a results file; write README.md and the plots into its folder."""
    path = Path(path)
    figures = Figures(json.loads(path.read_text(encoding="utf-8")))
    for title, head, rows in all_tables(figures):
        print(f"\n{title}\n{plain(head, rows)}")
    print(f"\n{conditions(figures.results)}")
    path.with_name("README.md").write_text(page(figures, path.parent), encoding="utf-8")
    try:
        import plots
    except ImportError as error:
        print(f"no plots: {error}")
        return
    plots.speed(figures, path.with_name("speed.png"))
    plots.scaling(figures, path.with_name("scaling.png"))


if __name__ == "__main__":
    Fire(main)
