"""Check that gpt2.py, with and without cache, gpt2_pico.py and transformers compute the same logits.

    pip install torch==2.13.0 transformers
    python benchmarks/agree.py --model_size tiny
    python benchmarks/agree.py --models_dir /tmp/models --model_size random-124M

Prints the largest absolute difference of logits for each pair, and whether 100 greedy ids are equal.
"""

import sys
from itertools import combinations

import numpy as np
import project
import torch
from fire import Fire

sys.path.insert(0, str(project.ROOT / "tests"))

import gpt2
import gpt2_pico
from make_golden_logits import hugging_face_model
from sampling import greedy
from utils import load_encoder_hparams_and_params

PROMPT = "Once upon a time, there was a little girl who lived in a small house near the sea. One day,"


def cached(ids, params, n_head):
    """Return the logits of every position, from two chunks and then one token at a time."""
    cache = project.new_cache(params, n_head, len(ids))
    chunks = [ids[:3], ids[3:10], *([i] for i in ids[10:])]
    return np.concatenate([gpt2.gpt2(chunk, **params, n_head=n_head, cache=cache) for chunk in chunks])


def main(model_size="tiny", models_dir="models", n_tokens=100):
    """Print the differences for one model."""
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    n_head = hparams["n_head"]
    ids = encoder.encode(PROMPT)
    peer = hugging_face_model(params, **hparams)
    prompt = torch.tensor([ids])
    with torch.no_grad():
        logits = {
            "gpt2.py": gpt2.gpt2(ids, **params, n_head=n_head),
            "gpt2.py, cached": cached(ids, params, n_head),
            "gpt2_pico.py": gpt2_pico.gpt2(ids, **params, n_head=n_head),
            "transformers": peer(prompt).logits[0].numpy(),
        }
        options = {"do_sample": False, "max_new_tokens": n_tokens, "pad_token_id": 0, "eos_token_id": None}
        greedy_ids = peer.generate(prompt, **options)[0, len(ids) :].tolist()
    for (name_a, a), (name_b, b) in combinations(logits.items(), 2):
        print(f"{name_a} and {name_b}: logits differ by at most {np.abs(a - b).max():.1e}")
    print(f"the logits range from {logits['gpt2.py'].min():.2f} to {logits['gpt2.py'].max():.2f}")
    ours = list(gpt2.generate(ids, params, n_head, n_tokens))
    pico = list(gpt2_pico.generate(ids, params, n_head, n_tokens, greedy))
    print(f"{len(ours)} greedy ids are equal: {ours == pico == greedy_ids}")


if __name__ == "__main__":
    Fire(main)
