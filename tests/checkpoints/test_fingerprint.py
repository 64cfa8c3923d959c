"""The fingerprint of a model: the same for the same files in any place, another one for any other file."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from model_folders import change_json
from safetensors.numpy import save_file

from checkpoints import mapped, openai, verified
from checkpoints.fingerprint import NOTE, fingerprint
from checkpoints.tensors import in_safetensors, tensor_shapes

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "models" / "tiny"


@pytest.fixture
def copy(tmp_path):
    """A copy of the bundled model in a folder of another name."""
    return Path(shutil.copytree(TINY, tmp_path / "copy"))


@pytest.fixture
def hugging_face(tmp_path):
    """A folder of Hugging Face's format with small weights."""
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text('{"n_embd": 8}', encoding="utf-8")
    save_file({"wte.weight": np.arange(32, dtype=np.float32).reshape(4, 8)}, folder / "model.safetensors")
    return folder


def count_reads(monkeypatch):
    """Return a list that receives an entry for each file whose checksum is computed."""
    reads = []
    compute = verified.checksum_of
    monkeypatch.setattr(verified, "checksum_of", lambda raw: reads.append(len(raw)) or compute(raw))
    return reads


def test_a_copy_has_the_same_fingerprint_and_it_has_16_digits(copy):
    assert fingerprint(copy) == fingerprint(TINY)
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(TINY))


def test_the_weights_of_an_openai_checkpoint_are_not_read(copy, monkeypatch):
    reads = count_reads(monkeypatch)
    (copy / "model.ckpt.data-00000-of-00001").unlink()
    assert fingerprint(copy) == fingerprint(TINY)
    assert reads == []


def test_notes_and_readmes_do_not_change_it_but_the_vocabulary_and_the_index_do(copy):
    for name in ("model.ckpt.verified", "README.md", "train.py"):
        (copy / name).unlink(missing_ok=True)  # the first exists after the first load
    assert fingerprint(copy) == fingerprint(TINY)
    found = {fingerprint(copy)}
    change_json(copy / "hparams.json", n_head=1)
    found.add(fingerprint(copy))
    with open(copy / "vocab.bpe", "ab") as file:
        file.write(b"\n")
    found.add(fingerprint(copy))
    with open(copy / "model.ckpt.index", "ab") as file:
        file.write(b"\0")
    found.add(fingerprint(copy))
    assert len(found) == 4


def test_weights_converted_from_a_checkpoint_have_the_fingerprint_of_the_checkpoint(copy):
    expected = fingerprint(copy)
    shapes = tensor_shapes(openai.read_hparams(copy))
    arrays = openai.load_tensors(copy, shapes, {})
    source = openai.fingerprint(openai.checkpoint_index(copy))
    with open(copy / openai.CONVERTED_NAME, "wb") as file:
        mapped.write_safetensors(file, openai.CONVERTED_NAME, in_safetensors(shapes), source, arrays.values())
    for name in ("checkpoint", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        (copy / name).unlink()
    assert fingerprint(copy) == expected


def test_other_weights_are_read_once_and_again_when_they_change(hugging_face, monkeypatch):
    reads = count_reads(monkeypatch)
    before = fingerprint(hugging_face)
    assert (fingerprint(hugging_face), len(reads)) == (before, 1)
    weights = hugging_face / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"\x40")
    os.utime(weights, ns=(1, 1))
    assert fingerprint(hugging_face) != before and len(reads) == 2
    weights.write_bytes(content)
    os.utime(weights, ns=(2, 2))
    assert fingerprint(hugging_face) == before and len(reads) == 3


def test_converted_weights_and_a_new_modification_time_do_not_change_it(hugging_face):
    before = fingerprint(hugging_face)
    shutil.copy(hugging_face / "model.safetensors", hugging_face / "model.float32.safetensors")
    os.utime(hugging_face / "model.safetensors", ns=(1, 1))
    assert fingerprint(hugging_face) == before


@pytest.mark.parametrize(
    "note",
    ["", "[]", "{", '{"model.safetensors": 3}', '{"model.safetensors": [1, 2]}', '{"model.safetensors": [null, 1, 1]}'],
)
def test_a_damaged_note_is_replaced(hugging_face, note):
    expected = fingerprint(hugging_face)
    (hugging_face / NOTE).write_text(note, encoding="utf-8")
    assert fingerprint(hugging_face) == expected
    assert json.loads((hugging_face / NOTE).read_text(encoding="utf-8"))["model.safetensors"][2] > 0


def test_a_model_that_is_missing_or_incomplete_has_none(tmp_path, copy):
    (copy / "model.ckpt.index").unlink()
    (copy / "model.ckpt.data-00000-of-00001").unlink()
    assert [fingerprint(tmp_path), fingerprint(tmp_path / "missing"), fingerprint(copy)] == [None] * 3
