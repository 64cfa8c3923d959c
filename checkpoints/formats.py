"""The formats of models: how a folder or a file is recognized, and which module reads it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from checkpoints import files
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named
from checkpoints.tokenizer import Loaded

LLM_C_MAGIC = (20240326).to_bytes(4, "little")


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


def load_llm_c(path, models_dir):
    from checkpoints import llm_c

    return llm_c.load(model_file(path, is_llm_c), models_dir)


def load_gguf(path, models_dir):
    from checkpoints import gguf_file

    return gguf_file.load(model_file(path, is_gguf))


def load_torch(path, models_dir):
    from checkpoints import torch_models

    return torch_models.load(model_file(path, is_torch), models_dir)


# ---- formats of a single file, which may be given itself or lie in a folder ------------------------------------


def is_llm_c(path: Path) -> bool:
    return path.suffix == ".bin" and begins_with(path, LLM_C_MAGIC)


def is_gguf(path: Path) -> bool:
    return begins_with(path, b"GGUF")


def is_torch(path: Path) -> bool:
    return path.suffix in (".pth", ".pt", ".bin") and path.is_file() and not is_llm_c(path)


def begins_with(path: Path, magic: bytes) -> bool:
    if not path.is_file():  # also a FIFO
        return False
    with files.open_to_read(path) as file:
        return file.read(len(magic)) == magic


def holds(is_model: Callable[[Path], bool], *patterns: str) -> Callable[[Path], bool]:
    """Return a function that tells whether a path is a file of a format, or a folder with such a file."""
    return lambda path: any(is_model(file) for file in candidates(path, patterns))


def candidates(path: Path, patterns: Iterable[str] = ("*.bin", "*.gguf", "*.pth", "*.pt")) -> list[Path]:
    """Return the path of a file itself, or the files in a folder that match one of the patterns."""
    if not path.is_dir():
        return [path]
    return sorted(file for pattern in patterns for file in path.glob(pattern) if not file.is_dir())


def model_file(path: Path, is_model: Callable[[Path], bool]) -> Path:
    """Return the file of a model. Raise CheckpointError if a folder has several."""
    found = [file for file in candidates(path) if is_model(file)]
    if len(found) > 1:
        names = ", ".join(abbreviated(file.name) for file in found[:5])
        raise CheckpointError(
            f"{named(path)} has several models ({names}): give the path of one, as in --model_size {named(found[0])}"
        )
    return found[0]


# A path is read in the first format that recognizes it.
FORMATS = (
    Format("OpenAI", has("hparams.json"), load_openai),
    Format("Hugging Face", is_hugging_face, load_hugging_face),
    Format("nanoGPT", has("ckpt.pt"), load_nanogpt),
    Format("llm.c", holds(is_llm_c, "*.bin"), load_llm_c),
    Format("GGUF", holds(is_gguf, "*.gguf"), load_gguf),
    Format("PyTorch", holds(is_torch, "*.pth", "*.pt"), load_torch),
    Format("Hugging Face", has("config.json"), load_hugging_face),  # converted weights, or none yet
)
