"""Vocabularies: from the files in a model's folder to its encoder.

    encoder.json, vocab.bpe      OpenAI
    tokenizer.json               Hugging Face: vocabulary, merges, added tokens and all settings
    vocab.json, merges.txt       Hugging Face, with added_tokens.json, special_tokens_map.json and tokenizer_config.json
    vocab.txt                    BERT's words and characters

The first that is there is read. encoder.py computes GPT-2's byte-level BPE. Every other tokenizer is computed by the
package `tokenizers` (library_encoder.py) or is an error.
"""

import contextlib
import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from checkpoints import download, files
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, as_json, named, shown
from checkpoints.places import Places
from encoder import PIECES, AddedToken, Encoder

LARGEST_FILE = 2**25  # bytes of a vocabulary or merges file; GPT-2's have one million
LARGEST_ID = 10_000_000  # a larger id is taken for damage
END_OF_WORD = "</w>"  # ends the last symbol of a word in the vocabularies of GPT-1 and CLIP

# The settings of a BPE in tokenizer.json with which it is GPT-2's, the default first.
GPT2_BPE = {"type": ("BPE",), "byte_fallback": (False,), "ignore_merges": (False,), "dropout": (None, 0.0)}
GPT2_BPE |= {"continuing_subword_prefix": (None, ""), "end_of_word_suffix": (None, "")}
GPT2_SPLIT = {"type": "Split", "pattern": {"Regex": PIECES.pattern}, "behavior": "Isolated", "invert": False}

# Classes of transformers that read vocab.json and merges.txt as GPT-2's tokenizer does.
GPT2_CLASSES = ("GPT2Tokenizer", "RobertaTokenizer", "PreTrainedTokenizer", "Tokenizer")
BERT_CLASSES = ("BertTokenizer", "PreTrainedTokenizer", "Tokenizer")

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def get_encoder(folder: str | os.PathLike, n_rows: int | None = None) -> Encoder:
    """Return the encoder of the vocabulary in `folder`.

    n_rows: the number of the model's embeddings. Added tokens with larger ids are left out, as they cannot be used.
    Raise FileNotFoundError if a file is missing, CheckpointError if one is damaged or two do not belong together.
    """
    folder = Path(folder)
    if files.is_file(folder / "encoder.json"):
        return read_byte_level(folder / "encoder.json", find(folder, "vocab.bpe"), {}, n_rows)
    if files.is_file(folder / "tokenizer.json"):
        return read_tokenizer(folder / "tokenizer.json", n_rows)
    if not files.is_file(folder / "vocab.json") and files.is_file(folder / "vocab.txt"):
        return read_words(folder / "vocab.txt", n_rows)
    if not files.is_file(folder / "vocab.json"):
        check_sentencepiece(folder)
    vocabulary = find(folder, "vocab.json", "encoder.json")
    merges = find(folder, "merges.txt", "vocab.bpe")
    settings = read_settings(folder)
    check_class(settings, GPT2_CLASSES, folder)
    return read_byte_level(vocabulary, merges, settings, n_rows)


def find_gpt2_vocabulary(folder: Path, places: Places, n_vocab: int) -> Encoder:
    """Return the encoder of a model whose format has no vocabulary: that in its folder, or that of GPT-2.

    places: where one of OpenAI's models is looked for. Raise CheckpointError if there is none.
    """
    for place in (folder, *(path for size in download.OFFICIAL for path in places.official(size))):
        with contextlib.suppress(FileNotFoundError):
            encoder = get_encoder(place)
            if encoder.n_vocab <= n_vocab:
                return encoder
    raise CheckpointError(
        f"{named(folder)} lacks GPT-2's vocabulary, encoder.json and vocab.bpe: copy them there from the folder of any "
        f"of OpenAI's models, or download one with --model_size 124M"
    )


