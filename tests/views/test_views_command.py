"""explore.py: its errors, its help, its prompts and its seed."""

import io
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
from conftest import Terminal
from tqdm import tqdm
from views_helpers import ROOT, STORY, records_of, run_explore, stdout_of

import explore
import utils
from checkpoints import files
from cli import terminal
from views import command, toy, writing

MANY = ",".join(map(str, range(1, 1001)))


@pytest.fixture
def run(here):
    return partial(run_explore, here)


@pytest.fixture
def seen(here):
    return partial(stdout_of, here)


# ---- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the view is missing; Choose from: next, plot, sweep, score"),
        (["nxt", "x"], "there is no view 'nxt'; did you mean next?"),
        (["Every effort"], "there is no view 'Every effort'"),
        (["next"], "there is no prompt"),
        (["next", "one", "two"], "the prompt must be in quotes: 'one two'"),
        (["next", "x", "--stride", "3"], "next takes no --stride; it is an option of score"),
        (["next", "x", "--num_samples", "3"], "next takes no --num_samples; it is an option of sweep"),
        (["next", "x", "--echo"], "explore.py has no --echo"),
        (["next", "x", "--tempratur", "1"], "there is no flag --tempratur; did you mean --temperature?"),
        (["next", "x", "--temperature", "hot"], "temperature is 'hot'; it must be a number"),
        (["next", "x", "--temperature", "1,2"], "temperature has several values; next takes one"),
        (["next", "x", "--steps", "0"], "steps is 0; it must be a whole number from 1 upwards"),
        (["next", "x", "--rows", "few"], "rows is 'few'"),
        (["next", "x", "--strategy", "greedy", "--top_p", "0.9"], "top_p has no effect with strategy greedy"),
        (["next", "x", "--toy", "--model_size", "tiny"], "--toy replaces the model"),
        (["next", "every dog", "--toy"], "'dog' is not in the vocabulary of the toy model: closer, every"),
        (["next", "x", "--model_size", "125M"], "there is no model '125M'"),
        (["plot", "x", "--top_p", "0.5,9"], "top_p is 9; it must be a number from 0 to 1"),
        (["plot", "x", "--temperature", "[]"], "temperature is an empty list"),
        (["plot", "x", "--top_k", "1,2,3,4,5,6,7,8,9"], "the grid has 9 settings; a picture shows at most 8"),
        (["plot", "x", "--steps", "3"], "steps is 3, but bars show one token: add --heatmap"),
        (["plot", "x", "--heatmap"], "a heat map needs a file"),
        (["plot", "x", "--heatmap", "--output", "a.png", "--top_k", "1,2"], "top_k has several values"),
        (["plot", "x", "--output", "a.gif"], "output is 'a.gif'; its name must end in .png, .svg, .pdf"),
        (["plot", "x", "--output", "nowhere/a.png"], "there is no folder 'nowhere'; create it first"),
        (["sweep", "x"], "there is nothing to compare; give an option several values"),
        (["sweep", "x", "--top_k", "5", "--output", "a.txt"], "its name must end in .md, .csv, .json"),
        (["sweep", "x", "--top_k", "5", "--output", "a.md", "--json"], "remove one of them"),
        (["sweep", "x", "--preset", "chatbot,poet"], "Unknown preset: 'poet'"),
        (["sweep", "x", "--strategy", "top_k,greedy", "--top_k", "5"], "top_k has no effect with strategy greedy"),
        (["sweep", "x", "--min_new_tokens", "50"], "min_new_tokens is 50, but n_tokens_to_generate is only 40"),
        (["score", "x", "--temperature", "1"], "score takes no --temperature"),
        (["sweep", "x", "--top_k", MANY, "--no_repeat_ngram_size", MANY], "a grid of 1000000 settings; at most 1000"),
        (["plot", "x", "--top_k", MANY, "--no_repeat_ngram_size", MANY], "a grid of 1000000 settings; at most 1000"),
        (["sweep", "x", "--top_k", "1,2", "--num_samples", "9999"], "are 19998 texts; at most 10000 are generated"),
        (["plot", "x", "--output", "a.png", "--rows", "51"], "rows is 51; a picture shows at most 50"),
        (
            ["plot", "x", "--heatmap", "--steps", "101", "--output", "a.png"],
            "steps is 101; a picture shows at most 100",
        ),
        (["\x1b[31m" + "v" * 10**6], "there is no view '\\x1b[31mvvv"),
        (["next", "w" * 10**6, "--toy"], "is not in the vocabulary of the toy model"),
        (["sweep", "x", "--top_k", "5", "--output", "n" * 300 + ".md"], "File name too long"),
        (["sweep", "x", "--top_k", "5", "--output", "\ud800.md"], "no file or folder can have this name"),
        (["sweep", "x", "--top_k", "5", "--output", "a" * 10**6 + ".gif"], "its name must end in .md, .csv, .json"),
    ],
)
def test_a_usage_error_prints_one_line_and_exits_with_2_before_a_model_is_loaded(run, monkeypatch, args, message):
    monkeypatch.setattr(utils, "load_found", None)
    code, out, err = run(*args)
    assert message in err and len(err) < 500
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["next", " word" * 600], "this model reads at most 512"),
        (["next", "x", "--banned_ids", "2048"], "there is no token 2048"),
        (["plot", "x", "--min_new_tokens", "[None]"], "min_new_tokens is [None]; None is not one of several values"),
        (["plot", "x", "--banned_ids", "1e999"], "inf is not a token id"),
        (["score", "x", "--stride", "513"], "stride is 513; it must be at most this model's context, 512"),
        (["score", ""], "there is nothing to score"),
    ],
)
def test_a_request_that_the_model_cannot_take_prints_one_line_and_exits_with_2(run, args, message):
    code, out, err = run(*args, "--model_size", "tiny")
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("view", ["next", "score"])
def test_the_name_of_a_model_cannot_change_the_terminal(seen, monkeypatch, view):
    forged = replace(toy.toy_model(), name="\x1b[31mred\n" + "m" * 10**6)
    monkeypatch.setattr(command, "toy_model", lambda: forged)
    out = seen(view, "forward", "--toy")
    assert "\\x1b[31mred" in out and "\x1b" not in out and len(out) < 5000


