"""The command: what is typed arrives as it was typed, what is wrong costs a sentence and no time, stdout is text."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt2
import gpt2_pico
import sampling
import utils
from cli import command as cli_command
from cli import complete, flags, output

ROOT = Path(__file__).parent.parent
STORY = "Once upon a time"


def command(*args, script="gpt2.py", env=None, typed=b"", **options):
    """Run a script as a person would, with the bundled model at hand; return the finished process."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PICOGPT", "TF_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-W", "error", script, *args],
        cwd=ROOT,
        env=settings | (env or {}),
        input=typed,
        capture_output=True,
        timeout=120,
        **options,
    )


def tell(*args, **options):
    """stdout of a command that must succeed in silence, as text."""
    done = command(*args, **options)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout.decode("utf-8")


@pytest.fixture
def typed(monkeypatch):
    """What `main` receives when the given words are typed after the command's name."""

    def receive(*args):
        received = []

        def main(prompt=None, *words, temperature=None, seed=None, models_dir="models", **unknown):
            received.append((prompt, words, temperature, seed, models_dir, unknown))

        monkeypatch.setattr(sys, "argv", ["gpt2.py", *args])
        cli_command.run(main)
        return received[0]

    return receive


@pytest.fixture
def told(here):
    """stdout of a command that must succeed in silence, with the bundled model."""

    def tell(*args, **options):
        code, out, err = here(*args, "--model_size", "tiny", **options)
        assert (code, err) == (0, "")
        return out

    return tell


# ---- what is typed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        "Hello, world",
        "1984",
        "1e5",
        "None",
        "True",
        "a # b",
        "{x}",
        "(1, 2)",
        "'quoted'",
        '"quoted"',
        "",
        " x ",
        "你好",
        "🤗",
        "$HOME `ls` \\n \\",
        "a=b",
        "[1",
        "line\nline\n",
        "- milk",
        "-5 degrees",
        "--a list item",
        "-- said nobody",
        "…" * 30_000,
    ],
)
def test_a_prompt_arrives_as_it_was_typed(typed, prompt):
    assert typed(prompt)[0] == prompt
    assert typed(f"--prompt={prompt}")[0] == prompt
    assert typed("--", prompt)[0] == prompt
    assert typed("--seed", "1", prompt)[:2] == (prompt, ())
    assert typed("--json=True", prompt)[0] == prompt


def test_a_prompt_may_begin_with_dashes_when_it_is_named(typed):
    assert typed("--prompt=--item")[0] == "--item"
    assert typed("--prompt=--help")[0] == "--help"


def test_a_switch_does_not_swallow_the_prompt_behind_it(typed):
    assert typed("--json", "1984")[0] == "1984"
    assert typed("--quiet", "--json", "false alarm")[0] == "false alarm"
    assert typed("--stream", "false", "x")[0] == "x"


def test_numbers_arrive_as_numbers_and_folder_names_as_text(typed):
    assert typed("x", "--temperature", "0.8", "--seed=7", "--models_dir", "2024")[2:5] == (0.8, 7, "2024")


def test_dashes_inside_a_flag_s_name_are_as_good_as_underscores(typed):
    assert typed("x", "--models-dir", "here")[4] == "here"


