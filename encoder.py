"""Text to token ids and back: the byte-level BPE of GPT-2.

A model reads numbers, so text must become numbers first. Numbering whole words leaves no number for a word
never seen before; numbering bytes leaves nothing out, but makes long sequences. Byte-pair encoding (Sennrich
et al. 2016, "Neural Machine Translation of Rare Words with Subword Units") is the middle way: start from
small units and glue together, in the order learnt from the training text, the pairs that were most frequent
there. GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2) takes
the 256 bytes as its small units: a common word is one token, and no text in any script is out of reach.

The way of a text, with a vocabulary of ten tokens and four merges:

    text       "low lower"
    pieces     "low"      " lower"              a regular expression cuts; no token ever crosses a cut
    bytes      6c 6f 77   20 6c 6f 77 65 72     UTF-8
    symbols    l o w      Ġ l o w e r           one printable character for each byte; a space is written Ġ
    merge 0    lo w       Ġ lo w e r            l + o, wherever the two are neighbours
    merge 1    low        Ġ low e r             lo + w
    merge 2    low        Ġ low er              e + r
    merge 3    low        Ġlow er               Ġ + low; nothing is left to merge
    ids        6          8 9                   looked up in the vocabulary

>>> vocabulary = ["Ġ", "e", "l", "o", "r", "w", "low", "lo", "Ġlow", "er"]
>>> merges = [("l", "o"), ("lo", "w"), ("e", "r"), ("Ġ", "low")]
>>> toy = Encoder({token: i for i, token in enumerate(vocabulary)}, merges)
>>> toy.encode("low lower")
[6, 8, 9]
>>> toy.decode([6, 8, 9])
'low lower'

This module neither trains a vocabulary nor knows any special token but `<|endoftext|>`.
"""

import codecs
import heapq
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path

import regex

END_OF_TEXT = "<|endoftext|>"  # stands between the documents of the training text

# GPT-2's pieces: English contractions; then a run of letters, of digits or of anything else, each with at
# most one space before it; then white space, which leaves its last character to the piece that follows.
PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

# What tokenizer.json says of that.
TOKENIZER = {"type": "BPE", "pre_tokenizer": "ByteLevel", "add_prefix_space": False, "use_regex": True}
TOKENIZER |= {"normalizer": None, "ignore_merges": False}

CACHE_SIZE = 2**15  # pieces whose ids are remembered; a megabyte of prose has about as many different ones
CACHE_LONGEST = 32  # characters; a longer piece hardly ever comes twice


def bytes_to_unicode() -> dict[int, str]:
    """Return GPT-2's table of 256 bytes to 256 printable characters, which makes tokens readable in a file.

    A byte that is a printable Latin-1 character stands for itself; the other 68 are numbered on from U+0100.

    >>> table = bytes_to_unicode()
    >>> table[ord("a")], table[ord(" ")], table[ord("\\n")]
    ('a', 'Ġ', 'Ċ')
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = count(0x100)
    return {byte: chr(byte if byte in printable else next(substitutes)) for byte in range(256)}


SYMBOL_OF = bytes_to_unicode()
BYTE_OF = {symbol: bytes([byte]) for byte, symbol in SYMBOL_OF.items()}


def bpe(symbols: Iterable[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Merge neighbours: all occurrences, left to right, of the pair of lowest rank; then again, to the end.

    On a plain list that costs O(n^2) for n symbols. Here a heap knows where the next merge is, and a linked
    list makes it without moving the rest: O(n log n).

    >>> bpe("lower", {("l", "o"): 0, ("lo", "w"): 1, ("e", "r"): 2})
    ['low', 'er']
    >>> bpe("aaaaa", {("a", "a"): 0})
    ['aa', 'aa', 'a']
    """
    symbols = [*symbols, None]  # None merges with nothing: it ends the list, and marks what a merge used up
    n = len(symbols)
    left, right = [i - 1 for i in range(n)], [(i + 1) % n for i in range(n)]  # a ring, closed by that None

    def rank_at(i: int) -> int | None:
        return ranks.get((symbols[i], symbols[right[i]]))

    heap = [(rank, i) for i in range(n) if (rank := rank_at(i)) is not None]
    heapq.heapify(heap)
    while heap:
        # Take all occurrences out before merging the first: a merge may form a pair of even lower rank.
        lowest, places = heap[0][0], []
        while heap and heap[0][0] == lowest:
            places.append(heapq.heappop(heap)[1])
        for i in places:
            if rank_at(i) != lowest:
                continue  # an earlier merge has used up one of the two
            used = right[i]
            symbols[i], symbols[used] = symbols[i] + symbols[used], None
            right[i] = right[used]
            left[right[i]] = i
            for j in (left[i], i):
                if (rank := rank_at(j)) is not None:
                    heapq.heappush(heap, (rank, j))
    return [symbol for symbol in symbols if symbol is not None]


