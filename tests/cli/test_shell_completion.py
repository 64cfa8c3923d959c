"""--completion: the scripts complete flags, values and models. bash runs them; zsh and fish do where they exist."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from cli import shell_completion
from cli.command_flags import BATCH_FLAGS, EXPLORE_FLAGS
from cli.flags import FLAGS, SHELLS

bash = pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")


def complete(*words):
    """Return what bash offers for the last of these words, in the project's folder."""
    line = " ".join(words)
    code = f"""
        source <(python3 gpt2.py --completion bash)
        COMP_WORDS=({" ".join(map(repr, words))}); COMP_CWORD={len(words) - 1}; COMP_LINE={line!r}
        _picogpt
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    code = code.replace("python3", sys.executable).replace("'python'", repr(sys.executable))
    done = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@bash
@pytest.mark.parametrize("command", [["python", "gpt2.py"], ["./gpt2.py"]])
def test_bash_completes_flags_values_models_and_files(command):
    assert complete(*command, "--temp") == ["--temperature"]
    assert set(complete(*command, "--")) == {f"--{name}" for name in (*FLAGS, "help", "version")}
    assert complete(*command, "--strategy", "top_") == ["top_k", "top_p"]
    assert complete(*command, "--preset", "mod") == ["model"]
    assert complete(*command, "--context", "") == ["stop", "slide"]
    assert complete(*command, "--completion", "z") == ["zsh"]
    assert complete(*command, "--file", "CHANGE") == ["CHANGELOG.md"]
    assert complete(*command, "x", "CHANGE") == ["CHANGELOG.md"]


@bash
def test_bash_completes_the_names_of_models():
    assert "tiny" in complete("python", "gpt2.py", "--model_size", "")
    assert complete("python", "batch.py", "prompts.txt", "--model_size", "ti") == ["tiny"]


@bash
def test_bash_completes_the_other_commands():
    assert set(complete("python", "batch.py", "--")) == {f"--{name}" for name in (*BATCH_FLAGS, "help", "version")}
    assert complete("python", "explore.py", "--heat") == ["--heatmap"]
    assert complete("python", "explore.py", "sw") == ["sweep"]
    assert complete("python", "other.py", "CHANGE") == ["CHANGELOG.md"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_accepts_its_script(shell):
    script = shell_completion.script(shell)
    for table in (FLAGS, BATCH_FLAGS, EXPLORE_FLAGS):
        assert all(name in script for name in table)
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_command_prints_the_script_and_needs_no_prompt(here):
    assert here("--completion", "fish") == (0, shell_completion.script("fish"), "")
    code, out, err = here("--completion", "tcsh")
    assert (code, out) == (2, "") and "completion is 'tcsh'; it must be bash or zsh or fish" in err