# ---- what is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there is no prompt"),
        (["Once", "upon", "a"], "the prompt must be in quotes: 'Once upon a' came as several words"),
        (["Once", "--prompt", "upon"], "the prompt is given twice, as --prompt and as 'Once'"),
        (["x", "--start=y"], "the prompt is given twice"),
        (["x", "--tempratur", "1"], "there is no flag --tempratur; did you mean --temperature?"),
        (["x", "--tempp", "1"], "there is no flag --tempp; did you mean --temperature?"),
        (["x", "--zzz"], "there is no flag --zzz; --help explains them all"),
        (["x", "-t", "1"], "there is no flag --t: it could be --temperature, --top_k or --top_p"),
        (["x", "--max_length", "50"], "--n_tokens_to_generate counts the new tokens"),
        (["x", "--temperature", "hot"], "temperature is 'hot'; it must be a number"),
        (["x", "--temperature"], "--temperature needs a value"),
        (["x", "--stop", "--json"], "--stop needs a value; one that begins with a dash is written --stop=VALUE"),
        (["x", "--temperature", "-1"], "temperature is -1"),
        (["x", "--top_p", "9"], "top_p is 9; it must be a number from 0 to 1"),
        (["x", "--top-p", "9"], "top_p is 9; it must be a number from 0 to 1"),
        (["x", "--top_k", "many"], "top_k is 'many'"),
        (["x", "--strategy", "topp"], "Unknown sampling strategy: 'topp'; did you mean top_p?"),
        (["x", "--strategy", "greedy", "--top_p", "0.9"], "top_p has no effect with strategy greedy"),
        (["x", "--strategy", "top_p", "--entmax_alpha", "1.5"], "entmax_alpha has no effect with strategy top_p"),
        (["x", "--preset", "chatbox"], "there is no preset 'chatbox'; did you mean chatbot?"),
        (["x", "--seed", "-5"], "seed is -5; it must be a whole number"),
        (["x", "--seed", "now"], "seed is 'now'"),
        (["x", "--n_tokens_to_generate", "2.5"], "n_tokens_to_generate is 2.5; it must be a whole number"),
        (["x", "--max_new_tokens", "lots"], "n_tokens_to_generate is 'lots'; it must be a whole number"),
        (["x", "--n_tokens_to_generate=-1"], "n_tokens_to_generate is -1"),
        (["x", "--stop", ""], "stop is ['']; it must be a text, or a JSON list of texts, and none may be empty"),
        (["x", "--stop", "[1]"], "stop is [1]; it must be a text"),
        (["x", "--stop", "a", "--stop", "b"], "stop is given twice; give a list"),
        (["x", "--stream", "perhaps"], "the prompt must be in quotes: 'x perhaps'"),
        (["x", "--stream=perhaps"], "stream is 'perhaps'; it must be True or False"),
        (["x", "--model_size", "125M"], "124M"),
        (["x", "--init_from=gpt2-xxl"], "there is no model 'gpt2-xxl'"),
        (["FILE:nowhere.txt"], "cannot read the prompt from 'nowhere.txt': No such file"),
        ([" word" * 600, "--model_size", "tiny"], "this model reads at most 512"),
    ],
)
@pytest.mark.parametrize("script", [gpt2, gpt2_pico])
def test_a_mistake_costs_one_sentence_and_exit_code_2(here, args, message, script):
    code, out, err = here(*args, main=script.main)
    assert message in err
    assert (code, out) == (2, "")
    assert err.startswith("Error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num_samples", "0"], "num_samples is 0; it must be a whole number from 1 upwards"),
        (["--repetition_penalty", "0"], "repetition_penalty is 0; it must be a number above 0"),
        (["--no_repeat_ngram_size", "1.5"], "no_repeat_ngram_size is 1.5"),
        (["--min_new_tokens", "50"], "min_new_tokens is 50, but n_tokens_to_generate only 40"),
        (["--logit_bias", "x"], "logit_bias is 'x'; it must be token ids and numbers"),
        (["--logit_bias", '{"5": "much"}'], "logit_bias of token 5 is 'much'"),
        (["--banned_ids", "[-1]"], "-1 is not a token id"),
        (["--banned_ids", "50256", "--model_size", "tiny"], "there is no token 50256: the ids of this model are 0 to"),
        (["--logprobs", "2"], "logprobs are part of the JSON output: add --json"),
        (["--context", "roll"], "context is 'roll'; it must be stop or slide"),
        (["--keep", "4"], "keep has no effect unless the context slides"),
        (["--context", "slide", "--keep", "511", "--model_size", "tiny"], "leaves at most 510"),
    ],
)
def test_a_mistake_of_what_only_gpt2_py_has_costs_a_sentence_too(here, args, message):
    code, out, err = here("x", *args)
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, err = here("x", *args, main=gpt2_pico.main)
    assert (code, out) == (2, "")
    assert "gpt2_pico.py has no --" in err


