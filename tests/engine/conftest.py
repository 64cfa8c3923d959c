"""Fixtures of the engine's tests: a small random model, and a record of the passes through it."""

import numpy as np
import pytest

import gpt2
from engine import slots
from random_gpt2 import HPARAMS, random_params


@pytest.fixture(scope="module")
def params():
    return random_params(**HPARAMS)


@pytest.fixture
def passes(monkeypatch):
    """A list that grows by the shape of the inputs of every pass through the model."""
    shapes = []
    original = gpt2.transformer

    def recording(inputs, *args, **options):
        shapes.append(np.shape(inputs))
        return original(inputs, *args, **options)

    monkeypatch.setattr(gpt2, "transformer", recording)
    monkeypatch.setattr(slots, "transformer", recording)
    return shapes
