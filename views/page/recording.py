"""The steps of a model that is too large to compute in a page: logits, attention and the prediction of each layer."""

import numpy as np

from cli.options import Options
from engine.batching import generate_samples
from utils import Model
from views import inside, settings
from views.next_token import ranked

N_BEST = 512  # logits per step in float32; the others are in float16
N_LENS = 5  # tokens of each layer's prediction
MAX_TOKENS = 256  # of the prompt and the steps together


class Steps:
    """An observer of a completion that keeps what each step is drawn from.

    Attributes: `ids`, those of the prompt and the drawn ones; `logits`, float32 [n_vocab] per step, relative to the
    largest; `draws`, the uniform number of each step.
    """

    def __init__(self, prompt_ids: list[int], seed: int):
        self.ids = list(prompt_ids)
        self.logits = []
        self.draws = []
        self.rng = settings.random_numbers(seed)  # draws the same numbers as the sampler

    def __call__(self, raw, processed, token):
        self.logits.append(raw - raw.max())
        self.draws.append(self.rng.random())
        self.ids.append(token)


def check_length(n_prompt: int, n_steps: int, n_ctx: int) -> None:
    """Raise ValueError if a page cannot hold the steps."""
    most = min(MAX_TOKENS, n_ctx)
    if n_prompt + n_steps > most:
        raise ValueError(
            f"the prompt has {n_prompt} tokens and steps is {n_steps}; a recorded page of this model holds {most} "
            "together: shorten the prompt, or reduce --steps"
        )


def record(model: Model, prompt_ids: list[int], setting: dict, options: Options, n_steps: int, seed: int) -> tuple:
    """Return the tensors of a recording (js/story.js describes them), and the uniform numbers of its draws."""
    steps = Steps(prompt_ids, seed)
    rng = settings.random_numbers(seed)
    completion = settings.new_completion(model, setting, options, len(prompt_ids), rng, on_token=steps)
    for _ in generate_samples(prompt_ids, model.params, model.n_head, n_steps, [completion]):
        pass
    tensors = {"ids": np.array(steps.ids, np.int32), **logits_tensors(np.stack(steps.logits))}
    return tensors | inside_tensors(steps.ids, model), steps.draws


def logits_tensors(logits):  # [n_steps, n_vocab]
    n_best = min(N_BEST, logits.shape[1])
    best = np.array([ranked(row)[:n_best] for row in logits])  # [n_steps, n_best]
    return {
        "best_ids": best.astype(np.int32),
        "best_logits": np.take_along_axis(logits, best, axis=1).astype(np.float32),
        "other_logits": logits.astype(np.float16),
    }


def inside_tensors(ids, model):
    """Return the attention weights, the lens and the surprises of all positions."""
    weights = []
    predictions = []  # of each layer: (ids, probabilities), both [n_seq, N_LENS]
    for x, of_layer in inside.layers(ids, model):
        if of_layer is not None:
            weights.append(of_layer)
        probs = inside.lens(x, model)  # [n_seq, n_vocab]
        predictions.append(likeliest(probs))
    by_position = np.stack(weights).transpose(2, 0, 1, 3)  # -> [n_seq, n_layer, n_head, n_seq]
    seen = [row[..., : i + 1].ravel() for i, row in enumerate(by_position)]
    lens_ids, lens_probs = (np.stack(part, axis=1) for part in zip(*predictions, strict=True))
    return {
        "weights": np.concatenate(seen).astype(np.float16),
        "lens_ids": lens_ids.astype(np.int32),  # [n_seq, n_layer + 1, N_LENS]
        "lens_probs": lens_probs.astype(np.float32),
        "surprises": surprises(ids, probs),
    }


def likeliest(probs):  # [n_seq, n_vocab] -> 2 x [n_seq, N_LENS]
    ids = np.argsort(-probs, axis=1, kind="stable")[:, :N_LENS]
    return ids, np.take_along_axis(probs, ids, axis=1)


def surprises(ids, probs):
    """Return -log2 p of each token in float32 [n_seq], 0 for the first. probs: of the last layer, [n_seq, n_vocab]."""
    followers = probs[np.arange(len(ids) - 1), ids[1:]]
    return np.concatenate([[0.0], -np.log2(np.maximum(followers, 1e-300))]).astype(np.float32)
