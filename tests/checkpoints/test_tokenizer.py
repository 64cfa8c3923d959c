"""Tokens around a text: which file defines the end, the start and the prefix, and the ids that are never drawn."""

import json
from functools import partial

import numpy as np
import pytest
from model_folders import change_json, change_tensors

import utils
from checkpoints.tokenizer import template_prefix
from cli.options import check_options
from cli.request import new_completions
from engine.batching import generate_samples
from sampling import make_sampler


def special_of(models, config=None, generation=None, **settings):
    """Return the special tokens of the model `hf` with these values in its files."""
    folder = models / "hf"
    change_json(folder / "config.json", **(config or {}))
    (folder / "generation_config.json").write_text(json.dumps(generation or {}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return utils.load(folder, models).special


@pytest.mark.parametrize(
    ("config", "generation", "stop_ids"),
    [
        ({"eos_token_id": 5}, {}, (5,)),
        ({"eos_token_id": [5, 6, 5]}, {}, (5, 6)),
        ({"eos_token_id": None}, {}, ()),
        ({"eos_token_id": 5}, {"eos_token_id": 7}, (7,)),
        ({"eos_token_id": 5}, {"eos_token_id": [7, 8]}, (7, 8)),
        ({"eos_token_id": 5}, {"eos_token_id": None}, ()),
        ({"eos_token_id": 50256}, {}, ()),
        ({"eos_token_id": -1}, {}, ()),
        ({"eos_token_id": "5"}, {}, ()),
        ({"eos_token_id": True}, {}, ()),
    ],
)
def test_the_ids_that_end_a_text_are_those_of_the_files(models, config, generation, stop_ids):
    assert special_of(models, config, generation).stop_ids == stop_ids


def test_without_any_definition_the_end_is_the_token_of_that_name(models):
    folder = models / "hf"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in config.items() if "token_id" not in name}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    (folder / "generation_config.json").unlink()
    special = utils.load(folder, models).special
    assert (special.start, special.stop_ids) == (30, (30,))


@pytest.mark.parametrize(
    ("config", "generation", "start"),
    [
        ({"bos_token_id": 4}, {}, 4),
        ({"bos_token_id": 4}, {"bos_token_id": 9}, 9),
        ({"bos_token_id": None}, {}, 30),
        ({"bos_token_id": 50256}, {}, 30),
    ],
)
def test_an_empty_text_starts_from_the_token_in_the_files(models, config, generation, start):
    assert special_of(models, config, generation).start == start


@pytest.mark.parametrize("bos", ["<|endoftext|>", {"content": "<|endoftext|>"}])
def test_add_bos_token_puts_the_token_before_every_prompt(models, bos):
    assert special_of(models, add_bos_token=True, bos_token=bos).prefix == (30,)
    assert special_of(models, add_bos_token=False, bos_token=bos).prefix == ()


def part(name):
    return {"SpecialToken": {"id": name, "type_id": 0}}


TEXT = {"Sequence": {"id": "A", "type_id": 0}}


@pytest.mark.parametrize(
    ("processor", "prefix"),
    [
        ({"type": "TemplateProcessing", "single": [part("<s>"), TEXT]}, ["<s>"]),
        ({"type": "TemplateProcessing", "single": [part("<s>"), part("<x>"), TEXT]}, ["<s>", "<x>"]),
        ({"type": "TemplateProcessing", "single": [part("[CLS]"), TEXT, part("[SEP]")]}, []),
        ({"type": "TemplateProcessing", "single": [TEXT]}, []),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing", "single": []}]}, []),
        ({"type": "ByteLevel"}, []),
        ({"type": "TemplateProcessing", "single": 5}, []),
        ({"type": "Sequence", "processors": 5}, []),
        (None, []),
        ([], []),
    ],
)
def test_a_template_gives_a_prefix_only_if_the_text_is_last(processor, prefix):
    assert template_prefix(processor) == prefix
    assert template_prefix({"type": "Sequence", "processors": [processor]}) == prefix


# ---- ids without a token ---------------------------------------------------------------------------------------


def test_ids_without_a_token_are_never_drawn(models):
    folder = models / "hf"
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    holes = {token: i for token, i in vocabulary.items() if i not in (3, 7, 8)}
    (folder / "vocab.json").write_text(json.dumps(holes), encoding="utf-8")
    model = utils.load(folder, models)
    assert model.special.unused_ids == (3, 7, 8)
    options = check_options({"temperature": 50, "ignore_eos": True, "num_samples": 50})
    completions = new_completions(model, options, partial(make_sampler, **options.sampling), [1], 0, 0)
    for _ in generate_samples([1], model.params, model.n_head, 15, completions):
        pass
    drawn = {i for completion in completions for i in completion.ids}
    assert drawn == set(range(30)) - {3, 7, 8}


def test_a_token_that_was_added_without_an_embedding_is_left_out(models):
    folder = models / "hf"
    (folder / "added_tokens.json").write_text('{"[PAD]": 31, "[NEW]": 3000}', encoding="utf-8")
    model = utils.load(folder, models)
    assert model.n_vocab == 31
    assert "[PAD]" not in model.encoder.encoder
    wte = "transformer.wte.weight"
    change_json(folder / "config.json", vocab_size=32)
    change_tensors(folder, lambda tensors: tensors | {wte: np.vstack([tensors[wte], tensors[wte][:1]])})
    assert utils.load(folder, models).encoder.encode("[PAD]") == [31]
