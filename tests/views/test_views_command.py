"""explore.py: what each view says is what the model and the samplers do, and it fits whatever shows it."""

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2
import gpt2_pico
import sampling
import utils
from cli import prompt
from views import command as view_command
from views import next_token, screen, sweep, toy

STORY = "Once upon a time"
TOY = np.array(list(toy.TOY.values()))
WORDS = list(toy.TOY)


@pytest.fixture
def run(here):
    """(exit code, stdout, stderr) of explore.py and what is typed."""
    return lambda *args, **options: here(*args, main=view_command.main, table=view_command.TABLE, **options)


@pytest.fixture
def seen(run):
    """stdout of a view that must succeed in silence."""

    def look(*args, **options):
        code, out, err = run(*args, **options)
        assert (code, err) == (0, "")
        return out

    return look


@pytest.fixture
def notes(seen):
    """The records of `next --json`."""
    return lambda *args: [json.loads(line) for line in seen("next", *args, "--json").splitlines()]


@pytest.fixture(scope="module")
def tiny():
    return utils.load_encoder_hparams_and_params("tiny", ROOT / "models")


# ---- what is asked for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name a view; There are: next, plot, sweep, score"),
        (["nxt", "x"], "there is no view 'nxt'; did you mean next?"),
        (["Every effort"], "there is no view 'Every effort'"),
        (["next"], "there is no prompt"),
        (["next", "one", "two"], "the prompt must be in quotes: 'one two'"),
        (["next", "x", "--stride", "3"], "next takes no --stride; it is for score"),
        (["next", "x", "--num_samples", "3"], "next takes no --num_samples; it is for sweep"),
        (["next", "x", "--echo"], "explore.py has no --echo"),
        (["next", "x", "--tempratur", "1"], "there is no flag --tempratur; did you mean --temperature?"),
        (["next", "x", "--temperature", "hot"], "temperature is 'hot'; it must be a number"),
        (["next", "x", "--temperature", "1,2"], "temperature has several values; one at a time here"),
        (["next", "x", "--steps", "0"], "steps is 0; it must be a whole number from 1 upwards"),
        (["next", "x", "--rows", "few"], "rows is 'few'"),
        (["next", "x", "--strategy", "greedy", "--top_p", "0.9"], "top_p has no effect with strategy greedy"),
        (["next", "x", "--toy", "--model_size", "tiny"], "--toy is a model of its own"),
        (["next", "every dog", "--toy"], "the toy knows nine words, and 'dog' is none of them"),
        (["next", "x", "--model_size", "125M"], "there is no model '125M'"),
        (["plot", "x", "--top_p", "0.5,9"], "top_p is 9; it must be a number from 0 to 1"),
        (["plot", "x", "--temperature", "[]"], "temperature is an empty list"),
        (["plot", "x", "--top_k", "1,2,3,4,5,6,7,8,9"], "9 settings are too many for a picture"),
        (["plot", "x", "--steps", "3"], "steps are for --heatmap"),
        (["plot", "x", "--heatmap"], "a heat map needs a file"),
        (["plot", "x", "--heatmap", "--output", "a.png", "--top_k", "1,2"], "top_k has several values"),
        (["plot", "x", "--output", "a.gif"], "output is 'a.gif'; its name must end in .png, .svg, .pdf"),
        (["plot", "x", "--output", "nowhere/a.png"], "there is no folder 'nowhere': make it first"),
        (["sweep", "x"], "there is nothing to compare; give a knob several values"),
        (["sweep", "x", "--top_k", "5", "--output", "a.txt"], "its name must end in .md, .csv, .json"),
        (["sweep", "x", "--top_k", "5", "--output", "a.md", "--json"], "leave out one of them"),
        (["sweep", "x", "--preset", "chatbot,poet"], "there is no preset 'poet'"),
        (["sweep", "x", "--strategy", "top_k,greedy", "--top_k", "5"], "top_k has no effect with strategy greedy"),
        (["sweep", "x", "--min_new_tokens", "50"], "min_new_tokens is 50, but n_tokens_to_generate only 40"),
        (["score", "x", "--temperature", "1"], "score takes no --temperature"),
    ],
)
def test_a_mistake_costs_a_sentence_and_exit_code_2_before_a_model_is_loaded(run, monkeypatch, args, message):
    monkeypatch.setattr(utils, "load_encoder_hparams_and_params", None)
    code, out, err = run(*args)
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["next", " word" * 600], "this model reads at most 512"),
        (["next", "x", "--banned_ids", "2048"], "there is no token 2048"),
        (["score", "x", "--stride", "513"], "stride is 513; it must be at most this model's context, 512"),
        (["score", ""], "there is nothing to score"),
    ],
)
def test_so_does_one_that_only_the_model_can_tell(run, args, message):
    code, out, err = run(*args, "--model_size", "tiny")
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_damaged_model_is_a_failure_and_not_a_mistake(run, monkeypatch):
    def damaged():
        model = toy.toy_model()
        return replace(model, params=model.params | {"wte": model.params["wte"] * np.nan})

    monkeypatch.setattr(view_command, "toy_model", damaged)
    code, _, err = run("next", "--toy")
    assert code == 1 and "its weights may be damaged" in err


