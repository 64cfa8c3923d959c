"""cli/command.py: exit codes, error messages, remarks on stderr, closed and full streams."""

import ast
import inspect
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT
from run_script import STORY, run_script, stdout_of

import gpt2
import gpt2_pico
from cli import command, complete, help, output

SCRIPTS = [(gpt2.main, help.GPT2), (gpt2_pico.main, help.PICO)]
log = logging.getLogger("picogpt")

# ---- usage errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there is no prompt"),
        (["Once", "upon", "a"], "the prompt must be in quotes: 'Once upon a' arrived as several words"),
        (["Once", "--prompt", "upon"], "the prompt is given twice, as --prompt and as 'Once'"),
        (["x", "--start=y"], "the prompt is given twice"),
        (["x", "--tempratur", "1"], "there is no flag --tempratur; did you mean --temperature?"),
        (["x", "--tempp", "1"], "there is no flag --tempp; did you mean --temperature?"),
        (["x", "--zzz"], "there is no flag --zzz; --help lists all options"),
        (["x", "-t", "1"], "there is no flag --t: it could be --temperature, --top_k or --top_p"),
        (["x", "--max_length", "50"], "--n_tokens_to_generate counts the new tokens"),
        (["x", "--temperature", "hot"], "temperature is 'hot'; it must be a number"),
        (["x", "--temperature"], "--temperature needs a value"),
        (["x", "--stop", "--json"], "--stop needs a value; write a value that begins with a dash as --stop=VALUE"),
        (["x", "--temperature", "-1"], "temperature is -1"),
        (["x", "--top_p", "9"], "top_p is 9; it must be a number from 0 to 1"),
        (["x", "--top-p", "9"], "top_p is 9; it must be a number from 0 to 1"),
        (["x", "--top_k", "many"], "top_k is 'many'"),
        (["x", "--strategy", "topp"], "Unknown sampling strategy: 'topp'; did you mean top_p?"),
        (["x", "--strategy", "greedy", "--top_p", "0.9"], "top_p has no effect with strategy greedy"),
        (["x", "--strategy", "top_p", "--entmax_alpha", "1.5"], "entmax_alpha has no effect with strategy top_p"),
        (["x", "--preset", "chatbox"], "Unknown preset: 'chatbox'; did you mean chatbot?"),
        (["x", "--seed", "-5"], "seed is -5; it must be a whole number"),
        (["x", "--seed", "now"], "seed is 'now'"),
        (["x", "--n_tokens_to_generate", "2.5"], "n_tokens_to_generate is 2.5; it must be a whole number"),
        (["x", "--max_new_tokens", "lots"], "n_tokens_to_generate is 'lots'; it must be a whole number"),
        (["x", "--n_tokens_to_generate=-1"], "n_tokens_to_generate is -1"),
        (["x", "--stop", ""], "stop is ['']; it must be a text or a list of texts, none of them empty"),
        (["x", "--stop", '["a", 1]'], "stop is ['a', 1]; it must be a text"),
        (["x", "--stop", "['a"], 'which begins as a list but is none; write \'["one", "two"]\''),
        (["x", "--n", "1e3"], "n_tokens_to_generate is 1e3; it must be a whole number"),
        (["x", "--top_p", "0,7"], "top_p is 0,7; it must be a number from 0 to 1"),
        (["x", "--n", "[1,2]"], "n_tokens_to_generate is [1,2]; it must be a whole number"),
        (["x", "--stream", "perhaps"], "the prompt must be in quotes: 'x perhaps'"),
        (["x", "--stream=perhaps"], "stream is 'perhaps'; it must be True or False"),
        (["x", "--model_size", "125M"], "124M"),
        (["x", "--init_from=gpt2-xxl"], "there is no model 'gpt2-xxl'"),
        (["FILE:nowhere.txt"], "cannot read the prompt from 'nowhere.txt': No such file"),
        ([" word" * 600, "--model_size", "tiny"], "this model reads at most 512"),
    ],
)
@pytest.mark.parametrize(("main", "description"), SCRIPTS)
def test_a_usage_error_prints_one_line_and_exits_with_2(here, args, message, main, description):
    code, out, err = here(*args, main=main, command=description)
    assert message in err
    assert (code, out) == (2, "")
    assert err.startswith("Error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num_samples", "0"], "num_samples is 0; it must be a whole number from 1 to 10000"),
        (["--repetition_penalty", "0"], "repetition_penalty is 0; it must be a number above 0"),
        (["--no_repeat_ngram_size", "1.5"], "no_repeat_ngram_size is 1.5"),
        (["--min_new_tokens", "50"], "min_new_tokens is 50, but n_tokens_to_generate is only 40"),
        (["--logit_bias", "x"], "logit_bias is 'x'; it must map token ids or texts to numbers"),
        (["--logit_bias", '{"5": "much"}'], "logit_bias of '5' is 'much'"),
        (["--banned_ids", "[-1]"], "-1 is not a token id"),
        (["--banned_ids", "50256", "--model_size", "tiny"], "there is no token 50256: the ids of this model are 0 to"),
        (["--logprobs", "2"], "logprobs are part of the JSON output: add --json"),
        (["--context", "roll"], "context is 'roll'; it must be stop or slide"),
        (["--keep", "4"], "keep has no effect unless the context slides"),
        (["--context", "slide", "--keep", "511", "--model_size", "tiny"], "keep is 511; it must be at most 510"),
    ],
)
def test_an_invalid_option_of_gpt2_py_alone_is_a_usage_error_and_unknown_to_gpt2_pico_py(here, args, message):
    code, out, err = here("x", *args)
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, err = here("x", *args, main=gpt2_pico.main, command=help.PICO)
    assert (code, out) == (2, "")
    assert "gpt2_pico.py has no --" in err and f"(gpt2.py has {args[0]})" in err


