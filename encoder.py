"""Text to token ids and back: the byte-level BPE of GPT-2.

A model reads numbers. Numbering whole words leaves no number for a new word; numbering bytes covers any text but makes
long sequences. Byte-pair encoding (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units")
lies between the two: it starts from small units and merges the pairs that were most frequent in the training text, in
the order in which they were learnt. GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
section 2.2) starts from the 256 bytes: a common word is one token, and text in any script can be encoded. This module
does not train vocabularies. checkpoints/vocabulary.py reads them from files.

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
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count
from typing import NamedTuple

import regex

END_OF_TEXT = "<|endoftext|>"  # separates the documents of the training text

# GPT-2's pieces: English contractions; runs of letters, of digits or of other characters, each after at most one space;
# runs of white space, without their last character if something follows.
PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

CACHE_SIZE = 2**15  # pieces; a megabyte of prose has about as many different ones
CACHE_LONGEST = 32  # characters; longer pieces rarely repeat


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


# ---- added tokens ----------------------------------------------------------------------------------------------


class AddedToken(NamedTuple):
    """A token that was added to a trained vocabulary. It is found in a text before the text is cut into pieces.

    The rules are those of Hugging Face's tokenizers (AddedVocabulary).
    """

    content: str  # the text that it stands for
    id: int
    special: bool = False  # found only if special tokens are requested
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False  # takes the white space after it
    single_word: bool = False  # found only if no letter, digit or underscore is beside it
    normalized: bool = False  # found after the others, in the text that they leave


SPACE_BEFORE = regex.compile(r"(?r)\p{White_Space}*")  # (?r) searches backwards
SPACE_AFTER = regex.compile(r"\p{White_Space}*")
WORD = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")


class TokenFinder:
    """Finds added tokens in a text: the leftmost first, and the longest of those that begin at the same character."""

    def __init__(self, tokens: Iterable[AddedToken]):
        self.tokens = {token.content: token for token in tokens if token.content}
        longest_first = sorted(self.tokens, key=len, reverse=True)
        self.pattern = regex.compile("|".join(map(regex.escape, longest_first)))

    def split(self, text: str, allow_special: bool) -> Iterator[str | AddedToken]:
        """Yield the added tokens in a text and the parts between them, in their order."""
        end = 0
        for match in self.pattern.finditer(text) if self.tokens else ():
            token = self.tokens[match[0]]
            if (token.special and not allow_special) or (token.single_word and is_in_word(match)):
                continue
            start = max(end, SPACE_BEFORE.match(text, end, match.start()).start()) if token.lstrip else match.start()
            if start > end:
                yield text[end:start]
            yield token
            end = SPACE_AFTER.match(text, match.end()).end() if token.rstrip else match.end()
        if end < len(text):
            yield text[end:]


def is_in_word(match: regex.Match) -> bool:
    """Return whether a character of a word is beside the match."""
    before = match.string[max(0, match.start() - 1) : match.start()]
    after = match.string[match.end() : match.end() + 1]
    return any(WORD.match(character) for character in (before, after))


# ---- encoders --------------------------------------------------------------------------------------------------


class Encoder:
    """A byte-level BPE vocabulary with its merges.

    encoder: {token: id}, with tokens written in the characters of `bytes_to_unicode`.
    bpe_merges: pairs of symbols in the order in which they were learnt. A merge whose result has no id is left out.
    added: tokens beside those of the BPE. `<|endoftext|>` is a special one wherever the vocabulary has it.
    add_prefix_space: encode a text as if a space preceded it.

    Attributes: `encoder`, {token: id}; `decoder`, {id: token}; `ranks`, {pair: position among the merges}; `n_vocab`,
    the largest id + 1; `special`, {content: id} of the special tokens; `end_of_text`, the id of `<|endoftext|>`, None
    if the vocabulary lacks it; `start`, the id from which an empty text is continued: end_of_text, else the id of a
    newline, else the last id.
    """

    new_line = SYMBOL_OF[ord("\n")]

    def __init__(
        self,
        encoder: Mapping[str, int],
        bpe_merges: Iterable[tuple[str, str]],
        added: Collection[AddedToken] = (),
        add_prefix_space: bool = False,
    ):
        if END_OF_TEXT in encoder and all(token.content != END_OF_TEXT for token in added):
            added = (*added, AddedToken(END_OF_TEXT, encoder[END_OF_TEXT], special=True))
        self.encoder = {**encoder, **{token.content: token.id for token in added}}
        self.decoder = {token_id: token for token, token_id in self.encoder.items()}
        self.ranks = {pair: rank for rank, pair in enumerate(bpe_merges) if "".join(pair) in self.encoder}
        self.n_vocab = max(self.decoder, default=-1) + 1
        self.added = {token.id: token for token in added}
        self.finders = [TokenFinder(token for token in added if token.normalized is last) for last in (False, True)]
        self.special = {token.content: token.id for token in added if token.special}
        self.add_prefix_space = add_prefix_space
        self.end_of_text = self.encoder.get(END_OF_TEXT)
        self.start = self.encoder.get(END_OF_TEXT, self.encoder.get(self.new_line, self.n_vocab - 1))
        self.cached_ids: dict[str, tuple[int, ...]] = {}  # of pieces

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`; `decode` converts them back.

        allow_special: encode special tokens such as `<|endoftext|>` as their ids, instead of as ordinary text.
        A surrogate pair is encoded as its character, a lone surrogate, which UTF-8 cannot represent, as U+FFFD.
        Raise ValueError if a byte has no token, which cannot happen with the official vocabulary.
        """
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        ids = []
        for part in self.split(text, allow_special):
            ids += [part.id] if isinstance(part, AddedToken) else self.encode_part(part)
        return ids

    @property
    def longest(self) -> float:
        """The number of characters that one token can stand for; infinity if one takes the white space around it."""
        if any(token.lstrip or token.rstrip for token in self.added.values()):
            return math.inf
        return max(map(len, self.encoder), default=0)

    def split(self, text: str, allow_special: bool) -> Iterator[str | AddedToken]:
        """Yield the added tokens in a text and the parts between them."""
        if not allow_special and len(self.special) == len(self.added):
            yield text
            return
        first, last = self.finders
        for part in first.split(text, allow_special):
            yield from [part] if isinstance(part, AddedToken) else last.split(part, allow_special)

    def encode_part(self, text: str) -> list[int]:
        """Return the ids of a text without added tokens."""
        if self.add_prefix_space and text and not text.startswith(" "):
            text = " " + text
        ids = []
        for piece in PIECES.findall(text):
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
        return token.encode("utf-8", "replace") if token_id in self.added else self.token_to_bytes(token)

    def token_to_bytes(self, token: str) -> bytes:
        """Return the bytes of one token. A character outside the table, in a token added by hand, is its UTF-8."""
        return b"".join([BYTE_OF.get(symbol) or symbol.encode("utf-8", "replace") for symbol in token])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, with U+FFFD in place of invalid UTF-8. Raise ValueError as `decode_bytes` does."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def stream(self, ids: Iterable[int], before: Collection[int] = ()) -> Iterator[str]:
        """Yield the text of each id before the next id is requested; joined, the texts equal `decode(ids)`.

        before: the ids that precede these. Here they do not matter; in some vocabularies they decide about a space.
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
