"""Makes golden_logits.npz: what Hugging Face transformers computes with the weights of random_gpt2.py.

Run once, by hand, with torch 2.13.0 and transformers 5.23.0: python tests/make_golden_logits.py
"""

from pathlib import Path

import numpy as np
import torch
from random_gpt2 import HPARAMS, random_params
from transformers import GPT2Config, GPT2LMHeadModel


def hugging_face_model(params, n_vocab, n_ctx, n_embd, n_head, n_layer):
    """A GPT2LMHeadModel that holds the weights of our tree."""
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


def main():
    model = hugging_face_model(random_params(**HPARAMS), **HPARAMS)
    ids = np.random.default_rng(1).integers(HPARAMS["n_vocab"], size=(2, HPARAMS["n_ctx"]))
    with torch.no_grad():
        logits = model(torch.from_numpy(ids)).logits.numpy()
        prompt = torch.from_numpy(ids[:1, :4])
        greedy = model.generate(prompt, do_sample=False, max_new_tokens=28, pad_token_id=0, eos_token_id=None)
    np.savez_compressed(
        Path(__file__).with_name("golden_logits.npz"), ids=ids, logits=logits, greedy=greedy[0, 4:].numpy()
    )


if __name__ == "__main__":
    main()
