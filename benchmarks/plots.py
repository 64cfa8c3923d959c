"""Draw the plots of bench.py's results, in the colours of Okabe and Ito, which are safe for colour-blind readers."""

from pathlib import Path
from statistics import median

import matplotlib
import numpy as np

matplotlib.use("Agg")  # needs no screen
import matplotlib.pyplot as plt
from figures import DECODE, LONG, MACHINE, OURS, PREFILL, Figures, line, prefill_flops

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREY = "#999999"
BLACK = "#000000"
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 160})


def speed(figures: Figures, path: Path) -> None:
    """Draw bars of decoding and prefill for every program, with the limit of the machine as a line."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True, layout="constrained")
    limits = {title: 1 / median(figures.of(title, MACHINE)) for title in (DECODE, LONG)}
    limits[PREFILL] = 900 * median(figures.of(PREFILL, MACHINE)) / prefill_flops(900)
    for axis, (title, tokens) in zip(axes, ((DECODE, 1), (LONG, 1), (PREFILL, 900)), strict=True):
        bars(axis, figures, title, tokens)
        axis.axvline(limits[title], color=BLACK, linestyle="--", linewidth=1)
        name = "GEMM peak" if title == PREFILL else "GEMV limit"
        axis.text(limits[title], 1.01, name, ha="center", va="bottom", transform=axis.get_xaxis_transform())
        axis.set(xlabel="tokens per second", title=f"{title}\n")
    axes[0].invert_yaxis()
    figure.savefig(path)
    plt.close(figure)


def bars(axis, figures, title, tokens):
    names = [name for name in figures.peers if figures.of(title, name)]
    for name in names:
        speeds = [tokens / time for time in figures.of(title, name)]
        middle = median(speeds)
        is_float32 = not name.endswith(("F16", "Q8_0", "int8"))
        is_ours = name.startswith(OURS)
        style = {"color": BLUE, "hatch": "//"} if is_ours else {"color": ORANGE if is_float32 else GREY}
        label = name if is_float32 else f"{name} (not float32)"
        error = [[middle - min(speeds)], [max(speeds) - middle]]
        axis.barh(label, middle, xerr=error, edgecolor="white", error_kw={"linewidth": 1}, **style)
        axis.text(max(speeds), names.index(name), f" {middle:.0f}" if middle >= 10 else f" {middle:.1f}", va="center")
    axis.margins(x=0.15)


def scaling(figures: Figures, path: Path) -> None:
    """Draw the time against context, prompt, batch size and weights, each with its fit."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    straight(axes[0], *figures.growth("context"), "tokens of context", "milliseconds per step")
    power(axes[1], *figures.growth("prompt"), "tokens of the prompt", "milliseconds of prefill")
    sizes = figures.batch_sizes()
    seconds = [median(figures.batch(n)["seconds"]) for n in sizes]
    straight(axes[2], sizes, seconds, "sequences at once", "milliseconds per step", least=4)
    single = median(figures.batch(1)["seconds"])
    axes[2].plot(sizes, [1000 * n * single for n in sizes], ":", color=GREY, label="n single steps")
    axes[2].set_ylim(top=1300 * seconds[-1])
    axes[2].legend(frameon=False)
    _, weights, seconds = figures.sizes()
    millions = [weight / 1e6 for weight in weights]
    power(axes[3], millions, seconds, "million weights per token", "milliseconds per step")
    figure.savefig(path)
    plt.close(figure)


def straight(axis, x, seconds, xlabel, title, least=0):
    """Draw points, and the line fitted to the points from x = `least` on."""
    kept = [(a, b) for a, b in zip(x, seconds, strict=True) if a >= least]
    slope, start = line(*zip(*kept, strict=True))
    ends = np.array([kept[0][0], kept[-1][0]])
    axis.plot(x, [1000 * each for each in seconds], "o", color=BLUE)
    fit = f"{1e3 * start:.3g} + {1e3 * slope:.2g} n"
    axis.plot(ends, 1000 * (start + slope * ends), "-", color=ORANGE, label=f"{fit} ms")
    axis.set(xlabel=xlabel, title=title, ylim=(0, 1.1 * 1000 * max(seconds)))
    axis.legend(frameon=False)


def power(axis, x, seconds, xlabel, title):
    """Draw points on logarithmic axes, and the fitted power law, a straight line, if there are several points."""
    milliseconds = [1000 * each for each in seconds]
    axis.loglog(x, milliseconds, "o", color=BLUE)
    if len(x) > 1:
        exponent, start = line(np.log(x), np.log(milliseconds))
        fit = np.exp(start) * np.array(x) ** exponent
        axis.loglog(x, fit, "-", color=ORANGE, label=f"n to the power {exponent:.2f}")
        axis.legend(frameon=False)
    axis.set(xlabel=xlabel, title=title)
    axis.set_xticks(x, [f"{each:.0f}" for each in x])
    axis.set_yticks(milliseconds, [f"{each:,.0f}" for each in milliseconds])
    axis.minorticks_off()
