"""Names and shapes of a GPT-2's tensors, and the limits of its hyper-parameters."""

import math

import pytest
from conftest import TINY_HPARAMS, tiny_tensors
from model_folders import change_hparams, load_weights

from checkpoints import download, tensors
from utils import CheckpointError

SIZES = {
    "124M": ({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}, 148, 124_439_808),
    "355M": ({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1024, "n_head": 16, "n_layer": 24}, 292, 354_823_168),
    "774M": ({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1280, "n_head": 20, "n_layer": 36}, 436, 774_030_080),
    "1558M": ({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1600, "n_head": 25, "n_layer": 48}, 580, 1_557_611_200),
}


@pytest.mark.parametrize("size", SIZES)
def test_the_shapes_have_the_number_of_tensors_and_parameters_of_the_official_models(size):
    hparams, n_tensors, n_parameters = SIZES[size]
    shapes = tensors.tensor_shapes(hparams)
    assert len(shapes) == n_tensors
    assert sum(map(math.prod, shapes.values())) == n_parameters
    data_size, _ = download.OFFICIAL[size]["model.ckpt.data-00000-of-00001"]
    assert data_size == 4 * n_parameters


def test_the_shapes_of_a_small_model_are_those_of_its_checkpoint():
    expected = {name: ("float32", tensor.shape) for name, tensor in tiny_tensors(seed=1).items()}
    assert tensors.in_checkpoint(tensors.tensor_shapes(TINY_HPARAMS)) == expected


@pytest.mark.parametrize("name", TINY_HPARAMS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 0, 1.5, 2.0, True, "2", None, [2], 10**12])
def test_the_error_for_an_invalid_hyper_parameter_names_it(tiny_checkpoint, name, value):
    change_hparams(tiny_checkpoint, **{name: value})
    with pytest.raises(CheckpointError, match=rf"hparams\.json: {name} is .*; it must be a whole number from 1 to"):
        load_weights(tiny_checkpoint)


def test_n_embd_must_be_a_multiple_of_n_head(tiny_checkpoint):
    change_hparams(tiny_checkpoint, n_head=3)
    with pytest.raises(CheckpointError, match="n_embd 8 is not a multiple of n_head 3"):
        load_weights(tiny_checkpoint)
