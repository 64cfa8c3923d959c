"""The formats of models: how a folder or a file is recognized, and which module reads it."""

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from checkpoints import files
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named
from checkpoints.places import Places
from checkpoints.tokenizer import Loaded

ADAPTER = "adapter_config.json"  # of the package peft
MAX_SHOWN = 5  # names of files in a message
LLM_C_MAGIC = (20240326).to_bytes(4, "little")


class Format(NamedTuple):
    """A format of models. Its module is imported when it is used, so that other formats start faster."""

    name: str
    recognizes: Callable[[Path], bool]  # the path of a model
    module: str  # of checkpoints/
    is_model: Callable[[Path], bool] | None = None  # in a format of one file: whether a file is one

    def load(self, path: Path, places: Places) -> Loaded:
        """Return the parts of a model. places: where further files are looked for."""
        return self.reader.load(self.file_of(path), places)

    def read_sizes(self, path: Path) -> dict[str, Any]:
        """Return the hyper-parameters of a model."""
        return self.reader.read_sizes(self.file_of(path))

    def state(self, path: Path) -> str:
        """Return whether a model is ready, to be converted or incomplete."""
        return self.reader.state(self.file_of(path))

    @property
    def reader(self) -> ModuleType:
        return importlib.import_module(f"checkpoints.{self.module}")

    def file_of(self, path: Path) -> Path:
        return model_file(path, self.is_model) if self.is_model else path


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


def unknown(path: Path) -> CheckpointError:
    """Return the error for a path that no format recognizes. Its message lists the files of a folder."""
    if not path.is_dir():
        problem = f"{named(path)} is a file of no known format"
        return CheckpointError(f"{problem}: give a folder, or a file of llm.c, GGUF or PyTorch (see docs/models.md)")
    names = sorted(each.name for each in path.iterdir())
    if ADAPTER in names:
        problem = f"{named(path)} holds an adapter ({ADAPTER}), not a whole model"
        return CheckpointError(f"{problem}: merge it into its base model and save the result")
    if weights := [name for name in names if name.endswith((".safetensors", ".bin"))]:
        problem = f"{named(path)} holds {abbreviated(weights[0])} but no config.json"
        return CheckpointError(f"{problem}: copy it there from the original folder (see docs/models.md)")
    found = ", ".join(map(abbreviated, names[:MAX_SHOWN])) or "no files"
    more = f" and {len(names) - MAX_SHOWN:,} more" if len(names) > MAX_SHOWN else ""
    return CheckpointError(
        f"{named(path)} holds no model in a known format, but {found}{more}: a folder in OpenAI's format holds "
        "hparams.json, a Hugging Face folder config.json, a nanoGPT folder ckpt.pt (see docs/models.md)"
    )


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


OPENAI = Format("OpenAI", has("hparams.json"), "openai")
HUGGING_FACE = Format("Hugging Face", is_hugging_face, "hugging_face")

# A path is read in the first format that recognizes it.
FORMATS = (
    OPENAI,
    HUGGING_FACE,
    Format("nanoGPT", has("ckpt.pt"), "nanogpt"),
    Format("llm.c", holds(is_llm_c, "*.bin"), "llm_c", is_llm_c),
    Format("GGUF", holds(is_gguf, "*.gguf"), "gguf_file", is_gguf),
    Format("PyTorch", holds(is_torch, "*.pth", "*.pt"), "torch_models", is_torch),
    HUGGING_FACE._replace(recognizes=has("config.json")),  # converted weights, or none yet
    OPENAI._replace(recognizes=has("encoder.json", "model.ckpt.index", "model.ckpt")),  # incomplete
)
