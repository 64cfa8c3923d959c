"""The README and --help keep their word: their commands are run, with the bundled model in the place of larger ones."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import flags
import gpt2

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "gpt2.py" in block]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if "python gpt2.py" in line]
COMMANDS += [line.strip() for line in gpt2.main.__doc__.split("Examples")[1].splitlines() if "python gpt2.py" in line]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(command, folder):
    return subprocess.run(command, cwd=folder, input=b"A cat", capture_output=True, timeout=120)


def test_there_are_commands_to_try():
    assert len(COMMANDS) >= 12 and len(PYTHON) >= 1


@pytest.mark.parametrize("line", dict.fromkeys(COMMANDS))
def test_a_command_of_the_readme_and_the_help_works(line, tmp_path):
    (tmp_path / "story.txt").write_text("Once upon a time there was a dog.\n", encoding="utf-8")
    ours = shlex.join([sys.executable, "-W", "error", str(ROOT / "gpt2.py"), "--models_dir", str(ROOT / "models")])
    line = re.sub(r"--model_size \S+", "", line).replace("python gpt2.py", f"{ours} --model_size tiny")
    done = run(["sh", "-e", "-c", line], tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    written = [path for path in tmp_path.iterdir() if path.name != "story.txt"]
    assert len(done.stdout + b"".join(path.read_bytes() for path in written)) > 10


@pytest.mark.parametrize("code", PYTHON)
def test_the_readme_s_python_works(code):
    done = run([sys.executable, "-W", "error", "-c", code], ROOT)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) > 10


def test_every_flag_is_in_the_readme():
    assert [name for name in flags.FLAGS if f"`--{name}`" not in README] == []