@pytest.mark.parametrize("args", [["--help"], ["next", "--help"], ["plot", "x", "-h"]])
def test_the_help_has_every_flag_and_fits(seen, args):
    text = seen(*args)
    assert [name for name in view_command.TABLE if f"--{name}" not in text] == []
    assert max(map(len, text.splitlines())) <= 84


@pytest.mark.parametrize(
    "line", [line.strip() for line in view_command.main.__doc__.split("Examples")[1].splitlines() if line]
)
def test_the_examples_of_the_help_work(seen, line):
    if line.strip():
        import shlex

        assert len(seen(*shlex.split(line)[2:])) > 100


def test_a_prompt_may_come_from_a_file_and_from_a_pipe(seen, tmp_path):
    (tmp_path / "a.txt").write_text(f"{STORY}\n", encoding="utf-8")
    args = ("--model_size", "tiny", "--seed", "1")
    assert (
        seen("next", STORY, *args)
        == seen("next", f"FILE:{tmp_path}/a.txt", *args)
        == seen("next", *args, piped=f"{STORY}\n".encode())
        == seen("next", "-", *args, piped=STORY.encode())
    )


def test_the_seed_of_a_draw_is_told_and_gives_it_again(notes):
    (first,), (other,) = notes("--toy", "--temperature", "1"), notes("--toy", "--temperature", "1")
    assert first["draw"]["seed"] != other["draw"]["seed"]
    assert notes("--toy", "--temperature", "1", "--seed", first["draw"]["seed"]) == [first]


# ---- nine words ------------------------------------------------------------------------------------------------


def test_the_toy_is_a_gpt_2_that_gives_the_same_nine_logits_whatever_it_reads():
    model = toy.toy_model()
    for ids in ([8], [1, 2, 5, 8], [0] * 40):
        logits = gpt2_pico.gpt2(np.array(ids), **model.params, n_head=model.n_head)
        np.testing.assert_allclose(logits, np.tile(TOY, (len(ids), 1)), rtol=0, atol=1e-6)
    assert model.encoder.decode(model.encoder.encode("Every effort moves you")) == "every effort moves you"


def test_the_toy_needs_no_prompt_and_reads_no_pipe(seen):
    assert seen("next", "--toy", piped=b"forward") == seen("next", "every effort moves you", "--toy")


