"""Places of models: from a model's name to the folder or the file that holds it.

Models are looked for in this order:

    1. the folder --models_dir, or else PICOGPT_MODELS_DIR, or else `models` beside gpt2.py
    2. the user's cache folder, where downloads go if the first folder is not writable
    3. `models` beside gpt2.py, for the bundled model
    4. `models` in the current folder, unless --models_dir is given
"""

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from checkpoints import download, files
from checkpoints.messages import abbreviated, named

MODELS = "models"
VARIABLE = "PICOGPT_MODELS_DIR"
BUNDLED = "tiny"
MAX_LISTED = 20  # folders named in a message

# Hugging Face's names of OpenAI's sizes.
OFFICIAL_OWNER = "openai-community/"

# Files that are parts of a folder in some format: their folder is the model.
PARTS = re.compile(
    r"hparams\.json|config\.json|ckpt\.pt|checkpoint|model\.ckpt\b.*|.*\.ckpt\.index|.*\.data-\d{5}-of-\d{5}"
    r"|model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?|pytorch_model.*\.bin(\.index\.json)?"
)


class Places(NamedTuple):
    """Where models are looked for."""

    folders: tuple[Path, ...]
    offline: bool = False  # nothing is downloaded

    @property
    def first(self) -> Path:
        return self.folders[0]

    def official(self, size: str) -> Iterator[Path]:
        """Yield the folders in which one of OpenAI's models may lie."""
        return (folder / size for folder in self.folders)


def beside_gpt2() -> Path:
    """Return the folder of models beside gpt2.py, whatever the current folder is; links are resolved."""
    return Path(__file__).resolve().parent.parent / MODELS


def cache_folder() -> Path | None:
    """Return the folder of models in the user's cache, None if the user has none or the package is missing."""
    folder = user_folder("cache")
    return folder / MODELS if folder else None


def user_folder(kind: str) -> Path | None:
    """Return the user's folder for our "cache" or "state", None if the user has none or the package is missing."""
    try:
        import platformdirs

        return Path(getattr(platformdirs, f"user_{kind}_dir")("picogpt", appauthor=False))
    except (ImportError, OSError, RuntimeError, KeyError):  # HOME is not set and the user has no entry
        return None


def search_places(models_dir: str | os.PathLike | None = None, offline: bool = False) -> Places:
    """Return the places of models. Raise ValueError if models_dir or PICOGPT_MODELS_DIR is a file."""
    variable = os.environ.get(VARIABLE)
    chosen = models_dir if models_dir is not None else variable
    first = beside_gpt2() if chosen in (None, "") else Path(files.expand(chosen))
    if os.path.exists(first) and not os.path.isdir(first):
        name = VARIABLE if models_dir is None else "models_dir"
        raise ValueError(f"{name} is '{named(first)}', a file; it must be a folder that holds models")
    cache = cache_folder()
    others = [*([cache] if cache else []), *([Path(MODELS)] if models_dir is None else [])]
    return Places((first, *others), offline)


def find_model(model_size: str | os.PathLike, places: Places) -> Path:
    """Return the folder or the file of a model. A folder need not exist yet if it can be downloaded.

    model_size: the name of a folder in one of the places; one of OpenAI's sizes, 124M, 355M, 774M or 1558M, or an alias
    of one (download.ALIASES), with or without openai-community/; a path of a folder or of a file of weights; or
    OWNER/NAME or OWNER/NAME@REVISION at Hugging Face. ~ and $VARIABLES are expanded. Capital letters do not matter
    where there is no exact match.
    Raise ValueError if there is no such model, CheckpointError if it cannot be downloaded.
    """
    name = files.expand(model_size).rstrip(os.sep)  # a shell completes tiny to tiny/
    for folder in (*places.folders, beside_gpt2()):
        if name in names_in(folder) and (folder in places.folders or name == BUNDLED):
            return folder / name
    if size := official_size(name):
        return official_folder(size, places)
    if os.path.exists(name):
        return model_of(Path(name))
    for folder in (*places.folders, beside_gpt2()):
        similar = [each for each in names_in(folder) if each.lower() == name.lower()]
        if len(similar) == 1 and (folder in places.folders or similar[0] == BUNDLED):
            return folder / similar[0]
    from checkpoints import hub

    if found := hub.parse_name(name):
        return hub.find(found, places.first, places.offline)
    raise ValueError(no_such_model(str(model_size), name, places))


def official_size(name: str) -> str | None:
    """Return the size that a name of one of OpenAI's models stands for, None for other names.

    >>> official_size("openai-community/gpt2-xl"), official_size("124m"), official_size("tiny")
    ('1558M', '124M', None)
    """
    lower = name.lower().removeprefix(OFFICIAL_OWNER)
    sizes = {size.lower(): size for size in download.OFFICIAL} | {
        alias.lower(): size for alias, size in download.ALIASES.items()
    }
    return sizes.get(lower)


def official_folder(size: str, places: Places) -> Path:
    """Return the folder of one of OpenAI's models: where it lies, or where it is downloaded to."""
    for folder in places.official(size):
        if os.path.isdir(folder) and os.listdir(folder):
            return folder
    target = places.first
    cache = cache_folder()
    if not is_writable(target) and cache in places.folders:
        target = cache
    return target / size


def is_writable(folder: Path) -> bool:
    """Return whether a folder can be written, or made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(existing, os.W_OK | os.X_OK)


def model_of(path: Path) -> Path:
    """Return the folder of a file that is a part of a model in a folder, other paths unchanged."""
    return path.parent if path.is_file() and PARTS.fullmatch(path.name) else path


def names_in(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, [] if it is missing or unreadable."""
    try:
        # os.path.isdir returns False where Path.is_dir raises: for a link to a folder that is unreadable.
        return sorted(path.name for path in folder.iterdir() if os.path.isdir(path))
    except OSError:
        return []


# ---- messages --------------------------------------------------------------------------------------------------


def no_such_model(model_size: str, name: str, places: Places) -> str:
    """Return a message that lists the valid names and suggests the nearest one."""
    sizes = [*download.OFFICIAL, *download.ALIASES]
    folders = dict.fromkeys(each for folder in places.folders for each in names_in(folder))
    folders |= dict.fromkeys([BUNDLED] if os.path.isdir(beside_gpt2() / BUNDLED) else [])
    message = (
        f"there is no model '{abbreviated(model_size)}': it must be a size ({', '.join(sizes)}), "
        f"a folder in {' or '.join(map(named, places.folders))} ({listed(list(folders))}) or a path"
    )
    if nearest := difflib.get_close_matches(name, [*folders, *sizes], n=1):
        message += f"; did you mean {abbreviated(nearest[0])}?"
    return message


def listed(folders: list[str]) -> str:
    """Return the names of folders for a message, at most MAX_LISTED of them."""
    names = [abbreviated(name) for name in folders[:MAX_LISTED]]
    if len(folders) > MAX_LISTED:
        names.append(f"and {len(folders) - MAX_LISTED:,} more")
    return ", ".join(names) or "none found"
