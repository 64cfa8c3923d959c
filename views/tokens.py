"""explore.py tokens: the tokens of a text, their ids and their bytes, and how the merges of the BPE make them."""

import itertools
from collections.abc import Iterator, Mapping

from cli.options import Options
from cli.request import allows_special
from encoder import PIECES, SYMBOL_OF, CharacterEncoder, Encoder
from utils import Model
from views import screen, writing
from views.next_token import MAX_TOKEN_WIDTH, names_of
from views.toy import ToyEncoder

MAX_PIECE = 500  # bytes of a piece whose merges are shown


def prepare(model: Model, text: str, options: Options) -> list[int]:
    """Return the ids of a text. Raise ValueError if it has none, or if its tokenizer has no merges to show."""
    ids = model.encoder.encode(text, allows_special(text, model, options))
    if not ids:
        raise ValueError("there are no tokens to show: the text is empty")
    if options.merges and not has_merges(model.encoder):
        raise ValueError("this model's vocabulary has no merges that can be shown: remove --merges")
    return ids


def has_merges(encoder) -> bool:
    """Return whether an encoder is a byte-level BPE, computed by encoder.py."""
    return isinstance(encoder, Encoder) and not isinstance(encoder, (CharacterEncoder, ToyEncoder))


# ---- the merges ------------------------------------------------------------------------------------------------


def merge_steps(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> Iterator[tuple]:
    """Yield (symbols, pair, rank) after each merge: the slow form of encoder.bpe, one step at a time.

    >>> for symbols, pair, rank in merge_steps(list("lower"), {("l", "o"): 0, ("lo", "w"): 1, ("e", "r"): 2}):
    ...     print(symbols, pair, rank)
    ['lo', 'w', 'e', 'r'] ('l', 'o') 0
    ['low', 'e', 'r'] ('lo', 'w') 1
    ['low', 'er'] ('e', 'r') 2
    """
    while known := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
        pair = min(known, key=ranks.get)
        symbols = merged(symbols, pair)
        yield symbols, pair, ranks[pair]


def merged(symbols, pair):
    """Return the symbols with all occurrences of a pair merged, from left to right."""
    result = []
    i = 0
    while i < len(symbols):
        is_pair = tuple(symbols[i : i + 2]) == pair
        result.append("".join(pair) if is_pair else symbols[i])
        i += 2 if is_pair else 1
    return result


def pieces_of(text: str, encoder: Encoder, allow_special: bool) -> Iterator[str]:
    """Yield the pieces of a text that the merges work on; added tokens are left out."""
    for part in encoder.split(text, allow_special):
        if isinstance(part, str):
            spaced = encoder.add_prefix_space and not part.startswith(" ")
            yield from PIECES.findall(f" {part}" if spaced else part)


def describe_piece(piece: str, encoder: Encoder) -> dict:
    """Return a piece, its bytes, and the symbols after each merge, ready for JSON."""
    symbols = [SYMBOL_OF[byte] for byte in piece.encode("utf-8", "replace")]
    steps = merge_steps(symbols, encoder.ranks) if len(symbols) <= MAX_PIECE else ()
    return {
        "piece": piece,
        "bytes": piece.encode("utf-8", "replace").hex(" "),
        "merges": [
            {"rank": rank, "pair": visible(pair, encoder), "symbols": visible(after, encoder)}
            for after, pair, rank in steps
        ],
    }


def visible(symbols, encoder):
    """Return symbols in visible characters."""
    return [screen.visible(encoder.token_to_bytes(symbol)) for symbol in symbols]


# ---- the view ----------------------------------------------------------------------------------------------------


def describe(ids: list[int], encoder) -> list[dict]:
    """Return the tokens of a text, ready for JSON."""
    return [{"id": i, **names_of(encoder, i), "bytes": encoder.decode_bytes([i]).hex(" ")} for i in ids]


def show_tokens(model: Model, ids: list[int], text: str, options: Options, seed: int) -> None:
    """Print a line per token, and with --merges the merges of each piece; or a JSON object."""
    tokens = describe(ids, model.encoder)
    pieces = []
    if options.merges:
        special = options.values["special"] is True
        pieces = [describe_piece(piece, model.encoder) for piece in pieces_of(text, model.encoder, special)]
    if options.json:
        writing.write_json({"model": model.name, "tokens": tokens, **({"pieces": pieces} if options.merges else {})})
        return
    writing.write_lines(table(tokens))
    for piece in pieces:
        writing.write_lines(["", *piece_lines(piece)])
    writing.write_lines(["", summary(tokens, text)])


def table(tokens: list[dict]) -> Iterator[str]:
    """Yield a line per token: place, id, token, bytes."""
    size = min(max(screen.display_width(token["name"]) for token in [{"name": "token"}, *tokens]), MAX_TOKEN_WIDTH)
    yield screen.paint(f"place      id  {screen.pad('token', size)}  bytes", "dim")
    for i, token in enumerate(tokens, start=1):
        yield f"{i:5}  {token['id']:6}  {screen.pad(token['name'], size)}  {screen.cut(token['bytes'], 47)}"


def piece_lines(piece: dict) -> Iterator[str]:
    """Yield a piece, its bytes, and a line per merge."""
    yield screen.paint(screen.visible(piece["piece"].encode("utf-8", "replace")), "bold")
    yield f"  {'bytes':12}  {piece['bytes']}"
    for merge in piece["merges"]:
        yield f"  {'merge ' + str(merge['rank']):12}  {' '.join(merge['symbols'])}"


def summary(tokens, text):
    n_bytes = len(text.encode("utf-8", "replace"))
    counts = [(len(tokens), "token"), (len(text), "character"), (n_bytes, "byte")]
    in_words = ", ".join(screen.counted(n, noun) for n, noun in counts)
    return f"{in_words}; {n_bytes / len(tokens):.2f} bytes per token"