# ---- next ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "removed"),
    [  # after Raschka's distribution: forward 0.572, toward 0.358, closer 0.061, you, inches, every, moves, ...
        ([], {"greedy": "closer every effort inches moves pizza toward you"}),
        (["--temperature", "0"], {"temperature": "closer every effort inches moves pizza toward you"}),
        (["--temperature", "1"], {}),
        (["--top_k", "3"], {"top_k": "every effort inches moves pizza you"}),
        (["--top_p", "0.9"], {"top_p": "closer every effort inches moves pizza you"}),
        (["--top_p", "0.58", "--top_k", "3"], {"top_k": "every effort inches moves pizza you", "top_p": "closer"}),
        (["--min_p", "0.2", "--top_k", "3"], {"top_k": "every effort inches moves pizza you", "min_p": "closer"}),
        (["--typical_p", "0.3"], {"typical_p": "closer every effort forward inches moves pizza you"}),
        (["--entmax_alpha", "1.5"], {"entmax_alpha": "closer every effort inches moves pizza you"}),
        (["--entmax_alpha", "1.3", "--top_k", "2"], {"top_k": "closer every effort inches moves pizza you"}),
        (["--mirostat_tau", "0.25"], {"mirostat": "closer every effort inches moves pizza toward you"}),
        (["--mirostat_tau", "5"], {"mirostat": "effort moves pizza"}),
        (
            ["--banned_ids", "[3]", "--top_k", "1"],
            {"ban": "forward", "top_k": "closer every effort inches moves pizza you"},
        ),
        (["--no_repeat_ngram_size", "1", "--temp", "1"], {"ban": "every effort moves you"}),
    ],
)
def test_every_token_that_is_out_of_the_race_is_with_the_filter_that_took_it_out(notes, args, removed):
    (note,) = notes("--toy", "--seed", "1", *args)
    found = {}
    for row in note["tokens"]:
        found.setdefault(row["removed_by"], set()).add(row["token"])
        assert (row["removed_by"] is None) == (row["drawn_with"] > 0)
    left = found.pop(None)
    assert found == {name: set(words.split()) for name, words in removed.items()}
    assert note["support"] == len(left)
    for taken in note["filters"]:
        assert taken["keeps"] >= len(left)


def test_the_filters_are_told_in_their_order_with_what_each_leaves(seen):
    out = seen("next", "--toy", "--min_p", "0.2", "--top_p", "0.95", "--top_k", "5", "--temp", "2", "--banned_ids", "6")
    assert (
        "9 tokens → ban: 8 left → temperature 2 → top_k 5: 5 left → top_p 0.95: 4 left → min_p 0.2: 3 left"
        in " ".join(out.split())
    )


@settings(deadline=None, max_examples=60)
@given(
    temperature=st.floats(0.2, 5) | st.none(),
    top_k=st.integers(0, 12) | st.none(),
    top_p=st.floats(0, 1) | st.none(),
    min_p=st.floats(0, 1) | st.none(),
    typical_p=st.floats(0, 1) | st.none(),
    entmax_alpha=st.floats(1.05, 2) | st.none(),
    scale=st.floats(0.1, 3),
)
def test_what_is_left_is_what_can_be_drawn_whatever_the_knobs(scale, **knobs):
    sampler, logits = sampling.make_sampler(**knobs), np.random.default_rng(0).normal(0, scale, 40)
    removed = next_token.removed_by(next_token.stages(sampler, logits), 40)
    drawn = {sampler(logits, np.random.default_rng(i)) for i in range(30)}
    assert drawn <= set(np.flatnonzero(removed == "").tolist())
    assert ((next_token.drawn_from(sampler, logits) > 0) == (removed == "")).all()


