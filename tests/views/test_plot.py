"""explore.py plot: the content of a picture, not its pixels: the heights of the bars, the names of all tokens."""

import itertools
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import requires
from views_helpers import ROOT, records_of, run_explore, stdout_of

import utils
from views import command, heatmap, pictures, plot, screen, toy
from views.next_token import name_of

matplotlib = requires("matplotlib")

# softmax(logits / T) of Raschka's nine words
AT = {
    0.1: [0, 0, 0, 0.990987, 0, 0, 0, 0.009013, 0],
    1: [0.060907, 0.001631, 0.000100, 0.572120, 0.003419, 0.000133, 0.000101, 0.357576, 0.004012],
    5: [0.154648, 0.074975, 0.042912, 0.242052, 0.086934, 0.045384, 0.042998, 0.220336, 0.089761],
}
WORDS = list(toy.TOY)
AWKWARD = [
    *(bytes([i]) for i in (0, 7, 9, 10, 13, 27, 32, 36, 38, 60, 92, 97, 127, 128, 0xE4, 255)),
    "你好".encode(),
    "🤗".encode(),
    b"$\\x$",
    b"_a",
    b"%",
    "ﷺ".encode(),
]


@pytest.fixture
def run(here):
    return lambda *args, **options: run_explore(here, "plot", *args, **options)


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved, in a list."""
    saved = []
    monkeypatch.setattr(pictures, "save", lambda figure, file, name: saved.append(figure))
    return saved


@pytest.fixture
def pictured(run, figures, tmp_path):
    """The axes of the picture that a command draws."""

    def look(*args):
        code, out, err = run(*args, "--output", tmp_path / "a.png")
        assert (code, out, err) == (0, "", "")
        return figures[-1].axes[0]

    return look


def heights(axes):
    return [[bar.get_height() for bar in bars] for bars in axes.containers]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def crosses(axes):
    """Return the position of each cross on the x axis."""
    return sorted(x for line in axes.lines if line.get_label() == "removed" for x in line.get_xdata())


# ---- bars ------------------------------------------------------------------------------------------------------


def test_the_heights_of_the_bars_are_the_probabilities(pictured):
    axes = pictured("--toy", "--temperature", "1,0.1,5")
    np.testing.assert_allclose(heights(axes), [AT[1], AT[0.1], AT[5]], rtol=0, atol=1e-6)
    assert [label.get_text() for label in axes.get_xticklabels()] == WORDS
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {90}
    assert legend(axes) == ["temperature = 1", "temperature = 0.1", "temperature = 5"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("probability", "next token")
    assert axes.get_title() == "toy: every effort moves you …"
    assert crosses(axes) == []


def test_the_bars_of_a_token_are_side_by_side_and_centered_over_its_name(pictured):
    axes = pictured("--toy", "--temperature", "1,0.1,5")
    for place in range(9):
        edges = [(bars[place].get_x(), bars[place].get_x() + bars[place].get_width()) for bars in axes.containers]
        assert all(edges[i][1] == pytest.approx(edges[i + 1][0]) for i in range(2))
        assert edges[0][0] + edges[-1][1] == pytest.approx(2 * place)
        assert edges[0][0] > place - 0.5


@pytest.mark.parametrize(
    ("args", "labels", "kept"),
    [
        (["--top_k", "1,3,5"], ["top_k = 1", "top_k = 3", "top_k = 5"], [{3}, {0, 3, 7}, {0, 3, 4, 7, 8}]),
        (["--top_p", "0.5,0.9,0.95"], ["top_p = 0.5", "top_p = 0.9", "top_p = 0.95"], [{3}, {3, 7}, {0, 3, 7}]),
        (["--min_p", "0.1,0.5"], ["min_p = 0.1", "min_p = 0.5"], [{0, 3, 7}, {3, 7}]),
        (["--typical_p", "0.2,0.95"], ["typical_p = 0.2", "typical_p = 0.95"], [{7}, {0, 3, 7}]),
        (["--entmax_alpha", "1.3,1.5"], ["entmax_alpha = 1.3", "entmax_alpha = 1.5"], [{0, 3, 7}, {3, 7}]),
        (["--strategy", "greedy,top_p"], ["greedy", "top_p"], [{3}, {3, 7}]),
    ],
)
def test_a_removed_token_has_a_cross_and_no_bar(pictured, args, labels, kept):
    axes = pictured("--toy", *args)
    shown = [{i for i, height in enumerate(row) if height > 0} for row in heights(axes)]
    assert shown == kept
    assert [sum(row) for row in heights(axes)] == pytest.approx([1] * len(kept))
    expected = [f"{label} (keeps {len(ids)})" for label, ids in zip(labels, kept, strict=True)]
    assert legend(axes) == [*expected, "the model's own", "removed"]
    middles = [bar.get_x() + bar.get_width() / 2 for bars in axes.containers for bar in bars if bar.get_height() == 0]
    assert crosses(axes) == pytest.approx(sorted(middles))
    own = [line[0][1] for line in axes.collections[0].get_segments()]
    assert own == pytest.approx(AT[1], abs=1e-6)


def test_a_large_vocabulary_shows_the_likeliest_tokens_and_counts_all_that_remain(pictured):
    axes = pictured("Once upon a time there was a", "--model_size", "tiny", "--top_k", "0,3,40", "--rows", "7")
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert len(names) == 7 and names[0] == "␣little"
    assert heights(axes)[0] == sorted(heights(axes)[0], reverse=True)
    assert legend(axes)[:3] == ["top_k = 0", "top_k = 3 (keeps 3)", "top_k = 40 (keeps 40)"]
    assert len(crosses(axes)) == 4


def test_a_token_that_a_bias_makes_likely_is_shown(pictured):
    words = ("Once upon a time", "--model_size", "tiny", "--logit_bias", '{"1000": 30}', "--rows", "3")
    axes = pictured(*words)
    (token,) = [name_of(utils.load("tiny").encoder, 1000)]
    assert next(label.get_text() for label in axes.get_xticklabels()) == token
    assert legend(axes) == ["with biases and penalties"]


def test_the_tokens_are_ranked_by_the_largest_probability_of_any_setting(pictured):
    axes = pictured("One day", "--model_size", "tiny", "--typical_p", "0.1,0.5", "--temperature", "2", "--rows", "6")
    largest = np.max(heights(axes), axis=0)
    assert largest.tolist() == sorted(largest, reverse=True) and largest[0] > 0.5


def test_a_picture_names_the_model_and_shortens_long_tokens(monkeypatch, pictured):
    model = toy.toy_model()
    monkeypatch.setattr(command, "toy_model", lambda: replace(model, name="m" * 100))
    monkeypatch.setattr(plot, "name_of", lambda encoder, token: f"{token}" * 30)
    axes = pictured("--toy")
    assert axes.get_title().startswith("mmm") and len(axes.get_title()) < 110
    assert max(len(label.get_text()) for label in axes.get_xticklabels()) <= 16


def test_text_in_an_svg_remains_text(run, tmp_path):
    run("--toy", "--output", tmp_path / "a.svg")
    assert ">forward</text>" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_the_options_with_one_value_are_in_the_title(pictured):
    assert pictured("--toy", "--temperature", "2", "--top_p", "0.5,0.9").get_title().endswith("…  (temperature = 2)")


def test_without_a_setting_the_bars_show_the_model_s_own_distribution(pictured):
    axes = pictured("--toy")
    np.testing.assert_allclose(heights(axes), [AT[1]], rtol=0, atol=1e-6)
    assert legend(axes) == ["the model's own"]


def test_the_bars_differ_in_lightness_and_hatching(pictured):
    axes = pictured("--toy", "--temperature", "0.1,0.5,0.7,1,1.5,2,3,5")
    colours = [bars[0].get_facecolor()[:3] for bars in axes.containers]
    lightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in colours]
    assert all(after - before > 0.02 for before, after in itertools.pairwise(lightness))
    assert len({bars[0].get_hatch() for bars in axes.containers}) == 8


# ---- any token, any format -------------------------------------------------------------------------------------


def awkward_series(n):
    return [plot.Series(label="top_k = 1", probabilities=[0.5] * n, removed_by=[None] * n, keeps=None)]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_any_token_can_be_drawn(tmp_path, kind):
    names = [screen.visible(token) for token in AWKWARD]
    figure = plot.bars(names, [0.1] * len(names), awkward_series(len(names)), "".join(names[-6:]) + "$")
    with open(tmp_path / f"a.{kind}", "wb") as file:
        pictures.save(figure, file, f"a.{kind}")  # a warning, as of a missing glyph, is an error here
    start = (tmp_path / f"a.{kind}").read_bytes()[:5]
    assert start == {"png": b"\x89PNG\r", "svg": b"<?xml", "pdf": b"%PDF-"}[kind]
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert (
        labels[3] == "\\n"
        and labels[6:8] == ["␣", "$"]
        and labels[14] == "\\xe4"
        and labels[-4:-1] == ["$\\x$", "_a", "%"]
    )


def test_a_character_is_escaped_unless_an_installed_font_has_it(monkeypatch):
    with pictures.style():
        assert pictures.drawable("a🄫é") == "a🄫é" or pictures.drawable("a🄫é") == "a\\U0001f12bé"
        escaped = pictures.drawable("\u1d7ca\u2a3f\ue000")
    assert escaped.endswith("\\ue000")
    lacking = next(chr(c) for c in range(0xE000, 0xE400) if in_stix(chr(c)))  # in STIX but not in DejaVu Sans
    with pictures.style():
        assert pictures.drawable(lacking).startswith("\\u")
    monkeypatch.setattr(pictures, "FONTS", (("No Such Font", "STIXNonUnicode"),))
    with pictures.style():
        assert pictures.drawable(lacking) == lacking


def in_stix(character):
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties(family=["STIXNonUnicode"]))).get_char_index(ord(character))


@pytest.mark.parametrize(
    "args", [["--top_k", "1,2,3"], ["--heatmap", "--steps", "3", "--temperature", "5", "--seed", "1"]]
)
def test_the_edge_of_the_picture_is_white(run, tmp_path, args):
    prompt = "every effort " * 30
    assert run(prompt, "--toy", *args, "--output", tmp_path / "a.png")[0] == 0
    image = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    for edge in (image[:8], image[-8:], image[:, :8], image[:, -8:]):
        assert edge.min() == 1  # white
    assert image.shape[1] < 2500


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_command_writes_the_same_file(run, tmp_path, kind):
    for name in ("a", "b"):
        assert run("--toy", "--top_p", "0.5,1", "--output", tmp_path / f"{name}.{kind}")[0] == 0
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_the_user_s_own_style_has_no_effect(run, tmp_path):
    with matplotlib.rc_context({"text.usetex": True, "font.family": "No Such Font"}):
        assert run("--toy", "--output", tmp_path / "a.PNG") == (0, "", "")


def test_a_picture_that_cannot_be_completed_leaves_the_old_file(run, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(figure, file, name):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "save", fail)
    assert run("--toy", "--output", tmp_path / "a.png")[0] == 130
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


# ---- heat map --------------------------------------------------------------------------------------------------

STEPS = ("Once upon a time", "--model_size=tiny", "--temperature=3", "--top_k=30", "--seed=2", "--steps=5")


def test_a_heat_map_has_the_probabilities_the_names_and_a_frame_around_the_chosen_tokens(here, pictured):
    axes = pictured(*STEPS, "--heatmap")
    records = records_of(here, *STEPS)
    grid = axes.images[0].get_array().filled(np.nan)
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    frames = {tuple(np.round(box.get_center()).astype(int)) for box in axes.patches if box.get_linewidth() == 2}
    assert any(record["tokens"][-1]["rank"] > 5 for record in records)  # else choose another seed
    for column, record in enumerate(records):
        for row, token in enumerate(record["tokens"]):
            assert grid[row, column] == pytest.approx(token["probability"])
            assert texts[column, row - 0.15] == token["name"]
            assert ((column, row) in frames) == (token["id"] == record["draw"]["id"])
        assert np.isnan(grid[len(record["tokens"]) :, column]).all()
    assert [label.get_text() for label in axes.get_xticklabels()] == [record["draw"]["name"] for record in records]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "3", "4", "5", "below"]
    assert "temperature = 3, top_k = 30, seed 2" in axes.get_xlabel()
    assert axes.figure.axes[1].get_ylabel() == "the model's own probability"


def test_a_removed_token_is_hatched_in_a_heat_map(pictured):
    axes = pictured("--toy", "--heatmap", "--top_k", "2", "--steps", "2", "--seed", "1")
    hatched = sorted(tuple(np.round(box.get_center()).astype(int)) for box in axes.patches if box.get_hatch())
    assert hatched == [(column, row) for column in range(2) for row in (2, 3, 4)]


@pytest.mark.parametrize("n_steps", [1, 11, 12, 30, 100])
@pytest.mark.parametrize("n_rows", [1, 6, 50])
def test_a_heat_map_fits_on_a_page_with_all_of_its_columns(n_steps, n_rows):
    n_columns, scale = heatmap.layout(n_steps, n_rows)
    n_strips = -(-n_steps // n_columns)
    width, height = (scale * size for size in heatmap.natural_size(n_columns, n_strips, n_rows))
    assert any(width <= across + 1e-9 and height <= down + 1e-9 for across, down in heatmap.PAGE)
    assert n_strips * n_columns >= n_steps and 0 < scale <= 1


def test_a_long_heat_map_has_several_strips(figures, run, tmp_path):
    run("--toy", "--heatmap", "--steps", "40", "--temperature", "1", "--output", tmp_path / "a.png")
    *strips, _ = figures[-1].axes
    assert len(strips) > 1
    assert sum(len(axes.get_xticklabels()) for axes in strips) == 40
    assert max(figures[-1].get_size_inches()) <= 10.9 + 1e-9


# ---- without matplotlib ----------------------------------------------------------------------------------------


def test_without_matplotlib_a_picture_fails_before_a_model_is_loaded_and_bars_appear_in_the_terminal(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    load = utils.load_found
    monkeypatch.setattr(utils, "load_found", None)
    code, out, err = run("x", "--output", "a.png")
    assert (code, out, err.count("\n")) == (1, "", 1) and "pip install matplotlib" in err
    monkeypatch.setattr(utils, "load_found", load)
    code, out, err = run("Once upon a time", "--model_size", "tiny", "--top_k", "1,5")
    assert (code, err) == (0, "") and "█" in out


def test_the_bars_in_the_terminal_agree_with_the_picture(run):
    _, out, _ = run("--toy", "--top_k", "3,0")
    lines = [line.split() for line in out.splitlines() if "top_k" in line]
    assert len(lines) == 18
    kept = {line[0]: float(line[6]) for line in lines[::2] if "✗" not in line}
    assert kept == {"closer": 0.0615, "forward": 0.5775, "toward": 0.3610}
    assert all(line[-2:] == ["✗", "top_k"] for line in lines[::2] if line[0] not in kept)
    lengths = {line[0]: len(line[-1]) for line in lines[::2] if "✗" not in line}
    assert lengths["forward"] > lengths["toward"] > lengths["closer"]


def test_a_picture_needs_no_display_and_prints_nothing(run, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    assert run("--toy", "--output", tmp_path / "a.svg") == (0, "", "")
    assert "pyplot" not in Path(plot.__file__).read_text(encoding="utf-8")  # which needs a display


def test_the_commands_of_the_documentation_draw_its_pictures(here, tmp_path):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    commands = re.findall(r"^python explore\.py (.*) --output docs/(\S+)$", pages, re.M)
    assert sorted(name for _, name in commands) == sorted(
        path.name
        for path in (ROOT / "docs").glob("*.png")
        if path.name != "page.png"  # from a browser
    )
    for words, name in commands:
        assert stdout_of(here, *shlex.split(words), "--output", tmp_path / name) == ""
        made, kept = (matplotlib.image.imread(folder / name) for folder in (tmp_path, ROOT / "docs"))
        assert made.shape == pytest.approx(kept.shape, rel=0.05)  # installed fonts may differ
        assert made.mean() == pytest.approx(kept.mean(), abs=0.02)
