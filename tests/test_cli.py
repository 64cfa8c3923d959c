"""The command: what is typed arrives as it was typed, what is wrong costs a sentence and no time, stdout is text."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cli
import gpt2
import sampling

ROOT = Path(__file__).parent.parent
STORY = "Once upon a time"


def command(*args, script="gpt2.py", env=None, **options):
    """Run a script as a person would, with the bundled model at hand; return the finished process."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PICOGPT", "TF_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-W", "error", script, *args],
        cwd=ROOT,
        env=settings | (env or {}),
        stdin=subprocess.DEVNULL,
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
        cli.run(main)
        return received[0]

    return receive


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
    ],
)
def test_a_prompt_arrives_as_it_was_typed(typed, prompt):
    assert typed(prompt)[0] == prompt
    assert typed(f"--prompt={prompt}")[0] == prompt


def test_a_prompt_may_begin_with_dashes_when_it_is_named(typed):
    assert typed("--prompt=--a list item")[0] == "--a list item"


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
        (["x", "--tempratur", "1"], "there is no flag --tempratur; did you mean temperature?"),
        (["x", "--temperature", "hot"], "temperature is 'hot'; it must be a number"),
        (["x", "--temperature"], "temperature is True"),
        (["x", "--temperature", "-1"], "temperature is -1"),
        (["x", "--top_p", "9"], "top_p is 9; it must be a number from 0 to 1"),
        (["x", "--top_k", "many"], "top_k is 'many'"),
        (["x", "--strategy", "topp"], "Unknown sampling strategy: 'topp'; did you mean top_p?"),
        (["x", "--strategy", "greedy", "--top_p", "0.9"], "top_p has no effect with strategy greedy"),
        (["x", "--strategy", "top_p", "--entmax_alpha", "1.5"], "entmax_alpha has no effect with strategy top_p"),
        (["x", "--preset", "chatbox"], "there is no preset 'chatbox'; did you mean chatbot?"),
        (["x", "--seed", "-5"], "seed is -5; it must be a whole number"),
        (["x", "--seed", "now"], "seed is 'now'"),
        (["x", "--n_tokens_to_generate", "2.5"], "n_tokens_to_generate is 2.5; it must be a whole number"),
        (["x", "--n_tokens_to_generate=-1"], "n_tokens_to_generate is -1"),
        (["x", "--model_size", "125M"], "124M"),
        ([" word" * 600, "--model_size", "tiny"], "this model reads at most 512"),
    ],
)
@pytest.mark.parametrize("script", ["gpt2.py", "gpt2_pico.py"])
def test_a_mistake_costs_one_sentence_and_exit_code_2(args, message, script):
    done = command(*args, script=script)
    error = done.stderr.decode("utf-8")
    assert message in error
    assert done.returncode == 2
    assert error.startswith("Error: ") and error.count("\n") == 1
    assert done.stdout == b""


def test_a_wrong_flag_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(cli.utils, "load_encoder_hparams_and_params", None)
    with pytest.raises(ValueError, match="top_p is 3"):
        gpt2.main("x", top_p=3)
    with pytest.raises(ValueError, match="no flag --top_q"):
        gpt2.main("x", top_q=3)


def test_a_failure_while_running_is_exit_code_1_and_keeps_what_was_printed(monkeypatch, capsys):
    def pieces():
        yield "so far"
        raise ValueError("the largest logit is nan")

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda *args: cli.write(pieces()))
    out, err = capsys.readouterr()
    assert (exit.value.code, out, err) == (1, "so far\n", "Error: the text ends here: the largest logit is nan\n")


def test_a_traceback_is_shown_to_those_who_ask_for_it():
    assert b"Traceback" in command("x", "--top_p", "9", env={"PICOGPT_DEBUG": "1"}).stderr
    assert b"Traceback" not in command("x", "--top_p", "9", env={"PICOGPT_DEBUG": "0"}).stderr


def test_an_interrupt_is_exit_code_130_and_keeps_what_was_printed(monkeypatch, capsys):
    def pieces():
        yield "so far"
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda *args: cli.write(pieces()))
    out, err = capsys.readouterr()
    assert (exit.value.code, out, err) == (130, "so far\n", "")


# ---- what comes out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_printed_and_nothing_is_run(flag):
    text = tell("x", flag)
    parameters = inspect.signature(gpt2.main).parameters.values()
    flags = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY] + ["preset", *sampling.KNOBS]
    assert len(flags) >= 8
    assert [name for name in flags if f"--{name} " not in text] == []
    assert [name for name in (*sampling.STRATEGIES, *sampling.PRESETS) if name not in text] == []
    assert max(map(len, text.splitlines())) <= 84


def test_stdout_is_the_new_text_and_one_newline():
    text = tell(STORY, "--model_size", "tiny", "--n_tokens_to_generate", "20")
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert len(text.split()) > 5
    assert not text.startswith(STORY)


def test_the_slow_script_tells_the_same_story():
    args = (STORY, "--model_size", "tiny", "--n_tokens_to_generate", "30", "--temperature", "0.8", "--seed", "3")
    assert tell(*args) == tell(*args, script="gpt2_pico.py")


def test_a_seed_gives_the_same_text_again_and_another_seed_another():
    def story(*args):
        return tell(STORY, "--model_size=tiny", "--n_tokens_to_generate=25", *args)

    assert story("--temperature", "1", "--seed", "1") == story("--temperature", "1", "--seed", "1")
    assert story("--temperature", "1", "--seed", "1") != story("--temperature", "1", "--seed", "2")
    assert story() == story("--strategy", "greedy") == story("--temperature", "0")


def test_temperature_alone_is_enough_to_sample():
    texts = {tell(STORY, "--model_size=tiny", "--temperature=1.5", "--n_tokens_to_generate=20") for _ in range(3)}
    assert len(texts) > 1


def test_an_empty_prompt_begins_a_text():
    assert len(tell("", "--model_size", "tiny", "--n_tokens_to_generate", "20").split()) > 5


def test_other_scripts_are_printed_in_a_plain_c_locale():
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    tell("人工智能🤗", "--model_size", "tiny", "--n_tokens_to_generate", "5", env=env)


def test_the_first_run_converts_the_model_without_a_word_and_later_runs_say_the_same(tmp_path):
    shutil.copytree(ROOT / "models" / "tiny", tmp_path / "tiny", ignore=shutil.ignore_patterns("*.safetensors*", ".*"))
    args = (STORY, "--model_size", "tiny", "--models_dir", str(tmp_path), "--n_tokens_to_generate", "5")
    first = tell(*args)
    assert (tmp_path / "tiny" / "model.safetensors").exists()
    assert tell(*args) == first


def test_a_closed_pipe_is_quiet():
    script = (
        f'{sys.executable} gpt2.py "{STORY}" --model_size tiny --n_tokens_to_generate 400 --temperature 1 | head -c 5'
    )
    done = subprocess.run(script, shell=True, cwd=ROOT, capture_output=True, timeout=120)
    assert (len(done.stdout), done.stderr) == (5, b"")


def test_a_generator_of_ids_reaches_the_screen_token_by_token(capsys):
    seen = []

    def pieces():
        for word in ("a", "b", "c"):
            yield word
            seen.append(capsys.readouterr().out)

    cli.write(pieces())
    assert seen == ["a", "b", "c"]
