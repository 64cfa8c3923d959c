"""Fixtures for the tests of the engine: a small random model, and a record of its forward passes."""

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
    """A list to which every forward pass appends the shape of its inputs."""
    shapes = []
    original = gpt2.transformer

    def recording(inputs, *args, **options):
        shapes.append(np.shape(inputs))
        return original(inputs, *args, **options)

    monkeypatch.setattr(gpt2, "transformer", recording)
    monkeypatch.setattr(slots, "transformer", recording)
    return shapes
