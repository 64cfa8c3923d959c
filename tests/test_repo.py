"""Promises the repository makes about itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUDGETS = {"gpt2.py": 430, "gpt2_pico.py": 90, "sampling.py": 640, "encoder.py": 360, "utils.py": 700}
BUDGETS |= {"layouts.py": 400, "torchfile.py": 250, "flags.py": 240, "cli.py": 320, "writer.py": 200}
BUDGETS |= {"slots.py": 200, "batch.py": 320, "rows.py": 300, "explore.py": 390, "views/next_token.py": 250}
BUDGETS |= {"views/plot.py": 210, "views/sweep.py": 170, "views/score.py": 200, "views/settings.py": 100}
BUDGETS |= {"views/screen.py": 150, "threads.py": 140}
IMPORTS = {  # who may import whom, at the top of the file
    "gpt2.py": {"numpy", "sampling"},
    "gpt2_pico.py": {"numpy"},
    "sampling.py": {"numpy"},
    "encoder.py": {"regex"},
    "utils.py": {"numpy", "encoder"},
    "torchfile.py": {"numpy"},
    "layouts.py": {"numpy", "encoder", "torchfile", "utils"},
    "flags.py": {"sampling"},
    "writer.py": {"numpy", "sampling"},
    "threads.py": {"numpy", "utils"},
    "slots.py": {"numpy", "gpt2", "threads"},
    "rows.py": {"utils", "writer"},
    "batch.py": {"numpy", "cli", "flags", "rows", "sampling", "slots", "utils", "writer"},
    "cli.py": {"numpy", "sampling", "utils", "encoder", "flags", "writer"},
    "views/screen.py": set(),
    "views/settings.py": {"numpy", "flags", "sampling"},
    "views/next_token.py": {"numpy", "gpt2", "sampling", "views"},
    "views/plot.py": {"numpy", "gpt2", "sampling", "views"},
    "views/sweep.py": {"numpy", "gpt2", "sampling", "views"},
    "views/score.py": {"numpy", "gpt2", "views"},
    "explore.py": {"numpy", "cli", "flags", "gpt2", "sampling", "utils", "views", "writer"},
}


def tree_of(name):
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "lines"), BUDGETS.items())
def test_a_file_that_is_read_in_one_sitting_stays_that_long(name, lines):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= lines


@pytest.mark.parametrize(("name", "allowed"), IMPORTS.items())
def test_no_file_imports_more_than_it_says(name, allowed):
    imported = set()
    for node in tree_of(name).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) <= allowed


@pytest.mark.parametrize("name", BUDGETS)
def test_no_assert_stands_between_a_user_and_a_sentence(name):
    assert not [node.lineno for node in ast.walk(tree_of(name)) if isinstance(node, ast.Assert)]


def test_every_file_of_the_readme_s_map_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files = re.findall(r"^\| \[?`([\w./]+)`", readme.split("## How it works")[1], flags=re.MULTILINE)
    assert len(files) >= 8
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_every_module_and_command_is_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in BUDGETS if name not in readme] == []
    assert "make run" in readme and "make test" in readme


def test_the_bundled_model_is_small_and_in_the_official_layout():
    folder = ROOT / "models" / "tiny"
    files = {
        "checkpoint",
        "encoder.json",
        "hparams.json",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
        "vocab.bpe",
    }
    assert files <= {path.name for path in folder.iterdir()}
    assert sum((folder / name).stat().st_size for name in files) <= 16 * 2**20


def test_git_ignores_what_running_leaves_behind():
    if not (ROOT / ".git").exists():
        return  # an archive without git has nothing to ignore
    made = ["models/tiny/model.safetensors", "models/124M/checkpoint", ".venv/bin/python", "__pycache__/gpt2.pyc"]
    done = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == made
