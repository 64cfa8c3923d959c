"""From a model's name to a loaded model: find its folder, recognize the format, load the encoder and the weights.

A model is a folder in one of three formats, each read by a module of checkpoints/:

    hparams.json   OpenAI         downloaded if it is one of OpenAI's sizes
    config.json    Hugging Face
    ckpt.pt        nanoGPT
"""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import download, files, formats
from checkpoints.files import CheckpointError
from checkpoints.messages import abbreviated, named, reason
from checkpoints.tokenizer import Loaded, SpecialTokens
from encoder import Encoder
from engine.products import with_fast_products

__all__ = ["CheckpointError", "Model", "find_model", "load", "load_encoder_hparams_and_params"]

MODELS_DIR = "models"
MAX_LISTED = 20  # folders named in a message
HUGGING_FACE_ID = r"[\w.-]+/[\w.-]*\w"  # OWNER/NAME


@dataclass(frozen=True)
class Model:
    """A loaded model."""

    name: str  # of its folder
    encoder: Encoder
    hparams: dict[str, Any]
    params: dict[str, Any]  # the weights tree; see load_encoder_hparams_and_params
    special: SpecialTokens  # where a text starts and ends

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of a prompt: what the model's files put before it, then its text; at least one id.

        allow_special: see Encoder.encode.
        """
        ids = [*self.special.prefix, *self.encoder.encode(text, allow_special)]
        return ids or [self.special.start]

    @property
    def n_head(self) -> int:
        return self.hparams["n_head"]

    @property
    def n_ctx(self) -> int:
        return self.hparams["n_ctx"]

    @property
    def n_vocab(self) -> int:
        return self.hparams["n_vocab"]


def load(model_size: str | os.PathLike, models_dir: str | os.PathLike = MODELS_DIR, fast: bool = False) -> Model:
    """Return a Model; arguments, errors and weights are those of load_encoder_hparams_and_params.

    fast: wrap the weights as operands that compute the same faster (engine/products.py).
    """
    folder = find_model(model_size, models_dir)
    encoder, hparams, params, special = load_folder(folder, models_dir)
    return Model(folder.name, encoder, hparams, with_fast_products(params) if fast else params, special)


def load_encoder_hparams_and_params(
    model_size: str | os.PathLike, models_dir: str | os.PathLike
) -> tuple[Encoder, dict[str, Any], dict[str, Any]]:
    """Return the encoder, the hyper-parameters and the weights of a model; download and convert it if necessary.

    model_size, models_dir: see find_model. The encoder: see encoder.py. The hyper-parameters: a dict with n_vocab,
    n_ctx, n_embd, n_head and n_layer. The weights: a tree of float32 arrays, read-only and mapped from the file,
    with D = n_embd:

        {"wte": [n_vocab, D], "wpe": [n_ctx, D], "blocks": [block] * n_layer, "ln_f": {"g": [D], "b": [D]}}
        block = {"ln_1": {"g", "b"}, "attn": {"c_attn": {"w": [D, 3*D], "b": [3*D]}, "c_proj": {"w", "b"}},
                 "ln_2": {"g", "b"}, "mlp": {"c_fc": {"w": [D, 4*D], "b": [4*D]}, "c_proj": {"w", "b"}}}

    A model of another format may add "head": [n_vocab, D], "activation" to mlp, "window" to attn and "eps" to ln_1,
    ln_2 and ln_f, and its mlp may have another width than 4*D.

    Raise ValueError if there is no such model, CheckpointError if its files are missing, damaged or inconsistent, or
    cannot be downloaded.
    """
    loaded = load_folder(find_model(model_size, models_dir), models_dir)
    return loaded.encoder, loaded.hparams, loaded.params


def load_folder(folder: Path, models_dir: str | os.PathLike) -> Loaded:
    """Return the parts of the model in `folder`, in any of the formats."""
    try:
        found = formats.recognize(folder)
        load_from = found.load if found else formats.load_openai  # which downloads it or reports the missing files
        return load_from(folder, models_dir)
    except OSError as error:
        place = error.filename or folder
        problem = f"cannot read {named(place)}, a file of the model {abbreviated(folder.name)}: {reason(error)}"
        raise CheckpointError(f"{problem}; correct its permissions or copy the model again") from error


# ---- find ------------------------------------------------------------------------------------------------------


def find_model(model_size: str | os.PathLike, models_dir: str | os.PathLike) -> Path:
    """Return the folder of a model. It need not exist yet if it can be downloaded. No file is read.

    model_size: the name of a folder in models_dir; one of OpenAI's sizes, 124M, 355M, 774M or 1558M, or an alias of
    one (download.ALIASES); or a path. ~ and $VARIABLES are expanded in both arguments.
    Raise ValueError if there is no such model.
    """
    name = files.expand(model_size).rstrip(os.sep)  # a shell completes tiny to tiny/
    models_dir = Path(files.expand(models_dir))
    if os.path.exists(models_dir) and not os.path.isdir(models_dir):
        raise ValueError(f"models_dir is '{named(models_dir)}', a file; it must be a folder that holds models")
    folders = folders_in(models_dir)
    if name in folders:
        return models_dir / name
    if name in (*download.OFFICIAL, *download.ALIASES):
        return models_dir / download.ALIASES.get(name, name)
    if os.path.isdir(name):
        return Path(name)
    raise ValueError(no_such_model(str(model_size), name, models_dir, folders))


def folders_in(models_dir: Path) -> list[str]:
    """Return the sorted names of the folders in models_dir, [] if it is missing or unreadable."""
    try:
        # os.path.isdir returns False where Path.is_dir raises: for a link to a folder that is unreadable.
        return sorted(path.name for path in models_dir.iterdir() if os.path.isdir(path))
    except OSError:
        return []


def no_such_model(model_size: str, name: str, models_dir: Path, folders: list[str]) -> str:
    """Return a message that lists the valid names and suggests the nearest one."""
    sizes = [*download.OFFICIAL, *download.ALIASES]
    message = (
        f"there is no model '{abbreviated(model_size)}': it must be a size ({', '.join(sizes)}), "
        f"a folder in {named(models_dir)} ({listed(folders)}) or a path"
    )
    if nearest := difflib.get_close_matches(name, [*folders, *sizes], n=1):
        message += f"; did you mean {abbreviated(nearest[0])}?"
    if re.fullmatch(HUGGING_FACE_ID, name):
        message += hugging_face_manual_steps(models_dir / name.rpartition("/")[2])
    return message


def listed(folders: list[str]) -> str:
    """Return the names of folders for a message, at most MAX_LISTED of them."""
    names = [abbreviated(name) for name in folders[:MAX_LISTED]]
    if len(folders) > MAX_LISTED:
        names.append(f"and {len(folders) - MAX_LISTED:,} more")
    return ", ".join(names) or "none found"


def hugging_face_manual_steps(folder: Path) -> str:
    return (
        "; for a model of that name at Hugging Face, put its config.json, model.safetensors, vocab.json and merges.txt "
        f"(or tokenizer.json) into {named(folder)} and run again with --model_size {abbreviated(folder.name)}"
    )
