"""The README and --help keep their word: their commands are run, with the bundled model in the place of larger ones."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2
from cli import flags
from runner import local
from views import command as view_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = re.compile(r"python ((?:gpt2|gpt2_pico|batch|explore)\.py)")


def commands_of(text):
    return [line.strip() for line in text.splitlines() if SCRIPT.search(line)]


COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in commands_of(block)]
for module in (gpt2, local, view_command):
    COMMANDS += commands_of(module.main.__doc__.split("Examples")[1])
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(command, folder):
    return subprocess.run(command, cwd=folder, input=b"A cat", capture_output=True, timeout=120)


def with_the_bundled_model(line):
    """The same command, from any folder, with a small model."""
    model = [] if "--toy" in line else ["--models_dir", str(ROOT / "models"), "--model_size", "tiny"]
    line = re.sub(r"--model_size \S+", "", line)
    python = shlex.join([sys.executable, "-W", "error"])
    return SCRIPT.sub(lambda match: f"{python} {shlex.join([str(ROOT / match[1]), *model])}", line)


def test_there_are_commands_to_try():
    for script in ("gpt2.py", "batch.py", "explore.py"):
        assert sum(f"python {script}" in line for line in COMMANDS) >= 5
    assert len(PYTHON) >= 1


@pytest.mark.parametrize("line", dict.fromkeys(COMMANDS))
def test_a_command_of_the_readme_and_the_help_works(line, tmp_path):
    (tmp_path / "story.txt").write_text("Once upon a time there was a dog.\n", encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("Once upon a time\nOne day\n", encoding="utf-8")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "The sun", "id": 7}) + "\n", encoding="utf-8")
    given = set(tmp_path.iterdir())
    done = run(["sh", "-e", "-c", with_the_bundled_model(line)], tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    written = set(tmp_path.iterdir()) - given
    assert len(done.stdout + b"".join(path.read_bytes() for path in written)) > 10


@pytest.mark.parametrize("code", PYTHON)
def test_the_readme_s_python_works(code):
    done = run([sys.executable, "-W", "error", "-c", code], ROOT)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) > 10


def test_every_flag_is_in_the_readme():
    assert [name for name in flags.FLAGS if f"`--{name}`" not in README] == []


def test_it_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 250


def test_every_picture_and_file_it_shows_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 5
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