@pytest.mark.parametrize(("main", "description"), SCRIPTS)
def test_a_prompt_that_is_too_long_is_an_error_with_a_remedy_that_the_command_has(here, main, description):
    _, _, err = here(" word" * 600, "--model_size", "tiny", main=main, command=description)
    assert err.endswith("this model reads at most 512: shorten it, or add --context slide\n") == (main is gpt2.main)
    assert err.endswith("this model reads at most 512: shorten it\n") == (main is gpt2_pico.main)


def test_a_process_prints_a_usage_error_to_stderr_only():
    done = run_script("x", "--top_p", "9")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"Error: top_p is 9; it must be a number from 0 to 1, such as 0.9\n"


def test_an_invalid_option_is_rejected_before_the_prompt_is_read_and_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(complete.utils, "load", None)
    monkeypatch.setattr(complete, "read_prompt", None)
    with pytest.raises(ValueError, match="top_p is 3"):
        gpt2.main("x", top_p=3)
    with pytest.raises(ValueError, match="no flag --top_q"):
        gpt2.main("x", top_q=3)


def test_an_unknown_model_is_rejected_before_the_prompt_is_read(monkeypatch):
    monkeypatch.setattr(complete, "read_prompt", None)
    with pytest.raises(ValueError, match="there is no model '125M'"):
        gpt2.main("x", model_size="125M")


def test_the_main_of_gpt2_py_has_at_most_twelve_lines_and_names_three_sampling_options():
    (main,) = (node for node in ast.parse(inspect.getsource(gpt2)).body if getattr(node, "name", "") == "main")
    assert main.end_lineno - main.lineno + 1 <= 12
    named = [p for p in inspect.signature(gpt2.main).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert {p.name: p.default for p in named} == {"strategy": None, "temperature": None, "top_p": None}


# ---- failures and Ctrl-C while a command runs ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("the largest logit is nan"), 1, "Error: the text ends here: the largest logit is nan\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_exits_with_1_and_ctrl_c_with_130_and_both_keep_the_text_so_far(
    monkeypatch, capsys, error, code, message
):
    def steps():
        yield []
        raise error

    pieces = ((None, "so far", False) for _ in output.Clock().watch(steps()))
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as exit:
        command.run(lambda *args: output.write_text(pieces))
    assert (exit.value.code, *capsys.readouterr()) == (code, "so far\n", message)


def test_a_traceback_is_shown_only_if_picogpt_debug_is_1():
    assert b"Traceback" in run_script("x", "--top_p", "9", env={"PICOGPT_DEBUG": "1"}).stderr
    assert b"Traceback" not in run_script("x", "--top_p", "9", env={"PICOGPT_DEBUG": "0"}).stderr