class Encoder:
    """A vocabulary and its merges, of any size.

    encoder: token -> id, with tokens written in the characters of `bytes_to_unicode`.
    bpe_merges: pairs of symbols, the first learnt first. A merge whose result has no id is left out.

    Attributes: `encoder`; `decoder`, id -> token; `ranks`, pair -> place among the merges; `n_vocab`, the
    largest id + 1; `end_of_text`, the id of `<|endoftext|>`, or None in a vocabulary without it; `start`, the id that
    stands in for an empty prompt: that one, or else the id of a new line, or else the last.
    """

    new_line = SYMBOL_OF[ord("\n")]

    def __init__(self, encoder: Mapping[str, int], bpe_merges: Iterable[tuple[str, str]]):
        self.encoder = dict(encoder)
        self.decoder = {token_id: token for token, token_id in self.encoder.items()}
        self.ranks = {pair: rank for rank, pair in enumerate(bpe_merges) if "".join(pair) in self.encoder}
        self.n_vocab = max(self.decoder, default=-1) + 1
        self.end_of_text = self.encoder.get(END_OF_TEXT)
        self.start = self.encoder.get(END_OF_TEXT, self.encoder.get(self.new_line, self.n_vocab - 1))
        self._cache: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`; `decode` turns them back into it.

        A literal `<|endoftext|>` is text like any other, unless `allow_special`: then it is the one id
        `end_of_text`, if the vocabulary has it. UTF-8 cannot write half a surrogate pair: two matching halves
        become the character they stand for, a lone one U+FFFD.

        ValueError: a byte of the text has no token, which cannot happen with the official vocabulary.
        """
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        special = allow_special and self.end_of_text is not None
        ids = []
        for i, part in enumerate(text.split(END_OF_TEXT) if special else [text]):
            if i > 0:
                ids.append(self.end_of_text)
            for piece in PIECES.findall(part):
                ids.extend(self._encode_piece(piece))
        return ids

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        ids = self._cache.get(piece)
        if ids is not None:
            return ids
        symbols = bpe([SYMBOL_OF[byte] for byte in piece.encode("utf-8")], self.ranks)
        ids = tuple([self.encoder.get(symbol) for symbol in symbols])
        if None in ids:
            raise _no_token(piece, symbols[: ids.index(None)])
        if len(piece) <= CACHE_LONGEST:
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[piece] = ids
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the exact bytes of `ids`, which may begin or end in the middle of a character.

        ids: Python or NumPy integers. ValueError: an id that is not in the vocabulary.
        """
        return b"".join(map(self._token_bytes, ids))

    def _token_bytes(self, token_id: int) -> bytes:
        try:
            token = self.decoder[token_id]
        except (KeyError, TypeError):  # TypeError: a list or an array where an id should be
            valid = f"ids run from 0 to {self.n_vocab - 1}"
            raise ValueError(f"{token_id} is not a token id of this vocabulary, whose {valid}") from None
        return self._bytes_of(token)

    def _bytes_of(self, token: str) -> bytes:
        # Tokens added by hand may hold characters outside the table: those stand for themselves.
        return b"".join([BYTE_OF.get(symbol) or symbol.encode("utf-8", "replace") for symbol in token])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, U+FFFD in place of what is not UTF-8. ValueError as in `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of `ids` while they come in; all pieces together are `decode(ids)`.

        One piece for each id, before the next id is asked for: whoever prints them shows each character as
        soon as it is certain. A character may take several ids: the piece is "" until the last of them is
        there. Only if the ids end within a character does one piece more follow, the U+FFFD for that rest.

        >>> byte_level = Encoder(dict(zip(bytes_to_unicode().values(), range(256))), [])
        >>> list(byte_level.stream([104, 195, 169, 195]))
        ['h', '', 'é', '', '�']
        """
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in ids:
            yield utf8.decode(self._token_bytes(token_id))
        if rest := utf8.decode(b"", final=True):
            yield rest


class CharacterEncoder(Encoder):
    """A vocabulary of characters, each of which is a token: that of nanoGPT's models of characters.

    ids: character -> id. Otherwise it is an Encoder, without `end_of_text`.

    >>> abc = CharacterEncoder({"\\n": 0, "a": 1, "b": 2})
    >>> abc.encode("ab\\nba"), abc.decode([2, 1])
    ([1, 2, 0, 2, 1], 'ba')
    >>> abc.encode("cab")
    Traceback (most recent call last):
    ValueError: this model has no token for 'c' (U+0063): leave it out of the text. It knows these alone: '\\nab'
    """

    new_line = "\n"

    def __init__(self, ids: Mapping[str, int]):
        super().__init__(ids, [])

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`. ValueError: a character has none. `allow_special` is of no consequence here."""
        ids = [self.encoder.get(character) for character in text]
        if None in ids:
            unknown, known = text[ids.index(None)], repr("".join(sorted(self.encoder)))
            raise ValueError(
                f"this model has no token for {unknown!r} (U+{ord(unknown):04X}): leave it out of the text. "
                f"It knows these alone: {known if len(known) < 200 else known[:200] + '...'}"
            )
        return ids

    def _bytes_of(self, token: str) -> bytes:
        return token.encode("utf-8", "replace")


