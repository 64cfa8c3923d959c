"""All commands with a vocabulary that the package tokenizers reads, where a space depends on the token before."""

import json

import pytest
from conftest import requires

import batch
import explore
from runner.command import BATCH as BATCH_COMMAND
from views import command

EXPLORE = {"main": explore.main, "command": command.EXPLORE}
BATCH = {"main": batch.main, "command": BATCH_COMMAND}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"人工智能的未来是", *"abcdefghijkl"]
WORDS += [f"##{letter}" for letter in "abcdef"]
ARGS = ("--model_size", "bert", "--temperature", "3", "--seed", "7", "-n", "12")


@pytest.fixture
def run(here, models):
    """Run a command in a folder that has the model `bert`; return stdout."""
    requires("tokenizers")
    folder = models / "hf"
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    folder.rename(models / "bert")

    def run(*args, **script):
        code, out, err = here(*args, "--models_dir", str(models), **script)
        assert code == 0, err
        return out

    return run


@pytest.mark.parametrize("prompt", ["人工智能", "abc de", ""])
def test_the_text_is_the_same_in_all_commands(run, prompt, tmp_path):
    text = run(prompt, *ARGS).removesuffix("\n")
    assert " " in text and "##" not in text
    assert run(prompt, *ARGS, "--echo") == f"{prompt}{text}\n"
    assert json.loads(run(prompt, *ARGS, "--json"))["text"] == text
    (cell,) = json.loads(run("sweep", prompt, *ARGS, "--json", **EXPLORE))["cells"]
    assert cell["texts"] == [text]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": prompt}) + "\n", encoding="utf-8")
    assert json.loads(run(str(tmp_path / "rows.jsonl"), *ARGS, **BATCH))["text"] == text
