"""From a model's name to its place: names, paths, folders, variables, and where a download goes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from model_folders import ROOT

from checkpoints import places
from checkpoints.places import search_places
from utils import find_model, load

SIZES = ["124M", "355M", "774M", "1558M"]


# ---- find ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        *((size, size) for size in SIZES),
        ("gpt2", "124M"),
        ("gpt2-medium", "355M"),
        ("gpt2-large", "774M"),
        ("gpt2-xl", "1558M"),
        ("117M", "124M"),
        ("345M", "355M"),
    ],
)
def test_all_names_of_a_size_find_one_folder_which_need_not_exist(tmp_path, name, folder):
    assert find_model(name, tmp_path / "models") == tmp_path / "models" / folder
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["mine", "mine/", "gpt2", "117M"])
def test_a_folder_in_models_dir_takes_precedence_over_sizes_and_paths(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("models", name).mkdir(parents=True)
    Path(name).mkdir()
    assert find_model(name, "models") == Path("models", name)


def test_a_relative_or_absolute_path_with_tilde_or_variables_finds_a_model(tmp_path, monkeypatch):
    (tmp_path / "some where" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("PLACE", "some where")
    expected = tmp_path / "some where" / "mine"
    assert find_model(expected, "models") == expected
    assert find_model("~/$PLACE/mine", "models") == expected
    assert find_model("some where/mine", "models").resolve() == expected
    assert find_model("./some where/mine/", "models").resolve() == expected
    assert find_model("mine", "~/${PLACE}") == expected
    assert find_model("124M", "~/$PLACE") == tmp_path / "some where" / "124M"


def test_the_error_for_an_unknown_name_lists_sizes_folders_and_the_nearest_name(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="'tinny'") as error:
        find_model("tinny", tmp_path)
    message = str(error.value)
    assert all(size in message for size in SIZES)
    assert "mine, tiny" in message and "did you mean tiny?" in message
    assert "file" not in message
    with pytest.raises(ValueError, match="did you mean gpt2-medium"):
        find_model("gpt2-mediun", tmp_path)
    with pytest.raises(ValueError, match=r"\(tiny\) or a path"):
        find_model("nothing like it", tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["", " ", "../no", "124", 124, 124.5, None, True, "x" * 5000, "a\0b", "~nobody-here"])
def test_a_value_that_names_no_model_raises_value_error(tmp_path, name):
    with pytest.raises(ValueError, match="there is no model"):
        find_model(name, tmp_path)


def test_a_file_is_no_models_dir(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PICOGPT_MODELS_DIR", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"PICOGPT_MODELS_DIR is .*file"):
        find_model("124M")
    with pytest.raises(ValueError, match=r"models_dir is .*file"):
        find_model("124M", tmp_path / "file")


def test_an_unreadable_models_dir_counts_as_empty(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert find_model("124M", tmp_path) == tmp_path / "124M"
    with pytest.raises(ValueError, match=r"\(tiny\) or a path"):
        find_model("mine", tmp_path)


def test_files_and_dangling_links_in_models_dir_are_not_listed_as_models(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"a folder in .* \(mine, tiny\)"):
        find_model("other", tmp_path)


def test_the_error_for_an_unknown_name_lists_at_most_20_folders_and_escapes_their_names(tmp_path):
    (tmp_path / "a\x1b[31m\nError: forged").mkdir()
    for i in range(30):
        (tmp_path / f"m{i:02}{'x' * 200}").mkdir()
    with pytest.raises(ValueError, match="there is no model") as error:
        find_model("y\n" * 5000, tmp_path)
    message = str(error.value)
    assert len(message) < 3000 and message.isprintable() and "and 12 more" in message
    assert r"a\x1b[31m\nError: forged" in message


# ---- folders ---------------------------------------------------------------------------------------------------


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """The folder of models beside gpt2.py, empty and of this test alone."""
    folder = tmp_path / "checkout" / "models"
    folder.mkdir(parents=True)
    monkeypatch.setattr(places, "beside_gpt2", lambda: folder)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "models"
    monkeypatch.setattr(places, "cache_folder", lambda: folder)
    return folder


def test_the_order_of_the_places(beside, cache, tmp_path, monkeypatch):
    here = tmp_path / "here"
    chosen = tmp_path / "chosen"
    monkeypatch.chdir(tmp_path)
    assert search_places().folders == (beside, cache, Path("models"))
    monkeypatch.setenv("PICOGPT_MODELS_DIR", str(here))
    assert search_places().folders == (here, cache, Path("models"))
    assert search_places(chosen).folders == (chosen, cache)
    monkeypatch.setenv("PICOGPT_MODELS_DIR", "")
    assert search_places().folders[0] == beside


def test_models_in_the_current_folder_are_found_last(beside, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (Path("models"), cache, beside):  # each of them precedes the one before
        (folder / "mine").mkdir(parents=True)
        assert find_model("mine") == folder / "mine"


def test_the_bundled_model_is_found_wherever_models_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for models_dir in (None, tmp_path, tmp_path / "nowhere"):
        assert find_model("tiny", models_dir) == ROOT / "models" / "tiny"
        assert find_model("TINY", models_dir) == ROOT / "models" / "tiny"
    assert load("tiny").name == "tiny"


def test_other_models_beside_gpt2_are_not_found_in_another_models_dir(beside, tmp_path):
    (beside / "mine").mkdir()
    with pytest.raises(ValueError, match="there is no model"):
        find_model("mine", tmp_path / "other")


def test_a_download_goes_to_the_first_place_or_if_it_is_not_writable_to_the_cache(beside, cache, monkeypatch):
    assert find_model("124M") == beside / "124M"
    monkeypatch.setattr(places, "is_writable", lambda folder: folder != beside)
    assert find_model("124M") == cache / "124M"
    (beside / "124M").mkdir()
    assert find_model("gpt2") == cache / "124M"
    (beside / "124M" / "hparams.json").touch()
    assert find_model("gpt2") == beside / "124M"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_not_writable(tmp_path):
    tmp_path.chmod(0o500)
    assert not places.is_writable(tmp_path / "models")
    tmp_path.chmod(0o700)
    assert places.is_writable(tmp_path / "models" / "deep")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("124m", "124M"),
        ("1558m", "1558M"),
        ("GPT2", "124M"),
        ("Gpt2-XL", "1558M"),
        ("openai-community/gpt2", "124M"),
        ("openai-community/gpt2-medium", "355M"),
        ("OpenAI-Community/GPT2-Large", "774M"),
    ],
)
def test_names_of_a_size_are_found_in_any_case_and_with_their_owner(beside, name, size):
    assert find_model(name) == beside / size


def test_an_exact_name_precedes_one_in_another_case(beside):
    for name in ("mine", "Mine", "MODEL"):
        (beside / name).mkdir()
    assert find_model("mine") == beside / "mine"
    assert find_model("Mine") == beside / "Mine"
    assert find_model("model") == beside / "MODEL"
    with pytest.raises(ValueError, match="there is no model 'MINE'"):
        find_model("MINE")


@pytest.mark.parametrize(
    "file",
    [
        *("model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin", "ckpt.pt", "model.ckpt.index"),
        *("config.json", "hparams.json", "model.ckpt.data-00000-of-00001", "model.safetensors.index.json"),
    ],
)
def test_the_path_of_a_part_of_a_model_is_its_folder(tmp_path, file):
    (tmp_path / file).touch()
    assert find_model(tmp_path / file) == tmp_path


@pytest.mark.parametrize("file", ["a.gguf", "model.pth", "gpt2_124M.bin", "my model.safetensors"])
def test_the_path_of_another_file_is_a_model(tmp_path, file):
    (tmp_path / file).touch()
    assert find_model(tmp_path / file) == tmp_path / file


# ---- commands from elsewhere -----------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("environment", [{}, {"HOME": "/nonexistent"}, {"PICOGPT_MODEL": "tiny"}])
def test_a_command_finds_the_bundled_model_through_a_link_from_another_folder_in_any_environment(tmp_path, environment):
    link = tmp_path / "gpt2"
    link.symlink_to(ROOT / "gpt2.py")
    flags = [] if environment.get("PICOGPT_MODEL") else ["--model_size", "tiny"]
    command = [sys.executable, link, "Once", *flags, "-n", "5"]
    done = subprocess.run(
        command, cwd="/", env={"OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 10
