"""Text to token ids and back: the byte-level BPE of GPT-2.

A model reads numbers. Numbering whole words leaves no number for a new word; numbering bytes covers any text but makes
long sequences. Byte-pair encoding (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units")
lies between the two: it starts from small units and merges the pairs that were most frequent in the training text, in
the order in which they were learnt. GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
section 2.2) starts from the 256 bytes: a common word is one token, and text in any script can be encoded. This module
does not train vocabularies, and `<|endoftext|>` is the only special token that it knows.

The steps for a text, with a vocabulary of ten tokens and four merges:

    text       "low lower"
    pieces     "low"      " lower"              split by a regular expression; no token crosses a boundary
    bytes      6c 6f 77   20 6c 6f 77 65 72     UTF-8
    symbols    l o w      Ġ l o w e r           a printable character for each byte; Ġ is the space
    merge 0    lo w       Ġ lo w e r            l + o, wherever they are neighbours
    merge 1    low        Ġ low e r             lo + w
    merge 2    low        Ġ low er              e + r
    merge 3    low        Ġlow er               Ġ + low; no merge is left
    ids        6          8 9                   looked up in the vocabulary

>>> vocabulary = ["Ġ", "e", "l", "o", "r", "w", "low", "lo", "Ġlow", "er"]
>>> merges = [("l", "o"), ("lo", "w"), ("e", "r"), ("Ġ", "low")]
>>> toy = Encoder({token: i for i, token in enumerate(vocabulary)}, merges)
>>> toy.encode("low lower")
[6, 8, 9]
>>> toy.decode([6, 8, 9])
'low lower'
"""

import codecs
import heapq
import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import regex

END_OF_TEXT = "<|endoftext|>"  # separates the documents of the training text

# GPT-2's pieces: English contractions; runs of letters, of digits or of other characters, each after at most one space;
# runs of white space, without their last character if something follows.
PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

# The same tokenizer, as described by a tokenizer.json.
TOKENIZER = {"type": "BPE", "pre_tokenizer": "ByteLevel", "add_prefix_space": False, "use_regex": True}
TOKENIZER |= {"normalizer": None, "ignore_merges": False}

CACHE_SIZE = 2**15  # pieces; a megabyte of prose has about as many different ones
CACHE_LONGEST = 32  # characters; longer pieces rarely repeat

LARGEST_FILE = 2**25  # bytes of a vocabulary or merges file; GPT-2's have one million
LARGEST_ID = 10_000_000  # a larger id is taken for damage