def test_the_numbers_of_a_row_are_those_of_the_distribution(notes):
    (note,) = notes("--toy", "--temperature", "2", "--top_p", "0.9", "--seed", "1")
    p, heated = np.exp(TOY) / np.exp(TOY).sum(), np.exp(TOY / 2) / np.exp(TOY / 2).sum()
    left = dict(zip([3, 7, 0, 8], [0.454423, 0.359253, 0.148269, 0.038055], strict=True))  # published in the issue
    for row in note["tokens"]:
        i = row["id"]
        assert (row["token"], row["logit"]) == (WORDS[i], pytest.approx(TOY[i], abs=1e-6))
        assert row["probability"] == pytest.approx(p[i], abs=1e-6)
        assert row["at_temperature"] == pytest.approx(heated[i], abs=1e-6)
        assert row["cumulative"] == pytest.approx(heated[TOY[i] <= TOY].sum(), abs=1e-6)
        assert row["drawn_with"] == pytest.approx(left.get(i, 0), abs=1e-6)
    assert [row["rank"] for row in note["tokens"]] == list(range(1, 10))
    assert note["model_entropy_bits"] == pytest.approx(0.912715 / math.log(2), abs=1e-5)
    q = np.array(list(left.values()))
    assert note["entropy_bits"] == pytest.approx(-(q * np.log2(q)).sum(), abs=1e-5)


def test_penalties_change_a_logit_and_the_one_of_the_model_is_still_told(notes, seen):
    args = ("--toy", "--repetition_penalty", "1.3", "--temperature", "1", "--seed", "1")
    (note,) = notes(*args)
    changed = {row["id"]: row["penalised_logit"] for row in note["tokens"] if row["penalised_logit"] != row["logit"]}
    expected = {1: 0.684615, 2: -2.47, 5: -2.106, 8: 1.376923}  # as transformers has it
    assert changed == {i: pytest.approx(x, abs=1e-5) for i, x in expected.items()}
    assert "becomes" in seen("next", *args) and "becomes" not in seen("next", "--toy")


@pytest.mark.parametrize("seed", range(5))
def test_the_number_that_is_drawn_falls_into_the_part_of_the_token(notes, seed):
    (note,) = notes("--toy", "--temperature", "5", "--top_k", "6", "--seed", seed)
    draw = note["draw"]
    assert draw["u"] == np.random.default_rng([seed, 0, 0]).random()
    assert draw["begins_at"] <= draw["u"] < draw["begins_at"] + draw["probability"]


def test_a_greedy_choice_draws_nothing(notes, seen):
    (note,) = notes("--toy")
    assert "u" not in note["draw"] and note["draw"]["token"] == "forward"
    assert "the likeliest is forward (id 3); nothing is drawn" in seen("next", "--toy")


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--temperature", "1"),
        ("--strategy", "mirostat", "--mirostat_tau", "2"),
        ("--top_p", "0.9", "--repetition_penalty", "1.5", "--presence_penalty", "1"),
        ("--temperature", "1.5", "--logit_bias", '{"2047": 6}'),
    ],
)
def test_the_walk_is_the_text_that_gpt2_py_writes(here, notes, args):
    args = (STORY, "--model_size", "tiny", "--seed", "4", *args)
    _, text, _ = here(*args, "-n", "25")
    walked = notes(*args, "--steps", "25")
    tokens = [note["draw"]["id"] for note in walked]
    encoder = utils.load_encoder_hparams_and_params("tiny", ROOT / "models")[0]
    assert encoder.decode(token for token in tokens if token != encoder.end_of_text) + "\n" == text
    assert [note["step"] for note in walked] == list(range(1, len(tokens) + 1))
    assert [note["text"] for note in walked[:2]] == [STORY, STORY + encoder.decode(tokens[:1])]


def test_the_walk_uses_the_cache(seen, monkeypatch):
    sizes, original = [], gpt2.gpt2
    monkeypatch.setattr(gpt2, "gpt2", lambda ids, **rest: (sizes.append(np.shape(ids)), original(ids, **rest))[1])
    seen("next", STORY, "--model_size", "tiny", "--steps", "5")
    assert sizes == [(4,), (1,), (1,), (1,), (1,)]


def test_a_walk_ends_where_the_text_does(notes, seen):
    args = (STORY, "--model_size", "tiny", "--steps", "9", "--logit_bias", '{"2047": 100}')
    assert [note["draw"]["token"] for note in notes(*args)] == ["<|endoftext|>"]
    assert seen("next", *args).count("tokens left") == 1


