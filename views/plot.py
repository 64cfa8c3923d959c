"""Pictures of the next token: grouped bars for several settings.

The grouped bars follow Sebastian Raschka, "Build a Large Language Model (From Scratch)", chapter 5, for every sampling
option. Without an output file, the bars are drawn in the terminal; a file needs matplotlib.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import gpt2
import sampling
from checkpoints.messages import abbreviated
from cli.command_flags import N_ROWS
from cli.options import Options
from utils import Model
from views import heatmap, pictures, screen, settings, writing
from views.next_token import MAX_BAR_WIDTH, MAX_TOKEN_WIDTH, drawn_from, name_of, ranked, removed_by, stages

MAX_SETTINGS = 8  # in one picture; more are hard to distinguish
MAX_STEPS = 100  # columns of a heat map; a picture of more takes very much memory
MAX_ROWS = 50  # tokens of a picture
SHADES = ("36", "33", "35", "34", "32", "31", "37", "90")  # ANSI codes, for a terminal with colours
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")


# ---- the numbers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """The bars of one setting, one per token shown.

    probabilities: of the draw. removed_by: the filter that removed the token, or None. keeps: the number of tokens of
    the vocabulary that remain, None if all do.
    """

    label: str
    probabilities: list[float]
    removed_by: list[str | None]
    keeps: int | None

    @property
    def legend(self) -> str:
        return self.label if self.keeps is None else f"{self.label} (keeps {self.keeps})"


def compare(
    model: Model, ids: list[int], grid: list[dict], options: Options
) -> tuple[list[str], list[float], list[Series]]:
    """Return the names of the tokens to show, the model's own probabilities of them, and a Series per setting."""
    logits = gpt2.gpt2(ids, **model.params, n_head=model.n_head, last_only=True)[-1]  # [n_vocab]
    samplers = [settings.new_sampler(settings.drawing(setting)) for setting in grid]
    processed = [process(model, ids, logits, setting, options) for setting in grid]
    drawn = [drawn_from(*pair) for pair in zip(samplers, processed, strict=True)]  # each [n_vocab]
    shown = tokens_to_show(logits, np.max(drawn, axis=0), options.rows or N_ROWS["plot"])
    series = []
    for i, setting in enumerate(grid):
        label = settings.label(settings.selected(setting, settings.varying(grid)))
        removed = removed_by(stages(samplers[i], processed[i]), len(logits))
        unchanged = "the model's own" if processed[i] is logits else "with biases and penalties"
        series.append(make_series(label or unchanged, drawn[i], removed, shown))
    names = [name_of(model.encoder, token) for token in shown]
    own = sampling.softmax_with_temperature(logits)[shown].tolist()
    return names, own, series


def process(model, ids, logits, setting, options):
    """Return the logits after the penalties, biases and bans of a setting."""
    processor = settings.new_logits_processor(model, setting, options, len(ids))
    return processor(logits, ids) if processor else logits


def tokens_to_show(logits, drawn, n):
    """Return the `n` ids with the largest probabilities; a vocabulary of at most `n` tokens keeps its order.

    logits: of the model; they order the tokens that no setting draws. drawn: of each token, the largest probability
    among the settings. Both [n_vocab].
    """
    if len(logits) <= n:
        return np.arange(len(logits))
    by_logit = ranked(logits)
    order = np.argsort(-drawn[by_logit], kind="stable")
    return by_logit[order][:n]


def make_series(label, drawn, removed, shown):
    """Return the Series of a setting. drawn, removed: of each token, [n_vocab]. shown: the ids to show."""
    return Series(
        label=label,
        probabilities=drawn[shown].tolist(),
        removed_by=[name or None for name in removed[shown]],
        keeps=int(np.count_nonzero(removed == "")) if removed.any() else None,
    )


# ---- in the terminal -------------------------------------------------------------------------------------------


