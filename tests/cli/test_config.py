"""--config and PICOGPT_CONFIG: flags from a TOML or JSON file."""

import json
import sys

import pytest
from conftest import requires
from run_script import STORY, records_of, text_of

from cli import command

if sys.version_info < (3, 11):
    requires("tomli")


@pytest.fixture
def received(monkeypatch, tmp_path):
    """Write files; return what `main` receives when these words follow the command's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PICOGPT_CONFIG", raising=False)

    def receive(*words, **files):
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text, encoding="utf-8")
        calls = []

        def main(prompt=None, **options):
            calls.append({"prompt": prompt, **options})

        monkeypatch.setattr(sys, "argv", ["gpt2.py", *words])
        command.run(main)
        return calls[0]

    return receive


TOML = """
temperature = 0.8
top_k = 40
json = true
quiet = false
stop = ["The end", "\\n"]
banned_ids = [5, 6]
max-new-tokens = 12
model = "tiny"
logit_bias = { " cat" = 2.5, 50256 = -100 }
"""
VALUES = {
    "temperature": 0.8,
    "top_k": 40,
    "json": "True",
    "quiet": "False",
    "stop": '["The end", "\\n"]',
    "banned_ids": (5, 6),
    "n_tokens_to_generate": 12,
    "model_size": "tiny",
    "logit_bias": '{" cat": 2.5, "50256": -100}',
}


def test_the_flags_of_a_toml_file_arrive_as_if_typed(received):
    assert received("x", "--config", "c.toml", c__toml=TOML) == {"prompt": "x", "config": "c.toml", **VALUES}


def test_the_flags_of_a_json_file_arrive_as_if_typed(received):
    flags = {"temperature": 0.8, "stop": ["a"], "stream": False, "seed": 7, "start": "Once"}
    found = received("--config", "c.json", c__json=json.dumps(flags))
    expected = {"temperature": 0.8, "stop": '["a"]', "stream": "False", "seed": 7, "prompt": "Once"}
    assert found == expected | {"config": "c.json"}


def test_the_command_line_comes_before_config_and_config_before_the_variable(received, monkeypatch):
    monkeypatch.setenv("PICOGPT_CONFIG", "default.toml")
    files = {"default__toml": "seed = 1\ntop_k = 1\ntop_p = 0.1", "c__toml": "seed = 2\ntop_k = 2"}
    found = received("x", "--config", "c.toml", "--seed", "3", **files)
    assert (found["seed"], found["top_k"], found["top_p"]) == (3, 2, 0.1)
    assert received("x", **files)["seed"] == 1


def test_flags_of_other_commands_are_left_out(received):
    found = received("x", "--config", "c.toml", c__toml="batch_size = 4\nsteps = 3\noverwrite = true\nseed = 5")
    assert found == {"prompt": "x", "config": "c.toml", "seed": 5, "overwrite": "True"}


def test_a_file_serves_all_commands(here, tmp_path, monkeypatch):
    file = tmp_path / "c.toml"
    file.write_text('model_size = "tiny"\ntemperature = 0.8\nseed = 7\nn_tokens_to_generate = 9\n', encoding="utf-8")
    monkeypatch.setenv("PICOGPT_CONFIG", str(file))
    code, out, _ = here(STORY)
    assert (code, out) == (0, text_of(here, STORY, "--temperature", "0.8", "--seed", "7", "-n", "9"))
    (record,) = records_of(here, STORY)
    assert record["settings"] == {"n_tokens_to_generate": 9, "temperature": 0.8}

    import explore
    from views.command import EXPLORE

    code, out, _ = here("score", STORY, main=explore.main, command=EXPLORE)  # it has no --temperature
    assert code == 0 and "token perplexity" in out


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.toml", "temprature = 1", "c.toml: there is no flag --temprature; did you mean --temperature?"),
        ("c.toml", "num_beams = 4", "c.toml: there is no flag --num_beams: there is no beam search"),
        ("c.toml", "temperature = [", "c.toml is not valid TOML: "),
        ("c.toml", "seed = 2024-01-01", "the configuration has the value '2024-01-01', which no flag takes"),
        ("c.toml", "[gpt2]\nseed = 1", "c.toml: there is no flag --gpt2"),
        ("c.toml", "seed = 'now'", "seed is 'now'; it must be a whole number"),
        ("c.toml", "temperature = -1", "temperature is -1; it must be a number"),
        ("c.json", "[1]", "c.json is not a JSON object of flags"),
        ("c.json", "{", "c.json is not valid JSON: "),
        ("c.json", "[" * 100_000, "c.json is not valid JSON"),
        ("c.py", "import os", "c.py is Python code, which is not run; write the same settings to a file"),
        ("nowhere.toml", None, "cannot read the configuration nowhere.toml: No such file or directory"),
        ("a\0b", None, "config is "),
        ("c.toml", "#" * 2**21, "the configuration c.toml has more than 1,048,576 bytes, the most that are read"),
        ("", None, "cannot read the configuration "),
    ],
)
def test_a_fault_in_a_file_is_one_line_that_names_the_fault(here, tmp_path, monkeypatch, name, text, said):
    monkeypatch.delenv("PICOGPT_CONFIG", raising=False)
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    code, out, err = here("x", "--model_size", "tiny", "--config", str(tmp_path / name))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err.replace(f"{tmp_path}/", "") and len(err) < 1000


def test_python_in_a_configuration_is_not_run(here, tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "c.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    assert here("x", "--config", str(tmp_path / "c.py"))[0] == 2
    assert not marker.exists()