def _no_token(piece: str, symbols_before: list[str]) -> ValueError:
    bytes_before = piece.encode("utf-8")[: sum(map(len, symbols_before))]
    character = piece[len(bytes_before.decode("utf-8", "ignore"))]
    return ValueError(
        f"this vocabulary has no token for {character!r} (U+{ord(character):04X}): "
        "leave it out of the text, or use a model whose vocabulary has all 256 bytes"
    )


def get_encoder(model_dir: str | os.PathLike) -> Encoder:
    """Read the vocabulary in the folder `model_dir`.

    It is two files: encoder.json and vocab.bpe, as OpenAI names them, or vocab.json and merges.txt, as
    Hugging Face does; the latter may come with added_tokens.json, or all be in tokenizer.json.
    FileNotFoundError: one is missing. ValueError: one is damaged, or they are not a pair.
    """
    tokenizer_path = Path(model_dir, "tokenizer.json")
    if tokenizer_path.is_file() and not any(Path(model_dir, name).is_file() for name in ("encoder.json", "vocab.json")):
        return _checked(Encoder(*_read_tokenizer(tokenizer_path)), tokenizer_path, tokenizer_path)
    vocabulary_path = _find(model_dir, "encoder.json", "vocab.json")
    merges_path = _find(model_dir, "vocab.bpe", "merges.txt")
    vocabulary, added_path = _read_vocabulary(vocabulary_path), Path(model_dir, "added_tokens.json")
    if vocabulary_path.name == "vocab.json" and added_path.is_file() and _read_json(added_path) != {}:
        vocabulary = _vocabulary({**vocabulary, **_read_vocabulary(added_path)}, added_path)
    return _checked(Encoder(vocabulary, _read_merges(merges_path)), vocabulary_path, merges_path)


def _checked(encoder: Encoder, vocabulary_path: Path, merges_path: Path) -> Encoder:
    n_made, n_long = len(encoder.ranks), sum(len(token) > 1 for token in encoder.encoder)
    if n_long - n_made > max(256, len(encoder.encoder) // 10):  # more than special tokens account for
        reason = f"makes only {n_made} of the {n_long} longer tokens in {vocabulary_path.name}"
        raise _damaged(merges_path, reason)
    return encoder


def _find(model_dir: str | os.PathLike, *names: str) -> Path:
    for name in names:
        path = Path(model_dir, name)
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no {names[0]} (or {names[1]}) in the folder {os.fspath(model_dir)}: "
        "check the folder's name, or copy the file there from where the model came from"
    )


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} {reason}: it is damaged, cut off or of another model; get the file anew")


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"is not JSON ({error})") from None


def _read_vocabulary(path: Path) -> dict[str, int]:
    return _vocabulary(_read_json(path), path)


def _vocabulary(vocabulary, path: Path) -> dict[str, int]:
    """Return the vocabulary that was read from `path`, if it is one."""
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise _damaged(path, "is not a JSON object of tokens and their ids")
    for token, token_id in vocabulary.items():
        if type(token_id) is not int or token_id < 0:  # isinstance would let true and false pass
            raise _damaged(path, f"gives {token!r} the id {token_id!r}, not a whole number from 0 up")
    if len(set(vocabulary.values())) < len(vocabulary):
        raise _damaged(path, "gives two tokens the same id")
    return vocabulary


def _read_tokenizer(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merges in a tokenizer.json, which are GPT-2's if it cuts a text as GPT-2 does."""
    tokenizer = _read_json(path)
    try:
        model, splitter = tokenizer["model"], tokenizer["pre_tokenizer"] or {}
        found = {"type": model.get("type", "BPE"), "pre_tokenizer": splitter.get("type")}
        found |= {"add_prefix_space": splitter.get("add_prefix_space", False)}
        found |= {"ignore_merges": model.get("ignore_merges", False)}
        found |= {"use_regex": splitter.get("use_regex", True), "normalizer": tokenizer.get("normalizer")}
        added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
        vocabulary = _vocabulary({**model["vocab"], **added}, path)
        merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    except (LookupError, TypeError, AttributeError):
        raise _damaged(path, "lacks a model with vocab and merges, or its pre_tokenizer") from None
    for name, value in TOKENIZER.items():
        if found[name] != value:
            reason = f"{path}: {name} is {found[name]!r:.100}, but for GPT-2's tokenizer, the only one here, {value!r}"
            raise ValueError(f"{reason}; choose a model that has that")
    if not all(len(pair) == 2 and all(isinstance(symbol, str) for symbol in pair) for pair in merges):
        raise _damaged(path, "has a merge that is not two symbols")
    return vocabulary, merges


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"is not text ({error})") from None
    if lines == [""]:
        raise _damaged(path, "is empty")
    if lines[0].startswith("#version"):
        lines[0] = ""  # the only comment there is: in all other lines # is a symbol like any other
    merges = []
    for number, line in enumerate(lines, start=1):
        pair = line.split()
        if len(pair) == 2:
            merges.append((pair[0], pair[1]))
        elif pair:
            raise _damaged(path, f"has {line!r} in line {number}, where two symbols should be")
    return merges
