"""Do gpt2.py, cached and not, gpt2_pico.py and Hugging Face transformers compute the same logits from the same weights?

    pip install torch==2.13.0 transformers
    python benchmarks/agree.py --model_size tiny
    python benchmarks/agree.py --models_dir /tmp/models --model_size random-124M

Prints the largest absolute difference between each pair, and whether 100 greedy ids are equal.
"""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from fire import Fire

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import gpt2
import gpt2_pico
from make_golden_logits import hugging_face_model
from utils import load_encoder_hparams_and_params

PROMPT = "Once upon a time, there was a little girl who lived in a small house near the sea. One day,"


def cached(ids, params, n_head):
    """Logits of every position, from two pieces and then one token at a time."""
    cache = gpt2.kv_cache(params, n_head, len(ids))
    pieces = [ids[:3], ids[3:10], *([i] for i in ids[10:])]
    return np.concatenate([gpt2.gpt2(piece, **params, n_head=n_head, cache=cache) for piece in pieces])


def main(model_size="tiny", models_dir="models", n_tokens=100):
    encoder, hparams, params = load_encoder_hparams_and_params(model_size, models_dir)
    n_head, ids = hparams["n_head"], encoder.encode(PROMPT)
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
        greedy = peer.generate(prompt, **options)[0, len(ids) :].tolist()
    for (name_a, a), (name_b, b) in combinations(logits.items(), 2):
        print(f"{name_a} and {name_b}: logits differ by at most {np.abs(a - b).max():.1e}")
    print(f"the logits themselves reach from {logits['gpt2.py'].min():.2f} to {logits['gpt2.py'].max():.2f}")
    ours = list(gpt2.generate(ids, params, n_head, n_tokens))
    textbook = list(gpt2_pico.generate(ids, params, n_head, n_tokens, gpt2.greedy))
    print(f"{len(ours)} greedy ids are equal: {ours == textbook == greedy}")


if __name__ == "__main__":
    Fire(main)
