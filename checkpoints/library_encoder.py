"""Vocabularies that are not GPT-2's byte-level BPE, computed by the optional package `tokenizers`.

It reads any tokenizer.json: WordPiece, Unigram (SentencePiece) and other BPEs, with all normalizers, pre-tokenizers and
decoders. A BERT vocabulary, vocab.txt, is a list of words and characters, from which a tokenizer is made.
"""

import codecs
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named
from encoder import BYTE_OF, END_OF_TEXT

STARTS = (END_OF_TEXT, "<s>", "[CLS]", "[BOS]", "<bos>")  # tokens from which an empty text may be continued
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a token of one byte, in vocabularies with byte fallback
CONTEXT = 4  # ids that are decoded again before a new one

# Chinese, Japanese and Korean characters, between which no space is written (as BERT's tokenizer splits them).
CJK = "[\u2e80-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003134f]"
CJK_SPACE = re.compile(f"(?<={CJK}) (?={CJK})")


def from_tokenizer(tokenizer: dict, settings: Mapping[str, Any], n_rows: int | None, path: Path) -> "LibraryEncoder":
    """Return the encoder that a tokenizer.json describes. settings: see vocabulary.read_settings.

    Raise CheckpointError if the package is missing or cannot read the description.
    """
    model = tokenizer.get("model") if isinstance(tokenizer.get("model"), dict) else {}
    kind = f"a tokenizer of the type {abbreviated(model.get('type', 'unknown'))}"
    library = import_tokenizers(path, kind)
    plain = {**tokenizer, "truncation": None, "padding": None, "post_processor": None}
    if isinstance(settings.get("add_prefix_space"), bool):
        set_prefix_space(plain.get("pre_tokenizer"), settings["add_prefix_space"])
    try:
        made = library.Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(
            f"{named(path)} cannot be read by the package tokenizers ({abbreviated(error)}): copy it again, or "
            "pip install --upgrade tokenizers"
        ) from error
    is_word_piece = model.get("type") == "WordPiece"
    return LibraryEncoder(made, n_rows, is_word_piece)


def set_prefix_space(pre_tokenizer: Any, value: bool) -> None:
    """Set add_prefix_space in the description of a pre-tokenizer that has it: tokenizer_config.json decides."""
    if isinstance(pre_tokenizer, dict):
        if "add_prefix_space" in pre_tokenizer:
            pre_tokenizer["add_prefix_space"] = value
        inner = pre_tokenizer.get("pretokenizers")
        for part in inner if isinstance(inner, list) else []:
            set_prefix_space(part, value)


def from_words(words: list[str], settings: Mapping[str, Any], n_rows: int | None, path: Path) -> "LibraryEncoder":
    """Return the encoder of a BERT vocabulary, whose ids are the numbers of the lines.

    Raise CheckpointError if the package is missing or the list has no [UNK].
    """
    library = import_tokenizers(path, "BERT's vocabulary")
    ids = {word.rstrip(): i for i, word in enumerate(words)}
    if "[UNK]" not in ids:
        raise CheckpointError(f"{named(path)} has no [UNK], which BERT's vocabularies have: copy it again")
    made = library.Tokenizer(library.models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = library.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True) is not False,
        strip_accents=settings.get("strip_accents") if isinstance(settings.get("strip_accents"), bool) else None,
        lowercase=settings.get("do_lower_case", True) is not False,
    )
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.decoder = library.decoders.WordPiece()
    made.add_special_tokens([token for token in BERT_SPECIAL if token in ids])
    return LibraryEncoder(made, n_rows, is_word_piece=True)


def import_tokenizers(path: Path, kind: str) -> Any:
    """Return the package tokenizers. Raise CheckpointError if it is missing. kind: what needs it."""
    try:
        import tokenizers
        import tokenizers.normalizers
    except ImportError as error:
        raise CheckpointError(
            f"{named(path)} holds {kind}, which needs the package tokenizers: pip install tokenizers"
        ) from error
    return tokenizers