def bytes_to_unicode() -> dict[int, str]:
    """Return GPT-2's table {byte: printable character}, with which tokens are written in a vocabulary file.

    A printable Latin-1 character represents its own byte; the other 68 bytes get the characters from U+0100 on.

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
    """Return the symbols after all merges.

    Each step merges all occurrences of the neighbouring pair with the lowest rank, from left to right. On a plain list
    this takes O(n^2) for n symbols. Here a heap finds the next merge and a linked list performs it: O(n log n).

    >>> bpe("lower", {("l", "o"): 0, ("lo", "w"): 1, ("e", "r"): 2})
    ['low', 'er']
    >>> bpe("aaaaa", {("a", "a"): 0})
    ['aa', 'aa', 'a']
    """
    symbols = [*symbols, None]  # None never merges: it marks the end of the list and the symbols that merges consumed
    n = len(symbols)
    left = [i - 1 for i in range(n)]  # the neighbours form a ring, closed by the None at the end
    right = [(i + 1) % n for i in range(n)]

    def rank_at(i: int) -> int | None:
        return ranks.get((symbols[i], symbols[right[i]]))

    heap = [(rank, i) for i in range(n) if (rank := rank_at(i)) is not None]
    heapq.heapify(heap)
    while heap:
        # Remove all occurrences before merging the first: a merge may form a pair of even lower rank.
        lowest = heap[0][0]
        places = []
        while heap and heap[0][0] == lowest:
            places.append(heapq.heappop(heap)[1])
        for i in places:
            if rank_at(i) != lowest:
                continue  # an earlier merge has consumed one of the two
            consumed = right[i]
            symbols[i] += symbols[consumed]
            symbols[consumed] = None
            right[i] = right[consumed]
            left[right[i]] = i
            for j in (left[i], i):
                if (rank := rank_at(j)) is not None:
                    heapq.heappush(heap, (rank, j))
    return [symbol for symbol in symbols if symbol is not None]


# ---- encoders --------------------------------------------------------------------------------------------------


class Encoder:
    """A byte-level BPE vocabulary with its merges.

    encoder: {token: id}, with tokens written in the characters of `bytes_to_unicode`.
    bpe_merges: pairs of symbols in the order in which they were learnt. A merge whose result has no id is left out.

    Attributes: `encoder`, {token: id}; `decoder`, {id: token}; `ranks`, {pair: position among the merges}; `n_vocab`,
    the largest id + 1; `end_of_text`, the id of `<|endoftext|>`, None if the vocabulary lacks it; `start`, the id that
    replaces an empty prompt: end_of_text, else the id of a newline, else the last id.
    """

    new_line = SYMBOL_OF[ord("\n")]

    def __init__(self, encoder: Mapping[str, int], bpe_merges: Iterable[tuple[str, str]]):
        self.encoder = dict(encoder)
        self.decoder = {token_id: token for token, token_id in self.encoder.items()}
        self.ranks = {pair: rank for rank, pair in enumerate(bpe_merges) if "".join(pair) in self.encoder}
        self.n_vocab = max(self.decoder, default=-1) + 1
        self.end_of_text = self.encoder.get(END_OF_TEXT)
        self.start = self.encoder.get(END_OF_TEXT, self.encoder.get(self.new_line, self.n_vocab - 1))
        self.cached_ids: dict[str, tuple[int, ...]] = {}  # of pieces

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`; `decode` converts them back.

        allow_special: encode `<|endoftext|>` as the id `end_of_text`, if there is one, instead of as ordinary text.
        A surrogate pair is encoded as its character, a lone surrogate, which UTF-8 cannot represent, as U+FFFD.
        Raise ValueError if a byte has no token, which cannot happen with the official vocabulary.
        """
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        special = allow_special and self.end_of_text is not None
        ids = []
        for i, part in enumerate(text.split(END_OF_TEXT) if special else [text]):
            if i > 0:
                ids.append(self.end_of_text)
            for piece in PIECES.findall(part):
                ids.extend(self.encode_piece(piece))
        return ids

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        ids = self.cached_ids.get(piece)
        if ids is not None:
            return ids
        symbols = bpe([SYMBOL_OF[byte] for byte in piece.encode("utf-8")], self.ranks)
        ids = tuple([self.encoder.get(symbol) for symbol in symbols])
        if None in ids:
            raise no_token(piece, symbols[: ids.index(None)])
        if len(piece) <= CACHE_LONGEST:
            if len(self.cached_ids) >= CACHE_SIZE:
                self.cached_ids.clear()
            self.cached_ids[piece] = ids
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of `ids`, which may begin or end within a character. Raise ValueError for an unknown id."""
        return b"".join(map(self.id_to_bytes, ids))

    def id_to_bytes(self, token_id: int) -> bytes:
        try:
            token = self.decoder[token_id]
        except (KeyError, TypeError):  # TypeError: a list or an array in place of an id
            valid = f"the ids of this vocabulary run from 0 to {self.n_vocab - 1}"
            raise ValueError(f"{token_id} is not a token id; {valid}") from None
        return self.token_to_bytes(token)

    def token_to_bytes(self, token: str) -> bytes:
        """Return the bytes of one token. A character outside the table, in a token added by hand, is its UTF-8."""
        return b"".join([BYTE_OF.get(symbol) or symbol.encode("utf-8", "replace") for symbol in token])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, with U+FFFD in place of invalid UTF-8. Raise ValueError as `decode_bytes` does."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of each id before the next id is requested; joined, the texts equal `decode(ids)`.

        A character may take several ids: the text is "" until the last of them. If the ids end within a character,
        U+FFFD follows as one more text.

        >>> byte_level = Encoder(dict(zip(bytes_to_unicode().values(), range(256))), [])
        >>> list(byte_level.stream([104, 195, 169, 195]))
        ['h', '', 'é', '', '�']
        """
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in ids:
            yield utf8.decode(self.id_to_bytes(token_id))
        if rest := utf8.decode(b"", final=True):
            yield rest