def test_a_mistake_is_told_by_the_process_too():
    done = command("x", "--top_p", "9")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"Error: top_p is 9; it must be a number from 0 to 1, such as 0.9\n"


def test_a_wrong_flag_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(complete.utils, "load_encoder_hparams_and_params", None)
    monkeypatch.setattr(complete, "read_prompt", None)
    with pytest.raises(ValueError, match="top_p is 3"):
        gpt2.main("x", top_p=3)
    with pytest.raises(ValueError, match="no flag --top_q"):
        gpt2.main("x", top_q=3)


def run_writing(monkeypatch, pieces):
    """Run a command that only prints these pieces; return its exit code."""
    options = flags.check_flags({})
    steps = ((None, piece, False) for piece in output.Clock().watch(pieces))
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as exit:
        cli_command.run(lambda *args: output.write_text(steps, options, None, "", 0))
    return exit.value.code


def test_a_failure_while_running_is_exit_code_1_and_keeps_what_was_printed(monkeypatch, capsys):
    def pieces():
        yield "so far"
        raise ValueError("the largest logit is nan")

    code = run_writing(monkeypatch, pieces())
    out, err = capsys.readouterr()
    assert (code, out, err) == (1, "so far\n", "Error: the text ends here: the largest logit is nan\n")


def test_a_traceback_is_shown_to_those_who_ask_for_it():
    assert b"Traceback" in command("x", "--top_p", "9", env={"PICOGPT_DEBUG": "1"}).stderr
    assert b"Traceback" not in command("x", "--top_p", "9", env={"PICOGPT_DEBUG": "0"}).stderr


def test_an_interrupt_is_exit_code_130_and_keeps_what_was_printed(monkeypatch, capsys):
    def pieces():
        yield "so far"
        raise KeyboardInterrupt

    code = run_writing(monkeypatch, pieces())
    out, err = capsys.readouterr()
    assert (code, out, err) == (130, "so far\n", "")


# ---- what comes out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["x", "--help"], ["x", "--seed", "now", "-h"]])
def test_help_is_printed_and_nothing_is_run(args):
    text = tell(*args)
    assert [name for name in flags.FLAGS if f"--{name}" not in text] == []
    assert [name for name in (*sampling.STRATEGIES, *sampling.PRESETS) if name not in text] == []
    assert max(map(len, text.splitlines())) <= 84


def test_the_version_is_told():
    assert tell("--version").startswith(f"picoGPT, extended {cli_command.VERSION} (Python 3.")


def test_stdout_is_the_new_text_and_one_newline():
    text = tell(STORY, "--model_size", "tiny", "--n_tokens_to_generate", "20")
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert len(text.split()) > 5
    assert not text.startswith(STORY)


def test_the_slow_script_tells_the_same_story(told):
    args = (STORY, "-n", "30", "--temperature", "0.8", "--seed", "3", "--stop", "zzz")
    assert told(*args) == told(*args, main=gpt2_pico.main)


def test_a_seed_gives_the_same_text_again_and_another_seed_another(told):
    def story(*args):
        return told(STORY, "-n", "25", *args)

    assert story("--temperature", "1", "--seed", "1") == story("--temperature", "1", "--seed", "1")
    assert story("--temperature", "1", "--seed", "1") != story("--temperature", "1", "--seed", "2")
    assert story() == story("--strategy", "greedy") == story("--temperature", "0")


