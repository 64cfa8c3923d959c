"""Models of every format and variant: logits and 100 greedy ids equal those of transformers.

The models are in golden_models.zip; make_golden_models.py made the archive.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import requires
from model_folders import ROOT, load_parts

import gpt2
import gpt2_pico
import utils
from engine.batching import generate_samples
from engine.completion import Completion

ARCHIVE = ROOT / "tests" / "golden_models.zip"
with zipfile.ZipFile(ARCHIVE) as archive:
    NAMES = sorted({Path(name).parts[0] for name in archive.namelist()} - {"golden.npz"})

# Two orders of float32 sums differ by about 1e-6 of the largest logit, which is about 10 in these models.
TOLERANCE = 5e-5


def test_every_kind_of_model_is_in_the_archive():
    kinds = {"neo", "llm_c", "from_scratch", "min_gpt", "gguf_q8_0", "torch_stream", "untied", "quick_gelu"}
    assert kinds < set(NAMES)
    assert len(NAMES) == 36


@pytest.mark.parametrize("folder", NAMES, indirect=True)
def test_logits_and_greedy_ids_equal_those_of_transformers(folder, expected):
    needs_package(folder)
    ids = expected["ids"].tolist()
    for _ in range(2):  # the second time, converted weights are mapped
        _, hparams, params = load_parts(folder)
        for module in (gpt2, gpt2_pico):
            logits = module.gpt2(ids, **params, n_head=hparams["n_head"])
            wanted = expected[f"{folder.name}/logits"][:, : logits.shape[-1]]
            np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)
    greedy = list(gpt2.generate(ids, params, hparams["n_head"], 100))
    assert greedy == expected[f"{folder.name}/greedy"].tolist()


@pytest.mark.parametrize("folder", ["neo", "neo_torch", "untied", "silu", "llm_c", "gguf"], indirect=True)
def test_the_engine_generates_the_same_ids(folder, expected):
    model = utils.load(folder, folder.parent, fast=True)
    completions = [Completion() for _ in range(3)]
    for _ in generate_samples(expected["ids"], model.params, model.n_head, 100, completions):
        pass
    for completion in completions:
        assert completion.ids == expected[f"{folder.name}/greedy"].tolist()


def needs_package(folder):
    if folder.name == "gguf_q8_0":
        requires("gguf")
