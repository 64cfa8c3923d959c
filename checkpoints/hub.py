"""Models at Hugging Face: their names, and their download by the optional package huggingface_hub.

The package's own cache is used, so that a model that another program has downloaded is found. Only the files that are
read here are requested: the configuration, the tokenizer and one form of the weights. HF_ENDPOINT, HF_HOME, HF_TOKEN
and HF_HUB_OFFLINE have the package's meaning.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints.files import CheckpointError, read_json_object
from checkpoints.messages import abbreviated, named, reason

log = logging.getLogger("picogpt")

NAME = re.compile(r"(?P<repo>[\w-][\w.-]{0,95}/[\w][\w.-]{0,95})(@(?P<revision>[\w][\w./-]{0,200}))?", re.ASCII)
WITHOUT_OWNER = {"distilgpt2": "distilbert/distilgpt2"}  # a name from before models had owners
COMMIT = re.compile(r"[0-9a-f]{40}")

SMALL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json")
SMALL_FILES += ("merges.txt", "vocab.txt", "added_tokens.json", "special_tokens_map.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


class HubName(NamedTuple):
    """A model at Hugging Face."""

    repo: str  # OWNER/NAME
    revision: str | None  # a branch, a tag or a commit


def parse_name(text: str) -> HubName | None:
    """Return the model that a text names, None if it is no such name.

    >>> parse_name("uer/gpt2-chinese-poem@main"), parse_name("distilgpt2"), parse_name("../secret")
    (HubName(repo='uer/gpt2-chinese-poem', revision='main'), HubName(repo='distilbert/distilgpt2', revision=None), None)
    """
    name, at, revision = text.partition("@")
    match = NAME.fullmatch(WITHOUT_OWNER.get(name, name) + at + revision)
    if match is None or ".." in text or "--" in text:
        return None
    return HubName(match["repo"], match["revision"])


def name_of(path: Path) -> str:
    """Return the name of the model in a folder: OWNER/NAME in the cache of Hugging Face, else the folder's own name.

    >>> name_of(Path("hub/models--uer--gpt2-chinese-poem/snapshots/6335c88")), name_of(Path("models/tiny"))
    ('uer/gpt2-chinese-poem', 'tiny')
    """
    repository = path.parent.parent.name
    is_snapshot = path.parent.name == "snapshots" and repository.startswith("models--")
    if is_snapshot:
        return repository.removeprefix("models--").replace("--", "/")
    return path.name or path.resolve().name  # of the current folder, "."


def find(name: HubName, models_dir: Path, offline: bool) -> Path:
    """Return the folder of a model: in the package's cache, or downloaded to it.

    models_dir: where the user may put the model by hand, for a message. offline: download nothing.
    Raise ValueError if there is no such model or the package is missing, CheckpointError if the download fails.
    """
    library = import_library(name, models_dir)
    cached = cached_snapshot(library, name)
    if cached and (offline or COMMIT.fullmatch(name.revision or "")):
        return cached
    if offline or library.constants.HF_HUB_OFFLINE:
        if cached:
            return cached
        raise CheckpointError(
            f"the model {name.repo} is not on this machine, and --offline or HF_HUB_OFFLINE forbids a download: run "
            "once without it"
        )
    try:
        return download(library, name)
    except CheckpointError as error:
        if cached and isinstance(error, Unreachable):
            log.warning(f"{error}; the copy of an earlier download is used")
            return cached
        raise


class Unreachable(CheckpointError):
    """The server cannot be reached or does not answer as it should."""


def import_library(name: HubName, models_dir: Path) -> Any:
    """Return the package. Raise ValueError with the manual steps if it is missing."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise ValueError(manual_steps(name, models_dir)) from error
    return huggingface_hub


def manual_steps(name: HubName, models_dir: Path) -> str:
    folder = models_dir / name.repo.rpartition("/")[2]
    return (
        f"there is no model '{name.repo}' here; to download it from Hugging Face, pip install huggingface_hub and run "
        "again, or put its config.json, model.safetensors and tokenizer.json (or vocab.json and merges.txt) into "
        f"{named(folder)} and run with --model_size {abbreviated(folder.name)}"
    )


def cached_snapshot(library: Any, name: HubName) -> Path | None:
    """Return the folder of a complete model in the package's cache, None if there is none."""
    path = library.try_to_load_from_cache(name.repo, "config.json", revision=name.revision)
    if not isinstance(path, str):  # None: not in the cache; an object: known to be missing
        return None
    folder = Path(path).parent
    return folder if is_complete(folder) else None


