"""Helpers for tests that load model folders, change their files and compare the weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_tensors
from safetensors.numpy import load_file, save_file

import gpt2
from checkpoints import openai
from checkpoints.tensors import tensor_shapes
from utils import CheckpointError, load_encoder_hparams_and_params

ROOT = Path(__file__).parent.parent


def load_parts(folder):
    """Return the encoder, the hyper-parameters and the weights of a folder."""
    return load_encoder_hparams_and_params(folder, folder.parent)


def load_weights(folder):
    return load_encoder_hparams_and_params(folder.name, folder.parent)[2]


def assert_error(folder, match):
    """Loading the folder raises CheckpointError with one short line that matches."""
    with pytest.raises(CheckpointError, match=match) as error:
        load_parts(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def run_python(code, **environment):
    """Run code in a new process, in the repository; return (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


# ---- change a folder -------------------------------------------------------------------------------------------


def files_in(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def change_hparams(folder, **changes):
    change_json(folder / "hparams.json", **changes)


def change_tensors(folder, change):
    """Replace the tensors in model.safetensors by what the function `change` returns for them."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file)


def convert(folder):
    """Convert the folder's checkpoint to model.safetensors, as the first version did for every checkpoint."""
    shapes = tensor_shapes(openai.read_hparams(folder))
    openai.convert_once(folder / "model.ckpt", folder / "model.safetensors", shapes, "a form of the test")


def remove_checkpoint(folder):
    for path in (folder / "checkpoint", *folder.glob("model.ckpt.*")):
        path.unlink()


# ---- compare weights and logits --------------------------------------------------------------------------------


def flat(params, n_layer=2):
    """Return the weights tree as {name in an OpenAI checkpoint: array}, the inverse of loading."""
    tensors = {"model/wte": params["wte"], "model/wpe": params["wpe"]}
    tensors |= {f"model/ln_f/{leaf}": params["ln_f"][leaf] for leaf in "gb"}
    for i in range(n_layer):
        block = params["blocks"][i]
        for norm in ("ln_1", "ln_2"):
            tensors |= {f"model/h{i}/{norm}/{leaf}": block[norm][leaf] for leaf in "gb"}
        for part, linear in (("attn", "c_attn"), ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj")):
            tensors[f"model/h{i}/{part}/{linear}/w"] = block[part][linear]["w"][np.newaxis]
            tensors[f"model/h{i}/{part}/{linear}/b"] = block[part][linear]["b"]
    return tensors


def assert_weights(params, seed=1, **sizes):
    """The weights are those of conftest.tiny_tensors."""
    expected = tiny_tensors(seed, **sizes)
    found = flat(params, sizes.get("n_layer", 2))
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name, strict=True)


def assert_golden(folder, golden, name=None, module=gpt2):
    """The logits of the folder's model are the golden ones of that name, by default the folder's."""
    expected = golden[name or folder.name]
    _, hparams, params = load_parts(folder)
    found = module.gpt2(golden["ids"], **params, n_head=hparams["n_head"])
    np.testing.assert_allclose(found, expected[:, : found.shape[1]], rtol=0, atol=2e-5)


def arrays(tree):
    """Yield the arrays in a weights tree."""
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, dict | list):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from arrays(child)


def roots_of(arrays):
    """Return the set of objects that own the memory of the arrays."""
    roots = set()
    for array in arrays:
        while isinstance(array, np.ndarray):
            array = array.base
        roots.add(array)
    return roots
