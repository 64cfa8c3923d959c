"""Plots of what bench.py measured. The colours are Okabe and Ito's, which colour-blind people tell apart."""

from statistics import median

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no screen
import matplotlib.pyplot as plt
from report import DECODE, LONG, MACHINE, OURS, PREFILL, line, prefill_flops

BLUE, ORANGE, GREY, BLACK = "#0072B2", "#E69F00", "#999999", "#000000"
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 160})


def speed(figures, path):
    """Bars of decoding and prefill for every program, with the machine's own wall as a line."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True, layout="constrained")
    wall = {title: 1 / median(figures.of(title, MACHINE)) for title in (DECODE, LONG)}
    wall[PREFILL] = 900 * median(figures.of(PREFILL, MACHINE)) / prefill_flops(900)
    for axis, (title, tokens) in zip(axes, ((DECODE, 1), (LONG, 1), (PREFILL, 900)), strict=True):
        bars(axis, figures, title, tokens)
        axis.axvline(wall[title], color=BLACK, linestyle="--", linewidth=1)
        name = "GEMM peak" if title == PREFILL else "GEMV wall"
        axis.text(wall[title], 1.01, name, ha="center", va="bottom", transform=axis.get_xaxis_transform())
        axis.set(xlabel="tokens a second", title=f"{title}\n")
    axes[0].invert_yaxis()
    figure.savefig(path)
    plt.close(figure)


def bars(axis, figures, title, tokens):
    names = [name for name in figures.peers if figures.of(title, name)]
    for name in names:
        speeds = [tokens / time for time in figures.of(title, name)]
        middle, is_float32 = median(speeds), not name.endswith(("F16", "Q8_0", "int8"))
        style = {"color": BLUE, "hatch": "//"} if name == OURS else {"color": ORANGE if is_float32 else GREY}
        label = name if is_float32 or name == OURS else f"{name} (not float32)"
        error = [[middle - min(speeds)], [max(speeds) - middle]]
        axis.barh(label, middle, xerr=error, edgecolor="white", error_kw={"linewidth": 1}, **style)
        axis.text(max(speeds), names.index(name), f" {middle:.0f}" if middle >= 10 else f" {middle:.1f}", va="center")
    axis.margins(x=0.15)


def scaling(figures, path):
    """Time against context, prompt, sequences at once and weights, each with the fit."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    straight(axes[0], *figures.growth("context"), "tokens of context", "a step")
    power(axes[1], *figures.growth("prompt"), "tokens of the prompt", "prefill")
    sizes = figures.batch_sizes()
    straight(
        axes[2], sizes, [median(figures.batch(n)["seconds"]) for n in sizes], "sequences at once", "a step", least=4
    )
    singles = median(figures.batch(1)["seconds"])
    axes[2].plot(sizes, [1000 * n * singles for n in sizes], ":", color=GREY, label="as many single steps")
    axes[2].set_ylim(top=1300 * median(figures.batch(sizes[-1])["seconds"]))
    axes[2].legend(frameon=False)
    _, weights, seconds = figures.sizes()
    power(axes[3], [weight / 1e6 for weight in weights], seconds, "million weights a token meets", "a step")
    figure.savefig(path)
    plt.close(figure)


def straight(axis, x, seconds, what, of, least=0):
    """Points, and the straight line through those from `least` on."""
    kept = [(a, b) for a, b in zip(x, seconds, strict=True) if a >= least]
    slope, start = line(*zip(*kept, strict=True))
    ends = np.array([kept[0][0], kept[-1][0]])
    axis.plot(x, [1000 * each for each in seconds], "o", color=BLUE)
    fit = f"{1e3 * start:.3g} + {1e3 * slope:.2g} n"
    axis.plot(ends, 1000 * (start + slope * ends), "-", color=ORANGE, label=f"{fit} ms")
    axis.set(xlabel=what, title=f"milliseconds of {of}", ylim=(0, 1.1 * 1000 * max(seconds)))
    axis.legend(frameon=False)


def power(axis, x, seconds, what, of):
    """Points on axes of powers, where a power law is straight, and that line, if there is more than one point."""
    milliseconds = [1000 * each for each in seconds]
    axis.loglog(x, milliseconds, "o", color=BLUE)
    if len(x) > 1:
        exponent, start = line(np.log(x), np.log(milliseconds))
        axis.loglog(
            x, np.exp(start) * np.array(x) ** exponent, "-", color=ORANGE, label=f"n to the power {exponent:.2f}"
        )
        axis.legend(frameon=False)
    axis.set(xlabel=what, title=f"milliseconds of {of}")
    axis.set_xticks(x, [f"{each:.0f}" for each in x])
    axis.set_yticks(milliseconds, [f"{each:,.0f}" for each in milliseconds])
    axis.minorticks_off()