def is_complete(folder: Path) -> bool:
    """Return whether a folder has a configuration and one form of the weights with all its shards."""
    if not (folder / "config.json").is_file():
        return False
    weights = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if weights is None or weights.suffix != ".json":
        return weights is not None
    try:
        shards = read_json_object(weights)["weight_map"].values()
    except (CheckpointError, OSError, LookupError, AttributeError):
        return False
    return all((folder / str(shard)).is_file() for shard in shards)


# ---- download --------------------------------------------------------------------------------------------------


def download(library: Any, name: HubName) -> Path:
    """Download the files of a model and return their folder. Raise ValueError or CheckpointError if it fails."""
    errors = library.errors
    try:
        info = library.HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        wanted = choose_files(sizes, name)
        log.info(
            f"downloading {name.repo} from {library.constants.ENDPOINT}: {len(wanted)} files, "
            f"{sum(sizes[file] for file in wanted) / 1e6:,.1f} MB, to {named(library.constants.HF_HUB_CACHE)}"
        )
        with quiet_library(library):
            paths = [Path(library.hf_hub_download(name.repo, file, revision=info.sha)) for file in wanted]
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise refused(library, name, error) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise unreachable(library, name, error) from error
    except OSError as error:
        if is_network_error(error):
            raise unreachable(library, name, error) from error
        raise CheckpointError(
            f"the model {name.repo} cannot be written to {named(library.constants.HF_HUB_CACHE)}: {reason(error)}; "
            "free some disk space, or set HF_HOME to another folder"
        ) from error
    except Exception as error:  # the package's HTTP library has errors of its own
        if is_network_error(error):
            raise unreachable(library, name, error) from error
        raise
    folder = paths[0].parent
    remember_branch(folder, name)
    return folder


def choose_files(sizes: dict[str, int], name: HubName) -> list[str]:
    """Return the files that are needed. Raise CheckpointError if there are no weights that are read here."""
    weights = next((file for file in WEIGHTS if file in sizes), None)
    if weights is None:
        formats = ", ".join(abbreviated(file) for file in sorted(sizes)[:8])
        raise CheckpointError(
            f"the model {name.repo} has no model.safetensors or pytorch_model.bin at Hugging Face; its files are "
            f"{formats}: choose another model"
        )
    stem = weights.removesuffix(".index.json").rpartition(".")
    shards = [file for file in sizes if re.fullmatch(rf"{stem[0]}-\d{{5}}-of-\d{{5}}\.{stem[2]}", file)]
    wanted = [file for file in SMALL_FILES if file in sizes]
    return [*wanted, weights, *(sorted(shards) if weights.endswith(".index.json") else [])]


def remember_branch(folder: Path, name: HubName) -> None:
    """Note the commit of a branch in the cache, as the package does if it is asked for the branch itself."""
    if name.revision and COMMIT.fullmatch(name.revision):
        return
    ref = folder.parent.parent / "refs" / (name.revision or "main")
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(folder.name, encoding="utf-8")


def refused(library: Any, name: HubName, error: Exception) -> Exception:
    """Return the error for an answer that says that the model cannot be had."""
    page = f"{library.constants.ENDPOINT}/{name.repo}"
    if isinstance(error, library.errors.GatedRepoError):
        return CheckpointError(
            f"the model {name.repo} is given to registered users only: ask for access at {page}, and set HF_TOKEN to "
            "your token"
        )
    if isinstance(error, library.errors.RevisionNotFoundError):
        return ValueError(f"the model {name.repo} has no revision {abbreviated(name.revision)} at {page}")
    return ValueError(
        f"there is no model {name.repo} at {library.constants.ENDPOINT}, or it is private: check the name, or set "
        "HF_TOKEN to your token"
    )


def unreachable(library: Any, name: HubName, error: Exception) -> Unreachable:
    return Unreachable(
        f"the model {name.repo} cannot be downloaded from {library.constants.ENDPOINT} ({type(error).__name__}): check "
        "the connection and HF_ENDPOINT, and run again; what has arrived is kept"
    )


def is_network_error(error: BaseException) -> bool:
    """Return whether an error is of the package's HTTP library, or of a connection."""
    modules = [base.__module__ for base in type(error).__mro__]
    is_of_library = any(name.startswith(("http", "requests", "urllib3")) for name in modules)
    return is_of_library or isinstance(error, ConnectionError)


class quiet_library:
    """Hide the package's progress bars where the project shows none, and its warnings."""

    def __init__(self, library: Any):
        self.library = library

    def __enter__(self):
        import sys

        self.library.utils.logging.set_verbosity_error()
        is_shown = sys.stderr is not None and sys.stderr.isatty() and log.level <= logging.INFO
        if not is_shown:
            self.library.utils.disable_progress_bars()

    def __exit__(self, *exception):
        if not os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
            self.library.utils.enable_progress_bars()
