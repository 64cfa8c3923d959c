"""Pictures of the next token: bars for several settings side by side, and a heat map of a text as it is made.

The grouped bars are those of Sebastian Raschka, "Build a Large Language Model (From Scratch)", chapter 5, for any knob.
Without a file to write to, the bars are drawn in the terminal. Pictures take matplotlib, which nothing else here does.
"""

import numpy as np

import gpt2
import sampling
from views import screen, settings
from views.next_token import drawn_from, name_of, ranked, removed_by, stages

FORMATS = (".png", ".svg", ".pdf")
MOST = 8  # settings in one picture
SHADES = ("36", "33", "35", "34", "32", "31", "37", "90")  # in a terminal, ANSI's; labels tell the bars apart too
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
# Fonts that have what matplotlib's own lacks, by the names that systems have them under; the first found of each line.
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
    "svg.hashsalt": "picoGPT",  # the same picture, the same file
    "pdf.fonttype": 42,
}


# ---- what there is to show -------------------------------------------------------------------------------------


def data(model, ids, options):
    """The tokens to show, by name; the model's own probabilities of them; and for each setting its bars."""
    logits = gpt2.gpt2(ids, **model.params, n_head=model.n_head, last_only=True)[-1]
    n_rows = options.rows or 10
    shown = np.arange(len(logits)) if len(logits) <= n_rows else ranked(logits)[:n_rows]
    own = sampling.softmax_with_temperature(logits)
    names, series = settings.varying(options.settings), []
    for setting in options.settings:
        sampler, penalise = settings.sampler_and_processor(model, setting, options, len(ids))
        sampler = sampler if setting else sampling.make_sampler("temperature")  # no setting: the model as it is
        changed = penalise(logits, ids) if penalise else logits
        removed = removed_by(stages(sampler, changed), len(logits))
        series.append(
            {
                "label": settings.label(settings.of(setting, names)) or "the model's own",
                "probabilities": drawn_from(sampler, changed)[shown].tolist(),
                "removed_by": [name or None for name in removed[shown]],
                "keeps": int(np.count_nonzero(removed == "")) if removed.any() else None,
            }
        )
    return [name_of(model.encoder, token) for token in shown], own[shown].tolist(), series


def label(one):
    """What the legend says of a series: its setting, and what is left of the vocabulary if that is not all."""
    return one["label"] + ("" if one["keeps"] is None else f" (keeps {one['keeps']})")


# ---- in the terminal -------------------------------------------------------------------------------------------