def test_a_token_that_is_drawn_from_far_below_is_in_the_table(notes, seen):
    args = (STORY, "--model_size", "tiny", "--temperature", "9", "--seed", "1", "--rows", "3")
    rows = notes(*args)[0]["tokens"]
    assert [row["rank"] for row in rows[:3]] == [1, 2, 3] and rows[3]["rank"] > 4
    lines = seen("next", *args).splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith("◀"))
    assert lines[at].split()[0] == str(rows[3]["rank"]) and lines[at - 1].split() == ["⋮", "⋮"]


def test_equal_logits_rank_lowest_id_first():
    assert next_token.ranked(np.array([1.0, 3.0, 3.0, 0.0, 3.0])).tolist() == [1, 2, 4, 0, 3]


# ---- sweep -----------------------------------------------------------------------------------------------------

GRID = (STORY, "--model_size", "tiny", "--temperature", "0.3,1.2", "--top_p", "0.5,0.95", "--seed", "3", "-n", "8")


def swept(seen, *args):
    return json.loads(seen("sweep", *args, "--json"))


def test_a_sweep_is_every_combination_and_the_last_knob_changes_fastest(seen):
    cells = swept(seen, *GRID, "--num_samples", "2")["cells"]
    found = [(cell["settings"]["temperature"], cell["settings"]["top_p"]) for cell in cells]
    assert found == [(0.3, 0.5), (0.3, 0.95), (1.2, 0.5), (1.2, 0.95)]
    assert all(len(cell["texts"]) == len(cell["ended"]) == 2 for cell in cells)


def test_every_text_of_a_sweep_is_the_one_that_gpt2_py_writes_with_that_seed(seen, here):
    for cell in swept(seen, *GRID, "--num_samples", "2")["cells"]:
        knobs = [word for name, value in cell["settings"].items() for word in (f"--{name}", value)]
        _, out, _ = here(*GRID[:3], *knobs, *GRID[7:], "--num_samples", "2", "--json")
        assert [json.loads(line)["text"] for line in out.splitlines()] == cell["texts"]


def test_the_prompt_is_computed_once_for_the_whole_grid(seen, monkeypatch):
    sizes, original = [], gpt2.gpt2
    monkeypatch.setattr(gpt2, "gpt2", lambda ids, **rest: (sizes.append(np.shape(ids)), original(ids, **rest))[1])
    seen("sweep", *GRID, "--num_samples", "3")
    assert sizes[0] == (1, 4) and sizes[1] == (12, 1)
    assert sum(rows * columns for rows, columns in sizes) == 4 + 12 * 7


def test_settings_have_the_same_random_numbers_and_samples_have_others(seen):
    once, again = swept(seen, "--toy", "--temperature", "1,1", "--num_samples", "2")["cells"]
    assert once == again and once["texts"][0] != once["texts"][1]


def test_strategies_presets_and_penalties_can_be_swept_too(seen):
    def settings_of(*args):
        return [cell["settings"] for cell in swept(seen, "--toy", *args, "-n", "5")["cells"]]

    assert settings_of("--strategy", "greedy,mirostat") == [{"strategy": "greedy"}, {"strategy": "mirostat"}]
    assert settings_of("--preset", "chatbot,code_comments") == [{"preset": "chatbot"}, {"preset": "code_comments"}]
    assert settings_of("--repetition_penalty", "[1, 1.3]", "--temp", "1")[1] == {
        "temperature": 1,
        "repetition_penalty": 1.3,
    }


