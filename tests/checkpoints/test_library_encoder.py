"""Vocabularies of the library `tokenizers`: ids, texts, streaming, BERT's vocabulary, and what is refused."""

import json
import pickle
import sys

import pytest
from conftest import requires
from model_folders import assert_error, change_json, load_parts

import utils
from checkpoints.files import CheckpointError
from checkpoints.vocabulary import get_encoder

tokenizers = requires("tokenizers")
import compare_tokenizers  # noqa: E402

KINDS = compare_tokenizers.kinds()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"人工智能的未来是好", "good", "##ness", "day", ",", "b"]


@pytest.mark.parametrize("name", KINDS)
def test_ids_texts_and_pieces_equal_those_of_the_library(name):
    assert list(compare_tokenizers.faults(KINDS[name], 200)) == []


def test_an_added_token_is_decoded_to_its_exact_text(tmp_path):
    KINDS["GPT-2, added tokens"].save(str(tmp_path / "tokenizer.json"))
    encoder = get_encoder(tmp_path)
    for token in ("très bien", "đem"):
        ids = encoder.encode(token)
        assert len(ids) == 1
        assert encoder.decode(ids) == token


@pytest.fixture
def bert(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return get_encoder(tmp_path)


def test_a_bert_vocabulary_continues_chinese_without_spaces_and_english_with_them(bert):
    ids = bert.encode("人工智能的未来是")
    assert ids == list(range(5, 13))
    assert bert.decode(ids) == "人工智能的未来是"
    assert bert.decode(bert.encode("Goodness, good day")) == "goodness, good day"
    assert list(bert.stream(bert.encode("好 good"), before=ids)) == ["好", " good"]
    assert bert.start == WORDS.index("[CLS]")
    assert (bert.n_vocab, bert.end_of_text) == (len(WORDS), None)


def test_special_tokens_of_a_bert_vocabulary_are_text_unless_they_are_allowed(bert):
    assert bert.encode("[SEP]", allow_special=True) == [3]
    assert 3 not in bert.encode("[SEP]")
    assert bert.special == {token: i for i, token in enumerate(WORDS[:5])}


def test_the_case_of_a_bert_vocabulary_follows_its_settings(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\nGood\ngood\n", encoding="utf-8")
    assert get_encoder(tmp_path).encode("Good") == [2]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert get_encoder(tmp_path).encode("Good") == [1]


@pytest.mark.parametrize(("text", "said"), [("", r"vocab\.txt has no \[UNK\]"), ("\xff", "is not text")])
def test_the_error_for_a_damaged_list_of_words_names_the_file(tmp_path, text, said):
    (tmp_path / "vocab.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=said):
        get_encoder(tmp_path)


def test_a_tokenizer_that_needs_another_library_is_refused_by_name(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokenizer_class is BertJapaneseTokenizer; these files are read as"):
        get_encoder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_without_the_package_the_error_contains_the_command_that_installs_it(tmp_path, monkeypatch, name):
    KINDS["WordPiece"].save(str(tmp_path / "tokenizer.json"))
    if name == "vocab.txt":
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "vocab.txt").write_text("[UNK]\n", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(CheckpointError, match=f"{name} holds .*, which needs .*: pip install tokenizers"):
        get_encoder(tmp_path)


def test_gpt2_s_own_tokenizer_needs_no_package(tmp_path, monkeypatch):
    KINDS["GPT-2, added tokens"].save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert get_encoder(tmp_path).encode("the cat")


def test_a_character_appears_when_its_last_byte_is_there(tmp_path):
    KINDS["BPE with byte fallback"].save(str(tmp_path / "tokenizer.json"))
    encoder = get_encoder(tmp_path)
    ids = [0xE4, 0xB8, 0xAD, 0xE4, encoder.encoder["th"]]
    assert list(encoder.stream(ids)) == ["", "", "中", "", "\ufffdth"]
    assert list(encoder.stream([encoder.encoder["▁the"]])) == ["the"]
    assert list(encoder.stream([encoder.encoder["▁the"]], before=[0xE4])) == [" the"]


def test_a_token_without_an_embedding_is_an_error_only_where_a_text_needs_it(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    encoder = get_encoder(tmp_path, n_rows=len(WORDS) - 1)
    assert encoder.encode("good day") == [WORDS.index("good"), WORDS.index("day")]
    with pytest.raises(ValueError, match=r"the token 'b', id \d+, but the model's ids are 0 to"):
        encoder.encode("b")


def test_an_encoder_of_the_library_can_be_pickled(bert):
    assert pickle.loads(pickle.dumps(bert)).encode("good day") == bert.encode("good day")


def test_an_unknown_id_is_an_error(bert):
    with pytest.raises(ValueError, match="99 is not a token id; the ids of this vocabulary run from 0 to"):
        bert.decode([99])


def test_a_damaged_description_is_one_error(tmp_path):
    KINDS["Unigram"].save(str(tmp_path / "tokenizer.json"))
    change_json(tmp_path / "tokenizer.json", decoder={"type": "Nonsense"})
    with pytest.raises(CheckpointError, match="cannot be read by the package tokenizers"):
        get_encoder(tmp_path)


# ---- in a model ------------------------------------------------------------------------------------------------


def test_a_model_with_a_bert_vocabulary_loads_and_writes(models):
    folder = models / "hf"
    for name in ("vocab.json", "merges.txt", "generation_config.json"):
        (folder / name).unlink()
    words = [*WORDS, *(f"w{i}" for i in range(31 - len(WORDS)))]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    change_json(folder / "config.json", bos_token_id=None, eos_token_id=3)
    model = utils.load(folder, models)
    assert model.special.start == 2
    assert model.special.stop_ids == (3,)
    assert model.encode("人工智能的未来是") == list(range(5, 13))


def test_a_prefix_of_a_template_precedes_every_prompt(models):
    folder = models / "hf"
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    model = tokenizers.models.BPE(vocabulary, [("Ġ", "t"), ("h", "e"), ("Ġt", "he")])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    compare_tokenizers.with_prefix(tokenizer, "<|endoftext|>").save(str(folder / "tokenizer.json"))
    model = utils.load(folder, models)
    assert model.special.prefix == (30,)
    assert model.encode("the") == [30, *model.encoder.encode("the")]
    assert model.encode("") == [30]


def test_sentencepiece_without_tokenizer_json_is_refused_with_a_remedy(models):
    folder = models / "hf"
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    (folder / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>")
    assert_error(folder, r"spiece\.model is a SentencePiece vocabulary.*tokenizer\.json.*save_pretrained")
    assert load_parts(models / "hf_gelu")