class CharacterEncoder(Encoder):
    """A vocabulary with a token for each character, as in nanoGPT's character-level models.

    ids: {character: id}. Its methods and attributes are those of Encoder; `end_of_text` is None.

    >>> abc = CharacterEncoder({"\\n": 0, "a": 1, "b": 2})
    >>> abc.encode("ab\\nba"), abc.decode([2, 1])
    ([1, 2, 0, 2, 1], 'ba')
    >>> abc.encode("cab")
    Traceback (most recent call last):
    ValueError: this model has no token for 'c' (U+0063): remove it from the text; the model's characters are '\\nab'
    """

    new_line = "\n"

    def __init__(self, ids: Mapping[str, int]):
        super().__init__(ids, [])

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`; `allow_special` has no effect. Raise ValueError if a character has no id."""
        ids = [self.encoder.get(character) for character in text]
        if None in ids:
            unknown = text[ids.index(None)]
            known = repr("".join(sorted(self.encoder)))
            raise ValueError(
                f"this model has no token for {unknown!r} (U+{ord(unknown):04X}): remove it from the text; "
                f"the model's characters are {known if len(known) < 200 else known[:200] + '...'}"
            )
        return ids

    def token_to_bytes(self, token: str) -> bytes:
        return token.encode("utf-8", "replace")


def no_token(piece: str, symbols_before: list[str]) -> ValueError:
    bytes_before = piece.encode("utf-8")[: sum(map(len, symbols_before))]
    character = piece[len(bytes_before.decode("utf-8", "ignore"))]
    return ValueError(
        f"this vocabulary has no token for {character!r} (U+{ord(character):04X}): "
        "remove it from the text, or use a model whose vocabulary has all 256 bytes"
    )


# ---- files -----------------------------------------------------------------------------------------------------


def get_encoder(model_dir: str | os.PathLike) -> Encoder:
    """Return the encoder of the vocabulary in the folder `model_dir`.

    The vocabulary is encoder.json and vocab.bpe (OpenAI's names), or vocab.json and merges.txt (Hugging Face's names),
    optionally with added_tokens.json, or tokenizer.json alone.
    Raise FileNotFoundError if a file is missing, ValueError if one is damaged or two do not belong together.
    """
    tokenizer_path = Path(model_dir, "tokenizer.json")
    if is_file(tokenizer_path) and not any(is_file(Path(model_dir, name)) for name in ("encoder.json", "vocab.json")):
        return checked(Encoder(*read_tokenizer(tokenizer_path)), tokenizer_path, tokenizer_path)
    vocabulary_path = find_file(model_dir, "encoder.json", "vocab.json")
    merges_path = find_file(model_dir, "vocab.bpe", "merges.txt")
    vocabulary = check_vocabulary(read_json(vocabulary_path), vocabulary_path)
    added_path = Path(model_dir, "added_tokens.json")
    if vocabulary_path.name == "vocab.json" and is_file(added_path) and (added := read_json(added_path)) != {}:
        vocabulary = check_vocabulary({**vocabulary, **check_vocabulary(added, added_path)}, added_path)
    return checked(Encoder(vocabulary, read_merges(merges_path)), vocabulary_path, merges_path)


def checked(encoder: Encoder, vocabulary_path: Path, merges_path: Path) -> Encoder:
    """Return the encoder. Raise ValueError if its ids have large gaps or the merges produce too few of its tokens."""
    if encoder.n_vocab > 2 * len(encoder.encoder) + 1000:
        raise damaged(vocabulary_path, f"has the id {encoder.n_vocab - 1:,} but only {len(encoder.encoder):,} tokens")
    n_merged = len(encoder.ranks)
    n_long = sum(len(token) > 1 for token in encoder.encoder)
    if n_long - n_merged > max(256, len(encoder.encoder) // 10):  # more than special tokens account for
        raise damaged(merges_path, f"makes only {n_merged} of the {n_long} longer tokens in {vocabulary_path.name}")
    return encoder


def find_file(model_dir: str | os.PathLike, *names: str) -> Path:
    """Return the path of the first of two names that exists. Raise FileNotFoundError if neither does."""
    for name in names:
        path = Path(model_dir, name)
        if is_file(path):
            return path
    problem = f"no {names[0]} (or {names[1]}) in the folder {named(model_dir)}"
    raise FileNotFoundError(f"{problem}: check the folder's name, or copy the file there from the original folder")


def is_file(path: Path) -> bool:
    """Return whether a file exists. Raise ValueError if it is not a regular file, such as a FIFO, which would wait."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{named(path)} is not a regular file, but a model's files must be: remove it")
    return path.is_file()


def named(path: str | os.PathLike) -> str:
    """Return a path for a message: without control characters, the middle of a long one left out."""
    text = os.fspath(path)
    short = text if len(text) <= 240 else f"{text[:118]}...{text[-118:]}"
    return short if short.isprintable() else repr(short)


def damaged(path: Path, problem: str) -> ValueError:
    return ValueError(f"{named(path)} {problem}: it is damaged or from another model; copy or download the file again")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raise ValueError if it has more than LARGEST_FILE bytes."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise damaged(path, f"has {size:,} bytes; a vocabulary has at most {LARGEST_FILE:,}")
    with open(path, "rb") as file:
        return file.read(size)


def read_json(path: Path) -> Any:
    content = read_bytes(path)
    try:
        return parse_json(content)
    except ValueError as error:
        raise damaged(path, f"is not valid JSON ({error})") from None


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text. Raise ValueError, with the fault in a few words, if it is none."""
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1:,} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno:,}, column {error.colno:,}") from None
    except (RecursionError, ValueError) as error:
        is_deep = isinstance(error, RecursionError)
        raise ValueError("it is nested too deeply" if is_deep else "a number has too many digits") from None


def check_vocabulary(vocabulary: Any, path: Path) -> dict[str, int]:
    """Return the vocabulary read from `path`. Raise ValueError unless it is {token: id}."""
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise damaged(path, "is not a JSON object of tokens and their ids")
    for token, token_id in vocabulary.items():
        if type(token_id) is not int or not 0 <= token_id < LARGEST_ID:  # isinstance would accept true and false
            problem = f"gives {reprlib.repr(token)} the id {reprlib.repr(token_id)}"
            raise damaged(path, f"{problem}, not a whole number from 0 to {LARGEST_ID - 1:,}")
    if len(set(vocabulary.values())) < len(vocabulary):
        raise damaged(path, "gives two tokens the same id")
    return vocabulary


def read_tokenizer(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merges in a tokenizer.json. Raise ValueError unless it is GPT-2's tokenizer."""
    tokenizer = read_json(path)
    try:
        model = tokenizer["model"]
        splitter = tokenizer["pre_tokenizer"] or {}
        found = {"type": model.get("type", "BPE"), "pre_tokenizer": splitter.get("type")}
        found |= {"add_prefix_space": splitter.get("add_prefix_space", False)}
        found |= {"use_regex": splitter.get("use_regex", True), "ignore_merges": model.get("ignore_merges", False)}
        found |= {"normalizer": tokenizer.get("normalizer")}
        added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
        vocabulary = check_vocabulary({**model["vocab"], **added}, path)
        merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    except (LookupError, TypeError, AttributeError):
        raise damaged(path, "lacks a model with vocab and merges, or its pre_tokenizer") from None
    for name, value in TOKENIZER.items():
        if found[name] != value:
            problem = f"{named(path)}: {name} is {reprlib.repr(found[name])}, but GPT-2's tokenizer has {value!r}"
            raise ValueError(f"{problem}; choose a model with that tokenizer")
    if not all(len(pair) == 2 and all(isinstance(symbol, str) for symbol in pair) for pair in merges):
        raise damaged(path, "has a merge that is not two symbols")
    return vocabulary, merges


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of symbols in a merges file. Raise ValueError if it is damaged."""
    try:
        lines = read_bytes(path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise damaged(path, f"is not text (byte {error.start + 1:,} is not UTF-8)") from None
    if lines == [""]:
        raise damaged(path, "is empty")
    if lines[0].startswith("#version"):
        lines[0] = ""  # the only comment: in all other lines # is an ordinary symbol
    merges = []
    for number, line in enumerate(lines, start=1):
        pair = line.split()
        if len(pair) == 2:
            merges.append((pair[0], pair[1]))
        elif pair:
            raise damaged(path, f"has {reprlib.repr(line)} in line {number:,} instead of two symbols")
    return merges