@pytest.mark.parametrize(
    "args",
    [  # what the articles print
        ("--temperature", "0.8"),
        ("--strategy", "top_p", "--top_p", "0.9"),
        ("--strategy", "temperature_top_p", "--temperature", "0.7", "--top_p", "0.95"),
        ("--num_samples=1", "--max_new_tokens=40"),
        ("--num_samples=1", "--max_new_tokens=40", "--temperature=0.8", "--top_k=50"),
        ("--num_samples=1", "--max_new_tokens=40", "--temperature=0.7", "--top_k=20"),
        ("--temperature", "0.3", "--top_k", "10"),
        ("--temperature", "1.0", "--top_p", "0.95"),
    ],
)
def test_the_commands_of_the_articles_do_what_the_articles_say(told, args):
    texts = {told(f"--start={STORY}", *args, "--seed", str(seed)) for seed in range(4)}
    is_greedy = not any("temperature" in arg or "top" in arg for arg in args)
    assert (texts == {told(STORY)}) if is_greedy else len(texts) > 1


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["--max_new_tokens", "5"], ["--n_tokens_to_generate", "5"]),
        (["-n", "5"], ["--n_tokens_to_generate", "5"]),
        (["--max-tokens=5"], ["--n_tokens_to_generate", "5"]),
        (["--top-p", "0.5", "--seed", "1"], ["--top_p", "0.5", "--seed", "1"]),
        (["--temp", "0.7", "--seed", "1"], ["--temperature", "0.7", "--seed", "1"]),
        (["--repeat_penalty", "1.5"], ["--repetition_penalty", "1.5"]),
        (["--num_return_sequences", "2"], ["--num_samples", "2"]),
        (["--nostream"], ["--stream", "False"]),
        (["--no-stream"], []),
    ],
)
def test_what_other_tools_call_it_is_understood(told, theirs, ours):
    assert told(STORY, *theirs) == told(f"--start={STORY}", *ours)


# ---- prompts from elsewhere ------------------------------------------------------------------------------------


def prompt_of(told, *args, **options):
    return json.loads(told(*args, "--json", "-n", "0", **options))["prompt"]


@pytest.mark.parametrize(
    ("args", "piped", "prompt"),
    [
        ([], b"Once upon\n", "Once upon"),
        ([], b"Once upon\r\n", "Once upon"),
        ([], b"Once upon\n\n", "Once upon\n"),
        (["-"], b" x ", " x "),
        (["-"], b"", ""),
        (["--prompt=-"], b"x", "x"),
        (["--prompt", "-"], b"x", "x"),
        (["The end"], b"A tale\n", "A tale\nThe end"),
        ([" a time"], b"Once upon", "Once upon a time"),
        (["x"], b"", "x"),
        ([""], b"", ""),
        ([], "\ufeff你好🤗".encode(), "你好🤗"),
        ([], b"1984", "1984"),
        ([], b"a\0b", "a\0b"),
    ],
)
def test_what_is_piped_in_is_the_prompt_or_comes_before_it(told, args, piped, prompt):
    assert prompt_of(told, *args, piped=piped) == prompt


def test_a_file_is_a_prompt(told, here, tmp_path, monkeypatch):
    (tmp_path / "a story.txt").write_bytes("你好 # {x}\n".encode())
    assert prompt_of(told, f"FILE:{tmp_path}/a story.txt") == "你好 # {x}"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prompt_of(told, "FILE:~/a story.txt") == "你好 # {x}"
    assert prompt_of(told, "file: not a file") == "file: not a file"
    (tmp_path / "a story.txt").write_bytes(b"ab\xff")
    code, _, err = here(f"FILE:{tmp_path}/a story.txt")
    assert code == 2 and "is not UTF-8 text (byte 2)" in err


def test_text_that_is_not_utf_8_is_refused_from_a_pipe_too(here):
    code, _, err = here(piped="Blöße".encode("latin-1"))
    assert (code, err) == (2, "Error: stdin is not UTF-8 text (byte 2); convert it, with iconv say\n")


def test_a_hundred_kilobytes_of_text_are_taken_in_if_the_context_slides(told):
    text = "Once upon a time there was a dog. " * 3000
    assert prompt_of(told, "--context", "slide", piped=text.encode()) == text
    assert len(told("--context", "slide", "-n", "5", piped=text.encode())) > 5