@pytest.mark.parametrize("view", ["next", "score"])
def test_a_damaged_model_is_a_run_time_failure_and_not_a_usage_error(run, monkeypatch, view):
    def damaged():
        model = toy.toy_model()
        return replace(model, params=model.params | {"wte": model.params["wte"] * float("nan")})

    monkeypatch.setattr(command, "toy_model", damaged)
    code, _, err = run(view, "forward", "--toy")
    assert code == 1 and "its weights may be damaged" in err


def test_a_file_that_cannot_be_completed_leaves_the_old_file(run, tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old", encoding="utf-8")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", fail)
    code, out, err = run("sweep", "--toy", "--top_k", "1", "--output", tmp_path / "a.json")
    assert (code, out, err) == (1, "", f"Error: cannot write {tmp_path}/a.json: No space left on device\n")
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs in its file system")
def test_an_output_that_is_no_ordinary_file_is_rejected_before_the_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "toy_model", None)
    args = ("sweep", "--toy", "--top_k", "1", "--output")
    os.mkfifo(tmp_path / "pipe.csv")
    code, _, err = run(*args, tmp_path / "pipe.csv")
    assert code == 2 and "pipe.csv': it is a" in err and "not a regular file" in err
    (tmp_path / "one.csv").write_text("old", encoding="utf-8")
    os.link(tmp_path / "one.csv", tmp_path / "two.csv")
    code, _, err = run(*args, tmp_path / "two.csv")
    assert code == 2 and "it has 2 names (hard links)" in err
    assert (tmp_path / "one.csv").read_text(encoding="utf-8") == "old"


