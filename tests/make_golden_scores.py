"""Make golden_scores.npz: the loss of two texts under the bundled model, computed by Hugging Face transformers.

The windows are those of EleutherAI's lm-evaluation-harness. Run by hand from the project's folder, with
requirements.txt, torch 2.13.0, transformers 5.23.0 and lm_eval 0.4.13 installed (`pip install --no-deps lm_eval` is
enough):

    PYTHONPATH=. python tests/make_golden_scores.py
"""

from pathlib import Path

import numpy as np
import torch
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from make_golden_logits import hugging_face_model
from utils import load_encoder_hparams_and_params

HERE = Path(__file__).parent


def long_text(story):
    """Return the sentences of a story in several random orders, about 1,200 tokens, so that all windows differ."""
    sentences = story.split(". ")
    rng = np.random.default_rng(0)
    return "\n".join(". ".join(rng.permutation(sentences)) for _ in range(11))


def losses(model, ids, prefix, n_ctx, stride):
    """Return the summed loss of each window, [n_windows], and the log-probability of each token, [n_tokens]."""
    sums = []
    logprobs = []
    for pair in get_rolling_token_windows(ids, prefix, n_ctx, n_ctx - stride + 1):
        context, targets = make_disjoint_window(pair)
        inputs = torch.tensor([(context + targets)[-n_ctx - 1 :][:-1]])
        labels = torch.full_like(inputs, -100)  # -100: no loss for the context
        labels[0, -len(targets) :] = torch.tensor(targets)
        with torch.no_grad():
            # shift_labels: labels[i] is already the id after inputs[i]
            done = model(inputs, labels=labels, shift_labels=labels)
            of_targets = torch.log_softmax(done.logits[0, -len(targets) :].double(), dim=-1)
        sums.append(done.loss.item() * len(targets))
        logprobs.append(of_targets[torch.arange(len(targets)), torch.tensor(targets)].numpy())
    return np.array(sums), np.concatenate(logprobs)


def main():
    from test_bundled import STORY

    encoder, hparams, params = load_encoder_hparams_and_params("tiny", HERE.parent / "models")
    model = hugging_face_model(params, **hparams)
    n_ctx = hparams["n_ctx"]
    found = {}
    for name, text, stride in (
        ("story", STORY, n_ctx),
        ("long", long_text(STORY), n_ctx),
        ("near", long_text(STORY), 128),
    ):
        ids = encoder.encode(text)
        sums, logprobs = losses(model, ids, encoder.end_of_text, n_ctx, stride)
        found[f"{name}_losses"] = sums
        found[f"{name}_logprobs"] = logprobs
        print(name, len(ids), len(sums), sums.sum(), -logprobs.sum())
    np.savez_compressed(HERE / "golden_scores.npz", text=np.array(long_text(STORY)), **found)


if __name__ == "__main__":
    main()