# ---- remarks ---------------------------------------------------------------------------------------------------


def test_quiet_hides_remarks_and_warnings_but_not_errors(capsys):
    log.handlers = [logging.StreamHandler(sys.stderr)]
    log.setLevel(logging.INFO)
    for is_quiet in (False, True, False):
        with command.quiet(is_quiet):
            log.info("a remark")
            log.warning("a warning")
            log.error("an error")
        assert capsys.readouterr().err == ("an error\n" if is_quiet else "a remark\na warning\nan error\n")


def test_quiet_ends_with_its_block_even_after_an_error():
    log.setLevel(logging.INFO)
    with pytest.raises(ValueError), command.quiet(True):
        raise ValueError
    assert log.level == logging.INFO


@pytest.mark.parametrize(("is_terminal", "seen"), [(True, "a remark\na warning\n"), (False, "a warning\n")])
def test_stderr_shows_remarks_at_a_terminal_and_warnings_everywhere(monkeypatch, capsys, is_terminal, seen):
    def main():
        log.info("a remark")
        log.warning("a warning")

    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "argv", ["x"])
    command.run(main)
    assert capsys.readouterr() == ("", seen)


def test_a_program_that_calls_main_sees_remarks_only_if_it_configures_logging():
    def stderr_of(configuration):
        call = f"gpt2.main({STORY + ' '!r}, model_size='tiny', n_tokens_to_generate=3, temperature=1.0, seed=7)"
        code = f"import logging, gpt2; {configuration}; {call}"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], cwd=ROOT, input=b"", capture_output=True, timeout=120
        )
        assert done.returncode == 0
        return done.stderr.decode().splitlines()

    assert stderr_of("pass") == []
    seed, space = stderr_of("logging.basicConfig(level=logging.INFO)")
    assert seed == "INFO:picogpt:seed 7"
    assert space.startswith("INFO:picogpt:The prompt ends with a space")


@pytest.fixture
def remarks_of(monkeypatch, caplog):
    """Call a main with the bundled model; return its remarks."""

    def call(main, prompt, **options):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "stdin", None)
        with caplog.at_level(logging.INFO, "picogpt"):
            main(prompt, model_size="tiny", **options)
        return caplog.messages

    return call


@pytest.mark.parametrize(("n", "reasons"), [(1, "length"), (2, "length x2"), (60, "length x60")])
def test_the_closing_remark_has_the_number_of_tokens_the_speed_and_the_finish_reasons(remarks_of, n, reasons):
    closing = remarks_of(gpt2.main, "", n_tokens_to_generate=5, num_samples=n, ignore_eos=True)[-1]
    pattern = rf"{5 * n} tokens in \d+\.\d s \(\d+\.\d tokens/s\), the first after \d+\.\d\d s; ended by: {reasons}"
    assert re.fullmatch(pattern, closing)


@pytest.mark.parametrize(
    ("options", "remark"),
    [
        ({"num_samples": 2}, "The 2 samples will be equal: add --temperature"),
        ({"temperature": 0.8, "seed": 77}, "seed 77"),
        ({"n_tokens_to_generate": 600, "stop": "a"}, "The context has room for 509 new tokens; --context slide"),
    ],
)
def test_a_remark_names_the_seed_or_an_option_without_effect(remarks_of, options, remark):
    first, closing = remarks_of(gpt2.main, STORY, **{"n_tokens_to_generate": 2, **options})
    assert first.startswith(remark)
    assert "tokens in" in closing


def test_gpt2_pico_py_does_not_recommend_an_option_that_it_lacks(remarks_of):
    room, closing = remarks_of(gpt2_pico.main, STORY, n_tokens_to_generate=600, stop="a")
    assert room == "The context has room for 509 new tokens."
    assert "tokens in" in closing


# ---- processes: version, locales, streams, imports -------------------------------------------------------------


def test_the_version_names_the_program_and_python():
    assert stdout_of("--version").startswith(f"picoGPT, extended {command.VERSION} (Python 3.")


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
    ],
)
def test_every_character_is_read_and_written_in_a_plain_c_locale(env):
    out = stdout_of("人工智能🤗", "--model_size", "tiny", "--json", "-n", "0", env=env)
    assert json.loads(out)["prompt"] == "人工智能🤗"
    assert "人工智能🤗" in out