def render(names: list[str], series: list[Series], width: int) -> Iterator[str]:
    """Yield a group of lines per token, with one line per setting."""
    name_width = min(max(map(screen.display_width, names)), MAX_TOKEN_WIDTH)
    legend_width = min(max(len(one.legend) for one in series), width // 2)
    bar_width = min(width - name_width - legend_width - 12, MAX_BAR_WIDTH)
    largest = max(max(one.probabilities) for one in series)
    for i, name in enumerate(names):
        for n, one in enumerate(series):
            p = one.probabilities[i]
            if one.removed_by[i]:
                end = screen.paint(f"✗ {one.removed_by[i]}", "dim")
            else:
                end = f"{screen.decimal(p):6} " + screen.paint(screen.bar(p / largest, bar_width), SHADES[n])
            beginning = screen.pad("" if n else name, name_width)
            yield f"{beginning}  {screen.pad(one.legend, legend_width)}  {end}".rstrip()
        yield ""


# ---- with matplotlib: bars -------------------------------------------------------------------------------------


def bars(names: list[str], own: list[float], series: list[Series], title: str):
    """Return a Figure with a group of bars per token and a bar per setting; a cross marks a token that was removed."""
    from matplotlib.figure import Figure

    with pictures.style():
        width = 1.2 + 0.16 * len(names) * (len(series) + 1)  # inches
        figure = Figure(figsize=(min(max(6, width), 16), 4))
        axes = figure.add_subplot()
        handles = draw_series(axes, series)
        if any(one.keeps for one in series):
            handles.append(draw_own(axes, own))
        axes.set_ylim(0, None)
        handles += draw_crosses(axes, series)
        axes.set_xticks(
            range(len(names)),
            [pictures.drawable(screen.cut(name, MAX_TOKEN_WIDTH)) for name in names],
            rotation=90,
            parse_math=False,
        )
        axes.set_xlabel("next token")
        axes.set_ylabel("probability")
        axes.grid(axis="y", color="0.9")
        put_legend_above(axes, handles, pictures.drawable(title))
    return figure


def positions_of(n, series):
    """Return the centers of the bars of series number `n`, [n_tokens], and their width; a group is 0.8 wide."""
    bar_width = 0.8 / len(series)
    n_tokens = len(series[n].probabilities)
    return np.arange(n_tokens) + (n - (len(series) - 1) / 2) * bar_width, bar_width


def draw_series(axes, series):
    """Draw all bars; return their handles for the legend."""
    from matplotlib import colormaps

    shades = colormaps["cividis"](np.linspace(0.1, 0.95, len(series)))  # dark to light, also in print
    handles = []
    for n, one in enumerate(series):
        centers, bar_width = positions_of(n, series)
        look = {"color": shades[n], "edgecolor": "black", "linewidth": 0.6, "hatch": HATCHES[n]}
        handles.append(axes.bar(centers, one.probabilities, bar_width, label=pictures.drawable(one.legend), **look))
    return handles


def draw_own(axes, own):
    """Draw a dotted line over each group at the model's own probability."""
    centers = np.arange(len(own))
    ends = {"xmin": centers - 0.46, "xmax": centers + 0.46}
    return axes.hlines(own, **ends, color="black", linestyle="dotted", label="the model's own")


def draw_crosses(axes, series):
    """Draw a cross in place of each bar that a filter removed; return the handles for the legend."""
    places = []
    for n, one in enumerate(series):
        centers, _ = positions_of(n, series)
        places += [center for center, removed in zip(centers, one.removed_by, strict=True) if removed]
    if not places:
        return []
    heights = np.full(len(places), 0.015 * axes.get_ylim()[1])
    return axes.plot(places, heights, "x", color="black", markersize=4, label="removed")


def put_legend_above(axes, handles, title):
    """Draw the title and, below it, the legend: among the bars there may be no room for it."""
    longest = max(len(handle.get_label()) for handle in handles)
    n_columns = max(1, min(len(handles), int(axes.figure.get_figwidth() / (0.5 + 0.09 * longest))))
    n_lines = -(-len(handles) // n_columns)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": n_columns}
    legend = axes.legend(handles=handles, frameon=False, fontsize=9, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.set_title(title, parse_math=False, fontsize=11, pad=12 + 15 * n_lines)


# ---- the view ----------------------------------------------------------------------------------------------------


def title_of(model: Model, prompt: str) -> str:
    """Return the name of a model and the end of a prompt."""
    return f"{abbreviated(model.name, 40)}: {screen.cut_left(screen.printable(prompt), 60)} …"


def show_plot(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Print bars, or write a picture to a file."""
    title = title_of(model, prompt)
    if options.heatmap:
        figure = heatmap.heatmap_of(model, ids, title, options, seed)
        writing.write_file(options.output, lambda file: pictures.save(figure, file, options.output))
        return
    grid = settings.grid(options)
    names, own, series = compare(model, ids, grid, options)
    if fixed := settings.label_of_fixed(grid):
        title += f"  ({fixed})"
    if options.output is None:
        writing.write_lines([screen.paint(title, "bold"), "", *render(names, series, screen.width())])
    else:
        figure = bars(names, own, series, title)
        writing.write_file(options.output, lambda file: pictures.save(figure, file, options.output))
