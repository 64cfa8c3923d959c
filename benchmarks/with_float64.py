"""gpt2_pico.py, same words and flags, computing in float64 like the original under NumPy 2: PicoFloat64 in peers.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cli
import gpt2_pico
import utils

load = utils.load_encoder_hparams_and_params


def load_for_float64(model_size, models_dir):
    encoder, hparams, params = load(model_size, models_dir)
    return encoder, hparams, params | {"wpe": params["wpe"].astype("float64")}


if __name__ == "__main__":
    utils.load_encoder_hparams_and_params = load_for_float64
    cli.run(gpt2_pico.main)
