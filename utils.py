"""From a model's name to a loaded model: find its folder, recognize the format, load the encoder and the weights.

A model is a folder. Each format is read by its own module in checkpoints/.
"""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from checkpoints import download, files, hugging_face, nanogpt, openai
from checkpoints.files import CheckpointError
from encoder import Encoder
from engine.products import with_fast_products

__all__ = ["CheckpointError", "Model", "find_model", "load", "load_encoder_hparams_and_params"]

MODELS_DIR = "models"
ID = r"[\w.-]+/[\w.-]*\w"  # a model's name at Hugging Face


@dataclass(frozen=True)
class Model:
    """A loaded model: its name, its encoder, its hyper-parameters and its tree of weights."""

    name: str
    encoder: Encoder
    hparams: dict
    params: dict

    @property
    def n_vocab(self) -> int:
        return self.hparams["n_vocab"]

    @property
    def n_ctx(self) -> int:
        return self.hparams["n_ctx"]

    @property
    def n_head(self) -> int:
        return self.hparams["n_head"]


def load(model_size: str, models_dir: str = MODELS_DIR, fast: bool = False) -> Model:
    """Return a Model; download and convert its files first if necessary. See load_encoder_hparams_and_params.

    fast: wrap the matrices as operands that multiply faster (engine/products.py).
    """
    folder = find_model(model_size, models_dir)
    encoder, hparams, params = load_folder(folder, models_dir)
    return Model(folder.name, encoder, hparams, with_fast_products(params) if fast else params)


def load_encoder_hparams_and_params(model_size, models_dir):
    """Return the encoder, the hyper-parameters and the weights of a model; download and convert it if need be.

    model_size, models_dir: see `find_model`. The encoder: see encoder.py. Hyper-parameters: the dict in hparams.json.
    The weights: float32 arrays, mapped from the file and read-only, in this tree (D = n_embd; a folder of Hugging Face
    or nanoGPT may add an "activation" to mlp, an "eps" to ln_1, ln_2 and ln_f, and have another width than 4*D):

        {"wte": [n_vocab, D], "wpe": [n_ctx, D], "blocks": [block] * n_layer, "ln_f": {"g": [D], "b": [D]}}
        block = {"ln_1": {"g", "b"}, "attn": {"c_attn": {"w": [D, 3*D], "b": [3*D]}, "c_proj": {"w", "b"}},
                 "ln_2": {"g", "b"}, "mlp": {"c_fc": {"w": [D, 4*D], "b": [4*D]}, "c_proj": {"w", "b"}}}

    ValueError: there is no such model. CheckpointError: see there.
    """
    return load_folder(find_model(model_size, models_dir), models_dir)


def load_folder(folder, models_dir):
    """Return the encoder, the hyper-parameters and the weights of the model in `folder`, whatever its format."""
    if (folder / "hparams.json").is_file():
        return openai.load(folder, models_dir)
    if (folder / "config.json").is_file():
        return hugging_face.load(folder)
    if (folder / "ckpt.pt").is_file():
        return nanogpt.load(folder, models_dir)
    return openai.load(folder, models_dir)


def find_model(model_size, models_dir):
    """Return the folder of a model; it need not be there yet if it is one that can be downloaded.

    model_size: the name of a folder in models_dir; one of OpenAI's sizes, 124M, 355M, 774M or 1558M, or another name
    of these (download.ALIASES); or a path. ~ and $VARIABLES are expanded in both. No file is read, no network used.
    ValueError: there is no such model.
    """
    name, models_dir = (
        files.expand(model_size).rstrip(os.sep),
        Path(files.expand(models_dir)),
    )  # a shell completes tiny to tiny/
    if os.path.exists(models_dir) and not os.path.isdir(models_dir):
        raise ValueError(f"models_dir is {str(models_dir)!r}, a file; it must be a folder that holds those of models")
    folders = sorted(next(os.walk(models_dir), (models_dir, [], []))[1])
    if name in folders:
        return models_dir / name
    if name in (*download.OFFICIAL, *download.ALIASES):
        return models_dir / download.ALIASES.get(name, name)
    if os.path.isdir(name):
        return Path(name)
    near = difflib.get_close_matches(name, [*folders, *download.OFFICIAL, *download.ALIASES], n=1)
    raise ValueError(
        f"there is no model {str(model_size)!r}: it must be a size ({', '.join([*download.OFFICIAL, *download.ALIASES])}), "
        f"a folder in {models_dir} ({', '.join(folders) or 'there is none'}) or a path"
        + (f"; did you mean {near[0]}?" if near else "")
        + (hugging_face_manual_steps(models_dir / name.rpartition("/")[2]) if re.fullmatch(ID, name) else "")
    )


def hugging_face_manual_steps(folder):
    return (
        "; if that is its name at Hugging Face, put its config.json, model.safetensors, vocab.json and merges.txt "
        f"(or tokenizer.json) into {folder} and run again with --model_size {folder.name}"
    )
