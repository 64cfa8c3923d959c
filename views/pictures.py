"""What all pictures share: the style, the fonts for any token, and the file formats. They need matplotlib."""

from pathlib import Path
from typing import BinaryIO

FORMATS = (".png", ".svg", ".pdf")
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
    "svg.fonttype": "none",  # text remains text, which can be searched and read aloud
    "svg.hashsalt": "picoGPT",  # the same picture gives the same file
    "pdf.fonttype": 42,
}


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


def save(figure, file: BinaryIO, name: str) -> None:
    """Write a figure to an open file, uncropped and without a date, in the format that the name's suffix says."""
    suffix = Path(name).suffix.lower()
    dates = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with style():
        figure.savefig(file, format=suffix[1:], dpi=150, bbox_inches="tight", metadata=dates[suffix])