def test_the_first_run_verifies_the_model_without_a_message_and_later_runs_print_the_same(tmp_path):
    ignored = shutil.ignore_patterns("*.safetensors*", "*.verified", ".*")
    shutil.copytree(ROOT / "models" / "tiny", tmp_path / "tiny", ignore=ignored)
    args = (STORY, "--model_size", "tiny", "--models_dir", str(tmp_path), "--n_tokens_to_generate", "5")
    first = stdout_of(*args)
    assert (tmp_path / "tiny" / "model.ckpt.verified").exists()
    assert stdout_of(*args) == first


def through_a_shell(line, *args):
    """Run a line of the shell in which "$@" is gpt2.py, asked for 400 tokens of the bundled model."""
    words = [sys.executable, "gpt2.py", STORY, "--model_size", "tiny", "-n", "400", "--temperature", "1", *args]
    return subprocess.run(
        ["sh", "-c", line, "sh", *words], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=120
    )


@pytest.mark.parametrize("args", [(), ("--json", "--num_samples", "3"), ("--stream", "False"), ("--help",)])
def test_a_closed_pipe_is_not_an_error(args):
    done = through_a_shell('"$@" | head -c 5', *args)
    assert (len(done.stdout), done.stderr) == (5, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("args", [(), ("--json",), ("--help",)])
def test_a_full_disk_is_a_run_time_failure(args):
    done = through_a_shell('"$@" > /dev/full', *args)
    assert (done.returncode, done.stderr) == (1, b"Error: cannot write to stdout: No space left on device\n")


def test_a_closed_stdout_is_a_run_time_failure():
    done = through_a_shell('"$@" >&-')
    assert (done.returncode, done.stderr) == (1, b"Error: stdout is closed: there is nowhere to write to\n")


def test_a_closed_stderr_changes_neither_the_text_nor_the_exit_code():
    done = through_a_shell('"$@" 2>&-', "--seed", "1")
    assert done.returncode == 0 and done.stdout.decode() == stdout_of(
        STORY, "--model_size", "tiny", "-n", "400", "--temperature", "1", "--seed", "1"
    )
    done = through_a_shell('"$@" 2>&-', "--top_p", "9")
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_run_imports_only_the_packages_that_it_needs():
    code = (
        "import sys, gpt2; from cli import command; sys.argv[1:] = ['x', '--model_size', 'tiny', '-n', '3']; "
        "command.run(gpt2.main); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    loaded = {module.split(".")[0] for module in done.stderr.split()}
    assert loaded & {"tensorflow", "requests", "matplotlib", "tqdm", "ray", "numba", "readline", "gpt2_pico"} == set()
    assert loaded >= {"numpy", "regex", "fire"}


# ---- signals and imports ---------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_command_with_one_line_and_its_code_and_keeps_the_text_so_far(monkeypatch, capsys, name, code):
    def pieces():
        yield None, "so far", False
        signal.raise_signal(number)
        yield None, "never", True

    number = getattr(signal, name)
    monkeypatch.setattr(signal, "getsignal", lambda signum: signal.SIG_DFL)
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as exit:
        command.run(lambda: output.write_text(pieces()))
    assert exit.value.code == code
    assert capsys.readouterr() == ("so far\n", f"Error: stopped by the signal {name}\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_a_signal_that_the_caller_ignores_stays_ignored(monkeypatch, capsys):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(sys, "argv", ["x"])
    try:
        command.run(lambda: signal.raise_signal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert capsys.readouterr() == ("", "")


def test_a_command_restores_the_handlers_of_signals(monkeypatch):
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(sys, "argv", ["x"])
    command.run(lambda: None)
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


def test_no_handler_of_failures_catches_a_termination():
    assert not issubclass(command.Terminated, Exception)
    assert command.Terminated(signal.SIGTERM).signum == signal.SIGTERM


def test_a_termination_that_python_discards_in_a_finalizer_is_repeated(monkeypatch):
    class Finalized:
        def __del__(self):
            raise command.Terminated(signal.SIGTERM)

    timers = []
    monkeypatch.setattr(threading, "Timer", lambda *args: timers.append(args) or threading.Thread(target=int))
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(sys, "warnoptions", [])
    command.run(Finalized)
    assert timers == [(0.05, signal.raise_signal, [signal.SIGTERM])]


@pytest.mark.parametrize("script", ["gpt2.py", "gpt2_pico.py", "batch.py", "explore.py"])
def test_ctrl_c_while_a_module_is_imported_exits_with_130_and_no_traceback(script):
    code = (
        "import runpy, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('cli.flags', 'cli.messages', 'fire'): raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"sys.argv = ['{script}']\n"
        f"runpy.run_path('{script}', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=b"", capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_the_module_that_runs_commands_imports_no_other_module_of_the_project():
    code = "import sys; from cli.command import run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.split(".")[0] in ("cli", "utils", "checkpoints")} == {"cli", "cli.command"}
    assert loaded & {"numpy", "logging", "fire", "inspect"} == set()


# ---- what libraries say ----------------------------------------------------------------------------------------


@pytest.fixture
def error_of(monkeypatch, capsys):
    """Run a main that raises an error; return the exit code and stderr."""

    def run(error):
        def main():
            raise error

        monkeypatch.setattr(sys, "argv", ["x"])
        with pytest.raises(SystemExit) as exit:
            command.run(main)
        return exit.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("ours"), 2, "Error: ours\n"),
        (RuntimeError("ours"), 1, "Error: ours\n"),
        (MemoryError(), 1, "Error: there is not enough memory; a smaller model, a shorter text or fewer samples need"),
        (OSError(5, "Input/output error"), 1, "Error: Input/output error\n"),
        (OSError(5, "Input/output error", "a\nb"), 1, "Error: a\\nb: Input/output error\n"),
        (json.JSONDecodeError("theirs", "", 0), 1, "Error: JSONDecodeError at test_command.py:"),
        (KeyError("theirs"), 1, "Error: KeyError at test_command.py:"),
        (RecursionError("theirs"), 1, "Error: RecursionError at test_command.py:"),
        (ValueError(), 2, "Error: ValueError at test_command.py:"),
    ],
)
def test_an_error_is_one_line_in_our_words(error_of, error, code, message):
    found, err = error_of(error)
    assert err.startswith(message) and "theirs" not in err and "Errno" not in err
    assert (found, err.count("\n")) == (code, 1)


def test_a_message_is_limited_and_its_control_characters_are_escaped(error_of):
    _, err = error_of(ValueError("\x1b[31mred\x07 first line\nsecond line" + "a" * 10**6))
    assert err.startswith("Error: \\x1b[31mred\\x07 first line\nsecond line")
    assert len(err) < 5100


def test_warnings_of_libraries_are_hidden():
    code = (
        "import sys, warnings; from cli.command import run; sys.argv = ['x']; "
        "run(lambda: warnings.warn('theirs', RuntimeWarning, stacklevel=1))"
    )
    for env, is_seen in (({}, False), ({"PICOGPT_DEBUG": "1"}, True)):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | env, capture_output=True, timeout=120
        )
        assert (done.returncode, b"theirs" in done.stderr) == (0, is_seen)


def test_a_value_error_after_the_request_was_checked_is_a_run_time_failure(here, monkeypatch):
    def fail(*args, **options):
        raise ValueError("a problem")

    monkeypatch.setattr(complete, "new_completions", fail)
    assert here(STORY, "--model_size", "tiny") == (1, "", "Error: a problem\n")


# ---- python -OO, streams that the caller closed ----------------------------------------------------------------


def test_the_help_does_not_come_from_docstrings():
    done = subprocess.run([sys.executable, "-OO", "gpt2.py", "--help"], cwd=ROOT, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, help.render(help.GPT2), b"")


def test_a_command_works_with_all_streams_closed():
    done = through_a_shell('"$@" <&- >&- 2>&-', "--help")
    assert done.returncode == 1
    done = through_a_shell('"$@" <&- 2>&-', "-n", "3", "--seed", "1")
    assert (done.returncode, len(done.stdout) > 3) == (0, True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_full_stderr_does_not_change_the_exit_code():
    assert through_a_shell('"$@" 2> /dev/full', "--top_p", "9").returncode == 2
