"""Run gpt2_pico.py in float64, like the original under NumPy 2 (see PicoFloat64 in peers_ours.py)."""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import gpt2_pico
import utils
from cli.command import run

load_found = utils.load_found


def load_for_float64(path, places, *options):
    """Return the model with plain arrays as weights and float64 positions, which make all activations float64."""
    model = load_found(path, places)
    positions = model.params["wpe"].astype("float64")
    return dataclasses.replace(model, params=model.params | {"wpe": positions})


if __name__ == "__main__":
    utils.load_found = load_for_float64
    run(gpt2_pico.main)
