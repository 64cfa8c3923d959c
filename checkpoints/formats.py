"""The formats of models: how a folder or a file is recognized, and which module reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from checkpoints import files
from checkpoints.tokenizer import Loaded


class Format(NamedTuple):
    """A format of models."""

    name: str
    recognizes: Callable[[Path], bool]  # the path of a model
    load: Callable[[Path, Path], Loaded]  # the path of a model and the folder of all models


def recognize(path: Path) -> Format | None:
    """Return the first format that recognizes the path of a model, None if none does."""
    return next((each for each in FORMATS if each.recognizes(path)), None)


def has(*names: str) -> Callable[[Path], bool]:
    """Return a function that tells whether a folder has one of these files."""
    return lambda path: any(files.is_file(path / name) for name in names)


def is_hugging_face(path: Path) -> bool:
    """Return whether a folder has config.json and weights; other formats may have a config.json beside their file."""
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return files.is_file(path / "config.json") and has(*names)(path)


# ---- one reader per format, imported where it is used: other formats start faster ------------------------------


def load_openai(path, models_dir):
    from checkpoints import openai

    return openai.load(path, models_dir)


def load_hugging_face(path, models_dir):
    from checkpoints import hugging_face

    return hugging_face.load(path)


def load_nanogpt(path, models_dir):
    from checkpoints import nanogpt

    return nanogpt.load(path, models_dir)


# A folder is read in the first format that recognizes it.
FORMATS = (
    Format("OpenAI", has("hparams.json"), load_openai),
    Format("Hugging Face", is_hugging_face, load_hugging_face),
    Format("nanoGPT", has("ckpt.pt"), load_nanogpt),
    Format("Hugging Face", has("config.json"), load_hugging_face),  # converted weights, or none yet
)
