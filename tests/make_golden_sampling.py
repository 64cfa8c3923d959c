"""Make golden_sampling.npz: the tokens kept by Hugging Face transformers and by entmax, and their probabilities.

Run by hand from the project's folder, with numpy, torch 2.13.0, transformers 5.23.0 and entmax 1.3 installed:

    python tests/make_golden_sampling.py

Both compute in float64 here. Cases in which rounding could change the result are left out: a relative change of 1e-7
in a knob keeps the same tokens.
"""

import json
from itertools import count
from pathlib import Path

import numpy as np

SIZES = {5: (1.0, 3.0, 10.0), 50: (1.0, 3.0, 10.0), 1000: (1.0, 3.0, 10.0), 50257: (1.0, 3.0)}  # n_vocab -> scales
KNOBS = [
    {"temperature": 0.3},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 4},
    {"top_k": 40},
    {"top_p": 0.1},
    {"top_p": 0.5},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.02},
    {"min_p": 0.3},
    {"typical_p": 0.2},
    {"typical_p": 0.6},
    {"typical_p": 0.95},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"temperature": 0.7, "top_k": 20},
    {"temperature": 1.5, "top_p": 0.8},
    {"top_k": 30, "top_p": 0.85, "min_p": 0.05},
    {"temperature": 2.0, "top_k": 25, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "temperature": 0.8, "top_p": 0.9},
    *({"entmax_alpha": alpha} for alpha in (1.1, 1.3, 1.5, 1.7, 2.0)),
]
N_PROBS = 40  # number of probabilities stored, evenly spaced over the kept ids


def inputs(seed, size, scale):
    """Return logits without ties, float32 [size], and a history of 60 ids from few tokens, so that n-grams repeat."""
    rng = np.random.default_rng(seed)
    u = (rng.permutation(size) + 0.5 * rng.random(size) + 0.25) / size  # evenly spaced with jitter, all different
    logits = (scale * np.log(u / (1 - u))).astype(np.float32)  # the logistic distribution
    return logits, rng.choice(rng.integers(size, size=4), size=60)


def packed(kept, size):
    """Return the kept ids as bits, uint8 [ceil(size / 8)]."""
    return np.packbits(np.bincount(kept, minlength=size).astype(bool))


def evenly_spaced(n_kept):
    """Return the positions of the stored probabilities among the kept ids."""
    return np.unique(np.linspace(0, n_kept - 1, N_PROBS).astype(int))


def hugging_face(logits, ids, **knobs):
    """Return the probabilities, float64 [n_vocab], after the steps of transformers' generate, in its order."""
    import torch
    from transformers.generation import logits_process as hf

    classes = {
        "repetition_penalty": hf.RepetitionPenaltyLogitsProcessor,
        "no_repeat_ngram_size": hf.NoRepeatNGramLogitsProcessor,
        "temperature": hf.TemperatureLogitsWarper,
        "top_k": hf.TopKLogitsWarper,
        "top_p": hf.TopPLogitsWarper,
        "min_p": hf.MinPLogitsWarper,
        "typical_p": hf.TypicalLogitsWarper,
    }
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    ids = torch.from_numpy(ids)[None]
    for name, make in classes.items():
        if name in knobs:
            scores = make(knobs[name])(ids, scores)
    return scores.softmax(-1)[0].numpy()


def entmax_package(logits, ids, entmax_alpha):
    import torch
    from entmax import entmax_bisect

    return entmax_bisect(torch.from_numpy(logits.astype(np.float64)), entmax_alpha, n_iter=60).numpy()


def is_clear_cut(compute, logits, ids, knobs, kept):
    """Return whether the same tokens are kept when every knob that is not a whole number changes slightly."""
    return len(np.unique(logits)) == len(logits) and all(
        np.array_equal(kept, np.flatnonzero(compute(logits, ids, **nudged)))
        for factor in (1 - 1e-7, 1 + 1e-7)
        for nudged in [{name: min(k * factor, 2.0) if isinstance(k, float) else k for name, k in knobs.items()}]
    )


def golden_case(seed, size, scale, knobs):
    """Return (description, bits of the kept ids, some probabilities), or None if rounding could change the kept ids."""
    compute = entmax_package if "entmax_alpha" in knobs else hugging_face
    logits, ids = inputs(seed, size, scale)
    probs = compute(logits, ids, **knobs)
    kept = np.flatnonzero(probs)
    if not is_clear_cut(compute, logits, ids, knobs, kept):
        return None
    case = {"seed": seed, "size": size, "scale": scale, "knobs": knobs, "n_kept": len(kept)}
    return case, packed(kept, size), probs[kept][evenly_spaced(len(kept))]


def main():
    seeds = count()
    golden = []
    for size, scales in SIZES.items():
        for scale in scales:
            for knobs in KNOBS:
                found = (golden_case(seed, size, scale, knobs) for seed in seeds)
                golden.append(next(case for case in found if case))
    cases, bits, probs = zip(*golden, strict=True)
    file = Path(__file__).with_name("golden_sampling.npz")
    np.savez_compressed(file, cases=json.dumps(cases), kept=np.concatenate(bits), probs=np.concatenate(probs))
    print(len(cases), "cases,", file.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
