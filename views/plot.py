"""Pictures of the next token: grouped bars for several settings, and a heat map of consecutive tokens.

The grouped bars follow Sebastian Raschka, "Build a Large Language Model (From Scratch)", chapter 5, for every sampling
option. Without an output file, the bars are drawn in the terminal; a file needs matplotlib.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

import gpt2
import sampling
from cli.command_flags import N_ROWS
from cli.options import Options
from utils import Model
from views import screen, settings, writing
from views.next_token import MAX_BAR_WIDTH, MAX_TOKEN_WIDTH, drawn_from, name_of, ranked, removed_by, stages, trace

FORMATS = (".png", ".svg", ".pdf")
MAX_SETTINGS = 8  # in one picture; more are hard to distinguish
MAX_STEPS = 100  # columns of a heat map; a picture of more takes very much memory
MAX_ROWS = 50  # tokens of a picture
SHADES = ("36", "33", "35", "34", "32", "31", "37", "90")  # ANSI codes, for a terminal with colours
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
# Fonts for the characters that matplotlib's own font lacks. Of each line, the first that is installed is used.
FONTS = (
    ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei"),
    ("Noto Emoji", "Segoe UI Emoji", "Symbola"),
    ("Noto Sans Symbols 2", "Segoe UI Symbol", "Apple Symbols"),
)
STYLE = {
    "font.size": 10,
    "text.usetex": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "picoGPT",  # the same picture gives the same file
    "pdf.fonttype": 42,
}


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
    shown = tokens_to_show(logits, options.rows or N_ROWS["plot"])
    series = []
    for setting in grid:
        # Without a setting, the bars show the model's own distribution and not the greedy choice.
        sampler = settings.new_sampler(setting) if setting else sampling.make_sampler("temperature")
        process = settings.new_logits_processor(model, setting, options, len(ids))
        processed = process(logits, ids) if process else logits
        label = settings.label(settings.selected(setting, settings.varying(grid)))
        series.append(make_series(label or "the model's own", sampler, processed, shown))
    names = [name_of(model.encoder, token) for token in shown]
    own = sampling.softmax_with_temperature(logits)[shown].tolist()
    return names, own, series


def tokens_to_show(logits, n):
    """Return the likeliest `n` ids, likeliest first; a vocabulary of at most `n` tokens keeps its order."""
    return np.arange(len(logits)) if len(logits) <= n else ranked(logits)[:n]


def make_series(label, sampler, logits, shown):
    """Return the Series of a sampler. logits: processed, [n_vocab]. shown: the ids to show."""
    removed = removed_by(stages(sampler, logits), len(logits))
    return Series(
        label=label,
        probabilities=drawn_from(sampler, logits)[shown].tolist(),
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


# ---- with matplotlib: text -------------------------------------------------------------------------------------


def check_matplotlib() -> None:
    """Raise RuntimeError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RuntimeError("a picture needs matplotlib, which is not installed: pip install matplotlib") from None


def style():
    """Return a context with our settings of matplotlib, not the user's, and the fonts that are installed."""
    from matplotlib import font_manager, rc_context

    installed = {font.name for font in font_manager.fontManager.ttflist}
    further = [next(filter(installed.__contains__, names), None) for names in FONTS]
    return rc_context(STYLE | {"font.family": ["DejaVu Sans", *filter(None, further)]})