def lines_of(names, series, width):
    """A group of lines a token, a line a setting."""
    size, label_size = min(max(map(screen.cells, names)), 16), min(max(len(label(one)) for one in series), width // 2)
    room, largest = min(width - size - label_size - 12, 60), max(max(one["probabilities"]) for one in series)
    for i, name in enumerate(names):
        for n, one in enumerate(series):
            p, removed = one["probabilities"][i], one["removed_by"][i]
            bar = screen.paint(screen.bar(p / largest, room), SHADES[n % len(SHADES)])
            end = screen.paint(f"✗ {removed}", "dim") if removed else f"{screen.decimal(p):6} {bar}"
            yield f"{screen.pad('' if n else name, size)}  {screen.pad(label(one), label_size)}  {end}".rstrip()
        yield ""


# ---- with matplotlib -------------------------------------------------------------------------------------------


def check_matplotlib():
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RuntimeError("pictures are drawn by matplotlib, which is not there: pip install matplotlib") from None


def style():
    """Our settings for matplotlib, whatever the user's own, and the fonts at hand."""
    from matplotlib import font_manager, rc_context

    there = {font.name for font in font_manager.fontManager.ttflist}
    others = [next(filter(there.__contains__, names), None) for names in FONTS]
    return rc_context(STYLE | {"font.family": ["DejaVu Sans", *filter(None, others)]})


def drawable(text):
    """The text with an escape for each character that none of the fonts can draw; they are asked, not guessed at."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = [get_font(findfont(FontProperties(family=[name]))) for name in rcParams["font.family"]]
    has = {c: c == "\n" or any(font.get_char_index(ord(c)) for font in fonts) for c in set(text)}
    return "".join(c if has[c] else c.encode("unicode_escape").decode() for c in text)


def bars(names, own, series, title):
    """A figure: a group of bars a token, a bar a setting; a cross is where a filter left none."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(min(max(6, 1.2 + 0.16 * len(names) * (len(series) + 1)), 16), 4))
        axes, wide = figure.add_subplot(), 0.8 / len(series)
        places = np.arange(len(names))
        shades = colormaps["cividis"](np.linspace(0.1, 0.95, len(series)))  # dark to light for every eye, and in print
        handles, gone = [], []
        for n, one in enumerate(series):
            at = places + (n - (len(series) - 1) / 2) * wide
            look = {"color": shades[n], "edgecolor": "black", "linewidth": 0.6, "hatch": HATCHES[n]}
            handles.append(axes.bar(at, one["probabilities"], wide, label=drawable(label(one)), **look))
            gone += [x for x, removed in zip(at, one["removed_by"], strict=True) if removed]
        if any(one["keeps"] for one in series):
            ends = {"xmin": places - 0.46, "xmax": places + 0.46}
            handles.append(axes.hlines(own, **ends, color="black", linestyle="dotted", label="the model's own"))
        axes.set_ylim(0, None)
        if gone:
            heights = np.full(len(gone), 0.015 * axes.get_ylim()[1])
            handles += axes.plot(gone, heights, "x", color="black", markersize=4, label="removed")
        axes.set_xticks(places, [drawable(name) for name in names], rotation=90, parse_math=False)
        axes.set_xlabel("next token")
        axes.set_ylabel("probability")
        axes.grid(axis="y", color="0.9")
        put_legend_above(axes, handles, drawable(title))
    return figure


def put_legend_above(axes, handles, title):
    """The title, and under it the legend: among the bars there may be no room for it."""
    longest = max(len(handle.get_label()) for handle in handles)
    n_columns = max(1, min(len(handles), int(axes.figure.get_figwidth() / (0.5 + 0.09 * longest))))
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": n_columns}
    legend = axes.legend(handles=handles, frameon=False, fontsize=9, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.set_title(title, parse_math=False, fontsize=11, pad=12 + 15 * -(-len(handles) // n_columns))


def heatmap(notes, title, how):
    """A figure: a column a token of the text, in it the tokens likeliest there; the one chosen is framed.

    The colour is the probability that the model itself gives; the cells of tokens that a filter removed are hatched.
    One that was chosen from further down is in a row of its own, with its rank.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    with style():
        n_ranks = max(sum(token["rank"] == i + 1 for i, token in enumerate(note["tokens"])) for note in notes)
        is_below = any(note["tokens"][-1]["rank"] > n_ranks for note in notes)
        grid = np.full((n_ranks + is_below, len(notes)), np.nan)
        figure = Figure(figsize=(1.8 + 0.9 * len(notes), 1.6 + 0.42 * len(grid)))
        axes = figure.add_subplot(facecolor="0.85")
        for column, note in enumerate(notes):
            for row, token in enumerate(note["tokens"]):
                grid[row, column] = p = token["probability"]
                words = drawable(screen.cut(token["token"], 11))
                more = f"{p:.2f}" if token["rank"] <= n_ranks else f"rank {token['rank']}"
                look = {"ha": "center", "va": "center", "color": "black" if p > 0.45 else "white"}
                axes.text(column, row - 0.15, words, fontsize=8.5, parse_math=False, **look)
                axes.text(column, row + 0.25, more, fontsize=6.5, **look)
                if token["removed_by"]:
                    box = {"hatch": "////", "edgecolor": "0.55", "linewidth": 0, "fill": False}
                    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **box))
                if token["id"] == note["draw"]["id"]:
                    for colour, line in (("black", 4), ("white", 2)):
                        box = {"fill": False, "edgecolor": colour, "linewidth": line, "zorder": 3}
                        axes.add_patch(Rectangle((column - 0.46, row - 0.45), 0.92, 0.9, **box))
        image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        chosen = [drawable(note["draw"]["token"]) for note in notes]
        axes.set_xticks(range(len(notes)), chosen, rotation=90, parse_math=False)
        axes.set_yticks(range(len(grid)), [*range(1, n_ranks + 1), "below"][: len(grid)])
        is_cut = any(token["removed_by"] for note in notes for token in note["tokens"])
        legend = "the token chosen is framed" + "; hatched: removed by a filter" * is_cut
        axes.set_xlabel(drawable(f"{legend}\n{how}"), parse_math=False)
        axes.set_ylabel("rank")
        axes.set_title(drawable(title), parse_math=False, fontsize=11)
        figure.colorbar(image, label="the model's own probability")
    return figure


def save(figure, file, name):
    """Write a figure to an open file, in the format that the name says, with nothing cut off, and no date in it."""
    kind = name[-3:].lower()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    with style():
        figure.savefig(file, format=kind, dpi=150, bbox_inches="tight", metadata=dates[kind])