def test_half_a_surrogate_pair_survives(told):
    assert prompt_of(told, "a\ud800b") == "a\ud800b"


def test_a_closed_stdin_is_an_empty_one():
    run = [sys.executable, "gpt2.py", STORY, "--model_size", "tiny"]
    closed = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *run], cwd=ROOT, capture_output=True, timeout=120)
    assert (closed.returncode, closed.stderr) == (0, b"")
    assert closed.stdout.decode() == tell(STORY, "--model_size", "tiny")


# ---- where a text ends, and how many there are -----------------------------------------------------------------


def told_json(told, *args):
    return [json.loads(line) for line in told(STORY, "--json", *args).splitlines()]


def test_a_stop_string_ends_the_text_and_is_not_printed(told):
    whole = told(STORY, "-n", "60")
    stop = whole[20:33]  # somewhere within tokens
    assert told(STORY, "-n", "60", "--stop", stop) == whole[: whole.index(stop)] + "\n"
    assert told(STORY, "-n", "60", "--stop", json.dumps(["never", stop])) == whole[: whole.index(stop)] + "\n"
    (record,) = told_json(told, "-n", "60", "--stop", stop)
    assert (record["text"], record["finish_reason"]) == (whole[: whole.index(stop)], "stop")


@pytest.mark.parametrize(
    ("typed", "stops"),
    [
        ("\\n", ("\n",)),
        ("a\\tb\\\\n", ("a\tb\\n",)),
        ("[END]", ("[END]",)),
        ('["a", "\\n"]', ("a", "\n")),
        ("\\d", ("\\d",)),
        ("1984", ("1984",)),
        (["a", "b"], ("a", "b")),
    ],
)
def test_a_stop_string_is_what_was_typed_but_for_new_lines_and_lists(typed, stops):
    assert flags.check_flags({"stop": typed}).stop == stops


def test_the_finish_reason_says_why_a_text_ended(told):
    assert told_json(told, "-n", "5")[0]["finish_reason"] == "length"
    (nothing,) = told_json(told, "-n", "0")
    assert (nothing["text"], nothing["finish_reason"], nothing["usage"]["completion_tokens"]) == ("", "length", 0)
    assert told_json(told, "-n", "600", "--ignore_eos")[0]["finish_reason"] == "context"
    reasons = {
        record["finish_reason"]
        for record in told_json(told, "-n", "400", "--num_samples", "4", "--temp", "0.8", "--seed", "1")
    }
    assert "eos" in reasons


def test_min_new_tokens_keeps_a_text_going(told):
    args = ("--num_samples", "4", "--temperature", "0.8", "--seed", "1")
    lengths = [record["usage"]["completion_tokens"] for record in told_json(told, *args, "-n", "400")]
    shortest = min(lengths)
    assert shortest < 400
    kept = told_json(told, *args, "-n", str(shortest + 9), "--min_new_tokens", str(shortest + 1))
    assert kept[lengths.index(shortest)]["usage"]["completion_tokens"] > shortest
    assert "endoftext" not in json.dumps(kept)


def test_a_text_longer_than_the_context_slides(told):
    (record,) = told_json(told, "-n", "700", "--ignore_eos", "--context", "slide", "--keep", "4")
    assert (record["finish_reason"], record["usage"]["completion_tokens"]) == ("length", 700)


def test_a_sample_is_the_same_text_however_many_there_are(told):
    args = ("-n", "30", "--temperature", "1", "--seed", "3")
    three = told(STORY, *args, "--num_samples", "3").split(f"\n{output.SEPARATOR}\n")
    assert len(three) == 3 and len(set(three)) == 3
    assert three[0] + "\n" == told(STORY, *args)
    records = told_json(told, *args, "--num_samples", "5")
    assert [record["text"] for record in records[:3]] == [*three[:2], three[2].removesuffix("\n")]
    assert [record["index"] for record in records] == [0, 1, 2, 3, 4]