def drawable(text: str) -> str:
    """Return the text with an escape for each character that none of the fonts can draw."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = [get_font(findfont(FontProperties(family=[name]))) for name in rcParams["font.family"]]

    def can_draw(character):
        return character == "\n" or any(font.get_char_index(ord(character)) for font in fonts)

    return "".join(c if can_draw(c) else c.encode("unicode_escape").decode() for c in text)


# ---- with matplotlib: bars -------------------------------------------------------------------------------------


def bars(names: list[str], own: list[float], series: list[Series], title: str):
    """Return a Figure with a group of bars per token and a bar per setting; a cross marks a token that was removed."""
    from matplotlib.figure import Figure

    with style():
        width = 1.2 + 0.16 * len(names) * (len(series) + 1)  # inches
        figure = Figure(figsize=(min(max(6, width), 16), 4))
        axes = figure.add_subplot()
        handles = draw_series(axes, series)
        if any(one.keeps for one in series):
            handles.append(draw_own(axes, own))
        axes.set_ylim(0, None)
        handles += draw_crosses(axes, series)
        axes.set_xticks(range(len(names)), [drawable(name) for name in names], rotation=90, parse_math=False)
        axes.set_xlabel("next token")
        axes.set_ylabel("probability")
        axes.grid(axis="y", color="0.9")
        put_legend_above(axes, handles, drawable(title))
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
        handles.append(axes.bar(centers, one.probabilities, bar_width, label=drawable(one.legend), **look))
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


# ---- with matplotlib: a heat map -------------------------------------------------------------------------------


def heatmap(records: list[dict], title: str, how: str):
    """Return a Figure with a column per record of next_token.trace, and in it the likeliest tokens; one is framed.

    The colour is the model's own probability. Tokens that a filter removed are hatched. The framed token is the chosen
    one; if its rank is below the rows, it is in the last row, with its rank. how: the setting, in words.
    """
    from matplotlib.figure import Figure

    with style():
        n_ranks = max(number_of_ranks(record) for record in records)
        is_below = any(record["tokens"][-1]["rank"] > n_ranks for record in records)
        n_rows = n_ranks + is_below
        figure = Figure(figsize=(1.8 + 0.9 * len(records), 1.6 + 0.42 * n_rows))
        axes = figure.add_subplot(facecolor="0.85")
        probabilities = np.full((n_rows, len(records)), np.nan)
        for column, record in enumerate(records):
            for row, token in enumerate(record["tokens"]):
                probabilities[row, column] = token["probability"]
                draw_token(axes, column, row, token, is_below=token["rank"] > n_ranks)
                if token["id"] == record["draw"]["id"]:
                    draw_frame(axes, column, row)
        image = axes.imshow(probabilities, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        chosen = [drawable(record["draw"]["token"]) for record in records]
        axes.set_xticks(range(len(records)), chosen, rotation=90, parse_math=False)
        axes.set_yticks(range(n_rows), [*range(1, n_ranks + 1), "below"][:n_rows])
        axes.set_xlabel(drawable(f"{heatmap_legend(records)}\n{how}"), parse_math=False)
        axes.set_ylabel("rank")
        axes.set_title(drawable(title), parse_math=False, fontsize=11)
        figure.colorbar(image, label="the model's own probability")
    return figure


def number_of_ranks(record):
    """Return the number of tokens in a record without a gap between their ranks, from rank 1."""
    return sum(token["rank"] == i for i, token in enumerate(record["tokens"], start=1))


def heatmap_legend(records):
    is_any_removed = any(token["removed_by"] for record in records for token in record["tokens"])
    return "the token chosen is framed" + "; hatched: removed by a filter" * is_any_removed


def draw_token(axes, column, row, token, is_below):
    """Draw a token and its probability, or its rank if it is below the rows; hatch it if a filter removed it."""
    from matplotlib.patches import Rectangle

    p = token["probability"]
    look = {"ha": "center", "va": "center", "color": "black" if p > 0.45 else "white"}
    name = drawable(screen.cut(token["token"], 11))
    detail = f"rank {token['rank']}" if is_below else f"{p:.2f}"
    axes.text(column, row - 0.15, name, fontsize=8.5, parse_math=False, **look)
    axes.text(column, row + 0.25, detail, fontsize=6.5, **look)
    if token["removed_by"]:
        hatching = {"hatch": "////", "edgecolor": "0.55", "linewidth": 0, "fill": False}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **hatching))


def draw_frame(axes, column, row):
    """Draw a white frame with a black edge, visible on every colour."""
    from matplotlib.patches import Rectangle

    for colour, line_width in (("black", 4), ("white", 2)):
        line = {"fill": False, "edgecolor": colour, "linewidth": line_width, "zorder": 3}
        axes.add_patch(Rectangle((column - 0.46, row - 0.45), 0.92, 0.9, **line))


def save(figure, file: BinaryIO, name: str) -> None:
    """Write a figure to an open file, uncropped and without a date, in the format that the name's suffix says."""
    suffix = Path(name).suffix.lower()
    dates = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with style():
        figure.savefig(file, format=suffix[1:], dpi=150, bbox_inches="tight", metadata=dates[suffix])


# ---- the view ----------------------------------------------------------------------------------------------------


def show_plot(model: Model, ids: list[int], prompt: str, options: Options, seed: int) -> None:
    """Print bars, or write a picture to a file."""
    title = f"{screen.cut_left(screen.printable(prompt), 60)} …"
    if options.heatmap:
        figure = heatmap_of(model, ids, title, options, seed)
        writing.write_file(options.output, lambda file: save(figure, file, options.output))
        return
    grid = settings.grid(options)
    names, own, series = compare(model, ids, grid, options)
    if fixed := settings.label_of_fixed(grid):
        title += f"  ({fixed})"
    if options.output is None:
        writing.write_lines([screen.paint(title, "bold"), "", *render(names, series, screen.width())])
    else:
        figure = bars(names, own, series, title)
        writing.write_file(options.output, lambda file: save(figure, file, options.output))


def heatmap_of(model, ids, title, options, seed):
    (setting,) = settings.grid(options)
    records = list(writing.with_progress_bar(trace(model, ids, setting, options, seed), options.steps))
    how = settings.label(setting) or "greedy"
    is_drawn = "u" in records[0]["draw"]
    return heatmap(records, title, f"{how}, seed {seed}" if is_drawn else how)