class LibraryEncoder:
    """A tokenizer of the library, with the methods and attributes of encoder.Encoder that the commands use.

    n_rows: the number of the model's embeddings; tokens with larger ids cannot be used. is_word_piece: tokens are words
    between spaces, except in Chinese, Japanese and Korean.
    """

    longest = math.inf  # a normalizer may remove any number of characters

    def __init__(self, tokenizer: Any, n_rows: int | None, is_word_piece: bool = False):
        self.tokenizer = tokenizer
        self.is_word_piece = is_word_piece
        self.n_rows = n_rows
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.encoder = {token: i for token, i in vocabulary.items() if n_rows is None or i < n_rows}
        self.decoder = {i: token for token, i in self.encoder.items()}
        self.n_vocab = max(self.decoder, default=-1) + 1
        added = tokenizer.get_added_tokens_decoder()
        self.added = {i: token.content for i, token in added.items()}
        self.special = {token.content: i for i, token in added.items() if token.special and i in self.decoder}
        self.end_of_text = self.encoder.get(END_OF_TEXT)
        self.start = next((self.encoder[token] for token in STARTS if token in self.encoder), self.n_vocab - 1)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`. allow_special: see Encoder.encode.

        Raise ValueError if the vocabulary has no token for a part of the text, or the model no embedding for it.
        """
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        self.tokenizer.encode_special_tokens = not allow_special
        try:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"this vocabulary has no tokens for the text ({abbreviated(error)})") from error
        for i in ids:
            if i not in self.decoder:
                raise ValueError(
                    f"the text has the token {abbreviated(self.tokenizer.id_to_token(i))!r}, id {i}, but the model's "
                    f"ids are 0 to {self.n_vocab - 1}: change the text"
                )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`. Raise ValueError for an unknown id."""
        return "".join(self.stream(ids))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of the tokens themselves, with the marks of words replaced by spaces."""
        return b"".join(self.token_bytes(i) or self.decoder[i].replace("▁", " ").encode("utf-8") for i in ids)

    def token_bytes(self, token_id: int) -> bytes | None:
        """Return the bytes of a token whose text does not depend on its neighbours, None for other tokens."""
        if token_id not in self.decoder:
            rule = f"the ids of this vocabulary run from 0 to {self.n_vocab - 1}"
            raise ValueError(f"{token_id} is not a token id; {rule}")
        token = self.decoder[token_id]
        if token_id in self.added:
            return token.encode("utf-8", "replace") if self.is_byte_level else None
        if byte := BYTE.fullmatch(token):
            return bytes([int(byte[1], 16)])
        if self.is_byte_level and all(symbol in BYTE_OF for symbol in token):
            return b"".join(BYTE_OF[symbol] for symbol in token)
        return None

    def stream(self, ids: Iterable[int], before: Collection[int] = ()) -> Iterator[str]:
        """Yield the text of each id before the next id is requested; the text of a part of a character is "".

        before: the ids that precede these. They decide whether a space comes first.
        """
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        context = [i for i in before if self.token_bytes(i) is None][-CONTEXT:]
        is_first = not before
        for token_id in ids:
            content = self.token_bytes(token_id)
            if content is not None:
                yield utf8.decode(content)
            else:
                if not context and not is_first:
                    context = [token_id]  # any token: it is not the first of the text
                yield utf8.decode(b"", final=True) + self.text_after(context, int(token_id))
                context = [*context, int(token_id)][-CONTEXT:]
            is_first = False
        if rest := utf8.decode(b"", final=True):
            yield rest

    def text_after(self, context: list[int], token_id: int) -> str:
        """Return what a token adds to the text of the ids before it."""
        shown = self.library_text(context)
        return self.library_text([*context, token_id])[len(shown) :]

    def library_text(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        return CJK_SPACE.sub("", text) if self.is_word_piece else text

    @property
    def is_byte_level(self) -> bool:
        return type(self.tokenizer.decoder).__name__ == "ByteLevel"
