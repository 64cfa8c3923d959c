"""Missing packages: one sentence with the pip command, from every command, for --help too."""

import os
import re
import subprocess
import sys

import pytest
from model_folders import ROOT

from cli.requirements import PACKAGES

COMMANDS = ["gpt2.py", "gpt2_pico.py", "batch.py", "explore.py"]


def run_without(modules, *words, source=None):
    """Run a command in a process in which these modules cannot be found, or have this source."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = {list(words)!r}\n"
        f"sys.modules.update(dict.fromkeys({list(modules)!r}))\n"
        f"runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PICOGPT")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module", PACKAGES)
def test_a_missing_package_is_one_sentence_with_the_command_that_installs_it(module):
    expected = f"Error: packages are missing: pip install {PACKAGES[module]}\n"
    assert run_without([module], "gpt2.py", "Once", "--model_size", "tiny") == (1, "", expected)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("word", ["--help", "--version", "a"])
def test_every_command_names_all_missing_packages_for_help_too(command, word):
    expected = "Error: packages are missing: pip install numpy regex google-crc32c\n"
    assert run_without(["numpy", "regex", "google_crc32c"], command, word) == (1, "", expected)


def test_the_list_is_that_of_requirements_run_txt():
    lines = (ROOT / "requirements-run.txt").read_text(encoding="utf-8").splitlines()
    named = [re.match(r"[\w.-]+", line)[0] for line in lines if not line.startswith("#")]
    assert named == list(PACKAGES.values())


def test_a_package_that_is_broken_is_not_called_missing(tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("raise ImportError('libx.so\\nis gone')", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "gpt2.py", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    expected = "Error: the package numpy is installed but cannot be imported (libx.so is gone)\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_an_old_python_is_named_before_anything_else_fails():
    code = "import sys; sys.version_info = (3, 8, 1); import cli.requirements"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "Error: Python 3.8 is too old: use Python 3.10 or later\n"
