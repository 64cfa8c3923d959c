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


# ---- what there is to show ---------------------------------------------------------------------------------------


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
                "keeps": int(np.count_nonzero(removed == "")),
            }
        )
    return [name_of(model.encoder, token) for token in shown], own[shown].tolist(), series


def label(one):
    """What the legend says of a series: its setting, and what is left of the vocabulary if that is not all."""
    return one["label"] + (f" (keeps {one['keeps']})" if any(one["removed_by"]) else "")


# ---- in the terminal ---------------------------------------------------------------------------------------------


def lines_of(names, series, width):
    """A group of lines a token, a line a setting."""
    size, label_size = min(max(map(screen.cells, names)), 16), min(max(len(label(one)) for one in series), width // 2)
    room, largest = width - size - label_size - 12, max(max(one["probabilities"]) for one in series)
    for i, name in enumerate(names):
        for n, one in enumerate(series):
            p, removed = one["probabilities"][i], one["removed_by"][i]
            bar = screen.paint(screen.bar(p / largest, room), SHADES[n % len(SHADES)])
            end = screen.paint(f"✗ {removed}", "dim") if removed else f"{screen.decimal(p):6} {bar}"
            yield f"{screen.pad('' if n else name, size)}  {screen.pad(label(one), label_size)}  {end}".rstrip()
        yield ""


# ---- with matplotlib ---------------------------------------------------------------------------------------------


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
    has = {c: any(font.get_char_index(ord(c)) for font in fonts) for c in set(text)}
    return "".join(c if has[c] else c.encode("unicode_escape").decode() for c in text)


def bars(names, own, series, title):
    """A figure: a group of bars a token, a bar a setting; a cross is where a filter left none."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    with style():
        wide = 0.8 / len(series)
        figure = Figure(figsize=(max(6, min(16, 0.5 + 0.3 * len(names) * (len(series) + 1))), 4.2))
        axes = figure.add_subplot()
        places = np.arange(len(names))
        shades = colormaps["cividis"](np.linspace(0.15, 0.95, len(series)))  # dark to light for every eye, and in print
        for n, one in enumerate(series):
            at = places + (n - (len(series) - 1) / 2) * wide
            look = {"color": shades[n], "edgecolor": "black", "linewidth": 0.6, "hatch": HATCHES[n % len(HATCHES)]}
            axes.bar(at, one["probabilities"], wide, label=drawable(label(one)), **look)
            gone = [x for x, removed in zip(at, one["removed_by"], strict=True) if removed]
            axes.plot(gone, [0.012 * axes.get_ylim()[1]] * len(gone), "x", color="black", markersize=4, clip_on=False)
        if any(any(one["removed_by"]) for one in series):
            half = [-0.45, 0.45]
            lines = [
                axes.plot(x + half, [p, p], color="black", linewidth=1, linestyle=":")
                for x, p in zip(places, own, strict=True)
            ]
            lines[0][0].set_label("the model's own")
            axes.plot([], [], "x", color="black", markersize=4, label="removed")
        axes.set_xticks(places, [drawable(name) for name in names], rotation=90, parse_math=False)
        axes.set_xlabel("next token")
        axes.set_ylabel("probability")
        axes.set_title(drawable(title), parse_math=False, fontsize=10)
        axes.grid(axis="y", color="0.9")
        axes.legend(frameon=False)
    return figure


def heatmap(notes, title):
    """A figure: a column a token of the text, in it the tokens that were likeliest there; the one chosen is framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    with style():
        n_rows = max(len(note["tokens"]) for note in notes)
        grid = np.full((n_rows, len(notes)), np.nan)
        for column, note in enumerate(notes):
            grid[: len(note["tokens"]), column] = [token["probability"] for token in note["tokens"]]
        figure = Figure(figsize=(1.6 + 0.95 * len(notes), 1.4 + 0.36 * n_rows))
        axes = figure.add_subplot()
        image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for column, note in enumerate(notes):
            for row, token in enumerate(note["tokens"]):
                colour = "black" if token["probability"] > 0.5 else "white"
                words = drawable(screen.cut(token["token"], 11))
                axes.text(column, row, words, color=colour, ha="center", va="center", fontsize=8, parse_math=False)
                if token["id"] == note["draw"]["id"]:
                    box = Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor="white", linewidth=2)
                    axes.add_patch(box)
        chosen = [drawable(note["draw"]["token"]) for note in notes]
        axes.set_xticks(range(len(notes)), chosen, rotation=90, parse_math=False)
        axes.set_yticks(range(n_rows), [str(row + 1) for row in range(n_rows)])
        axes.set_xlabel("the text, token by token")
        axes.set_ylabel("rank")
        axes.set_title(drawable(title), parse_math=False, fontsize=10)
        figure.colorbar(image, label="probability")
    return figure


def save(figure, file, name):
    """Write a figure to an open file, in the format that the name says, with nothing cut off, and no date in it."""
    kind = name[-3:].lower()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    with style():
        figure.savefig(file, format=kind, dpi=150, bbox_inches="tight", metadata=dates[kind])
