"""The toy model of explore.py --toy."""

import numpy as np

import gpt2_pico
from views import toy


def test_the_toy_is_a_gpt_2_with_the_same_nine_logits_for_every_input():
    model = toy.toy_model()
    expected = np.array(list(toy.TOY.values()))
    for ids in ([8], [1, 2, 5, 8], [0] * 40):
        logits = gpt2_pico.gpt2(np.array(ids), **model.params, n_head=model.n_head)
        np.testing.assert_allclose(logits, np.tile(expected, (len(ids), 1)), rtol=0, atol=1e-6)
    assert model.encoder.decode(model.encoder.encode("Every effort moves you")) == "every effort moves you"
