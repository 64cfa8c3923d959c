"""Make golden_logits.npz and golden_tiny.npz: logits and greedy ids computed by Hugging Face transformers.

The weights are those of random_gpt2.py and of the bundled model. Run by hand from the project's folder, with
requirements.txt, torch 2.13.0 and transformers 5.23.0 installed:

    PYTHONPATH=. python tests/make_golden_logits.py
"""

from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from random_gpt2 import HPARAMS, random_params
from utils import load_encoder_hparams_and_params

HERE = Path(__file__).parent


def hugging_face_model(params, n_vocab, n_ctx, n_embd, n_head, n_layer):
    """Return a GPT2LMHeadModel with the weights of our tree."""
    sizes = {"vocab_size": n_vocab, "n_positions": n_ctx, "n_embd": n_embd, "n_head": n_head, "n_layer": n_layer}
    config = GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval()
    names = {"w": "weight", "g": "weight", "b": "bias"}

    def flat(tree, prefix):
        for name, child in tree.items():
            if isinstance(child, dict):
                yield from flat(child, f"{prefix}{name}.")
            else:
                yield prefix + names[name], torch.from_numpy(np.array(child))

    state = {"wte.weight": torch.from_numpy(np.array(params["wte"]))}
    state["wpe.weight"] = torch.from_numpy(np.array(params["wpe"]))
    state |= dict(flat(params["ln_f"], "ln_f."))
    for i, block in enumerate(params["blocks"]):
        state |= dict(flat(block, f"h.{i}."))
    model.transformer.load_state_dict(state, strict=True)
    model.tie_weights()
    return model


def save(name, model, ids, n_prompt, n_new, n_logits):
    """Save the logits of the last n_logits positions of each row of `ids`, and the greedy ids after a short prompt."""
    options = {"do_sample": False, "max_new_tokens": n_new, "pad_token_id": 0, "eos_token_id": None}
    with torch.no_grad():
        logits = model(torch.from_numpy(ids)).logits.numpy()[..., -n_logits:, :]
        greedy = model.generate(torch.from_numpy(ids[:1, :n_prompt]), **options)[0, n_prompt:].numpy()
    np.savez_compressed(HERE / name, ids=ids.squeeze(), logits=logits.squeeze(), greedy=greedy)


def main():
    ids = np.random.default_rng(1).integers(HPARAMS["n_vocab"], size=(2, HPARAMS["n_ctx"]))
    model = hugging_face_model(random_params(**HPARAMS), **HPARAMS)
    save("golden_logits.npz", model, ids, n_prompt=4, n_new=28, n_logits=HPARAMS["n_ctx"])

    from test_bundled import STORY  # not at the top: benchmarks import this module without pytest

    encoder, hparams, params = load_encoder_hparams_and_params("tiny", HERE.parent / "models")
    ids = np.array([encoder.encode(STORY)])
    save("golden_tiny.npz", hugging_face_model(params, **hparams), ids, n_prompt=20, n_new=100, n_logits=8)


if __name__ == "__main__":
    main()