def test_every_sample_of_mirostat_begins_anew(told):
    args = (STORY, "-n", "30", "--strategy", "mirostat", "--seed", "3")
    assert told(*args, "--num_samples", "2").startswith(told(*args))


def test_penalties_bans_and_biases_reach_the_model(told):
    ids = [entry["id"] for entry in told_json(told, "-n", "40", "--logprobs", "0")[0]["logprobs"]]
    assert len(set(ids)) < 40
    none_twice = told_json(told, "-n", "40", "--logprobs", "0", "--no_repeat_ngram_size", "1")[0]["logprobs"]
    assert len({entry["id"] for entry in none_twice}) == 40
    for ban in (["--banned_ids", f"[{ids[0]}]"], ["--logit_bias", f'{{"{ids[0]}": -100}}']):
        assert ids[0] not in [entry["id"] for entry in told_json(told, *ban, "--logprobs", "0")[0]["logprobs"]]
    texts = {told(STORY, f"--{name}", "2") for name in ("repetition_penalty", "presence_penalty", "frequency_penalty")}
    assert told(STORY) not in texts


def test_what_main_takes_by_name_has_the_defaults_of_the_flags():
    named = [p for p in inspect.signature(gpt2.main).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert len(named) == 8
    assert {p.name: p.default for p in named} == {p.name: flags.FLAGS[p.name].default for p in named}


# ---- what is printed -------------------------------------------------------------------------------------------


def test_json_says_all_there_is_to_say(told):
    (record,) = told_json(told, "-n", "12", "--top_p", "0.9", "--seed", "5", "--model_size", "tiny")
    assert list(record) == [
        *("index", "prompt", "text", "finish_reason", "seed", "model", "settings", "usage", "timings"),
    ]
    assert record["text"] + "\n" == told(STORY, "-n", "12", "--top_p", "0.9", "--seed", "5")
    assert record["usage"]["completion_tokens"] == 12
    assert (record["seed"], record["model"], record["index"], record["prompt"]) == (5, "tiny", 0, STORY)
    assert record["settings"] == {"n_tokens_to_generate": 12, "temperature": 1.0, "top_p": 0.9}
    assert 0 < record["timings"]["first_token_seconds"] <= record["timings"]["seconds"]


def test_a_seed_that_was_drawn_is_in_the_json_and_gives_the_text_again(told):
    first, second = (told_json(told, "--temperature", "1")[0] for _ in range(2))
    assert first["seed"] != second["seed"]
    assert told_json(told, "--temperature", "1", "--seed", str(first["seed"]))[0]["text"] == first["text"]


def test_logprobs_are_those_of_the_model_whatever_the_penalties_and_the_temperature(told):
    plain = told_json(told, "-n", "8", "--logprobs", "3")[0]["logprobs"]
    for entry in plain:  # greedy
        assert entry["id"] == entry["top"][0]["id"] and entry["logprob"] == entry["top"][0]["logprob"] <= 0
        assert len(entry["top"]) == 3
        assert entry["top"][0]["logprob"] >= entry["top"][1]["logprob"] >= entry["top"][2]["logprob"]
    encoder, hparams, params = utils.load_encoder_hparams_and_params("tiny", ROOT / "models")
    x = gpt2_pico.gpt2(encoder.encode(STORY), **params, n_head=hparams["n_head"])[-1].astype(np.float64)
    assert plain[0]["logprob"] == pytest.approx(x.max() - np.log(np.exp(x).sum()), abs=1e-4)
    assert "".join(entry["token"] for entry in plain) + "\n" == told(STORY, "-n", "8")
    changed = told_json(told, "-n", "8", "--logprobs", "3", "--temperature", "3", "--banned_ids", str(plain[0]["id"]))
    first = changed[0]["logprobs"][0]
    assert first["top"] == plain[0]["top"]
    assert first["id"] != plain[0]["id"] and first["logprob"] < plain[0]["logprob"]


def test_echo_prints_the_prompt_first(told):
    assert told(STORY, "--echo") == STORY + told(STORY)
    assert told_json(told, "--echo")[0]["text"] + "\n" == STORY + told(STORY)
    assert told(STORY, "--echo", "--num_samples", "2", "-n", "3").count(STORY) == 2


def test_text_is_printed_as_it_comes_unless_it_should_not(monkeypatch, told):
    puts, original = [], output.put
    monkeypatch.setattr(output, "put", lambda text: (puts.append(text), original(text)))
    streamed = told(STORY, "-n", "20")
    assert len(puts) > 15
    assert told(STORY, "-n", "20", "--stream", "False") == streamed


def test_temperature_alone_is_enough_to_sample():
    texts = {tell(STORY, "--model_size=tiny", "--temperature=1.5", "--n_tokens_to_generate=20") for _ in range(3)}
    assert len(texts) > 1


def test_an_empty_prompt_begins_a_text():
    assert len(tell("", "--model_size", "tiny", "--n_tokens_to_generate", "20").split()) > 5


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
    ],
)
def test_every_script_goes_in_and_comes_out_in_a_plain_c_locale(env):
    out = tell("人工智能🤗", "--model_size", "tiny", "--json", "-n", "0", env=env)
    assert json.loads(out)["prompt"] == "人工智能🤗"
    assert "人工智能🤗" in out


