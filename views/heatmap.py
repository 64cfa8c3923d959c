"""A picture of consecutive tokens: a column per token, in it the likeliest tokens at its place; one is framed.

A long text takes several strips. The picture fits on a page: a larger one is made smaller as a whole.
"""

import numpy as np

from cli.options import Options
from utils import Model
from views import pictures, screen, settings, writing
from views.next_token import trace

PAGE = ((10.9, 7.5), (7.5, 10.9))  # inches: A4 in both directions, without its margins
CELL = (0.9, 0.42)  # inches, of a token
MARGINS = (1.8, 0.9)  # of the picture: ranks and colours, title and legend
NAMES = 0.8  # inches below a strip, for the chosen tokens


def heatmap(records: list[dict], title: str, how: str):
    """Return a Figure of records of next_token.trace.

    The colour is the model's own probability. Tokens that a filter removed are hatched. The framed token is the chosen
    one; if its rank is below the rows, it is in the last row, with its rank. how: the setting, in words.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    n_ranks = min(number_of_ranks(record) for record in records)
    is_below = any(record["tokens"][-1]["rank"] > n_ranks for record in records)
    rows = [*range(1, n_ranks + 1), "below"][: n_ranks + is_below]
    n_columns, scale = layout(len(records), len(rows))
    strips = [records[start : start + n_columns] for start in range(0, len(records), n_columns)]
    with pictures.style(), rc_context({"font.size": pictures.STYLE["font.size"] * scale}):
        width, height = natural_size(n_columns, len(strips), len(rows))
        figure = Figure(figsize=(width * scale, height * scale), layout="constrained")
        grid = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
        for axes, strip in zip(grid, strips, strict=True):
            image = draw_strip(axes, strip, rows, n_columns, scale)
        grid[0].set_title(pictures.drawable(title), parse_math=False, fontsize=11 * scale)
        grid[-1].set_xlabel(pictures.drawable(f"{heatmap_legend(records)}\n{how}"), parse_math=False)
        figure.colorbar(image, ax=grid, label="the model's own probability", fraction=0.03, aspect=30)
    return figure


def natural_size(n_columns, n_strips, n_rows):
    """Return the width and the height of a picture in inches, if its page had no limit."""
    cell_width, cell_height = CELL
    return MARGINS[0] + cell_width * n_columns, MARGINS[1] + n_strips * (cell_height * n_rows + NAMES)


def layout(n_steps: int, n_rows: int) -> tuple[int, float]:
    """Return the number of columns of a strip, and the factor at most 1 with which the picture fits on a page.

    >>> layout(5, 6), layout(10, 5)
    ((5, 1), (10, 1))
    """
    best = max(range(1, n_steps + 1), key=lambda n: (fitting_scale(n, n_steps, n_rows), n))
    return best, fitting_scale(best, n_steps, n_rows)


def fitting_scale(n_columns, n_steps, n_rows):
    width, height = natural_size(n_columns, -(-n_steps // n_columns), n_rows)
    return max(min(1, page_width / width, page_height / height) for page_width, page_height in PAGE)


def draw_strip(axes, records, rows, n_columns, scale):
    """Draw the columns of some records; return the image, whose colours the colour bar explains."""
    axes.set_facecolor("0.85")
    n_ranks = sum(row != "below" for row in rows)
    probabilities = np.full((len(rows), n_columns), np.nan)
    for column, record in enumerate(records):
        for row, token in enumerate(record["tokens"]):
            probabilities[row, column] = token["probability"]
            draw_token(axes, column, row, token, token["rank"] > n_ranks, scale)
            if token["id"] == record["draw"]["id"]:
                draw_frame(axes, column, row, scale)
    image = axes.imshow(probabilities, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    chosen = [pictures.drawable(screen.cut(record["draw"]["name"], 11)) for record in records]
    axes.set_xticks(range(len(records)), chosen, rotation=90, parse_math=False)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylabel("rank")
    return image


def number_of_ranks(record):
    """Return the number of tokens in a record without a gap between their ranks, from rank 1."""
    return sum(token["rank"] == i for i, token in enumerate(record["tokens"], start=1))


def heatmap_legend(records):
    is_any_removed = any(token["removed_by"] for record in records for token in record["tokens"])
    return "the token chosen is framed" + "; hatched: removed by a filter" * is_any_removed


def draw_token(axes, column, row, token, is_below, scale):
    """Draw a token and its probability, or its rank if it is below the rows; hatch it if a filter removed it."""
    from matplotlib.patches import Rectangle

    p = token["probability"]
    look = {"ha": "center", "va": "center", "color": "black" if p > 0.45 else "white"}
    name = pictures.drawable(screen.cut(token["name"], 11))
    detail = f"rank {token['rank']}" if is_below else f"{p:.2f}"
    axes.text(column, row - 0.15, name, fontsize=8.5 * scale, parse_math=False, **look)
    axes.text(column, row + 0.25, detail, fontsize=6.5 * scale, **look)
    if token["removed_by"]:
        hatching = {"hatch": "////", "edgecolor": "0.55", "linewidth": 0, "fill": False}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **hatching))


def draw_frame(axes, column, row, scale):
    """Draw a white frame with a black edge, visible on every colour."""
    from matplotlib.patches import Rectangle

    for colour, line_width in (("black", 4), ("white", 2)):
        line = {"fill": False, "edgecolor": colour, "linewidth": line_width * scale, "zorder": 3}
        axes.add_patch(Rectangle((column - 0.46, row - 0.45), 0.92, 0.9, **line))


# ---- the view ----------------------------------------------------------------------------------------------------


def heatmap_of(model: Model, ids: list[int], title: str, options: Options, seed: int):
    """Return the Figure of the steps that the options ask for."""
    (setting,) = settings.grid(options)
    records = list(writing.with_progress_bar(trace(model, ids, setting, options, seed), options.steps, "tracing"))
    how = settings.label(setting) or "greedy"
    is_drawn = "u" in records[0]["draw"]
    return heatmap(records, title, f"{how}, seed {seed}" if is_drawn else how)
