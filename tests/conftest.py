"""Fixtures of several test modules: scripts run in this process, and very small models in memory and in files."""

import importlib
import io
import json
import logging
import os
import shutil
import sys
import threading
import warnings
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads slow tiny models down on a busy machine
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ["XDG_CACHE_HOME"] = "/nonexistent"  # models that the developer has downloaded play no part
os.environ["XDG_STATE_HOME"] = "/nonexistent"  # the history of prompts
os.environ.pop("PICOGPT_MODEL", None)
os.environ.pop("PICOGPT_MODELS_DIR", None)
os.environ.pop("PICOGPT_CONFIG", None)

import numpy as np
import pytest

import cli.command
import gpt2
from cli import help
from random_gpt2 import HPARAMS, random_params, with_differences

ROOT = Path(__file__).parent.parent
TINY_HPARAMS = {"n_vocab": 260, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 2}


def requires(module):
    """Return an optional module. Skip the test, or the module of tests, if it is missing; in CI that is a failure."""
    try:
        return importlib.import_module(module)
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{module} is not installed", allow_module_level=True)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


def four_at_once(function):
    """Call `function` in four threads that start together; return the results of the calls that did not fail."""
    results = []
    start = threading.Barrier(4)
    threads = [threading.Thread(target=lambda: (start.wait(), results.append(function()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture(autouse=True)
def logging_as_before():
    """Restore the logger of the project, which cli.command.run changes."""
    log = logging.getLogger("picogpt")
    handlers = log.handlers
    propagate = log.propagate
    level = log.level
    yield
    log.handlers = handlers
    log.propagate = propagate
    log.setLevel(level)


@pytest.fixture
def here(monkeypatch, capsys):
    """A function that runs a script in this process and returns (exit code, stdout, stderr)."""

    def run(*words, main=gpt2.main, command=help.GPT2, piped=b""):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [command.usage.split()[0], *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        code = 0
        try:
            cli.command.run(main, command)
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def passes(monkeypatch):
    """A list to which every forward pass appends the shape of its inputs."""
    shapes = []
    original = gpt2.transformer

    def recording(inputs, *args, **options):
        shapes.append(np.shape(inputs))
        return original(inputs, *args, **options)

    monkeypatch.setattr(gpt2, "transformer", recording)  # engine/forward.py calls it for float32
    return shapes


@pytest.fixture(scope="session")
def params():
    """The weights of a small random model."""
    return random_params(**HPARAMS)


@pytest.fixture(scope="session", params=["GPT-2", "with windows and a head"])
def any_params(request):
    """The weights of a small random model, as GPT-2 has them and with all that other models add."""
    params = random_params(**HPARAMS)
    return params if request.param == "GPT-2" else with_differences(params)


def tiny_tensors(seed, n_embd=8, n_layer=2, n_vocab=260, n_ctx=16):
    """Return the tensors of an official checkpoint with random weights. Names and shapes are not the product's own."""
    block = {
        "attn/c_attn/b": [3 * n_embd],
        "attn/c_attn/w": [1, n_embd, 3 * n_embd],
        "attn/c_proj/b": [n_embd],
        "attn/c_proj/w": [1, n_embd, n_embd],
        "ln_1/b": [n_embd],
        "ln_1/g": [n_embd],
        "ln_2/b": [n_embd],
        "ln_2/g": [n_embd],
        "mlp/c_fc/b": [4 * n_embd],
        "mlp/c_fc/w": [1, n_embd, 4 * n_embd],
        "mlp/c_proj/b": [n_embd],
        "mlp/c_proj/w": [1, 4 * n_embd, n_embd],
    }
    shapes = {f"model/h{i}/{name}": shape for i in range(n_layer) for name, shape in block.items()}
    shapes |= {"model/ln_f/b": [n_embd], "model/ln_f/g": [n_embd]}
    shapes |= {"model/wpe": [n_ctx, n_embd], "model/wte": [n_vocab, n_embd]}
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def save_checkpoint():
    """A function that writes tensors {name: array} to a folder as a TensorFlow checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own warnings
        tf = requires("tensorflow")

    def save(folder, tensors, prefix="model.ckpt"):
        tf.raw_ops.SaveV2(
            prefix=str(folder / prefix),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()),
        )
        lines = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'
        (folder / "checkpoint").write_text(lines, encoding="utf-8")

    return save


@pytest.fixture(scope="session")
def pristine_tiny(tmp_path_factory, save_checkpoint):
    """A folder with an official checkpoint, to be copied by tests: see tiny_checkpoint."""
    folder = tmp_path_factory.mktemp("pristine")
    bytes_as_characters = [chr(b) for b in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    bytes_as_characters += [chr(0x100 + i) for i in range(256 - len(bytes_as_characters))]
    vocabulary = [*bytes_as_characters, "Ġt", "he", "Ġthe", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    (folder / "encoder.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "vocab.bpe").write_text("#version: 0.2\nĠ t\nh e\nĠt he\n", encoding="utf-8")
    (folder / "hparams.json").write_text(json.dumps(TINY_HPARAMS), encoding="utf-8")
    save_checkpoint(folder, tiny_tensors(seed=1))
    return folder


@pytest.fixture
def tiny_checkpoint(tmp_path, pristine_tiny):
    """The folder models/tiny-random, a new copy: a GPT-2 with 2 layers, n_embd 8, 260 tokens and random weights."""
    return shutil.copytree(pristine_tiny, tmp_path / "models" / "tiny-random")


def extracted(name, folder):
    """Extract an archive of tests/ to a folder and return the folder."""
    with zipfile.ZipFile(ROOT / "tests" / name) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def golden_folders(tmp_path_factory):
    """The folder with the models in golden_formats.zip, which tests must not change."""
    return extracted("golden_formats.zip", tmp_path_factory.mktemp("formats"))


@pytest.fixture(scope="session")
def golden(golden_folders):
    """{folder name: logits} of the models in golden_formats.zip, and the ids of their prompt."""
    with np.load(golden_folders / "golden.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def golden_models(tmp_path_factory):
    """The folder with the models in golden_models.zip, which tests must not change."""
    return extracted("golden_models.zip", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def expected(golden_models):
    """What transformers computes for these models: NAME/logits and NAME/greedy, and `ids`, their prompt."""
    with np.load(golden_models / "golden.npz") as file:
        return dict(file)


@pytest.fixture
def folder(golden_models, tmp_path, request):
    """A copy of the folder of the model whose name is the parameter."""
    return shutil.copytree(golden_models / request.param, tmp_path / request.param)


@pytest.fixture
def models(golden_folders, tmp_path):
    """The folder with a copy of the models in golden_formats.zip, which a test may change."""
    return shutil.copytree(golden_folders, tmp_path / "models")