def test_the_first_run_converts_the_model_without_a_word_and_later_runs_say_the_same(tmp_path):
    shutil.copytree(ROOT / "models" / "tiny", tmp_path / "tiny", ignore=shutil.ignore_patterns("*.safetensors*", ".*"))
    args = (STORY, "--model_size", "tiny", "--models_dir", str(tmp_path), "--n_tokens_to_generate", "5")
    first = tell(*args)
    assert (tmp_path / "tiny" / "model.safetensors").exists()
    assert tell(*args) == first


def through_a_shell(line, *args):
    """A command of the shell in which "$@" is gpt2.py, asked for 400 tokens of the bundled model."""
    run = [sys.executable, "gpt2.py", STORY, "--model_size", "tiny", "-n", "400", "--temperature", "1", *args]
    return subprocess.run(
        ["sh", "-c", line, "sh", *run], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=120
    )


@pytest.mark.parametrize("args", [(), ("--json", "--num_samples", "3"), ("--stream", "False"), ("--help",)])
def test_a_closed_pipe_is_quiet(args):
    done = through_a_shell('"$@" | head -c 5', *args)
    assert (len(done.stdout), done.stderr) == (5, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("args", [(), ("--json",), ("--help",)])
def test_a_full_disk_is_told(args):
    done = through_a_shell('"$@" > /dev/full', *args)
    assert (done.returncode, done.stderr) == (1, b"Error: cannot write to stdout: No space left on device\n")


def test_a_closed_stdout_is_told_and_a_closed_stderr_does_no_harm():
    done = through_a_shell('"$@" >&-')
    assert (done.returncode, done.stderr) == (1, b"Error: stdout is closed: there is nowhere to write to\n")
    done = through_a_shell('"$@" 2>&-', "--seed", "1")
    assert done.returncode == 0 and done.stdout.decode() == tell(
        STORY, "--model_size", "tiny", "-n", "400", "--temperature", "1", "--seed", "1"
    )
    done = through_a_shell('"$@" 2>&-', "--top_p", "9")
    assert (done.returncode, done.stdout) == (2, b"")


def test_nothing_is_imported_that_a_run_does_not_need():
    code = (
        "import sys, gpt2, cli; sys.argv[1:] = ['x', '--model_size', 'tiny', '-n', '3']; cli_command.run(gpt2.main); "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    loaded = {module.split(".")[0] for module in done.stderr.split()}
    assert loaded & {"tensorflow", "requests", "matplotlib", "tqdm", "ray", "numba", "readline", "gpt2_pico"} == set()
    assert loaded >= {"numpy", "regex", "fire"}