def test_the_log_probability_of_a_text_is_the_model_s_whatever_the_setting(seen, tiny):
    encoder, hparams, params = tiny
    args = (
        STORY,
        "--model_size",
        "tiny",
        "--temperature",
        "2",
        "--repetition_penalty",
        "1.5",
        "-n",
        "12",
        "--seed",
        "2",
    )
    (cell,) = swept(seen, *args)["cells"]
    prompt, new = encoder.encode(STORY), encoder.encode(cell["texts"][0])
    assert encoder.decode(new) == cell["texts"][0] and len(new) == 12  # else the seed is an unlucky one
    logits = gpt2_pico.gpt2(prompt + new, **params, n_head=hparams["n_head"]).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = [logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(new)]
    assert cell["logprob"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_a_text_of_a_sweep_may_end_by_itself(seen):
    (cell,) = swept(seen, STORY, "--model_size", "tiny", "--top_k", "5", "--logit_bias", '{"2047": 100}')["cells"]
    assert (cell["texts"], cell["ended"], cell["logprob"]) == ([""], ["eos"], None)


def test_repetition_is_measured_within_a_text_and_variety_over_all_of_a_setting():
    class Encoder:
        def decode(self, ids):
            return ""

    def cell(*texts):
        samples = [sweep.Measured() for _ in texts]
        for sample, ids in zip(samples, texts, strict=True):
            sample.ids = ids
        return sweep.cell({}, samples, Encoder())

    same = cell([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert (same["distinct_1"], same["distinct_2"], same["repeated"]) == (0.5, 0.5, 0)
    loop = cell([1, 2, 1, 2, 1, 2, 1, 2])  # runs of four: 1212, 2121, and three times again
    assert (loop["distinct_1"], loop["repeated"]) == (0.25, pytest.approx(3 / 5))
    assert [cell([])[name] for name in sweep.MEASURES] == [None] * 4


def test_a_sweep_in_a_file_is_all_there(seen, tmp_path):
    args = (*GRID, "--num_samples", "2")
    texts = [text for cell in swept(seen, *args)["cells"] for text in cell["texts"]]
    for kind in ("md", "csv", "json"):
        assert seen("sweep", *args, "--output", tmp_path / f"a.{kind}") == ""
    with open(tmp_path / "a.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == texts
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


def test_a_text_cannot_break_out_of_a_table_of_markdown_or_csv():
    text = 'a | b\n<b>*c*</b> `d` \\ "e", \x1b[31mf'
    table = [{"settings": {"top_k": 1}, **dict.fromkeys(sweep.MEASURES, 0.5), "texts": [text], "ended": ["length"]}]
    about = {"model": "tiny", "prompt": "x | y", "seed": 1}
    lines = sweep.as_markdown(table, ["top_k"], about).splitlines()
    (row,) = [line for line in lines if line.startswith("| 1 |")]
    assert (
        len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"\|", lines[2])) and "\x1b" not in row and r"\<b\>" in row
    )
    rows = list(csv.DictReader(io.StringIO(sweep.as_csv(table, ["top_k"], about).removeprefix("\ufeff"))))
    assert rows[0]["text"] == text


def test_a_file_that_cannot_be_finished_leaves_the_old_one(run, tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old", encoding="utf-8")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(utils, "sync", fail)
    code, out, err = run("sweep", "--toy", "--top_k", "1", "--output", tmp_path / "a.json")
    assert (code, out, err) == (1, "", f"Error: cannot write {tmp_path}/a.json: No space left on device\n")
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["old"]


# ---- on the screen ---------------------------------------------------------------------------------------------

VIEWS = [
    (
        "next",
        STORY,
        "--temperature",
        "0.7",
        "--top_k",
        "6",
        "--min_p",
        "0.05",
        "--repetition_penalty",
        "1.3",
        "--seed",
        "1",
    ),
    ("next", "你好 🤗 é", "--temperature", "3", "--seed", "1", "--steps", "3"),
    ("next", "word " * 90, "--logit_bias", '{"199": 50}'),
    ("plot", STORY, "--temperature", "0.1,1,5", "--top_p", "0.9"),
    ("sweep", STORY, "--temperature", "1,5", "--num_samples", "2", "--seed", "1", "-n", "25"),
    ("score", "Once upon a time, there was a 你好 dog.\n\nHe\tate \x1b[31m 🤗."),
]


@pytest.mark.parametrize("columns", [60, 200])
@pytest.mark.parametrize("args", VIEWS)
def test_no_line_is_wider_than_the_screen(seen, monkeypatch, args, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = seen(*args, "--model_size", "tiny")
    assert "\x1b" not in out
    assert max(map(screen.cells, out.splitlines())) <= columns
    if columns == 200:
        assert max(map(screen.cells, out.splitlines())) > 80


@pytest.mark.parametrize("args", VIEWS)
def test_colour_adds_nothing_but_colour(seen, monkeypatch, args):
    if args[0] == "score":
        return  # what is coloured there is the text itself, see test_score.py
    plain = seen(*args, "--model_size", "tiny")
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = seen(*args, "--model_size", "tiny")
    assert "\x1b[" in coloured and re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert seen(*args, "--model_size", "tiny") == plain


@pytest.mark.parametrize(
    ("env", "is_terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": ""}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
    ],
)
def test_the_conventions_of_colour_are_kept(monkeypatch, env, is_terminal, expected):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    assert screen.has_colour() is expected


def test_every_token_can_be_seen_and_counted(tiny):
    encoder = tiny[0]
    for token in range(encoder.n_vocab):
        shown = screen.visible(encoder.decode_bytes([token]))
        assert shown and shown.isprintable() and " " not in shown
        assert screen.cells(screen.pad(shown, 9)) == screen.cells(screen.pad(shown, -9)) == 9


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=60), st.integers(4, 30))
def test_a_wrapped_text_fits_and_loses_nothing_but_spaces(text, n_cells):
    text = screen.printable(text)
    lines = screen.wrap(text, n_cells)
    assert max(map(screen.cells, lines)) <= n_cells
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_an_accent_without_a_letter_has_something_to_sit_on():
    assert screen.visible("\u0301".encode()) == "◌\u0301"
    assert screen.cells("e\u0301") == screen.cells("◌\u0301") == 1


@pytest.mark.parametrize("columns", [80, 200])
def test_a_person_at_a_terminal_sees_colours_in_the_terminal_s_width(columns):
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    import fcntl
    import struct
    import termios

    fd, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    command = [sys.executable, "-W", "error", "explore.py", "next", "--toy", "--temperature", "1", "--seed", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"TERM": "xterm"}, stdin=other, stdout=other, stderr=subprocess.PIPE, timeout=60
    )
    os.close(other)
    seen = b""
    while True:
        try:
            seen += os.read(fd, 4096)
        except OSError:
            break
    os.close(fd)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = re.sub(r"\x1b\[[\d;]*m", "", seen.decode()).splitlines()
    assert "\x1b[36m" in seen.decode()
    assert (max(map(screen.cells, lines)) > 80) == (columns == 200)


def test_without_a_prompt_a_person_is_asked_for_one_after_another(monkeypatch, capsys):
    typed = iter(["every effort", "pizza"])

    class Person(io.StringIO):
        def isatty(self):
            return True

    def type_next(sign):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys, "stdin", Person())
    monkeypatch.setattr(prompt, "ask_once", type_next)
    view_command.main("next", model_size="tiny")
    out = capsys.readouterr().out
    assert "every effort\n" in out and "pizza\n" in out


def test_nothing_is_imported_that_a_view_does_not_need():
    code = (
        "import sys; from cli.command import run; from views.command import TABLE, main; sys.argv[1:] = ['plot', '--toy', '--top_k', '1,2']; "
        "run(main, TABLE); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    loaded = {module.split(".")[0] for module in done.stderr.split()}
    assert loaded & {"tensorflow", "requests", "matplotlib", "tqdm", "batch"} == set()
    assert "views" in loaded
