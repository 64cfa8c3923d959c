"""explore.py sweep: every text is that of gpt2.py, and the measures are right."""

import csv
import io
import json
import re
from functools import partial

import numpy as np
import pytest
from views_helpers import ROOT, STORY, record_passes, stdout_of

import gpt2_pico
import utils
from engine.completion import Completion
from views import sweep

GRID = (STORY, "--model_size", "tiny", "--temperature", "0.3,1.2", "--top_p", "0.5,0.95", "--seed", "3", "-n", "8")


@pytest.fixture
def seen(here):
    return partial(stdout_of, here)


@pytest.fixture
def cells(seen):
    """The cells of `sweep --json`."""
    return lambda *args: json.loads(seen("sweep", *args, "--json"))["cells"]


# ---- the texts -------------------------------------------------------------------------------------------------


def test_a_sweep_has_every_combination_and_the_last_option_changes_fastest(cells):
    found = cells(*GRID, "--num_samples", "2")
    settings = [(cell["settings"]["temperature"], cell["settings"]["top_p"]) for cell in found]
    assert settings == [(0.3, 0.5), (0.3, 0.95), (1.2, 0.5), (1.2, 0.95)]
    assert all(len(cell["texts"]) == len(cell["finish_reason"]) == 2 for cell in found)


def test_every_text_of_a_sweep_is_that_of_gpt2_py_with_the_same_seed(cells, here):
    for cell in cells(*GRID, "--num_samples", "2"):
        knobs = [word for name, value in cell["settings"].items() for word in (f"--{name}", value)]
        _, out, _ = here(*GRID[:3], *knobs, *GRID[7:], "--num_samples", "2", "--json")
        assert [json.loads(line)["text"] for line in out.splitlines()] == cell["texts"]


def test_the_prompt_is_computed_once_for_the_whole_grid(seen, monkeypatch):
    n_positions = record_passes(monkeypatch)
    seen("sweep", *GRID, "--num_samples", "3")
    assert n_positions[:2] == [4, 12]
    assert sum(n_positions) == 4 + 12 * 7


def test_all_settings_have_the_same_random_numbers_and_samples_have_different_ones(cells):
    once, again = cells("--toy", "--temperature", "1,1", "--num_samples", "2")
    assert once == again and once["texts"][0] != once["texts"][1]


def test_strategies_presets_and_penalties_can_be_swept_too(cells):
    def settings_of(*args):
        return [cell["settings"] for cell in cells("--toy", *args, "-n", "5")]

    assert settings_of("--strategy", "greedy,mirostat") == [{"strategy": "greedy"}, {"strategy": "mirostat"}]
    assert settings_of("--preset", "chatbot,code_comments") == [{"preset": "chatbot"}, {"preset": "code_comments"}]
    assert settings_of("--repetition_penalty", "[1, 1.3]", "--temp", "1")[1] == {
        "temperature": 1,
        "repetition_penalty": 1.3,
    }


def test_a_text_of_a_sweep_may_end_with_the_end_of_text_token(cells):
    (cell,) = cells(STORY, "--model_size", "tiny", "--top_k", "5", "--logit_bias", '{"2047": 100}')
    assert (cell["texts"], cell["finish_reason"], cell["logprob"]) == ([""], ["eos"], None)


# ---- the measures ----------------------------------------------------------------------------------------------


def test_the_log_probability_of_a_text_is_that_of_the_model_with_any_setting(cells):
    model = utils.load("tiny", ROOT / "models")
    setting = ("--temperature", "2", "--repetition_penalty", "1.5", "-n", "12", "--seed", "2")
    (cell,) = cells(STORY, "--model_size", "tiny", *setting)
    prompt = model.encoder.encode(STORY)
    new = model.encoder.encode(cell["texts"][0])
    assert model.encoder.decode(new) == cell["texts"][0] and len(new) == 12  # otherwise choose another seed
    logits = gpt2_pico.gpt2(prompt + new, **model.params, n_head=model.n_head).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = [logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(new)]
    assert cell["logprob"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_repetition_is_measured_within_each_text_and_variety_over_all_texts_of_a_setting():
    class Encoder:
        def stream(self, ids, before=()):
            return ""

    def cell(*texts):
        completions = [Completion(on_token=sweep.LogprobObserver()) for _ in texts]
        for completion, ids in zip(completions, texts, strict=True):
            completion.ids = ids
        return sweep.measure({}, completions, Encoder())

    same = cell([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert (same["distinct_1"], same["distinct_2"], same["repeated"]) == (0.5, 0.5, 0)
    loop = cell([1, 2, 1, 2, 1, 2, 1, 2])  # sequences of four: 1212, 2121, and three repetitions of them
    assert (loop["distinct_1"], loop["repeated"]) == (0.25, pytest.approx(3 / 5))
    assert [cell([])[name] for name in sweep.MEASURES] == [None] * 4


# ---- files -----------------------------------------------------------------------------------------------------


def test_a_file_of_each_format_has_all_texts_of_a_sweep(seen, cells, tmp_path):
    args = (*GRID, "--num_samples", "2")
    texts = [text for cell in cells(*args) for text in cell["texts"]]
    for kind in ("md", "csv", "json"):
        assert seen("sweep", *args, "--output", tmp_path / f"a.{kind}") == ""
    with open(tmp_path / "a.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == texts
    assert {row["finish_reason"] for row in rows} == {"length"}
    assert [(row["temperature"], row["top_p"], row["sample"]) for row in rows[1:3]] == [
        ("0.3", "0.5", "1"),
        ("0.3", "0.95", "0"),
    ]
    record = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [text for cell in record["cells"] for text in cell["texts"]] == texts
    assert (record["prompt"], record["seed"]) == (STORY, 3)
    lines = (tmp_path / "a.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("| 0.3 |") or line.startswith("| 1.2 |") for line in lines) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json", "a.md"]


def test_no_text_can_break_a_table_of_markdown_or_csv():
    text = 'a | b\n<b>*c*</b> `d` \\ "e", \x1b[31mf'
    measures = dict.fromkeys(sweep.MEASURES, 0.5)
    cells = [{"settings": {"top_k": 1}, **measures, "texts": [text], "finish_reason": ["length"]}]
    about = {"model": "tiny", "prompt": "x | y", "seed": 1}
    lines = sweep.as_markdown([(cells, about)], ["top_k"]).splitlines()
    (row,) = [line for line in lines if line.startswith("| 1 |")]
    assert (
        len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"\|", lines[2])) and "\x1b" not in row and r"\<b\>" in row
    )
    rows = list(csv.DictReader(io.StringIO(sweep.as_csv([(cells, about)], ["top_k"]).removeprefix("\ufeff"))))
    assert rows[0]["text"] == text