def test_a_closed_stdout_matters_only_to_a_view_that_prints(tmp_path):
    line = f'"$@" >&-; echo $? > "{tmp_path}/code"'
    words = [sys.executable, "explore.py", "sweep", "--toy", "--top_k", "1,2"]
    for args, code in (([], 1), (["--output", str(tmp_path / "a.csv")], 0)):
        done = subprocess.run(
            ["sh", "-c", line, "sh", *words, *args],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
        assert int((tmp_path / "code").read_text()) == code
        assert done.stderr == b"Error: stdout is closed: there is nowhere to write to\n" * code
    assert (tmp_path / "a.csv").stat().st_size > 100


# ---- help ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--help"], ["next", "--help"], ["plot", "x", "-h"]])
def test_the_help_has_every_flag_and_fits_in_79_columns(seen, args):
    text = seen(*args)
    assert [name for name in command.EXPLORE.flags if f"--{name}" not in text] == []
    assert max(map(len, text.splitlines())) <= 79


def test_every_flag_belongs_to_a_view_and_every_view_has_only_flags_of_the_table():
    assert {name for names in command.VIEWS.values() for name in names} == set(command.EXPLORE.flags)


@pytest.mark.parametrize("line", command.EXPLORE.examples)
def test_the_examples_of_the_help_work(seen, line):
    python, script, *words = shlex.split(line)
    assert (python, script) == ("python", "explore.py")
    assert len(seen(*words)) > 100


# ---- the prompt and the seed -----------------------------------------------------------------------------------


def test_a_prompt_may_come_from_a_file_and_from_a_pipe(seen, tmp_path):
    (tmp_path / "a.txt").write_text(f"{STORY}\n", encoding="utf-8")
    args = ("--model_size", "tiny", "--seed", "1")
    assert (
        seen("next", STORY, *args)
        == seen("next", f"FILE:{tmp_path}/a.txt", *args)
        == seen("next", *args, piped=f"{STORY}\n".encode())
        == seen("next", "-", *args, piped=STORY.encode())
    )


def test_the_toy_needs_no_prompt_and_reads_no_pipe(seen):
    assert seen("next", "--toy", piped=b"forward") == seen("next", "every effort moves you", "--toy")


def test_a_terminal_asks_for_one_prompt_after_another(monkeypatch, capsys):
    typed = iter(["every effort", "pizza"])

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def type_next(sign):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(terminal, "ask", type_next)
    explore.main("next", model_size="tiny")
    out = capsys.readouterr().out
    assert "every effort\n" in out and "pizza\n" in out


def test_the_seed_of_a_draw_is_shown_and_repeats_the_draw(here):
    (first,) = records_of(here, "--toy", "--temperature", "1")
    (other,) = records_of(here, "--toy", "--temperature", "1")
    assert first["draw"]["seed"] != other["draw"]["seed"]
    assert records_of(here, "--toy", "--temperature", "1", "--seed", first["draw"]["seed"]) == [first]


def test_a_progress_bar_says_what_is_done(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("tqdm.tqdm", lambda steps, **options: tqdm(steps, **{**options, "delay": 0, "file": screen}))
    assert list(writing.with_progress_bar(range(3), 3, "scoring", "text")) == [0, 1, 2]
    assert "scoring: " in screen.getvalue() and "texts/s" in screen.getvalue()


# ---- imports ---------------------------------------------------------------------------------------------------


def test_a_view_imports_only_what_it_needs():
    code = (
        "import sys; from cli.command import run; from explore import main; from views.command import EXPLORE; "
        "sys.argv[1:] = ['plot', '--toy', '--top_k', '1,2']; run(main, EXPLORE); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    loaded = {module.split(".")[0] for module in done.stderr.split()}
    assert loaded & {"tensorflow", "requests", "matplotlib", "tqdm", "batch", "runner"} == set()
    assert "views" in loaded
