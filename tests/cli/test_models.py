"""--list: the models that are present, in every format and state, and those that can be downloaded."""

import json
import zipfile

import pytest
from model_folders import ROOT

from checkpoints import download
from checkpoints.places import Places
from cli import models

TINY = "tiny"


@pytest.fixture
def folder(tmp_path):
    with zipfile.ZipFile(ROOT / "tests" / "golden_models.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def listed(folder):
    return {record["name"]: record for record in map(json.loads, models.listing(Places((folder,)), True).splitlines())}


@pytest.mark.parametrize(
    ("name", "format", "n_parameters", "state"),
    [
        ("plain", "Hugging Face", 3032, "ready"),
        ("half", "Hugging Face", 2160, "to be converted"),
        ("unscaled", "Hugging Face", 3032, "to be converted"),
        ("neo", "Hugging Face", 3032, "to be converted"),
        ("prefixes", "Hugging Face", 2160, "ready"),
        ("torch_stream", "Hugging Face", 3032, "to be converted"),
        ("llm_c", "llm.c", 3032, "ready"),
        ("llm_c_bfloat16", "llm.c", 3032, "to be converted"),
        ("gguf", "GGUF", 17856, "ready"),
        ("gguf_f16", "GGUF", 17856, "to be converted"),
        ("from_scratch", "PyTorch", 60288, "to be converted"),
        ("min_gpt", "PyTorch", 3032, "to be converted"),
    ],
)
def test_a_model_has_its_format_its_size_and_its_state(folder, name, format, n_parameters, state):
    record = listed(folder)[name]
    assert (record["format"], record["parameters"], record["state"]) == (format, n_parameters, state)
    assert record["context"] == 128
    assert record["bytes"] == sum(path.stat().st_size for path in (folder / name).iterdir())


def test_the_bundled_model_and_the_models_that_can_be_downloaded_are_listed(tmp_path):
    found = listed(tmp_path)
    assert set(found) == {TINY, *download.OFFICIAL}
    assert found[TINY]["state"] == "ready"
    assert found["124M"] == {
        "name": "124M",
        "format": "OpenAI",
        "parameters": 124_439_808,
        "context": 1024,
        "bytes": sum(n for n, _ in download.OFFICIAL["124M"].values()),
        "state": "can be downloaded",
        "path": None,
    }


def test_only_folders_that_contain_a_model_are_listed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    (tmp_path / "file").touch()
    assert set(listed(tmp_path)) == {TINY, *download.OFFICIAL}


@pytest.mark.parametrize(
    ("name", "file", "state"),
    [
        ("plain", "config.json", "not readable: "),
        ("plain", "model.safetensors", "not readable: "),
        ("gguf", "gguf.gguf", "not readable: "),
        ("min_gpt", "model.pt", "not readable: "),
        ("llm_c", "model.bin", "not readable: "),
    ],
)
def test_a_damaged_model_is_listed_with_the_reason(folder, name, file, state):
    path = folder / name / file
    path.write_bytes(path.read_bytes()[:40])
    assert listed(folder)[name]["state"].startswith(state)


def test_an_incomplete_checkpoint_is_listed_as_such(tiny_checkpoint):
    name = tiny_checkpoint.name
    assert listed(tiny_checkpoint.parent)[name]["state"] == "ready"
    (tiny_checkpoint / download.DATA).unlink()
    assert listed(tiny_checkpoint.parent)[name]["state"].startswith("incomplete: ")
    (tiny_checkpoint / "model.ckpt.index").unlink()
    assert listed(tiny_checkpoint.parent)[name]["state"] == "incomplete: lacks model.ckpt.index"


def test_the_table_fits_in_80_columns_and_names_the_folders(folder):
    lines = models.listing(Places((folder,)), False).splitlines()
    assert lines[0].split()[:3] == ["name", "format", "parameters"]
    assert f"{folder}:" in lines
    assert "to be downloaded with --model_size NAME:" in lines
    assert max(map(len, lines)) <= 80 or max(map(len, lines)) == len(str(folder)) + 1


def test_the_command_lists_models_without_a_prompt_and_without_loading_one(here, monkeypatch):
    monkeypatch.setattr("utils.load_found", None)
    code, out, err = here("--list")
    assert (code, err) == (0, "")
    assert "tiny" in out and "1558M" in out
    code, out, err = here("--list", "--json")
    assert json.loads(out.splitlines()[0])["name"] == "tiny"