def find(folder: Path, name: str, other: str = "") -> Path:
    """Return the path of a file. Raise FileNotFoundError if it is missing. other: its name in another format."""
    if files.is_file(folder / name):
        return folder / name
    or_other = f" (or {other})" if other else ""
    problem = f"no {name}{or_other} in the folder {named(folder)}"
    raise FileNotFoundError(f"{problem}: check the folder's name, or copy the file there from the original folder")


def check_sentencepiece(folder: Path) -> None:
    """Raise CheckpointError if the folder has a vocabulary of SentencePiece, which is read from tokenizer.json only."""
    for path in sorted(folder.glob("*.model")):
        raise CheckpointError(
            f"{named(path)} is a SentencePiece vocabulary, which is read from tokenizer.json: save the tokenizer by "
            "transformers' save_pretrained, which writes that file"
        )


def damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{named(path)} {problem}: copy or download it again")


def read_object(path: Path) -> dict[str, Any]:
    return files.read_json_object(path, LARGEST_FILE)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file. Raise CheckpointError if it is no text."""
    try:
        text = files.read_bytes(path, LARGEST_FILE).decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, f"is not text (byte {error.start + 1:,} is not UTF-8)") from None
    return text.removesuffix("\n").split("\n")


# ---- two files: a vocabulary and merges ------------------------------------------------------------------------


def read_byte_level(vocabulary_path: Path, merges_path: Path, settings: dict, n_rows: int | None) -> Encoder:
    """Return the encoder of two files. settings: see read_settings."""
    vocabulary = check_vocabulary(read_object(vocabulary_path), vocabulary_path)
    merges = read_merges(merges_path)
    n_suffixed = sum(pair[1].endswith(END_OF_WORD) for pair in merges)
    if n_suffixed > len(merges) // 4:
        problem = f"{named(merges_path)}: the symbols at the end of a word have the suffix {END_OF_WORD}"
        raise CheckpointError(f"{problem}, but GPT-2's tokenizer has none; choose a model with GPT-2's tokenizer")
    added = tokens_beside(vocabulary, settings, vocabulary_path.parent)
    paths = (vocabulary_path, merges_path)
    return make_encoder(vocabulary, merges, added, settings.get("add_prefix_space") is True, n_rows, paths)


def make_encoder(
    vocabulary: Mapping[str, int],
    merges: list[tuple[str, str]],
    added: Collection[AddedToken],
    add_prefix_space: bool,
    n_rows: int | None,
    paths: tuple[Path, Path],
) -> Encoder:
    """Return the encoder. Raise CheckpointError if its parts do not fit together or the embedding.

    paths: the files of the vocabulary and the merges, for messages.
    """
    vocabulary_path, merges_path = paths
    contents = {token.content: token.id for token in added}
    if contents:
        check_vocabulary({**vocabulary, **contents}, vocabulary_path)
    check_merges(vocabulary, merges, contents, vocabulary_path, merges_path)
    if n_rows is not None:
        vocabulary = {token: i for token, i in vocabulary.items() if i < n_rows or token not in contents}
        added = [token for token in added if token.id < n_rows]
        check_size(vocabulary, n_rows, vocabulary_path)
    encoder = Encoder(vocabulary, merges, added, add_prefix_space)
    if encoder.n_vocab > 2 * len(encoder.encoder) + 1000:
        raise damaged(vocabulary_path, f"has the id {encoder.n_vocab - 1:,} but only {len(encoder.encoder):,} tokens")
    return encoder


def check_size(vocabulary: Mapping[str, int], n_rows: int, path: Path) -> None:
    """Raise CheckpointError if a token that was not added has no embedding."""
    largest = max(vocabulary.values(), default=-1)
    if largest >= n_rows:
        raise CheckpointError(
            f"{named(path)} has the token id {largest:,} but the model has embeddings for {n_rows:,} tokens: copy all "
            "files of one model there"
        )


def check_vocabulary(vocabulary: Any, path: Path) -> dict[str, int]:
    """Return the vocabulary read from `path`. Raise CheckpointError unless it is {token: id}."""
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise damaged(path, "is not a JSON object of tokens and their ids")
    for token, token_id in vocabulary.items():
        if type(token_id) is not int or not 0 <= token_id < LARGEST_ID:  # isinstance would accept true and false
            rule = f"it must be a whole number from 0 to {LARGEST_ID - 1:,}"
            raise damaged(path, f"gives the id of {shown(token)} as {shown(token_id)}, but {rule}")
    if len(set(vocabulary.values())) < len(vocabulary):
        raise damaged(path, "gives two tokens the same id")
    return vocabulary


def check_merges(
    vocabulary: Mapping[str, int],
    merges: Collection[tuple[str, str]],
    added: Collection[str],
    vocabulary_path: Path,
    merges_path: Path,
) -> None:
    """Raise CheckpointError if the merges make too few of the vocabulary's tokens, or tokens that it lacks."""
    made = {"".join(pair) for pair in merges}
    longer = {token for token in vocabulary if len(token) > 1 and token not in added}
    n_allowed = max(4, len(vocabulary) // 200)  # tokens that were put into the vocabulary by hand
    if len(longer - made) > n_allowed:
        n_made = len(longer & made)
        problem = f"makes only {n_made} of the {len(longer)} longer tokens in {vocabulary_path.name}"
        raise damaged(merges_path, problem)
    if len(made - vocabulary.keys()) > n_allowed:
        n_lost = len(made - vocabulary.keys())
        raise damaged(vocabulary_path, f"lacks {n_lost} of the {len(made)} tokens that {merges_path.name} makes")


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of symbols in a merges file. Raise CheckpointError if it is damaged."""
    lines = read_lines(path)
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
            raise damaged(path, f"has {shown(line)} in line {number:,} instead of two symbols")
    return merges


# ---- the files beside them -------------------------------------------------------------------------------------


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings in tokenizer_config.json and special_tokens_map.json, {} if there are none."""
    settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if files.is_file(folder / name):
            settings |= files.read_json_object(folder / name)
    return settings


def check_class(settings: Mapping[str, Any], classes: tuple[str, ...], folder: Path) -> None:
    """Raise CheckpointError if tokenizer_config.json names a class of transformers that is not among these."""
    found = settings.get("tokenizer_class")
    name = found.removesuffix("Fast") if isinstance(found, str) else found
    if name is not None and name not in classes:
        raise CheckpointError(
            f"{named(folder / 'tokenizer_config.json')}: tokenizer_class is {abbreviated(found)}; these files are read "
            f"as those of {classes[0]} only: save the tokenizer as tokenizer.json, by transformers' save_pretrained"
        )


def tokens_beside(vocabulary: Mapping[str, int], settings: Mapping[str, Any], folder: Path) -> list[AddedToken]:
    """Return the tokens in added_tokens.json and tokenizer_config.json, and the special ones of the vocabulary."""
    special = set(special_contents(settings))
    path = folder / "added_tokens.json"
    is_there = folder_has_hugging_face_names(folder) and files.is_file(path)
    numbered = read_object(path) if is_there else {}
    check_vocabulary(numbered or {"": 0}, path)
    tokens = {content: AddedToken(content, i, special=content in special) for content, i in numbered.items()}
    for content in special:
        if content in vocabulary:
            tokens[content] = AddedToken(content, vocabulary[content], special=True)
    entries = settings.get("added_tokens_decoder")
    if isinstance(entries, dict):
        path = folder / "tokenizer_config.json"
        described = [added_token(entry, path, i) for i, entry in entries.items()]
        tokens |= {token.content: token for token in described}
    return list(tokens.values())


def folder_has_hugging_face_names(folder):
    return not files.is_file(folder / "encoder.json")


def special_contents(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the special tokens that the settings name."""
    several = settings.get("additional_special_tokens")
    named_tokens = [settings.get(name) for name in SPECIAL_NAMES]
    for token in itertools.chain(named_tokens, several if isinstance(several, list) else []):
        if content := content_of(token):
            yield content


def content_of(token: Any) -> str | None:
    """Return the text of a token in a file of settings, where it is a string or an object; None if it is neither."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def added_token(entry: Any, path: Path, token_id: Any = None) -> AddedToken:
    """Return a token described by a JSON object. Raise CheckpointError if the object is no such description."""
    content = content_of(entry) if isinstance(entry, dict) else None
    token_id = entry.get("id", token_id) if content is not None else None
    if isinstance(token_id, str) and token_id.isascii() and token_id.isdecimal() and len(token_id) < 20:
        token_id = int(token_id)
    if type(token_id) is not int:
        raise damaged(path, f"has {as_json(entry)} among its added tokens, not an object with a content and an id")
    check_vocabulary({content: token_id}, path)
    flags = {name: entry.get(name) is True for name in AddedToken._fields[2:]}
    return AddedToken(content, token_id, **flags)


# ---- tokenizer.json and vocab.txt ------------------------------------------------------------------------------


def read_tokenizer(path: Path, n_rows: int | None) -> Encoder:
    """Return the encoder that tokenizer.json describes: of encoder.py if it is GPT-2's, otherwise of the library."""
    tokenizer = read_object(path)
    settings = read_settings(path.parent)
    model = tokenizer.get("model")
    added = tokenizer.get("added_tokens") or []
    if not isinstance(model, dict) or not isinstance(added, list):
        raise damaged(path, "has no model with a vocabulary, or no list of added tokens")
    added = [added_token(entry, path) for entry in added]
    splitter = find_splitter(tokenizer)
    if splitter is None or not is_gpt2_bpe(model) or tokenizer.get("normalizer") is not None:
        from checkpoints import library_encoder

        return library_encoder.from_tokenizer(tokenizer, settings, n_rows, path)
    vocabulary = check_vocabulary(model.get("vocab"), path)
    merges = list(pairs(model.get("merges"), path))
    add_prefix_space = settings.get("add_prefix_space", splitter.get("add_prefix_space", False)) is True
    return make_encoder(vocabulary, merges, added, add_prefix_space, n_rows, (path, path))


def is_gpt2_bpe(model: Mapping[str, Any]) -> bool:
    return all(model.get(name, allowed[0]) in allowed for name, allowed in GPT2_BPE.items())


def find_splitter(tokenizer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the ByteLevel pre-tokenizer if the tokenizer splits and decodes text as GPT-2's does, else None."""
    decoders = flattened(tokenizer.get("decoder"), "decoders")
    if any(decoder.get("type") != "ByteLevel" for decoder in decoders):
        return None
    *splits, last = flattened(tokenizer.get("pre_tokenizer"), "pretokenizers") or [{}]
    is_split = splits == [GPT2_SPLIT] and not last.get("add_prefix_space")
    uses_regex = last.get("use_regex", True)
    is_gpt2 = last.get("type") == "ByteLevel" and (is_split if splits else uses_regex)
    return last if is_gpt2 else None


def flattened(part: Any, name: str) -> list[Mapping[str, Any]]:
    """Return the parts of a Sequence, of Sequences too, in a list. name: of the list in a Sequence."""
    if not isinstance(part, dict):
        return []
    if part.get("type") != "Sequence":
        return [part]
    parts = part.get(name)
    return [inner for outer in parts for inner in flattened(outer, name)] if isinstance(parts, list) else [part]


def pairs(merges: Any, path: Path) -> Iterator[tuple[str, str]]:
    """Yield the merges of a tokenizer.json, each of which is two symbols in a list or in a text."""
    for merge in merges if isinstance(merges, list) else [None]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not is_pair(pair):
            raise damaged(path, f"has the merge {as_json(merge)}, which is not two symbols")
        yield pair[0], pair[1]


def is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(symbol, str) for symbol in pair)


def read_words(path: Path, n_rows: int | None) -> Encoder:
    """Return the encoder of BERT's vocab.txt."""
    from checkpoints import library_encoder

    settings = read_settings(path.parent)
    check_class(settings, BERT_CLASSES, path.parent)
    return library_encoder.from_words(read_lines(path), settings, n_rows, path)
